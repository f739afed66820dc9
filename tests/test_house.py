"""The house rules that a machine can hold: one source, one order, one set of requirements."""
import ast, json, os, re, shutil, subprocess, sys, tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
from characters import joined, long_lines, n_parameters

ROOT = Path(__file__).resolve().parent.parent
LIB, NBS = ROOT/'dd_repro', ROOT/'nbs'
OPTIONAL = {'fastai', 'diffusers', 'pyarrow', 'huggingface_hub', 'nbdev', 'execnb', 'IPython', 'pytest', 'submitit'}
SELF = Path(__file__).name


def notebooks(): return sorted(p for p in NBS.glob('*.ipynb'))
def cells(p): return json.loads(p.read_text(encoding='utf-8'))['cells']
def source(c): return ''.join(c['source'])
def trees(): return {p: ast.parse(p.read_text(encoding='utf-8')) for p in sorted(LIB.glob('*.py')) if p.name[0] != '_'}

def order():
    "Module -> name, and so the place, of the notebook that exports it."
    found = ((re.search(r'^#\|\s*default_exp\s+(\S+)', source(c), re.M), p) for p in notebooks() for c in cells(p) if c['cell_type'] == 'code')
    return {m[1]: p.name for m, p in found if m}

def sources():
    "Text files of the tree that are ours, as git would list them, or as they lie where there is no git."
    r = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    tops = ['nbs', 'dd_repro', 'docs', 'tests', '.ci', 'README.md', 'Makefile', 'pyproject.toml', 'settings.ini', 'CHANGELOG.md', 'CITATION.cff']
    lying = [p for t in tops for p in [ROOT/t, *(ROOT/t).rglob('*')]]
    names = [ROOT/n for n in r.stdout.split('\0') if n] if r.returncode == 0 else lying
    return [p for p in names if p.is_file() and p.suffix not in {'.png', '.safetensors', '.pyc', '.npz'} and '__pycache__' not in p.parts]


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
    "A copy of the tree, exported and cleaned afresh."
    top = tmp_path_factory.mktemp('fresh')
    shutil.copytree(NBS, top/'nbs', ignore=shutil.ignore_patterns('.*', '__pycache__'))
    shutil.copy(ROOT/'settings.ini', top)
    shutil.copy(ROOT/'pyproject.toml', top)
    (top/'dd_repro').mkdir()
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    for cmd in ('nbdev_export', 'nbdev_clean'):
        subprocess.run([Path(sys.executable).parent/cmd], cwd=top, env=env, check=True, capture_output=True)
    return top

def differing(a, b, pattern):
    "Names of the files that are not the same in both folders."
    names = {p.name for d in (a, b) for p in d.glob(pattern)}
    return sorted(n for n in names if not (a/n).exists() or not (b/n).exists() or (a/n).read_bytes() != (b/n).read_bytes())

def test_package_is_what_the_notebooks_export(fresh): assert differing(LIB, fresh/'dd_repro', '*.py') == [], 'run nbdev_export'

def test_notebooks_are_clean(fresh): assert differing(NBS, fresh/'nbs', '*.ipynb') == [], 'run nbdev_clean'

def test_project_file_is_left_alone(fresh): assert (fresh/'pyproject.toml').read_text() == (ROOT/'pyproject.toml').read_text()

def test_readme_is_made_from_the_index(root):
    if not (NBS/'index.ipynb').exists(): pytest.skip('nbs/index.ipynb is not there yet')
    sys.path.insert(0, str(root/'docs'))
    from build import readme
    text, pictures = readme(root)
    stale = [n for n, data in {'README.md': text.encode(), **pictures}.items() if not (root/n).exists() or (root/n).read_bytes() != data]
    assert stale == [], 'run make readme'

def test_modules_import_only_what_stands_above_them():
    nums = order()
    def above(tree):
        "Modules of the package that a module imports at its top or in its functions."
        for o in ast.walk(tree):
            if isinstance(o, ast.ImportFrom) and (o.level or (o.module or '').startswith('dd_repro.')): yield (o.module or '').split('.')[-1], o.lineno
    bad = [f'{p.name}:{line} imports {m}' for p, t in trees().items() if p.stem in nums
           for m, line in above(t) if m not in nums or nums[m] >= nums[p.stem]]
    assert bad == []

def test_optional_packages_are_imported_where_they_are_used():
    def at_top(tree):
        "Packages imported when the module is."
        for o in tree.body:
            yield from [(a.name, o.lineno) for a in o.names] if isinstance(o, ast.Import) else []
            yield from [(o.module or '', o.lineno)] if isinstance(o, ast.ImportFrom) and not o.level else []
    assert [f'{p.name}:{n} imports {m}' for p, t in trees().items() for m, n in at_top(t) if m.split('.')[0] in OPTIONAL] == []

def test_every_public_name_is_documented():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bad = [f'{p.name}:{o.lineno} {o.name}' for p, t in trees().items() for o in t.body
           if isinstance(o, kinds) and o.name[0] != '_' and not ast.get_docstring(o)]
    assert bad == []

def test_docstrings_are_one_line():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bad = [f'{p.name}:{o.lineno} {o.name}' for p, t in trees().items() for o in ast.walk(t)
           if isinstance(o, kinds) and len((ast.get_docstring(o) or '').splitlines()) > 1]
    assert bad == []

def test_settings_and_pyproject_agree():
    ini = ConfigParser(interpolation=None)
    ini.read(ROOT/'settings.ini')
    s, toml = ini['DEFAULT'], tomllib.loads((ROOT/'pyproject.toml').read_text())
    p = toml['project']
    assert p['name'] == s['lib_name'] and p['requires-python'] == f">={s['min_python']}" and p['description'] == s['description']
    assert p['dependencies'] == s['requirements'].split()
    assert p['optional-dependencies']['dev'] == s['dev_requirements'].split()
    assert f'__version__ = "{s["version"]}"' in (LIB/'__init__.py').read_text()
    assert f'version: {s["version"]}\n' in (ROOT/'CITATION.cff').read_text()

def test_requirements_have_lower_bounds_only():
    deps = tomllib.loads((ROOT/'pyproject.toml').read_text())['project']['dependencies']
    assert all(re.fullmatch(r'[\w-]+>=[\d.]+', d) for d in deps), deps

def test_constraints_pin_names_and_versions_only():
    lines = (ROOT/'.ci/constraints.txt').read_text().splitlines()
    assert [l for l in lines if not re.fullmatch(r'[a-z0-9._-]+==[\w.+!]+', l)] == []
    pinned = {re.split('==', l)[0] for l in lines}
    p = tomllib.loads((ROOT/'pyproject.toml').read_text())['project']
    wanted = {re.split('[<>=]', d)[0] for d in p['dependencies'] + p['optional-dependencies']['dev']}
    assert wanted - pinned == set()

def test_no_path_of_one_machine():
    path = re.compile(r'(?<![\w.$~<{/-])/(root|work|home/\w|Users/\w|tmp/\w)[\w/.-]*')
    bad = [f'{p.relative_to(ROOT)}:{i}: {m[0]}' for p in sources() if p.name != SELF
           for i, l in enumerate(p.read_text(encoding='utf-8', errors='replace').splitlines(), 1) if (m := path.search(l)) and 'image/png' not in l]
    assert bad == []

def test_no_module_imports_a_private_name_of_another():
    bad = [f'{p.name}:{o.lineno} {a.name}' for p, t in trees().items() for o in ast.walk(t)
           if isinstance(o, ast.ImportFrom) and (o.level or (o.module or '').startswith('dd_repro'))
           for a in o.names if a.name[0] == '_']
    assert bad == []

def test_no_public_name_is_defined_in_two_modules():
    def names(tree):
        "What a module offers, as nbdev has listed it."
        found = (o.value for o in tree.body if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__')
        return [e.value for v in found for e in v.elts]
    where = {}
    for p, t in trees().items():
        if p.stem in ('entry', 'all'): continue # commands as programs; one import for users
        for n in names(t): where.setdefault(n, []).append(p.stem)
    assert {n: w for n, w in where.items() if len(w) > 1} == {}


def code_that_people_write():
    "Python files of the library and of the GPU kit, and their text."
    files = [*sorted(LIB.glob('*.py')), *sorted((ROOT/'docs/gpu').glob('*.py'))]
    return [(p, p.read_text(encoding='utf-8')) for p in files if p.name != '_modidx.py']

@pytest.mark.parametrize('p, text', [pytest.param(p, t, id=p.stem) for p, t in code_that_people_write()])
def test_lines_are_short_and_hold_one_statement(p, text):
    assert long_lines(text)[0] == 0, f'{p.name}: lines of at most 100 characters'
    assert joined(text) == 0, f'{p.name}: one statement a line'

AT_MOST, MANY = 12, 8
WIDE = {'load', 'evaluate', 'distill', 'Distilled.__init__', 'MTT.__init__'} # above MANY

def widths():
    "Module -> function or Class.method -> number of its parameters, without self and *args, **kw."
    def of(tree, head=''):
        for o in getattr(tree, 'body', []):
            if isinstance(o, ast.ClassDef): yield from of(o, f'{o.name}.')
            elif isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef)) and not on_gpu(o): yield head + o.name, n_parameters(o)
    def on_gpu(o): return any(ast.unparse(d) == 'triton.jit' for d in o.decorator_list) # its program takes pointers and sizes one by one
    return {p.stem: list(of(t)) for p, t in trees().items()}

def test_functions_have_few_parameters():
    "Private ones, too: what is more than eight belongs to an object, but for five that users call with names."
    above = {f: n for found in widths().values() for f, n in found if n > MANY}
    assert set(above) == WIDE and max(above.values()) <= AT_MOST, 'group them, see STYLE'

def test_long_and_joined_lines_are_seen():
    wide = '# %% auto #0\n__all__ = [' + 'x'*100 + ']\n# %% cell\n'
    assert long_lines(wide) == (0, 1) and long_lines(wide + 'x'*101) == (1, 1)
    assert joined('a = 1; b = 2') == joined('if a: b = 1; c = 2') == 1
    assert joined('a, b = 1, 2\nif a: b = 1\n') == 0
