"""`dd_score` on CIFAR-10 at a reduced scale: a file of DC as its authors published it, and our D3S images with their stored labels (docs/artefacts). Students are narrow, and so is the
network on the whole set, which also labels random images."""
from study import *

WIDTH, NAME = 32, 'cifar10-d3s-ipc10-k600'

def published(o):
    "The first of five sets in the file."
    return load_set('dc/cifar10/ipc1', quiet=True), ScoreOptions(epochs=301, n_eval=2, whole=2), ''

def stored(o):
    "Images, and labels for 150 epochs."
    folder = results_dir().parent/'artefacts'
    file = folder/f'{NAME}.safetensors'
    return Relabelled(Distilled.load(file), folder/f'{NAME}.labels.zip'), ScoreOptions(epochs=150, n_eval=1, whole=2, own=False), sha(file)

def judged(o, name, make):
    "The table of one set, and its rows."
    d, how, artefact = make(o)
    inner = getattr(d, 'd', d)
    inner.arch = dict(name='convnet', n_in=3, n_out=10, size=32, width=WIDTH, depth=3)
    s = score(d, *real_for(inner, '', None, 'cpu'), how.toy if o.smoke else how, None, name)
    print(s)
    rows = score_rows(s, f'score/cifar10/{name}', artefact, o.smoke)
    put(o, [dataclasses.replace(r, deviations='; '.join(filter(None, (r.deviations, f'ConvNet width {WIDTH} (128)')))) for r in rows])

if __name__ == '__main__':
    parts = {'dc-ipc1': published, NAME: stored}
    o = begin(__doc__, 'score', what=dict(choices=parts))
    if o.smoke: WIDTH = 4
    judged(o, o.what, parts[o.what])
