"Learned labels and DATM: independent small implementations, MTT's bits, resumed runs, and what is refused."
from functools import partial

import pytest, torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dd_repro.convnet import ConvNet
from dd_repro.core import rng_for
from dd_repro.data import load
from dd_repro.datm import *
from dd_repro.distilled import Distilled, Pixels
from dd_repro.experts import Buffer, expert_protocol, train_experts
from dd_repro.method import METHODS, RunOptions, Task, learn, method_of, smoke_of
from dd_repro.mtt import MTTMethod
from dd_repro.soft import *
from dd_repro.students import as_protocol, evaluate

torch.set_num_threads(1)
net_fn, QUIET = partial(ConvNet, 1, 10, 8, 8, 1), RunOptions(quiet=True)
KW = dict(iterations=4, syn_steps=3, expert_epochs=1, max_start_epoch=3, lr_img=5., lr_lr=1e-6, lr_teacher=.05, aug='')


@pytest.fixture(scope='module')
def data(): return load('digits')

@pytest.fixture(scope='module')
def buffer(data, tmp_path_factory):
    return train_experts(net_fn, data[0], tmp_path_factory.mktemp('experts'), 3, expert_protocol(4, .05, 64, ''), quiet=True)

@pytest.fixture
def task(data, buffer): return Task(*data, net_fn, experts=buffer)

def same(a, b): return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))

@pytest.mark.parametrize('kw', [{}, dict(batch_syn=7, ipc=2), dict(aug='crop_rotate'), dict(grad='detached')])
def test_with_nothing_of_its_own_it_is_mtt_bit_for_bit(task, tmp_path, kw):
    a = learn(task, MTTMethod(**KW | kw), tmp_path/'a', QUIET)[0]
    b = learn(task, DATMMethod(**KW | kw, labels='fixed', init='real'), tmp_path/'b', QUIET)[0]
    assert same(a, b) and torch.equal(a.y, b.y)

def by_hand(task, m, iterations):
    "DATM once more: lists, PyTorch's own graph, momentum written out."
    torch.manual_seed(0)
    d = m.start(task)
    x, l, lr = (p.detach().clone().requires_grad_() for p in (d.images, d.labels, d.lr))
    moved = [torch.zeros_like(p) for p in (x, l, lr)]
    net, names = net_fn(), None
    names = [n for n, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    rng, starts = rng_for(0, 'MTT'), []
    for it in range(iterations):
        bound = min(m.current_max_start + (m.max_start_epoch - m.current_max_start)*it//m.expansion_end, m.max_start_epoch)
        k = int(torch.randint(len(task.experts), (1,), generator=rng))
        t = int(torch.randint(bound, (1,), generator=rng))
        starts.append(t)
        begin, goal = task.experts.snapshot(k, t), task.experts.snapshot(k, t + m.expert_epochs)
        theta, order, n = begin.clone().requires_grad_(), [], len(x)
        draws = d.steps(m.syn_steps, None, rng)
        [int(torch.randint(2**63 - 1, (), generator=rng)) for _ in draws] # MTT's seeds of augmentation
        for draw in draws:
            idx = draw.args[0]
            ps = dict(zip(names, (p.view(s) for p, s in zip(theta.split([s.numel() for s in shapes]), shapes))))
            z = torch.func.functional_call(net, ps, (x[idx],))
            loss = -(l[idx].softmax(1)*z.log_softmax(1)).sum(1).mean()
            g, = torch.autograd.grad(loss, theta, create_graph=True)
            theta = theta - lr*g
        loss = (theta - goal).square().sum()/(begin - goal).square().sum()
        if loss > m.threshold: continue
        grads = torch.autograd.grad(loss, (x, l, lr))
        with torch.no_grad():
            for p, v, g, step, momentum in zip((x, l, lr), moved, grads, (m.lr_img, m.lr_y, m.lr_lr), (m.momentum, m.momentum_y, m.momentum)):
                v.mul_(momentum).add_(g)
                p -= step*v
    return x, l, lr, starts

@pytest.mark.parametrize('threshold', [10., .97])
def test_datm_is_that_of_an_independent_implementation(task, tmp_path, threshold):
    m = DATMMethod(**KW, lr_y=3., current_max_start=1, expansion_end=2, threshold=threshold)
    d, run = learn(task, m, tmp_path, QUIET)
    x, l, lr, starts = by_hand(task, m, 4)
    torch.testing.assert_close(d.images, x, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(d.labels, l, rtol=1e-3, atol=1e-4)
    assert starts[0] == 0 and (l - soft_start(task, 1, lr=.05).labels).abs().max() > 0

def test_starts_stay_in_their_range(task):
    m = DATMMethod(**KW | dict(max_start_epoch=3), min_start_epoch=1, current_max_start=2, expansion_end=5)
    d = m.start(task)
    o = m.phases(d, task, QUIET)
    seen, snap = [], Buffer.snapshot
    class Spy(Buffer):
        def snapshot(self, k, t, device=None): seen.append(t); return snap(self, k, t, device)
    task.experts.__class__ = Spy
    try:
        for _ in range(30): o(d); o.after(d)
    finally: task.experts.__class__ = Buffer
    assert set(seen[:2]) == {1, 2} and min(seen) == 1 and set(seen[0::2]) == {1, 2} and set(seen[1::2]) == {2, 3}

def test_a_loss_above_the_threshold_moves_nothing(task, tmp_path):
    d = learn(task, DATMMethod(**KW, threshold=1e-9), tmp_path, QUIET)[0]
    assert same(d, DATMMethod(**KW).start(task))

def test_the_mean_is_stored_and_the_run_goes_on_without_it(task, tmp_path):
    plain, mean = (learn(task, DATMMethod(**KW, ema_decay=e), tmp_path/str(e), QUIET) for e in (0., .5))
    assert same(plain[0], mean[1].d) and not same(plain[0], mean[0])
    states = [learn(task, DATMMethod(**KW | dict(iterations=i)), tmp_path/f'i{i}', QUIET)[0] for i in (1, 2, 3, 4)]
    want = states[0].images.detach()
    for s in states[1:]: want = .5*want + .5*s.images.detach()
    torch.testing.assert_close(mean[0].images.detach(), want, rtol=0, atol=1e-5)
    assert same(Distilled.load(tmp_path/'0.5'/'distilled.safetensors'), mean[0])

@pytest.mark.parametrize('kw', [{}, dict(ema_decay=.9), dict(labels='fixed'), dict(min_start_epoch=1)])
def test_a_stopped_run_goes_on_to_the_same_set(task, tmp_path, kw):
    m = DATMMethod(**KW, current_max_start=2, expansion_end=3, **kw)
    whole = learn(task, m, tmp_path/'a', QUIET)[0]
    first = learn(task, m, tmp_path/'b', RunOptions(quiet=True, minutes=1e-9))[1]
    assert first.stopped == 'time' and same(learn(task, m, tmp_path/'b', QUIET)[0], whole)

def test_labels_begin_as_experts_that_are_right_say(task):
    d = soft_start(task, 2)
    assert (d.hard() == torch.arange(10).repeat_interleave(2)).all() and d.nbytes == 4*(20*64 + 20*10)
    net = net_fn()
    for i in (0, 13):
        said = []
        for k in range(3):
            vector_to_parameters(task.experts.snapshot(k, -1), net.parameters())
            z = net(d.images[i:i+1]).detach()[0]
            if z.argmax() == i//2: said.append(z)
        torch.testing.assert_close(d.labels[i].detach(), torch.stack(said).mean(0), rtol=1e-4, atol=1e-4)

def test_a_soft_set_is_seen_as_probabilities_everywhere(task, data, tmp_path):
    d = soft_start(task, 2, 'real')
    (x, y), = d.epoch(0, 20)
    assert not x.requires_grad and not y.requires_grad and torch.allclose(y.sum(1), torch.ones(20))
    x, y = d.sample(idx=torch.tensor([3, 1]))
    y[:, 0].sum().backward()
    assert d.labels.grad[[1, 3]].abs().sum() > 0 and d.labels.grad[[0, 2]].abs().sum() == 0
    again = Distilled.load(d.save(tmp_path/'d.safetensors'))
    assert type(again) is SoftPixels and same(d, again) and again.protocol == 'mtt-soft'
    p = as_protocol(d.protocol).scaled(epochs=2, aug='')
    assert evaluate(again, data[1], protocol=p, n_eval=1)[0].n == 1

@pytest.mark.parametrize('kw, says', [(dict(min_start_epoch=3), 'starts are drawn from min_start_epoch 3 up to 2'), (dict(current_max_start=5), 'up to 5, later 2'), (dict(ema_decay=1.), 'ema_decay is 1'),
    (dict(labels='soft'), "labels='soft' is not one of learned, fixed"), (dict(init='noise'), "init='noise'"), (dict(threshold=0.), 'threshold is 0')])
def test_settings_that_cannot_be(kw, says):
    with pytest.raises(ValueError, match=f'^[^\n]*{says}[^\n]*$'): method_of('datm', **kw)

def test_experts_that_recognise_too_few_are_named(task, buffer, tmp_path):
    with pytest.raises(ValueError, match='experts recognise [0-9]+ images of class .*begin with init='):
        learn(task, DATMMethod(**KW, ipc=100, label_epoch=0), tmp_path/'none', QUIET)
    with pytest.raises(ValueError, match='datm needs experts='): learn(Task(task.real, net_fn=net_fn), 'datm', tmp_path/'none')
    assert not (tmp_path/'none').exists()

def test_a_smoke_run(task, tmp_path):
    assert learn(task, smoke_of(METHODS['datm']()), tmp_path, QUIET)[1].it == 1
