"""Ranking 24 small networks on digits: each is trained on a small set, and the order is compared with that on the whole set. Random images, herding and DM at one and ten images a class,
the whole set for as many steps as the small ones take, and the whole set again under other seeds, which is as close as two orders come."""
import re
from functools import partial
from study import *

AUG, N, ITS, ROW = 'crop_scale_rotate', 3, {1: 1000, 10: 400}, 'uses/search/digits'
EPOCHS = dict(small=300, whole=12)
FAMILY = [(w, depth, norm) for w in (4, 8, 16, 32) for depth in (1, 2, 3) for norm in ('instance', 'none')]
COMMON = 'digits at 8 px (no paper has them)'
net_fn = partial(ConvNet, 1, 10, 8, 32, 2)


def learned(o, real, ipc):
    "A set by DM."
    m = method_of('dm', ipc=ipc, iterations=ITS[ipc], lr_img=10., batch_real=64, aug=AUG)
    return learn(Task(real, net_fn=net_fn), m, o.home/'search'/f'dm-{ipc}', RunOptions(every=1000, quiet=True))[0]

def arms(o, real):
    "Name -> (set, protocol, seed of the students, what is said)."
    small, whole = as_protocol('dsa').scaled(epochs=EPOCHS['small'], aug=AUG), as_protocol('full').scaled(epochs=EPOCHS['whole'], aug=AUG)
    steps = EPOCHS['small']//-(-len(real)//whole.batch) # epochs of the whole set that have as many steps
    out = dict(whole=(real, whole, 0, f'whole set, {whole.epochs} epochs'), again=(real, whole, 100, 'whole set, other seeds'),
               stopped=(real, whole.scaled(epochs=max(1, steps)), 0, f'whole set, {max(1, steps)} epochs, the steps of a small set'))
    for ipc in (1, 10):
        out |= {f'random{ipc}': (coreset(real, ipc, arch=net_fn().arch), small, 0, 'random images'),
                f'herding{ipc}': (coreset(real, ipc, 'herding', net_fn, 20), small, 0, 'herding by a ConvNet-2 of width 32 after 20 epochs'),
                f'dm{ipc}': (learned(o, real, ipc), small, 0, f'DM, lr_img 10, {ITS[ipc]} iterations, by a ConvNet-2 of width 32')}
    return out

def run(o):
    "Every network of every arm."
    real, test = load('digits')
    for name, (d, p, seed, said) in arms(o, real).items():
        for w, depth, norm in FAMILY:
            row = f'{ROW}/{name}/width={w}/depth={depth}/norm={norm}'
            if any(r.row == row for r in read_rows(o.csv)): continue
            r = students(d, test, ConvNet(1, 10, 8, w, depth, norm).arch, p, n_eval=1 if o.smoke else N, seed=seed)
            put(o, dataclasses.replace(r, row=row, method=re.sub(r'\d+', '', name), protocol='reduced', seeds=str(seed), deviations='; '.join(filter(None, (r.deviations, COMMON, said)))))

if __name__ == '__main__':
    o = begin(__doc__, 'uses')
    if o.smoke: ITS, EPOCHS, FAMILY = {1: 2, 10: 2}, dict(small=2, whole=1), FAMILY[::9]
    run(o)
