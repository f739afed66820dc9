"""What two ranks do, started once by torchrun for all of `test_ranks.py`: every check compares with one process, and its outcome is a line of a file.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node=2 tests/ranks_drive.py FOLDER"""
import dataclasses, hashlib, io, json, os, sys, traceback
from contextlib import contextmanager, redirect_stderr
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch

from dd_repro import entry, parallel
from dd_repro import labels as label_room
from dd_repro.augment import DSA
from dd_repro.convnet import ConvNet
from dd_repro.core import TimeUp, rng_for, seeded
from dd_repro.cost import saved_bytes
from dd_repro.d3s import D3S, D3SMethod, SRe2LMethod
from dd_repro.distilled import Pixels
from dd_repro.experts import Buffer, expert_protocol, train_experts
from dd_repro.gauss import KINDS, batch_stats, bn_targets, targets
from dd_repro.isu import ISU
from dd_repro.labels import Relabelled, ViewSettings, relabel
from dd_repro.loop import Objective
from dd_repro.match import DC, DM, Matching
from dd_repro.method import RunOptions, Task, learn, method_of
from dd_repro.norm import Normalize
from dd_repro.parallel import (add_grads, agree, alike, from_one, gathered, in_turn, joined, leads, my_rank, my_share, my_slice, n_ranks, one_holds, split_sizes,
                               together, total, total_of)
from dd_repro.records import read_rows
from dd_repro.sets import ImageStream, ImageTensors
from dd_repro.students import as_protocol, by_ranks, evaluate
from dd_repro.teachers import TeacherProtocol, Teachers, load_teacher, teacher_stats, train_teachers
from dd_repro.zoo import make_net

D = torch.double
CHECKS = {}

def check(f):
    CHECKS[f.__name__] = f
    return f

@contextmanager
def alone():
    "A world of one, while the other rank waits."
    was = dict(parallel._world)
    parallel._world.update(rank=0, size=1)
    try: yield
    finally: parallel._world.update(was)

def by_one(f):
    "What one process makes of it, on all ranks."
    def lone():
        with alone(): return f()
    return from_one(lone)

def noise(n=24, classes=4, side=8, dtype=torch.float, **kw):
    x = torch.randn(n, 1, side, side, generator=rng_for('ranks'), dtype=dtype)
    return ImageTensors(x, torch.arange(n) % classes, classes, name='noise', **kw)

def bytes_of(folder, pattern): return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(Path(folder).rglob(pattern))}

def error_of(f, kind=ValueError):
    "What a call refuses, on every rank."
    try: f()
    except kind as e: return str(e)
    raise AssertionError('nothing was refused')

NET = partial(ConvNet, 1, 4, 8, 4, 1)

# --- sums, shares, errors

@check
def sums_and_their_gradients(top):
    x = torch.tensor([1., 2.], dtype=D)*(my_rank() + 1)
    x.requires_grad_()
    s = total(x)
    assert s.tolist() == [3., 6.]
    (s**3).sum().backward() # every rank holds this loss; d/dx_r is that of the sum
    assert x.grad.tolist() == [27., 108.]
    a, b = total_of([torch.full((2, 3), my_rank() + 1.), torch.tensor([5.])])
    assert a.shape == (2, 3) and float(a.sum()) == 18 and float(b) == 10

@check
def shares(top):
    assert sum(gathered(my_share(range(5))), []) == [0, 2, 4, 1, 3] and split_sizes(5) == [3, 2]
    assert gathered([my_slice(5).start, my_slice(5).stop]) == [[0, 3], [3, 5]]
    assert 'a batch of 1 images cannot be split over 2 ranks' in error_of(lambda: my_slice(1))
    got = list(in_turn(range(my_rank(), 5, 2)))
    assert got == ([0, 1, 2, 3, 4] if leads() else [])

@check
def an_error_of_one_is_one_of_all(top):
    def fails():
        if leads(): raise ValueError('only here')
    assert error_of(lambda: from_one(fails)) == 'only here'
    def shared(who):
        with together():
            if my_rank() == who: raise TimeUp(f'rank {who} has no time')
    assert [error_of(lambda: shared(i), TimeUp) for i in (0, 1)] == ['rank 0 has no time', 'rank 1 has no time']
    def turns():
        for i in range(3):
            if my_rank() == 1 and i == 1: raise ValueError('a bad image')
            yield i
    assert error_of(lambda: list(in_turn(turns()))) == 'a bad image'

@check
def ranks_that_do_not_agree(top):
    agree(settings=[1, 2])
    assert 'rank 1 has other settings than rank 0 ([1]; rank 0: [0])' in error_of(lambda: agree(settings=[my_rank()]))
    t = torch.full((3,), float(my_rank()))
    alike([t])
    assert t.tolist() == [0, 0, 0]
    assert sum(gathered(parallel.first_to_say('another refusal'))) == 1

# --- shared out by number: the same bits

@check
def experts(top):
    train = lambda at: train_experts(NET, noise(), at, 3, expert_protocol(2, batch=8, aug=''), quiet=True)
    by_one(lambda: train(top/'one') and None)
    one, two = Buffer(top/'one'), train(top/'two')
    assert len(two) == 3 and one.key == two.key and all(torch.equal(one.snapshot(i, e), two.snapshot(i, e)) for i in range(3) for e in range(3))

def smaller(): return as_protocol('mtt').scaled(epochs=2, batch=4, aug='')

@check
def evaluation(top):
    d, test = Pixels.from_real(noise(), 2, lr=.01), noise(12)
    judge = lambda: evaluate(d, test, [NET().arch], smaller(), 3, together=False)[0].accs
    assert judge() == by_one(judge)

@check
def a_disk_that_is_full_for_one(top):
    d, teachers = Pixels.from_real(noise(), 3, lr=.01), some_teachers(noise())
    make = lambda: relabel(d, teachers, top/'labels', 4, ViewSettings(4), quiet=True)
    write = label_room.write_labels
    def full(path, *given):
        if path.name == 'labels-00003.safetensors': raise OSError(28, f'could not write {path}: No space left on device')
        return write(path, *given)
    label_room.write_labels = full
    try: said = error_of(make, OSError)
    finally: label_room.write_labels = write
    assert 'No space left' in said and len(bytes_of(top/'labels', 'labels-*')) == 3
    assert len(make()) == 4

@check
def labels_and_their_students(top):
    real, teachers = noise(), some_teachers(noise())
    d = Pixels.from_real(real, 3, lr=.01)
    make = lambda at: relabel(d, teachers, at, 3, ViewSettings(4), quiet=True)
    by_one(lambda: make(top/'one') and None)
    store = make(top/'two')
    assert bytes_of(top/'one', '*.safetensors') == bytes_of(top/'two', '*.safetensors') and len(store) == 3
    p = as_protocol('d3s-cifar10').scaled(epochs=4, batch=4)
    def judge():
        r = evaluate(Relabelled(d, store), noise(12), [NET().arch], p, 3, together=False)[0]
        return r.accs, r.deviations
    got, want = judge(), by_one(judge)
    assert got[0] == want[0] and (got[1] == want[1] or not leads()), (got, want)

# --- D3S

def some_teachers(real, n=2):
    small = dict(name='convnet', width=4, depth=1, norm='batch') if real.shape[-1] < 32 else dict(name='resnet18_bn', width=2, layers=(1, 1))
    with seeded('ranks'): nets = [make_net(small['name'], 1, 4, real.shape[-1], **{k: v for k, v in small.items() if k != 'name'}) for _ in range(n)]
    return Teachers([t.to(real.x.dtype) for t in nets], real)

@check
def statistics(top):
    real = noise(27)
    for data in (real, ImageStream(list(zip(((real.x + 4)*20).clamp(0, 255).byte(), real.y.tolist())), 4, 8, mode='L', name='read')):
        t = some_teachers(real)
        get = lambda at=None: teacher_stats(t, data, at, bs=5, quiet=True)
        want, got = by_one(get), get(top/data.name)
        assert [list(s) for s in got] == [list(s) for s in want]
        for a, b in zip(got, want):
            for k in a: assert a[k].n == b[k].n and torch.equal(a[k].mean, b[k].mean) and torch.equal(a[k].cov, b[k].cov), k
        assert len(bytes_of(top/data.name, 'stats-*')) == 2

@check
def synthesis_with_running_statistics_in_double_precision(top):
    real = noise(dtype=D, side=32)
    with seeded('ranks'): net = make_net('resnet18_bn', 1, 4, 32, width=2, layers=(1, 1)).double()
    with torch.no_grad(): net.train()(real.x)
    teachers = Teachers([net.float()], real.map(lambda x: x.float()))
    teachers.nets = [net.double()]
    def walked(kind, n):
        method = D3SMethod(kind=kind, batch=n, iterations=3, flip=True, first=2.)
        aims = [targets(batch_stats(net, real.x), 1e-3, dtype=D)]
        isu = ISU()
        isu.fold(1, [batch_stats(net, real.x[:7], cov=kind.endswith('multi'))])
        d = Pixels(torch.randn(n, 1, 32, 32, generator=rng_for('x'), dtype=D), torch.arange(n) % 4, 4)
        o, out = D3S(teachers, aims, method, 1, isu, 0), []
        for _ in range(3):
            d.images.grad = None
            loss = o.backward(d)
            if o.joint: add_grads(d)
            o.after(d)
            out += [loss, d.images.grad.clone()]
        return out
    held = lambda: saved_bytes(lambda: walked('kl-multi', 20))
    assert held() < .55*by_one(held) # what a rank keeps for the way back
    for kind in KINDS:
        for n in (4, 5):
            got, want = walked(kind, n), by_one(lambda: walked(kind, n))
            far = max(float((a - b).norm()/b.norm()) for a, b in zip(got, want))
            assert far < 1e-10, (kind, n, far)

def task_of(side=32):
    real = noise(side=side, norm=Normalize(.5, .5))
    return Task(real, net_fn=NET, teachers=some_teachers(real), seed=1)

def images_of(d): return d.images.detach().clone() if torch.is_tensor(d.images) else torch.as_tensor(d.images)

@check
def synthesis_without_running_statistics(top):
    m = SRe2LMethod(ipc=3, batch=4, iterations=2, lr_img=.1)
    go = lambda at: learn(task_of(), m, at, RunOptions(quiet=True))
    one = by_one(lambda: images_of(go(top/'one')[0]))
    two, run = go(top/'two')
    assert torch.equal(one, images_of(two)) and len(run.history) == run.n_batches == 3 and run.stopped == 'done'
    assert not list((top/'two').glob('batch-*'))

@check
def synthesis_with_running_statistics(top):
    m = D3SMethod(ipc=3, batch=5, iterations=3, lr_img=.1)
    go = lambda at: learn(task_of(), m, at, RunOptions(quiet=True))
    one = by_one(lambda: images_of(go(top/'one')[0]))
    two, run = go(top/'two')
    off = (one.int() - images_of(two).int()).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < .01 and run.stopped == 'done' and len(set(gathered(images_of(two).sum().item()))) == 1
    assert bytes_of(top/'one', 'stats-*') == bytes_of(top/'two', 'stats-*')

# --- teachers

@check
def teachers_of_one_batch(top):
    real = noise(27)
    p = TeacherProtocol('t', epochs=2, batch=9, lr=.05, momentum=.9, how='flip_scale', init='random')
    def made(at, norm): return train_teachers(lambda: make_net('convnet', 1, 4, 8, width=4, depth=1, norm=norm), real, at, 1, p, quiet=True)
    def weights(t): return torch.cat([v.flatten() for v in t[0].state_dict().values()])
    one = by_one(lambda: weights(made(top/'one', 'instance')))
    two = weights(made(top/'two', 'instance'))
    assert float((one - two).norm()/one.norm()) < 1e-5, float((one - two).norm()/one.norm())
    bn = made(top/'bn', 'batch')
    card = load_teacher(top/'bn'/'teacher_000.safetensors')[2]
    assert card['ranks'] == 2 and 'running statistics of rank 0' in card['batch_norm'] and len(set(gathered(bn.hashes[0]))) == 1
    assert bn.card()[0]['name'].endswith('(2 ranks)') and by_ranks(bn.card()) and 'batch_norm' not in load_teacher(top/'two'/'teacher_000.safetensors')[2]
    assert by_one(lambda: made(top/'bn', 'batch').hashes) == bn.hashes # one process goes on with what two have made
    assert 'leave a rank of 2 less than two' in error_of(lambda: train_teachers(NET, real, top/'x', 1, p.scaled(batch=3), quiet=True))

# --- classes shared out

def matched(make, d, steps=2):
    "Values, gradients and images of some updates."
    o, out = make(), []
    for _ in range(steps):
        d.images.grad = None
        loss = o.backward(d)
        if o.joint: add_grads(d)
        with torch.no_grad(): d.images -= .1*d.images.grad
        o.after(d)
        out += [loss, d.images.grad.clone(), d.images.detach().clone(), torch.as_tensor(list(o.rng.get_state()[:40]))]
    return out

@check
def gradient_and_distribution_matching(top):
    real = noise(26, dtype=D)
    net = lambda: ConvNet(1, 4, 8, 4, 1).double()
    aug, how = DSA('flip_scale', siamese=True), Matching(3, 1, 4, batch_train=3)
    cases = dict(dc=lambda: DC(real, net, how, together=False), dsa=lambda: DC(real, net, dataclasses.replace(how, batch_syn=1), aug, together=True),
                 mse=lambda: DC(real, net, dataclasses.replace(how, loss='mse', train_on='real'), aug), dm=lambda: DM(real, net, 4, aug, piece=3), some=lambda: DM(real, net, 99, batch_syn=1))
    for name, make in cases.items():
        start = lambda: Pixels(torch.randn(8, 1, 8, 8, generator=rng_for('x'), dtype=D), torch.arange(8) % 4, 4, lr=.01)
        got, want = matched(make, start()), by_one(lambda: matched(make, start()))
        far = max(float((a.double() - b.double()).norm()/b.double().norm()) for a, b in zip(got, want))
        assert far < 1e-10, (name, far)

@check
def a_run_of_dsa(top):
    m = method_of('dsa', ipc=2, iterations=2, outer=2, inner=1, batch_real=4, aug='flip')
    go = lambda at: learn(Task(noise(), net_fn=NET, seed=1), m, at, RunOptions(quiet=True, every=1))
    one = by_one(lambda: images_of(go(top/'one')[0]).detach())
    two, run = go(top/'two')
    assert run.it == 4 and torch.allclose(one, two.images, atol=1e-5) and not torch.equal(two.images, torch.zeros(()))
    assert bytes_of(top/'two', '*.csv')
    assert len(set(gathered(images_of(two).sum().item()))) == 1
    assert '5 classes' not in error_of(lambda: learn(Task(noise(classes=1), net_fn=lambda: ConvNet(1, 1, 8, 4, 1)), m, top/'x', RunOptions(quiet=True)))

# --- ranks that change between starts

@check
def two_ranks_and_then_one(top):
    m = D3SMethod(ipc=3, batch=6, iterations=4, lr_img=.1)
    go = lambda at, **kw: learn(task_of(), m, at, RunOptions(quiet=True, every=1, **kw))
    whole = by_one(lambda: images_of(go(top/'whole')[0]))
    def stopped(at):
        "A run that ends in the middle of its second batch."
        after = D3S.after
        def to_two(self, d):
            after(self, d)
            if (self.b, self.t) == (1, 2): raise InterruptedError
        D3S.after = to_two
        try: go(at)
        except InterruptedError: pass
        finally: D3S.after = after
        gathered(None)
        assert (at/'batch-000001.safetensors').is_file() and not (at/'distilled.safetensors').is_file()
    stopped(top/'down')
    down = by_one(lambda: images_of(go(top/'down')[0]))
    by_one(lambda: stopped(top/'up'))
    up, run = go(top/'up')
    for d in (down, images_of(up)): assert (d.int() - whole.int()).abs().max() <= 1
    assert run.stopped == 'done' and len(run.history) == run.n_batches == 2

@check
def commands(top):
    os.environ['DD_HOME'] = str(top)
    start = lambda name, *words: entry.start(name, [str(w) for w in words])
    start('dd_experts', 'd3s', '--data', 'digits', '--net', 'convnet', '--width', 4, '--n', 1, '--epochs', 1)
    start('dd_distill', 'd3s', '--data', 'digits', '--width', 4, '--ipc', 1, '--batch', 5, '--iterations', 2, '--lr_img', .1, '--out', top/'run')
    start('dd_relabel', top/'run'/'distilled.safetensors', '--width', 4, '--epochs', 2, '--batch', 5)
    start('dd_eval', top/'run'/'distilled.safetensors', '--labels', top/'run'/'distilled.labels', '--n_eval', 2, '--epochs', 2, '--record_to', top/'rows.csv')
    start('dd_eval', '--random', '--data', 'digits', '--width', 4, '--n_eval', 2, '--epochs', 2, '--record_to', top/'rows.csv')
    gathered(None)
    rows = read_rows(top/'rows.csv')
    assert [r.n for r in rows] == [2, 2] and all(r.device.endswith(', 2 ranks') for r in rows)
    said = io.StringIO()
    with redirect_stderr(said):
        try: start('dd_distill', 'mtt', '--data', 'digits', '--ipc', 1, '--out', top/'mtt')
        except SystemExit as e: assert e.code == 2
    assert sorted(map(bool, gathered(said.getvalue()))) == [False, True] # one of them says it

@check
def a_row_of_a_table(top):
    os.environ['DD_HOME'] = str(top)
    for _ in range(2): entry.start('dd_row', ['mtt/table1/cifar10/dm/ipc1', '--smoke', '--device', 'cpu', '--record_to', str(top/'rows.csv')])
    gathered(None)
    a, b = read_rows(top/'rows.csv')
    assert a.device.endswith(', 2 ranks') and a.mean == b.mean and a.row == 'smoke/mtt/table1/cifar10/dm/ipc1' and not list(top.glob('.*'))

@check
def walks_that_are_averaged(top):
    real = noise()
    b = train_experts(NET, real, top/'experts', 3, expert_protocol(3, batch=8, aug=''), quiet=True)
    task = lambda: Task(real, net_fn=NET, experts=b, seed=1)
    m = method_of('mtt', ipc=1, iterations=3, syn_steps=2, expert_epochs=1, max_start_epoch=2, lr_img=1., lr_lr=1e-5, lr_teacher=.05, aug='flip')
    go = lambda at, k, m=m: learn(task(), m, at, RunOptions(quiet=True, every=1, walks=k))
    one = by_one(lambda: images_of(go(top/'one', 3)[0]).detach())
    two, run = go(top/'two', 3)
    start = images_of(m.start(task()))
    assert float((one - images_of(two)).norm()) < 1e-4*float((one - start).norm()) and two.info['walks'] == 3
    plain = by_one(lambda: images_of(go(top/'plain', 1)[0]).detach())
    assert float((one - plain).norm()) > .01*float((one - start).norm()) # another algorithm
    said = error_of(lambda: go(top/'none', 1))
    assert 'mtt on 2 ranks' in said and '--walks 2 averages' in said and not (top/'none').exists()
    d3 = method_of('d3', iterations=2, syn_steps=2, expert_epochs=1, max_start_epoch=2, mmd_samples=2, decoder_width=8, z_dim=4)
    parts = lambda d: torch.cat([p.detach().flatten() for p in d.parameters()])
    alone_ = by_one(lambda: parts(go(top/'d3-one', 3, d3)[0])) # the divergence counts once, the MMD on each rank
    both, begun = go(top/'d3-two', 3, d3)[0], parts(d3.start(task()))
    assert float((alone_ - parts(both)).norm()) < 1e-3*float((alone_ - begun).norm()) and both.info['walks'] == 3
    assert torch.equal(parts(both), from_one(lambda: parts(both)))
    row, = evaluate(two, noise(12), [NET().arch], smaller(), 2, together=False)
    assert '3 walks an iteration' in row.deviations and row.protocol != 'paper'

@check
def what_cannot_be_shared_is_refused(top):
    said = error_of(lambda: learn(Task(noise(), net_fn=NET, experts=object()), 'mtt', top, RunOptions(quiet=True)))
    assert 'mtt on 2 ranks' in said and not list(top.iterdir())

if __name__ == '__main__':
    top, only, said = Path(sys.argv[1]), sys.argv[2:], {}
    torch.set_num_threads(1)
    parallel.WAIT = timedelta(seconds=300) # a check that fails on one rank ends all
    with joined('cpu'):
        for name, f in CHECKS.items():
            if only and name not in only: continue
            at, why = top/name, ''
            at.mkdir(parents=True, exist_ok=True)
            try: f(at)
            except Exception: why = traceback.format_exc()
            said[name] = list(filter(None, gathered(why)))
            if leads(): (top/'said.json').write_text(json.dumps(said, indent=1))
