"LatentDD's table 2 on one core: seconds and memory of one iteration at 256 px, in pixel and in latent space; each cell in a process of its own."
import json, subprocess, sys, time
from functools import partial
from study import *
from dd_repro.norm import STATS
from dd_repro.data import pixels, scan

SIZE, W, B, N, PER = 256, 64, 16, 5, 16 # px, width, real batch, student steps, images a class
WHAT = dict(dm=f'real batch {B} a class', dc=f'real batch {B} a class, then 2 steps of the network on 64 real ones',
            mtt=f'{N} student steps, batch 64 at most, exact adjoint')
ROW, CELLS = 'latentdd/table2/imagewoof-256', (('pixel', 1, 'ipc1'), ('latent', 1, 'lpc1'), ('latent', 12, 'lpc12'))


def pictures(o):
    "(images under the norm, labels, seconds of CPU, norm)"
    norm = Normalize(*STATS['imagenet']['mtt'])
    if o.smoke: return (x := toy(SIZE, PER)[0]).x, x.y, 0., norm
    _, src = scan(dd_data()/'imagewoof-320'/'train')
    idx = [i for c in range(10) for i in [j for j, y in enumerate(src.targets) if y == c][:PER]]
    t = time.process_time(); x, y = pixels(src.subset(idx), SIZE); x = norm(x.float()/255)
    return x, y, time.process_time() - t, norm

def build(o, file):
    "Both spaces into a file; (seconds a picture, seconds a code, bytes of each)."
    x, y, a, norm = pictures(o)
    ae = train_tiny(toy(SIZE, 4)[0], 4, epochs=1, width=8) if o.smoke else load_autoencoder('taesd', f=4, download=False, dtype=torch.bfloat16)
    t = time.process_time(); z = ae.encode(x, norm); b = time.process_time() - t
    save_tensors(file, dict(x=x, y=y, z=z))
    return a/len(x), (a + b)/len(x), x.numel()*4/len(x), z.numel()*4/len(x)

def mtt_step(s, nf, d):
    "An iteration of MTT, as a function."
    f = Functional(nf()); start, target = (to_vector(nf()) for _ in range(2))
    def step():
        d.images.grad = None
        end = unroll(f, start, d.steps(N, min(64, len(d)), rng_for(0)), d.student_lr)
        ((end - target).square().sum()/(start - target).square().sum()).backward()
    return step

def step_of(method, s, nf, d):
    "An iteration of DM, DC or MTT, as a function."
    if method == 'mtt': return mtt_step(s, nf, d)
    if method == 'dm': return partial(DM(s, nf, batch_real=B, piece=32).backward, d)
    dc = DC(s, nf, Matching(10, 2, B, 'mse', 'real', batch_train=64, batch_syn=64))
    return lambda: (dc.backward(d), dc.after(d))

def cell(o):
    "One cell, in this process: the lesser CPU time of two iterations after one, and the peak of memory."
    t = load_tensors(o.file)[0]; s = ImageTensors(t['x' if o.space == 'pixel' else 'z'], t['y'], 10, name=o.space)
    side = s.shape[1]; nf = partial(ConvNet, s.shape[0], 10, side, W, code_depth(side))
    d = Pixels(torch.cat([s.of_class(c).repeat(o.n//PER + 1, 1, 1, 1)[:o.n] for c in range(10)]), torch.arange(10).repeat_interleave(o.n), 10, arch=nf().arch)
    step, secs = step_of(o.method, s, nf, d), []
    with Cost() as c: step()
    for _ in range(1 if o.smoke else 2): t0 = time.process_time(); step(); secs.append(time.process_time() - t0)
    print('CELL', json.dumps([min(secs), c.memory_mb]))

def measured(o, file, space, method, n):
    "A cell in a process of its own; None, and why, where it did not end."
    r = subprocess.run([sys.executable, __file__, '--cell', str(file), space, method, str(n), *['--smoke']*o.smoke], capture_output=True, text=True)
    got = [l for l in r.stdout.splitlines() if l.startswith('CELL')]
    return json.loads(got[0][5:]) if got else print('FAILED', method, space, r.stderr[-600:])

def dev(): return (f'{PER} images a class; ConvNets of width {W} (ConvNet-6 on pixels, ConvNet-4 on codes); TAESD in place of the SD v1.4 autoencoder; '
                   'one CPU core; CPU seconds of one thread (a shared machine), the lesser of 2 iterations')

def base(): return dict(protocol='reduced', n=1, device=device_name(), settings=settings_hash([SIZE, W, B, N, PER]))

def built(o, file):
    "Rows of building the set and of storing it."
    a, b, pb, zb = build(o, file)
    secs = [Row(f'{ROW}/build/{k}', method=f'build ({k})', metric='seconds', unit='s an image', mean=v, deviations=dev() + how, **base())
            for k, v, how in (('pixel', a, ''), ('latent', b, '; encoded in bfloat16'))]
    put(o, secs + [Row(f'{ROW}/real_set/{k}', method=f'real set ({k})', metric='storage', unit='kB an image', mean=v/1e3, deviations=dev(), **base())
                   for k, v in (('pixel-float32', pb), ('pixel-uint8', pb/4), ('latent-float32', zb))])

def main(o):
    "Every cell, one after another."
    file = o.home/f'latent_table2_{SIZE}.safetensors'
    built(o, file)
    for m in WHAT:
        for space, n, tag in CELLS:
            if not (got := measured(o, file, space, m, n)): continue
            kw = dict(method=('Latent' if space == 'latent' else '') + m.upper(), deviations=f'{dev()}; one iteration: {WHAT[m]}',
                      seconds=got[0], memory_mb=got[1], net=f'convnet-d{6 if space == "pixel" else 4}', **base())
            put(o, [Row(f'{ROW}/{m}/{tag}/{k}', metric=k, unit=u, mean=v, **kw) for k, u, v in zip(('seconds', 'memory'), ('s', 'MB'), got)])

if __name__ == '__main__':
    if child := '--cell' in sys.argv: sys.argv.remove('--cell')
    args = dict(file=dict(), space=dict(), method=dict(), n=dict(type=int)) if child else {}
    o = begin(__doc__, 'latentdd', **args)
    if o.smoke: SIZE, W, B, N, PER, CELLS = 32, 8, 4, 2, 4, CELLS[-1:]
    cell(o) if child else main(o)
