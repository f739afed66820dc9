"""CAFE on digits at 8 px, one image a class, with and without its discrimination loss, beside DC and DM; protocol of soft_digits.py."""
from study import *
from soft_digits import AUG, judged, net_fn

ITS, ROW = 200, 'further/cafe/digits'

def arms():
    "Name -> (method, what is said)."
    own = dict(iterations=ITS, init='real', lr_img=1., batch_real=64, most_epochs=10, most_matches=20, net_lr=.05, aug=AUG)
    said = f'from real images (noise); lr_img 1 (0.1), rate of the network 0.05 (0.01), at most 20 matches a network and 10 epochs between two (100, 100), iterations {ITS} (20000), batch_real 64 (256)'
    few = dict(iterations=ITS, batch_real=64, aug=AUG)
    return {'dc': (DSAMethod(lr_img=1., outer=1, inner=1, **few), f'lr_img 1 (0.1), a new network for each match, iterations {ITS}, batch_real 64 (256)'), 'dm': (DMMethod(lr_img=3., **few), f'lr_img 3 (1), iterations {ITS} (20000), batch_real 64 (256)'),
            'cafe-alone': (CAFEDSAMethod(weight=0., **own), f'no discrimination loss (0.01); {said}'), 'cafe': (CAFEDSAMethod(**own), said)}

def run(o):
    "Every arm, one seed after another."
    real, test = load('digits')
    for seed in o.seeds:
        for name, (m, what) in arms().items():
            d = learn(Task(real, test, net_fn, seed), m, o.home/'cafe-digits'/f'{name}-{seed}', RunOptions(quiet=True))[0]
            d.protocol = 'mtt' # one protocol for all, at one rate
            d.lr.data.fill_(.05)
            judged(o, d, f'ipc1/{name}', seed, test, f'{what}; settings of ours, one try', ROW)

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='seeds (default 0 1 2)'))
    o.seeds = o.seeds or ([0] if o.smoke else [0, 1, 2])
    if o.smoke: ITS = 2
    run(o)
