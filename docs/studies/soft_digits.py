"""Learned labels on digits at 8 px: MTT, DATM and its parts, beside random real images with class numbers and with experts' labels. 1, 10: images a class."""
from functools import partial
from study import *

AUG, EPOCHS, N, ROW = 'crop_scale_rotate', 300, 5, 'further/soft/digits'
net_fn = partial(ConvNet, 1, 10, 8, 32, 2)
ITS, STEPS, EXPERTS, LAST = 300, {1: 20, 10: 20}, 10, 12
COMMON = 'digits at 8 px (no paper has them); ConvNet-2 width 32 (ConvNet-3 width 128)'


def arms(ipc):
    "Name -> (method, what is said)."
    kw = dict(ipc=ipc, iterations=ITS, syn_steps=STEPS[ipc], expert_epochs=2, max_start_epoch=LAST - 2, lr_img=10., lr_lr=1e-6, lr_teacher=.05, aug=AUG)
    grow = dict(current_max_start=2, expansion_end=ITS//2)
    learned = dict(lr_y=5.)
    return dict(mtt=MTTMethod(**kw), labels=DATMMethod(**kw, **learned), starts=DATMMethod(**kw, **grow, labels='fixed', init='real'),
                datm=DATMMethod(**kw, **grow, **learned, threshold=1.1))

def judged(o, d, name, seed, test, what, head=ROW):
    "Students of a set: a row."
    p = as_protocol(d.protocol).scaled(epochs=EPOCHS, aug=AUG)
    r = students(d, test, protocol=p, n_eval=1 if o.smoke else N, seed=seed, row=f'{head}/{name}', method=name.split('/')[1], kind='reduced', deviations=f'{COMMON}; {what}')
    put(o, dataclasses.replace(r, seeds=str(seed)))

def run(o, ipc):
    "Every arm, one seed after another."
    real, test = load('digits')
    buffer = train_experts(net_fn, real, o.home/'soft-digits'/'experts', EXPERTS, expert_protocol(LAST, .02, 64, ''), quiet=True)
    for seed in o.seeds:
        task = Task(real, test, net_fn, seed, experts=buffer)
        kw = dict(lr=.05, arch=net_fn().arch, aug=AUG)
        judged(o, Pixels.from_real(real, ipc, seed, **kw), f'ipc{ipc}/random', seed, test, 'random real images')
        judged(o, soft_start(task, ipc, 'real', **kw), f'ipc{ipc}/random-soft', seed, test, "random real images; labels of the experts that are right, not learned")
        for name, m in arms(ipc).items():
            d = learn(task, m, o.home/'soft-digits'/f'ipc{ipc}-{name}-{seed}', RunOptions(quiet=True))[0]
            judged(o, d, f'ipc{ipc}/{name}', seed, test, f'{EXPERTS} experts of {LAST} epochs, lr 0.02 (100 of 100); N {m.syn_steps}; lr_img 10; iterations {ITS}; rates of ours, one try')

if __name__ == '__main__':
    o = begin(__doc__, 'further', ipc=dict(type=int, choices=STEPS), seeds=dict(nargs='*', type=int, help='default 0 1 2'))
    o.seeds = o.seeds or [0] if o.smoke else o.seeds or [0, 1, 2]
    if o.smoke: ITS, EPOCHS, EXPERTS = 3, 2, 2
    run(o, o.ipc)
