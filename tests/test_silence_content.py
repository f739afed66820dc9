"""Keys are made of content: what was made from other pixels or labels under an old name is refused with what differs, never taken up."""
import copy, dataclasses, json, os, pickle, shutil
from functools import partial

import numpy as np
import pytest, torch
from PIL import Image

from dd_repro import recipes as R
from dd_repro import sets as S
from dd_repro.augment import DSA
from dd_repro.autoenc import AutoEncoder, TinyAE
from dd_repro.cli import dd_distill, dd_eval, dd_experts
from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded, what_differs
from dd_repro.files import load_tensors, save_tensors
from dd_repro.records import Row, read_rows, record
from dd_repro.teachers import TeacherProtocol, load_teachers, train_teachers
from dd_repro.data import Files, load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import Buffer, expert_protocol, train_experts
from dd_repro.latent import codes_space, encode_set, latent_experts, latent_net
from dd_repro.loop import Objective, distill
from dd_repro.coreset import coreset
from dd_repro.match import DC, DM, Matching
from dd_repro.method import RunOptions, Task, learn, method_of
from dd_repro.mtt import MTT, mtt_opts
from dd_repro.method import RunOptions, Task, learn, method_of
from dd_repro.labels import Relabelled, ViewSettings, relabel
from dd_repro.rows import Places, run_row
from dd_repro.sets import ImageStream, ImageTensors, content_key, not_recorded
from dd_repro.students import Protocol, as_protocol, evaluate

torch.set_num_threads(1)

@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "A home of its own, and nothing said so far."
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home')); monkeypatch.setattr(S, '_said', set())
    return tmp_path

def refused(says, f, *a, **kw):
    with pytest.raises(ValueError, match=says) as e: f(*a, **kw)
    assert '\n' not in str(e.value)

# --- the same commands, other data: sets in memory
@pytest.fixture(scope='module')
def real():
    "Five digits of each class at 8 px."
    r = load('digits')[0]
    return r.subset(torch.cat([(r.y == c).nonzero()[:5, 0] for c in range(10)]))

def swapped(r): y = r.y.clone(); y[r.y == 3], y[r.y == 8] = 8, 3; return r.new(r.x, y)
def corrected(r): y = r.y.clone(); y[[0, 7]] = r.y[[7, 0]]; return r.new(r.x, y)
def mirrored(r): return r.new(r.x.flip(3))
def inverted(r): return r.new(r.norm(1 - r.norm.inverse(r.x)))
CHANGES = [swapped, corrected, mirrored, inverted]

NET = partial(ConvNet, 1, 10, 8, 4, 2)
TEACHER = partial(ConvNet, 1, 10, 8, 4, 2, norm='batch')
ONCE = TeacherProtocol('teacher', 'smoke', epochs=1, batch=25, lr=.05, how='')
S8 = dict(syn_steps=2, expert_epochs=1, max_start_epoch=1, batch_syn=None, lr_img=1., lr_lr=1e-5, lr_teacher=.02)

def experts(r, top, n=1, name=''): return train_experts(NET, r, top/f'experts{name}', n, expert_protocol(2, batch=25, aug=''), quiet=True)
def fresh_experts(r, top): return experts(r, top, name=f'-{r.key}')
def ae():
    with seeded('ae'): return AutoEncoder(TinyAE(1, 2, 2, 4), 'tiny (test)', 2, 2, 1., 2, 1, own=True)
def teachers(r, top, name='teachers'): return train_teachers(TEACHER, r, top/name, 1, ONCE, quiet=True)

QUIET, D3 = RunOptions(quiet=True), dict(z_dim=4, decoder_width=8, mmd_samples=2) | {k: v for k, v in S8.items() if k != 'lr_img'}
def by_mtt(r, b, out): return learn(Task(r, net_fn=NET, experts=b), method_of('mtt', iterations=2, aug='', **S8), out, QUIET)
def by_d3(r, b, out): return learn(Task(r, net_fn=NET, experts=b), method_of('d3', iterations=2, **D3), out, QUIET)
def run_mtt(r, top): return by_mtt(r, fresh_experts(r, top), top/'run')
def run_d3(r, top): return by_d3(r, fresh_experts(r, top), top/'run')
def run_d3s(r, top): return learn(Task(r, teachers=teachers(r, top, f't-{r.key}')), method_of('d3s', batch=5, iterations=2), top/'run', QUIET)
def matched(r, out, method, sched=None, **kw):
    "(a set by matching, its run)"
    return learn(Task(r, net_fn=NET), method_of(method, **kw), out, RunOptions(quiet=True, sched=sched))

def coded(r, out, method='latent-dm', sched=None, buffer=None, **kw):
    "(a set of codes, its run)"
    task = Task(r, net_fn=latent_net(codes_space(r, ae()), 4), ae=ae(), experts=buffer)
    return learn(task, method_of(method, lpc=1, **kw), out, RunOptions(quiet=True, sched=sched))

FOLLOW = dict(iterations=2, syn_steps=2, expert_epochs=1, max_start_epoch=1)
def run_dm(r, top): return matched(r, top/'run', 'dm', iterations=2)
def run_dc(r, top): return matched(r, top/'run', 'dc', iterations=1, outer=2, inner=1)
def run_codes(r, top): return coded(r, top/'run', iterations=2)
def run_latent_mtt(r, top):
    codes = encode_set(r, ae()); buffer = latent_experts(codes, top/f'codes-{r.key}', 1, 3, 4, batch=25, quiet=True)
    return coded(r, top/'run', 'latent-mtt', buffer=buffer, **FOLLOW)
STAGES = [experts, teachers, run_mtt, run_d3, run_d3s, run_dm, run_dc, run_codes, run_latent_mtt]

@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('stage', STAGES)
def test_other_content_under_the_old_name_is_refused(stage, change, real, tmp_path):
    "And the same content, made anew, goes on."
    stage(real, tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path/'run').rglob('*.safetensors')}
    refused('content', stage, change(real), tmp_path)
    assert {p: p.read_bytes() for p in (tmp_path/'run').rglob('*.safetensors')} == before
    stage(real.to('cpu'), tmp_path)

@pytest.mark.parametrize('change', CHANGES)
def test_experts_teachers_and_codes_are_not_used_for_other_data(change, real, tmp_path):
    buffer, other = experts(real, tmp_path), change(real); teachers(real, tmp_path)
    refused('experts of other data .content', by_mtt, other, buffer, tmp_path/'run')
    refused('experts of other data .content', by_d3, other, buffer, tmp_path/'run')
    refused('made from other data.*content', load_teachers, tmp_path/'teachers', other)
    a, b = encode_set(real, ae()), encode_set(other, ae())
    assert a.key != b.key and not (torch.equal(a.x, b.x) and torch.equal(a.y, b.y)) and len(list((tmp_path/'home'/'codes').iterdir())) == 2
    assert not (tmp_path/'run').exists()

@pytest.mark.parametrize('change', CHANGES)
def test_labels_belong_to_images_and_teachers(change, real, tmp_path):
    other, t = change(real), teachers(real, tmp_path)
    d, e = Pixels.from_real(real, 5, 0, name='digits'), Pixels.from_real(other, 5, 0, name='digits')
    relabel(d, t, tmp_path/'labels', 1, ViewSettings(10), quiet=True)
    refused('images|teachers', relabel, e if not torch.equal(d.images, e.images) else d, teachers(other, tmp_path, 'u'), tmp_path/'labels', 1, ViewSettings(10), quiet=True)
    if not torch.equal(d.images, e.images): refused('other images', Relabelled, e, tmp_path/'labels')

@pytest.mark.parametrize('change', CHANGES)
def test_cards_and_rows_say_what_they_were_made_from(change, real, tmp_path):
    other, p = change(real), as_protocol('mtt').scaled(epochs=1)
    found = []
    for r in (real, other):
        d, _ = run_dm(r, tmp_path/r.key); d = Distilled.load(tmp_path/r.key/'run'/'distilled.safetensors')
        row, = evaluate(d, real, NET().arch, p, 1); full, = evaluate(r, real, NET().arch, p, 1, lr=.01)
        assert d.source['key'] == d.info['settings']['content'] == row.content == full.content == r.key
        assert coreset(r, 1, 'random').info['settings']['content'] == r.key
        found.append((row.settings, full.settings))
    assert not set(found[0]) & set(found[1])

def test_one_expert_then_two(real, tmp_path):
    "In MTT, D3 and codes; and what differs is named."
    one = experts(real, tmp_path)
    codes = encode_set(real, ae()); few = lambda n: latent_experts(codes, tmp_path/'c', n, 3, 4, batch=25, quiet=True)
    runs = dict(mtt=lambda b, c, out: by_mtt(real, b, out), d3=lambda b, c, out: by_d3(real, b, out),
        latent=lambda b, c, out: coded(real, out, 'latent-mtt', buffer=c, **FOLLOW))
    c = few(1)
    for k, run in runs.items(): run(one, c, tmp_path/k)
    two, d = experts(real, tmp_path, 2), few(2)
    for k, run in runs.items():
        refused('n_experts: 1, here 2', run, two, d, tmp_path/k)
        run(Buffer(one.path, 1), Buffer(c.path, 1), tmp_path/k)

def test_a_bare_loop_knows_what_its_objective_holds(real, tmp_path):
    "Without any settings: data and experts are those of the objective, also within a sum."
    class Mean(Objective):
        def __init__(self, real): super().__init__(); self.real = real
        def __call__(self, d): return (d.images.mean() - self.real.x.mean())**2
    go = lambda r, out, o: distill(Pixels.from_real(real, 1), o(Mean(r)), 2, {'images': partial(torch.optim.SGD, lr=.1)}, ckpt=tmp_path/out, quiet=True)
    for out, o in (('a', lambda m: m), ('b', lambda m: m + .5*m)):
        go(real, out, o); go(real, out, o)
        for change in CHANGES: refused('made_of.*real|made_of', go, change(real), out, o)

# --- the key of a set
def test_what_a_key_depends_on(real):
    keys = [real.key, *(c(real).key for c in CHANGES), real.subset([0, 1]).key, real.subset([1, 0]).key, *(s.key for s in real.split(.4)), *(s.key for s in real.split(.4, 1)),
            ImageTensors(real.x, real.y, 11).key, load('digits')[0].key, load('digits')[1].key, load('digits', size=16)[0].key]
    assert len(set(keys)) == len(keys) and all(len(k) == 16 and int(k, 16) >= 0 for k in keys)

def test_what_a_key_does_not_depend_on(real):
    a, b = load('digits'), load('digits', stats=(.4, .2))
    assert a[0].key == b[0].key and a[0].renorm(b[0].norm).key == a[0].key == a[0].to('cpu').key
    same = [0, 3, 5], torch.tensor([0, 3, 5]), np.array([0, 3, 5]), torch.arange(len(real)).eq(0) | torch.arange(len(real)).eq(3) | torch.arange(len(real)).eq(5)
    assert len({real.subset(i).key for i in same}) == 1
    hand = ImageTensors(real.x.clone(), real.y.clone(), 10); part = hand.subset([1, 2]).key; hand.key
    assert hand.subset([1, 2]).key == part # whether or not somebody asked before

@pytest.mark.parametrize('write', [lambda r: r.x.neg_(), lambda r: r.x[0].zero_(), lambda r: setattr(r, 'y', r.y.flip(0)), lambda r: r.y.sub_(9).neg_()])
def test_a_set_that_was_written_to_has_another_key(write):
    r = load('digits')[0]; was = r.key
    twins = copy.deepcopy(r), pickle.loads(pickle.dumps(r))
    write(r); assert r.key != was and r.to('cpu').key == r.key and [t.key for t in twins] == [was]*2

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.bool, torch.complex64])
def test_keys_of_any_type(dtype):
    a, b = torch.tensor([0., 1.]).to(dtype), torch.tensor([1., 1.]).to(dtype)
    assert content_key(a) == content_key(a.clone()) != content_key(b) and content_key(a) != content_key(a[None])

def test_maps_with_and_without_a_key(real):
    one = ae()
    a, b = real.map(one.encode), real.map(one.encode)
    assert a.key == b.key and a.key != real.key and real.map(one).key != real.key
    with seeded(1): other = AutoEncoder(TinyAE(1, 2, 2, 4), 'tiny (test)', 2, 2, 1., 2, 1, own=True)
    assert real.map(other.encode).key != a.key and real.map(lambda x: x).key != real.map(lambda x: 2*x).key

# --- folders: files, held and as a stream
def pictures(top, n=6):
    "Two classes of little pictures, each of its own, with train/ and val/."
    for part, k in (('train', n), ('val', 2)):
        for y, c in enumerate(('cat', 'dog')):
            (top/part/c).mkdir(parents=True)
            for i in range(k):
                x = torch.randint(0, 60, (8, 8, 3), generator=rng_for(part, c, i)) + 120*y + torch.arange(8)[None, :, None]*8
                Image.fromarray(x.numpy().astype(np.uint8)).save(top/part/c/f'{i}.png')
    return top

def each(top, f):
    for p in sorted((top/'train').rglob('*.png')):
        with Image.open(p) as im: x = np.array(im)
        Image.fromarray(np.ascontiguousarray(f(x))).save(p)

def wide(top):
    "A picture that a crop and a squeeze show differently."
    Image.fromarray(np.arange(480, dtype=np.uint8).reshape(8, 20, 3)).save(top/'train'/'cat'/'wide.png')

def swap(a, b): a.rename(a.parent/'_'), b.rename(a), (a.parent/'_').rename(b)
FOLDERS = dict(swapped=lambda t: swap(t/'train'/'cat', t/'train'/'dog'), corrected=lambda t: swap(t/'train'/'cat'/'0.png', t/'train'/'dog'/'0.png'),
               mirrored=lambda t: each(t, lambda x: x[:, ::-1]), inverted=lambda t: each(t, lambda x: 255 - x))

@pytest.fixture
def folder(tmp_path): return pictures(tmp_path/'mine')

@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('change', FOLDERS)
def test_a_folder_that_changed_has_another_key(change, stream, folder):
    get = lambda **kw: load(folder, stream=stream, workers=0, **kw)[0].key
    was = get(); assert get() == was
    FOLDERS[change](folder); assert get() != was

def test_files_that_keep_size_and_time_are_still_told_apart(folder):
    "A swap of two files with equal sizes and times, as archives leave them."
    a, b = (folder/'train'/c/'0.bmp' for c in ('cat', 'dog'))
    for f, v in ((a, 10), (b, 200)): Image.new('RGB', (8, 8), (v,)*3).save(f); os.utime(f, (1, 1))
    key = lambda: load(folder, stream=True, workers=0)[0].key
    was = key(); swap(a, b); assert a.stat().st_size == b.stat().st_size and key() != was
    swap(a, b); assert key() == was

def test_a_touched_or_copied_folder_keeps_its_key(folder, tmp_path):
    key = lambda top, **kw: load(top, stream=True, workers=0, **kw)[0].key
    was, seen = key(folder), len(list((tmp_path/'home'/'keys').iterdir()))
    assert key(folder) == was and len(list((tmp_path/'home'/'keys').iterdir())) == seen # read once
    for p in folder.rglob('*.png'): os.utime(p, (7, 7))
    assert key(folder) == was and len(list((tmp_path/'home'/'keys').iterdir())) > seen # looked at again
    shutil.copytree(folder, tmp_path/'elsewhere'/'mine'); assert key(tmp_path/'elsewhere'/'mine') == was
    (folder/'train'/'cat'/'0.png').rename(folder/'train'/'cat'/'00.png'); assert key(folder) != was

def test_loading_choices_are_in_the_key_of_a_stream(folder):
    wide(folder)
    s = lambda **kw: load(folder, stream=True, workers=0, **(dict(size=8) | kw))[0]
    keys = [s().key, s(crop=False).key, s(size=4).key, s().new(mode='L').key, s().map(lambda x: x.flip(3)).key, s().map(lambda x: 1 - x).key, s(val=.5).key, s().map(ae().encode).key]
    assert len(set(keys)) == len(keys)
    assert s().key == s(stats=(.5, .5)).key == s().to('cpu').key == s().held().key

@pytest.mark.parametrize('big', [False, True])
def test_large_folders_are_sampled_block_by_block(big, folder, monkeypatch):
    if big: monkeypatch.setattr(S, 'WHOLE', 10); monkeypatch.setattr(S, 'BLOCK', 64)
    key = lambda: load(folder, stream=True, workers=0, stats=(.5, .2))[0].key
    was = key(); p = folder/'train'/'dog'/'3.png'; b = bytearray(p.read_bytes())
    b[len(b)//2] ^= 1; p.write_bytes(b); assert key() != was

class Numbers(torch.utils.data.Dataset):
    "A dataset that is no files."
    def __init__(self, n, f=lambda x: x, y=lambda i: i % 2): self.n, self.f, self.targets = n, f, [y(i) for i in range(n)]
    def __len__(self): return self.n
    def __getitem__(self, i): return Image.fromarray(self.f(np.arange(192, dtype=np.uint8).reshape(8, 8, 3) + np.uint8(i % 60))), self.targets[i]

def test_datasets_without_files():
    keys = [ImageStream(d, 2, 8).key for d in (Numbers(12), Numbers(13), Numbers(12, y=lambda i: (i+1) % 2), Numbers(12, lambda x: 255 - x), Numbers(12, lambda x: np.ascontiguousarray(x[:, ::-1])), Numbers(2000))]
    assert len(set(keys)) == len(keys) and keys[0] == ImageStream(Numbers(12), 2, 8, workers=1).key

def test_codes_of_a_stream_follow_the_files_and_the_crop(folder):
    "The cache of codes is not that of other pictures, of another crop, or of other labels."
    with seeded('ae'): net = AutoEncoder(TinyAE(3, 2, 2, 4), 'tiny (test)', 2, 2, 1., 2, 3, own=True)
    wide(folder)
    get = lambda **kw: encode_set(load(folder, size=8, stream=True, workers=0, **kw)[0], net)
    first = get(); assert torch.equal(get().x, first.x) and not torch.equal(get(crop=False).x, first.x) and get(crop=False).key != first.key
    for change in FOLDERS.values():
        was = get(); change(folder); now = get()
        assert now.key != was.key and not torch.equal(now.x, was.x)

# --- the commands
FAST = dict(width=4, depth=2)
@pytest.mark.parametrize('change', FOLDERS)
def test_the_same_commands_after_a_folder_changed(change, folder, tmp_path, capsys):
    "Experts, runs and artefacts of the old pictures are not taken up."
    data, s = str(folder), dict(syn_steps=2, expert_epochs=1, max_start_epoch=1, lr_img=1., lr_lr=1e-5, lr_teacher=.02, iterations=2, aug='flip')
    train = partial(dd_experts, 'mtt', data=data, n=1, epochs=2, batch=8, aug='', **FAST)
    commands = [train, partial(dd_distill, 'mtt', data=data, **s, **FAST), partial(dd_distill, 'dm', data=data, iterations=2, **FAST)]
    for c in commands: c()
    def line(c):
        capsys.readouterr()
        with pytest.raises(SystemExit) as e: c()
        err = capsys.readouterr().err; assert e.value.code == 2 and err.count('\n') == 1 and ('content' in err or 'norm: ' in err), err # measured statistics differ, too
    FOLDERS[change](folder)
    for c in commands: line(c)
    dd_experts('mtt', data=data, n=1, epochs=2, batch=8, aug='', path=str(tmp_path/'new'), **FAST)
    line(partial(dd_distill, 'mtt', data=data, buffer=str(tmp_path/'new'), out=str(tmp_path/'home'/'runs'/'mtt-mine-w4-d2-ipc1-s0'), **s, **FAST))

def small_row(**kw):
    r = R.recipe('mtt/table1/cifar10/dm/ipc1')
    return R.shrink(dataclasses.replace(r, dataset='mine', size=8), iterations=1, eval_epochs=1, eval_n=1, net_width=4, student_depth=2, net_depth=2, data_zca=0, aug='', eval_aug='', **kw)

@pytest.mark.parametrize('change', FOLDERS)
def test_a_row_is_made_anew_for_other_content(change, folder, tmp_path):
    go = lambda: run_row(small_row(), quiet=True, at=Places(tmp_path, tmp_path/'rows'), record_to=tmp_path/'r.csv')[0]
    a, again = go(), go(); FOLDERS[change](folder); b = go()
    assert a.content == again.content != b.content and a.artefact == again.artefact != b.artefact and a.settings == again.settings != b.settings
    assert [r.content for r in read_rows(tmp_path/'r.csv')] == [a.content, a.content, b.content]

def test_an_artefact_of_a_row_that_was_moved_is_refused(folder, tmp_path):
    "A folder without its content in the name is one that was made before; its card is compared."
    go = lambda: run_row(small_row(), quiet=True, at=Places(tmp_path, tmp_path/'rows'))[0]
    go(); made, = (tmp_path/'rows'/'rows').iterdir(); made.rename(made.with_name(made.name.rpartition('-')[0]))
    go(); assert len(list((tmp_path/'rows'/'rows').iterdir())) == 1
    FOLDERS['inverted'](folder); refused('made from other data.*content', go)

# --- what was made before content was recorded
def forget(file):
    "A card, checkpoint or artefact as it was written before."
    if file.suffix == '.json': file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != 'content'})); return
    t, m = load_tensors(file); m.pop('decides', None); m.pop('content', None)
    if 'init' in m: m['init']['source'].pop('key', None); m['init']['info'].get('settings', {}).pop('content', None)
    if 'run' in m: m['settings'] = '0'*12
    save_tensors(file, t, m)

def test_old_experts_are_used_and_not_added_to(real, tmp_path, capsys):
    b = experts(real, tmp_path); key = b.key
    forget(b.path/'buffer.json'); forget(b.files[0])
    old = experts(real, tmp_path); Buffer(b.path)
    assert capsys.readouterr().out.count('content not recorded') == 1
    refused('content not recorded', experts, real, tmp_path, 2)
    refused('lr: ', train_experts, NET, real, b.path, 1, expert_protocol(2, .3, 25, ''), quiet=True)
    assert [torch.equal(old.snapshot(0, e), b.snapshot(0, e)) for e in range(3)] == [True]*3 and old.key != key
    by_mtt(real, old, tmp_path/'run')
    assert old.settings()['n_experts'] == 1 and Buffer(b.path).key == old.key # hashed from the path itself

def test_old_teachers_are_used_and_not_added_to(real, tmp_path, capsys):
    teachers(real, tmp_path); forget(tmp_path/'teachers'/'teacher_000.safetensors')
    teachers(real, tmp_path); assert capsys.readouterr().out.count('content not recorded') == 1
    refused('content not recorded', train_teachers, TEACHER, real, tmp_path/'teachers', 2, ONCE, quiet=True)

@pytest.mark.parametrize('stage', [run_mtt, run_d3, run_dm, run_dc, run_codes])
def test_an_old_checkpoint_is_refused(stage, real, tmp_path):
    stage(real, tmp_path); forget(tmp_path/'run'/'checkpoint.safetensors')
    refused('content not recorded', stage, real, tmp_path)

def test_old_images_of_d3s_are_not_gone_on_with(real, tmp_path):
    run_d3s(real, tmp_path); forget(tmp_path/'run'/'distilled.safetensors')
    assert len(Distilled.load(tmp_path/'run'/'distilled.safetensors')) == 10
    refused('not recorded', run_d3s, real, tmp_path)

def test_an_old_artefact_is_evaluated_and_says_so(tmp_path, capsys):
    real = load('digits')[0]; d, _ = run_dm(real, tmp_path); file = tmp_path/'run'/'distilled.safetensors'
    go = lambda: dd_eval(str(file), n_eval=1, epochs=1, record_to=str(tmp_path/'r.csv'))
    go(); assert 'content not recorded' not in capsys.readouterr().out
    forget(file); go(); assert capsys.readouterr().out.count('content not recorded') == 1
    assert [r.content for r in read_rows(tmp_path/'r.csv')] == [real.key, '']

def test_published_artefacts_load_and_say_so(root, tmp_path, capsys):
    for f in sorted((root/'docs'/'artefacts').glob('*.safetensors')):
        d = Distilled.load(f); assert len(d) and ('key' in d.source) == f.stem.endswith('h100') # the older ones did not know it
    f = root/'docs'/'artefacts'/'cifar10-d3s-ipc10-k600'
    assert len(Relabelled(Distilled.load(f.with_suffix('.safetensors')), f.with_suffix('.labels.zip'))) == 100

# --- results files
def test_old_results_are_read_and_added_to(root, tmp_path):
    for f in sorted((root/'docs'/'results').glob('*.csv')):
        g = tmp_path/f.name; shutil.copy(f, g); was, old = read_rows(g), g.read_bytes()
        assert was and all(r.content == '' for r in was if r.date < '2026-11-25') # before there was the column
        record(Row('x/ü', mean=1., content='abc'), g); record(Row('y', mean=2.), g)
        now = read_rows(g)
        assert [repr(r) for r in now[:-2]] == [repr(r) for r in was] and [r.content for r in now[-2:]] == ['abc', ''] and now[-2].row == 'x/ü'
        assert g.read_bytes().partition(b'\n')[2].startswith(old.partition(b'\n')[2])

def test_pandas_reads_both_kinds_of_lines(root, tmp_path):
    import pandas as pd
    g = tmp_path/'r.csv'; shutil.copy(root/'docs'/'results'/'mtt.csv', g); record(Row('x', mean=1., content='abc'), g)
    df = pd.read_csv(g); assert df.content.isna()[df.date < '2026-11-25'].all() and df.content.iloc[-1] == 'abc' and df.hash.notna().all()

@pytest.mark.parametrize('edit', [lambda s: s.replace('abc', 'abd'), lambda s: s.replace(',abc', ''), lambda s: s.replace('abc', ''), lambda s: s.replace(',abc\n', ',abc,\n'), lambda s: s.replace('old', 'older'),
    lambda s: '\n'.join(l + ',abc' if l.startswith('old') else l for l in s.split('\n'))])
def test_edits_of_either_kind_of_line_are_found(edit, tmp_path):
    f = tmp_path/'r.csv'; record([Row('old', mean=1.), Row('new', mean=2., content='abc')], f)
    head, old, new = f.read_text().splitlines()
    from dd_repro.records import _cells, _FIELDS, _row_hash
    cells = {k: _cells(read_rows(f)[0])[k] for k in _FIELDS if k != 'content'} # as it was written before there was a content
    f.write_text('\n'.join([head, ','.join([*cells.values(), _row_hash(cells)]), new, ''])); assert [r.content for r in read_rows(f)] == ['', 'abc']
    f.write_text(edit(f.read_text())); refused('its hash does not fit', read_rows, f); refused('its hash does not fit', record, Row('z'), f)

@pytest.mark.parametrize('text', ['row,hash\nx,y\n', 'row,protocol\n', 'notes'])
def test_other_files_are_no_results(text, tmp_path):
    f = tmp_path/'r.csv'; f.write_text(text); refused('not a file of results', read_rows, f)

def test_differences_are_named():
    assert what_differs(dict(a=1, b=dict(c=2)), dict(a=1, b=dict(c=3), d='x')) == "b.c: 2, here 3; d: not recorded, here 'x'"
    assert what_differs(dict(a=(1, 2)), dict(a=[1, 2])) == '' and 'and 2 more' in what_differs({}, {k: 0 for k in 'abcde'})

@pytest.mark.parametrize('write', ['data', 'numpy', 'labels', 'classes', 'inference'])
def test_a_set_that_was_written_to_by_the_back_door(write):
    "Past autograd's count of writes, too."
    with torch.inference_mode(write == 'inference'): s = ImageTensors(torch.rand(20, 1, 8, 8), torch.arange(20) % 5, 5, key='0'*16)
    before = s.key
    if write == 'data': s.x.data.mul_(-1)
    if write == 'numpy': np.negative(s.x.numpy(), out=s.x.numpy())
    if write == 'labels': s.y.data.copy_(s.y.flip(0))
    if write == 'classes': s.n_classes = 6
    if write == 'inference':
        with torch.inference_mode(): s.x.mul_(-1)
    assert before == '0'*16 != s.key

def test_held_and_streamed_files_have_one_key(tmp_path):
    for part in ('train', 'val'):
        for k, c in enumerate('ab'):
            (tmp_path/part/c).mkdir(parents=True)
            for i in range(3): Image.fromarray(np.full((9, 8, 3), 40*k + i, np.uint8)).save(tmp_path/part/c/f'{i}.png')
    for crop in (True, False):
        a, b = (load(tmp_path, size=8, stream=s, crop=crop, workers=0) for s in (False, True))
        assert [x.key for x in a] == [x.key for x in b] and b[0].held().key == a[0].key
        assert a[0].split(.4)[0].key == load(tmp_path, size=8, crop=crop, val=.4, workers=0)[0].key

def test_a_mark_that_a_spreadsheet_puts_first_is_no_fault(tmp_path):
    f = tmp_path/'r.csv'; record(Row('demo/x', mean=1.), f)
    f.write_bytes(b'\xef\xbb\xbf' + f.read_bytes()); assert read_rows(f)[0].mean == 1

# --- a run that is given more iterations
LONGER = dict(dm=lambda r, top, n, **kw: matched(r, top/'run', 'dm', iterations=n, **kw)[0],
              dc=lambda r, top, n, **kw: matched(r, top/'run', 'dc', iterations=n, outer=2, inner=1, **kw)[0],
              codes=lambda r, top, n, **kw: coded(r, top/'run', iterations=n, **kw)[0])

@pytest.mark.parametrize('method', LONGER)
def test_more_iterations_go_on_and_fewer_are_refused(method, real, tmp_path):
    go, images = LONGER[method], lambda d: next(iter(d.groups().values()))[0]
    two, four = go(real, tmp_path, 2), go(real, tmp_path, 4)
    assert torch.equal(images(four), images(go(real, tmp_path/'whole', 4))) and not torch.equal(images(two), images(four))
    assert four.info['iterations'] == four.info['settings']['iterations'] == 4
    refused('complete at iteration', go, real, tmp_path, 3)

@pytest.mark.parametrize('method', LONGER)
def test_with_a_schedule_other_iterations_are_another_run(method, real, tmp_path):
    half = lambda t: 1 - t/2
    LONGER[method](real, tmp_path, 2, sched=half); refused('iterations: 2, here 4', LONGER[method], real, tmp_path, 4, sched=half)

# --- a checkpoint of the bare loop, without settings
class Two(Objective):
    "Settings of many kinds, a counter, a list that grows, and a choice of memory."
    def __init__(self, steps=3, rate=.5, kind='a', on=True, sizes=(1, 2), maybe=None, seed=0, keep=0):
        super().__init__(seed); self.steps, self.rate, self.kind, self.on, self.sizes, self.maybe, self.keep = steps, rate, kind, on, sizes, maybe, keep
        self.calls, self.seen = 0, []
    def __call__(self, d): self.calls += 1; self.seen.append(self.calls); self.late = self.calls; return (d.images - self.rate).square().mean()
SGD1 = partial(torch.optim.SGD, lr=.1)
WRAP = dict(alone=lambda o: o, term=lambda o: o + .5*Two(), phases=lambda o: [(Two(), None), (o, None)])
def bare(real, top, o, opt=SGD1, n=2, **kw): return distill(Pixels.from_real(real, 1), o, n, {'images': opt}, ckpt=top/'bare.safetensors', quiet=True, **kw)

@pytest.mark.parametrize('wrap', WRAP)
@pytest.mark.parametrize('change', [dict(steps=4), dict(rate=.6), dict(kind='b'), dict(on=False), dict(sizes=(1, 3)), dict(maybe=5), dict(seed=1)], ids=str)
def test_a_bare_loop_refuses_other_settings_of_an_objective(wrap, change, real, tmp_path):
    bare(real, tmp_path, WRAP[wrap](Two())); bare(real, tmp_path, WRAP[wrap](Two(keep=3)), n=3)
    name, = change
    refused('objectives.*' + dict(seed='rng').get(name, name), bare, real, tmp_path, WRAP[wrap](Two(**change)), n=4)

@pytest.mark.parametrize('o, says', [(lambda: Two() + .7*Two(), 'weight'), (lambda: Two(), 'term|kind'), (lambda: Two() + Two() + Two(), 'term|kind')])
def test_a_bare_loop_refuses_other_terms_and_weights(o, says, real, tmp_path):
    bare(real, tmp_path, Two() + .5*Two()); refused(says, bare, real, tmp_path, o(), n=3)

@pytest.mark.parametrize('opt, says', [(partial(torch.optim.SGD, lr=.2), 'optimisers.images.lr: 0.1, here 0.2'), (partial(torch.optim.SGD, lr=.1, momentum=.5), 'momentum'),
    (partial(torch.optim.Adam, lr=.1), "kind: 'SGD', here 'Adam'"), (partial(torch.optim.SGD, lr=.1, weight_decay=.1), 'weight_decay')])
def test_a_bare_loop_refuses_other_optimisers(opt, says, real, tmp_path):
    bare(real, tmp_path, Two()); refused(says, bare, real, tmp_path, Two(), opt, n=3)
    bare(real, tmp_path, Two(), partial(torch.optim.SGD, lr=.1, foreach=False), n=3) # how it is computed is not what

def test_the_same_objective_goes_on_though_it_counts(real, tmp_path):
    "Made anew or used again, and by a schedule of rates."
    o = Two(); half = lambda t: 1 - t/2
    for n, x in ((2, o), (3, o), (4, Two()), (5, o)): assert bare(real, tmp_path, x, n=n, sched=half).it == n

@pytest.mark.parametrize('change', [dict(syn_steps=3), dict(expert_epochs=2), dict(max_start_epoch=2), dict(batch_syn=5), dict(grad='bptt'), dict(seed=1), dict(inclusive=True), dict(aug=DSA('flip')), dict(aug=DSA('crop'))], ids=str)
def test_a_bare_loop_refuses_another_mtt(change, real, tmp_path):
    base = dict(syn_steps=2, expert_epochs=1, max_start_epoch=1, aug=DSA('flip_crop')); b = train_experts(NET, real, tmp_path/'e', 1, expert_protocol(3, batch=25, aug=''), quiet=True)
    make = lambda **kw: MTT(NET(), b, **(base | kw))
    bare(real, tmp_path, make()); bare(real, tmp_path, make(keep=2), n=3)
    refused('objectives', bare, real, tmp_path, make(**change), n=4)

@pytest.mark.parametrize('make, change', [(DM, dict(batch_real=2)), (DM, dict(batch_syn=1)), (DC, dict(how=Matching(outer=3))), (DC, dict(how=Matching(loss='mse'))), (DC, dict(how=Matching(net_lr=.1))), (DM, dict(seed=2)), (DM, dict(aug=DSA('flip', siamese=True)))])
def test_a_bare_loop_refuses_another_match(make, change, real, tmp_path):
    bare(real, tmp_path, make(real, NET)); bare(real, tmp_path, make(real, NET, **({'piece': 7} if make is DM else {'together': False})), n=3)
    refused('objectives', bare, real, tmp_path, make(real, NET, **change), n=4)

# --- experts of another network, or of other data
@pytest.mark.parametrize('a, b', [('instance', 'group'), ('group', 'instance')])
def test_experts_of_another_network_of_the_same_size_are_refused(a, b, real, tmp_path):
    buffer = train_experts(partial(NET, norm=a), real, tmp_path/'e', 1, expert_protocol(2, batch=25, aug=''), quiet=True)
    MTT(NET(norm=a), buffer, 2, 1, 1); refused(f"another network .norm: '{a}', here '{b}'", MTT, NET(norm=b), buffer, 2, 1, 1)

class Bare(torch.nn.Sequential):
    "A network that has no arch."
    def __init__(self, act): super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 8), act(), torch.nn.Linear(8, 10))

@pytest.mark.parametrize('a, b', [('ReLU', 'GELU'), ('Tanh', 'ReLU'), ('GELU', 'SiLU')])
def test_experts_of_other_layers_are_refused_and_not_added_to(a, b, real, tmp_path):
    net = lambda act: Bare(getattr(torch.nn, act))
    train = lambda act, n=1: train_experts(partial(net, act), real, tmp_path/'e', n, expert_protocol(2, batch=25, aug=''), quiet=True)
    buffer = train(a); MTT(net(a), buffer, 2, 1, 1); assert len(train(a, 2)) == 2
    refused('another network .layers', MTT, net(b), buffer, 2, 1, 1); refused('layers', train, b)

@pytest.mark.parametrize('change', CHANGES)
def test_a_set_of_other_data_than_the_experts_is_refused(change, real, tmp_path):
    mtt = MTT(NET(), experts(real, tmp_path), 2, 1, 1)
    assert mtt(Pixels.from_real(real, 1)).isfinite(); refused('experts of other data than the set', mtt, Pixels.from_real(change(real), 1))

@pytest.mark.parametrize('change', CHANGES)
def test_an_expert_of_other_data_among_the_files_is_refused(change, real, tmp_path):
    buffer, other = experts(real, tmp_path), experts(change(real), tmp_path, name='-b')
    shutil.copy(other.files[0], buffer.path/'expert_0001.safetensors')
    refused('expert_0001.*other data', Buffer, buffer.path); assert len(Buffer(buffer.path, 1)) == 1

@pytest.mark.parametrize('write', [lambda n: [p.data.mul_(2) for p in n.parameters()], lambda n: n.load_state_dict({k: v + 1 for k, v in n.state_dict().items()}),
    lambda n: torch.nn.init.normal_(next(n.parameters()))])
def test_codes_of_changed_weights_are_made_anew(write, real):
    a = ae(); was, key = encode_set(real, a), a.key
    write(a.net); now = encode_set(real, a)
    assert a.key != key and now.key != was.key and not torch.equal(now.x, was.x) and torch.equal(encode_set(real, ae()).x, was.x)
