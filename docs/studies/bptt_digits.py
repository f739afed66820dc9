"""DD, LD and RaT-BPTT on digits at 8 px, one image a class, under the protocol of soft_digits.py, whose rows of random images and MTT stand beside them."""
from study import *
from soft_digits import judged, net_fn

ITS, ROW = 200, 'further/bptt/digits'
KW = dict(batch_real=30, lr_lr=1e-3, lr_teacher=.05)

def arms():
    "Name -> (method, what is said)."
    through = dict(iterations=ITS, syn_steps=15, **KW)
    window = dict(iterations=ITS, syn_steps=60, window=15, **KW)
    return {'dd': (DDMethod(lr_img=.05, **through), 'N 15 (30)'), 'ld': (LDMethod(lr_y=.05, batch_syn=10, **through), 'N 15 (10)'),
            'rat': (RaTMethod(lr_img=.05, **window), 'N 60, W 15 (200, 60: ours)'), 'rat-labels': (RaTMethod(lr_img=.05, lr_y=.05, learn='both', **window), 'N 60, W 15 (200, 60: ours); labels, too')}

def run(o):
    "Every arm, one seed after another."
    real, test = load('digits')
    for seed in o.seeds:
        for name, (m, what) in arms().items():
            d = learn(Task(real, test, net_fn, seed), m, o.home/'bptt-digits'/f'{name}-{seed}', RunOptions(quiet=True))[0]
            judged(o, d, f'ipc1/{name}', seed, test, f'{what}; iterations {ITS}; steps of Adam 0.05, of the rate 0.001; 30 real images of a class a step; settings of ours, one try', ROW)

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='default 0 1 2'))
    o.seeds = o.seeds or [0] if o.smoke else o.seeds or [0, 1, 2]
    if o.smoke: ITS = 2
    run(o)
