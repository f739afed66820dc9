"""FTD on digits at 8 px, one image a class: flat experts, a mean of the set over time, and both; settings, number of experts and protocol of soft_digits.py, whose rows stand beside them."""
from study import *
from soft_digits import AUG, EXPERTS, ITS, LAST, judged, net_fn

ROW, RHO, MEAN = 'further/ftd/digits', .3, .98

def run(o):
    "Every arm, one seed after another."
    real, test = load('digits')
    sharp = train_experts(net_fn, real, o.home/'soft-digits'/'experts', EXPERTS, expert_protocol(LAST, .02, 64, ''), quiet=True)
    flat = train_experts(net_fn, real, o.home/'ftd-digits'/'experts', EXPERTS, flat_protocol(LAST, RHO, lr=.02, batch=64, aug=''), quiet=True)
    kw = dict(iterations=ITS, syn_steps=20, expert_epochs=2, max_start_epoch=LAST - 2, lr_img=10., lr_lr=1e-6, lr_teacher=.05, aug=AUG)
    said = f'{EXPERTS} experts of {LAST} epochs, lr 0.02 (100 of 100); iterations {ITS} (5000); settings of ours, one try'
    mean = f'mean over time {MEAN} (0.9995)'
    for seed in o.seeds:
        for name, buffer, decay, what in (('flat', flat, 0., f'rho {RHO} (0.01); no mean over time'), ('ftd', flat, MEAN, f'rho {RHO} (0.01); {mean}'), ('mean', sharp, MEAN, f"experts of MTT; {mean}")):
            task = Task(real, test, net_fn, seed, experts=buffer)
            m = FTDMethod(ema_decay=decay, **kw) if buffer is flat else DATMMethod(ema_decay=decay, labels='fixed', init='real', **kw)
            d = learn(task, m, o.home/'ftd-digits'/f'{name}-{seed}', RunOptions(quiet=True))[0]
            judged(o, d, f'ipc1/{name}', seed, test, f'{what}; {said}', ROW)

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='seeds (default 0 1 2)'))
    o.seeds = o.seeds or ([0] if o.smoke else [0, 1, 2])
    if o.smoke: ITS, EXPERTS = 3, 2
    run(o)
