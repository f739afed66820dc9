"Commands: every flag acts or is refused, text needs no torch, and no terminal, alphabet, pipe or platform makes a command fail."
import importlib, json, os, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dd_repro import cli, counts, entry, rows, shell, stages, tables
from dd_repro.method import METHODS
from dd_repro.bench import BENCH_OWN, dd_bench
from dd_repro.cli import dd_distill, dd_eval, dd_experts, dd_relabel
from dd_repro.core import asset, dd_data, dd_home
from dd_repro.plans import dd_plan
from dd_repro.rows import dd_row, dd_smoke
from dd_repro.tables import dd_table
from dd_repro.ten_images import dd_demo
from dd_repro.transfer import IMPORT_OWN, dd_import

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ('torch', 'torchvision', 'pandas', 'matplotlib', 'sklearn', 'kornia', 'numpy')

def python(code, *words, stdout=subprocess.PIPE, **env):
    "A program in a process of its own: the finished process."
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **env}
    return subprocess.run([sys.executable, '-c', code, *words], stdout=stdout, stderr=subprocess.PIPE, text=True, encoding='utf-8', errors='replace', env=env, cwd=ROOT, timeout=300)

def run(command, *words):
    "A command line: by the function's own parameters, or by the words that ship."
    words, name = list(map(str, words)), command.__name__
    return command.main(words) if hasattr(command, 'main') else entry.start(name, words)

def refused(capsys, command, *words):
    "The one line with which a command line is refused."
    capsys.readouterr()
    with pytest.raises(SystemExit) as e: run(command, *words)
    out, err = capsys.readouterr()
    assert e.value.code == 2 and err.count('\n') == 1 and err.startswith('dd_repro: ') and out == '', (out, err)
    return err

# --- what only reads needs no torch
LIGHT = '''import sys
from dd_repro.entry import *
name, *words = sys.argv[1:]
try: globals()[name](words)
except SystemExit as e: status = e.code or 0
else: status = 0
print(status, [m for m in {heavy} if m in sys.modules], file=sys.stderr)'''

@pytest.mark.parametrize('words', ['dd_table mtt/table1', 'dd_table d3 --format md --own', 'dd_table --coverage', 'dd_table mtt --todo', 'dd_table latentdd/table7 --format html',
    'dd_plan d3/table1/cifar10/ppc1 --settings --scale .1', 'dd_distill', 'dd_distill mtt --help', 'dd_distill cda --help', 'dd_experts d3s --help', *(f'{n} --help' for n in entry.COMMANDS)])
def test_text_is_answered_without_torch(words):
    r = python(LIGHT.format(heavy=HEAVY), *words.split())
    assert r.stderr.splitlines()[-1:] == ['0 []'] and len(r.stdout) > 100, r.stderr

@pytest.mark.parametrize('words, says', [('dd_distill mtt --lr_imgs 1', 'lr_imgs'), ('dd_distill mtt --gamma1 1', 'it is for d3'), ('dd_distill --data digits', 'dd_distill mtt --data digits'), ('dd_bench', 'subject'), ('dd_eval x --n_eval five', 'five'), ('dd_table mtt/table77', 'table77'), ('dd_table nobody/table1', 'nobody')])
def test_a_word_that_is_wrong_is_refused_without_torch(words, says):
    r = python(LIGHT.format(heavy=HEAVY), *words.split())
    *said, last = r.stderr.splitlines()
    assert last == '2 []' and len(said) == 1 and said[0].startswith('dd_repro: ') and says in said[0]

def test_importing_all_brings_nothing_that_is_used_seldom():
    r = python('import sys, dd_repro.all; print([m for m in "torchvision sklearn kornia matplotlib fastai diffusers pandas".split() if m in sys.modules])')
    assert (r.returncode, r.stdout) == (0, '[]\n'), r.stderr

@pytest.mark.parametrize('code', ['from dd_repro.recipes import recipe; r = recipe("mtt/table1/cifar10/ipc10"); assert r["lr_img"] == 100.', 'from dd_repro.settings import settings_of; assert settings_of("d3s", dataset="imagenet1k")["batch"].value == 200',
    'import dd_repro.shell, dd_repro.papers, dd_repro.recipes, dd_repro.counts, dd_repro.tables, dd_repro.entry'])
def test_recipes_and_settings_need_no_torch(code):
    r = python(f'{code}\nimport sys; print([m for m in {HEAVY} if m in sys.modules])')
    assert (r.returncode, r.stdout) == (0, '[]\n'), r.stderr

def test_the_words_of_commands_are_in_step():
    assert json.loads(asset('commands.json').read_text(encoding='utf-8')) == json.loads(json.dumps(entry.make_words())), 'run make assets'

def test_the_counts_of_arithmetic_are_in_step():
    from dd_repro.zoo import NETS
    held = json.loads(asset('gmacs.json').read_text(encoding='utf-8'))
    wanted = {counts._shape_key(*s): s for r in counts.runnable() for w in ('train', 'eval') for s in [counts._net_of(counts.recipe(r.row), w)]}
    assert held['nets'] == list(NETS) and set(held['gmacs']) == set(wanted), 'run make assets'
    small = [k for k in sorted(wanted) if k.split()[:2] in (['convnet', '16'], ['convnet', '32'], ['resnet18', '32'])]
    assert len(small) > 3
    for k in small[::2]: assert counts._count_gmacs(*wanted[k]) == held['gmacs'][k], k

def test_the_installed_commands_are_those_of_the_entry():
    import tomllib
    scripts = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['project']['scripts']
    assert scripts == {n: f'dd_repro.entry:{n}' for n in entry.COMMANDS}
    for name, module in entry.COMMANDS.items():
        fn = getattr(importlib.import_module(f'dd_repro.{module}'), name)
        assert callable(fn) and hasattr(fn, 'main') == (module not in ('cli', 'bench', 'many', 'transfer', 'score') and name != 'dd_row'), 'those of cli have their words from classes'

# --- flags: each acts, or is refused in a line that names it
WORDS = json.loads(asset('commands.json').read_text(encoding='utf-8'))
def names_of(words): return [o['name'] for o in words['options']]
ALWAYS = dict(dd_experts='', dd_distill='', dd_bench='subject path threads quick record_to', dd_table='what todo coverage', dd_import='path as out',
    dd_eval='path nets n_eval protocol epochs batch lr opt momentum wd schedule drop_every warmup aug bf16 full random data seed root device row kind deviations record_to skip_bad')
SUBJECTS = {n: {k: names_of(v) for k, v in WORDS[n].items()} for n in ('dd_experts', 'dd_distill')} | dict(dd_eval=cli._EVAL_OWN, dd_bench=BENCH_OWN, dd_table=tables._TAKES, dd_import=IMPORT_OWN)
COMMAND = dict(dd_experts=dd_experts, dd_distill=dd_distill, dd_eval=dd_eval, dd_bench=dd_bench, dd_table=dd_table, dd_import=dd_import)
VALUES = dict(init='noise', grad='bptt', losses='all', snapshot='last', kind='kl-diag', crop='full', ens='iter', aug='flip', net='convnet', form='bptt', alloc='default', batch='4', N='2', format='md', layers='conv', loss='mse', stats='mtt', of='cifar10')

def options(name, subject=None):
    "The options of a command, of a subject or of all."
    if name not in ('dd_experts', 'dd_distill'): return {o['name']: o for o in WORDS[name]['options']}
    return {o['name']: o for k, v in WORDS[name].items() for o in v['options'] if subject in (None, k)}

def written(o, value):
    "An option as a word or two."
    return [f'--no-{o["name"]}'] if o['form'] == 'no' else [f'--{o["name"]}', *([] if o['form'] == 'switch' else [str(value)])]

def words_of(name, subject, flag):
    "A command line about a subject, with one flag."
    start = dict(dd_experts=[subject], dd_distill=[subject], dd_bench=[subject],
                 dd_eval=[subject] if subject[0] == '-' else ['none.safetensors'],
                 dd_table={'a table': ['mtt/table1'], 'rows of a table': ['mtt/table1/cifar10']}.get(subject, [subject, 'mtt']),
                 dd_import=['x', *([] if subject == 'a set' else ['--as', subject]), *(['--data', 'digits'] if flag in ('zca', 'size', 'device', 'skip_bad') and subject != 'fkd' else [])])[name]
    return [*start, *written(options(name)[flag], VALUES.get(flag, '2'))]

def pairs(acts):
    "(command, subject, flag) for all flags that are declared to act, or all others."
    for name, subjects in SUBJECTS.items():
        for subject, own in subjects.items():
            own = own.split() if isinstance(own, str) else own
            yield from ((name, subject, f) for f in options(name) if f not in ALWAYS[name].split() and (f in own) == acts)

def test_every_flag_is_declared():
    for name, subjects in SUBJECTS.items():
        known = {f for own in subjects.values() for f in (own.split() if isinstance(own, str) else own)} | set(ALWAYS[name].split())
        assert set(options(name)) == known, name

def test_a_flag_that_may_be_refused_has_no_default_that_somebody_could_mean():
    assert [(n, f) for n, _, f in pairs(True) if options(n)[f].get('default', None) not in (None, '')] == []

@pytest.mark.parametrize('name, subject', [(n, s) for n in SUBJECTS for s in SUBJECTS[n]])
def test_flags_that_do_nothing_are_refused(capsys, name, subject):
    idle = [f for n, s, f in pairs(False) if (n, s) == (name, subject)]
    for flag in idle:
        err = refused(capsys, COMMAND[name], *words_of(name, subject, flag))
        who = [s for s, own in SUBJECTS[name].items() if flag in (own.split() if isinstance(own, str) else own)]
        assert f'--{flag} has no meaning for {subject}; it is for {", ".join(who)}' in err
    assert len(idle) > 1 or name != 'dd_distill'

class Reached(Exception): "A deep function was called."

@pytest.fixture
def deep(monkeypatch, tmp_path):
    "Every function that does the work says what it was given instead; data, experts and teachers are pretended."
    monkeypatch.setenv('DD_HOME', str(tmp_path))
    real = type('Real', (), dict(name='digits', shape=(1, 8, 8), n_classes=10, device='cpu', norm='', renorm=lambda self, n: self, __len__=lambda self: 100))()
    def seen(name):
        def f(*a, **kw): raise Reached(name, a, kw)
        return f
    def load(o): real.loaded = o; return real, real
    class Card(dict): __missing__ = lambda self, k: None
    buffer = lambda path: SimpleNamespace(path=Path(path), card=Card())
    ae = lambda *a: SimpleNamespace(name=a[0], f=a[1], code_shape=lambda s: s)
    for k, v in dict(Buffer=buffer, open_autoencoder=ae, open_generator=lambda name, real: SimpleNamespace(file=name), codes_space=lambda r, a: r, load_teachers=lambda p, r: p, encode_set=lambda *a, **kw: real).items(): monkeypatch.setattr(cli, k, v)
    monkeypatch.setattr(cli.DataOptions, 'load', load)
    for k in ('learn', 'train_experts', 'train_teachers', 'latent_experts', 'evaluate'): monkeypatch.setattr(cli, k, seen(k))
    return real

def everything(x, depth=0):
    "All values in nested arguments, functions with their bound arguments and objects with their attributes."
    if depth > 6: return
    if isinstance(x, dict): items = x.values()
    elif isinstance(x, (list, tuple)): items = x
    elif hasattr(x, 'keywords'): items = (*x.args, *x.keywords.values())
    elif hasattr(x, '__dict__') and not isinstance(x, type): items = vars(x).values()
    else: yield x; return
    for i in items: yield from everything(i, depth + 1)

ODD = dict(str='odd', int=1237, float=.1237)
WHOLE = {'init': 'noise', 'grad': 'detached', 'losses': 'MTT', 'snapshot': 'expert', 'decode': 'passes', 'kind': 'kl-diag', 'layers': 'conv', 'crop': 'cosine', 'ens': 'iter', 'aug': 'rotate', 'inner_aug': 'rotate', 'net': 'vgg11', 'depth': 2, 'size': 16, 'loss': 'mse', 'device': 'meta', 'batch_syn': 7, 'labels': 'fixed', 'learn': 'both', 'kept_by': 'energy', ('datm', 'init'): 'real', ('linba', 'shrink'): 4}
_CONV = ['--layers', 'conv']
BESIDE = dict(eval_epochs=['--eval_every', '1'], n_eval=['--eval_every', '1'], gamma3=['--ppc', '2'], jitter_back=['--jitter', '3']) | {(m, f): _CONV for m in ('sre2l', 'cda') for f in ('kind', 'isu')} | {(m, 'ipc'): ['--outer', '1', '--inner', '1'] for m in ('dc', 'dsa')} | {(m, 'level'): ['--isu', *_CONV] for m in ('sre2l', 'cda')} | {(m, f): ['--candidates', '9999999'] for m in ('rded', 'd3s-rded') for f in ('ipc', 'factor')} | {k: ['--learn', 'both'] for k in (('dd', 'lr_y'), ('rat', 'lr_y'), ('ld', 'lr_img'))} | {('linba', 'bases'): ['--ipc', '1237']} | {('kfs', f): ['--ipc', '12370'] for f in ('code_channels', 'decoder_width', 'decoders')}
NEEDED = dict.fromkeys(('dd', 'ld', 'rat', 'linba'), '--syn_steps 3000') | dict(datm='--max_start_epoch 3000', mtt='--syn_steps 2 --expert_epochs 1 --max_start_epoch 1 --lr_img 1 --lr_lr 1 --lr_teacher 1', d3s='--ipc 1 --batch 10', **{'d3s-rded': '--ipc 1 --batch 10'}, sre2l='--ipc 1', cda='--ipc 1', initial='--ae tiny --f 2')
NAMED = {'out', 'path', 'teachers', 'buffer', 'ae', 'f'} | {(m, 'width') for m in ('d3s', 'd3s-rded', 'sre2l', 'cda', 'rded')} # they name a folder or a file
ELSEWHERE = {'data', ('dd_experts', 'record_to')} # a name that is checked; the cost is recorded after the work

def acting():
    "(command, subject, flag) for all options of methods and of experts."
    return [p for p in pairs(True) if p[0] in WORDS and p[0] in ('dd_experts', 'dd_distill') and not {p[2], (p[0], p[2])} & ELSEWHERE]

def needed(name, subject, flag):
    "What has to be given beside a flag."
    words = NEEDED.get(subject, '').split() if name == 'dd_distill' else []
    kept = [w for k, v in zip(*[iter(words)]*2) if k != f'--{flag}' for w in (k, v)]
    return [*kept, *BESIDE.get((subject, flag), BESIDE.get(flag, []))]

@pytest.mark.parametrize('name, subject, flag', acting())
def test_a_flag_that_acts_reaches_the_work(capsys, deep, name, subject, flag):
    o = options(name, subject)[flag]
    value = WHOLE.get((subject, flag), WHOLE.get(flag, ODD.get(o.get('kind'))))
    with pytest.raises(Reached) as e: run(COMMAND[name], subject, *needed(name, subject, flag), *written(o, value))
    got = list(everything(e.value.args))
    if o['form'] in ('switch', 'no'): value = o['form'] == 'switch'
    if {flag, (subject, flag)} & NAMED: assert any(str(value) in str(g) for g in got)
    elif isinstance(value, bool): assert any(g is value for g in got)
    elif flag == 'aug': assert any(g == value or getattr(g, 'strategy', '') == value for g in got)
    else: assert value in got, (value, got)

@pytest.mark.parametrize('words, flag', [('--random --labels x', '--labels'), ('--full --ipc 3', '--ipc'), ('a.safetensors --zca', '--zca'), ('a.safetensors --size 8', '--size'), ('a.safetensors --width 8', '--width'),
    ('a.safetensors --labels x --aug flip', '--aug'), ('--full --row mine', '--row'), ('--random --deviations none', '--deviations')])
def test_eval_refuses_what_would_be_dropped(capsys, words, flag): assert flag in refused(capsys, dd_eval, *words.split())

@pytest.mark.parametrize('command, words, flag', [(dd_distill, 'd3s --ipc 1 --teachers x --width 8', '--width'), (dd_distill, 'd3 --losses MTT --gamma2 1', '--gamma2'), (dd_distill, 'mtt --n_eval 3', '--n_eval'),
    (dd_distill, 'mtt --grad bptt --keep 3', '--keep'), (dd_distill, 'dm --outer 2', '--outer'), (dd_experts, 'd3s --net vgg11 --width 8', '--width'), (dd_relabel, 'a.safetensors --teachers x --width 8', '--width'),
    (dd_row, 'mtt/table1/cifar10/ipc1 --smoke --scale .1', '--scale'), (dd_row, 'd3/table3/cifar10/ppc10/rate --compiled', '--compiled'), (dd_row, 'd3/table3/cifar10/ppc10/rate --minutes 3', 'minutes'),
    (dd_row, 'mtt/table1/cifar10/random/ipc1 --minutes 3', 'minutes'), (dd_plan, 'mtt/table1/cifar10/ipc1 --settings --device cpu', '--device'), (dd_plan, 'mtt/table1/cifar10/random/ipc10 --minutes 3', 'minutes'),
    (dd_table, 'mtt/table1 --todo', '--todo'), (dd_table, '--todo --coverage', '--coverage'), (dd_bench, 'unroll --quick --width 9', '--width'), (dd_bench, 'd3s-memory --repeats 2', '--repeats')])
def test_a_flag_that_does_nothing_beside_another_is_refused(capsys, command, words, flag): assert flag in refused(capsys, command, *words.split())

@pytest.mark.parametrize('command, words, says', [(dd_distill, 'mtt --lr_img nan --syn_steps 2', 'lr_img is nan'), (dd_distill, 'mtt --minutes 0', 'minutes is 0'), (dd_distill, 'd3 --gamma1 -1', 'gamma1 is -1'), (dd_distill, 'dm --every 0', 'every is 0'),
    (dd_distill, 'd3 --losses ALL', "losses='ALL'"), (dd_distill, 'dc --aug blur', "'blur'"), (dd_experts, 'mtt --lr inf', 'lr is inf'), (dd_experts, 'd3s --batch 0', 'batch is 0'), (dd_experts, 'latent-mtt --f 0', 'f is 0'),
    (dd_experts, 'd3s --net resnet99', 'resnet99'), (dd_eval, '--full --epochs 0', 'epochs is 0'), (dd_eval, '--random --ipc 0', 'ipc is 0'), (dd_eval, '--full --lr nan', 'lr is nan'), (dd_relabel, 'x --scale 2', 'scale is 2'), (dd_relabel, 'x --epochs 0', 'epochs is 0'),
    (dd_row, 'mtt/table1/cifar10/ipc1 --scale 0', 'scale is 0'), (dd_plan, 'mtt/table1/cifar10/ipc1 --minutes 0', 'minutes is 0'), (dd_smoke, '--limit -1', 'limit is -1'), (dd_bench, 'unroll --budget_s 0', 'budget_s is 0')])
def test_a_value_out_of_range_is_refused_before_data_are_loaded(capsys, monkeypatch, command, words, says):
    def load(*a, **kw): raise AssertionError('data were loaded')
    for m in (cli, rows, stages): monkeypatch.setattr(m, 'load', load)
    monkeypatch.setattr(cli.Distilled, 'load', load)
    assert says in refused(capsys, command, *words.split())

@pytest.mark.parametrize('command, words', [(dd_experts, ['mtt']), (dd_experts, ['d3s']), (dd_distill, ['mtt', *NEEDED['mtt'].split()]), (dd_distill, ['dm']), (dd_distill, ['herding']), (dd_eval, ['--random']), (dd_eval, ['--full'])])
def test_bad_pictures_are_left_out_by_every_command_that_loads_some(deep, monkeypatch, command, words):
    seen = []
    def load(o): seen.append(o.skip_bad); raise Reached
    monkeypatch.setattr(cli.DataOptions, 'load', load)
    with pytest.raises(Reached): run(command, *words, '--skip_bad')
    assert seen == [True]

def test_fewer_iterations_than_were_done_are_refused(tmp_path):
    run = type('R', (), dict(it=4, steps=2, history=[dict(loss=1.)], stopped='done', seconds=1.))()
    with pytest.raises(ValueError, match='--iterations: the run in .* is at iteration 4 already, and 2 were asked for'): cli.how_it_went(None, run, tmp_path)

def synthesis(done, of, stopped):
    run = cli.Synthesis.__new__(cli.Synthesis)
    run.history, run.n_batches, run.stopped, run.steps = [dict(it=2, seconds=1., loss=.5)]*done, of, stopped, 2*of
    return run

@pytest.mark.parametrize('done, of, stopped, says', [(0, 3, 'SIGINT', 'SIGINT at batch 1 of 3 (0 finished): 0 s'), (2, 3, 'SIGTERM', 'SIGTERM at batch 3 of 3 (2 finished): loss 0.5000, 2 s'), (1, 4, 'time', 'time at batch 2 of 4 (1 finished)')])
def test_a_synthesis_that_was_stopped_says_so_and_names_no_file_that_is_not_there(capsys, tmp_path, done, of, stopped, says):
    try: cli.how_it_went('set', synthesis(done, of, stopped), tmp_path)
    except SystemExit as e: assert e.code == 130 and stopped.startswith('SIG')
    else: assert stopped == 'time'
    out = capsys.readouterr().out
    assert says in out and 'the same command goes on' in out and 'dd_eval' not in out

def test_a_synthesis_that_is_done_names_its_artefact(capsys, tmp_path):
    (tmp_path/'distilled.safetensors').touch()
    cli.how_it_went('set', synthesis(3, 3, 'done'), tmp_path)
    assert capsys.readouterr().out == f'done at 3 batches: loss 0.5000, 3 s\nset; evaluate it: dd_eval {tmp_path/"distilled.safetensors"}\n'

@pytest.mark.parametrize('stopped, k, said', [('done', 0, True), ('done', 2, False), ('time', 0, False)])
def test_a_complete_run_that_is_asked_to_look_says_that_it_did_not(capsys, tmp_path, stopped, k, said):
    look = cli.Evaluate.__new__(cli.Evaluate)
    look.k, look.last, look.best = k, 50., 60.
    run = SimpleNamespace(it=4, steps=4, history=[], stopped=stopped, callbacks=[look])
    cli.how_it_went('set', run, tmp_path)
    assert ('was not looked at' in capsys.readouterr().out) == said

# --- what a line says
@pytest.mark.parametrize('command, words, full', [(dd_demo, ['--iter', '7'], '--iterations'), (dd_distill, ['mtt', '--lr-im', '1'], '--lr_img'), (dd_eval, ['x', '--rec=y'], '--record_to'), (dd_bench, ['unroll', '--qui'], '--quick'), (dd_experts, ['mtt', '--dep', '2'], '--depth')])
def test_an_abbreviated_option_is_answered_with_the_full_one(capsys, command, words, full): assert f'is no option; write {full}' in refused(capsys, command, *words)

@pytest.mark.parametrize('method, words, line', [('mtt', NEEDED['mtt'] + ' --width 4 --size 8', 'dd_experts mtt --size 8 --width 4 --epochs 2'), ('mtt', NEEDED['mtt'] + ' --width 4 --depth 2 --zca --buffer x', 'dd_experts mtt --zca --width 4 --depth 2 --path x --epochs 2'),
    ('d3', '--width 8 --size 16', 'dd_experts d3 --size 16 --width 8'), ('d3s', '--ipc 1', 'dd_experts d3s'), ('d3s', '--ipc 1 --teachers x', 'dd_experts d3s --path x'),
    ('cda', '--ipc 1 --data digits --size 16', 'dd_experts cda --data digits --size 16'), ('datm', '--width 4', 'dd_experts datm --width 4'), ('rded', '--teachers x', 'dd_experts rded --path x')])
def test_experts_that_are_not_there_are_answered_with_the_command_that_makes_them(capsys, monkeypatch, tmp_path, method, words, line):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home')); monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit): run(dd_distill, method, *words.split())
    assert capsys.readouterr().err.endswith(f'this makes it: {line}\n')

@pytest.mark.parametrize('words, files, says', [('mtt', ['teacher_0000.safetensors'], 'a folder of teachers; give another --path for experts'), ('latent-mtt', ['teacher_0000.safetensors'], 'a folder of teachers'),
    ('d3s', ['buffer.json'], 'a folder of experts; give another --path for teachers'), ('d3s', ['expert_0000.safetensors'], 'a folder of experts')])
def test_experts_and_teachers_do_not_share_a_folder(capsys, tmp_path, words, files, says):
    for f in files: (tmp_path/f).touch()
    assert says in refused(capsys, dd_experts, *words.split(), '--path', tmp_path)

@pytest.mark.parametrize('method, work, kind, of', [('mtt', 'train_experts', 'expert', 100), ('latent-mtt', 'latent_experts', 'expert', 20), ('d3s', 'train_teachers', 'teacher', 5)])
def test_ctrl_c_says_what_is_kept(capsys, deep, monkeypatch, tmp_path, method, work, kind, of):
    for i in range(2): (tmp_path/f'{kind}_{i:04}.safetensors').touch()
    def stop(*a, **kw): raise KeyboardInterrupt
    monkeypatch.setattr(cli, work, stop)
    with pytest.raises(SystemExit) as e: run(dd_experts, method, '--path', tmp_path)
    assert e.value.code == 130 and capsys.readouterr().err == f'dd_repro: interrupted: 2 of {of} {kind}s are kept in {tmp_path}; the same command goes on\n'

@pytest.mark.parametrize('words, says', [((), 'what is finished is kept; the same command goes on'), (('2 of 5 experts are kept',), '2 of 5 experts are kept')])
def test_ctrl_c_in_a_row_says_that_the_same_command_goes_on(capsys, monkeypatch, tmp_path, words, says):
    def stop(*a, **kw): raise KeyboardInterrupt(*words)
    monkeypatch.setattr(rows, 'run_row', stop)
    with pytest.raises(SystemExit) as e: run(dd_row, 'mtt/table1/cifar10/ipc1', '--record_to', tmp_path/'r.csv')
    assert e.value.code == 130 and capsys.readouterr().err == f'dd_repro: interrupted: {says}\n'

@pytest.mark.parametrize('home', ['file', 'file/below', '/proc/none'])
def test_a_home_that_is_none_is_named(capsys, monkeypatch, tmp_path, home):
    (tmp_path/'file').touch(); monkeypatch.setenv('DD_HOME', str(tmp_path/home)); monkeypatch.setenv('DD_DEVICE', 'cpu')
    assert 'DD_HOME (' in refused(capsys, dd_experts, *'mtt --n 1 --epochs 1 --width 4 --depth 1'.split())

# --- pipes, Ctrl-C
PRINTS = "from dd_repro.entry import dd_table; dd_table(sys.argv[1:])"

@pytest.mark.parametrize('words', [['mtt'], ['--todo'], ['--help'], ['d3', '--format', 'html']], ids=' '.join)
@pytest.mark.parametrize('lines', [0, 1])
def test_a_reader_that_stops_is_no_error(words, lines):
    p = subprocess.Popen([sys.executable, '-c', f'import sys; {PRINTS}', *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    for _ in range(lines): assert p.stdout.readline()
    p.stdout.close()
    err = p.stderr.read()
    assert p.wait(60) in (0, 141) and err == b''

@pytest.mark.parametrize('what', ['print("x")', 'sys.stdout.write("x"*99999)', 'say("x"); raise SystemExit(0)'])
def test_output_that_was_closed_before_is_no_error(what):
    code = f'import sys\nfrom dd_repro.shell import *\nsys.stdin.read()\nwith program(), manners():\n    {what}'
    p = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.close(); p.stdin.close()
    assert p.stderr.read() == b'' and p.wait(60) == 141

@pytest.mark.parametrize('error, status, says', [('KeyboardInterrupt', 130, 'dd_repro: interrupted'), ('BrokenPipeError(32, "a worker died")', 2, 'a worker died'), ('ValueError("x is 0")', 2, 'dd_repro: x is 0'), ('OSError(28, "No space")', 2, 'No space')])
def test_what_ends_a_command_is_one_line_and_a_status(error, status, says):
    r = python(f'from dd_repro.shell import *\nwith program(), manners(): raise {error}')
    assert r.returncode == status and says in r.stderr and r.stderr.count('\n') == 1

# --- alphabets
@pytest.mark.parametrize('env', [dict(PYTHONIOENCODING='latin-1'), dict(PYTHONIOENCODING='ascii'), dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONIOENCODING='latin-1')])
@pytest.mark.parametrize('words', [['mtt/table1', '--format', 'md'], ['d3s/table6'], ['--help']], ids=' '.join)
def test_characters_that_a_terminal_lacks_stop_no_command(env, words):
    r = python(f'import sys; {PRINTS}', *words, **env)
    assert (r.returncode, r.stderr) == (0, '') and len(r.stdout) > 100

def test_no_text_file_is_opened_in_the_alphabet_of_the_machine():
    import re
    bad = [f'{p.name}:{i}' for p in sorted((ROOT/'dd_repro').glob('*.py')) if p.name not in ('cost.py', 'files.py') for i, l in enumerate(p.read_text(encoding='utf-8').splitlines(), 1)
           if re.search(r'\.(read_text|write_text)\((?!.*encoding)|(?<![\w.])open\((?!.*(encoding|[\'"][rwa+]*b))', l) and 'def open' not in l and not re.search(r'self\.open\(', l)]
    assert bad == []

# --- home
@pytest.mark.parametrize('variable, of', [('DD_HOME', dd_home), ('DD_DATA', dd_data), ('DD_RESULTS', tables.results_dir)])
def test_home_in_variables(monkeypatch, tmp_path, variable, of):
    (tmp_path/'x').mkdir(); monkeypatch.setenv('HOME', str(tmp_path)); monkeypatch.setenv('USERPROFILE', str(tmp_path))
    for text in ('~/x', f'{tmp_path}/x', f' {tmp_path}/x/../x '): monkeypatch.setenv(variable, text); assert of() == tmp_path/'x'
    monkeypatch.chdir(tmp_path); monkeypatch.setenv(variable, 'x'); assert of() == tmp_path/'x' and of().is_absolute()

def test_an_empty_variable_is_none(monkeypatch, tmp_path):
    for k, v in dict(HOME=str(tmp_path), USERPROFILE=str(tmp_path), DD_HOME='', DD_DATA=' ').items(): monkeypatch.setenv(k, v)
    assert (dd_home(), dd_data()) == (tmp_path/'.dd_repro', tmp_path/'.dd_repro'/'data')
    monkeypatch.setenv('DD_HOME', '~nobody-of-this-name/x')
    with pytest.raises(ValueError, match='DD_HOME'): dd_home()

@pytest.mark.parametrize('command, words, says', [(dd_eval, ['~/none.safetensors'], 'no such file'), (dd_experts, ['mtt', '--data=~/none'], 'no such folder'), (dd_experts, ['mtt', '--record_to', '~/bad.csv'], 'not a file of results'),
    (dd_distill, ['mtt', *NEEDED['mtt'].split(), '--buffer=~/none'], 'no buffer here'), (dd_distill, ['d3s', '--ipc', '1', '--teachers=~/none'], '0 teachers there'), (dd_relabel, ['~/none.safetensors'], 'no such file')])
def test_home_in_flags(capsys, monkeypatch, tmp_path, command, words, says):
    (tmp_path/'bad.csv').write_text('a,b\n', encoding='utf-8')
    for k, v in dict(HOME=tmp_path, USERPROFILE=tmp_path, DD_HOME=tmp_path/'dd', DD_DEVICE='cpu').items(): monkeypatch.setenv(k, str(v))
    if any('teachers' in w for w in words): monkeypatch.setattr(cli.DataOptions, 'load', lambda o: (SimpleNamespace(name='digits', shape=(1, 8, 8), n_classes=10), None))
    err = refused(capsys, command, *words)
    assert says in err and str(tmp_path) in err and '~' not in err

# --- platforms
@pytest.mark.parametrize('gone', ['resource', 'fcntl', 'pwd', 'grp', 'termios'])
def test_modules_import_where_unix_has_not(gone):
    code = f'''import sys; sys.modules["{gone}"] = None
import dd_repro.core, dd_repro.files, dd_repro.cost, dd_repro.records, dd_repro.shell, dd_repro.papers, dd_repro.tables, dd_repro.entry
dd_repro.entry.dd_table(["mtt/table1"])'''
    r = python(code)
    assert r.returncode == 0, r.stderr

def test_all_imports_on_a_machine_that_is_not_linux(tmp_path):
    code = '''import sys, os, torch
for m in ("resource", "fcntl", "pwd", "grp"): sys.modules[m] = None
for n in ("sysconf", "sched_getaffinity", "fork", "getuid"): hasattr(os, n) and delattr(os, n)
import ctypes
def no_library(*a, **kw): raise OSError('no such library')
ctypes.CDLL = no_library
import dd_repro.all, dd_repro.cli, dd_repro.rows, dd_repro.bench, dd_repro.side
from dd_repro.cost import *
from dd_repro.records import *
assert tune_allocator() is False
with Cost() as c: pass
record(Row("x", mean=1.), sys.argv[1] + "/r.csv"); assert len(read_rows(sys.argv[1] + "/r.csv")) == 1
'''
    r = python(code, str(tmp_path))
    assert r.returncode == 0, r.stderr

@pytest.mark.parametrize('place', ['file', 'experts', 'teachers'])
def test_a_run_has_a_folder_of_its_own(tmp_path, capsys, place):
    out = tmp_path/'out'
    if place == 'file': out.write_text('mine')
    else:
        out.mkdir()
        (out/dict(experts='buffer.json', teachers='teacher_000.safetensors')[place]).write_text('{}')
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(SystemExit): cli.dd_distill('dm', size=8, out=str(out))
    assert '--out' in capsys.readouterr().err
    assert sorted(tmp_path.rglob('*')) == before

def test_settings_for_a_first_try_are_named():
    with pytest.raises(ValueError, match=r'not stated for digits at 3 per class; a first try .*--syn_steps 60 --expert_epochs 2'):
        cli.check_stated(METHODS['mtt'], dict(ipc=3), 'digits')

@pytest.mark.parametrize('own, more', [({}, ''), (dict(max_start_epoch=4, expert_epochs=2), ' --epochs 6')])
def test_the_line_that_makes_experts_trains_what_is_read(own, more):
    assert cli._experts_line(METHODS['mtt'], dict(data='shapes', size=16, **own)) == f'dd_experts mtt --data shapes --size 16{more}'

@pytest.mark.parametrize('loss, word', [(.5, None), (47., 'loss is above 1')])
@pytest.mark.parametrize('name', ['mtt', 'latent-mtt'])
def test_a_loss_above_1_is_named(name, loss, word):
    said = METHODS[name]().remark(loss)
    assert said is None if word is None else word in said
    assert METHODS['dm']().remark(loss) is None

@pytest.mark.parametrize('name, own, n', [('mtt', dict(ipc=2), 20), ('d3', dict(ppc=3), 30), ('fred-mtt', dict(ipc=1, msz_per_channel=16), 40), ('rat', dict(ipc=1), 10)])
def test_a_student_batch_is_compared_with_the_items_of_the_set(name, own, n):
    "A batch of all is taken, one more is refused; frequencies hold more images than a budget says."
    real = SimpleNamespace(n_classes=10, shape=(1, 8, 8))
    assert METHODS[name](**own).items(real) == n
    cli._check_batch(METHODS[name](**own, batch_syn=n), real)
    with pytest.raises(ValueError, match=f'--batch_syn {n + 1} is more than the {n} items'): cli._check_batch(METHODS[name](**own, batch_syn=n + 1), real)
