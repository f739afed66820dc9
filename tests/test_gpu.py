"""What a GPU asks of the code, on a pretend one: devices do not mix, nothing waits, captured steps are replayed, and methods do what they do on a CPU."""
import sys
from functools import partial
from unittest import mock

import pytest, torch
from pretend import Far, Graph, PretendGPU, pretend_gpu

import dd_repro.unroll as U
from dd_repro import d3s as S
from dd_repro import recipes as R
from dd_repro.augment import DSA, OPS
from dd_repro.autoenc import AutoEncoder
from dd_repro.bench import unroll_iteration
from dd_repro.cli import dd_distill, dd_eval, dd_experts, dd_relabel
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded
from dd_repro.cost import TF32, Cost, device_name, git_commit, tf32
from dd_repro.files import load_tensors
from dd_repro.gauss import FeatureStats, batch_stats, feature_loss, targets
from dd_repro.loop import Diverged, Objective, distill
from dd_repro.norm import fit_zca
from dd_repro.records import read_rows
from dd_repro.sets import ImageTensors
from dd_repro.teachers import Teachers
from dd_repro.method import RunOptions, Task, learn, method_of
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import to_vector, expert_protocol, train_experts
from dd_repro.mtt import closest
from dd_repro.labels import LabelStore
from dd_repro.rows import Places, run_row
from dd_repro.students import as_protocol, train
from dd_repro.ten_images import dd_demo
from dd_repro.steps import Replay
from dd_repro.unroll import Functional, unroll
from dd_repro.zoo import make_net

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op') # what torch says of the device meta, and is not so here

def same(got, want, eps):
    "All tensors agree, the first ones brought back if they are far."
    assert len(got) == len(want)
    for a, b in zip(got, want): assert not isinstance(b, Far) and (a.cpu() - b).abs().max() <= eps*b.abs().max()

def same_bytes(got, want):
    "Images agree but for a few of their bytes: Adam's first steps are signs of gradients however small, and a last digit may turn one."
    for a, b in zip(got, want): assert not isinstance(b, Far) and ((a.cpu().int() - b.int()).abs() > 1).double().mean() <= .02

def same_set(got, want, adam=False):
    "Two artefacts agree to rounding; under Adam, whose first steps are signs of gradients however small, as wholes."
    if any(t.dtype == torch.uint8 for t in want.values()):
        same_bytes(*([t[k] for k in want if want[k].dtype == torch.uint8] for t in (got, want)))
        want = {k: t for k, t in want.items() if t.dtype != torch.uint8}
    got, want = ([t[k].double() for k in want] for t in (got, want))
    if not adam: return same(got, want, 1e-4)
    a, b = (torch.cat([t.flatten() for t in ts]) for ts in (got, want)); assert (a - b).norm() <= 5e-4*b.norm(), (a - b).norm()/b.norm()

def same_rows(got, want, points=5.):
    "The same rows, accuracies to `points`: rounding differs from device to device, and an image on the border of two classes falls to either side."
    def name(r): return r.row, r.method, r.net, r.n
    assert [name(r) for r in got] == [name(r) for r in want]
    for a, b in zip(got, want): assert (a.mean != a.mean and b.mean != b.mean) or abs(a.mean - b.mean) <= points, (a, b)

# the pretend GPU itself

def test_it_computes():
    with pretend_gpu() as gpu:
        w = torch.arange(6.).view(2, 3).to('meta').requires_grad_()
        g, = torch.autograd.grad((w**2).sum(), w, create_graph=True)
        again, = torch.autograd.grad((g*w).sum(), w)
        assert isinstance(again, Far) and gpu.waits == 0 and again.tolist() == [[0., 4., 8.], [12., 16., 20.]] and gpu.waits == 1

@pytest.mark.parametrize('mix', [lambda a, b: a + b, lambda a, b: a @ b.T, lambda a, b: torch.cat([a, b]), lambda a, b: torch.stack([a.sum(), b.sum()]), lambda a, b: b[a[:, 0].long()], lambda a, b: b.add_(a)])
def test_devices_do_not_mix(mix):
    with pretend_gpu(), pytest.raises(RuntimeError, match='same device'): mix(torch.ones(2, 3).to('meta'), torch.ones(2, 3))

@pytest.mark.parametrize('fine', [lambda a: a + 1., lambda a: a*torch.tensor(2.), lambda a: a[torch.tensor([0])], lambda a: a[[0, 1]], lambda a: a.copy_(torch.ones(2, 3))])
def test_scalars_indices_and_copies_pass(fine):
    with pretend_gpu() as gpu:
        assert isinstance(fine(torch.ones(2, 3).to('meta')), Far) and gpu.waits == 0

@pytest.mark.parametrize('ask', [lambda a: a.sum().item(), lambda a: bool(a.any()), lambda a: a.cpu(), lambda a: a[a > 0], lambda a: a.nonzero(), lambda a: a.tolist()])
def test_the_host_waits_for_numbers(ask):
    with pretend_gpu() as gpu: ask(torch.ones(2, 3).to('meta')); assert gpu.waits == 1

def test_a_graph_takes_new_numbers_but_not_new_python():
    with pretend_gpu():
        x, factor, g = torch.ones(3).to('meta'), [2.], Graph()
        with torch.cuda.graph(g): y = (x*factor[0]).relu_()[1:]
        x.copy_(torch.arange(3.)); factor[0] = 5.; g.replay()
        assert y.tolist() == [2., 4.]

@pytest.mark.parametrize('bad', [lambda x: x.sum().item(), lambda x: torch.rand_like(x), lambda x: x[torch.tensor([0])], lambda x: x + torch.ones(3).to('meta'), lambda x: x + torch.tensor(1.).to('meta'), lambda x: x[x > 0]])
def test_a_capture_does_not_meet_the_host(bad):
    with pretend_gpu():
        x, g = torch.ones(3).to('meta'), Graph()
        with pytest.raises(RuntimeError, match='captured'), torch.cuda.graph(g): bad(x)

# captured steps

def small(): return ConvNet(n_in=1, n_out=3, size=8, width=4, depth=1).double() # each test traces it, which is what they cost
NET = small()
START, IMAGES = to_vector(NET), torch.randn(6, 1, 8, 8, dtype=torch.double, generator=rng_for('gpu'))
LABELS = dict(hard=torch.arange(6) % 3, soft=torch.rand(6, 3, dtype=torch.double, generator=rng_for('soft')).softmax(1))

def gradients(device, f, grad, keep=0, labels='hard', N=5):
    "The end of an unroll, and its gradients for pixels and rate; batches of 4 and 2, augmented."
    X, y = IMAGES.clone().to(device).requires_grad_(), LABELS[labels].to(device)
    lr, aug = torch.tensor(.1, dtype=torch.double, device=device, requires_grad=True), DSA()
    def batch(i): s = slice(0, 4) if i % 2 else slice(4, 6); return aug(X[s], rng_for(i)), y[s]
    end = unroll(f, START.to(device), [partial(batch, i) for i in range(N)], lr, grad, keep)
    return [end.detach(), *torch.autograd.grad((end - .01).square().sum(), [X, lr])]

@pytest.mark.parametrize('grad, keep, labels', [('adjoint', 0, 'hard'), ('adjoint', 0, 'soft'), ('adjoint', 2, 'hard'), ('detached', 0, 'hard'), ('bptt', 0, 'hard')])
def test_captured_steps_give_the_same(grad, keep, labels):
    want = gradients('cpu', NET, grad, keep, labels)
    with pretend_gpu():
        f = Functional(small().to('meta'))
        for _ in range(2): same(gradients('meta', f, grad, keep, labels), want, 1e-12) # captured, then replayed
        assert [len(r.graphs) for r in getattr(f, 'captured', ())] == ([] if grad == 'bptt' else [2, 2])

def test_steps_are_compiled_before_they_are_captured(monkeypatch):
    made, called = [], []
    monkeypatch.setattr(torch, 'compile', lambda f, dynamic: made.append(f) or (lambda *ts: called.append(1) or f(*ts)))
    monkeypatch.setattr(U, 'need_compiler', lambda: pytest.fail('asked for a C++ compiler on a GPU'))
    want = gradients('cpu', NET, 'adjoint')
    with pretend_gpu():
        f = Functional(small().to('meta'), compiled=True)
        same(gradients('meta', f, 'adjoint'), want, 1e-12); assert len(made) == 4 and len(called) == 4*5 # each when it is compiled, three times to warm up, and captured

def test_what_is_prepared_is_kept_apart():
    "By shape, type, device, and by what wants a gradient."
    with pretend_gpu():
        r, x = Replay(lambda a, b: (a*b, *(torch.autograd.grad((a*b).sum(), a) if a.requires_grad else (None,)))), torch.arange(3.).to('meta')
        for a in (x, x.double(), x[:2], x.clone().requires_grad_()):
            p, g = r(a, torch.full_like(a, 2.).detach()); assert p.dtype == a.dtype and torch.equal(p.cpu(), 2*a.detach().cpu()) and (g is not None) == a.requires_grad
        assert len(r.graphs) == 4
        both = Replay(lambda a: (a + 1,), compiled=True); both.made = lambda ts: lambda a: (a + 1,)
        assert [t.device.type for t in (*both(x), *both(torch.arange(3.)), *both(x))] == ['meta', 'cpu', 'meta']

def test_results_survive_the_next_replay():
    with pretend_gpu():
        r, x = Replay(lambda a, b: (a*b, None)), torch.arange(3.).to('meta')
        first, none = r(x, x); second, _ = r(x + 1, x)
        assert none is None and first.tolist() == [0., 1., 4.] and second.tolist() == [0., 2., 6.] and len(r.graphs) == 1

def test_the_way_back_is_prepared_on_the_way_there():
    "Autograd walks back in a thread of its own, where nothing should be traced and captured."
    with pretend_gpu() as gpu:
        f = Functional(small().to('meta')); X = IMAGES.to('meta').requires_grad_()
        def batch(i): s = slice(0, 4) if i % 2 else slice(4, 6); return X[s], LABELS['hard'].to('meta')[s]
        end = unroll(f, START.to('meta'), [partial(batch, i) for i in range(4)], .1)
        made = dict(f.captured[1].graphs); assert len(made) == 2
        end.sum().backward(); assert f.captured[1].graphs.keys() == made.keys() and gpu.mode == 'thread_local'

@pytest.mark.parametrize('why', [torch.OutOfMemoryError('CUDA out of memory.'), RuntimeError('no graphs on this device')])
def test_what_cannot_be_captured_is_called(why, capsys, monkeypatch):
    def refuse(): raise why
    monkeypatch.setattr('dd_repro.steps._said', set())
    want = gradients('cpu', NET, 'adjoint')
    with pretend_gpu() as gpu:
        gpu.refuse_capture = refuse; f = Functional(small().to('meta'))
        for _ in range(2): same(gradients('meta', f, 'adjoint'), want, 1e-12)
    said = capsys.readouterr().out.splitlines(); assert len(said) == 1 and str(why) in said[0] and 'operation by operation' in said[0]

def test_a_captured_step_is_a_few_launches_and_no_wait():
    "Of an iteration of MTT with DSA; what is left for the host is to draw, to augment and to copy."
    count = {}
    with pretend_gpu() as gpu:
        for captured in (False, True):
            step = unroll_iteration('adjoint', 10, 6, 8, 'meta', captured); step(); step(3)
            seen = []
            for n in (3, 6): gpu.launches = gpu.waits = 0; step(n); seen.append(gpu.launches); assert gpu.waits == 0
            count[captured] = (seen[1] - seen[0])/3
    assert count[True] < count[False]/2, count

# all else

@pytest.mark.parametrize('op', OPS)
def test_augmentation_asks_the_device_for_nothing(op):
    x = torch.rand(4, 3, 16, 16, generator=rng_for('x')); aug = DSA(op); want = aug(x, rng_for(op))
    with pretend_gpu() as gpu:
        got = aug(x.to('meta'), rng_for(op)); assert gpu.waits == 0
        same([got], [want], 0.)

@pytest.mark.parametrize('together', [True, False])
def test_training_asks_the_device_only_whether_numbers_are_numbers(together):
    "Once for the images, once for the weights of each team at the end, and four times to see that fused layers agree: no step waits."
    def ready(device):
        with seeded('gpu'): nets = [ConvNet(1, 10, 8, 4, 2).to(device) for _ in range(2)]
        return nets, ImageTensors(torch.rand(20, 1, 8, 8, generator=rng_for('x')).to(device), (torch.arange(20) % 10).to(device), 10)
    def trained(nets, data): return [to_vector(n) for n in train(nets, data, as_protocol('mtt').scaled(epochs=4, batch=8), lr=.1, together=together)]
    want = trained(*ready('cpu'))
    with pretend_gpu() as gpu:
        there = ready('meta'); before = gpu.waits
        got = trained(*there); assert gpu.waits - before == 1 + (1 if together else 2 + 4)
        same(got, want, 1e-6)

def test_pixels_are_where_their_images_are():
    train_set, _ = load('digits', size=8)
    want = [Pixels.from_real(train_set, 1), Pixels.from_noise(train_set, 1)]
    with pretend_gpu():
        d = [Pixels.from_real(train_set.to('meta'), 1), Pixels.from_noise(train_set.to('meta'), 1)]
        assert all(p.device.type == 'meta' and isinstance(t, Far) for p in d for t in p.state_dict().values())
        same([p.images for p in d], [p.images.detach() for p in want], 0.)

ROWS = ('mtt/table1/cifar10/ipc1', 'mtt/table1/cifar10/dc/ipc1', 'mtt/table1/cifar10/dsa/ipc1', 'mtt/table1/cifar10/dm/ipc1', 'mtt/table1/cifar10/herding/ipc1', 'mtt/table1/cifar10/forgetting/ipc1', 'mtt/table1/cifar10/random/ipc1',
        'mtt/table1/cifar10/full', 'd3/table1/cifar10/ppc1', 'd3s/table6/cifar10/ipc10', 'd3s/table5/cifar100/sre2l/ipc10', 'latentdd/prose_sec4_3/imagesquawk/64px/latentdc/f=4/ipc1')

@pytest.mark.parametrize('row', ROWS)
def test_methods_take_their_first_step_there(row, tmp_path):
    "From data to a row; the distilled set and what students make of it are those of a CPU."
    r = R.recipe(row)
    small = dict(net_resnet_width=4) if row.startswith('d3s') else dict(net_width=8) | (dict(decoder_width=8) if row.startswith('d3/') else {})
    def run(device):
        rows = run_row(r, smoke=True, quiet=True, at=Places(tmp_path, tmp_path/device, device), **small)
        return rows, [load_tensors(p)[0] for p in (tmp_path/device).rglob('distilled.safetensors')]
    rows, sets = run('cpu')
    with pretend_gpu() as gpu: far_rows, far_sets = run('meta'); assert gpu.launches > 20
    same_rows(far_rows, rows, 10.); assert len(far_sets) == len(sets) # 20 test images
    for a, b in zip(far_sets, sets): same_set(a, b, row.startswith('d3/'))

@pytest.fixture
def home(tmp_path, monkeypatch):
    "A home of its own for what commands leave behind."
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home')); return tmp_path

_EXPERTS = dict(syn_steps=2, expert_epochs=1, max_start_epoch=1, lr_lr=1e-5, lr_teacher=.05)
RUNS = dict(mtt=dict(ipc=1, lr_img=10., **_EXPERTS), d3=dict(ppc=1, mmd_samples=4, decoder_width=8, **_EXPERTS), dsa=dict(ipc=2, outer=2, inner=2), dm=dict(ipc=2))

@pytest.mark.parametrize('method', RUNS)
def test_a_run_goes_on_on_another_machine(method, home):
    "One iteration there and the others here, or the other way round: what one processor does alone, to rounding."
    net = dict(data='digits', size=16, width=4, depth=2)
    def distil(out, minutes=None): dd_distill(method, iterations=3, out=str(home/out), every=1, minutes=minutes, **RUNS[method], **net); return next((home/out).glob('*.csv')).read_text().splitlines()[1:]
    if 'syn_steps' in RUNS[method]: dd_experts('mtt', n=2, epochs=2, **net)
    alone = distil('alone'); assert len(distil('home', 1e-9)) == 1
    with pretend_gpu() as gpu: distil('away', 1e-9); assert len(distil('home')) == len(alone) and gpu.launches > 100
    assert len(distil('away')) == len(alone)
    want = load_tensors(home/'alone'/'distilled.safetensors')[0]
    for out in ('home', 'away'):
        got = load_tensors(home/out/'distilled.safetensors')[0]; same_set(got, want, method == 'd3')

def test_d3s_by_the_commands(home):
    "Teachers, images, stored labels, students: those of a CPU, to rounding."
    net = dict(data='digits', size=32, width=4)
    def made(out):
        art, rows = home/out/'distilled.safetensors', str(home/f'{out}.csv')
        dd_experts('d3s', n=1, epochs=1, net='resnet18', **net); dd_distill('d3s', ipc=2, iterations=2, batch=10, out=str(home/out), **net)
        dd_relabel(str(art), epochs=2, batch=10, flip=False, **net); dd_eval(str(art), labels=str(art.with_suffix('.labels')), n_eval=1, epochs=2, record_to=rows)
        labels = [LabelStore(art.with_suffix('.labels')).epoch(e) for e in range(2)]
        return load_tensors(art)[0]['d.images'].int(), [e.soft(i) for e in labels for i in range(2)], read_rows(rows)
    images, labels, rows = made('near')
    with pretend_gpu() as gpu: far_images, far_labels, far_rows = made('far'); assert gpu.launches > 500
    same_bytes([far_images], [images])
    for a, b in zip(far_labels, labels): assert (a.cpu() - b).abs().mean() <= .02 # of probabilities, of images that may differ in a byte
    same_rows(far_rows, rows)

def test_published_labels_fit_their_images_there(root, home):
    art = root/'docs'/'artefacts'/'cifar10-d3s-ipc10-k600.safetensors'
    with pretend_gpu(): LabelStore(art.with_suffix('.labels.zip')).check(Distilled.load(art, 'meta'))

def test_running_statistics_go_on_there(tmp_path, monkeypatch):
    "D3S broken off after its first batch of images, and continued."
    def synthesis(device, out):
        with seeded('gpu'): nets = [make_net('resnet18_bn', 1, 10, 32, width=4).to(device) for _ in range(2)]
        real = load('digits', size=32)[0].subset(torch.arange(60)).to(device); t = Teachers(nets, real)
        return learn(Task(real, teachers=t), method_of('d3s', batch=5, iterations=2), tmp_path/out, RunOptions(quiet=True))
    def stop(self, teachers, targets, method, b, *rest):
        if b: raise KeyboardInterrupt
        start(self, teachers, targets, method, b, *rest)
    synthesis('cpu', 'here'); start = S.D3S.__init__
    with pretend_gpu():
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt): m.setattr(S.D3S, '__init__', stop); synthesis('meta', 'there')
        synthesis('meta', 'there')
    got, want = (load_tensors(tmp_path/n/'distilled.safetensors')[0] for n in ('there', 'here'))
    same_bytes([got['d.images']], [want['d.images']])

def test_the_demo_runs_there(home):
    def made(out): dd_demo(str(home/out), smoke=True, record_to=str(home/f'{out}.csv')); return read_rows(home/f'{out}.csv')
    rows = made('near')
    with pretend_gpu() as gpu: far_rows = made('far'); assert gpu.launches > 500
    same_rows(far_rows, rows)

EVERYDAY = dict(
    save=lambda d, tmp: Distilled.load(d.save(tmp/'a.safetensors'), d.device).images, picture=lambda d, tmp: torch.tensor(d.png(tmp/'a.png').stat().st_size), tensors=lambda d, tmp: d.tensors()[0],
    dataset=lambda d, tmp: torch.stack([x for x, _ in d.dataset()]), part=lambda d, tmp: d.part(slice(2, 4)).images, fastai=lambda d, tmp: torch.cat([x for x, _ in d.dls(4).valid]),
    closest=lambda d, tmp: closest(d, net := ConvNet(1, 10, 16, 4, 2).to(d.device), torch.full((Functional(net).size,), .01, device=d.device), torch.full((2, Functional(net).size), .02, device=d.device), steps=2))

@pytest.mark.parametrize('use', EVERYDAY)
def test_everyday_uses_of_a_distilled_set(use, tmp_path):
    want = EVERYDAY[use](Distilled.example(), tmp_path)
    with pretend_gpu(): same([EVERYDAY[use](Distilled.example().to('meta'), tmp_path).detach()], [want.detach()], 1e-6)

def test_whitened_images_and_their_pictures():
    want = load('digits', size=8, zca=True)[0]
    with pretend_gpu():
        got = load('digits', size=8, zca=True, device='meta')[0]; assert got.device.type == 'meta'
        same([got.x, got.raw()], [want.x, want.raw()], 1e-4)

def test_experts_of_networks_that_are_there_already(tmp_path):
    with pretend_gpu(): assert len(train_experts(lambda: ConvNet(1, 10, 8, 4, 2).to('meta'), load('digits', size=8, device='meta')[0], tmp_path, 1, expert_protocol(1), quiet=True)) == 1

# the loop reads numbers seldom

class Falls(Objective):
    "A loss that goes down, and to nan at one call; or a rate that falls below 0."
    def __init__(self, at=None, rate=0.): super().__init__(); self.at, self.rate, self.n = at, rate, 0
    def __call__(self, d):
        self.n += 1
        return (d.images.square().mean() + self.rate*d.student_lr)*(float('nan') if self.n == self.at else 1.)

def falling(device, tmp, callbacks=(), steps=25, phases=None, **kw):
    d = Pixels(torch.rand(3, 1, 8, 8, generator=rng_for('x')), torch.arange(3), 3, lr=.01).to(device)
    opts = {'images': partial(torch.optim.SGD, lr=1., momentum=.5), 'lr': partial(torch.optim.SGD, lr=.002)}
    return distill(d, phases or Falls(**kw), steps, opts, ckpt=tmp/device/'run.safetensors' if tmp else None, every=6, callbacks=callbacks, quiet=True)

def close(a, b): assert a.keys() == b.keys() and all(abs(a[k] - b[k]) <= 1e-6*abs(b[k]) for k in a)

def test_numbers_are_read_seldom_and_are_all_there():
    want = falling('cpu', None)
    with pretend_gpu() as gpu: got = falling('meta', None); assert gpu.waits == 3
    assert len(got.history) == 25; [close(*p) for p in zip(got.history, want.history)]

def test_who_reads_finds_numbers(tmp_path):
    seen, rare = [], []
    class Rare:
        every = 4
        def __call__(self, run): rare.append(run.history[-1]['loss']) if run.it % 4 == 0 else None
    with pretend_gpu() as gpu: falling('meta', tmp_path, [Rare()], 12); waits = gpu.waits
    assert len(rare) == 3 and all(v == v for v in rare) and load_tensors(tmp_path/'meta'/'run.safetensors')[1]['run']
    with pretend_gpu() as gpu: falling('meta', None, [lambda r: seen.append(r.history[-1]['loss'])], 12)
    assert len(seen) == 12 and all(v == v for v in seen)

@pytest.mark.parametrize('kw, says', [(dict(at=9), 'the loss is nan at iteration 8;'), (dict(rate=1.), 'the student learning rate fell to')])
def test_a_run_that_diverged_says_where(kw, says, tmp_path):
    with pytest.raises(Diverged, match=says) as near: falling('cpu', tmp_path, **kw)
    with pretend_gpu(), pytest.raises(Diverged, match=says) as far: falling('meta', tmp_path, **kw)
    assert str(near.value).partition(' (')[0] == str(far.value).partition(' (')[0]
    for device in ('cpu', 'meta'):
        it = load_tensors(tmp_path/device/'run.safetensors')[1]['run']
        assert (tmp_path/device/'run.diverged.safetensors').is_file() and all(t.isfinite().all() for t in load_tensors(tmp_path/device/'run.safetensors')[0].values() if t.is_floating_point())

def test_phases_of_other_types_and_a_plain_function():
    phases = [(Falls(), ('images',)), (lambda d: d.images.double().mean() + 0*d.lr, None)]
    want = falling('cpu', None, phases=phases, steps=3)
    with pretend_gpu() as gpu: got = falling('meta', None, phases=phases, steps=3); assert gpu.waits == 1
    [close(*p) for p in zip(got.history, want.history)]

# what a GPU asks of the bookkeeping

class Allocator:
    "A GPU's allocator: what is held now, and the one peak that it keeps."
    def __init__(self): self.now = self.peak = 0
    def take(self, mb): self.now += mb*1e6; self.peak = max(self.peak, self.now)
    def reset(self): self.peak = self.now

def test_a_peak_within_a_peak(monkeypatch):
    a = Allocator()
    for k, v in dict(synchronize=lambda: None, reset_peak_memory_stats=a.reset, memory_allocated=lambda: a.now, max_memory_allocated=lambda: a.peak).items(): monkeypatch.setattr(torch.cuda, k, v)
    with Cost('cuda') as outer:
        a.take(50); a.take(-40)
        with Cost('cuda') as inner: a.take(20); a.take(-20)
        with Cost('cuda') as other: a.take(5)
        assert (inner.memory_mb, other.memory_mb) == (20, 5)
    assert outer.memory_mb == 50 and not Cost._open
    with Cost('cuda') as outer:
        with Cost('cuda') as inner: a.take(70); a.take(-70)
    assert outer.memory_mb == inner.memory_mb == 70

def test_seeded_gives_a_gpus_generators_back(monkeypatch):
    far = [torch.tensor([1, 2])]
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_rng_state_all', lambda: [t.clone() for t in far])
    monkeypatch.setattr(torch.cuda, 'set_rng_state_all', lambda s: far.__setitem__(slice(None), s))
    with pytest.raises(KeyError), seeded('gpu'): far[0] += 5; raise KeyError
    assert far[0].tolist() == [1, 2]

@pytest.mark.parametrize('said', ['', 'off', 'convolutions', 'all'])
def test_tf32_is_set_and_named(said, monkeypatch):
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    was = cudnn.allow_tf32, products.allow_tf32
    monkeypatch.setenv('DD_TF32', said); monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    try:
        assert device_name('cuda') == f'a GPU, TF32 {said or "convolutions"}'
        assert (cudnn.allow_tf32, products.allow_tf32) == TF32.get(said, was) and 'TF32' not in device_name('cpu')
    finally: cudnn.allow_tf32, products.allow_tf32 = was

def test_a_wrong_tf32_is_refused(monkeypatch):
    monkeypatch.setenv('DD_TF32', 'yes')
    with pytest.raises(ValueError, match="DD_TF32 is 'yes'; it is one of off, convolutions, all"): tf32()

def test_a_copy_without_git_names_its_commit(monkeypatch, tmp_path):
    monkeypatch.setattr('dd_repro.cost.asset', lambda *n: tmp_path/'package'/'assets')
    assert git_commit() == ''
    monkeypatch.setenv('DD_COMMIT', 'abcdef012345'); assert git_commit() == 'abcdef012345'
    monkeypatch.undo(); monkeypatch.setenv('DD_COMMIT', 'abcdef012345'); assert git_commit() == 'abcdef012345' # also beside a .git of another commit

def test_whitening_without_kornia(monkeypatch):
    x = load('digits')[0].raw(); want = fit_zca(x)
    monkeypatch.setitem(sys.modules, 'kornia.enhance', None)
    got = fit_zca(x)
    for k, v in want._consts.items(): assert (got._consts[k] - v).abs().max() <= 1e-5

# D3S, and autoencoders

def test_layers_of_one_width_are_factorised_at_once():
    "The loss of a teacher's layers and its gradient for images: those of a CPU, with a factorisation for each width."
    def loss(device):
        with seeded('gpu'): net = make_net('resnet18_bn', 1, 10, 32, width=4).eval().requires_grad_(False)
        x, T = torch.randn(6, 1, 32, 32, generator=rng_for('x')), targets(batch_stats(net, torch.randn(9, 1, 32, 32, generator=rng_for('y'))), device=device)
        x = x.to(device).requires_grad_()
        with FeatureStats(net.to(device)) as f: net(x)
        out = feature_loss('kl-multi', f.stats, T, 3.)
        return [out.detach(), *torch.autograd.grad(out, x)], len({t.C for t in T.values()})
    want, n = loss('cpu')
    with pretend_gpu() as gpu:
        seen, count = [], PretendGPU._count
        with mock.patch.object(PretendGPU, '_count', lambda self, func, *a: (seen.append(func.overloadpacket), count(self, func, *a))[1]): got, _ = loss('meta')
        same(got, want, 1e-3); assert seen.count(torch.ops.aten.linalg_cholesky_ex) == n == 4

def test_an_autoencoder_takes_what_a_gpu_has(monkeypatch):
    class Far: device, budget_mb = torch.device('cuda'), None
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda d: (80e9, 90e9))
    assert AutoEncoder.budget.fget(Far) == 20000
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda d: (1e9, 90e9)); assert AutoEncoder.budget.fget(Far) == 1000
    Far.budget_mb = 5.; assert AutoEncoder.budget.fget(Far) == 5
    Far.budget_mb, Far.device = None, torch.device('cpu'); assert AutoEncoder.budget.fget(Far) == 1000
