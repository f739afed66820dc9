"""Every setting of every printed row as text, and the difference between two such dumps.

    python tests/recipes.py --out FILE        a line a setting; FILE ends in .csv or .csv.gz
    python tests/recipes.py --diff OLD NEW    what changed: method, setting, old -> new, rows
    python tests/recipes.py --diff OLD        against this tree

A row that cannot be run has one line with the reason. The dump of the commit before the rebuild is
tests/assets/recipes-before.csv.gz. Nothing here imports torch."""
import argparse, csv, gzip, importlib, io, sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEFORE = ROOT/'tests'/'assets'/'recipes-before.csv.gz'
COLUMNS = ('row', 'method', 'stage', 'name', 'value', 'kind', 'source')
# what a recipe says beside its settings
FACTS = 'method stage metric dataset size budget budget_kind train_net eval_net kind'.split()
WHAT = ('value', 'kind', 'source') # of a setting, each compared by itself
MODULES = ('recipes', 'printed', 'results') # where a tree may keep them


def library(*names):
    "The first of these names that the library has."
    for m in MODULES:
        try: module = importlib.import_module(f'dd_repro.{m}')
        except ModuleNotFoundError: continue
        for n in names:
            if hasattr(module, n): return getattr(module, n)
    raise ImportError(f'no module of {", ".join(MODULES)} has {" or ".join(names)}')

def rows():
    "The names of all printed rows, in the order of the papers."
    return [l['row'] for l in library('printed_lines', '_lines')()]

def _said(v): return '' if v is None else str(v)

def of_row(row):
    "The lines of one row: facts, then settings by name; or the reason why there are none."
    try: r = library('recipe')(row)
    except ValueError as e:
        why = ' '.join(str(e).removeprefix(f'{row}: ').split())
        return [(row, '', '', '', why, 'cannot', '')]
    head = (r.row, r.method, r.stage)
    facts = [(*head, f'({n})', _said(getattr(r, n)), '', '') for n in FACTS]
    own = sorted(r.settings.items())
    return facts + [(*head, n, repr(v.value), v.kind, v.source) for n, v in own]

def dump():
    "All lines, sorted."
    return sorted(l for r in rows() for l in of_row(r))

def write(lines, file):
    "Write a dump; the same lines give the same bytes."
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([COLUMNS, *lines])
    data = text.getvalue().encode()
    Path(file).write_bytes(gzip.compress(data, mtime=0) if str(file).endswith('.gz') else data)

def read(file):
    "The lines of a dump; ValueError where a file is none."
    data = Path(file).read_bytes()
    text = (gzip.decompress(data) if str(file).endswith('.gz') else data).decode()
    head, *lines = csv.reader(io.StringIO(text, newline='')) if text else [[]]
    if tuple(head) != COLUMNS:
        raise ValueError(f'{file}: not a dump of recipes (columns: {", ".join(head)})')
    return list(map(tuple, lines))

def _by_setting(lines): return {(l[0], l[3]): dict(zip(COLUMNS, l)) for l in lines}

def differences(old, new):
    "(what, method, setting, old, new) -> rows; '-' stands for what is not there."
    a, b, found = _by_setting(old), _by_setting(new), {}
    for at in sorted(a.keys() | b.keys()):
        x, y = a.get(at, {}), b.get(at, {})
        method = ' -> '.join(dict.fromkeys(l['method'] for l in (x, y) if l))
        for w in WHAT if x and y else WHAT[:1]: # of what comes or goes the value is enough
            was, now = x.get(w, '-'), y.get(w, '-')
            if was != now: found.setdefault((w, method, at[1], was, now), []).append(at[0])
    return dict(sorted(found.items(), key=lambda kv: (WHAT.index(kv[0][0]), kv[0])))

def report(found, shown=4):
    "Lines to print: a line a group, and a sum; `shown` names of rows a group."
    lines, last = [], ''
    for (what, method, name, old, new), hit in found.items():
        if what != last: lines.append(f'== {what}s')
        last, more = what, f' and {len(hit) - shown} more' if len(hit) > shown else ''
        where = f'{method or "(cannot run)"} {name or "(reason)"}'
        names = ' '.join(hit[:shown]) + more
        lines.append(f'{where}: {old} -> {new}: {len(hit)} rows: {names}')
    sums = Counter(k[0] for k in found)
    told = ', '.join(f'{sums[w]} of {w}s' for w in WHAT)
    rows = {r for hit in found.values() for r in hit}
    return lines + [f'{len(found)} groups differ ({told}), {len(rows)} rows']

def main():
    "The command line; --diff ends with status 1 where something differs."
    form = argparse.RawDescriptionHelpFormatter
    a = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    a.add_argument('--out', metavar='FILE', help='write the dump of this tree')
    a.add_argument('--diff', nargs='+', metavar='FILE', help='one dump against this tree, or two')
    a.add_argument('--rows', type=int, default=4, help='rows that a group names (default: 4)')
    o = a.parse_args()
    if not (o.out or o.diff) or len(o.diff or ()) > 2:
        a.error('give --out FILE, or --diff with one or two files')
    if o.out: write(dump(), o.out)
    if not o.diff: return
    try:
        old, *new = map(read, o.diff)
        found = differences(old, new[0] if new else dump())
    except (ValueError, OSError) as e: a.exit(2, f'recipes: {e}\n')
    print(*report(found, o.rows), sep='\n')
    sys.exit(bool(found))

if __name__ == '__main__': main()
