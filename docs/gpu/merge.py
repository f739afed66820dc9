#!/usr/bin/env python3
"""Run in the checkout after each call, with the project's own Python: takes over what came back.

    .venv/bin/python docs/gpu/merge.py FOLDER          # with rows.tar, state-*.tar, check.jsonl

Rows are appended to docs/results/*.csv by the package's own reader and writer; those that are
there already are left out, so that it can be run twice. Sets and checkpoints go to .carry/state,
from where stage.py sends them along, and logs to .carry/logs."""
import argparse
import dataclasses
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

STATE, LOGS, RESULTS = Path('.carry/state'), Path('.carry/logs'), Path('docs/results')
WHY = 'before the audit of recipes'
# cell of the check -> what is recorded
MEASURED = {'MTT iteration': 'ms', 'expert': 'ms_a_step', 'students': 'ms_an_epoch_of_5',
            'matching': 'ms', 'a path': 'ms', 'layout': 'ms', 'teacher': 'ms', 'd3': 'total',
            'd3s': 'full', 'synthesis': 'ms', 'factors': 'ms_factor',
            'launches': 'launches', 'method against the CPU': 'rel'}
ABOUT = ('what', 'method', 'ipc', 'ppc', 'batch', 'k', 'mode', 'together', 'tf32', 'last',
         'dtype', 'graph', 'px', 'channels', 'stacked')
UNITS = dict(launches='', rel='')


def same(row):
    "What tells rows apart: all of it but the commit, which is that of the tree that travelled."
    return json.dumps(dataclasses.asdict(row) | dict(commit=''), default=str)

def read_json(path):
    "A file of JSON; empty where there is none."
    try: return json.loads(path.read_text())
    except (OSError, ValueError): return {}

def take_out(archive, to):
    "The files of an archive, each whole or not at all, unless a newer one is there."
    for m in archive:
        new = to/m.name
        if not m.isfile() or new.is_file() and new.stat().st_mtime > m.mtime: continue
        archive.extract(m, to/'.part', filter='data')
        new.parent.mkdir(parents=True, exist_ok=True)
        os.replace(to/'.part'/m.name, new)

def unpack(folder):
    "The files of all archives in a new folder; one that was cut off gives what is whole in it."
    to = Path(tempfile.mkdtemp(prefix='merge-'))
    for f in sorted(folder.rglob('*.tar')) + sorted(folder.rglob('*.tar.part')):
        try:
            with tarfile.open(f) as archive: take_out(archive, to)
        except (tarfile.TarError, EOFError, OSError) as e:
            print(f'{f.name}: cut off ({e}); what came before is used')
    shutil.rmtree(to/'.part', ignore_errors=True)
    return to

def modest(row):
    "A row that says `paper` becomes `decided`, with the reason, while recipes are under audit."
    if row.protocol != 'paper': return row
    why = '; '.join(filter(None, (row.deviations, WHY)))
    return dataclasses.replace(row, protocol='decided', deviations=why)

def merge_file(file, results, commits, last, a):
    "Append what is new in one file of rows; returns the new rows."
    from dd_repro.records import read_rows, record
    rows = read_rows(file) # ValueError where a hash does not fit
    if not a.paper: rows = [modest(r) for r in rows]
    have = {same(r) for r in read_rows(results/file.name)}
    new = [r for r in rows if same(r) not in have and (a.smoke or r.protocol != 'smoke')]
    for r in new: r.commit = last or r.commit or commits.get(r.row.removeprefix('smoke/'))
    if any(not r.commit for r in new):
        raise ValueError(f'{file.name}: rows without a commit, nor is one noted')
    if new: record(new, results/file.name)
    print(f'{file.name}: {len(new)} new of {len(rows)} rows')
    return new

def check_row(cell, device, commit, date):
    "A measured cell of the check as a row."
    from dd_repro.records import Row
    from dd_repro.core import settings_hash
    what, name = MEASURED[cell['cell']], cell['cell'].lower().replace(' ', '-')
    about = {k: cell[k] for k in ABOUT if k in cell}
    mean = cell[what]*(1e3 if name in ('d3', 'd3s') else 1)
    tf32 = 'convolutions' if cell.get('tf32', True) else 'off'
    said = [f'{k} {cell[k]:.3g}' for k in ('twice', 'tflops') if k in cell]
    return Row('/'.join(['gpu', name, *(f'{k}={v}' for k, v in about.items())]), 'decided',
               '; '.join(said), name, 'convnet', what, UNITS.get(what, 'ms'), 1, mean=mean,
               memory_mb=cell.get('memory_mb', float('nan')), commit=commit, date=date,
               device=device.split(', TF32')[0] + f', TF32 {tf32}', settings=settings_hash(about))

def check_rows(file, commit):
    "Rows of a check; none of cells that failed."
    cells = [json.loads(l) for l in file.read_text().splitlines()]
    device = next((c['device'] for c in cells if c['cell'] == 'machine'), '')
    date = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(file.stat().st_mtime))
    fine = [c for c in cells if c['cell'] in MEASURED and 'error' not in c]
    return [check_row(c, device, commit, date) for c in fine]

def row_seconds(done, rows, commit):
    "What whole rows took, from the first line of their process to the last."
    from dd_repro.core import settings_hash
    from dd_repro.records import Row
    device = {r.row: r.device for r in rows}
    return [Row(f'gpu/row/{d["row"]}', 'decided', ' '.join(line.split()[1:]), 'row', '',
                'row_seconds', 's', 1, mean=d['seconds'], device=device[d['row']], commit=commit,
                date=d['date'], settings=settings_hash(line))
            for line, d in done.items() if d['whole'] and d['row'] in device]

def merge_check(folder, results, commit, more=()):
    "Append what a check measured, and other seconds, once."
    from dd_repro.records import read_rows, record
    new = [r for f in folder.glob('check.jsonl') for r in check_rows(f, commit)] + list(more)
    told = lambda r: (r.row, f'{r.mean:.6g}') # as a file has it
    have = {told(r) for r in read_rows(results/'gpu.csv')}
    new = [r for r in new if told(r) not in have]
    if new: record(new, results/'gpu.csv')
    print(f'gpu.csv: {len(new)} new rows of seconds')

def merge_rows(came, done, a):
    "Append what is new, file by file; returns the new rows."
    last = read_json(came/'note.json').get('calls', [{}])[-1].get('commit', '')
    commits = {d['row']: d.get('commit', '') for d in done.values()}
    files = sorted((came/'results').glob('*.csv'))
    return [r for f in files for r in merge_file(f, Path(a.results), commits, last, a)]

def keep(files, folder, base):
    "Files that are newer than those in a folder go there; returns their new names."
    new = []
    for f in sorted(p for p in files if p.is_file()):
        to = folder/f.relative_to(base)
        if to.is_file() and to.stat().st_mtime > f.stat().st_mtime - 1: continue
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(f, to)
        new.append(to)
    return new

def merge_state(came, done):
    "Sets and checkpoints, and the list of what was done; returns the names of the new files."
    new, old = keep(came.glob('rows/*/*'), STATE, came), read_json(STATE/'done.json')
    STATE.mkdir(parents=True, exist_ok=True)
    newer = {k: d for k, d in done.items() if d.get('date', '') >= old.get(k, {}).get('date', '')}
    (STATE/'done.json').write_text(json.dumps(old | newer, indent=1))
    return new

def take_over(a):
    "Everything that came back: new rows, new files, and how each row ended."
    came, folder = unpack(Path(a.folder)), Path(a.folder)
    done = read_json(came/'done.json')
    try:
        rows, files = merge_rows(came, done, a), merge_state(came, done)
        last = read_json(came/'note.json').get('calls', [{}])[-1].get('commit', '')
        fresh = [r for r in rows if not r.row.startswith(('plan/', 'smoke/'))]
        merge_check(folder, Path(a.results), last, row_seconds(done, fresh, last))
        keep((came/'logs').glob('*'), LOGS, came/'logs')
        keep(folder.glob('check.jsonl'), LOGS, folder)
        return rows, files, done
    except ValueError as e: sys.exit(f'nothing further was taken over: {e}')
    finally: shutil.rmtree(came)

def tell(rows, files, done):
    "New rows and their sets, files that were kept, and what is open or failed."
    from dd_repro.files import file_sha256
    sets = {file_sha256(f)[:16]: f for f in STATE.glob('rows/*/distilled.safetensors')}
    for r in rows:
        print(f'new  {r.row}  {" ".join(str(r).split())}  {r.device}, {r.commit}')
        if r.artefact: print(f'     its set: {sets.get(r.artefact, "did not come back")}')
    for f in files: print(f'kept {f}  {f.stat().st_size/2**20:.1f} MiB')
    for k, d in done.items():
        if d['failed']: print(f'FAILED {d["failed"]} times: {k}: see {LOGS}')
        elif not d['whole']: print(f'open {k}: {d["seconds"]:.0f} s so far')

def main():
    "The command line."
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', help='where the files of a call are')
    p.add_argument('--results', default=str(RESULTS))
    p.add_argument('--smoke', action='store_true', help='smoke rows, too')
    p.add_argument('--paper', action='store_true',
                   help='rows may say paper: once recipes have been audited')
    a = p.parse_args()
    if not any(Path(a.folder).rglob('rows.tar*')): sys.exit(f'{a.folder}: no rows.tar there')
    sys.path.insert(0, '.')
    tell(*take_over(a))

if __name__ == '__main__': main()
