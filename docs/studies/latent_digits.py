"LatentDD on digits at 16 px: three latent methods beside undistilled codes and random images of equal bytes; three candidates for every arm."
from study import *

W, D, LPC, EPOCHS, N = 32, 1, 4, 300, (3, 5)
ITS = {'latent-dm': dict(iterations=300), 'latent-dc': dict(iterations=15, outer=10, inner=10),
       'latent-mtt': dict(iterations=100, syn_steps=20, max_start_epoch=2, net_lr=.05, lr_lr=1e-6)}
GRID = {'initial': (.01, .03, .1), 'latent-dm': (.5, 5., 50.), 'latent-dc': (.01, .1, 1.), 'latent-mtt': (1., 10., 100.)} # the student's rate, then lr_base
NAMES = {'initial': 'Initial', 'latent-dc': 'LatentDC', 'latent-dm': 'LatentDM', 'latent-mtt': 'LatentMTT'}
BASE = (f'digits (16 px) in place of ImageNet subsets; tiny autoencoder f=4 trained on the same digits; one channel, so that ipc 1 buys 4 codes; '
        f'ConvNet-{D} of width {W} on codes, ConvNet-2 of width {W} on pictures; '
        'the student rate is chosen for the undistilled codes among 3 and kept, lr_base of each method among 3, '
        'on a fifth of train; rates fall linearly to zero')


def protocol(lr): return LATENTDD.scaled(epochs=EPOCHS, batch=64, lr=lr)

def space(o, real, tag):
    "An autoencoder, the codes of a set, and trajectories on them."
    ae = train_tiny(real, epochs=1 if o.smoke else 30, width=24); codes = encode_set(real, ae, cache=False)
    out = o.home/'latent-digits'/f'experts-{tag}'
    return ae, codes, latent_experts(codes, out, 1 if o.smoke else 8, epochs=3, width=W, depth=D, lr=.05, batch=64, quiet=True)

def make(o, m, sp, real, tag, lr):
    "(set, run, its file) of one method at one rate."
    ae, codes, buffer = sp
    method = method_of(m, lpc=LPC, **({} if m == 'initial' else dict(ITS[m], lr_base=lr)))
    task = Task(real, net_fn=latent_net(codes, W, D), ae=ae, codes=codes, experts=buffer)
    out = o.home/'latent-digits'/tag
    return *learn(task, method, out, RunOptions(quiet=True, sched=lambda t: 1 - t)), out/'distilled.safetensors'

def search(o, rest, held):
    "The rate of each arm."
    sp, best = space(o, rest, 'rest'), {}
    for m, grid in GRID.items():
        acc = {}
        for v in grid:
            try: d, *_ = make(o, m, sp, rest, f'search-{m}-{v}', v)
            except ValueError as e: print(m, v, str(e)[:90]); acc[v] = 0.; continue # it diverged
            acc[v] = evaluate(d, held, protocol=protocol(v if m == 'initial' else best['initial']), n_eval=N[0], method=m)[0].mean
        best[m] = max(acc, key=acc.get); print(m, acc, flush=True)
    return best

def arms(o, sp, full, test, best):
    "Every arm on the test set."
    for m in GRID:
        d, run, file = make(o, m, sp, full, f'final-{m}', best[m])
        dev = BASE + ('' if m == 'initial' else '; ' + ', '.join(f'{k} {v:g}' for k, v in (ITS[m] | dict(lr_base=best[m])).items()))
        r, = evaluate(d, test, protocol=protocol(best['initial']), n_eval=N[1], row=f'latentdd/study/digits/lpc{LPC}', method=NAMES[m], deviations=dev)
        r.artefact, r.seconds = sha(file), run.seconds if run else r.seconds
        put(o, r)
    return d.arch

def random(o, rest, held, full, test, arch):
    "One real image a class, at its own rate."
    px = lambda real: Pixels.from_real(real, 1, arch=arch, aug=LATENTDD.aug)
    lr = max((evaluate(px(rest), held, protocol=protocol(v), n_eval=N[0])[0].mean, v) for v in GRID['initial'])[1]
    put(o, evaluate(px(full), test, protocol=protocol(lr), n_eval=N[1], row=f'latentdd/study/digits/lpc{LPC}', method='random real (equal bytes)',
                    deviations=BASE + '; its own student rate among 3'))

if __name__ == '__main__':
    o = begin(__doc__, 'latentdd')
    if o.smoke:
        EPOCHS, N, GRID = 2, (1, 1), {m: v[:1] for m, v in GRID.items()}
        ITS = {m: {k: min(v, 2) for k, v in kw.items()} for m, kw in ITS.items()}
    (full, test), (rest, held) = load('digits', size=16), load('digits', size=16, val=.2)
    best, sp = search(o, rest, held), space(o, full, 'full')
    random(o, rest, held, full, test, arms(o, sp, full, test, best))
    p, n = as_protocol('full').scaled(epochs=1 if o.smoke else 20), 1 if o.smoke else 3
    rows = full_rows(full, test, sp[0], W, p, n_eval=n, row='latentdd/table3/digits')
    for r in rows: r.deviations = '; '.join(filter(None, (r.deviations, 'digits (16 px), tiny autoencoder')))
    put(o, rows)
