"The commands: what a user can mend is one line on stderr, exit status 2, and nothing left behind; what works leaves rows."
import os, shutil, signal, socket, subprocess, sys
from functools import partial
from pathlib import Path

import pytest, torch
from PIL import Image

from dd_repro import cli, unroll
from dd_repro.cli import dd_distill, dd_eval, dd_experts, dd_relabel
from dd_repro.convnet import ConvNet
from dd_repro.files import load_tensors, save_tensors
from dd_repro.records import read_rows
from dd_repro.data import load
from dd_repro.mtt import MTT
from dd_repro.distilled import FORMAT, Distilled, Pixels

NET = dict(data='digits', width=8, depth=2)
FAST = dict(method='mtt', **NET, syn_steps=2, expert_epochs=1, max_start_epoch=1, lr_img=1., lr_lr=1e-5, lr_teacher=.02, aug='flip', iterations=2)
BIN = Path(sys.executable).parent

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "DD_HOME with one buffer of digits and one artefact; DD_DATA is empty, and there is no network."
    top, mp = tmp_path_factory.mktemp('home'), pytest.MonkeyPatch()
    def offline(*a, **kw): raise socket.gaierror(-2, 'Name or service not known')
    for k, v in dict(DD_HOME=top, DD_DATA=top/'data', DD_DEVICE='cpu').items(): mp.setenv(k, str(v))
    (top/'data').mkdir()
    dd_experts('mtt', **NET, n=1, epochs=2, batch=512, aug='flip')
    Pixels.from_real(load('digits')[0], 1, lr=.05, arch=ConvNet(1, 10, 8, 8, 2).arch, aug='flip', info=dict(result=dict(mean=50., std=1., n=5))).save(top/'d.safetensors')
    mp.setattr(socket, 'getaddrinfo', offline)
    yield top
    mp.undo()

def pictures(root, classes, n=2, parts=('train', 'val'), side=8):
    for part in parts:
        for k, c in enumerate(classes):
            (root/part/c).mkdir(parents=True, exist_ok=True)
            for i in range(n): Image.new('RGB', (side, side), (k*40, i*20, 9)).save(root/part/c/f'{i}.png')
    return root

def files(*tops): # but for the keys of folders, a cache that says nothing of a run
    return {p: p.stat().st_mtime_ns for t in tops for p in t.rglob('*') if p.is_file() and p.parent.name != 'keys'}

@pytest.fixture
def bad(home, tmp_path, capsys):
    "A function: run a command that must fail in the way that users see."
    def run(says, command, *a, **kw):
        before = files(home, tmp_path); capsys.readouterr()
        with pytest.raises(SystemExit) as e: command(*a, **kw)
        err = capsys.readouterr().err
        assert e.value.code == 2 and err.count('\n') == 1 and err.startswith('dd_repro: '), err
        assert says in err, err
        assert files(home, tmp_path) == before and not (home/'runs').exists() and not (tmp_path/'out').exists()
        return err
    return run

# --- data
def test_unknown_data_sets_name_the_known(bad, home):
    own = partial(dd_distill, **(FAST | dict(buffer=str(home/'buffers'/'digits-w8-d2'))))
    for command in (partial(dd_experts, 'mtt'), own, partial(dd_eval, full=True)):
        err = bad('cifar11', command, data='cifar11')
        assert all(k in err for k in ('digits', 'cifar10', 'tinyimagenet', 'imagenette'))

def test_the_name_of_the_data_comes_before_missing_settings(bad):
    for data, says in (('nosuch', "data set 'nosuch' is not known; known: digits"), ('no/such', 'no/such: no such folder')):
        bad(says, dd_distill, 'mtt', data=data, width=8, depth=2)

@pytest.mark.parametrize('data', ['cifar10', 'tinyimagenet', 'imagenette', 'imagewoof', 'imagefruit'])
def test_no_folder_and_no_network(bad, data): assert 'DD_DATA' in bad(data, dd_experts, 'mtt', data=data, width=8)

def test_folders_that_are_no_data_set(bad, tmp_path):
    one, torn, few = (tmp_path/n for n in ('one', 'torn', 'few'))
    bad('at least 2', dd_experts, 'mtt', data=str(pictures(one, ['cat'])), width=8, depth=2)
    pictures(torn, ['cat', 'dog']); (torn/'train'/'dog'/'1.png').write_bytes(b'not a picture')
    assert str(torn/'train'/'dog'/'1.png') in bad('not a readable image', dd_experts, 'mtt', data=str(torn), width=8, depth=2)
    pictures(few, ['cat', 'dog', 'owl']); shutil.rmtree(few/'val'/'dog')
    bad("'dog'", dd_experts, 'mtt', data=str(few), width=8, depth=2)
    bad('no such folder', dd_experts, 'mtt', data=str(tmp_path/'none'))

# --- experts
@pytest.mark.parametrize('kw, says', [(dict(n=0), 'n is 0'), (dict(n=-1), 'n is -1'), (dict(epochs=0), 'epochs is 0'), (dict(lr=0.), 'lr is 0'), (dict(lr=-.1), 'lr is -0.1'), (dict(batch=0), 'batch is 0'), (dict(width=0), 'width'),
    (dict(depth=5), 'halved'), (dict(depth=-1), 'depth'), (dict(depth=0), 'depth'), (dict(size=0), 'size is 0'), (dict(aug='blur'), "'blur'"), (dict(size=-8), 'size is -8'), (dict(size=9), 'multiple of'), (dict(device='tpu'), 'tpu')])
def test_experts_refuse(bad, tmp_path, kw, says): bad(says, dd_experts, 'mtt', **(dict(NET, n=1, epochs=1, path=str(tmp_path/'out')) | kw))

def test_experts_refuse_a_folder_of_others(bad, home): bad('other settings', dd_experts, 'mtt', **NET, n=1, epochs=3, aug='flip')

# --- distil
@pytest.mark.parametrize('kw, says', [(dict(method='mtt3'), "'mtt3' is not known; did you mean mtt?"), (dict(ppc=2), '--ppc has no meaning for mtt'), (dict(init='zeros'), "'zeros' is not one of"), (dict(ipc=0), 'ipc is 0'), (dict(ipc=-3), 'ipc is -3'), (dict(ipc=500), 'asked for; it has'),
    (dict(iterations=0), 'iterations is 0'), (dict(iterations=-5), 'iterations is -5'), (dict(syn_steps=-1), 'syn_steps is -1'), (dict(syn_steps=0), 'syn_steps is 0'), (dict(lr_lr=0.), 'lr_lr is 0.0'), (dict(size=0), 'size is 0'), (dict(eval_every=1, eval_epochs=0), 'eval_epochs is 0'), (dict(batch_syn=-1), 'batch_syn is -1'), (dict(lr_img=-1.), 'lr_img is -1'), (dict(lr_lr=-1.), 'lr_lr is -1'),
    (dict(lr_teacher=-.1), 'lr_teacher is -0.1'), (dict(expert_epochs=2, max_start_epoch=2), 'reach epoch 3'), (dict(buffer='nowhere'), 'no buffer here'), (dict(width=12), 'no buffer here'), (dict(grad='exact'), "grad='exact'"),
    (dict(aug='blur'), "'blur'"), (dict(every=0), 'every is 0'), (dict(eval_every=-1), 'eval_every is -1'), (dict(eval_every=1, n_eval=0), 'n_eval is 0'), (dict(eval_every=1, eval_epochs=-2), 'epochs is -2'), (dict(minutes=-1.), 'minutes is -1'),
    (dict(data='cifar10', ipc=20, lr_img=None), 'mtt needs --lr_img: not stated for cifar10 at 20 per class'),
    (dict(lr_img=None, syn_steps=None, ipc=2), 'mtt needs --syn_steps --lr_img: not stated for digits at 2 per class')])
def test_distil_refuses(bad, tmp_path, kw, says): bad(says, dd_distill, **(dict(FAST, out=str(tmp_path/'out')) | kw))

def test_a_buffer_of_another_network_or_other_data(bad, home, tmp_path):
    mine, kw = str(home/'buffers'/'digits-w8-d2'), dict(FAST, out=str(tmp_path/'out'))
    bad('parameters', dd_distill, **(kw | dict(buffer=mine, width=12)))
    bad('experts of other data', dd_distill, **kw, buffer=mine, size=16)
    bad('experts of other data', dd_distill, **(kw | dict(buffer=mine, data=str(pictures(tmp_path/'set', ['cat', 'dog'])))))

def test_a_damaged_buffer(bad, home, tmp_path):
    shutil.copytree(home/'buffers'/'digits-w8-d2', tmp_path/'b'); file = tmp_path/'b'/'expert_0000.safetensors'
    os.truncate(file, 1000)
    with pytest.raises(SystemExit) as e: dd_distill(**FAST, buffer=str(tmp_path/'b'), out=str(tmp_path/'run'))
    assert e.value.code == 2 and not (tmp_path/'run'/'distilled.safetensors').exists()

def test_distil_goes_on_and_refuses_other_settings(home, tmp_path, capsys, monkeypatch):
    out, (one, two) = tmp_path/'a', (dict(FAST, out=str(tmp_path/n), iterations=4, every=3) for n in 'ab')
    def stop(self, d): self.n = getattr(self, 'n', 0) + 1; self.n == 2 and signal.raise_signal(signal.SIGTERM)
    with monkeypatch.context() as m, pytest.raises(SystemExit) as e: m.setattr(MTT, 'after', stop); dd_distill(**one)
    assert e.value.code == 130 and 'SIGTERM at iteration 2 of 4' in capsys.readouterr().out and Distilled.load(out/'distilled.safetensors').info['iterations'] == 2
    dd_distill(**one); dd_distill(**two)
    a, b = (Distilled.load(tmp_path/n/'distilled.safetensors') for n in 'ab')
    assert torch.equal(a.images, b.images) and torch.equal(a.lr, b.lr) and all(a.info[k] == b.info[k] for k in a.info if k != 'seconds')
    before = files(tmp_path); capsys.readouterr()
    with pytest.raises(SystemExit) as e: dd_distill(**(one | dict(syn_steps=3)))
    assert e.value.code == 2 and 'other settings' in capsys.readouterr().err and files(tmp_path) == before

def test_a_run_that_diverges_says_so(home, tmp_path, capsys):
    with pytest.raises(SystemExit) as e: dd_distill(**(FAST | dict(out=str(tmp_path/'r'), lr_lr=1e6, iterations=50)))
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1 and 'lr_lr' in err
    assert not (tmp_path/'r'/'distilled.safetensors').exists() and (tmp_path/'r'/'checkpoint.diverged.safetensors').is_file()

# --- the other methods


def run(tmp_path, method, capsys, **kw):
    "A run of two iterations; the artefact that it leaves."
    dd_distill(**(NET | dict(method=method, iterations=2, out=str(tmp_path/method)) | kw))
    out = capsys.readouterr().out
    assert f'dd_eval {tmp_path/method/"distilled.safetensors"}' in out
    return Distilled.load(tmp_path/method/'distilled.safetensors')

def test_matching_by_command(home, tmp_path, capsys):
    for m, kw in (('dm', {}), ('dc', dict(init='real')), ('dsa', dict(outer=2, inner=1, aug='crop_scale'))):
        d = run(tmp_path, m, capsys, ipc=1, lr_img=.1, batch_real=8, **kw)
        assert len(d) == 10 and d.info['settings']['method'] == m
    assert d.info['settings']['aug'] == 'crop_scale' and d.info['settings']['outer'] == 2
    dd_eval(str(tmp_path/'dm'/'distilled.safetensors'), n_eval=1, epochs=2, aug='flip', kind='smoke')

def test_d3_by_command(home, tmp_path, capsys):
    kw = dict(ppc=2, decoder_width=8, z_dim=4, syn_steps=2, expert_epochs=1, max_start_epoch=1, mmd_samples=4, aug='flip')
    d = run(tmp_path, 'd3', capsys, **kw)
    assert (d.ppc, len(d)) == (2, 20) and d.info['iterations'] == 2
    dd_eval(str(tmp_path/'d3'/'distilled.safetensors'), n_eval=1, epochs=2, kind='smoke')

@pytest.mark.parametrize('method, kw', [('mtt', dict(lr_img=1.)), ('d3', dict(decoder_width=8, z_dim=4, losses='MTT'))])
def test_compiled_steps_by_command(home, tmp_path, capsys, monkeypatch, method, kw):
    "The flag reaches the unroll, whose two functions are traced for one shape; the translation itself is tested in test_unroll and left out here."
    seen = []
    monkeypatch.setattr(torch, 'compile', lambda g, **kw: seen.append(g) or g)
    monkeypatch.setattr(unroll, 'need_compiler', lambda: seen.append('asked'))
    kw |= {k: FAST[k] for k in ('syn_steps', 'expert_epochs', 'max_start_epoch', 'lr_lr', 'lr_teacher', 'aug')}
    a, b = (run(tmp_path/str(c), method, capsys, compiled=c, **kw) for c in (True, False))
    assert seen[0] == 'asked' and len(seen) == 3
    loose = dict(atol=1e-2) if method == 'd3' else dict(atol=1e-5) # Adam's first steps are signs of gradients, and of rounding where they vanish
    for k, t in a.state_dict().items(): torch.testing.assert_close(t, b.state_dict()[k], rtol=1e-4, **loose)

def test_only_an_inexact_gradient_is_a_setting(home, tmp_path, capsys):
    detached, exact = (dd_distill(**FAST, grad=g, out=str(tmp_path/g)) or Distilled.load(tmp_path/g/'distilled.safetensors').info['settings'] for g in ('detached', 'bptt'))
    assert detached['grad'] == 'detached' and 'grad' not in exact

def test_d3s_by_command_up_to_students_on_stored_labels(home, tmp_path, capsys):
    dd_experts('d3s', data='digits', net='convnet', n=1, epochs=1)
    kw = dict(width=128, depth=None, ipc=1, batch=10, lr_img=.1, scale=.7, flip=False, crop='cosine', level=True)
    d = run(tmp_path, 'd3s', capsys, **kw)
    assert {k: d.info['settings'][k] for k in ('scale', 'flip', 'crop', 'level')} == dict(scale=.7, flip=False, crop='cosine', level=True)
    art = str(tmp_path/'d3s'/'distilled.safetensors')
    dd_relabel(art, epochs=2, batch=10)
    dd_eval(art, labels=str(Path(art).with_suffix('.labels')), nets='convnet', n_eval=1, epochs=2, kind='smoke', record_to=str(tmp_path/'r.csv'))
    assert len(d) == 10 and [(r.method, r.protocol) for r in read_rows(tmp_path/'r.csv')] == [('d3s', 'smoke')]

@pytest.fixture
def tiny(monkeypatch):
    "Flags of latent methods; the autoencoder is hardly trained."
    monkeypatch.setattr(cli, 'train_tiny', partial(cli.train_tiny, epochs=2))
    return dict(ae='tiny', f=2, lpc=1)

@pytest.mark.parametrize('method, kw', [('initial', dict(iterations=None)), ('latent-dm', dict(batch=8)), ('latent-dc', dict(batch=8, outer=2, inner=1)),
    ('latent-mtt', dict(batch=8, syn_steps=2, max_start_epoch=1))])
def test_latent_by_command(home, tmp_path, capsys, tiny, method, kw):
    if method == 'latent-mtt':
        dd_experts('latent-mtt', **NET, ae='tiny', f=2, n=1, epochs=2)
        assert '1437 pictures, ' in (out := capsys.readouterr().out) and ' MB -> codes [4, 4, 4], ' in out # what the set weighs, before and after
    d = run(tmp_path, method, capsys, **tiny, **kw)
    s = d.info['settings']
    assert len(d) == 10 and s['method'] == method and (s['net']['width'], s['net']['depth'], d.arch['depth']) == (8, 2, 1)
    dd_eval(str(tmp_path/method/'distilled.safetensors'), n_eval=1, epochs=2, kind='smoke', record_to=str(tmp_path/'r.csv'))
    row, = read_rows(tmp_path/'r.csv')
    assert (row.method, row.protocol) == (method, 'smoke') and 'decoded once' in row.deviations

def test_latent_depth_is_that_of_the_experts(home, tmp_path, capsys, tiny):
    dd_experts('latent-mtt', **NET, ae='tiny', f=2, n=1, epochs=2); capsys.readouterr()
    path = next((home/'buffers').glob('*tiny-f2'))
    with pytest.raises(SystemExit) as e: dd_distill(**(NET | tiny | dict(method='latent-mtt', depth=1, iterations=1, max_start_epoch=1, buffer=str(path), out=str(tmp_path/'out'))))
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1 and 'a buffer of a network with' in err and not (tmp_path/'out').exists()

@pytest.mark.parametrize('kw, says', [(dict(lpc=0), 'lpc is 0'), (dict(lpc=500), 'lpc is 500; class'), (dict(f=0), 'f is 0'), (dict(ipc=0, lpc=None), 'ipc is 0'), (dict(batch=0), 'batch is 0')])
def test_latent_refuses_before_it_encodes(bad, tmp_path, tiny, kw, says): bad(says, dd_distill, **(NET | tiny | dict(method='latent-dm', iterations=1, seed=7, size=16, out=str(tmp_path/'out')) | kw))

D3S = dict(method='d3s', width=None, depth=None) # it has no ConvNet

@pytest.mark.parametrize('kw, says', [(dict(method='d3', ppc=0), 'ppc is 0'), (dict(method='d3', ppc=1, gamma3=.1), 'does nothing beside --ppc 1'), (dict(method='d3', z_dim=-1), 'z_dim'), (dict(method='d3', z_dim=0), 'z_dim is 0'), (dict(method='d3', decoder_width=0), 'decoder_width is 0'), (dict(method='d3', mmd_samples=0), 'mmd_samples is 0'),
    (dict(method='d3', lr_decode=0.), 'lr_decode is 0.0'), (dict(method='d3', size=12), 'not 12'), (dict(method='dm', snapshot='last'), '--snapshot has no meaning for dm'), (dict(method='dc', outer=0), 'outer is 0'), (dict(method='dm', batch_real=0), 'batch_real is 0'), (dict(method='d3', buffer='nowhere'), 'no buffer here'),
    (dict(method='dm', ipc=0), 'ipc is 0'), (dict(method='dc', init='zeros'), "'zeros'"), (dict(method='dm', lr_img=-1.), 'lr_img is -1'), (dict(D3S, ipc=1, teachers='nowhere'), '0 teachers there'), (dict(D3S), 'needs --ipc'),
    (dict(D3S, ipc=1, scale=0.), 'scale is 0'), (dict(method='dm', crop='full'), '--crop has no meaning for dm'),
    (dict(method='latent-dm', ae='vae9'), "'vae9' is not one of")])
def test_other_methods_refuse(bad, tmp_path, kw, says): bad(says, dd_distill, **(NET | dict(iterations=2, out=str(tmp_path/'out')) | kw))

# --- evaluate
@pytest.mark.parametrize('kw, says', [(dict(path='none.safetensors'), 'no such file'), (dict(path=''), '--full or --random'), (dict(nets='resnet99'), "'resnet99'"), (dict(nets='convnet,vgg11'), 'at least 32 px'), (dict(nets=''), "''"),
    (dict(protocol='best'), "'best'"), (dict(n_eval=0), 'n_eval is 0'), (dict(epochs=-1), 'epochs is -1'), (dict(epochs=0), 'epochs is 0'), (dict(lr=0.), 'lr is 0.0; it must be above 0'), (dict(lr=-1.), 'lr is -1.0; it must be above 0'), (dict(aug='blur'), "'blur'"), (dict(kind='best'), "'best'"), (dict(data='cifar11'), 'cifar11')])
def test_eval_refuses(bad, home, kw, says): bad(says, dd_eval, **(dict(path=str(home/'d.safetensors'), n_eval=1, epochs=1) | kw))

@pytest.mark.parametrize('kw, says', [(dict(ipc=0), 'ipc is 0'), (dict(ipc=500), 'asked for; it has'), (dict(lr=-1.), 'lr is -1.0; it must be above 0'), (dict(width=0), 'width'), (dict(depth=7), 'halved'), (dict(full=True, random=True), 'one of')])
def test_eval_refuses_with_random(bad, kw, says): bad(says, dd_eval, **(dict(NET, random=True, n_eval=1, epochs=1) | kw))

def test_artefacts_that_are_none(bad, home, tmp_path):
    good, p = home/'d.safetensors', tmp_path/'x.safetensors'
    t, card = load_tensors(good)
    p.write_bytes(good.read_bytes()[:900]); bad('truncated', dd_eval, str(p))
    p.write_bytes(b'\x89PNG' + bytes(100)); bad('not a safetensors file', dd_eval, str(p))
    save_tensors(p, t, card | dict(format=FORMAT + 1)); bad('is newer than', dd_eval, str(p))
    bad('not a distilled dataset', dd_eval, str(home/'buffers'/'digits-w8-d2'/'expert_0000.safetensors'))

def test_a_test_set_that_does_not_fit(bad, home, tmp_path):
    err = bad('', dd_eval, str(home/'d.safetensors'), data=str(pictures(tmp_path/'set', ['cat', 'dog', 'owl'])), n_eval=1, epochs=1)
    assert 'classes' in err or 'images' in err

def test_full_random_and_artefact_become_rows(home, tmp_path, capsys):
    kw = dict(n_eval=1, epochs=1, kind='smoke', record_to=str(tmp_path/'r.csv'))
    dd_eval(**NET, full=True, **kw); dd_eval(**NET, random=True, ipc=2, **kw); dd_eval(str(home/'d.safetensors'), row='mine', **kw)
    rows = read_rows(tmp_path/'r.csv')
    assert [r.method for r in rows] == ['whole set', 'random', 'Pixels'] and {r.protocol for r in rows} == {'smoke'} and all(r.n == 1 and 0 <= r.mean <= 100 for r in rows)
    assert rows[2].row == 'mine' and len(rows[2].artefact) == 16 and rows[2].deviations
    assert 'recorded in the artefact: 50.0' in capsys.readouterr().out

def test_a_results_file_that_is_none(home, tmp_path, capsys):
    (tmp_path/'r.csv').write_text('name,accuracy\nours,99\n')
    with pytest.raises(SystemExit) as e: dd_eval(str(home/'d.safetensors'), n_eval=1, epochs=1, record_to=str(tmp_path/'r.csv'))
    assert e.value.code == 2 and (tmp_path/'r.csv').read_text() == 'name,accuracy\nours,99\n'

def test_own_folder_from_experts_to_a_number(home, tmp_path, capsys):
    "An artefact of a folder says where its test images are, or what to give."
    own, kw = str(pictures(tmp_path/'pets', ['cat', 'dog'], n=6)), dict(width=8, depth=2)
    dd_experts('mtt', data=own, **kw, n=1, epochs=2, aug='')
    dd_distill(**(FAST | dict(data=own, out=str(tmp_path/'run'), lr_lr=1e-9)))
    dd_eval(str(tmp_path/'run'/'distilled.safetensors'), data=own, n_eval=1, epochs=1)
    assert Distilled.load(tmp_path/'run'/'distilled.safetensors').classes == ['cat', 'dog']
    with pytest.raises(SystemExit) as e: shutil.rmtree(tmp_path/'pets'); dd_eval(str(tmp_path/'run'/'distilled.safetensors'), n_eval=1, epochs=1)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1 and 'pets' in err

# --- as programs
def program(name, *a, **env):
    if not (BIN/name).exists(): pytest.skip(f'{name} is not installed beside this Python')
    return subprocess.run([BIN/name, *map(str, a)], capture_output=True, text=True, timeout=300, env={**os.environ, 'OMP_NUM_THREADS': '1', **env})

def test_the_demo_as_a_program(home, tmp_path):
    r = program('dd_demo', '--smoke', '--out', tmp_path/'demo', '--record_to', tmp_path/'r.csv')
    assert r.returncode == 0 and r.stderr == ''
    first, *rest = r.stdout.splitlines()
    assert 'importing' in first and [w for l in rest if (w := l.split()[0]) in ('random', 'MTT')] == ['random', 'MTT'] and str(tmp_path/'demo'/'digits-mtt-ipc1.png') in r.stdout.splitlines()[-1]
    assert len(read_rows(tmp_path/'r.csv')) == 3 and len(Distilled.load(tmp_path/'demo'/'digits-mtt-ipc1.safetensors')) == 10 and (tmp_path/'demo'/'digits-mtt-ipc1.png').stat().st_size > 100

def test_a_bad_word_to_a_program(home, tmp_path):
    r = program('dd_distill', 'mtt', '--data', 'digits', '--lr_img', '-1', '--out', tmp_path/'out')
    assert (r.returncode, r.stdout) == (2, '') and r.stderr == 'dd_repro: lr_img is -1.0; it must be above 0\n' and not list(tmp_path.iterdir())
