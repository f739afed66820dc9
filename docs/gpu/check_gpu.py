"""The first two minutes on a GPU: are captured steps right, who waits, what does a step cost?

    python3 check_gpu.py [cuda] [check.jsonl] [120] [--cells machine,float64]

Device, file, seconds; cells by the beginnings of their names, all when none are named. Each cell is
one line of JSON, written as soon as it is known. After the given seconds the process ends itself
with status 3, even when the GPU hangs."""
import argparse
import json
import os
import threading
import time
import warnings
from functools import partial
from statistics import median

CELLS = ('machine', 'float64 against the CPU', 'MTT iteration', 'expert', 'students', 'matching')
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
from dd_repro.all import (ConvNet, DSA, Functional, ImageTensors, NoNorm, Pixels, Run, RunOptions,
                          Task, as_protocol, device_name, expert_protocol, method_of, rng_for,
                          seeded, steps_of, to_vector, train, unroll)
from dd_repro.bench import matmul_rate, unroll_iteration

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

def noise(n):
    "Random images, n of them, of ten classes."
    x = torch.randn(n, 3, 32, 32, generator=rng_for('noise'))
    return ImageTensors(x, torch.arange(n) % 10, 10, norm=NoNorm(), name='noise').to(DEV)


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
    return about | tf32 | dict(kornia=kornia_is, gflops=rate)

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

def iteration(ipc, mode):
    "One iteration of MTT, against the first of its size, again, and its milliseconds."
    captured, compiled = mode != 'eager', mode == 'compiled'
    run = unroll_iteration('adjoint', *SIZES[ipc], WIDTH, DEV, captured, compiled=compiled)
    t = time.time()
    g = run().clone()
    sync()
    out = dict(first_s=round(time.time() - t, 1))
    words = mode + ' tf32'*torch.backends.cudnn.allow_tf32
    against, want = REFERENCE.setdefault(ipc, (words, g))
    out |= dict(against=against, rel=rel(g, want), twice=rel(run(), g))
    out |= dict(ms=ms(run, 2 if ipc > 1 else 5, 0))
    return out | (waits(run) if GPU else {})

def unrolled(ipc, mode, tf32):
    "`iteration` with TensorFloat-32 in convolutions or without."
    torch.backends.cudnn.allow_tf32 = tf32
    try: return iteration(ipc, mode)
    finally: torch.backends.cudnn.allow_tf32 = True

def expert(batch):
    "A step of an expert."
    data, net = noise(20*batch), ConvNet(width=WIDTH).to(DEV)
    once = lambda: train([net], data, expert_protocol(1, batch=batch))
    return dict(ms_a_step=round(ms(once, 2)/20, 2))

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
    yield from mtt(1, ('eager', False), ('captured', False), ('captured', True), ('eager', True))
    yield 'expert', expert, dict(batch=256 if GPU else 16)
    for t in (False, True): yield 'students', students, dict(ipc=1, together=t)
    for m in ('dsa', 'dc', 'dm'): yield 'matching', matching, dict(method=m, ipc=1)
    yield from mtt(10, ('eager', False), ('captured', True))
    yield 'students', students, dict(ipc=10, together=False)
    if not GPU: return
    yield from mtt(1, ('compiled', True)) # takes a minute at first: after what is needed
    yield from mtt(50, ('captured', True), ('eager', True))
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
        if name.startswith(asked): run_cell(name, fn, kw)
    put(cell='end')
    TIMER.cancel()

if __name__ == '__main__': main()
