"Ensemble labels: exact replay, resume, damage, what is refused, and the mean of logits against float64."
import json, os, zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dd_repro import labels as R
from dd_repro.core import rng_for, seeded
from dd_repro.files import load_tensors
from dd_repro.sets import ImageTensors
from dd_repro.convnet import ConvNet
from dd_repro.norm import Normalize
from dd_repro.distilled import Pixels
from dd_repro.augment import crop_boxes
from dd_repro.labels import Relabelled, LabelStore, ViewSettings, relabel, crop_flip, mean_logits, epoch_order, fingerprint, at_temperature
from dd_repro.students import as_protocol, evaluate, train

torch.set_num_threads(1)
FOUR = ViewSettings(4)


def net(i=0, n_out=4, size=8, **kw):
    "A small seeded network with batch norm that has seen something."
    with seeded(i, 'net'): n = ConvNet(3, n_out, size, width=8, depth=2, norm='batch', **kw)
    n(torch.randn(32, 3, size, size, generator=rng_for(i)))
    return n.eval()

def images(n=10, size=8, seed=0):
    "A few coloured images of four classes."
    return Pixels(torch.randn(n, 3, size, size, generator=rng_for(seed, 'images')), torch.arange(n) % 4, 4, arch=net().arch)

class Watched:
    "A teacher that keeps what it is shown, and can break off."
    def __init__(self, net, after=None): self.net, self.seen, self.after = net, [], after
    def __call__(self, x):
        if self.after is not None and len(self.seen) > self.after: raise KeyboardInterrupt
        self.seen.append(x.clone())
        return self.net(x)

def tree(path): return {p.name: p.read_bytes() for p in sorted(path.iterdir()) if p.suffix in ('.safetensors', '.json')}


@pytest.mark.parametrize('cutmix', [False, True])
@pytest.mark.parametrize('batch', [4, 64])
def test_replay_shows_the_pixels_of_labelling(tmp_path, cutmix, batch):
    d, t = images(), Watched(net())
    store = relabel(d, [t], tmp_path, 3, ViewSettings(batch, cutmix), quiet=True)
    src, steps = Relabelled(d, LabelStore(tmp_path)), -(-10//batch)
    for e in range(3):
        got = list(src.epoch(e, batch))
        shown = t.seen[1 + e*steps:1 + (e + 1)*steps]
        assert len(got) == steps and all(torch.equal(x, y) for (x, _), y in zip(got, shown, strict=True))
        for (x, q), z in zip(got, shown): torch.testing.assert_close(q, (t.net(z).half().float()/20).softmax(1), atol=1e-6, rtol=0)
    assert sorted(store.epoch(0).views.order.tolist()) == list(range(10))

def test_pixels_do_not_depend_on_who_shares_the_batch():
    x = torch.randn(9, 3, 33, 20, generator=rng_for(0))
    box = torch.cat([crop_boxes(9, (33, 20), rng_for(1)), torch.randint(2, (9, 1), generator=rng_for(2))], 1).short()
    whole = crop_flip(x, box)
    assert all(torch.equal(whole[i:i+k], crop_flip(x[i:i+k], box[i:i+k])) for k in (1, 2, 4) for i in range(0, 9, k))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_pixels_are_the_same_on_a_gpu():
    x = torch.randn(64, 3, 64, 64, generator=rng_for(0))
    box = torch.cat([crop_boxes(64, (64, 64), rng_for(1)), torch.randint(2, (64, 1), generator=rng_for(2))], 1).short()
    assert torch.equal(crop_flip(x, box), crop_flip(x.cuda(), box).cpu())

def test_crop_of_every_box_is_torchvisions():
    from torchvision.transforms.functional import resized_crop
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64, generator=rng_for(0))
    for t in range(5):
        for l in range(4):
            for h in range(1, 6 - t):
                for w in range(1, 5 - l):
                    torch.testing.assert_close(crop_flip(x, torch.tensor([[t, l, h, w, 0]])), resized_crop(x, t, l, h, w, [5, 4], antialias=True), atol=1e-6, rtol=0) # its scale is a float32

def test_mean_is_over_logits_in_float64():
    nets, x = [net(i).double() for i in range(5)], torch.randn(7, 3, 8, 8, dtype=torch.float64, generator=rng_for(3))
    with torch.no_grad(): want = np.mean([n(x).numpy() for n in nets], 0)
    assert np.abs(mean_logits(nets, x).numpy() - want).max() < 1e-13

def test_stored_labels_are_that_mean(tmp_path):
    d, nets = images(), [net(i) for i in range(3)]
    store = relabel(d, nets, tmp_path, 1, FOUR, quiet=True)
    k = store.epoch(0)
    for i in range(3):
        x = k.views.see(d, i).double()
        with torch.no_grad(): want = sum(n.double()(x) for n in nets)/3
        torch.testing.assert_close(k.logits[k.views.at(i)].double(), want, atol=1e-6, rtol=2**-11)
        [n.float() for n in nets]

def test_the_file_is_plain_safetensors(tmp_path):
    relabel(images(), [net()], tmp_path, 1, ViewSettings(4, cutmix=True), quiet=True)
    f = tmp_path/'labels-00000.safetensors'
    t = load_file(f)
    assert {k: (v.dtype, tuple(v.shape)) for k, v in t.items()} == dict(order=(torch.int32, (10,)), partner=(torch.int32, (10,)), box=(torch.int16, (10, 5)),
        mix=(torch.int16, (3, 4)), logits=(torch.float16, (10, 4)))
    assert load_tensors(f)[1]['epoch'] == 0


def test_resumed_equals_uninterrupted(tmp_path):
    d = images()
    whole = relabel(d, [Watched(net())], tmp_path/'a', 4, FOUR, quiet=True)
    with pytest.raises(KeyboardInterrupt): relabel(d, [Watched(net(), after=7)], tmp_path/'b', 4, FOUR, quiet=True)
    assert [p.name for p in sorted((tmp_path/'b').glob('*labels*'))] == ['labels-00000.safetensors', 'labels-00001.safetensors']
    first = (tmp_path/'b'/'labels-00000.safetensors').stat().st_mtime_ns
    with pytest.raises(ValueError, match='2 of 4 label epochs are there; the first that is missing is 2'): LabelStore(tmp_path/'b')
    assert len(LabelStore(tmp_path/'b', epochs=2)) == 2
    relabel(d, [Watched(net())], tmp_path/'b', 4, FOUR, quiet=True)
    assert tree(tmp_path/'a') == tree(tmp_path/'b') and (tmp_path/'b'/'labels-00000.safetensors').stat().st_mtime_ns == first
    assert len(whole) == 4

def test_more_epochs_are_added(tmp_path):
    d, t = images(), Watched(net())
    relabel(d, [t], tmp_path/'a', 2, FOUR, quiet=True)
    n = len(t.seen)
    relabel(d, [t], tmp_path/'a', 3, FOUR, quiet=True)
    assert len(t.seen) == n + 1 + 3
    relabel(d, [Watched(net())], tmp_path/'b', 3, FOUR, quiet=True)
    assert tree(tmp_path/'a') == tree(tmp_path/'b')

@pytest.mark.parametrize('harm', [lambda b: b[:-30], lambda b: b[:5], lambda b: b'', lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b + b'x', lambda b: b'\xff'*len(b)])
def test_damaged_file_is_named_and_redone(tmp_path, capsys, harm):
    d = images()
    relabel(d, [net()], tmp_path, 3, FOUR, quiet=True)
    before, f = tree(tmp_path), tmp_path/'labels-00001.safetensors'
    f.write_bytes(harm(f.read_bytes()))
    with pytest.raises(ValueError, match='labels-00001.safetensors: damaged or cut off') as e: LabelStore(tmp_path).epoch(1)
    assert '\n' not in str(e.value)
    relabel(d, [net()], tmp_path, 3, FOUR, quiet=True)
    assert 'labels-00001.safetensors: damaged or cut off' in capsys.readouterr().out
    assert tree(tmp_path) == before

def test_damaged_index_is_named_and_redone(tmp_path, capsys):
    d = images()
    relabel(d, [net()], tmp_path, 2, FOUR, quiet=True)
    before = tree(tmp_path)
    (tmp_path/'index.json').write_text('{"settings"')
    with pytest.raises(ValueError, match='index.json: damaged'): LabelStore(tmp_path)
    relabel(d, [net()], tmp_path, 2, FOUR, quiet=True)
    assert 'index.json: damaged' in capsys.readouterr().out and tree(tmp_path) == before

def test_files_of_other_settings_are_not_taken(tmp_path, capsys):
    d = images()
    relabel(d, [net()], tmp_path/'a', 2, ViewSettings(4, seed=1), quiet=True)
    relabel(d, [net()], tmp_path/'b', 2, ViewSettings(4, seed=2), quiet=True)
    (tmp_path/'a'/'labels-00001.safetensors').write_bytes((tmp_path/'b'/'labels-00001.safetensors').read_bytes())
    relabel(d, [net()], tmp_path/'a', 2, ViewSettings(4, seed=1), quiet=True)
    assert 'labels of other settings' in capsys.readouterr().out
    assert (tmp_path/'a'/'labels-00001.safetensors').read_bytes() != (tmp_path/'b'/'labels-00001.safetensors').read_bytes()


def test_disk_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    t = Watched(net())
    monkeypatch.setattr(R.shutil, 'disk_usage', lambda p: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match='needed and the disk has 1.00 kB free for 300 label epochs'): relabel(images(), [t], tmp_path/'x'/'y', 300, FOUR, quiet=True)
    assert list(tmp_path.iterdir()) == [] and len(t.seen) == 1 # the trial of two images

def test_size_is_printed_before(tmp_path, capsys):
    class Says:
        def __call__(self, x): print('asked'); return x[:, 0, 0, :4]
    relabel(images(), [Says()], tmp_path, 2, FOUR, quiet=None)
    out = capsys.readouterr().out.splitlines()
    assert '2 epochs x 10 images x 4 classes x 2 bytes = 160 B of labels' in out[1] and [l == 'asked' for l in out] == [True, False] + [True]*6

def test_full_disk_in_the_middle_leaves_whole_files(tmp_path, monkeypatch):
    d, fsync, calls = images(), os.fsync, []
    def full(f):
        calls.append(f)
        if len(calls) == 3: raise OSError(28, 'No space left on device')
        return fsync(f)
    monkeypatch.setattr(R.os, 'fsync', full)
    with pytest.raises(OSError, match='labels-00001.safetensors: No space left on device'): relabel(d, [net()], tmp_path, 3, FOUR, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir() if 'lock' not in p.name) == ['index.json', 'labels-00000.safetensors']

def test_what_is_left_of_a_killed_run_is_cleared(tmp_path):
    relabel(images(), [net()], tmp_path, 1, FOUR, quiet=True)
    (tmp_path/'.labels-00001.safetensors.tmp').write_bytes(b'half')
    relabel(images(), [net()], tmp_path, 2, FOUR, quiet=True)
    assert not list(tmp_path.glob('.labels*'))

@pytest.mark.parametrize('other, msg', [(images(seed=1), 'labels of other images'), (images(9), 'labels for images 10; the set has 9'),
    (images(size=16), r'labels for shape \[3, 8, 8\]; the set has \[3, 16, 16\]'),
    (Pixels(images().images.detach(), images().y, 5), 'labels for classes 4; the set has 5')])
def test_store_that_does_not_fit_is_refused(tmp_path, other, msg):
    relabel(images(), [net()], tmp_path, 1, FOUR, quiet=True)
    with pytest.raises(ValueError, match=msg): Relabelled(other, tmp_path)

@pytest.mark.parametrize('kw, msg', [(dict(teachers=[]), 'there are no teachers'), (dict(teachers=[net(), net(n_out=5)]), r'teacher 1 gives \[2, 5\] for 2 images; the set has 4 classes'),
    (dict(epochs=0), 'epochs is 0'),
    (dict(teachers=[lambda x: x.new_full((len(x), 4), 1e6)]), 'label epoch 0, step 0: logits that are not finite')])
def test_bad_input_is_one_line(tmp_path, kw, msg):
    o = dict(teachers=[net()], epochs=2, views=FOUR) | kw
    with pytest.raises(ValueError, match=msg) as e: relabel(images(), path=tmp_path/'x', quiet=True, **o)
    assert '\n' not in str(e.value) and not list((tmp_path/'x').glob('*labels*'))

@pytest.mark.parametrize('kw, msg', [(dict(batch=0), 'batch is 0'), (dict(scale=0), 'scale is 0'), (dict(scale=1.5), 'scale is 1.5'), (dict(flip='no'), 'flip is .no.')])
def test_views_that_cannot_be_drawn(kw, msg):
    with pytest.raises(ValueError, match=msg): ViewSettings(**kw)

def test_other_teachers_images_or_views_need_another_folder(tmp_path):
    relabel(images(), [net()], tmp_path, 1, FOUR, quiet=True)
    for d, t, how, what in ((images(), net(1), FOUR, 'teachers'), (images(seed=1), net(), FOUR, 'images'), (images(), net(), ViewSettings(4, cutmix=True), 'cutmix')):
        with pytest.raises(ValueError, match=f'made with other {what}; give another folder'): relabel(d, [t], tmp_path, 1, how, quiet=True)


class Stored(Pixels):
    "Images that stay bytes in a file mapped into memory, as a large set keeps them."
    def __init__(self, path, n_classes, norm):
        raw = np.load(path, mmap_mode='r')
        super().__init__(torch.zeros(len(raw), *raw.shape[1:]), torch.arange(len(raw)) % n_classes, n_classes, norm=norm)
        del self.images
        self.images, self.most = raw, 0
    def __len__(self): return len(self.images)
    def sample(self, n=None, *, idx=None, **kw):
        self.most = max(self.most, len(idx))
        return self.norm(torch.as_tensor(self.images[idx.numpy()]).float()/255), self.y[idx]

def test_images_in_a_mapped_byte_store_go_by_batches(tmp_path):
    np.save(tmp_path/'images.npy', (torch.rand(40, 3, 8, 8, generator=rng_for(0))*255).byte().numpy())
    norm = Normalize((.5,)*3, (.2,)*3)
    d, t = Stored(tmp_path/'images.npy', 4, norm), Watched(net())
    store = relabel(d, [t], tmp_path/'l', 2, ViewSettings(8), quiet=True)
    assert d.most == 8 and all(torch.equal(x, y) for (x, _), y in zip(Relabelled(d, store).epoch(1, 8), t.seen[6:], strict=True))
    p = Pixels(d.sample(idx=torch.arange(40))[0], d.y, 4)
    assert all(torch.equal(store.epoch(0).views.see(d, i), store.epoch(0).views.see(p, i)) for i in range(5))
    with pytest.raises(ValueError, match='labels of other images'): Relabelled(Stored(tmp_path/'images.npy', 4, Normalize((.4,)*3, (.2,)*3)), store)

class Scaled(torch.nn.Module):
    "A network under another norm, which is no weight."
    def __init__(self, net, by): super().__init__(); self.net, self.by = net, by
    def forward(self, x): return self.net(x*self.by)

def test_the_right_weights_under_another_norm_are_other_teachers(tmp_path):
    relabel(images(), [Scaled(net(), 1.)], tmp_path, 1, FOUR, quiet=True)
    relabel(images(), [Scaled(net(), 1.)], tmp_path, 2, FOUR, quiet=True)
    with pytest.raises(ValueError, match='other teachers .the weights fit, their answers do not'): relabel(images(), [Scaled(net(), 3.)], tmp_path, 2, FOUR, quiet=True)

def test_real_images_are_labelled_in_the_same_way(tmp_path):
    p = images()
    r = ImageTensors(p.images.detach(), p.y, 4)
    a, b = (relabel(x, [net()], tmp_path/n, 1, FOUR, quiet=True) for x, n in ((p, 'p'), (r, 'r')))
    assert tree(a.path) == tree(b.path) and fingerprint(p) == fingerprint(r)


def test_order_of_label_epochs():
    for have, train_for in ((5, 3), (5, 5), (3, 11)):
        seq = [epoch_order(have, e, 7) for e in range(train_for)]
        assert all(sorted(seq[i:i+have]) == list(range(have)) for i in range(0, train_for - have + 1, have)) and len(set(seq)) == min(have, train_for)
    assert [epoch_order(20, e, 1) for e in range(20)] != [epoch_order(20, e, 2) for e in range(20)]

def test_students_go_their_own_way_through_the_labels(tmp_path):
    d = images()
    src = Relabelled(d, relabel(d, [net()], tmp_path, 4, FOUR, quiet=True))
    p = at_temperature('d3s-in1k', 4., 'smoke').scaled(kind='smoke', epochs=6, batch=4, lr=1e-2)
    def two(together):
        with seeded(0): nets = [ConvNet(3, 4, 8, width=8, depth=2).double() for _ in range(2)]
        src64 = Relabelled(Pixels(d.images.detach(), d.y, 4), src.store)
        src64.epoch = lambda *a, **kw: ((x.double(), y.double()) for x, y in Relabelled.epoch(src64, *a, **kw))
        return train(nets, src64, p, together=together)
    for a, b in zip(two(True), two(False)): torch.testing.assert_close(a.head.weight, b.head.weight, atol=1e-9, rtol=0)
    row, = evaluate(src, ImageTensors(d.images.detach(), d.y, 4), 'convnet', p, n_eval=2)
    assert row.n == 2 and src.notes() == '4 label epochs for 6 trained'
    with pytest.raises(ValueError, match='labelled in batches of 4, not 5'): train(net(), src, p.scaled(kind='smoke', batch=5))
    with pytest.raises(ValueError, match='trains on hard labels'): train(net(), src, p.scaled(kind='smoke', labels='hard'))

def test_index_says_who_labelled_what(tmp_path):
    relabel(images(), [net(), net(1)], tmp_path, 1, FOUR, names=['a', 'b'], quiet=True)
    m = json.loads((tmp_path/'index.json').read_text())
    assert [n for n, _ in m['settings']['teachers']] == ['a', 'b'] and len({h for _, h in m['settings']['teachers']}) == 2 and m['epochs'] == 1
    (tmp_path/'index.json').write_text(json.dumps(m | dict(format=9)))
    with pytest.raises(ValueError, match='label format 9 is newer'): LabelStore(tmp_path)

def test_a_packed_store_teaches_what_its_folder_does(tmp_path, monkeypatch):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    d = images(); store = relabel(d, [net()], tmp_path/'labels', 3, FOUR, quiet=True)
    one = store.pack(tmp_path/'labels.zip'); first, second = (list(Relabelled(d, s).epoch(1, 4)) for s in (store, one))
    assert all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y))
    at = LabelStore(one).path; assert tree(at).keys() == tree(store.path).keys() and LabelStore(one).path == at

@pytest.mark.parametrize('files, says', [({}, 'not a packed label store'), ({'labels-00000.safetensors': 'x'}, 'its index.json is missing or damaged'), ({'index.json': '{}'}, 'its index.json is missing or damaged'),
    ({'index.json': json.dumps(dict(format=1, epochs=2, settings=dict(n=1)))}, 'a label store without its labels-00000.safetensors')])
def test_a_packed_store_that_is_not_whole_is_refused(files, says, tmp_path, monkeypatch):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z: [z.writestr(*f) for f in files.items()]
    with pytest.raises(ValueError, match=f'x.zip: .*{says}') as e: LabelStore(tmp_path/'x.zip')
    assert '\n' not in str(e.value) and [p.name for p in (tmp_path/'home').rglob('*') if not p.name.endswith('.lock')] == ['labels']

def test_an_unpacked_store_that_lost_a_file_is_unpacked_again(tmp_path, monkeypatch):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    one = relabel(images(), [net()], tmp_path/'labels', 3, FOUR, quiet=True).pack(tmp_path/'labels.zip')
    at = LabelStore(one).path; (at/'labels-00001.safetensors').unlink(); assert len(LabelStore(one)) == 3 and (at/'labels-00001.safetensors').is_file()

def test_damage_is_not_packed(tmp_path):
    store = relabel(images(), [net()], tmp_path/'labels', 2, FOUR, quiet=True); f = store.path/'labels-00001.safetensors'
    f.write_bytes(f.read_bytes()[:-1] + bytes([f.read_bytes()[-1] ^ 1]))
    with pytest.raises(ValueError, match='labels-00001.safetensors: damaged'): store.pack(tmp_path/'x.zip')
    assert not (tmp_path/'x.zip').exists()

@pytest.mark.parametrize('name', ['../labels-00000.safetensors', 'labels.txt', '/index.json', 'sub/index.json'])
def test_a_zip_of_something_else_is_refused_and_leaves_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z: z.writestr('index.json', '{}'); z.writestr(name, 'x')
    with pytest.raises(ValueError, match='x.zip: not a packed label store') as e: LabelStore(tmp_path/'x.zip')
    assert '\n' not in str(e.value) and [p.name for p in (tmp_path/'home').rglob('*') if not p.name.endswith('.lock')] == ['labels']
