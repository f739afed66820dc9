"HaBa: hallucinators, losses and draws written once more, runs that go on, and what is refused."
from functools import partial

import pytest, torch
from torch.nn import functional as F

from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import expert_protocol, train_experts
from dd_repro.haba import *
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of
from dd_repro.recipes import recipe

torch.set_num_threads(1)
net_fn, QUIET = partial(ConvNet, 1, 10, 8, 8, 1), RunOptions(quiet=True)
M = HaBaMethod(iterations=4, hallucinators=3, syn_steps=3, batch_syn=6, expert_epochs=1, max_start_epoch=1, lr_lr=1e-6, lr_teacher=.05, lr_bases=.1, lr_hallucinators=.01)


@pytest.fixture(scope='module')
def data(): return load('digits')

@pytest.fixture(scope='module')
def experts(data, tmp_path_factory): return train_experts(net_fn, data[0], tmp_path_factory.mktemp('experts'), 2, expert_protocol(2, .05, 64, ''), quiet=True)

@pytest.fixture
def task(data, experts): return Task(*data, net_fn, experts=experts)

@pytest.fixture
def d(data): return BasesAndHallucinators.from_real(data[0], 2, 3)

def test_a_hallucinator_written_once_more():
    h, x = Hallucinator(2, 6), torch.randn(3, 2, 6, 6, generator=rng_for(0))
    with torch.no_grad():
        for p in (h.scale, h.shift): p.add_(torch.randn(p.shape, generator=rng_for(1)))
    patches = F.unfold(x, 3).transpose(1, 2)@h.enc.weight.flatten(1).T + h.enc.bias # [n, places, c]
    seen = patches.transpose(1, 2).view(3, 2, 4, 4)*h.scale + h.shift
    want = torch.zeros(3, 2, 6, 6) + h.dec.bias.view(1, 2, 1, 1)
    for i in range(4):
        for j in range(4): # each place paints a patch
            want[:, :, i:i + 3, j:j + 3] += torch.einsum('nc,cdkl->ndkl', seen[:, :, i, j], h.dec.weight)
    torch.testing.assert_close(h(x), want)

def test_images_and_their_bytes(d):
    x = d.images
    assert len(d) == 60 and d.y.tolist() == [c for c in range(10) for _ in range(6)]
    for i, j in ((0, 0), (7, 2), (19, 1)): torch.testing.assert_close(d.hallucinators[j](d.bases[i:i + 1])[0], x[3*i + j])
    assert d.nbytes == 4*(20*64 + 3*(2*(9 + 1) + 2*36))
    x[3*4 + 1].sum().backward()
    assert (d.bases.grad.flatten(1).abs().sum(1) > 0).nonzero().flatten().tolist() == [4]
    assert [any(p.grad is not None and p.grad.abs().sum() > 0 for p in h.parameters()) for h in d.hallucinators] == [False, True, False]

def test_a_step_has_one_hallucinator_and_no_base_twice(d):
    d.sample = lambda idx, rng: (idx, rng)
    seen = [s()[0] for s in d.steps(6, 8, rng_for(0))]
    assert [len(i) for i in seen] == [4, 8, 8]*2 and all(len({int(k) % 3 for k in i}) == 1 for i in seen)
    assert sorted(int(k)//3 for i in seen[:3] for k in i) == list(range(20))
    assert len({int(i[0]) % 3 for i in (s()[0] for s in d.steps(30, None, rng_for(1)))}) == 3

def test_an_epoch_shows_every_base_once(d):
    xs, ys = zip(*d.epoch(0, 7, rng_for(3)))
    x, images = torch.cat(xs), d.images.detach()
    at = [int((images - v).abs().flatten(1).sum(1).argmin()) for v in x]
    assert sorted(k//3 for k in at) == list(range(20)) and len({k % 3 for k in at}) == 3 and not x.requires_grad
    assert torch.equal(torch.cat(ys), d.y[at])
    assert sum(len(y) for _, y in d.epoch(0, 7)) == 60

def test_the_contrast_written_once_more():
    f, y = torch.randn(7, 5, generator=rng_for(0)), torch.tensor([0, 1, 0, 1, 2, 2, 2])
    z, out = (f.double()/f.double().norm(dim=1, keepdim=True)), []
    for a in range(7):
        rest = [o for o in range(7) if o != a]
        total = sum(torch.exp(z[a]@z[o]/.07) for o in rest)
        same = [p for p in rest if y[p] == y[a]]
        out.append(-sum(torch.log(torch.exp(z[a]@z[p]/.07)/total) for p in same)/len(same))
    torch.testing.assert_close(class_contrast(f, y).double(), sum(out)/7, rtol=1e-4, atol=1e-5)

def test_both_losses_of_views(task):
    d, k = M.start(task), KeptApart(task, M)
    state = k.rng.get_state()
    value = k(d)
    k.rng.set_state(state)
    x, y = k.views(d)
    a, b = k.net.embed(x).flatten(1).split(6)
    cos = torch.stack([u@v/(u.norm()*v.norm()) for u, v in zip(a, b)])
    torch.testing.assert_close(value, ((1 + cos)/2).mean())
    assert torch.equal(y[:6], y[6:]) and len(x) == 12
    want = F.cross_entropy(k.net(x), y) + .1*((1 - cos)/2).mean() + .1*class_contrast(torch.cat([a, b]), y)
    torch.testing.assert_close(k.learned(x, y), want)
    before = [p.clone() for p in k.net.parameters()]
    value.backward()
    k.after(d)
    assert any(not torch.equal(p, q) for p, q in zip(before, k.net.parameters())) and all(p.grad is None for p in k.net.parameters())

def test_a_set_learns_comes_back_and_goes_on(task, tmp_path):
    d, run = learn(task, M, tmp_path/'a', QUIET)
    begun = M.start(task)
    for g, ps in d.groups().items(): assert any(not torch.equal(p, q) for p, q in zip(ps, begun.groups()[g])), g
    again = Distilled.load(tmp_path/'a'/'distilled.safetensors')
    assert type(again) is type(d) and torch.equal(again.images, d.images) and len(d) == M.items(task.real)
    learn(task, M, tmp_path/'b', RunOptions(quiet=True, minutes=1e-9))
    assert torch.equal(learn(task, M, tmp_path/'b', QUIET)[0].images, d.images)

def test_the_rate_has_a_floor(task, tmp_path):
    d = learn(task, method_of(M, lr_teacher=1e-4), tmp_path, QUIET)[0]
    assert d.lr.item() >= 1e-3

def test_a_weight_of_nothing_is_trajectories_alone(task):
    "Beside the images of its hallucinators, the loss is that of MTT."
    d, m = M.start(task), method_of(M, lambda_apart=0.)
    loss, mtt = m.phases(d, task, QUIET), m.follow(task, QUIET, d.aug)
    assert loss(d).item() == pytest.approx(mtt(d).item(), rel=1e-6)

@pytest.mark.parametrize('own, said', [(dict(hallucinators=1), 'hallucinators is 1; it must be at least 2'), (dict(lambda_apart=-1.), 'lambda_apart is -1'), (dict(aug='crops'), "augmentation 'crops'")])
def test_what_cannot_be(task, tmp_path, own, said):
    with pytest.raises(ValueError, match=said): learn(task, method_of('haba', **own), tmp_path/'none')
    assert not (tmp_path/'none').exists()

def test_a_smoke_run(task, tmp_path): assert learn(task, smoke_of(METHODS['haba']()), tmp_path/'smoke', QUIET)[1].it == 1

def test_a_row_that_prints_a_rate_alone_takes_lines_of_its_budget():
    one, ten = (recipe(f'd3/table3/cifar10/haba/rate{r}') for r in ('0.02', '0.2'))
    assert (one['syn_steps'], ten['syn_steps'], one['lr_teacher'], ten['lr_teacher']) == (50, 30, .01, .001)
    assert one.budget is None and one['ipc'] == 1 and one.kind == 'decided'
