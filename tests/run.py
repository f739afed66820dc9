"""What `make test` runs: every notebook, every test, the site; closed by one line of counts."""
import os, re, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg', 'PYTHONUNBUFFERED': '1'}
sys.path.insert(0, str(ROOT/'docs'))


def stream(*cmd, **env):
    "Run a command from the top of the tree, showing its output as it comes; exit status and output."
    p = subprocess.Popen([str(c) for c in cmd], cwd=ROOT, env=ENV | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out = []
    for line in p.stdout: out.append(line); print(line, end='', flush=True)
    return p.wait(), ''.join(out)

def left_out(site):
    "One line for each notebook and flag whose cells are not run (`slow` never here, `data` only with DD_DATA)."
    from pages import raw_cells
    for p in (p for p in site.pages if p.suffix == '.ipynb'):
        src = [''.join(c['source']) for c in raw_cells(p) if c['cell_type'] == 'code']
        for f in sorted(site.flags):
            n = sum(bool(re.search(rf'^#\|\s*{f}\b', s, re.M)) for s in src)
            if n: yield f'left out: {p.name}: {n} cell{"s"*(n > 1)} marked {f}'

def notebooks():
    "Run all notebooks with nbdev_test, two at a time."
    from pages import Site
    site = Site(ROOT)
    total = sum(p.suffix == '.ipynb' for p in site.pages)
    run = set(site.settings['tst_flags'].split()) - site.flags
    path = os.pathsep.join(filter(None, (str(ROOT/'tests'/'preload'), ENV.get('PYTHONPATH'))))
    status, out = stream(BIN/'nbdev_test', '--n_workers', 2, '--timing', '--flags', ' '.join(run), PYTHONPATH=path)
    failed = re.findall(r'^\t(\S+\.ipynb)$', out.partition('Tests Failed On')[2], re.M)
    print('\n'.join([*left_out(site), *(f'failed: {f}' for f in failed)]))
    bad = len(failed) or int(status != 0)
    return Counter(passed=total - bad, failed=bad)

def tests():
    "Run pytest; its skipped and failed tests are named."
    with tempfile.TemporaryDirectory() as tmp:
        status, _ = stream(sys.executable, '-m', 'pytest', 'tests', '--durations=5', f'--junitxml={tmp}/r.xml')
        cases = list(ET.parse(f'{tmp}/r.xml').iter('testcase')) if Path(f'{tmp}/r.xml').exists() else []
    skipped = [(c, s.get('message')) for c in cases if (s := c.find('skipped')) is not None]
    failed = [c for c in cases if c.find('failure') is not None or c.find('error') is not None]
    for c, why in skipped: print(f'skipped: {c.get("classname")}.{c.get("name")}: {why}')
    bad = len(failed) or int(status != 0)
    return Counter(passed=len(cases) - len(skipped) - len(failed), failed=bad, skipped=len(skipped))

def site():
    "Build the site from the notebooks as they are and follow its links."
    with tempfile.TemporaryDirectory() as tmp: status, _ = stream(sys.executable, ROOT/'docs'/'build.py', '--out', Path(tmp)/'site')
    return Counter(passed=int(status == 0), failed=int(status != 0))

def main():
    "Run all three whatever happens, and close with the sum."
    total = Counter(passed=0, failed=0, skipped=0)
    if not os.environ.get('DD_DATA'): print('DD_DATA is not set: what needs real images is left out, the embedded digits stand in')
    for part in (notebooks, tests, site):
        began = time.time()
        counts = part()
        total.update(counts)
        print(f'== {part.__name__}: {", ".join(f"{v} {k}" for k, v in counts.items())} in {time.time()-began:.0f} s\n', flush=True)
    print(f'{total["passed"]} passed, {total["failed"]} failed, {total["skipped"]} skipped')
    sys.exit(total['failed'] > 0)

if __name__ == '__main__': main()
