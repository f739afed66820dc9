"Commands that are stopped, and lines that say a thing twice: one line each, with what is kept."
import re, sys

import pytest, torch
from PIL import Image

from dd_repro import entry, shell
from dd_repro.data import find_source, readable
from dd_repro.entry import COMMANDS

def last(capsys, call, status):
    "The one line with which a command ends."
    with pytest.raises(SystemExit) as e: call()
    err = capsys.readouterr().err
    assert e.value.code == status and err.count('\n') == 1 and err.startswith('dd_repro: '), err
    return err

# --- Ctrl-C
WORDS = dict(dd_demo='', dd_card='x', dd_experts='mtt', dd_distill='mtt', dd_relabel='x', dd_eval='x', dd_bench='students', dd_row='mtt/table1/cifar10/ipc1', dd_plan='mtt/table1/cifar10/ipc1', dd_table='mtt', dd_smoke='', dd_rows='mtt/table1/cifar10/ipc1', dd_import='x', dd_export='x', dd_score='x')

@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_says_at_ctrl_c_what_is_kept(capsys, monkeypatch, name):
    def stop(*a, **kw): raise KeyboardInterrupt
    monkeypatch.setattr(shell, 'tune_allocator', stop) # the first thing that a command does
    module = sys.modules.get(f'dd_repro.{COMMANDS[name]}') or __import__(f'dd_repro.{COMMANDS[name]}', fromlist=[name])
    call = getattr(module, name)
    with pytest.raises(KeyboardInterrupt, match='the same command (goes on|begins anew)|nothing was changed'): call(*WORDS[name].split())

def test_ctrl_c_while_a_command_is_imported(capsys, monkeypatch):
    load = entry.importlib.import_module
    def stop(name, *a):
        if name == 'dd_repro.cli': raise KeyboardInterrupt
        return load(name, *a)
    monkeypatch.setattr(entry.importlib, 'import_module', stop)
    assert 'interrupted: nothing was begun' in last(capsys, lambda: entry.start('dd_eval', ['x']), 130)

@pytest.mark.parametrize('own, says', [('', 'half is kept'), ('2 of 5 are kept', '2 of 5 are kept')])
def test_a_command_of_ones_own_has_its_words(own, says):
    @shell.command(kept='half is kept')
    def mine(n:int=1):
        "Mine."
        raise KeyboardInterrupt(*[own]*bool(own))
    with pytest.raises(KeyboardInterrupt, match=says): mine()
    @shell.command
    def plain(n:int=1):
        "Plain."
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt) as e: plain()
    assert str(e.value) == '' and plain.main

# --- twice
@pytest.mark.parametrize('name, words, says', [
    ('dd_eval', '--random --ipc 1 --ipc 2', '--ipc is given twice'), ('dd_eval', 'x --n_eval 1 --n-eval 1', '--n_eval is given twice'), ('dd_table', 'mtt --own --own', '--own is given twice'),
    ('dd_distill', 'mtt --ipc=1 --ipc=1', '--ipc is given twice'), ('dd_distill', 'd3s --flip --no-flip', '--flip and --no-flip contradict'), ('dd_row', 'mtt/table1/cifar10/ipc1 --seed 1 --seed 2', '--seed is given twice'),
    ('dd_plan', 'mtt/table1/cifar10/ipc1 --scale .1 --scale .2', '--scale is given twice'), ('dd_smoke', '--limit 1 --limit 2', '--limit is given twice'), ('dd_bench', 'unroll --batch 4 --batch 8', '--batch is given twice'), ('dd_demo', '--seed 1 --seed 1', '--seed is given twice'),
    ('dd_experts', 'mtt --n 1 --n 2', '--n is given twice'), ('dd_relabel', 'x --epochs 1 --epochs 2', '--epochs is given twice')])
def test_an_option_that_is_given_twice_is_refused(capsys, name, words, says): assert says in last(capsys, lambda: entry.start(name, words.split()), 2)

# --- lines that threads print
def test_files_that_are_left_out_are_a_line_each(tmp_path, capsys):
    for half in ('train', 'val'):
        for c in 'ab':
            (tmp_path/half/c).mkdir(parents=True)
            for i in range(12):
                if i % 3: (tmp_path/half/c/f'{i:02}.png').write_bytes(b'no image')
                else: Image.new('RGB', (8, 8), (i, 40, 90)).save(tmp_path/half/c/f'{i:02}.png')
    src = find_source(tmp_path, skip_bad=True, workers=8)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 32 and all(re.fullmatch(r'left out: .*\.png: not a readable image \(.*\)', l) and l.count('left out') == 1 for l in lines)
    assert lines[:16] == sorted(lines[:16]) and len(src.train) == len(src.test) == 8
