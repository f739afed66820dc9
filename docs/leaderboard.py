"""The page that puts every accuracy with an artefact in one line, beside its bytes; it is made of the results files alone."""
import html, re
from functools import cache
from pathlib import Path

HEAD = ('data', 'method', 'ipc', 'network', 'accuracy, %', 'printed, %', 'best of looks', 'n', 'protocol', 'bytes', 'with labels', 'with decoder', 'artefact', 'record')
NUMBERS = {'ipc', 'accuracy, %', 'printed, %', 'best of looks', 'n', 'bytes', 'with labels', 'with decoder'}
KNOWN = 'tinyimagenet imagenet21k imagenet1k cifar100 cifar10 digits'.split()
STORED = ('d3s-', 'sre2l-') # protocols whose labels lie in a store, which a row does not weigh
FLOATS = 'mtt dc dsa dm datm random herding forgetting'.split() # methods whose sets are floats
BYTES = 'd3s sre2l rded ens enl isu'.split() # and those whose sets are 8 bits a value (figure 3 of D3S names its arms)
MADE = {'d3s/digits/': 10, 'd3s/figure': 10, 'further/rded/digits/': 10, 'mtt/figure5/left/digits/': 1} # rows of studies -> images per class (d3s_digits.py, mtt_figure5.py)
ABOUT = '''# Leaderboard

Every accuracy in our results files that belongs to an artefact, one line each. *Ipc* is the number of images per class, unless the word beside it says that they are priors (ppc) or codes (lpc). *Printed* is the number of the paper or of the authors' file for this very cell, deviation in brackets; ours beside it is a reproduction only where the protocol says so.

Bytes are those of the images, codes or coefficients alone; then with their soft labels; then with a decoder or an autoencoder, too. Class numbers are free. Where no row and no file has them, and the number, size and type of the images are known, the bytes are their product. A dash says that nobody recorded it.
The word under *protocol* says how near a line is to a paper: `paper`, `decided` (what papers leave open is ours) or `reduced` (smaller than printed, and the record lists in what). Lines of different protocols, networks or data are not to be compared, and a line under `best of looks` has looked at the test set on its way.

A click on a name in the head sorts the table. To add a line: `dd_score ARTEFACT --record_to FILE`.
'''


def data_of(r):
    "The data set that a row is about: a part of its id, else a word of its deviations."
    parts = r.row.replace('-', '/').split('/')
    found = [k for k in KNOWN if k in parts or f'{k} ' in f'{r.deviations} ']
    return found[0] if found else next((p for p in parts if p.startswith('image')), '')

def shipped(root):
    "Hash -> (name of the file, bytes by use) of artefacts in docs/artefacts and of the one in the package."
    from dd_repro.distilled import Distilled
    from dd_repro.files import file_sha256
    from dd_repro.score import bytes_in
    files = [*sorted((root/'docs'/'artefacts').glob('*.safetensors')), *sorted((root/'dd_repro'/'assets').glob('*.safetensors'))]
    out = {}
    for f in files:
        try: d = Distilled.load(f)
        except ValueError: continue # an autoencoder, say
        out[file_sha256(f)[:16]] = f, bytes_in(d), len(d)/d.n_classes
    return out

def public():
    "Hash -> (name, bytes of its images, address) of the listed sets of others, which are stored as floats."
    from dd_repro.plans import SETS
    from dd_repro.public import public_sets
    out = {}
    for p in public_sets().values():
        if p.data not in SETS: continue
        classes, _, side = SETS[p.data]
        for sha in p.files.values(): out[sha[:16]] = p.name, 4*3*p.ipc*classes*side**2, p.address, p
    return out

def weighed(rows):
    "(Row id, artefact) -> bytes by use, as rows recorded them."
    out = {}
    for r in rows:
        if r.metric in ('bytes', 'bytes_with_labels', 'bytes_with_decoder') and r.artefact: out.setdefault((r.row, r.artefact), {})[r.metric] = int(r.mean)
    return out

BUDGET = re.compile(r'(?<![a-z])(ipc|ppc|lpc)[ =]?(\d+)')

def budget_of(r, files, listed):
    "(Number, ipc, ppc or lpc): as the row's id or method says, its artefact, or the study that makes it; None where nobody does."
    if m := BUDGET.search(r.row) or BUDGET.search(r.method): return int(m[2]), m[1]
    if r.artefact in files and files[r.artefact][2] % 1 == 0: return int(files[r.artefact][2]), 'ipc'
    if r.artefact in listed: return listed[r.artefact][3].ipc, 'ipc'
    return next(((n, 'ipc') for k, n in MADE.items() if r.row.startswith(k)), None)

def shape_of(r):
    "(Classes, channels, side) of a row's data; None where it does not tell."
    from dd_repro.plans import SETS
    name = data_of(r)
    if name in SETS: return SETS[name][0], 3, SETS[name][2]
    m = re.search(r'digits \(?(?:at )?(\d+) px', r.deviations)
    return (10, 1, int(m[1])) if name == 'digits' and m else None

def word_of(r): return re.split(r'[ ,]', r.method.lower().removeprefix('no '))[0]

def product(r, budget):
    "Bytes of images whose number, size and type are known; None where one of them is not."
    shape, word = shape_of(r), word_of(r)
    if not (budget and shape and budget[1] == 'ipc') or word not in FLOATS + BYTES: return None
    classes, channels, side = shape
    return budget[0]*classes*channels*side**2*(4 if word in FLOATS else 1)

def authors_of(r):
    "The listed set that a row of published sets is about, where the whole id names one."
    from dd_repro.public import public_sets
    from dd_repro.published import PUBLISHED
    _, data, method, ipc, *more = r.row.split('/')
    known = {p.folder: p for p in public_sets().values()}
    return next((known[n] for n in (f'{method}-{data}-{ipc}', f'{method}-zca-{data}-{ipc}') if n in PUBLISHED and n in known), None) if not more else None

@cache
def printed_cells():
    "Row id in lower case -> printed line."
    from dd_repro.papers import printed_by_name
    return printed_by_name()

def printed_of(r):
    "(Text, number) that is printed for this row's cell: same method, network and metric. A file of others has its authors' number."
    from dd_repro.papers import family, printed_text, slug
    if r.row.startswith('published/'):
        found = authors_of(r)
        return found and (found.printed, float(found.printed.split()[0]))
    p = printed_cells().get(r.row.lower())
    if p is None or not p.value or p.metric != r.metric or slug(p.method) != slug(word_of(r)) or family(p.eval_arch) not in ('', family(r.net)): return None
    return printed_text(p), p.number

def sizes(r, recorded, files, listed):
    "Bytes of a row's artefact: alone, with labels, with a decoder; None where nobody knows."
    got = recorded.get((r.row, r.artefact))
    if got:
        images, told = got['bytes'], 'bytes_with_labels' in got
        if not told and "labels 'soft'" in r.deviations: return None, images, got.get('bytes_with_decoder', images) # older rows weigh both at once
        return images, got.get('bytes_with_labels', images), got.get('bytes_with_decoder', images)
    stored = any(f'({s}' in r.deviations for s in STORED)
    if r.artefact in files:
        b = files[r.artefact][1]
        return b['images'], *((None, None) if stored else (b['images'] + b['labels'], sum(b.values())))
    if r.artefact in listed: return listed[r.artefact][1], *((None,)*2 if r.method == 'DATM' else (listed[r.artefact][1],)*2)
    size = product(r, budget_of(r, files, listed))
    return size, *((None, None) if stored or r.method == 'DATM' else (size, size))

def chosen(r):
    "Is a row an accuracy of an artefact, and more than a first step?"
    return r.metric == 'test_acc' and bool(r.artefact) and r.protocol != 'smoke'

def lines(root):
    "A line for each accuracy with an artefact: column -> (text, number to sort by, link)."
    from dd_repro.records import read_rows
    root, out = Path(root), []
    files, listed = shipped(root), public()
    for f in sorted((root/'docs'/'results').glob('*.csv')):
        rows = read_rows(f)
        recorded = weighed(rows)
        out += [line(r, f.name, i, sizes(r, recorded, files, listed), files, listed, root) for i, r in enumerate(rows, 2) if chosen(r)]
    return sorted(out, key=lambda l: (l['data'][0], -l['accuracy, %'][1]))

def line(r, file, i, size, files, listed, root):
    "One row as cells."
    spread = f' ± {r.std:.1f}' if r.n > 1 else ''
    where = (f'../{files[r.artefact][0].relative_to(root).as_posix()}' if r.artefact in files else listed.get(r.artefact, ('', 0, ''))[2])
    name = files[r.artefact][0].stem if r.artefact in files else listed[r.artefact][0] if r.artefact in listed else r.artefact
    looks = (f'{r.best:.1f} of {r.k}', r.best) if r.k and r.best == r.best else ('', -1)
    cells = dict(data=data_of(r), method=r.method, network=r.net, protocol=r.protocol)
    many, said = budget_of(r, files, listed), printed_of(r)
    out = {k: (v, v, '') for k, v in cells.items()} | {'accuracy, %': (f'{r.mean:.1f}{spread}', r.mean, ''), 'best of looks': (*looks, ''), 'n': (str(r.n), r.n, '')}
    out['ipc'] = (f'{many[0]}' + f' {many[1]}'*(many[1] != 'ipc'), many[0], '') if many else ('–', -1, '')
    out['printed, %'] = (*said, '') if said else ('', -1, '')
    for k, v in zip(('bytes', 'with labels', 'with decoder'), size): out[k] = ('–' if v is None else f'{v:,}', -1 if v is None else v, '')
    return out | dict(artefact=(name, name, where), record=(r.row, f'{file}:{i:06}', f'results/{file}'))

def cell(k, text, value, link):
    "A cell of HTML."
    text = html.escape(text)
    if link: text = f'<a href="{html.escape(link)}">{text}</a>'
    key = f' data-v="{value:.10g}"' if k in NUMBERS else ''
    return f'<td{key}>{text}</td>'

def table(found):
    "The table of HTML; a reader without scripts has it sorted by data and accuracy."
    head = ''.join(f'<th scope="col"{" data-n" if k in NUMBERS else ""}>{k}</th>' for k in HEAD)
    body = '\n'.join(f'<tr>{"".join(cell(k, *l[k]) for k in HEAD)}</tr>' for l in found)
    return f'<div class="grid-room"><table class="ours sortable"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'

def page(root):
    "The page as markdown; '' where there are no results."
    if not any((Path(root)/'docs'/'results').glob('*.csv')): return ''
    return f'{ABOUT}\n{table(lines(root))}\n'
