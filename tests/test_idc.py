"IDC: tiles written once more, a match and a training written once more, gradients of tiles, DM and MTT where a frame holds one image."
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest, torch
from torch.nn import functional as F

from dd_repro.augment import DSA, noop
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seed_of, seeded
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import expert_protocol, train_experts
from dd_repro.idc import *
from dd_repro.match import DMMethod
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of
from dd_repro.mtt import MTTMethod
from dd_repro.norm import ZCA, Normalize
from dd_repro.students import as_protocol

torch.set_num_threads(1)
net_fn, QUIET = partial(ConvNet, 1, 10, 8, 8, 1), RunOptions(quiet=True)
KW = dict(iterations=3, syn_steps=3, expert_epochs=1, max_start_epoch=2, lr_lr=1e-6, lr_teacher=.05, aug='')
HOW = dict(outer=3, inner=2, batch_real=8)


@pytest.fixture(scope='module')
def data(): return load('digits')

@pytest.fixture(scope='module')
def task(data, tmp_path_factory):
    b = train_experts(net_fn, data[0], tmp_path_factory.mktemp('experts'), 2, expert_protocol(3, .05, 64, ''), quiet=True)
    return Task(*data, net_fn, experts=b)

@pytest.mark.parametrize('s, f', [(8, 2), (8, 3), (7, 2), (9, 3), (6, 1), (5, 5)])
def test_tiles_are_those_of_an_independent_implementation(s, f):
    frames = torch.randn(3, 2, s, s, generator=rng_for(0))
    got, t = cut_apart(frames, f, fill=.25), -(-s//f)
    padded = np.full((3, 2, t*f, t*f), .25)
    padded[..., :s, :s] = frames.double().numpy()
    def enlarged(x):
        "Bilinear, half-pixel centres, edges held."
        at = (np.arange(s) + .5)*t/s - .5
        at = at.clip(0, t - 1)
        lo, w = np.floor(at).astype(int), at - np.floor(at)
        hi = np.minimum(lo + 1, t - 1)
        rows = x[lo]*(1 - w)[:, None] + x[hi]*w[:, None]
        return rows[:, lo]*(1 - w) + rows[:, hi]*w
    k = 0
    for n in range(3):
        for i in range(f):
            for j in range(f):
                for c in range(2): assert np.abs(enlarged(padded[n, c, i*t:(i + 1)*t, j*t:(j + 1)*t]) - got[k, c].numpy()).max() < 1e-5
                k += 1
    assert len(got) == k

def test_a_frame_is_made_of_every_second_row_and_column():
    x = torch.randn(4, 1, 8, 8, generator=rng_for(0))
    frame = put_together(x, 2)[0, 0]
    for q in range(4): assert torch.equal(frame[q//2*4:, q % 2*4:][:4, :4], x[q, 0, ::2, ::2])

def test_a_gradient_stays_in_its_tile(data):
    d = Formation.from_real(data[0], 1)
    d.sample(idx=torch.tensor([6]))[0].sum().backward()
    seen = d.frames.grad.abs().sum(1) > 0
    assert seen[1, 4:, :4].all() and seen.sum() == 16 # image 6 is tile 2 of frame 1
    x, y = d.sample(idx=torch.tensor([6]))
    made = d.pure().made(d.pure().tensors, torch.tensor([6]))
    assert torch.equal(made[0], x) and torch.equal(made[1], y)

def test_a_match_and_the_training_after_it_written_once_more(data):
    real, d = data[0], Formation.from_real(data[0], 1)
    idc = IDC(real, net_fn, RealMatching(**HOW, net_lr=.1, batch_train=8, mix_p=0.))
    rng, net = rng_for(0), None
    rng.set_state(idc.rng.get_state())
    params = [p.detach().clone().requires_grad_() for p in idc.params]
    idc.backward(d)
    idc.after(d)
    from torch.func import functional_call
    names = [n for n, _ in idc.net.named_parameters()]
    def grad(x, c, ps):
        z = functional_call(net_fn(), dict(zip(names, ps)), (x,))
        return torch.autograd.grad(F.cross_entropy(z, torch.full((len(x),), c)), ps, create_graph=True)
    e, total = Formation.from_real(data[0], 1), 0.
    for c in range(10):
        x = real.of_class(c, 8, rng)
        s = e.images[4*c:4*c + 4]
        total = total + sum((a - b.detach()).square().sum() for a, b in zip(grad(s, c, params), grad(x, c, params)) if a.ndim > 2)
    total.backward(inputs=[e.frames])
    assert (d.frames.grad - e.frames.grad).norm() < 1e-4*e.frames.grad.norm()
    velocity = [torch.zeros_like(p) for p in params]
    batches = iter(real.batches(8, rng))
    for _ in range(2):
        x, y = next(batches)
        torch.rand((), generator=rng)
        z = functional_call(net_fn(), dict(zip(names, params)), (x,))
        for p, v, g in zip(params, velocity, torch.autograd.grad(F.cross_entropy(z, y), params)):
            v.mul_(.9).add_(g + 5e-4*p.detach())
            p.data.sub_(.1*v)
    for p, q in zip(params, idc.params): torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)

def test_mixing_is_by_lot(data):
    idc = IDC(data[0], net_fn, RealMatching(**HOW, mix_p=.5))
    x, y = next(iter(data[0].batches(8, rng_for(0))))
    kinds = [idc.mixed(x, y)[1].ndim for _ in range(200)]
    assert 70 < kinds.count(2) < 130
    idc.mix_p = 1.
    xx, yy = idc.mixed(x, y)
    assert yy.shape == (8, 10) and torch.allclose(yy.sum(1), torch.ones(8)) and not torch.equal(x, xx)
    assert IDC(data[0], net_fn, RealMatching(**HOW), DSA('color+crop_cutout', siamese=True)).train_aug.strategy == 'color+crop'

@pytest.mark.parametrize('strategy, want', [('color+crop_cutout', 'color+crop'), ('cutout', ''), ('color_crop', 'color_crop'), ('cutout+flip', 'flip')])
def test_a_strategy_without_a_transform(strategy, want): assert without(strategy, 'cutout') == want

def test_frames_stay_pictures(data):
    d = Formation.from_real(data[0], 1)
    d.frames.data[0], d.frames.data[1] = 9., -9.
    as_pictures(d)
    x = d.norm.inverse(d.frames.detach())
    assert x.min() >= -1e-6 and x.max() <= 1 + 1e-6
    assert torch.allclose(x[0], torch.ones(1)) and torch.allclose(x[1], torch.zeros(1), atol=1e-6)
    d.norm = SimpleNamespace() # no range that holds for each pixel
    d.frames.data[0] = 9.
    as_pictures(d)
    assert d.frames[0].min() == 9

def test_with_one_image_in_a_frame_it_is_dm_and_mtt(task, tmp_path):
    a = learn(task, MTTMethod(lr_img=5., **KW), tmp_path/'a', QUIET)[0]
    b = learn(task, IDCMTTMethod(lr_img=5., factor=1, **KW), tmp_path/'b', QUIET)[0]
    assert torch.equal(a.images, b.images) and torch.equal(a.lr, b.lr)
    kw = dict(iterations=3, batch_real=8, lr_img=2., aug='crop')
    a, b = learn(task, DMMethod(**kw), tmp_path/'c', QUIET)[0], learn(task, IDCDMMethod(factor=1, **kw), tmp_path/'d', QUIET)[0]
    assert torch.equal(a.images, b.images)

def stop(run):
    if run.it == 2: run.stopped = 'time'

@pytest.mark.parametrize('m', [IDCMethod(iterations=2, lr_img=.5, **HOW), IDCMTTMethod(lr_img=5., **KW), IDCDMMethod(iterations=3, batch_real=8)])
def test_a_set_learns_comes_back_and_goes_on(task, tmp_path, m):
    d, run = learn(task, m, tmp_path/'a', QUIET)
    assert not torch.equal(d.frames, m.start(task).frames) and len(d) == 40 and d.nbytes == 4*640
    again = Distilled.load(tmp_path/'a'/'distilled.safetensors')
    assert type(again) is Formation and torch.equal(again.images, d.images) and again.factor == 2
    learn(task, m, tmp_path/'b', RunOptions(quiet=True, callbacks=[stop]))
    assert torch.equal(learn(task, m, tmp_path/'b', QUIET)[0].frames, d.frames)
    (x, y), = d.epoch(0, 64)
    assert x.shape == (40, 1, 8, 8) and not x.requires_grad

def test_its_rate_follows_the_images_and_the_card_says_what_acted(task, tmp_path):
    assert [IDCMethod(ipc=k).rate for k in (1, 10)] == [.0125, .125] and IDCMethod(lr_img=.3).rate == .3
    d, _ = learn(task, IDCMethod(iterations=1, **HOW), tmp_path/'a', QUIET)
    s = d.info['settings']
    assert (s['lr_img'], s['aug'], d.aug, d.protocol) == (.0125, 'color+crop_cutout', 'color+crop_scale_rotate+cutmix', 'idc')
    assert as_protocol('idc').batch == 64 and as_protocol('idc-imagenet').aug.endswith('cutmix')

@pytest.mark.parametrize('name', ['idc', 'idc-dm', 'idc-mtt'])
def test_what_cannot_be(task, tmp_path, name):
    with pytest.raises(ValueError, match='^factor is 9; images of 8 px have no room for it$'): learn(task, method_of(name, factor=9), tmp_path/'none')
    with pytest.raises(ValueError, match='images of class .* asked for'): learn(task, method_of(name, factor=8, ipc=9), tmp_path/'none')
    with pytest.raises(ValueError, match='lr_img is 0'): method_of(name, lr_img=0.)
    with pytest.raises(ValueError, match="augmentation 'crops'"): method_of(name, aug='crops')
    assert not (tmp_path/'none').exists()
    assert learn(task, smoke_of(METHODS[name]()), tmp_path/'smoke', QUIET)[1].it == smoke_of(METHODS[name]()).updates

def test_frames_have_no_part(data):
    with pytest.raises(ValueError, match='no part'): Formation.from_real(data[0], 1).part(slice(0, 1))
