#!/usr/bin/env python3
"""Run in the checkout before a lease: fills .carry/call-1, -2 and -3, and prints the commands.

    .venv/bin/python docs/gpu/stage.py all --data DATA    # all three; moves three folders aside
    .venv/bin/python docs/gpu/stage.py 1                  # the first: half of the data, the check
    .venv/bin/python docs/gpu/stage.py 2                  # the second: the rest of the data
    .venv/bin/python docs/gpu/stage.py 3                  # the third: all that earlier leases left
    .venv/bin/python docs/gpu/stage.py restore            # puts the three folders back

The three folders are docs/artefacts, docs/images and nbs. All that is made lies under .carry and
.whl, which git ignores. Commit nothing before `restore`."""
import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from lease import read_queue

KIT, CARRY, WHL = Path(__file__).resolve().parent, Path('.carry'), Path('.whl')
STATE, ASIDE = CARRY/'state', CARRY/'aside'
MIB, LIMIT = 1 << 20, 60 # MiB that may travel; the machine takes 64
BIG = 'docs/artefacts', 'docs/images', 'nbs'
DATA = {1: ('unpack.py', 'manifest.json', 'cifar10-train-1.npz'),
        2: ('cifar10-train-2.npz', 'cifar10-test.npz'), 3: ()}
WHEELS = 'fastcore==1.14.5', 'kornia==0.9.0', 'kornia_rs==0.2.0'
PIP = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:',
       '--implementation', 'cp']
PLATFORMS = [f'--platform=manylinux{n}_x86_64' for n in ('_2_28', '_2_27', '_2_17', '2014', '1')]
MINUTES = {1: '4 --check', 2: '8', 3: 'M'}
RUN = 'python3 {0}/lease.py --out $OUT --home $HOME/dd --queue {0}/queue.txt --minutes {1}'


def git(*words):
    "What git prints."
    return subprocess.run(['git', *words], capture_output=True, text=True, check=True).stdout

def commit():
    "As results carry it: 12 digits, and + where the code was changed."
    changed = git('status', '--porcelain', '--untracked-files=no', '--', '*.py').strip()
    return git('rev-parse', 'HEAD')[:12] + ('+' if changed else '')

def move(back=False):
    "docs/artefacts, docs/images and nbs out of the tree, or back."
    for name in BIG:
        src, to = (ASIDE/name, Path(name)) if back else (Path(name), ASIDE/name)
        if not src.is_dir(): continue
        if to.exists():
            sys.exit(f'{src} and {to} are both there: see which one is right, remove the other')
        to.parent.mkdir(parents=True, exist_ok=True)
        os.rename(src, to)

def wheels(python):
    "Download what is not there yet; a wheel of another Python is not taken along."
    WHL.mkdir(exist_ok=True)
    fits, found = {'py3', 'abi3', f'cp{python.replace(".", "")}'}, []
    for want in WHEELS:
        name, version = want.split('==')
        def have():
            made = WHL.glob(f'{name}-{version}-*.whl')
            return [w for w in made if fits & set(w.stem.split('-'))]
        if not have():
            subprocess.run([*PIP, *PLATFORMS, '--python-version', python, '-d', WHL, want],
                           check=True)
        found += have()[:1]
    return found

def size(files):
    "Bytes of those that are files."
    return sum(f.stat().st_size for f in files if f.is_file())

def tree():
    "Bytes of what travels: tracked, or neither tracked nor ignored; not the three folders."
    names = git('ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0')
    return size({Path(n) for n in names if n and not n.startswith(tuple(f'{b}/' for b in BIG))})

def check_queue(path):
    "The end, in one line, for a row or a setting that this tree does not know."
    sys.path.insert(0, '.')
    from dd_repro.recipes import recipe
    for _, (row, *words) in read_queue(path):
        try: known = recipe(row).settings
        except ValueError as e: sys.exit(f'{path}: {e}')
        for name in (w.split('=')[0] for w in words if '=' in w):
            if name not in known: sys.exit(f'{path}: {row} has no setting {name!r}')

def contents(call, a, sent):
    "What a call carries, name -> file, and how many files of earlier leases do not fit."
    files = {f'data/{n}': Path(a.data)/n for n in DATA[call]}
    files |= {n: KIT/n for n in ('lease.py', 'check_gpu.py')} | {'queue.txt': Path(a.queue)}
    missing = [str(f) for f in files.values() if not f.is_file()]
    if missing: sys.exit(f'not there: {", ".join(missing)}; see --data and --queue')
    if call == 1 and not a.no_wheels: files |= {f'whl/{w.name}': w for w in wheels(a.python)}
    room = LIMIT*MIB - tree() - size(files.values())
    if room < 0: sys.exit(f'call {call}: {LIMIT - room/MIB:.1f} MiB is too much; at most {LIMIT}')
    kept = {f'state/{f.relative_to(STATE)}': f for f in STATE.rglob('*') if f.is_file()}
    kept = {n: f for n, f in kept.items() if n not in sent}
    for name in sorted(kept, key=lambda n: (n != 'state/done.json', kept[n].stat().st_size)):
        room -= kept[name].stat().st_size
        if room >= 0: files[name] = kept[name]
    return files, len(kept.keys() - files.keys())

def fill(call, files, left):
    "Make the folder of one call, and say what is to be run."
    folder = CARRY/f'call-{call}'
    if folder.is_dir(): shutil.rmtree(folder)
    for name, f in files.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(f, folder/name)
    (folder/'commit').write_text(commit() + '\n')
    whole = (tree() + size(files.values()))/MIB
    print(f'\ncall {call}: {whole:.1f} of {LIMIT} MiB, the tree {tree()/MIB:.1f}')
    if left: print(f'{left} files of earlier leases do not fit here')
    print(f'  carry    {folder}\n  command  {RUN.format(folder, MINUTES[call])}')

def stage(calls, a):
    "Look at all that is asked for, and only then move and copy."
    check_queue(a.queue)
    plans, first = {}, CARRY/'call-1'
    there = {str(f.relative_to(first)) for f in first.rglob('*')}
    for n in calls:
        sent = {2: plans[1][0] if 1 in plans else there}.get(n, ()) # by the call before
        plans[n] = contents(n, a, sent)
    move()
    for n, (files, left) in plans.items(): fill(n, files, left)

def restore():
    "The three folders back, the folders of calls away."
    move(back=True)
    for folder in CARRY.glob('call-*'): shutil.rmtree(folder)
    for folder in (ASIDE/'docs', ASIDE):
        if folder.is_dir() and not any(folder.iterdir()): folder.rmdir()
    print(' and '.join(BIG), 'are back; git says:', git('status', '--short') or 'nothing changed')

def main():
    "The command line."
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('what', choices=('1', '2', '3', 'all', 'restore'))
    p.add_argument('--data', default='.data/packed', help='folder of packed data and unpack.py')
    p.add_argument('--queue', default=str(KIT/'queue.txt'), help='rows to be run')
    p.add_argument('--python', default='3.12', help='of the GPU machine')
    p.add_argument('--no_wheels', action='store_true', help='fetch and take along no packages')
    a = p.parse_args()
    if not Path('dd_repro').is_dir() or not Path('.git').exists():
        sys.exit('run this in the top folder of a checkout')
    if a.what == 'restore': restore()
    else: stage((1, 2, 3) if a.what == 'all' else (int(a.what),), a)

if __name__ == '__main__': main()
