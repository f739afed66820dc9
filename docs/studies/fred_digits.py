"""FreD on digits at 8 px, the bytes of one image a class: 16 of 64 frequencies, four images, under MTT and DM. The rows of soft_digits.py stand beside them."""
from study import *
from soft_digits import AUG, COMMON, EXPERTS, ITS, LAST, judged, net_fn

ROW, DM_ITS = 'further/fred/digits', 300

def arms():
    "Name -> (method, what is said)."
    follow = dict(iterations=ITS, syn_steps=20, expert_epochs=2, max_start_epoch=LAST - 2, lr_lr=1e-6, lr_teacher=.05, aug=AUG, msz_per_channel=16)
    match = dict(iterations=DM_ITS, batch_real=64, aug=AUG)
    return {'fred-mtt': (FreDMTTMethod(lr_freq=10., **follow), f'lr_freq 10, iterations {ITS}'), 'dm': (DMMethod(lr_img=3., **match), f'lr_img 3 (1), iterations {DM_ITS} (20000), batch_real 64 (256)'),
            'fred-dm': (FreDDMMethod(lr_freq=3., msz_per_channel=16, **match), f'lr_freq 3, iterations {DM_ITS} (20000), batch_real 64 (256)')}

def run(o):
    "Every arm, one seed after another."
    real, test = load('digits')
    buffer = train_experts(net_fn, real, o.home/'soft-digits'/'experts', EXPERTS, expert_protocol(LAST, .02, 64, ''), quiet=True)
    for seed in o.seeds:
        task = Task(real, test, net_fn, seed, experts=buffer)
        four = Frequencies.from_real(real, 1, 16, seed, lr=.05, arch=net_fn().arch, aug=AUG)
        judged(o, four, 'ipc1/random-4', seed, test, 'four random real images, 16 of 64 frequencies each, not learned', ROW)
        for name, (m, what) in arms().items():
            d = learn(task, m, o.home/'fred-digits'/f'{name}-{seed}', RunOptions(quiet=True))[0]
            judged(o, d, f'ipc1/{name}', seed, test, f'{what}; settings of ours, one try', ROW)

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='default 0 1 2'))
    o.seeds = o.seeds or [0] if o.smoke else o.seeds or [0, 1, 2]
    if o.smoke: ITS, DM_ITS, EXPERTS = 3, 3, 2
    run(o)
