"Thinner labels: bits and classes go and come back, stores open like whole ones, students see nearly the same, and nothing half-written stays."
import math, shutil

import pytest, torch
from dd_repro import entry
from dd_repro.core import rng_for, seeded
from dd_repro.data import load
from dd_repro.distilled import Pixels
from dd_repro.labels import LabelStore, Relabelled, ViewSettings, relabel, thin_labels
from dd_repro.students import evaluate, as_protocol
from dd_repro.thin import *
from dd_repro.zoo import make_net

ARCH = dict(name='convnet', n_in=1, n_out=10, size=8, width=8, depth=2)

def logits(n=40, C=12, seed=0): return 5*torch.randn(n, C, generator=rng_for(seed, 'thin'))

# --- there and back
@pytest.mark.parametrize('bits', range(1, 9))
@pytest.mark.parametrize('m', [1, 5, 16])
def test_small_numbers_come_back(bits, m):
    codes = torch.randint(2**bits, (9, m), generator=rng_for(bits, m))
    assert torch.equal(unpack_bits(pack_bits(codes, bits), bits, m), codes) and pack_bits(codes, bits).shape == (9, math.ceil(m*bits/8))

@pytest.mark.parametrize('C', [2, 10, 300, 40_000])
@pytest.mark.parametrize('how', [Thin(), Thin(topk=1), Thin(topk=5), Thin(bits=4), Thin(topk=3, bits=2), Thin(topk=10**6)])
def test_logits_come_back_with_their_largest(C, how):
    z = logits(4, C)
    stored = thinned(z, how)
    back, step = thick(stored, C, how.bits), (z.amax(1) - z.amin(1))/(2**how.bits - 1) if how.bits else torch.full((4,), .02)
    assert back.shape == z.shape and sum(t.numel()*t.element_size() for t in stored.values()) == 4*thin_size(C, how)
    top = z.topk(min(how.topk or C, C), 1).indices
    assert ((back.gather(1, top) - z.gather(1, top)).abs().amax(1) <= step/2 + .05).all()

@pytest.mark.parametrize('k', [1, 4, 10])
def test_the_others_share_their_mean(k):
    z = logits()
    back = thick(thinned(z, Thin(topk=k)), 12)
    assert torch.allclose(back.sum(1), z.sum(1), atol=.1) and all(len(r.unique()) <= k + 1 for r in back)

@pytest.mark.parametrize('bits', [2, 4, 8])
def test_equal_logits_stay_equal(bits):
    z = torch.full((3, 7), 2.5)
    assert torch.allclose(thick(thinned(z, Thin(bits=bits)), 7, bits), z)

def test_labels_at_a_high_temperature_hardly_change():
    z = logits(200, 100)
    tv = lambda a, T: .5*((a/T).softmax(1) - (z/T).softmax(1)).abs().sum(1).mean()
    assert tv(thick(thinned(z, Thin(topk=10)), 100), 20) < .1 and tv(thick(thinned(z, Thin(bits=8)), 100, 8), 1) < .01

@pytest.mark.parametrize('kw, says', [(dict(keep=0), 'keep'), (dict(keep=1.5), 'keep'), (dict(keep=float('nan')), 'keep'), (dict(topk=0), 'topk'), (dict(bits=0), 'bits'), (dict(bits=9), 'bits')])
def test_what_cannot_be_left(kw, says):
    with pytest.raises(ValueError, match=says): Thin(**kw)

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_logits_that_are_no_numbers(bad):
    z = logits(); z[3, 2] = bad
    with pytest.raises(ValueError, match='not finite'): thinned(z, Thin(topk=2))

# --- stores
@pytest.fixture(scope='module')
def real(): return load('digits')

@pytest.fixture(scope='module')
def made(real, tmp_path_factory):
    "Images, a teacher and a whole store of ten label epochs."
    d = Pixels.from_real(real[0], 3, arch=ARCH, aug='')
    with seeded(0): net = make_net(ARCH).eval()
    return d, net, relabel(d, [net], tmp_path_factory.mktemp('store')/'labels', 10, ViewSettings(batch=8, flip=False, cutmix=True), quiet=True)

@pytest.mark.parametrize('how, epochs', [(Thin(keep=.25), 3), (Thin(topk=2), 10), (Thin(bits=4), 10), (Thin(keep=.1, topk=3, bits=3), 1)])
def test_a_thinner_store_has_the_same_views(made, tmp_path, how, epochs):
    d, _, store = made
    few = thin_labels(store, tmp_path/'few', how)
    assert (few.epochs, few.n, few.n_classes, few.batch) == (epochs, store.n, 10, 8) and few.costs(d)['label_bytes'] == epochs*30*thin_size(10, how)
    for e in range(epochs):
        a, b = store.epoch(e), few.epoch(e)
        assert torch.equal(a.views.order, b.views.order) and torch.equal(a.views.box, b.views.box) and torch.equal(a.views.mix, b.views.mix)
        for i in range(4): assert torch.allclose(b.soft(i, 20.), thick(thinned(a.logits[a.views.at(i)], how), 10, how.bits).div(20).softmax(1))

def test_students_learn_from_either(made, real, tmp_path):
    d, _, store = made
    p = as_protocol('d3s-cifar10').scaled(epochs=3, batch=8)
    whole, few = (evaluate(Relabelled(d, s), real[1], [ARCH], p, 1)[0] for s in (store, thin_labels(store, tmp_path/'x', Thin(topk=5, bits=8))))
    assert abs(whole.mean - few.mean) < 25 and whole.settings == few.settings

def test_the_same_call_goes_on_and_another_is_refused(made, tmp_path):
    store, how = made[2], Thin(topk=2, bits=4)
    few = thin_labels(store, tmp_path/'few', how)
    files = sorted(few.path.glob('labels-*'))
    kept = [f.read_bytes() for f in files]
    files[3].unlink(); files[5].write_bytes(b'torn')
    with pytest.raises(ValueError, match='9 of 10 label epochs'): LabelStore(few.path)
    again = thin_labels(store, tmp_path/'few', how)
    assert [f.read_bytes() for f in sorted(again.path.glob('labels-*'))] == kept
    with pytest.raises(ValueError, match='other thin'): thin_labels(store, tmp_path/'few', Thin(topk=3))
    assert [f.read_bytes() for f in files] == kept

def test_what_is_thin_is_not_thinned_again(made, tmp_path):
    few = thin_labels(made[2], tmp_path/'few', Thin(topk=2))
    with pytest.raises(ValueError, match='thinned already'): thin_labels(few, tmp_path/'fewer', Thin(bits=2))
    with pytest.raises(ValueError, match='the whole store lies there'): thin_labels(made[2], made[2].path, Thin(bits=2))
    assert not (tmp_path/'fewer').exists()

def test_a_damaged_or_newer_thin_store_is_named(made, tmp_path):
    few = thin_labels(made[2], tmp_path/'few', Thin(topk=2))
    f = few.path/'labels-00002.safetensors'
    f.write_bytes(f.read_bytes()[:-3])
    with pytest.raises(ValueError, match='labels-00002.safetensors: damaged'): LabelStore(few.path).epoch(2)
    index = few.path/'index.json'
    index.write_text(index.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(ValueError, match='label format 3 is newer'): LabelStore(few.path)

def test_whole_stores_are_written_as_before(made):
    assert '"format": 1' in (made[2].path/'index.json').read_text()

def test_a_thin_store_is_packed_like_any(made, tmp_path, monkeypatch):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    few = thin_labels(made[2], tmp_path/'few', Thin(keep=.2, topk=2, bits=4))
    back = LabelStore(few.pack(tmp_path/'few.zip'))
    back.check(made[0])
    assert back.settings == few.settings and torch.equal(back.epoch(1).soft(0), few.epoch(1).soft(0))

# --- the command
def test_relabel_leaves_less(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('DD_HOME', str(tmp_path/'home'))
    from dd_repro.cli import dd_experts, dd_relabel, dd_eval
    dd_experts('d3s', data='digits', net='convnet', n=1, epochs=1, path=str(tmp_path/'teachers'))
    d = Pixels.from_real(load('digits')[0], 2, arch=ARCH)
    art = d.save(tmp_path/'d.safetensors')
    dd_relabel(str(art), teachers=str(tmp_path/'teachers'), epochs=20, keep=.1, topk=3, bits=4, batch=10)
    out = capsys.readouterr().out
    whole, few = LabelStore(tmp_path/'d.labels'), LabelStore(tmp_path/'d.labels-top3-4bit')
    assert (whole.epochs, few.epochs) == (2, 2) and few.nbytes < whole.nbytes + 400 and 'top3-4bit: ' in out and '--labels' in out
    dd_eval(str(art), labels=str(few.path), n_eval=1, epochs=2)

@pytest.mark.parametrize('flag, value', [('--keep', '0'), ('--keep', '2'), ('--topk', '0'), ('--bits', '16'), ('--bits', 'x')])
def test_relabel_refuses_in_one_line(capsys, flag, value):
    with pytest.raises(SystemExit) as e: entry.start('dd_relabel', ['none.safetensors', flag, value])
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1 and flag[2:] in err


@pytest.mark.parametrize('how', [dict(bits=8), dict(bits=1), dict(topk=1, bits=4)])
def test_few_bits_do_not_hold_the_largest_logits_alone(how):
    z = torch.full((2, 5), -6e4).scatter(1, torch.tensor([[1, 3], [0, 2]]), torch.tensor([[5., 2.], [1., .5]]))
    with pytest.raises(ValueError, match='largest logits alone'): thinned(z, Thin(**how))
    assert torch.equal(thick(thinned(z, Thin(topk=2)), 5).argmax(1), z.argmax(1))
