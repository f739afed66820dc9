"""Stored labels of digits, pruned, cut to the largest logits and coded in few bits: accuracy beside bytes. Ten random real images a class at 32 px, the teachers of
d3s_digits.py search; whole stores first, then one thing at a time, then all three."""
import d3s_digits as base
from study import *

ROW = 'further/thin/digits'
KEEP, TOPK, BITS = (.5, .25, .1, .025), (5, 3, 2, 1), (8, 4, 2, 1)
BOTH = ((.25, 3, 4), (.1, 3, 4), (.1, 2, 2))

def arms():
    "What is left of the labels, the whole store first."
    yield Thin()
    for k in KEEP: yield Thin(keep=k)
    for k in TOPK: yield Thin(topk=k)
    for b in BITS: yield Thin(bits=b)
    for keep, k, b in BOTH: yield Thin(keep=keep, topk=k, bits=b)

def called(how):
    "A name: whole, keep0.1, top3-4bit, keep0.1-top3-4bit."
    return '-'.join(filter(None, [f'keep{how.keep:g}'*(how.keep < 1), how.name])) or 'whole'

def judged(b, d, store, how, seed, lr):
    "Students on what is left, and its bytes."
    name, p = called(how), as_protocol('d3s-cifar10').scaled(kind='reduced', epochs=base.EPOCHS, batch=base.B, lr=lr)
    few = thin_labels(store, b.home/'thin'/f'{name}-{seed}', how)
    said = dict(row=f'{ROW}/{name}', method=name, kind='reduced', deviations=f'{b.how}; random real images, {base.IPC} of each class; labels: {name}')
    r = students(Relabelled(d, few), b.judge, (d.arch,), p, b.n, seed=seed, **said)
    r = dataclasses.replace(r, seeds=str(seed))
    cost = few.costs(d)
    more = lambda metric, v: dataclasses.replace(r, metric=metric, unit='B', n=1, mean=float(v), std=0., last=float('nan'))
    put(b.o, [r, more('label_bytes', cost['label_bytes']), more('store_bytes', few.nbytes)])

def run(o):
    "Every arm, one seed after another."
    b, lr = base.Bench(o, 'arms'), base.chosen(o)[0]
    for seed in o.seeds:
        d = b.random(seed)
        store = relabel(d, b.teachers, b.home/'labels'/f'whole-{seed}', base.EPOCHS, ViewSettings(base.B, scale=.7, flip=False, seed=seed), quiet=True)
        for how in arms(): judged(b, d, store, how, seed, lr)

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='default 0 1'))
    o.seeds = o.seeds or [0] if o.smoke else o.seeds or [0, 1]
    if o.smoke: base.M, base.EPOCHS = 2, 2
    if o.smoke: KEEP, TOPK, BITS, BOTH = KEEP[:1], TOPK[:1], BITS[:1], BOTH[:1]
    run(o)
