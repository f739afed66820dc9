"""The wheel, alone: built, installed without the development set's caps, imported, the README's lines run, and every command asked for help."""
import os, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
HELD = ('nbdev', 'fastai', 'diffusers', 'pytest', 'execnb') # of the development set; none of them may be needed
ALL = '''
import importlib, pkgutil, dd_repro
for m in pkgutil.iter_modules(dd_repro.__path__): importlib.import_module(f'dd_repro.{m.name}')
'''


def run(*cmd, **kw):
    "A process that must end well; its output."
    r = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, timeout=1800, **kw)
    assert r.returncode == 0, f'{cmd}\n{r.stdout[-2000:]}\n{r.stderr[-4000:]}'
    return r.stdout

def uv():
    "The uv beside this Python, or on the path."
    found = shutil.which('uv', path=os.pathsep.join((str(BIN), os.environ.get('PATH', ''))))
    return found or pytest.skip('uv is not installed')

def python(version):
    "A Python of that version on this machine, pyenv's among them; the test is skipped where there is none."
    env = {k: v for k, v in os.environ.items() if k != 'VIRTUAL_ENV'}
    pyenv = Path(os.environ.get('PYENV_ROOT', '~/.pyenv')).expanduser()/'versions'
    for name in [*sorted(map(str, pyenv.glob(f'{version}.*/bin/python{version}')), reverse=True), version]:
        r = subprocess.run([uv(), 'python', 'find', '--no-project', '--no-python-downloads', name], capture_output=True, text=True, env=env)
        if r.returncode == 0: return r.stdout.strip()
    pytest.skip(f'no Python {version} is on this machine')

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel of this tree, made without the network."
    src, out = tmp_path_factory.mktemp('src'), tmp_path_factory.mktemp('wheel')
    for name in ('dd_repro', 'README.md', 'LICENSE', 'pyproject.toml', 'settings.ini'):
        whole = (ROOT/name).is_dir()
        (shutil.copytree if whole else shutil.copy)(ROOT/name, src/name, **({'ignore': shutil.ignore_patterns('__pycache__')} if whole else {}))
    r = subprocess.run([uv(), 'build', '-q', '--wheel', '--out-dir', str(out), str(src)], capture_output=True, text=True, timeout=1800)
    if r.returncode and re.search(r'[Ff]ailed to fetch|error sending request|dns error', r.stderr): pytest.skip('the index with setuptools cannot be reached')
    assert r.returncode == 0, r.stderr
    return next(out.glob('*.whl'))

def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = ZipFile(wheel).namelist()
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT/'dd_repro').rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    assert {n for n in names if not n.split('/')[0].endswith('.dist-info')} == here

def commands(wheel):
    "The console scripts that the wheel names."
    ini, z = ConfigParser(), ZipFile(wheel)
    ini.read_string(z.read(next(n for n in z.namelist() if n.endswith('entry_points.txt'))).decode())
    return sorted(ini['console_scripts'])

def readme():
    "The Python that README.md shows for the library's use."
    return '\n'.join(re.findall(r'^```python\n(.*?)^```$', (ROOT/'README.md').read_text(encoding='utf-8'), re.M | re.S))

def use(top, wheel, py, env):
    "Import every module and run the README's lines; every command's help, and all of them behind one word."
    for name in HELD: assert subprocess.run([py, '-c', f'import {name}'], capture_output=True).returncode, f'{name} is in the clean environment'
    run(py, '-W', 'error::SyntaxWarning', '-c', ALL + readme(), cwd=top, env=env)
    for name in commands(wheel):
        out = run(Path(py).parent/name, '--help', cwd=top, env=env)
        assert out.startswith(f'usage: {name} '), out
    for word in ('distill', 'experts'):
        out = run(py, '-m', 'dd_repro', word, 'mtt', '--help', cwd=top, env=env)
        assert out.startswith(f'usage: dd_{word} mtt '), out

@pytest.mark.parametrize('version', ['3.11', '3.13'])
def test_the_wheel_alone(version, wheel, tmp_path):
    "In a clean environment with the newest of everything that it needs."
    py, env = python(version), {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV', 'PYTHONDONTWRITEBYTECODE')}
    run(uv(), 'venv', '-q', '--no-python-downloads', '--python', py, tmp_path/'env', env=env)
    env |= dict(VIRTUAL_ENV=str(tmp_path/'env'), DD_HOME=str(tmp_path/'home'), MPLBACKEND='agg', OMP_NUM_THREADS='1')
    r = subprocess.run([uv(), 'pip', 'install', '-q', str(wheel)], capture_output=True, text=True, env=env, timeout=1800)
    if r.returncode and re.search(r'[Ff]ailed to fetch|error sending request|dns error', r.stderr): pytest.skip('the index cannot be reached')
    assert r.returncode == 0, r.stderr
    use(tmp_path, wheel, tmp_path/'env'/'bin'/'python', env)
    shutil.rmtree(tmp_path/'env') # gigabytes of links
