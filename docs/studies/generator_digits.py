"""Generators on digits at 8 px: GLaD under DM, cut at three layers, beside DM on pixels, one image a class; IT-GAN with ten latents a class beside its inversions. A small generator trained on the same digits; protocol of soft_digits.py."""
from study import *
from soft_digits import AUG, judged, net_fn

GLAD, ITGAN, ITS, INVERT, EPOCHS = 'further/glad/digits', 'further/itgan/digits', 300, 300, 30

def judge(o, d, name, seed, test, what, head):
    "One protocol for all, at one rate."
    d = d.pictures() if hasattr(d, 'pictures') else d
    d.protocol = 'mtt'
    d.lr.data.fill_(.05)
    judged(o, d, name, seed, test, f'{what}; settings of ours, one try', head)

def one(o, seed, real, test):
    "All arms of a seed."
    g = train_generator(real, epochs=EPOCHS, seed=seed)
    task, match = Task(real, test, net_fn, seed, generator=g), dict(iterations=ITS, batch_real=64, aug=AUG)
    def made(name, m): return learn(task, m, o.home/'generator-digits'/f'{name}-{seed}', RunOptions(quiet=True))[0]
    kw = dict(lr=.05, arch=net_fn().arch, aug=AUG)
    judge(o, Pixels.from_real(real, 1, seed, **kw), 'ipc1/random', seed, test, 'random real images', GLAD)
    judge(o, Generated.at_random(real, 1, g, 0, seed, **kw), 'ipc1/drawn', seed, test, 'drawn by the generator, not learned', GLAD)
    judge(o, made('dm', DMMethod(lr_img=3., **match)), 'ipc1/dm', seed, test, f'lr_img 3 (1), iterations {ITS} (20000), batch_real 64 (256)', GLAD)
    for layer in (0, 2, 4):
        m = GLaDDMMethod(layer=layer, lr_img=3., lr_w=.3, **match)
        judge(o, made(f'glad-{layer}', m), f'ipc1/glad-dm-{layer}', seed, test, f'cut at layer {layer} of 4 of the small generator; lr_img 3, lr_w 0.3 (10, 0.01), iterations {ITS} (1000), batch_real 64 (256)', GLAD)
    judge(o, Generated.at_random(real, 10, g, 0, seed, **kw), 'ipc10/drawn', seed, test, 'drawn by the generator, not learned', ITGAN)
    for name, its in (('inverted', 1), ('it-gan', ITS)):
        m = ITGANMethod(ipc=10, inversion=INVERT, lr_w=1e-9 if its == 1 else .01, **match | dict(iterations=its))
        judge(o, made(name, m), f'ipc10/{name}', seed, test, f'{INVERT} steps of inversion (5000)' + (', not learned' if its == 1 else f'; lr_w 0.01 (0.001), iterations {its} (10000), batch_real 64 (256)'), ITGAN)

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='seeds (default 0 1 2)'))
    o.seeds = o.seeds or ([0] if o.smoke else [0, 1, 2])
    if o.smoke: ITS, INVERT, EPOCHS = 3, 3, 1
    real, test = load('digits')
    for seed in o.seeds: one(o, seed, real, test)
