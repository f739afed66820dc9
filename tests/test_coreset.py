"Coresets: herding against the greedy search as it is defined, forgetting on scripted histories, and what is refused."
from functools import partial

import pytest, torch

from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for
from dd_repro.sets import ImageTensors
from dd_repro.coreset import CORESETS, ForgettingMethod, HerdingMethod, RandomMethod, coreset, correct, forgetting, forgetting_events, herding, learn_real
from dd_repro.data import load
from dd_repro.distilled import Distilled
from dd_repro.method import Task, learn, method_of

net_fn = partial(ConvNet, n_in=1, n_out=10, size=8, width=8, depth=2)

@pytest.fixture(scope='module')
def real(): return load('digits')[0]

def greedy(f, m):
    "Try every image at every place."
    f, chosen = f.double(), []
    for k in range(1, m+1):
        err = [float('inf') if i in chosen else (f.mean(0) - (f[chosen].sum(0) + f[i])/k).norm().item() for i in range(len(f))]
        chosen.append(err.index(min(err)))
    return chosen

@pytest.mark.parametrize('n, k', [(30, 5), (25, 200), (1, 3)])
def test_herding_is_the_greedy_search(n, k):
    f = torch.randn(n, k, generator=rng_for(n, k))
    assert herding(f, n) == greedy(f, n)
    assert herding(f*1e3 + 50, min(n, 10)) == greedy(f*1e3 + 50, min(n, 10))

def test_herding_comes_nearer_than_chance():
    f = torch.randn(200, 20, generator=rng_for(0))
    far = lambda i: (f[i].mean(0) - f.mean(0)).norm()
    assert far(herding(f, 20)) < min(far(torch.randperm(200, generator=rng_for(s))[:20]) for s in range(50))

def test_forgetting_on_scripted_histories():
    right = torch.rand(40, 60, generator=rng_for(2)) < .6
    right[:, 7] = False
    slow = [float('inf') if not any(r) else sum(a and not b for a, b in zip(r, r[1:])) for r in right.T.tolist()]
    assert forgetting_events(right).tolist() == slow and slow[7] == float('inf')
    assert forgetting_events(torch.tensor([[1, 0]])).tolist() == [0, float('inf')]     # one look: nothing to forget

def test_most_forgotten_first(real, monkeypatch):
    "The coreset takes those with most events of each class; a tie is broken by the seed."
    import dd_repro.coreset as m
    events = torch.zeros(len(real)); pick = [int((real.y == c).nonzero()[3]) for c in range(10)]
    events[pick] = 5.; inf = int((real.y == 4).nonzero()[9]); events[inf] = torch.inf
    monkeypatch.setattr(m, 'forgetting', lambda *a: events)
    one = m.coreset(real, 1, 'forgetting', net_fn).info['index']
    assert one == [inf if c == 4 else p for c, p in enumerate(pick)]
    a, b = (m.coreset(real, 3, 'forgetting', net_fn, seed=s).info['index'] for s in (0, 1))
    assert a != b and a[0] == b[0] == pick[0]

def test_looks_are_counted(real):
    "A network that is not trained forgets nothing; one that is has as many looks as epochs, and one before."
    few = real.subset(torch.arange(0, len(real), 10))
    net = net_fn()
    looks = [correct(net, few)]
    learn_real(net, few, 3, 0, lambda e, nets: looks.append(correct(nets[0], few)))
    assert len(looks) == 4 and net.training
    with torch.random.fork_rng(): torch.manual_seed(0); a = net_fn(); b = net_fn(); b.load_state_dict(a.state_dict())
    assert torch.equal(forgetting(few, a, 3, seed=1), forgetting(few, b, 3, seed=1))

@pytest.mark.parametrize('method', CORESETS)
def test_real_images_unmoved(real, method, tmp_path):
    d, again = (coreset(real, 2, method, net_fn, epochs=2, seed=3, arch=net_fn().arch) for _ in range(2))
    i = d.info['index']
    assert i == again.info['index'] and len(set(i)) == 20 and real.y[i].tolist() == d.y.tolist() == [c for c in range(10) for _ in range(2)]
    assert torch.equal(d.images, real.x[i])
    e = Distilled.load(d.save(tmp_path/'c.safetensors'))
    assert e.info['index'] == i and e.protocol == 'dsa' and e.info['settings']['method'] == method
    assert torch.equal(e.images, d.images)

@pytest.mark.parametrize('kw, msg', [(dict(method='kcenter'), "'kcenter' is not one of random"), (dict(ipc=0), 'ipc is 0'), (dict(ipc=10**6), '1000000 images'),
    (dict(method='herding', ipc=10**6), '1000000 images'), (dict(method='forgetting', epochs=0), 'epochs is 0; forgetting'), (dict(method='herding', epochs=-1), 'epochs is -1')])
def test_refused(real, kw, msg):
    with pytest.raises(ValueError, match=msg): coreset(real, **(dict(ipc=1, net_fn=net_fn) | kw))

def test_a_stream_is_held_first():
    class Stream: n_classes = 2
    with pytest.raises(ValueError, match='held'): coreset(Stream(), 1)

@pytest.mark.parametrize('method', [RandomMethod(ipc=2), HerdingMethod(ipc=2, epochs=2), ForgettingMethod(ipc=2, epochs=2)], ids=lambda m: m.name)
def test_chosen_by_learn(real, method, tmp_path):
    "The same choice as by `coreset`, with a card that says how; no run, and nothing but the artefact."
    d, run = learn(Task(real, net_fn=net_fn, seed=3), method, tmp_path)
    c = coreset(real, 2, method.name, net_fn, epochs=2, seed=3, arch=net_fn().arch)
    assert run is None and torch.equal(d.images, c.images) and d.info['index'] == c.info['index'] and d.arch == c.arch
    e, s = Distilled.load(tmp_path/'distilled.safetensors'), d.info['settings']
    assert e.info['settings'] == s and [p.name for p in tmp_path.iterdir()] == ['distilled.safetensors']
    assert (s['method'], s['ipc'], s['seed'], s['content'], s.get('epochs')) == (method.name, 2, 3, real.key, getattr(method, 'epochs', None))

@pytest.mark.parametrize('method, kw, msg', [('random', dict(ipc=0), 'ipc is 0; it must be at least 1'), ('random', dict(epochs=3), "'epochs' is no setting of random"),
    ('forgetting', dict(epochs=0), 'epochs is 0; it must be at least 1'), ('herding', dict(epochs=-1), 'epochs is -1; it must be at least 0'), ('herdin', {}, "'herdin' is not known; did you mean herding"),
    ('herding', dict(ipc=10**6), '1000000 images')])
def test_refused_by_learn(real, method, kw, msg, tmp_path):
    with pytest.raises(ValueError, match=msg): learn(Task(real, net_fn=net_fn), method_of(method, **kw), tmp_path/'x')
    assert not (tmp_path/'x').exists()
