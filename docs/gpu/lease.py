#!/usr/bin/env python3
"""On the GPU machine: run a queue of rows in a time box. What came out is in OUT, also when killed.

    python3 .carry/call-2/lease.py --minutes 8 --out $OUT --home $HOME/dd --queue QUEUE

Run in the top folder of the tree that came along. Needs only Python's own library; the rows are
run by `dd_rows` of that tree, each set in a process of its own. The same command goes on where the
last one stopped: finished rows are left out, others resume from their files in the home."""
import argparse
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIECES = 'cifar10-train-1.npz', 'cifar10-train-2.npz', 'cifar10-test.npz'
STATES, FILE, TOTAL = 4, 31 << 19, 46 << 20 # files of state; bytes of one (15.5 MiB), and of all
CORES = os.cpu_count() or 1
FEW = max(1, min(4, CORES//4)) # threads beside a GPU


# ------------------------------------------------------------ what came along
def unpack_wheels(folder, site):
    "A wheel is a zip file; those for another Python are named."
    ours, wrong = {f'cp{sys.version_info[0]}{sys.version_info[1]}', 'py3'}, []
    for w in sorted(folder.glob('*.whl')):
        python, abi, _ = w.stem.split('-')[-3:]
        if not (ours & set(python.split('.')) or abi == 'abi3'):
            wrong.append(w.name)
            continue
        with zipfile.ZipFile(w) as z: z.extractall(site)
    return wrong

def place(src, to):
    "Copy a file so that it is whole or absent."
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f'.{to.name}.part')
    shutil.copy2(src, part)
    os.replace(part, to)

def take_data(data):
    "All pieces so far in one place, unpacked when none is missing; returns those that are."
    for f in (HERE/'data').glob('*'): place(f, data/'packed'/f.name)
    missing = [p for p in PIECES if not (data/'packed'/p).is_file()]
    unpack = [sys.executable, data/'packed'/'unpack.py', data, 'cifar10']
    if not missing: subprocess.run(unpack, check=True, stdout=subprocess.DEVNULL)
    return missing

def take_state(home):
    "Files of an earlier lease, where the home has none of its own."
    for f in (HERE/'state').rglob('*'):
        to = home/f.relative_to(HERE/'state')
        if f.is_file() and not to.exists(): place(f, to)

def read_queue(path):
    "Pairs (lane, words) of lines `lane row [--flag value] [name=value] [# remark]`."
    lines = [l.split('#')[0].split() for l in Path(path).read_text().splitlines()]
    return [(l[0], l[1:]) for l in lines if len(l) > 1]

def now():
    "The date, as rows carry it."
    return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())


# ------------------------------------------------------------ the lease
class Lease:
    "A time box, a home that stays between calls, and a folder that comes back."
    def __init__(self, a):
        self.a, self.out, self.home = a, Path(a.out), Path(a.home)
        self.data = Path(a.data).resolve()
        self.start = time.time()
        self.hard = self.start + 60*a.minutes
        for d in (self.out, self.home/'results', self.home/'logs'):
            d.mkdir(parents=True, exist_ok=True)
        self.commit = (HERE/'commit').read_text().strip() if (HERE/'commit').is_file() else ''
        take_state(self.home)
        self.told, self.packed, self.rows, self.shown = set(), 0., None, 0
        self.note()
        signal.signal(signal.SIGTERM, lambda *_: self.hurry())
    def read(self, name):
        "A file of the home; empty where there is none."
        try: return json.loads((self.home/name).read_text())
        except (OSError, ValueError): return {}
    def write(self, name, what):
        "A file of the home, whole or as it was."
        part = self.home/f'.{name}.part'
        part.write_text(json.dumps(what, indent=1))
        os.replace(part, self.home/name)
    def note(self):
        "One more call."
        note = self.read('note.json')
        call = dict(begun=now(), minutes=self.a.minutes, commit=self.commit)
        note.setdefault('calls', []).append(call | dict(python=platform.python_version()))
        self.write('note.json', note)
    def say(self, *words):
        "A line on the screen and in lease.log."
        line = f'{time.time() - self.start:5.0f} s  ' + ' '.join(map(str, words))
        print(line, flush=True)
        with open(self.out/'lease.log', 'a') as f: f.write(line + '\n')
    def hurry(self):
        "Asked to stop: what runs may save itself, then the end."
        self.hard = min(self.hard, time.time() + 35)
        if self.rows: self.rows.terminate()
    def env(self):
        "What a process of the package finds around it."
        home = self.home.resolve()
        path = [Path(self.a.site).resolve(), Path.cwd(), os.environ.get('PYTHONPATH')]
        own = dict(DD_HOME=home, DD_DATA=self.data, PYTHONUNBUFFERED=1,
                   PYTHONPATH=os.pathsep.join(str(p) for p in path if p),
                   TORCHINDUCTOR_CACHE_DIR=home/'inductor', TRITON_CACHE_DIR=home/'triton')
        if self.commit: own['DD_COMMIT'] = self.commit # there may be a .git of another commit
        return os.environ | {k: str(v) for k, v in own.items()}

    # -------------------------------------------------------- rows
    def run(self, queue):
        "The rows by dd_rows, in the time that is left; packed after each and every two minutes."
        file, log = self.home/'queue.txt', self.home/'logs'/'rows.log'
        file.write_text('\n'.join(' '.join(l) for l in queue) + '\n')
        command = [sys.executable, '-m', 'dd_repro', 'rows', file, '--last', '--root', self.data]
        command += ['--record_to', (self.home/'results').resolve(), '--device', self.a.device]
        command += ['--workers', str(self.a.workers)]*bool(self.a.workers)
        command += ['--minutes', f'{max(.1, (self.hard - time.time())/60 - .1):.2f}']
        self.shown = log.stat().st_size if log.is_file() else 0
        with open(log, 'a') as f:
            self.rows = subprocess.Popen(command, env=self.env(), stdout=f, stderr=f)
        while self.rows.poll() is None:
            ended = self.show(log)
            if ended or time.time() - self.packed > self.a.every: self.pack()
            if time.time() > self.hard + 5: self.rows.kill()
            time.sleep(self.a.poll)
        self.show(log)
    def show(self, log):
        "What dd_rows has said since; True when a row has ended."
        with open(log, 'rb') as f:
            f.seek(self.shown)
            lines = f.read().decode(errors='replace').splitlines(keepends=True)
        lines = [l for l in lines if l.endswith('\n')] # the last one may be half there
        self.shown += sum(len(l.encode()) for l in lines)
        for l in lines: self.say(l.rstrip())
        return any(' done ' in l or ' FAILED ' in l or ' left ' in l for l in lines)
    def stamp(self):
        "A row of this lease was made by the commit that came along."
        done = self.read('done.json')
        for d in done.values(): d['commit'] = d.get('commit') or self.commit
        if done: self.write('done.json', done)

    # -------------------------------------------------------- what comes back
    def tar(self, name, files):
        "Each file is read in one piece, since rows go on meanwhile."
        part = self.out/f'{name}.part'
        with tarfile.open(part, 'w') as t:
            for f in files:
                try: info, data = t.gettarinfo(f, str(f.relative_to(self.home))), f.read_bytes()
                except OSError as e:
                    self.say('not packed:', e)
                    continue
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
        os.replace(part, self.out/name)
    def state(self):
        "Sets, checkpoints and histories, those of the newest run first, dealt to a few files."
        names = 'checkpoint.safetensors', 'checkpoint.csv', 'distilled.safetensors'
        runs = [[d/n for n in names if (d/n).is_file()] for d in self.home.glob('rows/*')]
        age = lambda files: -max(f.stat().st_mtime for f in files)
        bins, sizes = [[] for _ in range(STATES)], [0]*STATES
        for f in sum(sorted(filter(None, runs), key=age), []):
            n = f.stat().st_size + 2048
            fits = [i for i in range(STATES) if sizes[i] + n <= FILE - 10240]
            if fits and sum(sizes) + n <= TOTAL:
                bins[fits[0]].append(f)
                sizes[fits[0]] += n
            elif f not in self.told:
                self.told.add(f)
                self.say(f'stays here, {n/2**20:.1f} MiB: {f.relative_to(self.home)}')
        return bins
    def pack(self):
        "At most eight files: rows.tar, state, lease.log, check.jsonl, and one in the making."
        self.packed = time.time()
        if self.rows and self.rows.poll() is not None: self.stamp()
        globs = 'results/*.csv', 'logs/*.log', '*.json'
        self.tar('rows.tar', [f for g in globs for f in sorted(self.home.glob(g))])
        for i, files in enumerate(self.state(), 1):
            if files: self.tar(f'state-{i}.tar', files)

    # -------------------------------------------------------- the first call
    def check(self):
        "Are captured steps right, and what does a step cost? Results stand in check.jsonl."
        box = max(10, min(self.a.check_seconds, self.hard - 30 - time.time()))
        found, log = self.out/'check.jsonl', self.home/'logs'/'check.log'
        command = [sys.executable, HERE/'check_gpu.py', self.a.device, found, str(box)]
        command += ['--cells', self.a.cells]
        few = dict(OMP_NUM_THREADS=str(FEW))
        with open(log, 'a') as f:
            p = subprocess.Popen(command, env=self.env() | few, stdout=f, stderr=f)
        try: rc = p.wait(box + 30)
        except subprocess.TimeoutExpired:
            p.kill()
            rc = p.wait()
        self.say(f'check_gpu.py ended with {rc}')
        print((found if found.is_file() else log).read_text()[-9000:], flush=True)

def words():
    "The command line."
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    home, s = Path.home(), ', s'
    p.add_argument('--minutes', type=float, required=True, help='the box, from now')
    p.add_argument('--out', required=True, help='what comes back')
    p.add_argument('--queue', default='', help='rows to be run')
    p.add_argument('--home', default=str(home/'dd'), help='what stays between calls')
    p.add_argument('--data', default=str(home/'data'), help='where data are unpacked')
    p.add_argument('--site', default=str(home/'site'), help='where wheels are unpacked')
    p.add_argument('--device', default='cuda', help='of all but lines that begin with cpu')
    p.add_argument('--workers', type=int, default=0, help='rows at a time on the GPU (default: 1)')
    p.add_argument('--check', action='store_true', help='begin with check_gpu.py')
    p.add_argument('--cells', default='', help='of check_gpu.py')
    p.add_argument('--check_seconds', type=float, default=120., help='its time box' + s)
    p.add_argument('--every', type=float, default=120., help='between two packings' + s)
    p.add_argument('--poll', type=float, default=.5, help='between two looks at the rows' + s)
    return p.parse_args()

def main():
    "Data, the check, rows, and all packed; while data are missing, only rows with --smoke."
    a = words()
    lease = Lease(a)
    if wrong := unpack_wheels(HERE/'whl', a.site): lease.say('wheels for another Python:', *wrong)
    try: missing = take_data(Path(a.data))
    except subprocess.CalledProcessError: missing = ['a whole copy of what is named above']
    if a.check: lease.check()
    if missing: lease.say('data still to come:', *missing)
    queue = [[n, *w] for n, w in read_queue(a.queue)] if a.queue else []
    queue = [l for l in queue if not missing or '--smoke' in l]
    if queue: lease.run(queue)
    lease.pack()
    lease.say('packed')

if __name__ == '__main__': main()
