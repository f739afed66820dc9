"LatentDD: against independent float64 versions, files that were tampered with, other autoencoders, resume, and the networks of table 8."
from functools import partial

import pytest, torch
from torch.nn import functional as F

from dd_repro.autoenc import AutoEncoder, TinyAE, train_tiny
from dd_repro.core import rng_for, seed_of, seeded
from dd_repro.files import load_tensors, save_tensors
from dd_repro.sets import ImageTensors
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.latent import (InitialMethod, LatentCodes, LatentDCMethod, LatentDMMethod, LatentMTTMethod, code_depth, codes_space, encode_set, latent_experts, latent_net,
                             lpc_for)
from dd_repro.settings import plain_settings, settings_of
from dd_repro.match import match_loss
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of
from dd_repro.students import PROTOCOLS, evaluate
from dd_repro.zoo import make_net


def refused(says, f, *a, **kw):
    with pytest.raises(ValueError, match=says) as e: f(*a, **kw)
    assert '\n' not in str(e.value)

@pytest.fixture(scope='module')
def digits():
    "Digits at 16 px, few of each class, and an autoencoder that has hardly been trained."
    real, test = load('digits', size=16)
    real = real.subset(torch.cat([(real.y == c).nonzero()[:20, 0] for c in range(10)]))
    ae = train_tiny(real, epochs=2, width=8)
    return real, test.subset(torch.arange(0, 360, 6)), ae, encode_set(real, ae, cache=False)

@pytest.fixture
def made(digits, tmp_path):
    "A saved set of codes."
    real, _, ae, codes = digits
    return LatentCodes.from_real(real, 2, ae, codes=codes), tmp_path/'codes.safetensors'

def task_of(digits, **kw):
    "The task of these digits."
    real, _, ae, codes = digits
    return Task(**(dict(real=real, net_fn=latent_net(codes, 8), ae=ae, codes=codes) | kw))

def objective(digits, method, **kw):
    "What a method matches on these digits."
    return method.phases(None, task_of(digits, **kw), RunOptions())

# --- the objectives on codes, written out again in double precision
def test_latent_dm_is_equation_7(digits):
    real, _, ae, codes = digits
    net_fn, d = latent_net(codes, 8), LatentCodes.from_real(real, 3, ae, codes=codes)
    dm = objective(digits, LatentDMMethod(batch=100))
    loss = dm(d); loss.backward()
    with seeded(seed_of(rng_for(0, 'DM'))): net = net_fn().double()
    z = d.latents.detach().double().requires_grad_()
    phi = lambda x: net.embed(x).mean(0)
    mine = sum((phi(codes.of_class(c).double()) - phi(z[3*c:3*c+3])).square().sum() for c in range(10))
    g, = torch.autograd.grad(mine, z)
    assert torch.allclose(loss.double(), mine, rtol=1e-4) and torch.allclose(d.latents.grad.double(), g, rtol=1e-3, atol=1e-5*g.abs().max())

def test_latent_dc_trains_its_network_on_real_codes_only(digits):
    real, _, ae, codes = digits
    d, dc = LatentCodes.from_real(real, 2, ae, codes=codes), objective(digits, LatentDCMethod(batch=20, outer=3, inner=2, net_lr=.05))
    net = latent_net(codes, 8)().double(); net.load_state_dict(dc.net.state_dict())
    value, params = dc.backward(d), list(net.parameters())
    grads = lambda x, c: torch.autograd.grad(F.cross_entropy(net(x.double()), torch.full((len(x),), c)), params)
    mine = sum(match_loss(grads(d.latents[2*c:2*c+2].detach(), c), grads(codes.of_class(c), c), 'mse') for c in range(10))
    assert torch.allclose(value.double(), mine, rtol=1e-4)
    before = [p.detach().clone() for p in dc.net.parameters()]
    with torch.no_grad(): d.latents.mul_(float('nan')) # whatever the learned codes are, the network does not see them
    dc.after(d)
    assert all(p.isfinite().all() for p in dc.net.parameters()) and dc.at == 1 and not torch.equal(before[0], next(dc.net.parameters()))

def test_latent_mtt_may_start_at_the_last_epoch(digits, tmp_path):
    real, _, ae, codes = digits
    buffer = latent_experts(codes, tmp_path, 1, epochs=3, width=8, lr=.1, batch=64, quiet=True)
    method = partial(LatentMTTMethod, syn_steps=1, max_start_epoch=2)
    mtt = objective(digits, method(), experts=buffer)
    starts = [buffer.segment(1, 2, mtt.rng, mtt.inclusive)[0] for _ in range(40)]
    assert {next(e for e in range(4) if torch.equal(t, buffer.snapshot(0, e))) for t in starts} == {0, 1, 2}
    for known in (codes, None): # also before anything is encoded
        refused('reach epoch 4', learn, task_of(digits, experts=buffer, codes=known), method(max_start_epoch=3), tmp_path/'x')
    assert not (tmp_path/'x').exists()

# --- what is stored, and by whom it may be read
def test_a_file_with_other_weights_inside_is_refused(made, tmp_path):
    d, p = made; d.save(p)
    t, card = load_tensors(p)
    k = next(k for k in t if 'ae_net' in k)
    save_tensors(p, t | {k: t[k] + .01}, card)
    refused('incomplete artefact .*these codes belong to', Distilled.load, p)

def test_a_file_without_its_autoencoder_is_refused(made):
    d, p = made; d.save(p); t, card = load_tensors(p)
    save_tensors(p, {k: v for k, v in t.items() if 'ae_net' not in k}, card)
    refused('incomplete artefact', Distilled.load, p)
    p.write_bytes(p.read_bytes()[:-40]); refused('truncated', Distilled.load, p)

def test_a_public_autoencoder_stays_outside(digits, tmp_path, monkeypatch):
    real, _, ae, codes = digits
    public = AutoEncoder(ae.net, 'taesd', 4, 4, ae.scale, 4, 1)
    d = LatentCodes.from_real(real, 2, public)
    assert public.hash == ae.hash and not any('ae_net' in k for k in load_tensors(d.save(tmp_path/'c.safetensors'))[0])
    monkeypatch.setenv('DD_DATA', str(tmp_path)); monkeypatch.setattr('dd_repro.autoenc._from_hub', lambda name, known, put: (_ for _ in ()).throw(ValueError(f'{name}: no file {put}')))
    e = Distilled.load(tmp_path/'c.safetensors')           # codes can be read without the weights,
    assert torch.equal(e.latents, d.latents)
    refused(f'taesd: no file {tmp_path}', e.decoded)         # pictures cannot
    assert torch.equal(e.attach(public).decoded(), d.decoded())
    refused('at f = 4; this one is taesd .* at f = 2', Distilled.load(tmp_path/'c.safetensors').attach, AutoEncoder(ae.net, 'taesd', 2, 4, ae.scale, 4, 1))

def test_decoding_happens_once_and_follows_the_codes(made, monkeypatch):
    d, _ = made
    calls, decode = [], AutoEncoder.decode
    monkeypatch.setattr(AutoEncoder, 'decode', lambda self, *a: (calls.append(1), decode(self, *a))[1])
    for e in range(3): list(d.epoch(e, 8, rng_for(e)))
    assert len(calls) == 1
    with torch.no_grad(): d.latents += .1
    list(d.epoch(0, 8)); d.latents.data[0, 0, 0, 0] = 7; list(d.epoch(0, 8))
    assert len(calls) == 3
    assert sorted(torch.cat([y for _, y in d.epoch(0, 8, rng_for(0))]).tolist()) == d.y.tolist()

def test_codes_and_pixels_start_from_the_same_pictures(digits):
    real, _, ae, codes = digits
    d, px = LatentCodes.from_real(real, 2, ae, seed=3), Pixels.from_real(real, 2, seed=3)
    assert torch.allclose(d.latents, ae.encode(px.images, real.norm), atol=1e-4)
    assert torch.allclose(LatentCodes.from_real(real, 2, ae, seed=3, codes=codes).latents, d.latents, atol=1e-4)

# --- runs
@pytest.mark.parametrize('method', ['latent-dm', 'latent-dc', 'latent-mtt'])
def test_resume_is_exact(digits, tmp_path, method):
    real, _, ae, codes = digits
    own = {'latent-dm': dict(iterations=4), 'latent-dc': dict(iterations=2, outer=2, inner=1), 'latent-mtt': dict(iterations=4, syn_steps=2, max_start_epoch=1, lr_base=.1)}[method]
    buffer = latent_experts(codes, tmp_path/'e', 1, epochs=2, width=8, quiet=True) if method == 'latent-mtt' else None
    task = task_of(digits, experts=buffer)
    def go(out, callback=lambda r: None, **kw): return learn(task, method_of(method, lpc=2, **own | kw), out, RunOptions(quiet=True, callbacks=[callback]))
    whole, _ = go(tmp_path/'whole')
    half, run = go(tmp_path/'half', lambda r: setattr(r, 'stopped', 'time' if r.it == 3 else None))
    rest, _ = go(tmp_path/'half')
    assert run.it == 3 and torch.equal(whole.latents, rest.latents) and not torch.equal(half.latents, rest.latents)
    refused('other settings', go, tmp_path/'half', lr_base=3.)
    assert torch.equal(Distilled.load(tmp_path/'whole'/'distilled.safetensors').latents, whole.latents)

def test_codes_that_a_run_makes_are_those_that_it_is_given(digits, tmp_path):
    "The task stays as it was, and its folder keeps the codes."
    real, _, ae, codes = digits
    task, method = task_of(digits, codes=None, folder=tmp_path/'codes'), LatentDMMethod(lpc=2, iterations=2)
    a, b = (learn(t, method, tmp_path/k, RunOptions(quiet=True))[0] for k, t in (('made', task), ('given', task_of(digits))))
    assert torch.equal(a.latents, b.latents) and task.codes is None and len(list((tmp_path/'codes').iterdir())) == 1
    assert a.info['settings'] == b.info['settings'] and a.info['settings']['codes'] == codes.key

@pytest.mark.parametrize('own, want', [({}, dict(width=8, size=16, depth=2)), (dict(net_fn=None), dict(width=128, size=16)), (dict(arch=dict(name='x')), dict(name='x'))], ids=str)
def test_the_network_of_students(digits, tmp_path, own, want):
    "The task's, or one for pictures as wide as the one that sees codes; the card has both."
    d, run = learn(task_of(digits, **own), InitialMethod(lpc=1), tmp_path)
    net = (own.get('net_fn', latent_net(digits[3], 8)) or latent_net(digits[3]))().arch
    assert want.items() <= d.arch.items() and d.info['settings']['net'] == net and run is None

def column(method, size, ipc, f):
    "What the settings table has for a column of table 6."
    return plain_settings(method, resolution=size, budget=ipc, variant=[f'f={f}'])

@pytest.mark.parametrize('lpc, ipc, rate', [(3, 1, .3), (None, 1, .4), (None, 2, .8)])
def test_the_rate_is_for_one_code(digits, lpc, ipc, rate):
    real, _, ae, codes = digits
    method, task = LatentDMMethod(lr_base=.1, lpc=lpc, ipc=ipc, momentum=.2), task_of(digits)
    opt = method.opts(method.start(task))['latents']([torch.zeros(1, requires_grad=True)])
    assert opt.defaults['lr'] == pytest.approx(rate) and opt.defaults['momentum'] == .2

def test_the_defaults_are_those_of_table_6(digits):
    for name in ('latent-dc', 'latent-dm', 'latent-mtt'):
        stated, s = column(name, 256, 1, 4), METHODS[name]().settings()
        assert {'lr_base', 'batch', 'iterations'} <= set(stated)
        assert {k: s[k] for k in stated if k in s} == {k: v for k, v in stated.items() if not k.startswith('depth')}

def test_students_see_pictures_under_cutmix(digits):
    real, test, ae, codes = digits
    row, = evaluate(LatentCodes.from_real(real, 3, ae, codes=codes), test, 'convnet', PROTOCOLS['latentdd'].scaled(kind='smoke', epochs=2), 1)
    assert 'decoded once' in row.deviations and 'not counted' in row.deviations and 'epochs 2 (latentdd: 1001)' in row.deviations
    assert 'cutmix' in PROTOCOLS['latentdd'].aug and 'cutout' not in PROTOCOLS['latentdd'].aug and PROTOCOLS['latentdd'].lr == .01

@pytest.mark.parametrize('name', ['alexnet', 'vgg11', 'resnet18'])
def test_networks_of_table_8_take_256_px(name):
    net = make_net(name, 3, 10, 256)
    with torch.no_grad(): assert net(torch.zeros(1, 3, 256, 256)).shape == (1, 10)
    if name == 'resnet18': assert net.body.conv1.kernel_size == (7, 7) and net.body.conv1.stride == (2, 2) and 'maxpool' in dict(net.body.named_children()) # ImageNet's stem

@pytest.mark.parametrize('method, size, ipc, f, want', [
    ('latent-dc', 256, 1, 4, dict(lr_base=.05, outer=10, inner=50)), ('latent-dc', 512, 1, 4, dict(lr_base=.25, batch=32)),
    ('latent-dm', 512, 1, 8, dict(lr_base=.1, batch=16)), ('latent-mtt', 256, 10, 4, dict(lr_base=10., syn_steps=80)),
    ('latent-mtt', 256, 1, 8, dict(lr_base=1., syn_steps=60, iterations=5000, max_start_epoch=5))])
def test_table_6(method, size, ipc, f, want):
    s = column(method, size, ipc, f)
    assert {k: s[k] for k in want} == want
    stated = settings_of(method, resolution=size, budget=ipc, variant=[f'f={f}'])
    assert code_depth(size//f) == stated['net_depth'].value

@pytest.mark.parametrize('method, size, ipc, f', [('latent-dc', 128, 1, 4), ('latent-dm', 512, 10, 8), ('latent-mtt', 256, 10, 8), ('latent-mtt', 16, 1, 2)])
def test_a_column_that_table_6_has_not(method, size, ipc, f):
    assert 'lr_base' not in column(method, size, ipc, f)

# --- bad input
def test_bad_input(digits, tmp_path):
    real, _, ae, codes = digits
    odd = ImageTensors(torch.rand(4, 1, 18, 18), torch.arange(4), 10)
    refused('18 x 18 px cannot be divided by f = 4', encode_set, odd, ae, False)
    refused('has 20', LatentCodes.from_real, real, 21, ae)
    refused('ipc 0', lpc_for, 0)
    refused("'syn_steps' is no setting of latent-dm", method_of, 'latent-dm', syn_steps=3)
    refused('iterations is 0', LatentDMMethod, iterations=0)
    refused('lr_base is -1.0; it must be above 0', LatentDMMethod, lr_base=-1)
    refused("loss='l1' is not one of cosine, mse", LatentDCMethod, loss='l1')
    refused('lpc is 0; it must be at least 1', InitialMethod, lpc=0)
    refused("'latent-mt' is not known; did you mean latent-mtt", method_of, 'latent-mt')
    go = lambda method, **kw: learn(task_of(digits, **kw), method, tmp_path/'x', RunOptions(quiet=True))
    refused('codes= is', go, LatentDMMethod(lpc=2), codes=real)
    refused('latent-dm needs ae=', go, LatentDMMethod(lpc=2), ae=None)
    refused('latent-mtt needs experts=', go, LatentMTTMethod(lpc=2))
    refused("lpc is 21; class '0' has 20", go, InitialMethod(lpc=21), codes=None)
    assert not (tmp_path/'x').exists()
