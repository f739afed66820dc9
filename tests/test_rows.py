"""Rows run by name: what stands beside them, where they are recorded, what they cost, how they go on."""
import dataclasses

import pytest, torch
from dd_repro import recipes as R
from dd_repro import plans, rows, stages
from dd_repro.core import TimeUp
from dd_repro.counts import runnable
from dd_repro import steps as S, unroll as U
from dd_repro.records import read_rows
from dd_repro.distilled import Distilled
from dd_repro.plans import plan
from dd_repro.rows import Places, dd_row, run_row
from dd_repro.zoo import make_net

def test_d3s_has_random_images_with_the_same_labels_beside_it(tmp_path):
    ours, rand = run_row('d3s/table6/cifar10/ipc10', smoke=True, quiet=True, at=Places(tmp_path, tmp_path), net_resnet_width=4)
    assert (ours.method, rand.method, ours.row) == ('D3S', 'random', rand.row) and ours.artefact and not rand.artefact
    assert len(list(tmp_path.rglob('labels-random'))) == 1

def test_a_time_box_is_refused_where_nothing_could_end_early(tmp_path):
    with pytest.raises(ValueError, match='minutes is 5, and there is nothing in it that could end early; take scale='): run_row(R.recipe('mtt/table1/cifar10/random/ipc1', minutes=5.), at=Places(home=tmp_path))
    assert not any(tmp_path.iterdir())

@pytest.mark.parametrize('row', ['d3s/table6/cifar10/ipc10', 'd3s/table6/cifar10/full', 'mtt/table1/cifar10/ipc1', 'mtt/table1/cifar10/dm/ipc1'])
def test_rows_that_are_made_in_pieces_take_a_time_box(row):
    rows_ = [l.row for l in runnable() if l.row == row] or [next(l.row for l in runnable('d3s') if l.budget_kind == 'full')]
    stages.check_time_box(R.recipe(rows_[0], minutes=5.))

def test_a_synthesis_stops_between_batches_and_goes_on_to_a_whole_row(tmp_path, monkeypatch):
    r = R.shrink(R.recipe('d3s/table6/cifar10/ipc10'), net_resnet_width=4, iterations=2, batch=50, teacher_n=1, teacher_epochs=1, label_epochs=1, eval_epochs=1, eval_n=1)
    monkeypatch.setattr(rows, 'row_data', lambda r, *a: (*stages.generated('cifar10', 32), ''))
    keep, seen = stages.learn, []
    def cut(task, method, out, how): return keep(task, method, out, dataclasses.replace(how, minutes=1e-9))
    monkeypatch.setattr(stages, 'learn', cut)
    for _ in range(2):
        with pytest.raises(TimeUp, match='of 2 batches are kept in'): run_row(dataclasses.replace(r, minutes=60.), quiet=True, at=Places(home=tmp_path))
    monkeypatch.setattr(stages, 'learn', keep)
    ours, _ = run_row(dataclasses.replace(r, minutes=60.), quiet=True, at=Places(home=tmp_path))
    assert 'minutes' not in ours.deviations and ours.artefact

def test_a_box_that_was_not_needed_makes_no_row_smaller(tmp_path):
    r = R.shrink(dataclasses.replace(R.recipe('mtt/table1/cifar10/dm/ipc1'), dataset='digits', size=8, minutes=60.), iterations=2, eval_epochs=2, eval_n=1, eval_aug='', aug='', net_width=4, student_depth=2, net_depth=2, data_zca=0)
    whole, = run_row(r, quiet=True, at=Places(home=tmp_path/'a'))
    keep = stages.learn
    with pytest.MonkeyPatch.context() as m:
        m.setattr(stages, 'learn', lambda task, method, out, how: keep(task, method, out, dataclasses.replace(how, minutes=1e-9)))
        cut, = run_row(r, quiet=True, at=Places(home=tmp_path/'b'))
    assert 'at most' not in whole.deviations and 'at most 60 minutes' in cut.deviations

def test_compiled_is_for_rows_with_student_steps(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="compiled is for rows of MTT and D3; with DM it is not offered"): run_row('mtt/table1/cifar10/dm/ipc1', compiled=True, at=Places(home=tmp_path))
    assert not any(tmp_path.iterdir())
    made = []
    monkeypatch.setattr(S, '_compile', lambda traced, ts: made.append(traced) or traced)
    monkeypatch.setattr(U, 'need_compiler', lambda: None)
    for n, (row, kw) in enumerate({'mtt/table1/cifar10/ipc1': {}, 'd3/table1/cifar10/ppc1': dict(decoder_width=8)}.items(), 1):
        assert run_row(row, smoke=True, compiled=True, quiet=True, at=Places(tmp_path, tmp_path), net_width=8, **kw) and len(made) == 2*n, row

def test_a_row_is_recorded_in_the_file_of_its_paper(tmp_path, monkeypatch):
    monkeypatch.setenv('DD_RESULTS', str(tmp_path))
    dd_row('d3/table3/cifar10/ppc10/rate')
    row, = read_rows(tmp_path/'d3.csv'); assert row.row == 'd3/table3/cifar10/ppc10/rate' and row.protocol != 'paper'
    dd_row('d3/table3/cifar10/ppc1/rate', record_to='none'); assert len(read_rows(tmp_path/'d3.csv')) == 1

def test_plan_of_d3s_counts_statistics_and_the_divergence():
    p = plan(R.shrink(R.recipe('d3s/table6/cifar10/ipc10'), net_resnet_width=4), keep=False)
    assert {'teachers', 'statistics', 'distill', 'labels', 'evaluate'} == set(p.seconds) and all(v > 0 for v in p.seconds.values())

def test_a_probe_of_synthesis_makes_its_targets_once(monkeypatch):
    made, targets = [], plans.targets
    monkeypatch.setattr(plans, 'targets', lambda *a, **kw: made.append(1) or targets(*a, **kw))
    step = plans._one_step(lambda: make_net('resnet18_bn', 3, 10, 32, width=4), 'synthesis', 2, 'cpu')
    step(); step(); assert len(made) == 1

def test_an_interrupted_row_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    r = R.shrink(dataclasses.replace(R.recipe('mtt/table1/cifar10/ipc1'), dataset='digits', size=8), expert_n=2, max_start_epoch=1, syn_steps=2, iterations=6, eval_epochs=2, eval_n=1, eval_aug='', aug='', expert_aug='', net_width=4,
                 student_depth=2, net_depth=2, data_zca=0)
    whole, = run_row(r, quiet=True, at=Places(home=tmp_path/'a'))
    seen, keep = [], stages.learn
    def cut(task, method, out, how): seen.append(1); return keep(task, method, out, dataclasses.replace(how, minutes=1e-9))
    monkeypatch.setattr(stages, 'learn', cut); run_row(r, quiet=True, at=Places(home=tmp_path/'b'))
    monkeypatch.setattr(stages, 'learn', keep); again, = run_row(r, quiet=True, at=Places(home=tmp_path/'b'))
    assert seen and again.mean == whole.mean
    files = [next((tmp_path/k).rglob('rows/**/distilled.safetensors')) for k in 'ab']
    assert torch.equal(Distilled.load(files[0]).images, Distilled.load(files[1]).images)
