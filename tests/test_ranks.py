"""Two ranks of torchrun against one process: two starts for all checks (`ranks_drive.py`, `ranks_kill.py`), since a start takes as long as many of them. Below them what one process can be asked."""
import json, os, subprocess, sys
from pathlib import Path

import pytest
import ranks_drive as drive
from dd_repro import parallel
from dd_repro.parallel import first_to_say, joined, leads, my_rank, my_share, my_slice, n_ranks, one_complains, rank_device, split_sizes, started

HERE = Path(__file__).parent

def torchrun(top, script, *options):
    "Two ranks of a script; what they wrote, and what they said."
    env = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'MASTER_PORT')} | dict(OMP_NUM_THREADS='1', DD_HOME=str(top/'home'), PYTHONPATH=os.pathsep.join([str(HERE.parent), str(HERE)]))
    line = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', *options, str(HERE/script), str(top)]
    r = subprocess.run(line, env=env, capture_output=True, text=True, timeout=600)
    said = top/'said.json'
    assert said.is_file(), r.stdout[-1000:] + r.stderr[-3000:]
    return json.loads(said.read_text()), r

@pytest.fixture(scope='module')
def two(tmp_path_factory): return torchrun(tmp_path_factory.mktemp('ranks'), 'ranks_drive.py')

@pytest.mark.parametrize('name', drive.CHECKS)
def test_two_ranks_and_one_process(two, name): assert two[0].get(name) == [], '\n'.join(two[0].get(name, ['it did not end\n' + two[1].stderr[-2000:]]))

def test_one_rank_speaks(two):
    assert two[1].returncode == 0 and two[1].stdout.count('a batch of 5 images is split over 2 ranks as 3, 2') >= 1
    assert two[1].stdout.count('1 teacher of digits') == 1

def test_killed_ranks_go_on_from_what_is_on_disk(tmp_path):
    said, r = torchrun(tmp_path, 'ranks_kill.py', '--max-restarts=3')
    assert said['killed'] == ['killed-batch', 'killed-expert', 'killed-writer'] and said['starts'] == 4
    assert said['same'] and not said['left']
    assert set(said['trained'].values()) == {2}, 'each expert once in the run that was killed, once in the other'
    assert r.returncode == 0

# --- one process

def test_without_torchrun_there_is_one(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4') # a cluster's own variable is no torchrun
    assert started() == (0, 1) and (n_ranks(), my_rank(), leads()) == (1, 0, True)
    with joined('cpu'), one_complains(): assert n_ranks() == 1
    assert my_share('abc') == ['a', 'b', 'c'] and my_slice(5) == slice(0, 5) and first_to_say('x') and first_to_say('x')

@pytest.mark.parametrize('n, k, sizes', [(10, 4, [3, 3, 2, 2]), (4, 4, [1]*4), (7, 2, [4, 3]), (5, 1, [5])])
def test_how_a_batch_is_split(n, k, sizes): assert split_sizes(n, k) == sizes

def test_a_batch_smaller_than_the_world():
    with pytest.raises(ValueError, match='a batch of 3 images cannot be split over 4 ranks; take fewer'): split_sizes(3, 4)

@pytest.fixture
def second(monkeypatch):
    "The second of two processes that torchrun started on one machine."
    for k, v in dict(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2, MASTER_ADDR='localhost', MASTER_PORT=1).items(): monkeypatch.setenv(k, str(v))

def test_a_rank_without_a_device(second, monkeypatch):
    import torch
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    taken = []
    monkeypatch.setattr(torch.cuda, 'set_device', taken.append)
    with pytest.raises(ValueError, match=r'has no GPU: there are 1 on its machine for 2 ranks; start 1 \(--nproc-per-node\), or say --device cpu'): rank_device('cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert rank_device('cuda') == 'cuda:1' and taken == [1] and rank_device('cpu') == 'cpu'
    with pytest.raises(ValueError, match="device 'cuda:0': every rank takes the GPU of its own number"): rank_device('cuda:0')

def test_another_rank_is_silent_about_the_line(second, capsys):
    with pytest.raises(SystemExit) as e, one_complains(): raise ValueError('no such option')
    assert e.value.code == 2 and capsys.readouterr() == ('', '')

def test_what_is_not_shared_is_done_by_the_first(second, capsys):
    from dd_repro.entry import start
    assert start('dd_table', ['--coverage']) is None and capsys.readouterr() == ('', '')
    assert parallel.n_ranks() == 1
