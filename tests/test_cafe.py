"CAFE: layers and losses written once more with hooks, when networks are given up, runs that go on, and what is refused."
from functools import partial
from types import SimpleNamespace

import pytest, torch
from torch.nn import functional as F

from dd_repro.cafe import *
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seed_of, seeded
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of

torch.set_num_threads(1)
net_fn, QUIET = partial(ConvNet, 1, 10, 8, 8, 2), RunOptions(quiet=True)
M = CAFEMethod(iterations=4, lr_img=.5, batch_real=6, most_epochs=2, most_matches=3)


@pytest.fixture(scope='module')
def data(): return load('digits')

@pytest.fixture
def task(data): return Task(*data, net_fn)

def test_layers_are_those_that_hooks_see(data):
    net, seen = net_fn(), []
    for b in net.blocks: b[2].register_forward_hook(lambda m, i, o: seen.append(o.clone())) # the ReLU
    net.blocks[-1][3].register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    x = data[0].x[:5]
    net(x)
    want = list(seen)
    got = layers_of(net, x)
    assert len(got) == 3
    for a, b in zip(got, want): torch.testing.assert_close(a, b.flatten(1))
    assert layer_weights(3) == [.1, 1., 2.] and layer_weights(4) == [.1, .1, 1., 2.]

def test_the_loss_written_once_more(task):
    "Class by class, sums of squares and of cross-entropies, two images a class."
    real, d = task.real, Pixels.from_real(task.real, 2, 5)
    o = CAFE(real, net_fn, M)
    rng = rng_for(0)
    rng.set_state(o.rng.get_state())
    loss = o(d)
    xs = [real.of_class(c, 6, rng) for c in range(10)]
    want, means = 0., []
    def of(x): return layers_of(o.net, x)
    for c in range(10):
        fr, fs = of(xs[c]), of(d.images[2*c:2*c + 2])
        for w, a, b in zip((.1, 1., 1.), fr, fs): want = want + w*((a.mean(0) - b.mean(0))**2).sum()
        want = want + ((fr[-1].mean(0) - fs[-1].mean(0))**2).sum() # the last once more
        means.append(fs[-1].mean(0))
    for c in range(10):
        for f in of(xs[c])[-1]:
            z = torch.stack([f@m for m in means])
            want = want + .01*(z.logsumexp(0) - z[c])
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-3)
    o.backward(d)
    assert d.images.grad.abs().sum() > 0 and d.lr.grad is None and all(p.grad is None for p in o.net.parameters())

def test_a_weight_of_zero_leaves_the_means_alone(task):
    d = Pixels.from_real(task.real, 1)
    a, b = (CAFE(task.real, net_fn, method_of(M, weight=w))(d) for w in (0., .01))
    assert b > a

@pytest.mark.parametrize('seen, want', [([], None), ([.1]*9, None), ([.5]*10, 0.), ([0., *[.5]*9, .6], .1), ([.9, *[.1]*10], 0.)])
def test_how_much_accuracies_moved(seen, want): assert moved(seen) == (want if want is None else pytest.approx(want))

def test_when_a_network_is_given_up(task, monkeypatch):
    "When it is calm, or at the most matches; it is trained until it has changed, or for the most epochs."
    d = Pixels.from_real(task.real, 1)
    told, steps = [], []
    o = CAFE(task.real, net_fn, method_of(M, most_matches=50, most_epochs=30))
    monkeypatch.setattr(CAFE, 'accuracy', lambda self: told.pop(0))
    train = o.training
    o.training = lambda d: (steps.append(1), train(d))[1]
    told += [.5] + [.1]*9 + [.2]
    o.after(d)
    assert o.at == 1 and len(steps) == 10 and told == [] # ten epochs, the tenth accuracy is another
    o.change, o.most_epochs = 9., 1
    for k in range(9):
        told += [.5 + .001*k] + [.1]*(k < 8)
        o.after(d)
    assert o.at == 0 and o.seen == [] # ten accuracies within 0.04
    o.most_matches = 2
    told += [0., .1]; o.after(d)
    told += [1.]; o.after(d)
    assert o.at == 0

@pytest.mark.parametrize('t, want', [(0., 1.), (.59, 1.), (.6, .5), (.85, .25), (.95, .125)])
def test_the_rate_halves(t, want): assert halvings(t) == want

def stop(run):
    if run.it == 2: run.stopped = 'time'

def test_a_set_learns_comes_back_and_goes_on(task, tmp_path):
    d, run = learn(task, M, tmp_path/'a', QUIET)
    assert run.it == 4 and not torch.equal(d.images, M.start(task).images)
    assert torch.equal(Distilled.load(tmp_path/'a'/'distilled.safetensors').images, d.images)
    learn(task, M, tmp_path/'b', RunOptions(quiet=True, callbacks=[stop]))
    assert torch.equal(learn(task, M, tmp_path/'b', QUIET)[0].images, d.images)

def test_two_methods(task, tmp_path):
    for name, aug, protocol in (('cafe', '', 'dc'), ('cafe-dsa', 'color_crop_cutout_scale_rotate', 'dsa')):
        d, run = learn(task, smoke_of(METHODS[name]()), tmp_path/name, QUIET)
        assert (run.it, d.aug, d.protocol) == (1, aug, protocol)

def test_what_cannot_be(task, tmp_path):
    flat = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(ValueError, match='Sequential has no blocks; cafe compares the layers of a ConvNet'): learn(Task(*load('digits'), flat), CAFEMethod(), tmp_path/'none')
    with pytest.raises(ValueError, match='most_matches is 0'): CAFEMethod(most_matches=0)
