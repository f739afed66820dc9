"""What `make same` compares, and that it sees a difference; the runs need a second environment."""
import json

import pytest, torch
import same, same_drive as drive
from dd_repro.files import save_tensors
from dd_repro.records import Row

def test_equal_values_are_equal():
    one = dict(a=dict(x='1', y='2'), b=dict(x='3'))
    lines, equal = same.report(same.compared(one, json.loads(json.dumps(one))))
    assert equal and lines == ['2 of 2 equal (3 values)']

@pytest.mark.parametrize('new, said', [
    (dict(a=dict(x='2')), 'x: 1 -> 2'), (dict(a=dict(x='1', y='2')), 'y: None -> 2'),
    (dict(a={}), 'x: 1 -> None'), ({}, 'x: 1 -> None'),
    (dict(a=dict(error='E')), 'error: None -> E')])
def test_a_difference_is_named(new, said):
    lines, equal = same.report(same.compared(dict(a=dict(x='1')), new))
    assert not equal and any(said in l for l in lines) and lines[-1].startswith('0 of 1 equal')

FAILED = [(dict(error='E'), 'error: E -> E'), ({}, 'nothing was compared')]

@pytest.mark.parametrize('fields, said', FAILED)
def test_what_fails_or_is_empty_in_both_trees_is_not_equal(fields, said):
    lines, equal = same.report(same.compared(dict(a=fields), dict(a=fields)))
    assert not equal and any(said in l for l in lines)

def test_no_case_at_all_is_not_equal(): assert same.report(same.compared({}, {}))[1] is False

def test_an_explained_difference_is_told_and_counts_as_equal():
    why = {('mtt', 'card.info.'): 'the card has new words'}
    old, new = ({'row mtt': {'card.info.a': v, 'images': 'h'}} for v in '12')
    lines = ['explained: row mtt: the card has new words', '1 of 1 equal (2 values)']
    assert same.report(same.compared(old, new, why)) == (lines, True)
    new['row mtt']['images'] = 'other'
    assert not same.report(same.compared(old, new, why))[1]

def test_many_differences_are_cut_short():
    lines, _ = same.report(same.compared(dict(a=dict.fromkeys('uvwxyz', '1')), dict(a={})), shown=2)
    assert len(lines) == 5 and lines[3].strip() == 'and 4 more (--all shows them)'

def test_a_commit_that_is_not_there_is_one_line():
    with pytest.raises(ValueError, match="'no-such-tag' is no commit or tag"):
        same.commit_of('no-such-tag')

def test_bits_see_type_shape_and_the_last_bit():
    t = torch.linspace(0, 1, 6)
    near = t.clone()
    near[3] = torch.nextafter(t[3], torch.tensor(2.))
    kinds = [t, near, t.view(2, 3), t.double(), -t, torch.empty(0), torch.tensor(1.)]
    assert len({drive.bits(k) for k in kinds}) == len(kinds)
    assert drive.bits(t) == drive.bits(t.clone()) == drive.bits(torch.stack([t, t], 1)[:, 0])

def test_a_file_is_compared_without_its_clock(tmp_path):
    for i, (seconds, date, lr) in enumerate(((1., 'a', .1), (2., 'b', .1), (1., 'a', .2))):
        card = dict(seconds=seconds, info=dict(lr=lr, date=date))
        save_tensors(tmp_path/str(i)/'distilled.safetensors', dict(x=torch.arange(3.)), card)
    a, b, c = (drive.of_folder(tmp_path/str(i)) for i in range(3))
    assert a == b and same.differing(a, c) == [('distilled/card.info.lr', (.1).hex(), (.2).hex())]

def test_a_file_without_a_clock_is_compared_whole(tmp_path):
    for i in range(2):
        file = tmp_path/str(i)/'labels-00000.safetensors'
        save_tensors(file, dict(x=torch.arange(3.)), dict(i=1))
    a, b = (drive.of_folder(tmp_path/str(i)) for i in range(2))
    assert a == b and 'labels-00000/file' in a

def test_folders_may_be_called_otherwise(tmp_path):
    for i, folders in enumerate((('a', 'b'), ('z', 'c'))):
        for n, k in enumerate(folders):
            file = tmp_path/str(i)/k/'teacher_000.safetensors'
            save_tensors(file, dict(x=torch.full((2,), float(n))), {})
    a, b = (drive.of_folder(tmp_path/str(i)) for i in range(2))
    assert a == b and len(a) == 4

def test_a_row_is_compared_without_its_clock():
    kw = [dict(date=s, artefact=s, deviations=f'20 images decoded in {s} s') for s in ('1.0', '25')]
    a, b = (drive.of_row(Row('r', mean=1., seconds=float(k['date']), **k), '') for k in kw)
    assert a == b != drive.of_row(Row('r', mean=1. + 1e-15, **kw[0]), '')

def test_cases_cover_every_method_and_have_titles_of_their_own():
    titles = [drive.title(c) for c in drive.CASES]
    assert len(set(titles)) == len(titles)
    methods = {c.name for c in drive.CASES if c.kind == 'method'}
    words = 'mtt dc dsa dm d3 d3s sre2l cda latent-dc latent-dm latent-mtt initial'
    assert methods == set(words.split()) | {'random', 'herding', 'forgetting'}
    rows = [c.name for c in drive.CASES if c.kind == 'row']
    assert len(rows) >= 12 and {r.split('/')[0] for r in rows} == {'mtt', 'd3', 'd3s', 'latentdd'}
    assert all(hasattr(drive, f'do_{c.kind}') for c in drive.CASES)

def test_a_case_runs_and_runs_again_the_same():
    to = drive.ways(drive.World())
    c = next(c for c in drive.CASES if (c.kind, c.name) == ('method', 'random'))
    a, b = drive.run(c, to), drive.run(c, to)
    assert a == b and 'error' not in a and 'set/images' in a

def test_a_case_that_fails_says_so():
    c = drive.case('method', 'random', ipc=10**6)
    assert drive.run(c, drive.ways(drive.World()))['error'].startswith('ValueError')
