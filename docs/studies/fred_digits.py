"""FreD on digits at 8 px, the bytes of one image a class: 16 of 64 frequencies, four images, under MTT and DM. The rows of soft_digits.py stand beside them."""
from study import *
from soft_digits import AUG, COMMON, EXPERTS, ITS, LAST, judged, net_fn

ROW, DM_ITS = 'further/fred/digits', 300

def arms():
    "Name -> (method, what is said)."
    follow = dict(iterations=ITS, syn_steps=20, expert_epochs=2, max_start_epoch=LAST - 2, lr_lr=1e-6, lr_teacher=.05, aug=AUG, msz_per_channel=16)
    match = dict(iterations=DM_ITS, batch_real=64, aug=AUG)
    own = dict(kept_by='energy')
    return {'fred-mtt': (FreDMTTMethod(lr_freq=10., **follow), f'lr_freq 10, iterations {ITS}'), 'fred-mtt-energy': (FreDMTTMethod(lr_freq=10., **own, **follow), f'frequencies kept by energy (variance); lr_freq 10, iterations {ITS}'), 'dm': (DMMethod(lr_img=3., **match), f'lr_img 3 (1), iterations {DM_ITS} (20000), batch_real 64 (256)'),
            'fred-dm': (FreDDMMethod(lr_freq=3., msz_per_channel=16, **match), f'lr_freq 3, iterations {DM_ITS} (20000), batch_real 64 (256)'),
            'fred-dm-energy': (FreDDMMethod(lr_freq=3., msz_per_channel=16, **own, **match), f'frequencies kept by energy (variance); lr_freq 3, iterations {DM_ITS} (20000), batch_real 64 (256)')}

def run(o):
    "Every arm, one seed after another."
    real, test = load('digits')
    buffer = train_experts(net_fn, real, o.home/'soft-digits'/'experts', EXPERTS, expert_protocol(LAST, .02, 64, ''), quiet=True)
    for seed in o.seeds:
        task = Task(real, test, net_fn, seed, experts=buffer)
        for by, name in (('variance', 'random-4'), ('energy', 'random-4-energy')):
            if o.arms and name not in o.arms: continue
            four = Frequencies.from_real(real, 1, 16, seed, by, lr=.05, arch=net_fn().arch, aug=AUG)
            judged(o, four, f'ipc1/{name}', seed, test, f'four random real images, 16 of 64 frequencies each, those of the largest {by}, not learned', ROW)
        for name, (m, what) in arms().items():
            if o.arms and name not in o.arms: continue
            d = learn(task, m, o.home/'fred-digits'/f'{name}-{seed}', RunOptions(quiet=True))[0]
            judged(o, d, f'ipc1/{name}', seed, test, f'{what}; settings of ours, one try', ROW)

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', help='seeds (default 0 1 2), perhaps with names of arms'))
    o.arms = [w for w in o.seeds if not w.isdigit()]
    o.seeds = [int(w) for w in o.seeds if w.isdigit()] or ([0] if o.smoke else [0, 1, 2])
    if o.smoke: ITS, DM_ITS, EXPERTS = 3, 3, 2
    run(o)
