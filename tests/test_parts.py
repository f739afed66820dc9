"Sets of shared parts, LinBa and KFS: images, budgets and gradients written once more, runs that go on, and what is refused."
from functools import partial

import numpy as np
import pytest, torch
from torch.nn import functional as F

from dd_repro.bptt import LossAfter
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.kfs import *
from dd_repro.linba import *
from dd_repro.match import DM
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of

torch.set_num_threads(1)
net_fn, QUIET = partial(ConvNet, 1, 10, 8, 8, 1), RunOptions(quiet=True)
LINBA = LinBaMethod(iterations=3, bases=8, syn_steps=3, batch_syn=20, batch_real=3)
KFS = KFSMethod(iterations=3, decoder_width=4, decoders=2, warm=2, batch_real=8, batch_syn_max=8)
SETS = dict(linba=lambda real: LinearBases.at_random(real, 1, 8), kfs=lambda real: CodesAndDecoders.from_real(real, 10, 4, 4, 3, warm=1))


@pytest.fixture(scope='module')
def data(): return load('digits')

@pytest.fixture
def task(data): return Task(*data, net_fn)

@pytest.fixture(params=SETS)
def d(request, data): return SETS[request.param](data[0])

def test_bases_and_addresses_written_once_more():
    rng = rng_for(0)
    bases, addresses = torch.randn(3, 2, 4, 4, generator=rng), torch.randn(5, 3, generator=rng)
    d = LinearBases(bases, addresses, torch.zeros(5).long(), 1, 8)
    B, A = bases.double().numpy(), addresses.double().numpy()
    small = sum(A[:, k, None, None, None]*B[k] for k in range(3))
    at = ((np.arange(8) + .5)/2 - .5).clip(0, 3)
    lo, w = np.floor(at).astype(int), at - np.floor(at)
    hi = np.minimum(lo + 1, 3)
    rows = small[:, :, lo]*(1 - w)[:, None] + small[:, :, hi]*w[:, None]
    want = rows[..., lo]*(1 - w) + rows[..., hi]*w
    assert np.abs(d.images.detach().numpy() - want).max() < 1e-5

@pytest.mark.parametrize('ipc, C, shape, K, r', [(1, 10, (3, 32, 32), 16, 2), (10, 10, (3, 32, 32), 64, 2), (1, 10, (1, 8, 8), 8, 2), (1, 200, (3, 64, 64), 32, 1)])
def test_the_bytes_of_a_memory_are_those_of_the_budget(ipc, C, shape, K, r):
    c, s, _ = shape
    n, all_ = images_of_bases(ipc, C, shape, K, r), ipc*C*c*s*s
    used = lambda n: K*c*s*s//r**2 + n*C*K
    assert n >= 1 and used(n) <= all_ < used(n + 1)

@pytest.mark.parametrize('ipc, C, shape, sizes', [(1, 10, (3, 32, 32), (4, 8, 4)), (10, 10, (1, 8, 8), (4, 4, 4)), (1, 200, (3, 64, 64), (4, 8, 4))])
def test_the_bytes_of_codes_are_those_of_the_budget(ipc, C, shape, sizes):
    (c, s, _), (k, width, J) = shape, sizes
    decoder = k*width*16 + width + width*c*16 + c
    n, used = codes_that_fit(ipc, C, shape, *sizes), lambda n: J*decoder + n*C*k*(s//4)**2
    assert n >= 1 and used(n) <= ipc*C*c*s*s < used(n + 1)

def test_images_of_codes_written_once_more(data):
    d = SETS['kfs'](data[0])
    x, J = d.images, 3
    assert len(d) == J*len(d.codes)
    for i in (0, 17, len(d.codes) - 1):
        for j in range(J):
            a, _, b = d.decoders[j]
            h = F.relu(F.conv_transpose2d(d.codes[i:i + 1], a.weight, a.bias, stride=2, padding=1))
            torch.testing.assert_close(F.conv_transpose2d(h, b.weight, b.bias, stride=2, padding=1)[0], x[J*i + j])
    x[J*4 + 1].sum().backward()
    assert (d.codes.grad.flatten(1).abs().sum(1) > 0).nonzero().flatten().tolist() == [4]
    assert [any(p.grad is not None and p.grad.abs().sum() > 0 for p in m.parameters()) for m in d.decoders] == [False, True, False]

def test_what_is_asked_for_is_made_and_nothing_else(d):
    asked = []
    made = d.made
    d.made = lambda idx: (asked.append(len(idx)), made(idx))[1]
    x, y = d.sample(idx=torch.tensor([5, 0, 3]))
    assert asked == [3] and torch.equal(y, d.y[[5, 0, 3]]) and x.requires_grad
    x, y = d.sample(2, y=4, rng=rng_for(0))
    assert x.shape == (2, 1, 8, 8) and y.tolist() == [4, 4]
    with pytest.raises(ValueError, match='images asked for; there are'): d.sample(10**6)
    with pytest.raises(ValueError, match='no part of their own'): d.part(slice(0, 1))
    assert d.pure() is None and len(d.steps(2, 7, rng_for(1))) == 2

def test_students_see_what_the_parts_are_now(d):
    (a, y), = d.epoch(0, 10**6)
    assert not a.requires_grad and torch.equal(a, d.images.detach()) and d.shown() is d.shown()
    with torch.no_grad(): next(p for k, ps in d.groups().items() if k != 'lr' for p in ps).mul_(2.)
    (b, y), = d.epoch(0, 10**6)
    assert torch.equal(b, d.images.detach()) and not torch.equal(a, b)

def test_bytes_are_those_of_the_parts(d): assert d.nbytes == 4*sum(p.numel() for n, p in d.named_parameters() if n != 'lr')

def test_a_fit_comes_near(data):
    d, x = SETS['kfs'](data[0]), Pixels.from_real(data[0], 1)
    x = x.images.detach()[d.y]
    first, last = d.fit(x, 1), d.fit(x, 60)
    assert last < .7*first and all(p.grad is None for p in d.parameters())

@pytest.mark.parametrize('m', [LINBA, KFS], ids=['linba', 'kfs'])
def test_a_set_learns_comes_back_and_goes_on(task, tmp_path, m):
    d, run = learn(task, m, tmp_path/'a', QUIET)
    begun = m.start(task)
    assert len(d) == m.items(task.real) and d.nbytes <= 4*m.ipc*640
    for g, ps in d.groups().items():
        if g in m.opts(d): assert any(not torch.equal(p, q) for p, q in zip(ps, begun.groups()[g])), g
    again = Distilled.load(tmp_path/'a'/'distilled.safetensors')
    assert type(again) is type(d) and torch.equal(again.images, d.images) and again.shape == (1, 8, 8)
    learn(task, m, tmp_path/'b', RunOptions(quiet=True, minutes=1e-9))
    assert torch.equal(learn(task, m, tmp_path/'b', QUIET)[0].images, d.images)

def test_a_gradient_of_linba_is_that_of_its_images(task):
    "Through the steps of a student: that of pixels, multiplied by bases and addresses."
    d = LinearBases.at_random(task.real, 1, 8, r=1, lr=.1)
    p = Pixels(d.images.detach(), d.y, 10, lr=.1)
    for s in (d, p): LossAfter(task, LINBA)(s).backward()
    g = p.images.grad.flatten(1)
    torch.testing.assert_close(d.addresses.grad, g@d.bases.detach().flatten(1).T, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(d.bases.grad.flatten(1), d.addresses.detach().T@g, rtol=1e-3, atol=1e-6)

@pytest.mark.parametrize('name, own, said', [
    ('linba', dict(shrink=3), 'shrink is 3; it must divide the side of an image, 8 px'), ('linba', dict(bases=20, shrink=1), '20 bases leave no room'),
    ('linba', dict(window=9, syn_steps=5), 'window is 9; a student takes 5 steps at most'), ('kfs', dict(ipc=1), 'of 640 numbers and leave no room'), ('kfs', dict(aug='crops'), "augmentation 'crops'")])
def test_what_cannot_be(task, tmp_path, name, own, said):
    with pytest.raises(ValueError, match=said): learn(task, method_of(name, **own), tmp_path/'none')
    assert not (tmp_path/'none').exists()

@pytest.mark.parametrize('name', ['linba', 'kfs'])
def test_a_smoke_run(task, tmp_path, name): assert learn(task, smoke_of(METHODS[name]()), tmp_path/'smoke', QUIET)[1].it == 1

def test_images_without_a_quarter_of_their_side(data, tmp_path):
    task = Task(*load('digits', size=10), partial(ConvNet, 1, 10, 10, 8, 1))
    with pytest.raises(ValueError, match='images of 10 px have no quarter of their side'): learn(task, 'kfs', tmp_path/'none')
