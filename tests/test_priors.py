"Priors and decoder: against plain torch modules and torch.distributions, by finite differences, resumed, in bytes, and refused."
from functools import partial
from types import SimpleNamespace

import pytest, torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for
from dd_repro.files import save_tensors, load_tensors
from dd_repro.data import load
from dd_repro.distilled import Distilled
from dd_repro.experts import expert_protocol, train_experts
from dd_repro.loop import Evaluate, distill
from dd_repro.mmd import MMD, Diversity, ExpertView, PassView
from dd_repro.mtt import MTT
from dd_repro.method import RunOptions, Task, learn, method_of
from dd_repro.priors import KL, LOSSES, D3Method, Decoder, LatentPriors, d3_phases, decoder_channels
from dd_repro.students import as_protocol, evaluate
from dd_repro.unroll import peak_bytes

D = torch.double
NET = partial(ConvNet, n_in=1, n_out=10, size=8, width=4, depth=2)
TINY = dict(syn_steps=2, expert_epochs=1, max_start_epoch=1, mmd_samples=4)
RUN = dict(z_dim=4, decoder_width=8, aug='') | TINY

def d3(real, buffer, out, net_fn=NET, how={}, **kw):
    "A small run of D3."
    return learn(Task(real, real, net_fn, experts=buffer), method_of('d3', **RUN | kw), out, RunOptions(quiet=True, **how))

@pytest.fixture(scope='module')
def real(): return load('digits')[0].subset(torch.arange(0, 1437, 4))

@pytest.fixture(scope='module')
def buffer(real, tmp_path_factory): return train_experts(NET, real, tmp_path_factory.mktemp('buffer'), 1, expert_protocol(2, .05, 64, ''), quiet=True)

def make(ppc=2, **kw): return LatentPriors(10, ppc, **(dict(z_dim=4, size=8, n_in=1, width=8, aug='') | kw))

def plain(dec):
    "The same decoder from torch's own modules, in training mode."
    ups = [m for up, norm in zip(dec.ups, dec.norms) for m in (up, nn.BatchNorm2d(norm.num_features).to(D), nn.LeakyReLU(.01))]
    return nn.Sequential(dec.project, nn.Unflatten(1, (dec.width, 2, 2)), *ups, dec.out, nn.Tanh()).train()

@pytest.mark.parametrize('size,width,n_out', [(8, 6, 1), (32, 16, 3), (64, 9, 2)])
def test_decoder_is_what_torch_modules_make(size, width, n_out):
    dec = Decoder(size, 5, width, n_out).to(D)
    z = torch.randn(6, 5, dtype=D, generator=rng_for(size))
    torch.testing.assert_close(dec(z), plain(dec)(z), rtol=1e-10, atol=1e-10)
    assert [n for n, _ in Decoder().named_buffers() if 'tracked' not in n][:2] == ['norms.0.running_mean', 'norms.0.running_var']

def test_recorded_statistics_are_those_of_the_batch():
    dec, z = Decoder(16, 5, 8, 1).to(D), torch.randn(400, 5, dtype=D, generator=rng_for(1))
    first = dec.ups[0](dec.project(z).view(400, 8, 2, 2))
    dec(z, 'record')
    torch.testing.assert_close(dec.norms[0].running_mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(dec.norms[0].running_var, first.var((0, 2, 3)))
    alone = torch.cat([dec(z[i:i+1], 'recalibrated') for i in range(3)])
    torch.testing.assert_close(alone, dec(z, 'recalibrated')[:3])

def test_channels():
    assert decoder_channels(32) == [256, 128, 64, 32, 32] and decoder_channels(8, 4) == [4, 2, 1] and decoder_channels(64, 3) == [3, 1, 1, 1, 1, 1]

def test_kl_and_its_gradient_are_torchs():
    d = make().to(D)
    want = kl_divergence(Normal(d.means, (d.logvars/2).exp()), Normal(torch.zeros((), dtype=D), 1.)).sum()
    torch.testing.assert_close(KL()(d), want)
    torch.testing.assert_close(*(torch.autograd.grad(v, d.latents)[0] for v in (KL()(d), want)))

def test_gradient_of_a_draw_by_finite_differences():
    d = make(1).to(D)
    def f(v): return torch.func.functional_call(d, {'latents': v}, kwargs=dict(idx=torch.arange(10), rng=rng_for(3)))[0].square().sum()
    d.forward = d.sample
    assert torch.autograd.gradcheck(f, (d.latents.detach().clone().requires_grad_(),), eps=1e-6, atol=1e-5)

def test_moments_of_the_latents():
    d = make(1)
    seen = []
    d.decoder.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    d.sample(idx=torch.full((20000,), 3), rng=rng_for(0))
    torch.testing.assert_close(seen[0].mean(0), d.means[3].detach(), atol=.05, rtol=0)
    torch.testing.assert_close(seen[0].var(0).log(), d.logvars[3].detach(), atol=.05, rtol=0)
    assert torch.equal(d.sample(y=3, mean=True)[0], d.sample(y=3, mean=True)[0])

def test_priors_of_a_class_are_equally_likely():
    d = make(4)
    counts = torch.bincount(d.items(8000, y=7, rng=rng_for(0)), minlength=40)
    assert counts[:28].sum() == counts[32:].sum() == 0 and (counts[28:32] - 2000).abs().max() < 150
    assert d.sample(5, y=7, prior=1, rng=rng_for(0))[1].tolist() == [7]*5

@pytest.mark.parametrize('view,n', [({}, 10), (dict(samples=3), 30), (dict(mean=True), 20)])
def test_an_epoch_has_as_many_of_each_class(view, n):
    d, ys = make(), []
    for x, y in d.epoch(0, 7, rng_for(0), **view): ys.append(y); assert len(x) <= 7 and not x.requires_grad
    assert torch.cat(ys).bincount().tolist() == [n//10]*10 and f'{n} images decoded' in d.notes()

def test_nothing_is_remembered_by_use():
    d = make(); before = {k: v.clone() for k, v in d.state_dict().items()}
    list(d.epoch(0, 8, rng_for(0), samples=3)); [s() for s in d.steps(3, 5, rng_for(0))]; list(d.epoch(0, 8, None, bn='recalibrated'))
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items())

def test_memory_does_not_grow_with_steps(buffer):
    "Beyond the student's points: neither decoded images nor the decoder's graph are kept."
    d = make(1, width=32)
    def peak(N): m = MTT(NET(), buffer, N, 1, 1, keep=0); return peak_bytes(lambda: m(d).backward())
    peak(3); a, b = peak(4), peak(24)
    assert b - a <= 20*buffer.size*4*1.1 + 40_000
    assert peak_bytes(lambda: d.sample()[0].sum().backward()) > 40_000 # one decoder graph alone would show

def test_graphs_are_freed_between_the_phases(real, buffer):
    "Section 3.5: an iteration of both phases needs what the larger one needs, and the gradients and optimisers that stay (bytes of the allocator)."
    def peak(which):
        d = make(2, width=16)
        all_ = d3_phases(MTT(NET(), buffer, 8, 1, 1, keep=8), MMD(real, view := ExpertView(buffer, 24)), Diversity(view), D3Method().settings() | dict(gamma3=.01))
        return peak_bytes(lambda: distill(d, [all_[i] for i in which], 1, D3Method().opts(None), quiet=True)), sum(4*p.numel() for p in d.parameters())
    peak((0, 1)); (one, stay), (two, _), (both, _) = peak((0,)), peak((1,)), peak((0, 1))
    assert both <= max(one, two) + 4*stay and min(one, two) > 8*stay, (one, two, both, stay)

@pytest.mark.parametrize('ppc,losses', [(1, 'all'), (2, 'all'), (2, 'MTT+DM'), (1, 'MTT'), (1, 'DM')])
def test_stopped_and_resumed_is_the_same(real, buffer, tmp_path, ppc, losses):
    go = partial(d3, real, buffer, ppc=ppc, iterations=3, losses=losses)
    whole, run = go(tmp_path/'a')
    for i in range(3): parts, part = go(tmp_path/'b', how=dict(minutes=1e-9)); assert part.it == i + 1
    assert all(torch.equal(v, parts.state_dict()[k]) for k, v in whole.state_dict().items())
    start = LatentPriors(10, ppc, 4, 8, 1, 8, lr=whole.info['settings']['lr_teacher'])
    assert torch.equal(whole.lr, start.lr) == (losses == 'DM') and not torch.equal(whole.latents, start.latents)
    assert ('loss2' in run.history[0]) == (losses in ('all', 'MTT+DM'))

def test_the_snapshot_is_passed_on(real, tmp_path):
    "T+ + M = 2 of three epochs is another network to look through than the last."
    longer = train_experts(NET, real, tmp_path/'b', 1, expert_protocol(3, .05, 64, ''), quiet=True)
    a, b = (d3(real, longer, tmp_path/s, ppc=1, iterations=1, losses='DM', snapshot=s)[0] for s in ('last', 'expert'))
    assert not torch.equal(a.latents, b.latents) and [s.info['settings']['snapshot'] for s in (a, b)] == ['last', 'expert']

def test_losses_differ(real, buffer, tmp_path):
    sets = [d3(real, buffer, tmp_path/l, ppc=2, iterations=1, losses=l)[0].latents for l in LOSSES]
    assert all(not torch.equal(a, b) for i, a in enumerate(sets) for b in sets[:i])

def test_the_artefact_gives_the_same_students(real, buffer, tmp_path):
    d, run = d3(real, buffer, tmp_path, iterations=1, how=dict(eval_every=1, eval_epochs=2, n_eval=1))
    assert d.info['result']['protocol']['epochs'] == 2 and d.info['result']['protocol']['aug'] == ''
    again, p = Distilled.load(tmp_path/'distilled.safetensors'), as_protocol('d3').scaled(epochs=3, aug='', view=dict(samples=2, bn='recalibrated'))
    a, b = (evaluate(s, real, protocol=p, n_eval=2)[0] for s in (d, again))
    assert a.accs == b.accs and 'acc_convnet' in run.history[-1] and a.protocol == 'reduced'
    assert '2 samples a class & epoch; batch norm: recalibrated; 120 images decoded' in b.deviations
    assert abs(again.compression_rate(real) - 100*d.nbytes/real.nbytes) < 1e-9

def test_a_damaged_file_is_refused(tmp_path):
    p = make().save(tmp_path/'d.safetensors')
    t, card = load_tensors(p); t.pop('d.decoder.out.bias'); save_tensors(p, t, card)
    with pytest.raises(ValueError, match='incomplete artefact'): Distilled.load(p)

@pytest.mark.parametrize('what,words', [
    (dict(ppc=0), 'ppc is 0'), (dict(iterations=0), 'iterations is 0'), (dict(z_dim=0), 'z_dim is 0'), (dict(decoder_width=0), 'decoder_width is 0'), (dict(scale=0.), 'scale is 0'),
    (dict(losses='KL'), "losses='KL' is not one of MTT, DM"), (dict(gamma3=.5), 'no effect'), (dict(gamma2=-1.), 'gamma2 is -1'), (dict(lr_img=3.), "'lr_img' is no setting of d3"), (dict(momentum=-.1), 'momentum is -0.1'), (dict(wd=-1.), 'wd is -1'), (dict(aug='flop'), 'flop'),
    (dict(syn_steps=0), 'syn_steps is 0'), (dict(max_start_epoch=9), 'the buffer holds 2 epochs'), (dict(mmd_samples=1), 'samples is 1'), (dict(lr_teacher=0.), 'lr_teacher is 0'), (dict(how=dict(eval_every=-1)), 'eval_every is -1'), (dict(how=dict(jobs=(0, 2))), 'jobs has no meaning for d3'), (dict(snapshot='best'), "snapshot='best' is not one of last, expert"),
    (dict(net_fn=partial(NET, width=5)), 'a buffer of a network')])
def test_bad_words_are_refused_before_anything_is_written(real, buffer, tmp_path, what, words):
    with pytest.raises(ValueError, match=words) as e: d3(real, buffer, tmp_path/'run', **what)
    assert '\n' not in str(e.value)
    assert not (tmp_path/'run').exists()

def test_a_side_that_doubling_cannot_reach(real, buffer, tmp_path):
    odd = load('digits', size=12)[0]
    with pytest.raises(ValueError, match='not 12'): d3(odd, buffer, tmp_path/'run', partial(NET, size=12))

SETS = dict(cifar10=(50_000, 32, 10), tinyimagenet=(100_000, 64, 200), imagenette=(12_894, 128, 10), imagewoof=(12_454, 128, 10))

@pytest.mark.parametrize('name, ppc, want', [('cifar10', 1, '0.504'), ('cifar10', 2, '0.505'), ('cifar10', 3, '0.506'), ('cifar10', 10, '0.511'), ('tinyimagenet', 1, '0.06'), ('tinyimagenet', 2, '0.07'),
    ('imagenette', 1, '0.12'), ('imagenette', 2, '0.12'), ('imagewoof', 1, '0.13'), ('imagewoof', 2, '0.13')])
def test_printed_compression_rates(name, ppc, want):
    "All ten by `compression_rate` itself, with the decoder of 32 px, as the paper counts (`14_priors`)."
    class Real(SimpleNamespace):
        def __len__(self): return SETS[name][0]
    _, side, classes = SETS[name]
    rate = LatentPriors(classes, ppc, size=32).compression_rate(Real(shape=(3, side, side)))
    assert f'{rate:.{len(want) - 2}f}' == want

def test_an_optimiser_for_each_group():
    d = make(); opts = {g: f(d.groups()[g]) for g, f in D3Method().opts(None).items()}
    assert set(opts) == set(d.groups()) and opts['decoder'].defaults['weight_decay'] == 1e-5 and opts['latents'].defaults['momentum'] == .5
    assert {id(p) for ps in d.groups().values() for p in ps} == {id(p) for p in d.parameters()}

@pytest.mark.parametrize('ppc, samples, calls', [(2, 4, 2), (2, 5, 2), (3, 4, 1), (1, 3, 3), (4, 3, 1)])
def test_priors_are_decoded_in_passes(buffer, ppc, samples, calls, monkeypatch):
    "As the code of D3's successor: every prior once a call, samples // ppc calls; features in the order of the classes."
    d, view, seen = make(ppc), PassView(buffer, samples), []
    monkeypatch.setattr(view, 'see', lambda theta, shift, x, n: seen.append(x) or x)
    d.sample = lambda *, idx, rng: (idx.float()[:, None].expand(-1, 2) + 1000*len(order.append(idx) or order), None); order = []
    view.look(d)
    assert len(order) == calls and all(o.tolist() == list(range(10*ppc)) for o in order)
    x = seen[0][:, 0].unflatten(0, (10, -1)) % 1000
    assert x.shape[1] == calls*ppc and torch.equal((x//ppc).long(), torch.arange(10)[:, None].expand_as(x))

@pytest.mark.parametrize('kw', [dict(), dict(ppc=3), dict(losses='DM')])
def test_both_ways_to_decode_learn(real, buffer, tmp_path, kw):
    sets = [d3(real, buffer, tmp_path/w, ppc=kw.get('ppc', 2), iterations=2, decode=w, mmd_samples=6, **{k: v for k, v in kw.items() if k != 'ppc'})[0] for w in ('together', 'passes')]
    assert not torch.equal(*(s.latents for s in sets)) and all(s.latents.isfinite().all() for s in sets)

@pytest.mark.parametrize('ppc', [1, 3])
def test_an_epoch_of_the_code_has_one_draw_of_each_prior(ppc):
    d = make(ppc)
    assert sorted(torch.cat([y for _, y in d.epoch(0, 4, samples=None)]).tolist()) == sorted(list(range(10))*ppc)
    assert as_protocol('d3-code').view == dict(samples=None, bn='batch') and as_protocol('d3').view['samples'] == 10
