"D3S beyond what the notebook shows: teachers under another norm, damaged files, two processes, memory, real pictures as a stream."
import dataclasses, json, math, multiprocessing as mp
from functools import partial

import pytest, torch
from torch.nn import functional as F

from dd_repro.core import *
from dd_repro.files import *
from dd_repro.norm import *
from dd_repro.sets import *
from dd_repro.settings import *
from dd_repro.norm import Normalize
from dd_repro.data import find_source, load
from dd_repro.zoo import *
from dd_repro.students import *
from dd_repro.distilled import *
from dd_repro.augment import *
from dd_repro.gauss import *
from dd_repro.settings import plain_settings
from dd_repro.teachers import *
from dd_repro.d3s import *
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of

torch.set_num_threads(1)
NET = dict(name='resnet18_bn', n_in=1, n_out=10, size=32, width=4, layers=(1, 1))
SMALL, QUIET = dict(ipc=2, batch=10, iterations=3, lr_img=.1, flip=False), RunOptions(quiet=True)


@pytest.fixture(scope='module')
def real(): return (lambda r: r.subset(torch.arange(0, len(r), 12)))(load('digits', size=32)[0])

@pytest.fixture(scope='module')
def teachers(real):
    with seeded(0): nets = [make_net(NET) for _ in range(2)]
    for n in nets: [n(x) for x, _ in real.batches(40)] # running statistics of batch norm
    return Teachers(nets, real)

@pytest.fixture(scope='module')
def task(teachers, real, tmp_path_factory): return Task(real, teachers=teachers, folder=tmp_path_factory.mktemp('stats'))

@pytest.fixture(scope='module')
def stats(task): return teacher_stats(task.teachers, task.real, task.folder)

def d3s(task, out, run=QUIET, **kw): return learn(task, method_of('d3s', **SMALL | kw), out, run)


def test_crop_is_torchvisions(real):
    from torchvision.transforms import functional as V
    x = torch.rand(3, 2, 24, 24)
    for b in crop_boxes(20, (24, 24), rng_for(0)):
        torch.testing.assert_close(rrc(x, b[None]), V.resized_crop(x, *b.tolist(), [24, 24], antialias=True), rtol=1e-4, atol=1e-5)

def test_objective_equals_equation_1(real, teachers, stats):
    d, T = Pixels.from_real(real, 3, 0), [targets(s, eps=1e-3) for s in stats]
    loss = D3S(teachers, T, D3SMethod(crop='none'), b=1)(d)
    net, want = teachers[1], 0.
    seen = {}
    hooks = [m.register_forward_hook(lambda m, i, o, n=n: seen.update({n: o.double()})) for n, m in main_convs(net).items()]
    z = net(d.images); [h.remove() for h in hooks]
    for n, h in seen.items():
        X = h.transpose(0, 1).flatten(1); m, S = X.mean(1), torch.cov(X, correction=0)
        mT, ST = stats[1][n].mean, stats[1][n].cov; floor = 1e-3*ST.diagonal().mean()*torch.eye(len(m), dtype=torch.double)
        N = torch.distributions.MultivariateNormal
        want = want + torch.distributions.kl_divergence(N(m, S + floor), N(mT, ST + floor))
    want = want + 20*F.cross_entropy(z, d.y)
    torch.testing.assert_close(loss.double(), want.double(), rtol=1e-3, atol=1e-3)

def test_ensemble_takes_the_models_in_turn_or_draws_them(teachers):
    pick = lambda b, ens: D3S(teachers, None, D3SMethod(ens=ens), b).model()
    assert [pick(b, 'batch') for b in range(4)] == [0, 1, 0, 1] and [pick(b, '') for b in range(3)] == [0, 0, 0]
    o = D3S(teachers, None, D3SMethod(ens='iter')); assert {o.model() for _ in range(20)} == {0, 1}

def test_running_statistics_change_the_second_batch_only(tmp_path, task):
    a, b = (d3s(task, tmp_path/str(isu), isu=isu)[0] for isu in (True, False))
    assert torch.equal(a.images[:10], b.images[:10]) and not torch.equal(a.images[10:], b.images[10:])

def test_classes_go_round_and_pixels_stay_in_range(tmp_path, task):
    d, _ = d3s(task, tmp_path)
    assert d.y.tolist() == [*range(10)]*2
    x = d.sample(idx=torch.arange(20))[0]; back = d.norm.inverse(x)
    assert back.min() >= -1e-5 and back.max() <= 1 + 1e-5 and d.images.float().std() > 1

def test_another_norm_gives_the_same_logits(real, teachers):
    other = Normalize(.3, .7)
    with seeded(1): net = make_net(NET).eval()
    r, = Teachers([net], real, [other])
    torch.testing.assert_close(r(real.x[:8]), net(other(real.raw()[:8])), rtol=1e-4, atol=1e-4)
    assert r.arch == net.arch and len(main_convs(r)) == len(main_convs(net))

def test_resnet20_from_a_file(tmp_path):
    from safetensors.torch import save_file
    with seeded(0): net = make_net('resnet20').eval()
    w = {(k.replace('body.', '') if k.startswith('body.') else k.replace('head.', 'linear.')): v for k, v in net.state_dict().items()}
    save_file(w, tmp_path/'r.safetensors'); got, norm = load_resnet20(tmp_path/'r.safetensors')
    x = torch.rand(2, 3, 32, 32); torch.testing.assert_close(got(x), net(x))
    assert norm.mean == [.485, .456, .406] and len(main_convs(got)) == 19
    save_file({'a': torch.zeros(1)}, tmp_path/'b.safetensors')
    with pytest.raises(ValueError, match='not the weights of a ResNet-20'): load_resnet20(tmp_path/'b.safetensors')

def test_settings_of_every_line_are_accepted(task, tmp_path):
    one = dataclasses.replace(task, teachers=task.teachers.some([0]))
    sets = ('cifar10', 'cifar100', 'tinyimagenet', 'imagenet1k', 'imagenet21k')
    for method, dataset in ((m, d) for m in ('d3s', 'sre2l', 'cda') for d in sets):
        s = plain_settings(method, dataset=dataset) | dict(ipc=1, batch=10, iterations=1)
        d, _ = learn(one, method_of(method, **s), tmp_path/f'{method}-{dataset}', QUIET)
        assert d.info['settings']['method'] == method

@pytest.mark.parametrize('kw, what', [
    (dict(batch=1), 'batch is 1'), (dict(ipc=0), 'ipc is 0'), (dict(iterations=0), 'iterations is 0'), (dict(kind='kl'), "kind='kl' is not one of"), (dict(ens='all'), "ens='all' is not one of"),
    (dict(crop='square'), "crop='square' is not one of"), (dict(scale=0.), 'scale is 0'), (dict(lr_img=0.), 'lr_img is 0'), (dict(layers='bn'), 'variances only'), (dict(jobs=(2, 2), isu=False), r'jobs is \(2, 2\)'),
    (dict(batch=19), 'leave a last batch of 1'), (dict(jobs=(0, 2)), r'jobs is \(0, 2\); with running'), (dict(scale=1.5), 'scale is 1.5; it must be above 0 and at most 1'),
    (dict(jitter=-1), 'jitter is -1'), (dict(weight=0., alpha=0.), 'nothing is left'), (dict(level=True, isu=False), 'it goes with isu=True'), (dict(eval_every=1), 'eval_every has no meaning for d3s'),
    (dict(sched=lambda p: 1.), 'sched has no meaning for d3s'), (dict(keep=1), 'keep has no meaning for d3s')])
def test_bad_settings_write_nothing(tmp_path, task, kw, what):
    how = {k: kw[k] for k in kw if hasattr(QUIET, k)}
    with pytest.raises(ValueError, match=what) as e: d3s(task, tmp_path/'out', RunOptions(quiet=True, **how), **{k: kw[k] for k in kw if k not in how})
    assert '\n' not in str(e.value) and not (tmp_path/'out').exists()

def test_teachers_that_cannot_teach(tmp_path, real):
    with pytest.raises(ValueError, match='M is 0'): Teachers([], real)
    with pytest.raises(ValueError, match='tells 3 classes apart; digits has 10'): Teachers([make_net(NET | dict(n_out=3))], real)
    with pytest.raises(ValueError, match='does not take images of shape'): Teachers([make_net(NET | dict(n_in=3))], real)
    with pytest.raises(ValueError, match='0 teachers there'): load_teachers(tmp_path, real)
    with pytest.raises(ValueError, match='no stated settings for teachers'): train_teachers(lambda: make_net(NET), real, tmp_path, 1)
    save_tensors(tmp_path/'teacher_000.safetensors', {'x': torch.zeros(1)}, {})
    with pytest.raises(ValueError, match='not a teacher'): load_teachers(tmp_path, real)

def test_zca_is_refused(tmp_path, task):
    real = load('digits', size=8, zca=True)[0]
    with pytest.raises(ValueError, match='clamped channel by channel'): d3s(dataclasses.replace(task, real=real), tmp_path/'o')

def test_damaged_statistics_are_measured_again(tmp_path, real, teachers, stats, capsys):
    teacher_stats(teachers, real, tmp_path); f = sorted(tmp_path.iterdir())[0]; f.write_bytes(f.read_bytes()[:50])
    assert stats_hash(teacher_stats(teachers, real, tmp_path)) == stats_hash(stats) and 'measured again' in capsys.readouterr().out

def _job(out, task, i): d3s(task, out, RunOptions(quiet=True, jobs=(i, 2)), isu=False)

def test_jobs_in_turn_make_the_same_set(tmp_path, task):
    for i in (1, 0): _job(tmp_path/'two', task, i)
    one, _ = d3s(task, tmp_path/'one', isu=False)
    assert torch.equal(open_images(tmp_path/'two'/'distilled.safetensors').images, one.images)

def test_jobs_at_once_make_the_same_set(tmp_path, task, stats):
    jobs = [mp.get_context('fork').Process(target=_job, args=(tmp_path/'two', task, i)) for i in range(2)]
    for j in jobs: j.start()
    for j in jobs: j.join(60)
    assert [j.exitcode for j in jobs] == [0, 0]
    one, _ = d3s(task, tmp_path/'one', isu=False)
    two = open_images(tmp_path/'two'/'distilled.safetensors')
    assert torch.equal(two.images, one.images) and two.info['iterations'] == one.info['iterations']
    assert not (tmp_path/'two'/'images.part').exists()

def test_a_time_box_is_extended(tmp_path, task):
    d, run = d3s(task, tmp_path/'a', RunOptions(quiet=True, minutes=1e-9))
    assert run.stopped == 'time' and not (tmp_path/'a'/'distilled.safetensors').exists()
    for _ in range(8): d, run = d3s(task, tmp_path/'a', RunOptions(quiet=True, minutes=1e-3))
    d, run = d3s(task, tmp_path/'a')
    whole, _ = d3s(task, tmp_path/'b')
    assert run.stopped == 'done' and torch.equal(d.images, whole.images)

def test_a_finished_run_is_returned(tmp_path, task, teachers, stats):
    a, _ = d3s(task, tmp_path)
    before = (tmp_path/'distilled.safetensors').read_bytes()
    b, run = d3s(task, tmp_path)
    assert run.stopped == 'done' and run.it == 6 and torch.equal(a.images, b.images) and (tmp_path/'distilled.safetensors').read_bytes() == before
    assert b.info['stats'] == stats_hash(stats) and [t['sha256'] for t in b.info['settings']['teachers']] == teachers.hashes

def test_whole_method_on_a_stream_of_tiny_imagenet(tmp_path, dd_data):
    from dd_repro.labels import Relabelled, ViewSettings, relabel
    dd_data('tiny-imagenet-200')
    real, test = load(find_source('tinyimagenet', download=False), stream=True, workers=0, stats=((.48, .45, .40), (.28, .27, .28)))
    part = lambda s, n: s.new(ds=s.ds.subset(torch.arange(0, len(s), len(s)//n)[:n].tolist()))
    real, test = part(real, 400), part(test, 100)
    fn = partial(make_net, 'resnet18_bn', 3, 200, 64, width=4, layers=(1, 1))
    p = TEACHERS['tinyimagenet'].scaled(kind='smoke', epochs=1, warmup=0, batch=100)
    teachers = train_teachers(fn, real, tmp_path/'t', 2, p, quiet=True)
    stated = plain_settings('d3s', dataset='tinyimagenet')
    d, run = learn(Task(real, teachers=teachers), method_of('d3s', **stated | dict(iterations=2, batch=100)), tmp_path/'run', QUIET)
    assert run.n_batches == 2 and d.images.shape == (200, 3, 64, 64) and d.y.unique().numel() == 200
    store = relabel(d, teachers, tmp_path/'l', 1, ViewSettings(100), quiet=True)
    row, = evaluate(Relabelled(d, store), test, (fn().arch,), as_protocol('d3s-tiny').scaled(kind='smoke', epochs=1, batch=100), 1)
    assert math.isfinite(row.mean) and row.protocol == 'smoke'

def test_teachers_say_what_they_are(real):
    one, two = Teachers([make_net(NET)], real), Teachers([make_net(NET), make_net(NET)], real)
    assert repr(one) == f'1 teacher of {real.title} ({NET["name"]})' and repr(two) == f'2 teachers of {real.title} ({NET["name"]})'

@pytest.mark.parametrize('name', ['d3s', 'sre2l', 'cda'])
def test_each_method_makes_a_smoke_set_under_its_own_name(name, tmp_path, task):
    d, run = learn(task, smoke_of(METHODS[name]()), tmp_path, QUIET)
    said = d.info['settings']
    assert (said['method'], said['flip'], said['layers']) == (name, False, 'conv' if name == 'd3s' else 'bn') and run.stopped == 'done' and len(d) == 10

def test_images_are_mirrored_where_the_set_allows_it(real, teachers):
    "Digits are not, unless somebody asks for it; a set of one's own is."
    of = lambda flip, r: method_of('d3s', **SMALL | dict(flip=flip)).resolved(r)['flip']
    other = ImageTensors(real.x, real.y, 10, name='pets')
    assert [of(f, real) for f in (None, True, False)] == [False, True, False]
    assert [of(f, other) for f in (None, True, False)] == [True, True, False]

def _aged(file):
    "A store as it was written before settings said which form they have."
    d = open_images(file); y = d.y.clone(); images = d.images.clone()
    d.info['settings'].pop('made_by'); d.info['settings']['method'] = 'd3s'
    card = d.card(); save_tensors(file, {'d.images': images, 'd.y': y, 'd.lr': d.lr.detach()}, card)

@pytest.mark.parametrize('name', ['distilled.safetensors', 'images.part'])
def test_a_set_of_before_opens_and_no_run_goes_on_with_it(name, tmp_path, task):
    a, _ = d3s(task, tmp_path)
    old = tmp_path/'distilled.safetensors'; _aged(old); old = old.rename(tmp_path/name); before = old.read_bytes()
    with pytest.raises(ValueError, match='another version.*give another folder') as e: d3s(task, tmp_path)
    assert '\n' not in str(e.value) and old.read_bytes() == before
    back = open_images(old); assert torch.equal(back.images, a.images) and back.info['settings']['alpha'] == 20
    if name.startswith('distilled'):
        row, = evaluate(back, task.real, (dict(NET),), as_protocol('mtt').scaled(kind='smoke', epochs=1, aug='', lr=.01), 1)
        assert math.isfinite(row.mean)
