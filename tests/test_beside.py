"""`dd_bench beside PATH` with stand-ins for the two official checkouts: the same names of files and functions, written here; sides agree, and what is missing is said in one line."""
import sys

import pytest

from dd_repro import bench
from dd_repro.bench import BESIDE, CHECKOUTS, bench_beside, beside_rows, checkouts, dd_bench, measure_beside, run_cell
from dd_repro.records import read_rows

NETWORKS = '''
from torch import nn
class ConvNet(nn.Module):
    def __init__(self, channel, num_classes, net_width, net_depth, net_act, net_norm, net_pooling, im_size=(32, 32)):
        super().__init__()
        assert (net_act, net_norm, net_pooling) == ('relu', 'instancenorm', 'avgpooling')
        parts, c = [], channel
        for _ in range(net_depth):
            parts += [nn.Conv2d(c, net_width, 3, padding=1), nn.GroupNorm(net_width, net_width), nn.ReLU(), nn.AvgPool2d(2)]
            c = net_width
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Linear(net_width*(im_size[0]//2**net_depth)**2, num_classes)
    def embed(self, x): return self.features(x).flatten(1)
    def forward(self, x): return self.classifier(self.embed(x))
'''
UTILS = '''
import torch
from networks import ConvNet
class ParamDiffAug: pass
def DiffAugment(x, strategy='', seed=-1, param=None):
    assert strategy.startswith('color') and param is not None
    return x if torch.rand(()) < .5 else x.flip(3)
def match_loss(gw_syn, gw_real, args):
    assert args.dis_metric == 'ours'
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(gw_syn, gw_real) if a.ndim > 1]
    return sum((1 - (a*b).sum(1)/(a.norm(dim=1)*b.norm(dim=1) + 1e-6)).sum() for a, b in pairs)
'''
REPARAM = '''
import torch
from torch import nn
from torch.func import functional_call
class ReparamModule(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.inner = [module]
    def forward(self, x, flat_param=None):
        named = dict(self.inner[0].named_parameters())
        parts = flat_param.split([p.numel() for p in named.values()])
        return functional_call(self.inner[0], {n: t.view(p.shape) for (n, p), t in zip(named.items(), parts)}, (x,))
'''
FILES = {'networks.py': NETWORKS, 'utils.py': UTILS, 'reparam_module.py': REPARAM, 'distill.py': 'raise SystemExit', 'main_DM.py': 'raise SystemExit'}

def write(folder, which, **other):
    folder.mkdir(parents=True)
    for f in CHECKOUTS[which]: (folder/f).write_text(other.get(f[:-3], FILES[f]))
    return folder

@pytest.fixture
def both(tmp_path):
    write(tmp_path/'mtt-distillation', 'mtt'), write(tmp_path/'DatasetCondensation', 'dc')
    return tmp_path

SMALL = dict(width=4, real=6)
def here(cell):
    "A side in this process; what fails there is an error of its cell."
    kw = {k: v for k, v in cell.items() if k != 'subject'}
    try: return cell | measure_beside(**kw)
    except Exception as e: return cell | dict(error=f'{type(e).__name__}: {e}')

def test_where_they_lie(both, tmp_path):
    mtt, dc = (both/n for n in ('mtt-distillation', 'DatasetCondensation'))
    assert checkouts(both) == checkouts(f'{mtt},{dc}') == checkouts(f'{dc}, {mtt}') == dict(mtt=mtt.resolve(), dc=dc.resolve())
    assert checkouts(mtt) == dict(mtt=mtt.resolve())

@pytest.mark.parametrize('path, says', [('', 'no folder given: no official checkout there'), ('gone', 'gone: no such folder'), ('empty', 'empty: no official checkout there .mtt: distill.py')])
def test_where_there_is_none(tmp_path, monkeypatch, path, says):
    (tmp_path/'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says) as e: checkouts(path)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('part', dict.fromkeys(c['part'] for c in BESIDE))
def test_both_sides_compute_the_same(both, part):
    found = checkouts(both)
    c = dict(part=part, batch=20, N=2, folder=str(found['mtt' if part in ('mtt', 'student') else 'dc']), **SMALL)
    assert measure_beside(side='both', **c)['agree'] < 1e-3
    before = set(sys.modules)
    for side in ('ours', 'theirs'):
        got = measure_beside(side=side, **c)
        assert got['seconds'] > 0 and got['memory_mb'] >= 0
    assert not {'networks', 'utils', 'reparam_module'} & (set(sys.modules) - before) and str(both) not in sys.path

def test_parts_are_measured_in_turn_and_recorded(both):
    order = []
    def run(c): order.append((c['part'], c['side'])); return here(c)
    cells = bench_beside(checkouts(both), [dict(part='dc', batch=10, **SMALL), dict(part='mtt', batch=10, N=2, **SMALL)], 2, run)
    assert order[:5] == [('mtt', s) for s in ('both', 'ours', 'theirs', 'theirs', 'ours')]
    rows = {r.row: r for r in beside_rows(cells)}
    assert len(rows) == 14 and rows['bench/beside/mtt-b10-N2/agree'].mean < 1e-3 and rows['bench/beside/dc-b10/theirs_seconds'].unit == 's'
    r = rows['bench/beside/mtt-b10-N2/ratio_seconds']
    assert abs(r.mean - rows['bench/beside/mtt-b10-N2/ours_seconds'].mean/rows['bench/beside/mtt-b10-N2/theirs_seconds'].mean) < 1e-9

def test_a_missing_checkout_is_one_line(both, capsys):
    seen = []
    bench_beside(dict(mtt=both/'mtt-distillation'), [c | SMALL for c in BESIDE], 1, lambda c: seen.append(c) or c | dict(error='not measured'))
    assert {c['part'] for c in seen} == {'mtt', 'student'}
    lines = capsys.readouterr().out.splitlines()
    assert [l for l in lines if 'no checkout of dc' in l] == ['no checkout of dc was given (main_DM.py, networks.py, utils.py): dc, dsa, dm not measured']

@pytest.mark.parametrize('other, says', [(dict(utils='import no_such_package'), "No module named 'no_such_package'"), (dict(networks=NETWORKS.replace('net_width, 3, padding=1', 'net_width, 5, padding=2')), 'their weights are'),
                                         (dict(utils=UTILS.replace('def DiffAugment', 'def Other')), 'DiffAugment')])
def test_a_checkout_that_does_not_fit(tmp_path, other, says):
    folder = write(tmp_path/'mtt', 'mtt', **other)
    cell, = bench_beside(checkouts(folder), [dict(part='mtt', batch=10, N=2, **SMALL)], 1, here)
    assert says in cell['error'] and beside_rows([cell])[0].n == 0 and says in beside_rows([cell])[0].deviations

def test_by_the_command(both, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, 'run_cell', here)
    dd_bench('beside', str(both/'DatasetCondensation'), quick=True, threads=1, record_to=str(tmp_path/'b.csv'))
    out, rows = capsys.readouterr().out, read_rows(tmp_path/'b.csv')
    assert 'no checkout of mtt was given' in out and 'dsa, 10 images: theirs' in out
    assert len(rows) == 21 and {x.protocol for x in rows} == {'smoke'} and str(both) not in (tmp_path/'b.csv').read_text()

def test_in_a_process_of_its_own(both):
    c = run_cell(dict(subject='beside', part='mtt', side='both', folder=str(both/'mtt-distillation'), batch=10, N=2, threads=1, **SMALL))
    assert c['agree'] < 1e-3, c

@pytest.mark.parametrize('kw, says', [(dict(subject='beside'), 'no folder given'), (dict(subject='unroll', path='x'), '--path has no meaning for unroll; it is for beside'), (dict(subject='beside', path='x', N='3'), '--N has no meaning for beside')])
def test_words_that_do_not_fit(kw, says, capsys):
    with pytest.raises(SystemExit): dd_bench(**kw)
    err = capsys.readouterr().err
    assert says in err and err.count('\n') == 1
