"What the studies share: the command line, where rows go, where runs lie."
import argparse, dataclasses, tempfile, time
from pathlib import Path
import torch
from dd_repro.all import *

TMP = tempfile.TemporaryDirectory()

def begin(doc, paper, **positional):
    "Read the command line. `o.csv` is the results file, `o.home` the folder of runs; both are temporary in a smoke run."
    p = argparse.ArgumentParser(description=doc)
    for name, kw in positional.items(): p.add_argument(name, **kw)
    p.add_argument('--record_to', metavar='FILE', type=Path, help=f'results file (default: docs/results/{paper}.csv of the checkout)')
    p.add_argument('--smoke', action='store_true', help='a toy run, under a minute; records nowhere unless told')
    o = p.parse_args()
    o.csv = o.record_to or (Path(TMP.name) if o.smoke else results_dir())/f'{paper}.csv'
    o.home = Path(TMP.name) if o.smoke else dd_home()
    torch.set_num_threads(1); tune_allocator()
    return o

def put(o, rows):
    "Print rows and record them."
    for r in (rows := [rows] if isinstance(rows, Row) else rows): print(f'{r.row:<44}', r, f'{r.seconds:.0f} s', flush=True)
    record(rows, o.csv)
    return rows

def students(*a, **kw):
    "The row of `evaluate` for one network; its seconds are the processor's, since the clock runs on while a process has to wait."
    t = time.process_time()
    r, = evaluate(*a, **kw)
    return dataclasses.replace(r, seconds=time.process_time() - t)

def sha(file):
    "The hash of an artefact, as rows carry it; empty where there is none."
    return file_sha256(file)[:16] if file and Path(file).is_file() else ''

def toy(size=32, per_class=30):
    "Generated colour images in place of a data set, for smoke runs: (train, test)."
    from dd_repro.stages import generated
    return tuple(s.renorm(Normalize((.5,)*3, (.25,)*3)) for s in generated('toy', size, per_class=per_class))
