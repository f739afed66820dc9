"""Figures 3 and 4 of D3S on digits, ten images a class, with the teachers, the rate and alpha of d3s_digits.py. models: how many teachers make images, labels or
both, and running statistics with a new teacher for each batch or each iteration; labels: label epochs and epochs of training, on the images of all parts."""
import dataclasses
import d3s_digits as D
from study import *

MODELS, LABELLED, TRAINED, NETS = (2, 3, 5), (5, 10, 20, 40), (20, 40, 80, 120), 3
NOTE = 'rate and alpha as chosen in d3s/study/digits'
PER = dict(batch='per batch', iter='per iteration')
ARMS = [(isu, per) for isu in (True, False) for per in PER]
def called(isu, per): return f'{"ISU" if isu else "no ISU"}, {PER[per]}'
def at(side, n): return f'd3s/figure3/{side}/digits/models={n}'

class Models(D.Bench):
    "The bench of the digits study, and sets by how many teachers made them."
    def __init__(self, o):
        super().__init__(o, 'final')
        (self.lr, best), self.n = D.chosen(o), 1 if o.smoke else NETS
        self.alpha = best['kl-multi']

    def set(self, seed, n, isu=True, per='batch'):
        "(name, images): some of them are those of the digits study."
        name = {(1, True, 'batch'): 'isu', (1, False, 'batch'): 'loss-kl-multi', (D.M, True, 'batch'): 'ens-enl-isu',
                (D.M, False, 'batch'): 'ens'}.get((n, isu, per))
        name = name or f'figure3-{n}-{"isu" if isu else "no-isu"}-{per}'
        return name, self.images(name, seed, self.alpha, ens=n > 1 and (n if n < D.M else True), isu=isu, per=per)

    def row(self, seed, made, labellers, row, method, what):
        "Students on a set under the labels of so many teachers."
        name, d = made
        return self.judged(d, name, seed, labellers, self.lr, row, method, f'alpha {self.alpha:g} (20); {what}; {NOTE}')

def again(b, r, row, method):
    "The same measurement at another place of the figure; it cost nothing more."
    put(b.o, dataclasses.replace(r, row=row, method=method, seconds=0., date='', commit='', deviations=f'{r.deviations}; the students of {r.row}, {r.method}'))

def one(b, seed):
    "One teacher: every arm of a panel begins here."
    r = b.row(seed, b.set(seed, 1), 1, at('left', 1), 'ENS and ENL', 'one teacher for images and labels; ISU')
    for m in ('ENS', 'ENL'): again(b, r, at('left', 1), m)
    for per in PER: again(b, r, at('right', 1), called(True, per))
    r = b.row(seed, b.set(seed, 1, False), 1, at('right', 1), called(False, 'batch'), 'one teacher for images and labels; no ISU')
    again(b, r, at('right', 1), called(False, 'iter'))

def several(b, seed, n):
    "Both panels at n teachers."
    all, few = b.set(seed, n), f'{n} teachers'
    both = b.row(seed, all, n, at('left', n), 'ENS and ENL', f'images and labels of {few}; ISU')
    b.row(seed, all, 1, at('left', n), 'ENS', f'images of {few}, labels of teacher 1; ISU')
    b.row(seed, b.set(seed, 1), n, at('left', n), 'ENL', f'images of teacher 1, labels of {few}; ISU')
    again(b, both, at('right', n), called(True, 'batch'))
    for isu, per in ARMS[1:]: b.row(seed, b.set(seed, n, isu, per), n, at('right', n), called(isu, per), f'images and labels of {few}; {called(isu, per)}')

def models(o):
    "Figure 3, one distillation seed after another."
    b = Models(o)
    for seed in o.seeds:
        one(b, seed)
        for n in MODELS: several(b, seed, n)

def labels(o):
    "Figure 4: the first label epochs of one store, students for shorter and longer."
    b = Models(o)
    for seed in o.seeds:
        name, d = b.set(seed, D.M)
        store = relabel(d, b.teachers, b.home/'labels'/f'{name}-d3s-{seed}-{len(b.teachers)}', D.EPOCHS,
                        ViewSettings(D.B, scale=.7, flip=False, seed=seed), quiet=True)
        for e, t in ((e, t) for e in LABELLED for t in TRAINED): put(o, trained(b, d, store.path, seed, e, t))

def trained(b, d, path, seed, e, t):
    "A row: t epochs of training on e label epochs."
    p = as_protocol('d3s-cifar10').scaled(kind='reduced', epochs=t, batch=D.B, lr=b.lr)
    how = b.how.replace(f'; {D.EPOCHS} label epochs', '')
    r = students(Relabelled(d, path, e), b.judge, (D.net_fn().arch,), p, b.n, seed=seed, row=f'd3s/figure4/digits/label_epochs={e}/train_epochs={t}', method='d3s',
                 kind='reduced', deviations=f'{how}; {e} label epochs, the first of {D.EPOCHS}; alpha {b.alpha:g} (20); ENS, ENL and ISU; {NOTE}')
    return dataclasses.replace(r, seeds=str(seed), artefact=sha(b.home/f'ens-enl-isu-{seed}'/'distilled.safetensors'))

if __name__ == '__main__':
    parts = dict(models=models, labels=labels)
    o = begin(__doc__, 'd3s', what=dict(choices=parts), seeds=dict(nargs='*', type=int, help='of the distillation (default 0 1 2)'))
    o.seeds = o.seeds or ([0] if o.smoke else [0, 1, 2])
    if o.smoke: D.M, D.K, D.EPOCHS, MODELS, LABELLED, TRAINED = 2, 3, 2, (2,), (1, 2), (1, 3)
    parts[o.what](o)
