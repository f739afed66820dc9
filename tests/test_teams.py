"""Captured training steps of experts and students: the loop's weights, few launches, and the loop where they cannot be."""
import dataclasses

import pytest, torch
from pretend import pretend_gpu

from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for, seeded
from dd_repro.distilled import Pixels
from dd_repro.experts import expert_protocol, to_vector, train_expert
from dd_repro.sets import ImageTensors
from dd_repro.students import as_protocol, train

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op')

X, Y = torch.randn(11, 1, 8, 8, dtype=torch.double, generator=rng_for('x')), torch.arange(11) % 3
SOFT = torch.rand(11, 3, dtype=torch.double, generator=rng_for('y')).softmax(1)
SETS = dict(real=lambda: ImageTensors(X, Y, 3), pixels=lambda: Pixels(X, Y, 3).double(), soft=lambda: Pixels(X, SOFT, 3).double())

def nets(n, device='cpu', **kw):
    with seeded('teams'): return [ConvNet(n_in=1, n_out=3, size=8, width=4, depth=1, **kw).double().to(device) for _ in range(n)]

SMALL = as_protocol('mtt').scaled(epochs=7, batch=4, wd=.01) # 4, 4 and 3 images; the rate falls after epoch 4
HOW = dict(plain=SMALL, still=dataclasses.replace(SMALL, aug='', momentum=0.), cosine=dataclasses.replace(SMALL, schedule='onecycle', aug='flip+color'), whole=dataclasses.replace(SMALL, batch=20),
           adamw=dataclasses.replace(SMALL, opt='adamw', schedule='none', epochs=2), mixed=dataclasses.replace(SMALL, aug='flip_cutmix', epochs=2))

def trained(device, data, p, together=True, n=3, **kw):
    team = nets(n, device, **kw)
    train(team, SETS[data]().to(device), p, lr=.1, together=together)
    return [torch.cat([to_vector(t).cpu() for t in team])]

def same(got, want, eps=1e-10):
    for a, b in zip(got, want): assert (a - b).abs().max() <= eps*max(1, b.abs().max()), (a - b).abs().max()

@pytest.mark.parametrize('data, how, together, captures', [('real', 'plain', True, 2), ('real', 'plain', False, 2), ('pixels', 'cosine', True, 2), ('pixels', 'still', False, 2), ('real', 'whole', True, 1), ('real', 'adamw', True, 0), ('real', 'mixed', True, 0)])
def test_steps_by_graphs_train_as_the_loop(data, how, together, captures):
    want = trained('cpu', data, HOW[how], together)
    with pretend_gpu() as gpu: same(trained('meta', data, HOW[how], together), want, 1e-7 if how == 'adamw' else 1e-10); assert gpu.captures == captures

def test_soft_labels():
    p = dataclasses.replace(SMALL, labels='soft', temperature=4., t2=True, epochs=3)
    want = trained('cpu', 'soft', p)
    with pretend_gpu() as gpu: same(trained('meta', 'soft', p), want); assert gpu.captures == 2

def test_networks_with_running_statistics_take_the_loop():
    want = trained('cpu', 'real', HOW['plain'], False, 1, norm='batch')
    with pretend_gpu() as gpu: same(trained('meta', 'real', HOW['plain'], False, 1, norm='batch'), want, 1e-8); assert gpu.captures == 0

def test_a_step_that_cannot_be_captured_is_called(capsys, monkeypatch):
    monkeypatch.setattr('dd_repro.steps._said', set())
    def refuse(): raise torch.OutOfMemoryError('CUDA out of memory.')
    want = trained('cpu', 'real', SMALL)
    with pretend_gpu() as gpu: gpu.refuse_capture = refuse; same(trained('meta', 'real', SMALL), want)
    lines = capsys.readouterr().out.splitlines(); assert len(lines) == 1 and 'launched by operations' in lines[0]

def test_an_experts_path():
    p = expert_protocol(3, lr=.1, batch=4)
    want = train_expert(nets(1)[0], SETS['real'](), p)
    with pretend_gpu() as gpu: got = train_expert(nets(1, 'meta')[0], SETS['real']().to('meta'), p); assert gpu.captures == 2
    assert got.device.type == 'cpu' and all((a - b).norm() > 1e-6 for a, b in zip(got, got[1:])); same(got, want)

@pytest.mark.parametrize('together', [True, False])
def test_launches_of_a_step(together):
    "Whatever the network: the parcel, the replay, and two copies, for each team."
    def launches(epochs):
        with pretend_gpu() as gpu: trained('meta', 'real', dataclasses.replace(SMALL, epochs=epochs, batch=11, schedule='none'), together); return gpu.launches, gpu.waits
    a, b = launches(3), launches(8); assert (b[0] - a[0])/5 == 4*(1 if together else 3) and a[1] == b[1]
