"""The scripts of docs/studies: each says how it is used, and every recorded row has its command in their README."""
import re, runpy, sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from dd_repro.records import read_rows
from dd_repro.papers import printed

STUDIES = Path(__file__).resolve().parent.parent/'docs'/'studies'
SCRIPTS = sorted(p.name for p in STUDIES.glob('*.py') if p.name != 'study.py')
README = (STUDIES/'README.md').read_text(encoding='utf-8')
LINES = re.findall(r'^\| `([^`]+)`[^|]*\| (.+?) \| ([^|]+) \|$', README, re.M)


@pytest.fixture
def run(monkeypatch):
    "A function: run a script in this process, with these arguments."
    monkeypatch.syspath_prepend(str(STUDIES))
    def go(name, *argv):
        sys.modules.pop('study', None)
        monkeypatch.setattr(sys, 'argv', [name, *argv])
        try: runpy.run_path(str(STUDIES/name), run_name='__main__')
        finally: sys.modules.pop('study', None)
    return go

@pytest.fixture(scope='module')
def recorded(root):
    "Ids of all recorded rows."
    return {r.row for f in (root/'docs'/'results').glob('*.csv') for r in read_rows(f)}

@pytest.mark.parametrize('name', SCRIPTS)
def test_usage(run, name, capsys):
    with pytest.raises(SystemExit) as e: run(name, '--help')
    text = capsys.readouterr().out
    assert e.value.code == 0 and 'usage:' in text and '--smoke' in text and '--record_to' in text

def test_every_script_is_in_the_table():
    commands = ' '.join(c for _, c, _ in LINES)
    assert [n for n in SCRIPTS if n not in commands] == [] and set(re.findall(r'\w+\.py', commands)) == set(SCRIPTS)

def test_every_pattern_has_rows(recorded):
    assert len(LINES) > 30
    assert [p for p, _, minutes in LINES if minutes != 'no row yet' and not any(fnmatchcase(r, p) for r in recorded)] == []

def test_every_row_has_a_command(recorded):
    own = set(printed().query('own').row)
    assert [r for r in sorted(recorded - own) if not any(fnmatchcase(r, p) for p, *_ in LINES)] == [], 'say in docs/studies/README.md what makes them'

def test_a_toy_run_records_only_where_it_is_told(run, root, tmp_path):
    def before(): return {f: f.stat().st_mtime_ns for f in (root/'docs'/'results').glob('bench.csv')}
    was = before()
    run('bench_match.py', '--smoke')
    run('bench_match.py', '--smoke', '--record_to', str(tmp_path/'mine.csv'))
    assert before() == was and [r.row for r in read_rows(tmp_path/'mine.csv')] == [f'bench/match/16px-w32-ipc1/{k}/seconds' for k in ('loop', 'team')]
