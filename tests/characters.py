"""How much code there is above the methods, counted so that breaking a line changes nothing.

    python tests/characters.py               this tree beside the commit before the rebuild
    python tests/characters.py --names       a line a name
    python tests/characters.py --house       wide functions, long and joined lines, places of a word
    python tests/characters.py --house --at COMMIT

Counted are the characters of Python's tokens: names, numbers, operators and texts as they stand.
Not counted: comments, docstrings, blanks between tokens, indents, ends of lines, and the list of
names that nbdev writes (`__all__`). So a line that is broken counts the same, and so do two
statements that get a line each (but for the `;`)."""
import argparse, ast, bisect, io, subprocess, tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMIT = 'ddb195d' # before the rebuild
GOAL = .7
# module -> '*', or names in it; a method is Class.name
BEFORE = {
    'cli': '*', 'rows': '*', 'results': '*', 'tables': '*', 'settings': '*',
    'mtt': 'mtt_opts _check', # distill_mtt itself is in cli
    'match': 'DC_LOOPS dc_loops _ALL MATCHING match_settings match_objective distill_match',
    'priors': 'LOSSES d3_phases check_d3 distill_d3',
    'd3s': '_check_d3s _STUDENTS _decides distill_d3s '
           'SETS _saved_mb _fastest probe_d3s _line d3s_plan print_plan', # now in plans
    'latent': 'LATENT_METHODS _PAPER _NAMES _KEYS table6 latent_settings latent_objective _learn '
              'distill_latent',
}
NOW = { # what they have become
    **dict.fromkeys('cli rows stages plans papers recipes counts tables settings ten_images fields method'.split(), '*'),
    'mtt': 'mtt_opts _check TrajectoryMethod MTTMethod',
    'match': 'DC_LOOPS dc_loops MatchingMethod DCMethod DSAMethod DMMethod',
    'coreset': 'ChoiceMethod RandomMethod HerdingMethod ForgettingMethod',
    'priors': 'LOSSES d3_phases D3Method D3Method.start D3Method.phases D3Method.opts D3Method.finish',
    'd3s': '_STUDENTS check_synthesis D3SMethod SRe2LMethod CDAMethod D3SMethod.distill',
    'latent': 'CodesMethod code_net InitialMethod LatentMethod LatentDCMethod LatentDMMethod LatentMTTMethod codes_space',
}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
WITH_DOC = (ast.Module, *FUNCTIONS, ast.ClassDef)
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef, ast.ClassDef)
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
           tokenize.ENCODING, tokenize.ENDMARKER}


def git(*words):
    "The output of git at the top of this tree; ValueError in one line where it fails."
    kw = dict(cwd=ROOT, capture_output=True, text=True, encoding='utf-8')
    r = subprocess.run(['git', *words], **kw)
    if r.returncode: raise ValueError(f'git {words[0]}: {" ".join(r.stderr.split())}')
    return r.stdout

def source_of(module, commit=None):
    "The text of a module, here or in a commit."
    if commit: return git('show', f'{commit}:dd_repro/{module}.py')
    return (ROOT/'dd_repro'/f'{module}.py').read_text(encoding='utf-8')

def modules(commit=None):
    "Name -> text of the modules that people write."
    names = (ROOT/'dd_repro').glob('*.py')
    if commit: names = git('ls-tree', '--name-only', commit, 'dd_repro/').split()
    stems = sorted(p.stem for p in map(Path, names) if p.suffix == '.py' and p.name[0] != '_')
    return {m: source_of(m, commit) for m in stems}

def _is_text(node):
    "Whether a statement is a text alone."
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, 'value', None), str)

def _left_out(tree):
    "Places that are not counted: docstrings, and the list of names that nbdev writes."
    for node in (n for n in ast.walk(tree) if isinstance(n, WITH_DOC)):
        if node.body and _is_text(node.body[0]): yield _place(node.body[0])
    for node in tree.body:
        if '__all__' in _targets(node): yield _place(node)

def _place(node):
    "Where a statement begins, with its decorators, and where it ends: (line, column in bytes)."
    first = next(iter(getattr(node, 'decorator_list', [])), None)
    begin = (first.lineno, first.col_offset - 1) if first else (node.lineno, node.col_offset)
    return begin, (node.end_lineno, node.end_col_offset)

def _within(at, places):
    "Whether a place lies in one of these, which are in order and apart."
    i = bisect.bisect_right(places, at, key=lambda p: p[0])
    return i > 0 and at < places[i - 1][1]

def tokens(text):
    "(place, text) of the tokens that are code, docstrings left out."
    lines, out = text.splitlines(), sorted(_left_out(ast.parse(text)))
    for t in tokenize.generate_tokens(io.StringIO(text).readline):
        if t.type in NO_CODE: continue
        line, col = t.start
        at = line, len(lines[line - 1][:col].encode())
        if not _within(at, out): yield at, t.string

def characters(text, names='*'):
    "Name -> characters of code, or of the whole module; ValueError for a name that is not there."
    code = [(at, len(s)) for at, s in tokens(text)]
    if names == '*': return {'*': sum(n for _, n in code)}
    places = named(ast.parse(text))
    if lost := sorted(set(names.split()) - set(places)):
        raise ValueError(f'not defined: {", ".join(lost)}')
    return {k: sum(n for at, n in code if _within(at, places[k])) for k in names.split()}

def _targets(node):
    "The names that a statement defines; a patched method is Class.name."
    if isinstance(node, ast.ClassDef): return [node.name]
    if isinstance(node, FUNCTIONS):
        if not any('patch' in ast.unparse(d) for d in node.decorator_list): return [node.name]
        return [f'{ast.unparse(node.args.args[0].annotation)}.{node.name}']
    targets = getattr(node, 'targets', [getattr(node, 'target', None)])
    if not isinstance(node, (ast.Assign, ast.AnnAssign)): return []
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]

def named(tree):
    "Name -> places that define it, at the top of a module or in a class."
    out = {}
    for node in tree.body:
        own = [(f'{node.name}.', m) for m in node.body] if isinstance(node, ast.ClassDef) else []
        for head, n in [('', node), *own]:
            for name in _targets(n): out.setdefault(head + name, []).append(_place(n))
    return out

def counted(which, commit=None):
    "(module, name) -> characters; ValueError that names the module."
    out = {}
    for m, names in which.items():
        try: out |= {(m, n): k for n, k in characters(source_of(m, commit), names).items()}
        except ValueError as e: raise ValueError(f'{m}: {e}') from None
    return out

def report(before, now, names=False):
    "Lines to print: modules or names, before and now, and the ratio."
    key = (lambda k: '.'.join(k)) if names else lambda k: k[0]
    line = lambda k, a, b: f'{k:<28} {a:>8} {b:>8}'
    of = lambda c, k: sum(v for n, v in c.items() if key(n) == k)
    keys = dict.fromkeys(map(key, [*before, *now]))
    a, b = sum(before.values()), sum(now.values())
    return [line('characters of code', 'before', 'now'),
            *(line(k, of(before, k), of(now, k)) for k in keys), line('sum', a, b),
            f'ratio {b/a:.3f} (goal: at most {GOAL}, {int(GOAL*a)} characters)']


def n_parameters(f):
    "Parameters of a function without self and cls, and without *args and **kw."
    all_of = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
    return len(all_of) - bool(all_of and all_of[0].arg in ('self', 'cls'))

def wide(text, limit=8):
    "(parameters, line, name) of functions and methods with more than so many."
    found = [f for f in ast.walk(ast.parse(text)) if isinstance(f, FUNCTIONS)]
    return [(n_parameters(f), f.lineno, f.name) for f in found if n_parameters(f) > limit]

def long_lines(text, limit=100):
    "How many lines are longer: (outside nbdev's own block at the top, inside it)."
    out, auto = [0, 0], False
    for line in text.splitlines():
        if line.startswith('# %% '): auto = line.startswith('# %% auto')
        out[auto] += len(line) > limit
    return tuple(out)

def joined(text):
    "How many lines hold several plain statements."
    every = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.stmt)]
    lines = [n.lineno for n in every if not isinstance(n, BLOCKS)]
    return sum(lines.count(i) > 1 for i in set(lines))

def places(text, word):
    "How many lines of code name a word."
    return len({line for (line, _), s in tokens(text) if word in s})

def _told(counts):
    "A sum and its parts, the largest first."
    parts = sorted(((n, m) for m, n in counts.items() if n), key=lambda p: (-p[0], p[1]))
    listed = ', '.join(f'{m} {n}' for n, m in parts)
    return f'{sum(counts.values())} in {len(parts)} files: {listed}'

def house(texts, word='syn_steps'):
    "Lines to print about all modules: what rules 7 and 8 of the house ask."
    found = [(n, f'{m}.{name}', line) for m, t in texts.items() for n, line, name in wide(t)]
    public = sum('._' not in name for _, name, _ in found)
    long = {m: long_lines(t) for m, t in texts.items()}
    lines = sum(len(t.splitlines()) for t in texts.values())
    return [f'functions with more than 8 parameters: {len(found)} ({public} without _)',
            *(f'    {n:>3} {name} (line {line})' for n, name, line in sorted(found, reverse=True)),
            f'lines over 100 characters, of {lines}: {_told({m: n for m, (n, _) in long.items()})}',
            f'    and in nbdev\'s own block: {_told({m: n for m, (_, n) in long.items()})}',
            f'lines with several statements: {_told({m: joined(t) for m, t in texts.items()})}',
            f'lines of code with {word}: {_told({m: places(t, word) for m, t in texts.items()})}']

def main():
    "The command line."
    form = argparse.RawDescriptionHelpFormatter
    a = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    a.add_argument('--before', default=COMMIT, metavar='COMMIT', help=f'default: {COMMIT}')
    a.add_argument('--at', metavar='COMMIT', help='with --house: another commit than this tree')
    a.add_argument('--names', action='store_true', help='a line a name')
    a.add_argument('--house', action='store_true', help='rules 7 and 8, all modules')
    o = a.parse_args()
    try:
        if o.house: lines = house(modules(o.at))
        else: lines = report(counted(BEFORE, o.before), counted(NOW), o.names)
    except (ValueError, OSError) as e: a.exit(2, f'characters: {e}\n')
    print(*lines, sep='\n')

if __name__ == '__main__': main()
