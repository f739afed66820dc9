"Gaussian statistics: against torch.distributions and finite differences, where matrices are singular, in half precision, over any cut of a set, and from bad files."
import pytest, torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn import functional as F

from dd_repro.core import rng_for, seeded
from dd_repro.files import save_tensors
from dd_repro.gauss import (KINDS, FeatureStats, Moments, Stats, Target, batch_stats, bn_layers, bn_targets, dataset_stats, feature_loss, gauss_kl, layer_loss,
                            main_convs, moments, targets)
from dd_repro.zoo import make_net

D = torch.double

def gaussian(seed, C=6, n=50, batch=()):
    x = torch.randn(*batch, n, C, generator=rng_for('gaussian', seed), dtype=D)@torch.randn(*batch, C, C, generator=rng_for('mix', seed), dtype=D)
    d = x - x.mean(-2, keepdim=True)
    return x.mean(-2), d.mT@d/n

def features(seed, shape, dtype=D): return torch.randn(shape, generator=rng_for('features', seed), dtype=D).to(dtype)

def net(name='convnet', dtype=D, **kw):
    with seeded(0, 'gauss', name): return make_net(name, 1, 10, 8, **(dict(width=8, norm='batch') | kw)).to(dtype).eval().requires_grad_(False)

@pytest.mark.parametrize('batch', [(), (3,), (2, 3)])
def test_kl_is_that_of_torch(batch):
    (m0, S0), (m1, S1) = gaussian(0, batch=batch), gaussian(1, batch=batch)
    want = kl_divergence(MultivariateNormal(m0, S0), MultivariateNormal(m1, S1))
    torch.testing.assert_close(gauss_kl(m0, S0, m1, S1), want, rtol=1e-10, atol=1e-10)

def test_floor_is_shared_and_relative_to_the_second():
    (m0, S0), (m1, S1) = gaussian(0), gaussian(1)
    floor = .05*S1.trace()/6*torch.eye(6, dtype=D)
    torch.testing.assert_close(gauss_kl(m0, S0, m1, S1, .05), gauss_kl(m0, S0 + floor, m1, S1 + floor), rtol=1e-10, atol=0)

def test_kl_gradient_by_finite_differences():
    (m0, S0), (m1, S1) = gaussian(0, 4), gaussian(1, 4)
    sym = lambda S: (S + S.T)/2
    assert torch.autograd.gradcheck(lambda *a: gauss_kl(a[0], sym(a[1]), a[2], sym(a[3])), [t.clone().requires_grad_() for t in (m0, S0, m1, S1)])

@pytest.mark.parametrize('kind', KINDS)
def test_layer_losses_by_finite_differences_of_features(kind):
    t = (lambda m: Target(m.mean, m.cov, eps=.01, dtype=D))(moments(features(1, (3, 5, 4, 4))))
    f = lambda h: layer_loss(kind, moments(h, kind.endswith('multi')), t)
    assert torch.autograd.gradcheck(f, features(2, (2, 5, 3, 3)).requires_grad_())

def test_one_image_is_not_changed():
    h = features(0, (1, 4, 3, 3)) + 5
    before = h.clone(); moments(h)
    assert torch.equal(h, before)

def test_channels_last_and_slices():
    h = features(0, (4, 6, 5, 5)); want = moments(h)
    for other in (h.contiguous(memory_format=torch.channels_last), torch.cat([h, h], 1)[:, :6]):
        torch.testing.assert_close(moments(other).cov, want.cov, rtol=1e-12, atol=1e-12)

def test_dead_channel_in_both_costs_nothing_and_in_one_something_finite():
    h = features(0, (4, 6, 5, 5)); h[:, 2] = .7
    m = moments(h); t = Target(m.mean, m.cov, dtype=D)
    assert abs(t.kl(m.mean, m.cov)) < 1e-9
    alive = h.clone(); alive[:, 2] = features(1, (4, 5, 5))
    a = moments(alive)
    assert 0 < t.kl(a.mean, a.cov) < float('inf') and 0 < Target(a.mean, a.cov, dtype=D).kl(m.mean, m.cov) < 10*6

@pytest.mark.parametrize('n', [1, 2, 5])
def test_fewer_samples_than_channels(n):
    m = moments(features(0, (200, 12))); t = Target(m.mean, m.cov)
    h = features(1, (n, 12), torch.float).requires_grad_()
    s = moments(h); loss = t.kl(s.mean, s.cov); loss.backward()
    want = gauss_kl(s.mean.double(), s.cov.double(), m.mean, m.cov, 1e-3)
    assert h.grad.isfinite().all() and h.grad.norm() > 0
    torch.testing.assert_close(loss.double(), want, rtol=1e-3, atol=0)

@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
@pytest.mark.parametrize('cov', [True, False])
def test_half_precision_is_raised_before_it_is_summed(dtype, cov):
    h = (features(0, (8, 6, 16, 16))*10 + 30).to(dtype)
    m, want = moments(h, cov), moments(h.double(), cov)
    assert m.cov.dtype == torch.float
    torch.testing.assert_close(m.cov.double(), want.cov, rtol=1e-4, atol=1e-2)
    h = h.requires_grad_(); moments(h, cov).var.sum().backward()
    assert h.grad.dtype == dtype and h.grad.isfinite().all()

def test_autocast_does_not_lower_the_statistics():
    h = features(0, (4, 8, 6, 6), torch.float)*3 + 10
    with torch.autocast('cpu', torch.bfloat16): got = moments(h)
    assert torch.equal(got.cov, moments(h).cov)

@pytest.mark.parametrize('cov', [True, False])
def test_one_batch_is_seven_uneven_ones(cov):
    n, x = net(), features(0, (40, 1, 8, 8))
    whole = dataset_stats(n, [(x, None)], cov=cov)
    cut = dataset_stats(n, ((p, None) for p in x.split([1, 13, 2, 9, 5, 7, 3])), cov=cov)
    half = dataset_stats(n, [(x[:11], None)], cov=cov).merge(dataset_stats(n, [(x[11:], None)], cov=cov))
    for k, m in whole.items():
        for o in (cut[k], half[k]):
            assert o.n == m.n
            torch.testing.assert_close(o.cov, m.cov, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(o.mean, m.mean, rtol=1e-10, atol=1e-10)

def test_float64_target_and_single_batch_agree():
    n, x = net(), features(0, (40, 1, 8, 8))
    T64, T32 = (targets(dataset_stats(n, [(x, None)]), dtype=t) for t in (D, torch.float))
    s = batch_stats(n, features(1, (20, 1, 8, 8)))
    for kind in KINDS: torch.testing.assert_close(feature_loss(kind, s, T32).double(), feature_loss(kind, s, T64), rtol=1e-4, atol=1e-4)

def test_seventeen_of_a_resnet18_and_twenty_norms():
    with torch.device('meta'): r = make_net('resnet18_bn', size=32)
    assert len(main_convs(r)) == 17 and len(bn_layers(r)) == 20 and not [k for k in main_convs(r) if 'downsample' in k]

def test_activations_that_overwrite_features():
    with seeded(0, 'inplace'): n = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3)).to(D)
    x = features(0, (2, 1, 8, 8)).requires_grad_()
    with FeatureStats(n) as f: n(x)
    torch.testing.assert_close(f.stats['0'].mean, F.conv2d(x, n[0].weight, n[0].bias).mean((0, 2, 3)))
    f.stats['0'].cov.sum().backward()
    assert n[1].inplace and x.grad.norm() > 0 and not n[0]._forward_hooks

def test_hooks_go_when_the_block_fails():
    n = net()
    with pytest.raises(ValueError), FeatureStats(n): n(features(0, (1, 1, 9, 9)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in n.modules())

def test_batch_stats_keeps_the_mode_and_running_values():
    n = net().train(); before = n.blocks[0][1].running_mean.clone()
    batch_stats(n, features(0, (4, 1, 8, 8)))
    assert n.training and torch.equal(before, n.blocks[0][1].running_mean)

def test_running_values_as_targets():
    n = net(); s = FeatureStats(n, bn_layers(n), cov=False, inputs=True)
    with s: n(features(0, (4, 1, 8, 8)))
    want = sum(w*((m.mean - b.running_mean).norm() + (m.cov - b.running_var).norm()) for (m, b), w in zip(zip(s.stats.values(), bn_layers(n).values()), (10., 1.)))
    torch.testing.assert_close(feature_loss('bn-diag', s.stats, bn_targets(n), first=10.).double(), want, rtol=1e-5, atol=1e-6)

def test_saved_and_read_back(tmp_path):
    s = dataset_stats(net(), [(features(0, (9, 1, 8, 8)), None)])
    back = Stats.load(s.save(tmp_path/'s.safetensors', teacher=1))
    assert list(back) == list(s) and all(torch.equal(back[k].cov, m.cov) and back[k].n == m.n for k, m in s.items())

def test_what_is_refused(tmp_path):
    m = moments(features(0, (20, 4)))
    with pytest.raises(ValueError, match='no channel has any variance'): Target(m.mean, m.cov*0)
    with pytest.raises(ValueError, match='not finite'): Target(m.mean/0, m.cov)
    with pytest.raises(ValueError, match='eps is -1'): Target(m.mean, m.cov, eps=-1)
    with pytest.raises(ValueError, match='does not fit a mean of 4'): Target(m.mean, m.cov[:3])
    with pytest.raises(ValueError, match='no batch'): dataset_stats(net(), [])
    with pytest.raises(ValueError, match='other layers'): feature_loss('kl-diag', Stats(a=m), {'b': Target(m.mean, m.cov)})
    with pytest.raises(ValueError, match='holds no statistics'): Stats.load(save_tensors(tmp_path/'t.safetensors', {'a': torch.ones(1)}))

def test_a_batch_that_left_all_bounds_is_nan():
    m = moments(features(0, (20, 4))); t = Target(m.mean, m.cov, dtype=D)
    assert t.kl(m.mean, m.cov*float('nan')).isnan() and t.kl(m.mean, -m.cov).isnan()
