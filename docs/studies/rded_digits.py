"""RDED on digits, 10 images a class, beside random real images and D3S: the teachers, bytes and students of d3s_digits.py arms, labels of all teachers."""
from study import *
import d3s_digits
from d3s_digits import Bench, chosen, IPC

ROW = 'further/rded/digits'

def crops(b, factor, seed):
    "A set of RDED, made by the first teacher alone, as in the paper."
    task = Task(b.real, seed=seed, teachers=b.teachers.some([0]))
    out = b.home/f'rded{factor}-{seed}'
    return learn(task, RDEDMethod(ipc=IPC, factor=factor, candidates=300), out, RunOptions(quiet=True))[0]

def run(o):
    "Every arm, one seed after another."
    (lr, best), b = chosen(o), Bench(o, 'final')
    note = f'lr {lr:g} and alpha as d3s_digits.py search chose them; labels of all teachers'
    A = best['kl-multi']
    for seed in o.seeds:
        arms = {'random': (b.random(seed), 'random', 'random real images'),
                'one-crop': (crops(b, 1, seed), 'rded1', 'RDED, factor 1, 5 crops of each image of a class'),
                'mosaic': (crops(b, 2, seed), 'rded2', 'RDED, factor 2, 5 crops of each image of a class'),
                'd3s': (b.images('ens-enl-isu-level', seed, A, ens=True, isu=True, level=True), 'ens-enl-isu-level', f'D3S with ENS, ENL and ISU, alpha {A:g} over b')}
        for arm, (d, name, what) in arms.items():
            b.judged(d, name, seed, True, lr, f'{ROW}/{arm}', 'rded' if name.startswith('rded') else arm, f'{what}; {note}')

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='default 0 1 2'))
    o.seeds = o.seeds or [0] if o.smoke else o.seeds or [0, 1, 2]
    if o.smoke: d3s_digits.M, d3s_digits.K, d3s_digits.EPOCHS = 2, 3, 2
    run(o)
