"RDED: an independent small implementation, every frame from its own class, and what is refused."
import math
from functools import partial

import numpy as np
import pytest, torch
from PIL import Image
from torch.nn import functional as F

from dd_repro.augment import crop_boxes
from dd_repro.core import rng_for, seeded
from dd_repro.data import load
from dd_repro.distilled import Distilled
from dd_repro.labels import Relabelled, ViewSettings, relabel
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of
from dd_repro.norm import Normalize, ZCA
from dd_repro.rded import *
from dd_repro.sets import ImageTensors
from dd_repro.teachers import Teachers
from dd_repro.zoo import make_net

torch.set_num_threads(1)
NET = dict(name='convnet', n_in=1, n_out=10, size=16, width=8, depth=2)


@pytest.fixture(scope='module')
def real(): return load('digits', size=16)[0].subset(torch.arange(0, 1400, 5))

@pytest.fixture(scope='module')
def teachers(real):
    with seeded(0): nets = [make_net(NET) for _ in range(2)]
    return Teachers(nets, real)

@pytest.fixture(scope='module')
def task(real, teachers): return Task(real, teachers=teachers)

def by_hand(real, teachers, c, method, seed):
    "The frames of a class, written once more: loops, lists and NumPy."
    side, f = real.shape[-1], method.factor
    rng = rng_for(seed, 'rded', c)
    n = min(method.candidates, int((real.y == c).sum()))
    x = real.of_class(c, n, rng)
    boxes = crop_boxes(n*method.crops, (side, side), rng, (method.scale, 1), (1, 1)).view(n, method.crops, 4)
    found = []
    for i in range(n):
        tried = []
        for t, l, h, w in boxes[i].tolist():
            small = F.interpolate(x[i:i+1, :, t:t+h, l:l+w], (side//f, side//f), mode='bilinear', antialias=True)
            canvas, at = torch.zeros(1, 1, side, side), (side - side//f)//2
            canvas[:, :, at:at + side//f, at:at + side//f] = small
            with torch.no_grad(): z = sum(net(canvas) for net in teachers)[0]/len(teachers)
            tried.append((-math.log(z.double().softmax(0)[c]), small[0]))
        found.append(min(tried, key=lambda o: o[0]))
    found.sort(key=lambda o: o[0])
    ranked, out = [p for _, p in found], []
    for k in range(method.ipc):
        rows = [torch.cat([ranked[(i*f + j)*method.ipc + k] for j in range(f)], 2) for i in range(f)]
        out.append(torch.cat(rows, 1))
    return torch.stack(out)

@pytest.mark.parametrize('factor, ipc, crops', [(2, 2, 3), (1, 3, 2), (4, 1, 2), (1, 1, 1)])
def test_the_set_is_that_of_an_independent_implementation(task, tmp_path, factor, ipc, crops):
    m = RDEDMethod(ipc=ipc, factor=factor, crops=crops, candidates=20)
    d, run = learn(task, m, tmp_path)
    assert run is None and d.info['iterations'] == 0
    for c in (0, 7):
        want = task.real.norm.inverse(by_hand(task.real, task.teachers, c, m, 0)).clamp(0, 1)*255
        got = d.images[d.y == c].float()
        assert got.shape == want.shape and (got - want).abs().max() < .51

def test_patches_are_those_of_pillow():
    "Antialiased bilinear scaling, as Pillow does it, on a picture of bytes."
    x = (torch.rand(1, 1, 24, 24, generator=rng_for(0))*255).round()
    box = crop_boxes(3, (24, 24), rng_for(1), (.3, 1.), (1., 1.)).tolist()
    got = patches(x, 3, 8, rng_for(1), .3)[0, :, 0]
    for p, (t, l, h, w) in zip(got, box):
        pic = Image.fromarray(x[0, 0, t:t+h, l:l+w].numpy().astype(np.float32), 'F').resize((8, 8), Image.BILINEAR)
        torch.testing.assert_close(p, torch.from_numpy(np.array(pic)), rtol=0, atol=1.)

@pytest.mark.parametrize('side, f', [(4, 2), (7, 3), (5, 2), (9, 1), (8, 3)])
def test_every_tile_has_its_place(side, f):
    k = 3
    x = torch.arange(float(k*f*f)).view(-1, 1, 1, 1).expand(-1, 2, side//f, side//f)
    m = mosaic(x, side, f)
    assert m.shape == (k, 2, side, side)
    edges = np.cumsum([0] + [side//f + (i < side % f) for i in range(f)])
    for i in range(f):
        for j in range(f):
            part = m[:, :, edges[i]:edges[i+1], edges[j]:edges[j+1]]
            assert (part == ((i*f + j)*k + torch.arange(k)).view(-1, 1, 1, 1)).all()

def test_one_image_gives_one_patch():
    s = torch.tensor([[.0, .0, .0], [.5, .4, .6], [.9, .8, .7]])
    assert best_patches(s, 2).tolist() == [[0, 0], [1, 1]]

def test_labels_can_be_stored_for_it_and_students_learn(task, tmp_path):
    d, _ = learn(task, 'rded', tmp_path/'set')
    d = Distilled.load(tmp_path/'set'/'distilled.safetensors')
    store = relabel(d, list(task.teachers), tmp_path/'labels', 1, ViewSettings(5, scale=.5, flip=False), quiet=True)
    x, y = next(iter(Relabelled(d, store).epoch(0, 5)))
    assert x.shape == (5, 1, 16, 16) and torch.allclose(y.sum(1), torch.ones(5))

def test_a_seed_decides_and_a_smoke_run_is_short(task, tmp_path):
    a, b, c = (learn(Task(task.real, teachers=task.teachers, seed=s), smoke_of(METHODS['rded']()), tmp_path/str(i))[0] for i, s in enumerate((0, 0, 1)))
    assert torch.equal(a.images, b.images) and not torch.equal(a.images, c.images) and len(a) == 10

@pytest.mark.parametrize('kw, says', [(dict(ipc=4, factor=2, candidates=15), 'candidates is 15; 4 images of 2 x 2 patches need 16'), (dict(factor=0), 'factor is 0'), (dict(scale=2.), 'scale is 2.0'), (dict(crops=0), 'crops is 0')])
def test_settings_that_cannot_be(kw, says):
    with pytest.raises(ValueError, match=says): method_of('rded', **kw)

def test_what_does_not_fit_is_said_in_one_line(task, teachers, real, tmp_path):
    few = Task(real.subset(torch.arange(40)), teachers=teachers)
    other = Task(ImageTensors(torch.rand(20, 1, 16, 16), torch.arange(20) % 2, 2, norm=Normalize([.5], [.5])), teachers=teachers)
    white = Task(ImageTensors(real.x, real.y, 10, norm=ZCA(torch.zeros(256), torch.eye(256), torch.eye(256), (1, 16, 16))), teachers=teachers)
    for t, m, says in ((few, RDEDMethod(ipc=9), '36 patches are needed and '), (other, RDEDMethod(), 'the teachers tell 10 classes apart'), (white, RDEDMethod(), 'images are stored as bytes'),
                       (task, RDEDMethod(factor=17), 'factor is 17; images of 16 px'), (Task(real), RDEDMethod(), 'rded needs teachers=')):
        with pytest.raises(ValueError, match=f'^[^\n]*{says}[^\n]*$'): learn(t, m, tmp_path/'none')
    with pytest.raises(ValueError, match='minutes has no meaning for rded'): learn(task, 'rded', tmp_path/'none', RunOptions(minutes=1.))
    assert not (tmp_path/'none').exists()
