"Loading: official data where it is at hand, toy folders elsewhere, and every refusal in one line."
import shutil
import numpy as np, pytest, torch
from PIL import Image
from dd_repro.core import *
from dd_repro.files import *
from dd_repro.norm import *
from dd_repro.sets import *
from dd_repro import data as D, norm as N
from dd_repro.data import *

def need(*folders):
    "Skip, naming the folder, where DD_DATA lacks it."
    for f in folders:
        if not (dd_data()/f).exists(): pytest.skip(f'DD_DATA has no {f}')

def make(root, classes, n=2, side=(8, 8), mode='RGB', parts=('train', 'val')):
    for k, c in enumerate(classes):
        for part in parts:
            (root/part/c).mkdir(parents=True, exist_ok=True)
            for i in range(n): Image.new(mode, side, (k*7 + i) % 255 if mode == 'L' else ((k*7) % 256, k//32, i*20)).save(root/part/c/f'{i}.png')
    return root

@pytest.fixture
def home(tmp_path, monkeypatch): monkeypatch.setenv('DD_HOME', str(tmp_path/'home')); return tmp_path/'home'

def fails(match, name, root=None, download=False, **kw):
    with pytest.raises(ValueError, match=match) as e: load(find_source(name, root, download), workers=1, **kw)
    assert '\n' not in str(e.value)

# --- norms
def test_norms_keep_dtype_and_come_back(home):
    tr, te = load('digits')
    for zca in (False, True):
        tr, te = load('digits', zca=zca)
        for dtype in (torch.float32, torch.float64):
            x = te.norm.inverse(te.x.to(dtype))
            assert x.dtype == dtype and te.norm(x).dtype == dtype
            torch.testing.assert_close(te.norm(x), te.x.to(dtype), atol=1e-4, rtol=0)
        t, m = tr.norm.state()
        save_tensors(home/'n.safetensors', t, m)
        back = norm_from_state(*load_tensors(home/'n.safetensors'))
        assert (back(x.float()) - te.x).pow(2).mean().sqrt() < 4e-4 and repr(back) == repr(tr.norm)
        assert tr.norm is te.norm
    assert isinstance(norm_from_state(*NoNorm().state()), NoNorm)

def test_zca_is_kornias():
    from kornia.enhance import ZCAWhitening
    x = load('digits')[0].raw()
    k = ZCAWhitening(eps=.1, compute_inv=True).fit(x.flatten(1))
    z = fit_zca(x)
    torch.testing.assert_close(z(x).flatten(1), k(x.flatten(1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.inverse(z(x)).flatten(1), k.inverse_transform(k(x.flatten(1))), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r'fitted on images \[1, 8, 8\]; these are \[1, 4, 4\]'): z(torch.rand(2, 1, 4, 4))

def test_compact_form_obeys_its_tolerance():
    "The error predicted from eigenvalues is the error on the training images, at any tolerance; rank falls as it grows."
    x = load('digits')[0].raw(); z = fit_zca(x); ranks = []
    for tol in (1e-2, 1e-3, 0.):
        U, lam, a = N._compact(z._consts['W'], .1, tol)
        W, inv = N._expand(U, lam, a)
        rms = ((x.flatten(1) - x.flatten(1).mean(0))@(W - z._consts['W'])).pow(2).mean().sqrt()
        assert rms < tol + 4e-4                                   # half precision adds its own
        ranks.append(len(lam))
    assert ranks == sorted(ranks) and ranks[0] < ranks[-1] <= 64

def test_zca_cache_is_by_content(home):
    x = load('digits')[0].raw()
    cached_zca(x, 'digits'); cached_zca(x[:-1], 'digits'); cached_zca(x, 'digits', eps=.2); cached_zca(x, 'digits')
    assert len(list((home/'zca').glob('*.safetensors'))) == 3

def test_zca_is_fitted_on_the_whole_train(home):
    a, b = load('digits', zca=True)[0], load('digits', zca=True, val=.3)[0]
    assert torch.equal(a.norm._consts['W'], b.norm._consts['W']) and len(list((home/'zca').iterdir())) == 1

# --- digits
def test_digits_are_fixed_and_stratified():
    tr, te = load('digits')
    assert (len(tr), len(te)) == (1437, 360) and tr.n_classes == 10 and tr.x.dtype == torch.float32 and tr.y.dtype == torch.int64
    again = load('digits')[1]
    assert torch.equal(te.x, again.x) and te.norm.source == 'train'
    share = te.y.bincount()/(te.y.bincount() + tr.y.bincount())
    assert ((share - .2).abs() < .006).all()
    raw = torch.cat([tr.raw(), te.raw()]); assert raw.min() == 0 and abs(raw.max() - 1) < 1e-5

def test_digits_held_out():
    rest, held = load('digits', val=.2, seed=1)
    assert len(rest) + len(held) == 1437 and abs(len(held) - 287) < 3
    full = {r.numpy().tobytes() for r in load('digits')[0].x}
    assert {r.numpy().tobytes() for r in held.x} <= full
    assert not torch.equal(held.x[:9], load('digits', val=.2, seed=2)[1].x[:9])

# --- folders
def test_grey_folder_keeps_names_and_one_channel(tmp_path):
    make(tmp_path/'own', ['b', 'a', 'c'], mode='L')
    tr, te = load(tmp_path/'own', workers=1)
    assert tr.shape == (1, 8, 8) and tr.classes == ['a', 'b', 'c'] and tr.name == 'own'
    torch.testing.assert_close(tr.x.mean(), torch.tensor(0.), atol=1e-4, rtol=0)

def test_folder_by_name_under_root_and_mixed_modes(tmp_path):
    make(tmp_path/'own', ['a', 'b']); Image.new('L', (8, 8), 9).save(tmp_path/'own/train/a/grey.png')
    tr, _ = load('own', root=tmp_path, workers=1)
    assert tr.shape == (3, 8, 8) and tr.y.bincount().tolist() == [3, 2]

def test_stream_equals_memory(tmp_path):
    make(tmp_path/'own', ['a', 'b', 'c'], n=4, side=(12, 9))
    kw = dict(size=6, workers=1)
    for crop in (True, False):
        held, stream = load(tmp_path/'own', crop=crop, **kw)[0], load(tmp_path/'own', crop=crop, stream=True, size=6, workers=0)[0]
        assert isinstance(stream, ImageStream) and torch.allclose(stream.held().x, held.x, atol=1e-5) and torch.equal(stream.y, held.y)
        a, b = load(tmp_path/'own', val=.25, stream=True, size=6, workers=0), load(tmp_path/'own', val=.25, **kw)
        for s, h in zip(a, b): assert torch.equal(s.y, h.y)

def test_crop_or_squeeze(tmp_path):
    "A white picture with black ends: the crop never sees the ends, the squeezed square does."
    for part in ('train', 'val'):
        for c in 'ab':
            (tmp_path/'w'/part/c).mkdir(parents=True)
            img = np.full((8, 24, 3), 255, np.uint8); img[:, :6] = img[:, -6:] = 0; img[4, 12] = 200 # or the crop is one constant
            Image.fromarray(img).save(tmp_path/'w'/part/c/'0.png')
    kw = dict(size=8, stats=((0, 0, 0), (1, 1, 1)), workers=1)
    assert load(tmp_path/'w', **kw)[0].x.min() > .7 and load(tmp_path/'w', crop=False, **kw)[0].x.min() == 0

def test_tiny_as_it_is_shipped(tmp_path):
    "val/images and val_annotations.txt are mapped; nothing in the folder changes."
    root = tmp_path/'tiny-imagenet-200'
    for c in ('n02', 'n01'):
        (root/'train'/c/'images').mkdir(parents=True)
        for i in range(3): Image.new('RGB', (64, 64), (i, 0, 0)).save(root/'train'/c/'images'/f'{c}_{i}.JPEG')
    (root/'val'/'images').mkdir(parents=True)
    rows = [('val_0.JPEG', 'n02'), ('val_1.JPEG', 'n01'), ('val_2.JPEG', 'n02')]
    for f, _ in rows: Image.new('RGB', (64, 64)).save(root/'val'/'images'/f)
    (root/'val'/'val_annotations.txt').write_text(''.join(f'{f}\t{c}\t0\t32\t44\t62\n' for f, c in rows))
    (root/'words.txt').write_text('n01\tgoldfish, Carassius\nn02\tbullfrog\nn03\tcat\n')
    before = sorted(map(str, root.rglob('*')))
    tr, te = load(find_source('tinyimagenet', tmp_path, download=False), workers=1)
    assert tr.shape == (3, 64, 64) and te.y.tolist() == [0, 1, 1] and tr.classes == ['goldfish', 'bullfrog']
    assert tr.title == 'tinyimagenet (2 of 200 classes, 3 of 500 a class)' and te.title == tr.title[:-1] + ', test 1 to 2 of 50 a class)' and sorted(map(str, root.rglob('*'))) == before

def test_imagenet_by_index(tmp_path):
    "Class indices are ranks among a thousand sorted folders; labels follow the list."
    ids = [f'c{i:08d}' for i in range(1000)]
    for part in ('train', 'val'):
        for c in ids: (tmp_path/'imagenet'/part/c).mkdir(parents=True)
    for i in (207, 3, 999): make(tmp_path/'imagenet', [ids[i]], n=i % 5 + 1)
    tr, _ = load('imagenet:207,3,999', root=tmp_path, size=8, workers=1)
    assert tr.y.bincount().tolist() == [3, 4, 5] and tr.classes[0] == 'golden retriever' and tr.norm.source == 'mtt'
    fails('no image there', 'imagefruit', root=tmp_path)
    shutil.rmtree(tmp_path/'imagenet'/'train'/ids[5])
    fails('has 999 class folders; 1000 are needed', 'imagenet:207,3', root=tmp_path)
    fails('imagewoof: no folder imagewoof/', 'imagewoof', root=tmp_path/'nowhere')

def test_own_folder_of_ten_in_the_papers_order(tmp_path):
    make(tmp_path/'imagewoof', [f'n{i}' for i in range(10)], n=1)
    tr, _ = load('imagewoof', root=tmp_path, size=8, workers=1)
    rank = [sorted(SUBSETS['imagewoof']).index(i) for i in SUBSETS['imagewoof']]
    assert [round(v*255)//7 for v in tr.raw()[:, 0, 0, 0].tolist()] == rank and tr.classes[3] == 'beagle'

def test_subsets_are_tens():
    for idx in SUBSETS.values(): assert len(set(idx)) == 10 and all(0 <= i < 1000 for i in idx)

def test_whole_imagenet_is_a_stream(tmp_path):
    make(tmp_path/'imagenet', ['a', 'b'])
    tr, te = load('imagenet1k', root=tmp_path, workers=0)
    assert isinstance(tr, ImageStream) and tr.shape == (3, 224, 224) and isinstance(load('imagenet1k', root=tmp_path, size=8, stream=False)[0], ImageTensors)
    make(tmp_path/'imagenet21k', ['a', 'b', 'c']); assert load('imagenet21k', root=tmp_path, size=8, workers=0)[0].n_classes == 3

# --- refusals
def test_refusals(tmp_path, home):
    fails("data set 'mnist' is not known; known: digits, cifar10, cifar100, tinyimagenet, imagenette", 'mnist')
    fails("data set '' is not known", '')
    fails('cifar10: no folder cifar-10-batches-py.*https', 'cifar10', root=tmp_path)
    fails('cifar100: no folder', 'cifar100', root=tmp_path)
    fails('tinyimagenet: no folder tiny-imagenet-200/', 'tinyimagenet', root=tmp_path)
    fails('imagenet1k: no folder imagenet/', 'imagenet1k', root=tmp_path)
    fails('no such folder', str(tmp_path/'nowhere'))
    for s in (0, -3, 2.5): fails('size is', 'digits', size=s)
    for v in (-.1, 1, 3): fails('val is', 'digits', val=v)
    fails('digits is found already', 'digits', skip_bad=True)
    with pytest.raises(ValueError, match='digits is found already'): load(find_source('digits'), root='/')
    fails("stats 'mine' is not one of", 'digits', stats='mine')
    fails('digits is held in memory', 'digits', stream=True)
    for s in ('imagenet:', 'imagenet:1', 'imagenet:1,x', 'imagenet:1,1000', 'imagenet:5,5'): fails('at least two different class indices', s)

def test_refusals_of_folders(tmp_path):
    fails('1 class folder; at least 2', make(tmp_path/'one', ['a']))
    fails('train: no such folder', make(tmp_path/'noval', ['a', 'b'], parts=('val',)))
    fails('val: no such folder', make(tmp_path/'notrain', ['a', 'b'], parts=('train',)))
    p = make(tmp_path/'diff', ['a', 'b']); make(p, ['c'], parts=('train',)); fails("class 'c' is in train/ only", p)
    p = make(tmp_path/'empty', ['a', 'b']); [f.unlink() for f in (p/'train/b').iterdir()]; fails('b: no image there', p)
    p = make(tmp_path/'sizes', ['a', 'b']); make(p, ['b'], side=(9, 8)); fails('say which side you want', p)
    p = make(tmp_path/'big', ['a', 'b'], side=(64, 64)); fails('needs a 12288 x 12288', p, zca=True)
    fails('does not go with a stream', p, zca=True, stream=True)

def test_unreadable_image_is_named(tmp_path):
    p = make(tmp_path/'own', ['a', 'b'], n=3, side=(64, 64))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    noise.save(p/'train/b/1.jpg'); whole = (p/'train/b/1.jpg').read_bytes()
    for cut in (5, len(whole)//2):                                # the header gone; the header there, the pixels not
        (p/'train/b/1.jpg').write_bytes(whole[:cut])
        fails('b/1.jpg: not a readable image', p, size=64)
    assert len(load(p, size=64, skip_bad=True)[0]) == 6 and len(load(p, size=64, stream=True, skip_bad=True, stats=((0,)*3, (1,)*3))[0]) == 6
    stream = load(p, size=64, stream=True, workers=1, stats=((0,)*3, (1,)*3))[0]
    with pytest.raises(ValueError, match='1.jpg: not a readable image') as e: list(stream.batches(2))
    assert '\n' not in str(e.value)

def test_no_network_is_one_line(tmp_path, monkeypatch):
    from torchvision.datasets import utils
    def down(*a, **kw): raise OSError('no route\nto host')
    for f in ('download_url', 'download_and_extract_archive'): monkeypatch.setattr(utils, f, down)
    monkeypatch.setattr('torchvision.datasets.cifar.download_and_extract_archive', down)
    for name in ('cifar10', 'tinyimagenet', 'imagewoof'): fails(r'the download failed \(no route to host\); get it from http', name, root=tmp_path, download=True)

# --- real data
def test_cifar10():
    need('cifar-10-batches-py')
    tr, te = load(find_source('cifar10', download=False))
    assert (len(tr), len(te), tr.shape) == (50000, 10000, (3, 32, 32)) and (tr.y.bincount() == 5000).all() and tr.classes[3] == 'cat'
    mean, std = channel_stats(b for b in tr.raw().split(5000))
    np.testing.assert_allclose(mean, (.4914, .4822, .4465), atol=2e-4); np.testing.assert_allclose(std, (.2470, .2435, .2616), atol=2e-4)
    assert abs(tr.x[:, 0].std() - .2470/.2023) < 2e-3

def test_cifar100_says_what_is_missing():
    need('cifar-100-python')
    tr, te = load(find_source('cifar100', download=False))
    whole = (dd_data()/'cifar-100-python'/'train').exists()
    assert tr.title == ('cifar100' if whole else 'cifar100 (100 of 500 a class)') and tr.n_classes == 100 and len(te) == 10000
    assert load(find_source('cifar100', download=False), stats='dc')[0].norm.mean[0] == .5071 and tr.norm.mean[0] == .4914

def test_cifar10_zca_small(home):
    "A ZCA of 2,000 images at 12 px: compact form against kornia's matrix on images it has not seen."
    need('cifar-10-batches-py')
    x = load(find_source('cifar10', download=False), size=12, val=.06)[1].raw()
    z = fit_zca(x[:2000]); back = norm_from_state(*z.state())
    err = back(x[2000:]) - z(x[2000:])
    assert err.pow(2).mean().sqrt() < 5e-4 and (back.inverse(z(x[2000:])) - x[2000:]).abs().max() < 1.5/255

def test_imagewoof_and_tiny():
    need('imagewoof-320', 'tiny-imagenet-200')
    tr, te = load(find_source('imagewoof-320', download=False), size=32)
    assert (len(tr), len(te), tr.shape) == (300, 80, (3, 32, 32))
    s, _ = load(find_source('tinyimagenet', download=False), stream=True, workers=0)
    assert s.n_classes == 200 and s.classes[0] == 'goldfish' and s.of_class(7, 2).shape == (2, 3, 64, 64)
