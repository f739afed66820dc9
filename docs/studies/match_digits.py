"""DC, DSA and DM on digits at 8 px beside random images, herding and forgetting. 1, 10: images a class; four candidates for every arm, judged on held-out
training images, then the test set. longer: DC and DSA with 12, 30 and 60 outer iterations."""
import dataclasses
from functools import partial
from study import *

AUG, EPOCHS, N = 'crop_scale_rotate', 300, (3, 5)
COMMON = 'digits at 8 px (no paper has them); ConvNet-2 width 32 (ConvNet-3 width 128)'
LOOPS = {1: 1, 10: 10} # outer and inner steps of DC and DSA
ITS = {1: dict(dc=400, dsa=400, dm=1000), 10: dict(dc=12, dsa=12, dm=400)}
OFFICIAL = dict(dc=1000, dsa=1000, dm=20000)
GRIDS = dict(random=('seed', range(4)), dm=('lr_img', (1., 3., 10., 30.)), dc=('lr_img', (.1, .3, 1., 3.)), dsa=('lr_img', (.1, .3, 1., 3.)),
             herding=('epochs', (0, 5, 20, 60)), forgetting=('epochs', (5, 10, 20, 40)))
net_fn = partial(ConvNet, 1, 10, 8, 32, 2)
ARCH = net_fn().arch


def matched(o, m, ipc, data, lr, seed, tag, its):
    "A set by DC, DSA or DM."
    loops = {} if m == 'dm' else dict(outer=LOOPS[ipc], inner=LOOPS[ipc])
    method = method_of(m, ipc=ipc, iterations=its, lr_img=lr, batch_real=64, aug=AUG if m != 'dc' else '', **loops)
    return learn(Task(data, net_fn=net_fn, seed=seed), method, o.home/'match-digits'/tag, RunOptions(every=1000, quiet=True))[0]

def text(m, ipc, lr):
    "Settings beside the official ones."
    d = {'iterations': f'{ITS[ipc][m]} ({OFFICIAL[m]})', 'lr_img': f'{lr:g} ({METHODS[m]().rate:g})', 'batch_real': '64 (256)'}
    if m != 'dm' and ipc > 1: d['inner'] = f'{LOOPS[ipc]} ({dc_loops(ipc)[1]})'
    return '; '.join(f'{k} {v}' for k, v in (d if m == 'dc' else d | {'augmentation': AUG}).items())

def candidate(o, m, ipc, v, data, part, seed):
    "(the set, what it differs in)"
    if m == 'random': return coreset(part, ipc, seed=v, arch=ARCH), 'the best of 4 draws on held-out images'
    if m in CORESETS: return coreset(data, ipc, m, net_fn, v, seed, arch=ARCH), f'network trained {v} epochs'
    return matched(o, m, ipc, data, v, seed, f'ipc{ipc}/{m}-{v:g}-{seed}', ITS[ipc][m]), text(m, ipc, v)

def judged(d, test, row, m, dev, n, seed=0):
    "A row of students."
    p = as_protocol('dsa').scaled(epochs=EPOCHS, aug=AUG)
    return evaluate(d, test, protocol=p, n_eval=n, seed=seed, row=row, method=m, kind='reduced', deviations=dev)[0]

def search(o, m, ipc, part, held, dev):
    "The best of a grid on held-out images."
    word, values = GRIDS[m]
    scores = []
    for v in values:
        try: d, what = candidate(o, m, ipc, v, part, part, 0)
        except ValueError as e: print(m, v, e); scores.append((0., v)); continue # too few images ever learned, say
        r = judged(d, held, f'latentdd/study/digits/{m}/ipc{ipc}/{word}={v:g}', m, f'{dev}; {what}; accuracy on that held-out fifth', N[0])
        put(o, r := dataclasses.replace(r, metric='val_acc'))
        scores.append((r.mean, v))
    return max(scores)[1]

def arms(o, ipc):
    "Every arm at its best candidate, then one draw of random images."
    (part, held), (real, test) = load('digits', val=.2), load('digits')
    dev = COMMON + '; settings: best of 4 candidates on a held-out fifth of train'
    for m in GRIDS:
        d, what = candidate(o, m, ipc, search(o, m, ipc, part, held, dev), real, part, 1)
        file = d.save(o.home/'match-digits'/f'ipc{ipc}'/f'{m}.safetensors')
        r = judged(d, test, f'latentdd/digits/{m}/ipc{ipc}', m, f'{dev}; {what}', N[1], 1)
        r.artefact, r.seeds = sha(file), '1' if m in OFFICIAL else r.seeds
        put(o, r)
    put(o, judged(coreset(real, ipc, seed=1, arch=ARCH), test, f'latentdd/digits/random/ipc{ipc}', 'random (one draw)', COMMON, N[1], 1))

def longer(o):
    "Do gradient methods only need longer? Ten images a class, the rate of the search."
    real, test = load('digits')
    for m, lr in (('dc', 3.), ('dsa', .1)):
        for its in (1,) if o.smoke else (12, 30, 60):
            d = matched(o, m, 10, real, lr, 1, f'longer-{m}-{its}', its)
            dev = (f'{COMMON}; iterations {its} (1000); lr_img {lr:g}, the best of 4 at 12 iterations on a held-out fifth of train; '
                   'batch_real 64 (256); inner 10 (50)')
            r = judged(d, test, f'latentdd/digits/longer/ipc10/{m}-{its}', m, dev, N[1], 1)
            r.seeds = '1'
            put(o, r)

if __name__ == '__main__':
    o = begin(__doc__, 'latentdd', what=dict(choices=('1', '10', 'longer')))
    if o.smoke:
        EPOCHS, N, LOOPS = 2, (1, 1), {1: 1, 10: 1}
        ITS, GRIDS = {k: dict.fromkeys(v, 1) for k, v in ITS.items()}, {m: (w, v[1:2]) for m, (w, v) in GRIDS.items()}
    longer(o) if o.what == 'longer' else arms(o, int(o.what))
