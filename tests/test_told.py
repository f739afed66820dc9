"What a row is called: `paper` when nothing that acted is ours, and never otherwise."
import dataclasses, json

import pytest, torch

import dd_repro.recipes as R
from dd_repro import rows as Rows, stages
from dd_repro.distilled import Distilled
from dd_repro.experts import Buffer
from dd_repro.records import Row, record, read_rows, weakest
from dd_repro.rows import Places, run_row
from dd_repro.sets import ImageTensors
from dd_repro.students import PROTOCOLS

PAPER, OURS = 'mtt/table1/cifar10/ipc1', 'mtt/table4/imagewoof/ipc1'
TINY = dict(expert_n=1, max_start_epoch=1, syn_steps=2, iterations=2, eval_epochs=1, eval_n=1, eval_every=1, eval_aug='', aug='', expert_aug='', net_width=4, student_depth=2, net_depth=2, data_zca=0)

def as_printed(monkeypatch, row=PAPER, protocol=True, **kw):
    "A row on few images of 8 px, as if a table had printed it so: values by the name of `paper`."
    has = R.recipe(row)
    mine = {n: has.settings[n]._replace(value=v) for n, v in (TINY | kw).items() if n in has.settings}
    r = dataclasses.replace(has, size=8, settings=has.settings | mine)
    monkeypatch.setattr(R, 'recipe', lambda *a, **k: r)
    if protocol: monkeypatch.setitem(PROTOCOLS, 'mtt', dataclasses.replace(PROTOCOLS['mtt'], epochs=1, aug=''))
    real = ImageTensors(torch.randn(40, 3, 8, 8), torch.arange(40) % 10, 10, name='cifar10')
    monkeypatch.setattr(Rows, 'row_data', lambda *a, **k: (real, real, ''))
    return r

def test_a_row_of_which_all_is_stated_is_the_papers(monkeypatch, tmp_path):
    row, = run_row(as_printed(monkeypatch), quiet=True, at=Places(home=tmp_path), record_to=tmp_path/'r.csv')
    assert (row.protocol, row.deviations) == ('paper', '') == (read_rows(tmp_path/'r.csv')[0].protocol, '')

def decided(r): return dataclasses.replace(r, settings=r.settings | dict(lr_img=r.settings['lr_img']._replace(kind='decided')))
def by_hand(r): return dataclasses.replace(r, settings=r.settings | dict(lr_img=r.settings['lr_img']._replace(value=7.)))
def left_out(r): return dataclasses.replace(r, settings={n: v for n, v in r.settings.items() if n != 'momentum'})

@pytest.mark.parametrize('change, word, says', [
    (decided, 'decided', 'ours: lr_img'), (by_hand, 'reduced', 'lr_img 7.0 (100.0)'), (left_out, 'reduced', 'momentum None (0.5)'),
    (lambda r: dataclasses.replace(r, dataset='cifar100'), 'reduced', 'dataset cifar100 (cifar10)'),
    (lambda r: dataclasses.replace(r, budget=2), 'reduced', 'budget 2 (1)'), (lambda r: R.shrink(r, minutes=9.), 'reduced', 'at most 9 minutes')])
def test_a_recipe_with_something_of_ours(monkeypatch, tmp_path, change, word, says):
    row, = run_row(change(as_printed(monkeypatch, row=PAPER)), quiet=True, at=Places(home=tmp_path), record_to=tmp_path/'r.csv')
    assert row.protocol == word and says in row.deviations

@pytest.mark.parametrize('name, value', [('lr_img', 50.), ('syn_steps', 3), ('eval_n', 2)])
def test_a_setting_given_by_name(monkeypatch, tmp_path, name, value):
    row, = run_row(as_printed(monkeypatch), quiet=True, at=Places(home=tmp_path), **{name: value})
    assert row.protocol == 'reduced' and f'{name} {value}' in row.deviations

def test_the_last_state_only(monkeypatch, tmp_path):
    row, = run_row(as_printed(monkeypatch), quiet=True, at=Places(home=tmp_path), looks=False)
    assert row.protocol == 'decided' and 'last state' in row.deviations

def test_part_of_a_data_set(monkeypatch, tmp_path):
    r = as_printed(monkeypatch)
    real = ImageTensors(torch.randn(40, 3, 8, 8), torch.arange(40) % 10, 10, name='cifar10')
    monkeypatch.setattr(Rows, 'row_data', lambda *a, **k: (real, real, 'data: cifar10 (40 of 50000 images)'))
    row, = run_row(r, quiet=True, at=Places(home=tmp_path))
    assert row.protocol == 'reduced' and '40 of 50000' in row.deviations

@pytest.mark.parametrize('change, says', [(dict(lr_img=3.), 'lr_img 3.0 (100.0)'), (dict(n_experts=7), 'expert_n 7 (1)'), (dict(buffer=dict(lr=.5)), 'expert_lr 0.5 (0.01)')])
def test_a_set_that_was_found_and_made_otherwise(monkeypatch, tmp_path, change, says):
    r = as_printed(monkeypatch)
    assert run_row(r, quiet=True, at=Places(home=tmp_path))[0].protocol == 'paper'
    file = next((tmp_path/'rows').rglob('distilled.safetensors'))
    d = Distilled.load(file)
    d.info['settings'] |= change
    d.save(file)
    row, = run_row(r, quiet=True, at=Places(home=tmp_path))
    assert row.protocol == 'reduced' and says in row.deviations

def test_a_buffer_that_was_found_and_made_otherwise(monkeypatch, tmp_path):
    "Experts with another card are refused; a longer buffer of the same experts serves."
    r = as_printed(monkeypatch)
    run_row(r, quiet=True, at=Places(home=tmp_path))
    card = next((tmp_path/'buffers').rglob('buffer.json'))
    card.write_text(json.dumps(json.loads(card.read_text()) | dict(lr=.5)))
    for f in (tmp_path/'rows').rglob('*.safetensors'): f.unlink()
    with pytest.raises(ValueError, match='holds experts with other settings'): run_row(r, quiet=True, at=Places(home=tmp_path))

def test_a_protocol_that_was_changed(monkeypatch, tmp_path):
    r = as_printed(monkeypatch)
    monkeypatch.setitem(PROTOCOLS, 'mtt', dataclasses.replace(PROTOCOLS['mtt'], batch=7))
    row, = run_row(r, quiet=True, at=Places(home=tmp_path))
    assert row.protocol == 'reduced' and 'eval_batch 7 (256)' in row.deviations

@pytest.mark.parametrize('row, taught', [('d3s/table1/tinyimagenet/ipc50/resnet18', False), ('d3s/table6/cifar10/ipc10', True), ('mtt/table1/cifar10/ipc1', False)])
def test_teachers_of_ours_are_named(row, taught): assert bool(Rows._teachers_apart(R.recipe(row))) == taught

@pytest.mark.parametrize('row, ours', [(PAPER, False), (OURS, True), ('latentdd/table1/imagefruit/256px/latentdm/ipc1', True)])
def test_what_a_recipe_leaves_to_the_house_is_ours(row, ours):
    assert bool(R.ours_in(row)) == ours
    with_ours = R.recipe(row)
    bare = dataclasses.replace(with_ours, settings={n: v for n, v in with_ours.settings.items() if v.kind != 'decided'})
    assert bare.ours == with_ours.ours and bare.kind == with_ours.kind

# the last gate
@pytest.mark.parametrize('row, deviations, says', [(PAPER, 'half the experts', 'half the experts'), (OURS, '', 'lr_img'), (OURS.upper(), '', 'lr_img'), ('my/row', 'lr 0.01 (given)', 'given')])
def test_record_refuses_a_word_that_is_not_true(tmp_path, row, deviations, says):
    about = dict(method='m', net='convnet', n=1, mean=50.)
    with pytest.raises(ValueError, match=f'called paper has no values of ours.*{says}'): record([Row('my/other', 'reduced', **about), Row(row, 'paper', deviations, **about)], tmp_path/'r.csv')
    assert not (tmp_path/'r.csv').exists()
    record(Row(row, 'decided', deviations, **about), tmp_path/'r.csv')

@pytest.mark.parametrize('row', [PAPER, 'my/row'])
def test_record_takes_a_word_that_is_true(tmp_path, row):
    record(Row(row, 'paper', method='MTT', net='convnet', n=1, mean=46.), tmp_path/'r.csv')
    assert read_rows(tmp_path/'r.csv')[0].protocol == 'paper'
