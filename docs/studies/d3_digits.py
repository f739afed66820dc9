"""D3 on digits at 8 px. study: settings, judged on held-out training images; sets: D3, MTT and random images, three distilled sets of each;
ablation: fewer losses; samples: how many samples, and which batch norm; longer: three times the iterations;
curve: the same for two seeds, with a row for each look on the way."""
import dataclasses
from functools import partial
from study import *

AUG, EPOCHS, N = 'crop_scale_rotate', 300, 5
BASE = dict(ppc=1, iterations=60, z_dim=16, decoder_width=32, scale=1., syn_steps=20, lr_latent=1., lr_decode=3e-3, lr_lr=1e-4, lr_teacher=.03,
            gamma1=1e-5, gamma2=.1, mmd_samples=20, losses='all')
CHOSEN = dict(lr_decode=1e-2) # what the study changed
TRIED = dict(gamma2=(1., .01), lr_decode=(1e-2, 1e-3), scale=(2.,), lr_latent=(10., .01), gamma1=(1e-3, 0.))
KINDS = {f'{m}{k}': (k, l) for m, l in (('dm', 'DM'), ('mtt', 'MTT'), ('both', 'MTT+DM')) for k in (1, 2)}
net_fn = partial(ConvNet, 1, 10, 8, 32, 2)


def proto(**view):
    "How students are trained on samples."
    return as_protocol('d3').scaled(epochs=EPOCHS, aug=AUG, view=dict(samples=5, bn='batch') | view)

fixed = lambda: proto().scaled(view=None)

def experts(o, real, name): return train_experts(net_fn, real, o.home/'buffers'/name, 2 if o.smoke else 20, expert_protocol(4, .05, 64, ''), quiet=True)

def distilled(o, real, buf, name, seed=0, looks=(), **kw):
    "(the set, what it was made with, its file)"
    s, out = BASE | kw, o.home/'runs'/'d3-digits'/name
    task = Task(real, net_fn=net_fn, seed=seed, experts=buf)
    how = RunOptions(sched=lambda p: 1 - p, keep=20, quiet=True, callbacks=looks)
    d, run = learn(task, D3Method(aug=AUG, **s), out, how)
    return d, s, run, out/'distilled.safetensors'

def text(s, real):
    "What differs from the paper."
    return (f'digits 8 px, {len(real)} training images; ConvNet-2 width 32; 20 experts, 4 epochs kept; decoder width {s["decoder_width"]}, z {s["z_dim"]}; '
            f'{s["iterations"]} iterations; N {s["syn_steps"]}; rates fall linearly')

def mtt(real, buf, lr_img, ckpt=None, seed=0, **kw):
    "MTT's images, one a class, under the same cost."
    d = Pixels.from_real(real, 1, seed, lr=.03, arch=net_fn().arch, aug=AUG)
    m = MTT(net_fn(), buf, BASE['syn_steps'], 2, 2, aug=DSA(AUG), keep=20, seed=seed)
    distill(d, m, BASE['iterations'], mtt_opts(lr_img, 1e-4), sched=lambda q: 1 - q, ckpt=ckpt, quiet=True)
    return d


def judged(o, sets, name, what, s, d, lr=None, **view):
    "A row on held-out training images."
    r, = evaluate(d, sets[1], protocol=proto(**view), n_eval=N, seed=0, row=f'd3/study/digits/{name}', method=what, lr=lr,
                  deviations=text(s, sets[0]) + f'; tested on {len(sets[1])} held-out training images; one distillation seed')
    r.metric, r.settings = 'val_acc', settings_hash([r.settings, s])
    put(o, r)

def study(o):
    "One setting after another, from a base."
    sets = load('digits', val=.2); buf = experts(o, sets[0], 'digits8-val')
    d, s, *_ = distilled(o, sets[0], buf, 'study-base')
    judged(o, sets, 'base', 'gamma1 1e-5, gamma2 .1, lr_latent 1, lr_decode 3e-3, scale 1, ppc 1', s, d)
    judged(o, sets, 'bn', 'bn recalibrated', s, d, bn='recalibrated'); judged(o, sets, 'mean', 'means only', s, d, mean=True)
    for lr in (.01, .02, .1): judged(o, sets, 'lr', f'evaluation lr {lr}', s, d, lr=lr)
    for k, v in ((k, v) for k, vs in TRIED.items() for v in vs):
        d, s, *_ = distilled(o, sets[0], buf, f'study-{k}-{v:g}', **{k: v})
        judged(o, sets, k, f'{k} {v:g}', s, d)
    for v in (0., .01, .1):
        d, s, *_ = distilled(o, sets[0], buf, f'study-gamma3-{v:g}', ppc=2, gamma3=v)
        judged(o, sets, 'gamma3', f'ppc 2, gamma3 {v:g}', s, d)
    for lr in (200., 50.): study_mtt(o, sets, buf, lr)

def study_mtt(o, sets, buf, lr):
    "MTT's rate."
    dev = (f'digits 8 px, {len(sets[0])} training images; ConvNet-2 width 32; 20 experts, 4 epochs kept; {BASE["iterations"]} iterations; N 20; '
           f'tested on {len(sets[1])} held-out training images')
    r, = evaluate(mtt(sets[0], buf, lr), sets[1], protocol=fixed(), n_eval=N, row='d3/study/digits/mtt', method=f'MTT ipc 1, lr_img {lr:g}', deviations=dev)
    r.metric = 'val_acc'
    put(o, r)


def tested(o, te, d, row, method, dev, p, seed=0, lr=None, file=None):
    "A row on the test set."
    r, = evaluate(d, te, protocol=p, n_eval=N, seed=seed, row=row, method=method, lr=lr, deviations=dev)
    r.seeds, r.artefact = str(seed), sha(file)
    return put(o, r)[0]

def one_a_class(o, tr, te, buf, seed):
    "D3 with one and two priors, MTT and random images, of one distillation seed."
    row, out = 'd3/digits/one_a_class', o.home/'runs'/'d3-digits'/f'mtt-{seed}'
    rand = Pixels.from_real(tr, 1, seed, lr=.05, arch=net_fn().arch, aug=AUG)
    dev = 'digits 8 px; ConvNet-2 width 32; lr chosen among .02 and .05 as the better for random images'
    yield tested(o, te, rand, row, 'random ipc 1', dev, fixed(), seed)
    for k in (1, 2):
        d, s, _, file = distilled(o, tr, buf, f'ppc{k}-{seed}', seed, **CHOSEN, ppc=k)
        yield tested(o, te, d, row, f'D3 ppc {k}', text(s, tr), proto(), seed, file=file)
    d = mtt(tr, buf, 200., out/'checkpoint.safetensors', seed)
    dev = f'digits 8 px; ConvNet-2 width 32; 20 experts, 4 epochs kept; {BASE["iterations"]} iterations; N 20; lr_img 200; rates fall linearly'
    yield tested(o, te, d, row, 'MTT ipc 1', dev, fixed(), seed, file=d.save(out/'distilled.safetensors'))

def together(rs):
    "Three distilled sets in one row: mean over sets, population std over sets and networks."
    mean = sum(r.mean for r in rs)/len(rs); std = (sum(r.std**2 + (r.mean - mean)**2 for r in rs)/len(rs))**.5
    dev = rs[0].deviations.split('; 5 samples a class')[0] + '; three distilled sets, n networks on each; std over all networks'
    dev += '; 5 samples a class & epoch; batch norm: batch' if 'D3' in rs[0].method else ''
    return dataclasses.replace(rs[0], row='d3/digits/three_seeds', seeds=','.join(sorted(r.seeds for r in rs)), mean=mean, last=mean, std=std,
                               seconds=sum(r.seconds for r in rs), artefact='', date='', commit='', deviations=dev)

def sets(o):
    "Three distilled sets of each method, then their sums."
    tr, te = load('digits'); buf = experts(o, tr, 'digits8')
    rows = [r for seed in ((0,) if o.smoke else (0, 1, 2)) for r in one_a_class(o, tr, te, buf, seed)]
    for m in dict.fromkeys(r.method for r in rows): put(o, together([r for r in rows if r.method == m]))

def ablation(o):
    "D3 without some of its losses, one and two priors a class."
    tr, te = load('digits'); buf = experts(o, tr, 'digits8')
    for name, (k, losses) in KINDS.items():
        if name == 'both1': continue # with one prior there is nothing else
        d, s, _, file = distilled(o, tr, buf, f'{name}-0', **CHOSEN, ppc=k, losses=losses)
        lr, note = (.06, '; no rate is learned, lr as MTT+DM learned it') if losses == 'DM' else (None, '')
        tested(o, te, d, 'd3/digits/ablation', f'D3 ppc {k}, {losses}', text(s, tr) + note, proto(), lr=lr, file=file)

def samples(o):
    "One distilled set, seen through more and fewer samples, recalibrated batch norm, or its means."
    tr, te = load('digits'); buf = experts(o, tr, 'digits8')
    d, s, *_ = distilled(o, tr, buf, 'ppc1-0', **CHOSEN)
    put(o, by_samples(d, te, (1, 2, 5, 10, 20), proto(), n_eval=N, row='d3/digits/samples', method='D3 ppc 1', deviations=text(s, tr)))
    for view in (dict(bn='recalibrated'), dict(mean=True)): tested(o, te, d, 'd3/digits/view', 'D3 ppc 1', text(s, tr), proto(**view))

def longer(o):
    "Three times the iterations, with looks at the test set on the way."
    tr, te = load('digits'); buf = experts(o, tr, 'digits8')
    for k in (1, 2):
        look = Evaluate(te, 1 if o.smoke else 30, proto(), n_eval=1 if o.smoke else 3)
        d, s, run, file = distilled(o, tr, buf, f'longer{k}', looks=[look], **CHOSEN, ppc=k, iterations=3*BASE['iterations'])
        r, = evaluate(d, te, protocol=proto(), n_eval=N, row='d3/digits/longer', method=f'D3 ppc {k}', deviations=text(s, tr))
        looks = [h['acc_convnet'] for h in run.history if 'acc_convnet' in h]
        r.artefact, r.best, r.k = sha(file), max(looks), len(looks)
        put(o, r)

def curve(o):
    "One and two priors a class, two seeds, accuracy against iterations."
    tr, te = load('digits'); buf = experts(o, tr, 'digits8')
    for seed, k in ((s, k) for s in ((0,) if o.smoke else (0, 1)) for k in (1, 2)):
        look = Evaluate(te, 1 if o.smoke else 60, proto(), n_eval=1 if o.smoke else 3)
        d, s, run, file = distilled(o, tr, buf, f'curve{k}-{seed}', seed, [look], **CHOSEN, ppc=k, iterations=3*BASE['iterations'])
        put(o, [at(s, tr, run, k, seed, h, look.n_eval, file) for h in run.history if 'acc_convnet' in h])

def at(s, tr, run, k, seed, h, n, file):
    "The row of one look."
    last = h['it'] == s['iterations']
    return Row(f'd3/digits/curve/{h["it"]:03}', 'reduced', text(s, tr) + f'; a look at iteration {h["it"]} of {s["iterations"]}', f'D3 ppc {k}', 'convnet', mean=h['acc_convnet'],
               n=n, seeds=str(seed), device=device_name(), settings=settings_hash([s, h['it']]), artefact=sha(file) if last else '', seconds=run.seconds*h['it']/s['iterations'])

if __name__ == '__main__':
    parts = dict(study=study, sets=sets, ablation=ablation, samples=samples, longer=longer, curve=curve)
    o = begin(__doc__, 'd3', what=dict(choices=parts))
    if o.smoke: BASE |= dict(iterations=2, syn_steps=2, mmd_samples=4); EPOCHS, N = 2, 1
    parts[o.what](o)
