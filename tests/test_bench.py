"""dd_bench: what runs in processes of its own, what fails there, and what is said about it. Nothing here asserts on the clock."""
import math, os, subprocess, sys

import pytest, torch

from dd_repro import bench, core
from dd_repro.bench import bench_unroll, claims, dd_bench, ratios, report, run_cell, summary, unroll_cells, visits
from dd_repro.core import ONE_THREAD_MAX
from dd_repro.entry import start
from dd_repro.records import read_rows

TINY = dict(width=4, threads=1, n_mat=64)


def cell(form, mode, seconds, mb, batch=100, N=30, width=128):
    "A made-up visit."
    return dict(form=form, mode=mode, batch=batch, N=N, width=width, seconds=seconds, memory_mb=mb, matmul=150., warm='2 steps')

def command(*words):
    "The command in a process of its own."
    env = os.environ | dict(OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable, '-c', 'from dd_repro.entry import dd_bench; dd_bench()', *words], capture_output=True, text=True, env=env)

def test_quick_run_by_function_prints_and_records(tmp_path, capsys):
    dd_bench('unroll', alloc='tuned', quick=True, threads=1, record_to=str(tmp_path/'bench.csv'))
    out, rows = capsys.readouterr().out, read_rows(tmp_path/'bench.csv')
    assert 'b4 N3 seconds: adjoint-tuned / bptt-tuned = ' in out and 'claim' not in out
    assert [r.row for r in rows] == [f'bench/unroll/b4-N3/{f}-tuned/{m}' for f in ('bptt', 'adjoint') for m in ('seconds', 'memory_mb', 'gflops')]
    assert {r.protocol for r in rows} == {'smoke'} and all(r.n == 1 and r.mean > 0 for r in rows if r.metric != 'memory_mb')

def test_quick_students_by_the_command(tmp_path):
    r = command('students', '--quick', '--threads', '1', '--record_to', str(tmp_path/'bench.csv'))
    assert r.returncode == 0, r.stderr
    apart, together, ratio = read_rows(tmp_path/'bench.csv')
    assert ratio.row == 'bench/students/8px-w4-b4/ratio' and math.isclose(ratio.mean, apart.mean/together.mean, rel_tol=1e-4)

def test_quick_threads_by_function(tmp_path, capsys):
    before = torch.get_num_threads(), ONE_THREAD_MAX
    dd_bench('threads', quick=True, threads=2, record_to=str(tmp_path/'bench.csv'))
    rows = {r.row: r for r in read_rows(tmp_path/'bench.csv')}
    assert len(rows) == 18 and {r.protocol for r in rows.values()} == {'smoke'} and 'beside over alone' in capsys.readouterr().out
    ratio, busy, alone = (rows[f'bench/threads/students/{w}_rule'].mean for w in ('ratio', 'busy', 'alone'))
    assert math.isclose(ratio, busy/alone, rel_tol=1e-4) and (torch.get_num_threads(), core.ONE_THREAD_MAX) == before

def test_a_cell_that_fails_is_an_empty_cell_with_its_reason():
    groups = unroll_cells([(2, 2)], ['adjoint'], ['default', 'tuned'], **TINY)
    groups[0][0]['width'] = 10**6
    bad, good = bench_unroll(groups, 1, quiet=True)
    assert 'memory' in bad['error'] and bad['n'] == 0 and good['n'] == 1
    text = report([bad, good])
    assert bad['error'] in text and 'ratios' not in text
    assert all(math.isnan(r.mean) and r.deviations == bad['error'] for r in bench.unroll_rows([bad]))

def test_a_cell_that_is_killed_says_by_what(monkeypatch):
    monkeypatch.setattr(bench, '_CODE', 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)')
    assert run_cell(dict(subject='unroll'))['error'] == 'killed by SIGKILL, as when memory runs out'

def test_a_cell_does_not_inherit_the_callers_allocator(monkeypatch):
    code = 'import json, os, sys; print(json.dumps(dict(kept=[k for k in os.environ if k.startswith(("MALLOC_", "GLIBC_"))])))'
    monkeypatch.setattr(bench, '_CODE', code)
    monkeypatch.setenv('MALLOC_TOP_PAD_', '1'); monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.mmap_max=0')
    assert run_cell({})['kept'] == []

def test_ratios_and_claims_of_made_up_cells():
    cells = [summary([c]) for c in (cell('bptt', 'default', 80, 8000), cell('bptt', 'tuned', 40, 8400), cell('adjoint', 'default', 100, 900), cell('adjoint', 'tuned', 56.1, 1200))]
    r = ratios(cells)
    assert r[100, 30, 'memory_mb', 'adjoint-default', 'bptt-default'] == 900/8000 and r[100, 30, 'seconds', 'bptt-tuned', 'bptt-default'] == .5
    assert [ok for *_, ok in claims(cells)] == [True, False, True, False, False]
    assert 'claim b100 N30 seconds: adjoint-tuned / bptt-default <= 0.7: not reached (0.701)' in report(cells)
    assert claims([summary([cell('bptt', 'default', 80, 8000, width=64)])]) == []

def test_gpu_cells_stand_in_one_table():
    names = [bench.cell_name(c) for c in unroll_cells([(10, 50)], ['bptt', 'adjoint'], bench.GPU_MODES)[0]]
    assert names == ['bptt-eager', 'adjoint-eager', 'adjoint-captured', 'adjoint-whole', 'adjoint-compiled']
    cells = [summary([cell(*n.split('-'), s, 100, 10, 50)]) for n, s in zip(names, (3., 4., 1., 2., 2.))]
    assert claims(cells) == [((10, 50, 'seconds', f'adjoint-{m}', 'adjoint-eager', 1/3), r, r <= 1/3) for m, r in (('captured', .25), ('whole', .5), ('compiled', .5))]

def test_rounds_end_where_the_budget_does():
    now, groups = [0.], [[dict(s=10.)], [dict(s=1.), dict(s=1.)]]
    def run(c): now[0] += c['s']; return c
    assert [i for i, _ in visits(groups, 3, 17., run, lambda: now[0])] == [0, 1, 2, 2, 1, 1, 2]

@pytest.mark.parametrize('kw,text', [(dict(subject='loop'), "subject 'loop' is not one of unroll, students"), (dict(form='exact'), "form 'exact' is not one of adjoint"),
    (dict(alloc='captured', device='cpu'), "alloc 'captured' is not one of default, tuned"), (dict(batch='10,x'), "batch 'x' is not a whole number"), (dict(N='0'), "N '0' is not"),
    (dict(repeats=0), 'repeats is 0; it must be at least 1'), (dict(threads=-1), 'threads is -1'), (dict(device='tpu'), "device 'tpu' is not one of cpu, cuda")])
def test_bad_input_is_one_line_and_status_2(kw, text, capsys):
    with pytest.raises(SystemExit) as e: dd_bench(**(dict(subject='unroll') | kw))
    err = capsys.readouterr().err
    assert e.value.code == 2 and text in err and err.count('\n') == 1

def test_bad_input_to_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['dd_bench', 'unroll', '--batch', 'ten'])
    with pytest.raises(SystemExit) as e: start('dd_bench')
    out, err = capsys.readouterr()
    assert e.value.code == 2 and err.splitlines()[-1] == "dd_repro: batch 'ten' is not a whole number of 1 or more" and out == ''

@pytest.mark.parametrize('subject', ['unroll', 'students', 'd3', 'd3s', 'd3s-memory', 'd3s-plan', 'growth'])
def test_every_subject_measures_the_device_that_is_asked_for(monkeypatch, subject):
    seen = []
    monkeypatch.setattr(bench, 'run_cell', lambda c: seen.append(c) or c | dict(error='not measured'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    dd_bench(subject, device='cuda', quick=True)
    assert seen and {c['device'] for c in seen} == {'cuda'}

def test_a_call_that_was_cut_off_goes_on_and_records_each_cell_once(monkeypatch, tmp_path):
    made, file = [], tmp_path/'bench.csv'
    def run(c):
        if len(made) == 1 and not (tmp_path/'again').exists(): raise KeyboardInterrupt
        made.append(c['width'])
        return c | dict(plain=1., full=2., overhead=1., floor=.1, share=.5)
    monkeypatch.setattr(bench, 'run_cell', run)
    with pytest.raises(KeyboardInterrupt): dd_bench('d3s', device='cpu', record_to=str(file))
    assert len(read_rows(file)) == 5, 'the first cell is recorded'
    (tmp_path/'again').touch()
    dd_bench('d3s', device='cpu', record_to=str(file))
    assert made == [16, 64] and len(read_rows(file)) == 10 and not list(tmp_path.glob('*.part.json'))

@pytest.mark.parametrize('k, low, high', [('N', 1.98, 2.02), ('ipc', 1.98, 2.02), ('classes', 1.98, 2.05), ('side', 4, 4.5)])
def test_arithmetic_grows_as_the_work(k, low, high):
    small = dict(N=2, ipc=1, classes=4, side=16, width=12)
    a, b = (bench.counted_gflop(bench.growing_iteration(**small | {k: n*small[k]})) for n in (1, 2))
    assert low <= b/a <= high

def test_counted_arithmetic_is_the_nominal_one():
    from dd_repro.convnet import ConvNet
    got, want = bench.counted_gflop(bench.growing_iteration(N=2, width=16)), bench.gflop(ConvNet(width=16).arch, 'adjoint', 10, 2)
    assert .9 < got/want < 1.15

def test_steps_hold_no_memory():
    "Bytes that are alive at once hardly grow with the steps: a point of the student's weights for each."
    from dd_repro.unroll import peak_bytes
    def held(N):
        step = bench.growing_iteration(N=N, side=16, width=4)
        step()
        return peak_bytes(step)
    assert held(8) < 1.5*held(2)

def test_growth_by_the_command(tmp_path, monkeypatch, capsys):
    def here(c): return c | bench.measure_growth(**{k: v for k, v in c.items() if k != 'subject'})
    monkeypatch.setattr(bench, 'run_cell', here)
    dd_bench('growth', quick=True, threads=1, record_to=str(tmp_path/'b.csv'))
    rows = {r.row: r for r in read_rows(tmp_path/'b.csv')}
    assert len(rows) == 12 and rows['bench/growth/N/5/gflop'].unit == 'GFLOP' and {r.protocol for r in rows.values()} == {'smoke'}
    assert 'side 16: ' in capsys.readouterr().out

def test_every_point_of_growth_is_a_cell_of_its_own():
    cells = bench.growth_cells(width=8, threads=1, device='cpu')
    assert len(cells) == 16 and all({k: v for k, v in c.items() if k in bench.GROWTH_BASE and k != c['grows']}.items() <= bench.GROWTH_BASE.items() for c in cells)
