"""Recipe notebooks open in Colab: a line with the address, and a first cell that installs the library, both from settings.ini."""
import json, re, uuid

RECIPES = '3' # the papers, told: notebooks 30 to 39
LINK = re.compile(r'https://colab\.research\.google\.com/[^\s)]*')
SOURCE = re.compile(r'git\+https://[^\s"]*')
WORDS = '[Open this notebook in Colab]({}). The next cell installs the library there; where it is installed already, it does nothing.'
CELL = "from importlib.util import find_spec\nif not find_spec('{}'):\n    %pip install -q \"{} @ {}\""


def address(s, name): # settings, name of a file in nbs
    "Where Colab opens a notebook."
    return f'https://colab.research.google.com/github/{s["user"]}/{s["repo"]}/blob/{s["branch"]}/{s["nbs_path"]}/{name}'

def package(s):
    "Where pip finds the library."
    return f'git+https://github.com/{s["user"]}/{s["repo"]}@{s["branch"]}'

def cells(s, name):
    "The two cells, as (kind, text)."
    lib = s['lib_name']
    return ('markdown', WORDS.format(address(s, name))), ('code', CELL.format(lib, lib, package(s)))

def with_colab(nb, s, name):
    "A raw notebook whose first cells are these; what stands there already keeps its words."
    found = [c for c in nb['cells'] if LINK.search(''.join(c['source']))]
    if not found:
        new = [dict(cell_type=k, id=uuid.uuid4().hex[:8], metadata={}, source=t.splitlines(True)) for k, t in cells(s, name)]
        new[1] |= dict(execution_count=None, outputs=[])
        return dict(nb, cells=[*nb['cells'][:1], *new, *nb['cells'][1:]])
    for c in nb['cells']:
        text = LINK.sub(address(s, name), ''.join(c['source']))
        c['source'] = SOURCE.sub(package(s), text).splitlines(True)
    return nb

def write_colab(site):
    "Write the lines into the recipe notebooks; names of those that changed."
    changed = []
    for p in site.notebooks if 'user' in site.settings else ():
        if not p.name.startswith(RECIPES): continue
        old = p.read_text(encoding='utf-8')
        new = json.dumps(with_colab(json.loads(old), site.settings, p.name), indent=1, ensure_ascii=False) + '\n'
        if new == old: continue
        p.write_text(new, encoding='utf-8')
        changed.append(p.name)
    return changed
