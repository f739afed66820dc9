"""Recipe notebooks open in Colab: the address and the install line are those of settings.ini, and the notebook runs with that line alone."""
import json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'docs'))
from colab import with_colab
from test_wheel import run, uv, wheel

RECIPES = sorted((ROOT/'nbs').glob('3*.ipynb'))
ASKED = 'DD_COLAB' # names where the notebooks are run in fresh environments; minutes, and gigabytes for a while
RUN = '''
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell, flags = InteractiveShell.instance(), ('#| slow', '#| data')
for c in json.load(open(sys.argv[1]))['cells']:
    text = ''.join(c['source']).replace(sys.argv[2], sys.argv[3])
    if c['cell_type'] == 'code' and not text.startswith(flags): shell.run_cell(text).raise_error()
import dd_repro
print(dd_repro.__file__)
'''


def settings():
    ini = ConfigParser(interpolation=None)
    ini.read(ROOT/'settings.ini')
    return dict(ini['DEFAULT'])

def cells(p): return [(c['cell_type'], ''.join(c['source'])) for c in json.loads(p.read_text(encoding='utf-8'))['cells']]

def links(p): return re.findall(r'\]\((https://colab[^)]*)\)', '\n'.join(t for _, t in cells(p)))

@pytest.mark.parametrize('p', RECIPES, ids=lambda p: p.stem)
def test_the_address_and_the_install_line_are_those_of_the_settings(p):
    s = settings()
    here = f'https://colab.research.google.com/github/{s["user"]}/{s["repo"]}/blob/{s["branch"]}/{s["nbs_path"]}/{p.name}'
    assert links(p) == [here], 'run make readme'
    first = next(t for k, t in cells(p) if k == 'code')
    assert f'%pip install -q "{s["lib_name"]} @ git+{s["git_url"]}@{s["branch"]}"' in first, 'run make readme'
    assert f"if not find_spec('{s['lib_name']}'):" in first, 'where the library is there, nothing is installed'

def test_there_are_recipes(): assert [p.stem[3:] for p in RECIPES] == ['mtt', 'd3', 'd3s', 'latentdd']

@pytest.mark.parametrize('old', [True, False])
def test_other_settings_give_another_address_and_other_cells_stay(old):
    nb = json.loads(RECIPES[0].read_text(encoding='utf-8'))
    rest = [c for c in nb['cells'] if 'colab' not in ''.join(c['source']).lower() and '%pip' not in ''.join(c['source'])]
    bare = nb if old else dict(nb, cells=rest)
    new = with_colab(json.loads(json.dumps(bare)), settings() | dict(user='me', repo='mine', branch='next'), 'x.ipynb')
    text = '\n'.join(''.join(c['source']) for c in new['cells'])
    assert 'https://colab.research.google.com/github/me/mine/blob/next/nbs/x.ipynb)' in text and 'git+https://github.com/me/mine@next"' in text
    assert len(new['cells']) == len(rest) + 2 and [c for c in new['cells'] if c in rest] == rest

@pytest.mark.skipif(not os.environ.get(ASKED), reason=f'runs the recipes in fresh environments: {ASKED}=1')
@pytest.mark.parametrize('p', RECIPES, ids=lambda p: p.stem)
def test_a_recipe_runs_with_its_install_line_alone(p, wheel, tmp_path):
    "From top to bottom, outside the tree; of the line only the source is another: a wheel of this tree, since it is not published."
    s, env = settings(), {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV', 'PYTHONDONTWRITEBYTECODE', 'DD_DATA')}
    run(uv(), 'venv', '-q', '--seed', '--python', sys.executable, tmp_path/'env', env=env)
    py, env = tmp_path/'env'/'bin'/'python', env | dict(DD_HOME=str(tmp_path/'home'), OMP_NUM_THREADS='1', MPLBACKEND='agg', IPYTHONDIR=str(tmp_path/'ipython'))
    run(uv(), 'pip', 'install', '-q', '--python', py, 'ipython', env=env) # Colab is IPython
    (tmp_path/'run.py').write_text(RUN)
    (tmp_path/'away').mkdir()
    said = run(py, tmp_path/'run.py', p, f'git+{s["git_url"]}@{s["branch"]}', wheel.as_uri(), cwd=tmp_path/'away', env=env)
    assert said.strip().splitlines()[-1].startswith(str(tmp_path/'env'))
    shutil.rmtree(tmp_path/'env') # gigabytes
