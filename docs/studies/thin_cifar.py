"""Stored labels of CIFAR-10, pruned, cut to the largest logits and coded in few bits: accuracy beside bytes. The images and labels that lie in docs/artefacts (D3S, ten images of
each class, three labellers), so that nothing has to be made first; students are ResNet-18 of an eighth of the width."""
from study import *
from thin_digits import called

ROW, WIDTH, EPOCHS, B, LR, N = 'further/thin/cifar10', 8, 150, 50, 4e-3, 3
KEEP, TOPK, BITS, BOTH = (.5, .25, .1), (3, 1), (4, 1), ((.1, 3, 4),)
NAME = 'cifar10-d3s-ipc10-k600'

def arms():
    "What is left of the labels, the whole store first."
    yield Thin()
    yield from (Thin(keep=k) for k in KEEP)
    yield from (Thin(topk=k) for k in TOPK)
    yield from (Thin(bits=b) for b in BITS)
    yield from (Thin(keep=keep, topk=k, bits=b) for keep, k, b in BOTH)

def given(o):
    "Images, their labels, and real images to test on."
    folder = results_dir().parent/'artefacts'
    d, store = Distilled.load(folder/f'{NAME}.safetensors'), LabelStore(folder/f'{NAME}.labels.zip')
    if not o.smoke: return d, store, real_for(d, '', None, 'cpu')[1]
    return d, store, toy()[1].renorm(d.norm)

def judged(o, d, store, test, how):
    "Students on what is left, and its bytes."
    name, p = called(how), as_protocol('d3s-cifar10').scaled(kind='reduced', epochs=EPOCHS, batch=B, lr=LR)
    few = thin_labels(store, o.home/'thin-cifar10'/f'{NAME}-{name}', how)
    dev = (f'students ResNet-18 width {WIDTH} (64); {len(store.settings["teachers"])} teachers (5); {len(store)} label epochs (1600); images of K 600 (1000), one batch of 100 (200), '
           f'teachers in turn by iteration; labels: {name}')
    said = dict(row=f'{ROW}/{name}', method=name, kind='smoke' if o.smoke else 'reduced', deviations=dev)
    r = students(Relabelled(d, few), test, (dict(d.arch, width=WIDTH),), p, N, **said)
    r = dataclasses.replace(r, artefact=sha(results_dir().parent/'artefacts'/f'{NAME}.safetensors'))
    more = lambda metric, v: dataclasses.replace(r, metric=metric, unit='B', n=1, mean=float(v), std=0., last=float('nan'))
    put(o, [r, more('label_bytes', few.costs(d)['label_bytes']), more('store_bytes', few.nbytes)])

if __name__ == '__main__':
    o = begin(__doc__, 'further')
    if o.smoke: WIDTH, EPOCHS, N, KEEP, TOPK, BITS, BOTH = 4, 2, 1, KEEP[-1:], TOPK[-1:], BITS[-1:], BOTH[-1:]
    d, store, test = given(o)
    done = {r.row for r in read_rows(o.csv)}
    for how in arms():
        if f'{ROW}/{called(how)}' not in done: judged(o, d, store, test, how)
