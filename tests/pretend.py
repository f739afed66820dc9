"""A pretend GPU: tensors that live elsewhere by the rules of torch's devices, and compute on this machine's processor. It goes by the name of the device `meta`."""
import os
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from dd_repro import steps

ATEN = torch.ops.aten
MOVES = {ATEN._to_copy, ATEN.copy_} # between devices
INDEXES = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_} # an index on the CPU is moved over
JOINS = {ATEN.cat, ATEN.stack} # not even a scalar of the CPU may be among these
WAITS = {ATEN._local_scalar_dense, ATEN.nonzero, ATEN.masked_select, ATEN.equal, ATEN.is_nonzero, ATEN._unique2, ATEN.allclose, ATEN.bincount, ATEN.repeat_interleave} # the host needs numbers that the GPU has
DIVIDES = {ATEN.div: ATEN.mul.Tensor, ATEN.div_: ATEN.mul_.Tensor} # by a number of the host: a GPU multiplies by its reciprocal, which may differ in the last bit

class Far(Tensor):
    "A tensor on the pretend GPU; its numbers are in `near`."
    __torch_function__ = torch._C._disabled_torch_function_impl
    is_cuda = property(lambda self: True)
    @staticmethod
    def __new__(cls, near):
        "Wrap a tensor of the CPU."
        t = torch.Tensor._make_wrapper_subclass(cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device='meta')
        t.near = near
        return t
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f'{func} on the pretend GPU, outside of `pretend_gpu`')
    def __repr__(self, **_): return f'Far({self.near})'
    def __getitem__(self, i): return super().__getitem__(_listed(i))
    def __setitem__(self, i, v): super().__setitem__(_listed(i), v)
    def data_ptr(self): return self.near.data_ptr()
    def tolist(self):
        "Numbers come over, and the host waits."
        return self.detach().cpu().tolist()
    def numpy(self, *_, **__):
        "Refused, as on a GPU."
        raise TypeError('a tensor on a GPU has no numpy array; use .cpu() first')
    __array__ = numpy
    @property
    def data(self):
        "The tensor without its history."
        return self.detach()
    @data.setter
    def data(self, t):
        if not isinstance(t, Far) or t.shape != self.shape: raise RuntimeError(f'a tensor {list(self.shape)} on the pretend GPU cannot become {type(t).__name__} {list(t.shape)}')
        self.near = t.near

MAKE = dict(tensor=torch.tensor, as_tensor=torch.as_tensor)

def _listed(i):
    "Lists among indices as tensors; torch would make them on the device meta, and lose them."
    if isinstance(i, tuple): return tuple(map(_listed, i))
    return MAKE['tensor'](i, dtype=None if i else torch.long) if isinstance(i, list) else i

def _maker(name):
    "torch.tensor or torch.as_tensor, whose numbers would be lost on the device meta."
    def make(x, dtype=None, device=None, requires_grad=False, **kw):
        if isinstance(x, Tensor) or not _far(device): out = MAKE[name](x, dtype=dtype, device=device, **kw)
        else: out = MAKE[name](x, dtype=dtype, **kw).to(device)
        return out.requires_grad_() if requires_grad else out
    return make

def _far(device): return device is not None and torch.device(device).type == 'meta'
def _near(t): return t.near if isinstance(t, Far) else t
def _wrap(t): return Far(t) if isinstance(t, Tensor) else t
def _alias(t): return t.detach() if isinstance(t, Tensor) else t # the same memory; a shape that is changed in place later does not matter
def tree_map(f, o):
    "A function of all that lists, tuples and dicts hold; torch's own, which knows more kinds, takes most of an operation's time."
    if isinstance(o, (list, tuple)): return type(o)([tree_map(f, x) for x in o])
    return {k: tree_map(f, v) for k, v in o.items()} if isinstance(o, dict) else f(o)
def _tensors(*o): found = []; tree_map(lambda t: found.append(t) if isinstance(t, Tensor) else None, o); return found
@cache
def _is_view(func): return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)

class PretendGPU(TorchDispatchMode):
    "Runs operations, counts launches and waits, refuses what a GPU refuses, and records what a graph captures."
    def __init__(self): super().__init__(); self.launches = self.waits = self.captures = 0; self.tape = None
    def refuse_capture(self): pass # a test may raise here
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if get_proxy_mode() is not None: return func(*args, **kwargs or {}) # see `_traced`
        kwargs = kwargs or {}
        ts, op, device = _tensors(args, kwargs), func.overloadpacket, kwargs.get('device')
        far, cpu = [t for t in ts if isinstance(t, Far)], [t for t in ts if not isinstance(t, Far)]
        lands = isinstance(args[0], Far) if op is ATEN.copy_ else _far(device) if device is not None else bool(far)
        if far: self._check(func, op, args, cpu)
        waits = far and (op in WAITS or op in MOVES and not lands or op in INDEXES and any(t.dtype == torch.bool for t in _tensors(args[1])))
        a, k = tree_map(_near, (args, kwargs))
        k |= {n: v for n, v in dict(device=torch.device('cpu'), pin_memory=False).items() if n in k}
        if op in DIVIDES and far and not isinstance(args[1], Far): func, a = DIVIDES[op], (a[0], 1/a[1], *a[2:])
        out = func(*a, **k)
        if far or lands: self._count(func, a, k, out, waits, cpu)
        if not lands or op is ATEN._local_scalar_dense: return out
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_wrap, out)) if far else tree_map(_wrap, out)
    def _check(self, func, op, args, cpu):
        if op in INDEXES and isinstance(args[0], Far): cpu = [t for t in _tensors(args[2:3]) if not isinstance(t, Far)] # of an index only the values have to be there
        if op in MOVES: return
        if bad := [t for t in cpu if t.ndim or op in JOINS]: raise RuntimeError(f'{func}: expected all tensors to be on the same device; a CPU tensor {list(bad[0].shape)} is among them')
    def _count(self, func, a, k, out, waits, cpu):
        self.waits += bool(waits); self.launches += not _is_view(func)
        if self.tape is None: return
        if waits or any(t.ndim for t in cpu) or func.overloadpacket in MOVES and cpu: raise RuntimeError(f'{func}: not permitted while a graph is captured, since it meets the host')
        if torch.Tag.nondeterministic_seeded in func.tags: raise RuntimeError(f'{func}: random numbers inside a captured graph')
        if not _is_view(func): self.tape.append((func, *tree_map(_alias, (a, k, out))))

TRACE = steps.trace_step

def _traced(fn, ts):
    "The list of operations, made on the CPU (make_fx cannot look into `Far`) and moved: its new tensors are made on the pretend GPU."
    gm = TRACE(fn, [_near(t).detach().requires_grad_(t.requires_grad) for t in ts])
    assert not any(n.op == 'get_attr' for n in gm.graph.nodes), 'a tensor is baked into the list'
    for n in gm.graph.nodes:
        if 'device' in n.kwargs: n.kwargs = n.kwargs | dict(device=torch.device('meta'))
    gm.recompile()
    return gm

class Graph:
    "What `torch.cuda.CUDAGraph` does: the same operations again, from and into the same memory."
    gpu = None # counts a replay as one launch
    def __init__(self): self.tape = []
    def replay(self):
        "Run what was captured."
        self.gpu.launches += 1
        for func, a, k, out in self.tape:
            for o, new in zip(_tensors(out), _tensors(func(*a, **k))):
                if o.data_ptr() != new.data_ptr(): o.copy_(new) # else done in place, or the input itself

@contextmanager
def pretend_gpu():
    "While the block runs there is a GPU of the name meta, and it is the default device; gives the `PretendGPU`."
    gpu, stream = PretendGPU(), SimpleNamespace(wait_stream=lambda other: None)
    @contextmanager
    def capture(g, stream=None, capture_error_mode='global'):
        gpu.refuse_capture(); gpu.tape, gpu.mode = g.tape, capture_error_mode; gpu.captures += 1
        try: yield
        finally: gpu.tape = None
    with ExitStack() as s:
        s.enter_context(mock.patch.object(Graph, 'gpu', gpu))
        s.enter_context(mock.patch.multiple(torch.cuda, Stream=lambda: stream, current_stream=lambda: stream, stream=nullcontext, device=nullcontext, CUDAGraph=Graph, graph=capture))
        s.enter_context(mock.patch.multiple(torch, autocast=lambda *a, **k: nullcontext(), **{n: _maker(n) for n in MAKE}))
        s.enter_context(mock.patch.object(steps, 'trace_step', _traced))
        s.enter_context(mock.patch('torch.optim.optimizer._get_fused_kernels_supported_devices', lambda: ['meta', 'cpu']))
        s.enter_context(mock.patch.dict(os.environ, DD_DEVICE='meta'))
        yield s.enter_context(gpu)
