"""Results are whole, and the README quotes nothing that is not in them."""
import re
from pathlib import Path
import pytest
from dd_repro.records import read_rows

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT/'docs'/'results').glob('*.csv'))

@pytest.mark.parametrize('path', FILES, ids=lambda p: p.name)
def test_rows_are_as_recorded(path):
    rows = read_rows(path)
    assert rows and all(r.device and r.date and r.commit and r.settings for r in rows)

def test_reduced_rows_say_what_differs():
    for r in (r for p in FILES for r in read_rows(p)):
        if r.protocol == 'reduced': assert r.deviations, r.row

def test_readme_quotes_only_recorded_numbers():
    known = {f'{r.mean:.1f} ± {r.std:.1f}' for p in FILES for r in read_rows(p)}
    said = '\n'.join(l for l in (ROOT/'README.md').read_text().splitlines() if not l.startswith('    ')) # what an example prints is its own
    quoted = re.findall(r'\d+\.\d ± \d+\.\d', said)
    assert quoted and set(quoted) <= known
