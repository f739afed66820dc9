"""From a notebook to the notebook that Sphinx renders: nbdev's processors, tags for directives, links that hold."""
import ast, html, json, os, re, shutil, sys, tempfile
from configparser import ConfigParser
from functools import cached_property
from pathlib import Path

LINK = re.compile(r'(!?)(\[[^\]\n]*\])\(([^)\s]+)((?:\s+"[^"\n]*")?)\)')
HTML_LINK = re.compile(r'((?:src|href)=")([^"]+)(")')
CODE = re.compile(r'(^```.*?^```[^\n]*$|`[^`\n]+`)', re.M | re.S)


class Site:
    "The sources of one project, and the folder where the builder works."
    def __init__(self, root, work=None, slow=False):
        self.root, self.work = Path(root).resolve(), Path(work or Path(root)/'_proc').resolve()
        self.slow = slow

    @cached_property
    def settings(self):
        "The [DEFAULT] section of settings.ini."
        cfg = ConfigParser(interpolation=None)
        cfg.read(self.root/'settings.ini')
        return cfg['DEFAULT']

    @cached_property
    def flags(self):
        "Directives of cells that are left out: `slow` unless asked for, `data` where DD_DATA names no real images."
        run = {'data': os.environ.get('DD_DATA'), 'slow': self.slow}
        return {g for g in self.gates if not run.get(g)}

    @cached_property
    def gates(self):
        "Directives of cells that some runs leave out."
        return set(self.settings.get('tst_flags', '').split())

    @cached_property
    def notebooks(self):
        "The numbered notebooks, in order; the idea, which needs no module, comes before all that build on it."
        found = (p for p in (self.root/'nbs').glob('*.ipynb') if re.match(r'\d\d_', p.name))
        return sorted(found, key=lambda p: (p.name != '00_idea.ipynb', p.name))

    @cached_property
    def index(self):
        "nbs/index.ipynb, or None."
        return next(iter((self.root/'nbs').glob('index.ipynb')), None)

    @cached_property
    def texts(self):
        "The pages that are plain markdown: docs/*.md, the README of folders in docs, then the changelog."
        return sorted((self.root/'docs').glob('*.md')) + sorted((self.root/'docs').glob('*/README.md')) + list(self.root.glob('CHANGELOG.md'))

    @cached_property
    def pages(self):
        "Source path -> name of its page."
        named = {p: p.parent.name if p.name == 'README.md' else p.stem.lower() if p.suffix == '.md' else p.stem for p in [*self.notebooks, *self.texts]}
        return {**named, **({self.index: 'index'} if self.index else {})}

    @cached_property
    def modules(self):
        "Notebook -> the module that it exports to."
        return {p: m for p in self.notebooks if (m := default_exp(raw_cells(p)))}

    @cached_property
    def symbols(self):
        "Exported name -> (page, name)."
        cells = [(p.stem, ''.join(c['source'])) for p in self.notebooks for c in raw_cells(p) if c['cell_type'] == 'code']
        return {n: (page, n) for page, src in cells if re.match(r'#\|\s*exports?\b', src) for n in defined(src)}

    def resolve(self, link, base, who, picture=False):
        "A relative link in a source file as the site knows it; other files are copied along. ValueError if it leads nowhere."
        path, _, spot = link.partition('#')
        if not path or re.match(r'[a-z]+:', link): return link
        target = (base/path).resolve()
        if target in self.pages: return href(self.pages[target], spot)
        if target == self.root/'docs'/'leaderboard.py': return href('leaderboard', spot) # the page that it makes
        if not target.is_file() or not target.is_relative_to(self.root): raise ValueError(f'{who}: {link} leads nowhere')
        name = f'files/{target.relative_to(self.root).as_posix()}'
        dest = self.work/('src' if picture else 'static')/name
        dest.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, dest)
        return name if picture else f'page:_static/{name}'


def raw_cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']

def href(page, spot=''):
    "A link to a page, in the two address schemes that conf.py defines."
    return f'spot:{page}.html#{spot}' if spot else f'page:{page}.html'

def default_exp(cells):
    "The module that raw notebook cells export to, or None."
    found = (re.search(r'^#\|\s*default_exp\s+(\S+)', ''.join(c['source']), re.M) for c in cells if c['cell_type'] == 'code')
    return next((m[1] for m in found if m), None)

def defined(source):
    "Names of the public functions and classes at the top of a cell."
    try: body = ast.parse(source).body
    except SyntaxError: return []
    return [o.name for o in body if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and o.name[0] != '_']

def lead(cells):
    "Title and one-line summary from the first markdown cell."
    md = next((''.join(c['source']) for c in cells if c['cell_type'] == 'markdown'), '')
    title, summary = re.search(r'^# +(.+)$', md, re.M), re.search(r'^> *(.+)$', md, re.M)
    return title[1].strip() if title else '', summary[1].strip() if summary else ''


# Text --------------------------------------------------------------------------------------------------------------

def outside_code(text, f):
    "Apply `f` to what is neither fenced nor inline code."
    return ''.join(p if i % 2 else f(p) for i, p in enumerate(CODE.split(text)))

def relink(text, f):
    "Rewrite every link and picture address by `f(address, is_picture)`."
    def plain(s): return re.sub(r'^(page|spot):', '', s)
    fenced = re.split(r'(^```.*?^```[^\n]*$)', text, flags=re.M | re.S)
    for i in range(0, len(fenced), 2):
        md = LINK.sub(lambda m: f'{m[1]}{m[2]}({f(m[3], bool(m[1]))}{m[4]})', fenced[i])
        fenced[i] = outside_code(md, lambda s: HTML_LINK.sub(lambda m: m[1] + plain(f(m[2], False)) + m[3], s))
    return ''.join(fenced)

def linker(symbols):
    "nbdev's backtick linker over our own pages, which leaves headings and finished links alone."
    from nbdev.doclinks import NbdevLookup
    class Lookup(NbdevLookup):
        def __init__(self): self.syms, self.aliases = {n: href(*o) for n, o in symbols.items()}, {}
        def link_line(self, l):
            if l.startswith('#'): return l
            parts = re.split(r'(\[[^\]]*\]\([^)]*\))', l)
            return ''.join(p if i % 2 else NbdevLookup.link_line(self, p) for i, p in enumerate(parts))
    return Lookup().linkify

def machine_paths():
    "Paths that belong to this machine -> what a page shows in their place."
    env = os.environ.get
    named = {str(Path(__file__).resolve().parent.parent): '.', env('DD_DATA'): '$DD_DATA', env('DD_HOME'): '$DD_HOME',
             str(Path.home()): '~', sys.prefix: '.venv', tempfile.gettempdir(): '…'}
    return {k: v for k, v in sorted(named.items(), key=lambda o: -len(o[0] or '')) if k and len(k) > 3}

def scrub(text):
    "What a terminal would show after its carriage returns, with the paths of this machine shortened."
    text = re.sub(r'[^\n]*\r(?!\n)', '', text)
    for p, short in machine_paths().items(): text = re.sub(re.escape(p) + r'(?![\w-])', short, text)
    return re.sub(r'…/tmp[\w.-]+', '…', text)


def tidy_tables(text):
    "Table cells said to be short (they stay on one line) or long (they get room), so that no column is squeezed to a word a line."
    def one(m):
        n = len(html.unescape(re.sub(r'<[^>]*>', '', m[3])))
        return m[0] if not n else f'<{m[1]}{m[2]} class="{"short" if n <= 48 else "long"}">{m[3]}</{m[1]}>'
    return re.sub(r'<(t[dh])((?: (?![^>]*class=)[^>]*)?)>(.*?)</\1>', one, text, flags=re.S)


# Cells -------------------------------------------------------------------------------------------------------------

def scrub_output(o):
    "An output fit for every machine."
    if 'text' in o: o['text'] = scrub(''.join(o['text']))
    for k, v in o.get('data', {}).items():
        if k.startswith('text/'): o['data'][k] = (tidy_tables if k == 'text/html' else str)(scrub(''.join(v)))
    return o

def dress(cell):
    "A processor: directives become tags or are obeyed; a cell that only directs goes."
    if cell.cell_type != 'code': return
    d = cell.directives_
    tags = {'export': d.keys() & {'export', 'exports', 'exporti'}, 'slow': 'slow' in d, 'data': 'data' in d,
            'remove-input': d.get('echo:') == ['false'], 'remove-output': d.get('output:') == ['false']}
    cell.metadata['tags'] = [t for t, on in tags.items() if on]
    cell.outputs = [scrub_output(o) for o in cell.get('outputs', [])]
    cell.source = re.sub(r'^#\|.*(\n|$)', '', cell.source, flags=re.M)
    if not cell.source.strip(): del cell['source']

def md_cell(text, id):
    "A markdown cell with an id of its own."
    from execnb.nbio import mk_cell
    return mk_cell(text, 'markdown', id=id)

def with_anchors(cell):
    "The cell, after a place to link to for each name that it exports."
    names = defined(cell.source) if 'export' in cell.metadata.get('tags', []) else []
    spots = ''.join(f'<span class="name-anchor" id="{n}"></span>' for n in names)
    return [md_cell(spots, f'{cell.id}-a'), cell] if names else [cell]

def as_python(nb):
    "The notebook, said to be in Python, which nbdev_clean leaves out."
    nb.metadata.update(kernelspec=dict(display_name='python3', language='python', name='python3'), language_info=dict(name='python'))
    return nb

def site_nb(site, path, source):
    "One notebook, read from `path`, ready for Sphinx; its links are those of `source`."
    from nbdev.process import NBProcessor
    from nbdev.processors import (ai_magics, filter_stream_, hide_, hide_line, populate_language, rm_header_dash, strip_ansi)
    procs = [populate_language, strip_ansi, hide_line, hide_, filter_stream_, rm_header_dash, ai_magics, dress]
    nb = NBProcessor(path, procs=procs, process=True).nb
    as_python(nb)
    linkify = linker({n: o for n, o in site.symbols.items() if o[0] != source.stem})
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = relink(linkify(c.source), lambda l, pic: site.resolve(l, source.parent, source.name, pic))
    nb.cells = [x for c in nb.cells for x in with_anchors(c)]
    return nb
