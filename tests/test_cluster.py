"""Claims over machines, rows that are merged, and jobs: what one process, several, and a killed one may do."""
import errno, json, os, signal, subprocess, sys, threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from dd_repro import claims, cluster, many
from dd_repro.claims import Claim, adopted, claimed, create_once, free_claim, give_claim, keep_claim, take_claim, this_place
from dd_repro.files import file_lock
from dd_repro.many import dd_rows, landed, part_file, run_batch, wanted
from dd_repro.records import Row, merge_rows, read_rows, record
from dd_repro.rows import Places

TOP = Path(__file__).parent.parent

@pytest.fixture
def home(tmp_path, monkeypatch):
    for k, v in dict(DD_HOME=tmp_path/'home', DD_RESULTS=tmp_path/'none', DD_DEVICE='cpu', OMP_NUM_THREADS=1).items(): monkeypatch.setenv(k, str(v))
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(TOP), *filter(None, [os.environ.get('PYTHONPATH')])]))
    return tmp_path/'home'

class Server:
    "A file system with a clock of its own, and machines that use it."
    def __init__(self, folder): self.folder, self.t = folder, 5e8 # years behind this machine
    def beat(self, path): os.utime(path, (self.t, self.t))
    def __call__(self, place, name='x'): return Claim(self.folder/name, place=place, beat=self.beat)

@pytest.fixture
def server(tmp_path): return Server(tmp_path)

def names(folder): return sorted(f.name for f in folder.iterdir())

def processes(code, n, *words):
    "What processes print that begin together."
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(TOP), *filter(None, [os.environ.get('PYTHONPATH')])]))
    ps = [subprocess.Popen([sys.executable, '-c', code, str(i), *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) for i in range(n)]
    for p in ps: assert p.stdout.readline() == 'ready\n'
    for p in ps: p.stdin.write('go\n'); p.stdin.flush()
    return [p.communicate()[0] for p in ps], ps

# --- leases

def test_a_claim_lasts_as_long_as_its_heartbeat_and_one_lease_more(server):
    a, b = server('n1'), server('n2')
    assert take_claim(a) and not take_claim(b)
    for _ in range(5):
        server.t += 179; assert not take_claim(b)
        a.beat(a.path)
    server.t += 181
    assert take_claim(b) and b.held() and not a.held() and not take_claim(server('n3'))
    with pytest.raises(OSError, match='somebody has taken this claim over') as e: a.check()
    assert e.value.errno == errno.ESTALE
    free_claim(a)
    assert b.held(), 'who has lost a claim removes nothing'
    free_claim(b)
    assert names(server.folder) == []

def test_the_clock_is_that_of_the_file_system(server, monkeypatch):
    monkeypatch.setattr('time.time', lambda: 4e9)
    a, b = server('n1'), server('n2')
    assert take_claim(a) and not take_claim(b)

def test_who_runs_on_this_machine_is_asked_for_in_its_table_of_processes(server):
    here, there = server(this_place()), server('n2')
    assert take_claim(here)
    server.t += 1e6
    assert not take_claim(server(this_place())), 'alive, if late: as when a laptop slept'
    assert take_claim(there), 'another machine cannot know'
    free_claim(there)
    p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    take_claim(here)
    give_claim(here, p.pid)
    assert not take_claim(server(this_place()))
    p.kill(); os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT) # a zombie: its parent has not asked yet
    again = server(this_place())
    assert take_claim(again) and not here.held()
    p.communicate()

def test_a_number_that_another_process_has_now_is_not_the_holder(server):
    a = server(this_place())
    assert take_claim(a)
    a.path.write_text(json.dumps(json.loads(a.path.read_text()) | dict(born='1')))
    assert take_claim(server(this_place()))

@pytest.mark.parametrize('dies', ['after it has won', 'twice', 'while it lets go'])
def test_who_dies_while_it_takes_over_is_followed(server, dies):
    a, b, c, d = map(server, ('n1', 'n2', 'n3', 'n4'))
    assert take_claim(a)
    if dies != 'while it lets go': server.t += 181
    last = a.token
    for claim in [b, c] if dies == 'twice' else [b]:
        own = claim.write(claim.path.name + claim.place)
        assert create_once(own, claim.after(last))
        own.unlink()
        last = claim.path.name + claim.place
        if dies == 'twice': server.t += 181
    assert not a.held(), 'somebody follows'
    if dies != 'twice':
        assert not take_claim(d)
        server.t += 181
    assert take_claim(d) and names(server.folder) == ['x']

def test_who_finds_a_claim_stale_too_late_does_nothing(server, monkeypatch):
    "b sees a's stale claim; before it acts, c takes it over, and lets go, and d has it."
    a, b, c, d = map(server, ('n1', 'n2', 'n3', 'n4'))
    take_claim(a)
    server.t += 181
    create, meanwhile = claims.create_once, [True]
    def late(own, name):
        if meanwhile and name == b.after(a_token):
            meanwhile.clear()
            assert take_claim(c)
            free_claim(c)
            assert take_claim(d)
        return create(own, name)
    a_token = a.token
    monkeypatch.setattr(claims, 'create_once', late)
    assert not take_claim(b) and d.held() and names(server.folder) == ['x']

def test_where_there_are_no_links(server, monkeypatch):
    def none(*a): raise OSError(errno.EOPNOTSUPP, 'no links')
    monkeypatch.setattr(os, 'link', none)
    a, b = server('n1'), server('n2')
    assert take_claim(a)
    server.beat(a.path) # made at this moment, not linked
    assert not take_claim(b)
    server.t += 181
    assert take_claim(b)
    free_claim(b)
    assert names(server.folder) == []

def test_an_answer_that_was_lost_is_no_failure(server, monkeypatch):
    link = os.link
    def lost(a, b): link(a, b); raise FileExistsError
    monkeypatch.setattr(os, 'link', lost)
    assert take_claim(server('n1'))

def test_a_claim_that_is_cut_off_is_one(server):
    (server.folder/'x').write_text('{"tok')
    server.beat(server.folder/'x')
    assert not take_claim(server('n1'))
    server.t += 181
    assert take_claim(server('n1')) and names(server.folder) == ['x']

def test_a_heartbeat_finds_that_the_claim_is_lost(server):
    a, b, told = server('n1'), server('n2'), threading.Event()
    take_claim(a)
    server.t += 181
    assert take_claim(b)
    keep_claim(a, .001, told.set)
    assert told.wait(60) and a.lost and not b.lost

def test_a_claim_is_adopted_by_the_process_it_was_given_to_and_by_no_other(tmp_path):
    mine = Claim(tmp_path/'x')
    take_claim(mine)
    give_claim(mine, os.getpid())
    assert adopted(mine.path, mine.token, wait_s=0).held()
    with pytest.raises(BlockingIOError, match='somebody else holds it'): adopted(mine.path, mine.token, pid=1, wait_s=0)
    with pytest.raises(BlockingIOError): adopted(mine.path, 'other', wait_s=0)

def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*a, **kw): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(Path, 'write_text', full)
    with pytest.raises(OSError, match='could not write .*x: No space left'):
        with claimed(tmp_path/'x'): pass
    assert names(tmp_path) == []

# --- two claimants

RACE = """
import os, sys
from pathlib import Path
from dd_repro import claims
from dd_repro.claims import *
me, top, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
print('ready', flush=True); input()
for r in range(rounds): # every round one stale claim; each process is a machine
    while not (top/f'{r}').exists(): pass
    c = Claim(top/f'{r}'/'x', place='n' + me)
    if take_claim(c): (top/f'{r}'/f'won-{me}').touch()
    (top/f'{r}'/f'tried-{me}').touch()
"""

def test_a_stale_claim_is_taken_over_by_exactly_one_of_three_processes(tmp_path):
    top, rounds = tmp_path/'made', 60
    top.mkdir()
    for r in range(rounds):
        at = tmp_path/f'r{r}'
        at.mkdir()
        old = Claim(at/'x', place='dead')
        take_claim(old)
        os.utime(at/'x', (1e9, 1e9))
        at.rename(top/f'{r}')
    processes(RACE, 3, top, rounds)
    won = [[f.name for f in (top/f'{r}').glob('won-*')] for r in range(rounds)]
    assert [len(w) for w in won] == [1]*rounds
    assert all(len(list((top/f'{r}').glob('tried-*'))) == 3 for r in range(rounds))
    assert all(f.name == 'x' or f.name[:4] in ('won-', 'trie') for r in range(rounds) for f in (top/f'{r}').iterdir())

COUNT = """
import os, sys
from pathlib import Path
from dd_repro.files import file_lock
from dd_repro.records import Row, record
me, file = sys.argv[1], Path(sys.argv[2])
print('ready', flush=True); input()
for i in range(25): record(Row(f'x/{me}/{i}', mean=i), file)
if me == '0':
    with file_lock(file): print('holds', flush=True); os.kill(os.getpid(), 9)
"""

def test_rows_of_three_processes_are_all_there_once_and_one_was_killed_with_the_lock(tmp_path):
    out, ps = processes(COUNT, 3, tmp_path/'r.csv')
    assert 'holds' in out[0] and [p.returncode for p in ps] == [-9, 0, 0]
    assert sorted(r.row for r in read_rows(tmp_path/'r.csv')) == sorted(f'x/{p}/{i}' for p in range(3) for i in range(25))
    record(Row('x/after', mean=1), tmp_path/'r.csv')
    assert names(tmp_path) == ['r.csv']

def test_a_row_is_not_written_by_who_has_lost_the_lock(tmp_path, monkeypatch):
    file = tmp_path/'r.csv'
    record(Row('x/1', mean=1), file)
    before = file.read_bytes()
    def gone(self): raise OSError(errno.ESTALE, 'somebody has taken this claim over')
    monkeypatch.setattr(Claim, 'check', gone)
    with pytest.raises(OSError, match='taken this claim over'): record(Row('x/2', mean=1), file)
    assert file.read_bytes() == before

# --- rows that are merged

def test_merging_twice_is_merging_once(tmp_path):
    parts = [tmp_path/f'{i}.csv' for i in 'ab']
    for p in parts: record([Row(f'x/{p.stem}/{i}', mean=i, device='gpu, "new"') for i in range(3)], p)
    whole = tmp_path/'all.csv'
    assert [merge_rows(p, whole) for p in parts*2] == [3, 3, 0, 0] and len(read_rows(whole)) == 6
    assert whole.read_bytes() == parts[0].read_bytes() + parts[1].read_bytes().partition(b'\n')[2], 'lines as they were'

TOY = 'mtt/table1/cifar10/dm/ipc1'

@pytest.mark.parametrize('at', ['landed', 'note_row'])
def test_who_dies_before_a_row_is_merged_or_noted_neither_loses_nor_doubles_it(home, tmp_path, monkeypatch, at):
    w, file, runs, true = wanted([TOY], dict(smoke=True)), str(tmp_path/'r.csv'), [], getattr(many, at)
    def run_row(r, smoke, part, seed, *a, **kw):
        runs.append(r.row)
        row = Row('x', mean=3.)
        record(row, part)
        record(Row('plan/x', mean=3.), Path(part).with_name('plans.csv'))
        return [row]
    def dies(*a, **kw): raise KeyboardInterrupt
    monkeypatch.setattr(many, 'run_row', run_row)
    monkeypatch.setattr(many, at, dies)
    with pytest.raises(KeyboardInterrupt): run_batch([w], Places(), file)
    monkeypatch.setattr(many, at, true)
    run_batch([w], Places(), file)
    assert runs == [w.r.row] and [r.row for r in read_rows(file)] == ['x'] and len(read_rows(tmp_path/'plans.csv')) == 1
    assert not list((home/'parts').iterdir()) and many.is_done(w, many.read_json(many.ledger()), file)

# --- jobs

def refused(capsys, *a, **kw):
    with pytest.raises(SystemExit) as e: dd_rows(*a, **kw)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1, err
    return err

@pytest.mark.parametrize('kw, says', [(dict(slurm=True), 'there is no Slurm here'), (dict(partition='gpu'), '--partition does nothing without --slurm'), (dict(gpus=2), '--gpus does nothing without'), (dict(cpus=2), '--cpus does nothing without'),
    (dict(slurm=True, local=True), '--slurm does nothing beside --local'), (dict(local=True, minutes=3), '--minutes does nothing beside --local'), (dict(local=True, hours=0), 'hours is 0'), (dict(ranks=0), 'ranks is 0')])
def test_bad_input_is_one_line(capsys, home, monkeypatch, kw, says):
    monkeypatch.setattr(cluster.shutil, 'which', lambda n: None)
    assert says in refused(capsys, TOY, **kw) and not home.exists()

def test_a_house_that_nobody_else_can_see(capsys, home, monkeypatch):
    monkeypatch.setattr(cluster.shutil, 'which', lambda n: n)
    assert 'is a folder of this machine alone' in refused(capsys, TOY, slurm=True)

def test_a_house_that_cannot_be_written(capsys, home, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('DD_HOME', str(tmp_path/'file'))
    assert 'must be a folder that can be written' in refused(capsys, TOY, local=True)

def test_without_submitit(capsys, home, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    assert "pip install 'dd_repro[cluster]'" in refused(capsys, TOY, local=True)

def test_a_job_in_another_house_or_with_other_code_does_nothing(home, tmp_path, monkeypatch):
    said = cluster.open_house()
    cluster.same_house(said)
    with pytest.raises(ValueError, match='the code has changed since'): cluster.same_house(said | dict(code='0'))
    monkeypatch.setenv('DD_HOME', str(tmp_path/'other'))
    with pytest.raises(ValueError, match='does not see the DD_HOME of the machine that submitted'): cluster.same_house(said)

def test_what_slurm_is_asked_for(home, tmp_path, monkeypatch):
    "An `sbatch` that keeps what it is given, in the place of Slurm."
    bin_ = tmp_path/'bin'
    bin_.mkdir()
    for n, text in dict(sbatch=f'cp "$1" {tmp_path}/asked.sh; echo Submitted batch job 77', srun=':').items():
        (bin_/n).write_text(f'#!/bin/sh\n{text}\n'); (bin_/n).chmod(0o755)
    monkeypatch.setenv('PATH', f'{bin_}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setattr(cluster.tempfile, 'gettempdir', lambda: str(tmp_path/'tmp'))
    dd_rows([TOY, 'mtt/table1/cifar10/dsa/ipc1', 'mtt/table1/cifar10/dc/ipc1'], smoke=True, slurm=True, workers=2, partition='night', hours=1.5, cpus=6, ranks=4)
    asked = (tmp_path/'asked.sh').read_text()
    for line in ('--partition=night', '--time=90', '--cpus-per-task=6', '--gpus-per-node=4', '--array=0-1%2', '--nodes=1', '--ntasks-per-node=1', '--signal=USR2@90'): assert line in asked, (line, asked)

def test_cards_of_jobs_on_one_machine():
    assert [cluster.local_env(i, 2) for i in (0, 1)] == [dict(CUDA_VISIBLE_DEVICES='0,1'), dict(CUDA_VISIBLE_DEVICES='2,3')] and cluster.local_env(0) == {}

def test_torchrun_stands_before_a_row_torchrun_words():
    assert many.torchrun_words(1) == ['-m'] and '--nproc-per-node=4' in many.torchrun_words(4)

def test_a_queue_waits_for_experts_that_others_make_and_for_nothing_else(home):
    from test_queue import queue
    q = queue(['mtt/table1/cifar10/ipc1'], None, patient=True)
    experts, out = q.batches[0].needs
    lock = lambda n: file_lock(home/'claims'/n)
    assert not q.waits()
    with lock(experts):
        assert q.waits()
        with lock(out): assert not q.waits(), 'somebody is at it'
        q.halted = 'x'; assert not q.waits()

def test_a_queue_that_is_left_frees_its_claims_and_lets_rows_save_themselves(home):
    from test_queue import Process, queue
    class Saves(Process):
        def wait(self, s): self.asked.append('waited')
    q = queue([TOY], lambda b, w: Saves(None))
    q.step()
    p, c = q.workers[0].process, q.workers[0].claims[0]
    assert c.held()
    q.leave()
    assert p.asked == ['term', 'waited'] and not c.path.exists()

def test_a_preempted_job_is_queued_again_and_goes_on(home, tmp_path, capsys):
    "The whole way on this machine: a row's process is stopped by the signal that Slurm sends, and made by the second start of the job."
    import time
    words = [sys.executable, '-m', 'dd_repro', 'rows', TOY, '--smoke', '--local', '--record_to', str(tmp_path/'r.csv')]
    p = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    job = next(l for l in p.stdout if '1 job: ' in l).split('1 job: ')[1].split(';')[0]
    log, until = home/'logs'/'jobs'/job/f'{job}_0_log.out', time.monotonic() + 120
    while not (log.is_file() and ' begins ' in log.read_text()) and time.monotonic() < until: time.sleep(.05)
    task, = Path(f'/proc/{job}/task/{job}/children').read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    out = p.communicate(timeout=300)[0]
    said = log.read_text()
    assert '1 done, 0 left, 0 failed' in out and p.returncode == 0, out + said
    assert 'this job is preempted' in said and 'Requeued' in said and said.count(' begins ') == 2
    assert [r.row for r in read_rows(tmp_path/'r.csv')] == [f'smoke/{TOY}'] and not [f for f in (home/'claims').iterdir()]

@pytest.mark.parametrize('said', ['[]', '5', 'null', '"a"', '{"place": "here"}', '{"token": "a/b", "pid": 3}', '{"token": "ab", "pid": "a"}', '{"token": "ab", "pid": 1.5}', '{"token": "ab", "pid": 99999999999999}', '{"token": "ab", "pid": true}'])
def test_a_claim_that_is_no_card_lasts_as_long_as_a_lease(server, said):
    c = server('a')
    c.path.write_text(said, encoding='utf-8')
    server.beat(c.path)
    assert not take_claim(c)
    server.t += c.lease + 1
    assert take_claim(c) and c.held()

@pytest.mark.parametrize('what', ['link', 'pipe', 'folder'])
def test_what_is_no_file_is_in_the_way_of_a_claim(tmp_path, what):
    at = tmp_path/'x'
    dict(link=lambda: at.symlink_to(tmp_path/'none'), pipe=lambda: os.mkfifo(at), folder=at.mkdir)[what]()
    with pytest.raises(OSError, match='in the way of a claim'): take_claim(Claim(at))
    assert names(tmp_path) == ['x']

def test_a_claim_goes_where_there_is_no_room_for_another_card(tmp_path, monkeypatch):
    c = Claim(tmp_path/'x')
    assert take_claim(c)
    with monkeypatch.context() as m:
        def full(*_): raise OSError(errno.ENOSPC, 'No space left on device')
        m.setattr(Claim, 'write', full)
        free_claim(c)
    assert names(tmp_path) == [] and take_claim(Claim(tmp_path/'x'))

@pytest.mark.parametrize('said', ['[]', '5', '{"a', '{"key": 5, "other": {"made": 1}}'])
def test_a_damaged_note_is_no_note(home, said):
    home.mkdir(parents=True)
    many.ledger().write_text(said, encoding='utf-8')
    assert set(many.lines_noted()) <= {'other'}
    many.note_row('new', made=2)
    assert many.lines_noted()['new'] == dict(made=2)

@pytest.mark.parametrize('kw, says', [(dict(ranks=1000), '--ranks is 1000; this machine has'), (dict(local=True, ranks=1000), '--ranks is 1000'), (dict(local=True, gpus=99), '--gpus is 99; this machine has'),
    (dict(local=True, partition='a'), '--partition does nothing without --slurm'), (dict(local=True, cpus=3), '--cpus does nothing without --slurm'), (dict(account='me'), '--account does nothing without --slurm')])
def test_what_this_machine_has_not_and_what_does_nothing(capsys, home, kw, says): assert says in refused(capsys, TOY, **kw) and not home.exists()

@pytest.mark.parametrize('gone', [True, False])
def test_a_rank_whose_torchrun_was_killed_ends(gone):
    "The process that is to be asked is looked for again when there is something to ask."
    code = "import os, signal, sys, time; from dd_repro import many; many.GRACE_S = .01\nmany.started = lambda: (0, 2)\n" + ("os.getppid = iter([99999999] + [1]*9).__next__\n" if gone else 'signal.signal(signal.SIGTERM, lambda *_: None)\nos.getppid = os.getpid\n') + "many._watch_parent(); time.sleep(60)"
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(TOP), *filter(None, [os.environ.get('PYTHONPATH')])]))
    assert subprocess.run([sys.executable, '-c', code], stdin=subprocess.DEVNULL, env=env, timeout=50).returncode == 1
