"Generators, GLaD and IT-GAN: the interface, cuts, losses written once more, runs that go on, and what is refused."
from functools import partial
from types import SimpleNamespace

import pytest, torch
from torch import nn

from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seed_of, seeded
from dd_repro.counts import runnable
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import expert_protocol, train_experts
from dd_repro.generator import *
from dd_repro.glad import *
from dd_repro.itgan import *
from dd_repro.match import DM
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of
from dd_repro.recipes import recipe

torch.set_num_threads(1)
net_fn, QUIET = partial(ConvNet, 1, 10, 8, 8, 1), RunOptions(quiet=True)
OWN = {'glad-mtt': dict(iterations=3, syn_steps=3, expert_epochs=1, max_start_epoch=1, lr_lr=1e-6, lr_teacher=.05, lr_img=1., lr_w=.1), 'glad-dm': dict(iterations=3, batch_real=8, lr_img=.1), 'glad-dc': dict(iterations=3, batch_real=8, lr_img=.1),
       'it-gan': dict(iterations=3, ipc=2, inversion=3, batch_real=8, lr_w=.01)}


@pytest.fixture(scope='module')
def data(): return load('digits')

@pytest.fixture(scope='module')
def g(data): return train_generator(data[0], 4, 8, epochs=2)

@pytest.fixture(scope='module')
def experts(data, tmp_path_factory): return train_experts(net_fn, data[0], tmp_path_factory.mktemp('experts'), 2, expert_protocol(2, .05, 64, ''), quiet=True)

@pytest.fixture
def task(data, g, experts): return Task(*data, net_fn, experts=experts, generator=g)

class Fake(nn.Module):
    "What a StyleGAN looks like from outside: affine layers that add a number of w."
    z_dim, c_dim = 3, 5
    def __init__(self):
        super().__init__()
        self.synthesis = nn.Module()
        self.synthesis.layer_names, self.synthesis.output_scale = ['L0', 'L1', 'L2'], .5
        self.synthesis.input = lambda w: w[:, :1, None, None].expand(-1, 1, 2, 2)
        for i in range(3): setattr(self.synthesis, f'L{i}', lambda x, w, i=i: (i + 2)*x + w[:, :1, None, None])
    def mapping(self, z, c): return torch.cat([z, c], 1)[:, None].repeat(1, 4, 1)*torch.arange(1., 5.)[:, None]

def test_a_stylegan_is_called_as_its_own_code_calls_it():
    s = StyleGAN(Fake(), [4, 2])
    w = s.latents(torch.tensor([1, 0]), rng_for(0))
    assert s.n_layers == 3 and w.shape == (2, 4, 8) and w[0, 0, 3:].tolist() == [0, 0, 1, 0, 0] and w[1, 0, 3:].tolist() == [0, 0, 0, 0, 1]
    v = w[:, :, 0].double()
    want = ((4*(3*(2*v[:, 0] + v[:, 1]) + v[:, 2]) + v[:, 3])*.5 + 1)/2
    for layer in range(4): torch.testing.assert_close(s.pictures(w, s.features(w, layer), layer)[:, 0, 0, 0].double(), want, rtol=1e-5, atol=1e-6)

def test_pictures_of_a_small_generator_are_pictures(g, data):
    w = g.latents(torch.arange(10), rng_for(0))
    x = g.pictures(w, g.features(w, 3), 3)
    assert x.shape == (10, 1, 8, 8) and 0 <= x.min() and x.max() <= 1 and not any(p.requires_grad for p in g.parameters())
    assert torch.equal(w, g.latents(torch.arange(10), rng_for(0))) and not torch.equal(w, g.latents(torch.arange(10), rng_for(1)))
    again = train_generator(data[0], 4, 8, epochs=2)
    assert generator_key(again) == generator_key(g) != generator_key(train_generator(data[0], 4, 8, epochs=2, seed=1))

def test_a_modulated_layer_written_once_more():
    with seeded(0): m = Modulated(3, 2, True)
    x, w = torch.randn(2, 3, 4, 4, generator=rng_for(0)), torch.randn(2, 2, generator=rng_for(1))
    big = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    y, s = m.conv(big), w@m.style.weight.T + m.style.bias
    y = y*(1 + s[:, :3, None, None]) + s[:, 3:, None, None]
    torch.testing.assert_close(m(x, w), torch.where(y > 0, y, .2*y))

@pytest.mark.parametrize('layer', range(5))
def test_a_set_learns_where_it_is_cut(task, g, layer):
    d = Generated.at_random(task.real, 2, g, layer)
    whole = Generated.at_random(task.real, 2, g, 0)
    inside = g.features(whole.w, layer).abs().flatten(1).amax(1) <= 10 # the others are cut
    torch.testing.assert_close(d.images[inside], whole.images[inside], rtol=1e-4, atol=1e-4)
    assert d.features.abs().max() <= 10 and (inside.any() or layer > 2)
    d.sample(idx=torch.tensor([3]))[0].sum().backward()
    assert (d.w.grad is None or layer < 4 and d.w.grad.abs().sum() > 0 or layer == 4) and d.y.tolist() == [c for c in range(10) for _ in range(2)]
    if layer: assert (d.features.grad.flatten(1).abs().sum(1) > 0).nonzero().flatten().tolist() == [3]
    assert not any('maker' in k or 'layers' in k for k in d.state_dict())

@pytest.mark.parametrize('name', OWN)
def test_a_set_learns_comes_back_as_pictures_and_goes_on(task, tmp_path, name):
    m = method_of(name, **OWN[name])
    begun = m.start(task)
    d, run = learn(task, m, tmp_path/'a', QUIET)
    for k in m.opts(d):
        if k != 'lr': assert not torch.equal(d.groups()[k][0], begun.groups()[k][0]), k
    again = Distilled.load(tmp_path/'a'/'distilled.safetensors')
    assert type(again) is Pixels and torch.equal(again.images, d.shown()) and again.nbytes == d.nbytes == 4*64*len(d) and len(d) == m.items(task.real)
    assert again.info['settings']['generator'] == generator_key(task.generator) and again.info['settings']['layer'] == d.layer
    learn(task, m, tmp_path/'b', RunOptions(quiet=True, minutes=1e-9))
    assert torch.equal(learn(task, m, tmp_path/'b', QUIET)[0].images, d.images)

def test_a_run_of_another_generator_does_not_go_on(task, tmp_path):
    m = method_of('glad-dm', **OWN['glad-dm'])
    learn(task, m, tmp_path, RunOptions(quiet=True, minutes=1e-9))
    task.generator = train_generator(task.real, 4, 8, epochs=1)
    with pytest.raises(ValueError, match='generator: '): learn(task, m, tmp_path, QUIET)

def test_the_gradient_is_that_of_its_pictures(task, g):
    "Through the generator: that of pixels, pulled back."
    d = Generated.at_random(task.real, 1, g, 2)
    p = Pixels(d.images.detach(), d.y, 10, classes=task.real.classes)
    for s in (d, p): DM(task.real, net_fn, 8, seed=1)(s).backward()
    made = task.real.norm(g.pictures(d.w, d.features, 2))
    for t, have in zip(torch.autograd.grad(made, [d.w, d.features], p.images.grad), (d.w.grad, d.features.grad)): torch.testing.assert_close(have, t, rtol=1e-3, atol=1e-5)

def test_the_paired_loss_written_once_more(task, g):
    d, x = Generated.at_random(task.real, 3, g, 0), Pixels.from_real(task.real, 3).images.detach()
    p = Paired(x, net_fn, seed=2)
    value, rng = p(d), rng_for(2, 'Paired')
    with seeded(seed_of(rng)): net = net_fn()
    a, b = net.embed(d.images).flatten(1), net.embed(x).flatten(1)
    want = sum(torch.stack([(a[i] - b[i]).square().sum() for i in range(3*c, 3*c + 3)]).mean() for c in range(10))
    torch.testing.assert_close(value, want, rtol=1e-4, atol=1e-4)

def test_an_inversion_in_batches_is_the_same(task, g):
    x = Pixels.from_real(task.real, 2).images.detach()
    sets = [Generated.at_random(task.real, 2, g, 0) for _ in range(2)]
    near = [s.invert(x, 15, batch=b) for s, b in zip(sets, (20, 10))]
    assert near[0] < (Generated.at_random(task.real, 2, g, 0).images - x).square().mean()
    # Adam does not see the scale of a mean
    torch.testing.assert_close(sets[0].w, sets[1].w, rtol=1e-2, atol=1e-2)

@pytest.mark.parametrize('text, said', [('none', 'there is none; give --generator FILE.py:NAME'), ('', 'or --generator small'), ('nowhere.py:g', 'nowhere.py: no such file')])
def test_no_generator(data, text, said):
    with pytest.raises(ValueError, match=said): open_generator(text, data[0])

def test_what_is_no_generator(data, tmp_path):
    file = tmp_path/'mine.py'
    file.write_text('def bad(real): return __import__("torch").nn.Linear(1, 1)\n')
    with pytest.raises(ValueError, match='Linear has no latents'): open_generator(f'{file}:bad', data[0])
    with pytest.raises(ValueError, match='defines no good'): open_generator(f'{file}:good', data[0])
    file.write_text('1/0\n')
    with pytest.raises(ValueError, match=r'cannot be run \(ZeroDivisionError'): open_generator(f'{file}:bad', data[0])

@pytest.mark.parametrize('name', OWN)
def test_a_smoke_run(task, tmp_path, name): assert learn(task, smoke_of(METHODS[name]()), tmp_path/'smoke', QUIET)[1].it == 1

@pytest.mark.parametrize('name, own, said', [('glad-dm', dict(layer=9), 'layer is 9; the generator has 4'), ('glad-mtt', dict(aug='crops'), "augmentation 'crops'"), ('it-gan', dict(lambda_pair=2.), 'lambda_pair is 2')])
def test_what_cannot_be(task, tmp_path, name, own, said):
    with pytest.raises(ValueError, match=said): learn(task, method_of(name, **own), tmp_path/'none')
    assert not (tmp_path/'none').exists()

def test_every_cell_of_a_generator_can_be_run():
    rows = [r for r in runnable() if r.method.startswith('GLaD') or r.method == 'IT-GAN']
    assert len(rows) == 46 and all(recipe(r.row).kind == 'decided' for r in rows)

def test_a_row_without_a_generator_names_the_file(data, tmp_path, monkeypatch):
    monkeypatch.setenv('DD_HOME', str(tmp_path))
    from dd_repro.stages import Job
    job = Job(recipe('d3/table5/imagenette/glad-dm/ipc1/convnet'), data[0], data[1], tmp_path)
    with pytest.raises(ValueError, match=r'imagenet-128\.py: no such file; give --generator'): job.generator()
