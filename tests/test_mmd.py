"""MMD: against double sums, against its own definition, against finite differences, at the edges, and what its gradient reaches."""
import copy, pytest, torch
from torch import nn

from dd_repro.augment import DSA
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded
from dd_repro.sets import ImageTensors
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import to_vector, expert_protocol, train_experts
from dd_repro.loop import distill
from dd_repro.mmd import MMD, SIGMAS, Diversity, ExpertView, class_items, kernel_means, mix_rbf, mmd2, pairwise_mmd2, sq_dist

D = torch.double
def randn(*shape, seed=0, dtype=D): return torch.randn(*shape, generator=rng_for(seed, 'randn', *shape), dtype=dtype)

# the estimator

def kernel(a, b, sigmas=SIGMAS):
    "The mixture, one pair at a time."
    return sum(torch.exp(-(a - b).pow(2).sum()/(2*s**2)) for s in sigmas)

def by_pairs(x, y):
    "The unbiased estimator as sums over index pairs; uses nothing of the module under test."
    m, n = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j)/(m*(m - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j)/(n*(n - 1))
    return xx + yy - 2*sum(kernel(a, b) for a in x for b in y)/(m*n)

@pytest.mark.parametrize('m,n,f', [(2, 2, 1), (2, 7, 3), (6, 3, 40), (5, 5, 200)])
@pytest.mark.parametrize('scale', [.1, 1., 5.])
def test_equals_a_double_sum(m, n, f, scale):
    x, y = scale*randn(m, f), scale*(randn(n, f, seed=1) + .3)
    torch.testing.assert_close(mmd2(x, y), by_pairs(x, y), rtol=1e-10, atol=1e-12)

def test_kernel_equals_a_loop_and_is_symmetric():
    x, y = randn(4, 6), randn(5, 6, seed=1)
    K = mix_rbf(x, y)
    torch.testing.assert_close(K, torch.stack([torch.stack([kernel(a, b) for b in y]) for a in x]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(K, mix_rbf(y, x).mT)
    torch.testing.assert_close(mix_rbf(x), mix_rbf(x, x.clone()), rtol=1e-12, atol=1e-12)

@pytest.mark.parametrize('m,n', [(4, 4), (3, 9)])
def test_zero_on_average_when_both_sides_are_alike(m, n):
    for seed in range(3):
        v = mmd2(3*randn(4000, m, 5, seed=seed), 3*randn(4000, n, 5, seed=seed + 10))
        assert abs(v.mean()) < 3*v.std()/4000**.5 and v.min() < 0, (v.mean(), v.std()/4000**.5)

def test_average_is_the_closed_form_of_gaussians():
    "x ~ N(0, I), y ~ N(mu, s^2 I) in f dimensions."
    f, s, mu = 4, 1.5, 1.
    def e(a2, shift2): return sum((1 + a2/q**2)**(-f/2)*torch.tensor(-shift2/(2*(q**2 + a2))).exp() for q in SIGMAS)
    want = e(2., 0.) + e(2*s*s, 0.) - 2*e(1 + s*s, f*mu*mu)
    v = mmd2(randn(20_000, 5, f), s*randn(20_000, 4, f, seed=1) + mu)
    assert abs(v.mean() - want) < 3*v.std()/20_000**.5

def test_grows_with_a_shift():
    x, y = randn(500, 10, 8), randn(500, 12, 8, seed=1)
    means = [float(mmd2(x, y + s).mean()) for s in (0., .25, .5, 1., 2., 4.)]
    assert means == sorted(means) and means[-1] > .5

@pytest.mark.parametrize('m,n', [(3, 3), (4, 2)])
def test_gradient_by_finite_differences(m, n):
    x, y = randn(2, m, 5).requires_grad_(), (randn(2, n, 5, seed=1) + .5).requires_grad_()
    assert torch.autograd.gradcheck(mmd2, (x, y))
    assert torch.autograd.gradcheck(lambda s: pairwise_mmd2(s), (randn(2, 3, 2, 4).requires_grad_(),))

def test_batched_equals_a_loop():
    x, y = randn(2, 3, 6, 7), randn(2, 3, 4, 7, seed=1)
    got = mmd2(x, y)
    assert got.shape == (2, 3) and mmd2(x[0, 0], y[0, 0]).shape == ()
    torch.testing.assert_close(got, torch.stack([torch.stack([mmd2(x[i, j], y[i, j]) for j in range(3)]) for i in range(2)]))

def test_pairs_of_priors_equal_a_loop():
    s = randn(2, 4, 3, 6) + torch.arange(4.)[:, None, None]
    got = pairwise_mmd2(s)
    for c in range(2):
        for i in range(4):
            for j in range(4):
                if i != j: torch.testing.assert_close(got[c, i, j], mmd2(s[c, i], s[c, j]), rtol=1e-10, atol=1e-12)

# edges

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_identical_points_are_exactly_alike(dtype):
    for at in (0., 1., 1e4):
        x = torch.full((6, 2048), at, dtype=dtype).requires_grad_(); y = torch.full((4, 2048), at, dtype=dtype)
        v = mmd2(x, y); v.backward()
        assert v.dtype == dtype and abs(float(v.detach())) < 1e-3 and x.grad.isfinite().all()

def test_far_points_see_only_their_twins():
    "Single precision at 1e4: a product of float32 numbers would be off by thousands."
    x = 1e4*randn(8, 2048, dtype=torch.float32)
    K = mix_rbf(x, x.clone())
    torch.testing.assert_close(K, 5*torch.eye(8, dtype=D), rtol=0, atol=1e-2)
    assert mmd2(x, x.clone()) == pytest.approx(-2*5/8, abs=1e-2)

def test_a_small_distance_far_from_the_origin():
    near = torch.zeros(2, 2048); near[1, 0] = .5
    assert float(sq_dist(near + 1e4)[0, 1]) == pytest.approx(.25, abs=1e-3)
    torch.testing.assert_close(mmd2(near + 1e4, near[[1, 0]] + 1e4), mmd2(near, near[[1, 0]]), rtol=0, atol=1e-3)

@pytest.mark.parametrize('scale', [0., 1e-20, 1e4, 1e18])
def test_extremes_stay_finite(scale):
    x, y = (scale*randn(5, 300, dtype=torch.float32)).requires_grad_(), scale*randn(3, 300, seed=1, dtype=torch.float32)
    v = mmd2(x, y); v.backward()
    assert v.isfinite() and x.grad.isfinite().all() and -2*5 <= float(v.detach()) <= 2*5

def test_half_precision_features_are_compared_in_double():
    x, y = randn(5, 64, dtype=torch.float32), randn(6, 64, seed=1, dtype=torch.float32)
    assert mmd2(x.bfloat16(), y.bfloat16()).dtype == torch.bfloat16
    assert float(mmd2(x.bfloat16(), y.bfloat16())) == pytest.approx(float(mmd2(x, y)), abs=.05)

@pytest.mark.parametrize('x,y,why', [((1, 4), (5, 4), r'at least 2 samples.*\[1, 4\]'), ((5, 4), (1, 4), 'at least 2'), ((2, 1, 4), (2, 3, 4), 'at least 2'), ((0, 4), (3, 4), 'at least 2'), ((4,), (3, 4), 'at least 2'),
                                     ((3, 4), (3, 5), r'\[3, 4\] and \[3, 5\]'), ((2, 3, 4), (3, 3, 4), 'shapes are')])
def test_refuses_what_has_no_mmd(x, y, why):
    with pytest.raises(ValueError, match=why): mmd2(torch.zeros(x), torch.zeros(y))

def test_refuses_bandwidths():
    for s in ((), (0, 1), (1, -2)):
        with pytest.raises(ValueError, match='bandwidths'): mmd2(torch.zeros(2, 3), torch.zeros(2, 3), s)

def test_kernel_means_are_those_of_the_pairs():
    x = randn(6, 3); K = mix_rbf(x, sigmas=(2,))
    assert kernel_means(x, (2, 4))[2] == pytest.approx(float(K[~torch.eye(6, dtype=torch.bool)].mean()), rel=1e-12)

# the objectives

C = 3
class Blobs(Distilled):
    "ppc Gaussians a class, with learned means and a shared scale."
    def __init__(self, ppc, seed=0, n_classes=C):
        super().__init__(n_classes, (1, 8, 8)); self.ppc, self.scale = ppc, nn.Parameter(torch.tensor(.3))
        self.means = nn.Parameter(randn(n_classes*ppc, 1, 8, 8, seed=seed, dtype=torch.float32))
    def __len__(self): return len(self.means)
    def groups(self): return {'latents': [self.means], 'decoder': [self.scale], 'lr': [self.lr]}
    def sample(self, n=None, *, y=None, idx=None, prior=None, rng=None):
        m = self.means[idx]
        return m + self.scale*torch.randn(m.shape, generator=rng), idx//self.ppc

@pytest.fixture(scope='module')
def real():
    y = torch.arange(90) % C
    return ImageTensors(randn(90, 1, 8, 8, dtype=torch.float32) + y[:, None, None, None]*.5, y, C)

def net(**kw): return ConvNet(**dict(n_in=1, n_out=C, size=8, width=4, depth=2) | kw)

@pytest.fixture(scope='module')
def buffer(real, tmp_path_factory):
    return train_experts(net, real, tmp_path_factory.mktemp('b'), 2, expert_protocol(3, .05, 32, ''), quiet=True)

def only(objective, d, moved):
    "After a backward pass just the named parameters have a gradient."
    before = [p.detach().clone() for p in d.parameters()]
    d.zero_grad(); loss = objective(d); loss.backward()
    assert loss.ndim == 0 and loss.isfinite()
    assert {n for n, p in d.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0} == moved
    assert all(torch.equal(a, b) for a, b in zip(before, d.parameters()))

def test_gradient_reaches_the_set_and_nothing_else(real, buffer):
    view = ExpertView(buffer, samples=8)
    for o in (MMD(real, view), Diversity(view), MMD(real, view) - .5*Diversity(view), MMD(real, buffer, samples=8, bs=5, aug=DSA(siamese=True))):
        only(o, Blobs(2), {'means', 'scale'})
    only(MMD(real, buffer), Pixels.from_real(real, 5), {'images'})
    assert all(p.grad is None for p in view.f.net.parameters()) and real.x.grad is None

@pytest.mark.parametrize('kind', ['blobs', 'pixels'])
@pytest.mark.parametrize('depth', [None, 1])
def test_value_is_the_sum_over_classes_written_out(real, buffer, kind, depth):
    d = Blobs(2) if kind == 'blobs' else Pixels.from_real(real, 7)
    mmd = MMD(real, buffer, samples=7, real_samples=11, depth=depth, seed=3); twin = copy.deepcopy(mmd)
    theta, shift, idx = twin.view.choose(d)
    x, y = d.sample(idx=idx.flatten(), rng=twin.view.rng)
    other, n = twin.draw_real(), net()
    nn.utils.vector_to_parameters(theta, n.parameters())
    assert torch.equal(theta, buffer.snapshot(0, -1)) or torch.equal(theta, buffer.snapshot(1, -1))
    want = sum(by_pairs(n.embed(other[11*c:11*c + 11], depth).double(), n.embed(x[y == c], depth).double()) for c in range(C))
    torch.testing.assert_close(mmd(d).double(), want, rtol=1e-4, atol=1e-5)

def test_real_samples_are_of_their_class_and_differ(real, buffer):
    mmd = MMD(real, buffer, real_samples=25)
    where = {x.numpy().tobytes(): int(y) for x, y in zip(real.x, real.y)}
    for _ in range(3):
        keys = [x.numpy().tobytes() for x in mmd.draw_real()]
        assert [where[k] for k in keys] == [c for c in range(C) for _ in range(25)] and len(set(keys)) == 75

def test_real_classes_of_unequal_size(buffer):
    y = torch.tensor([0]*4 + [1]*20 + [2]*7).flip(0)
    real = ImageTensors(y[:, None, None, None].float().expand(-1, 1, 8, 8).clone(), y, C)
    mmd = MMD(real, buffer, samples=6, real_samples=4)
    for _ in range(5): assert mmd.draw_real()[:, 0, 0, 0].tolist() == [0]*4 + [1]*4 + [2]*4
    with pytest.raises(ValueError, match='real_samples is 5.*smallest class has 4'): MMD(real, buffer, real_samples=5)

def test_a_stream_works_as_tensors_do(real, buffer):
    class Stream:
        n_classes, shape, y = real.n_classes, real.shape, real.y
        of_class = staticmethod(real.of_class)
    assert MMD(Stream(), buffer)(Blobs(1)).isfinite()

@pytest.mark.parametrize('ppc,samples', [(1, 30), (2, 30), (4, 30), (7, 30), (10, 30), (12, 5)])
def test_samples_are_shared_among_priors(ppc, samples):
    idx = class_items(Blobs(ppc), samples, rng_for(0))
    assert idx.shape == (C, samples) and torch.equal(idx//ppc, torch.arange(C)[:, None].expand(C, samples))
    for row in idx: n = (row % ppc).bincount(minlength=ppc); assert n.max() - n.min() <= 1
    share = samples//ppc
    assert torch.equal(idx[:, :ppc*share] % ppc, torch.arange(ppc).repeat_interleave(share).expand(C, -1))

def test_fixed_images_are_taken_once(real):
    y = torch.tensor([2, 0, 1, 1, 0, 2]); d = Pixels(torch.zeros(6, 1, 8, 8), y, C)
    idx = class_items(d, 30, rng_for(0))
    assert idx.shape == (C, 2) and torch.equal(y[idx], torch.arange(C)[:, None].expand(C, 2)) and len(idx.unique()) == 6
    with pytest.raises(ValueError, match='1 to 2 items'): class_items(Pixels(torch.zeros(5, 1, 8, 8), y[:5], C), 4, rng_for(0))

def test_one_image_a_class_has_no_mmd(real, buffer):
    with pytest.raises(ValueError, match='at least 2 samples'): MMD(real, buffer)(Pixels.from_real(real, 1))

def test_diversity_is_the_sum_over_pairs_written_out(buffer):
    d, q = Blobs(3), 4
    div = Diversity(buffer, samples=13, seed=5); twin = copy.deepcopy(div)
    s = twin.view.look(d)[2][:, :12].unflatten(1, (3, 4)).double()
    want = sum(by_pairs(s[c, i], s[c, j]) for c in range(C) for i in range(3) for j in range(3) if i != j)/3
    torch.testing.assert_close(div(d).double(), want, rtol=1e-4, atol=1e-5)

def test_diversity_is_about_zero_when_priors_agree_and_large_when_not(buffer):
    same, apart, div = Blobs(2), Blobs(2), Diversity(buffer, samples=60)
    with torch.no_grad(): same.means[1::2] = same.means[::2]; apart.means[1::2] = -2*apart.means[::2]
    with torch.no_grad(): values = [sum(float(div(d)) for _ in range(10))/10 for d in (same, apart)]
    assert abs(values[0]) < .05*values[1]

@pytest.mark.parametrize('make,why', [(lambda r: Blobs(1), 'no effect with ppc = 1'), (lambda r: Blobs(8), 'samples >= 16'), (lambda r: Pixels.from_real(r, 2), 'Pixels has none')])
def test_diversity_says_where_it_has_no_meaning(real, buffer, make, why):
    with pytest.raises(ValueError, match=why): Diversity(buffer, samples=15)(make(real))

class Counted(Blobs):
    "Counts how often it is sampled."
    n = 0
    def sample(self, *a, **kw): Counted.n += 1; return super().sample(*a, **kw)

def test_a_shared_view_decodes_once_for_both_and_draws_anew_for_each_call(real, buffer):
    view, d = ExpertView(buffer, samples=8), Counted(2)
    mmd, div = MMD(real, view), Diversity(view)
    both = 1.*mmd - .1*div
    Counted.n = 0
    values = [both(d).item() for _ in range(3)]
    assert Counted.n == 3 and len(set(values)) == 3 and view.last is None
    for o, n in ((mmd, 4), (mmd, 5), (div, 5), (div, 6), (mmd, 6)): o(d); assert Counted.n == n
    (1.*MMD(real, buffer, samples=8) - .1*Diversity(buffer, samples=8))(d)
    assert Counted.n == 8

def test_a_shared_draw_is_spent_by_a_backward_pass_a_step_or_another_set(real, buffer):
    view, d, e = ExpertView(buffer, samples=8), Counted(2), Counted(2, seed=1)
    mmd, div = MMD(real, view), Diversity(view)
    mmd(d).backward(); Counted.n = 0
    div(d).backward(); assert Counted.n == 1
    with torch.no_grad(): mmd(d); div(e); assert Counted.n == 3
    with torch.no_grad(): mmd(d); d.means.add_(1.); div(d); assert Counted.n == 5
    with torch.no_grad(): mmd(d); assert Counted.n == 5
    with torch.no_grad(): mmd(d)
    div(d).backward(); assert Counted.n == 7

def test_the_order_of_terms_does_not_matter(real, buffer):
    def values(flip):
        view, d = ExpertView(buffer, samples=8, seed=1), Blobs(2)
        terms = [1.*MMD(real, view), -.1*Diversity(view)]
        return [sum(t(d) for t in (terms[::-1] if flip else terms)).item() for _ in range(2)]
    assert values(False) == pytest.approx(values(True), rel=1e-5)

def test_passes_in_parts_give_the_same(real, buffer):
    def grads(**kw):
        d = Blobs(2); loss = MMD(real, buffer, samples=8, seed=2, **kw)(d); loss.backward()
        return loss.detach(), d.means.grad, d.scale.grad
    for a, b in zip(grads(), grads(bs=5)): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

def test_both_sides_get_one_augmentation(real, buffer):
    seen, aug = [], DSA('flip', siamese=True)
    aug.apply = lambda x, op, u: (seen.append((op, u.clone())), x)[1]
    MMD(real, buffer, samples=4, aug=aug)(Blobs(1))
    assert len(seen) == 2 and seen[0][0] == seen[1][0] and torch.equal(seen[0][1], seen[1][1])

@pytest.mark.parametrize('snapshot,epoch', [('last', -1), (2, 2)])
def test_the_snapshot_is_the_one_asked_for(real, buffer, snapshot, epoch):
    view = ExpertView(buffer, snapshot=snapshot)
    for _ in range(4):
        theta = view.choose(Blobs(1))[0]
        assert any(torch.equal(theta, buffer.snapshot(i, epoch)) for i in range(2))

def test_generators_go_on_where_they_were(real, buffer):
    def make(): view = ExpertView(buffer, samples=6, seed=4); return MMD(real, view, seed=4) - .1*Diversity(view, seed=4) + MMD(real, buffer, samples=5, seed=9)
    d, a, b = Blobs(2), make(), make()
    [a(d) for _ in range(3)]
    b.load_state_dict(a.state_dict())
    assert [float(a(d)) for _ in range(3)] == [float(b(d)) for _ in range(3)]
    assert float(make()(d)) == float(make()(d))

def test_a_resumed_run_equals_an_uninterrupted_one(real, buffer, tmp_path):
    def run(steps, ckpt):
        d, view = Blobs(2), ExpertView(buffer, samples=6)
        phase = (MMD(real, view) - .1*Diversity(view), ('latents', 'decoder'))
        opts = {g: lambda ps: torch.optim.SGD(ps, lr=.1, momentum=.5) for g in ('latents', 'decoder')}
        distill(d, [phase], steps, opts, ckpt=ckpt, every=2, quiet=True)
        return d
    whole = run(6, tmp_path/'a.safetensors')
    run(4, tmp_path/'b.safetensors'); again = run(6, tmp_path/'b.safetensors')
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), again.parameters()))

def test_cost_leaves_everything_as_it_was(real, buffer):
    d, mmd = Blobs(2), MMD(real, buffer, samples=6)
    before, state = copy.deepcopy(d.state_dict()), mmd.state_dict()
    cost = mmd.cost(d, repeats=1)
    assert set(cost) == {'decode', 'features', 'real', 'kernels', 'total'} and all(v >= 0 for v in cost.values())
    assert cost['total'] == pytest.approx(sum(v for k, v in cost.items() if k != 'total'))
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items()) and all(p.grad is None for p in d.parameters())
    assert all(torch.equal(v, state[k]) for k, v in mmd.state_dict().items())

@pytest.mark.parametrize('kw,why', [
    (dict(snapshot='first'), "snapshot='first' is neither 'last' nor the number of an epoch"), (dict(snapshot=0), 'snapshot=0'),
    (dict(snapshot=4), 'the buffer holds 3 epochs'), (dict(samples=1), 'samples is 1'), (dict(depth=0), 'depth is 0; the network has blocks 1 to 2'),
    (dict(depth=3), 'depth is 3'), (dict(net=nn.Linear(2, 2)), 'with .embed'), (dict(aug=DSA()), 'siamese'), (dict(real_samples=1), 'real_samples is 1'), (dict(real_samples=31), 'smallest class has 30')])
def test_refuses_settings_that_do_not_fit(real, buffer, kw, why):
    with pytest.raises(ValueError, match=why): MMD(real, buffer, **kw)

def test_refuses_a_network_or_data_of_another_kind(real, buffer):
    with pytest.raises(ValueError, match='a buffer of a network with'): MMD(real, buffer, net=net(width=8))
    with pytest.raises(ValueError, match='the network expects'): MMD(ImageTensors(torch.zeros(90, 1, 4, 4), real.y, C), buffer)
    with pytest.raises(ValueError, match='the set has 2 classes, the real data 3'): MMD(real, buffer)(Blobs(1, n_classes=2))
    with pytest.raises(ValueError, match='samples: belongs to the view'): Diversity(ExpertView(buffer), samples=4)
    bare = copy.copy(buffer); bare.card = dict(buffer.card, arch=None)
    with pytest.raises(ValueError, match='give net='): MMD(real, bare)
    assert MMD(real, bare, net=net())(Blobs(1)).isfinite()
