"""Many rows at once: order, sharing, claims, deadlines, failures; processes only where one is needed."""
import json, os, random, signal, subprocess, sys, time
from pathlib import Path

import pytest

from dd_repro import many, rows, stages
from dd_repro.core import TimeUp, in_time, minutes_left, time_box
from dd_repro.counts import runnable
from dd_repro.files import file_lock
from dd_repro.many import (Batch, Part, Queue, RowsOptions, Weight, Worker, batches, claim, dd_rows, find_rows, how_many, in_order,
                           is_done, ledger, note_row, read_json, run_batch, run_rows, table_of, wanted, weigh)
from dd_repro.records import read_rows
from dd_repro.rows import Places, run_row

TOY = 'mtt/table3/cifar10/ipc10'

@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "A home of its own, on a CPU."
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    monkeypatch.setenv('DD_RESULTS', str(tmp_path/'none'))
    monkeypatch.setenv('DD_DEVICE', 'cpu')
    return tmp_path/'home'

def refused(capsys, *a, **kw):
    "The one line with which a call is refused."
    with pytest.raises(SystemExit) as e: dd_rows(*a, **kw)
    out, err = capsys.readouterr()
    assert e.value.code == 2 and err.count('\n') == 1 and out == '', (out, err)
    return err

# --- what is asked for
def test_all_unknown_rows_are_named_before_anything_starts(capsys, tmp_path, monkeypatch, home):
    (tmp_path/'q.txt').write_text('# remark\ngpu mtt/table1/cifar10/ipc7\ncpu\nmtt/table1/cifar10/ipc1 widht=8\nmtt/table1/cifar10/ipc1 --blur 3\nmtt/table1/cifar10/ipc1 loose\nmtt/table1/cifar10/random/ipc1 --minutes 3\nmtt/table1/cifar10/dm/ipc1 --compiled\n')
    err = refused(capsys, [str(tmp_path/'q.txt'), 'd3/nothing', 'mtt/*/nowhere', str(tmp_path/'none.txt'), 'mtt/table1/cifar10/ipc1'])
    for said in ('10 of what', 'line 2: row', 'line 3: no row there', "line 4: 'widht' is no setting", "line 5: 'blur'", "line 6: 'loose' is neither", 'line 7: mtt/table1/cifar10/random/ipc1: minutes is 3', 'line 8: mtt/table1/cifar10/dm/ipc1: compiled is for',
                 "'d3/nothing'", 'mtt/*/nowhere: no row fits', 'none.txt: no such file'): assert said in err, said
    assert not home.exists()

@pytest.mark.parametrize('what, kw, says', [((), {}, 'which rows?'), (['mtt/table1/cifar10/ipc1'], dict(minutes=0), 'minutes is 0'), (['mtt/table1/cifar10/ipc1'], dict(minutes=float('nan')), 'minutes is nan'), (['mtt/table1/cifar10/ipc1'], dict(workers=-1), 'workers is -1'),
    (['mtt/table1/cifar10/ipc1'], dict(scale=2.), 'scale is 2'), (['mtt/table1/cifar10/ipc1'], dict(smoke=True, scale=.1), '--scale does nothing beside --smoke'), (['mtt/table1/cifar10/ipc1'], dict(device='tpu'), "device 'tpu'"), (['mtt/section5/*'], {}, 'rows? fit|no row fits'),
    (['mtt/table1/cifar10/ipc1'], dict(lr=3), "'lr' is no setting")])
def test_bad_input_is_one_line(capsys, what, kw, says):
    import re
    assert re.search(says, refused(capsys, what, **kw))

def test_a_line_is_the_same_work_whoever_asks():
    a, b = wanted([f'{TOY}/vgg11', '--smoke'], dict(last=True)), wanted([f'{TOY}/vgg11'], dict(smoke=True, compiled=True))
    assert a.key == b.key == f'{TOY}/vgg11 --smoke'
    c = wanted(['mtt/table1/cifar10/dm/ipc1', 'iterations=3'], dict(compiled=True, scale=.5))
    assert c.key == 'mtt/table1/cifar10/dm/ipc1 --scale 0.5 iterations=3' and c.r['iterations'] == 3 and wanted(c.key.split()).key == c.key
    assert wanted(['d3/table3/cifar10/ppc1/rate'], dict(last=True, seed=3)).key == 'd3/table3/cifar10/ppc1/rate'

def test_patterns_files_and_names_are_one_queue_without_doubles(tmp_path):
    (tmp_path/'q.txt').write_text(f'cpu {TOY}/vgg11 # x\n{TOY}/alexnet\n')
    got = find_rows([tmp_path/'q.txt', f'{TOY}/*', f'{TOY}/vgg11'])
    assert [w.r.row.split('/')[-1] for w in got][:2] == ['vgg11', 'alexnet'] and len(got) == 4 and [w.lane for w in got] == ['cpu', '', '', '']

def test_todo_has_what_a_command_can_fill_and_has_no_row_yet():
    some = many._asked(['latentdd/table8/*'], RowsOptions(todo=True))
    assert {w.r.row for w in some} == {l.row for l in runnable('latentdd') if l.table == 'table8'} and len(some) > 10

# --- order
def best_so_far(order, parts):
    "Sum over rows of the second at which each is there."
    t = out = 0
    for n in order: t += parts[n].seconds; out += parts[n].rows*t
    return out

def test_the_order_is_the_best_of_all_that_keep_needs_first():
    from itertools import permutations
    for case in range(40):
        rng, names = random.Random(case), 'abcdef'
        parts = {n: Part(rng.randint(1, 20), rng.randint(0, 3), rng.choice([None, *names[:i]])) for i, n in enumerate(names)}
        legal = [p for p in permutations(names) if all(parts[n].after in (None, *p[:i]) for i, n in enumerate(p))]
        order = in_order(parts)
        assert tuple(order) in legal and best_so_far(order, parts) == min(best_so_far(p, parts) for p in legal), case

def test_eleven_rows_share_one_set_and_networks_of_one_protocol_cost_nothing_more():
    got = find_rows([l.row for l in runnable() if l.runs == 'MTT' and l.dataset == 'cifar10' and l.budget == '10'])
    one, = {w.shares[1] for w in got}
    w = {w.key: Weight(dict(experts=60, distill=40, evaluate=5)) for w in got}
    b, = batches(got, w)
    students = {w.shares[2] for w in got}
    assert len(b.rows) == len(got) == 11 > len(students) and b.seconds == 60 + 40 + many.START_S + 5*len(students)

def test_sets_that_share_experts_go_together():
    got = find_rows(['mtt/table1/cifar10/ipc10', 'd3/table1/cifar10/ppc1', 'mtt/table1/cifar10/dm/ipc10'])
    w = {w.key: Weight(dict(distill=50, evaluate=5) if 'dm' in w.key else dict(experts=60, distill=9, evaluate=5)) for w in got}
    found = [b.rows[0].r.method for b in batches(got, w)]
    assert found in (['MTT', 'D3', 'DM'], ['D3', 'MTT', 'DM'], ['DM', 'MTT', 'D3'], ['DM', 'D3', 'MTT'])
    assert len({w.shares[0] for w in got if w.r.method != 'DM'}) == 1

@pytest.mark.parametrize('what', [['mtt/table1/cifar10/ipc1', 'mtt/table1/cifar10/ipc10'], ['mtt/table1/cifar10/ipc10', 'mtt/table1/cifar100/ipc1', 'mtt/table1/cifar10/ipc1']])
def test_experts_of_different_lengths_are_one_part_of_a_plan_that_makes_them_once(what):
    got = find_rows(what)
    keys = {w.r.key('buffer') for w in got}
    cost = {w.key: Weight(dict(experts=100*w.r['max_start_epoch'], distill=9)) for w in got}
    most = {k: max(100*w.r['max_start_epoch'] for w in got if w.r.key('buffer') == k) for k in keys}
    one = many.as_long(got, many.longest(got))
    assert len({w.shares[0] for w in one}) == len(keys) < len({w.shares[0] for w in got})
    assert sum(b.seconds for b in batches(one, cost)) == sum(most.values()) + len(got)*(9 + many.START_S)
    apart = sum(b.seconds for b in batches(many.as_long(got, {}), cost))
    assert apart == sum(100*w.r['max_start_epoch'] + 9 + many.START_S for w in got) # in a box each makes its own
    assert [w.shares[1:] for w in one] == [w.shares[1:] for w in got]

def test_only_what_fits_into_the_budget_is_planned_and_the_rest_is_corrected():
    got, seen, now = find_rows(['mtt/table1/cifar10/*']), [], [0.]
    plain = {w.key: sum(many.counted(w).values()) for w in got}
    def planned(w, device): seen.append(w); now[0] += 10; return Weight(dict(evaluate=3*plain[w.key]), 100.)
    out = weigh(got, budget_s=25., planned=planned, clock=lambda: now[0])
    assert len(seen) == 3 and all(abs(sum(out[w.key].seconds.values())/plain[w.key] - 3) < 1e-6 for w in got)
    assert sum(out[w.key].memory_mb > 0 for w in got) >= 3
    assert weigh(got[:2], planned=lambda *a: None)[got[0].key].seconds == many.counted(got[0])

# --- workers and memory
@pytest.mark.parametrize('asked, free, cards, k', [(3, 1e9, 1, 3), (3, 6500, 1, 2), (3, 10, 1, 1), (9, 1e9, 1, 3), (2, 10, 2, 2), (3, 3600, 2, 2)])
def test_there_are_fewer_workers_than_memory_holds(asked, free, cards, k):
    assert how_many(asked, [Batch([], 1, m) for m in (3000, 2000, 500)], free, cards) == k

def test_fewer_is_said(monkeypatch, capsys):
    monkeypatch.setattr(many, 'free_mb', lambda d='cpu': 4000.)
    found = [Batch(find_rows([f'{TOY}/vgg11']), 1, 3000.)]*2
    assert len(many.workers_for(2, found, 'cpu')) == 1 and '2 workers were asked for; memory holds 1 (4.0 GB free)' in capsys.readouterr().out

def test_one_worker_a_card_and_one_on_the_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(many, 'free_mb', lambda d='cpu': 1e9); monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,7')
    (tmp_path/'q.txt').write_text(f'cpu {TOY}/vgg11\ngpu {TOY}/alexnet\ngpu mtt/table1/cifar10/ipc1')
    found = batches(rs := find_rows([tmp_path/'q.txt']), {w.key: Weight({}) for w in rs})
    got = many.workers_for(0, found, 'cuda')
    assert [(w.device, w.env.get('CUDA_VISIBLE_DEVICES')) for w in got] == [('cuda', '4'), ('cuda', '7'), ('cpu', None)]
    q = Queue(found, got, None)
    assert [[q.may(w, b) for w in (got[0], got[2])] for b in found] == [[not b.lane, bool(b.lane)] for b in found]
    q.batches = [b for b in found if b.lane]
    assert q.may(got[0], q.batches[0]), 'a GPU without rows takes those of the cores'

# --- the queue, without processes
class Process:
    "Pretended work: a list of what each look finds."
    def __init__(self, *codes): self.codes, self.asked = list(codes), []
    def poll(self):
        if 'kill' in self.asked: return -9
        return self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
    def terminate(self): self.asked.append('term')
    def kill(self): self.asked.append('kill')

def finish(batch, n=None):
    "Rows are made, as far as the ledger says."
    for w in batch.rows[:n]: note_row(w.key, whole=True, seconds=1., told='12.3 %', file='x', made=w.shares[0])

class Clock:
    "Time that passes with each look."
    def __init__(self, step=0.): self.t, self.step = 0., step
    def __call__(self): self.t += self.step; return self.t

def queue(what, begin, n=1, **kw):
    "A queue of rows with made-up costs."
    got = find_rows(what)
    kw = dict(poll_s=0, clock=Clock()) | kw
    return Queue(batches(got, {w.key: Weight(dict(evaluate=10)) for w in got}), [Worker(f'cpu{i}') for i in range(n)], begin, **kw)

def states(lines): return {l.row.split('/')[-1]: l.state for l in lines}

def test_all_rows_are_done_and_the_printed_number_stands_beside_them(capsys):
    def begin(b, w): finish(b); return Process(None, 0)
    lines = queue([f'{TOY}/*'], begin).run()
    out = capsys.readouterr().out
    assert table_of(lines).endswith('4 done, 0 left, 0 failed') and '12.3 %; printed: 34.2' in out and 'begins' in out

def test_a_failing_row_is_tried_once_more_behind_the_others_and_then_left(capsys):
    begun = []
    def begin(b, w):
        begun.append([x.key.split('/')[-1] for x in b.rows])
        finish(b, next((i for i, x in enumerate(b.rows) if 'vgg11' in x.key), None))
        return Process(1 if any('vgg11' in x.key for x in b.rows) else 0)
    lines = queue([f'{TOY}/*', 'mtt/table1/cifar10/ipc1'], begin).run()
    assert states(lines) == dict(convnet='done', alexnet='done', resnet18='done', ipc1='done', vgg11='failed')
    assert sum('vgg11' in x for b in begun for x in b) == 2 and len(begun) == 4
    d = read_json(ledger())[f'{TOY}/vgg11']
    assert (d['whole'], d['failed']) == (False, 2) and table_of(lines).splitlines()[-2].startswith('failed') and 'exit status 1' in table_of(lines)

def test_a_set_that_cannot_be_made_is_not_tried_for_each_of_its_rows():
    begun = []
    def begin(b, w): begun.append(b); return Process(1)
    lines = queue([f'{TOY}/*'], begin).run()
    assert len(begun) == 2 and set(states(lines).values()) == {'failed'} and sum('as mtt/' in l.what for l in lines) == 3

def test_a_retry_may_do_well():
    codes = [1, 0]
    def begin(b, w):
        if codes[0] == 0: finish(b)
        return Process(codes.pop(0))
    assert set(states(queue([f'{TOY}/*'], begin).run()).values()) == {'done'}

def test_the_deadline_asks_first_and_then_kills():
    made, clock = [], Clock()
    def begin(b, w):
        made.append(Process(None))
        return made[-1]
    q = queue([f'{TOY}/*', 'mtt/table1/cifar10/dm/ipc1'], begin, clock=clock, minutes=1.)
    assert q.step() and len(made) == 1
    clock.t = 55.; assert q.step() and made[0].asked == ['term'] and q.halted == 'the time is up'
    clock.t = 58.; q.step(); assert made[0].asked == ['term'], 'asked once'
    clock.t = 61.; q.step(); assert made[0].asked == ['term', 'kill'] and not q.step()
    lines = q.lines()
    assert len(made) == 1 and {(l.state, l.what) for l in lines} == {('left', 'the time is up')} and [(d['whole'], d['failed']) for d in read_json(ledger()).values()] == [(False, 0)], 'what was stopped has not failed'

@pytest.mark.parametrize('rc', [130, 124, -signal.SIGTERM])
def test_a_row_that_stopped_is_left_and_not_tried_again(rc):
    begun = []
    def begin(b, w): begun.append(b); return Process(rc)
    assert set(states(queue([f'{TOY}/vgg11'], begin).run()).values()) == {'left'} and len(begun) == 1

def test_what_fits_into_the_time_goes_first_and_else_the_first():
    q = queue([f'{TOY}/vgg11', 'mtt/table1/cifar10/dm/ipc1', 'mtt/table1/cifar10/dm/ipc10'], None, minutes=2.)
    for b, s in zip(q.batches, (500, 100, 50)): b.seconds = s
    big, fits, small = q.batches
    assert [q.pick(Worker(str(i))) for i in range(3)] == [fits, small, big]

def test_two_calls_do_each_row_once():
    begun, waiting = [], []
    def begin(b, w): begun.extend(x.key for x in b.rows); waiting.append(b); return Process(None, None, 0)
    rows_ = [f'{TOY}/*', 'mtt/table1/cifar10/ipc1', 'mtt/table1/cifar10/dm/ipc*', 'mtt/table1/cifar10/dsa/ipc1']
    a, b = queue(rows_, begin), queue(rows_, begin)
    for _ in range(40):
        for q in (a, b): q.step()
        for w in waiting: finish(w)
        waiting.clear()
    assert len(begun) == len(set(begun)) == len(a.rows) and set(states(a.lines()).values()) == set(states(b.lines()).values()) == {'done'}

def test_experts_in_the_making_are_not_made_twice():
    a, b = (queue([r], None).batches[0] for r in ('mtt/table1/cifar10/ipc10', 'd3/table1/cifar10/ppc1'))
    with claim(a, ()): assert claim(b, ()) is None
    with claim(a, (made := a.needs[:1])): claim(b, made).close()

def test_a_row_that_is_at_work_elsewhere_is_left_and_said(capsys):
    got = queue([f'{TOY}/*'], None).batches[0]
    with claim(got, ()): lines = queue([f'{TOY}/*'], None).run()
    assert {(l.state, l.what) for l in lines} == {('left', 'at work in another call')}

def test_ctrl_c_stops_in_order_and_says_what_is_left():
    def begin(b, w): raise KeyboardInterrupt
    lines = queue([f'{TOY}/*'], begin).run()
    assert {(l.state, l.what) for l in lines} == {('left', 'interrupted')}

def test_done_counts_for_what_was_recorded(home, capsys):
    w = wanted(['d3/table3/cifar10/ppc1/rate'])
    note_row(w.key, whole=True, file='')
    assert is_done(w, read_json(ledger()), 'none') and not is_done(w, read_json(ledger()))
    note_row(w.key, file='x'); assert is_done(w, read_json(ledger()))
    dd_rows(w.key); assert '1 were done before' in capsys.readouterr().out

def test_a_plan_runs_nothing(capsys, home, monkeypatch):
    monkeypatch.setattr(many, '_planned', lambda *a: None); monkeypatch.setattr(many.weigh, '__defaults__', ('cpu', 60., lambda *a: None, time.monotonic))
    dd_rows(f'{TOY}/*', plan=True)
    out = capsys.readouterr().out
    assert '4 rows of 1 sets' in out and out.count(TOY) == 4 and 'until' in out and not (home/'logs').exists()

# --- one process for the rows of a set
def test_a_batch_reads_data_once_and_trains_each_network_once(monkeypatch, tmp_path):
    seen, data, evaluate, row_data = [], [], stages.evaluate, rows.row_data
    monkeypatch.setattr(stages, 'evaluate', lambda *a, **kw: seen.append(a[2]) or evaluate(*a, **kw))
    monkeypatch.setattr(rows, 'row_data', lambda *a: data.append(1) or row_data(*a))
    got = [wanted([n, 'net_width=8'], dict(smoke=True)) for n in ('mtt/table1/cifar10/ipc10', 'mtt/table2/cifar10/ipc10', f'{TOY}/convnet', f'{TOY}/alexnet')]
    run_batch(got, Places(home=tmp_path/'h'), str(tmp_path/'r.csv'))
    names = [r.row for r in read_rows(tmp_path/'r.csv')]
    assert names == [f'smoke/{w.r.row}' for w in got] and len(seen) == 2 and len(data) == 1
    assert all(is_done(w, read_json(ledger()), 'x') for w in got)
    a, b, *_ = read_rows(tmp_path/'r.csv')
    assert (a.mean, a.settings, a.deviations.split(';')[-1]) == (b.mean, b.settings, b.deviations.split(';')[-1])

def test_one_network_that_serves_two_rows_gives_what_each_would_give_alone(tmp_path):
    names = ['mtt/table1/cifar10/ipc10', f'{TOY}/convnet']
    one = [run_row(n, smoke=True, quiet=True, net_width=8, at=Places(home=tmp_path/n.replace('/', '-')))[0] for n in names]
    at = Places(home=tmp_path/'both')
    both = [run_row(n, smoke=True, quiet=True, net_width=8, at=at)[0] for n in names]
    said = lambda r: {k: str(v) for k, v in vars(r).items() if k not in ('seconds', 'memory_mb', 'date', 'commit', 'artefact')} # a file holds its seconds
    assert [said(r) for r in one] == [said(r) for r in both]

# --- time boxes
def test_a_box_in_a_box_ends_with_the_earlier_one():
    with time_box(1e-9), pytest.raises(TimeUp, match='x'), time_box(9): in_time('x')
    assert minutes_left() is None

def test_experts_stop_in_a_time_box_and_go_on(tmp_path):
    from dd_repro.experts import expert_protocol, train_experts
    from dd_repro.convnet import ConvNet
    from dd_repro.stages import generated
    real, net = generated('x', 16)[0], lambda: ConvNet(3, 10, 16, 4, 2)
    made = dict(n=3, protocol=expert_protocol(2, batch=70), quiet=True)
    with time_box(9): train_experts(net, real, tmp_path/'a', **made | dict(n=1))
    with time_box(1e-9), pytest.raises(TimeUp, match='1 of 3 experts are kept in'): train_experts(net, real, tmp_path/'a', **made)
    assert train_experts(net, real, tmp_path/'a', **made).key == train_experts(net, real, tmp_path/'b', **made).key

@pytest.mark.parametrize('row', ['mtt/table1/cifar10/ipc1', 'd3s/table6/cifar10/ipc10'])
def test_a_row_without_time_says_what_is_kept_and_records_nothing(capsys, tmp_path, monkeypatch, row):
    few = lambda r, *a: (*stages.generated('cifar10', 32, per_class=3), '')
    monkeypatch.setattr(rows, 'row_data', few); monkeypatch.setattr(stages, 'TEACHERS', stages.TEACHERS | dict(cifar10=stages.TEACHERS['cifar10'].scaled(epochs=1, batch=30)))
    with pytest.raises(SystemExit) as e: rows.dd_row(row, minutes=1e-9, record_to=str(tmp_path/'r.csv'))
    out = capsys.readouterr().out
    assert e.value.code == 124 and 'the time is up: 0 of' in out and 'are kept in' in out and not (tmp_path/'r.csv').exists()

# --- processes
def call(tmp_path):
    "dd_rows in a process, with two small rows of one set."
    (tmp_path/'q.txt').write_text(f'{TOY}/convnet --smoke net_width=8\nmtt/table1/cifar10/ipc10 --smoke net_width=8\n')
    words = [sys.executable, '-m', 'dd_repro', 'rows', str(tmp_path/'q.txt'), '--record_to', str(tmp_path/'r.csv')]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))

def test_kill_9_of_a_call_frees_its_claim_and_the_next_one_goes_on(tmp_path, home):
    p = call(tmp_path)
    for line in p.stdout:
        if 'begins' in line: break
    p.kill(); p.wait()
    key = find_rows([tmp_path/'q.txt'])[0].shares[1]
    with file_lock(home/'claims'/key): pass # the child leaves by itself, or ends its rows
    out = call(tmp_path).communicate()[0]
    assert '0 left, 0 failed' in out or 'nothing is left to do' in out, out
    assert sorted(r.row for r in read_rows(tmp_path/'r.csv')) == ['smoke/mtt/table1/cifar10/ipc10', f'smoke/{TOY}/convnet']

# --- from a notebook
def test_fill_runs_what_is_open_records_it_and_draws_the_tables_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('DD_RESULTS', str(tmp_path))
    few = lambda r, *a: (*stages.generated('cifar10', 32, per_class=2), '')
    monkeypatch.setattr(rows, 'row_data', few)
    monkeypatch.setattr(many, '_planned', lambda *a: None); monkeypatch.setattr(many.weigh, '__defaults__', ('cpu', 60., lambda *a: None, time.monotonic))
    class Here:
        "In place of a process."
        def __init__(self, *a): pass
        def __call__(self, batch, worker):
            run_batch(batch.rows, Places(home=tmp_path/'h'), str(tmp_path/'mtt.csv'))
            return Process(0)
    monkeypatch.setattr(many, 'Starter', Here)
    call = lambda: many.fill('mtt/table1/cifar10/random/ipc1', minutes=5, scale=.001, device='cpu')
    g, = call()
    said = capsys.readouterr().out
    ours, = [c.ours for c in g.cells.values() if c.row == 'mtt/table1/cifar10/random/ipc1']
    row, = [r for r in read_rows(tmp_path/'mtt.csv') if r.metric == 'test_acc']
    assert '1 done, 0 left, 0 failed' in said and [(e.kind, e.text) for e in ours] == [('reduced', f'{row.mean:.1f} ± {row.std:.1f}')]
    call()
    assert 'nothing is left to do' in capsys.readouterr().out, 'the same call goes on'
