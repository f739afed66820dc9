"""The driver of `tests/same.py`: small runs of every method, written down as hashes of bits.

    python tests/same_drive.py OUT.json [--only WORD ...]

It runs in whichever tree the Python that starts it belongs to. How a thing is called stands in
`Before` and `Now`; the cases know nothing of it. Float hashes are compared, never committed."""
import argparse, contextlib, dataclasses, hashlib, importlib, io, json, os, re, tempfile
from collections import namedtuple
from functools import cache, partial
from pathlib import Path

Case = namedtuple('Case', 'kind name settings')


def case(kind, name, /, **settings):
    "One small run: what is done, its name, what is set."
    return Case(kind, name, settings)

EXPERTS = dict(n=2, epochs=3, lr=.05, batch=256, aug='') # of methods that need some
STEPS = dict(syn_steps=3, expert_epochs=1, max_start_epoch=2)
MTT = STEPS | dict(lr_img=10., lr_lr=1e-4, lr_teacher=.02)
PRIORS = dict(iterations=2, z_dim=8, decoder_width=16)
BN = dict(batch=5, kind='bn-diag', layers='bn', isu=False, ens='', jitter=2, first=10.)
ONE_WAY = 'color_crop_cutout_scale_rotate'
WORDS = dict( # parts of command lines
    digits='--size 8 --width 4', codes='--size 8 --width 4 --ae tiny --f 2',
    few='--syn_steps 3 --expert_epochs 1 --max_start_epoch 2', look='--epochs 40 --n_eval 2')

FUNCTIONS = [
    case('experts', 'experts', **EXPERTS),
    case('experts', 'experts, all else', n=1, epochs=2, momentum=.5, wd=1e-4, aug=ONE_WAY),
    case('latent_experts', 'latent experts', n=2, epochs=3),
    case('teachers', 'teachers', n=2, epochs=1),
    case('labels', 'stored labels', epochs=2, batch=10, cutmix=False),
    case('labels', 'stored labels, CutMix', epochs=1, batch=8, cutmix=True),
    case('evaluate', 'students, mtt', protocol='mtt', epochs=60),
    case('evaluate', 'students, dsa', protocol='dsa', epochs=60),
    case('evaluate', 'students, latentdd', protocol='latentdd', epochs=60),
    case('evaluate', 'students of the whole set', protocol='full', epochs=2, of='whole'),
    case('evaluate', 'students of labels', protocol='d3s-cifar10', epochs=20, of='labels'),
    case('method', 'mtt', iterations=3, aug=ONE_WAY, **MTT),
    case('method', 'mtt', iterations=2, ipc=2, batch_syn=6, init='noise', grad='bptt', **MTT),
    case('method', 'mtt', iterations=2, grad='detached', **MTT),
    case('method', 'dc', iterations=2, outer=2, inner=2, batch_real=16),
    case('method', 'dc', iterations=1, ipc=10),
    case('method', 'dsa', iterations=2, outer=2, inner=1, batch_real=16, init='noise'),
    case('method', 'dm', iterations=3, ipc=2),
    case('method', 'd3', mmd_samples=4, lr_teacher=.02, **PRIORS, **STEPS),
    case('method', 'd3', mmd_samples=4, ppc=2, gamma3=.02, snapshot='expert', **PRIORS, **STEPS),
    case('method', 'd3', mmd_samples=4, losses='DM', **PRIORS),
    case('method', 'd3', losses='MTT', **PRIORS, **STEPS),
    case('method', 'd3s', iterations=3, ipc=2, batch=10),
    case('method', 'd3s', iterations=2, ipc=1, batch=5, kind='kl-diag', ens='iter', isu=False),
    case('method', 'd3s', iterations=2, ipc=2, batch=10, level=True, jitter=2, crop='none'),
    case('method', 'd3s', iterations=2, ipc=1, batch=5, flip=False, eps=.01, alpha=5., scale=.3),
    case('method', 'sre2l', iterations=3, ipc=1, crop='full', weight=.01, alpha=1., **BN),
    case('method', 'cda', iterations=3, ipc=1, crop='cosine', weight=.05, alpha=1., **BN),
    case('method', 'latent-dc', iterations=2, lpc=2, outer=2, inner=1, batch=8),
    case('method', 'latent-dm', iterations=3, lpc=2, batch=16),
    case('method', 'latent-mtt', iterations=2, lpc=2, batch=8, lr_base=1., lr_lr=1e-6, **STEPS),
    case('method', 'initial', lpc=2),
    case('method', 'random', ipc=2),
    case('method', 'herding', ipc=2, epochs=1),
    case('method', 'forgetting', ipc=2, epochs=2),
]

COMMANDS = [
    case('commands', 'dd_distill mtt', lines='''
        experts mtt {digits} --n 2 --epochs 3
        distill mtt {digits} {few} --iterations 2 --lr_img 10 --lr_lr 1e-6 --lr_teacher 0.02
        eval {look}'''),
    case('commands', 'dd_distill mtt, looking on the way', lines='''
        experts mtt {digits} --n 1 --epochs 3
        distill mtt {digits} {few} --iterations 2 --lr_img 10 --lr_lr 1e-6 --lr_teacher 0.02 \
--eval_every 1 --eval_epochs 9 --n_eval 1'''),
    case('commands', 'dd_distill dc', lines='distill dc {digits} --iterations 2\neval {look}'),
    case('commands', 'dd_distill dsa', lines='distill dsa {digits} --iterations 2\neval {look}'),
    case('commands', 'dd_distill dm', lines='distill dm {digits} --iterations 2\neval {look}'),
    case('commands', 'dd_distill d3', lines='''
        experts d3 {digits} --n 2 --epochs 4
        distill d3 {digits} --ppc 2 --iterations 2 --syn_steps 3 --decoder_width 16 --z_dim 8
        eval {look}'''),
    case('commands', 'dd_distill d3s', lines='''
        experts d3s --net convnet {digits} --n 2 --epochs 1
        distill d3s {digits} --ipc 2 --iterations 2 --batch 10
        relabel {digits} --epochs 2 --batch 10
        eval --labels {labels} {look}'''),
    case('commands', 'dd_distill latent-dc', lines='''
        distill latent-dc {codes} --lpc 2 --iterations 1 --outer 2 --inner 1
        eval {look}'''),
    case('commands', 'dd_distill latent-dm', lines='''
        distill latent-dm {codes} --lpc 2 --iterations 2
        eval {look}'''),
    case('commands', 'dd_distill latent-mtt', lines='''
        experts latent-mtt {codes} --n 2
        distill latent-mtt {codes} --lpc 2 --iterations 2 --syn_steps 3
        eval {look}'''),
    case('commands', 'dd_distill initial', lines='distill initial {codes} --lpc 2\neval {look}'),
    case('commands', 'dd_eval --random', lines='eval --random {digits} {look}'),
    case('commands', 'dd_eval --full', lines='eval --full {digits} --epochs 2 --n_eval 1'),
]

ROWS = [
    case('row', 'mtt/table1/cifar10/ipc1', width=4),
    case('row', 'mtt/table1/cifar10/ipc10', width=4),
    case('row', 'mtt/table1/cifar10/dc/ipc1', width=4),
    case('row', 'mtt/table1/cifar10/dsa/ipc1', width=4),
    case('row', 'mtt/table1/cifar10/dm/ipc1', width=4),
    case('row', 'mtt/table1/cifar10/random/ipc1', width=4),
    case('row', 'mtt/table1/cifar10/herding/ipc1', width=4),
    case('row', 'mtt/table1/cifar10/forgetting/ipc1', width=4),
    case('row', 'mtt/table1/cifar10/full', width=4),
    case('row', 'mtt/table4/imagenette/ipc1', width=4),
    case('row', 'd3/table1/cifar10/ppc1', width=4),
    case('row', 'd3/table1/cifar10/ppc10', width=4),
    case('row', 'd3/table1/tinyimagenet/ppc1', width=4),
    case('row', 'd3/table3/cifar10/ppc10/rate'),
    case('row', 'd3/table7/loss=MTT/vgg11', width=4),
    case('row', 'd3s/table6/cifar10/ipc10', resnet_width=4),
    case('row', 'd3s/table1/tinyimagenet/ipc50/resnet18', resnet_width=4),
    case('row', 'd3s/table1/tinyimagenet/sre2l/ipc50/resnet18', resnet_width=4),
    case('row', 'd3s/table1/tinyimagenet/cda/ipc50/resnet18', resnet_width=4),
    case('row', 'd3s/table1/tinyimagenet/full/resnet18', resnet_width=4),
    case('row', 'latentdd/table1/imagesquawk/256px/latentdc/ipc1', width=4),
    case('row', 'latentdd/table1/imagesquawk/256px/latentdm/ipc1', width=4),
    case('row', 'latentdd/table1/imagesquawk/256px/latentmtt/ipc1', width=4),
    case('row', 'latentdd/table7/imagesquawk/256px/initial/ipc1', width=4),
]
CASES = FUNCTIONS + COMMANDS + ROWS


# what is written down: bits of tensors, leaves of cards, rows without their clock
CLOCK = set('seconds memory_mb date commit versions version module device cost'.split())
KEPT = re.compile(r'(expert_\d+|teacher_\d+|distilled|labels-\d+)\.safetensors')

def short(data):
    "A hash of bytes, short enough to be read."
    return hashlib.sha256(data).hexdigest()[:16]

def bits(t):
    "A hash of a tensor's type, shape and bytes."
    t = t.detach().cpu().contiguous()
    data = t.flatten().view(dd('torch').uint8).numpy().tobytes() if t.numel() else b''
    return short(f'{t.dtype} {list(t.shape)} '.encode() + data)

def text(v):
    "A value of a card or a row, with all bits of a float."
    return v.hex() if isinstance(v, float) else repr(v)

def leaves(o, at=''):
    "(path, text) of all leaves of a card; what a clock or a machine says is left out."
    if not isinstance(o, (dict, list, tuple)):
        yield at, text(o)
        return
    for k, v in o.items() if isinstance(o, dict) else enumerate(o):
        if k not in CLOCK: yield from leaves(v, f'{at}.{k}' if at else str(k))

def _timed(card): return any(f'"{k}"' in json.dumps(card, default=str) for k in CLOCK)

def of_file(file, at):
    "A safetensors file: tensors, leaves of its card, and all of it where no time is in it."
    tensors, card = dd('load_tensors')(file)
    out = {f'{at}/{k}': bits(t) for k, t in tensors.items()}
    out |= {f'{at}/card.{k}': v for k, v in leaves(card)}
    return out if _timed(card) else out | {f'{at}/file': short(file.read_bytes())}

def of_folder(home):
    "Sets, experts, teachers and labels below a folder, by file name; of one name by content."
    files = sorted(f for f in Path(home).rglob('*.safetensors') if KEPT.fullmatch(f.name))
    out = {}
    for stem in dict.fromkeys(f.stem for f in files):
        same = [of_file(f, stem) for f in files if f.stem == stem]
        for i, one in enumerate(sorted(same, key=lambda o: sorted(o.items()))):
            out |= {k.replace('/', f'[{i}]/', 1) if i else k: v for k, v in one.items()}
    return out

def of_set(d):
    "A distilled set in memory: its tensors and its card."
    out = {f'set/{k}': bits(t) for k, t in d.state_dict().items()}
    return out | {f'set/card.{k}': v for k, v in leaves(d.card())}

def of_row(row, at):
    "A measured row without its clock; the hash of an artefact has a time in it, too."
    drop = CLOCK | {'artefact'} | ({'mean', 'std', 'last'} if row.metric in CLOCK else set())
    said = {k: v for k, v in dataclasses.asdict(row).items() if k not in drop}
    said['deviations'] = re.sub(r'[\d.]+ s\b', '... s', said['deviations'])
    return {f'{at}/{k}': text(v) for k, v in said.items()}

def of_rows(rows):
    "Measured rows by number."
    return {k: v for i, r in enumerate(rows) for k, v in of_row(r, f'row {i}').items()}


# how things are called
HOMES = ('all', 'core', 'coreset', 'latent', 'cli', 'rows', 'entry', 'results') # where a name is looked for

@cache
def dd(name):
    "A name of the library, wherever this tree keeps it."
    for m in HOMES:
        try: module = importlib.import_module(f'dd_repro.{m}')
        except ModuleNotFoundError: continue
        if hasattr(module, name): return getattr(module, name)
    raise AttributeError(f'no module of {", ".join(HOMES)} has {name}')

class World:
    "Digits at 8 px and what small runs on them need; the same in every tree."
    seed, width, depth, f = 3, 4, 2, 2
    def __init__(self):
        self.real, self.test = dd('load')('digits', size=8)
        self.net = partial(dd('ConvNet'), 1, 10, 8, self.width, self.depth)
        self.teacher = partial(self.net, norm='batch')
    def ae(self):
        "A small autoencoder that was not trained."
        with dd('seeded')(self.seed, 'ae'): net = dd('TinyAE')(1, self.f, 4, 4)
        return dd('AutoEncoder')(net, 'tiny (untrained)', self.f, self.f, n_in=1, own=True)
    def start(self):
        "Two real images of each class."
        return dd('Pixels').from_real(self.real, 2, self.seed, lr=.05, arch=self.net().arch, aug='')

class Before:
    "The calls of version 0.1: a function for each family of methods, and `--method`."
    def __init__(self, world): self.w, self.kw = world, dict(seed=world.seed, quiet=True)
    def experts(self, path, n, epochs, **s):
        return dd('train_experts')(self.w.net, self.w.real, path, n, epochs, **self.kw, **s)
    def latent_experts(self, path, n, epochs):
        codes = dd('encode_set')(self.w.real, self.w.ae(), cache=False)
        return dd('latent_experts')(codes, path, n, epochs, self.w.width, None, **self.kw)
    def teachers(self, path, n=2, epochs=1):
        p = dd('as_protocol')('full').scaled(epochs=epochs, batch=256)
        make = dd('train_teachers')
        return make(self.w.teacher, self.w.real, path, n, p, 'crop', init='random', **self.kw)
    def labels(self, d, path, epochs, batch, cutmix):
        teachers = self.teachers(path/'teachers')
        return dd('relabel')(d, teachers, path/'labels', epochs, batch, cutmix=cutmix, **self.kw)
    def relabelled(self, d, store): return dd('Relabelled')(d, store)
    def protocol(self, name, epochs, batch):
        return dd('as_protocol')(name).scaled(epochs=epochs, batch=batch)
    def evaluate(self, d, protocol):
        more = ('same', 'method', 'reduced') # row, method, kind
        return dd('evaluate')(d, self.w.test, ['convnet'], protocol, 2, self.w.seed, *more, lr=.05)
    def students(self, d, protocol):
        with dd('seeded')(self.w.seed, 'students'): nets = [self.w.net() for _ in range(2)]
        return dd('train')(nets, d, protocol, .05, self.w.seed)
    def method(self, name, out, s):
        "A method from settings to a set; `out` is the run's folder."
        families = dict(mtt=self._mtt, d3=self._d3)
        families |= dict.fromkeys(('random', 'herding', 'forgetting'), self._coreset)
        families |= dict.fromkeys(('dc', 'dsa', 'dm'), self._match)
        families |= dict.fromkeys(('d3s', 'sre2l', 'cda'), self._d3s)
        return families.get(name, self._latent)(name, out, dict(s))
    def _coreset(self, name, out, s):
        arch = self.w.net().arch
        return dd('coreset')(self.w.real, s.pop('ipc'), name, self.w.net, seed=3, arch=arch, **s)
    def _mtt(self, name, out, s):
        w, buffer = self.w, self.experts(out/'experts', **EXPERTS)
        own = {k: s.pop(k, None) for k in (*MTT, 'batch_syn')}
        run = partial(dd('distill_mtt'), w.real, w.test, w.net, buffer, own, out, s.pop('ipc', 1))
        return run(**self.kw, **s)[0]
    def _match(self, name, out, s):
        run = partial(dd('distill_match'), self.w.real, out, name, s.pop('ipc', 1), self.w.net)
        return run(**self.kw, **s)[0]
    def _d3(self, name, out, s):
        w, buffer = self.w, self.experts(out/'experts', **EXPERTS)
        run = partial(dd('distill_d3'), w.real, w.net, buffer, out, width=s.pop('decoder_width'))
        return run(**self.kw, **s)[0]
    def _d3s(self, name, out, s):
        teachers = self.teachers(out/'teachers')
        return dd('distill_d3s')(self.w.real, teachers, out, **self.kw, **s)[0]
    def _latent(self, name, out, s):
        w, buffer = self.w, None
        if name == 'latent-mtt': buffer = self.latent_experts(out/'experts', 2, 3)
        run = partial(dd('distill_latent'), w.real, w.ae(), out, name, width=w.width)
        return run(buffer=buffer, **self.kw, **s)[0]
    def method_words(self, method): return [f'--method={method}']
    def command(self, command, words):
        importlib.import_module('dd_repro.entry').start(f'dd_{command}', words)
    def row(self, row, home, s):
        kw = dict(smoke=True, root=home/'none', home=home, device='cpu')
        return dd('run_row')(row, **kw, **self.kw, **s)

ALL_DSA = 'color_crop_cutout_flip_scale_rotate'
NAMES = dict(width='net_width', resnet_width='net_resnet_width') # of settings of a row

class Now(Before):
    "The calls of version 0.2: one verb on a task and a method, a subcommand for each."
    USED = dict(mtt=dict(aug=''), d3=dict(aug=ALL_DSA), dsa=dict(aug=ALL_DSA), dm=dict(aug=ALL_DSA),
                **{m: dict(flip=True) for m in ('d3s', 'sre2l', 'cda')}) # what `Before` takes where nothing is said
    def method(self, name, out, s):
        "A method from settings to a set; `out` is the run's folder."
        method = dd('method_of')(name, **self.USED.get(name, {}) | s)
        task = dd('Task')(self.w.real, self.w.test, self.w.net, self.w.seed)
        for need in method.needs: getattr(self, f'_{need}')(name, task, out)
        return dd('learn')(task, method, out, dd('RunOptions')(quiet=True))[0]
    def experts(self, path, n, epochs, **s):
        how = dd('expert_protocol')(epochs, **s)
        return dd('train_experts')(self.w.net, self.w.real, path, n, how, **self.kw)
    def teachers(self, path, n=2, epochs=1):
        p = dd('as_protocol')('full').scaled(epochs=epochs, batch=256)
        own = {f.name: getattr(p, f.name) for f in dataclasses.fields(p)}
        how = dd('TeacherProtocol')(**own, how='crop', init='random')
        return dd('train_teachers')(self.w.teacher, self.w.real, path, n, how, **self.kw)
    def labels(self, d, path, epochs, batch, cutmix):
        views = dd('ViewSettings')(batch, cutmix, seed=self.kw['seed'])
        return dd('relabel')(d, self.teachers(path/'teachers'), path/'labels', epochs, views, quiet=True)
    def _experts(self, name, task, out):
        codes = name == 'latent-mtt'
        make = partial(self.latent_experts, n=2, epochs=3) if codes else partial(self.experts, **EXPERTS)
        task.experts = make(out/'experts')
    def _teachers(self, name, task, out): task.teachers = self.teachers(out/'teachers')
    def _codes(self, name, task, out):
        w, task.ae = self.w, self.w.ae()
        task.net_fn = dd('latent_net')(dd('codes_space')(w.real, task.ae), w.width)
        task.arch = dd('ConvNet')(1, 10, 8, w.width, dd('code_depth')(8)).arch
    def method_words(self, method): return [method]
    def row(self, row, home, s):
        at = dd('Places')(home/'none', home, 'cpu')
        own = {NAMES.get(k, k): v for k, v in s.items()}
        return dd('run_row')(row, smoke=True, at=at, **self.kw, **own)

def ways(world):
    "How this tree is called, by what it offers."
    with contextlib.suppress(AttributeError):
        dd('distill_mtt')
        return Before(world)
    return Now(world)

def plain_steps():
    "The unroll without fused layers and graphs that stay, which change rounding (docs/decisions.md)."
    try: from dd_repro import fused, unroll
    except ImportError: return # a tree before there were any
    unroll._Path.eager = property(lambda self: False, lambda self, value: None)


# what each kind of case does: (ways, folder, name, settings) -> what is compared
def do_experts(to, home, name, s):
    to.experts(home, **s)
    return of_folder(home)

def do_latent_experts(to, home, name, s):
    to.latent_experts(home, **s)
    return of_folder(home)

def do_teachers(to, home, name, s):
    right = to.teachers(home, **s).accuracies(to.w.test)
    return of_folder(home) | {f'accuracy {i}': text(a) for i, a in enumerate(right)}

def do_labels(to, home, name, s):
    to.labels(to.w.start(), home, **s)
    return of_folder(home)

def do_evaluate(to, home, name, s):
    "Students of two images a class, of the whole set or of stored labels: their weights and rows."
    d, of = to.w.start(), s.get('of')
    if of == 'whole':
        d = to.w.real
        d.arch = to.w.net().arch
    if of == 'labels': d = to.relabelled(d, to.labels(d, home, 2, 10, False))
    p = to.protocol(s['protocol'], s['epochs'], 10 if of == 'labels' else 128)
    nets = enumerate(to.students(d, p))
    weights = {f'student {i}/{k}': bits(t) for i, n in nets for k, t in n.state_dict().items()}
    return weights | of_rows(to.evaluate(d, p))

def do_method(to, home, name, s): return of_set(to.method(name, home, s)) | of_folder(home)

def do_row(to, home, name, s): return of_rows(to.row(name, home, s)) | of_folder(home)

def do_commands(to, home, name, s):
    "Commands one after the other, with a house of their own."
    os.environ['DD_HOME'] = str(home)
    for line in s['lines'].strip().splitlines():
        to.command(*words_of(line, home/'out', home/'rows.csv', to))
    file = home/'rows.csv'
    return of_rows(dd('read_rows')(file) if file.is_file() else []) | of_folder(home)

def words_of(line, out, rows, to):
    "(command, its words); the set goes to out, the rows of students to rows."
    command, *words = line.format(labels=out/'distilled.labels', **WORDS).split()
    artefact = [str(out/'distilled.safetensors')]
    if command in ('experts', 'distill'): words[:1] = to.method_words(words[0])
    if command == 'distill': words += ['--out', str(out)]
    if command == 'relabel' or command == 'eval' and not {'--random', '--full'} & set(words):
        words = artefact + words
    if command == 'eval': words += ['--record_to', str(rows)]
    return command, [*words, '--seed', str(World.seed)]

def run(c, to):
    "One case: what is compared, or what went wrong under the name `error`."
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as tmp, contextlib.redirect_stdout(said):
        with contextlib.redirect_stderr(said):
            try: return globals()[f'do_{c.kind}'](to, Path(tmp), c.name, c.settings)
            except (Exception, SystemExit) as e: # of another tree anything may come
                last = ''.join(said.getvalue().strip().splitlines()[-1:]) # of a command that ended
                words = f'{type(e).__name__}: {" ".join(str(e).split())[:300]}'
                if isinstance(e, SystemExit): words += f' {last}'
                return dict(error=words.replace(tmp, '...'))

def title(c):
    "A case's name and what is set in it."
    words = ' '.join(f'{k}={v}' for k, v in c.settings.items() if k != 'lines')
    return ' '.join(filter(None, (c.kind, c.name, words)))

def chosen(only):
    "The cases whose title has one of the words; all where none is given."
    return [c for c in CASES if not only or any(w in title(c) for w in only)]

def main():
    "The command line."
    form = argparse.RawDescriptionHelpFormatter
    a = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    a.add_argument('out', help='the JSON file to write')
    a.add_argument('--only', nargs='+', default=[], metavar='WORD', help='cases that have it')
    o = a.parse_args()
    dd('torch').set_num_threads(1)
    plain_steps() # here, and not in `ways`: it changes the whole process
    to, out = ways(World()), {}
    for c in chosen(o.only): out[title(c)] = run(c, to)
    Path(o.out).write_text(json.dumps(out, indent=1))

if __name__ == '__main__': main()
