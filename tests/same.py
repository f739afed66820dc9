"""What must not change: small runs of every method, in another commit and here, bit by bit.

    make same, or python tests/same.py       against the commit before the rebuild
    python tests/same.py v0.1 --only mtt d3  against another one, only some cases
    python tests/same.py --at FOLDER         where the other tree lies, and stays for the next time
    python tests/same.py --list              the cases

Both trees run `tests/same_drive.py` of this one, on this machine, with one thread, each in its own
environment (`make venv`)."""
import argparse, json, os, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from same_drive import chosen, title

ROOT = Path(__file__).resolve().parent.parent
BEFORE = 'ddb195d' # the commit before the rebuild
# (part of a case's title, part of a value's name) -> why it differs, as in docs/decisions.md
EXPLAINED = {
    ('', 'info.settings'): 'a card has the fields of its method now, by their names',
    ('', '/settings'): 'the hash of a recipe, whose settings have the names of fields now',
    ('row', '/deviations'): 'settings have the names of fields now',
    ('', 'card.settings'): 'the same, of labels',
    ('method random', 'distilled/'): 'a choice is stored, as any set', ('method herding', 'distilled/'): 'likewise',
    ('method forgetting', 'distilled/'): 'likewise',
    ('', 'card.init.info.iterations'): 'a choice says that it took none', ('', 'card.init.info.seed'): 'and its seed',
    ('method', 'set/card.init.info'): 'and where it was made',
    ('jitter', ''): 'rolls take both ends of their range', ('/sre2l/', ''): 'likewise, and both ways', ('/cda/', ''): 'likewise',
    ('row d3/', ''): "D3's rows decode in passes, as its successor's code", ('row latentdd/', '/row'): "evaluated in IDC's order",
    ('row d3s/table1/imagenet', ''): 'teachers crop from photographs'}
SHOWN = 6 # differing values of a case that are printed; --all prints every one


def explained(case, name, why=EXPLAINED):
    "The reason that is written down for a difference, or ''."
    return next((text for (c, n), text in why.items() if c in case and n in name), '')

def differing(old, new):
    "(name, old, new) of the values of a case that differ or are on one side only."
    both = ((n, old.get(n), new.get(n)) for n in sorted(old.keys() | new.keys()))
    return [(n, a, b) for n, a, b in both if a != b]

def compared(old, new, why=EXPLAINED):
    "Case -> (values, differences, reasons); one that failed or is empty is a difference."
    out = {}
    for c in dict.fromkeys([*old, *new]):
        a, b = old.get(c, {}), new.get(c, {})
        found = differing(a, b)
        reasons = sorted({explained(c, n, why) for n, *_ in found} - {''})
        found = [d for d in found if not explained(c, d[0], why)]
        if 'error' in a and a == b: found = [('error', a['error'], b['error'])]
        if not a and not b: found = [('nothing was compared', None, None)]
        out[c] = (len(a.keys() | b.keys()), found, reasons)
    return out

def report(result, shown=SHOWN):
    "Lines to print, and whether all cases are equal."
    lines = []
    for c, (n, found, reasons) in result.items():
        if found: lines.append(f'differs: {c} ({len(found)} of {n} values)')
        lines += [f'    {name}: {a} -> {b}' for name, a, b in found[:shown]]
        if len(found) > shown: lines.append(f'    and {len(found) - shown} more (--all shows them)')
        lines += [f'explained: {c}: {r}' for r in reasons]
    equal = sum(not found for _, found, _ in result.values())
    values = sum(n for n, *_ in result.values())
    return lines + [f'{equal} of {len(result)} equal ({values} values)'], equal == len(result) > 0

def git(*words):
    "The output of git at the top of this tree; ValueError in one line where it fails."
    r = subprocess.run(['git', *words], cwd=ROOT, capture_output=True, text=True)
    if r.returncode: raise ValueError(f'git {words[0]}: {" ".join((r.stderr or r.stdout).split())}')
    return r.stdout.strip()

def commit_of(name):
    "The full name of a commit or tag; ValueError where this repository does not have it."
    try: return git('rev-parse', '--verify', '--quiet', f'{name}^{{commit}}')
    except ValueError: raise ValueError(f'{name!r} is no commit or tag that is here') from None

def tree_of(commit, at=None):
    "A worktree of a commit with its own environment, made where it is not there yet."
    folder = Path(at or Path(tempfile.gettempdir())/f'dd_repro-{commit[:12]}').resolve()
    if not (folder/'Makefile').is_file():
        git('worktree', 'prune')
        git('worktree', 'add', '--detach', str(folder), commit)
    have = git('-C', str(folder), 'rev-parse', 'HEAD')
    if have != commit: raise ValueError(f'{folder}: holds {have[:12]}, not {commit[:12]}')
    if changed := git('-C', str(folder), 'status', '--porcelain', '--untracked-files=no'):
        raise ValueError(f'{folder}: was edited ({changed.split()[-1]}); give another --at')
    return with_environment(folder)

def with_environment(folder):
    "The folder, once `make venv` ended well in it."
    r = subprocess.run(['make', 'venv'], cwd=folder, capture_output=True, text=True)
    if r.returncode: raise ValueError(f'{folder}: make venv: {" ".join(r.stderr.split())[-300:]}')
    return folder

def driven(tree, out, only):
    "Run the driver with a tree's Python, away from any house of the user; what it wrote."
    env = {k: v for k, v in os.environ.items() if not k.startswith('DD_')}
    env |= dict(OMP_NUM_THREADS='1', DD_DEVICE='cpu', MPLBACKEND='agg', PYTHONPATH=str(tree))
    cmd = [tree/'.venv'/'bin'/'python', ROOT/'tests'/'same_drive.py', out]
    if only: cmd += ['--only', *only]
    with tempfile.TemporaryDirectory() as home:
        env['DD_HOME'] = home
        r = subprocess.run(list(map(str, cmd)), cwd=home, env=env, capture_output=True, text=True)
    if r.returncode: raise ValueError(f'{tree}: the driver failed: {r.stderr.strip()[-1500:]}')
    return json.loads(Path(out).read_text())

def both(commit, at, only):
    "What the driver found in the other tree and in this one; both at a time."
    trees = [tree_of(commit_of(commit), at), with_environment(ROOT)]
    print(f'{trees[0]} ({commit}) against {ROOT}', flush=True)
    with tempfile.TemporaryDirectory() as tmp, ThreadPoolExecutor(2) as ex:
        return list(ex.map(lambda i: driven(trees[i], Path(tmp)/f'{i}.json', only), range(2)))

def main():
    "The command line; exit status 1 where something differs, 2 where it could not be compared."
    form = argparse.RawDescriptionHelpFormatter
    a = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    a.add_argument('commit', nargs='?', default=BEFORE, help=f'commit or tag (default: {BEFORE})')
    a.add_argument('--at', metavar='FOLDER', help='of the other tree (default: a temporary one)')
    a.add_argument('--only', nargs='+', default=[], metavar='WORD', help='cases that have it')
    a.add_argument('--all', action='store_true', help='print every differing value')
    a.add_argument('--list', action='store_true', help='print the cases and stop')
    o = a.parse_args()
    if o.list: return print(*map(title, chosen(o.only)), sep='\n')
    if not chosen(o.only): a.error(f'no case has {" or ".join(o.only)}; --list shows them')
    try: result = compared(*both(o.commit, o.at, o.only))
    except ValueError as e: a.exit(2, f'same: {e}\n')
    lines, equal = report(result, 10**9 if o.all else SHOWN)
    print(*lines, sep='\n')
    sys.exit(not equal)

if __name__ == '__main__': main()
