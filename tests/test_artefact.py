"The artefact: there and back for every norm and label, refusals in one line, a disk that fills up, and no pickle."
import errno, importlib, json, os, pickle, resource, subprocess, sys

import pytest, torch
from torch.optim import SGD

from dd_repro.convnet import ConvNet
from dd_repro.core import asset, rng_for
from dd_repro.files import load_tensors, save_tensors
from dd_repro.data import load
from dd_repro.distilled import ALIASES, FORMAT, Distilled, Pixels, class_of
from dd_repro.loop import distill
from dd_repro.students import Protocol, as_protocol, evaluate

ARCH = ConvNet(n_in=1, n_out=10, size=8, width=8, depth=2).arch

@pytest.fixture(scope='module')
def real(): return load('digits')[0]

@pytest.fixture
def d(real): return Pixels.from_real(real, 1, lr=.02, arch=ARCH, aug='flip', protocol='dc', info={'seed': 3, 'note': 'été'})

def one_line(says, f, *a, error=ValueError):
    with pytest.raises(error, match=says) as e: f(*a)
    assert '\n' not in str(e.value)
    return str(e.value)

def refused(says, path): assert str(path) in one_line(says, Distilled.load, path)

# --- there and back
def test_everything_comes_back(d, tmp_path):
    e = Distilled.load(d.save(tmp_path/'new'/'d.safetensors'))
    assert type(e) is Pixels and torch.equal(e.images, d.images) and torch.equal(e.y, d.y) and torch.equal(e.lr, d.lr)
    for k in 'n_classes shape classes arch aug protocol name info'.split(): assert getattr(e, k) == getattr(d, k), k
    assert repr(e.norm) == repr(d.norm) and repr(e) == repr(d) and e.images.requires_grad and e.lr.requires_grad
    assert torch.equal(e.norm.inverse(e.images), d.norm.inverse(d.images))
    assert e.save(tmp_path/'again').read_bytes() == (tmp_path/'new'/'d.safetensors').read_bytes()

def test_the_card_can_be_read_by_anybody(d, tmp_path):
    "Eight bytes of length, then JSON: no library of ours is needed."
    raw = d.save(tmp_path/'d').read_bytes()
    card = json.loads(json.loads(raw[8:8 + int.from_bytes(raw[:8], 'little')])['__metadata__']['dd'])
    assert (card['format'], card['kind'], card['init']['name'], card['norm']['kind']) == (FORMAT, 'Pixels', 'digits', 'normalize')
    assert {'torch', 'dd_repro'} <= set(card['versions']) and 'commit' in card

def test_learned_soft_labels(real, tmp_path):
    y = torch.rand(20, 10, generator=rng_for('soft')).softmax(1)
    d = Pixels(real.x[:20], y, 10, norm=real.norm)
    e = Distilled.load(d.save(tmp_path/'d'))
    assert torch.equal(e.y, y) and torch.equal(e.hard(), y.argmax(1)) and e.tensors()[1].shape == (20, 10)
    c = int(y.argmax(1)[0])
    assert torch.equal(e.sample(y=c)[1].argmax(1), torch.full(((y.argmax(1) == c).sum(),), c))
    assert e.png(tmp_path/'d.png').stat().st_size > 100 and len(e.dataset()) == 20

@pytest.mark.parametrize('kind', ['none', 'zca'])
def test_norms_travel(tmp_path, kind, monkeypatch):
    "Images to the bit, the test set's norm so closely that the students' accuracy does not move."
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    real, test = load('digits', zca=kind == 'zca')
    if kind == 'none': real, test = (s.renorm(type(Pixels(real.x[:1], real.y[:1], 10).norm)()) for s in (real, test))
    d = Pixels.from_real(real, 2, lr=.05, arch=ARCH, aug='')
    e = Distilled.load(d.save(tmp_path/'d'))
    plain = load('digits')[1].renorm(e.norm)                      # what dd_eval does
    assert torch.equal(e.images, d.images) and e.norm.state()[1]['kind'] == kind
    assert (plain.x - test.x).square().mean().sqrt() < 1e-3
    torch.testing.assert_close(e.tensors()[0], d.tensors()[0], atol=2e-3, rtol=0)
    p = Protocol('t', epochs=30, batch=32, aug='')
    a, b = (evaluate(s, t, ('convnet',), p, 2)[0].mean for s, t in ((d, test), (e, plain)))
    assert abs(a - b) < 1 and a > 30

def test_zca_is_stored_small(tmp_path, monkeypatch):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    d = Pixels.from_real(load('digits', zca=True)[0], 1)
    t, _ = load_tensors(d.save(tmp_path/'d'))
    assert sum(v.numel()*v.element_size() for k, v in t.items() if k.startswith('norm.')) < 64*64*4

def test_parts_share_memory(real):
    d = Pixels.from_real(real, 2)
    before, half = d.images.detach().clone(), d.part(slice(4, 10))
    distill(half, lambda s: s.images.sum(), 2, {'images': SGD}, quiet=True)
    moved = (d.images.detach() != before).flatten(1).any(1)
    assert moved.tolist() == [4 <= i < 10 for i in range(20)] and torch.equal(half.y, d.y[4:10])
    one_line('takes a slice', d.part, [1, 2])

def test_no_pickle(d, tmp_path, monkeypatch):
    p = d.save(tmp_path/'d')
    def no(*a, **kw): raise AssertionError('a pickle was opened')
    for where, what in ((pickle, 'load'), (pickle, 'loads'), (pickle, 'Unpickler'), (torch, 'load')): monkeypatch.setattr(where, what, no)
    assert torch.equal(Distilled.load(p).images, d.images)

def test_shipped_example():
    if not asset('digits-mtt-ipc1.safetensors').is_file(): pytest.skip('digits-mtt-ipc1.safetensors is not in the package yet')
    d = Distilled.example()
    test = load('digits', size=d.shape[-1])[1].renorm(d.norm)
    p = as_protocol('mtt').scaled(epochs=300, aug=d.aug)
    assert len(d) == 10 and evaluate(d, test, ('convnet',), p, 1)[0].mean > 85

# --- refusals
def test_files_that_are_not_ours(d, tmp_path):
    p = d.save(tmp_path/'d.safetensors'); whole = p.read_bytes()
    for cut in (0, 4, 8, 300, len(whole)//2, len(whole) - 1): p.write_bytes(whole[:cut]); refused('truncated, damaged or not', p)
    p.write_bytes(b'PK\3\4' + whole); refused('not a safetensors file', p)
    refused('no such file', tmp_path/'none'); refused('a folder, not a file', tmp_path)
    from safetensors.torch import save_file
    save_file({'weight': torch.zeros(3)}, p); refused('not one written by dd_repro', p)
    save_file({'weight': torch.zeros(3)}, p, {'dd': '{not json'}); refused('damaged', p)
    save_tensors(p, {'theta': torch.zeros(3)}, {'expert': 1}); refused('not a distilled dataset', p)

@pytest.mark.parametrize('change, says', [(dict(format=FORMAT + 1), 'format 2 is newer than this dd_repro reads'), (dict(format='x'), 'not a distilled dataset'), (dict(kind='Voxels'), "unknown kind 'Voxels'; known: .*Pixels"),
    (dict(kind='Voxels', module='dd_repro.nowhere'), "unknown kind 'Voxels'"), (dict(kind='Voxels', module='os'), "unknown kind 'Voxels'"), (dict(kind=['Pixels']), 'not a distilled dataset'), (dict(norm=dict(kind='median')), "norm of kind 'median'"),
    (dict(norm={}), 'incomplete'), (dict(init={}), 'incomplete'), (dict(init=dict(n_classes=10, shape=3, colour=1)), 'incomplete')])
def test_cards_that_do_not_fit(d, tmp_path, change, says):
    t, card = load_tensors(d.save(tmp_path/'d'))
    refused(says, save_tensors(tmp_path/'e', t, card | change))

# --- names of kinds in old cards
def house():
    "The kinds that the package defines, by name."
    importlib.import_module('dd_repro.all')
    return {c.__name__: c for c in Distilled.kinds.values() if c.__module__.startswith('dd_repro.')}

def test_every_kind_has_an_entry():
    "Under the name that its cards carry today; and every entry leads to a kind."
    assert {k: f'{c.__module__}.{k}' for k, c in house().items()}.items() <= ALIASES.items()
    assert all(issubclass(class_of(k), Distilled) for k in ALIASES)

@pytest.mark.parametrize('module', ['dd_repro.gone', 'dd_repro.distilled', None])
@pytest.mark.parametrize('kind', ['OldPixels', 'Pixels'])
def test_a_class_that_moved_or_was_renamed(d, tmp_path, monkeypatch, kind, module):
    "A card names a class and a module that are not there any more, or no module at all."
    monkeypatch.setitem(ALIASES, 'OldPixels', 'dd_repro.distilled.Pixels')
    t, card = load_tensors(d.save(tmp_path/'d'))
    card = {k: v for k, v in (card | dict(kind=kind, module=module)).items() if v is not None}
    e = Distilled.load(save_tensors(tmp_path/'e', t, card))
    assert type(e) is Pixels and torch.equal(e.images, d.images)
    assert load_tensors(e.save(tmp_path/'f'))[1]['kind'] == 'Pixels'

def test_a_kind_of_ones_own_goes_before_the_table(d, tmp_path, monkeypatch):
    monkeypatch.setitem(Distilled.kinds, 'Mine', Pixels)
    monkeypatch.setitem(ALIASES, 'Mine', 'dd_repro.gone.Mine')
    t, card = load_tensors(d.save(tmp_path/'d'))
    assert type(Distilled.load(save_tensors(tmp_path/'e', t, card | dict(kind='Mine')))) is Pixels

ALONE = """
import sys
from pathlib import Path
from dd_repro.distilled import ALIASES, Distilled
print(*(a.rpartition('.')[0] in sys.modules for a in ALIASES.values()))
for f in sorted(Path('docs/artefacts').glob('*.safetensors')):
    d = Distilled.load(f)
    from dd_repro.students import as_protocol
    print(f.stem, as_protocol(d.protocol).name == d.protocol, len(d) > 0, float(d.student_lr) > 0)
"""

def test_published_sets_load_where_one_module_was_imported(root):
    "Each kind's module is imported when the first of its sets is loaded, and brings its protocol."
    home = sorted((root/'docs'/'artefacts').glob('*.safetensors'))
    if not home: pytest.skip('docs/artefacts is not here')
    r = subprocess.run([sys.executable, '-c', ALONE], cwd=root, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    before, *lines = r.stdout.splitlines()
    assert before.split().count('True') == 1, 'only the module that was imported'
    assert lines == [f'{f.stem} True True True' for f in home]

@pytest.mark.parametrize('lost', ['d.images', 'd.y', 'd.lr'])
def test_tensors_that_are_missing(d, tmp_path, lost):
    t, card = load_tensors(d.save(tmp_path/'d'))
    del t[lost]
    refused('incomplete', save_tensors(tmp_path/'e', t, card))

# --- a disk that is full
def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

@pytest.mark.parametrize('where', ['replace', 'fsync'])
def test_full_disk_keeps_the_old_file(d, tmp_path, monkeypatch, where):
    p = d.save(tmp_path/'d.safetensors'); before = p.read_bytes()
    d.images.data.zero_(); monkeypatch.setattr(os, where, full)
    for save in (d.save, d.png): assert str(p) in one_line('No space left', save, p, error=OSError)
    assert p.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == [p.name]

def test_a_write_that_breaks_off(d, tmp_path):
    "For real: the system lets a file grow to one kilobyte and no further."
    p = d.save(tmp_path/'d.safetensors'); before = p.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try: one_line('could not write', d.save, p, error=OSError)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert p.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == [p.name]

@pytest.mark.parametrize('kw, says', [(dict(lr=0.), 'must be above 0'), (dict(lr=-.1), 'must be above 0'), (dict(lr=float('nan')), 'must be above 0'), (dict(ipc=0), 'ipc is 0'), (dict(ipc=-1), 'ipc is -1'), (dict(ipc=500), 'asked for; it has')])
def test_bad_arguments(real, kw, says): one_line(says, lambda: Pixels.from_real(real, **(dict(ipc=1) | kw)))
