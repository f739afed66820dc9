"The order of classes: a permutation is found where there is one, luck is not taken for one, and nothing is renamed unasked."
import pytest, torch
from dd_repro.core import rng_for, seeded
from dd_repro.data import load
from dd_repro.distilled import Pixels
from dd_repro.order import *
from dd_repro.students import as_protocol, train
from dd_repro.zoo import make_net

ARCH = dict(name='convnet', n_in=1, n_out=10, size=8, width=8, depth=2)

@pytest.fixture(scope='module')
def digits(): return load('digits')[0]

@pytest.fixture(scope='module')
def teacher(digits):
    with seeded(0): net = make_net(ARCH)
    return train(net, digits, as_protocol('full').scaled(epochs=8, aug='')).eval()

def permuted(seed): return torch.randperm(10, generator=rng_for(seed, 'permuted')).tolist()
def back(perm): return [perm.index(c) for c in range(len(perm))]

@pytest.mark.parametrize('seed, ipc', [(0, 10), (1, 10), (2, 4)])
def test_any_permutation_of_digits_is_named(digits, teacher, seed, ipc):
    good, perm = Pixels.from_real(digits, ipc, seed, arch=ARCH), permuted(seed)
    bad = put_in_order(good, perm)
    found = likely_order(teacher, bad)
    assert found.likely and found.perm == back(perm) and found.after > .85 > .4 > found.before
    assert torch.equal(put_in_order(bad, found.perm).y, good.y)
    assert 'means' in str(found) and str(found).count('\n') == 0

@pytest.mark.parametrize('ipc', [3, 10])
def test_a_set_in_order_stays_so(digits, teacher, ipc):
    found = likely_order(teacher, Pixels.from_real(digits, ipc, arch=ARCH))
    assert not found.likely and found.perm == list(range(10)) and 'no other order' in str(found)

def test_two_classes_that_changed_places(digits, teacher):
    swapped = [0, 1, 2, 8, 4, 5, 6, 7, 3, 9]
    found = likely_order(teacher, put_in_order(Pixels.from_real(digits, 10, arch=ARCH), swapped))
    assert found.perm == swapped and found.moved == [3, 8]

@pytest.mark.parametrize('seed', range(3))
def test_a_teacher_that_guesses_names_no_order(digits, seed):
    d, rng = Pixels.from_real(digits, 10, arch=ARCH), rng_for(seed, 'guess')
    assert not likely_order(lambda x: torch.randn(len(x), 10, generator=rng), d).likely

def test_a_teacher_that_says_one_class_names_no_order(digits):
    d = Pixels.from_real(digits, 5, arch=ARCH)
    assert not likely_order(lambda x: torch.eye(10)[3].expand(len(x), 10), d).likely

def test_soft_labels_move_with_their_classes(digits, teacher):
    x = Pixels.from_real(digits, 5, arch=ARCH)
    soft = Pixels(x.images.detach(), torch.eye(10)[x.y]*.8 + .02, 10, arch=ARCH)
    perm = permuted(5)
    bad = put_in_order(soft, perm)
    assert torch.equal(bad.y.argmax(1), torch.tensor(perm)[x.y]) and torch.allclose(bad.y.sum(1), torch.ones(50))
    assert likely_order(teacher, bad).perm == back(perm) and torch.equal(soft.y.argmax(1), x.y)

@pytest.mark.parametrize('C, perm, name', [(12, [0, 1, 10, 11, *range(2, 10)], 'numbers sorted as text'), (5, [4, 3, 2, 1, 0], 'reversed'), (7, [(c + 2) % 7 for c in range(7)], 'shifted by 2'), (6, [0, 2, 1, 3, 4, 5], ''), (20, list(range(20)), '')])
def test_frequent_orders_have_names(C, perm, name):
    assert order_name(perm).startswith(name) and bool(order_name(perm)) == bool(name) and len(perm) == C

@pytest.mark.parametrize('perm', [[0]*10, list(range(9)), list(range(1, 11))])
def test_what_is_no_permutation(digits, perm):
    with pytest.raises(ValueError, match='is no permutation of 10 classes'): put_in_order(Pixels.from_real(digits, 1), perm)

def test_a_teacher_of_other_classes(digits):
    with pytest.raises(ValueError, match='tells 4 classes apart and the set has 10'): likely_order(lambda x: torch.zeros(len(x), 4), Pixels.from_real(digits, 1))

def test_names_of_classes_are_said(digits, teacher):
    d = put_in_order(Pixels.from_real(digits, 10, arch=ARCH, classes=[f'digit {c}' for c in range(10)]), [(c + 1) % 10 for c in range(10)])
    assert '0 means digit 9' in str(likely_order(teacher, d)) and 'shifted by 9' in str(likely_order(teacher, d))
