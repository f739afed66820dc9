"DC, DSA and DM on CIFAR-10 beside random images, herding and forgetting: a ConvNet of width 64, few iterations, every difference named."
from functools import partial
from study import *

ARMS, WIDTH = ('dm', 'dsa', 'random', 'herding', 'forgetting'), 64
OFFICIAL = dict(dm=dict(iterations=20000, lr_img=1), dsa=dict(iterations=1000, lr_img=.1), dc=dict(iterations=1000, lr_img=.1))


def settings(m, ipc):
    "What a matching method runs with here."
    if m == 'dm': return dict(iterations=300, lr_img=20., batch_real=64)
    return dict(iterations=200, lr_img=.5, batch_real=64) if ipc == 1 else dict(iterations=20, lr_img=.5, batch_real=64, outer=10, inner=10)

def matched(o, m, real, out):
    "(a set by DC, DSA or DM, what it differs in)"
    s = settings(m, o.ipc) | (dict(iterations=1) if o.smoke else {})
    task = Task(real, net_fn=partial(ConvNet, 3, 10, 32, WIDTH, 3))
    d, _ = learn(task, method_of(m, ipc=o.ipc, **s), out, RunOptions(every=50))
    off = OFFICIAL[m] | dict(batch_real=256) | dict(zip(('outer', 'inner'), dc_loops(o.ipc)))
    return d, '; '.join(f'{k} {v:g} ({off[k]:g})' for k, v in s.items() if v != off[k])

def chosen(o, m, real):
    "(random, herding or forgetting, what it was chosen from)"
    part, epochs = (real, 0) if m == 'random' else (real.split(.2)[1], 1 if o.smoke else 8)
    d = coreset(part, o.ipc, m, partial(ConvNet, 3, 10, 32, 32, 3), epochs, arch=ConvNet(3, 10, 32, WIDTH, 3).arch)
    return d, '' if m == 'random' else 'chosen from 10,000 training images by a ConvNet of width 32 after 8 epochs'

def run(o, m, real, test, n, epochs):
    "Make one set, test it, record it."
    out = o.home/'match-cifar10'/f'{m}-ipc{o.ipc}'
    d, what = matched(o, m, real, out) if m in OFFICIAL else chosen(o, m, real)
    file = out/'distilled.safetensors' if m in OFFICIAL else d.save(out/'distilled.safetensors')
    dev = f'ConvNet width 64 (128); normalised by mean and std, no ZCA; {n} networks on one distilled set (20 on each of 5)'
    r, = evaluate(d, test, protocol=as_protocol('dsa').scaled(epochs=epochs), n_eval=n, row=f'mtt/table1/cifar10/{m}/ipc{o.ipc}', method=m, kind='reduced',
                  deviations='; '.join(filter(None, (dev, what))))
    r.artefact = sha(file)
    put(o, r)

if __name__ == '__main__':
    o = begin(__doc__, 'mtt', ipc=dict(type=int, choices=(1, 10)), arms=dict(nargs='*', help=f'of {", ".join(ARMS)}, dc (default: all but dc)'))
    if o.smoke: WIDTH = 8
    real, test = toy(per_class=60) if o.smoke else load('cifar10')
    for m in o.arms or ARMS: run(o, m, real, test, *((1, 1) if o.smoke else (5, 500) if o.ipc == 1 else (3, 300)))
