"""IDC's frames of 2 x 2 small images on digits, the bytes of one image a class, under DC, DM and MTT; at 8 px beside the rows of soft_digits.py, at 16 px beside DM. With and without CutMix."""
from functools import partial
from study import *
import soft_digits as soft
from soft_digits import AUG, EXPERTS, ITS, LAST, judged, net_fn

ROW, DM_ITS, NETS = 'further/idc/digits', 300, 30

def arms():
    "Name -> (method, what is said)."
    follow = dict(iterations=ITS, syn_steps=20, expert_epochs=2, max_start_epoch=LAST - 2, lr_lr=1e-6, lr_teacher=.05, aug=AUG)
    match = dict(iterations=DM_ITS, batch_real=64, aug=AUG)
    grads = dict(iterations=NETS, outer=10, inner=8, batch_real=64, aug=AUG, mix_p=.5)
    said = f'{NETS} networks of 10 matches (2000 of 100), 8 batches of 64 between two (32)'
    return {'idc-i': (IDCMethod(factor=1, lr_img=.3, **grads), f'one image a frame; lr_img 0.3; {said}'), 'idc': (IDCMethod(lr_img=.3, **grads), f'lr_img 0.3; {said}'),
            'dm': (DMMethod(lr_img=3., **match), f'lr_img 3 (1), iterations {DM_ITS} (20000), batch_real 64 (256)'),
            'idc-dm': (IDCDMMethod(lr_img=3., **match), f'lr_img 3 (1), iterations {DM_ITS} (20000), batch_real 64 (256)'),
            'idc-mtt': (IDCMTTMethod(lr_img=10., **follow), f'lr_img 10, iterations {ITS}')}

def mixed(o, d, name, seed, test, what):
    "The same with CutMix in every batch."
    soft.AUG = f'{AUG}+cutmix'
    try: judged(o, d, f'ipc1/{name}-cutmix', seed, test, f'{what}; CutMix in every batch', ROW)
    finally: soft.AUG = AUG

def small(o, seed):
    "At 8 px."
    real, test = load('digits')
    buffer = train_experts(net_fn, real, o.home/'soft-digits'/'experts', EXPERTS, expert_protocol(LAST, .02, 64, ''), quiet=True)
    task, kw = Task(real, test, net_fn, seed, experts=buffer), dict(lr=.05, arch=net_fn().arch, aug=AUG)
    mixed(o, Pixels.from_real(real, 1, seed, **kw), 'random', seed, test, 'random real images')
    judged(o, Formation.from_real(real, 1, 2, seed, **kw), 'ipc1/random-4', seed, test, 'four random real images of half the side, not learned', ROW)
    for name, (m, what) in arms().items():
        d = learn(task, m, o.home/'idc-digits'/f'{name}-{seed}', RunOptions(quiet=True))[0]
        what = f'{what}; settings of ours, one try'
        d.protocol = 'mtt' # one protocol for all
        if name != 'idc-mtt': d.lr.data.fill_(.05)
        judged(o, d, f'ipc1/{name}', seed, test, what, ROW)
        if name == 'idc': mixed(o, d, name, seed, test, what)

def large(o, seed):
    "At 16 px, to which the digits are enlarged."
    (real, test), net = load('digits', size=16), partial(ConvNet, 1, 10, 16, 32, 2)
    task, kw = Task(real, test, net, seed), dict(lr=.05, arch=net().arch, aug=AUG)
    match, said = dict(iterations=DM_ITS, batch_real=64, aug=AUG, lr_img=3.), f'enlarged to 16 px; lr_img 3 (1), iterations {DM_ITS} (20000), batch_real 64 (256); settings of ours, one try'
    judged(o, Pixels.from_real(real, 1, seed, **kw), '16px-ipc1/random', seed, test, 'enlarged to 16 px; random real images', ROW)
    judged(o, Formation.from_real(real, 1, 2, seed, **kw), '16px-ipc1/random-4', seed, test, 'enlarged to 16 px; four random real images of half the side, not learned', ROW)
    for name, m in dict(dm=DMMethod(**match), **{'idc-dm': IDCDMMethod(**match)}).items():
        d = learn(task, m, o.home/'idc-digits'/f'16px-{name}-{seed}', RunOptions(quiet=True))[0]
        d.protocol = 'mtt'
        d.lr.data.fill_(.05)
        judged(o, d, f'16px-ipc1/{name}', seed, test, said, ROW)

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='seeds (default 0 1 2)'))
    o.seeds = o.seeds or ([0] if o.smoke else [0, 1, 2])
    if o.smoke: ITS, DM_ITS, NETS, EXPERTS = 3, 3, 1, 2
    for seed in o.seeds:
        small(o, seed)
        large(o, seed)
