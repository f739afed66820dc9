"Wrong in silence, the kinds of training: networks that are no function, frozen weights, labels that broadcast, networks that died, refusals that come late."
import importlib, json, pickle, random, zipfile
from functools import partial

import numpy as np
import pytest, torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm

from dd_repro.entry import dd_eval
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded
from dd_repro.files import load_tensors, save_tensors, what_file
from dd_repro.records import Row, record
from dd_repro.coreset import coreset, correct, herding
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import Buffer, to_vector, train_expert, expert_protocol, train_experts
from dd_repro.loop import Evaluate, distill
from dd_repro.match import DC, DM, Matching
from dd_repro.mmd import MMD
from dd_repro.mtt import MTT, mtt_opts
from dd_repro.priors import LatentPriors
from dd_repro.labels import relabel
from dd_repro.sets import ImageTensors
from dd_repro.students import Died, Protocol, Team, accuracy, evaluate, go_together, train
from dd_repro.steps import trace_step
from dd_repro.unroll import unroll
from dd_repro.zoo import make_net

D = torch.double
PLAIN = Protocol('plain', epochs=3, batch=6, lr=.05, aug='')
ARCH = dict(name='convnet', n_in=1, n_out=4, size=8, width=6, depth=2)

def toy(n=12, dtype=torch.float32, seed=0):
    g = rng_for(seed, 'toy')
    return ImageTensors(torch.randn(n, 1, 8, 8, generator=g, dtype=dtype), torch.arange(n) % 4, 4, name='toy')

def convnet(**kw):
    with seeded(0, 'silence'): return make_net(ARCH | kw)

class Body(nn.Module):
    "A small network of one's own: no arch, no embed; `extra` acts between its layers."
    def __init__(self, extra=None, act=torch.tanh):
        super().__init__()
        with seeded(0, 'body'): self.conv, self.head = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(36, 4)
        self.extra, self.act = extra, act
    def forward(self, x):
        h = self.act(self.conv(x))
        return self.head((self.extra(h) if self.extra else h).flatten(1))

# --- a network that is no function of its weights and images

class Fn(nn.Module):
    "A layer of one line."
    def __init__(self, fn): super().__init__(); self.fn = fn
    def forward(self, x): return self.fn(x)

class Counter(nn.Module):
    "Acts in every seventh pass."
    calls = 0
    def forward(self, x): self.calls = self.calls + 1; return x*2 if self.calls % 7 == 0 else x

class OwnGenerator(nn.Module):
    "Noise from a generator of its own."
    def __init__(self, g): super().__init__(); self.g = g
    def forward(self, x): return x + .1*(torch.randn(x.shape, generator=self.g, dtype=x.dtype) if isinstance(self.g, torch.Generator) else self.g.normal() if hasattr(self.g, 'normal') else self.g.random())

class Smooth(nn.Module):
    "A running mean, kept as a buffer or as a plain attribute."
    def __init__(self, buffer):
        super().__init__()
        if buffer: self.register_buffer('mean', torch.zeros((), dtype=D))
        else: self.mean = torch.zeros((), dtype=D)
    def forward(self, x): self.mean.mul_(.9).add_(.1*x.detach().mean()); return x - self.mean

def hidden(state=[0]):
    "State that no module shows: it is found by what it does."
    def fn(x): state[0] += 1; return x*(1 + .1*(state[0] % 2))
    return Fn(fn)

def stochastic_depth(p, draw): return Fn(lambda x: x if draw() < p else x + torch.tanh(x))

NO_FUNCTION = dict(
    dropout_in_forward=lambda: Fn(lambda x: F.dropout(x, .5)), dropout_of_a_tiny_rate=lambda: Fn(lambda x: F.dropout(x, 1e-6)), dropout_layer=lambda: nn.Dropout(.3),
    alpha_dropout=lambda: nn.AlphaDropout(.1), rrelu=lambda: nn.RReLU(), depth_by_torch=lambda: stochastic_depth(.05, lambda: torch.rand(())),
    depth_by_python=lambda: stochastic_depth(.05, random.random), depth_by_numpy=lambda: stochastic_depth(.05, np.random.rand),
    noise=lambda: Fn(lambda x: x + 1e-9*torch.randn_like(x)), permutation=lambda: Fn(lambda x: x[:, torch.randperm(x.shape[1])]), gumbel=lambda: Fn(lambda x: F.gumbel_softmax(x, dim=1)),
    own_generator=lambda: OwnGenerator(torch.Generator()), own_python=lambda: OwnGenerator(random.Random(0)), own_numpy=lambda: OwnGenerator(np.random.default_rng(0)),
    batch_norm=lambda: nn.BatchNorm2d(4).to(D), instance_norm_with_statistics=lambda: nn.InstanceNorm2d(4, track_running_stats=True).to(D),
    batch_norm_in_forward=lambda: BNInForward(), spectral=lambda: spectral_norm(nn.Conv2d(4, 4, 1)).to(D), old_spectral=lambda: old_spectral_norm(nn.Conv2d(4, 4, 1)).to(D),
    counter=lambda: Counter(), running_mean_buffer=lambda: Smooth(True), running_mean_attribute=lambda: Smooth(False), hidden_state=hidden,
    inside_a_container=lambda: nn.Sequential(nn.Identity(), nn.ModuleList([nn.Dropout(.1)])[0]))

class BNInForward(nn.Module):
    "Batch norm as a function, with buffers of its own."
    def __init__(self): super().__init__(); self.register_buffer('m', torch.zeros(4, dtype=D)); self.register_buffer('v', torch.ones(4, dtype=D))
    def forward(self, x): return F.batch_norm(x, self.m, self.v, training=True)

FUNCTION = dict(none=lambda: None, group_norm=lambda: nn.GroupNorm(2, 4), layer_norm=lambda: nn.LayerNorm(3), plain_batch_norm=lambda: nn.BatchNorm2d(4, track_running_stats=False),
    dropout_at_rest=lambda: nn.Dropout(.5).eval(), dropout_of_rate_0=lambda: nn.Dropout(0.), batch_norm_at_rest=lambda: nn.BatchNorm2d(4).eval(), spectral_at_rest=lambda: spectral_norm(nn.Conv2d(4, 4, 1)).eval(),
    seeded_noise=lambda: Fn(lambda x: x + torch.randn(x.shape, generator=rng_for(3), dtype=x.dtype)), branch=lambda: Fn(lambda x: x*2 if x.mean() > 0 else x),
    kept_feature=lambda: Keeps(), elu=lambda: nn.ELU())

class Keeps(nn.Module):
    "Keeps its last output to be looked at, which is no state."
    def forward(self, x): self.last = x; return x

def gradient(net, grad, keep=0, N=5):
    "The gradient of where a student of N steps ends, for pixels and rate."
    X = torch.randn(6, 1, 8, 8, generator=rng_for('x'), dtype=D).requires_grad_()
    lr, theta = torch.tensor(.3, dtype=D, requires_grad=True), to_vector(net)
    end = unroll(net, theta, [lambda s=i % 3: (X[s:s+4], torch.arange(s, s+4) % 4) for i in range(N)], lr, grad, keep)
    return torch.cat([g.flatten() for g in torch.autograd.grad((end - theta - .01).square().sum(), [X, lr])])

@pytest.mark.parametrize('extra', NO_FUNCTION)
def test_a_network_that_is_no_function_is_refused(extra):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with seeded(0): net = Body(NO_FUNCTION[extra]()).to(D)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for grad in ('adjoint', 'bptt', 'detached'):
        with pytest.raises(ValueError) as e: gradient(net, grad)
        assert '\n' not in str(e.value) and ('unroll' in str(e.value))
    assert torch.equal(states[0], torch.get_rng_state()) and states[1:] == (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]

@pytest.mark.parametrize('extra', FUNCTION)
def test_what_passes_has_the_true_gradient(extra):
    with seeded(0): net = Body(FUNCTION[extra]()).to(D)
    want = gradient(net, 'bptt')
    for grad, keep in (('adjoint', 0), ('adjoint', 2), ('adjoint', 5)):
        assert F.cosine_similarity(gradient(net, grad, keep), want, dim=0) > 1 - 1e-6
    assert want.abs().max() > 1e-8

def test_a_layer_that_is_switched_on_later_is_found():
    "What was found is kept with the network, but not beyond a change of mode, of a rate, or of a layer."
    net = Body(nn.Sequential(nn.Dropout(.5))).to(D).eval()
    gradient(net, 'adjoint'); gradient(net, 'adjoint')
    with pytest.raises(ValueError, match='Dropout'): gradient(net.train(), 'adjoint')
    net.extra[0].p = 0.; gradient(net, 'adjoint')
    net.extra[0].p = .1
    with pytest.raises(ValueError, match='Dropout'): gradient(net, 'adjoint')
    net.extra[0] = Fn(lambda x: F.dropout(x, .1))
    with pytest.raises(ValueError, match='Fn, which draws unseeded random numbers'): gradient(net, 'adjoint')

@pytest.mark.parametrize('branch', [lambda x: F.dropout(x) if len(x) == 2 else x, lambda x: F.dropout(x) if x.detach().abs().max() > 40 else x, lambda x: x + torch.rand(()) if x.shape[0] < 3 else x])
def test_randomness_on_some_batches_only_is_found_when_it_acts(branch):
    net = Body(Fn(branch), act=lambda x: 50*torch.tanh(x) if x.abs().max() > 5 else torch.tanh(x)).to(D)
    X = torch.randn(6, 1, 8, 8, generator=rng_for('x'), dtype=D)
    small, odd = (X[:4], torch.arange(4)), (100*X[:2], torch.arange(2))
    unroll(net, to_vector(net), [small, small], .1)
    with pytest.raises(ValueError, match='draws unseeded random numbers'): unroll(net, to_vector(net), [small, odd, small], .1)

@pytest.mark.parametrize('draw', [lambda X: X + torch.randn_like(X), lambda X: X[torch.randperm(len(X))], lambda X: X*random.random()])
def test_a_batch_that_draws_unseeded_numbers_is_refused(draw):
    net, X = Body().to(D), torch.randn(4, 1, 8, 8, dtype=D)
    with pytest.raises(ValueError, match='a batch of the unroll draws unseeded'): unroll(net, to_vector(net), [lambda: (draw(X), torch.arange(4))]*2, .1)

def fn_net(extra): return lambda: Body(extra() if extra else None)

@pytest.mark.parametrize('extra', ['dropout_in_forward', 'depth_by_python', 'noise', 'counter'])
def test_experts_are_refused_before_the_first_is_trained(extra, tmp_path):
    with pytest.raises(ValueError, match='experts are kept for methods that run it again'): train_experts(fn_net(NO_FUNCTION[extra]), toy(), tmp_path/'b', 2, expert_protocol(1, batch=6, aug=''), quiet=True)
    assert not (tmp_path/'b').exists()

@pytest.mark.parametrize('norm', ['batch', 'dropout', 'spectral'])
def test_experts_of_known_layers_are_refused_before_the_first_is_trained(norm, tmp_path):
    def net_fn():
        net = convnet(norm='batch' if norm == 'batch' else 'instance')
        if norm == 'dropout': net.blocks[0][2] = nn.Dropout(.1).eval() # training puts it in training mode
        if norm == 'spectral': spectral_norm(net.head)
        return net
    with pytest.raises(ValueError, match='running_mean|draws unseeded|_u') as e: train_experts(net_fn, toy(), tmp_path/'b', 2, expert_protocol(1, batch=6, aug=''), quiet=True)
    assert '\n' not in str(e.value) and not (tmp_path/'b').exists()

@pytest.fixture(scope='module')
def buffer(tmp_path_factory): return train_experts(partial(convnet), toy(), tmp_path_factory.mktemp('b'), 2, expert_protocol(2, batch=6, aug=''), quiet=True)

@pytest.mark.parametrize('method', ['MTT', 'MMD'])
def test_objectives_refuse_it_too(buffer, method):
    net, d = convnet(), Pixels.from_real(toy(), 2)
    net.register_forward_hook(lambda m, a, z: z + .1*torch.randn_like(z))
    net.blocks[1][2] = Fn(lambda x: F.dropout(x, .1))
    objective = MTT(net, buffer, 2, 1, 1) if method == 'MTT' else MMD(toy(), buffer, samples=2, net=net)
    with pytest.raises(ValueError, match='draws unseeded random numbers'): objective(d)

# --- frozen weights

def freeze(net, which):
    for k, p in net.named_parameters(): p.requires_grad_(not k.startswith(which))
    return net

@pytest.mark.parametrize('which', ['blocks.0', 'head', 'blocks'])
@pytest.mark.parametrize('change', [{}, dict(wd=.5), dict(opt='adamw', wd=.5, lr=.01), dict(aug='flip_crop')])
def test_frozen_weights_stay_as_they_are(which, change):
    p = Protocol('p', **(dict(epochs=3, batch=6, lr=.05, aug='') | change))
    kept = {}
    for together in (True, False):
        nets = [freeze(convnet(), which) for _ in range(2)]
        before = [to_vector(n) for n in nets]
        train(nets, toy(), p, together=together)
        for n in nets:
            moved = {k for (k, q), old in zip(n.named_parameters(), convnet().parameters()) if not torch.equal(q, old)}
            assert not [k for k in moved if k.startswith(which)] and {'head.weight', 'blocks.1.1.weight'} & moved
        kept[together] = [to_vector(n) for n in nets]
        assert [q.requires_grad for q in nets[0].parameters()] == [not k.startswith(which) for k, _ in nets[0].named_parameters()]
    if change.get('opt') != 'adamw': torch.testing.assert_close(kept[True], kept[False], rtol=1e-3, atol=1e-4)

def test_networks_with_other_frozen_weights_are_not_taken_together():
    nets = [freeze(convnet(), 'head'), convnet()]
    assert not go_together(nets, 6)
    with pytest.raises(ValueError, match='trained together only'): Team(nets)

@pytest.mark.parametrize('use', [lambda n, b: unroll(n, to_vector(n), [(toy().x, toy().y)], .1), lambda n, b: unroll(n, to_vector(n), [(toy().x, toy().y)], .1, 'bptt'),
    lambda n, b: MTT(n, b, 2, 1, 1), lambda n, b: train_expert(n, toy(), PLAIN), lambda n, b: train_experts(lambda: n, toy(), b.path/'none', 1, expert_protocol(1, aug=''))])
@pytest.mark.parametrize('which', ['head', 'blocks.1.1', 'blocks'])
def test_where_all_weights_are_one_vector_frozen_ones_are_refused(buffer, use, which):
    with pytest.raises(ValueError, match=f"'{which}.* has requires_grad=False") as e: use(freeze(convnet(), which), buffer)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('together', [True, False])
def test_gradient_matching_holds_frozen_weights(together):
    dc, d = DC(toy(), lambda: freeze(convnet(), 'blocks.0'), Matching(3, 2, 3), together=together), Pixels.from_real(toy(), 2)
    before = {k: p.clone() for k, p in dc.net.named_parameters()}
    distill(d, dc, 2, {'images': partial(torch.optim.SGD, lr=.1)}, quiet=True)
    now = dict(dc.net.named_parameters())
    assert all(torch.equal(p, before[k]) for k, p in now.items() if k.startswith('blocks.0')) and not torch.equal(now['head.weight'], before['head.weight'])

@pytest.mark.parametrize('use', [lambda n: train(n, toy(), PLAIN), lambda n: train([n, n], toy(), PLAIN, together=True), lambda n: DC(toy(), lambda: n)])
def test_a_wholly_frozen_network_is_refused(use):
    with pytest.raises(ValueError, match='no parameter with requires_grad=True'): use(convnet().requires_grad_(False))

# --- labels and logits of an accuracy

class Says(nn.Module):
    "Logits that are given."
    def __init__(self, z): super().__init__(); self.register_buffer('z', z)
    def forward(self, x): return self.z[:len(x)]

class Batches:
    "Anything with `.batches`."
    def __init__(self, x, y, **kw): self.x, self.y = x, y; vars(self).update(kw)
    def batches(self, bs, rng=None): return zip(self.x.split(bs), self.y.split(bs))

X12, Y12 = toy().x, toy().y
PERFECT = Says(F.one_hot(Y12, 4).float())

@pytest.mark.parametrize('y', [Y12, Y12[:, None], Y12.int(), Y12.to(torch.uint8)[:, None]])
def test_accuracy_of_labels_in_other_shapes(y):
    assert accuracy(PERFECT, Batches(X12, y), 12) == 100 and bool(correct(PERFECT, Batches(X12, y)).all())

BAD_LABELS = dict(soft=F.one_hot(Y12, 4).float(), floats=Y12.float(), two_columns=torch.stack([Y12, Y12], 1), one_hot=F.one_hot(Y12, 4), too_high=Y12 + 1, negative=Y12 - 1, from_one=Y12*0 + 4)

@pytest.mark.parametrize('kind', BAD_LABELS)
def test_accuracy_of_labels_that_are_none(kind):
    with pytest.raises(ValueError, match='labels') as e: accuracy(PERFECT, Batches(X12, BAD_LABELS[kind]), 12)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('test, z, says', [(Batches(X12[:0], Y12[:0]), PERFECT, 'empty'), (Batches(X12, Y12, n_classes=7), PERFECT, '4 classes apart and the test set has 7'),
    (Batches(X12, Y12), Says(torch.zeros(12)), 'logits are'), (Batches(X12, Y12), Says(torch.zeros(12, 4, 2)), 'logits are'), (Batches(X12, Y12), Says(torch.zeros(1, 4)), 'labels')])
def test_accuracy_of_what_does_not_fit(test, z, says):
    with pytest.raises(ValueError, match=says) as e: accuracy(z, test, 12)
    assert '\n' not in str(e.value)

class Fixed:
    "A set of given batches."
    n_classes, shape, student_lr, arch = 4, (1, 8, 8), torch.tensor(.03), ARCH
    def __init__(self, y): self.y = y
    def __len__(self): return 12
    def epoch(self, e, bs, rng): yield X12, self.y

@pytest.mark.parametrize('y, p', [(Y12[:, None], PLAIN), (torch.stack([Y12, Y12], 1), PLAIN), (torch.full((12, 3), 1/3), Protocol('s', epochs=1, lr=.1, aug='', labels='soft'))])
def test_students_refuse_labels_of_another_shape(y, p):
    with pytest.raises(ValueError, match='do not fit logits'): train(convnet(), Fixed(y), p)

def test_a_layer_at_rest_stays_at_rest():
    net = convnet(norm='batch').train(); net.blocks[0].eval()
    accuracy(net, toy(), 4)
    assert net.training and net.blocks[1][1].training and not net.blocks[0][1].training

# --- dead networks

@pytest.mark.parametrize('together', [True, False])
@pytest.mark.parametrize('lr, opt', [(1e9, 'sgd'), (1e30, 'sgd'), (1e38, 'adamw')])
def test_students_that_died_raise(together, lr, opt):
    p = Protocol('p', epochs=60, batch=12, opt=opt, aug='', schedule='none')
    with pytest.raises(Died, match='network 1 has weights that are not finite by epoch 50 of 60.*learning rate') as e:
        train([convnet(norm='none') for _ in range(2)], toy(), p, lr=lr, together=together)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('where', ['training', 'test', 'priors'])
def test_pixels_that_are_no_numbers_are_refused_before_training(bad, where):
    data, test = toy(), toy()
    (data if where == 'training' else test).x[3, 0, 2, 2] = bad
    d = Pixels.from_real(data, 3, arch=ARCH)
    if where == 'priors': d = LatentPriors(4, 1, 4, 8, 1, 8, arch=ARCH); d.latents.data[0, 0, 0] = bad
    if where == 'training': d.images.data[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match='not finite'): evaluate(d, test, protocol=PLAIN, n_eval=1)

@pytest.mark.parametrize('kill', [lambda n: n.head.weight.data.fill_(float('nan')), lambda n: n.blocks[0][0].bias.data.fill_(float('inf')), lambda n: n.head.bias.data.fill_(float('nan'))])
def test_accuracy_of_a_dead_network_raises(kill):
    net = convnet(); kill(net)
    with pytest.raises(Died, match='logits that are not finite'): accuracy(net, toy())

def test_experts_that_die_leave_no_file(tmp_path):
    with pytest.raises(Died, match='not finite by epoch 1 of 3'): train_experts(partial(convnet, norm='none'), toy(), tmp_path, 2, expert_protocol(3, 1e38, 6, ''), quiet=True)
    assert not list(tmp_path.glob('expert_*'))

def test_experts_that_died_before_are_named(tmp_path):
    train_experts(convnet, toy(), tmp_path, 1, expert_protocol(2, batch=6, aug=''), quiet=True)
    f = tmp_path/'expert_0000.safetensors'; t, m = load_tensors(f); t['theta'][1:, 0] = float('nan'); save_tensors(f, t, m)
    with pytest.raises(Died, match='expert_0000.safetensors: weights that are not finite at epoch 1'): Buffer(tmp_path).snapshot(0, 1)
    again = train_experts(convnet, toy(), tmp_path, 1, expert_protocol(2, batch=6, aug=''), quiet=True)
    assert again.snapshot(0, 1).isfinite().all()

@pytest.mark.parametrize('value', [float('nan'), float('inf'), 1238.])
def test_an_accuracy_that_is_no_number_is_not_recorded(value, tmp_path):
    with pytest.raises(ValueError, match='is not recorded'): record([Row('a', mean=50., n=5), Row('b', mean=value, n=5)], tmp_path/'r.csv')
    assert not (tmp_path/'r.csv').exists()
    record(Row('c', metric='seconds', unit='s', mean=1238., n=5), tmp_path/'r.csv')

@pytest.mark.parametrize('n_eval, says', [(1, '1 of 1 networks predicts one class only'), (3, '3 of 3 networks predict one class only')])
def test_networks_that_say_one_class_are_counted(n_eval, says):
    d = Pixels(toy().x, torch.zeros(12, dtype=torch.long), 4, lr=.5, arch=ARCH)
    row, = evaluate(d, toy(), protocol=Protocol('p', epochs=30, batch=12, aug=''), n_eval=n_eval, deviations='other')
    assert row.deviations == says + '; other' and row.mean == 25
    well, = evaluate(Pixels(toy().x, toy().y, 4, lr=.1, arch=ARCH), toy(), protocol=Protocol('p', epochs=30, batch=12, aug=''), n_eval=n_eval)
    assert 'one class' not in well.deviations and well.mean > 50

def test_a_look_at_dead_students_is_no_number_and_the_run_goes_on(capsys):
    d = Pixels.from_real(toy(), 2, lr=.01, arch=ARCH | dict(norm='none'))
    p = Protocol('p', epochs=3, batch=12, lr=1e38, aug='')
    look = Evaluate(toy(), 1, p, n_eval=1)
    run = distill(d, lambda d: d.images.square().mean(), 2, {'images': partial(torch.optim.SGD, lr=.1)}, callbacks=[look], quiet=True)
    assert run.it == 2 and look.k == 2 and look.last != look.last and look.rows == [] and 'not finite' in capsys.readouterr().out

@pytest.mark.parametrize('use', [lambda t, p: relabel(toy(), [t], p, 1, quiet=True), lambda t, p: herding(torch.full((5, 3), float('nan')), 2), lambda t, p: correct(t, toy()) if accuracy(t, toy()) else None])
def test_teachers_and_features_that_are_no_numbers(use, tmp_path):
    with pytest.raises(ValueError, match='not finite'): use(Says(torch.full((12, 4), float('nan'))), tmp_path/'l')

# --- late or misleading refusals

@pytest.mark.parametrize('extra', [None, lambda: nn.GroupNorm(2, 4), lambda: nn.Identity()])
def test_a_network_of_ones_own_works_everywhere(extra, tmp_path):
    net_fn, data = fn_net(extra), toy()
    nets = train([net_fn() for _ in range(2)], data, PLAIN)
    both = train([net_fn() for _ in range(2)], data, PLAIN, together=True)
    torch.testing.assert_close([to_vector(n) for n in both], [to_vector(n) for n in nets], rtol=1e-3, atol=1e-4)
    assert 0 <= accuracy(nets[0], data) <= 100 and not go_together(nets, 6)
    b = train_experts(net_fn, data, tmp_path, 2, expert_protocol(2, batch=6, aug=''), quiet=True)
    d = Pixels.from_real(data, 2, lr=.05)
    for objective in (MTT(net_fn(), b, 2, 1, 1), DC(data, net_fn, Matching(batch_real=3)), DC(data, net_fn, Matching(batch_real=3), together=True)):
        assert distill(d, objective, 1, {'images': partial(torch.optim.SGD, lr=.1)}, quiet=True).history[0]['loss'] > 0

@pytest.mark.parametrize('use, says', [
    (lambda n, t: evaluate(Pixels.from_real(toy(), 1), toy(), n, PLAIN), 'a name or an arch dictionary, not from Body'),
    (lambda n, t: evaluate(Pixels.from_real(toy(), 1), toy(), [n, 'convnet'], PLAIN), 'not from Body'),
    (lambda n, t: evaluate(Pixels.from_real(toy(), 1), toy(), lambda: n, PLAIN), 'not from function'),
    (lambda n, t: evaluate(Pixels.from_real(toy(), 1, arch=dict(width=3)), toy(), protocol=PLAIN), 'lacks n_in, n_out, name, size'),
    (lambda n, t: coreset(toy(), 1, 'herding', lambda: n, epochs=0), 'Body has no embed'),
    (lambda n, t: DM(toy(), lambda: n), 'Body has no embed'),
    (lambda n, t: __import__('dd_repro.teachers', fromlist=['x']).train_teachers(lambda: n, toy(), t, 1, PLAIN), 'Body has no `arch` dictionary')])
def test_where_an_architecture_is_needed_one_line_says_so(use, says, tmp_path):
    with pytest.raises(ValueError, match=says) as e: use(Body(), tmp_path)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('change', ['subclass', 'other norm', 'hook', 'other activation'])
def test_a_convnet_that_was_changed_is_not_computed_as_if_it_were_not(change):
    class Twice(ConvNet):
        def forward(self, x): return 2*super().forward(x)
    def make():
        with seeded(0): net = Twice(1, 4, 8, 6, 2) if change == 'subclass' else convnet()
        if change == 'other norm': net.blocks[0][1] = nn.LayerNorm(8)
        if change == 'hook': net.register_forward_hook(lambda m, a, z: 3*z)
        if change == 'other activation': net.blocks[0][2] = nn.Softmax(1)
        return net
    nets, x = [make(), make()], torch.randn(2, 3, 1, 8, 8)
    assert not go_together(nets, 6)
    for z, n, xi in zip(Team(nets).logits(x), nets, x): torch.testing.assert_close(z, n(xi), rtol=1e-4, atol=1e-5)

def in_mode(mode):
    "A context of the caller: a switch that was thrown before."
    from contextlib import ExitStack
    s = ExitStack()
    if mode == 'no_grad': s.enter_context(torch.no_grad())
    elif mode == 'inference': s.enter_context(torch.inference_mode())
    elif mode == 'device': s.enter_context(torch.device('meta'))
    elif mode == 'default device': torch.set_default_device('meta'); s.callback(torch.set_default_device, None)
    elif mode: s.callback(torch.set_default_dtype, torch.get_default_dtype()); torch.set_default_dtype(mode)
    return s

MODES = ['no_grad', 'inference', 'device', 'default device', torch.float64, torch.bfloat16]

def whole_story(path):
    "From experts to an artefact's accuracy, by the verbs alone."
    data = load('digits', size=8)[0].subset(slice(0, 100))
    d = Pixels.from_real(data, 1, lr=.05, arch=ARCH | dict(n_out=10), aug='')
    net_fn = partial(ConvNet, 1, 10, 8, 6, 2)
    b = train_experts(net_fn, data, path/'b', 1, expert_protocol(2, batch=50, aug='flip'), quiet=True)
    distill(d, MTT(net_fn(), b, 2, 1, 1), 2, mtt_opts(1., 1e-5), quiet=True)
    d.save(path/'d.safetensors'); d = Distilled.load(path/'d.safetensors')
    p = Protocol('p', epochs=3, batch=5)
    return d, [b.snapshot(0, 2), d.images.detach(), d.lr.detach(), torch.tensor(evaluate(d, data, protocol=p, n_eval=2)[0].accs, dtype=D, device='cpu')]

@pytest.fixture(scope='module')
def story(tmp_path_factory): return whole_story(tmp_path_factory.mktemp('story'))[1]

@pytest.mark.parametrize('mode', MODES, ids=str)
def test_switches_of_the_caller_change_nothing(mode, story, tmp_path):
    with in_mode(mode): d, got = whole_story(tmp_path)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    for a, b in zip(got, story): assert a.dtype == b.dtype and a.device.type == 'cpu' and torch.equal(a, b)
    assert all(p.requires_grad and not p.is_inference() for p in d.parameters())

@pytest.mark.parametrize('mode', MODES, ids=str)
def test_artefacts_are_the_same_under_every_default(mode, tmp_path):
    for d in (LatentPriors(4, 1, 4, 8, 1, 8, lr=.0123), Pixels.from_real(toy(), 1, lr=.0123)):
        d.save(tmp_path/'d.safetensors')
        with in_mode(mode): e = Distilled.load(tmp_path/'d.safetensors')
        for (k, a), b in zip(d.state_dict().items(), e.state_dict().values()): assert a.dtype == b.dtype and torch.equal(a, b), k

@pytest.mark.parametrize('mode', ['no_grad', 'inference'])
def test_an_unroll_without_gradients_ends_where_it_ends(mode):
    net = Body()
    want = unroll(net, to_vector(net), [(X12, Y12)]*3, .1)
    with in_mode(mode):
        for grad in ('adjoint', 'bptt'): torch.testing.assert_close(unroll(net, to_vector(net), [(X12, Y12)]*3, .1, grad), want)

def test_a_network_made_for_inference_is_named():
    with torch.inference_mode(): net = convnet()
    with pytest.raises(ValueError, match='made in torch.inference_mode'): train(net, toy(), PLAIN)

def test_images_made_for_inference_are_trained_on():
    with torch.inference_mode(): data = ImageTensors(X12*1, Y12, 4)
    torch.testing.assert_close(to_vector(train(convnet(), data, PLAIN)), to_vector(train(convnet(), toy(), PLAIN)))

def _zip(path, **names):
    with zipfile.ZipFile(path, 'w') as z: [z.writestr(k, v) for k, v in names.items()]
FILES = {
    'a PyTorch pickle': lambda p: torch.save(torch.zeros(3), p), 'images_best.pt': lambda p: torch.save([torch.zeros(3)], p, _use_new_zipfile_serialization=False),
    'a PyTorch pickle, such as': lambda p: p.write_bytes(pickle.dumps({'x': 1}, 4)), '.npy': lambda p: np.save(open(p, 'wb'), np.zeros(3)), '.npz': lambda p: np.savez(open(p, 'wb'), a=np.zeros(3)),
    'a PNG picture': lambda p: Pixels.from_real(toy(), 1).png(p), 'a folder': lambda p: p.mkdir(), 'did you mean .*distilled.safetensors': lambda p: Pixels.from_real(toy(), 1).save(p/'distilled.safetensors'),
    'a web page': lambda p: p.write_text('\n<!DOCTYPE html>\n<html>'), 'a web page .a download': lambda p: p.write_text('<HTML><body>404'), 'a Git LFS pointer': lambda p: p.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0'),
    'an empty file': lambda p: p.write_bytes(b''), 'no such file': lambda p: None, 'a packed label store': lambda p: _zip(p, **{'index.json': '{}'}), 'a zip archive': lambda p: _zip(p, a='b'),
    'a gzip': lambda p: p.write_bytes(__import__('gzip').compress(b'x')), 'truncated, damaged': lambda p: p.write_bytes(b'\x10\0\0\0\0\0\0\0{"a":1'), 'a checkpoint of a run': lambda p: save_tensors(p, {}, dict(run={}, settings='')),
    "an expert's path": lambda p: save_tensors(p, {}, dict(expert=1)), 'a teacher': lambda p: save_tensors(p, {}, dict(teacher=1))}

@pytest.mark.parametrize('what', FILES)
def test_a_file_is_named_for_what_it_is(what, tmp_path):
    FILES[what](tmp_path/'x')
    with pytest.raises(ValueError, match=what) as e: Distilled.load(tmp_path/'x')
    assert '\n' not in str(e.value) and ('damaged' in str(e.value)) == what.startswith(('truncated', 'an empty'))

def test_a_header_of_any_length_is_ours(tmp_path):
    "Lengths whose first bytes are those of a pickle or an archive."
    f = tmp_path/'x'
    for n in (0x0280, 0x0480, 0x8b1f):
        head = json.dumps({'__metadata__': {'dd': '{}'}}).encode().ljust(n)
        f.write_bytes(len(head).to_bytes(8, 'little') + head)
        assert what_file(f) == '' and load_tensors(f) == ({}, {})

@pytest.mark.parametrize('name', ['dd_repro.distilled', 'dd_repro.priors'])
def test_modules_may_be_loaded_again(name, tmp_path):
    one, two = LatentPriors(4, 1, 4, 8, 1, 8), Pixels.from_real(toy(), 1)
    one.save(tmp_path/'a'); two.save(tmp_path/'b')
    kept, module = dict(Distilled.kinds), importlib.import_module(name)
    before = dict(vars(module)) # other tests hold its classes and tables
    try:
        m = importlib.reload(module)
        load_ = getattr(m, 'Distilled').load
        for d, f in ((one, 'a'), (two, 'b')):
            e = load_(tmp_path/f); assert type(e).__name__ == type(d).__name__ and repr(e) == repr(d) == repr(Distilled.load(tmp_path/f))
            e.save(tmp_path/'c'); assert repr(load_(tmp_path/'c')) == repr(d)
    finally:
        Distilled.kinds.update(kept)
        vars(module).update(before)

def test_a_class_may_be_defined_again(tmp_path):
    "As a notebook's cell does it."
    kept = dict(Distilled.kinds)
    try:
        for k in (1, 2, 3):
            class Mine(Pixels):
                def __init__(self, *a, **kw): super().__init__(*a, **kw); self.k = k
            d = Mine(X12[:4]*1, Y12[:4], 4); d.save(tmp_path/'m')
            assert Distilled.load(tmp_path/'m').k == k and type(Distilled.load(tmp_path/'m')) is Mine
    finally: Distilled.kinds.clear(); Distilled.kinds.update(kept)

@pytest.mark.parametrize('done, asked', [(4, 2), (4, 1), (2, 1)])
def test_fewer_iterations_than_done_are_refused(done, asked, tmp_path):
    def go(steps): return distill(Pixels.from_real(toy(), 1), lambda d: d.images.square().mean(), steps, {'images': partial(torch.optim.SGD, lr=.1)}, ckpt=tmp_path/'c.safetensors', quiet=True)
    go(done)
    with pytest.raises(ValueError, match=f'complete at iteration {done}, and {asked} are asked for'): go(asked)
    assert go(done).it == done and go(done + 1).it == done + 1

@pytest.mark.parametrize('branch', [lambda x: x*2 if x.sum() > 0 else x, lambda x: x[:int(x[0].sum() > 0) + 1], lambda x: x.clamp(max=x.max().item())])
def test_a_branch_on_values_is_never_traced_as_if_it_were_none(branch):
    with pytest.raises(ValueError, match='depends on the values that it sees') as e: trace_step(lambda x: (branch(x),), [torch.ones(3, 2)])
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('lr', ['1e30', 'inf', '-1', 'nan'])
def test_the_command_says_that_students_died(lr, capsys):
    with pytest.raises(SystemExit) as e: dd_eval(['--random', '--data', 'digits', '--width', '8', '--depth', '1', '--epochs', '5', '--n_eval', '1', '--lr', lr])
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith('dd_repro: ') and err.count('\n') == 1 and ('not finite' in err or 'must be a finite number' in err or f'lr is {float(lr)}; it must be above 0' in err)

# --- ConvNets that were changed, trained together

def conv_of(**kw): return lambda n: n.blocks.__getitem__(1).__setitem__(0, nn.Conv2d(6, 6, **(dict(kernel_size=3, padding=1) | kw)))
def norm_of(m): return lambda n: n.blocks[0].__setitem__(1, m())
CHANGED = dict(
    circular=conv_of(padding_mode='circular'), reflected=conv_of(padding_mode='reflect'), dilated=conv_of(dilation=2, padding=2),
    grouped=conv_of(groups=2), no_bias=conv_of(bias=False), kernel_1=conv_of(kernel_size=1, padding=0), kernel_5=conv_of(kernel_size=5, padding=2),
    same_padding=conv_of(padding='same'), without_affine=norm_of(lambda: nn.GroupNorm(6, 6, affine=False)), two_groups=norm_of(lambda: nn.GroupNorm(2, 6)),
    layer_norm=norm_of(lambda: nn.LayerNorm([8, 8])), max_pool=lambda n: n.blocks[1].__setitem__(3, nn.MaxPool2d(2)), gelu=lambda n: n.blocks[0].__setitem__(2, nn.GELU()),
    head_without_bias=lambda n: setattr(n, 'head', nn.Linear(24, 4, bias=False)), own_forward=lambda n: setattr(n, 'forward', lambda x: 2*n.head(n.embed(x))),
    as_it_was=lambda n: None)

def changed_convnet(how, seed):
    net = convnet()
    with seeded(seed, 'changed'): CHANGED[how](net); [nn.init.normal_(p, std=.3) for p in net.parameters()]
    return net

def strided():
    net = convnet()
    with seeded('strided'): net.blocks[1][0], net.blocks[1][3] = nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.AvgPool2d(1)
    return net

@pytest.mark.parametrize('how', [k for k in CHANGED if k != 'own_forward'])
def test_a_changed_convnet_computes_the_same_together(how):
    nets, x = [changed_convnet(how, i) for i in range(2)], torch.randn(2, 3, 1, 8, 8, generator=rng_for('x'))
    torch.testing.assert_close(Team(nets).logits(x), torch.stack([n(v) for n, v in zip(nets, x)]), rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('make', [strided, *(partial(changed_convnet, k, 0) for k in ('circular', 'no_bias', 'own_forward', 'as_it_was'))])
def test_a_changed_convnet_trains_the_same_together(make):
    alone, both = [make(), make()], [make(), make()]
    train(alone, toy(), PLAIN, together=False)
    try: train(both, toy(), PLAIN, together='auto')
    except ValueError as e: raise AssertionError('auto has to train what can be trained') from e
    for a, b in zip(alone, both): torch.testing.assert_close(to_vector(a), to_vector(b), rtol=1e-3, atol=1e-4)

# --- matching: labels and classes

@pytest.mark.parametrize('make', [DM, DC])
@pytest.mark.parametrize('bad, says', [(lambda r: (ImageTensors(r.x, F.one_hot(r.y, 4).float(), 4), convnet), 'soft labels'), (lambda r: (r, lambda: convnet(n_out=5)), 'tells 5 classes apart'),
    (lambda r: (r, lambda: convnet(n_out=3)), 'tells 3 classes apart')])
def test_matching_is_refused_for_labels_and_networks_of_other_classes(make, bad, says):
    with pytest.raises(ValueError, match=says) as e: make(*bad(toy()))
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('make', [DM, DC])
@pytest.mark.parametrize('names', [['b', 'a', 'c', 'd'], ['a', 'b', 'd', 'c'], ['d', 'c', 'b', 'a']])
def test_matching_is_refused_for_classes_in_another_order(make, names):
    of = lambda names: ImageTensors(toy().x, toy().y, 4, names, name='toy')
    o = make(of(list('abcd')), convnet, Matching(batch_real=3) if make is DC else 3)
    o.backward(Pixels.from_real(of(list('abcd')), 1))
    with pytest.raises(ValueError, match='in another order'): o.backward(Pixels.from_real(of(names), 1))

@pytest.mark.parametrize('change, word', [
    (dict(aug='flipp'), "augmentation 'flipp'"), (dict(aug=str.upper), "OPS"), (dict(epoch=3), 'did you mean epochs'), (dict(epochs=2.5), 'whole number'),
    (dict(batch=.5), 'whole number'), (dict(momentum=-1.), 'momentum is -1'), (dict(momentum=7.), 'momentum is 7'), (dict(momentum=float('nan')), 'momentum is nan'),
    (dict(wd=float('nan')), 'wd is nan'), (dict(wd=-1.), 'wd is -1'), (dict(temperature=float('inf')), 'temperature is inf')])
def test_a_wrong_protocol_is_refused_when_it_is_made(change, word):
    from dd_repro.students import as_protocol
    with pytest.raises(ValueError, match=word): as_protocol('mtt').scaled(**change)

@pytest.mark.parametrize('kw, word', [(dict(n_eval=1.5), 'whole number'), (dict(nets=[]), 'nets is empty'), (dict(nets=nn.Linear), 'NETS'), (dict(nets='resnet'), 'did you mean')])
def test_what_is_evaluated_is_said_rightly(kw, word):
    real, test = load('digits', size=8)
    with pytest.raises(ValueError, match=word): evaluate(Pixels.from_real(real, 1, lr=.01), test, **kw)

def test_sets_in_the_wrong_place_are_named():
    real, test = load('digits', size=8)
    with pytest.raises(ValueError, match='load returns two'): Pixels.from_real((real, test), 1)
    with pytest.raises(ValueError, match='real images to test on'): evaluate(test, Pixels.from_real(real, 1, lr=.01))
    with pytest.raises(ValueError, match='whole number'): Pixels.from_real(real, 1.5)

def test_a_network_and_an_augmentation_of_ones_own_by_name(monkeypatch):
    from dd_repro.augment import OPS
    from dd_repro.students import as_protocol
    from dd_repro.zoo import NETS
    monkeypatch.setitem(NETS, 'mine', lambda n_in, n_out, size: ConvNet(n_in, n_out, size, 8, 1))
    monkeypatch.setitem(OPS, 'darker', lambda x, u, p: x*u[:, :1, None, None])
    real, test = load('digits', size=32)
    p = as_protocol('mtt').scaled(epochs=2, aug='darker')
    a, b = (evaluate(Pixels.from_real(real, 1, lr=.01), test, 'mine', p, 1)[0] for _ in range(2))
    assert a.net == 'mine' and a.mean == b.mean
