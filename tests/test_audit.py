"What a row at paper scale does, held against the sources: FACTS, section 3, A1 to A18, each by the recipe or a first step."
import dataclasses

import pytest, torch

import dd_repro.recipes as R
from dd_repro import stages
from dd_repro.augment import DSA
from dd_repro.core import rng_for
from dd_repro.counts import passes, row_net_name, runnable, work
from dd_repro.data import find_source, load
from dd_repro.fields import settings_fields
from dd_repro.distilled import Distilled, Pixels, real_for
from dd_repro.latent import LatentDMMethod
from dd_repro.loop import Evaluate
from dd_repro.papers import printed_lines
from dd_repro.priors import D3Method
from dd_repro.records import read_rows
from dd_repro.rows import Places, run_row
from dd_repro.sets import ImageTensors
from dd_repro.stages import row_net, row_protocol
from dd_repro.students import as_protocol
from dd_repro.teachers import TEACHERS, TeacherProtocol, TeacherViews, train_teachers
from dd_repro.zoo import make_net

ROWS = [l.row for l in runnable()]
SMALL = dict(expert_n=1, max_start_epoch=1, syn_steps=2, iterations=6, eval_epochs=1, eval_n=1, eval_aug='', aug='', expert_aug='', net_width=4, student_depth=2, net_depth=2, data_zca=0)

def small(row, **kw):
    "A row on digits of 8 px."
    has = R.recipe(row)
    return R.shrink(dataclasses.replace(has, dataset='digits', size=8), **{n: v for n, v in (SMALL | kw).items() if n in has.settings or n in kw})

# A2: looks at the test set
@pytest.mark.parametrize('every, k', [(2, 3), (3, 2), (4, 2), (100, 1)])
def test_rows_look_as_often_as_the_recipe_says(tmp_path, every, k):
    row, = run_row(small('mtt/table1/cifar10/ipc1', eval_every=every), quiet=True, at=Places(home=tmp_path), record_to=tmp_path/'r.csv')
    looked = k > 1
    assert (row.k if looked else row.k < 2) == (k if looked else True) and ('last state' in row.deviations) != looked
    if looked: assert row.best >= row.last and read_rows(tmp_path/'r.csv')[0].k == k
    again, = run_row(small('mtt/table1/cifar10/ipc1', eval_every=every), quiet=True, at=Places(home=tmp_path))
    assert (again.k, again.mean) == (row.k, row.mean), 'a finished run remembers its looks'

def test_a_row_without_looks_is_at_best_decided(tmp_path):
    row, = run_row(small('mtt/table1/cifar10/ipc1', eval_every=2), looks=False, quiet=True, at=Places(home=tmp_path))
    assert row.k < 2 and 'last state' in row.deviations and row.protocol != 'paper'

def test_a_plan_says_what_looks_cost():
    r = R.recipe('mtt/table1/cifar10/ipc10')
    p = passes(r)
    assert p['looks'][0][2] == 50*p['evaluate'][0][2] and work(r)['looks'] > 0 and 'looks' not in passes(R.recipe('mtt/table1/cifar10/dm/ipc10'))

# A5: D3's networks
@pytest.mark.parametrize('row', [r for r in ROWS if r.startswith('d3/') and '/table4/cifar10/mtt/' not in r])
def test_d3_is_tested_on_its_own_networks(row):
    r = R.recipe(row)
    for one in ([dataclasses.replace(r, eval_net=n) for n in stages._UNSEEN] if r.eval_net == 'unseen-avg4' else [r]):
        name = row_net_name(one, 'eval')
        assert name == 'convnet' or name.endswith('_d3'), name

@pytest.mark.parametrize('size', [32, 64, 128])
def test_heads_grow_with_the_image(size):
    s = size//8
    assert [make_net(f'{n}_d3', size=size).head.in_features for n in ('resnet18', 'alexnet', 'vgg11', 'vit')] == [512*s*s, 192*s*s, 512*(s//4)**2, 512]
    resnet, vit = make_net('resnet18_d3', size=size), make_net('vit_d3', size=size)
    assert resnet.body.conv1.kernel_size == (3, 3) and all(m.stride != (2, 2) for m in resnet.modules() if isinstance(m, torch.nn.Conv2d))
    assert vit.body.conv_proj.kernel_size == (16, 16) and len(vit.body.encoder.layers) == 10 and {m.p for m in vit.modules() if isinstance(m, torch.nn.Dropout)} == {.1}

# A6: LatentDD's evaluation
def test_both_readings_of_the_evaluation_of_latentdd():
    one, idc = as_protocol('latentdd'), as_protocol('latentdd-idc')
    assert dataclasses.replace(idc, name='latentdd', aug=one.aug) == one and R.recipe('latentdd/table1/imagefruit/256px/latentdm/ipc1').settings['eval_protocol'].kind == 'decided'
    drawn = [DSA(idc.aug).draw(4, rng_for(i))[0] for i in range(60)]
    assert {d[:2] + d[3:] for d in drawn} == {('flip', 'color', 'cutmix')} and {d[2] for d in drawn} == {'crop', 'scale', 'rotate'}
    share = sum(DSA(one.aug).draw(4, rng_for(i))[0] == 'cutmix' for i in range(600))/600
    assert .1 < share < .24

# A3, A4, A7 to A14: values of recipes
@pytest.mark.parametrize('row, name, value', [
    ('d3s/table1/imagenet21k/sre2l/ipc10/resnet18', 'alpha', 1), ('d3s/table5/cifar100/cda/ipc10', 'alpha', 1), ('d3s/table1/imagenet1k/ipc10/resnet18', 'alpha', 20),
    ('d3s/fig4_prose/tinyimagenet/label_epochs=300/ipc50', 'eval_epochs', 900), ('d3s/fig4_prose/tinyimagenet/label_epochs=25/ipc50', 'eval_epochs', 900),
    ('mtt/table1/cifar10/random/ipc10', 'eval_protocol', 'dc'), ('mtt/table1/cifar100/herding/ipc1', 'eval_epochs', 301), ('mtt/table1/tinyimagenet/forgetting/ipc50', 'eval_aug', ''),
    ('mtt/table1/cifar10/dm/ipc1', 'iterations', 20000), ('d3/table1/cifar10/dm/ipc10', 'iterations', 20000),
    ('d3/table1/tinyimagenet/ppc1', 'lr_latent', 3e-4), ('d3/table1/tinyimagenet/ppc1', 'lr_decode', 3e-4), ('d3/table1/tinyimagenet/ppc2', 'lr_lr', 1e-6), ('d3/table1/imagewoof/ppc1', 'gamma2', 1), ('d3/table1/cifar10/ppc1', 'lr_latent', 1),
    ('d3/table1/cifar10/ppc2', 'decode', 'passes'), ('d3/table1/cifar10/ppc3', 'eval_samples', 3), ('d3/table1/cifar10/ppc3', 'eval_protocol', 'd3-code'),
    ('mtt/table4/imagenette/ipc1', 'data_crop', 0), ('d3/table1/imagewoof/ppc1', 'data_crop', 0), ('d3s/table1/imagenet1k/ipc10/resnet18', 'data_crop', 256),
    ('mtt/table1/cifar100/dc/ipc1', 'data_stats', 'dc'), ('mtt/table1/cifar100/dm/ipc50', 'data_stats', 'dc'), ('mtt/table1/cifar100/ipc1', 'data_stats', 'mtt'), ('latentdd/table1/imagefruit/256px/latentdm/ipc1', 'data_crop', 1), ('d3s/table1/imagenet1k/ipc10/resnet18', 'level', 0),
    ('d3s/table5/cifar100/sre2l/ipc10', 'flip', 0), ('d3s/table5/cifar100/sre2l/ipc10', 'jitter', 4), ('d3s/table1/tinyimagenet/sre2l/ipc50/resnet18', 'jitter_back', 1), ('d3s/table1/imagenet1k/sre2l/ipc10/resnet18', 'jitter', 32)])
def test_recipes_have_the_values_of_the_sources(row, name, value): assert R.recipe(row).get(name) == value

@pytest.mark.parametrize('row', ['mtt/table1/cifar100/dc/ipc1', 'mtt/table4/imagenette/ipc1', 'mtt/table1/cifar10/ipc1', 'd3s/table1/imagenet1k/ipc10/resnet18'])
def test_what_a_recipe_says_of_the_data_reaches_the_loader(row, monkeypatch):
    seen, r = {}, R.recipe(row)
    monkeypatch.setattr(stages, 'find_source', lambda name, root, download: name)
    monkeypatch.setattr(stages, 'load', lambda src, size, zca, **kw: seen.update(kw, src=src, size=size, zca=zca) or (_ for _ in ()).throw(ValueError('enough')))
    with pytest.raises(ValueError, match='enough'): stages.row_data(r)
    assert seen == dict(src=r.dataset, size=r.size, zca=bool(r.get('data_zca')), device=None, crop=r.get('data_crop', 1), stats=r.get('data_stats', 'mtt'))

@pytest.mark.parametrize('lpc, batch', [(3, 2), (2, 4), (5, 5)])
def test_latent_dm_draws_a_batch_of_codes(lpc, batch):
    codes = ImageTensors(torch.randn(12, 4, 8, 8), torch.arange(12) % 2, 2)
    from dd_repro.convnet import ConvNet
    from types import SimpleNamespace
    objective = LatentDMMethod(lpc=lpc, batch=batch).phases(None, SimpleNamespace(codes=codes, net_fn=lambda: ConvNet(4, 2, 8, 4, 2), seed=0), None)
    assert objective.batch_syn == batch and objective.sizes == [min(batch, 6)]*2

@pytest.mark.parametrize('thousand', [True, False])
def test_the_papers_images_come_before_those_of_fast_ai(tmp_path, thousand):
    from PIL import Image
    def fill(folder, n):
        for half in ('train', 'val'):
            for i in range(n):
                f = tmp_path/folder/half/f'c{i:08}'
                f.mkdir(parents=True); Image.new('RGB', (4, 4), (i % 256, 0, 0)).save(f/'0.png')
    fill('imagenette2', 10); fill('imagenet', 1000 if thousand else 3)
    train = find_source('imagenette', tmp_path, download=False).train
    assert ('imagenette2' in str(train.samples[0][0])) != thousand

# A15: fewer sets and networks than the papers
@pytest.mark.parametrize('row', [r for r in ROWS if r.startswith('mtt/table1') and r.split('/')[3] in ('dc', 'dsa', 'dm', 'random', 'herding', 'forgetting')])
def test_one_set_in_place_of_five_is_decided(row): assert R.recipe(row).kind != 'paper' and '5 sets' in R.recipe(row).settings['eval_n'].source

# A16: the recipe is what runs
SAID = dict(epochs='eval_epochs', lr='eval_lr', batch='eval_batch', momentum='eval_momentum', wd='eval_wd', schedule='eval_schedule', opt='eval_optimizer', aug='eval_aug')

@pytest.mark.parametrize('paper', ['mtt', 'd3', 'd3s', 'latentdd'])
def test_the_protocol_that_runs_is_the_recipe(paper):
    differ = set()
    for l in runnable(paper):
        r = R.recipe(l.row)
        p = row_protocol(r)
        for n, name in SAID.items():
            want = {'learned': None}.get(r.get(name), r.get(name))
            if (n, p.opt) != ('momentum', 'adamw') and getattr(p, n) != want: differ.add((r.method, name, want, getattr(p, n)))
    assert not differ

# A16: and all that acts stands in it
def idle(method):
    "Fields that mean nothing beside the values of others."
    return {n for (k, v), names in method.idle.items() if getattr(method, k, None) == v for n in names.split()}

def acting(r):
    "The names of all settings that act in a row: of its method, data, experts, teachers, labels, autoencoder and students."
    names = {'eval_n', 'eval_protocol', *SAID.values()}
    if r.dataset.startswith('image') : names.add('data_crop')
    if r.dataset == 'cifar100': names.add('data_stats')
    if r.dataset.startswith('cifar'): names.add('data_zca')
    if r.get('data_zca'): names.add('data_zca_eps')
    if r.paper == 'd3' and r.eval_net != 'convnet': names.add('student_nets')
    if r.get('eval_optimizer') == 'adamw': names.discard('eval_momentum')
    if r.method == 'full': return names
    m = stages.Job(r, None, None, None).method
    names |= {n for n, f in settings_fields(m).items() if n not in ('ipc', 'ppc', 'lpc') and (not f.metadata['needs'] or getattr(m, f.metadata['needs']))} - idle(m)
    if 'experts' in m.needs: names |= {f'expert_{n}' for n in ('n', 'lr', 'batch', 'aug', 'momentum', 'wd')}
    if 'codes' in m.needs: names |= {'ae_f', 'ae_latent_scale', 'ae_posterior'}
    if 'teachers' in m.needs: names |= {f'teacher_{n}' for n in ('n', 'epochs', 'lr', 'batch', 'wd', 'optimizer', 'schedule', 'aug')} | {f'label_{n}' for n in ('aug', 'epochs', 'temperature')}
    return names

@pytest.mark.parametrize('paper', ['mtt', 'd3', 'd3s', 'latentdd'])
def test_every_setting_that_acts_stands_in_the_recipe(paper):
    lacks = {}
    for l in runnable(paper):
        if l.stage != 'row': continue
        r = R.recipe(l.row)
        for n in acting(r) - set(r.settings): lacks.setdefault((r.method, r.dataset, n), []).append(l.row)
    assert not lacks, {k: len(v) for k, v in lacks.items()}

TEACHER = dict(epochs='epochs', lr='lr', batch='batch', wd='wd', optimizer='opt', schedule='schedule', aug='how', momentum='momentum', warmup='warmup', drop_every='drop_every')

def test_the_teachers_that_are_trained_are_those_of_the_recipe():
    seen, differ = set(), set()
    for l in runnable('d3s'):
        r = R.recipe(l.row)
        p = TEACHERS[r.dataset]
        for n, field in TEACHER.items():
            if (want := r.get(f'teacher_{n}')) is None: continue
            seen.add((r.dataset, n))
            if getattr(p, field) != want: differ.add((r.method, r.dataset, n, want, getattr(p, field)))
        if not p.warmup == r.get('teacher_warmup', 0) or not p.drop_every == r.get('teacher_drop_every', 0): differ.add((r.method, r.dataset, 'warmup'))
    assert not differ and len(seen) > 30

def test_what_d3_quotes_is_run_on_the_networks_of_the_source():
    of = lambda row: row_net_name(R.recipe(row), 'eval')
    assert of('d3/table4/cifar10/mtt/ipc10/resnet18') == of('mtt/table3/cifar10/ipc10/resnet18') == 'resnet18'
    assert of('d3/table4/cifar10/ppc1/resnet18') == of('d3/table4/cifar10/dm/ipc50/resnet18') == 'resnet18_d3'

# A17: rates
@pytest.mark.parametrize('line', [l for l in printed_lines('d3') if l.metric == 'comp_rate' and l.runs and l.method == 'D3' and l.table in ('table1', 'table3')], ids=lambda l: l.row)
def test_rates_are_those_that_are_printed(line):
    row, = run_row(line.row, quiet=True)
    assert abs(row.mean - line.number) < (.0006 if line.table == 'table3' else .0051) and ('counted at 32 px' in row.deviations) == (R.recipe(line.row).size != 32)

# A18: experts
def test_longer_experts_serve_a_row_that_needs_fewer(tmp_path):
    long = run_row(small('mtt/table1/cifar10/ipc10', max_start_epoch=3), quiet=True, at=Places(home=tmp_path))
    short = run_row(small('mtt/table1/cifar10/ipc1', max_start_epoch=1), quiet=True, at=Places(home=tmp_path))
    alone = run_row(small('mtt/table1/cifar10/ipc1', max_start_epoch=1), quiet=True, at=Places(home=tmp_path/'alone'))
    assert len(list((tmp_path/'buffers').iterdir())) == 1 and long and short[0].mean == alone[0].mean
    sets = [next((h/'rows').rglob('*-MTT-*/distilled.safetensors')) for h in (tmp_path/'alone',)] + [f for f in (tmp_path/'rows').rglob('distilled.safetensors')]
    assert any(torch.equal(Distilled.load(sets[0]).images, Distilled.load(f).images) for f in sets[1:] if len(Distilled.load(f)) == 10)

def test_experts_of_latent_mtt_are_as_long_as_they_have_to_be(tmp_path, monkeypatch):
    r, asked = R.recipe('latentdd/table1/imagefruit/256px/latentmtt/ipc1'), []
    real = ImageTensors(torch.randn(4, 4, 8, 8), torch.arange(4) % 2, 2)
    job = stages.Job(r, real, real, tmp_path, 0)
    monkeypatch.setattr(stages, 'train_experts', lambda net, data, path, n, p, *a: asked.append(p.epochs) or (_ for _ in ()).throw(ValueError('enough')))
    with pytest.raises(ValueError, match='enough'): job.experts(real)
    assert asked == [r['max_start_epoch'] + r['expert_epochs']]

@pytest.mark.parametrize('row', [l.row for p in ('mtt', 'd3', 'latentdd') for l in printed_lines(p) if l.runs and l.stage in ('experts', 'distill') and l.runs in ('MTT', 'D3', 'LatentMTT')])
def test_rows_of_cost_know_how_long_their_experts_are(row):
    r = R.recipe(row)
    assert r['expert_epochs'] > 0 and r['max_start_epoch'] > 0 and passes(r)['experts'][0][2] > 0

# A1: photographs
def photos(folder, side=(60, 150), n=4):
    "Photographs with a white margin and a grey middle."
    from PIL import Image
    h, w = side
    for half in ('train', 'val'):
        for c in 'ab':
            (folder/half/c).mkdir(parents=True)
            x = torch.zeros(3, h, w, dtype=torch.uint8)
            x[:, :, :w//8] = 255; x[:, h//2 - 2:h//2 + 2, w//2 - 2:w//2 + 2] = 60 if c == 'a' else 90
            for i in range(n): Image.fromarray(x.permute(1, 2, 0).numpy()).save(folder/half/c/f'{i}.png')
    return folder

@pytest.mark.parametrize('workers', [0, 1])
def test_teachers_crop_from_the_photograph(tmp_path, workers):
    real, _ = load(photos(tmp_path/'p'), size=32, crop=36, stream=True, workers=workers)
    real = real.renorm(None)
    views = TeacherViews(real, 'rrc_flip')
    one, two, other = ([x for x, _ in views.epoch(e, 3, rng_for(e))] for e in (0, 0, 1))
    assert all(map(torch.equal, one, two)) and not torch.equal(one[0], other[0]), 'by the epoch, and again the same'
    assert sum(map(len, one)) == len(real) - 8 % 3 % 2 and max(x.amax() for e in range(4) for x, _ in views.epoch(e, 3, rng_for(e))) > .99 > max(x.amax() for x, _ in real.batches(4))
    assert sorted(y for _, ys in views.epoch(2, 2, rng_for(2)) for y in ys.tolist()) == sorted(real.y.tolist())

@pytest.mark.parametrize('stream', [True, False])
def test_validation_is_cut_from_a_larger_frame(tmp_path, stream):
    from torchvision.transforms.v2 import functional as F
    from PIL import Image
    at = photos(tmp_path/'p', (80, 120))
    _, val = load(at, size=32, crop=40, stream=stream, workers=0, stats=((0., 0., 0.), (1., 1., 1.)))
    with Image.open(at/'val'/'a'/'0.png') as img: want = F.pil_to_tensor(F.center_crop(F.resize(img, [40], antialias=True), [32, 32])).float()/255
    got = next(x for x, _ in val.batches(1))[0]
    assert torch.equal(got, want) and val.source['crop'] == 40
    _, plain = load(at, size=32, stream=stream, workers=0)
    assert plain.key != val.key and plain.source['crop'] is True
    d = Distilled.load(Pixels.from_real(val, 1).save(tmp_path/'d.safetensors'))
    assert real_for(d, root=tmp_path)[1].source['crop'] == 40

@pytest.mark.parametrize('kw, says', [(dict(size=32, crop=20), 'crop is 20'), (dict(name='digits', size=8, crop=9), 'crop is 9: digits is no folder of photographs')])
def test_frames_that_cannot_be(tmp_path, kw, says):
    with pytest.raises(ValueError, match=says): load(kw.get('name') or photos(tmp_path/'p'), **{k: v for k, v in kw.items() if k != 'name'})

@pytest.mark.parametrize('row', [r for r in ROWS if r.startswith('d3s/table1/imagenet')])
def test_rows_of_imagenet_are_framed(row): assert R.recipe(row)['data_crop'] == 256

# looks are of one network under one protocol
@pytest.mark.parametrize('change', [dict(nets=('convnet', )), dict(protocol=as_protocol('mtt').scaled(epochs=2)), dict(n_eval=2), dict(seed=1)])
def test_looks_of_others_do_not_count(change, capsys):
    test = ImageTensors(torch.randn(4, 1, 8, 8), torch.arange(4) % 2, 2)
    how = dict(protocol=as_protocol('mtt').scaled(epochs=1), nets=(dict(name='convnet', n_in=1, n_out=2, size=8, width=4, depth=1),), n_eval=1)
    one = Evaluate(test, 2, **how)
    one.best, one.k, one.last = 90., 3, 80.
    same, other = Evaluate(test, 2, **how), Evaluate(test, 2, **how | change)
    same.load_state_dict(one.state_dict()); other.load_state_dict(one.state_dict())
    assert (same.best, same.k) == (90., 3) and other.k == 0 and other.best != other.best and 'do not count' in capsys.readouterr().out

@pytest.mark.parametrize('row, looks', [('mtt/table1/cifar10/ipc10', True), ('mtt/table3/cifar10/ipc10/alexnet', False), ('d3/table5/imagenette/ppc1/unseen-avg4', False), ('d3/table1/cifar10/ppc1', True), ('mtt/table1/cifar10/dm/ipc1', False)])
def test_only_the_network_of_the_distillation_looks(tmp_path, row, looks):
    r = R.recipe(row)
    real = ImageTensors(torch.randn(20, 3, r.size, r.size), torch.arange(20) % 10, 10)
    job = stages.Job(r, real, real, tmp_path, 0)
    assert bool(job.look(job.method)) == looks

def test_last_says_nothing_of_looks_that_were_taken_before(tmp_path):
    r, at = small('mtt/table1/cifar10/ipc1', eval_every=2), Places(home=tmp_path)
    seen, = run_row(r, quiet=True, at=at)
    last, = run_row(r, quiet=True, at=at, looks=False)
    assert seen.k == 3 and last.k < 2 and 'last state' in last.deviations and last.mean == seen.mean

def test_fewer_looks_than_the_paper_took_are_said(tmp_path, monkeypatch):
    r, at, keep = small('mtt/table1/cifar10/ipc1', eval_every=1), Places(home=tmp_path), stages.learn
    monkeypatch.setattr(stages, 'learn', lambda task, method, out, how: keep(task, method, out, dataclasses.replace(how, minutes=1e-9)))
    run_row(r, quiet=True, at=at, looks=False)
    monkeypatch.setattr(stages, 'learn', keep)
    row, = run_row(r, quiet=True, at=at)
    assert 1 < row.k < 6 and f'best of {row.k} looks (paper: best of 6' in row.deviations and row.protocol != 'paper'

def test_teachers_of_photographs_are_other_teachers_than_those_of_cut_images(tmp_path):
    "The card says what they saw, so a folder of the one is not gone on with by the other."
    at, net = photos(tmp_path/'p'), lambda: make_net('resnet18_bn', 3, 2, 32, width=4)
    p = TeacherProtocol('teacher', 'decided', epochs=1, batch=4, lr=.01, how='rrc_flip')
    cut, stream = (load(at, size=32, stream=s, workers=0)[0] for s in (False, True))
    train_teachers(net, cut, tmp_path/'t', 1, p, 0, True)
    with pytest.raises(ValueError, match='view'): train_teachers(net, stream, tmp_path/'t', 2, p, 0, True)

@pytest.mark.parametrize('kind, stated', [('known', True), ('folder', False)])
def test_a_folder_of_ones_own_has_no_stated_teachers(kind, stated):
    from dd_repro import teachers
    real = ImageTensors(torch.randn(4, 3, 8, 8), torch.arange(4) % 2, 2, name='tinyimagenet (2 of 200 classes)', source=dict(kind=kind))
    assert (teachers._stated(real) is not None) == stated

@pytest.mark.parametrize('row, stage', [('mtt/table1/cifar10/ipc1', 'row'), ('mtt/section5/cifar10/expert/per-epoch/minutes', 'experts')])
def test_the_cost_of_experts_is_that_of_their_own_length(tmp_path, row, stage):
    "Longer experts serve an accuracy, not a clock."
    r = dataclasses.replace(small(row, max_start_epoch=1, expert_epochs=1), stage=stage)
    real = ImageTensors(torch.randn(20, 1, 8, 8), torch.arange(20) % 10, 10)
    job = stages.Job(r, real, real, tmp_path, 0)
    long = job.buffer_at(real, 5)[0]
    long.mkdir(parents=True); (long/'buffer.json').write_text('{"epochs": 5}')
    assert job.buffer_at(real, 2) == ((long, 5) if stage == 'row' else (long.with_name(long.name.replace('-e5-', '-e2-')), 2)) and job.buffer_at(real, 5) == (long, 5)

# what an audit of this list found
@pytest.mark.parametrize('row, ours', [('d3/table1/cifar10/dm/ipc10', ['eval_n']), ('d3/table1/cifar10/dm/ipc1', ['eval_n']),
    ('latentdd/table1/imagefruit/256px/dsa/ipc1', ['data_crop', 'eval_aug']), ('latentdd/table1/imagesquawk/256px/dm/ipc10', ['data_crop', 'eval_aug'])])
def test_baselines_of_other_papers_are_decided(row, ours):
    "DM's numbers are of five sets of twenty networks in whatever table they stand; who judged LatentDD's baselines is open."
    assert (R.recipe(row).kind, R.recipe(row).ours) == ('decided', ours)

@pytest.mark.parametrize('name, value, field', [('eval_momentum', .5, 'momentum'), ('eval_lr', .02, 'lr'), ('eval_batch', 64, 'batch'), ('eval_aug', 'flip', 'aug'), ('eval_wd', 0., 'wd'),
    ('eval_schedule', 'cosine', 'schedule'), ('eval_epochs', 7, 'epochs'), ('eval_lr', 'learned', 'lr')])
def test_a_setting_of_students_that_is_given_acts(name, value, field):
    from dd_repro.rows import _protocol_apart, with_values
    from dd_repro.stages import row_protocol
    r = with_values(R.recipe('mtt/table1/cifar10/dc/ipc1'), {name: value})
    p = row_protocol(r)
    assert getattr(p, field) == (None if value == 'learned' else value) and p.kind == 'reduced' and _protocol_apart(r) == []
    assert name in r.changes

@pytest.mark.parametrize('given, says', [(dict(eval_momentum=1.5), 'momentum'), (dict(eval_schedule='foo'), 'foo'), (dict(eval_every=0), 'eval_every is 0'), (dict(eval_every=-5), 'eval_every is -5'),
    (dict(data_crop=-3), 'data_crop is -3'), (dict(expert_n=2.5), 'expert_n is 2.5'), (dict(data_zca_eps=1.), 'data_zca_eps cannot be given')])
def test_a_value_out_of_its_range_is_refused_before_anything_is_made(given, says, tmp_path):
    from dd_repro.rows import Places, run_row
    with pytest.raises(ValueError, match=says): run_row('mtt/table1/cifar10/ipc1', at=Places(root=tmp_path), **given)
    assert not list(tmp_path.iterdir())

def test_a_set_whose_card_is_empty_is_not_the_papers(tmp_path, monkeypatch):
    from dd_repro.all import Pixels
    from dd_repro.rows import _card_apart
    from types import SimpleNamespace
    d = Pixels(torch.zeros(10, 3, 32, 32), torch.arange(10), 10)
    d.info['iterations'] = 20000
    d.save(tmp_path/'distilled.safetensors')
    r = R.recipe('d3/table1/cifar10/dm/ipc1')
    assert _card_apart(SimpleNamespace(r=r, out=lambda: tmp_path, method=None)) == ['the card of its set does not say how it was made']
