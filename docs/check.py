"""Read a finished site: every link inside it leads somewhere, nothing is fetched, no path of this machine is told."""
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

FETCHED = {('script', 'src'), ('img', 'src'), ('iframe', 'src'), ('source', 'src'), ('source', 'srcset'), ('video', 'src')}
OUTSIDE = re.compile(r'(https?:)?//')


class Page(HTMLParser):
    "The ids of a page, and the addresses that it names: (tag, attribute, address)."
    def __init__(self, path):
        super().__init__()
        self.ids, self.refs = set(), []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        "Gather one tag."
        a = dict(attrs)
        self.ids |= {a.get('id'), a.get('name')}
        fetched = tag == 'link' and not set((a.get('rel') or '').split()) & {'canonical', 'author', 'license', 'next', 'prev', 'search', 'index'}
        self.refs += [(tag, k, v, fetched or (tag, k) in FETCHED) for k, v in attrs if k in ('href', 'src', 'srcset') and v]


def check_link(pages, out, page, ref):
    "What is wrong with one address on a page, or None."
    tag, attr, url, fetched = ref
    if OUTSIDE.match(url): return f'<{tag} {attr}> would be fetched from the network' if fetched else None
    if re.match(r'(data|mailto|javascript|tel):', url): return None
    path, _, spot = url.partition('#')
    target = (page.parent/unquote(path.split('?')[0])).resolve() if path else page
    if not target.exists() or not target.is_relative_to(out): return 'no such file in the site'
    if spot and target in pages and unquote(spot) not in pages[target].ids: return 'no such place on that page'

def check_css(path):
    "Addresses that a style sheet would fetch."
    return re.findall(r'(?:url\(|@import)\s*["\']?((?:https?:)?//[^"\')]+)', path.read_text(encoding='utf-8', errors='replace'))

def check_site(out, paths=(), missing=()):
    "All faults of a site, one line each; `paths` must not occur in its text, `missing` are files known to be absent."
    out = Path(out).resolve()
    pages = {p: Page(p) for p in sorted(out.rglob('*.html')) if '_static' not in p.relative_to(out).parts}
    faults = []
    for p, page in pages.items():
        faults += [f'{p.relative_to(out)}: {r[2]}: {why}' for r in page.refs if (why := check_link(pages, out, p, r)) and r[2].split('?')[0] not in missing]
    for p in out.rglob('*.css'): faults += [f'{p.relative_to(out)}: {u}: would be fetched from the network' for u in check_css(p)]
    for p in [*pages, *out.glob('searchindex.js')]:
        text = p.read_text(encoding='utf-8')
        faults += [f'{p.relative_to(out)}: tells a path of this machine: {s}' for s in paths if re.search(re.escape(s) + r'(?![\w-])', text)]
    return sorted(set(faults))
