"How a method is declared, found and asked for by command: one line says what is wrong, and text needs no torch."
import json, os, shlex, subprocess, sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dd_repro import entry
from dd_repro.cli import check_stated, dd_distill, how_it_went, looked_up
from dd_repro.core import asset
from dd_repro.distilled import Distilled
from dd_repro.fields import settings_fields
from dd_repro.method import METHODS, Iterative, Method, Task, learn, method_of, smoke_of
from dd_repro.shell import parse

ROOT = Path(__file__).resolve().parent.parent
WORDS = json.loads(asset('commands.json').read_text(encoding='utf-8'))
HELPS = [f'{name} {word}' for name in entry.SUBJECTS for word in WORDS[name]]
HELPS += ['dd_eval', 'dd_relabel']

@pytest.fixture
def names():
    "Names that a test gives to methods are free again after it."
    before = dict(METHODS.own)
    yield
    house = {n: c for n, c in METHODS.own.items() if c.__module__.startswith('dd_repro.')} # perhaps imported meanwhile
    METHODS.own.clear()
    METHODS.own.update(house | before)

@pytest.fixture
def home(tmp_path, monkeypatch):
    "A home of its own, in which there is nothing."
    for k, v in dict(DD_HOME=tmp_path/'home', DD_DATA=tmp_path/'data', DD_DEVICE='cpu').items():
        monkeypatch.setenv(k, str(v))
    (tmp_path/'data').mkdir()
    return tmp_path

def line(capsys, name, *words):
    "The one line with which a command line is refused, read from text."
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        entry.start(name, list(map(str, words)))
    out, err = capsys.readouterr()
    assert e.value.code == 2 and err.count('\n') == 1 and out == '', (out, err)
    assert err.startswith('dd_repro: '), err
    return err

def python(*words, **env):
    "A Python of its own: status, output, error."
    env = os.environ | dict(OMP_NUM_THREADS='1', COLUMNS='80') | env
    r = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, cwd=ROOT, timeout=300)
    return r.returncode, r.stdout, r.stderr

# --- words
def help_of(capsys, words):
    "What a command answers to --help."
    name, *rest = words.split()
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        entry.start(name, [*rest, '--help'])
    assert e.value.code == 0
    return capsys.readouterr().out

def spec_of(words):
    "The options behind some words, as they ship."
    name, *rest = words.split()
    return WORDS[name][rest[0]] if rest else WORDS[name]

@pytest.mark.parametrize('words', HELPS)
def test_help_is_one_line_an_option_and_at_most_60(capsys, words):
    lines = help_of(capsys, words).splitlines()
    assert len(lines) <= 60 and lines[0].startswith(f'usage: {words} ')
    for o in spec_of(words)['options']:
        flag = o['name'] if o['form'] in ('must', 'may') else f'--no-{o["name"]}' if o['form'] == 'no' else f'--{o["name"]}'
        mine = [l for l in lines if l.split()[:1] == [flag]]
        assert len(mine) == 1 and o['help'].replace('%%', '%').split(' (')[0] in mine[0], flag

def test_help_of_every_method_needs_no_torch():
    code = f'''import sys
from dd_repro.entry import start
for words in {HELPS}:
    name, *rest = words.split()
    try: start(name, [*rest, '--help'])
    except SystemExit as e: assert not e.code
print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])'''
    status, out, err = python('-c', code)
    assert (status, out.splitlines()[-1], err) == (0, '[]', '')

@pytest.mark.parametrize('name', entry.SUBJECTS)
def test_what_there_is_behind_a_command_is_listed(capsys, name):
    for argv in ([], ['--help'], ['-h']):
        with pytest.raises(SystemExit) as e:
            entry.start(name, argv)
        out = capsys.readouterr().out
        assert e.value.code == 0 and all(f'  {w} ' in out for w in WORDS[name])

def test_the_words_of_commands_and_methods_are_those_of_the_classes():
    have = {f: json.loads(asset(f).read_text(encoding='utf-8')) for f in ('commands.json', 'methods.json')}
    plain = lambda o: json.loads(json.dumps(o))
    assert have['commands.json'] == plain(entry.make_words()), 'run make assets'
    assert have['methods.json'] == plain(entry.make_methods()), 'run make assets'

def test_the_list_of_methods_and_the_classes_agree():
    for name, words in json.loads(asset('methods.json').read_text(encoding='utf-8')).items():
        cls = METHODS[name]
        assert (cls.name, cls.__doc__, list(settings_fields(cls))) == (name, words['doc'], words['settings'])
        assert {o['name'] for o in WORDS['dd_distill'][name]['options']} >= set(words['settings'])

# --- what is refused
OTHERS = [('mtt', '--gamma1 1', 'gamma1', 'd3'), ('mtt', '--ppc 2', 'ppc', 'd3'), ('d3', '--ipc=2', 'ipc', 'mtt'), ('dm', '--outer 3', 'outer', 'dsa'),
          ('initial', '--iterations 2', 'iterations', 'latent-dm'), ('random', '--lr_img 1', 'lr_img', 'cda'), ('mtt', '--no-isu', 'isu', 'sre2l'),
          ('latent-dc', '--syn-steps 2', 'syn_steps', 'latent-mtt'), ('d3s', '--eval_every 5', 'eval_every', 'mtt'), ('herding', '--buffer x', 'buffer', 'd3')]

@pytest.mark.parametrize('method, words, flag, who', OTHERS)
def test_an_option_of_another_method_names_the_methods_that_have_it(capsys, home, method, words, flag, who):
    err = line(capsys, 'dd_distill', method, *words.split())
    said, named = err.split('; it is for ')
    assert said == f'dd_repro: --{flag} has no meaning for {method}' and who in named.strip().split(', ')
    have = [m for m in WORDS['dd_distill'] if flag in {o['name'] for o in WORDS['dd_distill'][m]['options']}]
    assert named.strip().split(', ') == have
    capsys.readouterr()
    with pytest.raises(SystemExit):
        dd_distill(method, **{flag: 1})
    assert f'--{flag} has no meaning for {method}; it is for ' in capsys.readouterr().err

@pytest.mark.parametrize('name, word, near', [('dd_distill', 'mt', 'mtt'), ('dd_distill', 'MTT3', 'mtt'), ('dd_distill', 'KIP7', 'known are'), ('dd_distill', 'd3z', 'd3'), ('dd_distill', 'latent_mtt', 'latent-mtt'),
    ('dd_distill', 'herdin', 'herding'), ('dd_distill', 'sre2', 'sre2l'), ('dd_experts', 'd3ss', 'd3s'), ('dd_experts', 'dm', 'dm learns without experts; there are experts for mtt, d3'), ('dd_distill', 'full', 'known are')])
def test_a_word_that_is_no_method_is_answered_with_the_nearest(capsys, name, word, near):
    err = line(capsys, name, word, '--data', 'digits')
    assert word in err and (near if ' ' in near else f'did you mean {near}?') in err

def test_a_word_that_is_no_method_needs_no_torch():
    for words in (['dd_distill', 'mttt'], ['dd_experts', 'mttt'], ['dd_distill', '--method', 'd3'], ['dd_distill', 'mtt', '--gamma1', '1']):
        code = 'import sys\nfrom dd_repro.entry import *\ntry: start(sys.argv[1], sys.argv[2:])\nfinally: print("torch" in sys.modules)'
        assert python('-c', code, *words)[:2] == (2, 'False\n')

OLD = [('dd_distill', '--method d3 --data cifar10 --ppc 2', 'the method comes first: dd_distill d3 --data cifar10 --ppc 2'), ('dd_distill', '--data digits --method=dm', 'the method comes first: dd_distill dm --data digits'),
       ('dd_distill', '--data cifar10 --zca --ipc 1', 'the method comes first: dd_distill mtt --data cifar10 --zca --ipc 1'), ('dd_distill', '--data my/two" "words', "dd_distill mtt --data 'my/two words'"),
       ('dd_experts', '--method d3s --net resnet18_bn', 'dd_experts d3s --net resnet18_bn'), ('dd_experts', '--data cifar10 --n 100', 'dd_experts mtt --data cifar10 --n 100'), ('dd_experts', '--method latent-mtt --ae tiny', 'dd_experts latent-mtt --ae tiny')]

@pytest.mark.parametrize('name, words, new', OLD)
def test_a_line_of_before_is_answered_with_the_new_one(capsys, home, name, words, new):
    argv = shlex.split(words)
    assert line(capsys, name, *argv).endswith(f'{new}\n')
    again = shlex.split(new.split(': ')[-1])
    assert again[0] == name and again[1] in WORDS[name] and set(again[2:]) <= set(argv)

# --- settings that go together, or do not
BARS = [('mtt', '--grad bptt --keep 3', '--keep does nothing beside --grad bptt'), ('d3s', '--crop none --scale .5', '--scale does nothing beside --crop none'), ('d3s', '--no-isu --level', '--level does nothing beside --isu False'),
        ('d3', '--losses MTT --gamma2 1', '--gamma2 does nothing beside --losses MTT'), ('d3', '--losses DM --syn_steps 2', '--syn_steps does nothing beside --losses DM'), ('d3', '--losses MTT+DM --gamma3 1', '--gamma3 does nothing'),
        ('mtt', '--eval_epochs 3', '--eval_epochs does nothing without --eval_every'), ('dm', '--n_eval 3', '--n_eval does nothing without --eval_every'), ('sre2l', '--level', '--level does nothing without --isu'),
        ('d3s', '--teachers x --width 8', '--width does nothing beside --teachers')]

@pytest.mark.parametrize('method, words, says', BARS)
def test_two_settings_that_bar_each_other(capsys, home, method, words, says):
    assert says in line(capsys, 'dd_distill', method, *words.split())
    assert not (home/'home').exists()

RANGES = [('mtt', 'lr_img=-1', 'lr_img is -1.0; it must be above 0'), ('mtt', 'syn_steps=0', 'syn_steps is 0; it must be at least 1'), ('d3', 'gamma1=-1', 'gamma1 is -1.0; it must be at least 0'), ('d3s', 'scale=1.5', 'scale is 1.5; it must be above 0 and at most 1'),
          ('d3s', 'kind=mean', "kind='mean' is not one of "), ('cda', 'batch=1', 'batch is 1; it must be at least 2'), ('latent-dm', 'lr_base=nan', 'lr_base is nan; it must be a finite number'), ('dc', 'inner=0', 'inner is 0'), ('herding', 'epochs=-1', 'epochs is -1; it must be at least 0'),
          ('dm', 'minutes=0', 'minutes is 0.0; it must be above 0'), ('dm', 'size=0', 'size is 0'), ('dm', 'depth=0', 'depth is 0'), ('latent-dm', 'f=0', 'f is 0'), ('random', 'ipc=0', 'ipc is 0')]

@pytest.mark.parametrize('method, word, says', RANGES)
def test_a_value_out_of_range_names_its_field(capsys, home, method, word, says):
    assert says in line(capsys, 'dd_distill', method, f'--{word}')
    assert not (home/'home').exists()

@pytest.mark.parametrize('method, word', [('mtt', 'ipc=two'), ('mtt', 'ipc=1.5'), ('d3', 'gamma1=much')])
def test_a_value_of_another_type_names_its_option(capsys, method, word):
    name, value = word.split('=')
    err = line(capsys, 'dd_distill', method, f'--{name}', value)
    assert f'--{name}' in err and value in err

@pytest.mark.parametrize('kw, says', [(dict(ipc=1.5), 'ipc is 1.5; it must be a whole number'), (dict(lr_img='fast'), "lr_img is 'fast'; it must be a number"), (dict(ipc=True), 'ipc is True'), (dict(lr_imgs=1.), "'lr_imgs' is no setting of mtt; did you mean lr_img?"), (dict(init=None), 'init is None')])
def test_python_is_told_the_same(kw, says):
    with pytest.raises(ValueError, match='^[^\n]*$') as e:
        method_of('mtt', **kw)
    assert says in str(e.value)

@pytest.mark.parametrize('name, own, words, side, lacks', [('cifar10', dict(ipc=1), (), 32, ''), ('cifar10', dict(ipc=1), ('zca',), 32, ''), ('cifar10', dict(ipc=3), (), 32, 'lr_img'),
    ('imagenette', dict(ipc=1, lr_img=1.), (), 128, ''), ('imagenette', dict(ipc=1, lr_img=1.), (), 64, 'syn_steps'), ('imagenette', dict(ipc=1), (), 128, 'lr_img'), ('pets', dict(ipc=1), (), 32, 'syn_steps')])
def test_what_is_not_stated_is_asked_for(name, own, words, side, lacks):
    real = SimpleNamespace(name=name, shape=(3, side, side), source={})
    try: found = looked_up(METHODS['mtt'], own, real, words)
    except ValueError as e: assert lacks and 'mtt needs --' in str(e) and f'--{lacks}' in str(e) and f'not stated for {name} at ' in str(e)
    else: assert not lacks and set(METHODS['mtt'].stated) <= set(found) | set(own)

def test_sides_are_not_known_before_data_are_opened():
    check_stated(METHODS['mtt'], dict(ipc=1, lr_img=1.), 'imagenette')
    for m in ('dm', 'd3', 'latent-mtt', 'herding'):
        check_stated(METHODS[m], {}, 'nothing')
    with pytest.raises(ValueError, match='^cda needs --ipc: not stated for digits$'):
        check_stated(METHODS['cda'], {}, 'digits')

# --- classes
def test_a_method_without_start_is_refused(names, tmp_path):
    @dataclass(frozen=True)
    class Nowhere(Iterative, name='nowhere'):
        "Begins nowhere."
    for ask in (lambda: METHODS['nowhere'], lambda: learn(Task(None), Nowhere(), tmp_path/'out')):
        with pytest.raises(ValueError, match=r'Nowhere has no start\(self, task\)'):
            ask()
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('name, room', [('mtt', 'dd_repro.mtt'), ('d3', 'dd_repro.priors'), ('sre2l', 'dd_repro.d3s'), ('random', 'dd_repro.coreset')])
def test_a_name_that_is_taken_is_refused(names, name, room):
    with pytest.raises(ValueError, match=f"a method '{name}' is defined in {room}; choose another name"):
        type('Mine', (Method,), {}, name=name)
    assert METHODS[name].__module__ == room

def test_the_same_class_again_replaces_itself(names):
    def cell(doc): return type('Again', (Method,), dict(__doc__=doc, start=lambda self, task: None), name='again')
    cell('first')
    cell('second')
    assert METHODS['again'].__doc__ == 'second'
    with pytest.raises(ValueError, match='choose another name'):
        type('Other', (Method,), {}, name='again')

@pytest.mark.parametrize('first, then', [('__main__', 'room'), ('room', '__main__')])
def test_a_notebook_may_define_what_its_module_has(names, first, then):
    for module in (first, then):
        made = type('Cell', (Method,), dict(__module__=module, start=lambda self, task: None), name='cell')
        assert METHODS['cell'] is made

def test_smoke_values_come_from_the_fields():
    for name in WORDS['dd_distill']:
        m = smoke_of(METHODS[name]())
        for n, f in settings_fields(m).items():
            want = f.metadata['smoke']
            assert want is None or getattr(m, n) == want

# --- a method in a file
MINE = '''"A method in a file."
from dataclasses import dataclass
from functools import partial
import torch
from dd_repro.all import *

@dataclass(frozen=True)
class Pull(Iterative, name='pull'):
    "Images that are pulled to a level."
    ipc: int = setting(1, 'images per class', least=1, smoke=1)
    level: float = setting(0., 'where they are pulled to')
    lr_img: float = setting(.1, 'step of the images', above=0)
    def start(self, task): return Pixels.from_real(task.real, self.ipc, task.seed, lr=.01, arch=task.net().arch)
    def phases(self, d, task, run): return lambda d: (d.images - self.level).square().mean()
    def opts(self, d): return {'images': partial(torch.optim.SGD, lr=self.lr_img)}
'''

@pytest.fixture
def mine(names, tmp_path):
    (tmp_path/'pull.py').write_text(MINE, encoding='utf-8')
    return tmp_path/'pull.py'

def test_a_method_in_a_file_runs(mine, home, capsys):
    words = [f'{mine}:pull', '--data', 'digits', '--width', 4, '--depth', 1, '--level', 3, '--iterations', 2]
    entry.start('dd_distill', list(map(str, words)))
    out = home/'home'/'runs'/'pull-digits-w4-d1-ipc1-s0'/'distilled.safetensors'
    assert f'dd_eval {out}' in capsys.readouterr().out
    info = Distilled.load(out).info
    assert info['settings']['method'] == 'pull' and info['settings']['level'] == 3. and info['iterations'] == 2
    dd_distill(f'{mine}:pull', data='digits', width=4, depth=1, level=3, iterations=4)
    assert Distilled.load(out).info['iterations'] == 4

def test_help_and_refusals_of_a_method_in_a_file(mine, home, capsys, monkeypatch):
    out = help_of(capsys, f'dd_distill {mine}:pull')
    assert out.startswith(f'usage: dd_distill {mine}:pull [options]') and 'where they are pulled to (default 0)' in out and len(out.splitlines()) <= 60
    assert '--gamma1 has no meaning for' in line(capsys, 'dd_distill', f'{mine}:pull', '--gamma1', 1)
    assert 'lr_img is 0.0; it must be above 0' in line(capsys, 'dd_distill', f'{mine}:pull', '--lr_img', 0)
    assert "defines no method 'push'" in line(capsys, 'dd_distill', f'{mine}:push')
    assert 'none.py: no such file' in line(capsys, 'dd_distill', f'{home}/none.py:pull')
    monkeypatch.setenv('HOME', str(home))
    assert help_of(capsys, 'dd_distill ~/pull.py:pull').startswith('usage: dd_distill ~/pull.py:pull [options]') # as it was typed
    assert METHODS['~/pull.py:pull'].name == 'pull'

@pytest.mark.parametrize('argv', [[], ['--help']])
def test_the_list_of_methods_says_how_a_file_is_named(capsys, argv):
    for name, says in (('dd_distill', True), ('dd_experts', False)):
        with pytest.raises(SystemExit):
            entry.start(name, argv)
        assert ('dd_distill FILE.py:NAME' in capsys.readouterr().out) is says

@pytest.mark.parametrize('needs, kind', [(('experts',), 'mtt'), (('teachers',), 'd3s'), (('codes', 'experts'), 'latent-mtt')])
def test_experts_of_a_method_in_a_file_are_those_of_the_house(names, needs, kind):
    from dd_repro.cli import _experts_line
    cls = type('Own', (Method,), dict(needs=needs), name='own')
    assert _experts_line(cls, dict(width=8)) == f'dd_experts {kind} --width 8'

# --- what a command asks for has no default
@pytest.mark.parametrize('name', [n for n in WORDS['dd_distill'] if METHODS[n].stated])
def test_help_of_a_setting_that_is_asked_for_shows_no_default(name):
    said = {o['name']: o['help'] for o in WORDS['dd_distill'][name]['options']}
    for n in settings_fields(METHODS[name]):
        assert ('else asked for' in said[n]) is (n in METHODS[name].stated), n
        assert n not in METHODS[name].stated or 'default ' not in said[n]

@pytest.mark.parametrize('stopped, goes_on, status', [('done', False, None), ('time', True, None), ('SIGINT', True, 130), ('SIGTERM', True, 130)])
def test_a_run_that_was_stopped_says_that_the_same_command_goes_on(capsys, tmp_path, stopped, goes_on, status):
    (tmp_path/'distilled.safetensors').write_bytes(b'')
    run = SimpleNamespace(it=1, steps=2, history=[dict(loss=1.)], stopped=stopped, seconds=1.)
    made = SimpleNamespace(student_lr=SimpleNamespace(item=lambda: .1))
    try:
        how_it_went(made, run, tmp_path)
        code = None
    except SystemExit as e:
        code = e.code
    out = capsys.readouterr().out
    assert code == status and ('the same command goes on' in out) is goes_on and 'dd_eval' in out

# --- D3S's kin
@pytest.mark.parametrize('method', ['sre2l', 'cda'])
def test_sre2l_and_cda_by_command(home, method):
    for i in range(8):
        for part in ('train', 'val'):
            folder = home/'data'/'pets'/part/('cat', 'dog')[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (32, 32), (i*30, 99, 9)).save(folder/f'{i}.png')
    net = ['--data', 'pets', '--width', '4']
    entry.start('dd_experts', [method, *net, '--net', 'resnet18_bn', '--n', '1', '--epochs', '1'])
    entry.start('dd_distill', [method, *net, '--ipc', '1', '--batch', '2', '--iterations', '2', '--out', str(home/'out')])
    d = Distilled.load(home/'out'/'distilled.safetensors')
    s = d.info['settings']
    assert len(d) == 2 and s['method'] == method and s['kind'] == 'bn-diag' and s['isu'] is False
    assert s['crop'] == dict(sre2l='full', cda='cosine')[method]

def test_no_isu_is_the_usual_way_of_a_switch(home):
    for words, want in ((['--no-isu'], False), (['--no_isu'], False), (['--isu'], True), ([], None)):
        assert parse(WORDS['dd_distill']['d3s'], words)['isu'] is want
    assert parse(WORDS['dd_relabel'], ['x', '--no-flip'])['flip'] is False

# --- python -m dd_repro
def test_one_entry_with_all_commands():
    assert python('-m', 'dd_repro', 'distill', 'mtt', '--help')[:2] == python('-c', 'from dd_repro.entry import *; dd_distill(["mtt", "--help"])')[:2]
    status, out, err = python('-m', 'dd_repro')
    assert (status, err) == (0, '') and all(n.removeprefix('dd_') in out for n in entry.COMMANDS)
    assert python('-m', 'dd_repro', '--help') == (status, out, err)
    status, out, err = python('-m', 'dd_repro', 'dist', 'mtt')
    assert (status, out) == (2, '') and err.startswith("dd_repro: 'dist' is no command; ") and err.count('\n') == 1
    status, out, err = python('-m', 'dd_repro', 'distill', 'mtt', '--lr_imgs', '1')
    assert (status, out) == (2, '') and '--lr_imgs' in err and err.count('\n') == 1

@pytest.mark.parametrize('given, column', [({}, (.5, 32)), (dict(f=4), (.5, 32)), (dict(f=8), (.1, 16))])
def test_a_latent_method_takes_the_column_of_its_autoencoder(monkeypatch, tmp_path, given, column):
    "Table 6 at 512 px; f is 4 where nobody gives it."
    from types import SimpleNamespace as Of
    from dd_repro import cli
    real, seen = Of(name='imagesquawk', shape=(3, 512, 512)), []
    monkeypatch.setattr(cli, 'check_name', lambda *a: None)
    monkeypatch.setattr(cli, 'open_task', lambda cls, got: (cli.Task(real), 'x'))
    monkeypatch.setattr(cli, 'learn', lambda task, method, out, run: seen.append(method) or (None, None))
    monkeypatch.setattr(cli, 'how_it_went', lambda *a: None)
    cli.dd_distill('latent-dm', data='imagesquawk', out=str(tmp_path), **given)
    assert (seen[0].lr_base, seen[0].batch) == column

def test_a_file_that_cannot_be_run_is_one_line(tmp_path):
    (tmp_path/'mine.py').write_text('import nothing_of_this_name')
    with pytest.raises(ValueError, match='mine.py: cannot be run .ModuleNotFoundError'): METHODS[f'{tmp_path}/mine.py:mine']

@pytest.mark.parametrize('bad', [float('inf'), float('nan'), 2.5, '3', True])
def test_what_is_no_whole_number_is_refused(bad):
    with pytest.raises(ValueError, match='iterations is .* whole number'): METHODS['mtt'](iterations=bad)

def test_numbers_of_numpy_are_numbers():
    import numpy as np
    m = METHODS['mtt'](iterations=np.int64(3), lr_img=np.float32(2))
    assert (type(m.iterations), type(m.lr_img)) == (int, float)

# what a method of somebody's own gets wrong, said in one line
ODD = {
    'no dataclass': ('class M(Method, name="odd"):\n    ipc: int = setting(1, "x")\n    def start(self, task): return None\n', 'M is no dataclass; write @dataclass'),
    'a default of another type': ('@dataclass(frozen=True)\nclass M(Method, name="odd"):\n    ipc: int = setting("a", "x")\n    def start(self, task): return None\n', "ipc"),
    'a taken name': ('@dataclass(frozen=True)\nclass M(Method, name="odd"):\n    data: str = setting("a", "x")\n    def start(self, task): return None\n', 'no setting of a method can be called data'),
    'no set': ('@dataclass(frozen=True)\nclass M(Method, name="odd"):\n    ipc: int = setting(1, "x")\n    def start(self, task): return None\n', 'M.start gives NoneType; it has to give a Distilled')}

@pytest.mark.parametrize('case', ODD)
def test_odd_methods_of_a_file_are_one_line(tmp_path, capsys, monkeypatch, case):
    text, says = ODD[case]
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home')); monkeypatch.setattr(METHODS, 'own', dict(METHODS.own))
    (tmp_path/'mine.py').write_text('from dataclasses import dataclass\nfrom dd_repro.fields import *\nfrom dd_repro.method import *\n' + text)
    said = line(capsys, 'dd_distill', f'{tmp_path}/mine.py:odd', '--size=8', '--width=4', '--depth=2')
    assert says in said and said.count('\n') == 1
