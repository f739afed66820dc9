"""Channels of a place side by side: which networks take it, the same numbers to rounding, in the loop, in a captured step and in a synthesis, and the word in the row.

At least 8 channels: PyTorch 2.15 writes past its memory on processors without AVX-512 where a ResNet of 2 or 4 lies so."""
import pytest, torch
from pretend import pretend_gpu
from test_quick import SMALL, walked

from dd_repro import students, zoo
from dd_repro.core import rng_for, seeded
from dd_repro.d3s import D3SMethod
from dd_repro.experts import to_vector
from dd_repro.files import load_tensors
from dd_repro.sets import ImageTensors
from dd_repro.students import Team, as_protocol, evaluate, train
from dd_repro.teachers import TeacherProtocol, train_teachers
from dd_repro.zoo import laid, lies_last, make_net

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op')
D = torch.double
P = as_protocol('mtt').scaled(epochs=2, batch=4, aug='')

def net(name, side=32, **kw):
    with seeded('layout'): return make_net(name, 1, 4, side, **kw).to(D)

def data(side=32, n=10): return ImageTensors(torch.randn(n, 1, side, side, generator=rng_for('layout'), dtype=D), torch.arange(n) % 4, 4)

def weights(n): return torch.cat([t.detach().cpu().double().flatten() for t in n.state_dict().values()])

@pytest.mark.parametrize('name, size, kw, yes', [('resnet18_bn', 64, {}, True), ('resnet18_bn', 32, {}, False), ('resnet50', 224, {}, True), ('alexnet', 64, {}, True), ('convnet', 128, {}, False), ('resnet18', 224, {}, False),
                                                 ('vit', 224, {}, False), ('mine', 224, {}, False), ('resnet18_bn', 224, dict(norm='instance'), False), ('convnext_tiny', 224, {}, False)])
def test_who_takes_it(name, size, kw, yes):
    assert lies_last(dict(name=name, size=size, **kw), True) == yes
    assert not lies_last(dict(name=name, size=size, **kw), False) and not lies_last(None, True)

@pytest.mark.parametrize('name, kw', [('resnet18_bn', dict(width=8, layers=(1, 1))), ('resnet20', {})])
@pytest.mark.parametrize('how', [{}, dict(opt='adamw', schedule='none', lr=.01)])
def test_the_loop_is_the_same(name, kw, how, monkeypatch):
    def run(n):
        train([n], data(), P.scaled(**how), lr=.01)
        return n
    want = weights(run(net(name, **kw)))
    seen = []
    monkeypatch.setattr(students, 'lies_last', lambda arch, gpu: True)
    monkeypatch.setattr(students, 'laid', lambda t, last=True: seen.append(last) or laid(t, last))
    n = run(net(name, **kw))
    assert (weights(n) - want).norm() <= 1e-8*want.norm() and True in seen
    assert all(p.is_contiguous() for p in n.parameters()) # nobody sees it afterwards

def test_a_captured_step_is_the_same(monkeypatch):
    monkeypatch.setattr(zoo, 'LAST_SIDE', 32)
    def run(device):
        n = net('alexnet').to(device)
        assert Team([n]).last == (device == 'meta')
        train([n], data(n=5).to(device), P.scaled(epochs=1, batch=3), lr=.01)
        return to_vector(n).cpu()
    want = run('cpu')
    with pretend_gpu() as gpu: got = run('meta')
    assert (got - want).norm() <= 1e-10*want.norm() and gpu.captures == 2

def test_one_machine_for_each_order(monkeypatch):
    "What was captured for one order does not serve the other."
    from dd_repro import teams
    n = net('convnet', width=8, depth=1)
    one, other = Team([n]), Team([n])
    other.last = True
    x = data()
    assert teams._kind_of(one, (x.x, x.y), P) != teams._kind_of(other, (x.x, x.y), P)

@pytest.mark.parametrize('how', [{}, dict(ens='iter'), dict(kind='bn-diag')])
def test_a_synthesis_is_the_same(how, monkeypatch):
    want, _ = walked('cpu', D3SMethod(**SMALL | how))
    monkeypatch.setattr(zoo, 'LAST_SIDE', 32)
    with pretend_gpu() as gpu: got, quick = walked('meta', D3SMethod(**SMALL | how))
    for a, b in zip(got, want): assert (a - b).norm() <= 1e-9*b.norm()
    assert quick.last and gpu.captures == 1

def test_the_row_and_the_card_say_so(tmp_path, monkeypatch):
    real = data(n=12).map(lambda x: x.float())
    monkeypatch.setattr(students, 'lies_last', lambda arch, gpu: True)
    row, = evaluate(real, real, net('convnet', width=8).arch, P.scaled(epochs=1), 1, lr=.01)
    assert row.device.endswith(', channels last')
    monkeypatch.setattr('dd_repro.teachers.lies_last', lambda arch, gpu: True)
    def made(): return train_teachers(lambda: make_net('resnet18_bn', 1, 4, 32, width=8, layers=(1, 1)), real, tmp_path, 1, TeacherProtocol('t', epochs=1, batch=4, lr=.01), quiet=True)
    made()
    assert load_tensors(tmp_path/'teacher_000.safetensors')[1]['layout'] == 'last'
    monkeypatch.undo()
    made() # a machine without it goes on with the same teachers

def test_a_row_of_a_cpu_is_as_it_was():
    real = data(n=12).map(lambda x: x.float())
    row, = evaluate(real, real, net('convnet', width=8).arch, P.scaled(epochs=1), 1, lr=.01)
    assert 'channels' not in row.device
