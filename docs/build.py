"""The site and README.md from the notebooks: nbdev's processors, then myst-nb, with neither Quarto nor the network.

    python docs/build.py              notebooks as committed -> _docs/
    python docs/build.py --execute    run first (cached by source), so that the pages show outputs and pictures
    python docs/build.py --readme     README.md from nbs/index.ipynb, and the Colab lines of recipe notebooks from settings.ini
    python docs/build.py --outputs    run what changed and write its outputs into nbs/ (--all, --slow, or notebooks by name)
"""
import argparse, hashlib, importlib, io, json, os, re, shutil, subprocess, sys, tarfile, tempfile, time, warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from posixpath import normpath

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import outputs as stored
from check import check_site
from colab import write_colab
from leaderboard import page as leaderboard
from pages import Site, as_python, dress, lead, machine_paths, md_cell, raw_cells, relink, scrub, site_nb

BEGIN = ('00_idea', '51_your_method') # read before the rest, whatever their numbers
GROUPS = [('The library', 0, 30), ('The papers, told on a CPU', 30, 40),
          ('Tables: ours beside the printed one', 40, 50), ('Side by side', 50, 100)]
LEGEND = 'In each notebook, a cell with a blue edge is exported to the library; one with a green edge is an example, and checks itself.'
NAMED = dict(torch='torch', np='numpy', pd='pandas') # in annotations of modules that import them late
PINNED = dict(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2', MKL_CBWR='AVX2', OMP_NUM_THREADS='1',
              COLUMNS='100', IN_TEST='1') # the same digits and lines on each x86 machine
OLDER = dict(MKL_CBWR='COMPATIBLE', ATEN_CPU_CAPABILITY='default', ONEDNN_MAX_CPU_ISA='SSE41') # rounds otherwise
MATHJAX, MATHJAX_FILES = 'mathjax@3.2.2', ('LICENSE', 'es5/tex-svg-full.js')


def fail(lines):
    "End the build with one line for each fault."
    sys.exit('\n'.join(f'docs: {l}' for l in lines))


# Running notebooks -------------------------------------------------------------------------------------------------

def source_key(site, path):
    "A hash of what the outputs depend on: the code, the modules up to it, package data and, for tables, the results."
    nb, num = json.loads(path.read_text(encoding='utf-8')), path.name[:2]
    h = hashlib.sha256(json.dumps([sorted(site.flags), PINNED, stored.SIDE, stored.COLOURS, stored.cells_key(nb), stored.kept_cells(nb, site.flags)]).encode())
    mods = [site.root/'dd_repro'/f'{m}.py' for p, m in site.modules.items() if p.name[:2] <= num or not num.isdigit()]
    data = [p for g in ('dd_repro/assets/*', 'docs/results/*') for p in sorted(site.root.glob(g)) if num > '20' or 'assets' in g]
    for f in [*mods, *data, site.root/'nbs'/'matplotlibrc']:
        if f.is_file(): h.update(f.name.encode() + f.read_bytes())
    return h.hexdigest()[:16]

def style(site):
    "The style of figures, which Jupyter finds by itself, since it starts in nbs."
    return dict(MATPLOTLIBRC=str(site.root/'nbs'/'matplotlibrc'))

def prepared(nb, flags):
    "Nothing in the cells that will run; in those left out, what an earlier run stored if they are as they were."
    kept = stored.kept_cells(nb, flags)
    for c in nb['cells']:
        if c['cell_type'] == 'code': c['outputs'] = kept.get(c['id'], [])
    return nb

def ran(site, src, reads):
    "One notebook, run with execnb, slow cells left out, with its outputs as they are stored and what it read."
    from execnb.nbio import dict2nb, nb2dict
    from execnb.shell import CaptureShell
    nb = dict2nb(prepared(json.loads(src.read_text(encoding='utf-8')), site.flags))
    for i, c in enumerate(nb.cells): c.idx_ = i
    os.chdir(src.parent)
    sys.path.insert(0, str(site.root))
    shell = CaptureShell(src)
    warnings.filterwarnings('ignore', category=FutureWarning, module=r'torch\.') # of PyTorch about callers that are not ours
    try: shell.run_all(nb, exc_stop=True, preproc=lambda c: stored.gated(c, site.flags))
    except Exception: sys.exit(shell.prettytb(src.name))
    nb = nb2dict(nb)
    for c in nb['cells']:
        if c['cell_type'] == 'code': c['outputs'] = stored.fit_outputs(c, scrub)
    names = reads.data()
    nb['metadata'][stored.KEPT] = dict(reads=names, data=stored.data_key(site.root, names))
    return nb

def run_one(site, src, dest):
    "Run one notebook and write it with its outputs."
    dest.write_text(stored.as_text(ran(site, src, stored.Reads(site.root))), encoding='utf-8')

def compare(site):
    "Run the notebooks of tables in this process, and fail with a line for each cell that does not say what is stored."
    found = [p for p in site.notebooks if p.name.startswith(stored.TABLES)]
    bad, reads = [], stored.Reads(site.root)
    with tempfile.TemporaryDirectory() as home:
        os.environ.update({'DD_HOME': home, **os.environ, **PINNED, **style(site)})
        for p in found:
            new, old = ran(site, p, reads), json.loads(p.read_text(encoding='utf-8'))
            bad += [f'{p.name}: cell {i} says something else now' for i in stored.other_words(old, new)]
    print(f'docs: {len(found)} notebooks of tables were run again')
    if bad: fail([*bad, 'run make outputs'])

def as_it_was(site, dest):
    "Is there a run in the cache that has read what lies there now?"
    about = json.loads(dest.read_text(encoding='utf-8'))['metadata'][stored.KEPT] if dest.exists() else {}
    return bool(about) and about['data'] == stored.data_key(site.root, about['reads'])

def run_apart(site, path, dest, **env):
    "Run one notebook in a process of its own, with an empty DD_HOME unless one is named; the error as text, or None."
    cmd = [sys.executable, __file__, '--root', site.root, '--run-one', path, dest, *['--slow']*site.slow]
    with tempfile.TemporaryDirectory() as home:
        env = {'DD_HOME': home, **os.environ, **PINNED, **style(site), **env}
        if path.name.startswith(stored.TABLES): env.pop('DD_DATA', None) # tables read results, wherever they are made
        r = subprocess.run(cmd, env=env, capture_output=True, text=True)
    return f'{path.name} does not run:\n{r.stderr[-3000:]}' if r.returncode else None

def executed(site, path):
    "The path of the notebook with outputs, run now or taken from the cache; where it does not run, the error as text."
    dest = site.work/'executed'/f'{path.stem}-{source_key(site, path)}.ipynb'
    if as_it_was(site, dest): return dest
    dest.parent.mkdir(parents=True, exist_ok=True)
    tmp, began = dest.with_suffix('.part'), time.time()
    if error := run_apart(site, path, tmp): return error
    for old in dest.parent.glob(f'{path.stem}-*.ipynb'): old.unlink()
    print(f'docs: ran {path.name} in {time.time()-began:.0f} s', flush=True)
    return tmp.rename(dest)

def execute_all(site, sources):
    "Run notebooks two at a time, or as many as JOBS says; source -> path with outputs, and what did not run."
    with ThreadPoolExecutor(int(os.environ.get('JOBS') or 2)) as ex: done = dict(zip(sources, ex.map(partial(executed, site), sources)))
    bad = [d for d in done.values() if isinstance(d, str)]
    return {p: d for p, d in done.items() if not isinstance(d, str)}, bad


def write_outputs(site, names=(), everything=False):
    "Write outputs into the notebooks named, into those that are stale, or into all; returns the names of those that changed."
    found = {p: json.loads(p.read_text(encoding='utf-8')) for p in site.pages if p.suffix == '.ipynb'}
    if unknown := sorted(set(names) - {p.stem for p in found}): fail([f'no notebook {n}' for n in unknown])
    wanted = [p for p, nb in found.items() if (p.stem in names if names else everything or stored.stale(nb, site.root))]
    (done, bad), changed = execute_all(site, wanted), []
    for p, run in done.items():
        old, run = p.read_text(encoding='utf-8'), json.loads(run.read_text(encoding='utf-8'))
        if stored.cells_key(run) != stored.cells_key(nb := json.loads(old)):
            bad.append(f'{p.name} changed while it ran: make outputs')
            continue
        nb = stored.with_outputs(nb, run, site.gates)
        bad += [f'{p.name}: {f}' for f in stored.faults(nb, site.root)]
        if stored.as_text(nb) == old: continue
        changed.append(p.name)
        p.write_text(stored.as_text(nb), encoding='utf-8')
    if 'index.ipynb' in changed: write_readme(site.root)
    print(f'docs: {len(wanted)} looked at, outputs of {len(changed)} written: {", ".join(changed) or "none"}')
    if bad: fail(bad)

def elsewhere(site, names=()):
    "Run notebooks with the instructions of older processors; fail with a line for each cell that says other digits then."
    bad = []
    for p in (p for p in site.pages if p.suffix == '.ipynb' and (p.stem in names or not names)):
        with tempfile.TemporaryDirectory() as tmp:
            dest = Path(tmp)/p.name
            if error := run_apart(site, p, dest, **OLDER): bad.append(error); continue
            old, new = (json.loads(f.read_text(encoding='utf-8')) for f in (p, dest))
        found = stored.other_words(old, new)
        bad += [f'{p.name}: cell {i} says something else there' for i in found]
        print(f'docs: {p.name}: {len(found)} cells differ', flush=True)
    if bad: fail(bad)


# Pages that no notebook makes --------------------------------------------------------------------------------------

def toctree(caption, entries):
    "A hidden toctree: a group of the sidebar."
    rows = '\n'.join(f'{title} <{page}>' for title, page in entries)
    return f'```{{toctree}}\n:hidden:\n:caption: "{caption}"\n\n{rows}\n```'

def contents(site, api, board=''):
    "The groups of notebooks, as tables for the index page and as toctrees for the sidebar."
    shown, trees = ['## The notebooks, in order', '', LEGEND, ''], []
    later = [p for p in site.notebooks if p.stem not in BEGIN]
    groups = [('Begin here', [p for p in site.notebooks if p.stem in BEGIN])]
    groups += [(caption, [p for p in later if lo <= int(p.name[:2]) < hi]) for caption, lo, hi in GROUPS]
    for caption, found in groups:
        nbs = [(p.name[:2], p.stem, *lead(raw_cells(p))) for p in found]
        rows = [f'| {num} | [{title or stem[3:]}](page:{stem}.html) | {summary} |' for num, stem, title, summary in nbs]
        if nbs: shown += [f'**{caption}**', '', '| | notebook | what it is about |', '|---|---|---|', *rows, '']
        if nbs: trees.append(toctree(caption, [(f'{num} · {title or stem[3:]}', stem) for num, stem, title, _ in nbs]))
    texts = [(re.search(r'^# +(.+)$', p.read_text(), re.M)[1], site.pages[p]) for p in site.texts]
    about = [('Leaderboard', 'leaderboard')] * bool(board) + [('Every name', 'api')] * bool(api) + texts
    return '\n'.join(shown), '\n\n'.join(trees + [toctree('About', about)] * bool(about))

def module_docs(path, name):
    "One module's public names with signature and docstring, by nbdev's show_doc."
    from fastcore.docments import MarkdownRenderer
    from nbdev.showdoc import show_doc
    mod = importlib.import_module(f'dd_repro.{name}')
    for name_, heavy in NAMED.items(): vars(mod).setdefault(name_, importlib.import_module(heavy))
    names = [n for n in getattr(mod, '__all__', []) if getattr(getattr(mod, n), '__module__', '') == mod.__name__]
    docs = [f'### {n}\n\n' + show_doc(getattr(mod, n), renderer=MarkdownRenderer)._repr_markdown_() for n in names if callable(getattr(mod, n))]
    return [f'## {name}\n\nFrom [{path.stem}](page:{path.stem}.html).', *docs] if docs else []

def api_page(site):
    "Every public name of the package, module by module; empty where there is no package."
    mods = [(p, m) for p, m in site.modules.items() if (site.root/'dd_repro'/f'{m}.py').exists()]
    sys.path.insert(0, str(site.root))
    docs = [d for p, m in mods for d in module_docs(p, m)]
    return '# Every name\n\nSignatures and one-line descriptions, module by module.\n\n' + '\n\n'.join(docs) if docs else ''


# The build ---------------------------------------------------------------------------------------------------------

def rendered(site, done):
    "What Sphinx reads: file name -> text or notebook."
    made, bad = {}, []
    for p, page in site.pages.items():
        try:
            if p.suffix == '.ipynb': made[f'{page}.ipynb'] = site_nb(site, done.get(p, p), p)
            else: made[f'{page}.md'] = relink(p.read_text(), lambda l, pic: site.resolve(l, p.parent, p.name, pic))
        except ValueError as e: bad.append(e)
    if bad: fail(bad)
    api = api_page(site)
    if api: made['api.md'] = api
    board = leaderboard(site.root)
    if board: made['leaderboard.md'] = relink(board, lambda l, pic: site.resolve(l, site.root/'docs', 'leaderboard', pic))
    shown, trees = contents(site, api, board)
    title = f'# {site.settings.get("title", "dd_repro")}\n\n{site.settings.get("description", "")}'
    if site.index: made['index.ipynb'].cells += [md_cell(shown, 'contents'), md_cell(trees, 'toctrees')]
    else: made['index.md'] = f'{title}\n\n{shown}\n\n{trees}\n'
    return made

def write_sources(site, made):
    "Write what Sphinx reads, a file only when it changed, so that it renders again only what did."
    from execnb.nbio import nb2str
    for name, x in made.items():
        path, text = site.work/'src'/name, x if isinstance(x, str) else nb2str(x)
        if not path.exists() or path.read_text() != text: path.write_text(text)
    for old in (site.work/'src').glob('*.*'):
        if old.name not in made: old.unlink()

def mathjax():
    "The folder with MathJax from its npm package, fetched once into the environment; None where it cannot be had."
    home = Path(sys.prefix)/'share'/MATHJAX.replace('@', '-')
    if all((home/f).exists() for f in MATHJAX_FILES): return home
    with tempfile.TemporaryDirectory() as tmp:
        cmd = ['npm', 'pack', MATHJAX, '--fetch-retries=0', '--fetch-timeout=30000', '--silent']
        try: subprocess.run(cmd, cwd=tmp, check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError): return None
        with tarfile.open(next(Path(tmp).glob('*.tgz'))) as tar:
            for f in MATHJAX_FILES:
                (home/f).parent.mkdir(parents=True, exist_ok=True)
                (home/f).write_bytes(tar.extractfile(f'package/{f}').read())
    return home

def write_static(site):
    "Style sheet and MathJax, where Sphinx finds them; whether MathJax is there."
    static, mj = site.work/'static', mathjax()
    (static/'mathjax').mkdir(parents=True, exist_ok=True)
    shutil.copytree(HERE/'_static', static, dirs_exist_ok=True)
    for f in MATHJAX_FILES if mj else (): shutil.copyfile(mj/f, static/'mathjax'/Path(f).name)
    if not mj: print(f'docs: warning: {MATHJAX} is neither cached nor to be had from npm: formulas stay as TeX', flush=True)
    return bool(mj)

def sphinx(site):
    "Render the pages into work/html; every warning is a fault."
    from sphinx.application import Sphinx
    log = io.StringIO()
    over = dict(html_static_path=[str(site.work/'static')])
    app = Sphinx(site.work/'src', HERE, site.work/'html', site.work/'doctrees', 'html', confoverrides=over, status=None, warning=log)
    app.build()
    faults = [l.replace(f'{site.work}/src/', '') for l in re.sub(r'\x1b\[[\d;]*m', '', log.getvalue()).splitlines() if l.strip()]
    if faults: fail(dict.fromkeys(faults))

def build(root, out, work, execute=False):
    "Build and check the site; returns the number of its pages."
    site, out = Site(root, work), Path(out)
    for d in ('src', 'static'): (site.work/d).mkdir(parents=True, exist_ok=True)
    sources = [p for p in site.pages if p.suffix == '.ipynb']
    done, bad = execute_all(site, sources) if execute else ({}, [])
    if bad: fail(bad)
    write_sources(site, rendered(site, done))
    have_math = write_static(site)
    sphinx(site)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(site.work/'html', out, ignore=shutil.ignore_patterns('.buildinfo', 'objects.inv', '_sources'))
    faults = check_site(out, machine_paths(), () if have_math else ('_static/mathjax/tex-svg-full.js',))
    if faults: fail(faults)
    return len(list(out.glob('*.html')))


# README ------------------------------------------------------------------------------------------------------------

def readme(root):
    "README.md from nbs/index.ipynb: its text, and the pictures {path: bytes} that it shows."
    from nbconvert import MarkdownExporter
    from nbdev.process import NBProcessor
    from nbdev.processors import hide_, hide_line, populate_language
    import nbformat
    from execnb.nbio import nb2str
    nb = NBProcessor(Path(root)/'nbs'/'index.ipynb', procs=[populate_language, hide_line, hide_, dress], process=True).nb
    res = dict(unique_key='readme', output_files_dir='docs/img')
    body, res = MarkdownExporter().from_notebook_node(nbformat.reads(nb2str(as_python(nb)), 4), res)
    def near(link, _): return link if re.match(r'[a-z]+:|#|docs/img/', link) else normpath(f'nbs/{link}')
    return '<!-- made from nbs/index.ipynb by `make readme` -->\n\n' + relink(body, near).strip() + '\n', res['outputs']

def write_readme(root):
    "Write README.md and its pictures."
    text, pictures = readme(root)
    for name, data in {'README.md': text.encode(), **pictures}.items():
        (Path(root)/name).parent.mkdir(parents=True, exist_ok=True)
        (Path(root)/name).write_bytes(data)


def main():
    "The command line."
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--execute', action='store_true', help='run the notebooks first')
    a.add_argument('--readme', action='store_true', help='write README.md and stop')
    a.add_argument('--root', type=Path, default=HERE.parent, help='the project')
    a.add_argument('--out', type=Path, help='where the site goes (default: ROOT/_docs)')
    a.add_argument('--outputs', nargs='*', metavar='NOTEBOOK', help='write outputs into nbs/: of these, else of what changed, and stop')
    a.add_argument('--all', action='store_true', help='with --outputs: of every notebook')
    a.add_argument('--slow', action='store_true', help='with --outputs: run the slow cells, too')
    a.add_argument('--elsewhere', nargs='*', metavar='NOTEBOOK', help='run as an older processor would, compare words with what is stored, and stop')
    a.add_argument('--compare', action='store_true', help='run the notebooks of tables, compare them with what is stored, and stop')
    a.add_argument('--run-one', nargs=2, type=Path, help=argparse.SUPPRESS)
    o = a.parse_args()
    if o.run_one: return run_one(Site(o.root, slow=o.slow), *o.run_one)
    if o.elsewhere is not None: return elsewhere(Site(o.root), o.elsewhere)
    if o.compare:
        os.environ.pop('DD_DATA', None) # as their outputs were made
        return compare(Site(o.root))
    if o.outputs is not None: return write_outputs(Site(o.root, slow=o.slow), o.outputs, o.all)
    if o.readme:
        write_colab(Site(o.root))
        return write_readme(o.root)
    out, began = (o.out or o.root/'_docs').resolve(), time.time()
    n = build(o.root.resolve(), out, o.root/'_proc', o.execute)
    print(f'docs: {n} pages in {time.time()-began:.0f} s, every link holds: {os.path.relpath(out)}/index.html')

if __name__ == '__main__': main()
