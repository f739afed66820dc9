"""Launches and waits of one iteration of each method, counted on the pretended GPU (no second is measured).

    python tests/launches.py             the table
    python tests/launches.py mtt d3      some rows

A launch is an operation that the host starts, a replay of a captured graph counts as one; a wait is a number that the host asks for."""
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch.optim import SGD

sys.path.insert(0, str(Path(__file__).parent.parent))

from pretend import pretend_gpu

from dd_repro.augment import DSA
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded
from dd_repro.d3s import D3S, D3SMethod, Quick
from dd_repro.distilled import Pixels
from dd_repro.experts import expert_protocol, to_vector, train_expert
from dd_repro.gauss import batch_stats, targets
from dd_repro.isu import ISU
from dd_repro.loop import Course, Run
from dd_repro.match import DC, DM, Matching
from dd_repro.method import RunOptions, Task, method_of
from dd_repro.mmd import MMD, ExpertView
from dd_repro.mtt import MTT, mtt_opts
from dd_repro.priors import D3Method
from dd_repro.sets import ImageTensors
from dd_repro.students import as_protocol, train
from dd_repro.teachers import Teachers
from dd_repro.zoo import make_net

SIDE, WIDTH = 32, 4
NET = dict(n_in=3, n_out=10, size=SIDE, width=WIDTH)

class Path_:
    "A stand-in for a buffer: one start and one target, in the memory of the host."
    epochs, path, card, files = 4, 'here', dict(arch=ConvNet(**NET).arch), [None]
    def __init__(self):
        with seeded('launches'): self.start = to_vector(ConvNet(**NET))
        self.target = self.start + .01
        self.size = len(self.start)
    def __len__(self): return 1
    def check(self, *_): pass
    def fits(self, real): pass
    def snapshot(self, expert, epoch, device=None): return (self.target if epoch else self.start).to(device or 'cpu')
    def segment(self, M, T, rng, inclusive=False, device=None): return self.start.to(device or 'cpu'), self.target.to(device or 'cpu')

def real(n=40):
    "Noise of CIFAR's shape, n images a class, far away."
    x = torch.randn(10*n, 3, SIDE, SIDE, generator=rng_for('launches'))
    return ImageTensors(x, torch.arange(10*n) % 10, 10).to('meta')

def net(): return ConvNet(**NET).to('meta')

def counted(gpu, f, warm=1, n=1):
    "Launches and waits of a call, once what is captured is captured; a mean over n calls."
    for _ in range(warm): f()
    before = gpu.launches, gpu.waits, gpu.captures
    for _ in range(n): f()
    return [(b - a)/n for a, b in zip(before, (gpu.launches, gpu.waits, gpu.captures))]

def run_of(d, phases, opts): return Run(d, phases, 100, opts, Course(quiet=True))

def mtt(gpu, N=10):
    d = Pixels.from_real(real(), 1, lr=.01)
    run = run_of(d, MTT(net(), Path_(), N, 1, 1, aug=DSA()), mtt_opts())
    return counted(gpu, run.one, 2, 10)

def d3(gpu, N=10):
    task = Task(real(), net_fn=net, experts=Path_())
    m = D3Method(ppc=1, syn_steps=N, mmd_samples=4, decoder_width=8)
    d = m.start(task)
    run = run_of(d, m.phases(d, task, RunOptions(quiet=True)), m.opts(d))
    return counted(gpu, run.one, 2, 10)

def dsa(gpu, inner=50, ipc=10):
    d = Pixels.from_real(real(), ipc, lr=.01)
    dc = DC(real(), net, Matching(100, inner), DSA(siamese=True))
    return counted(gpu, run_of(d, dc, {'images': partial(SGD, lr=.1, momentum=.5)}).one, 2, 2)

def dm(gpu, ipc=10):
    d = Pixels.from_real(real(), ipc, lr=.01)
    run = run_of(d, DM(real(), net, aug=DSA(siamese=True)), {'images': partial(SGD, lr=1., momentum=.5)})
    return counted(gpu, run.one, 2, 10)

def d3s(gpu, captured=True):
    "The second batch of a synthesis by a ResNet-18, crop and optimiser included."
    data, method = real(4), D3SMethod(batch=10, flip=True)
    with seeded('launches'): teachers = Teachers([make_net('resnet18_bn', width=WIDTH)], data)
    stats = batch_stats(teachers[0], data.x)
    aims, isu = [targets(stats.to('cpu'), device='meta')], ISU()
    isu.fold(1, [stats])
    quick = Quick(teachers, aims, method)
    quick.enabled = captured
    d = Pixels.from_noise(data, 1)
    run = run_of(d, D3S(teachers, aims, method, 1, isu, 0, quick), {'images': partial(torch.optim.Adam, lr=.25)})
    return counted(gpu, run.one, 2, 10)

def expert(gpu, batch=100):
    "One step of an expert: what an epoch more costs, by its steps."
    data = real()
    def path(epochs):
        with seeded('launches'): n = net()
        return counted(gpu, lambda: train_expert(n, data, expert_protocol(epochs, batch=batch)), 0)
    path(2) # what is captured serves the next
    a, b = path(2), path(4)
    return [(y - x)/2/4 for x, y in zip(a, b)]

def students(gpu, together, ipc=1):
    "An epoch of five students, by what ten more epochs cost."
    data = ImageTensors(torch.randn(10*ipc, 3, SIDE, SIDE, generator=rng_for('launches')), torch.arange(10*ipc) % 10, 10).to('meta')
    def epochs(n):
        with seeded('launches'): nets = [net() for _ in range(5)]
        return counted(gpu, lambda: train(nets, data, as_protocol('mtt').scaled(epochs=n), lr=.01, together=together), 0)
    epochs(5)
    a, b = epochs(5), epochs(15)
    return [(y - x)/10 for x, y in zip(a, b)]

WHAT = dict(mtt=('MTT, ipc 1, N = 10, an iteration', mtt), d3=('D3, ppc 1, N = 10, an iteration', d3), dsa=('DSA, ipc 10, an update', dsa), dm=('DM, ipc 10, an iteration', dm),
            d3s_apart=('D3S, layer by layer, an iteration', partial(d3s, captured=False)), d3s=('D3S, an iteration', d3s),
            expert=('an expert, a step', expert), apart=('five students one by one, an epoch', partial(students, together=False)), team=('five students together, an epoch', partial(students, together=True)))

def table(only=()):
    "Lines of the table."
    yield f'{"":38} {"launches":>9} {"waits":>6}'
    for k in only or WHAT:
        name, f = WHAT[k]
        with pretend_gpu() as gpu: launches, waits, _ = f(gpu)
        yield f'{name:38} {launches:9.1f} {waits:6.1f}'

if __name__ == '__main__':
    torch.set_num_threads(1)
    for line in table(sys.argv[1:]): print(line, flush=True)
