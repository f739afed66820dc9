"The loop: killed and continued to the last bit, stopped in order, phases and optimisers, and every way in which a run can fail."
import errno, multiprocessing, os, signal
from functools import partial
from pathlib import Path

import pytest, torch
from torch.optim import SGD, Adam

from dd_repro.augment import DSA
from dd_repro.convnet import ConvNet
from dd_repro.files import load_tensors
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import Buffer, expert_protocol, train_experts
from dd_repro.loop import Diverged, Evaluate, Objective, Run, Sum, distill
from dd_repro.mtt import MTT, mtt_opts
from dd_repro.students import as_protocol

FRESH = multiprocessing.get_context('forkserver')                 # children of a process that has run nothing yet
FRESH.set_forkserver_preload(['pytest', 'sklearn.datasets', 'torch._dynamo', 'dd_repro.cli'])
OPTS = {'images': partial(SGD, lr=1., momentum=.5), 'lr': partial(SGD, lr=1e-2, momentum=.5)}
net_fn = partial(ConvNet, n_in=1, n_out=10, size=8, width=8, depth=2)

class Pull(Objective):
    "Towards noise drawn afresh: a resumed run shows whether it draws the same."
    def __call__(self, d): return (d.images - torch.randn(d.images.shape, generator=self.rng)).square().mean() + (d.student_lr - .02)**2

@pytest.fixture(scope='module')
def real(): return load('digits')[0]

@pytest.fixture
def fresh(real): return lambda: (Pixels.from_real(real, 1, lr=.01), Pull(0))

@pytest.fixture
def ckpt(tmp_path): return tmp_path/'run'/'checkpoint.safetensors'

def at(it, act):
    "A callback that acts at one iteration."
    return lambda run: act(run) if run.it == it else None

def stop(run): run.stopped = 'time'

# --- a real distillation in processes that are killed
def die_while_writing(n):
    "Kill this process at its n-th checkpoint, when the new file is written and not yet in place."
    replace, left = os.replace, [n]
    def last(a, b):
        left[0] -= Path(b).name == 'checkpoint.safetensors'
        replace(a, b) if left[0] else os.kill(os.getpid(), signal.SIGKILL)
    os.replace = last

def mtt_run(buffer, out, act=None, steps=9, every=2):
    "MTT on digits with looks at the test set, in a process of its own; `act` at iteration 5, or in the middle of a write."
    torch.set_num_threads(1)
    real, test = load('digits')
    real = real.subset(torch.arange(256)) # what the experts saw
    out, kill = Path(out), lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if act == 'kill while writing': die_while_writing(3)
    acts = {'kill': kill, 'term': lambda run: os.kill(os.getpid(), signal.SIGTERM)}
    d = Pixels.from_real(real, 1, lr=.02, arch=net_fn().arch)
    mtt = MTT(net_fn(), Buffer(buffer), syn_steps=4, expert_epochs=1, max_start_epoch=2, batch_syn=4, aug=DSA())
    look = Evaluate(test, 3, as_protocol('mtt').scaled(epochs=2), n_eval=1)
    calls = [look] + [at(5, acts[act]) for a in acts if a == act]
    run = distill(d, mtt, steps, mtt_opts(5., 1e-4), callbacks=calls, ckpt=out/'checkpoint.safetensors', every=every, settings='test', quiet=True)
    d.info['best'] = [look.best, look.k, look.last]
    d.save(out/f'{run.stopped}.safetensors')

def process(*a):
    p = FRESH.Process(target=mtt_run, args=a); p.start(); p.join(120)
    assert p.exitcode is not None, 'still running'
    return p.exitcode

@pytest.fixture(scope='module')
def uncut(tmp_path_factory, real):
    "(buffer, folder of a run that nobody disturbed)"
    buffer, out = (str(tmp_path_factory.mktemp(n)) for n in ('buffer', 'uncut'))
    train_experts(net_fn, real.subset(torch.arange(256)), buffer, 2, expert_protocol(3, .05, 64), quiet=True)
    assert process(buffer, out) == 0
    return buffer, Path(out)

def same_story(a, b):
    "Artefact, checkpoint and history of two folders are the same, bit for bit."
    x, y = (Distilled.load(f/'done.safetensors') for f in (a, b))
    assert torch.equal(x.images, y.images) and torch.equal(x.lr, y.lr) and x.info == y.info
    assert (a/'checkpoint.csv').read_bytes() == (b/'checkpoint.csv').read_bytes()
    (s, m), (t, n) = (load_tensors(f/'checkpoint.safetensors') for f in (a, b))
    assert m.pop('seconds') > 0 < n.pop('seconds') # the clock is the one thing that may differ
    assert m == n and s.keys() == t.keys() and all(torch.equal(s[k], t[k]) for k in s)

def reached(out): return len((out/'checkpoint.csv').read_text().split()) - 1

@pytest.mark.parametrize('act, it', [('kill', 4), ('kill while writing', 2)])
def test_kill_9_changes_nothing(uncut, tmp_path, act, it):
    buffer, whole = uncut
    assert process(buffer, tmp_path, act) == -signal.SIGKILL
    assert not (tmp_path/'done.safetensors').exists() and reached(tmp_path) == it
    assert process(buffer, tmp_path) == 0
    assert reached(whole) == 9
    same_story(whole, tmp_path)

def test_sigterm_saves_and_ends_in_order(uncut, tmp_path):
    buffer, whole = uncut
    assert process(buffer, tmp_path, 'term') == 0
    assert reached(tmp_path) == 5 and (tmp_path/'SIGTERM.safetensors').is_file()
    assert process(buffer, tmp_path) == 0
    same_story(whole, tmp_path)

def test_sigint_here_and_now(fresh, ckpt):
    old = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    d, pull = fresh()
    run = distill(d, pull, 5, OPTS, ckpt=ckpt, callbacks=[at(2, lambda r: signal.raise_signal(signal.SIGINT))], quiet=True)
    assert (run.stopped, run.it, len(run.history)) == ('SIGINT', 2, 2) and ckpt.is_file()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == old

# --- resuming in one process
@pytest.mark.parametrize('opts', [OPTS, {'images': partial(Adam, lr=.1)}, {'images': partial(SGD, lr=1., momentum=.9, nesterov=True), 'lr': partial(Adam, lr=1e-4, amsgrad=True)}])
@pytest.mark.parametrize('when', [1, 3, 5])
def test_resume_is_exact(fresh, ckpt, opts, when):
    sched = lambda t: 1 - .5*t
    (a, pa), (b, pb), (c, pc) = fresh(), fresh(), fresh()
    one = distill(a, pa + Pull(1)*.5, 6, opts, sched, quiet=True)
    distill(b, pb + Pull(1)*.5, 6, opts, sched, ckpt=ckpt, callbacks=[at(when, stop)], quiet=True)
    two = distill(c, pc + Pull(1)*.5, 6, opts, sched, ckpt=ckpt, callbacks=[at(0, stop)], quiet=True)
    assert two.it == 6 and two.history == one.history
    assert torch.equal(a.images, c.images) and torch.equal(a.lr, c.lr) and not torch.equal(b.images, c.images)

def test_a_finished_run_is_not_touched(fresh, ckpt):
    d, pull = fresh(); distill(d, pull, 3, OPTS, ckpt=ckpt, quiet=True)
    before, (e, pull) = ckpt.read_bytes(), fresh()
    run = distill(e, pull, 3, OPTS, ckpt=ckpt, quiet=True)
    assert (run.stopped, run.it) == ('done', 3) and torch.equal(e.images, d.images) and ckpt.read_bytes() == before

def test_time_box(fresh, ckpt):
    d, pull = fresh(); run = distill(d, pull, 3, OPTS, ckpt=ckpt, minutes=1e-9, quiet=True)
    assert (run.stopped, run.it) == ('time', 1) and load_tensors(ckpt)[1]['run']['__d'][0] == ['it', 1]
    e, pull = fresh(); run = distill(e, pull, 3, OPTS, ckpt=ckpt, minutes=60, quiet=True)
    f, pull = fresh(); distill(f, pull, 3, OPTS, quiet=True)
    assert run.stopped == 'done' and torch.equal(e.images, f.images)

# --- phases
def test_two_phases_share_one_optimiser(fresh):
    d, _ = fresh(); x, m = d.images.detach().clone(), 0.
    distill(d, [(lambda d: d.images.square().sum(), ['images']), (lambda d: (d.images - 1).square().sum()/2, None)], 4, {'images': partial(SGD, lr=.1, momentum=.5)}, quiet=True)
    for i in range(8): m = .5*m + (x - 1 if i % 2 else 2*x); x = x - .1*m
    torch.testing.assert_close(d.images.detach(), x)

def test_groups_limit_what_moves(fresh):
    d, _ = fresh(); x = d.images.detach().clone()
    both = lambda d: d.images.square().sum() + (d.student_lr - .02)**2
    distill(d, [(both, ['lr'])], 3, OPTS, quiet=True)
    assert torch.equal(d.images, x) and d.lr.item() != .01
    lr = d.lr.item()
    distill(d, (both, ['images']), 3, OPTS, quiet=True)
    assert not torch.equal(d.images, x) and d.lr.item() == lr

def test_gradients_of_one_phase_do_not_reach_the_next(fresh):
    d, _ = fresh(); x = d.images.detach().clone()
    distill(d, [(lambda d: 100*d.images.sum() + d.student_lr, ['lr']), (lambda d: d.images.sum(), ['images'])], 1, {'images': partial(SGD, lr=1.), 'lr': partial(SGD, lr=1e-4)}, quiet=True)
    torch.testing.assert_close(d.images.detach(), x - 1)

def test_backward_after_and_project_are_used(fresh):
    class Own(Objective):
        steps = 0
        def backward(self, d):
            for i in range(10): d.images[i].sum().backward()      # class by class
            return 7.
        def after(self, d): self.steps += 1
    d, _ = fresh(); own = Own()
    run = distill(d, own, 3, {'images': partial(SGD, lr=5.)}, project=lambda d: d.images.clamp_(-1, 1), quiet=True)
    assert own.steps == 3 and run.history[0]['loss'] == 7. and (d.images == -1).all()

def test_arithmetic_of_objectives(fresh):
    d, _ = fresh()
    for make, factor in ((lambda p: p - p*.25, .75), (lambda p: 3*p*2, 6.), (lambda p: -p, -1.), (lambda p: -(p + p)*.5, -1.)):
        torch.testing.assert_close(make(lambda_(2.))(d), torch.tensor(2.*factor))
    s = Sum([Pull(0), lambda d: d.images.sum()*0, Pull(1) + Pull(2)], [1., 2., 3.])
    state = {k: v.clone() for k, v in s.state_dict().items()}
    first = s(d); assert s(d) != first
    t = Sum([Pull(7), lambda d: d.images.sum()*0, Pull(8) + Pull(9)], [1., 2., 3.]); t.load_state_dict(state)
    assert torch.equal(t(d), first)

def lambda_(v):
    o = Objective(); o.__class__ = type('Const', (Objective,), {'__call__': lambda self, d: torch.tensor(v)})
    return o

@pytest.mark.parametrize('kw, says', [(dict(steps=0), 'steps is 0'), (dict(opts={'latents': SGD}), r"no group \['latents'\]"), (dict(phases=[(Pull(), ['latents'])]), 'latents'),
    (dict(phases=[(Pull(), ['lr'])], opts={'images': partial(SGD, lr=1.)}), 'lr'), (dict(every=0, ckpt='x'), 'every is 0')])
def test_bad_arguments(fresh, kw, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    d, pull = fresh()
    with pytest.raises(ValueError, match=says): distill(**(dict(d=d, phases=pull, steps=2, opts=OPTS, quiet=True) | kw))
    assert not list(tmp_path.iterdir())

# --- failing
@pytest.mark.parametrize('bad, says', [(lambda d: d.images.sum()*float('nan'), 'the loss is nan at iteration 2'), (lambda d: d.images.sum()*1e30*1e30, 'the loss is -?inf at iteration 2'),
    (lambda d: 1e4*d.student_lr + 0*d.images.sum(), 'the student learning rate fell to'), (lambda d: (d.images - d.images).square().sum().sqrt() + 0*d.lr, 'images')])
def test_a_diverged_run_leaves_the_last_good_checkpoint(fresh, ckpt, bad, says):
    class Late(Pull):
        def __call__(self, d): self.n = getattr(self, 'n', 0) + 1; return bad(d) if self.n > 2 else super().__call__(d)
    Late.__name__ = 'Pull' # the same run, as far as its checkpoint can tell
    d, late = fresh()[0], Late(); late.rng = Pull(0).rng
    with pytest.raises(Diverged, match=says) as e: distill(d, late, 9, OPTS, ckpt=ckpt, every=1, quiet=True)
    assert '\n' not in str(e.value) and str(ckpt) in str(e.value)
    lost = ckpt.with_name('checkpoint.diverged.safetensors')
    assert lost.is_file() and not list(ckpt.parent.glob('.*.tmp'))
    good, pull = fresh(); run = Run(good, pull, 9, OPTS).resume(ckpt)
    assert run.it == 2 and good.images.isfinite().all() and good.lr.item() > 0
    f, pull = fresh(); distill(f, pull, 2, OPTS, quiet=True)
    assert torch.equal(f.images, good.images)

def test_other_checkpoints_are_refused(fresh, ckpt, real):
    d, pull = fresh(); distill(d, pull, 2, OPTS, ckpt=ckpt, settings={'N': 3}, quiet=True)
    before = ckpt.read_bytes()
    def refused(says, d=None, settings={'N': 3}):
        with pytest.raises(ValueError, match=says) as e: distill(d or fresh()[0], Pull(0), 4, OPTS, ckpt=ckpt, settings=settings, quiet=True)
        assert '\n' not in str(e.value) and str(ckpt) in str(e.value)
    refused('other settings', settings={'N': 4}); refused('other settings', d=Pixels.from_real(real, 2))
    assert ckpt.read_bytes() == before
    for cut in (0, 7, 100, len(before)//2, len(before) - 1): ckpt.write_bytes(before[:cut]); refused('truncated')
    d.save(ckpt); refused('not a checkpoint')

def test_full_disk_leaves_the_old_checkpoint(fresh, ckpt, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    d, pull = fresh()
    with pytest.raises(OSError, match='No space left') as e: distill(d, pull, 6, OPTS, ckpt=ckpt, every=2, callbacks=[at(3, lambda r: monkeypatch.setattr(os, 'replace', full))], quiet=True)
    monkeypatch.undo()
    assert '\n' not in str(e.value) and str(ckpt) in str(e.value) and sorted(p.name for p in ckpt.parent.iterdir()) == ['checkpoint.csv', 'checkpoint.safetensors']
    e, pull = fresh(); run = distill(e, pull, 6, OPTS, ckpt=ckpt, callbacks=[at(0, stop)], quiet=True)
    f, pull = fresh(); whole = distill(f, pull, 6, OPTS, quiet=True)
    assert torch.equal(e.images, f.images) and run.history == whole.history

def test_looking_does_not_change_the_run(fresh):
    test = load('digits')[1].subset(torch.arange(50))
    a, pull = fresh(); distill(a, pull, 4, OPTS, quiet=True)
    b, pull = fresh(); b.arch = net_fn().arch
    look = Evaluate(test, 2, as_protocol('mtt').scaled(epochs=2), n_eval=1)
    run = distill(b, pull, 4, OPTS, callbacks=[look], quiet=True)
    assert torch.equal(a.images, b.images) and look.k == 2 and look.best >= look.last
    assert [('acc_convnet' in r) for r in run.history] == [False, True, False, True]

@pytest.mark.parametrize('when', ['before', 'while ranks meet'])
def test_a_signal_stops_ranks_together(fresh, monkeypatch, when):
    "What a rank is asked while it waits for the others is told at the next meeting."
    from dd_repro import loop
    d, pull = fresh()
    met = []
    def gathered(said):
        met.append(said)
        if len(met) == 2 and when != 'before': signal.raise_signal(signal.SIGTERM)
        return [said, None]
    monkeypatch.setattr(loop, 'gathered', gathered)
    monkeypatch.setattr(loop, 'n_ranks', lambda: 2)
    monkeypatch.setattr(loop, 'add_grads', lambda d: None)
    pull.joint = True
    run = distill(d, pull, 9, OPTS, callbacks=[at(2, lambda r: signal.raise_signal(signal.SIGTERM))] if when == 'before' else [], quiet=True)
    assert (run.stopped, run.it, met[-1]) == ('SIGTERM', 2 + (when != 'before'), 'SIGTERM')
