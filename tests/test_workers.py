"Threads follow the work; independent pieces take processes where they pay, and nothing about the result depends on it."
import functools, os, signal, subprocess, sys, time
from functools import partial
from pathlib import Path

import pytest, torch
from dd_repro import experts, students, workers
from dd_repro.core import ONE_THREAD_MAX, threads_for, threads_of
from dd_repro.convnet import ConvNet
from dd_repro.distilled import Pixels
from dd_repro.experts import expert_protocol, train_experts
from dd_repro.loop import Objective, distill
from dd_repro.sets import ImageTensors
from dd_repro.students import as_protocol, evaluate, go_together, step_work, train
from dd_repro.workers import cores, may_spawn, packed, processes_for, spread

NET = partial(ConvNet, 1, 2, 8, 4, 1)

def some_data(n=8, side=8): return ImageTensors(torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 2, 2, name='noise')

@pytest.fixture
def told(monkeypatch):
    "A thread count that is only noted: as many threads as a test says, whatever the machine has."
    state = dict(n=4, set=[])
    def put(n): state['set'].append(n); state['n'] = n
    monkeypatch.setattr(torch, 'get_num_threads', lambda: state['n'])
    monkeypatch.setattr(torch, 'set_num_threads', put)
    return state

@pytest.fixture
def two_processes(monkeypatch): monkeypatch.setattr(workers, 'processes_for', lambda *a, **kw: 2)


@pytest.mark.parametrize('work, device, take', [(1, 'cpu', 1), (ONE_THREAD_MAX, None, 1), (ONE_THREAD_MAX + 1, 'cpu', 4), (1, 'cuda', 4), (1e12, 'cuda', 4)])
def test_a_small_step_takes_one_thread_and_a_large_one_all(told, work, device, take):
    with threads_for(work, device): assert told['n'] == take == threads_of(work, device)
    assert told['n'] == 4

@pytest.mark.parametrize('mine', [1, 2, 3])
def test_the_users_number_is_never_raised(told, mine):
    torch.set_num_threads(mine)
    for work in (1, 1e12):
        with threads_for(work): assert told['n'] <= mine
        assert told['n'] == mine
    assert max(told['set']) <= mine

def test_threads_are_put_back_after_an_error(told):
    with pytest.raises(ZeroDivisionError), threads_for(1): 1/0
    assert told['n'] == 4

def test_blocks_may_stand_in_blocks(told):
    with threads_for(1):
        with threads_for(1e12): assert told['n'] == 1
        with threads_for(1): assert told['n'] == 1
    assert told['n'] == 4

@pytest.mark.parametrize('arch, images, small', [(dict(name='convnet', width=32, size=16), 64, True), (dict(name='convnet', width=32, size=16), 50, True),
    (dict(name='convnet', width=128, size=32), 100, False), (dict(name='convnet', width=128, size=32), 10, False), (dict(name='resnet18', width=64, size=32), 10, False), (None, 1, True)])
def test_what_is_small(arch, images, small): assert (step_work(arch, images) <= ONE_THREAD_MAX) == small

def seen_while(told, monkeypatch):
    "Threads at every step of students."
    seen, whole = [], students._gradients
    def gradients(*a): seen.append(told['n']); return whole(*a)
    monkeypatch.setattr(students, '_gradients', gradients)
    return seen

def test_students_and_experts_take_what_they_need(told, monkeypatch, tmp_path):
    seen, p = seen_while(told, monkeypatch), as_protocol('mtt').scaled(epochs=1, aug='')
    train([NET(), NET()], some_data(), p, .01); train(NET(), some_data(), p, .01)
    train_experts(NET, some_data(), tmp_path, 1, expert_protocol(1, aug=''), quiet=True)
    assert set(seen) == {1} and len(seen) == 3 and told['n'] == 4
    monkeypatch.setattr(students, 'step_work', lambda *a: 1e12)
    train(NET(), some_data(), p, .01)
    assert seen[3:] == [4] and told['n'] == 4

def test_the_loop_takes_what_its_objective_needs(told):
    seen = []
    class Pull(Objective):
        def __init__(self, images): super().__init__(); self.images = images
        def step_images(self, d): return self.images
        def __call__(self, d): seen.append(told['n']); return d.images.square().sum()
    d = Pixels.from_real(some_data(), 1, lr=.01, arch=NET().arch)
    for images in (2, 10**6): distill(d, Pull(images), 1, {'images': partial(torch.optim.SGD, lr=.1)}, quiet=True)
    distill(d, lambda d: seen.append(told['n']) or d.images.square().sum(), 1, {'images': partial(torch.optim.SGD, lr=.1)}, quiet=True)
    assert seen == [1, 4, 1] and told['n'] == 4


def test_processes_are_for_long_small_pieces(told, monkeypatch):
    monkeypatch.setattr(workers, 'cores', lambda: 8); monkeypatch.setattr(workers, 'may_spawn', lambda: True)
    assert processes_for(5, 60, work=1) == 4 and processes_for(2, 60, work=1) == 2 # no more than threads, no more than pieces
    assert processes_for(5, .1, work=1) == processes_for(1, 999, work=1) == processes_for(0, 999, work=1) == 1
    assert processes_for(5, 60, work=1e12) == processes_for(5, 60, 1, 'cuda') == 1
    torch.set_num_threads(1); assert processes_for(5, 60, work=1) == 1

def test_never_more_processes_than_cores(told, monkeypatch):
    monkeypatch.setattr(workers, 'may_spawn', lambda: True)
    for n in (1, 2, 3): monkeypatch.setattr(workers, 'cores', lambda: n); assert processes_for(9, 60, work=1) == n
    assert cores() >= 1

@pytest.mark.parametrize('name', ['file', 'parent', 'daemon'])
def test_who_starts_no_processes(monkeypatch, name):
    assert may_spawn()
    main = sys.modules['__main__']
    if name == 'file': monkeypatch.delattr(main, '__file__')
    if name == 'parent': monkeypatch.setattr(workers.multiprocessing, 'parent_process', lambda: object())
    if name == 'daemon': monkeypatch.setattr(workers.multiprocessing.current_process(), '_config', dict(daemon=True))
    assert not may_spawn()

class Local: pass

def test_what_cannot_be_sent(tmp_path, monkeypatch):
    class Inside: pass
    fails = [lambda: NET(), Inside(), open(os.devnull)]
    assert not any(packed(tmp_path/'f', o) for o in fails)
    assert packed(tmp_path/'f', NET, some_data(), Local())
    monkeypatch.setattr(Local, '__module__', '__main__'); monkeypatch.setattr(sys.modules['__main__'], 'Local', Local, raising=False)
    assert not packed(tmp_path/'f', Local())

@pytest.mark.parametrize('net_fn', [lambda: NET(), functools.partial(lambda w: ConvNet(1, 2, 8, w, 1), 4)])
def test_a_network_that_cannot_be_sent_is_trained_here(two_processes, tmp_path, net_fn, monkeypatch):
    monkeypatch.setattr(workers, 'ProcessPoolExecutor', None)
    a = train_experts(net_fn, some_data(), tmp_path/'a', 3, expert_protocol(1, aug=''), quiet=True)
    b = train_experts(NET, some_data(), tmp_path/'b', 1, expert_protocol(1, aug=''), quiet=True)
    assert len(a) == 3 and torch.equal(a.snapshot(0, -1), b.snapshot(0, -1))

def test_pieces_in_their_order_here(): assert list(spread(pow, iter([1, 2, 3]), (2,))) == [(1, 1), (2, 4), (3, 9)] and list(spread(pow, [])) == []


def test_experts_and_students_of_two_processes_are_those_of_one(two_processes, tmp_path, monkeypatch):
    kw, told = dict(n=3, protocol=expert_protocol(2, batch=4, aug='color_crop'), quiet=True, seed=3), []
    two = train_experts(NET, some_data(), tmp_path/'two', on_expert=lambda i, s: told.append(i), **kw)
    monkeypatch.undo()
    one = train_experts(NET, some_data(), tmp_path/'one', **kw)
    assert sorted(told) == [0, 1, 2] and all(torch.equal(one.snapshot(i, e), two.snapshot(i, e)) for i in range(3) for e in range(3))
    p = as_protocol('mtt').scaled(epochs=2)
    apart, = evaluate(some_data(), some_data(40), NET().arch, p, 3, lr=.01, together=False)
    nets = []
    for i in range(3):
        with students.seeded(0, 'convnet', i): nets.append(NET())
    train(nets, some_data(), p, .01, together=False)
    assert apart.accs == [students.accuracy(n, some_data(40)) for n in nets]

def refuse(job, real):
    "An error in a worker; here some time passes meanwhile."
    if workers._held: raise ValueError(f'{real.name}: this piece\n  is refused')
    time.sleep(.1)

def test_an_error_in_a_worker_is_the_same_line(two_processes, capfd):
    with pytest.raises(ValueError, match='^noise: this piece\n  is refused$'): list(spread(refuse, range(2000), (some_data(),)))
    assert capfd.readouterr().err == ''

PIECE = '''
import os, time
from pathlib import Path
from dd_repro import workers
def piece(job, pid):
    if job == 0: return
    if workers._held: Path(pid).write_text(str(os.getpid()))
    time.sleep(600)
'''
PARENT = ''' # no `if __name__ == '__main__'`: a worker must not run it
import pieces
from dd_repro import workers
workers.processes_for = lambda *a, **kw: 2
open('started', 'a').write('x')
for _ in workers.spread(pieces.piece, [0, 1, 2, 3], ('pid',)): pass
'''

def alive(pid):
    try: os.kill(pid, 0); return 'Z' not in Path(f'/proc/{pid}/stat').read_text().split(')')[1][:3]
    except OSError: return False

def until(what, seconds=120):
    end = time.time() + seconds
    while not what() and time.time() < end: time.sleep(.05)
    return what()

@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='asks the system by /proc')
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_no_worker_stays_when_its_parent_is_gone(tmp_path, how):
    pid = tmp_path/'pid'
    (tmp_path/'pieces.py').write_text(PIECE); (tmp_path/'script.py').write_text(PARENT)
    parent = subprocess.Popen([sys.executable, 'script.py'], cwd=tmp_path, env=os.environ | dict(OMP_NUM_THREADS='1', TMPDIR=str(tmp_path)), stderr=subprocess.PIPE, text=True)
    try:
        assert until(lambda: pid.is_file() and pid.read_text() or parent.poll() is not None) and parent.poll() is None
        worker = int(pid.read_text()); assert alive(worker)
        parent.send_signal(how); parent.wait(240)
        assert until(lambda: not alive(worker), 30)
    finally: parent.kill(); _, err = parent.communicate() # read until the watcher of semaphores has ended, too
    assert how != signal.SIGKILL or err == ''
    assert (tmp_path/'started').read_text() == 'x' and until(lambda: not list(tmp_path.glob('dd_repro-*')), 10)

COLD = '''
import sys, time, torch
from dd_repro import workers
def first(job):
    "What a first step imports."
    before = set(sys.modules)
    p = torch.zeros(1, requires_grad=True); p.sum().backward(); {optimiser}([p], lr=.1).step()
    return len(set(sys.modules) - before)
state = torch.get_rng_state()
{how}
assert torch.equal(state, torch.get_rng_state())
print(max(n for _, n in workers.spread(first, [1, 2])))
'''

@pytest.mark.parametrize('optimiser, how', [('torch.optim.SGD', ''), ('torch.optim.AdamW', 'with torch.inference_mode(): workers.warm()')])
def test_no_piece_is_charged_for_what_pytorch_loads_once(optimiser, how):
    r = subprocess.run([sys.executable, '-c', COLD.format(optimiser=optimiser, how=how)], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
    assert r.returncode == 0 and int(r.stdout) < 20, (r.stdout, r.stderr)

def test_an_experts_seconds_begin_after_the_load(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(experts, 'warm', lambda: order.append('warm'))
    monkeypatch.setattr(experts.time, 'perf_counter', lambda: order.append('clock') or 0.)
    experts._one_expert(0, NET, some_data(), tmp_path, expert_protocol(1, aug=''), 0)
    assert order[:2] == ['warm', 'clock']
