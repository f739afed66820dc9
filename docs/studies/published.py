"Published sets and coresets of CIFAR-10 under the papers' own evaluation at full length; a network a piece, so that it may be stopped at any time."
import json
from fnmatch import fnmatch
from functools import cache, partial
import numpy as np
from torch import nn
import dd_repro.students
from study import *

WATCHED = dict(cpu=(32, 6), cuda=(128, 20)) # width and epochs of the ConvNet that is watched
CHOSEN = dict(random='a network on each of so many random choices (seeds: of choices)',
              herding='by the features of a given ResNet-20, from all 50,000 images',
              forgetting='by a ConvNet of width {} that is watched for {} epochs on all 50,000 images')


class Given(nn.Module):
    "The features of the ResNet-20 that is given, for images under another norm."
    def __init__(self, norm):
        super().__init__()
        (self.net, self.own), self.norm = load_resnet20(), norm
    def embed(self, x): return self.net.embed(self.own(self.norm.inverse(x)))

def chosen(o, real, m, ipc, seed):
    "A coreset. Herding and forgetting choose ten a class once; one a class is the first of these."
    if m == 'random' or o.smoke: return coreset(real, ipc, 'random', seed=seed)
    most = max(ipc, 10)
    file, herding = o.home/'published'/f'{m}{most if most > 10 else ""}.safetensors', m == 'herding'
    if not file.is_file():
        width, epochs = WATCHED[o.device]
        net_fn = (lambda: Given(real.norm)) if herding else partial(ConvNet, 3, 10, 32, width, 3)
        coreset(real.to(o.device), most, m, net_fn, 0 if herding else epochs).save(file)
    d = Distilled.load(file)
    keep = torch.cat([(d.y == c).nonzero()[:ipc, 0] for c in range(10)])
    return Pixels(d.images.detach()[keep], d.y[keep], 10, classes=d.classes, norm=real.norm, lr=.01, name=real.name, source=d.source)

def job(method, ipc, make, protocol, kind, zca=False, net='convnet', seed='0', dev='', file=None, more='', n=5):
    "A row to be made; `make(i, real)` is the set of network i."
    return dict(row=f'published/cifar10/{method.lower()}/ipc{ipc}{more}', method=method, make=make, protocol=protocol, kind=kind, zca=zca, net=net,
                seed=seed, dev=dev, file=file, n=n)

def of_set(o, name, net='convnet', run=0):
    "Students of a published set. `paper` where the paper, its code or the files state all that acts, sets and networks included."
    p = PUBLISHED[name]
    sets, nets = map(int, p.networks.split(' x '))
    n = min(o.n, nets)
    few = f'{n} network{"s"*(n > 1)} on each set (printed: {sets} x {nets}, sets x networks)' if n < nets else ''
    rate = f'student rate {p.lr:g} from {p.lr_from}, in no file' if p.lr_from else ''
    whose = dict(MTT="made by DC-BENCH with MTT's code, last iteration (printed: the best of about 51 looks)", DM="made by DC-BENCH with DM's code").get(p.method, '')
    which = f'set {run + 1} of {p.runs} in the file' if p.runs > 1 else ''
    dev = '; '.join(filter(None, (which, few, rate, whose)))
    return job(p.method, p.ipc, lambda i, real: published_set(p, o.folder, real, run), p.protocol, 'decided' if dev else 'paper', p.zca, net, str(run), dev,
               o.folder/p.name, '' if net == 'convnet' else f'/net={net}', n)

def of_choice(o, m, ipc, protocol):
    "Students of a coreset; a random one is chosen anew for each network."
    make = lambda i, real: chosen(o, real, m, ipc, i if m == 'random' else 0)
    return job(m, ipc, make, as_protocol(protocol), 'decided', seed=' '.join(map(str, range(o.n))) if m == 'random' else '0', dev=CHOSEN[m].format(*WATCHED[o.device]),
               more=f'/eval={protocol}', n=o.n)

def jobs(o):
    "All rows, in the order in which they are made."
    yield from (of_set(o, f'{m}-cifar10-ipc1') for m in ('mtt-zca', 'dm'))
    yield from (of_set(o, f'{m}-cifar10-ipc1', run=r) for r in range(5) for m in ('dc', 'dsa'))
    yield from (of_choice(o, m, 1, p) for m in CHOSEN for p in ('dc', 'dsa'))
    yield from (of_set(o, f'{m}-zca-cifar10-ipc10') for m in ('mtt', 'datm'))
    yield from (of_choice(o, m, 10, p) for p in ('dc', 'dsa') for m in CHOSEN)
    yield from (of_choice(o, m, 50, p) for p in ('dc', 'dsa') for m in CHOSEN)
    yield from (of_set(o, 'mtt-zca-cifar10-ipc10', net) for net in ('alexnet', 'vgg11', 'resnet18'))

def piece(o, j, i, images, judge):
    "One network: accuracy, seconds, memory, hash of settings; read where it was made before."
    file = o.home/'published'/f'{j["row"].replace("/", "-")}-{j["net"]}-{j["seed"].split()[0]}-net{i}.json'
    if not file.is_file():
        real, test = images(j['zca'])[0], judge(j['zca'])
        p = j['protocol'].scaled(kind='smoke', epochs=1) if o.smoke else j['protocol']
        r = students(j['make'](i, real).to(o.device), test, j['net'], p, n_eval=1, seed=i)
        keep = dict(acc=r.mean, seconds=r.seconds, memory=r.memory_mb, settings=r.settings, content=r.content, device=r.device)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(keep))
        print(f'{j["row"]} {j["seed"]}: network {i}, {r.mean:.2f} %, {r.seconds:.0f} s', flush=True)
    return json.loads(file.read_text())

def run(o, j, images, judge):
    "All networks of a row, then the row."
    with trainings(): ps = [piece(o, j, i, images, judge) for i in range(j['n'])]
    accs = np.array([p['acc'] for p in ps])
    put(o, Row(j['row'], 'smoke' if o.smoke else j['kind'], j['dev'], j['method'], j['net'], n=j['n'], seeds=j['seed'], mean=accs.mean(), std=accs.std(), last=accs.mean(),
               seconds=sum(p['seconds'] for p in ps), memory_mb=max(p['memory'] for p in ps), device=ps[0]['device'], content=ps[0]['content'],
               settings=settings_hash([p['settings'] for p in ps]), artefact=file_sha256(j['file'])[:16] if j['file'] and not o.smoke else ''))

def toys(o):
    "Generated images in place of CIFAR-10, and files of each layout: (real, test)."
    real, test = toy(per_class=60)
    o.folder = Path(TMP.name)/'sets'
    for name, p in PUBLISHED.items():
        PUBLISHED[name] = p = dataclasses.replace(p, name=f'toy-{name}', zca=False)
        x, y = Pixels.from_real(real, p.ipc).dataset().tensors
        files = dict(mtt={'images_best': x, 'labels_best': y}, datm=dict(images=x, labels=5*torch.eye(10)[y], lr=torch.tensor(.01)),
                     dc={f'res_{p.method}': dict(data=[[x, y]]*p.runs)})[p.layout]
        (o.folder/p.name).mkdir(parents=True)
        for k, v in files.items(): torch.save(v, o.folder/p.name/f'{k}.pt')
    return real, test

if __name__ == '__main__':
    o = begin(__doc__, 'published', folder=dict(type=Path, help='where the folders of published sets are'),
              rows=dict(nargs='*', help='which rows: patterns below published/cifar10/, such as mtt/ipc1 or "random/*" (default: all)'),
              **{'--n': dict(type=int, default=5, help='networks on each set, at most as many as printed (default: 5)'),
                 '--device': dict(choices=list(WATCHED), default='cpu', help='where (default: cpu)')})
    if o.smoke: o.n, made = 1, toys(o)
    if o.device == 'cpu': dd_repro.students.STEP_MAX = 8*128*32*32 # parts of eight images stay in a core's cache; nothing but rounding changes
    images = cache(lambda zca: made if o.smoke else load('cifar10', zca=zca))
    judge = cache(lambda zca: images(zca)[1].to(o.device))
    for j in jobs(o):
        if not any(fnmatch(j['row'], f'published/cifar10/{w}') for w in o.rows or ['*']): continue
        if any((r.row, r.net, r.seeds) == (j['row'], j['net'], j['seed']) and r.n >= j['n'] for r in read_rows(o.csv)): continue
        run(o, j, images, judge)
