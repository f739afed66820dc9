"Sets, experts and labels of other programs: each form as its authors write it, what is assumed, what is refused, and nothing half-written."
import csv, io, json, os, pickle, re, shutil, signal, tarfile, zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest, torch
from PIL import Image

from dd_repro import exchange
from dd_repro.convnet import ConvNet
from dd_repro.core import asset
from dd_repro.d3s import StoredPixels
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.exchange import class_order, FORMS, Found, cut_apart, export_set, form, import_set, load_set, recognise
from dd_repro.experts import Buffer
from dd_repro.files import file_sha256
from dd_repro.foreign import export_experts, export_labels, fkd_order, import_experts, import_labels
from dd_repro.hub import FolderHub, hub_card, pull, push, set_facts, set_text
from dd_repro.labels import LabelStore, Relabelled, ViewSettings, Views, relabel
from dd_repro.norm import STATS, ZCA, NoNorm, Normalize, fit_zca
from dd_repro.priors import LatentPriors
from dd_repro.public import PublicSet, fetch_set, known_file, public_sets
from dd_repro.records import Row
from dd_repro.sets import ImageTensors
from dd_repro.students import as_protocol, evaluate
from dd_repro.transfer import dd_export, dd_import

HERE = Path(os.environ.get('DD_PUBLISHED') or Path(__file__).resolve().parents[2]/'shared'/'data'/'published')
C, IPC, SHAPE = 4, 3, (3, 8, 8)
WRITTEN = [n for n, f in FORMS.items() if f.write]

def gen(seed=0): return torch.Generator().manual_seed(seed)

@pytest.fixture
def x(): return torch.randn(C*IPC, *SHAPE, generator=gen())

@pytest.fixture
def y(): return torch.arange(C).repeat_interleave(IPC)

@pytest.fixture
def real():
    return ImageTensors(torch.randn(24, *SHAPE, generator=gen(1)), torch.arange(24) % C, C, classes=['cat', 'ant', 'dog', 'bee'], norm=Normalize([.5, .4, .3], [.2, .25, .3]), name='toy')

def save(folder, **tensors):
    folder.mkdir(parents=True, exist_ok=True)
    for k, v in tensors.items(): torch.save(v, folder/f'{k}.pt')
    return folder

def refused(says, f, *a, **kw):
    with pytest.raises(ValueError, match=says) as e: f(*a, **kw)
    assert '\n' not in str(e.value)
    return str(e.value)

def same(d, x, y): return torch.equal(d.images.detach(), x) and torch.equal(d.y, y)

def whole(d, path): return refused('.', import_set, path, real=d) and True

def pictures(folder, names, sizes=(IPC,)*C, name='{i}.png', side=8):
    "A folder of class folders; the red of a picture is the place of its folder in `names`."
    for c, d in enumerate(names):
        (folder/d).mkdir(parents=True)
        for i in range(sizes[c % len(sizes)]): Image.new('RGB', (side, side), (c, i, 100)).save(folder/d/name.format(c=c, i=i, d=d))
    return folder

# --- MTT and its kin
@pytest.mark.parametrize('tag', ['best', '300', '5000'])
def test_mtt(tmp_path, x, y, real, tag):
    save(tmp_path, **{f'images_{tag}': x, f'labels_{tag}': y})
    d = import_set(tmp_path, real=real, lr=.02)
    assert same(d, x, y) and d.norm is real.norm and d.classes == real.classes and d.student_lr.item() == pytest.approx(.02)
    assert d.info['imported']['form'] == 'mtt' and d.info['assumed'] == ['made from toy that was given; no file says so', 'rate 0.02, as whoever imported it said'] and d.source['key'] == real.key

def test_the_best_or_the_latest(tmp_path, x, y, real):
    save(tmp_path, images_900=x - 1, labels_900=y, images_5000=x, labels_5000=y)
    assert same(import_set(tmp_path, real=real, lr=.1), x, y)
    assert same(import_set(tmp_path/'images_900.pt', real=real, lr=.1), x - 1, y) # the file that was named
    save(tmp_path, images_best=x + 1, labels_best=y)
    assert same(import_set(tmp_path, real=real, lr=.1), x + 1, y)

def test_a_rate_in_a_file(tmp_path, x, y, real):
    save(tmp_path, images_best=x, labels_best=y, lr_best=torch.tensor(.03))
    assert import_set(tmp_path, real=real).student_lr.item() == pytest.approx(.03)
    assert import_set(tmp_path, real=real, lr=.5).student_lr.item() == .5 # what you say comes first

def test_without_labels_images_stand_class_by_class(tmp_path, x, y, real):
    save(tmp_path, images_best=x)
    d = import_set(tmp_path, real=real, lr=.1)
    assert same(d, x, y) and any('class by class' in a for a in d.info['assumed'])
    assert same(import_set(tmp_path, n_classes=C, stats='none', lr=.1), x, y)
    refused(r'cannot stand class by class in 5 classes', import_set, tmp_path, n_classes=5, stats='none', lr=.1)
    refused('labels are missing', import_set, tmp_path, stats='none', lr=.1)

def test_unsorted_labels_stay(tmp_path, x, y, real):
    at = torch.randperm(len(y), generator=gen())
    save(tmp_path, images_best=x[at], labels_best=y[at])
    assert same(import_set(tmp_path, real=real, lr=.1), x[at], y[at])

def test_labels_as_whole_floats_and_other_names(tmp_path, x, y, real):
    save(tmp_path, CIFAR10_IPC1_images=x, CIFAR10_IPC1_labels=y.float())
    assert same(import_set(tmp_path, real=real, lr=.1), x, y)

@pytest.mark.parametrize('labels', ['each', 'one', 'none'])
@pytest.mark.parametrize('sep', ['_', '-'])
def test_a_set_in_five_parts(tmp_path, x, y, real, labels, sep):
    xs, ys = torch.cat([x]*5).split(12), torch.cat([y]*5).split(12)
    save(tmp_path, **{f'images_best{sep}{i}': v + i for i, v in enumerate(xs)})
    if labels == 'each': save(tmp_path, **{f'labels_best{sep}{i}': v for i, v in enumerate(ys)})
    if labels == 'one': save(tmp_path, labels_best=torch.cat(ys))
    if labels == 'none': refused('labels are missing', import_set, tmp_path, 'mtt', real, lr=.1); return
    d = import_set(tmp_path, real=real, lr=.1)
    assert len(d) == 60 and torch.equal(d.images[48:].detach(), x + 4) and any('5 files were joined' in a for a in d.info['assumed'])
    (tmp_path/f'images_best{sep}2.pt').unlink()
    refused('there is a gap between them', import_set, tmp_path, 'mtt', real, lr=.1)

def test_parts_of_unlike_size(tmp_path, x, y, real):
    save(tmp_path, images_best_0=x, images_best_1=x[..., :4, :4], labels_best_0=y, labels_best_1=y)
    refused('parts of unlike size', import_set, tmp_path, 'mtt', real, lr=.1)

def test_soft_labels_in_mtt_are_named(tmp_path, x, y, real):
    z = 3*torch.randn(len(x), C, generator=gen(2))
    save(tmp_path, images_best=x, labels_best=z)
    refused('labels are class numbers', import_set, tmp_path, 'mtt', real, lr=.1)
    assert torch.allclose(import_set(tmp_path, 'mtt', real, lr=.1, labels='logits').y, z.softmax(1))
    assert torch.equal(import_set(tmp_path, 'mtt', real, lr=.1, labels='largest').y, z.argmax(1))
    save(tmp_path, labels_best=z.softmax(1))
    assert torch.equal(import_set(tmp_path, 'mtt', real, lr=.1, labels='chances').y, z.softmax(1))

@pytest.mark.parametrize('names', [('images', 'labels', 'lr'), ('images_best', 'labels_best', 'lr_best')])
def test_datm(tmp_path, x, real, names):
    z = 3*torch.randn(len(x), C, generator=gen(2))
    save(tmp_path, **dict(zip(names, (x, z, torch.tensor(.03)))))
    d = import_set(tmp_path, real=real)
    assert d.info['imported']['form'] == 'datm' and torch.allclose(d.y, z.softmax(1)) and d.student_lr.item() == pytest.approx(.03)
    refused('may be whitened', import_set, tmp_path)
    save(tmp_path, **{names[1]: z.softmax(1)}) # chances under the names of logits
    refused('labels look like probabilities', import_set, tmp_path, real=real)
    assert torch.equal(import_set(tmp_path, real=real, labels='chances').y, z.softmax(1))

def test_haba_is_bases_without_styles(tmp_path, x, y, real):
    save(tmp_path, images_best=x, weights_best={'style': torch.ones(3)})
    d = import_set(tmp_path, real=real, lr=.1)
    assert d.info['imported']['form'] == 'haba' and same(d, x, y) and any('styles' in a for a in d.info['assumed'])

# --- the DC family
def dc(x, y, runs=2): return dict(data=[[x + r, y] for r in range(runs)], accs_all_exps={'ConvNet': [np.float64(.25), np.float64(.5)]})

@pytest.mark.parametrize('method, protocol', [('DC', 'dc'), ('DSA', 'dsa'), ('DM', 'dsa')])
def test_dc_and_its_runs(tmp_path, x, y, real, method, protocol):
    save(tmp_path, **{f'res_{method}_TOY_ConvNet_3ipc': dc(x, y)})
    for run in range(2):
        d = import_set(tmp_path, real=real, run=run)
        assert same(d, x + run, y) and d.protocol == protocol and d.student_lr.item() == pytest.approx(.01)
    about = d.info['imported']
    assert about['accuracy']['ConvNet'] == dict(mean=37.5, std=12.5, n=2) and about['runs'] == 2
    refused('run 2 was asked for; it has 2', import_set, tmp_path, real=real, run=2)

@pytest.mark.parametrize('pair', [lambda x, y: [(x, y)], lambda x, y: [[x, y], 'more']])
def test_fred_nests_once_more(tmp_path, x, y, real, pair):
    save(tmp_path, res_FreD_TOY=dict(data=[pair(x, y)], accs_all_exps={}))
    assert same(import_set(tmp_path, real=real), x, y)

def test_dc_is_never_whitened(tmp_path, x, y, real):
    save(tmp_path, res_DC_x=dc(x, y))
    white = real.renorm(ZCA(torch.zeros(192), torch.eye(192), torch.eye(192), SHAPE))
    refused('images under mean and deviation', import_set, tmp_path, real=white)

# --- several pictures in one
@pytest.mark.parametrize('factor', [1, 2, 3])
@pytest.mark.parametrize('kind, name', [(list, 'idc'), (tuple, 'idm')])
def test_factor(tmp_path, x, y, real, factor, kind, name):
    torch.save(kind((x, y)), tmp_path/'data_best.pt')
    d = import_set(tmp_path, real=real, factor=factor)
    assert d.info['imported']['form'] == name and len(d) == len(x)*factor**2 and torch.equal(d.y, y.repeat_interleave(factor**2))
    want = cut_apart(x, factor)
    assert torch.equal(d.images.detach(), real.norm(want) if name == 'idc' else want)

def test_idc_asks_for_its_factor_and_idm_says_it(tmp_path, x, y, real):
    torch.save([x, y], tmp_path/'a.pt'); torch.save((x, y), tmp_path/'b.pt')
    refused('give factor=', import_set, tmp_path/'a.pt', real=real)
    refused('cuts images of 8 px into nothing', import_set, tmp_path/'a.pt', real=real, factor=9)
    d = import_set(tmp_path/'b.pt', real=real)
    assert len(d) == 4*len(x) and 'factor 2, which is that of IDM' in d.info['assumed']

def test_cut_apart_against_a_loop():
    x = torch.rand(2, 3, 7, 7, generator=gen())
    padded, out = torch.full((2, 3, 8, 8), .5), []
    padded[..., :7, :7] = x
    for n in range(2):
        for i in (0, 4):
            for j in (0, 4): out.append(torch.nn.functional.interpolate(padded[n:n+1, :, i:i+4, j:j+4], size=7, mode='bilinear'))
    assert torch.allclose(cut_apart(x, 2), torch.cat(out))

def test_a_pickle_of_idm_is_refused(tmp_path, x, y, real):
    (tmp_path/'data.pt').write_bytes(pickle.dumps((x, y)))
    refused('not a PyTorch file of plain tensors', import_set, tmp_path, 'idm', real)

# --- arrays, dictionaries, decoders
@pytest.mark.parametrize('single', [True, False])
def test_kip(tmp_path, x, y, real, single):
    z = 40*torch.eye(C)[y] - 3
    arrays = dict(images=x.permute(0, 2, 3, 1).numpy(), labels=z.numpy())
    if single: np.savez(tmp_path/'kip.npz', **arrays)
    else:
        for k, v in arrays.items(): np.save(tmp_path/f'{k}.npy', v)
    d = import_set(tmp_path/'kip.npz' if single else tmp_path, real=real, lr=.1)
    assert d.info['imported']['form'] == 'kip' and same(d, x, y) and any('own whitening' in a for a in d.info['assumed'])
    assert torch.allclose(import_set(tmp_path, 'kip', real, lr=.1, labels='logits').y, z.softmax(1))

def test_an_array_file_with_numbers(tmp_path, x, y, real):
    np.savez(tmp_path/'a.npz', images=x.numpy(), labels=y.numpy(), lr=np.float32(.25))
    d = import_set(tmp_path/'a.npz', real=real)
    assert same(d, x, y) and d.student_lr.item() == .25

def test_bytes_in_a_dictionary(tmp_path, y, real):
    u = torch.randint(256, (len(y), *SHAPE), generator=gen(), dtype=torch.uint8)
    torch.save(dict(images=u, labels=y, lr=.1, classes=list('abcd')), tmp_path/'a.pt')
    d = import_set(tmp_path/'a.pt', stats='none')
    assert isinstance(d, StoredPixels) and torch.equal(d.images, u) and d.classes == list('abcd')

@pytest.mark.parametrize('good', [True, False])
def test_the_successor_of_d3(tmp_path, x, y, real, good):
    torch.save(dict(syn_img=x if good else x.flatten(1), vae_state_dict={}, z_dim=8, kernel_num=2, im_size=8, channel=3), tmp_path/'a.pt')
    if not good: refused('decode it with its own code first', import_set, tmp_path/'a.pt', real=real, lr=.1); return
    d = import_set(tmp_path/'a.pt', real=real, lr=.1)
    assert same(d, x, y) and any('decoder' in a for a in d.info['assumed'])

# --- folders
TWELVE = [str(i) for i in range(12)]
@pytest.mark.parametrize('kind, names, name', [('sre2l', [f'new{i:03d}' for i in range(12)], 'class{c:03d}_id{i:03d}.jpg'), ('rded', [f'{i:05d}' for i in range(12)], 'class{c:05d}_id{i:05d}.jpg'),
    ('d4m', TWELVE, '{c}-image{i}1.png'), ('minimax', [f'n{i:08d}' for i in range(12)], '{i}.png'), ('folder', [f'kind of {c}' for c in 'abcdefghijkl'], 'x{i}.png')])
def test_folders_of_pictures(tmp_path, kind, names, name):
    pictures(tmp_path/'set', names, (2,), name)
    d = import_set(tmp_path/'set', stats='none', quiet=True)
    assert isinstance(d, StoredPixels) and d.info['imported']['form'] == kind and (len(d), d.n_classes) == (24, 12)
    if 'jpg' not in name: assert torch.equal(d.images[:, 0, 0, 0].long(), d.y) # each picture has the label of its folder
    assert (d.info['imported'].get('mosaic') == 2) == (kind == 'rded')

def test_classes_of_d4m_do_not_change_places(tmp_path):
    pictures(tmp_path, TWELVE, (1,), '{c}-image00.png')
    assert import_set(tmp_path, stats='none').images[:, 0, 0, 0].tolist() == list(range(12))
    assert import_set(tmp_path, stats='none', order='text').images[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]

def test_folders_in_the_order_of_the_real_set(tmp_path, real):
    pictures(tmp_path, sorted(real.classes))
    d = import_set(tmp_path, real=real)
    assert [real.classes[i] for i in range(C)] == d.classes and d.images[:, 0, 0, 0].tolist() == [sorted(real.classes).index(d.classes[c]) for c in d.y.tolist()]

def test_folders_that_lack_a_class_or_are_of_many_sizes(tmp_path, real):
    refused('a class is missing', import_set, pictures(tmp_path/'a', ['0', '1', '3']), stats='none')
    Image.new('RGB', (9, 9)).save(pictures(tmp_path/'b', ['0', '1'])/'1'/'odd.png')
    refused('not squares of one size', import_set, tmp_path/'b', stats='none')
    refused(r'images \[3, 9, 9\] beside real ones', import_set, pictures(tmp_path/'c', real.classes, side=9), real=real)

def test_a_picture_that_is_none_and_hidden_files(tmp_path):
    pictures(tmp_path/'a', ['0', '1']); (tmp_path/'a'/'0'/'.DS_Store').write_bytes(b'x'); (tmp_path/'a'/'.cache').mkdir()
    assert len(import_set(tmp_path/'a', stats='none')) == 2*IPC
    (tmp_path/'a'/'1'/'1.png').write_bytes(b'\x89PNG and no more')
    refused('1.png: not a readable image', import_set, tmp_path/'a', stats='none')

def test_numbers_as_class_names_of_a_real_set(tmp_path):
    pictures(tmp_path, ['10', '1', '2'])
    real = ImageTensors(torch.rand(6, 3, 8, 8, generator=gen()), torch.arange(6) % 3, 3, classes=['10', '1', '2'], name='toy')
    assert (d := import_set(tmp_path, real=real)).images[:, 0, 0, 0].long().tolist() == d.y.tolist()

def test_parquet_of_the_hub(tmp_path):
    pa = pytest.importorskip('pyarrow'); import pyarrow.parquet
    d = StoredPixels(torch.randint(256, (C, 3, 8, 8), generator=gen(), dtype=torch.uint8), torch.arange(C), C, classes=list('wxyz'))
    f = export_set(d, tmp_path/'x'/'data'/'train-00000-of-00001.parquet', 'parquet')
    for g in (tmp_path/'x'/'data').glob('*.json'): g.unlink()
    shutil.copy(f, f.with_name('test-00000-of-00001.parquet'))
    back = import_set(tmp_path/'x', stats='none')
    assert torch.equal(back.images, d.images) and back.classes == list('wxyz')

def test_parquet(tmp_path):
    pa = pytest.importorskip('pyarrow'); import pyarrow.parquet
    def png(c): out = io.BytesIO(); Image.new('RGB', (8, 8), (c, 1, 2)).save(out, 'PNG'); return out.getvalue()
    for name, cells in dict(records=[dict(bytes=png(c), path='') for c in range(C)], plain=[png(c) for c in range(C)]).items():
        pa.parquet.write_table(pa.table(dict(image=cells, class_id=list(range(C)))), tmp_path/f'{name}.parquet')
        d = import_set(tmp_path/f'{name}.parquet', stats='none')
        assert d.images[:, 0, 0, 0].tolist() == d.y.tolist() == list(range(C))
    pa.parquet.write_table(pa.table(dict(picture=[1])), tmp_path/'other.parquet')
    refused('columns image and class_id are asked for; there are picture', import_set, tmp_path/'other.parquet', stats='none')
    (tmp_path/'cut.parquet').write_bytes((tmp_path/'plain.parquet').read_bytes()[:100])
    refused('truncated, damaged or no parquet', import_set, tmp_path/'cut.parquet', stats='none')

# --- what files do not say
def test_norms_by_rule(tmp_path, y):
    x = torch.randn(20, 3, 32, 32, generator=gen())
    save(tmp_path/'a', images_best=x, labels_best=torch.arange(10).repeat_interleave(2)); save(tmp_path/'b', res_DC_x=dc(torch.randn(100, 3, 32, 32, generator=gen()), torch.arange(100)))
    d = import_set(tmp_path/'a', lr=.1)
    assert d.norm.mean == list(STATS['cifar10']['mtt'][0]) and d.name == 'cifar10' and sum('cifar10' in a for a in d.info['assumed']) == 2
    assert import_set(tmp_path/'b').norm.mean == list(STATS['cifar100']['dc'][0]) # DC has constants of its own
    assert import_set(tmp_path/'b', stats='mtt').norm.mean == list(STATS['cifar100']['mtt'][0])
    assert isinstance(import_set(tmp_path/'a', lr=.1, stats='none').norm, NoNorm)

def test_a_norm_that_nobody_says_is_asked_for(tmp_path, x, y):
    save(tmp_path, images_best=x, labels_best=y)
    refused('no file says the norm', import_set, tmp_path, lr=.1)
    assert import_set(tmp_path, lr=.1, stats='dc', of='cifar10').norm.source == 'dc'

def white(real, seed=3):
    pixels = torch.rand(400, *SHAPE, generator=gen(seed))
    return real.renorm(fit_zca(pixels))

def test_a_matrix_is_tested_by_the_pictures(tmp_path, x, y, real):
    w = white(real)
    save(tmp_path, images_5000=x, labels_5000=y, images_zca_5000=w.norm.inverse(x))
    assert same(import_set(tmp_path, real=w, lr=.1), x, y)
    refused('a matrix of another set', import_set, tmp_path, real=real, lr=.1)
    refused('a matrix of another set', import_set, tmp_path, real=real.renorm(fit_zca(torch.rand(400, *SHAPE, generator=gen(4)).square())), lr=.1)
    refused('whose matrix is in no file', import_set, tmp_path, lr=.1)

def test_everything_assumed_is_printed_and_kept(tmp_path, x, y, real, capsys):
    save(tmp_path, res_DC_x=dc(x, y))
    d = import_set(tmp_path, stats='dc', of='cifar10')
    out = capsys.readouterr().out
    assert all(f'assumed: {a}' in out for a in d.info['assumed']) and 'rate 0.01' in out and '4 classes' in out
    d.save(tmp_path/'a.safetensors')
    assert Distilled.load(tmp_path/'a.safetensors').info == json.loads(json.dumps(d.info)) and str(tmp_path) not in json.dumps(d.info)

# --- bad input: a line each, and nothing written
def files_of(k, x, y, folder):
    "Files of a form: (path, what to say beside them)."
    z = lambda: torch.eye(C)[y]*5
    makes = dict(mtt=lambda: save(folder, images_best=x, labels_best=y), datm=lambda: save(folder, images=x, labels=z(), lr=torch.tensor(.1)), dc=lambda: save(folder, res_DC_x=dict(data=[[x, y]])),
                 idc=lambda: save(folder, data=[x, y]), idm=lambda: save(folder, data=(x, y)), torch=lambda: save(folder, a=dict(images=x, labels=y)), d3=lambda: save(folder, a=dict(syn_img=x, vae_state_dict={})),
                 haba=lambda: save(folder, images_best=x, weights_best={}), ddranking=lambda: save(folder, images=x, lr=torch.tensor(.1)))
    return makes[k](), dict(factor=1) if k in ('idc', 'idm') else {}
TENSORS = 'mtt datm dc idc idm torch d3 haba ddranking'.split()

@pytest.mark.parametrize('k', TENSORS)
@pytest.mark.parametrize('bad, says', [('nan', 'not finite'), ('flat', r'floats \[n, c, h, w\]|own code first'), ('empty', r'floats \[n, c, h, w\]'), ('five', '1 or 3 channels')])
def test_images_that_are_none(tmp_path, x, y, real, k, bad, says):
    if bad == 'nan': x[1, 0, 2, 3] = float('nan')
    x, y = dict(nan=x, flat=x.flatten(1), empty=x[:0], five=torch.cat([x, x[:, :2]], 1))[bad], y[:0] if bad == 'empty' else y
    path, kw = files_of(k, x, y, tmp_path/k)
    assert str(path) in refused(says, import_set, path, k, real, lr=.1, **kw)

@pytest.mark.parametrize('k', TENSORS)
@pytest.mark.parametrize('turn', ['half', 'last', 'double'])
def test_half_precision_and_channels_that_come_last_are_said(tmp_path, x, y, real, k, turn):
    v = dict(half=x.half(), double=x.double(), last=x.permute(0, 2, 3, 1))[turn]
    path, kw = files_of(k, v, y, tmp_path/k)
    d = import_set(path, k, real, lr=.1, **kw)
    assert any({'last': 'channels came last', 'half': 'float16', 'double': 'float64'}[turn] in a for a in d.info['assumed']) and d.images.dtype == torch.float32 and d.shape == SHAPE

@pytest.mark.parametrize('k', TENSORS)
@pytest.mark.parametrize('part', [0, .1, .5, .99])
def test_files_that_were_cut_off(tmp_path, x, y, real, k, part):
    path, kw = files_of(k, x, y, tmp_path/k)
    file = max(path.glob('*.pt'), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[:int(part*file.stat().st_size)])
    assert str(file) in refused('truncated, damaged', import_set, path, k, real, lr=.1, **kw)
    assert str(file) in refused('truncated, damaged', import_set, path, 'auto', real, lr=.1, **kw) or k in ('datm', 'mtt')

@pytest.mark.parametrize('k', ['mtt', 'dc', 'idc', 'torch'])
@pytest.mark.parametrize('bad, says', [('beyond', 'labels run from 1 to 4'), ('minus', 'labels run from -1'), ('few', '12 images but 11 labels'), ('parts', 'no class numbers'), ('text', 'labels are|two tensors|dictionary|list of pairs')])
def test_labels_that_do_not_fit(tmp_path, x, y, real, k, bad, says):
    y = dict(beyond=y + 1, minus=y - 1, few=y[:-1], parts=y + .5, text='abc')[bad]
    path, kw = files_of(k, x, y, tmp_path/k)
    refused(says, import_set, path, k, real, lr=.1, **kw)

@pytest.mark.parametrize('rate', [0, -1, float('nan'), float('inf')])
@pytest.mark.parametrize('where', ['said', 'file'])
def test_a_rate_is_finite_and_positive(tmp_path, x, y, real, rate, where):
    save(tmp_path, images_best=x, labels_best=y, lr_best=torch.tensor(float(rate)))
    refused('rate is|lr is', import_set, tmp_path, real=real, **(dict(lr=rate) if where == 'said' else {}))

@pytest.mark.parametrize('name, near', [('mtts', 'mtt'), ('dat', 'datm'), ('SRE2L', 'sre2l'), ('parket', 'parquet')])
def test_an_unknown_form(tmp_path, x, y, real, name, near):
    save(tmp_path, images_best=x, labels_best=y)
    refused(f'did you mean {near}', import_set, tmp_path, name, real)
    refused(f'did you mean {near}', export_set, Distilled.example(), tmp_path/'out', name)

@pytest.mark.parametrize('data, says', [(b'', 'an empty file'), (b'<!DOCTYPE html><title>404</title>', 'a web page .a download that failed'), (b'version https://git-lfs', 'a Git LFS pointer'), (b'\x1f\x8b12', 'damaged archive'), (bytes(1000), 'damaged')])
def test_foreign_files(tmp_path, real, data, says):
    (tmp_path/'images_best.pt').write_bytes(data)
    refused(says, import_set, tmp_path/'images_best.pt', 'mtt', real, lr=.1)
    (tmp_path/'x').mkdir(); (tmp_path/'x'/'notes.txt').write_bytes(data)
    refused('no form is recognised .there is notes.txt', import_set, tmp_path/'x', real=real)
    refused('no such file or folder', import_set, tmp_path/'nowhere', real=real)

class Trap:
    "Runs when it is unpickled."
    def __reduce__(self): return (os.mkdir, (os.environ['TRAP'],))

@pytest.mark.parametrize('k', [n for n, f in FORMS.items() if f.read] + ['auto'])
def test_no_code_is_run(tmp_path, monkeypatch, real, k):
    monkeypatch.setenv('TRAP', str(tmp_path/'sprung'))
    folder = save(tmp_path/'a', images_best=Trap(), labels_best=Trap(), images=Trap(), res_x=Trap(), weights_best=Trap())
    np.save(folder/'images.npy', np.array([Trap()], dtype=object), allow_pickle=True); np.save(folder/'labels.npy', np.array([Trap()], dtype=object), allow_pickle=True)
    refused('.', import_set, folder, k, real, lr=.1, **(dict(factor=1) if k in ('idc', 'idm') else {}))
    if k in ('mtt', 'datm', 'dc', 'auto'): refused('it needs posix.mkdir, so loading it could run code', import_set, folder, k, real, lr=.1)
    assert not (tmp_path/'sprung').exists()

def test_images_of_another_size(tmp_path, x, y, real):
    for k in TENSORS:
        path, kw = files_of(k, x[..., :4, :4], y, tmp_path/k)
        refused(r'images \[3, 4, 4\] beside real ones \[3, 8, 8\]', import_set, path, k, real, lr=.1, **kw)

def test_words_that_are_no_options(tmp_path, x, y, real):
    path, _ = files_of('mtt', x, y, tmp_path/'a')
    refused("'rate' is no setting of an import", import_set, path, real=real, rate=.1)
    for k, v in dict(stats='dc', of='cifar10', n_classes=9).items(): refused(f'{k} says nothing beside the real set', import_set, path, real=real, lr=.1, **{k: v})
    for k, v, who in (('run', 1, 'dc'), ('factor', 2, 'idc, idm'), ('order', 'text', 'sre2l, rded')): refused(f'{k} has no meaning for files of mtt; it is for {who}', import_set, path, real=real, lr=.1, **{k: v})
    refused('is not one of', import_set, path, lr=.1, labels='soft')

# --- archives
def archive(path, names):
    "An archive whose members have these names."
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as z:
            for n, data in names.items(): z.writestr(n, data)
    else:
        with tarfile.open(path, 'w:gz' if path.suffix == '.gz' else 'w') as t:
            for n, data in names.items():
                info = tarfile.TarInfo(n); info.size = len(data); t.addfile(info, io.BytesIO(data))
    return path

@pytest.mark.parametrize('end', ['.zip', '.tar', '.tar.gz'])
@pytest.mark.parametrize('top', ['', 'set/'])
def test_archives(tmp_path, x, y, real, end, top):
    folder, _ = files_of('mtt', x, y, tmp_path/'a')
    path = archive(tmp_path/f'set{end}', {f'{top}{f.name}': f.read_bytes() for f in folder.iterdir()})
    assert same(import_set(path, real=real, lr=.1), x, y)
    assert str(path) in refused('says the student', import_set, path, real=real)

@pytest.mark.parametrize('end', ['.zip', '.tar'])
@pytest.mark.parametrize('name', ['../out.pt', '/out.pt', 'a/../../out.pt', '..\\out.pt', 'C:/out.pt'])
def test_an_archive_that_leaves_its_folder(tmp_path, real, end, name):
    path = archive(tmp_path/f'a{end}', {'ok.pt': b'1', name: b'2'})
    refused('leaves the folder; nothing was unpacked', import_set, path, real=real)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]

@pytest.mark.parametrize('end', ['.zip', '.tar', '.tar.gz'])
@pytest.mark.parametrize('part', [.3, .5])
def test_an_archive_that_was_cut_off(tmp_path, x, y, real, end, part):
    folder, _ = files_of('mtt', x, y, tmp_path/'a')
    path = archive(tmp_path/f'set{end}', {f.name: f.read_bytes() for f in folder.iterdir()})
    path.write_bytes(path.read_bytes()[:int(part*path.stat().st_size)])
    assert str(path) in refused('damaged|no form is recognised', import_set, path, real=real, lr=.1)

def test_a_link_in_an_archive(tmp_path, real):
    with tarfile.open(tmp_path/'a.tar', 'w') as t:
        info = tarfile.TarInfo('images_best.pt'); info.type, info.linkname = tarfile.SYMTYPE, '/etc/passwd'; t.addfile(info)
    refused('is a link or leaves', import_set, tmp_path/'a.tar', real=real)

# --- out and in again
def pixels(real, x, y, **kw): return Pixels(x, y, C, classes=real.classes, norm=real.norm, lr=.02, name='toy', arch=dict(name='convnet', n_in=3, n_out=C, size=8, width=4, depth=1), **kw)

def ending(k): return dict(npz='.npz', torch='.pt', parquet='.parquet').get(k, '')

@pytest.mark.parametrize('k', WRITTEN)
@pytest.mark.parametrize('norm', ['mean', 'zca', 'none'])
def test_there_and_back(tmp_path, x, y, real, k, norm):
    if k == 'parquet': pytest.importorskip('pyarrow')
    at = dict(mean=real.norm, zca=white(real).norm, none=NoNorm())[norm]
    d = Pixels(at(torch.rand(len(y), *SHAPE, generator=gen())), torch.eye(C)[y]*.8 + .05 if k == 'datm' else y, C, classes=real.classes, norm=at, lr=.02, name='toy', protocol='dsa')
    path = export_set(d, tmp_path/f'a{ending(k)}', k)
    back = import_set(path)
    a, b = d.dataset().tensors, back.dataset().tensors
    off = (d.norm.inverse(a[0]) - back.norm.inverse(b[0])).abs().max()
    assert off < (.51/255 if k in ('folder', 'parquet') else 3e-3 if norm == 'zca' else 1e-6) and (torch.equal(a[0], b[0]) or k in ('folder', 'parquet'))
    assert (torch.equal(a[1], b[1]) if k != 'datm' else torch.allclose(a[1], b[1], atol=1e-6)) and back.classes == d.classes and back.protocol == 'dsa' and back.name == 'toy'
    assert back.student_lr.item() == d.student_lr.item() and type(back.norm) is type(d.norm)

@pytest.mark.parametrize('k', ['npz', 'torch', 'ddranking', 'datm'])
def test_soft_labels_there_and_back(tmp_path, x, y, real, k):
    q = (torch.randn(len(y), C, generator=gen(4)) + 9*torch.eye(C)[y]).softmax(1)
    back = import_set(export_set(pixels(real, x, q), tmp_path/f'a{ending(k)}', k))
    assert torch.equal(back.y, q) if k in ('npz', 'torch') else torch.allclose(back.y, q, atol=1e-6)

@pytest.mark.parametrize('k', WRITTEN)
def test_bytes_survive_every_form(tmp_path, y, real, k):
    if k == 'datm': return
    if k == 'parquet': pytest.importorskip('pyarrow')
    u = torch.randint(256, (len(y), *SHAPE), generator=gen(), dtype=torch.uint8)
    d = StoredPixels(u, y, C, classes=real.classes, norm=real.norm, lr=.02)
    back = import_set(export_set(d, tmp_path/f'a{ending(k)}', k))
    assert torch.equal((back.norm.inverse(back.dataset().tensors[0])*255).round().byte(), u)

@pytest.mark.parametrize('k', WRITTEN)
def test_without_the_card_only_the_files_speak(tmp_path, x, y, real, k):
    if k == 'parquet': pytest.importorskip('pyarrow')
    d = pixels(real, x.clamp(-.5, .5), torch.eye(C)[y] if k == 'datm' else y)
    path = export_set(d, tmp_path/f'a{ending(k)}', k)
    for f in [*tmp_path.rglob('*card.json')]: f.unlink()
    kw = {} if k in ('mtt', 'datm', 'ddranking', 'npz', 'torch') else dict(lr=.02)
    back = import_set(path, real=real, **kw)
    assert torch.equal(back.dataset().tensors[1].argmax(1) if k == 'datm' else back.y, y) and back.student_lr.item() == d.student_lr.item()
    if k not in ('folder', 'parquet'): assert torch.equal(back.images, d.images)

def test_a_card_of_other_files_is_left_aside(tmp_path, x, y, real):
    path = export_set(pixels(real, x, y), tmp_path/'a', 'mtt')
    save(path, images_best=x + 1)
    d = import_set(path, real=real)
    assert any('card.json was not used' in a for a in d.info['assumed'])
    export_set(pixels(real, x, y), tmp_path/'b', 'mtt')
    refused('its card has another norm', import_set, tmp_path/'b', real=real.renorm(Normalize([.1]*3, [.2]*3)))
    (tmp_path/'b'/'dd_card.json').write_text('{', encoding='utf-8')
    assert any('card.json was not used' in a for a in import_set(tmp_path/'b', real=real).info['assumed'])
    card = json.loads((export_set(pixels(real, x, y), tmp_path/'c', 'mtt')/'dd_card.json').read_text(encoding='utf-8'))
    for bad in (dict(lr='fast'), dict(init=3), dict(norm=dict(kind='magic')), dict(norm=None)):
        (tmp_path/'c'/'dd_card.json').write_text(json.dumps(card | bad), encoding='utf-8')
        assert any('card.json was not used' in a for a in import_set(tmp_path/'c', real=real).info['assumed'])

def test_the_matrix_of_an_export_is_compared(tmp_path, x, y, real):
    w = white(real)
    path = export_set(pixels(w, x, y), tmp_path/'a', 'mtt')
    assert same(import_set(path, real=w), x, y) and same(import_set(path), x, y)
    refused('its card has another norm', import_set, path, real=real.renorm(fit_zca(torch.rand(400, *SHAPE, generator=gen(9)).square())))

@pytest.mark.parametrize('k, says', [('mtt', 'soft labels'), ('dc', 'the rate'), ('folder', '8 bits'), ('parquet', '8 bits')])
def test_what_a_form_cannot_hold_is_said(tmp_path, x, y, real, capsys, k, says):
    if k == 'parquet': pytest.importorskip('pyarrow')
    path = export_set(pixels(real, x, torch.eye(C)[y]), tmp_path/f'a{ending(k)}', k)
    card = next(tmp_path.rglob('*card.json'))
    lost = json.loads(card.read_text())['lost']
    assert any(says in l for l in lost) and says in capsys.readouterr().out and FORMS[k].loses

def test_unsorted_sets_are_written_class_by_class(tmp_path, x, y, real):
    at = torch.randperm(len(y), generator=gen())
    back = import_set(export_set(pixels(real, x[at], y[at]), tmp_path/'a', 'mtt'))
    assert torch.equal(back.y, y) and torch.equal(back.images[0], x[at][y[at] == 0][0])

def test_priors_are_written_as_one_epoch(tmp_path, real):
    d = LatentPriors(C, 2, z_dim=8, size=16, norm=real.norm, lr=.02)
    path = export_set(d, tmp_path/'a', 'mtt')
    assert any('one epoch' in l for l in json.loads((path/'dd_card.json').read_text())['lost'])

@pytest.mark.parametrize('k', WRITTEN)
def test_an_export_is_whole_or_not_there(tmp_path, x, y, real, k, monkeypatch):
    if k == 'parquet': pytest.importorskip('pyarrow')
    d = pixels(real, x, torch.eye(C)[y] if k == 'datm' else y)
    monkeypatch.setattr(exchange, '_write_card', lambda *a: (_ for _ in ()).throw(OSError(28, 'No space left')))
    to = tmp_path/f'a{ending(k)}'
    with pytest.raises(OSError, match='could not write .*No space left'): export_set(d, to, k)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    to.write_text('mine', encoding='utf-8')
    refused('is there already', export_set, d, to, k)
    assert to.read_text(encoding='utf-8') == 'mine' and list(tmp_path.iterdir()) == [to]

def test_forms_that_are_only_read(tmp_path): refused('can be read and not written', export_set, Distilled.example(), tmp_path/'a', 'kip')

def ddranking_checks(folder, n_classes, ipc):
    "What DD-Ranking asks of its input, as FORMATS states it."
    get = lambda n: torch.load(folder/f'{n}.pt', weights_only=True)
    x, lr = get('images'), get('lr')
    assert x.ndim == 4 and len(x) == n_classes*ipc and x.dtype == torch.float32 and lr.numel() == 1 and lr > 0
    if (folder/'labels.pt').exists(): assert get('labels').shape == (len(x), n_classes)
    return x

@pytest.mark.parametrize('soft', [True, False])
def test_ddranking(tmp_path, x, y, real, soft):
    q = (torch.randn(len(y), C, generator=gen(4)) + 9*torch.eye(C)[y]).softmax(1)
    d = pixels(real, x, q if soft else y)
    path = export_set(d, tmp_path/'a', 'ddranking')
    assert torch.equal(ddranking_checks(path, C, IPC), x)
    back = import_set(path)
    assert torch.allclose(back.y, q, atol=1e-6) if soft else torch.equal(back.y, y)
    refused('same number of images of each class', export_set, pixels(real, x[1:], y[1:]), tmp_path/'b', 'ddranking')
    assert not (tmp_path/'b').exists()

def test_a_form_of_ones_own(tmp_path, x, y, real):
    try:
        @form('theirs', 'somebody', sees=lambda found: 'pics.pt'*found.has('pics.pt'))
        def theirs(found, o): return exchange.Raw(found.pt('pics.pt'), None, .1)
        save(tmp_path, pics=x)
        assert same(import_set(tmp_path, real=real), x, y) and 'theirs' in exchange.forms().form.tolist()
    finally: FORMS.pop('theirs', None)

def test_our_own_artefacts_are_read_as_they_are(real):
    path = asset('digits-mtt-ipc1.safetensors')
    assert import_set(path).card()['kind'] == 'Pixels'
    for kw in (dict(lr=.1), dict(real=real), dict(form='mtt')): refused('an artefact already', import_set, path, **kw)

def test_every_form_has_its_line():
    t = exchange.forms()
    assert t.form.tolist() == list(FORMS) and t.who.str.len().min() > 5
    assert {'mtt', 'datm', 'dc', 'idc', 'idm', 'kip', 'haba', 'd3', 'sre2l', 'rded', 'd4m', 'minimax', 'folder', 'parquet', 'ddranking', 'npz', 'torch'} <= set(FORMS)
    assert {'mtt', 'dc', 'folder', 'parquet', 'ddranking', 'npz', 'torch'} <= set(WRITTEN)

# --- the real files
def need(name=''):
    if not (HERE/name).exists(): pytest.skip(f'no published sets at hand ({name or "shared/data/published"}; DD_PUBLISHED names the folder)')
    return HERE/name

FORM_OF = {n.folder: n for n in public_sets().values()}
@pytest.mark.parametrize('folder', FORM_OF)
def test_every_published_file(folder, tmp_path):
    p, path = FORM_OF[folder], need(folder)
    assert recognise(Found(path))[0] == p.form
    n = int(p.data[5:])
    norm = ZCA(torch.zeros(3072), torch.eye(3072), torch.eye(3072), (3, 32, 32), small=(torch.zeros(3072, 0).half(), torch.zeros(0), 1.)) if p.norm == 'zca' else Normalize(*STATS[p.data]['mtt' if p.norm == 'kip' else p.norm])
    real = ImageTensors(torch.zeros(n, 3, 32, 32), torch.arange(n), n, norm=norm, name=p.data)
    lr = {} if p.lr or p.lr_from == 'learned' else dict(lr=.01)
    d = import_set(path, 'auto', real, **lr)
    assert (len(d), d.shape, d.n_classes) == (n*p.ipc, (3, 32, 32), n) and d.info['imported']['public'] == p.name
    d.show()
    for k in WRITTEN:
        if (k == 'datm') != (d.y.ndim == 2) or k == 'parquet' and not pytest.importorskip('pyarrow'): continue
        if k == 'ddranking' and p.form == 'kip': continue # its classes are not of one size
        back = import_set(export_set(d, tmp_path/f'{k}{ending(k)}', k, quiet=True), quiet=True)
        s = exchange.Sheet(d)
        if k in ('folder', 'parquet'): assert torch.equal(back.images, s.bytes()); continue
        assert torch.equal(back.images.detach(), s.x) and torch.allclose(back.y.float(), s.y.float(), atol=1e-6)

def test_the_wrong_real_set_for_a_known_file():
    path = need('dc-cifar10-ipc1')
    real = ImageTensors(torch.zeros(10, 3, 32, 32), torch.arange(10), 10, norm=Normalize(*STATS['cifar10']['dc']), name='svhn')
    refused('made from cifar10; the real set that was given is svhn', import_set, path, real=real)

def test_what_the_list_says_is_what_lies_beside_the_files():
    lines = {l['name']: l for l in json.loads((need('manifest.json')).read_text())}
    assert set(lines) == set(FORM_OF)
    for name, p in FORM_OF.items():
        l = lines[name]
        assert (p.method, p.data, p.ipc, p.files, p.printed, p.licence, p.source) == (l['method'], l['dataset'], l['ipc'], l['files'], l['printed'], l['licence'], l['source'])
        assert p.lr == (l['lr'] if isinstance(l['lr'], float) else None) and p.space == l['space']

def test_a_public_set_is_evaluated_in_a_few_lines():
    d = load_set('dc/cifar10/ipc1', need().parent)
    test = ImageTensors(torch.randn(10, 3, 32, 32, generator=gen()), torch.arange(10), 10, norm=d.norm, name='cifar10')
    row, = evaluate(d, test, dict(name='convnet', n_in=3, n_out=10, size=32, width=4, depth=3), as_protocol(d.protocol).scaled(kind='smoke', epochs=1), n_eval=1)
    assert row.n == 1 and d.protocol == 'dc' and d.info['imported']['printed'] == '28.03 (0.60)'

# --- the list of public sets
def table(tmp_path, files, address=None, **kw):
    "A list with one set, whose files lie in a shop on this disk."
    shop = tmp_path/'shop'; shop.mkdir(exist_ok=True)
    for n, v in files.items(): torch.save(v, shop/n)
    row = {f.name: '' for f in fields(PublicSet)} | dict(name='toy/toy/ipc3', folder='toy', ipc='3', form='mtt', norm='mtt', data='cifar10', lr='.1', lr_from='us',
          files=' '.join(f'{n}={file_sha256(shop/n)}' for n in files), address=shop.as_uri() if address is None else address) | kw
    with open(tmp_path/'table.csv', 'w', newline='', encoding='utf-8') as f:
        w = csv.DictWriter(f, row); w.writeheader(); w.writerow(row)
    return tmp_path/'table.csv'

def test_a_public_set_is_fetched_checked_and_filled_in(tmp_path, x, y, real):
    t = table(tmp_path, {'images_best.pt': x, 'labels_best.pt': y})
    d = load_set('toy/toy/ipc3', tmp_path/'data', table=t)
    assert same(d, x, y) and d.student_lr.item() == pytest.approx(.1) and d.norm.mean == list(STATS['cifar10']['mtt'][0])
    shutil.rmtree(tmp_path/'shop')
    assert same(load_set('toy/toy/ipc3', tmp_path/'data', table=t), x, y) # at hand now

@pytest.mark.parametrize('folder', ['toy', 'published/toy'])
def test_files_at_hand_come_first(tmp_path, x, y, folder):
    t = table(tmp_path, {'images_best.pt': x, 'labels_best.pt': y})
    shutil.move(tmp_path/'shop', tmp_path/'data'/folder)
    assert fetch_set('toy/toy/ipc3', tmp_path/'data', t) == tmp_path/'data'/folder
    save(tmp_path/'data'/folder, images_best=x + 1)
    refused('it is left there and not used', load_set, 'toy/toy/ipc3', tmp_path/'data', table=t)

def test_a_hash_that_fails_keeps_the_file_aside(tmp_path, x, y):
    t = table(tmp_path, {'images_best.pt': x, 'labels_best.pt': y})
    torch.save(x + 1, tmp_path/'shop'/'images_best.pt')
    refused('kept as .*images_best.pt.not-as-listed, and not used', load_set, 'toy/toy/ipc3', tmp_path/'data', table=t)
    assert [p.name for p in (tmp_path/'data'/'published'/'toy').iterdir()] == ['images_best.pt.not-as-listed']

def test_no_address_no_such_set_no_such_file(tmp_path, x, y):
    refused('did you mean', load_set, 'mtt/cifar10/ipc2')
    refused('no address is known; put images_best.pt, labels_best.pt into', load_set, 'mtt/cifar10/ipc1', tmp_path)
    t = table(tmp_path, {'images_best.pt': x, 'labels_best.pt': y}, address=(tmp_path/'nowhere').as_uri())
    refused('the download failed', load_set, 'toy/toy/ipc3', tmp_path/'data', table=t)
    assert not any((tmp_path/'data').rglob('*.pt'))
    t.write_text('name\nx\n', encoding='utf-8')
    refused('no table of public sets', public_sets, t)

# --- experts
def new(): return ConvNet(3, C, 8, width=4, depth=1)
def paths(n=2, epochs=3): return [[[p.detach().clone() for p in new().parameters()] for _ in range(epochs + 1)] for _ in range(n)]

def test_experts_in_and_out(tmp_path, real):
    files = [paths(), paths(1), paths()]
    for i, v in enumerate(files): torch.save(v, tmp_path/f'replay_buffer_{i if i < 2 else 10}.pt') # 10 comes after 2
    b = import_experts(tmp_path, tmp_path/'b', real, new())
    assert (len(b), b.epochs) == (5, 3) and torch.equal(b.snapshot(3, 2), torch.cat([p.flatten() for p in files[2][0][2]])) and b.card['assumed']
    b.fits(real)
    out = export_experts(b, tmp_path/'out', each=2)
    assert sorted(f.name for f in out.iterdir()) == [f'replay_buffer_{i}.pt' for i in range(3)]
    got = torch.load(out/'replay_buffer_1.pt', weights_only=True)
    assert all(torch.equal(a, c) for a, c in zip(got[0][1], files[1][0][1])) and len({p.data_ptr() for e in got[0] for p in e}) == sum(map(len, got[0]))
    assert len(import_experts(tmp_path, tmp_path/'c', real, new(), n=2)) == 2

@pytest.mark.parametrize('bad, says', [('aliased', 'one tensor under 4 names'), ('other net', 'tensors, the network has'), ('nan', 'not finite'), ('epochs', 'has 2 epochs, the first has 3'), ('dict', 'a list of experts'), ('flat', 'a list over epochs'), ('none', 'no expert in it')])
def test_experts_that_are_none(tmp_path, real, bad, says):
    v, net = paths(), new()
    if bad == 'aliased': v = [[[p.data for p in net.parameters()] for _ in range(4)]]
    if bad == 'other net': v[0][0] = v[0][0][1:]
    if bad == 'nan': v[0][1][0].view(-1)[0] = float('nan')
    if bad == 'epochs': v[1] = v[1][:-1]
    v = dict(dict=dict(a=1), flat=[torch.zeros(3)], none=[]).get(bad, v)
    torch.save(v, tmp_path/'replay_buffer_0.pt')
    refused(says, import_experts, tmp_path, tmp_path/'b', real, new())
    assert [p.name for p in tmp_path.iterdir()] == ['replay_buffer_0.pt']

def test_a_copy_that_is_no_alias_is_still_refused(tmp_path, real):
    ps = [p.detach() for p in new().parameters()]
    torch.save([[[p.clone() for p in ps] for _ in range(4)]], tmp_path/'replay_buffer_0.pt')
    refused('epochs are all alike', import_experts, tmp_path, tmp_path/'b', real, new())

# --- stored labels
@pytest.fixture
def labelled(tmp_path, x, y, real):
    d = pixels(real, x, y)
    return d, relabel(d, [new().eval()], tmp_path/'store', 2, ViewSettings(batch=5, cutmix=True), quiet=True)

def alike(d, a, b):
    return all(torch.equal(a.epoch(e).views.see(d, i), b.epoch(e).views.see(d, i)) and torch.equal(a.epoch(e).soft(i), b.epoch(e).soft(i)) for e in range(2) for i in range(3))

def test_labels_out_and_in(tmp_path, labelled):
    d, store = labelled
    out = export_labels(store, tmp_path/'fkd')
    got = torch.load(out/'epoch_1'/'batch_2.tar', weights_only=True)
    assert len(got) == 7 and got[0].shape == (2, 4) and got[1].dtype == torch.bool and got[5].dtype == torch.float16 and got[0].max() <= 1
    back = import_labels(out, tmp_path/'back', d)
    assert alike(d, store, back) and len(list(Relabelled(d, back).epoch(0, 5))) == 3

def fkd(folder, d, order, lam=None, edit=lambda b: b):
    "Labels as SRe2L's code writes them, whole images in the order that is given, for two epochs."
    for e in range(2):
        (folder/f'epoch_{e}').mkdir(parents=True)
        for b, idx in enumerate(torch.tensor(order[e]).split(5)):
            coords, flip, n = torch.tensor([[0., 0., 1., 1.]]).repeat(len(idx), 1), torch.zeros(len(idx), dtype=torch.bool), len(idx)
            z = 10.*torch.eye(C)[d.y[idx]]
            torch.save(edit([coords, flip, torch.arange(n).flip(0) if lam else None, lam, None, z.half()]), folder/f'epoch_{e}'/f'batch_{b}.tar')
    return folder

def test_the_order_is_that_of_the_sampler(tmp_path, x, y, real):
    d = pixels(real, x, y)
    rng = gen(42); three = [torch.randperm(12, generator=rng).tolist() for _ in range(3)]
    assert fkd_order(12, 2) == [three[0], three[2]]
    store = import_labels(fkd(tmp_path/'a', d, fkd_order(12, 2)), tmp_path/'s', d)
    for e in range(2):
        for v, q in Relabelled(d, store, temperature=1.).epoch(e, 5):
            assert all(torch.allclose(x[(x - i).abs().flatten(1).sum(1).argmin()], i) for i in v)
            assert [int(y[(x - i).abs().flatten(1).sum(1).argmin()]) for i in v] == q.argmax(1).tolist()

def test_mixup_has_its_share(tmp_path, x, y, real):
    d = pixels(real, x, y)
    order = fkd_order(12, 2)
    k = import_labels(fkd(tmp_path/'a', d, order, .25), tmp_path/'s', d).epoch(0)
    own = x[torch.tensor(order[0][:5])]
    assert torch.allclose(k.views.see(d, 0), .25*own + .75*own.flip(0), atol=1e-6)

def test_an_order_that_is_stored_is_taken(tmp_path, x, y, real):
    d, order = pixels(real, x, y), [list(range(12)), list(range(11, -1, -1))]
    a = fkd(tmp_path/'a', d, order)
    for e in range(2):
        for b, idx in enumerate(torch.tensor(order[e]).split(5)):
            f = a/f'epoch_{e}'/f'batch_{b}.tar'; torch.save([*torch.load(f, weights_only=True), idx], f) # EDC
    assert import_labels(a, tmp_path/'s', d).epoch(1).views.order.tolist() == order[1]
    b = fkd(tmp_path/'b', d, order)
    for kept in (order, {str(e): o for e, o in enumerate(order)}): # LPLD
        (b/'sampler_indices_epoch.json').write_text(json.dumps(kept), encoding='utf-8')
        assert import_labels(b, tmp_path/f's{len(str(kept))}', d).epoch(1).views.order.tolist() == order[1]
    (b/'sampler_indices_epoch.json').write_text('[[1]]', encoding='utf-8')
    refused('do not go through 12 images once|without epoch', import_labels, b, tmp_path/'sx', d)

@pytest.mark.parametrize('as_dict', [True, False])
def test_the_largest_logits_alone(tmp_path, x, y, real, as_dict):
    d = pixels(real, x, y)
    def top(b):
        v, i = b[5].float().topk(2); i = i.short()
        return [*b[:5], dict(values=v.half(), indices=i) if as_dict else (v.half(), i)]
    k = import_labels(fkd(tmp_path/'a', d, fkd_order(12, 2), edit=top), tmp_path/'s', d).epoch(0)
    q = k.soft(0)
    assert q.isfinite().all() and (q > 0).sum(1).max() <= 2 and q.argmax(1).tolist() == y[k.views.order[:5].long()].tolist()

@pytest.mark.parametrize('bad, says', [(lambda b: b[:4], 'no batch of stored labels'), (lambda b: [b[0][:, :3], *b[1:]], 'no batch of stored labels'), (lambda b: [*b[:5], b[5][:, :3]], 'logits of 4 classes'), (lambda b: [*b[:5], b[5]*float('nan')], 'half precision'),
    (lambda b: [b[0] - 1, *b[1:]], 'box that does not lie in the image'), (lambda b: dict(a=1), 'no batch'), (lambda b: [*b[:5], (b[5], torch.full((len(b[5]), 4), 9))], 'do not belong to 4 classes')])
def test_labels_that_are_none(tmp_path, x, y, real, bad, says):
    d = pixels(real, x, y)
    refused(says, import_labels, fkd(tmp_path/'a', d, fkd_order(12, 2), edit=bad), tmp_path/'s', d)
    assert [p.name for p in tmp_path.iterdir()] == ['a']

def put_in(place, i, v):
    "A batch whose part at `place` has v in row i."
    def edit(b):
        b = [t.clone() if isinstance(t, torch.Tensor) else t for t in b]
        if v is not None and place in (0, 1, 2): b[place][i] = torch.as_tensor(v, dtype=b[place].dtype)
        else: b[place] = v
        return b
    return edit

OUTSIDE = [[.5, 0, .6, 1], [0, .25, 1, .8], [-.1, 0, .5, .5], [0, 0, 1.2, 1], [0, 0, 0, 1], [0, 0, 1, -.5], [float('nan'), 0, 1, 1], [0, 0, float('inf'), 1]]

@pytest.mark.parametrize('box', OUTSIDE, ids=str)
@pytest.mark.parametrize('i', [0, 1])
def test_a_box_lies_in_the_image(tmp_path, x, y, real, box, i):
    d = pixels(real, x, y)
    said = refused('box that does not lie in the image', import_labels, fkd(tmp_path/'a', d, fkd_order(12, 2), edit=put_in(0, i, box)), tmp_path/'s', d)
    assert f'number {i} is' in said and 'batch_0.tar' in said and not (tmp_path/'s').exists()

@pytest.mark.parametrize('top, h, rows', [(0., 1., (0, 8)), (.5, .5, (4, 4)), (.875, .125, (7, 1)), (1/3, 2/3, (3, 5)), (.97, .03, (7, 1)), (0., .01, (0, 1))])
def test_a_box_at_the_edge_is_one(tmp_path, x, y, real, top, h, rows):
    d = pixels(real, x, y)
    store = import_labels(fkd(tmp_path/'a', d, fkd_order(12, 2), edit=put_in(0, 1, [top, 0, h, 1])), tmp_path/'s', d)
    box = store.epoch(0).views.box[1].tolist()
    assert (box[0], box[2]) == rows and box[1::2] == [0, 8] and store.epoch(0).views.see(d, 0).isfinite().all()

@pytest.mark.parametrize('place, v, says', [
    (3, 1.5, "share is 1.5, and it is one number from 0 to 1"), (3, -.1, 'share is -0.1'), (3, float('nan'), 'share is nan'), (3, float('inf'), 'share is inf'), (3, 'half', 'share is half'), (3, torch.tensor([.1, .2]), 'one number from 0 to 1'),
    (2, torch.tensor([0, 1, 2, 3, 5]), r'partners are whole numbers from 0 to 4; number 4 is \[5.0\]'), (2, torch.tensor([0, -1, 2, 3, 4]), r'number 1 is \[-1.0\]'), (2, torch.arange(4), r'each of 5 images; this is \[4\]'), (2, [1, 2, 3, 4, 0], 'this is list'), (2, torch.tensor([0, .5, 1, 2, 3]), r'number 1 is \[0.5\]'),
    (2, None, 'share is 0.25, and nobody has a partner'),
    (1, torch.tensor([0, 1, 2, 0, 1]), r'flips are whole numbers from 0 to 1; number 2 is \[2.0\]'), (1, torch.zeros(5, 2, dtype=torch.bool), r'this is \[5, 2\]'), (1, torch.zeros(10, dtype=torch.bool), r'this is \[10\]'), (1, torch.zeros(4, dtype=torch.bool), r'this is \[4\]'), (1, torch.full((5,), float('nan')), r'number 0 is \[nan\]'),
    (4, [0, 0, 9, 4], 'does not lie in images of 8 x 8'), (4, [4, 0, 2, 4], 'does not lie'), (4, [0, 0, 4], 'does not lie'), (4, [0, 0, 2.5, 4], 'does not lie'), (4, 3, 'does not lie'), (4, [float('nan'), 0, 1, 1], 'does not lie')], ids=str)
def test_parts_of_a_batch_that_are_none(tmp_path, x, y, real, place, v, says):
    d, order = pixels(real, x, y), fkd_order(12, 2)
    def edit(b): return [*b[:place], v, *b[place + 1:]] if len(b[0]) == 5 else b
    said = refused(says, import_labels, fkd(tmp_path/'a', d, order, .25, edit), tmp_path/'s', d)
    assert 'batch_0.tar' in said and [p.name for p in tmp_path.iterdir()] == ['a']

def test_a_cut_without_partners_is_refused_and_shares_of_nobody_pass(tmp_path, x, y, real):
    d, order = pixels(real, x, y), fkd_order(12, 2)
    refused('nobody has a partner', import_labels, fkd(tmp_path/'a', d, order, edit=put_in(4, 0, [0, 0, 4, 4])), tmp_path/'s', d)
    for k, (place, v) in enumerate([(3, 1.), (3, 1), (4, [0, 0, 0, 0]), (4, torch.tensor([3, 3, 3, 8]))]):
        assert import_labels(fkd(tmp_path/f'b{k}', d, order, edit=put_in(place, 0, v)), tmp_path/f's{k}', d).n == 12

@pytest.mark.parametrize('lam', [0., .5, 1, torch.tensor(.5), np.float64(.5)], ids=str)
def test_a_share_may_be_any_number_from_0_to_1(tmp_path, x, y, real, lam):
    d, order = pixels(real, x, y), fkd_order(12, 2)
    v = import_labels(fkd(tmp_path/'a', d, order, .25, put_in(3, 0, lam)), tmp_path/'s', d).epoch(0).views
    own = x[torch.tensor(order[0][:5])]
    assert torch.allclose(v.see(d, 0), float(lam)*own + (1 - float(lam))*own.flip(0), atol=1e-6)

def test_a_missing_batch_and_other_images(tmp_path, x, y, real):
    d = pixels(real, x, y)
    a = fkd(tmp_path/'a', d, fkd_order(12, 2))
    refused('do not go through 9 images once', import_labels, a, tmp_path/'s', pixels(real, x[:9], y[:9]))
    (a/'epoch_1'/'batch_1.tar').unlink()
    refused('batch_1 is missing', import_labels, a, tmp_path/'s', d)
    assert len(import_labels(a, tmp_path/'s', d, epochs=1)) == 1
    shutil.rmtree(a/'epoch_0'); refused('epoch_0 is missing', import_labels, a, tmp_path/'t', d)
    refused('no such folder', import_labels, tmp_path/'nowhere', tmp_path/'t', d)

def test_views_without_mixup_are_as_they_were(x, y, real):
    d = pixels(real, x, y)
    v = Views(torch.arange(12).int(), torch.tensor([[0, 0, 8, 8, 0]]).repeat(12, 1).short(), 12)
    assert torch.allclose(v.see(d, 0), x)
    v.partner, v.lam = torch.arange(12).flip(0).int(), torch.ones(1)
    assert torch.allclose(v.see(d, 0), x)

# --- the hub
def test_the_stand_in_is_called_like_the_hub():
    import inspect
    hf = pytest.importorskip('huggingface_hub')
    for n in ('create_repo', 'upload_folder', 'snapshot_download'):
        mine, theirs = (inspect.signature(getattr(c, n)).parameters for c in (FolderHub, hf.HfApi))
        assert set(mine) <= set(theirs), n

def test_push_and_pull(tmp_path):
    hf = pytest.importorskip('huggingface_hub')
    d, api = Distilled.example(), FolderHub(tmp_path)
    d.info['assumed'] = ['rate 0.01, that of the protocol']
    rows = [Row('a/b', 'paper', method='mtt', net=n, n=5, mean=m, std=1.) for n, m in (('convnet', 81.25), ('resnet18', 70.5))]
    assert push(d, 'me/ten', 'mit', rows, api=api) == 'me/ten'
    folder = tmp_path/'me'/'ten'
    assert sorted(f.name for f in folder.iterdir()) == ['README.md', 'distilled.safetensors', 'grid.png']
    back = pull('me/ten', api=api)
    assert torch.equal(back.images, d.images) and back.norm.mean == d.norm.mean
    data = hf.DatasetCard.load(folder/'README.md').data.to_dict()
    assert data['license'] == 'mit' and 'dataset-distillation' in data['tags']
    metrics = [m for r in data['model-index'][0]['results'] for m in r['metrics']]
    assert [m['value'] for m in metrics] == [81.25, 70.5] and 'rate 0.01' in (folder/'README.md').read_text(encoding='utf-8')
    push(d, 'me/ten', 'mit', api=api) # again, over it

def test_the_hub_says_no_in_one_line(tmp_path):
    pytest.importorskip('huggingface_hub')
    api = FolderHub(tmp_path)
    refused('licence is missing', push, Distilled.example(), 'me/ten', api=api)
    for repo in ('ten', '../ten', 'a/b/c', ''): refused('write OWNER/NAME', push, Distilled.example(), repo, 'mit', api=api)
    assert list(tmp_path.iterdir()) == []
    refused('me/none: not in the folder', pull, 'me/none', api=api)
    class Down(FolderHub):
        def snapshot_download(self, *a, **k): raise RuntimeError('404\nnot found')
    refused('the hub refused .RuntimeError: 404 not found', pull, 'me/none', api=Down(tmp_path))
    (tmp_path/'me'/'empty').mkdir(parents=True)
    refused('one artefact', pull, 'me/empty', api=api)

@pytest.mark.parametrize('kind', [str, Path, FolderHub])
def test_a_folder_is_a_hub(tmp_path, kind):
    pytest.importorskip('huggingface_hub')
    d, api = Distilled.example(), kind(tmp_path)
    for rate in (.5, .25): # the second replaces the first
        d.lr.data.fill_(rate); push(d, 'me/ten', 'mit', api=api)
        assert pull('me/ten', api=api).student_lr.item() == rate
    assert [f.name for f in (tmp_path/'me').iterdir() if f.name[0] != '.'] == ['ten']
    refused("revision 'v1'; a folder has none", pull, 'me/ten', 'v1', api=api)

@pytest.mark.parametrize('n', [1, 2])
def test_a_push_into_a_folder_is_whole(tmp_path, n, monkeypatch):
    "What fails while it copies or moves leaves the set that was there, or nothing in its place."
    pytest.importorskip('huggingface_hub')
    d = Distilled.example()
    push(d, 'me/ten', 'mit', api=tmp_path); d.lr.data.fill_(.5)
    if n == 1: monkeypatch.setattr(shutil, 'copytree', lambda *a, **k: (_ for _ in ()).throw(OSError(28, 'No space left')))
    else: monkeypatch.setattr(os, 'replace', failing(os.replace, tmp_path/'me'/'.ten.old'))
    refused('the hub refused .OSError', push, d, 'me/ten', 'mit', api=tmp_path)
    monkeypatch.undo()
    assert pull('me/ten', api=tmp_path).student_lr.item() != .5
    push(d, 'me/ten', 'mit', api=tmp_path)
    assert pull('me/ten', api=tmp_path).student_lr.item() == .5 and len(list((tmp_path/'me'/'ten').iterdir())) == 3

@pytest.mark.parametrize('n', [1, 2])
def test_a_killed_push_into_a_folder(tmp_path, n):
    "Killed before the first or the second move: the set that was there is pulled, and pushed over."
    pytest.importorskip('huggingface_hub')
    d = Distilled.example()
    push(d, 'me/ten', 'mit', api=tmp_path); was = d.student_lr.item(); d.lr.data.fill_(.5)
    if not (pid := os.fork()):
        move, left = os.replace, [n]
        def dying(a, b):
            if Path(a).parent == tmp_path/'me': left[0] -= 1
            if not left[0]: os.kill(os.getpid(), signal.SIGKILL)
            return move(a, b)
        os.replace = dying
        try: push(d, 'me/ten', 'mit', api=tmp_path)
        finally: os._exit(9)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]) and pull('me/ten', api=tmp_path).student_lr.item() == was
    push(d, 'me/ten', 'mit', api=tmp_path)
    assert pull('me/ten', api=tmp_path).student_lr.item() == .5 and [f.name for f in (tmp_path/'me').iterdir() if f.suffix != '.lock'] == ['ten']

def failing(move, to):
    def moved(a, b):
        if Path(b) == to: raise OSError(5, 'Input/output error')
        return move(a, b)
    return moved

# --- what a set is
def test_a_card_is_a_method_in_the_hubs_form():
    pytest.importorskip('huggingface_hub')
    d = Distilled.example()
    assert d.hub_card('mit', name='ten') == hub_card(d, 'mit', name='ten') and d.hub_card('mit').startswith('---\n') and d.card()['kind'] == 'Pixels'

@pytest.mark.parametrize('sizes', [(3, 3, 3, 3), (1, 2, 3, 6)])
@pytest.mark.parametrize('kind', ['hard', 'soft', 'bytes'])
def test_facts_of_a_set(x, real, sizes, kind):
    y = torch.arange(C).repeat_interleave(torch.tensor(sizes))
    d = stored(y, real) if kind == 'bytes' else pixels(real, x, y if kind == 'hard' else torch.eye(C)[y])
    got = set_facts(d)
    assert got['images'] == ('12, 3 per class' if len({*sizes}) == 1 else '12, 1 to 6 per class') and got['classes'] == '4 (cat, ant, dog, ...)' and got['rate'] == '0.02'
    assert got['labels'] == ('probabilities of 4 classes, 192 bytes' if kind == 'soft' else 'class numbers') and got['bytes'] == f'{12*3*64*(1 if kind == "bytes" else 4):,}' and str(real.norm) == got['norm']
    assert all(v and '\n' not in v for v in got.values()) and all(f'{k} ' in set_text(d) for k in got)

def test_facts_of_a_set_with_a_decoder(real):
    got = set_facts(LatentPriors(C, 2, z_dim=8, size=16, norm=real.norm, lr=.02))
    assert got['images'] == '8, 2 per class' and ', of which the decoder has' in got['bytes'] and got['source'] == got['network'] == got['method'] == 'not recorded'

def test_dd_card_looks_and_writes_nothing(tmp_path, capsys, x, y, real):
    from dd_repro.transfer import dd_card
    file = asset('digits-mtt-ipc1.safetensors')
    dd_card(str(file)); out = capsys.readouterr().out
    assert out == set_text(Distilled.example()) + '\n'
    save(tmp_path/'a', res_DC_x=dc(x, y))
    dd_card(str(tmp_path/'a'), stats='dc', of='cifar10'); out = capsys.readouterr().out
    assert 'read from files of the form: dc' in out and 'assumed: rate 0.01, that of the protocol' in out and [f.name for f in tmp_path.iterdir()] == ['a']
    pytest.importorskip('huggingface_hub')
    dd_card(str(file), licence='mit'); out = capsys.readouterr().out
    assert 'license: mit' in out and '# digits-mtt-ipc1' in out
    for kw, says in (({'as': 'mttt'}, 'did you mean mtt'), (dict(lr=.1), 'an artefact already'), (dict(zca=True), 'does nothing without --data')): assert says in ends(capsys, dd_card, str(file), **kw)
    assert 'no such file' in ends(capsys, dd_card, str(tmp_path/'none')) and "no file says the student's rate" in ends(capsys, dd_card, str(save(tmp_path/'b', images_best=x, labels_best=y)), stats='none')

# --- the commands
def ends(capsys, f, *a, **kw):
    "The line with which a command is refused."
    capsys.readouterr()
    with pytest.raises(SystemExit) as e: f(*a, **kw)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1 and err.startswith('dd_repro: ')
    return err

def test_commands_in_and_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    source = str(asset('digits-mtt-ipc1.safetensors'))
    dd_export(source, out=str(tmp_path/'mtt'), **{'as': 'mtt'})
    for f in (tmp_path/'mtt').glob('dd_*'): f.unlink()
    dd_import(str(tmp_path/'mtt'), data='digits', size=16)
    a, b = Distilled.example(), Distilled.load(tmp_path/'home'/'imported'/'mtt.safetensors')
    assert torch.equal(a.images, b.images) and torch.equal(a.lr, b.lr) and b.source['key'] == load('digits', 16)[0].key
    assert 'is there already' in ends(capsys, dd_import, str(tmp_path/'mtt'), data='digits', size=16)

def test_commands_for_experts_and_labels(tmp_path, capsys):
    net = lambda: ConvNet(1, 10, 8, width=4, depth=1)
    torch.save([[[p.detach().clone() for p in net().parameters()] for _ in range(3)]], tmp_path/'replay_buffer_0.pt')
    dd_import(str(tmp_path), data='digits', width=4, depth=1, out=str(tmp_path/'b'), **{'as': 'experts'})
    dd_export(str(tmp_path/'b'), out=str(tmp_path/'back'), **{'as': 'experts'})
    assert len(Buffer(tmp_path/'b')) == len(torch.load(tmp_path/'back'/'replay_buffer_0.pt', weights_only=True)) == 1
    d = Pixels.from_real(load('digits')[0], 1); d.save(tmp_path/'d.safetensors')
    relabel(d, [net().eval()], tmp_path/'s', 1, ViewSettings(batch=4), quiet=True)
    dd_export(str(tmp_path/'s'), out=str(tmp_path/'fkd'), **{'as': 'fkd'})
    dd_import(str(tmp_path/'fkd'), artefact=str(tmp_path/'d.safetensors'), **{'as': 'fkd'})
    assert LabelStore(tmp_path/'d.labels').n == len(d)

@pytest.mark.parametrize('kw, says', [(dict(form='mttt'), 'did you mean mtt'), (dict(form='expert'), 'did you mean experts'), (dict(zca=True), 'does nothing without --data'), (dict(form='experts'), 'needs --data'), (dict(form='fkd'), 'needs --artefact'),
    (dict(form='fkd', lr=.1), '--lr has no meaning for fkd; it is for a set'), (dict(lr=0), 'lr is 0'), (dict(lr=float('nan')), 'finite'), (dict(stats='x'), 'is not one of'), (dict(factor=0), 'factor is 0'), ({}, 'no such file or folder')])
def test_what_dd_import_refuses(tmp_path, capsys, kw, says):
    if 'form' in kw: kw = {k: v for k, v in kw.items() if k != 'form'} | {'as': kw['form']}
    assert says in ends(capsys, dd_import, str(tmp_path/'nothing'), out=str(tmp_path/'a'), **kw)
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('kw, says', [({}, '--as is missing'), ({'as': 'mttt'}, 'did you mean mtt'), ({'as': 'mtt'}, '--out is missing')])
def test_what_dd_export_refuses(capsys, kw, says): assert says in ends(capsys, dd_export, str(asset('digits-mtt-ipc1.safetensors')), **kw)

@pytest.mark.parametrize('mix, view', [([2, 0, 4, 6], [2, 0, 2, 6]), ([0, 0, 3, 8], [0, 0, 3, 8]), ([1, 4, 5, 8], [1, 4, 4, 4])])
def test_a_box_of_official_code_is_top_left_bottom_right(tmp_path, mix, view):
    "A batch written by hand in the order of the official scripts; the way out writes the same."
    real, _ = load('digits', size=8)
    d = Pixels.from_real(real, 1)
    (tmp_path/'fkd'/'epoch_0').mkdir(parents=True)
    coords = torch.tensor([[0., 0., 1., 1.]]).expand(10, 4).clone()
    torch.save([coords, torch.zeros(10, dtype=torch.bool), torch.arange(10).flip(0), .7, mix, torch.randn(10, 10)], tmp_path/'fkd'/'epoch_0'/'batch_0.tar')
    store = import_labels(tmp_path/'fkd', tmp_path/'store', d)
    assert store.epoch(0).views.mix.tolist() == [view]
    export_labels(store, tmp_path/'out')
    assert torch.load(tmp_path/'out'/'epoch_0'/'batch_0.tar', weights_only=True)[4] == mix
    torch.save([coords, torch.zeros(10, dtype=torch.bool), torch.arange(10), .7, [0, 0, 9, 8], torch.randn(10, 10)], tmp_path/'fkd'/'epoch_0'/'batch_0.tar')
    with pytest.raises(ValueError, match='does not lie in images of 8 x 8'): import_labels(tmp_path/'fkd', tmp_path/'other', d)

def test_classes_are_put_in_the_order_of_the_real_set_by_name(tmp_path):
    names = ['ant', 'bee', 'cat']
    level = lambda order: torch.stack([torch.full((3, 8, 8), dict(ant=.1, bee=.5, cat=.9)[n]) for n in order])
    real = ImageTensors(level(names*4), torch.arange(3).repeat(4), 3, classes=names, norm=Normalize((.5,)*3, (.5,)*3))
    d = Pixels(level(['cat', 'bee', 'ant']), torch.arange(3), 3, classes=['cat', 'bee', 'ant'], norm=real.norm, lr=.01)
    for form in ('torch', 'mtt'):
        got = import_set(export_set(d, tmp_path/f'{form}{".pt" if form == "torch" else ""}', form), form, real, quiet=True)
        assert got.classes == names and [round(float(got.images[got.y == c].mean()), 1) for c in range(3)] == [.1, .5, .9]
    for c in ('ant', 'cat'):
        (tmp_path/'lack'/c).mkdir(parents=True)
        Image.new('RGB', (8, 8), (40, 40, 40)).save(tmp_path/'lack'/c/'0.png')
    with pytest.raises(ValueError, match="class 'bee' is in the real set only"): import_set(tmp_path/'lack', real=real, quiet=True)

@pytest.mark.parametrize('how', ['folder', 'archive', 'file inside', 'a file more', 'renamed'])
def test_a_card_is_found_or_its_norm_is_asked_for(tmp_path, how):
    "No constants of CIFAR stand in for a norm that our own export wrote down."
    norm = Normalize((.1, .2, .3), (.5, .6, .7))
    d = Pixels(torch.randn(10, 3, 32, 32), torch.arange(10), 10, norm=norm, lr=.02)
    place = export_set(d, tmp_path/'f'/'s.pt', 'torch') if how in ('folder', 'archive', 'renamed') else export_set(d, tmp_path/'m', 'mtt')
    if how in ('folder', 'archive'): place = tmp_path/'f'
    if how == 'archive':
        with tarfile.open(tmp_path/'f.tar', 'w') as t: t.add(place, 'f')
        place = tmp_path/'f.tar'
    if how == 'file inside': place = tmp_path/'m'/'images_best.pt'
    if how == 'a file more': (place/'README.md').write_text('mine')
    if how == 'renamed':
        for f in list((tmp_path/'f').iterdir()): f.rename(f.with_name(f.name.replace('s.pt', 'r.pt')))
        place = tmp_path/'f'/'r.pt'
    if how in ('a file more', 'renamed'):
        with pytest.raises(ValueError, match='a card lies there, but it is of other files'): import_set(place, lr=.02, quiet=True)
        assert isinstance(import_set(place, lr=.02, stats='mtt', quiet=True).norm, Normalize)
        return
    got = import_set(place, quiet=True)
    assert repr(got.norm) == repr(norm) and got.student_lr.item() == pytest.approx(.02)

@pytest.mark.parametrize('kind', [np.uint8, np.uint16, np.uint32, np.int64])
def test_labels_of_any_whole_type(tmp_path, kind):
    np.savez(tmp_path/'s.npz', images=np.random.default_rng(0).standard_normal((10, 3, 8, 8), np.float32), labels=np.arange(10).astype(kind))
    assert import_set(tmp_path/'s.npz', 'npz', stats='none', lr=.01, quiet=True).y.tolist() == list(range(10))

# --- the file that is meant, among others
ONE = 'dc idc idm torch d3'.split() # forms that keep everything in one file
def one(k, x, y, path):
    "A file of such a form, whatever it is called: what to say beside it."
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(dc=dict(data=[[x, y]]), idc=[x, y], idm=(x, y), torch=dict(images=x, labels=y), d3=dict(syn_img=x, vae_state_dict={}))[k], path)
    return dict(lr=.1) | (dict(factor=1) if k in ('idc', 'idm') else {})

def seen(k, real, x): return real.norm(x) if k == 'idc' else x # IDC writes pixels

@pytest.mark.parametrize('k', ONE)
@pytest.mark.parametrize('name', ['a.pth', 'a', 'set.pth.tar', 'res_x.bin'])
@pytest.mark.parametrize('as_', ['auto', 'named'])
def test_a_file_that_was_named_counts_whatever_it_is_called(tmp_path, x, y, real, k, name, as_):
    kw = one(k, x, y, tmp_path/name)
    assert same(import_set(tmp_path/name, 'auto' if as_ == 'auto' else k, real, **kw), seen(k, real, x), y)

@pytest.mark.parametrize('k', ONE)
@pytest.mark.parametrize('name', ['a.pt', 'z.pt', 'a.pth'])
@pytest.mark.parametrize('other', [dict(model=dict(w=torch.zeros(2))), [1, 2], b'garbage', b''], ids=['checkpoint', 'list', 'garbage', 'empty'])
@pytest.mark.parametrize('as_', ['auto', 'named'])
def test_something_else_beside_a_set(tmp_path, x, y, real, k, name, other, as_):
    kw = one(k, x, y, tmp_path/'res_m.pt')
    (tmp_path/name).write_bytes(other) if isinstance(other, bytes) else torch.save(other, tmp_path/name)
    d = import_set(tmp_path, 'auto' if as_ == 'auto' else k, real, **kw)
    assert same(d, seen(k, real, x), y) and list(d.info['imported']['files']) == ['res_m.pt'] # what was only looked into is not what it was made of

@pytest.mark.parametrize('k', ONE)
def test_two_sets_of_a_form_are_told_apart_by_you(tmp_path, x, y, real, k):
    kw = one(k, x, y, tmp_path/'a.pt'); one(k, x + 1, y, tmp_path/'b.pt')
    for as_ in (k, 'auto'): refused(r'2 files here hold .*\(a.pt, b.pt\); give the path of one', import_set, tmp_path, as_, real, **kw)
    assert same(import_set(tmp_path/'b.pt', 'auto', real, **kw), seen(k, real, x + 1), y)

def test_which_of_several_pairs_was_taken_is_said(tmp_path, x, y, real):
    save(tmp_path, images_100=x, labels_100=y, images_300=x + 1, labels_300=y)
    d = import_set(tmp_path, real=real, lr=.1)
    assert same(d, x + 1, y) and 'iteration 300, the latest of 2 sets was taken' in d.info['assumed']
    save(tmp_path, images_best=x + 2, labels_best=y)
    assert 'the best of 3 sets was taken' in import_set(tmp_path, real=real, lr=.1).info['assumed']
    save(tmp_path/'b', A_images=x, A_labels=y, B_images=x, B_labels=y)
    refused(r'several sets lie here \(A, B\); give the path of one', import_set, tmp_path/'b', real=real, lr=.1)

def test_a_message_is_not_rewritten_where_nothing_was_unpacked(tmp_path, x, y, real, monkeypatch):
    save(tmp_path/'a', images_best=x, labels_best=y); monkeypatch.chdir(tmp_path)
    for path in ('./a', 'a', tmp_path/'a'): assert "no file says the student's rate; give lr= (--lr): the one that was learned" in refused('.', import_set, path, real=real)
    for path in ('', None, 5): refused('it is that of a file, a folder or an archive', import_set, path, real=real)

# --- tensors, numbers and names that are none
@pytest.mark.parametrize('turn, says', [(lambda v: v.to_sparse(), 'sparse, nested or without numbers'), (lambda v: v.to('meta'), 'sparse, nested or without numbers'), (lambda v: v.double()*1e300, 'not finite'), (lambda v: v.to(torch.complex64), r'floats \[n, c, h, w\]'),
                                        (lambda v: torch.cat([v, v], 3), 'images are squares'), (lambda v: (v*0).byte()[:, :1].expand(-1, 5, 8, 8), r'1 or 3 channels|floats \[n, c, h, w\]')])
@pytest.mark.parametrize('k', ['mtt', 'dc', 'idc', 'torch'])
def test_tensors_that_are_no_images(tmp_path, x, y, real, k, turn, says):
    path, kw = files_of(k, turn(x), y, tmp_path/k)
    refused(says, import_set, path, k, real, lr=.1, **kw)

def test_pixels_of_0_to_255_are_no_pixels(tmp_path, x, y, real):
    path, kw = files_of('idc', x.abs()*100, y, tmp_path/'a')
    refused('pixels lie about 0 to 1; these reach', import_set, path, 'idc', real, lr=.1, **kw)

@pytest.mark.parametrize('rate', ['0.1', [.1], dict(a=1), True, torch.tensor(True), torch.tensor(1e300, dtype=torch.float64), 1e-320, 1e300, 0, float('nan')], ids=str)
def test_a_rate_in_one_dictionary_or_file(tmp_path, x, y, real, rate):
    torch.save(dict(images=x, labels=y, lr=rate), tmp_path/'a.pt'); save(tmp_path/'b', images_best=x, labels_best=y, lr_best=rate)
    for path in (tmp_path/'a.pt', tmp_path/'b'): refused('the rate is one number|must be finite and above 0', import_set, path, real=real)

@pytest.mark.parametrize('rate', [.125, 1, torch.tensor(.125), torch.tensor([.125], dtype=torch.float64)], ids=str)
def test_a_rate_is_a_number_or_a_tensor(tmp_path, x, y, real, rate):
    save(tmp_path, images_best=x, labels_best=y, lr_best=rate)
    assert import_set(tmp_path, real=real).student_lr.item() == float(rate)

@pytest.mark.parametrize('classes', [5, dict(a=1), 'abcd', [[1]]*4, [None]*4], ids=str)
@pytest.mark.parametrize('beside', [True, False])
def test_class_names_that_are_none(tmp_path, x, y, real, classes, beside):
    torch.save(dict(images=x, labels=y, lr=.1, classes=classes), tmp_path/'a.pt')
    refused('classes are a list of names', import_set, tmp_path/'a.pt', **(dict(real=real) if beside else dict(stats='none')))

@pytest.mark.parametrize('y, says', [([0, 3*10**9], 'run from 0 to 3000000000'), ([-1, 1], 'run from -1 to 1'), ([-2, -1], 'run from -2 to -1'), ([5, 6], 'run from 5 to 6')])
def test_labels_say_how_many_classes_only_where_they_can(tmp_path, y, says):
    save(tmp_path, images_best=torch.randn(2, 3, 32, 32), labels_best=torch.tensor(y))
    refused(says, import_set, tmp_path, lr=.1, stats='mtt', of='cifar10')

def test_classes_without_images_and_foreign_names_are_noted(tmp_path, x, y, real):
    torch.save(dict(images=x[:9], labels=y[:9], lr=.1, classes=list('wxyz')), tmp_path/'a.pt')
    said = import_set(tmp_path/'a.pt', real=real).info['assumed']
    assert '1 of 4 classes have no image' in said and any("(w, x, y, ...) are none of the real set's" in a for a in said)

@pytest.mark.parametrize('accs', [None, [1], 'x', dict(a='abc'), dict(a=None), dict(a=[[1, 2]]), dict(a=[float('nan')]), dict(a=[])], ids=str)
def test_accuracies_that_are_none_are_left_out(tmp_path, x, y, real, accs):
    torch.save(dict(data=[[x, y]], accs_all_exps=accs), tmp_path/'res_DC_x.pt')
    assert import_set(tmp_path, real=real).info['imported']['accuracy'] == {}

@pytest.mark.parametrize('other', [lambda r: (r, r), lambda r: 'cifar10', lambda r: 5], ids=['both', 'name', 'number'])
def test_what_is_no_real_set(tmp_path, x, y, real, other):
    path, _ = files_of('mtt', x, y, tmp_path/'a')
    refused(r'real= is a \w+; give the training set alone', import_set, path, real=other(real), lr=.1)
    torch.save(paths(), tmp_path/'replay_buffer_0.pt')
    refused(r'real= is a \w+; give the training set alone', import_experts, tmp_path, tmp_path/'b', other(real), new())

@pytest.mark.parametrize('order', ['<f4', '>f4', '>f8'])
def test_arrays_in_any_order_of_bytes(tmp_path, x, y, real, order):
    np.savez(tmp_path/'a.npz', images=x.permute(0, 2, 3, 1).numpy().astype(order), labels=y.numpy().astype('>i8'))
    assert same(import_set(tmp_path/'a.npz', real=real, lr=.1), x, y)
    np.savez(tmp_path/'b.npz', images=x.numpy(), labels=np.array(list('abcd')*IPC))
    refused('not a file of plain NumPy arrays', import_set, tmp_path/'b.npz', real=real, lr=.1)

@pytest.mark.parametrize('top', ['', 'set/'])
def test_a_zip_of_arrays(tmp_path, x, y, real, top):
    def npy(a): out = io.BytesIO(); np.save(out, a); return out.getvalue()
    path = archive(tmp_path/'k.zip', {f'{top}images.npy': npy(x.numpy()), f'{top}labels.npy': npy(y.numpy())})
    assert same(import_set(path, real=real, lr=.1), x, y)

# --- labels of a table
def parquet(path, labels, images=None, **meta):
    pa = pytest.importorskip('pyarrow'); import pyarrow.parquet
    def png(c): out = io.BytesIO(); Image.new('RGB', (8, 8), (c, 1, 2)).save(out, 'PNG'); return out.getvalue()
    pa.parquet.write_table(pa.table(dict(image=images or [png(i) for i in range(len(labels))], class_id=labels)), path)
    return path

@pytest.mark.parametrize('labels, y', [(['cat', 'bee', 'ant', 'dog'], [0, 3, 1, 2]), (['3', '10', '2', '0'], None), ([3., 1., 2., 0.], [3, 1, 2, 0]), ([True, False, True, False], [1, 0, 1, 0])], ids=str)
def test_labels_of_a_table_are_numbers_or_names(tmp_path, real, labels, y):
    path = parquet(tmp_path/'a.parquet', labels)
    if y is None: refused('labels run from 0 to 10', import_set, path, real=real)
    else: assert import_set(path, real=real).y.tolist() == y
    if labels[0] == 'cat': assert import_set(path, stats='none').classes == ['ant', 'bee', 'cat', 'dog'] # as text, where nobody has another order

@pytest.mark.parametrize('labels, says', [([0, None, 2, 3], 'row 1 has no label'), ([None]*4, 'row 0 has no label'), (['a', None, 'b', 'c'], 'row 1 has no label'), ([[0], [1], [2], [3]], 'is no label'), ([2**62, 1, 2, 3], 'run from 1 to 4611686018427387904'), ([0, .5, 1, 2], 'no class numbers'), ([0, 1, 2, 9], 'run from 0 to 9')], ids=str)
def test_labels_of_a_table_that_are_none(tmp_path, real, labels, says): refused(says, import_set, parquet(tmp_path/'a.parquet', labels), real=real)

@pytest.mark.parametrize('cells', [[None]*2, [b'GIF']*2, ['text']*2, [1, 2], [dict(path='x.png')]*2], ids=str)
def test_cells_that_are_no_pictures(tmp_path, cells):
    assert '0x' not in refused('row 0: not a picture', import_set, parquet(tmp_path/'a.parquet', [0, 1], cells), stats='none')

def test_tables_without_rows_or_with_pictures_that_are_no_squares(tmp_path):
    pa = pytest.importorskip('pyarrow'); import pyarrow.parquet
    pa.parquet.write_table(pa.table(dict(image=pa.array([], pa.binary()), class_id=pa.array([], pa.int64()))), tmp_path/'a.parquet')
    refused('no row in it', import_set, tmp_path/'a.parquet', stats='none')
    out = io.BytesIO(); Image.new('RGB', (16, 8)).save(out, 'PNG')
    refused('squares; these are 16 x 8', import_set, parquet(tmp_path/'b.parquet', [0, 1], [out.getvalue()]*2), stats='none')

# --- out: endings, places, and a kill
@pytest.mark.parametrize('k', ['npz', 'torch', 'parquet'])
@pytest.mark.parametrize('name', ['a', 'a.txt', 'a.pt.npz.old'])
def test_a_single_file_has_its_ending(tmp_path, x, y, real, k, name):
    refused(f'ends in {ending(k)}', export_set, pixels(real, x, y), tmp_path/name, k)
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('k', ['npz', 'torch'])
def test_nothing_that_is_there_is_written_over(tmp_path, x, y, real, k):
    d, to = pixels(real, x, y), tmp_path/f'a{ending(k)}'
    card = to.with_name(f'{to.name}.card.json'); card.write_text('mine', encoding='utf-8')
    refused('card.json: is there already', export_set, d, to, k)
    assert card.read_text(encoding='utf-8') == 'mine' and list(tmp_path.iterdir()) == [card]
    os.symlink(tmp_path/'nowhere', tmp_path/'link')
    refused('is there already', export_set, d, tmp_path/'link', 'mtt')
    assert (tmp_path/'link').is_symlink()

def test_a_place_that_cannot_be_written(tmp_path, capsys, x, y, real):
    (tmp_path/'file').write_text('mine', encoding='utf-8')
    with pytest.raises(OSError, match='could not write'): export_set(pixels(real, x, y), tmp_path/'file'/'out', 'mtt')
    with pytest.raises(SystemExit): dd_export(str(asset('digits-mtt-ipc1.safetensors')), **{'as': 'mtt', 'out': str(tmp_path/'file'/'out')})
    assert (err := capsys.readouterr().err).count('\n') == 1 and 'could not write' in err
    assert [p.name for p in tmp_path.iterdir()] == ['file']

def test_what_nobody_could_read_is_not_written(tmp_path, x, y, real):
    d = pixels(real, x.clone(), y); d.images.data[0] = float('nan')
    for k in ('mtt', 'npz', 'folder'): refused('not finite', export_set, d, tmp_path/f'a{ending(k)}', k)
    refused('class 3 has no image', export_set, pixels(real, x[:9], y[:9]), tmp_path/'b', 'folder')
    for what in (None, 3, Relabelled): refused('is no distilled set and no path of one', export_set, what, tmp_path/'c', 'mtt')
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('k', ['mtt', 'npz', 'folder'])
@pytest.mark.parametrize('where', ['_write_card', 'first move', 'last move'])
def test_a_kill_leaves_no_set_behind(tmp_path, x, y, real, k, where):
    d, to, pid = pixels(real, x, y), tmp_path/f'a{ending(k)}', os.fork()
    if not pid: # the child: nothing of pytest's may run in it
        kill, move = lambda *_: os.kill(os.getpid(), signal.SIGKILL), os.replace
        if where == '_write_card': exchange._write_card = kill
        else: os.replace = lambda a, b: kill() if where == 'first move' or Path(b) == to else move(a, b)
        try: export_set(d, to, k, quiet=True)
        finally: os._exit(9)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL and not to.exists()
    refused('no such file or folder', import_set, to)
    assert same(import_set(export_set(d, to, k, quiet=True), quiet=True), x, y) or k == 'folder' # what was left is in nobody's way
    assert {f.name for f in tmp_path.iterdir()} == {to.name, *([f'{to.name}.card.json'] if k == 'npz' else [])} # and is gone

@pytest.mark.parametrize('n', [1, 2, 3])
@pytest.mark.parametrize('k', ['npz', 'torch', 'mtt'])
def test_a_kill_at_every_move_of_a_whitened_set(tmp_path, x, y, real, k, n):
    "Three files beside each other, or a folder: the n-th move kills; only an export of another norm follows, and none of the first is left in it."
    white_set, d, to, pid = pixels(white(real), x, y), pixels(real, x + 1, y), tmp_path/f'a{ending(k)}', os.fork()
    if not pid:
        move, left = os.replace, [n]
        def last(a, b):
            if Path(b).parent == tmp_path: left[0] -= 1
            move(a, b) if left[0] else os.kill(os.getpid(), signal.SIGKILL)
        os.replace = last
        try: export_set(white_set, to, k, quiet=True)
        finally: os._exit(9)
    killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert killed == (n == 1 or k != 'mtt') and to.exists() == (not killed) # a folder moves at once
    if killed:
        assert {f.name for f in tmp_path.iterdir() if f.name[0] != '.'} <= {f'{to.name}.norm.safetensors', f'{to.name}.card.json'}
        refused('no such file', import_set, to)
        back = import_set(export_set(d, to, k, quiet=True), quiet=True)
        assert same(back, x + 1, y) and type(back.norm) is Normalize and not to.with_name(f'{to.name}.norm.safetensors').exists()
    else: assert type(import_set(to, quiet=True).norm) is ZCA

@pytest.mark.parametrize('what', ['card.json', 'norm.safetensors'])
@pytest.mark.parametrize('text', ['mine', '{"a": 1}', '[1]', ''])
def test_what_only_looks_left_over_stays(tmp_path, x, y, real, what, text):
    mine = tmp_path/f'a.npz.{what}'; mine.write_text(text, encoding='utf-8')
    refused('is there already', export_set, pixels(white(real), x, y), tmp_path/'a.npz', 'npz')
    assert mine.read_text(encoding='utf-8') == text and list(tmp_path.iterdir()) == [mine]

def test_a_card_without_its_file_is_of_nobody(tmp_path, x, y, real):
    export_set(pixels(real, x, y), tmp_path/'a.npz', 'npz'); (tmp_path/'a.npz').unlink()
    save(tmp_path, images_best=x, labels_best=y)
    assert not any('card' in a for a in import_set(tmp_path, real=real, lr=.1).info['assumed'])

@pytest.mark.parametrize('k', ['npz', 'mtt'])
def test_two_exports_to_one_place(tmp_path, x, y, real, k, monkeypatch):
    "The second comes while the first writes: as another thread, and as another process."
    import threading
    d, to, said, card = pixels(real, x, y), tmp_path/f'a{ending(k)}', [], exchange._write_card
    def second():
        try: export_set(pixels(real, x + 1, y), to, k, quiet=True)
        except ValueError as e: said.append(str(e))
    def meanwhile(*a):
        if threading.current_thread() is threading.main_thread():
            t = threading.Thread(target=second); t.start(); t.join()
            if not (pid := os.fork()):
                said.clear(); second(); os._exit(len(said))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        card(*a)
    monkeypatch.setattr(exchange, '_write_card', meanwhile)
    export_set(d, to, k, quiet=True)
    assert len(said) == 1 and 'another export writes there now' in said[0] and same(import_set(to, quiet=True), x, y)
    assert not [f for f in tmp_path.iterdir() if f.name[0] == '.']
    refused('is there already', export_set, d, to, k)

def test_many_threads_export_to_one_place(tmp_path, x, y, real):
    from concurrent.futures import ThreadPoolExecutor
    def one(i):
        try: export_set(pixels(real, x + i, y), tmp_path/'a.npz', 'npz', quiet=True)
        except ValueError as e: return str(e)
    with ThreadPoolExecutor(8) as pool: said = list(pool.map(one, range(16)))
    won = [i for i, s in enumerate(said) if s is None]
    assert len(won) == 1 and all(s is None or 'is there already' in s or 'another export' in s for s in said)
    assert same(import_set(tmp_path/'a.npz', quiet=True), x + won[0], y) and {f.name for f in tmp_path.iterdir()} == {'a.npz', 'a.npz.card.json'}

# --- counts
@pytest.mark.parametrize('n', [0, -1, 1.5, 'a', True])
def test_counts_are_whole_and_at_least_one(tmp_path, labelled, real, n):
    d, store = labelled
    torch.save(paths(), tmp_path/'replay_buffer_0.pt')
    refused('must be a whole number, 1 or more', import_experts, tmp_path, tmp_path/'b', real, new(), n=n)
    b = import_experts(tmp_path, tmp_path/'c', real, new())
    refused('must be a whole number, 1 or more', export_experts, b, tmp_path/'out', each=n)
    refused('must be a whole number, 1 or more', import_labels, export_labels(store, tmp_path/'fkd'), tmp_path/'back', d, n)
    assert not any((tmp_path/p).exists() for p in ('b', 'out', 'back'))

def test_more_than_there_is(tmp_path, labelled, real):
    d, store = labelled
    torch.save(paths(), tmp_path/'replay_buffer_0.pt')
    refused('n=3 experts were asked for; there are 2', import_experts, tmp_path, tmp_path/'b', real, new(), n=3)
    refused('epochs=3 were asked for; there are 2', import_labels, export_labels(store, tmp_path/'fkd'), tmp_path/'back', d, 3)
    refused('labels belong to a distilled set', import_labels, tmp_path/'fkd', tmp_path/'back', None)
    assert not any((tmp_path/p).exists() for p in ('b', 'back'))


# What the range of images says
@pytest.mark.parametrize('scale, shift, says', [(255, 0, 'are pixels'), (1, 0, 'may also be pixels'), (2, -1, 'may also be pixels'), (6, -3, '')])
@pytest.mark.parametrize('channels', [1, 3])
def test_floats_that_look_like_pixels(tmp_path, scale, shift, says, channels):
    x = np.random.default_rng(0).random((10, 8, 8, channels)).astype('f4')*scale + shift
    np.savez(tmp_path/'a.npz', images=x, labels=np.arange(10), lr=.01)
    norm = Normalize([.5]*channels, [.2]*channels)
    real = ImageTensors(torch.zeros(20, channels, 8, 8), torch.arange(20) % 10, 10, norm=norm, name='toy')
    def read(): return import_set(tmp_path/'a.npz', real=real, quiet=True)
    if scale == 255:
        with pytest.raises(ValueError, match=says): read()
    else: assert any('may also be pixels' in t for t in read().info['assumed']) == bool(says)

def test_a_norm_of_three_channels_does_not_go_with_grey_images(tmp_path):
    np.savez(tmp_path/'a.npz', images=np.zeros((10, 32, 32, 1), 'u1'), labels=np.arange(10), lr=.01)
    with pytest.raises(ValueError, match='1 channel do not go with a norm of 3'): import_set(tmp_path/'a.npz', stats='mtt', of='cifar10', quiet=True)


# Names that carry numbers, and names in other letters
@pytest.mark.parametrize('form', ['{}', 'class_{}', 'new{}', 'c{}', 'class {}', '{}_bowl', '{}-bowl'])
def test_folders_with_numbers_are_in_their_order(form):
    names = [form.format(i) for i in range(12)]
    assert class_order(sorted(names))[0] == names

def test_names_with_numbers_of_their_own_are_names():
    assert class_order(['f16', 'b747'])[0] == ['b747', 'f16'] and class_order(['a1', 'b'])[0] == ['a1', 'b']

def test_names_in_other_letters_are_the_same_names(tmp_path):
    from PIL import Image
    real = toys_with_names()
    for c, shade in (('DOG', 50), ('Cat', 200)):
        (tmp_path/'s'/c).mkdir(parents=True)
        Image.new('RGB', (8, 8), (shade,)*3).save(tmp_path/'s'/c/'0.png')
    d = import_set(tmp_path/'s', 'folder', real, lr=.01, quiet=True)
    shade = {d.classes[int(c)]: float(x.mean()) for x, c in zip(d.norm.inverse(d.images.float()/255 if d.images.dtype == torch.uint8 else d.images.detach()), d.y)}
    assert list(d.classes) == ['cat', 'dog'] and shade['cat'] > shade['dog']

def toys_with_names():
    from dd_repro.norm import Normalize
    x = torch.rand(8, 3, 8, 8)
    s = ImageTensors(x, torch.arange(8) % 2, 2, classes=['cat', 'dog'], norm=Normalize((0.,)*3, (1.,)*3), name='pets')
    return s


def test_a_card_says_whose_set_it_is_and_that_a_rate_was_given(tmp_path):
    np.savez(tmp_path/'a.npz', images=np.random.default_rng(0).random((6, 8, 8, 3)).astype('f4')*6 - 3, labels=np.arange(6))
    d = import_set(tmp_path/'a.npz', stats='none', lr=.02, quiet=True)
    d.info['imported'] |= dict(source='their page', licence='MIT', public='them/toy/ipc1')
    text = hub_card(d, 'other')
    assert 'rate 0.02, as whoever imported it said' in text
    assert all(w in text for w in ('It was made by others', 'from: their page', 'licence of the original: MIT', 'known as: them/toy/ipc1'))
    assert 'made by others' not in hub_card(Distilled.example(), 'mit')


# Parts of a table with other class names
def shard(path, labels, names, column='class_id'):
    pa = pytest.importorskip('pyarrow'); import pyarrow.parquet
    parquet(path, labels)
    table = pa.parquet.read_table(path).rename_columns(['image', column])
    meta = dict(info=dict(features={column: dict(names=names, _type='ClassLabel')}))
    pa.parquet.write_table(table.replace_schema_metadata(dict(huggingface=json.dumps(meta)) if names else None), path)

@pytest.mark.parametrize('a, b, says', [(['cat', 'dog'], ['dog', 'cat'], "class 0: 'cat' of 2 beside 'dog' of 2"), (['cat', 'dog'], ['cat', 'dog', 'bee'], "class 2: 2 classes beside 'bee' of 3"), (['cat', 'dog', 'bee'], ['cat', 'dot', 'bee'], "class 1: 'dog' of 3 beside 'dot' of 3")], ids=str)
@pytest.mark.parametrize('between', [0, 1])
def test_parts_with_other_class_lists_are_refused(tmp_path, a, b, says, between):
    names = [f'train-{i:05d}.parquet' for i in range(3)]
    lists = [a, None, b] if between else [a, a, b]
    for n, l in zip(names, lists): shard(tmp_path/n, [0, 1], l)
    said = refused('have different class lists', import_set, tmp_path, 'parquet', stats='none')
    assert says in said and f'{names[0]} and {names[2]} have' in said

@pytest.mark.parametrize('lists', [(['cat', 'dog'],)*3, (None, ['cat', 'dog'], None), (['cat', 'dog'], None, None)], ids=str)
def test_parts_with_one_class_list_are_read(tmp_path, lists):
    for i, l in enumerate(lists): shard(tmp_path/f'train-{i}.parquet', [i % 2, 1], l, 'class_id' if i else 'label')
    d = import_set(tmp_path, 'parquet', stats='none', quiet=True)
    assert d.classes == ['cat', 'dog'] and d.y.tolist() == [0, 1, 1, 1, 0, 1]

# A norm beside none
@pytest.mark.parametrize('low, high, far', [(0, 1, False), (.2, .9, False), (-3, 3, True), (0, 1.5, True), (-.1, 1, True)])
@pytest.mark.parametrize('how', ['stats', 'real'])
def test_no_norm_is_said(tmp_path, low, high, far, how):
    x = torch.linspace(low, high, 12*3*64).view(12, 3, 8, 8)
    bare = ImageTensors(torch.rand(24, 3, 8, 8, generator=gen()), torch.arange(24) % C, C, norm=NoNorm(), name='toy')
    save(tmp_path, images_best=x, labels_best=torch.arange(C).repeat_interleave(3))
    d = import_set(tmp_path, lr=.1, quiet=True, **(dict(stats='none') if how == 'stats' else dict(real=bare)))
    said, = (a for a in d.info['assumed'] if 'no norm' in a)
    assert isinstance(d.norm, NoNorm) and ('go beyond the 0..1' in said) == far and ('real set' in said) == (how == 'real')

def test_a_set_of_no_norm_and_a_real_set_with_one(tmp_path, x, y, real):
    bare = ImageTensors(real.x, real.y, C, classes=real.classes, norm=NoNorm(), name='toy')
    none, with_norm = pixels(bare, x.clamp(0, 1), y), pixels(real, x, y)
    a, b = export_set(none, tmp_path/'a', 'mtt', quiet=True), export_set(with_norm, tmp_path/'b', 'mtt', quiet=True)
    refused(r'its card has another norm \(NoNorm\(\)\)', import_set, a, real=real)
    refused('its card has another norm', import_set, b, real=bare)
    for k in ('mtt', 'dc'): refused(r'its card has the norm NoNorm\(\), and stats=', import_set, a, stats=k, of='cifar10')
    refused(r'stats=none is NoNorm\(\); leave stats out', import_set, b, stats='none')
    assert isinstance(import_set(a, stats='none', quiet=True).norm, NoNorm) and same(import_set(a, real=bare, quiet=True), none.images.detach(), y)

@pytest.mark.parametrize('norm', ['mtt', 'dc'])
def test_a_listed_set_is_never_without_its_norm(tmp_path, x, y, norm):
    real = ImageTensors(torch.rand(24, *SHAPE, generator=gen()), torch.arange(24) % C, C, norm=NoNorm(), name='cifar10')
    where = table(tmp_path, dict([('images_best.pt', x), ('labels_best.pt', y)]), norm=norm)
    refused(f"mean and deviation of {norm}'s code; the real set that was given has no norm", load_set, 'toy/toy/ipc3', tmp_path/'data', real, where)

def test_imports_are_tested_under_their_norm(tmp_path, x, y, real):
    save(tmp_path, images_best=x, labels_best=y)
    d = import_set(tmp_path, real=real, lr=.1, quiet=True)
    arch = dict(name='convnet', n_in=3, n_out=C, size=8, width=4, depth=1)
    p = as_protocol('mtt').scaled(kind='smoke', epochs=1)
    bare = ImageTensors(real.x, real.y, C, norm=NoNorm(), name='toy')
    refused('students would learn under Normalize.* and be tested under NoNorm', evaluate, d, bare, arch, p, 1)
    e = import_set(tmp_path, stats='none', lr=.1, quiet=True)
    refused(r'learn under NoNorm\(\) and be tested under Normalize', evaluate, e, real, arch, p, 1)
    assert evaluate(d, real, arch, p, 1) and evaluate(e, bare, arch, p, 1) and evaluate(pixels(bare, x, y), real, arch, p, 1) # a set of nobody's says nothing

@pytest.mark.parametrize('other', ['cifar100', 'mine'])
def test_a_card_of_another_data_set(tmp_path, x, y, real, other):
    real.source = dict(name='cifar10')
    d = pixels(real, x, y, source=dict(name=other))
    refused(f'its card says that it was made from {other}; the real set that was given is cifar10', import_set, export_set(d, tmp_path/'a', 'mtt', quiet=True), real=real)
    assert not any('no file says so' in a for a in import_set(export_set(pixels(real, x, y, source=real.source), tmp_path/'b', 'mtt', quiet=True), real=real, quiet=True).info['assumed'])

# The type that pixels are stored in
def stored(y, real): return StoredPixels(torch.randint(256, (len(y), *SHAPE), generator=gen(), dtype=torch.uint8), y, C, classes=real.classes, norm=real.norm, lr=.02, name='toy')

@pytest.mark.parametrize('at', ['sorted', 'mixed'])
@pytest.mark.parametrize('k', ['npz', 'torch'])
def test_bytes_stay_bytes(tmp_path, y, real, k, at):
    if at == 'mixed': y = y[torch.randperm(len(y), generator=gen(2))]
    d, path = stored(y, real), tmp_path/f'a{ending(k)}'
    export_set(d, path, k, quiet=True)
    got = np.load(path) if k == 'npz' else torch.load(path, weights_only=True)
    assert str(got['images'].dtype).endswith('uint8') and path.stat().st_size < 2*d.images.numel() + 4000
    back = import_set(path, quiet=True)
    order = y.argsort(stable=True)
    assert isinstance(back, StoredPixels) and torch.equal(back.images, d.images[order]) and torch.equal(back.y, y[order])
    assert not any('bytes' in l for l in json.loads(path.with_name(f'{path.name}.card.json').read_text())['lost'])

@pytest.mark.parametrize('k', ['mtt', 'dc', 'ddranking'])
def test_where_bytes_become_floats_is_said(tmp_path, y, real, k, capsys):
    d = stored(y, real)
    export_set(d, tmp_path/'a', k)
    size = d.images.numel()
    assert f'cannot hold bytes: the images are written as normalised floats, {4*size:,} bytes in place of {size:,}' in capsys.readouterr().out
    export_set(pixels(real, torch.randn(len(y), *SHAPE), y), tmp_path/'b', k)
    assert 'bytes' not in capsys.readouterr().out

@pytest.mark.parametrize('k', ['folder', 'parquet'])
def test_pictures_of_bytes_lose_no_precision(tmp_path, y, real, k, capsys):
    if k == 'parquet': pytest.importorskip('pyarrow')
    d = stored(y, real)
    back = import_set(export_set(d, tmp_path/f'a{ending(k)}', k), quiet=True)
    assert 'precision' not in capsys.readouterr().out and torch.equal(back.images, d.images)
