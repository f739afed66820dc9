"The demo: it chooses its length once, says so, and ends where an uninterrupted one does."
import dataclasses, json
from functools import partial

import pytest, torch

from dd_repro import ten_images as T
from dd_repro.distilled import Distilled
from dd_repro.method import learn
from dd_repro.ten_images import chosen, dd_demo, demo, fitting

@pytest.fixture
def tiny(monkeypatch):
    "A demo of a second; `probe` holds what an iteration is said to take, and how often that was asked."
    small = dict(width=4, n=1, epochs=2, expert_epochs=1, max_start_epoch=1, syn_steps=2, eval_epochs=2, n_eval=1)
    monkeypatch.setattr(T, 'DEMO', T.DEMO | small); monkeypatch.setattr(T, 'LENGTHS', (2, 4, 6)); monkeypatch.setenv('DD_DEVICE', 'cpu')
    probe = dict(seconds=10., asked=0)
    def measure(*a): probe['asked'] += 1; return probe['seconds']
    monkeypatch.setattr(T, 'iteration_seconds', measure)
    return probe

def images(out): return Distilled.load(out/'digits-mtt-ipc1.safetensors').images

def info(out): return Distilled.load(out/'digits-mtt-ipc1.safetensors').info

def stop_at(monkeypatch, it):
    "Ctrl-C, or worse, in the middle."
    def stop(run):
        if run.it == it: raise KeyboardInterrupt
    def learn_and_stop(task, method, out, how): return learn(task, method, out, dataclasses.replace(how, every=1, callbacks=(stop,)))
    monkeypatch.setattr(T, 'learn', learn_and_stop)

def test_an_interrupted_demo_ends_where_another_does_though_the_clock_says_otherwise(tiny, tmp_path, monkeypatch, capsys):
    demo(tmp_path/'one', quiet=True)
    assert info(tmp_path/'one')['iterations'] == 4 and tuple(info(tmp_path/'one')['chosen_from']) == (2, 4, 6)
    assert '4 iterations of MTT (of 2, 4, 6): 10.00 s each here' in capsys.readouterr().out
    with monkeypatch.context() as m:
        stop_at(m, 2)
        with pytest.raises(KeyboardInterrupt): demo(tmp_path/'two', quiet=True)
    assert not (tmp_path/'two'/'digits-mtt-ipc1.safetensors').exists()
    tiny['seconds'] = .1 # today it would be 6
    row = demo(tmp_path/'two', quiet=True)[1]
    assert tiny['asked'] == 2 and torch.equal(images(tmp_path/'one'), images(tmp_path/'two')) and '4 iterations' in row.deviations
    assert 'chosen when this run began' in capsys.readouterr().out

def test_what_is_asked_for_is_taken_and_stays(tiny, tmp_path, capsys):
    demo(tmp_path, quiet=True, iterations=3)
    assert tiny['asked'] == 0 and info(tmp_path)['iterations'] == 3 and info(tmp_path)['settings']['iterations'] == 3
    with pytest.raises(ValueError, match='begun with 3 iterations, not 6'): demo(tmp_path, quiet=True, iterations=6)
    demo(tmp_path, quiet=True); assert info(tmp_path)['iterations'] == 3 and tiny['asked'] == 0
    demo(tmp_path, seed=1, quiet=True); assert info(tmp_path)['iterations'] == 4 and tiny['asked'] == 1 # another seed is another run

def test_it_says_what_begins(tiny, tmp_path, capsys):
    demo(tmp_path, quiet=True)
    out, err = capsys.readouterr()
    assert [l.split()[0] for l in out.splitlines()] == ['random', '4', 'MTT', 'whole'] and err.splitlines()[0] == 'demo: digits are read' and len(err.splitlines()) == 6

@pytest.mark.parametrize('seconds, n', [(99., 60), (T.LENGTH_S/60, 60), (T.LENGTH_S/120, 120), (T.LENGTH_S/200, 120), (T.LENGTH_S/240, 240), (1e-6, 240)])
def test_the_longest_that_fits(seconds, n): assert fitting(seconds) == n

@pytest.mark.parametrize('text', ['', '{', '[]', '{"iterations": null}', '{}'])
def test_a_damaged_choice_is_named(tmp_path, text):
    (tmp_path/'choice.json').write_text(text)
    with pytest.raises(ValueError, match='choice.json: damaged'): chosen(tmp_path/'choice.json', 0, lambda: 1.)

def test_a_negative_number_is_one_line(tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match='iterations is -1'): chosen(tmp_path/'choice.json', -1, None)
    assert list(tmp_path.iterdir()) == []

def test_the_probe_leaves_the_run_as_it_was(tmp_path):
    from dd_repro.experts import expert_protocol, train_experts
    from dd_repro.convnet import ConvNet
    from dd_repro.distilled import Pixels
    from dd_repro.mtt import MTT
    from dd_repro.sets import ImageTensors
    real, net = ImageTensors(torch.randn(8, 1, 8, 8), torch.arange(8) % 2, 2, name='noise'), partial(ConvNet, 1, 2, 8, 4, 1)
    d, mtt = Pixels.from_real(real, 1, lr=.01, arch=net().arch), MTT(net(), train_experts(net, real, tmp_path, 1, expert_protocol(2, aug=''), quiet=True), 6, 1, 1)
    before = mtt.rng.get_state(), d.images.clone(), torch.get_num_threads()
    assert T.iteration_seconds(mtt, d, 2) > 0
    assert torch.equal(before[0], mtt.rng.get_state()) and torch.equal(before[1], d.images) and d.images.grad is None and (mtt.syn_steps, mtt.keep) == (6, 'auto')
    assert torch.get_num_threads() == before[2]

@pytest.mark.parametrize('words, says', [('--iterations -1', 'iterations is -1'), ('--iterations 0', 'iterations is 0'), ('--iterations 6', 'begun with 3 iterations, not 6'),
    ('--smoke --iterations 7', '--iterations does nothing beside --smoke'), ('--record_to {}/bad.csv', 'not a file of results')])
def test_what_cannot_be_right_is_said_before_anything_is_loaded(tiny, tmp_path, monkeypatch, capsys, words, says):
    key = T.settings_hash(dict(T.DEMO, seed=0))
    chosen(tmp_path/f'run-{key}'/'choice.json', 3, None); (tmp_path/'bad.csv').write_text('a,b\n')
    def load(*a, **kw): raise AssertionError('data were loaded')
    monkeypatch.setattr(T, 'load', load)
    with pytest.raises(SystemExit) as e: dd_demo.main(['--out', str(tmp_path), *words.format(tmp_path).split()])
    out, err = capsys.readouterr()
    assert e.value.code == 2 and says in err and err.count('\n') == 1 and out == ''

def test_a_smoke_run_takes_no_number_from_python_either(tiny, tmp_path):
    with pytest.raises(ValueError, match='a smoke run has its own two'): demo(tmp_path, smoke=True, iterations=7)
    assert list(tmp_path.iterdir()) == []
