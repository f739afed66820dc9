"""The picture of the first page, and the decoded Imagewoof sets of the gallery.

    DD_DATA=FOLDER python docs/pictures.py    # FOLDER has TAESD's weights (taesd/); rounded ones will do

Everything is read from docs/artefacts and docs/results. A notebook cannot do it, since whoever runs
the notebooks need not have the weights.
"""
import io, os
from textwrap import wrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ.setdefault('MATPLOTLIBRC', str(HERE.parent/'nbs'/'matplotlibrc'))
import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
from PIL import Image
from dd_repro.all import *

WIDE, DPI = 7, 150
SETS = dict( # artefact -> method, the row that it belongs to, what it is
    **{'cifar10-mtt-ipc1-h100': ('MTT', 'mtt/table1/cifar10/ipc1', 'CIFAR-10, ten images'),
       'cifar10-d3-ppc1': ('D3', 'd3/table1/cifar10/ppc1', 'CIFAR-10, means of ten distributions'),
       'cifar10-d3s-ipc10-k600': ('D3S', 'd3s/table6/cifar10/ipc10', 'CIFAR-10, ten of 100 images'),
       'imagewoof-latentmtt-lpc12': ('LatentMTT', 'latentdd/table1/imagewoof/256px/latentmtt/ipc1',
                                     'Imagewoof at 128 px, ten of 120 codes')})


def opened(stem):
    "A published set."
    return Distilled.load(HERE/'artefacts'/f'{stem}.safetensors')

def decoded(d, which):
    "Some codes as pictures, by the weights at hand: to look at them, and not to train on them."
    ae = load_autoencoder(d.ae_card['name'], d.ae_card['f'], download=False)
    return ae.decode(d.latents.detach()[which], d.norm)

def firsts(d):
    "One picture of each class, in 0..1: of a distribution its mean."
    if isinstance(d, LatentPriors): return torch.stack([d.variations(i, 1)[0] for i in range(10)])
    which = [int((d.y == c).nonzero()[0]) for c in range(10)]
    x = decoded(d, which) if isinstance(d, LatentCodes) else next(iter(d.epoch(0, 10**6)))[0][which]
    return d.norm.inverse(x.detach()).clamp(0, 1).cpu()

def told(stem):
    "Title of a strip: method, what it is, bytes, our accuracy and the paper's."
    name, row, what = SETS[stem]
    file = HERE/'artefacts'/f'{stem}.safetensors'
    own = [m for m in measured.lines() if m.artefact and file_sha256(file).startswith(m.artefact)
           and m.metric == 'test_acc' and m.row.split('/')[:2] == row.split('/')[:2]
           and m.method.lower().replace('-', '') == name.lower()]
    r, d = printed_by_name()[row], opened(stem)
    size = f'{d.nbytes:,} bytes' + ' with the decoder'*isinstance(d, LatentPriors)
    where = ' (256 px)'*(name == 'LatentMTT')
    return (f'{name}: {what}, {size}. Here {own[0]["mean"]:.1f} % ({own[0].protocol}), '
            f'paper {r.value} %{where}')

def strip(fig, x, names, title):
    "Ten pictures in a row, the names of their classes below."
    axs = fig.subplots(1, 10)
    fig.suptitle(title, x=.005, ha='left', fontsize=7.5)
    for ax, img, name in zip(axs, x, names):
        ax.imshow(img.permute(1, 2, 0), interpolation='nearest')
        ax.set_xlabel('\n'.join(wrap(name, 11)), fontsize=6.5, labelpad=2)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)

def strips(rows, path):
    "Strips below each other, as a small PNG without metadata."
    high = [.95 + .25*any(' ' in n for n in names) for _, names, _ in rows]
    fig = plt.figure(figsize=(WIDE, sum(high)), dpi=DPI)
    parts = fig.subfigures(len(rows), 1, height_ratios=high, squeeze=False)[:, 0]
    for part, row in zip(parts, rows): strip(part, *row)
    out = io.BytesIO()
    fig.savefig(out, format='png', bbox_inches=None)
    Image.open(out).convert('RGB').quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    plt.close(fig)

def main():
    "Write both pictures."
    sets = {s: opened(s) for s in SETS}
    strips([(firsts(d), d.classes, told(s)) for s, d in sets.items()],
           HERE/'images'/'methods.png')
    woof = {m: opened(f'imagewoof-{m.lower()}-lpc12') for m in ('LatentDC', 'LatentDM', 'LatentMTT')}
    strips([(firsts(d), d.classes, f'{m}, the first of twelve codes of each class, decoded')
            for m, d in woof.items()], HERE/'images'/'imagewoof-latentdd.png')

if __name__ == '__main__': main()
