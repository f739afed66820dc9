"FreD: SciPy's transform, masks written once more, gradients, and MTT where nothing is left out."
from functools import partial

import numpy as np
import pytest, torch
from scipy.fft import dctn, idctn

from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import expert_protocol, train_experts
from dd_repro.fred import *
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of
from dd_repro.mtt import MTTMethod

torch.set_num_threads(1)
net_fn, QUIET = partial(ConvNet, 1, 10, 8, 8, 1), RunOptions(quiet=True)
KW = dict(iterations=3, syn_steps=3, expert_epochs=1, max_start_epoch=2, lr_lr=1e-6, lr_teacher=.05, aug='')


@pytest.fixture(scope='module')
def data(): return load('digits')

@pytest.fixture(scope='module')
def task(data, tmp_path_factory):
    b = train_experts(net_fn, data[0], tmp_path_factory.mktemp('experts'), 2, expert_protocol(3, .05, 64, ''), quiet=True)
    return Task(*data, net_fn, experts=b)

@pytest.mark.parametrize('s', [1, 2, 7, 8, 32])
def test_the_transform_is_scipys(s):
    x = torch.randn(3, s, s, generator=rng_for(0))
    C = dct_matrix(s)
    want = dctn(x.double().numpy(), axes=(1, 2), norm='ortho')
    assert np.abs((C@x@C.T).numpy() - want).max() < 1e-4
    # the official code has no factors: its frequencies of two moving axes are 2s times as large
    plain = dctn(x.double().numpy(), axes=(1, 2))
    assert np.abs(plain[:, 1:, 1:] - 2*s*want[:, 1:, 1:]).max(initial=0) < 1e-3*s

@pytest.mark.parametrize('k', [1, 16, 32, 64])
def test_masks_and_pictures_are_those_of_an_independent_implementation(data, k):
    d, real = Frequencies.from_real(data[0], 1, k, seed=3), Pixels.from_real(data[0], 64//k, seed=3)
    assert len(d) == 10*(64//k) and d.nbytes <= Pixels.from_real(data[0], 1).nbytes
    for c in range(10):
        x = real.images[real.y == c].detach().double().numpy()
        F = dctn(x, axes=(2, 3), norm='ortho')
        var = F.mean(1).reshape(len(x), -1).var(0)
        kept = set(d.where[c].tolist())
        assert len(kept) == k and min(var[list(kept)]) >= max(np.delete(var, list(kept)), default=0) - 1e-5
        mask = np.zeros(64)
        mask[list(kept)] = 1
        want = idctn(F*mask.reshape(8, 8), axes=(2, 3), norm='ortho')
        assert np.abs(d.sample(y=c)[0].detach().numpy() - want).max() < 1e-4

@pytest.mark.parametrize('by', ['variance', 'energy'])
def test_what_is_common_to_a_class_counts_by_energy_alone(by):
    F = torch.randn(6, 2, 4, 4, generator=rng_for(0))
    F[:3, :, 0, 0] += 50.
    F[:3, :, 0, 0] = F[:1, :, 0, 0]
    where = frequencies_to_keep(F, torch.tensor([0]*3 + [1]*3), 5, 2, by)
    assert (0 in where[0].tolist()) is (by == 'energy')
    f = F.mean(1).flatten(1)[:3].double().numpy()
    score = f.var(0) if by == 'variance' else (f**2).mean(0)
    assert set(where[0].tolist()) == set(np.argsort(-score)[:5].tolist())

def test_gradients_are_the_transform_of_those_of_pixels(data):
    d = Frequencies.from_real(data[0], 1, 16)
    x, y = d.sample(idx=torch.tensor([5, 2]))
    g = torch.randn(x.shape, generator=rng_for(1))
    x.backward(g)
    for i, j in enumerate((5, 2)):
        want = dctn(g[i, 0].double().numpy(), norm='ortho').reshape(-1)[d.where[d.y[j]].numpy()]
        assert np.abs(d.values.grad[j, 0].numpy() - want).max() < 1e-5
    assert d.values.grad[0].abs().sum() == 0

def test_with_all_frequencies_it_is_mtt(task, tmp_path):
    a = learn(task, MTTMethod(lr_img=5., **KW), tmp_path/'a', QUIET)[0]
    b = learn(task, FreDMTTMethod(lr_freq=5., msz_per_channel=64, **KW), tmp_path/'b', QUIET)[0]
    torch.testing.assert_close(a.images, b.images, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(a.lr, b.lr)

@pytest.mark.parametrize('m', [FreDMTTMethod(msz_per_channel=16, lr_freq=5., **KW), FreDDMMethod(iterations=3, msz_per_channel=16, batch_real=8)])
def test_a_set_learns_comes_back_and_goes_on(task, tmp_path, m):
    d, run = learn(task, m, tmp_path/'a', QUIET)
    assert not torch.equal(d.values, m.start(task).values) and len(d) == 40 and d.nbytes == 4*640
    again = Distilled.load(tmp_path/'a'/'distilled.safetensors')
    assert type(again) is Frequencies and torch.equal(again.images, d.images) and again.shape == (1, 8, 8)
    learn(task, m, tmp_path/'b', RunOptions(quiet=True, minutes=1e-9))
    assert torch.equal(learn(task, m, tmp_path/'b', QUIET)[0].values, d.values)
    (x, y), = d.epoch(0, 64)
    assert x.shape == (40, 1, 8, 8) and not x.requires_grad

@pytest.mark.parametrize('name', ['fred-mtt', 'fred-dm'])
def test_what_cannot_be(task, tmp_path, name):
    with pytest.raises(ValueError, match='^msz_per_channel is 65; images of 8 px have 64 frequencies$'): learn(task, method_of(name, msz_per_channel=65), tmp_path/'none')
    with pytest.raises(ValueError, match='images of class .* asked for'): learn(task, method_of(name, msz_per_channel=1, ipc=9), tmp_path/'none')
    with pytest.raises(ValueError, match='lr_freq is 0'): method_of(name, lr_freq=0.)
    assert not (tmp_path/'none').exists()
    assert learn(task, smoke_of(METHODS[name]()), tmp_path/'smoke', QUIET)[1].it == 1

def test_one_image_a_class_has_no_variance(data):
    with pytest.raises(ValueError, match='has no variance; keep fewer, or choose them by energy'): Frequencies.from_real(data[0], 1, 40)
    assert len(Frequencies.from_real(data[0], 1, 40, by='energy')) == 10
