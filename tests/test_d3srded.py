"D3S that begins at RDED's mosaics: where a batch begins, runs that go on, and what is refused."
from functools import partial

import pytest, torch

from dd_repro.core import rng_for
from dd_repro.d3s import D3SMethod
from dd_repro.d3srded import *
from dd_repro.data import load
from dd_repro.distilled import Distilled
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of
from dd_repro.rded import RDEDMethod
from dd_repro.teachers import TeacherProtocol, train_teachers
from dd_repro.zoo import make_net

torch.set_num_threads(1)
QUIET = RunOptions(quiet=True)
net_fn = partial(make_net, 'resnet18_bn', 1, 10, 32, width=4, layers=(1, 1), stem='imagenet')
M = D3SRDEDMethod(ipc=2, batch=12, iterations=2, candidates=8, scale=.7, flip=False)


@pytest.fixture(scope='module')
def task(tmp_path_factory):
    real, test = load('digits', size=32)
    path = tmp_path_factory.mktemp('teachers')
    teachers = train_teachers(net_fn, real, path/'t', 1, TeacherProtocol('toy', epochs=1, batch=128, lr=.05, schedule='onecycle'), quiet=True)
    return Task(real, test, teachers=teachers, folder=path/'stats')

def test_every_batch_begins_at_its_mosaics(task, tmp_path):
    "Also a last one that is shorter."
    still = learn(task, method_of(M, lr_img=1e-7), tmp_path/'still', QUIET)[0]
    mosaics = learn(task, RDEDMethod(ipc=2, candidates=8), tmp_path/'rded', QUIET)[0]
    assert torch.equal(still.images, mosaics.images) and torch.equal(still.y, mosaics.y)

def test_a_run_goes_on(task, tmp_path):
    d = learn(task, M, tmp_path/'a', QUIET)[0]
    learn(task, M, tmp_path/'b', RunOptions(quiet=True, minutes=1e-9))
    assert torch.equal(learn(task, M, tmp_path/'b', QUIET)[0].images, d.images)
    assert torch.equal(Distilled.load(tmp_path/'a'/'distilled.safetensors').images, d.images)

def test_all_others_begin_at_noise():
    class Of: seed = 3
    assert torch.equal(D3SMethod().begins(Of, 1, (2, 1, 4, 4)), torch.randn(2, 1, 4, 4, generator=rng_for(3, 'noise', 1)))

@pytest.mark.parametrize('own, said', [(dict(candidates=3), 'candidates is 3; 2 images of 2 x 2 patches need 8'), (dict(factor=40, candidates=4000), 'factor is 40; images of 32 px')])
def test_what_cannot_be(task, tmp_path, own, said):
    with pytest.raises(ValueError, match=said): learn(task, method_of(M, **own), tmp_path/'none')
