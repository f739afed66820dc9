"A new parametrisation and a new objective take fewer than sixty lines."
import json
from pathlib import Path

def test_a_method_takes_fewer_than_sixty_lines():
    nb = json.loads((Path(__file__).resolve().parent.parent/'nbs'/'51_your_method.ipynb').read_text())
    cells = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    own = [c for c in cells if c.startswith('# define')]
    assert [c.splitlines()[1].split('(')[0] for c in own] == ['class SmallPixels', 'class ExpertMeans']
    assert not any(l.startswith(('class ', 'def ')) for c in cells if c not in own for l in c.splitlines())
    assert sum(bool(l.strip()) for c in own for l in c.splitlines()) < 60
