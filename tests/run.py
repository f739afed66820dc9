"""What `make test` runs: every notebook, every test, the site; closed by one line of counts.

Two things run at a time: tests in one lane, notebooks and site in the other, which then takes its share of the tests.
Each takes one thread, or as many as OMP_NUM_THREADS says."""
import os, re, subprocess, sys, tempfile, threading, time
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
ENV = {'OMP_NUM_THREADS': '1', **os.environ, 'MPLBACKEND': 'agg', 'PYTHONUNBUFFERED': '1'}
ENV.pop('PYTHONDONTWRITEBYTECODE', None) # many processes import torch; without bytecode each would compile it again, 6 s a start
sys.path.insert(0, str(ROOT/'docs'))
TURN = threading.Lock() # of the two lanes, to print


def say(text):
    "Print lines of one lane in one piece."
    with TURN: print(text, end='' if text.endswith('\n') else '\n', flush=True)

def finish(p):
    "Wait for a process; exit status, and the processor seconds of it and all that it waited for."
    if not hasattr(os, 'wait4'): return p.wait(), float('nan')
    _, status, used = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    return p.returncode, used.ru_utime + used.ru_stime

def stream(*cmd, live=False, **env):
    "Run a command from the top of the tree and show its output, as it comes or at its end; exit status, output, processor seconds."
    p = subprocess.Popen([str(c) for c in cmd], cwd=ROOT, env=ENV | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out = []
    for line in p.stdout: out.append(line); say(line) if live else None
    status, used = finish(p)
    if out and not live: say(''.join(out))
    return status, ''.join(out), used

def left_out(site):
    "One line for each notebook and flag whose cells are not run (`slow` never here, `data` only with DD_DATA)."
    from pages import raw_cells
    for p in (p for p in site.pages if p.suffix == '.ipynb'):
        src = [''.join(c['source']) for c in raw_cells(p) if c['cell_type'] == 'code']
        for f in sorted(site.flags):
            n = sum(bool(re.search(rf'^#\|\s*{f}\b', s, re.M)) for s in src)
            if n: yield f'left out: {p.name}: {n} cell{"s"*(n > 1)} marked {f}'

def notebooks():
    "Run all notebooks with nbdev_test in one process, which imports torch and fastai once."
    from pages import Site
    site = Site(ROOT)
    total = sum(p.suffix == '.ipynb' for p in site.pages)
    run = set(site.settings['tst_flags'].split()) - site.flags
    path = os.pathsep.join(filter(None, (str(ROOT/'tests'/'preload'), ENV.get('PYTHONPATH'))))
    status, out, used = stream(BIN/'nbdev_test', '--n_workers', 1, '--timing', '--flags', ' '.join(run), PYTHONPATH=path)
    failed = re.findall(r'^\t(\S+\.ipynb)$', out.partition('Tests Failed On')[2], re.M)
    say('\n'.join([*left_out(site), *(f'failed: {f}' for f in failed)]))
    bad = len(failed) or int(status != 0)
    return Counter(passed=total - bad, failed=bad), used

def groups(n=4):
    "The files of tests in so many groups of about the same size."
    files = sorted((ROOT/'tests').glob('test_*.py'), key=lambda f: f.stat().st_size, reverse=True)
    return [files[i::n] for i in range(n)]

WAITING = groups() # a lane that is free takes the next

def tests():
    "Run pytest on the groups that nobody has taken yet."
    total, cost = Counter(passed=0, failed=0, skipped=0), 0.
    while True:
        try: files = WAITING.pop()
        except IndexError: return total, cost
        counts, used = some_tests(files)
        total.update(counts); cost += used

def some_tests(files):
    "Run pytest on some files, in random order; skipped and failed tests are named."
    with tempfile.TemporaryDirectory() as tmp:
        status, _, used = stream(sys.executable, '-m', 'pytest', *files, '--durations=10', f'--junitxml={tmp}/r.xml', live=True)
        cases = list(ET.parse(f'{tmp}/r.xml').iter('testcase')) if Path(f'{tmp}/r.xml').exists() else []
    skipped = [(c, s.get('message')) for c in cases if (s := c.find('skipped')) is not None]
    failed = [c for c in cases if c.find('failure') is not None or c.find('error') is not None]
    for c, why in skipped: say(f'skipped: {c.get("classname")}.{c.get("name")}: {why}')
    bad = len(failed) or int(status != 0)
    return Counter(passed=len(cases) - len(skipped) - len(failed), failed=bad, skipped=len(skipped)), used

def site():
    "Build the site from the notebooks as they are and follow its links."
    with tempfile.TemporaryDirectory() as tmp: status, _, used = stream(sys.executable, ROOT/'docs'/'build.py', '--out', Path(tmp)/'site')
    return Counter(passed=int(status == 0), failed=int(status != 0)), used

def lane(*parts):
    "Run parts one after the other, each whatever happens to the others; their counts and processor seconds."
    total, cost = Counter(), 0.
    for part in parts:
        began = time.time()
        counts, used = part()
        total.update(counts); cost += used
        say(f'== {part.__name__}: {", ".join(f"{v} {k}" for k, v in counts.items())} in {time.time()-began:.0f} s, {used:.0f} s of processor time\n\n')
    return total, cost

def main():
    "Run all three whatever happens, and close with the sum."
    total, began = Counter(passed=0, failed=0, skipped=0), time.time()
    if not os.environ.get('DD_DATA'): print('DD_DATA is not set: what needs real images is left out, the embedded digits stand in')
    with ThreadPoolExecutor(2) as ex: lanes = [ex.submit(lane, *parts) for parts in ((tests,), (notebooks, site, tests))]
    for counts, _ in (l.result() for l in lanes): total.update(counts)
    print(f'== together: {time.time()-began:.0f} s, {sum(l.result()[1] for l in lanes):.0f} s of processor time, {ENV["OMP_NUM_THREADS"]} threads a process\n')
    print(f'{total["passed"]} passed, {total["failed"]} failed, {total["skipped"]} skipped')
    sys.exit(total['failed'] > 0)

if __name__ == '__main__': main()
