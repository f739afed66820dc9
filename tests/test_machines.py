"""What a GPU has captured for one network serves the next only where that is the same: each kind of difference is told apart, and nothing stays behind."""
import gc
import weakref

import pytest, torch
from torch import nn
from pretend import pretend_gpu

from dd_repro import augment, teams
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded
from dd_repro.experts import expert_protocol, to_vector, train_experts
from dd_repro.sets import ImageTensors
from dd_repro.students import as_protocol, evaluate, train, trainings

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op')
P = as_protocol('mtt').scaled(epochs=3, batch=12, aug='')
X = torch.randn(12, 1, 8, 8, generator=rng_for('machines'), dtype=torch.double)
Y = torch.arange(12) % 3

def net(seed=0, cls=None, **kw):
    with seeded('machines', seed): return (cls or ConvNet)(**(dict(n_in=1, n_out=3, size=8, width=4, depth=1) | kw)).double()

def data(x=X, y=Y): return ImageTensors(x, y, 3)

def one_by_one(jobs, device):
    "Where the networks of some trainings end: pairs of a network's maker and what is told to `train`."
    out = []
    with trainings():
        for make, real, how in jobs:
            n, x = make().to(device), real()
            train([n], ImageTensors(x[0].to(device), x[1].to(device), 3), how, lr=.1, seed=1)
            out.append(to_vector(n).cpu())
    return out

def alike(jobs, captures=None):
    "Trainings one after another on the pretended GPU end where they end on the CPU, each by itself."
    want = [one_by_one([j], 'cpu')[0] for j in jobs]
    with pretend_gpu() as gpu: got = one_by_one(jobs, 'meta')
    for a, b in zip(got, want): assert (a - b).abs().max() < 1e-10
    if captures is not None: assert gpu.captures == captures

all_of = lambda: (X, Y)

def test_networks_of_one_kind_share_a_capture():
    alike([(lambda: net(0), all_of, P), (lambda: net(1), all_of, P.scaled(epochs=2))])
    with pretend_gpu() as gpu:
        x, y = X.to('meta'), Y.to('meta')
        with trainings():
            for i in range(4): train([net(i).to('meta')], ImageTensors(x, y, 3), P, lr=.1*(i + 1))
        assert gpu.captures == 1 and not teams._LAST

class Scaled(ConvNet):
    "Holds a plain tensor."
    def __init__(self, k=1., **kw): super().__init__(**kw); self.k = torch.tensor(k)
    def forward(self, x): return super().forward(x)*float(self.k)

class Sized(nn.Module):
    "Parameters whose size stands in no attribute."
    def __init__(self, h=8, tied=False):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(64, h, dtype=torch.double, generator=rng_for(h))), nn.Parameter(torch.randn(h, 3, dtype=torch.double, generator=rng_for(1)))
    def forward(self, x): return x.flatten(1)@self.a@self.b

def test_what_a_network_holds_besides():
    alike([(lambda: net(0, Scaled, k=1.), all_of, P), (lambda: net(0, Scaled, k=2.), all_of, P)])

@pytest.mark.parametrize('first, second', [(8, 4), (4, 8), (8, 8)])
def test_shapes_that_no_attribute_tells(first, second):
    alike([(lambda: Sized(first), all_of, P), (lambda: Sized(second), all_of, P)])

def test_a_class_that_was_defined_again():
    def made(k):
        class Own(ConvNet):
            def forward(self, x): return super().forward(x)*k
        return Own
    one, two = made(1.), made(3.)
    alike([(lambda: net(0, one), all_of, P), (lambda: net(0, two), all_of, P)])

@pytest.mark.parametrize('view', [lambda x: x[::3], lambda x: x[:4].transpose(2, 3), lambda x: x[4:8]])
def test_images_at_one_place_in_another_order(view):
    with pretend_gpu() as gpu:
        x = X.to('meta')
        with trainings():
            train([net(0).to('meta')], ImageTensors(x[:4], Y[:4].to('meta'), 3), P, lr=.1)
            n = net(1).to('meta')
            train([n], ImageTensors(view(x), Y[:4].to('meta'), 3), P, lr=.1)
        got = to_vector(n).cpu()
    want = net(1)
    train([want], ImageTensors(view(X), Y[:4], 3), P, lr=.1)
    assert (got - to_vector(want)).abs().max() < 1e-10

def test_a_transform_that_was_given_another_function(monkeypatch):
    monkeypatch.setitem(augment.OPS, 'mine', lambda x, u, limits: x)
    p = P.scaled(aug='mine')
    def job(k):
        def make():
            augment.OPS['mine'] = lambda x, u, limits: x*k
            return net(0)
        return make, all_of, p
    alike([job(1.), job(2.)])

def test_a_changed_limit(monkeypatch):
    p = P.scaled(aug='rotate')
    def job(angle):
        def make(): augment.RATIOS['rotate'] = angle; return net(0)
        return make, all_of, p
    monkeypatch.setitem(augment.RATIOS, 'rotate', 15.)
    alike([job(15.), job(90.)])

@pytest.mark.parametrize('how', [dict(warmup=2, schedule='cosine'), dict(momentum=0.), dict(wd=.1), dict(batch=5), dict(aug='flip')])
def test_protocols(how):
    alike([(lambda: net(0), all_of, P.scaled(epochs=4)), (lambda: net(1), all_of, P.scaled(epochs=4, **how))])

def test_a_warm_up_is_captured():
    with pretend_gpu() as gpu:
        train([net().to('meta')], ImageTensors(X.to('meta'), Y.to('meta'), 3), P.scaled(epochs=5, warmup=2, schedule='cosine'), lr=.1)
        assert gpu.captures == 1

def test_what_a_hook_keeps_and_changes():
    "A hook may keep the parameters, write into them, or give them new memory."
    def run(device):
        kept, n = [], net(0).to(device)
        def hook(e, nets):
            kept.append([p.detach() for p in nets[0].parameters()])
            with torch.no_grad():
                if e == 0: [p.mul_(.5) for p in nets[0].parameters()]
                if e == 1: [setattr(p, 'data', p.data.clone()) for p in nets[0].parameters()]
        with trainings():
            train([n], ImageTensors(X.to(device), Y.to(device), 3), P, lr=.1, hook=hook)
            last = [t.cpu().clone() for t in kept[-1]]
            train([net(1).to(device)], ImageTensors(X.to(device), Y.to(device), 3), P, lr=.1)
        assert all(torch.equal(a, b.cpu()) for a, b in zip(last, kept[-1])) # also after the next training
        return to_vector(n).cpu()
    want = run('cpu')
    with pretend_gpu(): assert (run('meta') - want).abs().max() < 1e-10

def test_a_training_inside_a_training():
    def run(device):
        real = ImageTensors(X.to(device), Y.to(device), 3)
        n, inner = net(0).to(device), net(1).to(device)
        train([n], real, P, lr=.1, hook=lambda e, nets: train([inner], real, P, lr=.1))
        return torch.cat([to_vector(n).cpu(), to_vector(inner).cpu()])
    want = run('cpu')
    with pretend_gpu(): assert (run('meta') - want).abs().max() < 1e-10

def test_nothing_stays_behind(tmp_path):
    with pretend_gpu():
        for use in (lambda n, r: train([n], r, P, lr=.1), lambda n, r: evaluate(r, data(X.float()).to('meta'), protocol=P, nets=[n.arch], n_eval=2, lr=.1),
                    lambda n, r: train_experts(lambda: net().float().to('meta'), r, tmp_path/'b', 2, expert_protocol(1, aug=''), quiet=True)):
            real, n = data(X.float()).to('meta'), net().float().to('meta')
            use(n, real)
            gone = weakref.ref(n)
            del n, real; gc.collect()
            assert not teams._LAST and gone() is None

def test_an_error_in_a_training():
    def run(device):
        real = ImageTensors(X.to(device), Y.to(device), 3)
        def stop(e, nets): raise KeyError('stop')
        with trainings():
            with pytest.raises(KeyError): train([net(0).to(device)], real, P, lr=.1, hook=stop)
            n = net(1).to(device)
            train([n], real, P, lr=.1)
        return to_vector(n).cpu()
    want = run('cpu')
    with pretend_gpu(): assert (run('meta') - want).abs().max() < 1e-10
