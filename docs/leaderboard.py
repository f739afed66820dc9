"""The page that puts every accuracy with an artefact in one line, beside its bytes; it is made of the results files alone."""
import html
from pathlib import Path

HEAD = ('data', 'method', 'network', 'accuracy, %', 'best of looks', 'n', 'protocol', 'bytes', 'with labels', 'with decoder', 'artefact', 'record')
NUMBERS = {'accuracy, %', 'best of looks', 'n', 'bytes', 'with labels', 'with decoder'}
KNOWN = 'tinyimagenet imagenet21k imagenet1k cifar100 cifar10 digits'.split()
STORED = ('d3s-', 'sre2l-') # protocols whose labels lie in a store, which a row does not weigh
ABOUT = '''# Leaderboard

Every accuracy in our results files that belongs to an artefact, one line each. Bytes are those of the images, codes or coefficients alone; then with their soft labels; then with a decoder or an autoencoder, too. Class numbers are free. A dash says that nobody recorded it.
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
        try: out[file_sha256(f)[:16]] = f, bytes_in(Distilled.load(f))
        except ValueError: pass # an autoencoder, say
    return out

def public():
    "Hash -> (name, bytes of its images, address) of the listed sets of others, which are stored as floats."
    from dd_repro.plans import SETS
    from dd_repro.public import public_sets
    out = {}
    for p in public_sets().values():
        if p.data not in SETS: continue
        classes, _, side = SETS[p.data]
        for sha in p.files.values(): out[sha[:16]] = p.name, 4*3*p.ipc*classes*side**2, p.address
    return out

def weighed(rows):
    "(Row id, artefact) -> bytes by use, as rows recorded them."
    out = {}
    for r in rows:
        if r.metric in ('bytes', 'bytes_with_labels', 'bytes_with_decoder') and r.artefact: out.setdefault((r.row, r.artefact), {})[r.metric] = int(r.mean)
    return out

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
    return None, None, None

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
    out = {k: (v, v, '') for k, v in cells.items()} | {'accuracy, %': (f'{r.mean:.1f}{spread}', r.mean, ''), 'best of looks': (*looks, ''), 'n': (str(r.n), r.n, '')}
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
