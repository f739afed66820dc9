"FTD: GSAM's step written once more over one vector, MTT's experts and sets where it adds nothing, the mean over time, and what is refused."
from functools import partial

import pytest, torch
from torch.func import functional_call
from torch.nn import functional as F

from dd_repro.cli import dd_experts
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seed_of, seeded
from dd_repro.data import load
from dd_repro.distilled import Distilled
from dd_repro.experts import Buffer, expert_protocol, train_experts
from dd_repro.ftd import *
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of
from dd_repro.mtt import MTTMethod
from dd_repro.students import train

torch.set_num_threads(1)
net_fn, QUIET = partial(ConvNet, 1, 10, 8, 8, 1), RunOptions(quiet=True)
KW = dict(iterations=3, syn_steps=3, expert_epochs=1, max_start_epoch=2, lr_img=5., lr_lr=1e-6, lr_teacher=.05, aug='')
FLAT = dict(lr=.05, batch=64, aug='')


@pytest.fixture(scope='module')
def data(): return load('digits')

@pytest.fixture(scope='module')
def flat(data, tmp_path_factory): return train_experts(net_fn, data[0], tmp_path_factory.mktemp('flat'), 2, flat_protocol(3, .3, .4, **FLAT), quiet=True)

def vector(net): return torch.cat([p.detach().flatten() for p in net.parameters()])

@pytest.mark.parametrize('rho, alpha', [(.3, .4), (.01, 0.), (1., 2.)])
def test_steps_are_those_of_an_independent_implementation(data, rho, alpha):
    "One epoch of three batches, in double precision over one vector."
    real = data[0]
    with seeded(0): net = net_fn()
    names, shapes = zip(*((n, p.shape) for n, p in net.named_parameters()))
    w = vector(net).double()
    p = flat_protocol(1, rho, alpha, lr=.05, batch=512, aug='')
    def grad(w, x, y):
        w = w.detach().requires_grad_()
        parts = dict(zip(names, (v.view(s) for v, s in zip(w.split([s.numel() for s in shapes]), shapes))))
        return torch.autograd.grad(F.cross_entropy(functional_call(net.double(), parts, (x.double(),)), y), w)[0]
    batches = list(real.epoch(0, 512, rng_for(7, 'train', 0)))
    for x, y in batches:
        g = grad(w, x, y)
        e = w**2*g*rho/(w.abs()*g).norm()
        gp = grad(w + e, x, y)
        unit = gp/gp.norm()
        w = w - .05*(gp - alpha*(g - (g@unit)*unit))
    with seeded(0): net = net_fn()
    train([net], real, p, seed=7)
    assert len(batches) == 3 and (vector(net) - w).norm() < 1e-4*(w - vector(net_fn()).double()).norm()

def test_a_team_takes_the_step_of_each_of_its_networks(data):
    "Norms are a network's own, also where two are trained as one."
    ps = [[torch.randn(3, 2, generator=rng_for(i)), torch.randn(4, generator=rng_for(i, 'b'))] for i in range(2)]
    gs = [[torch.randn(3, 2, generator=rng_for(i, 'g')), torch.randn(4, generator=rng_for(i, 'h'))] for i in range(2)]
    both = lambda x: [torch.stack(t) for t in zip(*x)]
    alone = [worst_nearby(p, g, .5) for p, g in zip(ps, gs)]
    torch.testing.assert_close(worst_nearby(both(ps), both(gs), .5, 2), both(alone))
    alone = [less_across(p, g, .7) for p, g in zip(ps, gs)]
    torch.testing.assert_close(less_across(both(ps), both(gs), .7, 2), both(alone))
    v = [torch.cat([t.flatten() for t in less_across(ps[0], gs[0], 1.)]) - torch.cat([t.flatten() for t in ps[0]])]
    assert abs(float(v[0]@torch.cat([t.flatten() for t in ps[0]]))) < 1e-5 # what is taken off is orthogonal

def test_a_gradient_of_zero_moves_nothing():
    zero = [torch.zeros(3)]
    assert torch.equal(worst_nearby([torch.ones(3)], zero, 1.)[0], zero[0]) and torch.equal(less_across(zero, zero, 1.)[0], zero[0])

def test_without_a_radius_it_is_an_expert_of_mtt(data, tmp_path):
    a = train_experts(net_fn, data[0], tmp_path/'a', 1, expert_protocol(2, **FLAT), quiet=True)
    b = train_experts(net_fn, data[0], tmp_path/'b', 1, flat_protocol(2, 0., 0., **FLAT), quiet=True)
    c = train_experts(net_fn, data[0], tmp_path/'c', 1, flat_protocol(2, .3, 0., **FLAT), quiet=True)
    assert torch.equal(a.snapshot(0, 2), b.snapshot(0, 2)) and not torch.equal(a.snapshot(0, 2), c.snapshot(0, 2))
    with pytest.raises(ValueError, match='other settings .*rho'): train_experts(net_fn, data[0], tmp_path/'c', 2, expert_protocol(2, **FLAT), quiet=True)
    assert (c.card['rho'], c.card['alpha']) == (.3, 0.) and 'rho' not in a.card

def test_without_a_mean_it_is_mtt_and_the_mean_is_that_of_the_states(data, flat, tmp_path):
    task, states = Task(*data, net_fn, experts=flat), []
    a = learn(task, MTTMethod(**KW), tmp_path/'a', QUIET)[0]
    assert torch.equal(a.images, learn(task, FTDMethod(ema_decay=0., **KW), tmp_path/'b', QUIET)[0].images)
    see = RunOptions(quiet=True, callbacks=[lambda run: states.append(run.d.images.detach().clone())])
    d = learn(task, FTDMethod(ema_decay=.6, **KW), tmp_path/'c', see)[0]
    want = states[0]
    for x in states[1:]: want = .6*want + .4*x
    torch.testing.assert_close(d.images.detach(), want)
    assert torch.equal(Distilled.load(tmp_path/'c'/'distilled.safetensors').images, d.images) and torch.equal(states[-1], a.images)

def test_it_goes_on_where_it_stopped(data, flat, tmp_path):
    task, m = Task(*data, net_fn, experts=flat), FTDMethod(ema_decay=.6, **KW)
    whole = learn(task, m, tmp_path/'a', QUIET)[0]
    learn(task, m, tmp_path/'b', RunOptions(quiet=True, minutes=1e-9))
    assert torch.equal(learn(task, m, tmp_path/'b', QUIET)[0].images, whole.images)

def test_experts_of_mtt_are_refused_and_those_of_others_taken(data, flat, tmp_path):
    sharp = train_experts(net_fn, data[0], tmp_path/'sharp', 1, expert_protocol(3, **FLAT), quiet=True)
    task = Task(*data, net_fn, experts=sharp)
    with pytest.raises(ValueError, match='experts of MTT; ftd follows flat ones .dd_experts ftd'): learn(task, FTDMethod(**KW), tmp_path/'none', QUIET)
    assert not (tmp_path/'none').exists()
    del sharp.card['content'] # as where it was imported
    FTDMethod(**KW).fits(task)
    with pytest.raises(ValueError, match='ema_decay is 1: the mean would never move'): method_of('ftd', ema_decay=1.)
    smoke = learn(Task(*data, net_fn, experts=flat), smoke_of(METHODS['ftd']()), tmp_path/'smoke', QUIET)[1]
    assert smoke.it == 1

def test_its_command_trains_flat_experts_beside_those_of_mtt(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('DD_HOME', str(tmp_path))
    dd_experts('ftd', n=1, epochs=1, width=8, depth=1, rho=.2)
    folder, = (tmp_path/'buffers').iterdir()
    assert folder.name.endswith('-flat') and Buffer(folder).card['rho'] == .2
    with pytest.raises(SystemExit): dd_experts('mtt', rho=.2)
    assert '--rho has no meaning for mtt; it is for ftd' in capsys.readouterr().err
