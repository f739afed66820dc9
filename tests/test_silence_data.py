"Nothing wrong in silence, in data: labels, pictures, folders, names. Each kind in several variations, right or refused in one line."
import io, json, os, struct
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pytest, torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from dd_repro import data as D
from dd_repro.cli import dd_eval
from dd_repro.core import dd_data, rng_for
from dd_repro.files import load_tensors
from dd_repro.records import Row, read_rows, record
from dd_repro.coreset import coreset
from dd_repro.data import *
from dd_repro.distilled import Distilled, Pixels, real_for
from dd_repro.d3s import StoredPixels, Synthesis
from dd_repro.experts import expert_protocol, train_experts
from dd_repro.sets import source_of
from dd_repro.method import RunOptions, Task, learn, method_of
from dd_repro.autoenc import AutoEncoder, TinyAE
from dd_repro.convnet import ConvNet
from dd_repro.latent import LatentCodes, encode_set
from dd_repro.match import DMMethod
from dd_repro.method import RunOptions, Task, learn
from dd_repro.sets import *
from dd_repro.students import as_protocol, evaluate

ARCH = dict(name='convnet', n_in=3, n_out=2, size=8, width=8, depth=1)

def refused(says, f, *a, **kw):
    with pytest.raises(ValueError, match=says) as e: f(*a, **kw)
    assert '\n' not in str(e.value)

def noise(*shape, seed=0, dtype=np.uint8): return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)

def folder(root, classes=('cat', 'dog'), n=2, side=8, parts=('train', 'val'), end='.png', make=None):
    "A folder of noise, another for each class."
    for part in parts:
        for k, c in enumerate(classes):
            (root/part/c).mkdir(parents=True, exist_ok=True)
            for i in range(n): (make or Image.fromarray)(noise(side, side, 3, seed=hash_of(c)*10 + i)).save(root/part/c/f'{i}{end}')
    return root

def hash_of(c): return sum(map(ord, c))

def through(img, end, **kw):
    "A picture written and opened again."
    f = io.BytesIO(); img.save(f, end, **kw); f.seek(0)
    return Image.open(f)

# --- shapes that broadcast
def sets_of(x, y, C):
    yield lambda: ImageTensors(x, y, C)
    yield lambda: Pixels(x, y, C)
    yield lambda: StoredPixels((x*255).byte(), y, C)
    yield lambda: LatentCodes(x, y, C, dict(n_in=3, f=2, name='tiny', hash='0', own=False))

@pytest.mark.parametrize('y', [[[0], [1], [2], [1]], [0., 1., 2., 1.], np.array([0, 1, 2, 1], np.uint8), torch.tensor([0, 1, 2, 1], dtype=torch.int32), torch.tensor([[0.], [1.], [2.], [1.]])], ids=str)
def test_class_numbers_of_any_kind_come_out_as_int64_in_one_row(y):
    x = torch.rand(4, 3, 4, 4)
    for make in sets_of(x, y, 3):
        s = make(); assert s.y.dtype == torch.int64 and s.y.tolist() == [0, 1, 2, 1]
    assert ImageTensors(x, torch.tensor([True, False, True, False]), 2).y.tolist() == [1, 0, 1, 0]

@pytest.mark.parametrize('y, says', [([0, 1, 2, 3], '3 classes allow 0 to 2'), ([0, 1, 2, -1], 'run from -1'), ([0, 1, 2], '4 (images|codes) but 3 labels'), ([0, .5, 1, 2], r'0.5 are no class numbers'), ([float('nan')]*4, 'no class numbers'),
    ([[0, 1]]*4, r'soft labels must be \[n, 3\]'), (torch.zeros(4, 3, 1), 'labels must be'), (torch.tensor([[3., -2., .5]]*4), 'look like logits: pass softmax'), (torch.tensor([[.4, .1, .1]]*4), 'sums to 0.6'),
    (torch.tensor([[float('nan'), .5, .5]]*4), 'soft labels'), ('abcd', 'no numbers')], ids=str)
def test_labels_that_are_neither_classes_nor_probabilities_are_refused(y, says):
    for make in sets_of(torch.rand(4, 3, 4, 4), y, 3): refused(says, make)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.float64, torch.bfloat16])
def test_probabilities_stay_as_they_are(dtype):
    y = torch.randn(4, 3, generator=rng_for(0)).softmax(1).to(dtype)
    s = ImageTensors(torch.rand(4, 3, 4, 4), y, 3)
    assert torch.equal(s.y, y) and len(torch.cat([s.of_class(c) for c in range(3)])) == 4 and len(s.split(.5)[0]) > 0
    assert Pixels(s.x, y, 3).y.dtype == dtype

def test_streams_take_class_numbers_only():
    class Odd(Dataset):
        def __init__(self, ys): self.ys = ys
        def __len__(self): return len(self.ys)
        def __getitem__(self, i): return Image.fromarray(noise(8, 8, 3, seed=i)), self.ys[i]
    assert ImageStream(Odd([torch.tensor([1]), np.int32(0), 1.]), 2, 8).y.tolist() == [1, 0, 1]
    for ys, says in (([[.5, .5], [1, 0]], 'one class number an image'), ([0, 2], '2 classes allow 0 to 1'), ([0, .5], 'one class number'), (['cat', 'dog'], "'cat'"), ([], 'no items')): refused(says, ImageStream, Odd(ys), 2, 8)

# --- PIL's convert
@pytest.mark.parametrize('end', ['PNG', 'TIFF', 'PPM', 'big'])
def test_16_bit_grey_is_scaled_and_stays_grey(end):
    v = np.array([[0, 257, 25700], [32768, 65278, 65535]], np.uint16)
    img = Image.fromarray(v.astype('>u2')) if end == 'big' else through(Image.fromarray(v), end)
    got = as_picture(img)
    assert got.mode == 'L' and np.asarray(got).tolist() == [[0, 1, 100], [128, 254, 255]]
    assert to_uint8(img, None, 'RGB').shape == (3, 2, 3) and to_uint8(img, None, 'L').tolist() == [np.asarray(got).tolist()]

def tiff(bits, photometric, data, w, h):
    "A TIFF that Pillow cannot write: any bits, any meaning of zero."
    tags = [(256, w), (257, h), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, h), (279, len(data))]
    at = 8 + 2 + 12*len(tags) + 4
    head = b'II*\0' + struct.pack('<IH', 8, len(tags)) + b''.join(struct.pack('<HHII', t, 4, 1, at if t == 273 else v) for t, v in tags)
    return Image.open(io.BytesIO(head + struct.pack('<I', 0) + data))

def test_12_bits_and_zero_that_is_white():
    v = np.array([0, 65535], '<u2').tobytes()
    assert np.asarray(as_picture(tiff(16, 1, v, 2, 1))).tolist() == [[0, 255]] and np.asarray(as_picture(tiff(16, 0, v, 2, 1))).tolist() == [[255, 0]]
    assert np.asarray(as_picture(tiff(12, 1, b'\xff\xf0\x00', 2, 1))).tolist() == [[255, 0]]

@pytest.mark.parametrize('img', [Image.new('F', (8, 8), .5), Image.new('I', (8, 8), 70000), through(Image.new('F', (8, 8), .5), 'TIFF'), through(Image.new('I', (8, 8), 7), 'TIFF')], ids=lambda i: i.mode + str(i.format))
def test_float_and_32_bit_pictures_are_refused(img, tmp_path):
    refused('its range is not known', as_picture, img)
    folder(tmp_path); img.save(tmp_path/'train/dog/9.tif')
    refused('9.tif: not a readable image .a .* picture: its range', load, tmp_path, workers=1)
    assert len(load(tmp_path, workers=1, skip_bad=True)[0]) == 4

def clear(mode):
    "A picture, left half fully transparent: bright red below where the mode has colour."
    a = np.zeros((4, 4, 4), np.uint8); a[..., 0] = 255; a[:, 2:, 3] = 255
    img = Image.fromarray(a)
    if mode == 'P': p = Image.fromarray(np.repeat([[0, 0, 1, 1]], 4, 0).astype(np.uint8)).convert('P'); p.putpalette([255, 0, 0, 255, 0, 0]); return through(p, 'PNG', transparency=0)
    if mode == 'gif': p = Image.fromarray(np.repeat([[0, 0, 1, 1]], 4, 0).astype(np.uint8)).convert('P'); p.putpalette([255, 0, 0, 254, 0, 0]); return through(p, 'GIF', transparency=0)
    if mode == 'RGB': b = a[..., :3].copy(); b[:, :2] = (255, 0, 1); return through(Image.fromarray(b), 'PNG', transparency=(255, 0, 1))
    if mode == 'L': return through(Image.fromarray(np.repeat([[9, 9, 76, 76]], 4, 0).astype(np.uint8)), 'PNG', transparency=9)
    if mode == 'I;16': return through(Image.fromarray(np.repeat([[9, 9, 19532, 19532]], 4, 0).astype(np.uint16)), 'PNG', transparency=9)
    return img if mode == 'RGBA' else img.convert('P').convert('PA') if mode == 'PA' else img.convert('LA').convert('La') if mode == 'La' else img.convert(mode)

@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'La', 'PA', 'RGBa', 'P', 'gif', 'RGB', 'L', 'I;16'])
def test_transparency_lies_over_white_or_what_is_named(mode):
    img = clear(mode); grey = mode in ('LA', 'La', 'L', 'I;16')
    got = as_picture(img)
    assert got.mode == ('L' if grey else 'RGB') and set(np.asarray(got)[:, :2].flat) == {255}
    assert np.asarray(got)[0, 3].flat[0] in ((76, 77, 54) if grey else (255, 254))
    black, blue = as_picture(img, background='#000'), as_picture(img, background=(0, 0, 255))
    assert not np.asarray(black)[:, :2].any() and blue.mode == 'RGB' and blue.getpixel((0, 0)) == (0, 0, 255)

def test_a_shape_that_lives_in_alpha_is_seen(tmp_path):
    "Black everywhere, and the drawing is in the alpha channel, in train and val, held and streamed, cropped and squeezed."
    def alpha(a): b = np.zeros((8, 8, 4), np.uint8); b[..., 3] = a[..., 0]; return Image.fromarray(b)
    folder(tmp_path, make=alpha)
    for kw in (dict(), dict(crop=False), dict(stream=True, workers=0)):
        x = load(tmp_path, stats=((0,)*3, (1,)*3), **kw)[0]
        want = 1 - torch.tensor(noise(8, 8, 3, seed=hash_of('cat')*10)[..., 0]).float()/255
        assert torch.allclose((x if hasattr(x, 'x') else x.held()).x[0, 0], want, atol=1e-6)
    dark = load(tmp_path, size=4)[0].raw().mean() - load(find_source(tmp_path, background='#808080'), size=4)[0].raw().mean()
    assert dark > .1
    refused("background 'nocolour' is not a colour", find_source, tmp_path, background='nocolour', workers=1)

@pytest.mark.parametrize('end', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
def test_exif_orientation_is_applied_in_every_format(end):
    a = np.zeros((16, 32), np.uint8); a[:, :16] = 255                                 # white on the left
    img = Image.fromarray(a).convert('RGB'); exif = Image.Exif(); exif[274] = 6
    got = as_picture(through(img, end, exif=exif))
    assert got.size == (16, 32) and got.getpixel((8, 4))[0] > 200 and got.getpixel((8, 28))[0] < 50 # white on top
    assert to_uint8(got, None).shape == (3, 32, 16)                                   # and only once

def test_other_modes_are_colour():
    for mode in ('CMYK', 'YCbCr', 'HSV', 'P'):
        img = Image.fromarray(noise(8, 8, 3)).convert(mode)
        assert np.array_equal(as_picture(img), img.convert('RGB'))
    assert as_picture(Image.new('1', (8, 8), 1)).getpixel((0, 0)) == 255 and as_picture(Image.new('1', (8, 8))).mode == 'L'

@pytest.mark.parametrize('end', ['GIF', 'PNG', 'TIFF', 'WEBP'])
def test_several_frames_are_refused(end, tmp_path):
    frames = [Image.fromarray(noise(8, 8, 3, seed=i)) for i in range(3)]
    refused('3 frames or pages', as_picture, through(frames[0], end, save_all=True, append_images=frames[1:]))
    one = as_picture(through(frames[0], end)); assert one.size == (8, 8)

@pytest.mark.parametrize('mode, end', [('RGB', 'PNG'), ('L', 'PNG'), ('RGB', 'JPEG'), ('L', 'JPEG'), ('CMYK', 'JPEG'), ('RGB', 'BMP'), ('1', 'PNG'), ('P', 'PNG'), ('RGB', 'WEBP')])
def test_what_was_right_has_the_same_bits(mode, end):
    "8-bit pictures without orientation or transparency: Pillow's own convert, bit for bit, whole, cropped and squeezed."
    from torchvision.transforms.v2 import functional as F
    img = through(Image.fromarray(noise(20, 12, 3)).convert(mode), end); img.load()
    for to in ('RGB', 'L'):
        was = F.pil_to_tensor(img.convert(to))
        assert torch.equal(to_uint8(img, None, to), was)
        assert torch.equal(to_uint8(img, 7, to), F.center_crop(F.resize(was, [7], antialias=True), [7, 7]))
    squeezed = img.convert('L' if img.mode == 'L' else 'RGB').resize((6, 6), Image.BILINEAR)
    assert np.array_equal(as_picture(img).resize((6, 6), Image.BILINEAR).convert('RGB'), squeezed.convert('RGB'))

def test_real_files_have_the_same_bits():
    "Files of real data at hand: what is read now is what was read."
    from torchvision.transforms.v2 import functional as F
    for name in ('imagewoof-320', 'tiny-imagenet-200', 'imagenette'):
        if not (dd_data()/name).is_dir(): pytest.skip(f'DD_DATA has no {name}')
        files = scan(dd_data()/name/'val')[1]
        for i in range(0, len(files), len(files)//40):
            assert torch.equal(to_uint8(files[i][0], None), F.pil_to_tensor(Image.open(files.samples[i][0]).convert('RGB')))

@pytest.mark.parametrize('how', ['16 bit', 'LA', 'L', '1'])
def test_a_grey_folder_of_any_depth_stays_grey(tmp_path, how):
    deep = lambda a: Image.fromarray(a[..., 0].astype(np.uint16)*257) if how == '16 bit' else Image.fromarray(a[..., 0]).convert(how)
    s = load(folder(tmp_path, make=deep), workers=1)[0]
    assert s.shape == (1, 8, 8) and s.raw().max() > .9
    if how != '1': assert torch.allclose(s.raw()[0, 0], torch.tensor(noise(8, 8, 3, seed=hash_of('cat')*10)[..., 0]).float()/255, atol=1e-5)

@pytest.mark.parametrize('kw', [dict(), dict(stream=True, workers=0), dict(crop=False), dict(zca=True)])
def test_a_set_without_variation_is_refused(tmp_path, kw):
    refused('all 4 training images are one constant|the stream: all 4', load, folder(tmp_path, make=lambda a: Image.new('RGB', (8, 8), (7, 7, 7))), **kw)
    flat = iter(range(99))
    assert load(folder(tmp_path/'two', make=lambda a: Image.new('RGB', (8, 8), (next(flat),)*3)))[0]     # each constant, and not the same

# --- hidden things, and what is left out
@pytest.mark.parametrize('where', ['.ipynb_checkpoints', '@eaDir', '__MACOSX', '.thumbnails', 'thumbnails', '#recycle', 'deep/.cache'])
def test_hidden_folders_never_count(tmp_path, where, capsys):
    folder(tmp_path)
    for at in (tmp_path/'train/cat'/where, tmp_path/'val/dog'/where):
        at.mkdir(parents=True); Image.fromarray(noise(8, 8, 3)).save(at/'0.png')
    if where != 'thumbnails' and '/' not in where: (tmp_path/'train'/where).mkdir()   # beside the classes, too
    tr, te = load(tmp_path, workers=1)
    assert (len(tr), len(te), tr.classes) == (4, 4, ['cat', 'dog']) and capsys.readouterr().out == ''

def test_litter_beside_images_is_no_image(tmp_path, capsys):
    for f in ('Thumbs.db', '.DS_Store', '._0.png', 'boxes.txt', 'desktop.ini'): (folder(tmp_path)/'train/cat'/f).write_bytes(b'x')
    assert len(load(tmp_path, workers=1)[0]) == 4 and capsys.readouterr().out == ''

@pytest.mark.parametrize('end, known', [('.gif', True), ('.jfif', True), ('.avif', None), ('.jpe', True), ('.svg', False), ('.npy', False), ('.cr2', False), ('', False)])
def test_endings_are_read_or_counted_and_named(tmp_path, end, known, capsys):
    if known is None:
        known = end in D._endings()
        if not known: pytest.skip('this Pillow reads no AVIF')
    for part in ('train', 'val'):
        for i in range(3):
            f = folder(tmp_path)/part/'cat'/f'more{i}{end}'
            Image.fromarray(noise(8, 8, 3, seed=i)).save(f, D.Image.registered_extensions()[end]) if known else f.write_bytes(b'\0')
    n, said = len(load(tmp_path, workers=1)[0]), capsys.readouterr().out
    assert (n, said) == (7, '') if known else n == 4 and said.count('\n') == 1 and said.startswith(f'left out: 6 files that are not read as images ({end or "without ending"} 6), the first ')

def test_a_class_of_other_files_says_which(tmp_path):
    folder(tmp_path); [f.rename(f.with_suffix('.raw')) for f in (tmp_path/'train/dog').iterdir()]
    refused(r'dog: no image there; left out: 2 files .*\.raw 2', load, tmp_path, workers=1)

# --- identity
def mirrored(tmp_path, ys=('cat', 'dog')): return folder(tmp_path/'pets', ys)

def made(real, **kw): return Pixels.from_real(real, 2, lr=.05, arch=ARCH, aug='', **kw)

def test_the_source_is_in_the_card_of_every_kind(tmp_path):
    real = load(find_source(mirrored(tmp_path), background='black'), crop=False, size=8, val=.5, seed=3, stats=(.5, .5), workers=1)[0]
    want = dict(kind='folder', name='pets', size=8, crop=False, zca=False, stats=[[.5], [.5]], stream=False, background='black', val=.5, seed=3)
    kinds = [Pixels.from_real(real, 1), Pixels.from_noise(real, 1), coreset(real, 1), Pixels.from_real(real, 1).part(slice(0, 1))]
    ae = AutoEncoder(TinyAE(3, 2, 4, 8), 'tiny', 2, 2, n_in=3, own=True)
    kinds += [LatentCodes.from_real(real, 1, ae), Pixels.from_real(encode_set(real, ae, cache=False), 1)]
    kinds += [learn(Task(real, net_fn=partial(ConvNet, 3, 2, 8, 8, 1)), DMMethod(iterations=1), tmp_path/'dm', RunOptions(quiet=True))[0]]
    for d in kinds:
        assert {k: d.source[k] for k in want} == want
        if type(d.norm).__name__ == 'AutoEncoder': continue                              # codes as pixels: not for a file
        back = Distilled.load(d.save(tmp_path/'d.safetensors'))
        assert back.source == json.loads(json.dumps(d.source)) and str(tmp_path) not in json.dumps(load_tensors(tmp_path/'d.safetensors')[1])
    stream = load(tmp_path/'pets', stream=True, workers=0, val=.5)[0]
    assert stream.source['stream'] and stream.held().source == stream.map(lambda x: x).source == stream.source

def test_the_source_is_in_what_experts_and_teachers_make(tmp_path):
    "LatentPriors of D3 and the store of D3S, whose makers need more than a set."
    real, net_fn = load(folder(tmp_path/'pets'), workers=1)[0], partial(ConvNet, 3, 2, 8, 8, 1)
    b = train_experts(net_fn, real, tmp_path/'b', 1, expert_protocol(2, .01, 4, ''), quiet=True)
    small = dict(iterations=1, z_dim=4, decoder_width=8, syn_steps=1, expert_epochs=1, max_start_epoch=1, mmd_samples=2)
    d3, _ = learn(Task(real, net_fn=net_fn, experts=b), method_of('d3', **small), tmp_path/'d3', RunOptions(quiet=True))
    half = SimpleNamespace(n=2, real=real, teachers=[net_fn()], full={}, stats=[])
    assert d3.source == source_of(real) == Distilled.load(tmp_path/'d3'/'distilled.safetensors').source
    with pytest.MonkeyPatch.context() as m: m.setattr('dd_repro.d3s.stats_hash', lambda s: ''); assert Synthesis.blank(half).source == source_of(real)

@pytest.mark.parametrize('name', ['cifar10', 'tinyimagenet', 'digits'])
def test_settings_of_a_known_set_are_not_for_a_folder_of_that_name(tmp_path, name):
    own = load(folder(tmp_path/name), workers=1)[0]
    assert known_name(own) == known_name(made(own)) == '' and known_name(ImageTensors(own.x, own.y, 2, name=f'{name} (2 of 500 a class)')) == name
    half = SimpleNamespace(n=2, real=own, teachers=[None], full={}, stats=[])
    with pytest.MonkeyPatch.context() as m: m.setattr('dd_repro.d3s.stats_hash', lambda s: ''); assert Synthesis.blank(half).protocol == 'mtt'

@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home')); monkeypatch.setenv('DD_DATA', str(tmp_path/'data')); monkeypatch.setenv('DD_DEVICE', 'cpu'); (tmp_path/'data').mkdir()
    return tmp_path

SHORT = dict(n_eval=1, epochs=40, kind='smoke')

def told(capsys, *a, **kw):
    "The accuracy, or the one line, of dd_eval."
    capsys.readouterr()
    try: dd_eval(*a, **(SHORT | kw))
    except SystemExit: return capsys.readouterr().err
    return capsys.readouterr().out

def test_an_own_folder_is_found_or_asked_for(home, capsys):
    d = made(load(folder(home/'data'/'pets'), workers=1)[0]); f = str(d.save(home/'d.safetensors'))
    assert '100.0 %' in told(capsys, f)
    (home/'data'/'pets').rename(home/'data'/'elsewhere')
    err = told(capsys, f); assert err.count('\n') == 1 and 'made from a folder of its own' in err and '--data' in err
    assert '100.0 %' in told(capsys, f, data=str(home/'data'/'elsewhere')) and '100.0 %' in told(capsys, f, data='elsewhere')
    folder(home/'data'/'pets', ('cow', 'owl')); assert 'made from a folder of its own' in told(capsys, f) # another folder of that name

@pytest.mark.parametrize('name', ['digits', 'cifar10', 'imagewoof'])
def test_an_own_folder_by_the_name_of_a_known_set(home, capsys, name, monkeypatch):
    p = folder(home/'data'/name); monkeypatch.chdir(home/'data')
    for spelled in (str(p), f'./{name}', Path(name)):
        real = load(spelled, workers=1)[0]; assert real.source['kind'] == 'folder' and real.classes == ['cat', 'dog']
    assert '100.0 %' in told(capsys, str(made(real).save(home/'d.safetensors')))
    assert load('digits')[0].source['kind'] == 'known' and find_source('digits').kind == 'known'

@pytest.mark.parametrize('stream', [False, True])
def test_classes_in_another_order_are_put_right(home, stream):
    real, test = load(folder(home/'pets', ('a', 'b', 'c')), workers=0, stream=stream, size=8)
    d = Pixels.from_real(real, 2, lr=.05, arch=ARCH | dict(n_out=3), aug='')
    swapped = Pixels(d.images.detach(), 2 - d.y, 3, classes=['c', 'b', 'a'], norm=d.norm, lr=.05, arch=d.arch, aug='', name='pets', source=d.source)
    p = as_protocol('mtt').scaled(kind='smoke', epochs=60, aug='')
    assert [evaluate(s, test, protocol=p, n_eval=1)[0].mean for s in (d, swapped)] == [100, 100]
    assert fit_classes(test, swapped).classes == ['c', 'b', 'a'] and all(len(fit_classes(test, swapped).of_class(c)) == 2 for c in range(3))
    assert torch.equal(fit_classes(test, swapped).of_class(0), test.of_class(2))

def turned(img): return Image.fromarray(255 - np.asarray(img))

@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('part', ['train', 'val'])
@pytest.mark.parametrize('change', ['swapped', 'inverted'])
def test_an_artefact_is_not_tested_on_images_that_changed(home, capsys, part, change, stream):
    "In either part (of a stream, the one that its key is made of); named with --data they are taken, and it is said."
    top = folder(home/'data'/'pets'); f = str(made(load(top, size=8, workers=0, stream=stream)[0]).save(home/'d.safetensors'))
    if change == 'swapped':
        for one, two in (('cat', 'x'), ('dog', 'cat'), ('x', 'dog')): (top/part/one).rename(top/part/two)
    else:
        for q in sorted((top/part).rglob('*.png')): turned(Image.open(q)).save(q)
    if stream and part == 'val': return
    err = told(capsys, f); which = 'training' if part == 'train' else 'test'
    assert err.count('\n') == 1 and f'the {which} images here are not those' in err and '--data' in err
    said = told(capsys, f, data=str(top)); assert '%' in said and ('tested on other images' in said) == (part == 'val')

def test_a_set_is_not_tested_under_another_norm(home):
    digits, test = load('digits'); d = Pixels.from_real(digits, 1, lr=.05, arch=dict(ARCH, n_in=1, n_out=10), aug='')
    p = as_protocol('mtt').scaled(epochs=1)
    for other in (load('digits', stats=(.2, .3))[1], load('digits', zca=True)[1]):
        refused(r'test.renorm\(d.norm\)', evaluate, d, other, protocol=p, n_eval=1)
        assert evaluate(d, other.renorm(d.norm), protocol=p, n_eval=1)[0].mean == evaluate(d, test, protocol=p, n_eval=1)[0].mean

def test_grey_on_one_side_only_is_colour(home):
    grey = lambda a: Image.fromarray(a).convert('L')
    for first, second in (('train', 'val'), ('val', 'train')):
        top = folder(home/first, parts=(first,)); folder(top, parts=(second,), make=grey)
        assert {s.shape[0] for s in load(top, workers=1)} == {3}

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
def test_images_are_floats_that_networks_take(dtype):
    x, y = torch.rand(4, 3, 8, 8).mul(200).to(dtype), torch.tensor([0, 1, 0, 1])
    for make in (lambda: ImageTensors(x, y, 2).x, lambda: Pixels(x, y, 2).images):
        if dtype.is_floating_point: assert make().dtype == torch.float32
        else: refused('must be normalised floats', make)

def test_other_classes_are_named_and_refused(home, capsys):
    real = load(folder(home/'data'/'pets'), workers=1)[0]; f = str(made(real).save(home/'d.safetensors'))
    folder(home/'others', ('cat', 'owl')); folder(home/'more', ('cat', 'dog', 'owl'))
    assert "class 'dog' is in the distilled set only" in told(capsys, f, data=str(home/'others'))
    assert "class 'owl' is in more only" in told(capsys, f, data=str(home/'more')) and "class 'cat' is in the distilled set only" in told(capsys, f, data='digits')
    t = load(home/'others', workers=1)[1]
    refused("class 'dog'", evaluate, made(real), t, protocol=as_protocol('mtt').scaled(epochs=1), n_eval=1)
    toy = ImageTensors(t.x, t.y, 2); assert fit_classes(toy, real) is toy               # a set without names fits any

def test_old_cards_load_by_name_and_say_so(home, capsys):
    real = load('digits')[0]
    d = Pixels.from_real(real, 1, lr=.05, arch=dict(ARCH, n_in=1, n_out=10), aug='', source={}); f = d.save(home/'d.safetensors')
    folder(home/'data'/'digits')                                                         # the known name wins
    said = told(capsys, str(f), epochs=2); assert 'does not say how its data were loaded; tested on digits' in said
    assert len(real_for(Distilled.load(f))[1]) == 360

@pytest.mark.parametrize('how', [dict(crop=False), dict(background='black'), dict(stats=(.2, .3)), dict(stream=True)])
def test_test_images_are_loaded_as_the_card_says(home, how):
    "Ends of the pictures, what lies behind them, the statistics, and a stream."
    def long(a): b = np.concatenate([a, a[::-1]], 1); b = np.dstack([b, np.full(b.shape[:2], 255, np.uint8)]); b[:, :6, 3] = 0; return Image.fromarray(b)
    train, test = load(find_source(folder(home/'data'/'pets', make=long), background=how.get('background', 'white')), size=8, workers=0, **{k: v for k, v in how.items() if k != 'background'})
    d = Distilled.load(made(train).save(home/'d.safetensors'))
    got = real_for(d)[1]; held = lambda s: s if hasattr(s, 'x') else s.held()
    assert torch.allclose(held(got).x, held(test).x, atol=1e-5) and got.source.items() <= d.source.items() and isinstance(got, type(test))
    if 'crop' in how or 'background' in how: assert not torch.allclose(held(load(home/'data'/'pets', size=8, workers=0)[1]).raw(), held(test).raw(), atol=.05)

def test_home_is_a_place(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path)); folder(tmp_path/'data'/'pets')
    for args in (dict(name='~/data/pets'), dict(name=Path('~/data/pets')), dict(name='pets', root='~/data')):
        assert len(load(workers=1, **args)[0]) == 4
    refused('~/nowhere: no such folder', load, '~/nowhere')
    refused('tinyimagenet: no folder', find_source, 'tinyimagenet', root='~/data', download=False)

# --- parts taken for wholes
def counted(name, classes, train, test):
    "A source with so many images of each class, without pictures."
    part = lambda n: (torch.empty(0), torch.arange(classes).repeat_interleave(torch.as_tensor(n)))
    return noted(Source(name, [str(i) for i in range(classes)], part(train), part(test)), D._full(name))

@pytest.mark.parametrize('name, classes, train, test, note, of_test', [
    ('cifar10', 10, 5000, 1000, '', ''), ('cifar100', 100, 100, 100, '100 of 500 a class', '100 of 500 a class'), ('cifar10', 10, 5000, 999, '', 'test 999 of 1000 a class'),
    ('cifar10', 10, [5000]*9 + [4999], 1000, '4999 to 5000 of 5000 a class', '4999 to 5000 of 5000 a class'),
    ('tinyimagenet', 2, [500, 3], 50, '2 of 200 classes, 3 to 500 of 500 a class', '2 of 200 classes, 3 to 500 of 500 a class'), ('tinyimagenet', 200, 100, 20, '100 of 500 a class', '100 of 500 a class, test 20 of 50 a class'),
    ('imagewoof', 10, 250, 50, '250 of 1300 a class', '250 of 1300 a class'), ('imagenette', 10, [732] + [1300]*9, 50, '', ''), ('imagenette', 10, [858] + [941]*9, 390, '941 of 1300 a class', '941 of 1300 a class'),
    ('imagefruit', 10, [3] + [1300]*9, 50, '3 to 1300 of 1300 a class', '3 to 1300 of 1300 a class'), ('imagenet1k', 999, 1300, 50, '999 of 1000 classes', '999 of 1000 classes'), ('imagenet:1,2', 2, 1300, 7, '', 'test 7 of 50 a class')])
def test_classes_and_images_of_known_sets_are_counted(name, classes, train, test, note, of_test):
    s = counted(name, classes, train, test)
    assert (s.name, s.note, s.test_note) == (name, note, of_test)

def test_a_part_says_so_in_every_row(home, capsys):
    root = folder(home/'data'/'tiny-imagenet-200', ('n1', 'n2'), n=3)
    (root/'train/n1/0.png').unlink()
    real, test = load(find_source('tinyimagenet', download=False), size=8, workers=1)
    note = 'tinyimagenet (2 of 200 classes, 2 to 3 of 500 a class'
    assert real.title == note + ')' and test.title == note + ', test 3 of 50 a class)'
    f = made(real).save(home/'d.safetensors')
    for kw in (dict(path=str(f)), dict(full=True, data='tinyimagenet', size=8, width=8, depth=1), dict(random=True, data='tinyimagenet', size=8, width=8, depth=1)):
        dd_eval(**kw, n_eval=1, epochs=1, kind='decided', record_to=str(home/'r.csv'))
    rows = read_rows(home/'r.csv')
    assert len(rows) == 3 and all(f'data: {test.title}' in r.deviations and r.deviations.count('data: ') == 1 and r.protocol == 'reduced' for r in rows)
    whole = ImageTensors(test.x, test.y, 2, test.classes, name='tinyimagenet')            # the part may be on either side
    assert f'data: {real.title}' in evaluate(made(real), whole, protocol=as_protocol('mtt').scaled(epochs=1), n_eval=1)[0].deviations

# --- one way to read a label
PICTURES = [noise(8, 8, 3, seed=i) for i in range(6)]
YS = [0, 1, 0, 2, 1, 2]

class Listed(Dataset):
    "A dataset as torchvision has them, with a list of labels that may be another's."
    def __init__(self, targets=YS, target_transform=None, ys=YS): self.targets, self.target_transform, self.ys = list(targets), target_transform, ys
    def __len__(self): return 6
    def __getitem__(self, i): y = self.ys[i]; return Image.fromarray(PICTURES[i]), self.target_transform(y) if self.target_transform else y

class Table(Dataset):
    "Rows as Hugging Face's `datasets` has them: dictionaries, and columns by name."
    def __init__(self, image='image', label='label', wrong=False): self.keys, self.wrong = (image, label), wrong
    column_names = property(lambda self: list(self.keys))
    def __len__(self): return 6
    def __getitem__(self, i):
        if isinstance(i, str): return [2 - y if self.wrong else y for y in YS]
        return dict(zip(self.keys, (Image.fromarray(PICTURES[i]), YS[i])))

class Arrays(Dataset):
    def __init__(self, f): self.f = f
    def __len__(self): return 6
    def __getitem__(self, i): return self.f(PICTURES[i]), np.int64(YS[i])

_STACK = torch.tensor(np.stack(PICTURES)).permute(0, 3, 1, 2)
DATASETS_ = dict(list=[(Image.fromarray(a), y) for a, y in zip(PICTURES, YS)], listed=Listed(), numpy=Arrays(lambda a: a), float_numpy=Arrays(lambda a: a.astype(np.float32)/255), uint16=Arrays(lambda a: a.astype(np.uint16)*257),
    tensors=TensorDataset(_STACK, torch.tensor(YS)), float_tensors=TensorDataset(_STACK/255, torch.tensor(YS)), table=Table(), fine=Table('img', 'fine_label'), lying_table=Table('pixel_values', 'labels', wrong=True),
    lying_list=Listed([0]*6), short_list=Listed([0]), words=Listed(list('abacbc')), subset=Subset(Listed(), range(6)), part_of_part=Subset(Subset(Listed(YS[::-1], ys=YS), [5, 4, 3, 2, 1, 0]), [5, 4, 3, 2, 1, 0]), joined=ConcatDataset([Subset(Listed(), [0, 1, 2]), Subset(Table(), [3, 4, 5])]))

@pytest.mark.parametrize('kind', DATASETS_)
def test_any_map_style_dataset_is_a_stream_with_one_label_path(kind):
    s = ImageStream(DATASETS_[kind], 3, 8)
    x, y = s.held().x, s.held().y
    assert s.y.tolist() == y.tolist() == YS and torch.equal((x*255).round().byte(), _STACK)
    assert all(torch.equal(s.of_class(c), x[y == c]) for c in range(3))
    a, b = s.split(.5, seed=1); ha, hb = s.held().split(.5, seed=1)
    assert torch.equal(a.held().x, ha.x) and torch.equal(b.held().y, hb.y) and (len(a), len(b)) == (3, 3)

@pytest.mark.parametrize('f', [lambda y: 2 - y, lambda y: (y + 1) % 3, lambda y: 0 if y == 2 else y])
def test_a_target_transform_holds_for_batches_and_classes(f):
    for ds in (Listed(target_transform=f), Subset(Listed(target_transform=f), range(6)), Listed(ys=[f(y) for y in YS])):
        s = ImageStream(ds, 3, 8)
        assert s.y.tolist() == s.held().y.tolist() == [f(y) for y in YS]
        for c in set(s.y.tolist()): assert torch.equal(s.of_class(c), s.held().x[s.y == c])

def test_labels_that_change_are_an_error():
    ds = Listed(); s = ImageStream(ds, 3, 8); ds.ys = YS[::-1]
    for f in (lambda: list(s.batches(2)), lambda: s.of_class(0)): refused('item 0 brings label 2; it was 0 when', f)

@pytest.mark.parametrize('ds, says', [(iter([1]), 'no length'), ([Image.fromarray(PICTURES[0])], 'is .image, label.'), ([dict(picture=1, label=0)], 'an image is called image'), ([(PICTURES[0],)], 'is .image, label.')])
def test_what_is_no_dataset_of_pairs_is_refused(ds, says): refused(says, ImageStream, ds, 3, 8)

@pytest.mark.parametrize('img, says', [(torch.randn(3, 8, 8), 'not normalised'), (torch.rand(8, 8, 3)[:, :5], 'tensors are'), (np.zeros((8, 8, 2), np.uint8), '1, 3 or 4 channels'), (torch.zeros(3, 8, 8, dtype=torch.int64), 'of int64'), (Image.new('F', (8, 8)), 'float picture')])
def test_items_that_are_no_pictures_are_refused(img, says):
    s = ImageStream([(img, 0), (img, 1)], 2, 8)
    with pytest.raises(TypeError, match='a stream has no colour'): s.new(colour='red')
    refused(f'item 0: .*{says}', lambda: list(s.batches(1)))
    refused(says, s.of_class, 0)

# --- holding out
def test_each_side_of_a_split_has_something_of_each_class(tmp_path):
    y = torch.tensor([0]*20 + [1]*2 + [2]*3); s = ImageTensors(torch.rand(25, 3, 4, 4), y, 3)
    for frac in (.1, .2, .5, .9, .99):
        assert all((p.y.bincount(minlength=3) > 0).all() for p in s.split(frac))
    one = ImageTensors(torch.rand(3, 3, 4, 4), torch.arange(3), 3)
    refused('no class has two images', one.split, .2)
    for kw in (dict(), dict(stream=True, workers=0)): refused('nothing can be held out', load, folder(tmp_path, n=1), val=.2, **kw)

def _white(path, n):
    path.mkdir(parents=True, exist_ok=True)
    for i in range(n): Image.new('L', (8, 8), 40*i).save(path/f'{i}.png')

def test_folders_behind_links_are_read(tmp_path):
    for half in ('train', 'val'):
        for c in 'ab': _white(tmp_path/'set'/half/c, 2)
    _white(tmp_path/'elsewhere', 3)
    (tmp_path/'set'/'train'/'a'/'more').symlink_to(tmp_path/'elsewhere')
    (tmp_path/'set'/'train'/'b'/'round').symlink_to(tmp_path/'set'/'train'/'b') # once is enough
    real, _ = load(tmp_path/'set')
    assert real.y.bincount().tolist() == [5, 2]

@pytest.mark.parametrize('names', [['a', 'b'], list('abcdefghijkl')])
def test_each_class_has_one_name(names):
    x, y = torch.rand(10, 1, 8, 8), torch.arange(10)
    for make in (lambda: ImageTensors(x, y, 10, classes=names), lambda: Pixels(x, y, 10, classes=names)):
        with pytest.raises(ValueError, match=f'{len(names)} class names for 10 classes'): make()

@pytest.mark.parametrize('link', ['file', 'folder', 'device'])
def test_results_grow_where_a_link_points(tmp_path, link):
    row = Row('mine/digits/ipc1', mean=1.)
    if link == 'file':
        record([row], tmp_path/'real.csv')
        (tmp_path/'link.csv').symlink_to(tmp_path/'real.csv')
        record([row], tmp_path/'link.csv')
        assert (tmp_path/'link.csv').is_symlink() and len(read_rows(tmp_path/'real.csv')) == 2
        return
    place = tmp_path if link == 'folder' else tmp_path/'pipe'
    if link == 'device': os.mkfifo(place)
    with pytest.raises((ValueError, OSError), match='folder or a device|no file'): record([row], place)
    assert place.is_dir() if link == 'folder' else place.is_fifo()
