"""The GPU kit from end to end on a CPU: staged, leased, merged; and what each part refuses."""
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dd_repro.records import Row, read_rows, record

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT/'docs'/'gpu'
ROW = 'mtt/table1/cifar10/random/ipc1'
PACKED = 'cifar10-train-1.npz', 'cifar10-train-2.npz', 'cifar10-test.npz', 'manifest.json'
UNPACK = 'import sys, pathlib; pathlib.Path(sys.argv[1], "unpacked").write_text(sys.argv[2])'
QUEUE = f'# remark\ncpu  {ROW} --smoke # a minute\n\n'

if not shutil.which('git'): pytest.skip('git is not installed', allow_module_level=True)


# ------------------------------------------------------------ a checkout, and a machine
def run(cwd, *words, ok=True, **env):
    "What a process printed, both streams; it must end well, or in one line."
    env = os.environ | dict(OMP_NUM_THREADS='1', GIT_CEILING_DIRECTORIES=str(cwd.parent)) | env
    r = subprocess.run([str(w) for w in words], cwd=cwd, env=env, capture_output=True, text=True)
    assert (r.returncode == 0) == ok, r.stdout[-2000:] + r.stderr[-3000:]
    if not ok: assert r.stderr.count('\n') == 1, r.stderr
    return r.stdout + r.stderr

def tool(cwd, name, *words, **kw):
    "A program of the kit in a checkout."
    return run(cwd, sys.executable, f'docs/gpu/{name}.py', *words, **kw)

def git(cwd, *words):
    "git with a name of its own."
    who = 'user.name=kit', 'user.email=kit@example.org', 'commit.gpgsign=false'
    return run(cwd, 'git', *(x for w in who for x in ('-c', w)), *words)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "What is needed of the tree, committed, with packed data and a queue beside it."
    top = tmp_path_factory.mktemp('kit')
    here = top/'tree'
    shutil.copytree(ROOT/'dd_repro', here/'dd_repro') # with what Python has compiled
    shutil.copytree(KIT, here/'docs'/'gpu', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('artefacts', 'images', 'results'): (here/'docs'/name).mkdir()
    for name in ('artefacts', 'images'): (here/'docs'/name/'large').write_bytes(bytes(1000))
    shutil.copy(ROOT/'.gitignore', here)
    (top/'data').mkdir()
    for name in PACKED: (top/'data'/name).write_bytes(b'0')
    (top/'data'/'unpack.py').write_text(UNPACK)
    (top/'queue.txt').write_text(QUEUE)
    git(here, 'init', '-q')
    git(here, 'add', '.')
    git(here, 'commit', '-q', '-m', 'all')
    return top

@pytest.fixture
def top(made, tmp_path):
    "A copy for one test."
    return Path(shutil.copytree(made, tmp_path/'top'))

def stage(top, what='all', queue='queue.txt', **kw):
    "stage.py in the checkout, without packages."
    words = '--data', '../data', '--queue', f'../{queue}', '--no_wheels'
    return tool(top/'tree', 'stage', what, *words, **kw)

def machine(top, call):
    "The tree as a call finds it: no .git, one folder carried."
    away = '.git', '.carry'
    there = top/'machine'
    if there.exists(): shutil.rmtree(there)
    shutil.copytree(top/'tree', there, ignore=shutil.ignore_patterns(*away))
    shutil.copytree(top/'tree'/'.carry'/f'call-{call}', there/'.carry'/f'call-{call}')
    return there

def lease(top, call, *words):
    "lease.py on the machine; the folder that comes back."
    there, out, kit = machine(top, call), top/f'out-{call}', f'.carry/call-{call}'
    words = '--queue', f'{kit}/queue.txt', '--device', 'cpu', '--poll', '.1', *words
    home = dict(HOME=str(top/'home'), PYTHONPATH='')
    run(there, sys.executable, f'{kit}/lease.py', '--minutes', '5', '--out', out, *words, **home)
    return out

def test_a_lease(top):
    "Staged, checked, run, merged twice, restored."
    tree, said = top/'tree', stage(top)
    assert '--minutes 4 --check' in said and not (tree/'docs'/'artefacts').exists()
    out = lease(top, 1, '--check', '--cells', 'machine,float64,method', '--check_seconds', '100', '--workers', '1')
    cells = [json.loads(l) for l in (out/'check.jsonl').read_text().splitlines()]
    assert [c['cell'].split()[0] for c in cells] == ['machine', *['float64']*4, *['method']*6, 'end']
    assert all(c['rel'] < 1e-12 for c in cells[5:11])
    assert max(c[k] for c in cells[1:5] for k in ('end', 'images', 'lr')) < 1e-9
    log = (out/'lease.log').read_text()
    assert 'data still to come: cifar10-train-2.npz cifar10-test.npz' in log
    assert f'cpu done  {ROW} --smoke' in log and '1 done, 0 left, 0 failed' in log

    lease(top, 2)
    log = (top/'out-2'/'lease.log').read_text()
    assert 'begins' not in log and '1 were done before' in log, 'finished rows are left out'
    assert (top/'home'/'data'/'unpacked').read_text() == 'cifar10'

    assert '0 new of 1 rows' in tool(tree, 'merge', top/'out-2'), 'smoke rows are not wanted'
    assert '1 new of 1 rows' in tool(tree, 'merge', top/'out-1', '--smoke')
    file = tree/'docs'/'results'/'mtt.csv'
    row, = read_rows(file)
    head = git(tree, 'rev-parse', 'HEAD')[:12]
    assert (row.row, row.protocol, row.commit) == (f'smoke/{ROW}', 'smoke', head)
    before = file.read_bytes()
    assert '0 new of 1 rows' in tool(tree, 'merge', top/'out-2', '--smoke')
    assert file.read_bytes() == before

    said = tool(tree, 'stage', 'restore')
    assert 'are back' in said and (tree/'docs'/'artefacts'/'large').stat().st_size == 1000
    assert not list((tree/'.carry').glob('call-*')) and ' D ' not in said
    stage(top, '1')
    done = json.loads((tree/'.carry'/'call-1'/'state'/'done.json').read_text())
    assert done[f'{ROW} --smoke']['whole'], 'the next lease knows what is finished'


# ------------------------------------------------------------ merge, by itself
@pytest.fixture
def merge(tmp_path, monkeypatch):
    "merge.py as a module, in an empty folder."
    spec = importlib.util.spec_from_file_location('merge', KIT/'merge.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module

def packed(folder, *rows, more=(), commit='abc'):
    "A rows.tar with these rows, as lease.py packs it, and other files behind them."
    for d in ('results', 'logs'): (folder/d).mkdir(parents=True)
    for r in rows: record(r, folder/'results'/'mtt.csv')
    (folder/'note.json').write_text(json.dumps(dict(calls=[dict(commit=commit)])))
    for name, data in more: (folder/name).write_bytes(data)
    out = folder.parent/f'{folder.name}-out'
    out.mkdir()
    with tarfile.open(out/'rows.tar', 'w') as t:
        names = 'results/mtt.csv', 'note.json', *(n for n, _ in more)
        for name in names: t.add(folder/name, name)
    return out

def merged(merge, monkeypatch, *words):
    "merge.py's main with these words; the rows that are there afterwards."
    monkeypatch.setattr(sys, 'argv', ['merge.py', *map(str, words)])
    merge.main()
    return read_rows('docs/results/mtt.csv')

def a_row(protocol, **kw):
    "A row without a commit, as it is recorded where there is no git."
    kw = dict(method='m', net='n', metric='accuracy', mean=50., n=1) | kw
    return Row('mtt/table1/x', protocol, **kw)

@pytest.fixture
def no_git(monkeypatch):
    "As on the machine: the package finds no commit."
    monkeypatch.setattr('dd_repro.records.git_commit', lambda: '')

@pytest.mark.parametrize('said, why', [('', '{}'), ('width 8', 'width 8; {}')])
def test_paper_becomes_decided(merge, tmp_path, monkeypatch, no_git, capsys, said, why):
    monkeypatch.setattr('dd_repro.records._check_word', lambda r: None) # recorded before it was asked for
    out = packed(tmp_path/'came', a_row('paper', deviations=said), a_row('reduced', mean=40.))
    for _ in range(2): first, other = merged(merge, monkeypatch, out)
    assert (first.protocol, first.deviations) == ('decided', why.format(merge.WHY))
    assert (other.protocol, other.deviations) == ('reduced', '')
    assert (first.commit, other.commit) == ('abc', 'abc')
    assert '2 new of 2 rows' in (text := capsys.readouterr().out) and '0 new of 2 rows' in text

CHECK = [dict(cell='machine', device='A card, TF32 convolutions'), dict(cell='MTT iteration', ipc=1, mode='whole', tf32=False, ms=7., twice=.1, tflops=2., memory_mb=9),
         dict(cell='d3', total=.5), dict(cell='method against the CPU', what='dc', rel=1.23456789e-9, captured=[]), dict(cell='teacher', last=True, dtype='bfloat16', ms=3.), dict(cell='expert', error='no memory'), dict(cell='end')]

def test_seconds_of_a_lease_are_recorded_once(merge, tmp_path, monkeypatch, no_git):
    "What the check measured, and what whole rows took."
    done = {'mtt/table1/x --last': dict(row='mtt/table1/x', whole=True, failed=0, seconds=12.5, date='2026-01-01'), 'mtt/table1/y': dict(row='mtt/table1/y', whole=False, failed=0, seconds=3.)}
    out = packed(tmp_path/'came', a_row('decided', device='A card'), more=[('done.json', json.dumps(done).encode())])
    (out/'check.jsonl').write_text('\n'.join(map(json.dumps, CHECK)))
    for _ in range(2): merged(merge, monkeypatch, out)
    found = read_rows('docs/results/gpu.csv')
    rows = {r.row: r for r in found}
    assert len(rows) == len(found)
    assert {n: (r.mean, r.unit, r.commit) for n, r in rows.items()} == {
        'gpu/mtt-iteration/ipc=1/mode=whole/tf32=False': (7., 'ms', 'abc'), 'gpu/d3': (500., 'ms', 'abc'), 'gpu/method-against-the-cpu/what=dc': (1.23457e-9, '', 'abc'),
        'gpu/teacher/last=True/dtype=bfloat16': (3., 'ms', 'abc'), 'gpu/row/mtt/table1/x': (12.5, 's', 'abc')}
    assert rows['gpu/mtt-iteration/ipc=1/mode=whole/tf32=False'].device == 'A card, TF32 off' and rows['gpu/row/mtt/table1/x'].deviations == '--last'

def test_a_cut_archive(merge, tmp_path, monkeypatch, no_git, capsys):
    "What is whole in it is used, and a file that was cut is not kept."
    more = ('logs/a.log', b'whole'), ('logs/b.log', os.urandom(60_000))
    out = packed(tmp_path/'came', a_row('decided'), more=more)
    whole = (out/'rows.tar').read_bytes()
    (out/'rows.tar').write_bytes(whole[:whole.index(more[1][1][:50]) + 30_000])
    assert len(merged(merge, monkeypatch, out)) == 1
    assert 'rows.tar: cut off' in capsys.readouterr().out
    assert [f.name for f in Path('.carry/logs').iterdir()] == ['a.log']

def test_merge_refuses(merge, tmp_path, monkeypatch, no_git):
    with pytest.raises(SystemExit, match='no rows.tar there'): merged(merge, monkeypatch, tmp_path)
    out = packed(tmp_path/'came', a_row('decided'), commit='')
    with pytest.raises(SystemExit, match='rows without a commit'): merged(merge, monkeypatch, out)
    assert not Path('docs/results/mtt.csv').exists()
    file = tmp_path/'came'/'results'/'mtt.csv'
    file.write_text(file.read_text().replace('50.0', '60.0'))
    with tarfile.open(out/'rows.tar', 'w') as t: t.add(file, 'results/mtt.csv')
    with pytest.raises(SystemExit, match='nothing further was taken over'):
        merged(merge, monkeypatch, out)


# ------------------------------------------------------------ what is refused before anything moves
def untouched(top):
    "Nothing was staged."
    return (top/'tree'/'docs'/'artefacts').is_dir() and not (top/'tree'/'.carry').exists()

@pytest.mark.parametrize('line, says', [
    ('gpu mtt/table1/cifar10/ipc7', 'mtt/table1/cifar10/ipc7'),
    (f'gpu {ROW} widht=8', "has no setting 'widht'")])
def test_an_unknown_line_of_the_queue(top, line, says):
    (top/'queue.txt').write_text(line)
    assert says in stage(top, ok=False) and untouched(top)

def test_a_missing_file_and_too_much(top):
    (top/'data'/'cifar10-test.npz').unlink()
    assert 'not there: ../data/cifar10-test.npz' in stage(top, ok=False) and untouched(top)
    with open(top/'data'/'cifar10-test.npz', 'wb') as f: f.truncate(61 << 20)
    assert 'call 2' in (said := stage(top, ok=False)) and 'too much' in said and untouched(top)
    assert 'too much' not in stage(top, '1')

def test_two_folders_of_one_name(top):
    stage(top, '3')
    (top/'tree'/'docs'/'images').mkdir()
    assert 'are both there' in tool(top/'tree', 'stage', 'restore', ok=False)

def test_stage_is_run_in_a_checkout(tmp_path):
    said = run(tmp_path, sys.executable, KIT/'stage.py', 'all', ok=False)
    assert said == 'run this in the top folder of a checkout\n'

def test_the_queue_is_known():
    "Every line of the kit's own queue is a row of this tree, with settings that it has."
    run(ROOT, sys.executable, '-c', 'import sys; sys.path.insert(0, "docs/gpu"); import stage; '
        'stage.check_queue("docs/gpu/queue.txt")')

def test_the_box_and_the_cells_of_the_check(tmp_path):
    words = sys.executable, KIT/'check_gpu.py', 'cpu', tmp_path/'c.jsonl'
    env = dict(PYTHONPATH=str(ROOT))
    r = subprocess.run([*words, '0'], cwd=tmp_path, env=os.environ | env, capture_output=True)
    last = json.loads((tmp_path/'c.jsonl').read_text().splitlines()[-1])
    assert r.returncode == 3 and last['cell'] == 'import' and 'not done after' in last['error']
    said = run(tmp_path, *words, '--cells', 'machine,speed', ok=False, **env)
    assert "no cell begins with 'speed'; there are machine, float64 against the CPU" in said
