"""The first two minutes on a GPU: are captured steps right, who waits, what does a step cost?

    python3 check_gpu.py [cuda] [check.jsonl] [120] [--cells machine,float64]

Device, file, seconds; cells by the beginnings of their names, and `machine` always; all when none
are named. Each cell is one line of JSON, written as soon as it is known. After the given seconds
the process ends itself with status 3, even when the GPU hangs."""
import argparse
import json
import os
import tempfile
import threading
import time
import warnings
from collections import Counter
from functools import partial
from statistics import median

CELLS = ('machine', 'float64 against the CPU', 'method against the CPU', 'MTT iteration', 'expert',
         'students', 'matching', 'a path', 'd3', 'd3s', 'layout', 'teacher',
         'synthesis', 'factors', 'launches', 'kernels')
START = time.time()
NOW = dict(cell='import') # the cell that is being run


def words():
    "The command line."
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('device', nargs='?', default='cuda')
    p.add_argument('file', nargs='?', default='', help='lines are appended to it')
    p.add_argument('seconds', nargs='?', type=float, default=120., help='the time box')
    p.add_argument('--cells', default='', help='beginnings of names, with commas; all when empty')
    a = p.parse_args()
    for c in a.cells.split(','):
        if any(name.startswith(c) for name in CELLS): continue
        raise SystemExit(f'no cell begins with {c!r}; there are {", ".join(CELLS)}')
    return a

A = words()

def put(**cell):
    "One line of JSON, on the screen and at once in the file."
    line = json.dumps(dict(at=round(time.time() - START, 1)) | cell)
    print(line, flush=True)
    if not A.file: return
    with open(A.file, 'a') as f:
        f.write(line + '\n')
        f.flush()
        os.fsync(f.fileno())

def time_is_up():
    "The end, whatever hangs."
    put(**NOW, error=f'not done after {A.seconds:g} s')
    os._exit(3)

TIMER = threading.Timer(A.seconds, time_is_up)
TIMER.daemon = True
TIMER.start()

import torch
from torch.optim import SGD
from dd_repro.all import (DC, DM, DSA, MTT, ConvNet, Functional, ImageTensors, LatentPriors,
                          Matching, NoNorm, Pixels, Run, RunOptions, Task, as_protocol,
                          batch_stats, device_name, expert_protocol, make_net, method_of, rng_for,
                          seeded, steps_of, targets, to_vector, train, train_experts, unroll,
                          whole_of)
from dd_repro.bench import gflop, matmul_rate, measure_d3, measure_d3s, unroll_iteration

from dd_repro.d3s import D3S, D3SMethod, Quick
from dd_repro.isu import ISU
from dd_repro.teachers import Teachers

DEV, GPU = A.device, A.device == 'cuda'
WIDTH = 128 if GPU else 8
SIZES = {1: (10, 50), 10: (100, 30), 50: (500, 30)} # ipc -> images a step, steps
if not GPU: SIZES = {1: (10, 4), 10: (20, 2)}
REFERENCE = {} # ipc -> the gradient that others are compared with


# ------------------------------------------------------------ helpers
def sync():
    "Wait for a GPU."
    if GPU: torch.cuda.synchronize()

def rel(a, b):
    "Distance of a from b, as a part of b."
    a, b = (t.detach().cpu().double() for t in (a, b))
    return float((a - b).norm()/b.norm())

def ms(fn, n=3, warm=1):
    "Median milliseconds of a call."
    def once():
        sync()
        t = time.perf_counter()
        fn()
        sync()
        return 1e3*(time.perf_counter() - t)
    for _ in range(warm): once()
    return round(median(once() for _ in range(n)), 2)

def noise(n, size=32, device=DEV):
    "Random images, n of them, of ten classes."
    x = torch.randn(n, 3, size, size, generator=rng_for('noise'))
    return ImageTensors(x, torch.arange(n) % 10, 10, norm=NoNorm(), name='noise').to(device)


# ------------------------------------------------------------ cells
def machine():
    "What is installed, and the rate of matrix products."
    try:
        import kornia
        kornia_is = kornia.__version__
    except Exception as e: kornia_is = f'{type(e).__name__}: {e}'[:100]
    back = torch.backends
    tf32 = dict(cudnn_tf32=back.cudnn.allow_tf32, matmul_tf32=back.cuda.matmul.allow_tf32)
    about = dict(torch=torch.__version__, device=device_name(DEV), cores=os.cpu_count())
    rate = round(matmul_rate(8192 if GPU else 512, 3, DEV))
    t = time.perf_counter()
    sum(range(10**7))
    yardstick = round(1e3*(time.perf_counter() - t))
    return about | tf32 | dict(kornia=kornia_is, gflops=rate, yardstick_ms=yardstick)

def gradients(device, captured, how='grad', width=8, size=16, n=10, steps=6, b=4):
    "End point and gradients of a small unroll in float64."
    with seeded('check'): net = ConvNet(3, 10, size, width, 2).double().to(device)
    f, theta = Functional(net), to_vector(net)
    for r in steps_of(f): r.enabled = captured
    x = torch.randn(n, 3, size, size, dtype=torch.double, generator=rng_for('x'))
    x = x.to(device).requires_grad_()
    y, aug = (torch.arange(n) % 10).to(device), DSA()
    lr = torch.tensor(.05, dtype=torch.double, device=device, requires_grad=True)
    def batch(i):
        s = (torch.arange(i, i + b) % n).to(device)
        return aug(x[s], rng_for(i)), y[s]
    end = unroll(f, theta, [partial(batch, i) for i in range(steps)], lr)
    loss = (end - theta.mean()).square().sum()
    if how == 'grad': return [end, *torch.autograd.grad(loss, [x, lr])]
    loss.backward() # the walk back in autograd's own thread
    return [end, x.grad, lr.grad]

def double(captured, how):
    "Here against the CPU."
    got, want = gradients(DEV, captured, how), gradients('cpu', False)
    return dict(zip(('end', 'images', 'lr'), (rel(a, b) for a, b in zip(got, want))))

# ------------------------------------------------------------ methods
SMALL = dict(size=16, width=8, depth=2)

def small():
    "The same small network at each call."
    with seeded('small'): return ConvNet(**SMALL).double()

class Near:
    "Another start and target in every iteration."
    def check(self, *_): pass
    def segment(self, M, T, rng, inclusive=False, device=None):
        r = torch.randn(2, len(POINT), dtype=torch.double, generator=rng)*.05
        return [(POINT + v).to(device or 'cpu') for v in r]

POINT = to_vector(small())

def pixels(n=20):
    "Distilled images."
    x = torch.randn(n, 3, 16, 16, dtype=torch.double, generator=rng_for('pixels'))
    return Pixels(x, torch.arange(n) % 10, 10, lr=.05)

def priors():
    "Distilled priors."
    with seeded('priors'): return LatentPriors(10, 2, z_dim=4, size=16, width=8, lr=.05)

def matching_on(device, kind):
    "DC or DM on noise."
    real, aug = noise(80, 16, device), DSA(siamese=True)
    real.x = real.x.double()
    if kind == 'dm': return DM(real, small, aug=aug, seed=5)
    return DC(real, small, Matching(outer=3, inner=2, batch_real=6, batch_train=5), aug, seed=5)

OBJECTIVES = dict(
    mtt=lambda device, f: MTT(f, Near(), 5, 1, 1, 8, DSA(), seed=3),
    tesla=lambda device, f: MTT(f, Near(), 5, 1, 1, 8, DSA(), grad='detached', seed=3),
    priors=lambda device, f: MTT(f, Near(), 5, 1, 1, 8, DSA(), seed=3),
    dc=lambda device, f: matching_on(device, 'dc'), dm=lambda device, f: matching_on(device, 'dm'))

def updates(device, what, compiled, times=3):
    "Values and gradients of some updates, and whether they were captured."
    d = (priors() if what == 'priors' else pixels()).double().to(device)
    f = Functional(small().to(device), compiled and device != 'cpu')
    objective, out = OBJECTIVES[what](device, f), []
    for _ in range(times):
        d.zero_grad()
        out.append(objective.backward(d).detach().clone().view(1))
        got = [p for p in d.parameters() if p.grad is not None]
        out += [p.grad.flatten() for p in got]
        with torch.no_grad():
            for p in got: p.sub_(.1*p.grad)
        objective.after(d)
    return torch.cat(out), [g is not None for g in whole_of(f).kept.values()]

def team(device):
    "Where three students end."
    nets = []
    for i in range(3):
        with seeded('team', i): nets.append(ConvNet(**SMALL).double().to(device))
    d = pixels().double().to(device)
    train(nets, d, as_protocol('mtt').scaled(epochs=4), lr=.01, together=True)
    return torch.cat([to_vector(n) for n in nets]), []

def method(what, compiled=False):
    "A method's updates in float64, here against the CPU."
    run = team if what == 'team' else partial(updates, what=what, compiled=compiled)
    got, kept = run(DEV)
    return dict(rel=rel(got, run('cpu')[0]), captured=kept)

# ------------------------------------------------------------ seconds
def waits(run):
    "How often a call waits for the GPU, and the most memory so far."
    torch.cuda.set_sync_debug_mode('warn')
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        run()
    torch.cuda.set_sync_debug_mode('default')
    peak = round(torch.cuda.max_memory_allocated()/1e6)
    torch.cuda.reset_peak_memory_stats()
    return dict(waits=sum('synchroniz' in str(w.message) for w in seen), memory_mb=peak)

def mtt_iteration(ipc, mode):
    "What is timed."
    how = dict(eager=False, captured=True).get(mode, 'whole')
    compiled = mode == 'compiled'
    return unroll_iteration('adjoint', *SIZES[ipc], WIDTH, DEV, how, compiled=compiled)

def iteration(ipc, mode):
    "One iteration of MTT, against the first of its size, again, and its milliseconds."
    run = mtt_iteration(ipc, mode)
    t = time.time()
    g = run().clone()
    sync()
    out = dict(first_s=round(time.time() - t, 1))
    words = mode + ' tf32'*torch.backends.cudnn.allow_tf32
    against, want = REFERENCE.setdefault(ipc, (words, g))
    out |= dict(against=against, rel=rel(g, want), twice=rel(run(), g))
    out |= dict(ms=ms(run, 2 if ipc > 1 else 5, 0))
    work = gflop(ConvNet(width=WIDTH).arch, 'adjoint', *SIZES[ipc], mode)
    out |= dict(tflops=round(work/out['ms'], 2))
    return out | (waits(run) if GPU else {})

def unrolled(ipc, mode, tf32):
    "`iteration` with TensorFloat-32 in convolutions or without."
    torch.backends.cudnn.allow_tf32 = tf32
    try: return iteration(ipc, mode)
    finally: torch.backends.cudnn.allow_tf32 = True

def expert(batch, k=1):
    "A step of an expert, or of several side by side."
    data, nets = noise(20*batch), [ConvNet(width=WIDTH).to(DEV) for _ in range(k)]
    once = lambda epochs: train(nets, data, expert_protocol(epochs, batch=batch), together=k > 1)
    two, one = ms(partial(once, 2), 2), ms(partial(once, 1), 2, 0)
    return dict(ms_a_step=round((two - one)/20, 2), first_epoch_ms=one)

def students(ipc, together):
    "An epoch of five students."
    d = Pixels.from_real(noise(10*max(ipc, 10)), ipc, lr=.01).to(DEV)
    def epochs(n):
        nets = [ConvNet(width=WIDTH).to(DEV) for _ in range(5)]
        train(nets, d, as_protocol('mtt').scaled(epochs=n), lr=.01, together=together)
    n = 10 if GPU else 1
    two, one = ms(partial(epochs, 2*n), 2), ms(partial(epochs, n), 2, 0)
    return dict(ms_an_epoch_of_5=round((two - one)/n, 2))

def matching(method, ipc):
    "An iteration of DC, DSA or DM."
    n = 256 if GPU else 8
    real = noise(10*n)
    task = Task(real, net_fn=partial(ConvNet, width=WIDTH))
    m = method_of(method, ipc=ipc, batch_real=n)
    d = m.start(task)
    objective = m.phases(d, task, RunOptions())
    run = Run(d, objective, 10**6, {'images': partial(SGD, lr=.1, momentum=.5)})
    return dict(ms=ms(run.one, 10 if GPU else 2, 2))

def a_path(method, **settings):
    "An iteration of MTT or D3 as a row runs it, on noise and two experts of it."
    real, net_fn = noise(2560 if GPU else 400), partial(ConvNet, width=WIDTH)
    said = []
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        experts = train_experts(net_fn, real, tmp, 2, expert_protocol(4), quiet=True)
        m = method_of(method, expert_epochs=2, max_start_epoch=2, **settings)
        task = Task(real, net_fn=net_fn, experts=experts)
        d = m.start(task)
        run = Run(d, m.phases(d, task, RunOptions()), 10**6, m.opts(d))
        t = time.time()
        run.one()
        sync()
        first = round(time.time() - t, 1)
        out = dict(ms=ms(run.one, 5 if GPU else 1, 3 if GPU else 0), first_s=first)
        if GPU: out |= waits(run.one)
        said = sorted({str(w.message)[:200] for w in heard})
    return out | dict(said=[w for w in said if 'synchroniz' not in w])

def layout(batch, last, dtype):
    "Forward and backward of the ConvNet's convolutions alone, with channels last or not."
    how = dict(device=DEV, dtype=getattr(torch, dtype))
    form = torch.channels_last if last else torch.contiguous_format
    inputs = []
    for channels, side in ((3, 32), (WIDTH, 16), (WIDTH, 8)):
        x = torch.randn(batch, channels, side, side, **how).to(memory_format=form)
        w = torch.randn(WIDTH, channels, 3, 3, **how).to(memory_format=form)
        inputs.append((x, w, torch.zeros(WIDTH, **how)))
    conv, back = torch.ops.aten.convolution, torch.ops.aten.convolution_backward
    rest = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    def once():
        for x, w, b in inputs:
            y = conv(x, w, b, *rest)
            back(y, x, w, [WIDTH], *rest, [True, True, True])
    if not GPU: return dict(ms=ms(once, 2))
    for _ in range(3): once()
    sync()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g): once()
    return dict(ms=ms(g.replay, 20, 3))

def teacher(last, dtype):
    "A training step of a ResNet-18 at 224 px without its optimiser, channels last or not."
    size, n = (224, 100) if GPU else (64, 4)
    form = torch.channels_last if last else torch.contiguous_format
    net = make_net('resnet18_bn', 3, 1000, size).to(DEV).train().to(memory_format=form)
    x = torch.randn(n, 3, size, size, device=DEV).to(memory_format=form)
    y = torch.arange(n, device=DEV)
    def once():
        with torch.autocast(DEV, getattr(torch, dtype), enabled=dtype != 'float32'):
            loss = torch.nn.functional.cross_entropy(net(x), y)
        torch.autograd.grad(loss, list(net.parameters()))
    return dict(ms=ms(once, 10 if GPU else 1, 3), images=n)

def synthesis(graph, px=32, batch=100):
    "An iteration of D3S by a ResNet-18, in the second batch; how far the graph's gradient is off."
    width, data = 64 if GPU else 4, noise(40, px)
    with seeded('check', 'teacher'):
        teachers = Teachers([make_net('resnet18_bn', size=px, width=width)], data)
    how = D3SMethod(batch=batch, flip=True, crop='none')
    stats, isu = batch_stats(teachers[0], data.x), ISU()
    aims = [targets(stats.to('cpu'), device=DEV)]
    isu.fold(1, [stats])
    quick = Quick(teachers, aims, how)
    quick.enabled = graph
    d = Pixels.from_noise(noise(batch, px), batch//10)
    def one(quick):
        o = D3S(teachers, aims, how, 1, isu, 0, quick)
        d.images.grad = None
        o.backward(d)
        return d.images.grad.clone()
    want, got = one(None), one(quick)
    objective = D3S(teachers, aims, how, 1, isu, 0, quick)
    run = Run(d, objective, 10**6, {'images': partial(torch.optim.Adam, lr=.25)})
    return dict(ms=ms(run.one, 10 if GPU else 1, 3 if GPU else 0), off=rel(got, want),
                graphs=sum(g is not None for g in quick.kept.values()), laid=quick.last)

def factors(channels, stacked):
    "Cholesky factors and inverses of the layers of one width alone."
    x = torch.randn(stacked, channels, 2*channels, device=DEV)
    S = x@x.mT/(2*channels) + .01*torch.eye(channels, device=DEV)
    L = torch.linalg.cholesky_ex(S)[0]
    return dict(ms_factor=ms(lambda: torch.linalg.cholesky_ex(S), 20 if GPU else 2, 3),
                ms_inverse=ms(lambda: torch.cholesky_inverse(L), 20 if GPU else 2, 3))

def launches(mode):
    "What an iteration of MTT at ipc 1 asks of the GPU."
    from torch.profiler import ProfilerActivity, profile
    run = mtt_iteration(1, mode)
    for _ in range(2): run()
    sync()
    both = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA]*GPU]
    with profile(activities=both) as p:
        run()
        sync()
    n = Counter(e.name for e in p.events())
    begun = sum(k for name, k in n.items() if 'Launch' in name)
    moved = sum(k for name, k in n.items() if name.startswith(('cudaMemcpy', 'cudaMemset')))
    return dict(launches=begun, copies=moved, most=dict(n.most_common(8)))

def kernels(what):
    "Where the time of an iteration of MTT, or of twenty steps of an expert, goes on the GPU."
    from torch.profiler import ProfilerActivity, profile
    data, net = noise(20*256), ConvNet(width=WIDTH).to(DEV)
    run = (mtt_iteration(1, 'whole') if what == 'mtt'
           else lambda: train([net], data, expert_protocol(1, batch=256)))
    for _ in range(2): run()
    sync()
    with profile(activities=[ProfilerActivity.CUDA]) as p:
        run()
        sync()
    ms, n = Counter(), Counter()
    for e in p.events():
        ms[e.name[:90]] += e.device_time_total/1e3
        n[e.name[:90]] += 1
    top = [(k, n[k], round(t, 2)) for k, t in ms.most_common(12)]
    return dict(total_ms=round(sum(ms.values()), 2), n=sum(n.values()), most=top)

# ------------------------------------------------------------ in order
def mtt(ipc, *modes):
    "Cells of MTT at one size: pairs (mode, tf32)."
    return [('MTT iteration', unrolled, dict(ipc=ipc, mode=m, tf32=t)) for m, t in modes]

def cells():
    "Name, function and arguments of all cells; the first of each size is the reference."
    yield 'machine', machine, {}
    for how in ('grad', 'backward'):
        for c in (False, True):
            yield 'float64 against the CPU', double, dict(captured=c, how=how)
    for what in (*OBJECTIVES, 'team'): yield 'method against the CPU', method, dict(what=what)
    yield from mtt(1, ('eager', False), ('captured', False), ('whole', False), ('whole', True),
                   ('captured', True), ('eager', True))
    for k in (1, 4): yield 'expert', expert, dict(batch=256 if GPU else 16, k=k)
    for t in (False, True): yield 'students', students, dict(ipc=1, together=t)
    for m in ('dsa', 'dc', 'dm'): yield 'matching', matching, dict(method=m, ipc=1)
    yield from mtt(10, ('eager', False), ('whole', True))
    for t in (False, True): yield 'students', students, dict(ipc=10, together=t)
    yield 'a path', a_path, dict(method='d3', ppc=1, syn_steps=30 if GPU else 2, lr_lr=1e-9)
    yield 'a path', a_path, dict(method='mtt', ipc=10, syn_steps=30 if GPU else 2, lr_img=100.)
    for last in (False, True):
        for t in ('float32', 'bfloat16'):
            yield 'layout', layout, dict(batch=256 if GPU else 8, last=last, dtype=t)
    for c in (False, True):
        yield 'synthesis', synthesis, dict(graph=c, batch=100 if GPU else 10)
    for w, k in ((64, 5), (512, 4)) if GPU else ((8, 2),):
        yield 'factors', factors, dict(channels=w, stacked=k)
    if not GPU: return
    for c in (False, True): yield 'synthesis', synthesis, dict(graph=c, px=224)
    for last in (False, True):
        for t in ('float32', 'bfloat16'):
            yield 'layout', layout, dict(batch=100, last=last, dtype=t)
            yield 'teacher', teacher, dict(last=last, dtype=t)
    yield 'd3', partial(measure_d3, device=DEV), {}
    yield 'd3s', partial(measure_d3s, 64, device=DEV), {}
    for m in ('dsa', 'dm'): yield 'matching', matching, dict(method=m, ipc=10)
    for m in ('eager', 'whole'): yield 'launches', launches, dict(mode=m)
    for w in ('mtt', 'expert'): yield 'kernels', kernels, dict(what=w)
    yield from mtt(1, ('compiled', True)) # takes a minute at first: after what is needed
    yield 'students', students, dict(ipc=50, together=True)
    yield from mtt(50, ('whole', True), ('eager', True))
    yield 'method against the CPU', method, dict(what='mtt', compiled=True)
    yield from mtt(10, ('compiled', True))

def run_cell(name, fn, kw):
    "Run fn, write what it returns (a dictionary) or how it failed."
    NOW.clear()
    NOW.update(cell=name, **kw)
    t = time.time()
    try: got = fn(**kw)
    except Exception as e: got = dict(error=f'{type(e).__name__}: {" ".join(str(e).split())[:300]}')
    put(cell=name, **kw, **got, seconds=round(time.time() - t, 1))

def main():
    "All cells, or those that were asked for."
    asked = tuple(A.cells.split(','))
    for name, fn, kw in cells():
        if name == 'machine' or name.startswith(asked): run_cell(name, fn, kw)
    put(cell='end')
    TIMER.cancel()

if __name__ == '__main__': main()
