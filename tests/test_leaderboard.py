"The leaderboard: a line for each accuracy with an artefact, no number but the recorded ones, readable and sortable without a server."
import dataclasses, html, re, shutil, sys
from pathlib import Path

import pytest
from dd_repro.distilled import Distilled
from dd_repro.files import file_sha256
from dd_repro.records import Row, read_rows, record

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'docs'))
import leaderboard
from leaderboard import ABOUT, HEAD, lines, page, table

def accuracies(root):
    return [r for f in sorted((root/'docs'/'results').glob('*.csv')) for r in read_rows(f) if r.metric == 'test_acc' and r.artefact and r.protocol != 'smoke']

def rows_of(text): return [re.findall(r'<td[^>]*>(.*?)</td>', l) for l in re.findall(r'<tr><td.*?</tr>', text)]
def plain(cell): return html.unescape(re.sub(r'<[^>]*>', '', cell))

@pytest.fixture(scope='module')
def whole(): return page(ROOT)

def test_one_line_for_each_accuracy_with_an_artefact(whole):
    want = sorted((r.row, r.method, f'{r.mean:.1f}' + (f' ± {r.std:.1f}' if r.n > 1 else ''), str(r.n), r.protocol) for r in accuracies(ROOT))
    at = [HEAD.index(k) for k in ('record', 'method', 'accuracy, %', 'n', 'protocol')]
    assert want == sorted(tuple(plain(l[i]) for i in at) for l in rows_of(whole)) and len(want) > 300

def test_no_number_is_written_by_hand(whole):
    rest = re.sub(r'<tbody>.*</tbody>', '', whole, flags=re.S)
    assert not re.search(r'\d', rest) and not re.search(r'\d', ABOUT)

def test_every_line_names_its_data_and_leads_to_its_record(whole):
    for l in rows_of(whole):
        assert plain(l[0]) and re.search(r'href="results/[\w-]+\.csv"', l[HEAD.index('record')]) and plain(l[HEAD.index('artefact')])

def test_artefacts_that_ship_are_linked_and_weighed(whole):
    got = {plain(l[HEAD.index('artefact')]): l for l in rows_of(whole)}
    for f in (ROOT/'docs'/'artefacts').glob('*.safetensors'):
        if f.stem not in got: continue
        assert f'href="../docs/artefacts/{f.name}"' in got[f.stem][HEAD.index('artefact')]
        assert plain(got[f.stem][HEAD.index('bytes')]) != '' and (ROOT/'docs'/f'../docs/artefacts/{f.name}').is_file()
    assert sum(plain(l[HEAD.index('bytes')]) not in ('–', '') for l in rows_of(whole)) > 30

def test_it_reads_without_scripts_and_fetches_nothing(whole):
    js = (ROOT/'docs'/'_static'/'sort.js').read_text()
    assert 'http' not in js and 'import' not in js and 'sortable' in js and '<script' not in whole
    values = [float(re.search(r'data-v="([^"]+)"', m)[1]) for m in re.findall(r'<td data-v="[^"]+">', whole)]
    assert len(values) == len(leaderboard.NUMBERS)*len(rows_of(whole))

@pytest.fixture
def project(tmp_path):
    "A project with one artefact and its rows."
    for d in ('docs/results', 'docs/artefacts', 'dd_repro/assets'): (tmp_path/d).mkdir(parents=True)
    Distilled.example().save(tmp_path/'docs'/'artefacts'/'ten.safetensors')
    sha = file_sha256(tmp_path/'docs'/'artefacts'/'ten.safetensors')[:16]
    row = Row('mine/digits', 'decided', 'ours', 'a <method>', 'convnet', n=3, mean=51.24, std=1.26, last=51.24, device='d', settings='s', seconds=1., artefact=sha)
    return tmp_path, row

def cells_of(root): return [dict(zip(HEAD, map(plain, l))) for l in rows_of(page(root))]

def test_bytes_come_from_the_file_where_no_row_has_them(project):
    root, row = project
    record(row, root/'docs'/'results'/'x.csv')
    (c,) = cells_of(root)
    assert (c['bytes'], c['with labels'], c['accuracy, %'], c['data'], c['method'], c['artefact']) == ('10,240', '10,240', '51.2 ± 1.3', 'digits', 'a <method>', 'ten')

@pytest.mark.parametrize('metrics, want', [(dict(bytes=7, bytes_with_labels=9, bytes_with_decoder=1234), ('7', '9', '1,234')), (dict(bytes=7), ('7', '7', '7')), (dict(bytes=7, bytes_with_decoder=8), ('7', '7', '8'))])
def test_recorded_bytes_count_more(project, metrics, want):
    root, row = project
    more = [dataclasses.replace(row, metric=k, unit='B', mean=float(v), method='set') for k, v in metrics.items()]
    record([row, *more], root/'docs'/'results'/'x.csv')
    (c,) = cells_of(root)
    assert (c['bytes'], c['with labels'], c['with decoder']) == want

@pytest.mark.parametrize('change', [dict(protocol='smoke'), dict(artefact=''), dict(metric='val_acc')])
def test_what_is_no_accuracy_of_an_artefact_has_no_line(project, change):
    root, row = project
    record([dataclasses.replace(row, **change), dataclasses.replace(row, mean=12.)], root/'docs'/'results'/'x.csv')
    assert [c['accuracy, %'] for c in cells_of(root)] == ['12.0 ± 1.3']

def test_bytes_that_nobody_knows_are_a_dash_and_looks_are_said(project):
    root, row = project
    record([dataclasses.replace(row, artefact='0'*16, n=1, best=60.4, k=5)], root/'docs'/'results'/'x.csv')
    (c,) = cells_of(root)
    assert (c['bytes'], c['with labels'], c['with decoder'], c['best of looks'], c['accuracy, %']) == ('–', '–', '–', '60.4 of 5', '51.2')

def test_an_edited_file_is_not_shown(project):
    root, row = project
    record(row, root/'docs'/'results'/'x.csv')
    f = root/'docs'/'results'/'x.csv'
    f.write_text(f.read_text().replace('51.24', '91.24'))
    with pytest.raises(ValueError, match='was not written by `record`'): page(root)

def test_a_project_without_results_has_no_page(tmp_path): assert page(tmp_path) == ''

# --- ipc, printed numbers, bytes by product
@pytest.mark.parametrize('id, method, deviations, want', [
    ('mtt/table1/cifar10/dm/ipc10', 'dm', '', ('10', '1,228,800', '1,228,800', '1,228,800')), ('mtt/table1/cifar10/ipc1', 'MTT', '', ('1', '122,880', '122,880', '122,880')), ('mtt/table1/cifar100/herding/ipc1', 'Herding', '', ('1', '1,228,800', '1,228,800', '1,228,800')),
    ('latentdd/digits/dc/ipc10', 'dc', 'digits at 8 px (no paper has them)', ('10', '25,600', '25,600', '25,600')), ('d3s/table6/cifar10/ipc10', 'd3s', '', ('10', '307,200', '307,200', '307,200')), ('d3s/table6/cifar10/ipc10', 'd3s', 'epochs 150 (d3s-cifar10: 1600)', ('10', '307,200', '–', '–')),
    ('d3s/digits/isu', 'd3s', 'digits at 32 px', ('10', '102,400', '102,400', '102,400')), ('d3/table1/cifar10/ppc1', 'D3', '', ('1 ppc', '–', '–', '–')), ('latentdd/study/digits/lpc4', 'LatentDC', 'digits (16 px)', ('4 lpc', '–', '–', '–')), ('mine/digits', 'mtt', 'digits at 8 px', ('–', '–', '–', '–')), ('mine/digits/ipc1', 'mtt', '', ('1', '–', '–', '–')), ('mine/digits/ipc1', 'magic', 'digits at 8 px', ('1', '–', '–', '–'))])
def test_images_per_class_and_bytes_by_product(project, id, method, deviations, want):
    root, row = project
    record(dataclasses.replace(row, row=id, method=method, deviations=deviations, artefact='0'*16), root/'docs'/'results'/'x.csv')
    (c,) = cells_of(root)
    assert (c['ipc'], c['bytes'], c['with labels'], c['with decoder']) == want

def test_bytes_by_product_are_those_that_were_recorded():
    "Wherever a row has recorded bytes, the product, if there is one, is the same number."
    files, listed, n = leaderboard.shipped(ROOT), leaderboard.public(), 0
    for f in sorted((ROOT/'docs'/'results').glob('*.csv')):
        rows = read_rows(f)
        for r in rows:
            got = leaderboard.weighed(rows).get((r.row, r.artefact)) if leaderboard.chosen(r) else None
            size = leaderboard.product(r, leaderboard.budget_of(r, files, listed))
            if got and size and 'bytes_with_labels' in got: assert size == got['bytes'], (r.row, r.method); n += 1
            if r.artefact in files and size and r.row.split('/')[0] != 'further': assert size == files[r.artefact][1]['images'], (r.row, r.method); n += 1
    assert n > 5

@pytest.mark.parametrize('id, method, net, want', [('mtt/table1/cifar10/ipc1', 'MTT', 'convnet', '46.3 (0.8)'), ('mtt/table1/cifar10/ipc1', 'mtt', 'convnet', '46.3 (0.8)'), ('mtt/table1/cifar10/ipc1', 'mtt', 'resnet18', ''), ('d3/table1/cifar10/ppc1', 'MTT ipc 1', 'convnet', ''),
    ('d3s/table6/cifar10/ipc10', 'sre2l', 'resnet18_bn', ''), ('mtt/table1/cifar10/dm/ipc1', 'dm', 'convnet', ''), ('published/cifar10/dc/ipc1', 'DC', 'convnet', '28.03 (0.60)'), ('published/cifar10/mtt/ipc10/net=vgg11', 'MTT', 'vgg11', ''), ('mine/digits', 'mtt', 'convnet', '')])
def test_a_printed_number_stands_beside_its_own_cell_only(project, id, method, net, want):
    root, row = project
    record(dataclasses.replace(row, row=id, method=method, net=net), root/'docs'/'results'/'x.csv')
    assert cells_of(root)[0]['printed, %'] == want

def test_most_lines_know_their_bytes_and_images_per_class(whole):
    got = [dict(zip(HEAD, map(plain, l))) for l in rows_of(whole)]
    assert sum(c['bytes'] == '–' for c in got) < .1*len(got) and sum(c['ipc'] == '–' for c in got) < .05*len(got) and sum(c['printed, %'] != '' for c in got) > 30
