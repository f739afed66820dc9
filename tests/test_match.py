"Gradient and distribution matching against plain float64 versions; where gradients go; a network's life, killed and continued; refused settings."
import multiprocessing, os, signal
from functools import partial

import numpy as np
import pytest, torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from dd_repro.augment import ALL_DSA, DSA, noop
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seed_of, seeded
from dd_repro.sets import ImageStream, ImageTensors
from dd_repro.distilled import Distilled, Pixels
from dd_repro.loop import distill
from dd_repro.match import DC, DM, Matching, dc_loops, match_loss
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of

FRESH = multiprocessing.get_context('forkserver')
FRESH.set_forkserver_preload(['pytest', 'torch._dynamo', 'dd_repro.match'])
small = partial(ConvNet, n_in=2, n_out=3, size=8, width=4, depth=2)
double = lambda: small().double()
SIA = DSA(siamese=True)

@pytest.fixture
def real():
    "Sixteen images of three classes, unevenly many, two channels, double."
    y = torch.tensor([0]*7 + [1]*4 + [2]*5)
    return ImageTensors(torch.randn(16, 2, 8, 8, generator=rng_for('toy'), dtype=torch.float64), y, 3, name='toy')

def synth(real, ipc=2): return Pixels.from_real(real, ipc, seed=3, arch=small().arch).double()

# --- what the equations say, written out
def distance(a, b, kind):
    "Row by row, in Python."
    total = 0.
    for p, q in zip(a, b):
        if p.ndim == 1 or (kind == 'mse' and p.ndim == 2): continue
        for r, s in zip(p.reshape(p.shape[0], -1), q.reshape(q.shape[0], -1)):
            total = total + (((r - s)**2).sum() if kind == 'mse' else 1 - (r@s)/((r@r).sqrt()*(s@s).sqrt() + 1e-6))
    return total

def reference(net, real, d, kind='cosine', aug=noop, rng=None, batch=1000):
    "DC's value as a function of the images, class after class, with the draws that a generator gives."
    ps, total = list(net.parameters()), 0.
    for c in range(real.n_classes):
        n = int((real.y == c).sum())
        x, s = real.of_class(c, min(batch, n), rng), d.images[d.y == c]
        draw = aug.draw(n, rng)
        g = [torch.autograd.grad(F.cross_entropy(net(aug.apply(v, *draw)), torch.full((len(v),), c)), ps, create_graph=True) for v in (x, s)]
        total = total + distance(g[1], [t.detach() for t in g[0]], kind)
    return total

@pytest.mark.parametrize('aug', [noop, SIA], ids=['plain', 'dsa'])
@pytest.mark.parametrize('together', [True, False])
@pytest.mark.parametrize('kind', ['cosine', 'mse'])
def test_dc_is_the_equation(real, kind, together, aug):
    for seed in range(3 if aug is SIA else 1):
        d, dc = synth(real), DC(real, double, Matching(batch_real=3, loss=kind), aug, together=together, seed=seed)
        assert dc.at_once(d) is together
        state = dc.rng.get_state()
        want = reference(dc.net, real, d, kind, aug, dc.rng, 3)
        g, = torch.autograd.grad(want, d.images)
        dc.rng.set_state(state)
        assert torch.allclose(dc.backward(d), want.detach(), rtol=1e-10)
        assert torch.allclose(d.images.grad, g, rtol=1e-7, atol=1e-9*g.abs().max())

def test_dc_gradient_is_the_slope(real):
    "Against differences of the value in single pixels."
    d, dc = synth(real), DC(real, double)
    dc.backward(d)
    for i in torch.randint(d.images.numel(), (6,), generator=rng_for(1)).tolist():
        up, down = (reference(dc.net, real, moved(d, i, e)).item() for e in (1e-5, -1e-5))
        assert abs((up - down)/2e-5 - d.images.grad.flatten()[i].item()) < 1e-5*max(1., d.images.grad.abs().max().item())

def moved(d, i, e):
    x = d.images.detach().clone(); x.view(-1)[i] += e
    return Pixels(x, d.y, d.n_classes)

def test_match_loss_shapes():
    g = [torch.randn(*s, generator=rng_for(0), dtype=torch.float64) for s in ((4, 3, 3, 3), (4,), (5, 7), (5,))]
    h = [torch.randn(*t.shape, generator=rng_for(1), dtype=torch.float64) for t in g]
    for kind in ('cosine', 'mse'): assert torch.allclose(match_loss(g, h, kind), distance(g, h, kind))
    assert torch.allclose(match_loss(g, h, 'mse', fc=True), (g[0] - h[0]).square().sum() + (g[2] - h[2]).square().sum())
    z = [torch.zeros_like(t).requires_grad_() for t in g]
    match_loss(z, h).backward()
    assert z[0].grad.isfinite().all()                                  # a gradient of exactly zero is no accident: dead units have it

@pytest.mark.parametrize('together', [True, False])
def test_only_the_images_learn(real, together):
    d, dc = synth(real), DC(real, double, Matching(outer=3), SIA, together)
    for _ in range(2): dc.backward(d); dc.after(d)
    assert d.images.grad.abs().sum() > 0 and d.lr.grad is None and real.x.grad is None
    assert all(p.grad is None and p.requires_grad for p in dc.net.parameters())

def test_classes_of_different_sizes_take_the_loop(real):
    dc = DC(real, double)
    d = Pixels(torch.cat([real.x[:3], real.x[7:9], real.x[11:12]]), torch.tensor([0, 0, 0, 1, 1, 2]), 3)
    assert not dc.at_once(d)
    want = reference(dc.net, real, d)
    assert torch.allclose(dc.backward(d), want.detach()) and torch.allclose(d.images.grad, torch.autograd.grad(want, d.images)[0])
    assert torch.allclose(dc(d), want)                                 # called, it is a scalar like any objective

def test_batch_syn_takes_some(real):
    d, dc = synth(real, 3), DC(real, double, Matching(batch_syn=1))
    dc.backward(d)
    assert [int((d.images.grad[d.y == c].flatten(1).abs().sum(1) > 0).sum()) for c in range(3)] == [1, 1, 1]

# --- the network's life
def test_network_trains_on_the_set(real):
    d, dc = synth(real), DC(real, double, Matching(3, 4, net_lr=.1))
    twin = double(); twin.load_state_dict(dc.net.state_dict())
    dc.after(d)
    opt = SGD(twin.parameters(), .1)
    for _ in range(4): opt.zero_grad(); F.cross_entropy(twin(d.images.detach()), d.y).backward(); opt.step()
    for p, q in zip(dc.net.parameters(), twin.parameters()): assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)

def test_epochs_on_the_set_batches_of_real(real):
    d = synth(real)
    n = lambda **kw: [len(x) for x, _ in DC(real, double, Matching(2, 3, batch_train=4, **kw)).training(d)]
    assert sorted(n()) == [2, 2, 2, 4, 4, 4] and n(train_on='real') == [4, 4, 4]
    assert len(list(DC(real, double, Matching(2, 9, batch_train=8, train_on='real')).training(d))) == 9      # more than one pass

def test_network_trains_on_real(real):
    d, dc = synth(real), DC(real, double, Matching(3, 2, batch_train=16, net_lr=.1, train_on='real', loss='mse'))
    twin = double(); twin.load_state_dict(dc.net.state_dict())
    dc.after(d)
    opt = SGD(twin.parameters(), .1)
    for _ in range(2): opt.zero_grad(); F.cross_entropy(twin(real.x), real.y).backward(); opt.step()
    for p, q in zip(dc.net.parameters(), twin.parameters()): assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)

def test_a_new_network_after_outer_steps(real):
    d, dc = synth(real), DC(real, double, Matching(outer=2))
    first = dc.net
    dc.after(d); assert dc.net is first and dc.at == 1
    dc.after(d); assert dc.net is not first and dc.at == 0
    assert not torch.equal(dc.net.head.weight, first.head.weight)

def test_batch_norm_is_measured_and_held():
    real = ImageTensors(torch.randn(60, 2, 8, 8, generator=rng_for(0))*3 + 1, torch.arange(60) % 3, 3)
    dc, d = DC(real, partial(small, norm='batch'), Matching(outer=3)), Pixels.from_real(real, 1)
    assert not dc.at_once(d)
    dc.backward(d)
    bn = dc.net.blocks[0][1]
    assert not bn.training and bn.num_batches_tracked == 1 and d.images.grad.isfinite().all()
    dc.after(d); assert bn.training                                    # its own training is ordinary
    dc.backward(d); assert not bn.training

# --- DM
@pytest.mark.parametrize('aug', [noop, SIA], ids=['plain', 'dsa'])
@pytest.mark.parametrize('piece', [2, 1000])
def test_dm_is_the_class_loop(real, aug, piece):
    for seed in range(3 if aug is SIA else 1):
        d, dm, rng = synth(real), DM(real, double, batch_real=5, aug=aug, piece=piece, seed=seed), rng_for(seed, 'DM')
        with seeded(seed_of(rng)): net = double()
        draw = aug.draw(1, rng)
        xs = [real.of_class(c, min(5, int((real.y == c).sum())), rng) for c in range(3)]
        want = sum((net.embed(aug.apply(x, *draw)).mean(0).detach() - net.embed(aug.apply(d.images[d.y == c], *draw)).mean(0)).square().sum() for c, x in enumerate(xs))
        value = dm(d)
        assert torch.allclose(value, want, rtol=1e-10)
        g, h = (torch.autograd.grad(v, d.images)[0] for v in (value, want))
        assert torch.allclose(g, h, rtol=1e-8, atol=1e-12)

def test_dm_has_a_new_network_each_time(real):
    d, dm = synth(real), DM(real, double, batch_real=1000)
    a, b = dm(d).item(), dm(d).item()
    s = dm.state_dict(); c = dm(d).item(); dm.load_state_dict(s)
    assert len({a, b, c}) == 3 and dm(d).item() == c
    (2*dm + dm)(d).backward()                                          # a term like any other

def test_images_may_stay_on_disk():
    "A stream gives the same value and gradient as the same images in memory."
    class Disk:
        targets = [i % 3 for i in range(12)]
        def __len__(self): return 12
        def __getitem__(self, i): return Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)), self.targets[i]
    stream, net = ImageStream(Disk(), 3, 8), partial(small, n_in=3)
    held = stream.held()
    how = Matching(2, 2, 3, train_on='real', batch_train=5)
    for method in (partial(DC, how=how), partial(DM, batch_real=3)):
        got = []
        for real in (stream, held):
            d, o = Pixels.from_real(held, 1), method(real, net)
            for _ in range(2): v = o.backward(d); o.after(d)
            got.append((v, d.images.grad))
        assert torch.allclose(got[0][0], got[1][0], rtol=1e-5) and torch.allclose(got[0][1], got[1][1], rtol=1e-4, atol=1e-6)

# --- a run that ends at the worst moment
KW = dict(net_fn=small, method='dsa', ipc=2, iterations=2, outer=4, inner=2, batch_real=3, lr_img=.5, quiet=True)

def distilled(real, out, method, net_fn, seed=0, every=100, callbacks=(), quiet=True, **settings):
    "(a set by a method, its run)"
    run = RunOptions(every=every, callbacks=callbacks, quiet=quiet)
    return learn(Task(real, net_fn=net_fn, seed=seed), method_of(method, **settings), out, run)

def toy(): return ImageTensors(torch.randn(18, 2, 8, 8, generator=rng_for('toy')), torch.arange(18) % 3, 3, name='toy')

def killed(out, at):
    "A run that is killed after update `at`, one after its last checkpoint."
    torch.set_num_threads(1)
    distilled(toy(), out, every=2, callbacks=[lambda run: os.kill(os.getpid(), signal.SIGKILL) if run.it == at else None], **KW)

@pytest.mark.parametrize('at', [3, 7])
def test_killed_and_continued(tmp_path, at):
    torch.set_num_threads(1)
    whole, run = distilled(toy(), tmp_path/'whole', callbacks=[lambda r: None], **KW)
    p = FRESH.Process(target=killed, args=(tmp_path/'cut', at)); p.start(); p.join()
    assert p.exitcode == -signal.SIGKILL and not (tmp_path/'cut'/'distilled.safetensors').exists()
    rest, again = distilled(toy(), tmp_path/'cut', callbacks=[lambda r: None], **KW)
    assert run.it == again.it == 8 and torch.equal(whole.images, rest.images)
    assert [h['loss'] for h in run.history] == [h['loss'] for h in again.history]

@pytest.mark.parametrize('kw', [dict(method='dm'), dict(method='dc')], ids=['dm', 'dc'])
def test_stopped_anywhere(tmp_path, kw):
    kw = KW | kw
    if kw['method'] == 'dm': kw = {k: v for k, v in kw.items() if k not in ('outer', 'inner')} | dict(iterations=3)
    whole, run = distilled(toy(), tmp_path/'whole', callbacks=[lambda r: None], **kw)
    for at in range(1, run.it):
        half = lambda r: setattr(r, 'stopped', 'time' if r.it == at else None)
        distilled(toy(), tmp_path/str(at), callbacks=[half], **kw)
        assert torch.equal(whole.images, distilled(toy(), tmp_path/str(at), callbacks=[lambda r: None], **kw)[0].images), at

def test_other_settings_are_another_run(tmp_path):
    distilled(toy(), tmp_path, **KW)
    for change in (dict(inner=3), dict(lr_img=.4), dict(batch_real=2), dict(method='dc'), dict(seed=1), dict(momentum=.4), dict(init='noise'), dict(aug='crop')):
        with pytest.raises(ValueError, match='other settings'): distilled(toy(), tmp_path, **(KW | change))

def test_artefact(tmp_path):
    d, _ = distilled(toy(), tmp_path, **KW)
    e = Distilled.load(tmp_path/'distilled.safetensors')
    assert torch.equal(e.images, d.images) and e.protocol == 'dsa' and e.arch == small().arch
    s = e.info['settings']
    assert (s['method'], s['outer'], s['iterations'], e.info['iterations']) == ('dsa', 4, 2, 2)

# --- settings
def test_official_settings():
    dc, dsa, dm = (METHODS[m] for m in ('dc', 'dsa', 'dm'))
    assert [(m.iterations, m.rate, m.init, m.batch_real, m.protocol, m.momentum) for m in (dc(ipc=10), dsa(ipc=10), dm(ipc=10))] == [
        (1000, .1, 'noise', 256, 'dc', .5), (1000, .1, 'real', 256, 'dsa', .5), (20000, 1., 'real', 256, 'dsa', .5)]
    assert dc(ipc=10).loops == (10, 50) == dc_loops(10) and (dc(ipc=10).updates, dm(ipc=10).updates) == (10, 1)
    assert [dm(ipc=n).rate for n in (1, 50, 100)] == [1., 1., 10.] and dm(ipc=100, lr_img=3.).rate == 3.
    assert dc(ipc=7, outer=2, inner=3).loops == (2, 3) and dc(ipc=10, inner=3).loops == (10, 3)

@pytest.mark.parametrize('method, aug', [('dc', ''), ('dsa', ALL_DSA), ('dm', ALL_DSA)])
def test_the_augmentation_suits_the_set(tmp_path, method, aug):
    "All of DSA, but digits are not mirrored; the card says what was taken."
    kw = {k: v for k, v in KW.items() if k != 'method'} | dict(iterations=1, method=method)
    if method == 'dm': del kw['outer'], kw['inner']
    digits = toy()
    digits.name = 'digits'
    for real, want in ((toy(), aug), (digits, aug.replace('_flip', ''))):
        d, _ = distilled(real, tmp_path/real.name, **kw)
        assert d.aug == d.info['settings']['aug'] == want

def test_students_may_have_another_network_than_the_one_to_distil_with(tmp_path):
    other, method = small(width=6).arch, method_of('dm', iterations=1, batch_real=3)
    d, _ = learn(Task(toy(), net_fn=small, arch=other), method, tmp_path, RunOptions(quiet=True))
    assert d.arch == other and d.info['settings']['net'] == small().arch
    with pytest.raises(ValueError, match='other settings.*net.width: 4, here 6'):
        learn(Task(toy(), net_fn=partial(small, width=6), arch=other), method, tmp_path, RunOptions(quiet=True))

@pytest.mark.parametrize('kw, msg', [
    (dict(batch_real=0), 'batch_real is 0'), (dict(outer=0), 'outer is 0'), (dict(inner=-1), 'inner is -1'), (dict(batch_syn=0), 'batch_syn is 0'),
    (dict(batch_train=0), 'batch_train is 0'), (dict(loss='l1'), "'l1' is not one of cosine, mse"), (dict(train_on='test'), "'test' is not one of syn, real"),
    (dict(net_lr=0.), 'net_lr is 0.0')])
def test_refused_matching(kw, msg):
    with pytest.raises(ValueError, match=msg): Matching(**kw)

@pytest.mark.parametrize('kw, msg', [(dict(aug=DSA()), 'siamese=True'), (dict(net_fn=partial(small, n_in=3)), 'the network expects .3, 8, 8')])
def test_refused_by_dc(real, kw, msg):
    with pytest.raises(ValueError, match=msg): DC(real, **(dict(net_fn=small) | kw))

@pytest.mark.parametrize('kw, msg', [(dict(batch_real=0), 'batch_real is 0'), (dict(piece=0), 'piece is 0'), (dict(aug=DSA('crop')), 'siamese=True')])
def test_refused_by_dm(real, kw, msg):
    with pytest.raises(ValueError, match=msg): DM(real, small, **kw)

def test_refused_networks_and_sets(real):
    with pytest.raises(ValueError, match='Sequential has no embed'): DM(real, lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 3)))
    with pytest.raises(ValueError, match="class '1' has no images"): DC(ImageTensors(torch.randn(2, 2, 8, 8), torch.tensor([0, 2]), 3), small)
    other = Pixels(torch.randn(4, 2, 8, 8), torch.arange(4), 4)
    for o in (DC(real, double), DM(real, double)):
        with pytest.raises(ValueError, match='the set has 4 classes and the real data 3'): o(other)
    with pytest.raises(ValueError, match='adds its gradient by itself'): DC(real, double) + DM(real, double)

@pytest.mark.parametrize('kw, msg', [
    (dict(method='dcc'), "'dcc' is not known; did you mean dc"), (dict(ipc=7), '7 images|no stated loops for ipc 7'), (dict(ipc=8, outer=1, inner=1), '8 images'),
    (dict(ipc=0), 'ipc'), (dict(iterations=0), 'iterations is 0'), (dict(lr_img=-1.), 'lr_img is -1.0; it must be above 0'), (dict(lr_img=float('nan')), 'lr_img is nan; it must be a finite number'),
    (dict(init='zeros'), "'zeros' is not one of real, noise"), (dict(batch_real=-3), 'batch_real is -3'), (dict(syn_steps=3), "'syn_steps' is no setting of dsa"),
    (dict(aug='blur'), "'blur'"), (dict(every=0), 'every is 0'), (dict(method='dm'), "'outer' is no setting of dm"), (dict(momentum=-.1), 'momentum is -0.1; it must be at least 0'),
    (dict(outer=0), 'outer is 0; it must be at least 1'), (dict(inner=-1), 'inner is -1'), (dict(net_lr=0.), 'net_lr is 0.0; it must be above 0'), (dict(batch_train=0), 'batch_train is 0')])
def test_refused_before_anything_is_written(tmp_path, kw, msg):
    base = {k: v for k, v in KW.items() if k not in (('outer', 'inner') if kw.get('ipc') == 7 else ())}
    with pytest.raises(ValueError, match=msg): distilled(toy(), tmp_path/'run', **(base | kw))
    assert not (tmp_path/'run').exists()
