"The unroll: against a student written by hand, against finite differences, over every kind of batch, and in bytes."
import os, shutil, sys
from functools import partial

import pytest, torch
from torch import nn
from torch.nn import functional as F

from dd_repro.augment import DSA, OPS
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded
from dd_repro.experts import to_vector
from dd_repro.steps import CONV_BACKWARD, Replay, trace_step
from dd_repro.unroll import GRADS, Functional, _pull_back, peak_bytes, unroll

EXACT = ('adjoint', 'bptt')
D = torch.double

def make(norm='instance', width=8, n_out=3, depth=2):
    with seeded(0, 'unroll', norm): return ConvNet(n_in=1, n_out=n_out, size=8, width=width, depth=depth, norm=norm).to(D)

NET = make()
THETA = to_vector(NET)
Y = torch.arange(6) % 3

def images(seed=0, n=6): return torch.randn(n, 1, 8, 8, generator=rng_for(seed, 'images'), dtype=D)
def leaves(lr=.1): return images().requires_grad_(), torch.tensor(lr, dtype=D, requires_grad=True)
def loss_of(theta): return (theta - THETA - .01).square().sum()
def soft(seed=0): return torch.rand(6, 3, generator=rng_for(seed, 'soft'), dtype=D).softmax(1)

def by_hand(net, theta, batches, lr):
    "The student with its parameters as a list of tensors, as a textbook writes it; uses nothing of the module under test."
    names, like = zip(*net.named_parameters())
    ps = [t.view_as(p) for t, p in zip(theta.split([p.numel() for p in like]), like)]
    ps = [p if p.requires_grad else p.clone().requires_grad_() for p in ps]
    for b in batches:
        x, y = b() if callable(b) else b
        logp = torch.func.functional_call(net, dict(zip(names, ps)), (x,)).log_softmax(1)
        loss = -(logp*(y if y.ndim == 2 else F.one_hot(y, 3).to(D))).sum(1).mean()
        ps = [p - lr*g for p, g in zip(ps, torch.autograd.grad(loss, ps, create_graph=True))]
    return torch.cat([p.flatten() for p in ps])

def same(got, want, tol=1e-9):
    for g, w in zip(got, want, strict=True): torch.testing.assert_close(g, w, rtol=tol, atol=tol)

def agree(draws, N=6, net=NET, tol=1e-9):
    "Adjoint and plain give what the student by hand gives, for pixels and rate; returns its gradients."
    want = None
    for f in (by_hand, *EXACT):
        X, lr = leaves()
        batches = draws(X, N)
        theta = to_vector(net)
        end = by_hand(net, theta, batches, lr) if f is by_hand else unroll(net, theta, batches, lr, f)
        got = end.detach(), *torch.autograd.grad((end - theta - .01).square().sum(), [X, lr])
        want = want or got
        same(got, want, tol)
    assert want[1].abs().max() > 1e-6
    return want

def tensors(X, N): return [(X[i % 3:i % 3 + 4], Y[i % 3:i % 3 + 4]) for i in range(N)]
def callables(X, N): return [lambda s=i % 3: (X[s:s+4], Y[s:s+4]) for i in range(N)]
def mixed(X, N): return [b if i % 2 else t for i, (b, t) in enumerate(zip(callables(X, N), tensors(X, N)))]
def whole(X, N): return [(X, Y)]*N
def softly(X, N): return [(X, soft())]*N

@pytest.mark.parametrize('draws', [tensors, callables, mixed, whole, softly])
def test_gradients_are_those_by_hand(draws): agree(draws)

@pytest.mark.parametrize('norm', ['group', 'none'])
def test_with_other_norms(norm): agree(mixed, N=4, net=make(norm))

@pytest.mark.parametrize('siamese', [False, True])
@pytest.mark.parametrize('op', list(OPS))
def test_through_each_augmentation(op, siamese):
    aug = DSA(op, siamese=siamese)
    agree(lambda X, N: [lambda s=i: (aug(X, rng_for(s)), Y) for i in range(N)], N=4)
    agree(lambda X, N: [(aug(X, rng_for(i)), Y) for i in range(N)], N=4)

def test_one_step_and_none():
    agree(whole, N=1)
    same([unroll(NET, THETA, [], .1, g) for g in EXACT], [THETA]*2)
    one = [torch.autograd.grad(loss_of(unroll(NET, THETA, whole(X, 1), lr, g)), [X, lr]) for g in GRADS for X, lr in [leaves()]]
    same(one[2], one[0])                                          # detached is exact for a single step

def test_logistic_regression_on_paper():
    "One linear layer, one step, everything by its formula: g = x'(p - y)/n, and its derivatives."
    net = nn.Linear(4, 3, bias=False).to(D)
    x, lr = torch.randn(5, 4, generator=rng_for('x'), dtype=D), .3
    W, y, v = net.weight.detach(), torch.tensor([0, 1, 2, 0, 1]), torch.randn(12, generator=rng_for('v'), dtype=D)
    P, V = (x@W.T).softmax(1), v.view(3, 4)
    E, A = P - F.one_hot(y, 3), x@V.T                             # errors, and the direction's logits
    J = P*(A - (P*A).sum(1, keepdim=True))                        # softmax's Jacobian times A
    want = (-lr*(E@V + J@W)/5, -(E.T@x/5*V).sum(), (V - lr*J.T@x/5).flatten())
    for grad in EXACT:
        X, a, th = x.clone().requires_grad_(), torch.tensor(lr, dtype=D, requires_grad=True), W.flatten().clone().requires_grad_()
        end = unroll(net, th, [(X, y)], a, grad)
        same([end.detach()], [(W - lr*E.T@x/5).flatten()], 1e-12)
        same(torch.autograd.grad(end@v, [X, a, th]), want, 1e-12)

def test_finite_differences():
    aug, h = DSA(), 1e-5
    def value(X, lr): return loss_of(unroll(NET, THETA, [lambda s=i: (aug(X, rng_for(s)), Y) for i in range(5)], lr))
    X, lr = leaves()
    gX, glr = torch.autograd.grad(value(X, lr), [X, lr])
    X, lr = X.detach(), lr.detach()
    torch.testing.assert_close((value(X, lr + h) - value(X, lr - h))/(2*h), glr, rtol=1e-5, atol=0)
    for i in gX.flatten().abs().topk(3).indices.tolist() + [0, 100]:
        e = torch.zeros(X.numel(), dtype=D); e[i] = h; e = e.view_as(X)
        torch.testing.assert_close((value(X + e, lr) - value(X - e, lr))/(2*h), gX.flatten()[i], rtol=1e-4, atol=1e-9)

def test_the_start_is_differentiable_too():
    def g(grad):
        th, (X, lr) = THETA.clone().requires_grad_(), leaves()
        return torch.autograd.grad((unroll(NET, 1.5*th, callables(X, 5), lr, grad) - THETA).square().sum(), [th, X, lr])
    same(g('adjoint'), g('bptt'))

def test_a_start_outside_the_graph_stays_as_it_was():
    for g in GRADS:
        th = THETA.clone(); X, lr = leaves()
        loss_of(unroll(NET, th, whole(X, 3), lr, g)).backward()
        assert torch.equal(th, THETA) and th.grad is None and not th.requires_grad

def test_two_unrolls_of_the_same_images():
    def g(grad):
        X, lr = leaves()
        a, b = (unroll(NET, THETA + k, callables(X, 3), lr, grad) for k in (0, .05))
        (loss_of(a) + 2*loss_of(b) + (a*b).sum()).backward()
        return X.grad, lr.grad
    same(g('adjoint'), g('bptt'))

def test_backward_twice_adds_up():
    X, lr = leaves()
    loss = loss_of(unroll(NET, THETA, callables(X, 3), lr))
    loss.backward(retain_graph=True); once = X.grad.clone(); loss.backward()
    same([X.grad], [2*once])

def test_a_leaf_twice_in_one_batch():
    "As image and as its own mirror, as pixels and as soft labels."
    agree(lambda X, N: [lambda: (torch.cat([X, X.flip(3)]), torch.cat([Y, Y]))]*N)
    agree(lambda X, N: [lambda: (X, X.flatten(1)[:, :3].softmax(1))]*N)
    agree(lambda X, N: [(X, X.flatten(1)[:, :3].softmax(1))]*N)

def test_images_that_the_caller_computed():
    "Tensors that are no leaves, shared among the steps, and a callable over a graph that was there before."
    agree(lambda X, N: [(2*X.tanh(), Y)]*N)
    def over(X, N):
        Z = 2*X.tanh()
        return [lambda s=i % 3: (Z[s:s+4], Y[s:s+4]) for i in range(N)]
    agree(over)

def decoder():
    with seeded(0, 'decoder'): return nn.Sequential(nn.Linear(5, 20), nn.GELU(), nn.Linear(20, 64), nn.Unflatten(1, (1, 8, 8))).to(D)

def decoded(grad, N=6, aug=DSA()):
    "Gradients for latents, decoder, logits of labels and rate: a distilled set whose images come out of a network."
    dec, Z, L = decoder(), torch.randn(6, 5, generator=rng_for('z'), dtype=D).requires_grad_(), soft().clone().requires_grad_()
    lr = torch.tensor(.1, dtype=D, requires_grad=True)
    def draw(seed):
        i = torch.randperm(6, generator=rng_for(seed))[:4]
        return aug(dec(Z[i]), rng_for(seed, 'aug')), L[i].softmax(1)
    batches = [lambda s=s: draw(s) for s in range(N)]
    end = by_hand(NET, THETA, batches, lr) if grad == 'hand' else unroll(NET, THETA, batches, lr, grad)
    loss_of(end).backward()
    return [t.grad for t in (Z, L, lr, *dec.parameters())]

def test_gradients_reach_latents_decoder_and_labels():
    want = decoded('hand')
    assert all(g.abs().max() > 1e-9 for g in want)
    for g in EXACT: same(decoded(g), want)

def test_frozen_parts_get_no_gradient():
    dec, Z = decoder().requires_grad_(False), torch.randn(6, 5, generator=rng_for('z'), dtype=D).requires_grad_()
    loss_of(unroll(NET, THETA, [lambda: (dec(Z), Y)]*3, .1)).backward()
    assert Z.grad.abs().max() > 0 and all(p.grad is None for p in dec.parameters())

def test_the_rate_may_be_a_number():
    X, lr = leaves()
    for g in GRADS:
        a, b = (torch.autograd.grad(loss_of(unroll(NET, THETA, whole(X, 3), r, g)), X)[0] for r in (.1, lr))
        same([a], [b], 1e-12)
    assert not unroll(NET, THETA, [(images(), Y)], .1).requires_grad

def test_single_precision_follows_double():
    def g(dtype):
        X, lr = (t.detach().to(dtype).requires_grad_() for t in leaves())
        th = THETA.to(dtype)
        end = unroll(make().to(dtype), th, callables(X, 10), lr)
        return torch.autograd.grad((end - th - .01).square().sum(), [X, lr])
    for a, b in zip(g(torch.float32), g(D)): assert (a.double() - b).norm() < 1e-4*b.norm()

def test_detached_is_near_but_not_exact():
    plain, detached = (torch.autograd.grad(loss_of(unroll(NET, THETA, callables(X, 20), lr, g)), X)[0].flatten() for g in ('bptt', 'detached') for X, lr in [leaves()])
    assert .5 < F.cosine_similarity(plain, detached, dim=0) < 1 - 1e-6

# --- memory
def run_of(grad, kind, N, f):
    X, lr, aug = images(n=20).requires_grad_(), torch.tensor(.05, dtype=D, requires_grad=True), DSA()
    y, Z, dec = torch.arange(20) % 3, torch.randn(20, 5, dtype=D).requires_grad_(), decoder()
    x = lambda: dec(Z) if kind == 'decoded' else X
    return lambda: loss_of(unroll(f, THETA, [lambda s=s: (aug(x(), rng_for(s)), y) for s in range(N)], lr, grad)).backward()

def test_forty_more_steps_cost_forty_points():
    "With callables over a decoder and augmentation; notebook 08 shows the same for tensors."
    f = Functional(NET)
    run_of('adjoint', 'decoded', 2, f)()                          # what is allocated once
    a, b = (peak_bytes(run_of('adjoint', 'decoded', N, f)) for N in (10, 50))
    assert b - a <= 40*THETA.numel()*8*1.1, f'{(b - a)/(THETA.numel()*8):.1f} parameter vectors'

def test_the_plain_form_keeps_every_graph():
    a, b = (peak_bytes(run_of('bptt', 'augmented', N, Functional(NET))) for N in (2, 10))
    assert b > 4*a and b > 4*peak_bytes(run_of('adjoint', 'augmented', 10, Functional(NET)))

# --- refusals, and the replay
@pytest.mark.parametrize('net, says', [
    (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), "'1' is BatchNorm2d"),
    (nn.Sequential(nn.Dropout2d(.1)), "'0' is Dropout2d"), (nn.Sequential(nn.Linear(2, 2), nn.AlphaDropout(.1)), "'1' is AlphaDropout"),
    (nn.InstanceNorm2d(3, track_running_stats=True), 'running statistics'),
    (nn.TransformerEncoderLayer(4, 2, 8, dropout=.1), 'randomness'), (nn.MultiheadAttention(4, 2, dropout=.1), 'randomness')])
def test_networks_that_are_no_function_are_refused(net, says):
    with pytest.raises(ValueError, match=says) as e: Functional(net)
    assert '\n' not in str(e.value)

def test_networks_that_only_look_stateful_are_taken():
    Functional(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Dropout(0.), nn.Dropout(.5).eval()))

@pytest.mark.parametrize('theta, grad, says', [(THETA[:7], 'adjoint', 'has 7 parameters'), (THETA, 'tesla', "grad='tesla' is not one of")])
def test_bad_arguments(theta, grad, says):
    with pytest.raises(ValueError, match=says): unroll(NET, theta, [(images(), Y)], .1, grad)

def test_replay_is_transparent_on_a_cpu():
    calls = []
    r = Replay(lambda a, b: (calls.append(1), [a*b, None])[1])
    a = torch.arange(3.)
    out = r(a, a + 1)
    assert torch.equal(out[0], a*(a + 1)) and out[1] is None and r.graphs == {} and len(calls) == 1

needs_compiler = pytest.mark.skipif(not shutil.which(os.environ.get('CXX') or ('clang++' if sys.platform == 'darwin' else 'g++')), reason='compiling needs a C++ compiler')

# The one real compilation of these tests: of a small network, and as quickly as PyTorch can make it. Vectors (and the ten
# trial compilations for them) and optimisation are left out; what is compiled, and how it is called, are the same.
SMALL = make(width=2, depth=1)
QUICK = {'compile_threads': 1, 'cpp.simdlen': 1, 'cpp.vec_isa_ok': False, 'aot_inductor.debug_compile': True}

@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
    "A network whose steps are compiled, for the first batch that comes."
    from torch._inductor import config
    def there(k, o=config): return all(hasattr(o, n) and (o := getattr(o, n), True)[1] for n in k.split('.')) # names differ between versions
    known = {k: v for k, v in QUICK.items() if there(k)}
    with config.patch(known), pytest.MonkeyPatch.context() as m:
        m.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path_factory.mktemp('inductor')))
        yield Functional(SMALL, compiled=True)

@needs_compiler
@pytest.mark.parametrize('grad, keep', [('adjoint', 0), ('adjoint', 2), ('detached', 0)])
def test_compiled_steps_give_the_same(compiled, grad, keep):
    got, want, theta = [], [], to_vector(SMALL)
    for f, out in ((compiled, got), (SMALL, want)):
        X, lr = leaves()
        end = unroll(f, theta, callables(X, 5), lr, grad, keep)
        out += [end.detach(), *torch.autograd.grad((end - theta - .01).square().sum(), [X, lr])]
    same(got, want, 1e-12)
    assert want[1].abs().max() > 1e-6 and [len(r.graphs) for r in compiled.captured] == [1, 1]

@needs_compiler
def test_a_compiled_unroll_repeats_itself_bit_for_bit(compiled):
    def grad():
        X, lr = leaves()
        return torch.autograd.grad(unroll(compiled, to_vector(SMALL), callables(X, 4), lr).square().sum(), X)[0]
    assert torch.equal(grad(), grad())

@needs_compiler
def test_each_shape_is_compiled_once(monkeypatch):
    "Unequal chunks and soft labels, through the objective itself; what would be compiled is run as it was traced."
    made = []
    monkeypatch.setattr('dd_repro.steps._compile', lambda traced, ts: made.append([tuple(t.shape) for t in ts]) or traced)
    f, X = Functional(NET, compiled=True), images().requires_grad_()
    batches = [(X, Y), (X[:2], soft()[:2]), (X, Y)]
    want = torch.autograd.grad(loss_of(unroll(NET, THETA, batches, .1)), X)[0]
    for _ in range(2): same([torch.autograd.grad(loss_of(unroll(f, THETA, batches, .1)), X)[0]], [want], 1e-12)
    assert [len(r.graphs) for r in f.captured] == [2, 2] and len(made) == 4

def test_a_missing_compiler_is_named_at_once(monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler'); monkeypatch.setenv('PATH', '')
    with pytest.raises(ValueError, match="C\\+\\+ compiler; 'no-such-compiler' is not found") as e: Functional(NET, compiled=True)
    assert '\n' not in str(e.value)

@needs_compiler
def test_a_compiler_that_fails_is_one_line(monkeypatch):
    def fails(*a): raise RuntimeError('Python.h: No such file\nand a page more')
    monkeypatch.setattr(torch, 'compile', lambda *a, **k: fails)
    with pytest.raises(ValueError, match='could not be compiled .Python.h: No such file.; leave compiled off') as e: unroll(Functional(NET, compiled=True), THETA, tensors(images(), 1), .1)
    assert '\n' not in str(e.value)

def test_unread_gradients_of_convolutions_are_struck_out():
    "The traced way back has the same values and no product for the weights' gradient of the first pass."
    back, ts = partial(_pull_back, Functional(NET)), (THETA.detach(), images().requires_grad_(), Y, torch.ones_like(THETA))
    g, want = trace_step(back, ts), back(*ts)
    with torch.no_grad(): same([t for t in g(*ts) if t is not None], [t for t in want if t is not None], 1e-12)
    masks = [n.args[-1] for n in g.graph.nodes if n.target is CONV_BACKWARD]
    assert [True, False, False] in masks and any(m[1] for m in masks)

def test_a_kept_functional_gives_the_same():
    f = Functional(NET)
    for N in (2, 5, 2):
        X, lr = leaves()
        same(torch.autograd.grad(loss_of(unroll(f, THETA, callables(X, N), lr)), [X, lr]), torch.autograd.grad(loss_of(unroll(NET, THETA, callables(X, N), lr)), [X, lr]), 1e-12)

def test_kept_graphs_cost_memory_and_change_nothing():
    "The dial between constant memory and the plain form's: the same gradient, memory that grows by kept graphs only."
    with seeded(0): f = Functional(ConvNet(1, 3, 8, 6, 2).double())
    theta, x, y = to_vector(f.net).detach(), torch.randn(6, 1, 8, 8, dtype=torch.double, generator=rng_for(0)), torch.arange(6) % 3
    def grad(keep, N):
        X = x.clone().requires_grad_()
        return torch.autograd.grad(unroll(f, theta, [(X, y)]*N, .1, keep=keep).square().sum(), X)[0]
    torch.testing.assert_close(grad(5, 12), grad(0, 12), rtol=1e-11, atol=1e-14)
    mb = {(k, n): peak_bytes(lambda: grad(k, n)) for k in (0, 5) for n in (10, 30)}
    point = theta.numel()*8
    assert mb[0, 10] < mb[5, 10] and mb[5, 30] - mb[5, 10] <= 20*point*1.1
    with pytest.raises(ValueError, match='keep is -1'): unroll(f, theta, [(x, y)], .1, keep=-1)
