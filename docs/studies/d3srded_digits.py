"""D3S that begins at RDED's mosaics, on digits, 10 images a class; its parents and random real images are the rows of rded_digits.py. Teachers, bytes and students of d3s_digits.py arms, labels of all teachers."""
from study import *
import d3s_digits
from d3s_digits import Bench, chosen, IPC

ROW = 'further/d3s-rded/digits'

def images(b, seed, alpha, lr):
    "The set of one rate."
    m = D3SRDEDMethod(ipc=IPC, batch=d3s_digits.B, iterations=d3s_digits.K, lr_img=lr, alpha=alpha, level=True, scale=.7, flip=False)
    task = Task(b.real, seed=seed, teachers=b.teachers, folder=b.home/'stats')
    return learn(task, m, b.home/f'd3srded{lr:g}-{seed}', RunOptions(quiet=True))[0]

def run(o):
    "Two rates, one seed after another."
    (lr, best), b = chosen(o), Bench(o, 'final')
    A = best['kl-multi']
    for seed in o.seeds:
        for name, step in (('slow', .025), ('fast', .25)):
            what = f'D3S with ENS, ENL and ISU, alpha {A:g} over b, from mosaics of 2 x 2 crops, lr_img {step:g} (0.25)'
            b.judged(images(b, seed, A, step), f'd3srded{step:g}', seed, True, lr, f'{ROW}/{name}', 'd3s-rded', f'{what}; lr {lr:g} and alpha as d3s_digits.py search chose them; labels of all teachers')

if __name__ == '__main__':
    o = begin(__doc__, 'further', seeds=dict(nargs='*', type=int, help='default 0 1 2'))
    o.seeds = o.seeds or [0] if o.smoke else o.seeds or [0, 1, 2]
    if o.smoke: d3s_digits.M, d3s_digits.K, d3s_digits.EPOCHS = 2, 3, 2
    run(o)
