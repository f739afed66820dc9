"What a row is called: `paper` when nothing that acted is ours, and never otherwise."
import dataclasses, json
from types import SimpleNamespace

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
    (lambda r: dataclasses.replace(r, budget=2), 'reduced', 'budget 2 (1)')])
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
def test_teachers_of_ours_are_named(row, taught): assert any('teachers by' in t for t in Rows._ours(R.recipe(row))) == taught

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

@pytest.mark.parametrize('row, device, said', [('d3s/table1/imagenet1k/full/resnet18', 'cuda', True), ('d3s/table1/imagenet1k/full/resnet18', 'cpu', False), ('mtt/table1/cifar10/ipc1', 'cuda', False)])
def test_teachers_in_half_precision_are_named(row, device, said): assert any('bfloat16' in t for t in Rows._ours(R.recipe(row), device)) == said

# values out of their range
@pytest.mark.parametrize('row, name, value, says', [
    (PAPER, 'eval_n', 0, 'eval_n is 0; it must be at least 1'), (PAPER, 'syn_steps', 0, 'syn_steps'), (PAPER, 'lr_img', -1., 'lr_img'), (PAPER, 'expert_n', 0, 'expert_n is 0'), (PAPER, 'expert_lr', 0., 'expert_lr is 0.0; it must be above 0'), (PAPER, 'max_start_epoch', -1, 'max_start_epoch'),
    (PAPER, 'eval_protocol', 'mttt', "protocol 'mttt'"), (PAPER, 'init', 'noisy', 'noisy'), ('d3s/table6/cifar10/ipc10', 'kind', 'kl', 'kl'), ('d3s/table6/cifar10/ipc10', 'label_epochs', 0, 'label_epochs'), ('d3/table1/cifar10/ppc1', 'mmd_samples', 0, 'mmd_samples'), ('mtt/table1/cifar10/full', 'eval_epochs', 0, 'eval_epochs')])
def test_a_line_whose_value_is_out_of_range_is_refused_before_anything_is_made(monkeypatch, tmp_path, row, name, value, says):
    has = R.recipe(row)
    r = dataclasses.replace(has, settings=has.settings | {name: has.settings[name]._replace(value=value)})
    monkeypatch.setattr(Rows, 'row_data', lambda *a, **k: pytest.fail('data were opened'))
    with pytest.raises(ValueError, match=f'^{row}: ') as e: run_row(r, quiet=True, at=Places(home=tmp_path))
    assert says in str(e.value) and '\n' not in str(e.value) and not list(tmp_path.iterdir())

def test_all_recipes_are_within_their_ranges():
    from dd_repro.counts import runnable
    for l in runnable(): stages.check_values(R.recipe(l.row))

# folders of ImageNet
def thousand(tmp_path, change=()):
    "A folder of a thousand classes, each called as in the release of 2012 where that is known."
    from dd_repro.data import _NOUNS
    names, at = [], 0
    for i in range(1000):
        at = int(_NOUNS[i][1:]) if i in _NOUNS else at + 1
        names.append(f'n{at:08}')
    for old, new in change: names[names.index(old)] = new
    for half in ('train', 'val'):
        for c in names:
            (tmp_path/'imagenet'/half/c).mkdir(parents=True)
            (tmp_path/'imagenet'/half/c/'0.png').touch()
    return tmp_path

@pytest.mark.parametrize('name', ['imagenette', 'imagenet:0,217', 'imagenet1k'])
def test_another_release_of_imagenet_is_refused(tmp_path, name):
    from dd_repro.data import find_source
    assert len(find_source(name, thousand(tmp_path/'good'), download=False).classes) in (10, 2, 1000)
    with pytest.raises(ValueError, match='class 0 of ImageNet .2012. is in n01440764, and n00004475 is there: another release'): find_source(name, thousand(tmp_path/'bad', [('n01440764', 'n00004475')]), download=False)

@pytest.mark.parametrize('n, said', [(999, '999 of 1000 classes'), (1000, '1 of 1300 a class'), (1001, '1001 of 1000 classes')])
def test_classes_that_are_missing_or_too_many_are_named(tmp_path, n, said):
    from dd_repro.data import find_source
    for half in ('train', 'val'):
        for i in range(n):
            (tmp_path/'imagenet'/half/f'c{i:04}').mkdir(parents=True); (tmp_path/'imagenet'/half/f'c{i:04}'/'0.png').touch()
    assert said in find_source('imagenet1k', tmp_path, download=False).note

def test_an_own_folder_of_other_classes_is_refused(tmp_path):
    from dd_repro.data import SUBSETS, find_source, _NOUNS
    for half in ('train', 'val'):
        for i in SUBSETS['imagewoof']: (tmp_path/'imagenette'/half/_NOUNS[i]).mkdir(parents=True); (tmp_path/'imagenette'/half/_NOUNS[i]/'0.png').touch()
    with pytest.raises(ValueError, match='class 0 of ImageNet .2012. is in n01440764, and n02086240'): find_source('imagenette', tmp_path, download=False)

def test_the_readme_says_which_rows_there_are_at_full_length():
    "No more and no less than the results file has: by method, images per class and evaluation."
    from pathlib import Path
    root = Path(__file__).resolve().parent.parent
    said = next(l for l in (root/'README.md').read_text(encoding='utf-8').splitlines() if 'The judging half has been run' in l)
    rows = read_rows(root/'docs'/'results'/'published.csv')
    have = {}
    for r in rows: have.setdefault(r.method.lower(), set()).add(int(r.row.split('/ipc')[1].split('/')[0]))
    assert {r.protocol for r in rows} == {'decided'} and {r.net for r in rows} == {'convnet'} and all('/cifar10/' in r.row for r in rows)
    assert have == {'mtt': {1, 10}, 'datm': {10}, 'dc': {1}, 'dsa': {1}, 'dm': {1}, **dict.fromkeys(('random', 'herding', 'forgetting'), {1, 10, 50})}, 'the sentence in index.ipynb names these; say there what is new'
    judged = {(int(r.row.split('/ipc')[1].split('/')[0]), r.row.split('eval=')[1]) for r in rows if 'eval=' in r.row}
    assert judged == {(1, 'dc'), (1, 'dsa'), (10, 'dc'), (10, 'dsa'), (50, 'dc')}
    for words in ('MTT at 1 and 10 images per class; DATM at 10; DC, DSA and DM at 1', 'random, herding and forgetting at 1, 10 and 50', "at 1 and 10 under DC's and DSA's evaluation, at 50 under DC's", '`decided`'): assert words in said

# no false alarm
def test_the_protocol_that_runs_is_told_as_the_recipe_has_it():
    from dd_repro.counts import runnable
    for l in runnable():
        r = R.recipe(l.row)
        assert Rows._protocol_apart(r) == [] and r.deviations == ''
        if r.method == 'full' and 'ae_f' in r.settings: assert Rows._protocol_apart(Rows._on_codes(r)) == [] and Rows._on_codes(r).kind == 'decided'

SMALL_ROWS = ['mtt/table1/cifar10/ipc1', 'mtt/table1/cifar10/dc/ipc1', 'mtt/table1/cifar10/dm/ipc1', 'mtt/table1/cifar10/random/ipc1']

def test_networks_have_the_names_that_recipes_give_them():
    from dd_repro.counts import row_net_name, runnable
    from dd_repro.zoo import make_net
    names = {row_net_name(R.recipe(l.row), 'eval') for l in runnable() if R.recipe(l.row).eval_net != 'unseen-avg4'}
    assert {n for n in names if make_net(n, 3, 10, 32).arch['name'] != n} == set()

@pytest.mark.parametrize('row', SMALL_ROWS)
def test_a_set_that_a_row_made_is_told_as_the_recipe_has_it(tmp_path, monkeypatch, row):
    monkeypatch.setenv('DD_DATA', str(tmp_path/'none'))
    kept, take = [], Rows._run
    monkeypatch.setattr(Rows, '_run', lambda job, to: kept.append(job) or take(job, to))
    row, *_ = run_row(row, smoke=True, quiet=True, at=Places(home=tmp_path))
    job, = kept
    assert Rows.told_otherwise(job, row) == Rows._card_apart(job) == [] and (job.out()/'distilled.safetensors').is_file()

# first steps
@pytest.mark.parametrize('row', ['mtt/table1/tinyimagenet/ipc1', 'd3/table1/cifar10/ppc1', 'latentdd/table1/imagefruit/256px/latentmtt/ipc1'])
def test_a_first_step_is_not_about_rates(row):
    "An expert that saw a hundred images leads nowhere, and the rate of the rate must not run away after it."
    assert Rows.smoke_recipe(R.recipe(row))['lr_lr'] < 1e-8

@pytest.mark.parametrize('row', ['d3s/table1/tinyimagenet/ipc50/resnet18', 'd3s/table6/cifar10/ipc10'])
def test_teachers_of_a_first_step_learn_slowly(monkeypatch, tmp_path, row):
    "Without warm-up the rates of the tables may give logits that half precision cannot hold."
    seen = []
    monkeypatch.setattr(stages, 'train_teachers', lambda net, real, path, n, p, *a: seen.append(p))
    real = ImageTensors(torch.randn(4, 3, 8, 8), torch.arange(4) % 2, 2)
    stages.Job(R.recipe(row), real, real, tmp_path, smoke=True).teachers(1)
    assert seen[0].lr <= .01 and seen[0].epochs == 1

@pytest.mark.parametrize('failing', [0, 1])
def test_smoke_counts_combinations_and_not_rows(monkeypatch, capsys, failing):
    def run(row, **kw):
        if failing and row == 'b': raise ValueError('no\nway')
        return ['one', 'two']
    monkeypatch.setattr(Rows, 'run_row', run)
    monkeypatch.setattr(Rows.smoke_cases, 'lines', lambda paper: [SimpleNamespace(row=r, size=8) for r in 'abc'])
    try: Rows.dd_smoke()
    except SystemExit as e: assert failing and e.code == 1
    out = capsys.readouterr().out
    assert out.startswith(f'{3 - failing} combinations took their first step, {failing} failed') and ('b: ValueError: no way' in out) == bool(failing)
