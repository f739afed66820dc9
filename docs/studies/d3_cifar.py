"""D3 on CIFAR-10, one prior a class, reduced. set: experts, distillation and evaluation; beside: MTT's images and random ones of equal bytes under the
same protocol; grids: these two at rates chosen on held-out images, as D3's is; nets: other networks on the published artefacts."""
from functools import partial
from study import *

S = dict(syn_steps=20, expert_epochs=2, max_start_epoch=2, lr_teacher=.02, lr_lr=1e-5, lr_latent=1., lr_decode=1e-3, gamma1=1e-5, gamma2=.1, mmd_samples=30)
BASE = 'CIFAR-10 ZCA; ConvNet-3 width 64 (128); 6 experts, 4 epochs kept'
ARTEFACTS = {'D3': 'cifar10-d3-ppc1', 'MTT ipc 1': 'cifar10-mtt-ipc1'}
EPOCHS, N, WIDTH = 150, 3, 64
net_fn = lambda: ConvNet(3, 10, 32, WIDTH, 3)


def proto(view=True):
    "How students are trained: on samples, or on fixed images."
    p = as_protocol('d3').scaled(epochs=EPOCHS)
    return p if view else p.scaled(view=None)

def images(o):
    "(all of train, nine tenths of it, every other image of the tenth that is held out, test)"
    if o.smoke: return (t := toy())[0], *t[0].split(.1), t[1]
    (full, test), (train, held) = load('cifar10', zca=True), load('cifar10', zca=True, val=.1)
    return full, train, held.subset(torch.arange(0, len(held), 2)), test

def grid(d, held, lrs, view=True):
    "The student's rate, chosen on images held out of train (appendix C): (rate, what was tried)."
    accs = {lr: evaluate(d, held, protocol=proto(view), n_eval=1, seed=7, lr=lr, together=False)[0].mean for lr in lrs}
    return max(accs, key=accs.get), '; '.join(f'{lr:.3g}: {a:.1f}' for lr, a in accs.items())

def tested(o, d, test, method, dev, file='', **kw):
    "A row of table 1."
    rows = evaluate(d, test, n_eval=N, row='d3/table1/cifar10/ppc1', method=method, deviations=dev, together=False, **kw)
    for r in rows: r.artefact = sha(file)
    put(o, rows)

def distilled(o):
    "Experts, then priors and decoder, then students at the better of two rates."
    full, train, held, test = images(o)
    buf = train_experts(net_fn, full, o.home/'buffers'/'cifar10-zca-w64', 1 if o.smoke else 6, expert_protocol(4))
    out = o.home/'runs'/f'd3-cifar10-ppc1-{o.iterations}'
    how = RunOptions(sched=lambda p: min(1., 2.5*(1.01 - p)), every=5, keep=20)
    d, run = learn(Task(train, net_fn=net_fn, experts=buf), D3Method(iterations=o.iterations, **S), out, how)
    lr, tried = grid(d, held, (float(d.student_lr.detach()), .04))
    dev = (f'{BASE} (MMD on 45,000 images; experts saw all); {run.it} iterations (10000); N 20, M 2, T+ 2; rates fall linearly over the last 40 %; '
           f'rate chosen on 2,500 held-out training images ({tried})')
    tested(o, d, test, 'D3', dev, d.save(out/'cifar10-d3-ppc1.safetensors'), protocol=proto(), lr=lr)

def published(o, method):
    "(set, its file) as the checkout has it."
    file = results_dir().parent/'artefacts'/f'{ARTEFACTS[method]}.safetensors'
    return Distilled.load(file), file

def as_made(o, d, test):
    "The test set; generated images have to be put under the norm of a set first."
    return test.renorm(d.norm) if o.smoke else test

def beside(o):
    "MTT's images and 250 random ones."
    _, train, _, test = images(o)
    d, file = published(o, 'MTT ipc 1')
    tested(o, d, as_made(o, d, test), 'MTT ipc 1', 'the artefact of mtt/table1/cifar10/ipc1, its learned rate', file, protocol=proto(False))
    rand = Pixels.from_real(train, 25, lr=.01, arch=net_fn().arch)
    tested(o, rand, test, 'random ipc 25', BASE + '; 250 random real images (0.5 % of the training set)', protocol=proto(False), lr=.01)

def grids(o):
    "Both at the best of six rates."
    _, train, held, test = images(o)
    d, file = published(o, 'MTT ipc 1')
    rand = Pixels.from_real(train, 25, lr=.01, arch=net_fn().arch)
    for d, method, file, what, first in ((d, 'MTT ipc 1', file, 'the artefact of mtt/table1/cifar10/ipc1', d.student_lr.item()), (rand, 'random ipc 25', '', f'{BASE}; 250 random real images (0.5 % of the training set)', .005)):
        lr, tried = grid(d, as_made(o, d, held), (first, .01, .02, .04, .08, .16)[:2 if o.smoke else 6], False)
        tested(o, d, as_made(o, d, test), method, f'{what}; rate chosen on 2,500 held-out training images ({tried})', file, protocol=proto(False), lr=lr)

def nets(o):
    "Table 4's other networks."
    test = images(o)[-1]
    for net in ('alexnet', 'vgg11', 'resnet18')[:1 if o.smoke else 3]:
        for method, made in (('D3', 'd3/table1/cifar10/ppc1'), ('MTT ipc 1', 'mtt/table1/cifar10/ipc1')):
            (d, file), n = published(o, method), 2 if net == 'alexnet' and not o.smoke else 1
            r, = evaluate(d, as_made(o, d, test), net, proto(method == 'D3'), n, row='d3/table4/cifar10/ppc1', method=method,
                          deviations=f'the artefact of {made}', lr=.01, together=False)
            r.artefact = sha(file)
            put(o, r)

if __name__ == '__main__':
    parts = dict(set=distilled, beside=beside, grids=grids, nets=nets)
    its = dict(nargs='?', type=int, default=1000, help='of `set`: 324 or 1000 in the rows recorded (default 1000)')
    o = begin(__doc__, 'd3', what=dict(choices=parts), iterations=its)
    if o.smoke: o.iterations, EPOCHS, N, WIDTH, S = 2, 1, 1, 8, S | dict(syn_steps=2, mmd_samples=2)
    parts[o.what](o)
