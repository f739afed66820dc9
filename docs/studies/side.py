"""Every method under one protocol, accuracy beside bytes. digits: the sets are made as notebook 50 makes them; cifar10: the sets that are there, as artefacts
of the checkout and as runs of match_cifar.py, with soft labels by the teachers of d3s_cifar.py."""
import json, os
from study import *
from dd_repro.side import opinions, side_cifar, side_rows

NB = Path(__file__).resolve().parent.parent.parent/'nbs'/'50_side_by_side.ipynb'


def notebook():
    "What the cells of the notebook define: its digits sets and its protocol."
    cells, names = [''.join(c['source']) for c in json.loads(NB.read_text())['cells'] if c['cell_type'] == 'code'], dict(opinions=opinions)
    wanted = ('from functools import partial', 'AUG, NET =', 'def last_nets', 'def digits_sets', 'PROTOCOL =')
    for c in cells:
        if c.startswith(wanted): exec(compile(c, NB.name, 'exec'), names)
    return names

def digits(o):
    "Sets of digits at 8 px, one distillation seed."
    nb, (real, test) = notebook(), load('digits')
    experts = train_experts(nb['net_fn'], real, o.home/'buffers'/'digits-8px-side', n=2 if o.smoke else 20, epochs=4, lr=.05, batch=64, aug='', quiet=True)
    p = nb['PROTOCOL'].scaled(epochs=2) if o.smoke else nb['PROTOCOL']
    for name, (d, w) in nb['digits_sets'](real, experts, o.home/'runs'/'side-digits', .01 if o.smoke else 1.).items():
        put(o, side_rows('digits', name, d, w, test, p, 1 if o.smoke else 5, deviations='digits at 8 px; one distillation seed'))

def cifar10(o):
    "Sets of CIFAR-10 that have no row yet."
    if o.smoke: return side_cifar(*toy(), o.csv, results_dir().parent/'artefacts', epochs=1, n_eval=1)
    real, test = load('cifar10', download=False)
    found = [load_teacher(f) for f in sorted((o.home/'teachers'/'cifar10-r18w16-e3').glob('teacher_*.safetensors'))] + [load_resnet20()]
    teachers = Teachers([n for n, *_ in found], real, [m for _, m, *_ in found], [f'teacher {i}' for i in range(len(found))])
    side_cifar(real, test, o.csv, results_dir().parent/'artefacts', o.home/'match-cifar10', teachers)

if __name__ == '__main__':
    parts = dict(digits=digits, cifar10=cifar10)
    o = begin(__doc__, 'side', what=dict(choices=parts))
    parts[o.what](o)
