"""HaBa on digits at 8 px, one basis a class and five hallucinators, beside MTT and random real images of one and of two images a class. Protocol of soft_digits.py."""
from study import *
from soft_digits import AUG, EXPERTS, ITS, LAST, judged, net_fn

ROW = 'further/haba/digits'

def arms():
    "Name -> (method, what is said)."
    follow = dict(iterations=ITS, syn_steps=20, expert_epochs=2, max_start_epoch=LAST - 2, lr_lr=1e-6, lr_teacher=.05, aug=AUG)
    own = dict(lr_bases=1., lr_hallucinators=.1, **follow)
    said = f'a basis a class and five hallucinators, the bytes of 1.7 images a class; lr_bases 1, lr_hallucinators 0.1 (100, 100), iterations {ITS} (15000)'
    return {'mtt-2': (MTTMethod(ipc=2, lr_img=10., **follow), f'two images a class; lr_img 10; iterations {ITS}'),
            'haba': (HaBaMethod(**own), said), 'haba-free': (HaBaMethod(lambda_apart=0., **own), f'views are not kept apart (0.1); {said}')}

def run(o):
    "Every arm, one seed after another."
    real, test = load('digits')
    buffer = train_experts(net_fn, real, o.home/'soft-digits'/'experts', EXPERTS, expert_protocol(LAST, .02, 64, ''), quiet=True)
    for seed in o.seeds:
        task, kw = Task(real, test, net_fn, seed, experts=buffer), dict(lr=.05, arch=net_fn().arch, aug=AUG)
        judged(o, Pixels.from_real(real, 2, seed, **kw), 'ipc1/random-2', seed, test, 'two random real images a class', ROW)
        for name, (m, what) in arms().items():
            d = learn(task, m, o.home/'haba-digits'/f'{name}-{seed}', RunOptions(quiet=True))[0]
            judged(o, d, f'ipc1/{name}', seed, test, f'{EXPERTS} experts of {LAST} epochs, lr 0.02; N 20; {what}; settings of ours, one try', ROW)

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='seeds (default 0 1 2)'))
    o.seeds = o.seeds or ([0] if o.smoke else [0, 1, 2])
    if o.smoke: ITS, EXPERTS = 3, 2
    run(o)
