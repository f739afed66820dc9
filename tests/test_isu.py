"Running statistics: against sums over all batches, through a checkpoint bit for bit, for several models, and out of order."
import pytest, torch

from dd_repro.core import rng_for
from dd_repro.files import load_tensors, save_tensors
from dd_repro.gauss import Moments, Stats, moments
from dd_repro.isu import ISU
from dd_repro.loop import pack_state, unpack_state

D = torch.double

def x(b, n=30, C=5, m=0): return torch.randn(n, C, generator=rng_for('x', b, m), dtype=D) + 3*torch.randn(C, generator=rng_for('shift', b, m), dtype=D)
def stats(b, m=0, cov=True, **kw): return Stats(a=moments(x(b, m=m, **kw), cov), z=moments(2*x(b, m=m, **kw), cov))

@pytest.mark.parametrize('cov', [True, False])
def test_fold_is_the_mean_over_batches(cov):
    isu = ISU()
    for b in range(1, 8): isu.fold(b, [stats(b, cov=cov)])
    for w in ('mean', 'cov'):
        want = torch.stack([getattr(stats(b, cov=cov)['a'], w) for b in range(1, 8)]).mean(0)
        torch.testing.assert_close(getattr(isu.running[0]['a'], w), want, rtol=1e-12, atol=1e-12)

@pytest.mark.parametrize('cov', [True, False])
def test_with_the_term_between_it_is_the_pooled_covariance(cov):
    isu = ISU(between=True)
    for b in range(1, 8): isu.fold(b, [stats(b, cov=cov)])
    want = moments(torch.cat([x(b) for b in range(1, 8)]), cov)
    torch.testing.assert_close(isu.running[0]['a'].cov, want.cov, rtol=1e-11, atol=1e-11)
    assert isu.running[0]['a'].n == want.n == 210

@pytest.mark.parametrize('between', [False, True])
def test_what_is_optimised_is_what_is_folded(between):
    isu = ISU(2, between)
    for b in range(1, 4): isu.fold(b, [stats(b, m) for m in range(2)])
    hats = [isu.mix(stats(4, m), m) for m in range(2)]
    isu.fold(4, [stats(4, m) for m in range(2)])
    for hat, run in zip(hats, isu.running): assert torch.equal(hat['z'].cov, run['z'].cov) and torch.equal(hat['z'].mean, run['z'].mean)

def test_gradient_carries_one_over_b():
    isu, h = ISU(), x(9).requires_grad_()
    g = []
    for b in range(1, 4):
        g.append(torch.autograd.grad(isu.mix(Stats(a=moments(h), z=moments(h)))['a'].cov.sum(), h)[0])
        isu.fold(b, [stats(b)])
    for b in (2, 3): torch.testing.assert_close(g[b-1]*b, g[0], rtol=1e-10, atol=1e-12)

def test_first_batch_is_itself_and_nothing_keeps_a_graph():
    isu, h = ISU(), x(0).requires_grad_()
    s = Stats(a=moments(h))
    assert isu.mix(s) is s
    isu.fold(1, [s])
    assert not isu.running[0]['a'].cov.requires_grad and isu.running[0]['a'].cov.dtype == D

def test_single_precision_batches_stay_single():
    isu = ISU()
    isu.fold(1, [stats(1).to(torch.float)])
    assert isu.mix(stats(2).to(torch.float))['a'].cov.dtype == torch.float and isu.running[0]['a'].cov.dtype == D

@pytest.mark.parametrize('at', [0, 1, 3])
def test_resume_is_exact_through_a_file(at, tmp_path):
    one, two = ISU(2, True), ISU(2, True)
    for b in range(1, at + 1): one.fold(b, [stats(b, m) for m in range(2)])
    t = {}; packed = pack_state('s', one.state_dict(), t)
    save_tensors(tmp_path/'c.safetensors', t, dict(run=packed))
    tensors, meta = load_tensors(tmp_path/'c.safetensors')
    two.load_state_dict(unpack_state(meta['run'], tensors))
    for b in range(at + 1, 6):
        for isu in (one, two): isu.fold(b, [stats(b, m) for m in range(2)])
    assert one.b == two.b == 5
    for r, s in zip(one.running, two.running): assert all(torch.equal(r[k].cov, s[k].cov) and torch.equal(r[k].mean, s[k].mean) and r[k].n == s[k].n for k in r)

def test_what_is_refused():
    isu = ISU(2); isu.fold(1, [stats(1, m) for m in range(2)])
    for b in (0, 1, 3):
        with pytest.raises(ValueError, match=f'batch {b} cannot be folded after 1; the next one is 2'): isu.fold(b, [stats(2)]*2)
    with pytest.raises(ValueError, match='1 statistics for 2 models'): isu.fold(2, [stats(2)])
    with pytest.raises(ValueError, match='do not fit running ones'): isu.mix(Stats(a=stats(2)['a']))
    with pytest.raises(ValueError, match='models is 0'): ISU(0)
    with pytest.raises(ValueError, match='with between False cannot be continued with between True'): ISU(2, True).load_state_dict(isu.state_dict())
    assert isu.b == 1

def test_a_refused_fold_changes_nothing():
    isu = ISU(2); isu.fold(1, [stats(1, m) for m in range(2)])
    before = [r['a'].cov.clone() for r in isu.running]
    with pytest.raises(ValueError): isu.fold(2, [stats(2), Stats(b=Moments(1., torch.ones(1), torch.ones(1)))])
    assert isu.b == 1 and all(torch.equal(c, r['a'].cov) for c, r in zip(before, isu.running))
