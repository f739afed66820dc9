"A new set, a new objective and their settings take fewer than sixty lines, and are a method like those of the house."
import json, sys
from functools import partial
from pathlib import Path

import pytest, torch

from dd_repro.convnet import ConvNet
from dd_repro.data import load
from dd_repro.experts import expert_protocol, train_experts
from dd_repro.method import METHODS, RunOptions, Task, learn, smoke_of

NET = partial(ConvNet, 1, 10, 16, 4, 3)


def cells():
    nb = json.loads((Path(__file__).resolve().parent.parent/'nbs'/'51_your_method.ipynb').read_text())
    return [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']

def own():
    return [c for c in cells() if c.startswith('# define')]

def test_a_method_takes_fewer_than_sixty_lines():
    lines = [l for c in own() for l in c.splitlines()]
    heads = [l.split('(')[0] for l in lines if l.startswith('class ')]
    assert heads == ['class SmallPixels', 'class ExpertMeans', 'class ExpertMeansMethod']
    assert not any(l.startswith(('class ', 'def ')) for c in cells() if c not in own() for l in c.splitlines())
    assert sum(bool(l.strip()) for l in lines) < 60 and max(map(len, lines)) <= 100

@pytest.fixture
def mine(tmp_path):
    "The three cells as somebody's file; the method is forgotten afterwards."
    file = tmp_path/'my_method.py'
    head = 'from dd_repro.all import *\nfrom dataclasses import dataclass\nfrom functools import partial\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F'
    file.write_text('\n\n'.join([head, *own()]))
    yield METHODS[f'{file}:expert-means']
    METHODS.own.pop('expert-means')
    sys.modules.pop('dd_method_my_method')

def test_it_is_a_method_from_a_file(mine, tmp_path):
    "Found by its file, run, stopped and gone on with; a value is refused by its field."
    real = load('digits', size=16)[0].subset(torch.arange(0, 1437, 4))
    task = Task(real, net_fn=NET, experts=train_experts(NET, real, tmp_path/'b', 1, expert_protocol(1, .05, 64, ''), quiet=True))
    small = smoke_of(mine())
    whole, _ = learn(task, small, tmp_path/'whole', RunOptions(quiet=True))
    for i in range(2):
        parts, run = learn(task, small, tmp_path/'parts', RunOptions(quiet=True, minutes=1e-9))
        assert run.it == i + 1
    assert torch.equal(whole.images, parts.images) and whole.info['settings']['method'] == 'expert-means'
    with pytest.raises(ValueError, match='factor is 0; it must be at least 1'): mine(factor=0)
