"""Class-incremental learning on digits by memory alone (GDumb): one image a class in 8 bits, chosen at random, by herding, or distilled by DM (and, with two classes a step, DSA) when its class comes; five steps
of two classes and ten of one. Beside them DM's images in 32 bits, and random and herded images of that
many bytes (four a class); and DM's in 8 bits between their own smallest and largest value."""
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
    "Name -> (how a step's images are chosen, how they are stored, what is said)."
    kept = {}
    def once(m, lr):
        def choose(part):
            key = m, tuple(part.classes)
            if key not in kept: kept[key] = learned(o, m, lr, seed, steps, part)
            return kept[key]
        return choose
    herd = lambda n, part: coreset(part, n, 'herding', partial(net, part.n_classes), WATCHED, seed)
    own, full = dict(span=None), dict(bits=None)
    some = lambda n, part: Pixels.from_real(part, n, seed)
    said = 'lr_img {} as chosen for all ten classes; {} iterations'
    dm, dsa = once('dm', 10.), once('dsa', 1.)
    made = {'random': (partial(some, 1), {}, 'random images'), 'herding': (partial(herd, 1), {}, f'herding by a network of {WATCHED} epochs'),
            'dm': (dm, {}, 'DM, ' + said.format(10, ITS['dm'])), 'dsa': (dsa, {}, 'DSA, ' + said.format(1, ITS['dsa'])),
            'dm-32': (dm, full, 'DM in 32 bits, ' + said.format(10, ITS['dm'])), 'random-4': (partial(some, 4), {}, 'four random images a class, the bytes of one in 32 bits'),
            'herding-4': (partial(herd, 4), {}, f'four images a class, herding by a network of {WATCHED} epochs'),
            'dm-span': (dm, own, 'DM in 8 bits between its own smallest and largest value, ' + said.format(10, ITS['dm']))}
    return {name: arm for name, arm in made.items() if name != 'dsa' or steps < 10} # a class alone has no gradient to match

def outside(o, real, steps, choose, row, seed, said):
    "The share of values that no picture could hold, as a row."
    t = time.process_time()
    v = torch.cat([real.norm.inverse(choose(only(real, c)).images.detach()).flatten() for c in steps])
    share = ((v < 0) | (v > 1)).double().mean().item()
    put(o, Row(row, 'reduced', f'{COMMON}; {said}', 'dm', 'convnet', 'outside', '1', 1, str(seed), mean=share, seconds=time.process_time() - t, device=device_name('cpu'),
               settings=settings_hash([said, seed, steps]), content=real.key))

def run(o):
    "Every arm, one seed after another."
    real, test = load('digits')
    p = as_protocol('dsa').scaled(epochs=EPOCHS, aug=AUG)
    for seed in o.seeds:
        for k in (5, 10):
            steps = class_steps(10, k, seed)
            for name, (choose, stored, said) in arms(o, seed, k).items():
                rows = [f'{ROW}/steps={k}/{name}/classes={(i + 1)*10//k}' for i in range(k)]
                if {(r, str(seed)) for r in rows} <= {(r.row, r.seeds) for r in read_rows(o.csv)}: continue
                if name == 'dm-span': outside(o, real, steps, choose, f'{ROW}/steps={k}/dm/outside', seed, said)
                t = time.process_time()
                made = replay(real, test, steps, choose, arch, stored, protocol=p, n_eval=1 if o.smoke else N, seed=seed)
                each = (time.process_time() - t)/k
                put(o, [dataclasses.replace(r, row=row, method=name.split('-')[0], protocol='reduced', seeds=str(seed), seconds=each, deviations=f'{r.deviations}; {COMMON}; {said}') for row, r in zip(rows, made)])

if __name__ == '__main__':
    o = begin(__doc__, 'uses', seeds=dict(nargs='*', type=int, help='of class order, choice and students (default 0 1 2)'))
    o.seeds = o.seeds or [0] if o.smoke else o.seeds or [0, 1, 2]
    if o.smoke: ITS, EPOCHS, WATCHED = dict(dm=2, dsa=2), 2, 2
    run(o)
