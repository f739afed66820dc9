"LatentDD on Imagewoof at 128 px with TAESD, f = 4: three latent methods, their undistilled codes and random images; then the whole set, in both spaces."
from study import *

SIZE, W, EW, LPC, EPOCHS, N = 128, 64, 32, 12, 60, 3
ITS = {'latent-dm': dict(iterations=200), 'latent-dc': dict(iterations=20, outer=5, inner=10), 'latent-mtt': dict(iterations=100, syn_steps=10, net_lr=.02)}
PROBE = {'latent-dm': 30, 'latent-dc': 2, 'latent-mtt': 8} # iterations of short runs, by whose loss lr_base is chosen
GRID = {'latent-dm': (.5, 5., 50.), 'latent-dc': (.05, .5, 5.), 'latent-mtt': (5., 50., 500.)}
NAMES = {'latent-dc': 'LatentDC', 'latent-dm': 'LatentDM', 'latent-mtt': 'LatentMTT'}
SET = ('Imagewoof with 250 of 1300 images a class, test 50 a class; 128 px (paper: 256); TAESD in place of the SD v1.4 autoencoder, encoded in bfloat16')
BASE = f'{SET}; ConvNet-3 of width 64 on codes (paper: ConvNet-4, 128); evaluation ConvNet-5 of width 32 (paper: ConvNet-6, 128), n = 3 (paper: 5)'
protocol = lambda epochs: LATENTDD.scaled(epochs=epochs, batch=32)


class Bench:
    "Pictures, their codes, and what is done with them."
    def __init__(self, o):
        self.o, self.home = o, o.home/'latent-woof'
        self.real, self.test = toy(SIZE, 4) if o.smoke else load('imagewoof', size=SIZE)
        self.ae = train_tiny(self.real, 4, epochs=1, width=8) if o.smoke else load_autoencoder('taesd', f=4, download=False, dtype=torch.bfloat16)
        self.codes, self.arch = encode_set(self.real, self.ae, cache=False if o.smoke else None), ConvNet(3, 10, SIZE, EW, 5 if SIZE > 64 else 3).arch

    def latent(self, m, tag, buffer=None, sched=None, **kw):
        "(set, run, its file) of one method."
        task = Task(self.real, net_fn=latent_net(self.codes, W), ae=self.ae, codes=self.codes, arch=self.arch, experts=buffer)
        d, run = learn(task, method_of(m, lpc=LPC, **kw), self.home/tag, RunOptions(quiet=True, sched=sched))
        return d, run, self.home/tag/'distilled.safetensors'

    def score(self, d, method, row, dev, run=None, file='', epochs=None):
        "A row; its seconds are those of the distillation where there was one."
        r, = evaluate(d, self.test, [self.arch], protocol(epochs or EPOCHS), N, row=row, method=method, deviations=dev)
        r.seconds, r.artefact = run.seconds if run else r.seconds, sha(file)
        put(self.o, r)


def beside(b):
    "Undistilled codes, and ten real images."
    d, _, file = b.latent('initial', 'initial')
    b.score(d, 'Initial', 'latentdd/table7/imagewoof/128px-lpc12', BASE, file=file)
    px = Pixels.from_real(b.real, 1, arch=b.arch, aug=LATENTDD.aug)
    dev = BASE + '; ten real images, the bytes of 120 codes, trained for as many steps'
    b.score(px, 'random real', 'latentdd/table1/imagewoof/128px-ipc1', dev, epochs=EPOCHS*4)

def probed(b, m, kw):
    "lr_base by the mean loss of the last half of short runs."
    tried = {}
    for lr in GRID[m]:
        try: h = b.latent(m, f'probe-{m}-{lr}', lr_base=lr, **ITS[m] | dict(iterations=PROBE[m]), **kw)[1].history
        except ValueError as e: print(m, lr, str(e)[:100]); tried[lr] = float('inf'); continue # it diverged
        k = max(1, len(h)//2); tried[lr] = sum(x['loss'] for x in h[-k:])/k
    print(m, tried, flush=True)
    return min(tried, key=tried.get)

def text(m, lr):
    "Settings beside the paper's."
    ours, paper = ITS[m] | dict(lr_base=lr), plain_settings(m, resolution=256, budget=1, variant=['f=4'])
    printed = ', '.join(f'{k} {v}' for k, v in paper.items() if k in ours)
    return (f'{BASE}; {", ".join(f"{k} {v:g}" for k, v in ours.items())} (paper: {printed}); '
            'lr_base by the loss of short runs among 3; rates fall linearly to zero' + ('; 8 experts, batch 128, lr 0.02' if m == 'latent-mtt' else ''))

def run(b, m):
    "One latent method."
    kw = {}
    if m == 'latent-mtt': kw['buffer'] = latent_experts(b.codes, b.home/'experts', 1 if b.o.smoke else 8, epochs=6, width=W, lr=.02, batch=128, quiet=True)
    lr = probed(b, m, kw)
    d, run, file = b.latent(m, m, lr_base=lr, sched=lambda t: 1 - t, **ITS[m], **kw)
    b.score(d, NAMES[m], 'latentdd/table1/imagewoof/128px-lpc12', text(m, lr), run, file)

def methods(b):
    "What stands beside the methods, and each method."
    beside(b)
    for m in ITS: run(b, m)

def whole(b):
    "The whole set as codes and as pixels."
    p, dev, row = as_protocol('full').scaled(epochs=1 if b.o.smoke else 6), f'{SET}; ConvNets of width {EW}', 'latentdd/table3/imagewoof-128'
    codes = encode_set(b.test, b.ae, cache=False if b.o.smoke else None)
    channels, side, _ = b.codes.shape
    net = ConvNet(channels, 10, side, EW, code_depth(side)).arch
    put(b.o, evaluate(b.codes, codes, net, p.scaled(aug='crop_cutout'), 1, row=f'{row}/latent-f4', method='full (latent f=4)', deviations=dev))
    put(b.o, evaluate(b.real, b.test, b.arch, p, 1, row=f'{row}/pixel', method='full (pixel)', deviations=dev))

if __name__ == '__main__':
    parts = dict(methods=methods, whole=whole)
    o = begin(__doc__, 'latentdd', what=dict(nargs='?', choices=parts, help='one of the two parts (default: both)'))
    if o.smoke:
        SIZE, W, EW, LPC, EPOCHS, N, GRID, PROBE = 32, 8, 8, 2, 1, 1, {m: v[:1] for m, v in GRID.items()}, dict.fromkeys(PROBE, 1)
        ITS = {m: {k: v if k == 'net_lr' else min(v, 2) for k, v in kw.items()} for m, kw in ITS.items()}
    b = Bench(o)
    for part in [parts[o.what]] if o.what else parts.values(): part(b)
