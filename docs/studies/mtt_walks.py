"""Figure 5, right, of MTT on digits at 8 px: how near a student on one image a class by MTT, DSA or DM, or on real images, comes to where an expert was after
some steps on real data. Experts that nobody has learned from set the targets. The paper does not say which rate its walks have: every set takes the same walks
at three rates, and its nearest approach counts."""
from functools import partial
from study import *

AUG, EPOCHS, RATES, WALK, EXPERTS, FRESH = 'crop_scale_rotate', (1, 2, 4, 8, 16, 32), (.01, .03, .1), 1000, 20, 3
ITS = dict(mtt=200, dsa=400, dm=1000)
net_fn = partial(ConvNet, n_in=1, n_out=10, size=8, width=32, depth=2)
TEXT = ('digits at 8 px (CIFAR-100); ConvNet-2 of width 32; MTT 200 iterations with N 30, M 2, T+ 2, DSA 400 iterations, DM 1000; the nearest of walks at three rates '
        '(0.01, 0.03, 0.1); experts with rate 0.05 and batch 64, no augmentation; n counts experts')

def sets(o, real):
    "One image a class by each method, and real ones."
    out = o.home/'runs'/'mtt-figure5'
    made = {'random': Pixels.from_real(real, 1), 'MTT': Pixels.from_real(real, 1, lr=.02)}
    experts = train_experts(net_fn, real, out/'experts', EXPERTS, expert_protocol(4, .05, 64, ''), quiet=True)
    distill(made['MTT'], MTT(net_fn(), experts, 30, 2, 2, aug=DSA(AUG), keep=30), ITS['mtt'], mtt_opts(100., 1e-4), sched=lambda done: 1 - done, quiet=True)
    task = Task(real, net_fn=net_fn, seed=1)
    for m in (DSAMethod(iterations=ITS['dsa'], lr_img=.3, batch_real=64, aug=AUG), DMMethod(iterations=ITS['dm'], lr_img=30., batch_real=64, aug=AUG)):
        made[m.name.upper()] = learn(task, m, out/m.name, RunOptions(quiet=True))[0]
    return made

def walks(d, fresh):
    "[experts, targets]: the nearest approach at any rate."
    targets = [torch.stack([fresh.snapshot(i, e) for e in EPOCHS]) for i in range(len(fresh))]
    near = lambda i, lr: closest(d, net_fn(), fresh.snapshot(i, 0), targets[i], WALK, lr, DSA(AUG))
    return torch.stack([torch.stack([near(i, lr) for lr in RATES]).amin(0) for i in range(len(fresh))]).double()

def rows(name, v, seconds):
    "A row for each target."
    for e, m, s in zip(EPOCHS, v.mean(0), v.std(0, correction=0)):
        yield Row(f'mtt/figure5/right/digits/dt={23*e}', 'reduced', TEXT, name, 'convnet', metric='distance', unit='', n=len(v), mean=float(m), std=float(s),
                  seconds=seconds/len(EPOCHS), device=device_name(), settings=settings_hash(dict(rates=RATES, e=e, name=name)))

if __name__ == '__main__':
    o = begin(__doc__, 'mtt')
    if o.smoke: EPOCHS, WALK, EXPERTS, FRESH, ITS = (1, 2), 5, 2, 1, dict.fromkeys(ITS, 2)
    real, _ = load('digits')
    made = sets(o, real)
    fresh = train_experts(net_fn, real, o.home/'runs'/'mtt-figure5'/'fresh', FRESH, expert_protocol(max(EPOCHS), .05, 64, ''), seed=7, quiet=True)
    for name, d in made.items():
        with Cost() as c: v = walks(d, fresh)
        put(o, [*rows(name, v, c.seconds)])
