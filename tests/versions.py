"""What `make versions` runs: the tests on three PyTorch versions, each in an environment of its own; closed by a table.

    python tests/versions.py                       all three, tests and notebooks
    python tests/versions.py 2.6 --no-notebooks    one of them, tests alone
    python tests/versions.py --tests test_unroll.py test_gpu.py

An environment takes about 6 GB and is removed at the end."""
import argparse, json, os, re, shutil, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ET
from pathlib import Path

from run import BIN, ENV, ROOT, finish

LOWEST = ('--resolution', 'lowest-direct') # every requirement of the package at its lower bound
VERSIONS = {'2.6': ('torch==2.6.*', 'torchvision==0.21.*', *LOWEST), '2.11': ('torch==2.11.*', 'torchvision==0.26.*'), 'newest': ()}
TOOLS = ('pytest', 'pytest-randomly', 'nbdev==2.4.14', 'execnb<0.2', 'fastcore<2', 'fastai>=2.8,<2.8.8', 'diffusers', 'nbconvert', 'uv', 'setuptools')
NOT_OF_TORCH = ('test_house.py', 'test_docs.py', 'test_wheel.py') # the tree, the site and the wheel: the same for all
SHOWN = ('torch', 'torchvision', 'numpy', 'pandas', 'fastcore', 'kornia', 'scikit-learn', 'pillow')
ASK = f'''import json, platform; from importlib.metadata import version
print(json.dumps(dict(python=platform.python_version()) | {{n: version(n) for n in {SHOWN}}}))'''


def call(*cmd, **env):
    "Run a command from the top of the tree; exit status, output, processor seconds."
    p = subprocess.Popen([str(c) for c in cmd], cwd=ROOT, env=ENV | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out = p.stdout.read()
    status, used = finish(p)
    return status, out, used

def must(*cmd, **env):
    "The output of a command that has to end well."
    status, out, _ = call(*cmd, **env)
    if status: raise RuntimeError(f'{" ".join(map(str, cmd))}\n{out[-3000:]}')
    return out

def environment(top, version, python):
    "An environment with one PyTorch; its Python."
    uv, pins = BIN/'uv', [o for o in VERSIONS[version]]
    must(uv, 'venv', '-q', '--python', python, top)
    must(uv, 'pip', 'install', '-q', '-e', '.', *pins, VIRTUAL_ENV=str(top))
    must(uv, 'pip', 'install', '-q', *TOOLS, *[p for p in pins if p.startswith('torch')], VIRTUAL_ENV=str(top))
    return top/'bin'/'python'

def counted(report):
    "Passed, failed and skipped tests of a junit report, and the names of the failed."
    cases = list(ET.parse(report).iter('testcase'))
    failed = [f'{c.get("classname")}.{c.get("name")}' for c in cases if c.find('failure') is not None or c.find('error') is not None]
    skipped = sum(c.find('skipped') is not None for c in cases)
    return dict(passed=len(cases) - len(failed) - skipped, failed=len(failed), skipped=skipped), failed

def tested(py, names):
    "Run pytest; counts, failed tests, processor seconds."
    paths = [f'tests/{n}' for n in names] or ['tests', *(f'--ignore=tests/{n}' for n in NOT_OF_TORCH)]
    with tempfile.TemporaryDirectory() as tmp:
        _, out, used = call(py, '-m', 'pytest', *paths, '--tb=short', f'--junitxml={tmp}/r.xml', VIRTUAL_ENV=str(py.parent.parent))
        if not Path(f'{tmp}/r.xml').exists(): return dict(passed=0, failed=1, skipped=0), [out[-3000:]], used
        counts, failed = counted(f'{tmp}/r.xml')
    if failed: print(out[-20000:], flush=True)
    return counts, failed, used

def told(py):
    "Run the notebooks; how many there are, and those that fail."
    path = os.pathsep.join(filter(None, (str(ROOT/'tests'/'preload'), ENV.get('PYTHONPATH'))))
    status, out, used = call(py.parent/'nbdev_test', '--n_workers', 1, PYTHONPATH=path)
    failed = re.findall(r'^\t(\S+\.ipynb)$', out.partition('Tests Failed On')[2], re.M) or ['nbdev_test']*(status != 0)
    if failed: print(out[-20000:], flush=True)
    return len(list((ROOT/'nbs').glob('*.ipynb'))), failed, used

def row(version, python, names, notebooks, keep):
    "One line of the table: what was installed, what was counted."
    top = Path(tempfile.mkdtemp(prefix=f'torch-{version}-', dir=ROOT/'.venv')) # beside uv's links, and not in git
    try:
        began, py = time.time(), environment(top, version, python)
        have = json.loads(must(py, '-c', ASK).splitlines()[-1])
        print(f'{version}: {", ".join(f"{k} {v}" for k, v in have.items())} (set-up {time.time()-began:.0f} s)', flush=True)
        counts, failed, used = tested(py, names)
        n, bad, more = told(py) if notebooks else (0, [], 0.)
        for f in failed + bad: print(f'{version}: failed: {f}', flush=True)
        return have | counts | dict(notebooks=f'{n - len(bad)} of {n}' if n else 'not run', processor_s=round(used + more)), bool(failed or bad)
    finally: keep or shutil.rmtree(top, ignore_errors=True)

def table(rows):
    "Rows as a pipe table."
    head = list(rows[0])
    return '\n'.join(['| ' + ' | '.join(map(str, line)) + ' |' for line in (head, ['---']*len(head), *(r.values() for r in rows))])

def main():
    "The command line."
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('versions', nargs='*', help=f'of {", ".join(VERSIONS)} (default: all)')
    a.add_argument('--python', default='3.11', help='the Python to take')
    a.add_argument('--tests', nargs='+', default=[], metavar='FILE', help='only these files of tests/')
    a.add_argument('--no-notebooks', dest='notebooks', action='store_false', help='tests alone')
    a.add_argument('--keep', action='store_true', help='leave the environments below .venv')
    o = a.parse_args()
    if unknown := set(o.versions) - set(VERSIONS): a.error(f'unknown: {", ".join(sorted(unknown))}; there are {", ".join(VERSIONS)}')
    done = [row(v, o.python, o.tests, o.notebooks, o.keep) for v in o.versions or VERSIONS]
    print(table([r for r, _ in done]))
    sys.exit(any(bad for _, bad in done))

if __name__ == '__main__': main()
