"""Sets of shared parts on digits at 8 px: LinBa in the bytes of one image a class, KFS in those of ten beside DM and random images. Protocol of soft_digits.py; DD's row is that of bptt_digits.py."""
from study import *
from soft_digits import AUG, judged, net_fn

ITS, DM_ITS, WARM = 300, 300, 300

def judge(o, d, row, seed, test, what):
    "One protocol for all, at one rate."
    d.protocol = 'mtt'
    d.lr.data.fill_(.05)
    head, _, name = row.partition('/ipc')
    judged(o, d, f'ipc{name}', seed, test, f'{what}; settings of ours, one try', f'further/{head}/digits')

def run(o):
    "Every arm, one seed after another."
    real, test = load('digits')
    for seed in o.seeds:
        task, kw = Task(real, test, net_fn, seed), dict(lr=.05, arch=net_fn().arch, aug=AUG)
        m = LinBaMethod(iterations=ITS, bases=8, syn_steps=20, batch_syn=60, batch_real=50, lr_bases=2., lr_addresses=2.)
        d = learn(task, m, o.home/'parts-digits'/f'linba-{seed}', RunOptions(quiet=True))[0]
        judge(o, d, 'linba/ipc1/linba', seed, test, f'8 bases of 4 px (16 of 16 px), 6 images a class; N 20 (150), lr 2 (0.1), iterations {ITS} (50000)')
        judge(o, Pixels.from_real(real, 10, seed, **kw), 'kfs/ipc10/random', seed, test, 'random real images')
        match = dict(ipc=10, iterations=DM_ITS, batch_real=64, aug=AUG)
        d = learn(task, DMMethod(lr_img=3., **match), o.home/'parts-digits'/f'dm-{seed}', RunOptions(quiet=True))[0]
        judge(o, d, 'kfs/ipc10/dm', seed, test, f'lr_img 3 (1), iterations {DM_ITS} (20000), batch_real 64 (256)')
        m = KFSMethod(decoder_width=4, warm=WARM, batch_syn_max=64, **match)
        judge(o, m.start(task), 'kfs/ipc10/fitted', seed, test, f'31 codes a class, 4 decoders of 4 channels, fitted to 124 random real images a class in {WARM} steps, not learned')
        d = learn(task, m, o.home/'parts-digits'/f'kfs-{seed}', RunOptions(quiet=True))[0]
        judge(o, d, 'kfs/ipc10/kfs', seed, test, f'31 codes a class, 4 decoders of 4 channels, iterations {DM_ITS} (20000), batch_real 64 (256), batch_syn_max 64')

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='seeds (default 0 1 2)'))
    o.seeds = o.seeds or ([0] if o.smoke else [0, 1, 2])
    if o.smoke: ITS, DM_ITS, WARM = 3, 3, 3
    run(o)
