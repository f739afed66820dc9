"""The dump of all recipes: rows are called as before the rebuild, a difference is seen."""
import subprocess, sys

import pytest
import recipes

LINE = ('mtt/a', 'MTT', 'row', 'lr', '1', 'paper', 'table 1')

def changed(**kw): return tuple((dict(zip(recipes.COLUMNS, LINE)) | kw).values())

def test_rows_are_called_as_before():
    before, now = {l[0] for l in recipes.read(recipes.BEFORE)}, recipes.rows()
    assert len(now) == len(set(now)) and set(now) == before

def test_every_row_has_settings_or_one_reason():
    lines = [l for r in recipes.rows()[::25] for l in recipes.of_row(r)]
    assert all(l[5] == 'cannot' and l[4] or l[1] for l in lines)
    assert {l[5] for l in lines} >= {'cannot', 'paper', 'decided'}
    assert all(l[6] for l in lines if l[1] and not l[3].startswith('('))

def test_a_dump_is_read_as_it_was_written(tmp_path):
    lines = [LINE, changed(value="'a, \"b\"\nc'", name='aug')]
    for name in ('a.csv', 'a.csv.gz'):
        recipes.write(lines, tmp_path/name); first = (tmp_path/name).read_bytes()
        assert recipes.read(tmp_path/name) == lines
        recipes.write(lines, tmp_path/name); assert (tmp_path/name).read_bytes() == first

def test_another_file_is_refused(tmp_path):
    for text in ('a,b\n1,2\n', ''):
        (tmp_path/'x.csv').write_text(text)
        with pytest.raises(ValueError, match='x.csv: not a dump of recipes'):
            recipes.read(tmp_path/'x.csv')

def test_equal_dumps_do_not_differ(): assert recipes.differences([LINE], [LINE]) == {}

@pytest.mark.parametrize('what, was, now', [
    ('value', '1', '2'), ('value', '1', '1.0'), ('kind', 'paper', 'code'),
    ('source', 'table 1', 'table 2')])
def test_a_difference_is_grouped_over_rows(what, was, now):
    old, new = ([changed(row=r, **{what: v}) for r in ('mtt/a', 'mtt/b')] for v in (was, now))
    found = recipes.differences(old, new)
    assert found == {(what, 'MTT', 'lr', was, now): ['mtt/a', 'mtt/b']}
    assert recipes.report(found)[1] == f'MTT lr: {was} -> {now}: 2 rows: mtt/a mtt/b'

def test_a_setting_that_comes_or_goes_is_one_difference():
    one, two = [LINE], [LINE, changed(name='wd')]
    assert recipes.differences(one, two) == {('value', 'MTT', 'wd', '-', '1'): ['mtt/a']}
    assert recipes.differences(two, one) == {('value', 'MTT', 'wd', '1', '-'): ['mtt/a']}

def test_a_method_that_changes_is_named():
    found = recipes.differences([LINE], [changed(method='DM', value='2')])
    assert found == {('value', 'MTT -> DM', 'lr', '1', '2'): ['mtt/a']}

def test_a_dump_imports_no_torch():
    code = 'import sys, recipes\nprint(len(recipes.dump()) > 10_000, "torch" in sys.modules)'
    cmd = [sys.executable, '-c', code] # from tests/, where recipes.py is found
    r = subprocess.run(cmd, cwd=recipes.ROOT/'tests', capture_output=True, text=True)
    assert r.stdout.split() == ['True', 'False'], r.stderr
