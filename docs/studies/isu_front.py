"Running statistics on digits: how far a whole set is from the training set's statistics, and how well it fits its labels, for some alpha. Three seeds."
from math import nan
from torch.nn import functional as F
from study import *

ALPHAS, SEEDS, K, LR = (0., .1, .3, 1., 3.), (0, 1, 2), 40, .1
VARIANTS = dict(alone=(None, False), isu=(dict(), False), between=(dict(between=True), False),
                isu_alpha_b=(dict(), True), between_alpha_b=(dict(between=True), True))
DEV = 'digits at 8 px; ResNet of two blocks, width 16; K 40; 10 batches of one class; one teacher; judged by statistics, no student'


class Teacher:
    "A small ResNet and its statistics of the training set."
    def __init__(self):
        real = load('digits')[0]
        with seeded(0, 'isu'): self.net = resnet(1, 10, 8, layers=(1, 1), width=16, norm='batch')
        self.net.arch = dict(n_in=1, n_out=10, size=8)
        train(self.net, real, PROTOCOLS['full'].scaled(epochs=4, batch=64, aug=''), seed=0)
        self.net.eval().requires_grad_(False)
        self.targets = targets(dataset_stats(self.net, real.batches(256)))

    def far(self, stats): return feature_loss('kl-multi', stats, self.targets)

    def batch(self, y, b, isu, alpha, seed):
        "Images of one batch of labels, and their cross-entropy."
        x = torch.randn(len(y), 1, 8, 8, generator=rng_for('isu', 'noise', seed, b)).requires_grad_()
        opt = torch.optim.Adam([x], LR, betas=(.5, .9)); sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, K)
        with FeatureStats(self.net) as f:
            for _ in range(K):
                fit = F.cross_entropy(self.net(x), y)
                loss = self.far(isu.mix(f.stats) if isu else f.stats) + alpha*fit
                opt.zero_grad(); loss.backward(); opt.step(); sched.step()
        return x.detach(), fit.item()

    def set(self, isu, alpha, by_b, seed):
        "(distance of the whole set, distance that the running statistics claim, mean cross-entropy)"
        xs, ce = [], 0.
        for b in range(1, 11):
            x, fit = self.batch(torch.full((10,), b - 1), b, isu, alpha/b if by_b else alpha, seed)
            xs.append(x); ce += fit/10
            if isu: isu.fold(b, [batch_stats(self.net, x)])
        return self.far(batch_stats(self.net, torch.cat(xs))).item(), self.far(isu.running[0]).item() if isu else nan, ce


def point(o, teacher, alpha, name):
    "One point of a front: three rows."
    kw, by_b = VARIANTS[name]
    with Cost() as c: t = torch.tensor([teacher.set(None if kw is None else ISU(**kw), alpha, by_b, s) for s in SEEDS], dtype=torch.double)
    common = dict(protocol='reduced', deviations=DEV, method=name.replace('_', ' '), net='resnet', n=len(SEEDS), seeds=','.join(map(str, SEEDS)),
                  seconds=c.seconds, device=device_name(), settings=settings_hash(dict(alpha=alpha, name=name, K=K, lr=LR, eps=1e-3)))
    row = f'd3s/study/digits/isu-front/alpha{alpha:g}/{name}'
    put(o, [Row(f'{row}/{what}', metric=metric, unit='nat', mean=v.mean().item(), std=v.std(correction=0).item(), **common)
            for v, what, metric in zip(t.T, ('whole', 'claim', 'labels'), ('kl_pooled', 'kl_running', 'cross_entropy')) if v.isfinite().all()])

if __name__ == '__main__':
    o = begin(__doc__, 'd3s', alphas=dict(nargs='*', type=float, help=f'weights of the cross-entropy (default {" ".join(f"{a:g}" for a in ALPHAS)})'))
    if o.smoke: ALPHAS, SEEDS, K = (1.,), (0,), 2
    teacher = Teacher()
    for alpha in o.alphas or ALPHAS:
        for name in VARIANTS:
            if alpha or not VARIANTS[name][1]: point(o, teacher, alpha, name) # zero is the same by b
