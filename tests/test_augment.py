"Each law of DSA: its range, its distribution, its gradient, and parity with a plain loop over images."
import math
import pytest, torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from dd_repro.core import rng_for
from dd_repro.augment import *
from dd_repro.augment import RATIOS

N = 4000
def images(n=6, c=3, h=8, w=None, dtype=torch.float32): return torch.rand(n, c, h, w or h, generator=rng_for('img', n, c, h), dtype=dtype)
def drawn(op, x, seed=0, **kw): return DSA(op, **kw)(x, rng_for(seed, op))

def test_brightness_range():
    "A flat image stays flat whatever saturation and contrast do, so only brightness is seen."
    b = drawn('color', torch.zeros(N, 3, 2, 2)).mean((1, 2, 3))
    assert -.5 <= b.min() < -.49 and .49 < b.max() <= .5 and abs(b.mean()) < .02

def test_saturation_and_contrast_range():
    x = torch.zeros(N, 2, 1, 2); x[:, 0] = 1; x[:, 1] = -1                      # colour only: factor 2u(u'+.5)
    y = drawn('color', x); f = (y[:, 0, 0, 0] - y[:, 1, 0, 0])/2
    assert 0 <= f.min() < .01 and 2.8 < f.max() <= 3
    x = torch.zeros(N, 1, 1, 2); x[..., 1] = 1                                   # light only: factor u' + .5
    f = (lambda y: y[:, 0, 0, 1] - y[:, 0, 0, 0])(drawn('color', x))
    assert .5 <= f.min() < .51 and 1.49 < f.max() <= 1.5 and abs(f.mean() - 1) < .02

@pytest.mark.parametrize('side,s', [(8, 1), (32, 4), (64, 8), (128, 16)])
def test_crop_shifts(side, s):
    n = 600 if side > 32 else N
    x = torch.zeros(n, 1, side, side); x[:, :, side//2, side//2] = 1
    at = drawn('crop', x).flatten(1).argmax(1)
    dy, dx = at//side - side//2, at % side - side//2
    for d in (dy, dx):
        assert d.min() == -s and d.max() == s
        freq = torch.bincount(d + s)/n
        assert (freq - 1/(2*s+1)).abs().max() < 6*math.sqrt(1/(2*s+1)/n)
    assert abs(torch.corrcoef(torch.stack([dx, dy]).double())[0, 1]) < .15

def test_crop_fills_with_zeros():
    y = drawn('crop', torch.ones(N, 1, 8, 8))
    assert set(y.unique().tolist()) == {0., 1.} and set(y.sum((1, 2, 3)).tolist()) == {49., 56., 64.}

@pytest.mark.parametrize('side', [7, 8, 32])
def test_cutout_size_and_place(side):
    size = int(.5*side + .5)
    hole = drawn('cutout', torch.ones(N, 1, side, side))[:, 0] == 0
    rows, cols = hole.any(2), hole.any(1)
    assert rows.sum(1).max() == size and rows.sum(1).min() >= size//2
    assert (hole == rows[:, :, None] & cols[:, None]).all()
    centres = side + 1 - size % 2                                                # places for the centre, all equally likely
    last = rows.float().cumsum(1).argmax(1)                                      # last hidden row
    inner = ((last >= size - 1) & (last < side - 1)).float().mean()
    expected = sum(size - 1 <= c - size//2 + size - 1 < side - 1 for c in range(centres))/centres
    assert abs(inner - expected) < .04

def test_flip_half():
    x = torch.zeros(N, 1, 4, 4); x[..., 0] = 1
    y = drawn('flip', x)
    assert torch.equal(y + y.flip(3), torch.ones_like(y)*torch.tensor([1., 0, 0, 1])) and abs(y[:, 0, 0, 0].mean() - .5) < .03

def _slopes(op, n=N):
    g = torch.linspace(-1, 1, 17)
    xy = torch.stack([g.expand(17, 17), g[:, None].expand(17, 17)])[None].expand(n, 2, 17, 17)
    y = drawn(op, xy)
    return (y[:, :, 8, 9] - y[:, :, 8, 8])*8, (y[:, :, 9, 8] - y[:, :, 8, 8])*8  # d/dx and d/dy of both coordinates

def test_scale_range():
    (sx, _), (_, sy) = (d.T for d in _slopes('scale'))
    for s in (sx, sy): assert abs(s.min() - 1/1.2) < 1e-3 and abs(s.max() - 1.2) < 1e-3 and abs(s.mean() - (1.2 + 1/1.2)/2) < .01
    assert abs(torch.corrcoef(torch.stack([sx, sy]))[0, 1]) < .06

def test_rotate_range():
    dx, dy = _slopes('rotate')
    a = torch.atan2(dx[:, 1], dx[:, 0])*180/math.pi
    assert -15.001 <= a.min() < -14.9 and 14.9 < a.max() <= 15.001 and abs(a.mean()) < .6
    torch.testing.assert_close(dx.norm(dim=1), torch.ones(N), atol=1e-4, rtol=0)

def _one_by_one(op, x, u, align=True):
    "The table's laws on one image at a time, with loops and no batching."
    out = []
    for img, (a, b, c) in zip(x, u.tolist()):
        ch, h, w = img.shape
        if op == 'color':
            img = img + (a - .5); m = img.mean(0); img = (img - m)*2*b + m; m = img.mean(); img = (img - m)*(c + .5) + m
        elif op == 'crop':
            s, t = int(h*.125 + .5), int(w*.125 + .5)
            dy, dx = int(a*(2*s + 1)), int(b*(2*t + 1))
            img = F.pad(img, (t, t, s, s))[:, dy:dy+h, dx:dx+w]
        elif op == 'cutout':
            k, l = int(h*.5 + .5), int(w*.5 + .5)
            y, z = int(a*(h + 1 - k % 2)) - k//2, int(b*(w + 1 - l % 2)) - l//2
            img = img.clone(); img[:, max(0, y):max(0, y + k), max(0, z):max(0, z + l)] = 0
        elif op == 'flip': img = img.flip(2) if a < .5 else img
        else:
            s, t, r = (1/1.2 + v*(1.2 - 1/1.2) for v in (a, b, 0)); r = (a - .5)*2*15*math.pi/180
            th = [[s, 0, 0], [0, t, 0]] if op == 'scale' else [[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0]]
            grid = F.affine_grid(torch.tensor([th], dtype=x.dtype), [1, ch, h, w], align_corners=align)
            img = F.grid_sample(img[None], grid, align_corners=align)[0]
        out.append(img)
    return torch.stack(out)

@pytest.mark.parametrize('op', OPS)
@pytest.mark.parametrize('c,h,w', [(3, 32, 32), (1, 8, 8), (4, 9, 12), (2, 1, 1)])
def test_as_one_by_one(op, c, h, w):
    x, u = images(7, c, h, w, torch.float64), torch.rand(7, 3, generator=rng_for(op, h)).double()
    for align in (True, False):
        if op == 'rotate' or align: torch.testing.assert_close(DSA(op, align_corners=align).apply(x, op, u), _one_by_one(op, x, u, align), atol=1e-10, rtol=0)

@pytest.mark.parametrize('op', OPS)
def test_gradients_to_second_order(op):
    x, (_, u) = images(2, 2, 4, dtype=torch.float64).requires_grad_(), DSA(op).draw(2, rng_for(4, op))
    f = lambda x: DSA(op).apply(x, op, u.double())
    assert gradcheck(f, x)
    try: assert gradgradcheck(lambda x: f(x)**2, x)
    except RuntimeError as e: # PyTorch 2.6; no objective of the house needs it
        if 'grid_sampler_2d_backward is not implemented' in str(e): pytest.skip('this PyTorch has no second derivative of grid_sample')
        raise

@pytest.mark.parametrize('op', OPS)
def test_siamese_and_per_sample(op):
    x = images(1, 3, 16).expand(24, 3, 16, 16)
    y, z = drawn(op, x, siamese=True), drawn(op, x)
    assert torch.equal(y, y[:1].expand_as(y)) and not torch.equal(z, z[:1].expand_as(z))
    real, syn = images(9), images(2)
    name, u = DSA(op, siamese=True).draw(9, rng_for(1))
    both = DSA(op).apply(torch.cat([real, syn]), name, u)
    assert torch.equal(both[:9], DSA(op).apply(real, name, u)) and torch.equal(both[9:], DSA(op).apply(syn, name, u))

def test_one_op_a_call_all_ops_drawn_and_repeatable():
    aug = DSA()
    seen = [aug.draw(2, rng_for(i))[0] for i in range(600)]
    assert set(seen) == set(OPS) and max(seen.count(o) for o in OPS) < 150
    x = images()
    for seed in range(12): assert torch.equal(aug(x, rng_for(seed)), aug(x, rng_for(seed)))
    rng = rng_for(0); assert not torch.equal(DSA('crop')(images(32), rng), DSA('crop')(images(32), rng))
    before = torch.get_rng_state(); aug(x, rng_for(1)); assert torch.equal(before, torch.get_rng_state())

@pytest.mark.parametrize('op', OPS)
@pytest.mark.parametrize('u', [0., 1 - 2**-24])
def test_the_ends_of_u(op, u):
    "The smallest and the largest number that torch.rand can give stay inside every law, at any side."
    for side in (1, 2, 7, 8, 33, 128):
        y = DSA(op).apply(torch.ones(1, 1, side, side), op, torch.full((1, 3), u))
        assert y.shape == (1, 1, side, side) and y.isfinite().all()

@pytest.mark.parametrize('op', OPS)
def test_keeps_dtype(op):
    for dtype in (torch.float32, torch.float64, torch.bfloat16): assert drawn(op, images().to(dtype)).dtype == dtype

def test_limits_and_state():
    aug = DSA('crop_flip', siamese=True, align_corners=False, crop=.25)
    assert torch.equal(drawn('flip', images(), flip=0.), images())
    again = aug_from_state(aug.state())
    assert again.state() == aug.state() and again.p == aug.p and aug_from_state(None) is noop and aug_from_state(noop.state()) is noop
    with pytest.raises(ValueError, match="limit 'zoom' is not known; known: brightness"): DSA(zoom=2)
    with pytest.raises(ValueError, match="''"): DSA('')
    with pytest.raises(ValueError, match='mixup'): aug_from_state(dict(kind='mixup'))
    assert set(RATIOS) >= {'crop', 'cutout', 'flip', 'scale', 'rotate'}
