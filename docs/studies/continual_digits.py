"""Class-incremental learning on digits by memory alone (GDumb): one image a class in 8 bits, chosen at random, by herding, or distilled by DM (and, with two classes a step, DSA) when its class comes; five steps
of two classes and ten of one. Beside them the same distilled images in 32 bits, and random images of that many bytes (four a class)."""
from functools import partial
from study import *

AUG, EPOCHS, N, ITS, ROW = 'crop_scale_rotate', 300, 3, dict(dm=1000, dsa=400), 'uses/continual/digits'
COMMON = 'digits at 8 px (DM: CIFAR-100); ConvNet-2 width 32 (ConvNet-3 width 128); one image a class (DM: 20)'
WATCHED = 20 # epochs of the network that herding looks through
net = lambda k: ConvNet(1, k, 8, 32, 2)
arch = lambda k: net(k).arch


def learned(o, m, lr, seed, steps, part):
    "A set of the classes of one step, by DM or DSA."
    k = part.n_classes
    method = method_of(m, ipc=1, iterations=ITS[m], lr_img=lr, batch_real=64, aug=AUG, **({} if m == 'dm' else dict(outer=1, inner=1)))
    tag = f'{m}-{steps}-{seed}-{"".join(part.classes)}'
    return learn(Task(part, net_fn=partial(net, k), seed=seed), method, o.home/'continual'/tag, RunOptions(every=1000, quiet=True))[0]

def arms(o, seed, steps):
    "Name -> (how a step's images are chosen, bits, what is said)."
    kept = {}
    def once(m, lr):
        def choose(part):
            key = m, tuple(part.classes)
            if key not in kept: kept[key] = learned(o, m, lr, seed, steps, part)
            return kept[key]
        return choose
    herd = lambda part: coreset(part, 1, 'herding', partial(net, part.n_classes), WATCHED, seed)
    some = lambda n, part: Pixels.from_real(part, n, seed)
    said = 'lr_img {} as chosen for all ten classes; {} iterations'
    dm, dsa = once('dm', 10.), once('dsa', 1.)
    made = {'random': (partial(some, 1), 8, 'random images'), 'herding': (herd, 8, f'herding by a network of {WATCHED} epochs'),
            'dm': (dm, 8, 'DM, ' + said.format(10, ITS['dm'])), 'dsa': (dsa, 8, 'DSA, ' + said.format(1, ITS['dsa'])),
            'dm-32': (dm, None, 'DM in 32 bits, ' + said.format(10, ITS['dm'])), 'random-4': (partial(some, 4), 8, 'four random images a class, the bytes of one in 32 bits')}
    return {name: arm for name, arm in made.items() if name != 'dsa' or steps < 10} # a class alone has no gradient to match

def run(o):
    "Every arm, one seed after another."
    real, test = load('digits')
    p = as_protocol('dsa').scaled(epochs=EPOCHS, aug=AUG)
    for seed in o.seeds:
        for k in (5, 10):
            steps = class_steps(10, k, seed)
            for name, (choose, bits, said) in arms(o, seed, k).items():
                rows = [f'{ROW}/steps={k}/{name}/classes={(i + 1)*10//k}' for i in range(k)]
                if {(r, str(seed)) for r in rows} <= {(r.row, r.seeds) for r in read_rows(o.csv)}: continue
                t = time.process_time()
                made = replay(real, test, steps, choose, arch, bits, protocol=p, n_eval=1 if o.smoke else N, seed=seed)
                each = (time.process_time() - t)/k
                put(o, [dataclasses.replace(r, row=row, method=name.split('-')[0], protocol='reduced', seeds=str(seed), seconds=each, deviations=f'{r.deviations}; {COMMON}; {said}') for row, r in zip(rows, made)])

if __name__ == '__main__':
    o = begin(__doc__, 'uses', seeds=dict(nargs='*', type=int, help='of class order, choice and students (default 0 1 2)'))
    o.seeds = o.seeds or [0] if o.smoke else o.seeds or [0, 1, 2]
    if o.smoke: ITS, EPOCHS, WATCHED = dict(dm=2, dsa=2), 2, 2
    run(o)
