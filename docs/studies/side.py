"""Every method under one protocol, accuracy beside bytes, by the functions of notebook 50. digits: the sets are made; cifar10: the sets that are there, as
artefacts of the checkout and as runs of match_cifar.py, with soft labels by the teachers of d3s_cifar.py."""
from study import *
from dd_repro.side import EXPERTS8, PROTOCOL8, digits_sets, net_fn8, side_cifar, side_rows

def digits(o):
    "Sets of digits at 8 px, one distillation seed."
    real, test = load('digits')
    experts = train_experts(net_fn8, real, o.home/'buffers'/'digits-8px-side', 2 if o.smoke else 20, EXPERTS8, quiet=True)
    p = PROTOCOL8.scaled(epochs=2) if o.smoke else PROTOCOL8
    for name, made in digits_sets(real, experts, o.home/'runs'/'side-digits', .01 if o.smoke else 1.).items():
        put(o, side_rows('digits', name, made, test, p, 1 if o.smoke else 5, deviations='digits at 8 px; one distillation seed'))

def theirs(o, real):
    "Sets of one image a class that others published: name -> set, the first of those that a file holds."
    white = load(find_source('cifar10', download=False), zca=True)[0]
    ones = {n: p for n, p in PUBLISHED.items() if p.ipc == 1}
    return {f'{p.method}, ipc 1 (published)': published_set(n, o.published, white if p.zca else real) for n, p in ones.items()}

def cifar10(o):
    "Sets of CIFAR-10 that have no row yet."
    if o.smoke: return side_cifar(*toy(), o.csv, results_dir().parent/'artefacts', epochs=1, n_eval=1)
    real, test = load(find_source('cifar10', download=False))
    found = [load_teacher(f) for f in sorted((o.home/'teachers'/'cifar10-r18w16-e3').glob('teacher_*.safetensors'))] + [load_resnet20()]
    teachers = Teachers([n for n, *_ in found], real, [m for _, m, *_ in found], [f'teacher {i}' for i in range(len(found))])
    side_cifar(real, test, o.csv, results_dir().parent/'artefacts', o.home/'match-cifar10', teachers, theirs(o, real) if o.published else None)

if __name__ == '__main__':
    parts = dict(digits=digits, cifar10=cifar10)
    o = begin(__doc__, 'side', what=dict(choices=parts), **{'--published': dict(type=Path, metavar='FOLDER', help='sets of one image a class from here, too (cifar10)')})
    parts[o.what](o)
