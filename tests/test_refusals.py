"What each part of the library refuses: one clear line each (the notebooks show one refusal each, where it teaches)."
import dataclasses
from functools import partial

import pytest, torch
from PIL import Image

from dd_repro.all import *
from dd_repro.data import scan, scan_halves
from dd_repro.labels import check_disk
from dd_repro.many import wanted
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

# methods

@pytest.mark.parametrize('name, word', [('mt', "method 'mt' is not known; did you mean mtt"), ('no.py:mt', 'no.py: no such file')])
def test_methods(name, word): refuses(word, lambda: METHODS[name])

# synthesis

def test_stores_of_images(taught, tmp_path):
    real, net_fn, p, folder = taught
    task, file = Task(real, teachers=load_teachers(folder, real)), tmp_path/'toy.safetensors'
    d = StoredPixels(torch.empty(6, 1, 8, 8, dtype=torch.uint8, device='meta'), torch.arange(6) % 3, 3, norm=Normalize(.5, .25), name='toy')
    create_store(file, d)
    file.write_bytes(file.read_bytes()[:-10])
    refuses('not a store of images, or cut off', open_images, file)
    refuses('leave a last batch of 1', learn, task, D3SMethod(ipc=1, batch=3), tmp_path/'c', RunOptions(quiet=True))
    assert not (tmp_path/'c').exists()

# results

def test_results(tmp_path):
    refuses('has no values of ours, and this one has: half the experts', record, Row('my/row', 'paper', 'half the experts'), tmp_path/'r.csv')
    refuses("protocol 'best' is not one of", Row, 'x', protocol='best')
    assert not (tmp_path/'r.csv').exists()

# runs

@pytest.fixture
def run_of(tmp_path):
    "Distils ten digits with an objective: (loss, optimisers, **kw) -> the run."
    real, _ = load('digits')
    sgd = {'images': partial(torch.optim.SGD, lr=1.)}
    return lambda loss, opts=sgd, **kw: distill(Pixels.from_real(real, 1), loss, 2, opts, quiet=True, **kw)

def test_checkpoints_of_other_runs(run_of, tmp_path):
    square, f = lambda d: d.images.square().mean(), tmp_path/'run.safetensors'
    run_of(square, ckpt=f)
    refuses('other settings', run_of, square, ckpt=f, settings={'lr_img': 7})
    refuses('no group', run_of, square, {'latents': partial(torch.optim.SGD, lr=1.)})

def test_losses_that_are_no_numbers(run_of, tmp_path):
    f = tmp_path/'nan.safetensors'
    refuses('the loss is nan', run_of, lambda d: d.images.sum()*float('nan'), ckpt=f)
    assert f.is_file() and f.with_name('nan.diverged.safetensors').is_file()

# students

@pytest.mark.parametrize('make, word', [
    (lambda: as_protocol('mtt2'), "protocol 'mtt2' is not one of mtt, mtt-smoke, dc, dsa, full"),
    (lambda: as_protocol('mtt').scaled(lr=-.1), 'learning rate is -0.1; it must be finite and above 0'),
    (lambda: as_protocol('mtt').scaled(epochs=0), 'epochs is 0; it must be a whole number, 1 or more'),
    (lambda: Team([make_net('convnet', 1, 10, 8, norm='batch') for _ in range(2)]), 'no running statistics')])
def test_protocols(make, word): refuses(word, make)

def test_rates_that_kill():
    real, net = load('digits')[0], make_net('convnet', 1, 10, 8, width=4, depth=1, norm='none')
    p = as_protocol('mtt-smoke').scaled(kind='smoke', epochs=3, aug='')
    refuses('not finite by epoch 3 of 3, at a learning rate of 1e', train, net, real, p, lr=1e38, kind=Died)

@pytest.mark.parametrize('word, kw', [
    ('protocol mtt uses the learned rate and this set has none; pass lr=', dict(protocol='mtt', lr=None)), ('n_eval is 0', dict(n_eval=0)),
    ('asks the set for its samples, which', dict(protocol=as_protocol('mtt').scaled(kind='smoke', epochs=20, view=dict(samples=2)))),
    ('learning rate is 0.0', dict(lr=0)), ('the network expects .3, 32, 32.', dict(nets=dict(name='convnet', n_in=3, n_out=10, size=32)))])
def test_evaluations(word, kw):
    real, test = load('digits')
    ten = real.new(torch.cat([real.of_class(c, 1) for c in range(10)]), torch.arange(10))
    how = dict(nets=dict(name='convnet', n_in=1, n_out=10, size=8, width=4, depth=1), protocol=as_protocol('mtt').scaled(kind='smoke', epochs=20))
    refuses(word, evaluate, ten, test, **how | dict(n_eval=2, lr=.01) | kw)

# distilled sets and their files

@pytest.mark.parametrize('ipc, word', [(1000, 'asked for; it has'), (0, 'ipc is 0')])
def test_images_to_start_from(ipc, word): refuses(word, Pixels.from_real, load('digits')[0], ipc=ipc)

def test_artefacts(tmp_path):
    f = Pixels.from_real(load('digits')[0], 2).save(tmp_path/'digits.safetensors')
    tensors, card = load_tensors(f)
    for name, c, word in (('new', card | {'format': 9}, 'format 9 is newer'), ('other', {}, 'not a distilled dataset')):
        save_tensors(tmp_path/f'{name}.safetensors', tensors, c)
        refuses(word, Distilled.load, tmp_path/f'{name}.safetensors')
    refuses("unknown kind 'Voxels'", class_of, 'Voxels')

@pytest.mark.parametrize('kw, word', [(dict(classes=list('abcdefghij')), "class 'a' is in the distilled set only"),
                                      (dict(source=dict(kind='folder', name='digits')), 'made from a folder of its own')])
def test_real_images_of_a_set(tmp_path, kw, word):
    e = Pixels.from_real(load('digits')[0], 1)
    d = Pixels(e.images.detach(), e.y, 10, norm=e.norm, name='digits', **kw)
    refuses(word, real_for, d, root=tmp_path)

# gradient and distribution matching

@pytest.mark.parametrize('make, word', [
    (lambda: match_loss([torch.ones(2, 2, 2)], [torch.ones(2, 2, 2)], 'l1'), "matching loss 'l1' is not one of cosine, mse"),
    (lambda: dc_loops(7), 'no stated loops for ipc 7; known: 1, 10, 20'), (lambda: METHODS['dc'](ipc=7), 'no stated loops for ipc 7; known: 1, 10, 20'),
    (lambda: Matching(batch_real=0), 'batch_real is 0'), (lambda: Matching(train_on='both'), "train_on='both' is not one of syn, real"),
    (lambda: method_of('dm', outer=2), "'outer' is no setting of dm"), (lambda: DMMethod(init='zeros'), "init='zeros' is not one of real, noise"),
    (lambda: DM(load('digits')[0], lambda: torch.nn.Linear(4, 2)), 'has no embed')])
def test_matching(make, word): refuses(word, make)

def test_more_images_than_a_class_has(tmp_path):
    task = Task(load('digits')[0], net_fn=partial(ConvNet, n_in=1, n_out=10, size=8, width=16, depth=2))
    refuses('asked for; it has', learn, task, DMMethod(ipc=1000), tmp_path/'x', RunOptions(quiet=True))

# discrepancy and diversity

@pytest.mark.parametrize('make, word', [(lambda x: mix_rbf(x, x, (1, 0)), 'bandwidths are'), (lambda x: mmd2(x[:1], x), 'at least 2 samples')])
def test_kernels(make, word): refuses(word, make, torch.ones(3, 4))

@pytest.fixture(scope='module')
def experts(tmp_path_factory):
    "Digits at 16 px, how to make a small network of them, and two short experts."
    real = load('digits', size=16)[0]
    real, net_fn = real.subset(torch.arange(0, len(real), 4)), partial(ConvNet, n_in=1, n_out=10, size=16, width=4, depth=2)
    return real, net_fn, train_experts(net_fn, real, tmp_path_factory.mktemp('experts'), 2, expert_protocol(2, .02, 32, ''), quiet=True)

@pytest.mark.parametrize('kw, word', [
    (dict(snapshot='best'), 'snapshot='), (dict(snapshot=3), 'the buffer holds 2 epochs'), (dict(depth=3), 'blocks 1 to 2'),
    (dict(net=dict(width=8)), 'a buffer of a network'), (dict(real_samples=500), 'smallest class has'), (dict(samples=1), 'samples is 1'),
    (dict(aug=DSA()), 'siamese')])
def test_discrepancies(experts, kw, word):
    real, net_fn, buffer = experts
    refuses(word, MMD, real, buffer, **kw | ({'net': net_fn(**kw['net'])} if 'net' in kw else {}))

def test_views_and_their_holders(experts):
    real, net_fn, buffer = experts
    view, few = ExpertView(buffer, samples=12), Pixels.from_real(real, 2)
    refuses('belongs to the view', MMD, real, view, samples=30)
    refuses('has none', Diversity(view), few)
    few.ppc = 7
    refuses('samples >= 14', Diversity(view), few)

# priors and their decoder

@pytest.mark.parametrize('make, word', [
    (lambda: Decoder(24), 'px a side, not 24'), (lambda: Decoder(4), 'px a side, not 4'), (lambda: Decoder(z_dim=0), 'z_dim is 0'),
    (lambda: LatentPriors(10, 0), 'ppc is 0'), (lambda: method_of('d3', lr_img=1.), "'lr_img' is no setting of d3"),
    (lambda: LatentPriors(10, 2, size=8, n_in=1, width=8).sample(y=1, prior=2), 'no prior 2 of class 1')])
def test_priors(make, word): refuses(word, make)

def test_a_rate_of_priors_that_is_not_positive():
    d = LatentPriors(10, 2, size=8, n_in=1, width=8)
    d.lr.data.fill_(-.005)
    refuses('the student learning rate fell to', distill, d, lambda d: d.lr + 0*d.latents.sum(), 1, {'lr': partial(torch.optim.SGD, lr=.02)}, quiet=True)

# statistics

@pytest.mark.parametrize('make, word', [
    (lambda: main_convs(torch.nn.Linear(2, 2)), 'Linear has no convolution'), (lambda: bn_layers(make_net('convnet')), 'ConvNet has no batch norm')])
def test_layers(make, word): refuses(word, make)

@pytest.mark.parametrize('kind, word', [('kl-multi', 'kl-multi needs whole covariances'), ('mmd', "loss 'mmd' is not one of bn-diag, bn-multi")])
def test_losses_on_statistics(kind, word):
    net = make_net('resnet18_bn', 3, 10, 32, width=4, layers=(1, 1)).eval()
    with FeatureStats(net, bn_layers(net), cov=False, inputs=True) as f: net(torch.rand(4, 3, 32, 32))
    refuses(word, feature_loss, kind, f.stats, bn_targets(net))

# queues

@pytest.mark.parametrize('line, word', [('mtt/table1/cifar10/ipc1 widht=8', "'widht' is no setting of mtt/table1/cifar10/ipc1")])
def test_lines_of_a_queue(line, word): refuses(word, wanted, line.split())

# a method of one's own (51)

from test_your_method import mine # the notebook's three cells as a file

def test_settings_and_needs_of_a_method_of_ones_own(mine, tmp_path):
    refuses("'lr_imgs' is no setting of expert-means; did you mean lr_img?", method_of, 'expert-means', lr_imgs=1.)
    refuses('n is 0; it must be at least 1', method_of, 'expert-means', n=0)
    task = Task(load('digits')[0], net_fn=lambda: ConvNet(1, 10, 8, width=8, depth=2))
    refuses('expert-means needs experts=', learn, task, 'expert-means', tmp_path/'c')
    assert not (tmp_path/'c').exists()

# files of others (20_exchange)

import numpy as np

@pytest.fixture
def strange(tmp_path):
    "Files that are none of ours: a pickle of a function, one that is cut off, an array of objects, a bad archive."
    import zipfile
    torch.save(dict(x=torch.arange(3), acc=[np.float64(.5)]), tmp_path/'a.pt')
    torch.save(print, tmp_path/'b.pt')
    (tmp_path/'c.pt').write_bytes((tmp_path/'a.pt').read_bytes()[:300])
    np.save(tmp_path/'e.npy', np.array([print]))
    with zipfile.ZipFile(tmp_path/'bad.zip', 'w') as z: z.writestr('../out.pt', b'x')
    return tmp_path

@pytest.mark.parametrize('read, file, word', [
    (read_pt, 'b.pt', 'not a PyTorch file of plain tensors'), (read_pt, 'c.pt', 'not a PyTorch file of plain tensors'),
    (read_pt, 'b.pt', 'it needs builtins.print, so loading it could run code'), (read_pt, 'd.pt', 'no such file'),
    (read_npz, 'e.npy', 'not a file of plain NumPy arrays')])
def test_files_that_are_no_data(strange, read, file, word): refuses(word, read, strange/file)

def test_an_archive_that_leaves_its_folder(strange):
    with pytest.raises(ValueError, match='leaves the folder; nothing was unpacked'), unpacked(strange/'bad.zip'): pass
    assert not (strange.parent/'out.pt').exists()

@pytest.fixture
def ten(tmp_path):
    "Ten real digits as MTT would write them, and the real set."
    real = load('digits')[0]
    images = torch.stack([real.of_class(c, 1, rng_for(0, c))[0] for c in range(10)])
    torch.save(images, tmp_path/'images_best.pt')
    torch.save(torch.arange(10), tmp_path/'labels_best.pt')
    return real, images, tmp_path

@pytest.mark.parametrize('word, form, kw, shift', [
    ("no file says the student's rate", 'auto', dict(real=True), 0), ('no file says the norm', 'auto', dict(lr=.02, n_classes=10), 0),
    ('did you mean mtt', 'mtts', dict(real=True), 0), ('rate is 0|lr is 0', 'auto', dict(real=True, lr=0), 0),
    ('labels run from 1 to 10', 'auto', dict(real=True, lr=.02), 1)])
def test_imports(ten, word, form, kw, shift):
    real, _, folder = ten
    torch.save(torch.arange(10) + shift, folder/'labels_best.pt')
    refuses(word, import_set, folder, form, **kw | (dict(real=real) if 'real' in kw else {}))

def test_files_of_no_form(strange): refuses('no form is recognised', import_set, strange/'a.pt', real=load('digits')[0])

def test_an_export_writes_over_nothing(ten):
    real, images, folder = ten
    d = Pixels(images, torch.arange(10), 10, classes=real.classes, norm=real.norm, lr=.02, name='digits')
    export_set(d, folder/'out', 'mtt', quiet=True)
    refuses('is there already', export_set, d, folder/'out', 'mtt')

# hub and counts (20_hub, 21_counts)

@pytest.mark.parametrize('name', ['../ten', 'ten', 'me/ten/digits', 'me/..'])
def test_names_on_the_hub(name):
    refuses('write OWNER/NAME', pull, name, api=object())
    refuses('write OWNER/NAME', push, Distilled.example(), name, 'mit', api=object())

def test_a_push_without_a_licence(): refuses('licence is missing', push, Distilled.example(), 'me/ten-digits', api=object())

def test_networks_that_are_not_known(): refuses("network 'convnet9' is not known", net_name, 'convnet9')

# subjects of commands (22_cli)

from dataclasses import dataclass

from dd_repro.cli import Subject, distill_subject, take

@dataclass(frozen=True)
class Tea(Checked):
    "Tea."
    minutes: int = setting(3, 'how long it draws', least=1)

@pytest.mark.parametrize('given, word', [
    (dict(minute=4), "'minute' is no setting of tea; did you mean minutes?"), (dict(minutes=0), 'minutes is 0; it must be at least 1')])
def test_options_of_a_subject(given, word): refuses(word, take, Subject('dd_cup', 'tea', 'Tea.', dict(cup=Tea)), given)

@pytest.mark.parametrize('name, value, who', [('gamma1', 1., 'd3')])
def test_options_of_another_method(name, value, who):
    refuses(f'--{name} has no meaning for mtt; it is for {who}', take, distill_subject('mtt'), {name: value}, lambda: map(distill_subject, METHODS))

# tables (21_tables)

@pytest.mark.parametrize('args, word', [
    (('table1/svhn',), "'mtt/table1/svhn' is not known"), (('table1', 'pdf'), "format 'pdf' is not one of text, md, html"), (('table9',), 'mtt has no .table9.; it has table1')])
def test_tables(args, word): refuses(word, table, 'mtt', *args)

@pytest.mark.parametrize('kw', [dict(what='mtt', coverage=True, format='md'), dict(todo=True, coverage=True), dict(what='mtt/table1', todo=True), {}])
def test_questions_that_no_table_answers(kw, capsys):
    with pytest.raises(SystemExit): dd_table(**kw)
    assert capsys.readouterr().out == ''

# published sets and RDED (20_published, 18_rded)

from dd_repro.published import Published, published_set, read_layout

@pytest.fixture
def layouts(tmp_path):
    "Ten real digits in the layouts of published sets, and the real set."
    real = load('digits')[0]
    x = torch.stack([real.of_class(c, 1, rng_for(0, c))[0] for c in range(10)])
    for k in ('mtt', 'dc', 'datm'): (tmp_path/k).mkdir()
    torch.save(x, tmp_path/'mtt/images_300.pt')
    torch.save(torch.arange(10), tmp_path/'mtt/labels_300.pt')
    torch.save(dict(data=[[x, torch.arange(10)], [-x, torch.arange(10)]], accs_all_exps={}), tmp_path/'dc/res_DC_x_ConvNet_1ipc.pt')
    for k, v in dict(images=x, labels=5*torch.eye(10), lr=torch.tensor(.02)).items(): torch.save(v, tmp_path/f'datm/{k}.pt')
    return real, tmp_path

@pytest.mark.parametrize('args, word', [
    (('mtt', 'datm'), 'no file here has a name like'), (('mtt/images_300.pt', 'dc'), 'this is a tensor .10, 1, 8, 8.'),
    (('dc', 'dc', 2), 'run 2 was asked for; it has 2'), (('mtt', 'kip'), "layout 'kip' is not one of mtt, dc, datm")])
def test_layouts(layouts, args, word): refuses(word, read_layout, layouts[1]/args[0], *args[1:])

def test_soft_labels_in_a_layout_of_class_numbers(layouts):
    torch.save(5*torch.eye(10), layouts[1]/'mtt/labels_300.pt')
    refuses(r'class numbers .n. in this layout; this is a tensor .10, 10.', read_layout, layouts[1]/'mtt', 'mtt')

@pytest.mark.parametrize('what, word', [
    (dict(ipc=5), '5 images per class are expected; there are .1, 1,'), (dict(zca=True), 'belongs to ZCA images'),
    ('kip', "published set 'kip' is not one of mtt-zca-cifar10-ipc1")])
def test_published_sets(layouts, what, word):
    real, folder = layouts
    line = Published('mtt', 'random', 'mtt', 1, 70., 5., '1 x 5', 'nobody', judged='mtt', lr=.01)
    refuses(word, published_set, what if isinstance(what, str) else dataclasses.replace(line, **what), folder, real)

def test_too_few_patches():
    refuses('candidates is 10; 3 images of 2 x 2 patches need 12', METHODS['rded'], ipc=3, candidates=10)
    refuses('4 patches are needed and 3 images are there', best_patches, torch.tensor([[.3, .2], [.9, .8], [.1, .5]]), 4)
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
