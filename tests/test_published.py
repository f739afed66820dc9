"Published sets: three layouts read without running code, what their lines say, and what is refused in one line."
import json, os, re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest, torch

from dd_repro.norm import STATS, ZCA, Normalize
from dd_repro.papers import printed_by_name
from dd_repro.exchange import read_pt
from dd_repro.published import LAYOUTS, PUBLISHED, Published, published_set, read_layout
from dd_repro.sets import ImageTensors
from dd_repro.students import Protocol, as_protocol, evaluate

HERE = Path(os.environ.get('DD_PUBLISHED') or Path(__file__).resolve().parents[2]/'shared'/'data'/'published')
C, IPC, SHAPE = 3, 2, (1, 8, 8)
LINES = dict(mtt=Published('mtt', 'A', 'mtt', IPC, 50., 1., '1 x 5', 'nobody', judged='mtt', lr=.02),
             dc=Published('dc', 'B', 'dc', IPC, 50., 1., '2 x 5', 'nobody', runs=2, judged='dc'),
             datm=Published('datm', 'C', 'datm', IPC, 50., 1., '1 x 5', 'nobody', judged='datm'))

def files(layout, x, y):
    "What a layout's files hold."
    logits = 6*torch.eye(C)[y] + torch.arange(C)*.1
    accs = {'ConvNet': [np.float64(.25), np.float64(.5)]}
    return dict(mtt={'images_best': x, 'labels_best': y}, dc={'res_DC_toy_ConvNet_2ipc': dict(data=[[x, y], [x + 1, y]], accs_all_exps=accs)},
                datm=dict(images=x, labels=logits, lr=torch.tensor(.03)))[layout]

def write(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    for k, v in content.items(): torch.save(v, folder/f'{k}.pt')

@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(0)
    return torch.randn(C*IPC, *SHAPE, generator=g), torch.arange(C).repeat_interleave(IPC)

@pytest.fixture
def real():
    g = torch.Generator().manual_seed(1)
    return ImageTensors(torch.randn(12, *SHAPE, generator=g), torch.arange(12) % C, C, classes=list('abc'), norm=Normalize([.5], [.2]), name='toy')

@pytest.fixture
def sets(tmp_path, pair):
    "A folder with one set of each layout."
    for k in LAYOUTS: write(tmp_path/k, files(k, *pair))
    return tmp_path

def refused(says, f, *a):
    with pytest.raises(ValueError, match=says) as e: f(*a)
    assert '\n' not in str(e.value)
    return str(e.value)

# --- what is read
@pytest.mark.parametrize('k', LAYOUTS)
def test_each_layout_gives_its_images(sets, pair, k):
    x, y, lr = read_layout(sets/k, k)
    assert torch.equal(x, pair[0]) and torch.equal(y if y.ndim == 1 else y.argmax(1), pair[1]) and not x.requires_grad
    assert lr == (pytest.approx(.03) if k == 'datm' else None)

def test_runs_of_a_file_are_apart(sets, pair):
    assert torch.equal(read_layout(sets/'dc', 'dc', 1)[0], pair[0] + 1)
    file, = (sets/'dc').glob('*')
    assert torch.equal(read_layout(file, 'dc', 1)[0], pair[0] + 1) # the file itself will do

def test_logits_become_probabilities(sets, pair):
    y = read_layout(sets/'datm', 'datm')[1]
    assert torch.allclose(y, files('datm', *pair)['labels'].softmax(1)) and torch.allclose(y.sum(1), torch.ones(len(y)))

def test_the_latest_iteration_and_not_the_pictures(tmp_path, pair):
    x, y = pair
    write(tmp_path, {'images_900': x - 1, 'labels_900': y, 'images_5000': x, 'labels_5000': y, 'images_zca_5000': x*9})
    assert torch.equal(read_layout(tmp_path, 'mtt')[0], x)
    write(tmp_path, {'images_best': x + 2, 'labels_best': y})
    assert torch.equal(read_layout(tmp_path, 'mtt')[0], x + 2)

def test_labels_of_k_means_are_whole_floats(tmp_path, pair, real):
    write(tmp_path/'mtt', {'images_best': pair[0], 'labels_best': pair[1].float()})
    d = published_set(LINES['mtt'], tmp_path, real)
    assert d.y.dtype == torch.int64 and torch.equal(d.y, pair[1])

@pytest.mark.parametrize('k, rate', [('mtt', .02), ('dc', .01), ('datm', .03)])
def test_a_set_knows_what_its_files_do_not_say(sets, real, k, rate):
    d = published_set(LINES[k], sets, real)
    assert d.student_lr.item() == pytest.approx(rate) and d.norm is real.norm and d.classes == list('abc') and d.source['key'] == real.key
    assert d.info['published'] == k and len(d) == C*IPC and (d.y.ndim == 2) == (k == 'datm')

@pytest.mark.parametrize('k', LAYOUTS)
def test_students_learn_from_each(sets, real, k):
    net = dict(name='convnet', n_in=1, n_out=C, size=8, width=4, depth=1)
    r, = evaluate(published_set(LINES[k], sets, real), real, net, LINES[k].protocol.scaled(kind='smoke', epochs=2), n_eval=1)
    assert 0 <= r.mean <= 100 and r.content == real.key

def test_datm_is_judged_as_mtt_with_soft_labels():
    p, q = LINES['datm'].protocol, LINES['mtt'].protocol
    assert p.labels == 'soft' and {k: v for k, v in p.settings().items() if k != 'labels'} == {k: v for k, v in q.settings().items() if k != 'labels'}

# --- what is refused
@pytest.mark.parametrize('k', LAYOUTS)
@pytest.mark.parametrize('other', LAYOUTS)
def test_one_layout_is_not_another(sets, k, other):
    if k == other: return
    assert str(sets/k) in refused('is asked for|no file here|labels are|images are|a file of DC|lr_best.pt: no such file', read_layout, sets/k, other)

def test_an_unknown_layout_or_set(sets, real):
    refused("layout 'kip' is not one of mtt, dc, datm", read_layout, sets, 'kip')
    refused("published set 'kip-cifar10-ipc10' is not one of mtt-zca-cifar10-ipc1", published_set, 'kip-cifar10-ipc10', sets, real)

def broken(k, x, y):
    "Ways in which a layout's content goes wrong: (name, what is said, content)."
    bad, few, flat = x.clone(), y[:-1], x.flatten(1)
    bad[1, 0, 2, 3] = float('nan')
    put = lambda x, y: files(k, x, y)
    yield 'nan', 'not finite', put(bad, y)
    yield 'infinite', 'not finite', put(bad.nan_to_num(float('inf')), y)
    yield 'flat', r'images are floats \[n, c, h, w\]; this is a tensor', put(flat, y)
    yield 'bytes', 'images are floats', put(x.byte(), y)
    yield 'empty', 'images are floats', put(x[:0], y[:0])
    yield 'few', '6 images but 5 labels', put(x, few)

CASES = [pytest.param(k, *c, id=f'{k}-{c[0]}') for k in LAYOUTS for c in broken(k, torch.randn(C*IPC, *SHAPE), torch.arange(C).repeat_interleave(IPC))]

@pytest.mark.parametrize('k, name, says, content', CASES)
def test_broken_content(tmp_path, k, name, says, content):
    write(tmp_path/k, content)
    assert str(tmp_path/k) in refused(says, read_layout, tmp_path/k, k)

@pytest.mark.parametrize('rate, says', [(torch.tensor([.1, .2]), 'one number'), ('.1', 'one number'), (torch.tensor(True), 'one number'), (-.1, 'above 0'), (torch.tensor(-.1), 'above 0'), (torch.tensor(float('nan')), 'above 0')])
def test_a_rate_is_a_positive_number(sets, rate, says):
    write(sets/'datm', dict(lr=rate))
    refused(says, read_layout, sets/'datm', 'datm')

@pytest.mark.parametrize('content', [[1, 2], dict(x=1), dict(data=3), dict(data=[[1]]), dict(data=[]), torch.zeros(2)], ids=str)
def test_what_is_no_file_of_dc(tmp_path, content):
    write(tmp_path, dict(res_x=content))
    refused('a file of DC is a dictionary|run 0 was asked for; it has 0', read_layout, tmp_path, 'dc')

@pytest.mark.parametrize('run', [-1, 2])
def test_a_run_that_is_not_there(sets, run): refused(f'run {run} was asked for; it has 2', read_layout, sets/'dc', 'dc', run)

@pytest.mark.parametrize('data', [b'', b'<!DOCTYPE html><title>404</title>', b'PK\3\4 and no more', b'version https://git-lfs', bytes(1000)], ids=['empty', 'page', 'zip', 'pointer', 'zeros'])
def test_files_that_are_no_tensors(tmp_path, data):
    (tmp_path/'images_best.pt').write_bytes(data)
    refused('not a PyTorch file of plain tensors', read_layout, tmp_path, 'mtt')

@pytest.mark.parametrize('k', LAYOUTS)
@pytest.mark.parametrize('part', [.1, .5, .99])
def test_files_that_were_cut_off(sets, k, part):
    file = sorted((sets/k).glob('*.pt'))[0]
    data = file.read_bytes()
    file.write_bytes(data[:int(part*len(data))])
    assert str(file) in refused('truncated, damaged', read_layout, sets/k, k)

def test_a_missing_half_is_named(sets):
    (sets/'mtt'/'labels_best.pt').unlink()
    assert 'labels_best.pt' in refused('no such file', read_layout, sets/'mtt', 'mtt')
    (sets/'datm'/'lr.pt').unlink()
    assert 'lr.pt' in refused('no such file', read_layout, sets/'datm', 'datm')
    refused('no such file or folder', read_layout, sets/'nowhere', 'mtt')
    (sets/'empty').mkdir()
    refused('no file here has a name like', read_layout, sets/'empty', 'mtt')

class Trap:
    "Runs when it is unpickled."
    def __reduce__(self): return (os.mkdir, (os.environ['TRAP'],))

def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.setenv('TRAP', str(tmp_path/'sprung'))
    write(tmp_path, dict(images_best=Trap()))
    refused('not a PyTorch file of plain tensors', read_layout, tmp_path, 'mtt')
    assert not (tmp_path/'sprung').exists()

def test_names_are_allowed_only_while_a_file_is_read(sets):
    before = set(torch.serialization.get_safe_globals())
    read_layout(sets/'dc', 'dc')
    assert set(torch.serialization.get_safe_globals()) == before

def test_a_set_that_does_not_fit(sets, real):
    refused('3 images per class are expected; there are', published_set, replace(LINES['mtt'], ipc=3), sets, real)
    refused('belongs to ZCA images', published_set, replace(LINES['mtt'], zca=True), sets, real)
    white = real.renorm(ZCA(torch.zeros(64), torch.eye(64), torch.eye(64), SHAPE))
    refused('belongs to images under mean and deviation', published_set, LINES['mtt'], sets, white)
    assert published_set(replace(LINES['mtt'], zca=True), sets, white).norm is white.norm
    large = ImageTensors(torch.zeros(3, 1, 9, 9), torch.arange(3), C, norm=real.norm)
    refused(r'images \[1, 8, 8\] beside real ones \[1, 9, 9\]', published_set, LINES['dc'], sets, large)
    two = ImageTensors(real.x, real.y.clamp(max=1), 2, norm=real.norm)
    refused('labels run from 0 to 2|2 classes', published_set, LINES['dc'], sets, two)

def test_classes_of_unlike_size(tmp_path, pair, real):
    write(tmp_path/'mtt', {'images_best': pair[0], 'labels_best': torch.tensor([0, 0, 0, 1, 2, 2])})
    refused(r'2 images per class are expected; there are \[3, 1, 2\]', published_set, LINES['mtt'], tmp_path, real)

# --- what the list says, and the files themselves
def test_printed_numbers_are_those_of_the_paper():
    for p in PUBLISHED.values():
        if p.method == 'MTT':
            r = printed_by_name()[f'mtt/table1/cifar10/ipc{p.ipc}']
            assert (p.printed, p.spread) == (r.number, r.spread)

def need(name=''):
    "The folder of published files, or a skip that says so."
    if not (HERE/name).exists(): pytest.skip(f'no published sets at hand ({name or "shared/data/published"}; DD_PUBLISHED names the folder)')
    return HERE/name

def test_the_list_is_that_of_the_files():
    lines = {l['name']: l for l in json.loads((need('manifest.json')).read_text())}
    for name, p in PUBLISHED.items():
        l = lines[name]
        assert (p.method, p.ipc, p.layout) == (l['method'], l['ipc'], l['format'].split()[0]) and p.zca == l['space'].startswith('ZCA')
        assert list(map(float, re.findall(r'[\d.]+', l['printed']))) == [p.printed, p.spread]
        if p.layout != 'datm': assert l['lr'] == (p.lr or p.protocol.lr)

@pytest.mark.parametrize('name', PUBLISHED)
def test_real_files(name):
    p, norm = PUBLISHED[name], Normalize(*STATS['cifar10']['mtt'])
    if p.zca: norm = ZCA(torch.zeros(3072), torch.eye(3072), torch.eye(3072), (3, 32, 32))
    real = ImageTensors(torch.zeros(10, 3, 32, 32), torch.arange(10), 10, norm=norm, name='cifar10')
    need(name)
    for run in range(p.runs):
        d = published_set(name, HERE, real, run)
        assert (len(d), d.shape, d.hard().bincount().tolist()) == (10*p.ipc, (3, 32, 32), [p.ipc]*10) or p.layout == 'datm'
        assert 0 < d.student_lr.item() < .1
    refused(f'run {p.runs} was asked for' if p.layout == 'dc' else 'this is|no file here|one file', read_layout, HERE/name, 'dc', p.runs)

def test_the_accuracy_in_a_file_is_the_printed_one():
    for p in PUBLISHED.values():
        if p.layout != 'dc': continue
        file, = need(p.name).glob('*.pt')
        accs = 100*np.array(read_pt(file)['accs_all_exps']['ConvNet'])
        assert len(accs) == np.prod([int(k) for k in p.networks.split(' x ')])
        assert (round(accs.mean(), 2), round(accs.std(), 2)) == (p.printed, p.spread)

def test_a_listed_set_is_what_the_list_says(tmp_path):
    "By its name the bytes have to be those that were published; another set in its folder, or one byte more, is refused."
    import shutil
    p, other = (need(f'{m}-cifar10-ipc1') for m in ('dc', 'dsa'))
    real = ImageTensors(torch.zeros(10, 3, 32, 32), torch.arange(10), 10, norm=Normalize(*STATS['cifar10']['mtt']), name='cifar10')
    (to := tmp_path/p.name).mkdir()
    file, = p.glob('*.pt')
    shutil.copy(file, to/file.name)
    assert len(published_set(p.name, tmp_path, real)) == 10
    for bad in (next(other.glob('*.pt')).read_bytes(), file.read_bytes() + b'0'):
        (to/file.name).chmod(0o644)
        (to/file.name).write_bytes(bad)
        with pytest.raises(ValueError, match='not the file of dc/cifar10/ipc1'): published_set(p.name, tmp_path, real)

def test_an_object_of_the_list_is_checked_and_ones_own_is_not(tmp_path, pair):
    "The list's own line is checked as its name is; another description of the same folder speaks of other files."
    p, real = PUBLISHED['dc-cifar10-ipc1'], ImageTensors(torch.zeros(10, 3, 32, 32), torch.arange(10), 10, norm=Normalize(*STATS['cifar10']['mtt']), name='cifar10')
    (tmp_path/p.name).mkdir()
    torch.save(dict(data=[[torch.randn(10, 3, 32, 32), torch.arange(10)]]), tmp_path/p.name/'res_DC_CIFAR10_ConvNet_1ipc.pt')
    for name in (p.name, p):
        with pytest.raises(ValueError, match='not the file of dc/cifar10/ipc1'): published_set(name, tmp_path, real)
    assert len(published_set(replace(p, printed=1.), tmp_path, real)) == 10

def test_the_five_lines_of_the_readme(root, tmp_path, monkeypatch):
    "As printed; only the students are shorter, and the real images generated."
    import dd_repro.all as everything
    block = re.search(r"## Somebody else's set.*?\n\n((?:    [^\n]+\n)+)", (root/'README.md').read_text(encoding='utf-8'), re.S)[1]
    lines = [l[4:] for l in block.splitlines()]
    (tmp_path/'published').symlink_to(need('dc-cifar10-ipc1').parent)
    monkeypatch.setenv('DD_DATA', str(tmp_path))
    made = lambda d: tuple(ImageTensors(torch.randn(10, 3, 32, 32), torch.arange(10), 10, norm=d.norm, name='cifar10') for _ in range(2))
    full = everything.evaluate
    monkeypatch.setattr(everything, 'real_for', made)
    monkeypatch.setattr(everything, 'evaluate', lambda d, test, protocol, n_eval: full(d, test, protocol=as_protocol(protocol).scaled(kind='smoke', epochs=1), n_eval=n_eval))
    exec('\n'.join(lines), space := {})
    assert len(lines) == 5 and space['row'].n == 1 and space['d'].info['imported']['public'] == 'dc/cifar10/ipc1'
