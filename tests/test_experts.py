"Experts: buffers that are interrupted, shared, damaged or of another run, and the segments that are read from them."
import dataclasses, json, multiprocessing, os, signal
from functools import partial
from pathlib import Path

import pytest, torch

from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for
from dd_repro.files import load_tensors, save_tensors
from dd_repro.data import load
from dd_repro.experts import Buffer, expert_protocol, to_vector, train_experts
from dd_repro.mtt import MTT
from dd_repro.students import Protocol
from dd_repro.zoo import make_net

FRESH = multiprocessing.get_context('forkserver')                 # children of a process that has run nothing yet
FRESH.set_forkserver_preload(['pytest', 'sklearn.datasets', 'torch._dynamo', 'dd_repro.cli'])
net_fn = partial(ConvNet, n_in=1, n_out=10, size=8, width=8, depth=2)

def few(): return load('digits')[0].subset(torch.arange(256))

HOW = dict(epochs=2, lr=.05, batch=64)

def train(folder, n=3, real=None, **kw):
    "Experts, few and quick, with other values of the protocol or other arguments."
    own = {k: kw.pop(k) for k in list(kw) if k in {f.name for f in dataclasses.fields(Protocol)}}
    return train_experts(**(dict(net_fn=net_fn, real=real or few(), path=folder, n=n, protocol=expert_protocol(**HOW | own), quiet=True) | kw))

def paths(folder): return {f.name: load_tensors(f)[0]['theta'] for f in sorted(Path(folder).glob('expert_*'))}

def same(a, b):
    a, b = paths(a), paths(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A buffer of three experts that nobody disturbed."
    folder = tmp_path_factory.mktemp('whole'); train(folder)
    return folder

@pytest.fixture
def folder(tmp_path, whole):
    "A copy of it to spoil."
    for f in whole.iterdir(): (tmp_path/'b').mkdir(exist_ok=True); (tmp_path/'b'/f.name).write_bytes(f.read_bytes())
    return tmp_path/'b'

def refused(says, f, *a, **kw):
    with pytest.raises(ValueError, match=says) as e: f(*a, **kw)
    assert '\n' not in str(e.value)

# --- processes that are killed, or work side by side
def in_process(folder, act=None, n=3):
    torch.set_num_threads(1)
    kill, replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL), os.replace
    if act == 'writing': os.replace = lambda a, b: kill() if Path(b).name == 'expert_0001.safetensors' else replace(a, b)
    train(folder, n, on_expert=(lambda i, s: kill() if i == 1 else None) if act == 'between' else None)

def start(*a): p = FRESH.Process(target=in_process, args=a); p.start(); return p
def end(p): p.join(120); return p.exitcode

@pytest.mark.parametrize('act, kept', [('between', 2), ('writing', 1)])
def test_an_interrupted_buffer_continues(whole, tmp_path, act, kept):
    assert end(start(tmp_path, act)) == -signal.SIGKILL
    times = {f.name: f.stat().st_mtime_ns for f in sorted(tmp_path.glob('expert_*'))}
    assert len(times) == kept
    new = []; train(tmp_path, on_expert=lambda i, s: new.append(i))
    assert new == list(range(kept, 3)) and same(tmp_path, whole)
    assert all((tmp_path/k).stat().st_mtime_ns == t for k, t in times.items())

def test_two_processes_on_one_folder(whole, tmp_path):
    both = [start(tmp_path) for _ in range(2)]
    assert [end(p) for p in both] == [0, 0]
    assert same(tmp_path, whole) and sorted(f.name for f in tmp_path.iterdir()) == sorted(f.name for f in whole.iterdir())

def cut_and_use(folder):
    "Tensors from files that are cut off afterwards, in place: a view of a mapped file would end the process."
    b = Buffer(folder); held = [b.snapshot(0, 1), *b.segment(1, 2, rng_for(0)), load_tensors(b.files[1])[0]['theta']]
    for f in b.files: os.truncate(f, 0)
    assert all(t.isfinite().all() for t in held)

def test_what_was_read_outlives_its_file(folder):
    p = FRESH.Process(target=cut_and_use, args=(folder,)); p.start()
    assert end(p) == 0

# --- what is in it
def test_snapshots_differ_and_depend_on_the_seed(whole, tmp_path):
    ps = list(paths(whole).values())
    assert all((a - b).norm() > 1e-3 for p in ps for a, b in zip(p, p[1:])) and not torch.equal(ps[0][0], ps[1][0])
    other = list(paths(train(tmp_path, 1, seed=1).path).values())
    assert not torch.equal(other[0][0], ps[0][0])

def test_more_and_fewer_experts(whole, folder):
    new = []; b = train(folder, 4, on_expert=lambda i, s: new.append(i))
    assert len(b) == 4 and new == [3] and len(Buffer(folder, 2)) == 2 and len(train(folder, 1)) == 1
    assert all(torch.equal(b.snapshot(i, 2), Buffer(whole).snapshot(i, 2)) for i in range(3))

def test_segments_stay_inside(whole):
    "Every start below T+ is drawn, T+ itself only when asked for, and the target is M epochs on."
    b, rng = Buffer(whole), rng_for('segments')
    points = {tuple(b.snapshot(i, t)[:20].tolist()): (i, t) for i in range(3) for t in range(3)}
    where = lambda p: points[tuple(p[:20].tolist())]
    for T, M, inclusive in ((2, 1, False), (1, 2, False), (1, 1, True)):
        drawn = [tuple(map(where, b.segment(M, T, rng, inclusive))) for _ in range(60)]
        assert {s for s, _ in drawn} == {(i, t) for i in range(3) for t in range(T + inclusive)}
        assert all(e == (s[0], s[1] + M) for s, e in drawn)
    assert torch.equal(b.snapshot(1, -1), b.snapshot(1, 2))

@pytest.mark.parametrize('epoch', [3, 100, -2])
def test_there_is_no_epoch_beyond_the_last(whole, epoch): refused(f'epoch {epoch}', Buffer(whole).snapshot, 0, epoch)

@pytest.mark.parametrize('T, M, kw, says', [(2, 2, {}, 'holds 2 epochs; these settings reach epoch 3'), (1, 2, dict(inclusive=True), 'reach epoch 3'), (0, 1, {}, 'max_start_epoch is 0'),
    (1, 0, {}, 'expert_epochs is 0'), (1, 1, dict(syn_steps=-1), 'syn_steps is -1'), (1, 1, dict(grad='exact'), "grad='exact'")])
def test_settings_beyond_the_buffer(whole, T, M, kw, says): refused(says, MTT, net_fn(), Buffer(whole), **(dict(syn_steps=3, expert_epochs=M, max_start_epoch=T) | kw))

def test_settings_up_to_its_end(whole):
    for T, M, inclusive in ((1, 2, False), (2, 1, False), (1, 1, True)): MTT(net_fn(), Buffer(whole), 3, M, T, inclusive=inclusive)

def test_a_buffer_of_another_network(whole): refused('this network has', MTT, net_fn(width=12), Buffer(whole), 3, 1, 1)

# --- damage
@pytest.mark.parametrize('spoil', [lambda b: b[:0], lambda b: b[:50], lambda b: b[:-1], lambda b: b'x'*len(b)])
def test_a_damaged_file_is_named_and_trained_again(whole, folder, spoil, capsys):
    file = folder/'expert_0001.safetensors'; file.write_bytes(spoil(file.read_bytes()))
    refused('expert_0001.safetensors', Buffer(folder).snapshot, 1, 0)
    new = []; train(folder, on_expert=lambda i, s: new.append(i))
    assert new == [1] and same(folder, whole) and capsys.readouterr().out.count('expert_0001.safetensors') == 1

def test_a_path_of_another_length_counts_as_damage(whole, folder):
    save_tensors(folder/'expert_0000.safetensors', {'theta': torch.zeros(2, Buffer(folder).size)}, {'expert': 0, 'seconds': 1.})
    refused('expert_0000.safetensors', Buffer(folder).snapshot, 0, 2)
    train(folder); assert same(folder, whole)

@pytest.mark.parametrize('text', ['', '{"name": "dig', '[]', '{}'])
def test_a_damaged_card(folder, text):
    (folder/'buffer.json').write_text(text)
    refused('buffer.json', Buffer, folder); refused('buffer.json', train, folder)

@pytest.mark.parametrize('kw, says', [(dict(epochs=3), r'\(epochs: 2, not 3\)'), (dict(lr=.1), r'\(lr: 0.05, not 0.1\)'), (dict(seed=1), 'seed'), (dict(aug='flip'), 'aug'), (dict(batch=32), 'batch'), (dict(momentum=.9), 'momentum'),
    (dict(net_fn=partial(net_fn, width=12)), 'arch'), (dict(real=lambda: few().subset(torch.arange(99))), r'\(n_images: 256, not 99\)'), (dict(real=lambda: few().new(few().x, name='mnist')), "'digits', not 'mnist'")])
def test_a_folder_of_other_settings(folder, whole, kw, says):
    if 'real' in kw: kw = dict(real=kw['real']())
    refused('other settings', train, folder, **kw); refused(says, train, folder, **kw)
    assert same(folder, whole)

@pytest.mark.parametrize('kw, says', [(dict(n=0), 'n is 0'), (dict(n=-2), 'n is -2'), (dict(epochs=0), 'epochs is 0'), (dict(lr=0.), 'rate is 0'), (dict(lr=float('nan')), 'rate is nan'), (dict(batch=0), 'batch is 0'), (dict(aug='blur'), "'blur'"),
    (dict(net_fn=partial(net_fn, size=16)), 'the network expects'), (dict(net_fn=partial(net_fn, n_out=7)), '7 classes')])
def test_bad_arguments_leave_nothing_behind(tmp_path, kw, says):
    refused(says, train, tmp_path/'b', **kw)
    assert not list(tmp_path.iterdir())

def test_another_schedule_or_optimiser_stands_in_the_card(tmp_path):
    plain = expert_protocol(1, .05, 64, '')
    go = lambda folder, **kw: train_experts(net_fn, few(), tmp_path/folder, 1, plain.scaled(**kw), quiet=True)
    assert go('plain').card.keys() == go('renamed', name='mine').card.keys()
    assert go('a', schedule='cosine').card['schedule'] == 'cosine' and go('b', opt='adamw', momentum=.9).card['opt'] == 'adamw'
    refused('other settings .schedule', go, 'plain', schedule='cosine')

@pytest.mark.parametrize('protocol, says', [('mtt', 'has no rate'), (5, 'protocol 5 is not one of')])
def test_a_protocol_that_is_none_for_experts(tmp_path, protocol, says):
    refused(says, train_experts, net_fn, few(), tmp_path/'b', 1, protocol)
    assert not list(tmp_path.iterdir())

def test_a_folder_without_experts(tmp_path):
    refused('no buffer here', Buffer, tmp_path)
    (tmp_path/'buffer.json').write_text(json.dumps(dict(epochs=2, size=3)))
    refused('no experts yet', Buffer, tmp_path)

def test_any_network_of_the_zoo_can_be_an_expert(tmp_path):
    "Its description comes back from JSON as it went in, so that the buffer can be continued."
    real = load('digits', size=32)[0].subset(torch.arange(32))
    fn = partial(make_net, 'resnet18', 1, 10, 32, width=8, layers=(1, 1, 1, 1))
    for n in (1, 2): b = train(tmp_path, n, real, net_fn=fn, epochs=1, batch=32)
    assert len(b) == 2 and b.size == to_vector(fn()).numel()
