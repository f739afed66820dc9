"""Printed numbers, recipes and tables: what the notebooks cannot show."""
import dataclasses, math, os, re, subprocess, sys, warnings
from multiprocessing import get_context
from pathlib import Path

import pytest
from dd_repro import all as R
from dd_repro.core import settings_hash
from dd_repro.records import Row, record
from dd_repro.plans import dd_plan, plan
from dd_repro.rows import Places, dd_row, run_row, smoke_recipe
from dd_repro.settings import plain_settings
from dd_repro.stages import Job
from dd_repro.tables import dd_table, plan_errors
from dd_repro.zoo import NETS

COUNTS = dict(mtt=40, d3=86, d3s=58, latentdd=128)
KW = dict(net='convnet', n=5, std=.5, protocol='reduced', deviations='small')


# The printed numbers -------------------------------------------------------------------------------------------------

TRANSCRIBED = Path(os.environ.get('DD_PAPERS') or Path(__file__).resolve().parents[2]/'shared'/'papers')

@pytest.mark.skipif(not TRANSCRIBED.is_dir(), reason='no folder of transcriptions beside the checkout, nor in DD_PAPERS')
def test_package_data_are_the_transcriptions():
    import csv
    read = lambda p: list(csv.DictReader(open(p, newline='')))
    added = {'row', 'cell', 'runs', 'stage', 'said', 'words'} # which the transcriptions have not
    ours = [{k: v for k, v in r.items() if k not in added} for r in R.asset_lines('printed.csv')]
    assert ours == [r for p in R.PAPERS for r in read(TRANSCRIBED/f'{p}_numbers.csv')]
    assert R.asset_lines('stated.csv') == read(TRANSCRIBED/'hparams.csv')

def test_names_are_unique_and_stable():
    ids = R.printed().row
    assert ids.is_unique and not ids.str.contains(' ').any()
    assert settings_hash(sorted(ids)) == '38db6083ec1e', 'names of printed rows are for ever; a new one needs an alias'

def test_every_name_finds_its_own_row():
    df = R.printed()
    assert all(R.find_row(r).row == r for r in df.row[::7])

@pytest.mark.parametrize('paper', R.PAPERS)
def test_own_rows_have_recipes_with_sources(paper):
    df = R.printed(paper); own = df[df.own & (df.metric == 'test_acc')]
    assert len(own) == COUNTS[paper]
    for row in own.row:
        r = R.recipe(row)
        assert all(v.source and v.kind in ('paper', 'code', 'decided') for v in r.settings.values()), row
        assert R.net_name(r.train_net) in NETS and R.net_name(r.eval_net) in NETS and r.kind in ('paper', 'decided')

def test_rows_about_time_memory_and_rate_are_reachable():
    df = R.printed(); rest = df[df.own & (df.metric != 'test_acc')]
    stages = [R.recipe(r).stage for r in rest.row]
    assert len(rest) == 59 and set(stages) == {'row', 'experts', 'build', 'distill'}

def test_baselines_of_the_house_have_recipes():
    df = R.printed(); df = df[~df.own & (df.stage == 'row')]
    assert set(df.method) == {'Random', 'Herding', 'Forgetting', 'DC', 'DSA', 'DM', 'MTT', 'SRe2L', 'CDA', 'DD', 'LD', 'IDC', 'FTD', 'LinBa', 'KFS', 'CAFE', 'CAFE+DSA', 'HaBa', 'GLaD MTT', 'GLaD DC', 'GLaD DM', 'IT-GAN', 'full'}
    for row in df.row: assert R.recipe(row).settings

def test_cited_methods_are_refused():
    df = R.printed(); cited = df[df.runs == '']
    for row in cited.row:
        with pytest.raises(ValueError, match='cited'): R.recipe(row)

def test_illegible_cells_stay_empty():
    df = R.printed()
    assert (df.value == '').sum() == 39 and df[df.value == ''].note.str.contains('not legible').all()
    assert (R.compare('mtt', 'table1', R.measured(Path('nowhere'))).printed == 'not legible').sum() == 39


# Recipes agree with the tables of the methods ------------------------------------------------------------------------

@pytest.mark.parametrize('row,method', [('d3s/table1/imagenet1k/ipc10/resnet18', 'd3s'), ('d3s/table1/tinyimagenet/cda/ipc50/resnet18', 'cda'), ('d3s/table6/cifar10/ipc10', 'd3s')])
def test_synthesis_settings(row, method):
    r = R.recipe(row); s = plain_settings(method, dataset=r.dataset)
    assert {k: r[k] for k in s} == s and len(s) > 13

OURS = {'imagenet1k': {'jitter'}, 'tinyimagenet': {'jitter'}, 'imagenet21k': {'jitter'}, 'cifar10': {'jitter', 'flip', 'batch', 'iterations', 'lr_img'}}

@pytest.mark.parametrize('row', ['d3s/table1/imagenet1k/ipc10/resnet18', 'd3s/table1/tinyimagenet/ipc50/resnet50', 'd3s/table3/imagenet21k/ipc20/resnet18', 'd3s/table6/cifar10/ipc10'])
def test_each_switch_of_the_synthesis_has_its_own_source(row):
    r = R.recipe(row); s = {n: r.settings[n] for n in plain_settings('d3s', dataset=r.dataset) if n != 'eps'}
    assert {n for n, v in s.items() if v.kind != 'paper'} == OURS[r.dataset] and s['jitter'].source.startswith('not stated')
    assert 'sec4.1' in s['alpha'].source and 'D.3' in s['crop'].source and 'eq. 1' in s['weight'].source

@pytest.mark.parametrize('method,size,f', [('latentdc', 256, 4), ('latentdm', 512, 8), ('latentmtt', 512, 4)])
def test_latent_settings(method, size, f):
    r, s = R.recipe(f'latentdd/table5/imagefruit/{size}px/{method}/f={f}'), plain_settings(f'latent-{method[6:]}', resolution=size, budget=1, variant=[f'f={f}'])
    assert {k: r[k] for k in s} == s and 'lr_base' in s

def test_zca_follows_the_asterisks():
    got = {(d, b): R.recipe(f'mtt/table1/{d}/ipc{b}')['data_zca'] for d in ('cifar10', 'cifar100') for b in (1, 10, 50)}
    assert got == {('cifar10', 1): 1, ('cifar10', 10): 1, ('cifar10', 50): 0, ('cifar100', 1): 1, ('cifar100', 10): 0, ('cifar100', 50): 1}

def test_a_smaller_copy_lists_every_change():
    full, r = R.recipe('d3/table9/ppc5/loss=MTT+DM'), R.recipe('d3/table9/ppc5/loss=MTT+DM', scale=.1, minutes=3)
    for n, v in full.settings.items():
        if r[n] != v.value: assert f'{n} {r[n]} ({v.value})' in r.deviations
    assert r.kind == 'reduced' and r.minutes == 3 and full.kind == 'decided'


# Results -------------------------------------------------------------------------------------------------------------

def test_recorded_rows_of_printed_tables_are_found(root):
    m, df = R.measured(root/'docs'/'results'), R.printed()
    cells = set(df.paper + '/' + df.table + '/' + df.dataset + '|' + df.method.str.lower())
    names = m.row.str.split('/').str[:3].str.join('/') + '|' + m.method.str.lower()
    lost = m[names.isin(cells) & (m.printed == '') & (m.metric == 'test_acc') & (m.protocol != 'smoke')]
    assert lost.row.tolist() == [], 'named after a printed table, its data and a method of it, and yet no cell of it'

@pytest.mark.parametrize('mean,colour,mark', [(45.9, '#d7f0dc', '●'), (44., '#fdf0c8', '◐'), (40., '#f8d9d4', '○')])
def test_each_distance_has_its_colour(mean, colour, mark, tmp_path):
    record([Row('mtt/table1/cifar10/ipc1', method='mtt', mean=mean, **KW | dict(protocol='paper', deviations='')), Row('mtt/table1/cifar10/ipc10', method='mtt', mean=65., **KW)], tmp_path/'mtt.csv')
    runs = R.measured(tmp_path)
    assert re.findall(r'background:(#\w+)[^>]*><a [^>]*>([\d.]+)', R.table('mtt', 'table1', 'html', runs)) == [(colour, str(mean))], 'the reduced row has none'
    for fmt in ('text', 'md'): assert [c for c in R.table('mtt', 'table1', fmt, runs) if c in '●◐○'] == [mark]

def test_a_name_with_more_parts_picks_rows_of_a_table():
    runs = R.measured(Path('nowhere'))
    rows = lambda name: [l.split()[0] for l in R.table('mtt', name, runs=runs).splitlines()[1:]]
    assert rows('table1/cifar10/ipc1') == ['mtt/table1/cifar10/ipc1'] and set(rows('table1/cifar10/ipc1')) < set(rows('table1/cifar10')) < set(rows('table1'))
    with pytest.raises(ValueError, match='not known; near it: mtt/table1/cifar10'): R.table('mtt', 'table1/cifar01', runs=runs)

def test_printed_numbers_and_distinct_cells_are_counted_apart(tmp_path):
    record([Row('mtt/table3/cifar10/ipc10/convnet', method='mtt', mean=65., **KW), Row('mtt/table3/cifar10/ipc10/alexnet', method='mtt', mean=30., **KW | dict(net='alexnet'))], tmp_path/'mtt.csv')
    c, own = R.coverage(R.measured(tmp_path), 'mtt').iloc[0], R.printed('mtt').query('own and metric == "test_acc"')
    assert (c.own, c.cells) == (len(own), own.cell.nunique()) and (c.reduced, c.reduced_cells, c.full, c.full_cells) == (4, 2, 0, 0), 'tables 1, 2 and 3 print the first'

def test_kinds_do_not_mix(tmp_path):
    rows = [Row('mtt/table1/cifar10/ipc1', method='mtt', mean=m, **KW | dict(protocol=k, deviations='small'*(k != 'paper'))) for m, k in ((40., 'reduced'), (46., 'paper'), (45., 'decided'), (11., 'smoke'))]
    record(rows, tmp_path/'mtt.csv')
    c = R.compare('mtt', 'table1', R.measured(tmp_path)).set_index('row').loc['mtt/table1/cifar10/ipc1']
    assert [c[k].split(' ')[0] for k in R.SHOWN] == ['46.0', '45.0', '40.0'] and abs(c.z - -.3/math.hypot(.5, .8)) < 1e-6

def test_each_measured_cell_leads_to_its_record(tmp_path):
    record([Row('mtt/table1/cifar10/ipc1', method='mtt', mean=40., **KW), Row('mtt/table4/imagewoof/ipc1', method='MTT', mean=28., **KW | dict(protocol='decided'))], tmp_path/'mtt.csv')
    for t in ('table1', 'table4'):
        h = R.table('mtt', t, 'html', R.measured(tmp_path))
        links, ids = re.findall(r'href="#([^"]+)"', h), re.findall(r'id="([^"]+)"', h)
        assert links and set(links) == set(ids) and 'settings' in h and ('background' in h) == (t == 'table4')

def test_every_run_of_a_cell_is_shown_and_leads_to_its_record(tmp_path):
    rows = [('mtt', 40., 'reduced', 'a', 5), ('mtt', 44., 'reduced', 'a; b', 5), ('mtt', 45., 'reduced', 'a', 3), ('random', 14., 'reduced', 'c', 5), ('mtt', 46., 'decided', '', 5)]
    record([Row('mtt/table2/cifar10/ipc1', method=m, mean=v, **KW | dict(protocol=k, deviations=d, n=n)) for m, v, k, d, n in rows], tmp_path/'mtt.csv')
    runs = R.measured(tmp_path)
    h, t = R.table('mtt', 'table2', 'html', runs), R.table('mtt', 'table2', runs=runs)
    links, ids = re.findall(r'href="#([^"]+)"', h), re.findall(r'id="([^"]+)"', h)
    assert len(links) == len(ids) == 5 and set(links) == set(ids)
    assert '40.0 ± 0.5 (n=5) [also: 44.0 ± 0.5; 45.0 ± 0.5; random 14.0 ± 0.5]' in t and '44.0 ± 0.5, unlike mtt-2 in b' in t and 'random 14.0 ± 0.5, unlike mtt-2 in c' in t
    assert R.table('mtt', 'table1', runs=runs).count('random 14.0') == 0, 'another method under a name stays with that name'

@pytest.mark.parametrize('paper', R.PAPERS)
def test_each_number_of_the_results_leads_to_its_record(paper, root):
    runs = R.measured(root/'docs'/'results')
    for t in sorted(runs.printed[runs.printed.str.startswith(f'{paper}/')].str.split('/').str[1].unique()):
        h, shown = R.table(paper, t, 'html', runs), R.compare(paper, t, runs).shown
        links, ids = re.findall(r'href="#([^"]+)"', h), re.findall(r'id="([^"]+)"', h)
        assert set(links) == set(ids) and len(ids) == len(set(ids)) and len(links) == sum(len(v) for s in shown for v in s.values()), t

def test_contradictions_show_both_values():
    text = R.table('mtt', 'table1', runs=R.measured(Path('nowhere')))
    assert '71.6 (0.2) [also: table2 71.5; prose_sec1 71.5]' in text

def _write(path, i): record(Row('mtt/table1/cifar10/ipc1', method='mtt', mean=40. + i, **KW), path)

def test_two_runs_that_record_at_once_are_both_kept(tmp_path):
    ps = [get_context('fork').Process(target=_write, args=(tmp_path/'mtt.csv', i)) for i in range(2)]
    [p.start() for p in ps]; [p.join() for p in ps]
    assert sorted(R.measured(tmp_path)['mean']) == [40., 41.]

def test_an_edited_file_is_named_and_not_used(tmp_path):
    for p in ('mtt', 'd3'): record(Row(f'{p}/study/x', method='mtt', mean=40., **KW), tmp_path/f'{p}.csv')
    f = tmp_path/'d3.csv'; f.write_text(f.read_text().replace(',40,', ',90,'))
    with pytest.warns(UserWarning, match='d3.csv is not used: d3.csv, line 2'): m = R.measured(tmp_path)
    assert m.file.tolist() == ['mtt.csv'] and 'd3.csv' in R.table('mtt', 'table2', runs=m)


# Running -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('args,said', [(('mtt/tabel1/cifar10/ipc1',), 'near it: mtt/table1/cifar10/'), (('nonsense/x',), 'near it: mtt/table1|table2|'), (('mtt/table2/cifar10/kip/width=128/ipc1',), 'KIP is not in this house'),
                                       (('mtt/table1/cifar10/ipc1', '--scale', '3'), 'scale is 3')])
def test_bad_rows_end_in_one_line(args, said, capsys):
    kw = {'scale': 3.} if len(args) > 1 else {}
    with pytest.raises(SystemExit) as e: dd_row(args[0], **kw)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1 and said in err

def test_an_edited_results_file_stops_a_row_before_the_work(tmp_path, capsys):
    f = tmp_path/'mtt.csv'; record(Row('x', method='mtt', mean=40., **KW), f); f.write_text(f.read_text().replace(',40,', ',90,'))
    with pytest.raises(SystemExit): dd_row('mtt/table1/cifar10/random/ipc1', smoke=True, record_to=str(f))
    assert 'line 2' in capsys.readouterr().err

def test_the_second_row_finds_what_the_first_made(tmp_path):
    def costs(row):
        made = []
        keep, Job.timed = Job.timed, lambda self, stage, *into: made.append(stage) or keep(self, stage, *into)
        try: rows = run_row(row, smoke=True, quiet=True, at=Places(tmp_path, tmp_path/'home'))
        finally: Job.timed = keep
        return made, rows[0]
    first, a = costs('mtt/table3/cifar10/ipc10/convnet')
    second, b = costs('mtt/table1/cifar10/ipc10')
    assert first == ['experts', 'distill', 'evaluate'] and second == ['evaluate'] and a.mean == b.mean
    assert a.row == 'smoke/mtt/table3/cifar10/ipc10/convnet' and 'generated images' in a.deviations

def test_the_error_of_a_plan_is_kept_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home')); monkeypatch.setenv('DD_RESULTS', str(tmp_path)); (tmp_path/'home').mkdir()
    r = dataclasses.replace(R.recipe('mtt/table1/cifar10/random/ipc1'), dataset='digits', size=8)
    r = R.shrink(r, eval_epochs=2, eval_n=1, eval_aug='flip', net_width=8, student_depth=2)
    go = lambda r: run_row(r, record_to=tmp_path/'mtt.csv', quiet=True)
    go(r); assert not (tmp_path/'plans.csv').exists(), 'a row without a plan has no error'
    plan(r); go(r); go(R.shrink(r, eval_epochs=4))
    e = plan_errors(R.measured(tmp_path))
    assert len(e) == 1 and e.ratio[0] == e.measured[0]/e.planned[0] > 0, 'only the settings that were planned'
    capsys.readouterr(); dd_plan(r.row, scale=.001); dd_table('mtt', todo=True)
    said = capsys.readouterr().out
    assert said.count('earlier plans of this row: measured/planned') == 1 and said.count('earlier plans of all rows: measured/planned') == 2

def test_a_stage_that_was_begun_before_has_no_error(tmp_path):
    job = Job(R.recipe('mtt/table1/cifar10/ipc1'), None, None, tmp_path)
    with job.timed('distill', tmp_path/'a'): pass
    (tmp_path/'b').mkdir(); (tmp_path/'b'/'checkpoint').write_text('x')
    with job.timed('experts', tmp_path/'b'): pass
    assert set(job.costs) == {'distill', 'experts'} and job.begun == {'experts'}

def test_a_smoke_run_never_fills_a_cell(tmp_path):
    rows = run_row('mtt/table1/cifar10/random/ipc1', smoke=True, quiet=True, at=Places(tmp_path), record_to=tmp_path/'mtt.csv')
    m = R.measured(tmp_path)
    assert rows[0].protocol == 'smoke' and m.printed.tolist() == [''] and R.coverage(m).set_index('paper').loc['mtt', ['smoke', 'reduced']].tolist() == [1, 0]

# Grids ---------------------------------------------------------------------------------------------------------------

TABLES = [(p, t) for p in R.PAPERS for t in R.table_names(p)]

@pytest.mark.parametrize('paper, name', TABLES)
def test_a_grid_has_each_cell_of_its_table_once_and_says_the_same_in_all_faces(paper, name):
    runs = R.measured.lines()
    g, lines = R.grid(paper, name, runs), R.compare.lines(paper, name, runs)
    assert sorted(c.row for c in g.cells.values()) == sorted(c.row for c in lines) and len(g.across) <= R.ACROSS_MAX
    ours = [(e.record, e.text) for c in g.cells.values() for e in c.ours]
    want = [(R.record_id(got[0][0]), k) for c in lines for k, got in c.shown.items()]
    assert {r for r, _ in ours} >= {r for r, _ in want}, 'what is measured is shown'
    text, md, page = R.grid_text(g, 90), R.grid_md(g), R.grid_html(g)
    assert max(map(len, text.split('\n\n')[0].splitlines())) <= 90
    for _, t in ours: assert t in text and t in md and t.split(' ± ')[0] in page
    for c in g.cells.values(): assert c.theirs in text and c.theirs in md
    links, ids = re.findall(r'href="#([^"]+)"', page), re.findall(r' id="([^"]+)"', page)
    assert set(links) <= set(ids) and len(ids) == len(set(ids)), 'each number leads to its record'

def test_no_row_of_a_grid_covers_a_cell_of_another():
    for paper, name in TABLES:
        g = R.grid(paper, name, R.measured.lines(Path('nowhere')))
        taken = [(i + k, a) for (d, a), c in g.cells.items() for i in [g.down.index(d)] for k in range(c.span)]
        assert len(taken) == len(set(taken)) and max(i for i, _ in taken) < len(g.down), (paper, name)

def test_what_another_paper_relays_is_shown_as_that_and_not_compared(tmp_path):
    record([Row('mtt/table1/cifar10/random/ipc1', method='random', mean=14., **KW | dict(protocol='decided'))], tmp_path/'mtt.csv')
    g = R.grid('mtt', 'table1', R.measured.lines(tmp_path))
    c = next(c for c in g.cells.values() if c.row == 'mtt/table1/cifar10/random/ipc1')
    assert (c.theirs, c.ours[0].shade) == ('14.4 ± 0.2*', '') and 'relayed by AutoPalette, table 1' in R.grid_text(g)
    assert R.printed_by_name()[c.row].value == '' and all(R.printed_by_name()[r.lower()].value == '' for r in R.relayed())

@pytest.mark.skipif(not (TRANSCRIBED/'relayed_numbers.csv').is_file(), reason='no relayed numbers beside the checkout')
def test_relayed_numbers_are_the_transcriptions():
    import csv
    known = R.printed_by_name()
    ours = [dict(paper=r.paper, table=r.table, method=r.method, dataset=r.dataset, budget=r.budget, budget_kind=r.budget_kind,
                 value=l.value, std=l.std, source=l.source) for l in R.relayed().values() for r in [known[l.row]]]
    assert ours == list(csv.DictReader(open(TRANSCRIBED/'relayed_numbers.csv', newline='')))

def test_published_images_stand_in_their_cell_pooled_over_sets(tmp_path):
    kw = KW | dict(n=2, protocol='decided', std=0., deviations='set 1 of 2')
    record([Row('published/cifar10/dsa/ipc1', method='dsa', mean=v, seeds=str(i), **kw) for i, v in enumerate((28., 29.))]
           + [Row('published/cifar10/mtt/ipc10/net=alexnet', method='mtt', mean=34., **kw | dict(net='alexnet'))]
           + [Row('published/cifar10/random/ipc1/eval=dc', method='random', mean=14., **kw)], tmp_path/'published.csv')
    runs = R.measured.lines(tmp_path)
    ours = {c.row: [(e.kind, e.text) for e in c.ours] for t in ('table1', 'table3') for c in R.grid('mtt', t, runs).cells.values() if c.ours}
    assert ours == {'mtt/table1/cifar10/dsa/ipc1': [('published', '28.5 ± 0.5')], 'mtt/table3/cifar10/ipc10/alexnet': [('published', '34.0 ± 0.0')]}

def test_a_table_comes_as_a_grid_and_its_rows_as_a_list(capsys):
    said = {}
    for words in ('mtt/table3', 'mtt/table3 --list', 'mtt/table3/cifar10/ipc10/vgg11', 'mtt/table3 --format html', 'mtt/table3 --own'):
        dd_table(words.split()[0], **{w.strip('-'): True for w in words.split()[1:] if w in ('--list', '--own')}, **({'format': 'html'} if 'html' in words else {}))
        said[words] = capsys.readouterr().out
    assert 'dd_row' not in said['mtt/table3'] and 'KIP' in said['mtt/table3'] and 'KIP' not in said['mtt/table3 --own']
    assert 'dd_row mtt/table3/cifar10/ipc10/vgg11' in said['mtt/table3 --list'] and said['mtt/table3/cifar10/ipc10/vgg11'].count('dd_row') == 1
    assert '<details>' in said['mtt/table3 --format html']
