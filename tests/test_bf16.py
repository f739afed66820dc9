"Products in bfloat16 as a deviation: students, experts and teachers train in it, also by captured steps, and every row and card that it reaches says so."
import json

import pytest, torch
from pretend import pretend_gpu

from dd_repro.cli import dd_eval, dd_experts
from dd_repro.core import rng_for, seeded
from dd_repro.convnet import ConvNet
from dd_repro.distilled import Pixels
from dd_repro.experts import Buffer, expert_protocol, to_vector, train_expert
from dd_repro.files import load_tensors
from dd_repro.records import read_rows
from dd_repro.sets import ImageTensors
from dd_repro.students import Protocol, as_protocol, evaluate, halved, train
from dd_repro.teachers import TEACHERS, TeacherProtocol, load_teachers, train_teachers
from dd_repro.zoo import make_net

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op')
P = as_protocol('mtt').scaled(epochs=3, batch=4, aug='')

def net(seed=0, **kw):
    with seeded('bf16', seed): return ConvNet(**dict(n_in=1, n_out=3, size=8, width=8, depth=1) | kw)

def data(n=12, dtype=torch.float): return ImageTensors(torch.randn(n, 1, 8, 8, generator=rng_for('bf16'), dtype=dtype), torch.arange(n) % 3, 3)

def trained(p, **kw):
    n = net(**kw)
    train([n], data(), p, lr=.05)
    return to_vector(n)

@pytest.mark.parametrize('how', [{}, dict(opt='adamw', schedule='none')])
@pytest.mark.parametrize('kw', [{}, dict(norm='batch')])
def test_students_train_in_it(how, kw):
    start, plain, rounded = to_vector(net(**kw)), trained(P.scaled(**how), **kw), trained(P.scaled(bf16=True, **how), **kw)
    off = (rounded - plain).norm()/(plain - start).norm()
    assert 1e-5 < off < .4 and rounded.dtype == torch.float and rounded.isfinite().all()

def test_a_batch_in_parts(monkeypatch):
    "A step that passes in parts rounds as one that passes whole."
    whole = trained(P.scaled(bf16=True, batch=12))
    monkeypatch.setattr('dd_repro.students.STEP_MAX', 8*64*5)
    assert (trained(P.scaled(bf16=True, batch=12)) - whole).norm() < .05*whole.norm()

def test_off_it_changes_no_hash():
    assert 'bf16' not in P.settings() and P.settings() == P.scaled(bf16=False).settings() != P.scaled(bf16=True).settings()
    assert not any(p.bf16 for p in (Protocol('x'), expert_protocol(2), *TEACHERS.values()))

@pytest.mark.parametrize('p, where, on', [(P, 'cpu', False), (P.scaled(bf16=True), 'cpu', True), (P.scaled(amp=True), 'cpu', False), (P.scaled(amp=True), 'cuda', True), (P.scaled(bf16=True), 'cuda', True)])
@pytest.mark.filterwarnings('ignore:User provided device_type')
def test_where_it_acts(p, where, on):
    if on and where == 'cuda' and not torch.cuda.is_available(): pytest.skip('PyTorch switches autocast off where there is no GPU')
    with halved(p, where): assert torch.is_autocast_enabled(where) == on

def test_a_row_says_so():
    real, kw = data(), dict(n_eval=1, lr=.05)
    plain, = evaluate(real, real, net().arch, P, **kw)
    row, = evaluate(real, real, net().arch, P.scaled(bf16=True), **kw)
    assert 'bf16 True (mtt: False)' in row.deviations and row.protocol == 'reduced' and 'bf16' not in plain.deviations and row.settings != plain.settings

@pytest.mark.parametrize('settings, says', [(dict(buffer=dict(bf16=True)), 'bf16: experts'), (dict(teachers=[dict(name='resnet18_bn digits 0/0 bf16', sha256='')]), 'bf16: teachers'), (dict(buffer={}, teachers=[dict(name='a', sha256='')]), '')])
def test_a_set_that_came_of_it_says_so(settings, says):
    d = Pixels.from_real(data(), 1, lr=.05, info=dict(settings=settings))
    row, = evaluate(d, data(), net().arch, P, 1, kind='decided')
    assert ('bf16' in row.deviations) == bool(says) and says in row.deviations

def test_experts_and_their_card(tmp_path):
    p = expert_protocol(2, batch=4, aug='')
    a, b = train_expert(net(), data(), p), train_expert(net(), data(), p.scaled(bf16=True))
    assert torch.equal(a[0], b[0]) and 0 < (a[-1] - b[-1]).norm() < .1*(a[-1] - a[0]).norm()

def test_the_commands(tmp_path, capsys):
    kw = dict(data='digits', size=8, device='cpu')
    dd_experts('mtt', n=1, epochs=1, bf16=True, path=str(tmp_path/'b'), width=4, depth=1, record_to=str(tmp_path/'e.csv'), **kw)
    assert json.loads((tmp_path/'b'/'buffer.json').read_text())['bf16'] is True and all('bf16' in r.deviations for r in read_rows(tmp_path/'e.csv'))
    with pytest.raises(SystemExit): dd_experts('mtt', n=1, epochs=1, path=str(tmp_path/'b'), width=4, depth=1, **kw)
    assert 'other settings (bf16: True, not None)' in capsys.readouterr().err
    assert Buffer(tmp_path/'b').settings()['buffer']['bf16']
    dd_eval(random=True, bf16=True, epochs=2, n_eval=1, width=4, depth=1, lr=.01, record_to=str(tmp_path/'r.csv'), **kw)
    row, = read_rows(tmp_path/'r.csv')
    assert 'bf16 True' in row.deviations and row.protocol == 'reduced'

def test_teachers_and_their_names(tmp_path):
    real = ImageTensors(torch.randn(12, 1, 32, 32, generator=rng_for('t')), torch.arange(12) % 3, 3)
    def made(path, **kw): return train_teachers(lambda: make_net('resnet18_bn', 1, 3, 32, width=2, layers=(1, 1)), real, tmp_path/path, 1, TeacherProtocol('t', epochs=1, batch=4, lr=.01).scaled(**kw), quiet=True)
    half, plain = made('half', bf16=True), made('plain')
    assert half.names[0].endswith(' bf16') and 'bf16' not in plain.names[0] and half.hashes != plain.hashes
    assert load_teachers(tmp_path/'half', real).card()[0]['name'].endswith(' bf16')

def test_captured_steps_carry_it():
    "On a pretended GPU, which does not round: the capture takes place, and layers are not fused."
    p = P.scaled(bf16=True)
    with pretend_gpu() as gpu:
        n = net().to('meta')
        train([n], data().to('meta'), p, lr=.05)
        assert gpu.captures == 1
        got = to_vector(n).cpu()
    want = trained(P)
    assert (got - want).norm() < 1e-4*want.norm()

def test_a_listed_step_rounds():
    "The list of a captured step has the casts in it."
    from dd_repro.augment import noop
    from dd_repro.steps import trace_step
    from dd_repro.students import Team
    from dd_repro.teams import TeamStep
    n, d = net(), data()
    def listed(p):
        step = TeamStep(Team([n]), p, noop)
        ts = to_vector(n), torch.zeros_like(to_vector(n)), d.x, d.y, torch.tensor(.1), torch.arange(4)[None], torch.zeros(1, 0), torch.zeros(1, 0)
        return trace_step(step, [t.detach() for t in ts])(*ts)[0], step(*ts)[0]
    (a, b), (c, _) = listed(P.scaled(bf16=True)), listed(P)
    assert torch.equal(a, b) and 0 < (a - c).norm() < .1*c.norm()
