"""An iteration of trajectory matching as one captured graph: the numbers of an unroll, few launches, no wait, and what happens where it cannot be."""
import copy
from functools import partial

import pytest, torch
import launches as L
from pretend import pretend_gpu

from dd_repro.augment import DSA, noop
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded
from dd_repro.distilled import Pixels
from dd_repro.experts import to_vector
from dd_repro.match import DC, DM, Matching
from dd_repro.mtt import MTT
from dd_repro.priors import KL, LatentPriors
from dd_repro.sets import ImageTensors
from dd_repro.unroll import Functional
from dd_repro.whole import Iteration, Parcel, Whole, stacked, whole_of

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op') # what torch says of the device meta, and is not so here

SIZE = 8
def small():
    with seeded('whole'): return ConvNet(n_in=1, n_out=3, size=SIZE, width=4, depth=1).double()
NET = small()
START = to_vector(NET)

class Near:
    "A stand-in for a buffer: another start and target in every iteration, in the memory of the host or far away."
    far = False
    def check(self, *_): pass
    def segment(self, M, T, rng, inclusive=False, device=None):
        r = torch.randn(2, len(START), dtype=torch.double, generator=rng)*.05
        return [(START + v).to('meta' if self.far else device or 'cpu') for v in r]

class Far(Near): far = True

def images(n): return torch.randn(n, 1, SIZE, SIZE, dtype=torch.double, generator=rng_for('images'))
SETS = dict(
    pixels=lambda: Pixels(images(6), torch.arange(6) % 3, 3, lr=.05).double(),
    soft=lambda: Pixels(images(6), torch.rand(6, 3, generator=rng_for('soft')).softmax(1).double(), 3, lr=.05).double(),
    priors=lambda: LatentPriors(3, 2, z_dim=4, size=SIZE, n_in=1, width=8, lr=.05).double())

AUGS = dict(all=DSA(), one=DSA('rotate'), several=DSA('flip+color+crop_scale'), siamese=DSA(siamese=True), none=noop)

FEW = DSA('flip') # quickly traced, where it is not the augmentation that is tested

def objective(f, aug=FEW, buffer=Near, **kw): return MTT(f, buffer(), 5, 1, 1, 4, aug, seed=3, **kw)

def gradients(d, m, times=2):
    "Values and gradients of some iterations, with a step between them."
    out = []
    for _ in range(times):
        for p in d.parameters(): p.grad = None
        loss = m(d); loss.backward()
        out += [loss.detach(), *(p.grad.clone() for p in d.parameters() if p.grad is not None)]
        with torch.no_grad(): [p.sub_(.1*p.grad) for p in d.parameters() if p.grad is not None]
    return out

def same(got, want, eps=1e-10):
    assert len(got) == len(want) > 2
    for a, b in zip(got, want): assert (a.cpu() - b).abs().max() <= eps*max(1, b.abs().max())

@pytest.mark.parametrize('grad', ['adjoint', 'detached'])
@pytest.mark.parametrize('kind, aug', [('pixels', a) for a in AUGS] + [('soft', 'all'), ('priors', 'none'), ('priors', 'all')])
def test_one_graph_gives_what_an_unroll_gives(kind, aug, grad):
    if grad == 'detached' and (kind, aug) not in (('pixels', 'all'), ('priors', 'none')): pytest.skip('the same way back')
    want = gradients(SETS[kind](), objective(small(), AUGS[aug], grad=grad))
    with pretend_gpu() as gpu:
        f = Functional(small().to('meta'))
        same(gradients(SETS[kind]().to('meta'), objective(f, AUGS[aug], grad=grad)), want)
        assert gpu.captures == 1 and list(whole_of(f).kept.values()) != [None]

@pytest.mark.parametrize('kind', SETS)
def test_the_function_on_a_cpu_without_capture(kind):
    d, f, aug = SETS[kind](), Functional(small()), AUGS['all']
    start, target = Near().segment(1, 1, rng_for(0))
    steps, pure, m = d.steps(5, 4, rng_for(2)), d.pure(), objective(f, aug)
    draws = [(s, i) for i, s in enumerate(steps)]
    rows = [(*pure.numbers(*s.args), *aug.numbered(*aug.draw(len(s.args[0]), rng_for(i)))) for s, i in draws]
    row = Iteration(f, pure, aug, len(rows[0]))(*(t.detach() for t in pure.tensors), d.student_lr.detach(), start, target, *sum(stacked(rows, 2), ()))
    from dd_repro.unroll import unroll
    lr = d.student_lr.detach().requires_grad_()
    end = unroll(f, start, [m.augmented(*s) for s in draws], lr)
    loss = (end - target).square().sum()/(start - target).square().sum()
    want = loss, *torch.autograd.grad(loss, [lr, *(t for t in pure.tensors if t.requires_grad)])
    same(row.split([w.numel() for w in want]), [w.detach().flatten() for w in want])

@pytest.mark.parametrize('kind', SETS)
def test_a_pure_draw_is_the_draw(kind):
    d = SETS[kind](); pure = d.pure()
    for s in d.steps(4, 4, rng_for(1)):
        for a, b in zip(pure.made(pure.tensors, *pure.numbers(*s.args)), s()): assert torch.equal(a, b)

def test_launches_of_an_iteration_do_not_grow_with_its_steps():
    seen = []
    for N in (3, 8):
        with pretend_gpu() as gpu:
            d, f = SETS['pixels']().to('meta'), Functional(small().to('meta'))
            m = MTT(f, Near(), N, 1, 1, 4, DSA(), seed=3)
            for _ in range(3):
                d.zero_grad(); before = gpu.launches, gpu.waits, gpu.captures
                m(d).backward(); seen.append([b - a for a, b in zip(before, (gpu.launches, gpu.waits, gpu.captures))])
    assert seen[1] == seen[2] == seen[4] == seen[5] and seen[1][0] <= 10 and seen[1][1:] == [0, 0] and seen[0][2] == 1, seen

def test_points_that_are_far_away_already():
    want = gradients(SETS['pixels'](), objective(small()))
    with pretend_gpu(): same(gradients(SETS['pixels']().to('meta'), objective(small().to('meta'), buffer=Far)), want)

def test_two_losses_before_their_gradients():
    "A second replay does not overwrite what the first one left."
    def both(d, m):
        a, b = m(d), m(d)
        return torch.autograd.grad(a + 2*b, d.images)[0]
    want = both(SETS['pixels'](), objective(small()))
    with pretend_gpu():
        got = both(SETS['pixels']().to('meta'), objective(small().to('meta')))
        same([got]*3, [want]*3)

def test_a_term_of_a_sum():
    want = gradients(SETS['priors'](), objective(small(), noop) + .1*KL())
    with pretend_gpu(): same(gradients(SETS['priors']().to('meta'), objective(small().to('meta'), noop) + .1*KL()), want)

def test_another_set_and_moved_images_are_captured_anew():
    def third(d, m):
        "The loss after two calls, once the images are others, in another place of memory."
        m(d); m(d)
        d.images.data = (2*d.images).detach()
        return m(d)
    want = third(SETS['pixels'](), objective(small()))
    with pretend_gpu() as gpu:
        f = Functional(small().to('meta')); m = objective(f)
        got = third(SETS['pixels']().to('meta'), m)
        assert gpu.captures == 2 and abs(got.cpu() - want) <= 1e-10*abs(want)
        for k in range(2): m(SETS['pixels']().to('meta'))
        assert len(whole_of(f).kept) == Whole.most and gpu.captures == 4

def test_what_has_no_form_is_walked():
    class Own(Pixels):
        def sample(self, *a, **kw): x, y = super().sample(*a, **kw); return 2*x, y
    class Other(MTT):
        def augmented(self, draw, seed): return lambda: draw()
    with pretend_gpu() as gpu:
        d = Own(images(6), torch.arange(6) % 3, 3, lr=.05).double().to('meta'); f = Functional(small().to('meta'))
        assert d.pure() is None; objective(f)(d)
        for m in (objective(f, keep=2), objective(f, grad='bptt'), Other(f, Near(), 5, 1, 1, 4, DSA(), seed=3)): m(SETS['pixels']().to('meta'))
        assert whole_of(f).kept == {}

@pytest.mark.parametrize('fails, said', [(1, ['one by one']), (99, ['one by one', 'operation by operation'])])
@pytest.mark.parametrize('why', [torch.OutOfMemoryError('CUDA out of memory. Tried'), RuntimeError('no graphs on this device')])
def test_what_happens_where_a_capture_fails(fails, said, why, capsys, monkeypatch):
    monkeypatch.setattr('dd_repro.steps._said', set())
    left = [fails]
    def refuse():
        left[0] -= 1
        if left[0] >= 0: raise why
    want = gradients(SETS['pixels'](), objective(small()))
    with pretend_gpu() as gpu:
        gpu.refuse_capture = refuse; f = Functional(small().to('meta'))
        same(gradients(SETS['pixels']().to('meta'), objective(f)), want)
        assert list(whole_of(f).kept.values()) == [None] and gpu.captures == (4 if fails == 1 else 0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(said) and all(s in l and str(why) in l for s, l in zip(said, lines))

def test_pieces_are_compiled_before_the_iteration_is_captured(monkeypatch):
    made = []
    monkeypatch.setattr(torch, 'compile', lambda f, dynamic: made.append(f) or f)
    want = gradients(SETS['pixels'](), objective(small()))
    with pretend_gpu() as gpu:
        same(gradients(SETS['pixels']().to('meta'), objective(Functional(small().to('meta'), compiled=True))), want)
        assert len(made) == 4 and gpu.captures == 1 # two pieces for batches of 4 and of 2

def test_a_parcel_of_anything():
    ts = [torch.arange(5), torch.tensor(True), torch.rand(3, 1), torch.zeros(0), torch.rand(7, dtype=torch.double)[::2], torch.tensor(2.).half()]
    p = Parcel(ts, 'cpu'); assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(p.views, ts))
    with pretend_gpu() as gpu:
        p = Parcel(ts, 'meta'); gpu.launches = 0; p.send(ts)
        assert gpu.launches == 1 and gpu.waits == 0 and all(torch.equal(a.cpu(), b) for a, b in zip(p.views, ts))

# gradient and distribution matching

def real(n=(9, 7, 12)):
    y = torch.cat([torch.full((k,), c) for c, k in enumerate(n)])
    return ImageTensors(images(len(y)), y, len(n))

def unequal(): return Pixels(images(5), torch.tensor([0, 0, 1, 2, 2]), 3, lr=.05).double()
def codes(): return Pixels.begin(real(), 2, seed=1).double()
SIAMESE = dict(all=DSA(siamese=True), none=noop)
HOWS = dict(dc=dict(), loops=dict(outer=3, inner=4, batch_real=8, batch_train=4), real=dict(outer=3, inner=3, train_on='real', batch_train=5, loss='mse'), some=dict(outer=2, inner=1, batch_syn=1))

def matched(objective, d, times=4):
    "Values, images and what an objective keeps, over some updates."
    out = []
    for _ in range(times):
        d.images.grad = None
        out += [objective.backward(d).detach().clone(), d.images.grad.clone()]
        with torch.no_grad(): d.images.sub_(.1*d.images.grad)
        objective.after(d)
    return out + [t.double() for t in objective.state_dict().values() if isinstance(t, torch.Tensor)] + [t for t in objective.state_dict().get('net', {}).values()]

def dc(device='cpu', aug='all', data=real, **how): return DC(data().to(device), small, Matching(**how), SIAMESE[aug], seed=5)
def dm(device='cpu', aug='all', data=real, **how): return DM(data().to(device), small, aug=SIAMESE[aug], seed=5, **how)

@pytest.mark.parametrize('kind, aug, how', [(k, 'all', HOWS[k]) for k in HOWS] + [('dc', 'none', HOWS['loops'])])
@pytest.mark.parametrize('of', [unequal, codes])
def test_gradient_matching_by_graphs(kind, aug, how, of):
    want = matched(dc(aug=aug, **how), of())
    with pretend_gpu() as gpu:
        far = dc('meta', aug, **how); same(matched(far, of().to('meta')), want)
        assert gpu.captures == 1 + (how.get('outer', 1) > 1), gpu.captures

@pytest.mark.parametrize('aug, how', [('all', {}), ('none', {}), ('all', dict(batch_real=8, piece=5)), ('all', dict(batch_syn=1))])
@pytest.mark.parametrize('of', [unequal, codes])
def test_distribution_matching_by_graphs(aug, how, of):
    want = matched(dm(aug=aug, **how), of())
    with pretend_gpu() as gpu:
        same(matched(dm('meta', aug, **how), of().to('meta')), want); assert gpu.captures == 1

@pytest.mark.parametrize('make, graphs', [(partial(dc, outer=3, inner=2), 2), (dm, 1)])
def test_updates_are_few_launches_and_no_wait(make, graphs):
    with pretend_gpu() as gpu:
        o, d = make('meta'), codes().to('meta')
        for _ in range(4): before = gpu.launches, gpu.waits; d.zero_grad(); o.backward(d); o.after(d)
        assert gpu.launches - before[0] <= 30 and gpu.waits == before[1] and gpu.captures == graphs

@pytest.mark.parametrize('make', [partial(dc, outer=3, inner=2), dm])
def test_updates_that_cannot_be_captured_draw_the_same(make, capsys, monkeypatch):
    monkeypatch.setattr('dd_repro.steps._said', set())
    def refuse(): raise torch.OutOfMemoryError('CUDA out of memory.')
    want = matched(make(), codes())
    with pretend_gpu() as gpu:
        gpu.refuse_capture = refuse; same(matched(make('meta'), codes().to('meta')), want)
    lines = capsys.readouterr().out.splitlines(); assert len(lines) == 1 and 'operation by operation' in lines[0]

def test_networks_with_batch_norm_take_the_loop():
    def net():
        with seeded('whole'): return ConvNet(n_in=1, n_out=3, size=SIZE, width=4, depth=1, norm='batch').double()
    def updates(device): return matched(DC(real().to(device), net, Matching(2, 1), seed=5), codes().to(device), 2)
    want = updates('cpu')
    with pretend_gpu() as gpu: got = updates('meta'); assert gpu.captures == 0; same(got[:4], want[:4], 1e-8)

def test_a_matching_run_goes_on_with_its_network():
    o = dc(outer=5, inner=2); d = codes(); matched(o, d, 2); state = copy.deepcopy(o.state_dict()); at = d.images.detach().clone()
    want = matched(o, d, 2)
    with pretend_gpu():
        far, e = dc('meta', outer=5, inner=2), codes().to('meta')
        matched(far, e, 1)
        far.load_state_dict(state); e.images.data.copy_(at)
        same(matched(far, e, 2), want)

def test_class_tables_follow_their_labels():
    with pretend_gpu() as gpu:
        r = real((2, 3)).to('meta'); before = gpu.waits
        for c in (0, 1, 0): assert len(r.of_class(c)) == 2 + c
        assert gpu.waits == before + 1
        r.y[0] = 1; assert len(r.of_class(1)) == 4
        r.y = torch.zeros(5).long().to('meta'); assert len(r.of_class(0)) == 5

# the table of tests/launches.py

@pytest.mark.parametrize('what, kw, launches, waits', [('mtt', dict(N=3), 10, .2), ('d3', dict(N=3), 350, 5), ('dsa', dict(inner=3, ipc=2), 1107, 0), ('dm', dict(ipc=2), 30, .2)])
def test_what_an_iteration_asks_of_the_host(what, kw, launches, waits):
    with pretend_gpu() as gpu: got = dict(mtt=L.mtt, d3=L.d3, dsa=L.dsa, dm=L.dm)[what](gpu, **kw)
    assert got[0] <= launches and got[1] <= waits and got[2] == 0, got
