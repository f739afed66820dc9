"""An iteration of D3S as one graph, on a pretended GPU: equal to layers one by one in double precision, for every kind and every way of taking turns; what cannot be captured is called, and says so once."""
import gc
from functools import partial

import pytest, torch
from pretend import PretendGPU, pretend_gpu

from dd_repro import steps
from dd_repro.core import rng_for, seeded
from dd_repro.d3s import D3S, CDAMethod, D3SMethod, Quick, SRe2LMethod
from dd_repro.distilled import Pixels
from dd_repro.files import load_tensors
from dd_repro.gauss import (KINDS, FeatureMaps, FeatureStats, batch_stats, bn_targets, dataset_stats, feature_loss, stacked_loss, stacked_moments, stacked_targets,
                            targets)
from dd_repro.isu import ISU
from dd_repro.method import RunOptions, Task, learn, method_of
from dd_repro.norm import Normalize
from dd_repro.sets import ImageTensors
from dd_repro.teachers import Teachers
from dd_repro.zoo import make_net

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op')
D = torch.double
REAL = ImageTensors(torch.randn(24, 1, 32, 32, generator=rng_for('quick'), dtype=D), torch.arange(24) % 4, 4, norm=Normalize(.5, .5))

def nets(n=2, name='resnet18_bn', **kw):
    with seeded('quick'): made = [make_net(name, 1, 4, 32, **(dict(width=2, layers=(1, 1)) if name == 'resnet18_bn' else {}) | kw).double() for _ in range(n)]
    with torch.no_grad():
        for t in made: t.train()(REAL.x)
    return made

def objective(device, method, b=1, made=None, between=False):
    "One iteration's objective, its images, and the graphs behind it."
    real = REAL.to(device)
    t = Teachers([n.float() for n in (made or nets)()], REAL.map(lambda x: x.float())) # it looks at images in single precision
    t.nets = [n.double().to(device) for n in t]
    T = [bn_targets(n) if method.layers == 'bn' else targets(dataset_stats(n, [(REAL.x, None)]), 1e-3, device, D) for n in t]
    if method.layers == 'bn':
        for aims in T:
            for a in aims.values(): a.mean, a.var = a.mean.double(), a.var.double()
    isu = ISU(len(t), between) if method.isu else None
    for i in range(b if isu else 0): isu.fold(i + 1, [batch_stats(n, real.x[6*i:6*i + 6], cov=method.kind.endswith('multi')) for n in t])
    quick = Quick(t, T, method)
    d = Pixels(torch.randn(4, 1, 32, 32, generator=rng_for('x'), dtype=D), torch.arange(4), 4).to(device)
    return D3S(t, T, method, b, isu, 0, quick), d, quick

def walked(device, method, n=3, **kw):
    "Losses and gradients of some iterations."
    o, d, quick = objective(device, method, **kw)
    out = []
    for _ in range(n):
        d.images.grad = None
        loss = o.backward(d)
        o.after(d)
        out += [loss.cpu(), d.images.grad.cpu()]
    return out, quick

def alike(method, captures, **kw):
    want, _ = walked('cpu', method, **kw)
    with pretend_gpu() as gpu: got, quick = walked('meta', method, **kw)
    for a, b in zip(got, want): assert (a - b).norm() <= 1e-9*b.norm()
    assert gpu.captures == captures
    return quick

SMALL = dict(ipc=1, batch=4, iterations=3, flip=True)

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('b', [0, 2])
def test_all_kinds(kind, b): alike(D3SMethod(kind=kind, **SMALL), 1, b=b)

@pytest.mark.parametrize('how', [dict(ens='iter'), dict(ens=''), dict(level=True), dict(isu=False), dict(first=3.), dict(weight=.5, alpha=2.), dict(jitter=3, crop='none'), dict(alpha=0.)])
def test_settings(how): alike(D3SMethod(**SMALL | how), 1)

@pytest.mark.parametrize('cls', [SRe2LMethod, CDAMethod])
def test_batch_norm_statistics(cls): alike(cls(**SMALL), 1)

def test_teachers_of_one_kind_share_a_graph():
    "Teachers in turn, over several batches."
    m = D3SMethod(**SMALL)
    def run(device):
        o, d, quick = objective(device, m, 0)
        out = []
        for b in range(4):
            o = D3S(o.teachers, o.targets, m, b, o.isu, 0, quick)
            d.images.grad = None
            out += [o.backward(d).cpu(), d.images.grad.cpu()]
            with torch.no_grad(): o.isu.fold(b + 1, [batch_stats(t, d.images.detach()) for t in o.teachers])
        return out
    want = run('cpu')
    with pretend_gpu() as gpu: got = run('meta')
    for a, b in zip(got, want): assert (a - b).norm() <= 1e-9*b.norm()
    assert gpu.captures == 1

def test_teachers_of_several_kinds():
    def made(): return [*nets(1), *nets(1, width=4), *nets(1, width=3)]
    quick = alike(D3SMethod(**SMALL | dict(ens='iter')), 3, n=9, made=made)
    assert len(quick.stages) == 3 == len(quick.kept)

def test_a_batch_of_another_size():
    m = D3SMethod(**SMALL)
    with pretend_gpu() as gpu:
        o, d, quick = objective('meta', m)
        for n in (4, 2, 4): o.backward(Pixels(d.images.detach()[:n], d.y[:n], 4))
        assert gpu.captures == 2

def test_what_is_launched():
    m = D3SMethod(**SMALL)
    with pretend_gpu() as gpu:
        o, d, quick = objective('meta', m)
        o.backward(d)
        before = gpu.launches, gpu.waits
        for _ in range(5):
            o.backward(d)
            o.after(d)
        assert gpu.waits == before[1] and gpu.launches - before[0] <= 5*25

class Asks(torch.nn.Module):
    "A teacher that asks the GPU for a number."
    def __init__(self, net): super().__init__(); self.net, self.arch = net, net.arch
    def forward(self, x): return self.net(x*2 if x.sum() > 0 else x)

def fallen(method, captures=0, **kw):
    "Layers are called one by one, and the numbers are the same."
    want, _ = walked('cpu', method, **kw)
    with pretend_gpu() as gpu: got, _ = walked('meta', method, **kw)
    for a, b in zip(got, want): assert (a - b).norm() <= 1e-9*b.norm()
    assert gpu.captures == captures

def test_no_memory_for_a_graph(monkeypatch, capsys):
    def refuse(self): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 3 GiB')
    monkeypatch.setattr(PretendGPU, 'refuse_capture', refuse)
    monkeypatch.setattr(steps, '_said', set())
    fallen(D3SMethod(**SMALL))
    said = capsys.readouterr().out
    assert said.count('\n') == 1 and 'not captured; its layers are called one by one (CUDA out of memory' in said

def test_a_teacher_that_asks(monkeypatch, capsys):
    monkeypatch.setattr(steps, '_said', set())
    fallen(D3SMethod(**SMALL), made=lambda: [Asks(n) for n in nets()])
    assert capsys.readouterr().out.count('called one by one') == 1

def test_the_term_between_batches(): fallen(D3SMethod(**SMALL), between=True)

def test_switched_off():
    with pretend_gpu() as gpu:
        o, d, quick = objective('meta', D3SMethod(**SMALL))
        quick.enabled = False
        o.backward(d)
        assert gpu.captures == 0

def test_a_whole_synthesis_and_nothing_stays(tmp_path):
    def made(device, out):
        real = REAL.map(lambda x: x.float()).to(device)
        t = Teachers([n.float().to(device) for n in nets()], real)
        return learn(Task(real, teachers=t), method_of('d3s', ipc=2, batch=4, iterations=3), tmp_path/out, RunOptions(quiet=True))
    made('cpu', 'here')
    with pretend_gpu() as gpu:
        _, s = made('meta', 'there')
        assert gpu.captures == 1 and not s.quick.kept and not s.quick.stages
    a, b = (load_tensors(tmp_path/n/'distilled.safetensors')[0]['d.images'].int() for n in ('there', 'here'))
    assert ((a - b).abs() > 1).double().mean() <= .03

@pytest.mark.parametrize('name, kw', [('resnet18_ap', dict(width=4, norm='batch', layers=(1, 1))), ('alexnet', {}), ('convnet', dict(norm='batch', width=8))])
@pytest.mark.parametrize('form', [torch.contiguous_format, torch.channels_last])
def test_layers_of_one_size_at_once(name, kw, form):
    "Loss and gradient of other networks, and of batches that are cut into parts."
    with seeded(name): net = make_net(name, 1, 4, 32, **kw).double().eval().requires_grad_(False)
    x, T = torch.randn(6, 1, 32, 32, generator=rng_for('x'), dtype=D).requires_grad_(), targets(batch_stats(net, REAL.x), dtype=D)
    for kind in ('kl-multi', 'bn-multi') if name == 'alexnet' else KINDS:
        cov = kind.endswith('multi')
        with FeatureStats(net, cov=cov) as f: net(x)
        want = feature_loss(kind, f.stats, T, 2.)
        with FeatureMaps(net) as f: net(x.contiguous(memory_format=form))
        got = stacked_loss(kind, stacked_moments(f.stats, cov), stacked_targets(T, kind), 2.)
        for a, b in ((got, want), *((torch.autograd.grad(v, x)[0] for v in (got, want)),)): assert (a - b).norm() <= 1e-9*b.norm()
