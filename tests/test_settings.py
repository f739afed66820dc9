"""The settings table: what may stand in it, which line counts, and that each line is of use."""
from itertools import combinations

import pytest
from dd_repro.papers import printed_lines
from dd_repro.recipes import house_name, recipe, row_conditions
from dd_repro.fields import settings_fields
from dd_repro.method import METHODS
from dd_repro.settings import *

ROWS = [r for r in printed_lines() if r.runs]
METHOD = {r.row: house_name(r.runs) for r in ROWS}
HEAD = 'paper,method,dataset,resolution,budget,variant,name,value,kind,source'


def table(path, *lines):
    path.write_text('\n'.join((HEAD, *lines)) + '\n')
    return SettingsTable(path)

def of(t, method, variant=(), **where):
    return {n: v.value for n, v in t.of(method, **dict(dict.fromkeys(WHERE, {''}), variant=set(variant)) | {k: {v} for k, v in where.items()}).items()}


# The table that ships ------------------------------------------------------------------------------------------------

def holding(r):
    "The numbers of the lines that hold for a row."
    found = settings_table().holding(METHOD[r.row], **{k: v if k == 'variant' else {v} for k, v in row_conditions(r, METHOD[r.row]).items()})
    return {l.number for ls in found.values() for l in ls}

def is_printed(line):
    "Whether some printed row has the data set, the budget and the whitening that a line asks for."
    when = {k: line.when.get(k) for k in ('dataset', 'budget')}
    white = line.when.get('variant', frozenset()) & {'zca', 'no zca'}
    for r in ROWS:
        c = row_conditions(r, METHOD[r.row])
        fits = all(v is None or c[k] in v for k, v in when.items()) and (not white or white & c['variant'])
        if fits and METHOD[r.row] in line.methods: return True

def test_each_line_holds_for_a_printed_row_or_is_for_a_users_command():
    used = set().union(*map(holding, ROWS))
    idle = [l for l in settings_table().lines if l.number not in used and is_printed(l)]
    assert not idle, [(l.number, l.methods, l.name) for l in idle]

def test_a_line_stands_once_and_in_order():
    key = lambda l: (l.methods, l.name, sorted((k, sorted(v)) for k, v in l.when.items()))
    keys = [str(key(l)) for l in settings_table().lines]
    assert len(keys) == len(set(keys))
    order, names = list(FIELDS), {}
    for l in settings_table().lines: names.setdefault(l.methods, []).append(l.name)
    assert [[order.index(m) for m in ms] for ms in names] == sorted([order.index(m) for m in ms] for ms in names)
    assert all(ns == sorted(ns) for ns in names.values()), 'by method, then name'

def test_a_resolution_stands_where_a_data_set_has_several():
    sides = {}
    for r in ROWS: sides.setdefault(r.dataset, set()).add(r.resolution)
    one = {d for d, s in sides.items() if len(s) == 1 and d != 'imageyellow'}
    assert not [l.number for l in settings_table().lines if 'resolution' in l.when and one & l.when.get('dataset', set())]

def test_no_row_has_two_lines_as_specific():
    for r in ROWS: assert recipe(r.row).settings, r.row

def could_tie(a, b):
    apart = any(a.when[k].isdisjoint(b.when[k]) for k in a.when.keys() & b.when.keys())
    return len(a.when) == len(b.when) and not apart

def test_nothing_that_a_user_may_ask_for_has_two_lines_as_specific():
    "Two lines with as many conditions have one in common, and it tells them apart."
    pairs = [p for by in settings_table().by.values() for ls in by.values() for p in combinations(ls, 2)]
    assert len(pairs) > 500 and not [(a.number, b.number) for a, b in pairs if could_tie(a, b)]

def test_each_setting_of_a_recipe_is_a_field_of_its_method():
    for r in ROWS:
        x = recipe(r.row)
        assert set(x.settings) <= set(FIELDS[house_name(x.method)]), r.row
        assert not [n for n, v in x.settings.items() if isinstance(v.value, str) and ' ' in v.value], 'a phrase is no value'

def test_what_a_row_says_itself_is_a_field_of_its_method():
    for r in ROWS:
        assert {w.split('=')[0] for w in r.said.split(';') if w} <= set(FIELDS[METHOD[r.row]]), r.row
        assert r.stage in ('row', 'experts', 'build', 'distill') and r.runs in meanings('house'), r.row
        assert {w for w in r.variant.split(';') if w and not w.startswith('zca')} <= set(r.words.split(';')), r.row
    cited = [r for r in printed_lines() if not r.runs]
    assert cited and not any(r.said or r.words or r.stage for r in cited)

def test_the_table_of_fields_names_methods_and_types():
    lines, methods = asset_lines('fields.csv'), {*FIELDS, 'all', ''}
    assert len({l['name'] for l in lines}) == len(lines) and {l['type'] for l in lines} == {*KINDS.values(), 'number or learned'}
    assert all(set(l[c].split(';')) <= methods for l in lines for c in ('methods', 'needed')) and all(l['methods'] for l in lines)

def test_what_a_method_needs_is_a_field():
    assert all(set(NEEDED[m]) <= set(FIELDS[m]) for m in FIELDS) and NEEDED['mtt'] and set(own_fields('full')) == set()

@pytest.mark.parametrize('row,name,value,kind', [
    ('d3s/table1/imagenet21k/sre2l/ipc10/resnet18', 'alpha', 1., 'decided'), ('d3s/table5/cifar100/cda/ipc50', 'alpha', 1., 'decided'),
    ('d3s/fig4_prose/tinyimagenet/label_epochs=25/ipc50', 'eval_epochs', 900, 'decided'),
    ('d3s/fig4_prose/tinyimagenet/label_epochs=25/ipc50', 'label_epochs', 25, 'paper'),
    ('d3/table1/cifar10/dm/ipc10', 'iterations', 20000, 'code'), ('d3/table1/cifar10/ppc1', 'gamma3', 0, 'decided'),
    ('d3/table8/loss=MTT/vgg11', 'gamma3', 0, 'decided'), ('d3/table1/cifar10/ppc2', 'gamma3', .01, 'decided'),
    ('latentdd/table1/imagewoof/256px/mtt/ipc1', 'max_start_epoch', 10, 'decided'), ('d3/table10/features=shallow/vgg11', 'feature_blocks', 2, 'paper')])
def test_a_wider_line_or_another_paper_does_not_leak(row, name, value, kind):
    v = recipe(row).settings[name]
    assert (v.value, v.kind) == (value, kind)

def test_a_set_of_a_user():
    assert settings_of('mtt', dataset='digits', resolution=16, budget=1)['lr_img'].kind == 'decided'
    assert 'lr_img' not in settings_of('mtt', dataset='imagewoof', resolution=128, budget=1), 'sources disagree; what we chose is for printed rows'
    white, plain = (settings_of('mtt', dataset='cifar100', budget=10, variant=v) for v in (['zca'], []))
    assert 'syn_steps' in plain and 'syn_steps' not in white, 'nobody states it whitened'


# Which line counts ---------------------------------------------------------------------------------------------------

def test_the_line_with_most_conditions_counts_wherever_it_stands(tmp_path):
    lines = [',mtt,,,,,syn_steps,1,code,a', ',mtt,cifar10,,,,syn_steps,2,decided,b', ',mtt,cifar10;cifar100,,10,,syn_steps,3,decided,c', 'd3,mtt,cifar10,,10,zca,syn_steps,4,decided,d']
    for order in (lines, lines[::-1]):
        t = table(tmp_path/'s.csv', *order)
        asked = [dict(), dict(dataset='cifar100'), dict(dataset='cifar10'), dict(dataset='cifar10', budget='10'), dict(dataset='cifar10', budget='10', paper='d3', variant=['zca'])]
        assert [of(t, 'mtt', **a)['syn_steps'] for a in asked] == [1, 1, 2, 3, 4]

def test_a_line_of_another_method_never_holds(tmp_path):
    t = table(tmp_path/'s.csv', ',d3s,,,,,alpha,20,paper,a', ',sre2l;cda,imagenet1k,,,,alpha,1,code,b')
    assert [of(t, m, dataset='imagenet1k') for m in ('d3s', 'sre2l', 'mtt')] == [dict(alpha=20), dict(alpha=1), {}] and of(t, 'cda', dataset='cifar10') == {}

@pytest.mark.parametrize('a,b', [(',dm,cifar10,,,', ',dm,,,10,'), (',dm,,,,', ',dc;dm,,,,'), ('mtt,dm,cifar10,,,', ',dm,cifar10,,1;10,')])
def test_two_lines_as_specific_are_refused_with_their_numbers(a, b, tmp_path):
    t = table(tmp_path/'s.csv', f'{a},iterations,1,code,a', ',dm,cifar100,,,,iterations,3,code,c', f'{b},iterations,2,code,b')
    with pytest.raises(ValueError, match='s.csv: lines 2 and 4 are as specific for iterations of dm'): of(t, 'dm', paper='mtt', dataset='cifar10', budget='10')

def test_none_is_a_value(tmp_path):
    assert of(table(tmp_path/'s.csv', ',mtt,,,,,aug,,code,a'), 'mtt') == dict(aug='')


# What may stand in it ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('line,said', [
    (',mtt,,,,,syn_stepps,3,code,a', "'syn_stepps' is no setting of mtt; did you mean syn_steps?"), (',dc;dm,,,,,outer,3,code,a', "'outer' is no setting of dm"),
    (',mt,,,,,syn_steps,3,code,a', "method 'mt' is not known; did you mean mtt?"), (',,,,,,syn_steps,3,code,a', "method '' is not known"),
    (',mtt,,,,,syn_steps,3.5,code,a', "syn_steps is '3.5', which is no whole number"), (',mtt,,,,,lr_img,fast,code,a', "lr_img is 'fast', which is no number"),
    (',d3s,,,,,isu,2,paper,a', "isu is '2', which is no switch"), (',mtt,,,,,init,3,code,a', "init is '3', which is no word"),
    (',mtt,,,,,eval_optimizer,sgd with momentum,paper,a', 'which is no word'), (',mtt,,,,,eval_epochs,until convergence,paper,a', 'which is no whole number'),
    (',mtt,,,,,syn_steps,3,guessed,a', "kind 'guessed' is not one of paper, code, decided"), (',mtt,,,,,syn_steps,3,code,', 'syn_steps has no source'),
    (',mtt,,,,,syn_steps,3', 'it has not the 10 columns'), (',mtt,,,,,syn_steps,3,code,a,b', 'it has not the 10 columns')])
def test_a_faulty_line_is_named(line, said, tmp_path):
    with pytest.raises(ValueError) as e: table(tmp_path/'s.csv', ',mtt,,,,,syn_steps,3,code,a', line)
    assert str(e.value).startswith('s.csv, line 3: ') and said in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('head', [HEAD + ',note', HEAD.replace('budget', 'ipc'), HEAD.replace(',source', ''), ''])
def test_other_columns_are_refused(head, tmp_path):
    (tmp_path/'s.csv').write_text(f'{head}\n,mtt,,,,,syn_steps,3,code,a\n')
    with pytest.raises(ValueError, match='s.csv, line 1: columns'): read_settings(tmp_path/'s.csv')

@pytest.mark.parametrize('method,near', [('dms', 'dm'), ('latentdc', 'latent-dc'), ('kip', 'mtt')])
def test_an_unknown_method(method, near):
    with pytest.raises(ValueError, match=f'method {method!r} is not known; .*{near}'): settings_of(method)


# In step with the demo -----------------------------------------------------------------------------------------------

def test_the_lines_of_digits_are_those_of_the_demo():
    from dd_repro.ten_images import DEMO
    mine = {l.name: l.value.value for l in settings_table().lines if l.when.get('dataset') == {'digits'}}
    assert len(mine) == 6 and mine == {n: DEMO[n] for n in mine}

KINDS = {int: 'whole number', float: 'number', str: 'word', bool: 'switch'}

@pytest.mark.parametrize('method', [m for m in FIELDS if m != 'full'])
def test_the_names_of_the_table_are_the_fields_of_the_classes(method):
    own = {n: KINDS[f.type] for n, f in settings_fields(METHODS[method]).items()}
    assert own == {n: FIELDS[method][n] for n in own_fields(method)}
