"""Figure 5, left, of MTT on digits at 8 px, one image a class: accuracy over the expert's epochs M and the student's steps N. For each cell two steps of the
images and four rates of the students are tried on a held-out fifth of train (first seed); the best pair goes to the test set, for every seed."""
from functools import partial
from study import *

AUG, EPOCHS, ITS, PLUS, EXPERTS, NETS = 'crop_scale_rotate', 200, 150, 2, 20, 3
M, N, STEPS, RATES = (1, 2, 4), (1, 5, 10, 20, 40), (30., 300.), (None, .01, .03, .1) # None: the learned one
STEP, BATCH, LR_LR, AT = .05, 64, 1e-4, 'mtt/figure5/left/digits'
net_fn = partial(ConvNet, 1, 10, 8, 32, 2)

def first_rate(part, m, n):
    "Where the learned rate starts: n steps go half as far as the expert's m epochs, by the sum of their rates."
    return min(.3, .5*m*-(-len(part)//BATCH)*STEP/n)

def folder(o): return o.home/'runs'/'mtt-figure5-left'

def distilled(o, part, buf, m, n, lr_img, seed):
    "One image a class."
    d = Pixels.from_real(part, 1, seed, lr=first_rate(part, m, n), arch=net_fn().arch, aug=AUG)
    loss, ckpt = MTT(net_fn(), buf, n, m, PLUS, aug=DSA(AUG), keep=n, seed=seed), folder(o)/f'M{m}-N{n}-{lr_img:g}-{seed}.safetensors'
    distill(d, loss, ITS, mtt_opts(lr_img, LR_LR), sched=lambda done: 1 - done, ckpt=ckpt, every=1000, settings=[m, n, lr_img, seed], quiet=True)
    return d

def judged(d, images, lr, seed, **kw):
    "A row of students at their own learned rate, or at a given one."
    p = as_protocol('mtt').scaled(epochs=EPOCHS, aug=AUG)
    return students(d, images, (net_fn().arch,), p, NETS, seed=seed, lr=lr, **kw)

def best_rate(d, held):
    "(accuracy on held-out images, the students' rate)"
    return max(((judged(d, held, lr, 1).mean, lr) for lr in RATES), key=lambda v: v[0])

def search(o, part, held, buf, m, n):
    "The step of the images and the students' rate of one cell."
    scores = []
    for s in STEPS:
        try: scores.append((*best_rate(distilled(o, part, buf, m, n, s, 0), held), s))
        except Diverged as e: print(m, n, s, e)
    print(m, n, scores)
    return max(scores, key=lambda v: v[0])[1:]

def cell(o, data, buf, m, n):
    "One cell of the figure: search, then a row a seed."
    part, held, test = data
    lr, step = search(o, part, held, buf, m, n)
    dev = (f'lr_img {step:g}, the best of {some(STEPS)}, and the rate of the students, {some([lr])}, the best of {some(RATES)}, on a held-out fifth of train; '
           f'the learned rate starts at {first_rate(part, m, n):.3g}')
    for seed in o.seeds:
        d = distilled(o, part, buf, m, n, step, seed)
        file = d.save(folder(o)/f'set-M{m}-N{n}-{seed}.safetensors')
        r = judged(d, test, lr, seed, row=f'{AT}/M={m}/N={n}', method='MTT', deviations=f'{text(part)}; {dev}')
        r.seeds, r.artefact = str(seed), sha(file)
        put(o, r)

def some(values): return ', '.join('the learned one' if v is None else f'{v:g}' for v in values)

def text(part):
    "What differs from the paper in all cells."
    return (f'digits at 8 px (CIFAR-100), {len(part)} training images; ConvNet-2 width 32 (ConvNet-3 width 128); {EXPERTS} experts, {max(M) + PLUS - 1} epochs kept, rate {STEP:g}, '
            f'batch {BATCH}, no augmentation; T+ {PLUS}; {ITS} iterations; rates fall linearly; lr_lr {LR_LR:g}')

def beside(o, data):
    "Random real images, where the sets began."
    part, held, test = data
    for seed in o.seeds:
        d = Pixels.from_real(part, 1, seed, lr=.03, arch=net_fn().arch, aug=AUG)
        lr = max(RATES[1:], key=lambda v: judged(d, held, v, 1).mean)
        r = judged(d, test, lr, seed, row=f'{AT}/random', method='random',
                   deviations=f'digits at 8 px (CIFAR-100); ConvNet-2 width 32; the rate of the students, {lr:g}, the best of {some(RATES[1:])} on a held-out fifth of train')
        r.seeds = str(seed)
        put(o, r)

if __name__ == '__main__':
    o = begin(__doc__, 'mtt', seeds=dict(nargs='*', type=int, help='of the distillation (default 0 1)'))
    o.seeds = o.seeds or ([0] if o.smoke else [0, 1])
    if o.smoke: M, N, STEPS, RATES, EPOCHS, ITS, EXPERTS, NETS = (1,), (1, 2), (100.,), (None, .03), 2, 2, 2, 1
    part, held = load('digits', val=.2); data = part, held, load('digits')[1]
    buf = train_experts(net_fn, part, folder(o)/'experts', EXPERTS, expert_protocol(max(M) + PLUS - 1, STEP, BATCH, ''), quiet=True)
    beside(o, data)
    for n in N:
        for m in M: cell(o, data, buf, m, n)
