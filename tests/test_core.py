"Core: results that two processes write, files that are read while they are replaced, randomness with a name."
import multiprocessing, os
from pathlib import Path

import pytest, torch

from dd_repro.core import rng_for, seed_of, seeded, settings_hash
from dd_repro.files import load_tensors, save_tensors, write_atomic
from dd_repro.records import Row, read_rows, record
from dd_repro.sets import ImageTensors

FRESH = multiprocessing.get_context('forkserver')                 # children of a process that has run nothing yet
FRESH.set_forkserver_preload(['pytest', 'sklearn.datasets', 'torch._dynamo', 'dd_repro.cli'])

def together(target, *args):
    ps = [FRESH.Process(target=target, args=a) for a in args]
    for p in ps: p.start()
    for p in ps: p.join(120)
    return [p.exitcode for p in ps]

def refused(says, f, *a):
    with pytest.raises(ValueError, match=says) as e: f(*a)
    assert '\n' not in str(e.value)

# --- results
def write_rows(path, who):
    for i in range(15): record(Row(f'{who}/{i}', mean=i + .25, commit='c'), path)

def test_rows_of_two_processes_are_all_kept(tmp_path):
    f = tmp_path/'new'/'r.csv'
    assert together(write_rows, (f, 'a'), (f, 'b')) == [0, 0]
    rows = [r.row for r in read_rows(f)]
    assert sorted(rows) == sorted(f'{w}/{i}' for w in 'ab' for i in range(15))
    for w in 'ab': assert [r for r in rows if r[0] == w] == [f'{w}/{i}' for i in range(15)]

def test_a_row_comes_back_as_it_went(tmp_path):
    r = Row('x/y', 'decided', 'one; "two", three', 'MTT', 'convnet', mean=46.3, std=1e-7, n=5, k=51, best=47., seeds='0,1', memory_mb=1234.5)
    record(r, tmp_path/'r.csv'); record([r, Row('z')], tmp_path/'r.csv')
    a, b, c = read_rows(tmp_path/'r.csv')
    assert repr(a) == repr(b) == repr(r) and c.row == 'z' and c.mean != c.mean and r.date.endswith('Z')
    assert read_rows(tmp_path/'none.csv') == []

@pytest.mark.parametrize('edit', [lambda s: s.replace('46.3', '48.3'), lambda s: s.replace('reduced', 'paper'), lambda s: s.replace('MTT,', 'MTT,,'), lambda s: s[:-9] + '\n', lambda s: s.replace(',,', ',0,', 1),
    lambda s: s + 'a,b\n', lambda s: s + s.split('\n')[1].replace('MTT', 'ours') + '\n'])
def test_an_edited_line_is_found(tmp_path, edit):
    f = tmp_path/'r.csv'; record(Row('x', 'reduced', method='MTT', mean=46.3), f)
    f.write_text(edited := edit(f.read_text()))
    refused('its hash does not fit', read_rows, f)
    refused('its hash does not fit', record, Row('y'), f)         # and nothing is added to it
    assert f.read_text() == edited

def test_a_file_of_another_kind_is_not_appended_to(tmp_path):
    f = tmp_path/'r.csv'
    for text in ('name,accuracy\nours,99\n', 'name,accuracy\n', 'notes'):
        f.write_text(text)
        refused('r.csv', record, Row('y'), f); refused('r.csv', read_rows, f)
        assert f.read_text() == text

def test_a_last_line_without_its_end(tmp_path):
    f = tmp_path/'r.csv'; record(Row('x', mean=1.), f)
    f.write_text(f.read_text().rstrip('\n')); record(Row('y', mean=2.), f)
    assert [r.row for r in read_rows(f)] == ['x', 'y']

# --- files
def cut_and_use(path):
    t = load_tensors(path)[0]['x']; os.truncate(path, 0)
    assert float(t.sum()) == 1e6

def test_tensors_outlive_their_file(tmp_path):
    "A view of a mapped file would end the process with SIGBUS."
    p = save_tensors(tmp_path/'t', {'x': torch.ones(1_000_000)})
    assert together(cut_and_use, (p,)) == [0]

def write_often(path, v):
    for _ in range(60): save_tensors(path, {'x': torch.full((20_000,), float(v))}, {'v': v})

def read_often(path):
    for _ in range(60):
        t, meta = load_tensors(path)
        assert (t['x'] == meta['v']).all()

def test_readers_meet_whole_files_only(tmp_path):
    p = save_tensors(tmp_path/'t', {'x': torch.zeros(20_000)}, {'v': 0})
    ps = [FRESH.Process(target=write_often, args=(p, 1)), FRESH.Process(target=write_often, args=(p, 2)), FRESH.Process(target=read_often, args=(p,))]
    for q in ps: q.start()
    for q in ps: q.join(120)
    assert [q.exitcode for q in ps] == [0, 0, 0] and [f.name for f in tmp_path.iterdir()] == ['t']

def test_any_tensor_goes_in_and_out(tmp_path):
    x = torch.arange(12.).view(3, 4)
    ts = dict(t=x.T, half=x[::2].half(), part=x[1:], same=x[1:], scalar=torch.tensor(2), empty=torch.zeros(0, 3), yes=torch.tensor([True]), leaf=x.clone().requires_grad_(), bf=x.bfloat16())
    back, meta = load_tensors(save_tensors(tmp_path/'t', ts, {'a': [1, None, 'ä', float('inf')]}))
    assert back.keys() == ts.keys() and all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in ts.items())
    assert meta == {'a': [1, None, 'ä', float('inf')]} and list(load_tensors(tmp_path/'t', ['half'])[0]) == ['half']

def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path/'file').write_text('x')
    for p in (tmp_path/'file'/'below', tmp_path): 
        with pytest.raises(OSError) as e: write_atomic(p, b'1')
        assert '\n' not in str(e.value)
    assert sorted(f.name for f in tmp_path.iterdir()) == ['file']

# --- randomness
def test_keys_are_told_apart():
    keys = [(0,), (1,), (0, 'a'), (0, 'b'), ('0a',), ('0', 'a', ''), (0, 1), (1, 0), (0, 11), (0, 1, 1)]
    assert len({seed_of(rng_for(*k)) for k in keys}) == len(keys)
    assert rng_for(0, 'a').initial_seed() == rng_for('0', 'a').initial_seed()

def test_named_numbers_never_change():
    "Experts and artefacts are found again by these: a change would orphan them."
    assert rng_for(0, 'expert', 1).initial_seed() == SEED and settings_hash({'b': [2, None], 'a': 1.5}) == HASH

SEED, HASH = 6376566105173773758, '577de9195f0a'

def test_a_block_with_its_own_numbers_is_left_clean():
    torch.manual_seed(3); want = torch.rand(2); torch.manual_seed(3)
    with pytest.raises(KeyError), seeded(0, 'x'): torch.rand(5); raise KeyError
    assert torch.equal(torch.rand(2), want)

@pytest.mark.parametrize('x, y, says', [(torch.zeros(3, 4), [0, 1, 1], 'must be'), (torch.zeros(3, 1, 2, 2), [0, 1], '3 images but 2 labels'), (torch.zeros(2, 1, 2, 2), [0, 2], '2 classes allow 0 to 1'), (torch.zeros(2, 1, 2, 2), [-1, 0], 'from -1')])
def test_images_that_do_not_fit(x, y, says): refused(says, ImageTensors, x, torch.tensor(y), 2)

def test_parts_of_an_unbalanced_set():
    y = torch.tensor([0]*7 + [1]*3 + [2])
    s = ImageTensors(torch.arange(11.).view(11, 1, 1, 1), y, 3, name='u')
    rest, held = s.split(.3)
    assert sorted(rest.x.flatten().tolist() + held.x.flatten().tolist()) == list(range(11)) and held.y.bincount(minlength=3).tolist() == [2, 1, 0]
    assert torch.equal(s.split(.3)[1].x, held.x) and not torch.equal(s.split(.3, seed=1)[1].x, held.x)
    refused('it has 1', s.of_class, 2, 2); refused('not one of 0 to 2', s.of_class, 3)
    for bad in (0, 1, -1): refused('held-out fraction', s.split, bad)
