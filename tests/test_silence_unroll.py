"What a student's walk must not do in silence: a rate that is a vector, things that change on the way, layers that are no layers."
import pytest, torch
from torch import nn
from torch.nn import functional as F

from dd_repro.all import *

KEEPS = 0, 1, 3, 'auto'


class Small(nn.Module):
    "A block that can be fused, and a head; `way` says how its parts are used."
    def __init__(self, way='plain'):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2))
        self.head, self.way, self.gate = nn.Linear(64, 4), way, nn.Parameter(torch.tensor(0.))
        self.list = [self.body[0]]
    def forward(self, x):
        conv, norm, _, pool = self.body
        if self.way == 'attributes':
            z = F.group_norm(F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding), norm.num_groups, norm.weight, norm.bias, norm.eps)
            return self.head(F.avg_pool2d(F.relu(z), pool.kernel_size).flatten(1))
        if self.way == 'twice': return self.head((self.body(x) + self.gate*pool(self.list[0](x))).flatten(1))
        if self.way == 'slots': return self.head(self.body[2:](self.body[:2](x)).flatten(1))
        return self.head(self.body(x).flatten(1))


@pytest.fixture
def walk():
    "A network's unroll: end, leaf, start; the same numbers each time."
    def made(net, lr=.1, n=3, callables=False, **kw):
        net = net.double()
        theta = to_vector(net).detach().requires_grad_()
        x = torch.randn(4, 1, 8, 8, generator=rng_for(0), dtype=torch.double).requires_grad_()
        y = torch.arange(4)
        batches = [(lambda: (x*1., y)) if callables else (x, y)]*n
        return unroll(net, theta, batches, lr, **kw), x, theta
    return made

def gradients(end, *ts): return torch.autograd.grad((end - .01).square().sum(), ts)

def network(way='plain'):
    with seeded('silence'): return Small(way)

@pytest.mark.parametrize('way', ['plain', 'attributes', 'twice', 'slots'])
@pytest.mark.parametrize('keep', KEEPS)
def test_layers_may_be_used_in_any_way(walk, way, keep):
    want = gradients(*walk(network(way), grad='bptt'))
    for a, b in zip(gradients(*walk(network(way), keep=keep)), want): torch.testing.assert_close(a, b)

def test_a_layer_that_is_reached_twice_is_swapped_twice(walk):
    "Behind a gate that is 0 a wrong part would not be seen at the point that is looked at."
    for gate in (0., 1e-4, 1e-2, 1.):
        nets = network('twice'), network('twice')
        for n in nets: n.gate.data.fill_(gate)
        for a, b in zip(gradients(*walk(nets[0])), gradients(*walk(nets[1], grad='bptt'))): torch.testing.assert_close(a, b)

@pytest.mark.parametrize('rate', [torch.full((3,), .1), torch.full((2, 2), .1), [.1, .2], float('nan'), float('inf')])
def test_the_rate_is_one_finite_number(walk, rate):
    with pytest.raises(ValueError, match='the rate'): walk(network(), rate)

def test_a_rate_of_one_number_in_a_row_is_one_number(walk):
    lr = torch.tensor([.1], dtype=torch.double, requires_grad=True)
    end, *_ = walk(network(), lr)
    got, = gradients(end, lr)
    flat = torch.tensor(.1, dtype=torch.double, requires_grad=True)
    want, = gradients(walk(network(), flat, grad='bptt')[0], flat)
    assert got.shape == (1,)
    torch.testing.assert_close(got[0], want)

@pytest.mark.parametrize('keep', KEEPS)
@pytest.mark.parametrize('callables', [False, True])
def test_batches_that_change_before_the_way_back_are_refused(walk, keep, callables):
    end, x, _ = walk(network(), callables=callables, keep=keep)
    with torch.no_grad(): x.mul_(2)
    with pytest.raises(ValueError, match='changed in place'): gradients(end, x)

@pytest.mark.parametrize('keep', KEEPS)
@pytest.mark.parametrize('change', ['mode', 'hook', 'layer'])
def test_a_network_that_changes_before_the_way_back_is_refused(walk, keep, change):
    net = network()
    end, x, _ = walk(net, keep=keep)
    if change == 'mode': net.eval()
    if change == 'hook': net.body[0].register_forward_hook(lambda *a: None)
    if change == 'layer': net.body[2] = nn.GELU()
    with pytest.raises(ValueError, match='was changed between an unroll'): gradients(end, x)

@pytest.mark.parametrize('where', ['layer', 'all', 'forward'])
def test_what_is_put_on_layers_later_counts(walk, where):
    "A hook, or a forward pass of its own, that doubles what a convolution gives."
    net, plain = network(), network()
    gradients(*walk(net))
    twice = lambda m, i, o: 2*o if isinstance(m, nn.Conv2d) else None
    handle = nn.modules.module.register_module_forward_hook(twice) if where == 'all' else None
    try:
        for n in (net, plain):
            if where == 'layer': n.body[0].register_forward_hook(twice)
            if where == 'forward': n.body[0].forward = lambda x, m=n.body[0]: 2*nn.Conv2d.forward(m, x)
        for a, b in zip(gradients(*walk(net)), gradients(*walk(plain, grad='bptt'))): torch.testing.assert_close(a, b)
    finally:
        if handle: handle.remove()

def test_a_hook_that_counts_is_refused_when_it_comes_late(walk):
    net = network()
    walk(net)
    net.seen = 0
    net.body[0].register_forward_hook(lambda *a: setattr(net, 'seen', net.seen + 1))
    with pytest.raises(ValueError, match='not a function'): walk(net)

@pytest.mark.parametrize('part', ['there', 'back', 'both'])
def test_autocast_around_a_walk_has_no_effect(part):
    def run(there, back):
        net = network()
        theta, x = to_vector(net).detach().requires_grad_(), torch.randn(4, 1, 8, 8, generator=rng_for(1)).requires_grad_()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=there): end = unroll(net, theta, [(x, torch.arange(4))]*3, .1)
        loss = (end - .01).square().sum()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=back): return torch.autograd.grad(loss, [x, theta])
    for a, b in zip(run(part != 'back', part != 'there'), run(False, False)): assert torch.equal(a, b)

def test_a_loss_that_cannot_be_followed_is_named():
    real, _ = load('digits', size=8)
    opts = {'images': lambda ps: torch.optim.SGD(ps, .1)}
    for loss, word in ((lambda d: torch.tensor(1.), 'does not depend on the set'), (lambda d: d.images, r'of shape \[10, 1, 8, 8\]'), (lambda d: 1., '1.0')):
        with pytest.raises(ValueError, match=word): distill(Pixels.from_real(real, 1), loss, 1, opts, quiet=True)
