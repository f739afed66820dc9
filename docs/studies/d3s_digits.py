"""D3S on digits, 10 images a class, a small ResNet. search: the students' rate, and alpha for each loss, on held-out images; arms: losses, ENS, ENL and ISU
beside random real images, at the settings that the search recorded."""
import dataclasses
from functools import partial
from study import *

ALPHAS, RATES, KINDS = (.2, 2., 20., 200.), (1e-3, 2e-3, 5e-3, 1e-2), ('kl-multi', 'bn-diag', 'kl-diag', 'bn-multi')
M, K, EPOCHS, IPC, B, STUDY = 5, 150, 40, 10, 20, 'd3s/study/digits'
net_fn = partial(make_net, 'resnet18_bn', 1, 10, 32, width=16, layers=(1, 1, 1), stem='imagenet')


class Bench:
    "Data, teachers, their statistics, and the two things that are done with them."
    def __init__(self, o, part):
        self.o, self.home, self.n = o, o.home/f'd3s-digits3-{part}', 1 if o.smoke else 3 if part == 'search' else 5
        self.metric = 'val_acc' if part == 'search' else 'test_acc'
        self.real, self.judge = load('digits', size=32, val=.2) if part == 'search' else load('digits', size=32)
        p = TeacherProtocol('teacher-digits', epochs=6, batch=32, lr=.05, schedule='onecycle')
        self.teachers = train_teachers(net_fn, self.real, self.home/'teachers', M, p, quiet=True)
        self.stats = teacher_stats(self.teachers, self.real, self.home/'stats', quiet=True)
        accs = self.teachers.accuracies(self.judge)
        self.how = (f'digits at 32 px; ResNet of 3 blocks, width 16, 7x7 stem; {M} teachers of 6 epochs ({min(accs):.1f} to {max(accs):.1f} %); '
                    f'K {K}; lr_img 0.25; batch {B}; crops from 0.7 of the area (0.08), no flip; {EPOCHS} label epochs')

    def random(self, seed): return Pixels.from_real(self.real, IPC, seed, arch=net_fn().arch, aug='')

    def some(self, n): return self.teachers if n is True else self.teachers.some(range(n or 1))

    def images(self, name, seed, alpha, kind='kl-multi', ens=False, isu=False, per='batch', **kw):
        "Synthesise a set, with one teacher, the first few (`ens` is a number) or all in turn."
        s, t = dict(ipc=IPC, batch=B, iterations=K, lr_img=.25, kind=kind, alpha=alpha, ens=per if ens else '', isu=isu, scale=.7, flip=False) | kw, self.some(ens)
        task = Task(self.real, seed=seed, teachers=t, folder=self.home/'stats')
        return learn(task, D3SMethod(**s), self.home/f'{name}-{seed}', RunOptions(quiet=True))[0]

    def judged(self, d, name, seed, enl, lr, row, method, note):
        "Store the labels of one teacher, the first few or all, train students on them, record the row."
        t, p = self.some(enl), as_protocol('d3s-cifar10').scaled(kind='reduced', epochs=EPOCHS, batch=B, lr=lr)
        out = self.home/'labels'/f'{name}-{method}-{seed}-{len(t)}'.replace(', ', '-').replace(' ', '-')
        store = relabel(d, t, out, EPOCHS, ViewSettings(B, scale=.7, flip=False, seed=seed), quiet=True)
        r = students(Relabelled(d, store), self.judge, (net_fn().arch,), p, self.n, seed=seed, row=row, method=method, kind='reduced',
                     deviations=f'{self.how}; {note}')
        r = dataclasses.replace(r, metric=self.metric, seeds=str(seed), artefact=sha(self.home/f'{name}-{seed}'/'distilled.safetensors'))
        return put(self.o, r)[0]


def search(o):
    "Four rates, then four values of alpha for each loss."
    b, end = Bench(o, 'search'), 'judged on a held-out fifth of train'
    rand = b.random(0)
    acc = {lr: b.judged(rand, 'random', 0, False, lr, f'{STUDY}/rate{lr:g}', 'random', f'random real images; {end}').mean for lr in RATES}
    lr = max(acc, key=acc.get)
    for kind in KINDS:
        for a in ALPHAS:
            name = f'{kind}-{a:g}'
            b.judged(b.images(name, 0, a, kind), name, 0, False, lr, f'{STUDY}/{kind}/alpha{a:g}', 'd3s', f'alpha {a:g} (20); one teacher, no ISU; {end}')

def chosen(o):
    "(rate, {loss: alpha}): the best of the search, as it was recorded."
    if o.smoke: return 5e-3, dict.fromkeys(KINDS, 2.)
    acc = {r.row: r.mean for f in dict.fromkeys((results_dir()/'d3s.csv', o.csv)) for r in read_rows(f)}
    if missing := [f'{STUDY}/rate{v:g}' for v in RATES if f'{STUDY}/rate{v:g}' not in acc]: raise ValueError(f'{missing[0]}: no such row; run the search first')
    return max(RATES, key=lambda v: acc[f'{STUDY}/rate{v:g}']), {k: max(ALPHAS, key=lambda a: acc[f'{STUDY}/{k}/alpha{a:g}']) for k in KINDS}

def plans(best):
    "Name -> (how images are made, all teachers label, what is said): sets with the same recipe are made once."
    A, one = best['kl-multi'], 'one teacher for images and labels'
    t, over = f'alpha {A:g} (20)', f'alpha {A:g} (20), divided by b'
    both = dict(alpha=A, ens=True, isu=True)
    losses = {f'loss-{k}': (dict(alpha=best[k], kind=k), False, f'alpha {best[k]:g} (20); {one}; no ISU') for k in KINDS}
    return losses | {'enl': ('loss-kl-multi', True, f'{t}; images of one teacher, no ISU; labels of all'),
        'ens': (dict(alpha=A, ens=True), False, f'{t}; images of all teachers in turn, no ISU; labels of teacher 1'),
        'isu': (dict(alpha=A, isu=True), False, f'{t}; {one}; ISU'), 'isu-level': (dict(alpha=A, isu=True, level=True), False, f'{over}; {one}; ISU'),
        'ens-enl-isu': (both, True, f'{t}; ENS, ENL and ISU'), 'ens-enl-isu-level': (dict(both, level=True), True, f'{over}; ENS, ENL and ISU')}

def arms(o):
    "Every arm, one distillation seed after another."
    (lr, best), b = chosen(o), Bench(o, 'final')
    note, made = 'rate and alpha chosen on a held-out fifth of train, one search of 4 for each loss', {}
    for seed in o.seeds:
        for name, all, what in (('random-one-labeller', False, 'labels of teacher 1'), ('random-all-labellers', True, f'labels of all {M} teachers')):
            b.judged(b.random(seed), name, seed, all, lr, f'd3s/digits/{name}', 'random', f'random real images; {what}; {note}')
        for name, (recipe, all, what) in plans(best).items():
            d = made[name] = made[recipe] if isinstance(recipe, str) else b.images(name, seed, **recipe)
            b.judged(d, name, seed, all, lr, f'd3s/digits/{name}', 'd3s', f'{what}; {note}')

if __name__ == '__main__':
    parts = dict(search=search, arms=arms)
    o = begin(__doc__, 'd3s', what=dict(choices=parts), seeds=dict(nargs='*', type=int, help='of `arms` (default 0 1 2)'))
    o.seeds = o.seeds or [0] if o.smoke else o.seeds or [0, 1, 2]
    if o.smoke: M, K, EPOCHS, ALPHAS, RATES = 2, 3, 2, (2.,), (5e-3,)
    parts[o.what](o)
