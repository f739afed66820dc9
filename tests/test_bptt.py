"DD, LD and RaT-BPTT: PyTorch's own graph beside ours, windows, cut gradients, runs that go on, and what is refused."
from functools import partial
from types import SimpleNamespace

import pytest, torch
from torch.nn import functional as F

from dd_repro.bptt import *
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seed_of, seeded
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import to_vector
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of
from dd_repro.soft import SoftPixels

torch.set_num_threads(1)
net_fn, QUIET = partial(ConvNet, 1, 10, 8, 8, 1), RunOptions(quiet=True)
SHORT = dict(iterations=3, syn_steps=4, batch_real=3)


@pytest.fixture(scope='module')
def data():
    real, test = load('digits')
    return real.subset(torch.arange(0, 1400, 4)), test

@pytest.fixture
def task(data): return Task(*data, net_fn)

def same(a, b): return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))

def by_hand(task, m, d, leaves):
    "The loss once more, for leaves (images, logits or None, rate): modules, one graph through all steps of the window."
    x, logits, lr = leaves
    rng = rng_for(task.seed, 'LossAfter')
    with seeded(seed_of(rng)): net = net_fn()
    W = m.window or m.syn_steps
    n = int(torch.randint(W, m.syn_steps + 1, (), generator=rng))
    draws = d.steps(n, m.batch_syn, rng)
    [seed_of(rng) for _ in draws]
    ps = {k: p.detach() for k, p in net.named_parameters()}
    y = d.y.detach() if logits is None else None
    for i, draw in enumerate(draws):
        idx = draw.args[0]
        if i <= n - W: ps = {k: p.detach().requires_grad_() for k, p in ps.items()}
        target = y[idx] if logits is None else logits[idx].softmax(1)
        loss = F.cross_entropy(torch.func.functional_call(net, ps, (x[idx],)), target)
        inside = i >= n - W
        gs = torch.autograd.grad(loss, list(ps.values()), create_graph=inside)
        rate = lr if inside else lr.detach()
        ps = {k: p - rate*g for (k, p), g in zip(ps.items(), gs)}
    xs, ys = [], []
    for c in range(10):
        k = min(m.batch_real, int((task.real.y == c).sum()))
        xs.append(task.real.of_class(c, k, rng))
        ys += [c]*k
    return F.cross_entropy(torch.func.functional_call(net, ps, (torch.cat(xs),)), torch.tensor(ys)), n

@pytest.mark.parametrize('kw', [dict(), dict(window=2), dict(window=1, batch_syn=4), dict(learn='labels', init='real'), dict(learn='both', window=3), dict(ipc=2, batch_syn=7, learn='both')])
@pytest.mark.parametrize('seed', [0, 1])
def test_gradients_are_those_of_one_graph(data, kw, seed):
    task, m = Task(*data, net_fn, seed), DDMethod(syn_steps=6, batch_real=5, lr_teacher=.2, **kw)
    d = m.start(task)
    loss = m.phases(d, task, QUIET)(d)
    loss.backward()
    soft = m.learn != 'images'
    leaves = [d.images, d.labels if soft else None, d.lr]
    mine = [None if p is None else p.detach().clone().requires_grad_() for p in leaves]
    want, n = by_hand(task, m, d, mine)
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-5)
    for p, q in zip(leaves, mine):
        if p is None: continue
        g, = torch.autograd.grad(want, q, retain_graph=True)
        if not p.requires_grad: assert p.grad is None; continue
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-5*float(g.abs().max()) + 1e-7)
    assert (m.window or 6) <= n <= 6

def test_walks_have_every_length_from_the_window_on(task):
    m, seen = DDMethod(syn_steps=5, window=2, batch_real=1), []
    d = m.start(task)
    o, draw = m.phases(d, task, QUIET), d.steps
    d.steps = lambda n, b, rng: seen.append(n) or draw(n, b, rng)
    for _ in range(40): o(d)
    assert set(seen) == {2, 3, 4, 5}

def test_long_gradients_are_cut_at_twice_the_mean():
    o, d = LossAfter.__new__(LossAfter), Pixels(torch.zeros(1, 1, 1, 1), torch.tensor([0]), 1)
    o.clip, o.norm, got, mean = .9, float('nan'), [], None
    for g in (2., 1., 30., 2., 100.):
        d.images.grad = None
        LossAfter.__call__, was = (lambda self, d, g=g: (g*d.images).sum()), LossAfter.__call__
        try: o.backward(d)
        finally: LossAfter.__call__ = was
        mean = g if mean is None else .9*mean + .1*g
        assert d.images.grad.item() == pytest.approx(min(g, 2*mean), rel=1e-5)
        assert o.norm == pytest.approx(mean)

@pytest.mark.parametrize('name, moved, still', [('dd', ['images', 'lr'], []), ('ld', ['labels', 'lr'], ['images']), ('rat', ['images', 'lr'], [])])
def test_what_is_learned_moves_and_nothing_else(task, tmp_path, name, moved, still):
    kw = dict(window=2) if name == 'rat' else {}
    m = method_of(name, **SHORT, **kw)
    d, begin = learn(task, m, tmp_path, QUIET)[0], m.start(task)
    for k in moved: assert not torch.equal(d.groups()[k][0], begin.groups()[k][0]), k
    for k in still: assert torch.equal(d.groups()[k][0], begin.groups()[k][0]), k
    again = Distilled.load(tmp_path/'distilled.safetensors')
    assert same(d, again) and type(again) is (SoftPixels if name == 'ld' else Pixels)

def test_the_rate_stays_where_its_step_is_zero(task, tmp_path):
    d = learn(task, DDMethod(**SHORT, lr_lr=0., lr_teacher=.03), tmp_path, QUIET)[0]
    assert d.lr.item() == pytest.approx(.03)

@pytest.mark.parametrize('kw', [dict(), dict(learn='both'), dict(learn='labels')])
def test_a_stopped_run_goes_on_to_the_same_set(task, tmp_path, kw):
    m = RaTMethod(**SHORT, window=2, **kw)
    whole = learn(task, m, tmp_path/'a', QUIET)[0]
    first = learn(task, m, tmp_path/'b', RunOptions(quiet=True, minutes=1e-9))[1]
    assert first.stopped == 'time' and same(learn(task, m, tmp_path/'b', QUIET)[0], whole)

def test_kept_graphs_do_not_change_the_bits(task, tmp_path):
    sets = [learn(task, DDMethod(**SHORT), tmp_path/str(k), RunOptions(quiet=True, keep=k))[0] for k in (0, 2, None)]
    assert same(sets[0], sets[1]) and same(sets[0], sets[2])

def test_labels_begin_near_their_class(task):
    d = LDMethod(ipc=2).start(task)
    assert torch.allclose(d.y.max(1).values, torch.full((20,), .91), atol=1e-5) and (d.hard() == torch.arange(10).repeat_interleave(2)).all()
    assert torch.equal(d.images, Pixels.from_real(task.real, 2).images)

def test_images_get_better_for_a_student(task, tmp_path):
    r = learn(task, DDMethod(iterations=40, syn_steps=8, batch_real=20, lr_img=.05, lr_lr=1e-3, lr_teacher=.05), tmp_path, QUIET)[1]
    losses = [h['loss'] for h in r.history]
    assert sum(losses[-5:]) < .9*sum(losses[:5])

@pytest.mark.parametrize('name, kw, says', [('dd', dict(window=31), 'window is 31; a student takes 30 steps'), ('rat', dict(syn_steps=5), 'window is 60; a student takes 5 steps'), ('ld', dict(learn='lr'), "learn='lr' is not one of"),
    ('dd', dict(lr_lr=-1.), 'lr_lr is -1.0'), ('rat', dict(clip=2.), 'clip is 2.0'), ('dd', dict(aug='blur'), 'blur'), ('dd', dict(batch_real=0), 'batch_real is 0')])
def test_settings_that_cannot_be(name, kw, says):
    with pytest.raises(ValueError, match=f'^[^\n]*{says}[^\n]*$'): method_of(name, **kw)

@pytest.mark.parametrize('name', ['dd', 'ld', 'rat'])
def test_a_smoke_run(task, tmp_path, name):
    assert learn(task, smoke_of(METHODS[name]()), tmp_path, QUIET)[1].it == 1

@pytest.mark.parametrize('name', ['dd', 'ld', 'rat'])
@pytest.mark.parametrize('aug', ['', 'rotate'])
def test_the_augmentation_that_was_used_is_recorded(tmp_path, name, aug):
    real, test = load('digits', size=8)
    few = dict(iterations=1, syn_steps=2, batch_real=2, aug=aug) | (dict(window=1) if name == 'rat' else {})
    d, _ = learn(Task(real, test, partial(ConvNet, 1, 10, 8, 4, 1)), METHODS[name](**few), tmp_path, RunOptions(quiet=True))
    assert d.info['settings']['aug'] == aug
