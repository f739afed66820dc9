"""A block of the ConvNet as three programs of a GPU, run by Triton's interpreter and compiled for an H100 without one."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('triton')
ROOT = Path(__file__).resolve().parent.parent

SIZES = [(2, 3, 8, 8), (1, 5, 4, 12), (3, 2, 14, 14), (1, 1, 2, 2), (2, 7, 6, 2), (1, 2, 66, 34), (5, 33, 2, 4), (1, 1, 128, 128)]

INTERPRETED = f'''
import json, torch
from dd_repro import fused, kernels

def random(*shape, dtype): return torch.randn(*shape, dtype=dtype)

def both(n, c, h, w, dtype, eps, how):
    "All that a block's functions return, by both."
    torch.manual_seed(n + c + h + w)
    x, a, g, b, u, v = (random(*s, dtype=dtype) for s in ((n, c, h, w), (n, c, h, w), (c,), (c,), (c,), (c,)))
    if how == 'flat': x[:, 0] = 3. # a channel without contrast
    if how == 'edge': g, b = torch.zeros_like(g), torch.zeros_like(b) # each pixel is at the ReLU's edge
    if how == 'strided': g = random(2*c, dtype=dtype)[::2]
    whole = g.contiguous() # `norm_relu_pool` sees to that, since PyTorch up to 2.11 takes strided scales for others
    y, stats = fused._there(x, whole, b, eps)
    dy = random(*y.shape, dtype=dtype)
    want = y, stats, *fused._back(dy, x, whole, b, stats), *fused._twice(dy, x, whole, b, stats, a, u, v)
    got = *kernels.block_there(x, g, b, eps), *kernels.block_back(dy, x, g, b, stats), *kernels.block_twice(dy, x, g, b, stats, a, u, v)
    return want, got

def apart(*how):
    want, got = both(*how)
    assert [(t.shape, t.dtype) for t in got] == [(t.shape, t.dtype) for t in want]
    return max(float((p - q).abs().max()/q.abs().max().clamp_min(1.)) for p, q in zip(got, want))

D, S = torch.double, torch.float
out = {{}}
for s in {SIZES}: out[f'double {{s}}'] = apart(*s, D, 1e-5, '')
out['single'] = apart(3, 4, 14, 14, S, 1e-5, '')/1e8
for how in ('flat', 'edge', 'strided'): out[how] = apart(2, 3, 8, 8, D, 1e-5, how)*(1e-4 if how == 'flat' else 1) # the third power of 1/sqrt(eps) enlarges rounding
out['eps'] = apart(2, 3, 8, 8, D, .1, '')

x = random(2, 3, 8, 8, dtype=D)
x[0, 0, 1, 1], x[1, 2, 0, 0] = float('nan'), float('inf')
one = torch.ones(3, dtype=D)
for given in ((x, one, one), (x.nan_to_num(0., 0., 0.), one*float('nan'), one), (x.nan_to_num(0., 0., 0.), one, one*float('nan'))):
    a, b = fused._there(*given, 1e-5)[0], kernels.block_there(*given, 1e-5)[0]
    assert a.isnan().any() and torch.equal(a.isnan(), b.isnan()) # what is no number stays none
far = random(3, 4, 8, 8, dtype=D).to(memory_format=torch.channels_last)
out['channels_last'] = float((kernels.block_there(far, *random(2, 4, dtype=D), 1e-5)[1] - fused._there(far.contiguous(), one[:1].expand(4), one[:1].expand(4), 1e-5)[1]).abs().max())
print(json.dumps(out))
'''

COMPILED = '''
import triton
from triton.compiler import ASTSource
from triton.backends.compiler import GPUTarget
from dd_repro import kernels

def compiled(name, type, side):
    "A program for an H100; nothing is run."
    fn, quads = getattr(kernels, name), side*side//4
    Q = triton.next_power_of_2(quads)
    fixed = dict(EPS=1e-5, SIDE=side, QUADS=quads, R=max(1, 256//Q), Q=Q)
    kinds = {n: 'constexpr' if n in fixed else 'i32' if n in ('rows', 'channels') else f'*{type}' for n in fn.arg_names}
    try: source = ASTSource(fn, kinds, {(i,): fixed[n] for i, n in enumerate(fn.arg_names) if n in fixed})
    except TypeError: source = ASTSource(fn, {n: k for n, k in kinds.items() if k != 'constexpr'}, {n: v for n, v in fixed.items() if n in kinds}) # Triton 3.2
    return triton.compile(source, target=GPUTarget('cuda', 90, 32), options=dict(num_warps=2))

for name in ('_forwards', '_backwards', '_twice'):
    for type, side in (('fp32', 32), ('fp64', 8)): assert compiled(name, type, side).asm['cubin']
print('compiled')
'''

def run(code, **env):
    "What a process prints."
    r = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    return r.stdout

def test_programs_compute_what_the_functions_do():
    found = json.loads(run(INTERPRETED, TRITON_INTERPRET='1', OMP_NUM_THREADS='1').splitlines()[-1])
    assert len(found) == len(SIZES) + 6 and max(found.values()) < 1e-13, found

def test_programs_compile_for_a_gpu(tmp_path):
    pytest.importorskip('triton.backends.nvidia')
    assert run(COMPILED, TRITON_CACHE_DIR=str(tmp_path)).splitlines()[-1] == 'compiled'

def test_nobody_imports_triton_without_a_gpu():
    code = "import sys, torch; from dd_repro.all import *; from dd_repro.fused import fused; net = ConvNet(1, 3, 8, 4, 1); fused(net)(torch.rand(2, 1, 8, 8)).sum().backward(); print('dd_repro.kernels' in sys.modules)"
    assert run(code).splitlines()[-1] == 'False'
