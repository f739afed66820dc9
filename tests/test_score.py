"Scores: fractions and bounds, one line for one kind of students, baselines of the same number, bytes and labels, one line for each refusal."
import dataclasses, html, json, math
from pathlib import Path

import pytest, torch
from dd_repro import entry, records
from dd_repro.core import asset, seeded
from dd_repro.data import load
from dd_repro.distilled import Distilled, Pixels
from dd_repro.exchange import export_set
from dd_repro.labels import Relabelled, ViewSettings, relabel
from dd_repro.order import put_in_order
from dd_repro.priors import LatentPriors
from dd_repro.records import read_rows
import dd_repro.score as score_module
from dd_repro.score import *
from dd_repro.soft import SoftPixels
from dd_repro.students import as_protocol, evaluate, train
from dd_repro.zoo import make_net

ARCH = dict(name='convnet', n_in=1, n_out=10, size=8, width=8, depth=2)
HOW = ScoreOptions(epochs=4, n_eval=2, whole=1)
LINES = {'whole set', 'class numbers', 'random, same number', 'random, same bytes', 'its labels, no augmentation', 'random, its labels, no augmentation'}

@pytest.fixture(scope='module')
def digits(): return load('digits')

@pytest.fixture(scope='module')
def real(digits): return digits[0]

@pytest.fixture(scope='module')
def test_set(digits): return digits[1]

@pytest.fixture(scope='module')
def net(real):
    with seeded(0): net = make_net(ARCH)
    return train(net, real, as_protocol('full').scaled(epochs=3, aug='')).eval()

@pytest.fixture(scope='module')
def sets(real, net, tmp_path_factory):
    "A set of each kind of labels."
    hard = Pixels.from_real(real, 2, lr=.02, arch=ARCH)
    soft = with_labels(hard, SoftPixels(hard.images.detach(), torch.eye(10)[hard.y], 10), [net], None)
    learned = SoftPixels(hard.images.detach(), torch.eye(10)[hard.y]*5, 10, lr=.02, arch=ARCH, **hard.about)
    store = relabel(hard, [net], tmp_path_factory.mktemp('store')/'labels', 4, ViewSettings(batch=8, flip=False), quiet=True)
    return dict(hard=hard, soft=soft, learned=learned, stored=Relabelled(hard, store))

# --- the two scores
@pytest.mark.parametrize('alpha', [-1, -.3, 0, .25, 1])
def test_a_score_grows_from_0_to_1(alpha):
    assert robust(-1) == 0 <= robust(alpha) <= robust(1) == 1 and (alpha == 1 or robust(alpha) < robust(alpha + .01 if alpha < 1 else 1))

@pytest.mark.parametrize('w, alpha', [(0, .5 - .8), (1, .6 - .4), (.5, (.2 - .3)/2), (.25, .25*.2 - .75*.3)])
def test_the_weight_is_that_of_the_improvement_over_random(w, alpha):
    assert math.isclose(label_robust(.8, .5, .6, .4, w), robust(alpha), abs_tol=1e-12)
    assert math.isclose(augmentation_robust(.6, .4, .5, .8, w), robust(w*.2 - (1 - w)*.3), abs_tol=1e-12)

@pytest.mark.parametrize('accs', [(80., 50., 60., 40.), (80., .5, .6, .4), (.5, .5, 60., .4)])
def test_per_cent_is_refused(accs):
    with pytest.raises(ValueError, match='they are fractions'): label_robust(*accs)

# --- what a set has
@pytest.mark.parametrize('kind, labels', [('hard', 0), ('soft', 20*10*4), ('learned', 20*10*4)])
def test_bytes_are_parted_by_use(sets, kind, labels):
    assert bytes_in(sets[kind]) == dict(images=20*64*4, labels=labels, decoder=0) and has_soft(sets[kind]) == (labels > 0)

def test_stored_labels_weigh_what_the_store_weighs(sets):
    b = bytes_in(sets['stored'])
    assert b['labels'] == sets['stored'].store.nbytes > 4*20*10*2 and b['images'] == 20*64*4

def test_a_decoder_is_counted_by_itself():
    d = Distilled.load(asset().parent.parent/'docs'/'artefacts'/'cifar10-d3-ppc1.safetensors')
    b = bytes_in(d)
    assert b['decoder'] == sum(p.numel()*4 for p in d.groups()['decoder']) > 0 and b['images'] + b['decoder'] == d.nbytes

@pytest.mark.parametrize('kind', ['hard', 'soft', 'learned', 'stored'])
def test_class_numbers_are_those_of_the_set(sets, kind):
    ys = torch.cat([y for _, y in hard_view(sets[kind]).epoch(0, 7)])
    assert torch.equal(ys, sets['soft'].y.argmax(1) if kind == 'soft' else sets['hard'].y) and len(hard_view(sets[kind])) == 20

@pytest.mark.parametrize('size, ipc, says', [(64*10, 1, ''), (64*10*5 + 639, 5, ''), (64*10 - 1, 0, 'less than one'), (10**9, 139, 'there are 139')])
def test_images_for_bytes(real, size, ipc, says):
    most = int(real.y.bincount().min())
    n, said = ipc_for_bytes(size, real)
    assert n == (most if ipc == 139 else ipc) and (says.split()[0] in said if says else said == '')

# --- protocols
def test_the_one_protocol_adds_only_what_a_set_needs(sets, real):
    p = {k: one_protocol(d, real) for k, d in sets.items()}
    assert p['soft'].labels == p['learned'].labels == p['stored'].labels == 'soft' and p['hard'].labels == 'hard'
    assert p['stored'].batch == 8 and p['stored'].aug == '' and p['hard'].aug == p['soft'].aug and 'flip' not in p['hard'].aug
    assert len({(v.epochs, v.opt, v.wd, v.schedule) for v in p.values()}) == 1 and one_protocol(sets['hard'], real, plain=True).aug == ''

@pytest.mark.parametrize('name', ['dsa', 'dc', 'mtt'])
def test_its_own_protocol_is_that_of_the_card(real, name):
    d = Pixels.from_real(real, 1, arch=ARCH, protocol=name, aug='crop')
    p, base = own_protocol(d), as_protocol(name)
    assert (p.aug, p.epochs, p.lr, p.kind) == ('crop', base.epochs, base.lr, 'decided')
    assert own_protocol(d, ScoreOptions(epochs=3)).kind == 'reduced'

# --- the judgement
@pytest.mark.parametrize('kind', ['hard', 'soft', 'learned'])
def test_each_line_is_there_and_computed_once(sets, real, test_set, net, kind):
    s = score(sets[kind], real, test_set, HOW, [net], name='x')
    more = set() if kind == 'hard' else {'its labels', 'random, its labels'}
    own = {'its own protocol', 'random, its own protocol'}
    assert LINES | more | own | {'its labels', 'random, its labels'} == {*s.rows, *s.same} and set(s.rows) >= LINES | more and set(s.scores) == {'HLR', 'IOR', 'LRS', 'ARS'}
    assert all(0 <= v <= 1 for k, v in s.scores.items() if k in ('LRS', 'ARS'))
    whole, hard, own, beside = map(s.acc, ('whole set', 'class numbers', 'its own protocol', 'random, its own protocol'))
    assert math.isclose(s.scores['LRS'], label_robust(whole, hard, own, beside)) and math.isclose(s.scores['HLR'], whole - hard)
    assert s.about['random, same bytes'][1] == 10*(sum(s.bytes.values())//640)

def test_a_distribution_is_sampled_and_real_images_are_not(real, test_set):
    with seeded(0): d = LatentPriors(10, 1, 4, 8, 1, 4, arch=ARCH, classes=real.classes, norm=real.norm)
    s = score(d, real, test_set, HOW)
    assert 'samples' in str(own_protocol(d).view) and 'its own protocol' in s.same and 'random, its own protocol' in s.same and s.bytes['decoder'] > 0

@pytest.mark.parametrize('protocol', ['d3s-cifar10', 'mtt-soft'])
def test_a_protocol_of_soft_labels_needs_them(real, test_set, protocol):
    s = score(Pixels.from_real(real, 1, arch=ARCH, protocol=protocol), real, test_set, HOW)
    assert 'its own protocol' not in s.same and any('needs soft labels' in n for n in s.notes) and {'IOR', 'LRS'} <= set(s.scores)

def test_shorter_students_are_reduced(sets, real, test_set):
    s = score(sets['hard'], real, test_set, HOW)
    assert {r.protocol for r in s.rows.values()} == {'reduced'} and all('epochs' in r.deviations for r in s.rows.values())

def test_students_are_those_of_evaluate(sets, real, test_set):
    s, p = score(sets['hard'], real, test_set, dataclasses.replace(HOW, own=False, whole=0)), one_protocol(sets['hard'], real, HOW)
    r, = evaluate(sets['hard'], test_set, [ARCH], p, 2)
    assert s.rows['class numbers'].mean == r.mean and s.rows['class numbers'].settings == r.settings
    assert 'LRS' not in s.scores and 'IOR' in s.scores and 'its own protocol' not in s.rows

def test_stored_labels_have_random_images_with_stored_labels(sets, real, test_set, net):
    s = score(sets['stored'], real, test_set, dataclasses.replace(HOW, n_eval=1, own=False), [net])
    assert s.about['random, its labels'][0] == 'soft' and 'ARS' not in s.scores and any('stored labels' in n for n in s.notes)

def test_no_teacher_and_no_network_on_the_whole_set(sets, real, test_set):
    s = score(sets['soft'], real, test_set, dataclasses.replace(HOW, whole=0, n_eval=1, own=False))
    assert s.scores == {} and any('need teachers' in n for n in s.notes) and 'random, its labels' not in s.rows

def test_best_of_k_beside_the_last(sets, real, test_set):
    s = score(sets['hard'], real, test_set, dataclasses.replace(HOW, looks=3, own=False))
    students = [r for k, r in s.rows.items() if k != 'whole set']
    assert all(r.k == 3 and r.best >= r.last == r.mean for r in students) and s.rows['whole set'].k == 0 and 'best of k' in str(s)

def test_a_rate_is_chosen_on_training_images(sets, real, test_set):
    class Untouched: # a test set that nobody may look at
        def __getattr__(self, k): raise AssertionError(k)
    p = one_protocol(sets['hard'], real, HOW)
    assert best_rate(sets['hard'], real, ARCH, p, [1e-6, .05]) in (1e-6, .05)
    s = score(sets['hard'], real, test_set, dataclasses.replace(HOW, rates='.01,.02', own=False, whole=0, n_eval=1))
    assert 'lr 0.0' in s.rows['class numbers'].deviations

def test_permuted_classes_are_said(sets, real, test_set):
    d = put_in_order(Pixels.from_real(real, 10, lr=.02, arch=ARCH), [(c + 3) % 10 for c in range(10)])
    s = score(d, real, test_set, ScoreOptions(epochs=30, n_eval=1, whole=4, own=False))
    assert s.order.perm == [(c + 7) % 10 for c in range(10)] and 'students are at chance' in s.notes[-1]
    assert score(put_in_order(d, s.order.perm), real, test_set, ScoreOptions(epochs=30, n_eval=1, whole=4, own=False)).order is None

def shuffled(d, seed=1):
    "The same set with its pixels in another order, one for all images: images of other data."
    at = torch.randperm(d.images[0].numel(), generator=torch.Generator().manual_seed(seed))
    return Pixels(d.images.detach().flatten(1)[:, at].view(d.images.shape), d.y, 10, lr=.02, arch=ARCH, norm=d.norm, info=dict(assumed=['made from digits that was given; no file says so', 'rate 0.02']))

@pytest.mark.parametrize('seed', [1, 3, 6])
def test_a_set_of_other_data_is_named(real, test_set, seed):
    s = score(shuffled(Pixels.from_real(real, 10), seed), real, test_set, ScoreOptions(epochs=30, n_eval=1, whole=6, own=False))
    assert s.order.foreign and s.order.after < .5 and 'perhaps the images are of other data' in s.notes[-1]
    assert s.notes[0] == 'assumed: made from digits that was given; no file says so' and not any('rate' in n for n in s.notes)
    for face in SCORE_FACES.values(): assert 'other data' in face(s) and 'assumed: made from digits' in face(s)

@pytest.mark.parametrize('whole, epochs', [(0, 30), (1, 1)])
def test_without_somebody_who_knows_the_question_stays(real, test_set, whole, epochs, monkeypatch):
    if whole: monkeypatch.setattr(score_module, '_whole', weak(score_module._whole))
    s = score(shuffled(Pixels.from_real(real, 10)), real, test_set, ScoreOptions(epochs=epochs, n_eval=1, whole=whole, own=False))
    assert s.order is None and 'take a longer --whole, or --teachers' in s.notes[-1]

def weak(whole):
    "A network on the whole set that is at chance."
    def made(j):
        net = whole(j); j.score.rows['whole set'].mean = 10.
        return net
    return made

def test_teachers_are_asked_where_no_network_is_trained(real, test_set):
    with seeded(0): teacher = make_net(dict(ARCH, width=16))
    train(teacher, real, as_protocol('full').scaled(epochs=6, aug=''))
    how = ScoreOptions(epochs=30, n_eval=1, whole=0, own=False)
    bad = put_in_order(Pixels.from_real(real, 10, lr=.02, arch=ARCH), [(c + 3) % 10 for c in range(10)])
    assert score(bad, real, test_set, how, [teacher.eval()]).order.perm == [(c + 7) % 10 for c in range(10)]
    assert score(shuffled(Pixels.from_real(real, 10)), real, test_set, how, [teacher]).order.foreign

# --- faces and rows
def test_faces_hold_the_same_cells(sets, real, test_set):
    s = score(sets['hard'], real, test_set, HOW, name='a <set>')
    for face in SCORE_FACES.values():
        for line in cells(s)[1:]: assert all(html.escape(c) in html.escape(face(s)).replace('&lt;', '&lt;') or c in face(s) for c in line)
    assert '<set>' not in s.html() and s.md().count('|---') == 0 and '| --- |' in s.md()

def test_rows_are_recorded_with_what_they_are(sets, real, test_set, tmp_path):
    s = score(sets['soft'], real, test_set, HOW)
    rows = score_rows(s, 'score/digits/x', 'abc')
    accs = [r for r in rows if r.metric == 'test_acc']
    assert [r.mean for r in accs] == [s.rows[r.method].mean for r in accs] and len(accs) == len(s.rows)
    assert {r.method: r.artefact for r in accs if r.artefact == ''}.keys() == {m for m in s.rows if m.startswith(('random', 'whole'))}
    assert {r.metric: r.mean for r in rows if r.unit == 'B'} == dict(bytes=5120., bytes_with_labels=5920., bytes_with_decoder=5920.)
    assert all(r.seconds > 0 and r.device and r.settings and (r.deviations or r.protocol != 'reduced') for r in rows)

# --- the command
def command(capsys, *words):
    capsys.readouterr()
    entry.start('dd_score', list(map(str, words)))
    return capsys.readouterr().out

def refused(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as e: entry.start('dd_score', list(map(str, words)))
    out, err = capsys.readouterr()
    assert e.value.code == 2 and err.startswith('dd_repro: ') and err.count('\n') == 1, err
    return err

def test_a_toy_run_needs_nothing(capsys):
    out = command(capsys, '--smoke', '--no-own')
    assert 'label-robust score' in out and 'random, same bytes' in out

@pytest.mark.parametrize('form', ['torch', 'npz', 'mtt'])
def test_files_of_others_are_judged_too(capsys, sets, tmp_path, form):
    out = tmp_path/('x' if form == 'mtt' else f'x.{"pt" if form == "torch" else form}')
    export_set(sets['hard'], out, form)
    told = command(capsys, out, '--smoke', '--no-own', '--whole', 0, '--data', 'digits', '--as', form, *([] if form == 'mtt' else ['--lr', '.02']) if form != 'torch' else [], '--record_to', tmp_path/'r.csv', '--format', 'md')
    assert '| class numbers' in told and {r.protocol for r in read_rows(tmp_path/'r.csv')} == {'smoke'}

@pytest.mark.parametrize('words, says', [([], 'give the path of a distilled set'), (['nobody.safetensors'], 'no such file'), (['mtt/cifar11/ipc1'], 'no such file'), (['--smoke', '--n_eval', '0'], 'n_eval'), (['--smoke', '--protocol', 'mttt'], 'mttt'), (['--smoke', '--net', 'convnett'], 'did you mean convnet'),
    (['--smoke', '--as', 'mttt'], 'mttt'), (['--smoke', '--weight', '2'], 'weight'), (['--smoke', '--rates', '.1,x'], 'separated by commas'), (['--smoke', '--format', 'pdf'], 'pdf'), (['--smoke', '--row', 'x'], '--row does nothing without --record_to'), (['--smoke', '--data', 'digitz'], 'digitz')])
def test_what_is_refused(capsys, words, says): assert says in refused(capsys, *words)

def test_other_classes_or_another_size(sets, real, test_set):
    d, many = sets['hard'], real.new(real.x, real.y, n_classes=12, classes=None)
    wide = real.new(torch.zeros(20, 1, 16, 16), torch.arange(20) % 10)
    for r, says in ((many, 'classes must be the same'), (wide, r'images \[1, 8, 8\]'), (d, 'stands where')):
        with pytest.raises(ValueError, match=says): score(d, r, test_set, HOW)
        with pytest.raises(ValueError, match=says): score(d, real, r, HOW)

def test_a_refusal_records_nothing(capsys, sets, tmp_path):
    sets['hard'].save(tmp_path/'d.safetensors')
    (tmp_path/'r.csv').write_text('not rows')
    refused(capsys, tmp_path/'d.safetensors', '--record_to', tmp_path/'r.csv')
    assert (tmp_path/'r.csv').read_text() == 'not rows'

@pytest.mark.parametrize('where', ['folder', 'below a file', 'too long', 'other', 'nul'])
def test_a_results_file_that_cannot_be_written_stops_before_the_work(capsys, sets, tmp_path, where, monkeypatch):
    monkeypatch.setattr(score_module, 'real_for', lambda *a, **k: pytest.fail('the work began'))
    sets['hard'].save(tmp_path/'d.safetensors'); (tmp_path/'file').write_text('mine')
    at = dict(folder=tmp_path, other=tmp_path/'file').get(where) or tmp_path/{'below a file': 'file/r.csv', 'too long': 'r'*300 + '.csv', 'nul': 'a/b.csv'}[where]
    if where == 'nul': monkeypatch.setattr(records.tempfile, 'TemporaryFile', lambda **k: (_ for _ in ()).throw(OSError(30, 'Read-only file system')))
    said = refused(capsys, tmp_path/'d.safetensors', '--record_to', at)
    assert 'written there' in said or 'not a file of results' in said
    assert sorted(f.name for f in tmp_path.iterdir()) == ['d.safetensors', 'file'] and (tmp_path/'file').read_text() == 'mine'


# Looks, numbers, and what a command says while it works
@pytest.mark.parametrize('epochs, k', [(10, 15), (4, 10), (3, 3), (1, 5), (7, 2)])
def test_the_last_look_is_after_the_last_epoch(epochs, k):
    stops = score_module._stops(epochs, k)
    assert stops[-1] == epochs - 1 and stops[0] >= 0 and len(stops) == min(k, epochs) == len(set(stops))

def test_a_command_says_what_it_trains_and_what_was_assumed(tmp_path, capsys):
    dd_score(smoke=True, whole=0, own=False)
    err = capsys.readouterr().err
    assert 'dd_score: class numbers: 1 x 2 epochs' in err and 'random, same number' in err
