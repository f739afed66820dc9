"Fused layers against PyTorch's own, twice differentiated; and graphs that stay, as many as fit."
from functools import partial

import pytest, torch
from torch import nn
from torch.nn import functional as F

from dd_repro import fused as fu, unroll as un
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded
from dd_repro.experts import to_vector
from dd_repro.fused import conv, fused, norm_relu_pool
from dd_repro.unroll import Functional, graph_bytes, graphs_that_fit, peak_bytes, unroll

D = torch.double

def made(*shapes, seed=0):
    return [torch.randn(s, dtype=D, generator=rng_for(seed, i)).requires_grad_() for i, s in enumerate(shapes)]

def plain_block(x, w, b): return F.avg_pool2d(F.relu(F.group_norm(x, x.shape[1], w, b)), 2)

# ------------------------------------------------------------ the operations
@pytest.mark.parametrize('shape', [(3, 2, 4, 4), (1, 3, 2, 6), (4, 1, 6, 2), (2, 2, 5, 4), (2, 2, 3, 3)])
@pytest.mark.parametrize('piece', [1, 300, 1 << 20])
def test_a_block_and_its_derivatives(shape, piece, monkeypatch):
    monkeypatch.setattr(fu, 'PIECE', piece)
    ts = made(shape, (shape[1],), (shape[1],), seed=1)
    torch.testing.assert_close(norm_relu_pool(*ts), plain_block(*ts), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(norm_relu_pool, ts) and torch.autograd.gradgradcheck(norm_relu_pool, ts)

@pytest.mark.parametrize('kind', ['far', 'transposed', 'flat', 'empty'])
def test_a_block_of_unusual_maps(kind):
    x, w, b = made((3, 2, 8, 8), (2,), (2,), seed=2)
    with torch.no_grad():
        if kind == 'far': x += 1000
        if kind == 'flat': x[0] = 3. # no variance at all
    if kind == 'transposed': x = x.transpose(2, 3)
    if kind == 'empty': x = x[:0]
    got, want = norm_relu_pool(x, w, b), plain_block(x, w, b)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    grads = [torch.autograd.grad(y.square().sum(), (w, b)) for y in (got, want)]
    for a, c in zip(*grads): torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-9)

def test_wide_maps_are_left_to_pooling(monkeypatch):
    monkeypatch.setattr(fu, 'WIDEST', 4)
    ts = made((1, 2, 4, 8), (2,), (2,))
    assert torch.equal(norm_relu_pool(*ts), plain_block(*ts))

@pytest.mark.parametrize('few', [0, 10**6])
@pytest.mark.parametrize('c, k, how', [(1, 3, ((1, 1), (1, 1), (1, 1), 1)), (3, 3, ((1, 1), (3, 3), (1, 1), 1)), (2, 5, ((2, 2), (2, 2), (1, 1), 1)),
                                       (4, 3, ((1, 1), (2, 2), (2, 2), 1)), (4, 3, ((1, 1), (1, 1), (1, 1), 4)), (3, 1, ((1, 1), (0, 0), (1, 1), 1))])
def test_a_convolution_and_its_derivatives(c, k, how, few, monkeypatch):
    monkeypatch.setattr(fu, 'FEW', few)
    ts = made((2, c, 6, 7), (4, c//how[3], k, k), (4,), seed=3)
    f = partial(conv, how=how)
    torch.testing.assert_close(f(*ts), F.conv2d(*ts, *how), rtol=1e-11, atol=1e-11)
    assert torch.autograd.gradgradcheck(f, ts)

# ------------------------------------------------------------ networks
def names(net): return [type(m).__name__ for m in net.modules() if not list(m.children())]

class Scaled(nn.Conv2d):
    def forward(self, x): return 2*super().forward(x)

def row(*layers): return nn.Sequential(*layers)
C = partial(nn.Conv2d, 3, 4, 3, padding=1)

@pytest.mark.parametrize('net, left', [
    (row(C(), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2)), ['_FusedConv', '_FusedBlock', '_Done', '_DonePool']),
    (row(C(), nn.GroupNorm(2, 4), nn.ReLU(), nn.AvgPool2d(2)), ['_FusedConv', 'GroupNorm', 'ReLU', 'AvgPool2d']),
    (row(C(), nn.GroupNorm(4, 4, affine=False), nn.ReLU(), nn.AvgPool2d(2)), ['_FusedConv', 'GroupNorm', 'ReLU', 'AvgPool2d']),
    (row(C(), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(3)), ['_FusedConv', 'GroupNorm', 'ReLU', 'AvgPool2d']),
    (row(C(), nn.GroupNorm(4, 4), nn.GELU(), nn.AvgPool2d(2)), ['_FusedConv', 'GroupNorm', 'GELU', 'AvgPool2d']),
    (row(C(bias=False), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2)), ['Conv2d', '_FusedBlock', '_Done', '_DonePool']),
    (row(C(padding_mode='circular')), ['Conv2d']), (row(nn.Conv2d(3, 4, 3, padding='same')), ['Conv2d']),
    (row(Scaled(3, 4, 3)), ['Scaled']), (row(nn.ConvTranspose2d(3, 4, 3)), ['ConvTranspose2d'])])
def test_what_is_fused_and_what_stays(net, left):
    net, x = net.to(D), torch.randn(2, 3, 6, 6, dtype=D, generator=rng_for(4))
    assert names(fused(net)) == left
    torch.testing.assert_close(fused(net)(x), net(x), rtol=1e-11, atol=1e-11)

def test_hooks_and_parametrizations_are_kept():
    net, seen = row(C(), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2)), []
    net[1].register_forward_hook(lambda *_: seen.append(1))
    assert names(fused(net)) == ['_FusedConv', 'GroupNorm', 'ReLU', 'AvgPool2d']
    fused(net)(torch.zeros(1, 3, 4, 4))
    assert seen == [1]
    odd = nn.utils.parametrizations.weight_norm(C())
    assert type(fused(row(odd))[0]) is type(odd)

def test_the_network_stays_as_it_is_and_modes_are_followed():
    net = row(C(), nn.Dropout(.5), nn.Sequential(nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2)))
    before, fast = names(net), fused(net)
    assert names(net) == before and [n for n, _ in fast.named_parameters()] == [n for n, _ in net.named_parameters()]
    net.eval()
    with seeded(0): small = ConvNet(1, 2, 8, 4, 1).to(D)
    f, x = Functional(small), torch.randn(2, 1, 8, 8, dtype=D, generator=rng_for(0))
    small.blocks[0][2] = nn.GELU() # another layer, after the network was looked at
    f.check(to_vector(small), x)
    torch.testing.assert_close(f.fast(to_vector(small), x), small(x), rtol=1e-11, atol=1e-11)

def test_a_layer_that_is_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = nn.Conv2d(2, 2, 3, padding=1)
        def forward(self, x): return self.b(self.a(x)).mean((2, 3))
    with seeded(1): net = Twice().to(D)
    x = torch.randn(3, 2, 4, 4, dtype=D, generator=rng_for(5))
    f = Functional(net)
    torch.testing.assert_close(f.fast(to_vector(net), x), net(x), rtol=1e-12, atol=1e-12)

@pytest.mark.parametrize('pool', [dict(divisor_override=1), dict(stride=1), dict(padding=1), dict(ceil_mode=True)])
def test_other_averages_stay(pool):
    net, x = row(C(), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2, **pool)).to(D), torch.randn(2, 3, 6, 6, dtype=D, generator=rng_for(4))
    torch.testing.assert_close(fused(net)(x), net(x), rtol=1e-11, atol=1e-11)
    assert names(fused(net))[1:] == ['GroupNorm', 'ReLU', 'AvgPool2d']

def test_one_image_without_a_batch():
    net, x = row(C(), nn.Conv2d(4, 20, 3), nn.Conv2d(20, 4, 1), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2)).to(D), torch.randn(3, 6, 6, dtype=D)
    torch.testing.assert_close(conv(x, net[0].weight, net[0].bias, ((1, 1), (1, 1), (1, 1), 1)), net[0](x))

@pytest.mark.parametrize('bind', [lambda net, own: own.__get__(net), lambda net, own: lambda x: own(net, x)])
def test_a_network_that_a_copy_would_not_follow_goes_without(bind):
    "Its forward is an attribute that holds the network itself: the copy's parameters would never be used."
    with seeded(2): net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 3)).to(D)
    want = grads(net, 0)
    net.forward = bind(net, type(net).forward)
    for keep in (0, 'auto'):
        for a, b in zip(grads(net, keep), want): torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)

# ------------------------------------------------------------ graphs that stay
def student(norm='instance', **kw):
    with seeded(0, norm): return ConvNet(1, 3, 8, 8, 2, norm=norm, **kw).to(D)

def grads(net, keep, labels='hard', form='adjoint', N=5, f=None):
    x, lr = torch.randn(6, 1, 8, 8, dtype=D, generator=rng_for(6)).requires_grad_(), torch.tensor(.1, dtype=D, requires_grad=True)
    y = torch.arange(6) % 3 if labels == 'hard' else torch.rand(6, 3, dtype=D, generator=rng_for(7)).softmax(1)
    cut = lambda i: (x[i % 2:4 + i % 3], y[i % 2:4 + i % 3]) # of several lengths
    batches = [partial(cut, i) if labels == 'called' else cut(i) for i in range(N)]
    theta = to_vector(net)
    end = unroll(f or net, theta, batches, lr, form, keep)
    return end.detach(), *torch.autograd.grad((end - theta - .01).square().sum(), [x, lr])

@pytest.mark.parametrize('norm', ['instance', 'group', 'none'])
@pytest.mark.parametrize('labels, form', [('hard', 'adjoint'), ('soft', 'adjoint'), ('called', 'adjoint'), ('hard', 'detached')])
def test_the_bits_do_not_depend_on_what_is_kept(norm, labels, form):
    net = student(norm)
    want = grads(net, 0, labels, form)
    for keep in (1, 3, 5, 99, 'auto'):
        for a, b in zip(grads(net, keep, labels, form), want): assert torch.equal(a, b)

@pytest.mark.parametrize('free, fit', [(0, 0), (3, 1), (8, 4), (10**6, 5)])
def test_as_many_graphs_as_the_share_of_free_memory_holds(free, fit, monkeypatch):
    net = student()
    f, x, y = Functional(net), torch.zeros(4, 1, 8, 8, dtype=D), torch.arange(4) % 3
    one = graph_bytes(f, to_vector(net), (x, y))
    monkeypatch.setattr(un, 'free_bytes', lambda: free*one + 1)
    assert graphs_that_fit(f, to_vector(net), (x, y), 5) == fit

def test_fewer_when_memory_gets_short_and_never_more_than_at_first(monkeypatch):
    net = student()
    f, ts = Functional(net), (torch.zeros(4, 1, 8, 8, dtype=D), torch.arange(4) % 3)
    one, seen = graph_bytes(f, to_vector(net), ts), []
    for free in (20, 10, 2, 0, 40): # in the second look ten are held by the process
        monkeypatch.setattr(un, 'free_bytes', lambda: free*one + 1)
        seen.append(graphs_that_fit(f, to_vector(net), ts, 50))
    assert seen == [10, 10, 6, 5, 10]

def test_an_unroll_without_memory_walks(monkeypatch):
    net, want = student(), grads(student(), 5)
    monkeypatch.setattr(un, 'free_bytes', lambda: 0)
    for a, b in zip(grads(net, 'auto'), want): assert torch.equal(a, b)

def test_bytes_of_a_graph_are_what_one_more_costs():
    with seeded(0): net = ConvNet(3, 10, 16, 16, 2)
    f, theta, x, y = Functional(net), to_vector(net), torch.randn(8, 3, 16, 16, generator=rng_for(8)), torch.arange(8)
    x.requires_grad_()
    def run(keep): return lambda: unroll(f, theta, [(x, y)]*8, .01, 'adjoint', keep).square().sum().backward()
    run(1)()
    one = (peak_bytes(run(7)) - peak_bytes(run(2)))/5
    assert .7*one < graph_bytes(f, theta, (x, y)) < 1.4*one

def test_compiled_steps_keep_nothing(monkeypatch):
    net, asked = student(), []
    monkeypatch.setattr(un, 'graphs_that_fit', lambda *a: asked.append(1) or 0)
    f = Functional(net)
    f.compiled = True
    class Plain(partial): # a step that needs no preparation
        def prepare(self, *ts): pass
    monkeypatch.setattr(un, 'steps_of', lambda f: (Plain(un._step, f), Plain(un._pull_back, f)))
    grads(net, 'auto', f=f)
    assert not asked

@pytest.mark.parametrize('keep', [-1, 'all', 1.5, None, True])
def test_a_wrong_keep_is_named(keep):
    with pytest.raises(ValueError, match=f"keep is {keep!r}; it must be 'auto' or a whole number"): grads(student(), keep)
