"""Outputs that notebooks are committed with: fit for every machine, small, and known when they are stale.

    python docs/outputs.py nbs/07_distilled.ipynb    a notebook as text, for `git diff` (see `make diff`)
"""
import base64, hashlib, io, json, re, sys
from html.parser import HTMLParser
from pathlib import Path

SIDE, COLOURS, WIDE = 840, 64, 40 # of a picture: largest side, colours; padding of a column in plain text
TABLES = ('40', '41', '42', '43', '44', '45', '50') # made of results files: compared word by word
WORDS = {'commands.json', 'methods.json', 'gmacs.json', 'fields.csv', 'names.csv'} # read as code is
KEPT = 'outputs' # the key in a notebook's metadata


def source(cell): return ''.join(cell['source'])

def directives(cell): # the words after #|
    "The directives of a raw cell: name -> what follows."
    found = re.findall(r'^#\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*)$', source(cell), re.M)
    return {name: rest.strip() for name, rest in found}

def gated(cell, flags):
    "Is the cell left out of a run that skips these flags?"
    d = directives(cell)
    return bool(d.keys() & set(flags)) or d.get('eval') == 'false'

def short(*parts):
    "Twelve digits of the hash of texts and bytes."
    h = hashlib.sha256()
    for p in parts: h.update((p if isinstance(p, bytes) else str(p).encode()) + b'\0')
    return h.hexdigest()[:12]

def cells_key(nb):
    "A hash of a notebook's code cells."
    return short(*(source(c) for c in nb['cells'] if c['cell_type'] == 'code'))

def content(path):
    "The bytes of a file, or the names in a folder."
    if path.is_dir(): return '\n'.join(sorted(p.name for p in path.iterdir() if p.name[0] != '.'))
    return path.read_bytes().replace(b'\r\n', b'\n') if path.is_file() else 'not there'

def data_key(root, reads):
    "A hash of the files and folders, named from the top of the tree, that a run has read."
    return short(*(x for r in reads for x in (r, content(Path(root)/r))))

def is_data(name): # from the top of the tree
    "Does a file that a notebook reads belong to its data? Code does not."
    code = name.endswith(('.py', '.pyc', '.ipynb', '.part')) or Path(name).name in WORDS
    if '/.' in f'/{name}': return False
    return name.startswith(('docs/', 'dd_repro/assets/')) and not code

class Reads:
    "Remembers which data files of the tree, and which folders, this process opens for reading."
    def __init__(self, root):
        self.root, self.names = f'{Path(root).resolve()}/', set()
        sys.addaudithook(self.note)
    def note(self, event, args):
        "Called by Python for each event."
        if event not in ('open', 'os.listdir', 'os.scandir') or not isinstance(args[0], str): return
        name = args[0] if args[0].startswith('/') else str(Path(args[0]).absolute())
        if '..' in name: name = str(Path(name).resolve())
        writes = event == 'open' and isinstance(args[1], str) and set('wax+') & set(args[1])
        if name.startswith(self.root) and not writes: self.names.add(name[len(self.root):].rstrip('/'))
    def data(self):
        "What counts, in order."
        return sorted(n for n in self.names if is_data(n) and (Path(self.root)/n).exists())


# What is stored ------------------------------------------------------------------------------------

def small_picture(data): # base64
    "A PNG with a palette, no larger than SIDE, without metadata."
    from PIL import Image
    im = Image.open(io.BytesIO(base64.b64decode(data)))
    if im.mode != 'RGB':
        im, white = im.convert('RGBA'), Image.new('RGBA', im.size, 'white')
        im = Image.alpha_composite(white, im).convert('RGB')
    if max(im.size) > SIDE:
        im = im.resize([max(1, round(s*SIDE/max(im.size))) for s in im.size], Image.LANCZOS)
    out = io.BytesIO()
    im.quantize(COLOURS, dither=Image.Dither.NONE).save(out, 'png', optimize=True)
    return base64.b64encode(out.getvalue()).decode()

class Rows(HTMLParser):
    "The cells of the tables in a piece of HTML, row by row, and the text around them."
    def __init__(self, text):
        super().__init__()
        self.rows, self.cell, self.hidden, self.taken = [], None, 0, set()
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        if tag in ('style', 'script'): self.hidden += 1
        if tag == 'tr': self.rows.append([])
        if tag in ('td', 'th') and self.rows: self.begin(dict(attrs))
        if tag == 'br': self.handle_data(' ')
    def begin(self, attrs):
        "A cell; where one from above reaches down, there is an empty one."
        self.cell, row, i = [], self.rows[-1], len(self.rows) - 1
        while (i, len(row)) in self.taken: row.append('')
        down = int(attrs.get('rowspan') or 1)
        self.taken |= {(i + k, len(row)) for k in range(1, down)}
    def handle_endtag(self, tag):
        if tag in ('style', 'script'): self.hidden -= 1
        if tag in ('td', 'th') and self.cell is not None:
            self.rows[-1].append(' '.join(''.join(self.cell).split()))
            self.cell = None
    def handle_data(self, data):
        if self.hidden: return
        if self.cell is not None: self.cell.append(data)
        elif data.strip(): self.rows.append([' '.join(data.split())])

def plain_twin(text):
    "The tables of a piece of HTML as lines of text, with columns that stand under each other."
    rows = [r for r in Rows(text).rows if any(r)]
    n = max(map(len, rows), default=0)
    sizes = [[len(r[i]) for r in rows if 1 < len(r) and i < len(r)] for i in range(n)]
    wide = [min(WIDE, max(s, default=0)) for s in sizes]
    return '\n'.join('  '.join(c.ljust(w) for c, w in zip(r, wide)).rstrip() for r in rows)

def lines(text): return ''.join(text).splitlines(keepends=True)

def fit_data(data, scrub):
    "The MIME bundle of one output, fit for every machine."
    kept = {k: v for k, v in data.items() if k in ('text/plain', 'text/html', 'text/markdown', 'image/png')}
    plain = ''.join(kept.get('text/plain', '<'))
    if 'text/html' in kept and (plain.startswith('<') or ' ... ' in plain):
        kept['text/plain'] = plain_twin(''.join(kept['text/html']))
    fit = {k: lines(scrub(''.join(v))) for k, v in kept.items() if k.startswith('text/')}
    return fit | {k: small_picture(v) for k, v in kept.items() if k == 'image/png'}

def fit_output(o, scrub):
    "One output as it is stored."
    if o['output_type'] == 'stream': return dict(o, text=lines(scrub(''.join(o['text']))))
    if 'data' not in o: return o
    meta = {k: v for k, v in o.get('metadata', {}).items() if k == 'image/png'}
    count = dict(execution_count=None) if o['output_type'] == 'execute_result' else {}
    head = dict(output_type=o['output_type'], metadata=meta, **count)
    return dict(head, data=fit_data(o['data'], scrub))

def fit_outputs(cell, scrub):
    "The outputs of a cell as they are stored; none where it says `#| output: false`."
    if directives(cell).get('output') == 'false': return []
    return [fit_output(o, scrub) for o in cell.get('outputs', [])]

def kept_cells(nb, flags):
    "Id -> outputs of the cells that are left out and have not changed since they were run."
    known = nb['metadata'].get(KEPT, {}).get('kept', {})
    return {c['id']: c['outputs'] for c in nb['cells'] if c['cell_type'] == 'code'
            and gated(c, flags) and c['outputs'] and known.get(c['id']) == short(source(c))}

def with_outputs(nb, ran, all_flags):
    "The notebook with the outputs of its run."
    found = {c['id']: c.get('outputs', []) for c in ran['cells'] if c['cell_type'] == 'code'}
    for c in nb['cells']:
        if c['cell_type'] == 'code': c.update(outputs=found[c['id']], execution_count=None)
    kept = {c['id']: short(source(c)) for c in nb['cells']
            if c['cell_type'] == 'code' and gated(c, all_flags) and c['outputs']}
    about = dict(cells=cells_key(nb), **{k: ran['metadata'][KEPT][k] for k in ('data', 'reads')})
    nb['metadata'][KEPT] = about | (dict(kept=kept) if kept else {})
    return nb

def as_text(nb):
    "A notebook as nbdev_clean writes it."
    return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n'


# What is wrong -------------------------------------------------------------------------------------

WRONG = {
    'a traceback': r'Traceback \(most recent call last\)',
    'a warning': r'\b[A-Z]\w*Warning\b|^\s*[Ww]arn(ing)?\b',
    'a path': r'(?<![\w.$~<{/:*…)\]%-])/[A-Za-z_][\w.-]*/[\w./-]+|\b[A-Z]:\\+\w|file://',
    'a date': r'\b20\d\d-[01]\d-[0-3]\d(?!\d)|\b[012]?\d:[0-5]\d:[0-5]\d\b',
    'an address in memory': r'\bat 0x[0-9a-fA-F]+|\b0x[0-9a-fA-F]{8,}',
    'seconds of a run': r'(?<![\w.,-])\d+(\.\d+)? ?(s|ms|µs|sec|seconds)\b(?!/)',
    'digits that nobody needs': r'\d\.\d{8,}',
    'a progress bar': r'\r|\d%\|| it/s\b|\bs/it\b',
    'an object without a word about itself': r'^<(IPython|matplotlib|pandas)[\w.]* object>',
}

def texts(o): # an output
    "All text of an output, as (kind, text)."
    if 'text' in o: yield o.get('name', 'stream'), ''.join(o['text'])
    for k, v in o.get('data', {}).items():
        if k.startswith('text/'): yield k, ''.join(v)

def picture_faults(data):
    "What is wrong with a stored PNG."
    from PIL import Image
    im = Image.open(io.BytesIO(base64.b64decode(data)))
    if im.mode != 'P': yield 'a picture without a palette'
    if max(im.size) > SIDE: yield f'a picture of {im.size[0]} x {im.size[1]}'
    if im.info.keys() - {'transparency'}: yield f'a picture with metadata: {sorted(im.info)}'

def recorded(nb, root):
    "The text of the results files that a notebook has read: a date of theirs is no date of this run."
    files = [Path(root)/r for r in nb['metadata'].get(KEPT, {}).get('reads', []) if r.endswith('.csv')]
    return ''.join(f.read_text(encoding='utf-8') for f in files if f.is_file())

def output_faults(o, known=''):
    "What is wrong with one output; `known` are words of results files."
    if o['output_type'] == 'error': yield f'a traceback: {o.get("ename")}'
    for kind, text in texts(o):
        if kind == 'stderr': yield f'words to stderr: {text.strip()[:60]!r}'
        for name, pattern in WRONG.items():
            found = (m[0] for m in re.finditer(pattern, text, re.M))
            if name == 'seconds of a run' and known: continue # of a recorded one
            if bad := next((f for f in found if name != 'a date' or f not in known), ''):
                yield f'{name}: {bad.strip()[:60]!r}'
    if 'data' in o and 'text/plain' not in o['data']: yield 'nothing in plain text'
    if 'image/png' in o.get('data', {}): yield from picture_faults(o['data']['image/png'])
    if o.get('execution_count') is not None: yield 'an execution count'

def faults(nb, root='.'):
    "What is wrong with the outputs of a notebook, a line each; those without outputs have none."
    code = [(i, c) for i, c in enumerate(nb['cells']) if c['cell_type'] == 'code']
    known = recorded(nb, root)
    return [f'cell {i}: {f}' for i, c in code for o in c['outputs'] for f in output_faults(o, known)]

def stale(nb, root, flags=('slow', 'data'), data=True):
    "Why the outputs of a notebook are not those of its cells and data, or None."
    about = nb['metadata'].get(KEPT)
    if not about: return 'it was never run'
    if about['cells'] != cells_key(nb): return 'its code has changed'
    if data and about['data'] != data_key(root, about['reads']): return 'what it reads has changed'
    known = about.get('kept', {})
    for i, c in enumerate(nb['cells']):
        if c['cell_type'] != 'code' or not gated(c, flags) or not c['outputs']: continue
        if known.get(c['id']) != short(source(c)):
            return f'cell {i} is not run, and nobody knows where its output is from'
    return None


def words(cell): return [sorted(texts(o)) for o in cell.get('outputs', [])]

def other_words(old, new):
    "Numbers of the code cells whose outputs say different words in two runs of a notebook."
    pairs = enumerate(zip(old['cells'], new['cells']))
    return [i for i, (a, b) in pairs if a['cell_type'] == 'code' and words(a) != words(b)]


# As text -------------------------------------------------------------------------------------------

def told(o):
    "An output in a few lines of text."
    for kind, text in texts(o):
        if kind != 'text/html': yield text.rstrip('\n')
    for k, v in o.get('data', {}).items():
        if k.startswith('image/'): yield f'[{k}, {len(v)*3//4} bytes, {short(v)}]'

def notebook_text(nb):
    "A notebook as text: cells with their ids, outputs without HTML and pictures."
    for c in nb['cells']:
        yield f'# %% {c["cell_type"]} {c.get("id", "")}\n{source(c)}'
        for o in c.get('outputs', []): yield '\n'.join(f'#> {l}' for t in told(o) for l in t.split('\n'))

def main(path):
    "Print a notebook as text; anything else as it is."
    text = Path(path).read_text(encoding='utf-8')
    try: text = '\n'.join(notebook_text(json.loads(text))) + '\n'
    except (ValueError, KeyError, TypeError): pass
    sys.stdout.write(text)

if __name__ == '__main__': main(sys.argv[1])
