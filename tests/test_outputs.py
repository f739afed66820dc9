"""Outputs that are stored in the notebooks: whole, fit for every machine, small, and those of the cells above them."""
import base64, io, json, re, subprocess, sys
from copy import deepcopy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'docs'))
import outputs as stored
from test_docs import build, notebook

NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
MB = 4.5 # of all outputs together


def read(path): return json.loads(Path(path).read_text(encoding='utf-8'))
def stream(text, name='stdout'): return dict(output_type='stream', name=name, text=[text])
def data(**kinds): return dict(output_type='display_data', metadata={}, data={k.replace('_', '/'): v for k, v in kinds.items()})

def code(text, *outputs, id='c'):
    "A raw code cell."
    return dict(cell_type='code', id=id, metadata={}, execution_count=None, source=[text], outputs=list(outputs))

def whole(*cells, reads=(), root=ROOT, **about):
    "A raw notebook whose outputs are those of its cells."
    nb = dict(cells=list(cells), metadata={}, nbformat=4, nbformat_minor=5)
    about = dict(cells=stored.cells_key(nb), data=stored.data_key(root, reads), reads=list(reads)) | about
    return dict(nb, metadata=dict(outputs=about))

def png(size=(30, 20), mode='RGB', **kw):
    "A picture as a notebook holds it."
    from PIL import Image
    out = io.BytesIO()
    Image.linear_gradient('L').resize(size).convert(mode).save(out, 'png', **kw)
    return base64.b64encode(out.getvalue()).decode()


# The notebooks of this tree ------------------------------------------------------------------------

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_fit_to_be_read(path):
    assert stored.faults(read(path), ROOT) == [], 'mend the cell, or give it `#| output: false`; then make outputs'

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_of_these_cells_and_data(path):
    nb = read(path)
    words_are_compared = path.name.startswith(stored.TABLES) # below
    assert stored.stale(nb, ROOT, data=not words_are_compared) is None, 'run make outputs'

def test_tables_say_what_the_results_files_say():
    r = subprocess.run([sys.executable, ROOT/'docs'/'build.py', '--compare'], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr

def test_outputs_are_small():
    outs = [o for p in NOTEBOOKS for c in read(p)['cells'] for o in c.get('outputs', [])]
    assert len(json.dumps(outs)) < MB*2**20

def test_what_a_clean_notebook_may_hold_is_what_is_stored():
    from configparser import ConfigParser
    ini = ConfigParser(interpolation=None)
    ini.read(ROOT/'settings.ini')
    s = ini['DEFAULT']
    assert s['clear_all'] == 'False' and stored.KEPT in s['allowed_metadata_keys'].split()


# What is refused -----------------------------------------------------------------------------------

BAD = {
    'a traceback': ['Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no'],
    'a warning': ['UserWarning: lr_scheduler.step() before optimizer.step()', 'x.py:3: FutureWarning: soon',
                  'warning: nothing to do', 'Warning, again'],
    'a path': [t.replace('@', '/') for t in ( # not written out, since no path of a machine may stand in this tree
        'saved to @tmp@abc@x.pt', 'in @root@.cache@x', 'see @home@me@data', '@Users@me@x', 'C:\\Users\\me',
        'file:@@@srv@x', '@var@folders@qq@T@x', '"@opt@x@y"', 'root=@data@cifar')],
    'a date': ['made on 2026-11-26', 'at 06:34:12', '2026-01-02T03:04'],
    'an address in memory': ['<function f at 0x7f3a2b1c4d50>', '<Thing at 0x7f>', 'id 0x7f3a2b1c4d50'],
    'a progress bar': [' 40%|####      | 4/10', '4/10 [00:01<00:02, 3.1 it/s]', '1.2 s/it', 'one\rtwo'],
    'seconds of a run': ['3 epochs in 12.3 s', '40 ms', 'took 3 seconds', '12s'],
    'digits that nobody needs': ["{'real': 0.09311203658580780}", '12.345678901'],
    'an object without a word': ['<IPython.core.display.HTML object>'],
}

@pytest.mark.parametrize('what, text', [(k, t) for k, ts in BAD.items() for t in ts])
@pytest.mark.parametrize('make', [stream, lambda t: data(text_plain=[t]), lambda t: data(text_html=[t], text_plain=['x'])],
                         ids=['stream', 'plain', 'html'])
def test_what_changes_from_run_to_run_is_a_fault(what, text, make):
    found = stored.faults(whole(code('f()'), code('g()', make(f'{text}\n'))))
    assert found and found[0].startswith(f'cell 1: {what}')

@pytest.mark.parametrize('text', ['45.9 ± 0.7', 'docs/results/mtt.csv', 'mtt/table1/cifar10/ipc1', '~/.dd_repro/runs', '$DD_DATA/x',
                                  '<td>100 %</td><td>| 3 |</td>', 'a/b and c/d', '12:1', '0x10', '\\frac{a}{b}', 'https://example.org/tmp/x',
                                  '<Figure size 640x480 with 1 Axes>', 'no warning of it', '10.1007/tmp'])
def test_what_stays_is_none(text):
    assert stored.faults(whole(code('f()', stream(text), data(text_plain=[text])))) == []

def test_a_date_that_a_results_file_records_is_none_of_the_run(tmp_path):
    (tmp_path/'docs').mkdir()
    (tmp_path/'docs'/'rows.csv').write_text('row,date\nmtt/table1,2026-11-21T12:17:46Z\n')
    for reads, day, bad in ((['docs/rows.csv'], '21', []), (['docs/rows.csv'], '22', ["cell 0: a date: '2026-11-22'"]),
                            ([], '21', ["cell 0: a date: '2026-11-21'"])):
        nb = whole(code('f()', stream(f'mtt-3, 2026-11-21T12:17:46Z, 2026-11-{day}')), reads=reads, root=tmp_path)
        assert stored.faults(nb, tmp_path) == bad

def test_errors_words_to_stderr_counts_and_lone_tables_are_faults():
    error = dict(output_type='error', ename='ValueError', evalue='no', traceback=[])
    counted = dict(output_type='execute_result', execution_count=3, metadata={}, data={'text/plain': ['1']})
    for o, word in ((error, 'traceback'), (stream('loading', 'stderr'), 'stderr'), (counted, 'count'), (data(text_html=['<b>1</b>']), 'plain')):
        assert word in stored.faults(whole(code('f()', o)))[0]

def test_pictures_are_made_small_and_large_ones_are_faults():
    pictures = dict(plain=png(), wide=png((3000, 20)), see_through=png(mode='RGBA'), grey=png(mode='L'))
    for name, p in pictures.items():
        assert stored.faults(whole(code('f()', data(image_png=p, text_plain=['x'])))) != [], name
        small = stored.fit_output(data(image_png=p, text_plain=['x']), str)
        assert stored.faults(whole(code('f()', small))) == [], name
        assert stored.fit_output(small, str)['data']['text/plain'] == ['x']
    kept = png(mode='P', dpi=(100, 100))
    assert 'metadata' in stored.faults(whole(code('f()', data(image_png=kept, text_plain=['x']))))[0]

def test_tables_have_a_twin_in_plain_text():
    table = '<style>td {color: red}</style><table><tr><th>row</th><th>ours</th></tr><tr><td>mtt<br>ipc 1</td><td>40.6 &plusmn; 0.8</td></tr></table>'
    o = stored.fit_output(data(text_html=table, text_plain='<IPython.core.display.HTML object>'), str)
    assert ''.join(o['data']['text/plain']) == 'row        ours\nmtt ipc 1  40.6 ± 0.8'
    spans = '<tr><th rowspan="2">mtt</th><td>table1</td><td>3</td></tr><tr><td>table2</td><td>4</td></tr>'
    assert stored.plain_twin(f'<table>{spans}</table>') == 'mtt  table1  3\n     table2  4'
    assert ''.join(stored.fit_output(data(text_html=table, text_plain='as it was'), str)['data']['text/plain']) == 'as it was'

def test_a_cell_may_say_that_its_output_is_not_stored():
    assert stored.fit_outputs(code('#| output: false\nf()', stream('3 s')), str) == []
    assert stored.fit_outputs(code('f()', stream('3 of them')), str) != []


# What is stale -------------------------------------------------------------------------------------

def test_a_changed_cell_is_stale_and_changed_words_are_not():
    nb = whole(dict(cell_type='markdown', id='m', metadata={}, source=['before']), code('f(1)', stream('1')), code('g()'))
    assert stored.stale(nb, ROOT) is None
    for i, text in ((1, 'f(2)'), (2, 'g() # why'), (2, '')):
        new = deepcopy(nb)
        new['cells'][i]['source'] = [text]
        assert stored.stale(new, ROOT) == 'its code has changed'
    for new in ({**nb, 'cells': nb['cells'][:2]}, {**nb, 'cells': nb['cells'][::-1]}): assert stored.stale(new, ROOT)
    nb['cells'][0]['source'] = ['after']
    assert stored.stale(nb, ROOT) is None and stored.stale(dict(nb, metadata={}), ROOT) == 'it was never run'

@pytest.mark.parametrize('change', ['other bytes', 'gone', 'one more in the folder'])
def test_changed_data_are_stale(tmp_path, change):
    (tmp_path/'docs').mkdir()
    file = tmp_path/'docs'/'rows.csv'
    file.write_text('a,b\n1,2\n')
    nb = whole(code('f()'), reads=['docs', 'docs/rows.csv'], root=tmp_path)
    assert stored.stale(nb, tmp_path) is None
    (tmp_path/'docs'/'.rows.lock').write_text('')
    file.write_bytes(b'a,b\r\n1,2\r\n')
    assert stored.stale(nb, tmp_path) is None, 'hidden files and ends of lines do not count'
    if change == 'other bytes': file.write_text('a,b\n1,3\n')
    elif change == 'gone': file.unlink()
    else: (tmp_path/'docs'/'more.csv').write_text('')
    assert stored.stale(nb, tmp_path) == 'what it reads has changed'
    assert stored.stale(nb, tmp_path, data=False) is None

def test_what_counts_as_data():
    def counts(names): return [stored.is_data(n) for n in names.split()]
    assert all(counts('docs/results docs/results/mtt.csv docs/artefacts/a.safetensors dd_repro/assets/printed.csv dd_repro/assets/settings.csv'))
    assert not any(counts('nbs/10_mtt.ipynb dd_repro/mtt.py docs/pages.py docs/results/.mtt.lock dd_repro/assets/methods.json .data/x.csv README.md'))

def test_an_output_that_no_run_left_is_stale():
    nb = whole(code('#| slow\nf()', stream('1')))
    assert 'nobody knows' in stored.stale(nb, ROOT)
    nb['metadata']['outputs']['kept'] = dict(c=stored.short('#| slow\nf()'))
    assert stored.stale(nb, ROOT) is None
    nb['metadata']['outputs']['kept'] = dict(c=stored.short('#| slow\nf(2)'))
    assert 'nobody knows' in stored.stale(nb, ROOT)

def test_words_are_compared_cell_by_cell():
    a, b = whole(code('f()', stream('1')), code('g()', data(text_plain=['x'], text_html=['<b>x</b>'], image_png='AAAA'))), None
    b = deepcopy(a)
    b['cells'][1]['outputs'][0]['data'] = {'image/png': 'BBBB', 'text/html': ['<b>x</b>'], 'text/plain': ['x']}
    assert stored.other_words(a, b) == []
    b['cells'][0]['outputs'] = []
    b['cells'][1]['outputs'][0]['data']['text/plain'] = ['y']
    assert stored.other_words(a, b) == [0, 1]


# The command ---------------------------------------------------------------------------------------

@pytest.fixture
def project(tmp_path):
    "A project of one notebook, which prints what a file holds."
    for d in ('nbs', 'docs'): (tmp_path/d).mkdir()
    (tmp_path/'settings.ini').write_text('[DEFAULT]\ntst_flags = slow data\nlib_path = small\nnbs_path = nbs\n')
    (tmp_path/'docs'/'rows.csv').write_text('45.9\n')
    notebook(tmp_path/'nbs'/'40_rows.ipynb', '# rows', '#| slow\nprint("hours")', '>>>print(open("../docs/rows.csv").read())')
    return tmp_path

def words(project):
    "What the notebook shows."
    return [''.join(o['text']).strip() for c in read(project/'nbs'/'40_rows.ipynb')['cells'] for o in c.get('outputs', [])]

def change(project, i, text):
    "Another source for cell i."
    nb = read(project/'nbs'/'40_rows.ipynb')
    nb['cells'][i]['source'] = [text]
    (project/'nbs'/'40_rows.ipynb').write_text(stored.as_text(nb))

def test_only_what_changed_is_run_and_what_was_read_is_remembered(project):
    first = build(project, '--outputs')
    assert first.returncode == 0 and words(project) == ['45.9'] and 'outputs of 1 written' in first.stdout, first.stderr
    assert read(project/'nbs'/'40_rows.ipynb')['metadata']['outputs']['reads'] == ['docs/rows.csv']
    assert '0 looked at' in build(project, '--outputs').stdout
    everything = build(project, '--outputs', '--all').stdout
    assert '1 looked at, outputs of 0 written' in everything and 'ran' not in everything, 'the cache has it'
    assert build(project, '--compare').returncode == 0
    (project/'docs'/'rows.csv').write_text('46.3\n')
    r = build(project, '--compare')
    assert r.returncode == 1 and '40_rows.ipynb: cell 2 says something else now' in r.stderr
    assert 'outputs of 1 written: 40_rows.ipynb' in build(project, '--outputs').stdout and words(project) == ['46.3']

def test_slow_cells_keep_what_their_run_left(project):
    assert build(project, '--outputs', '40_rows', '--slow').returncode == 0 and words(project) == ['hours', '45.9']
    change(project, 2, 'print("minutes")')
    assert build(project, '--outputs').returncode == 0 and words(project) == ['hours', 'minutes']
    change(project, 1, '#| slow\nprint("days")')
    assert build(project, '--outputs').returncode == 0 and words(project) == ['minutes'], 'an output of other code goes'

def test_the_command_fails_where_an_output_is_not_fit(project):
    change(project, 2, 'import sys; print("oh", file=sys.stderr); print("made on 2026-11-26 in /srv/data/x")')
    r = build(project, '--outputs')
    assert r.returncode == 1
    assert [l.split(': ')[3] for l in r.stderr.splitlines()] == ['a path', 'a date', "words to stderr"]

def test_an_unknown_notebook_is_named(project):
    r = build(project, '--outputs', '07_none')
    assert r.returncode == 1 and r.stderr == 'docs: no notebook 07_none\n'

def test_a_notebook_reads_as_text(tmp_path):
    nb = whole(code('f()', stream('one\ntwo\n'), data(image_png=png(), text_plain=['<Figure>'], text_html=['<b>no</b>'])))
    (tmp_path/'a.ipynb').write_text(stored.as_text(nb))
    (tmp_path/'b.ipynb').write_text('<<<<<<< not JSON\n')
    def text(name): return subprocess.run([sys.executable, ROOT/'docs'/'outputs.py', tmp_path/name], capture_output=True, text=True).stdout
    assert text('a.ipynb').startswith('# %% code c\nf()\n#> one\n#> two\n#> <Figure>\n#> [image/png, ') and 'iVBOR' not in text('a.ipynb')
    assert text('b.ipynb') == '<<<<<<< not JSON\n'

def test_figures_have_one_width_and_one_style():
    "A figure that says nothing is 7 inches wide by nbs/matplotlibrc; one that wants another height says 7, or counts its images."
    nbs = Path(__file__).resolve().parent.parent/'nbs'
    assert 'figure.figsize: 7,' in (nbs/'matplotlibrc').read_text(encoding='utf-8')
    for p in sorted(nbs.glob('*.ipynb')):
        for c in json.loads(p.read_text(encoding='utf-8'))['cells']:
            s = ''.join(c['source']) if c['cell_type'] == 'code' else ''
            assert set(re.findall(r'figsize=\(([^,]+),', s)) <= {'7', 'size*n', 'size*ncol'} and 'tight_layout' not in s, f'{p.name}: {s[:200]}'

def test_pictures_that_are_files_have_no_metadata():
    from PIL import Image
    for p in sorted((Path(__file__).resolve().parent.parent/'docs'/'images').glob('*.png')):
        im = Image.open(p)
        assert not im.info.keys() - {'transparency'} and max(im.size) <= 1400 and p.stat().st_size < 300_000, p.name

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_what_is_printed_is_kept(path):
    "The shell that runs notebooks drops the words of a cell whose last line ends with a semicolon."
    cells = [''.join(c['source']).rstrip() for c in read(path)['cells'] if c['cell_type'] == 'code']
    assert [c.splitlines()[-1] for c in cells if c.endswith(';') and re.search(r'\bprint\(', c)] == []
