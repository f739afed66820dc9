"""Figure 3 of LatentDD on digits at 8 px: the squared gradient loss of DC and of LatentDC over 300 updates, one image or code a class. Networks are trained on
real data between two updates, in both spaces, as the method has it. The steps are the better ones of three that were tried for forty updates each."""
from functools import partial
from study import *
from dd_repro.match import *
from dd_repro.autoenc import *
from dd_repro.latent import *

UPDATES, AT, EPOCHS, STEPS = 300, (0, 10, 20, 40, 60, 100, 150, 200, 250, 290), 30, {'DC': .1, 'LatentDC': 1.}

def spaces():
    "Name -> (real data, networks, where the set begins)."
    real, _ = load('digits')
    ae = train_tiny(real, 2, epochs=EPOCHS)
    codes = encode_set(real, ae)
    return {'DC': (real, partial(ConvNet, 1, 10, 8, 32, 2), Pixels.from_real(real, 1)), 'LatentDC': (codes, latent_net(codes, 32), Pixels.from_real(codes, 1))}

def curve(data, net, d, lr):
    "The loss of every update."
    d = Pixels(d.images.detach(), d.y, 10)
    dc = DC(data, net, Matching(10, 1, 64, 'mse', 'real', batch_train=64))
    run = distill(d, dc, UPDATES, {'images': partial(torch.optim.SGD, lr=lr, momentum=.5)}, quiet=True)
    return torch.tensor([h['loss'] for h in run.history], dtype=torch.double)

def rows(name, lr, loss, seconds):
    "A row for each part of the curve: the mean over ten updates."
    text = (f'digits at 8 px (Bird at 256 px), codes of a small autoencoder with f = 2; ConvNet of width 32; lr_img {lr:g}; 10 updates a network, trained on real '
            'data between them; mean over 10 updates from here, n counts the runs')
    for i in AT:
        yield Row(f'latentdd/figure3/digits/it={i}', 'reduced', text, name, 'convnet', metric='loss', unit='', n=1, mean=float(loss[i:i+10].mean()), std=0.,
                  seconds=seconds/len(AT), device=device_name(), settings=settings_hash(dict(name=name, lr=lr, i=i)))

if __name__ == '__main__':
    o = begin(__doc__, 'latentdd')
    if o.smoke: UPDATES, AT, EPOCHS = 3, (0,), 1
    for name, space in spaces().items():
        with Cost() as c: loss = curve(*space, STEPS[name])
        put(o, [*rows(name, STEPS[name], loss, c.seconds)])
