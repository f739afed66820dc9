"What sets, labels and autoencoders refuse: one clear line each (the notebooks show one refusal each, where it teaches)."
import dataclasses

import pytest, torch
from PIL import Image

from dd_repro.all import *
from dd_repro.data import scan, scan_halves
from dd_repro.labels import check_disk
from dd_repro.shell import beside, least, one_of


def refuses(word, what, *args, kind=ValueError, **kw):
    "Calling this raises, and the line says that."
    with pytest.raises(kind, match=word): what(*args, **kw)

@pytest.fixture
def pets(tmp_path):
    "A folder of two small classes: 4 and 3 pictures, 2 and 1 to test on."
    for c, counts in dict(cat=(4, 2), dog=(3, 1)).items():
        for part, k in zip(('train', 'val'), counts):
            (tmp_path/'pets'/part/c).mkdir(parents=True)
            for i in range(k): Image.new('L', (12, 8), 30*i + 20).save(tmp_path/'pets'/part/c/f'{i}.png')
    return tmp_path/'pets'

# sets

@pytest.mark.parametrize('labels, n, C, word', [
    (torch.tensor([[2., -1.]]), 1, 2, 'these look like logits: pass softmax'), ([3, 3], 2, 3, '3 to 3; 3 classes allow 0 to 2')])
def test_labels(labels, n, C, word): refuses(word, check_labels, labels, n, C)

def test_images_of_a_class_and_other_data():
    x = torch.arange(10.).view(10, 1, 1, 1).expand(10, 1, 2, 2)
    toy = ImageTensors(x, torch.arange(10) % 2, 2, classes=['even', 'odd'], name='toy')
    refuses("6 images of class 'odd' asked for; it has 5", toy.of_class, 1, 6)
    refuses('an artefact: made from other data', same_content, toy.key, toy.new(toy.x + 1), 'an artefact')
    refuses("class 'prime' is in the distilled set only", fit_classes, toy, ['even', 'prime'])

@pytest.mark.parametrize('picture, word', [
    (lambda: Image.new('F', (2, 2)), 'a float picture: its range is not known'), (lambda: torch.randn(3, 8, 8, generator=rng_for(0)), 'pixels are 0..1')])
def test_pictures(picture, word): refuses(word, as_picture, picture())

# data

def test_folders(pets, tmp_path):
    (tmp_path/'one'/'cat').mkdir(parents=True)
    Image.new('L', (8, 8)).save(tmp_path/'one'/'cat'/'0.png')
    refuses('1 class folder; at least 2', scan, tmp_path/'one')
    (pets/'val'/'cow').mkdir()
    Image.new('L', (8, 8)).save(pets/'val'/'cow'/'0.png')
    refuses("class 'cow' is in val/ only", scan_halves, pets)

def test_files_that_are_cut_off(pets):
    bad = pets/'train'/'cat'/'9.png'
    bad.write_bytes((pets/'train'/'cat'/'0.png').read_bytes()[:40])
    refuses('9.png: not a readable image', pixels, scan_halves(pets)[1], 8, kind=BadImage)
    refuses('cat: no image there can be read', readable, Files([(bad, 0)]))

@pytest.mark.parametrize('name, word, kw', [
    ('cifar11', "data set 'cifar11' is not known; did you mean cifar10", {}), ('shapess', "data set 'shapess' is not known", {}),
    ('cifar10', 'cifar10: no folder cifar-10-batches-py/ that is whole in', dict(download=False)),
    ('imagefruit', 'imagefruit: no folder imagenet/ with train/ and val/', {}), ('imagenet:3,3', "'imagenet:3,3': after imagenet: come at least two different", {})])
def test_names(tmp_path, name, word, kw): refuses(word, find_source, name, tmp_path, **kw)

def test_ways_to_load(pets):
    refuses('size is 0; it must be', load, 'digits', size=0)
    refuses('val is 1.5', load, 'digits', val=1.5)
    refuses('pets: the images are not all squares', load, pets)
    for f in pets.rglob('*.png'): Image.new('L', (12, 8), 9).save(f)
    refuses('all 7 training images are one constant', load, pets, size=8)

# stored labels

@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
    "Twenty images, a teacher, three label epochs in batches of eight."
    real, _ = load('digits')
    d, tmp = Pixels.from_real(real, 2), tmp_path_factory.mktemp('labels')
    with seeded('labelled'): teacher = ConvNet(1, 10, 8, width=8, depth=2).eval()
    views = ViewSettings(batch=8, cutmix=False)
    return real, d, [teacher], views, relabel(d, [teacher], tmp/'labels', 3, views, quiet=True), tmp

def test_relabelling(labelled):
    real, d, teachers, views, store, tmp = labelled
    refuses('there are no teachers', relabel, d, [], tmp/'x', 3)
    refuses('teacher 0 gives .2, 7. for 2 images; the set has 10 classes', relabel, d, [ConvNet(1, 7, 8, width=8, depth=2)], tmp/'x', 3)
    refuses('epochs is 0', relabel, d, teachers, tmp/'x', 0)
    refuses('are needed and the disk has', check_disk, tmp/'x', 10**18)
    refuses('holds labels made with other seed; give another folder', relabel, d, teachers, tmp/'labels', 3, dataclasses.replace(views, seed=1))
    refuses('label store there', LabelStore, tmp/'x')
    assert not (tmp/'x').exists()

def test_labels_that_do_not_fit(labelled):
    real, d, _, views, store, tmp = labelled
    refuses('labelled in batches of 8, not 5', lambda: next(Relabelled(d, store).epoch(0, 5)))
    refuses('labels of other images', Relabelled, Pixels(d.images.detach() + 1e-6, d.y, 10), store)
    refuses('labels for images 20; the set has 10', Relabelled, Pixels.from_real(real, 1), store)
    refuses('4 label epochs asked for', Relabelled, d, store, epochs=4)

def test_labels_that_are_cut_off(labelled):
    _, d, teachers, views, store, tmp = labelled
    f = store.path/'labels-00001.safetensors'
    whole = f.read_bytes()
    f.write_bytes(whole[:-100])
    refuses('labels-00001.safetensors: damaged or cut off', store.epoch, 1)
    relabel(d, teachers, tmp/'labels', 3, views, quiet=True)
    assert f.read_bytes() == whole
    (tmp/'cut.zip').write_bytes(store.pack(tmp/'labels.zip').read_bytes()[:-500])
    for bad in (tmp/'cut.zip', store.path/'index.json'): refuses('truncated, damaged or not a packed label store', LabelStore, bad)

# autoencoders

def test_what_an_autoencoder_takes():
    ae = AutoEncoder(TinyAE(), 'tiny', f=4, native=4)
    refuses('18 x 18 px cannot be divided by f = 4', ae.encode, torch.rand(2, 3, 18, 18))
    refuses('images have 3 channels; this autoencoder takes 1', AutoEncoder(TinyAE(), 'tiny', f=4, native=4, n_in=1).encode, torch.rand(2, 3, 16, 16))
    refuses(r'codes must be .n, 4, h, w., not .2, 3, 4, 4.', ae.decode, torch.rand(2, 3, 4, 4))
    refuses('f is 3; tiny can do 1, 2, 4', AutoEncoder, TinyAE(), 'tiny', f=3, native=4)
    refuses("autoencoder 'sd15' is not one of sd14, taesd", load_autoencoder, 'sd15')

# networks

def test_convnets():
    refuses("norm 'layer' is not one of instance, group, batch, none", norm_layer, 'layer', 8)
    refuses('10-px images cannot be halved 3 times', ConvNet, size=10)
    refuses('images are .1, 16, 16.; the network expects .1, 8, 8.', ConvNet(1, 10, 8, width=8, depth=2), torch.rand(2, 1, 16, 16))
    net = ConvNet(1, 10, 8, width=8, depth=2)
    net.head.bias.requires_grad_(False)
    refuses("'head.bias' has requires_grad=False", check_free, net)

# coresets

@pytest.mark.parametrize('args, word', [((1, 'kmeans'), "coreset 'kmeans' is not one of random, herding, forgetting"), ((1000, 'herding'), 'asked for; it has')])
def test_coresets(args, word): refuses(word, coreset, load('digits')[0], *args)

def test_choices():
    refuses('5 images asked for; the class has 4', herding, torch.tensor([[1.], [2.], [4.], [5.]]), 5)
    refuses('epochs is 0; it must be at least 1', METHODS['forgetting'], epochs=0)

# teachers

@pytest.fixture(scope='module')
def taught(tmp_path_factory):
    "Some digits, how to make a small network of them, a protocol, and a folder with one teacher."
    real, folder = load('digits', size=32)[0], tmp_path_factory.mktemp('teachers')
    real = real.subset(torch.arange(0, len(real), 20))
    net_fn = lambda: make_net('resnet18_bn', 1, 10, 32, width=4, layers=(1, 1), stem='imagenet')
    p = TeacherProtocol('teacher-digits', epochs=1, batch=32, lr=.05, schedule='onecycle')
    train_teachers(net_fn, real, folder, 1, p, quiet=True)
    return real, net_fn, p, folder

def test_teachers(taught, tmp_path):
    real, net_fn, p, folder = taught
    refuses("view 'blur' is not one of rrc, color", TeacherViews, None, 'crop_blur')
    refuses('a teacher with other settings .view', train_teachers, net_fn, real, folder, 1, p.scaled(how='crop'), quiet=True)
    refuses('M is 0', train_teachers, net_fn, real, folder, 0, p)
    refuses('tells 7 classes apart', Teachers, [make_net('convnet', 1, 7, 32)], real)
    refuses('weights of another network', start_from, make_net('convnet', 1, 10, 32), folder/'teacher_000.safetensors')
    refuses('no teachers there', train_teachers, net_fn, real, tmp_path/'x', 1, p.scaled(init=tmp_path/'none'))

# codes

def test_codes():
    real = load('digits', size=16)[0]
    real = real.subset(torch.cat([(real.y == c).nonzero()[:5, 0] for c in range(10)]))
    with seeded('codes'): ae, other = (AutoEncoder(TinyAE(), 'tiny', f=4, native=4, n_in=1) for _ in range(2))
    d = LatentCodes.from_real(real, 2, ae)
    refuses('ipc 0 at f = 4 buys 0', lpc_for, 0)
    refuses(f'these codes belong to the autoencoder .* {ae.hash} at f = 4; this one is', d.attach, other)
    refuses('lpc is 500; class .0. has', LatentCodes.from_real, real, 500, ae)
    refuses('lpc is 0', LatentCodes.from_real, real, 0, ae)
    refuses('it has to be the set encoded by', LatentCodes.from_real, real, 2, other, codes=encode_set(real, ae, quiet=True))

# rows

@pytest.mark.parametrize('row, word', [
    ('mtt/table1/cifar01/ipc1', 'near it: mtt/table1/cifar10/'), ('d3/table7/vgg11', 'not one row'), ('d3s/xyzzy/q', r'near it: d3s/table1.table2'),
    ('nonsense/x', r'near it: mtt/table1.table2.*, d3/table1.*, d3s/table1.*, latentdd/table1')])
def test_rows(row, word): refuses(word, find_row, row)

# commands

@pytest.mark.parametrize('what, word', [
    (lambda: beside(dict(n_eval=3), dict(n_eval='eval_every')), '--n_eval does nothing without --eval_every'),
    (lambda: least(dict(lr=0), 'above 0'), 'lr is 0; it must be above 0'), (lambda: least(dict(epochs=-1)), 'epochs is -1; it must be at least 1'),
    (lambda: least(dict(lr=float('nan')), 'above 0'), 'lr is nan; it must be above 0'),
    (lambda: one_of(dict(init='zeros'), dict(init=('real', 'noise'))), "init='zeros' is not one of real, noise")])
def test_flags(what, word): refuses(word, what)

# uses
def test_gradients_of_one_class_cannot_be_matched():
    from dd_repro.all import DC, DM, ConvNet, load, only
    from functools import partial
    one = only(load('digits')[0], [3])
    net = partial(ConvNet, 1, 1, 8, 4, 1)
    with pytest.raises(ValueError, match='one class; its loss has no gradient'): DC(one, net)
    assert DM(one, net)(Pixels.from_real(one, 1)).isfinite()

@pytest.mark.parametrize('f, word', [
    (lambda real: class_steps(10, 0), '10 classes in 0 steps'), (lambda real: class_steps(10, 4), r'one size .1, 2, 5, 10.'),
    (lambda real: only(real, (1, 1)), 'each once'), (lambda real: only(real, (1, 10)), 'of 0 to 9'), (lambda real: in_bits(real.x, real.norm, 0), 'bits is 0'),
    (lambda real: rank_correlation([1, 2], [1, 2]), 'at least 3'), (lambda real: rank_correlation([1, 2, 3], [1, 2]), 'one length'),
    (lambda real: rank_correlation([1, 1, 1], [1, 2, 3]), 'no order'), (lambda real: rank_correlation([1, 2, float('nan')], [1, 2, 3]), 'not a number')])
def test_uses(f, word):
    with pytest.raises(ValueError, match=word): f(load('digits')[0])
