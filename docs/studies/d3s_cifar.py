"""D3S on CIFAR-10, 10 images a class, reduced, beside SRe2L and random real images under the same labels. teachers: two ResNet-18; arms: one batch size
and students of 150 epochs; longer: students of 300 epochs in batches of 25."""
from study import *

WIDTH, EPOCHS, N, IPC = 16, 3, 3, 10
ARMS, LONGER = dict(K=150, B=34, E=150, bs=50), dict(K=300, B=50, E=300, bs=25)


def images(o): return toy() if o.smoke else load(find_source('cifar10', download=False))

def net_fn(): return make_net('resnet18_bn', width=WIDTH).to(memory_format=torch.channels_last)

def teachers(o):
    "Two ResNet-18 of a quarter of the width, three epochs each."
    real, test = images(o)
    p = TEACHERS['cifar10'].scaled(epochs=EPOCHS, kind='reduced')
    say = lambda i, net, s: print(f'teacher {i}: {accuracy(net, test):.1f} %, {s:.0f} s', flush=True)
    return train_teachers(net_fn, real, o.home/'teachers'/'cifar10-r18w16-e3', 2, p, quiet=True, on_teacher=say)

def given(o, real):
    "The two of `teachers` and the ResNet-20 that is given: (Teachers, norms); a smoke run has no third."
    if o.smoke: teachers(o)
    found = [load_teacher(f) for f in sorted((o.home/'teachers'/'cifar10-r18w16-e3').glob('teacher_*.safetensors'))]
    names = [f'ResNet-18 width 16, 3 epochs, {c["seed"]}/{c["teacher"]}' for *_, c in found]
    more = [] if o.smoke else [(*load_resnet20()[:2], 'ResNet-20 (given)')]
    nets, norms = [n for n, *_ in found] + [m[0] for m in more], [m for _, m, *_ in found] + [m[1] for m in more]
    return Teachers(nets, real, norms, names + [m[2] for m in more]), norms


class Bench:
    "Teachers, statistics of every fifth training image, and students."
    def __init__(self, o, s):
        self.o, self.s, self.home = o, s, o.home/'d3s-cifar10'
        self.real, self.test = images(o)
        self.teachers, norms = given(o, self.real)
        self.small = self.real if o.smoke else self.real.subset(torch.arange(0, 50000, 5))
        self.stats = teacher_stats(self.teachers, self.small, self.home/'stats', quiet=True)
        seen = self.test.subset(torch.arange(min(2000, len(self.test))))
        accs = [accuracy(n, seen.renorm(m), 250) for n, m in zip(self.teachers, norms)]
        self.who = ', '.join(f'{n} ({a:.1f} % of 2,000 test images)' for n, a in zip(self.teachers.names, accs))

    def dev(self, made=True):
        "What differs from the paper; without the synthesis for sets that were made otherwise."
        s, how = self.s, f'K {self.s["K"]} (1000); batch {self.s["B"]} (200); ' if made else ''
        return (f'students ResNet-18 width 16 (64); {len(self.teachers)} teachers (5): {self.who}; {how}'
                f'statistics of {len(self.small)} training images (50000); {s["E"]} label epochs')

    def images(self, name, t=slice(None), **kw):
        "Synthesise a set with some of the teachers: (set, its file)."
        kw, out = dict(batch=self.s['B'], iterations=self.s['K'], lr_img=.25) | kw | (dict(iterations=2) if self.o.smoke else {}), self.home/name
        some = self.teachers if t == slice(None) else self.teachers.some(list(range(len(self.teachers)))[t])
        task = Task(self.small, teachers=some, folder=self.home/'stats')
        return learn(task, D3SMethod(ipc=IPC, **kw), out, RunOptions(quiet=True))[0], out/'distilled.safetensors'

    def row(self, name, method, d, file='', note='', made=True):
        "Store labels, train students, record."
        E, bs = self.s['E'], self.s['bs']
        store = relabel(d, self.teachers, self.home/f'labels{E}'/name, E, ViewSettings(bs), quiet=True)
        p = as_protocol('d3s-cifar10').scaled(kind='reduced', epochs=E, batch=bs, lr=4e-3)
        arch = dict(name='resnet18_bn', n_in=3, n_out=10, size=32, width=WIDTH)
        dev = '; '.join(filter(None, (self.dev(made), note)))
        r, = evaluate(Relabelled(d, store), self.test, (arch,), p, N, row='d3s/table6/cifar10/ipc10', method=method, kind='reduced', deviations=dev)
        r.artefact = sha(file)
        put(self.o, r)


RANDOM = 'random real images of seed 0 under the same labellers'

def sre2l(b):
    "SRe2L's images, of one teacher."
    kw = {k: v for k, v in plain_settings('sre2l', dataset='cifar10').items() if k not in ('iterations', 'batch', 'lr_img')}
    b.row('sre2l', 'sre2l', *b.images('sre2l', slice(1), **kw), 'images of one teacher by the SRe2L settings (jitter 4, no crop), labels of all teachers')

def arms(o):
    "D3S with and without running statistics, with one teacher, and longer; random real images; SRe2L."
    b = Bench(o, ARMS)
    b.row('d3s', 'd3s', *b.images('d3s'))
    b.row('random', 'random', Pixels.from_real(b.real, IPC, 0, aug=''), note=RANDOM)
    sre2l(b)
    b.row('d3s-no-isu', 'd3s', *b.images('d3s-no-isu', isu=False), 'no ISU')
    one = b.images('d3s-one', slice(-1, None), isu=False, batch=100, ens='', iterations=200)
    b.row('d3s-one', 'd3s', *one, 'no ISU; images of ResNet-20 alone, one batch of 100, K 200')
    k600 = b.images('d3s-k600', isu=False, batch=100, ens='iter', iterations=600)
    b.row('d3s-k600', 'd3s', *k600, 'no ISU (there is one batch of 100); teachers in turn by iteration; K 600')

def longer(o):
    "Students of 1,200 steps on random real images, on the images of K 600, and on two batches of 50 under ISU with alpha / b."
    b = Bench(o, LONGER)
    b.row('random', 'random', Pixels.from_real(b.real, IPC, 0, aug=''), note=RANDOM, made=False)
    if not o.smoke:
        file = results_dir().parent/'artefacts'/'cifar10-d3s-ipc10-k600.safetensors'
        b.row('d3s-k600', 'd3s', Distilled.load(file), file, 'K 600 (1000); one batch of 100 (200), so no ISU; teachers in turn by iteration', made=False)
    b.row('d3s-level', 'd3s', *b.images('d3s-level', level=True), 'ENS, ISU with alpha / b')

if __name__ == '__main__':
    parts = dict(teachers=teachers, arms=arms, longer=longer)
    o = begin(__doc__, 'd3s', what=dict(choices=parts))
    if o.smoke: WIDTH, EPOCHS, N, IPC = 4, 1, 1, 10; ARMS |= dict(K=2, E=1); LONGER |= dict(K=2, E=1)
    parts[o.what](o)
