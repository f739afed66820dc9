"""The site builder on small projects: formulas stay, directives are obeyed, a broken link is named."""
import json, re, subprocess, sys
from pathlib import Path

import pytest
from dd_repro.papers import conflicts

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT/'docs'/'build.py'
sys.path.insert(0, str(BUILD.parent))

CORE = '''#| export
def thrice(x:float): # a number
    "Three times `x`."
    return 3*x'''


def cell(i, source, outputs=None):
    "A markdown cell, or with `outputs` a code cell."
    c = dict(id=f'c{i}', metadata={}, source=source)
    return dict(c, cell_type='markdown') if outputs is None else dict(c, cell_type='code', execution_count=None, outputs=outputs)

def notebook(path, *parts):
    "Write a notebook; strings that start with '#|' or '>>>' are code."
    cells = [cell(i, s.removeprefix('>>>'), [] if s.startswith(('#|', '>>>')) else None) for i, s in enumerate(parts)]
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))

@pytest.fixture
def project(tmp_path):
    "A project of two notebooks and a text."
    for d in ('nbs', 'docs'): (tmp_path/d).mkdir()
    (tmp_path/'settings.ini').write_text('[DEFAULT]\ntitle = small\ntst_flags = slow\nlib_path = small\nnbs_path = nbs\n')
    notebook(tmp_path/'nbs'/'00_core.ipynb', '# core\n\n> The small things.', '#| default_exp core', CORE, '#| hide\nsecret = 1',
             'The area is\n\n$$a_{i+1} = \\pi r_i^2$$\n\nand the notes are [here](../docs/notes.md#the-end).', '#| slow\n1/0', '>>>print(thrice(7))')
    notebook(tmp_path/'nbs'/'01_use.ipynb', '# use\n\n> What for.', 'We call `thrice` from [core](00_core.ipynb).')
    (tmp_path/'docs'/'notes.md').write_text('# Notes\n\n## The end\n\nFin.\n')
    return tmp_path

def build(root, *flags):
    "Run the builder as make does."
    return subprocess.run([sys.executable, BUILD, '--root', root, *flags], capture_output=True, text=True)

def test_site(project):
    r = build(project, '--execute')
    assert r.returncode == 0, r.stderr
    core, use, index = ((project/'_docs'/f'{n}.html').read_text() for n in ('00_core', '01_use', 'index'))
    assert 'a_{i+1} = \\pi r_i^2' in core and 'mathjax/tex-svg-full.js' in core
    assert 'secret' not in core and 'default_exp' not in core and '#|' not in core
    assert 'tag_slow' in core and '>21\n' in core, 'slow cells are shown and not run, the others show what they print'
    assert 'href="notes.html#the-end"' in core
    assert 'href="00_core.html#thrice"' in use and 'href="00_core.html"' in use
    assert 'The small things.' in index

def test_broken_links_are_named(project):
    notebook(project/'nbs'/'02_lost.ipynb', '# lost', 'See [there](05_gone.ipynb) and [that](../docs/none.md).')
    r = build(project)
    assert r.returncode == 1 and '02_lost.ipynb: 05_gone.ipynb leads nowhere' in r.stderr and not (project/'_docs').exists()

def test_broken_places_are_named(project):
    notebook(project/'nbs'/'02_lost.ipynb', '# lost', 'See [core](00_core.ipynb#no-such-place).')
    r = build(project)
    assert r.returncode == 1 and '02_lost.html: 00_core.html#no-such-place: no such place on that page' in r.stderr

def test_a_notebook_that_does_not_run_is_named(project):
    notebook(project/'nbs'/'02_bad.ipynb', '# bad', '>>>1/0')
    r = build(project, '--execute')
    assert r.returncode == 1 and '02_bad.ipynb does not run' in r.stderr and 'ZeroDivisionError' in r.stderr

def test_check_finds_what_a_page_fetches(tmp_path):
    from check import check_site
    (tmp_path/'a.html').write_text('<script src="https://example.org/x.js"></script><a href="https://example.org">out</a><p id="x">'
                                   '<img src="none.png"><a href="#x">up</a><a href="#y">down</a> /some/where/else')
    (tmp_path/'a.css').write_text('@import url("https://example.org/font.css");')
    assert check_site(tmp_path, ['/some/where']) == [
        'a.css: https://example.org/font.css: would be fetched from the network',
        'a.html: #y: no such place on that page',
        'a.html: https://example.org/x.js: <script src> would be fetched from the network',
        'a.html: none.png: no such file in the site',
        'a.html: tells a path of this machine: /some/where']

def test_table_cells_have_room():
    from pages import scrub_output, tidy_tables
    assert tidy_tables('<th>row</th><td></td><td style="color:#222"><a href="#x">45.9 (0.7)</a></td>') == (
        '<th class="short">row</th><td></td><td style="color:#222" class="short"><a href="#x">45.9 (0.7)</a></td>')
    assert tidy_tables('<td>' + 49*'a' + '</td>').startswith('<td class="long">') and tidy_tables('<td>' + 48*'&lt;' + '</td>').startswith('<td class="short">')
    assert tidy_tables('<thead><tr><td class="x">1</td></tr></thead>') == '<thead><tr><td class="x">1</td></tr></thead>'
    out = scrub_output(dict(data={'text/html': ['<table><tr><td>', '1</td></tr></table>'], 'text/plain': ['<td>1</td>']}))
    assert out['data'] == {'text/html': '<table><tr><td class="short">1</td></tr></table>', 'text/plain': '<td>1</td>'}

def test_pages_need_no_server():
    "What a page opened from a disk may not do is off, and the tables keep the dark page's colours."
    from runpy import run_path
    conf, css = run_path(BUILD.parent/'conf.py'), (BUILD.parent/'_static'/'site.css').read_text()
    assert conf['html_show_search_summary'] is False and conf['mathjax_path'] == 'mathjax/tex-svg-full.js'
    assert 'html[data-theme="dark"] .bd-content div.cell_output .text_html:not(:has(table.dataframe)):has(table.ours)' in css

def test_readme(tmp_path):
    from build import readme
    (tmp_path/'nbs').mkdir()
    notebook(tmp_path/'nbs'/'index.ipynb', '# small\n\n![grid](../docs/img/grid.png) and [core](00_core.ipynb), $x^2$', '#| hide\nsecret = 1', '>>>import small')
    text, pictures = readme(tmp_path)
    assert '![grid](docs/img/grid.png) and [core](nbs/00_core.ipynb), $x^2$' in text and '```python\nimport small\n```' in text
    assert 'secret' not in text and pictures == {}

def test_cells_on_real_data_run_where_the_data_is(project, monkeypatch):
    from pages import Site
    (project/'settings.ini').write_text('[DEFAULT]\ntst_flags = slow data\n')
    monkeypatch.delenv('DD_DATA', raising=False)
    assert Site(project).flags == {'slow', 'data'}
    monkeypatch.setenv('DD_DATA', str(project))
    assert Site(project).flags == {'slow'}

def test_the_list_of_contradictions_is_that_of_the_facts():
    "docs/facts.md shows what contradictions.csv holds, by the same ids in the same order."
    text = (ROOT/'docs'/'facts.md').read_text(encoding='utf-8').partition('## Contradictions')[2]
    shown = re.findall(r'^\| <span id="(\w+)"></span>(\w+) \| (\w+) \|', text, re.M)
    assert shown == [(c['id'].lower(), c['id'], c['paper']) for c in conflicts().to_dict('records')]

def test_no_page_leans_on_what_readers_do_not_have():
    "Every notebook's facts are links into docs/facts.md."
    pages = [*(ROOT/'nbs').glob('*.ipynb'), *(ROOT/'docs').glob('*.md')]
    for p in pages:
        text = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells']) if p.suffix == '.ipynb' else p.read_text(encoding='utf-8')
        assert 'FACTS' not in text, p.name


def test_the_install_line_of_a_recipe_is_shown(project):
    from pages import site_nb
    nb = project/'nbs'/'01_use.ipynb'
    data = json.loads(nb.read_text())
    data['cells'].append(dict(cell_type='code', id='c0ffee00', metadata={}, execution_count=None, outputs=[], source=["if True:\n", "    %pip install -q mine"]))
    nb.write_text(json.dumps(data))
    class NoSite:
        symbols = {}
        def resolve(self, link, *_): return link
    assert '%pip install -q mine' in site_nb(NoSite(), nb, nb).cells[-1].source
