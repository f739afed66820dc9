"Autoencoders: TAESD against its layers written out in float64, file formats, hashes, and everything that can be wrong with a file."
import json, logging, tempfile, warnings
from pathlib import Path
from types import SimpleNamespace

import pytest, torch
from torch import nn
from torch.nn import functional as F
from safetensors.torch import load_file, save_file

from dd_repro.autoenc import AutoEncoder, TinyAE, _SD14, _net_of, distance_correlation, fill_weights, load_autoencoder, psnr, resized, tiny_from, train_tiny
from dd_repro.core import rng_for, seeded
from dd_repro.data import load, scan, to_uint8

SMALL = dict(_SD14, block_out_channels=[8, 8, 8, 8], layers_per_block=1, norm_num_groups=4)


def refused(says, call, *a, **kw):
    with pytest.raises(ValueError, match=says) as e: call(*a, **kw)
    assert '\n' not in str(e.value)

@pytest.fixture(scope='module')
def kl(tmp_path_factory):
    "A file with a small variational autoencoder, its folder, and the network."
    pytest.importorskip('diffusers')
    with seeded(0): net = _net_of('kl', SMALL)
    p = tmp_path_factory.mktemp('kl'); save_file(net.state_dict(), p/'diffusion_pytorch_model.safetensors')
    (p/'config.json').write_text(json.dumps(SMALL | {'_class_name': 'AutoencoderKL', '_diffusers_version': '0.2.2'}))
    return p, net

class Blur(nn.Module):
    "A stand-in for an autoencoder whose codes are known: the mean of 8 x 8 pixels, four times."
    def __init__(self): super().__init__(); self.conv = nn.Conv2d(3, 4, 8, 8, bias=False); nn.init.constant_(self.conv.weight, 1/192)
    def encode(self, x): return SimpleNamespace(latents=self.conv(x))
    def decode(self, z): return SimpleNamespace(sample=F.interpolate(z[:, :3], scale_factor=8))

# --- conventions
def test_range_scale_and_enlargement_are_applied_both_ways():
    x = torch.rand(2, 3, 32, 32, generator=rng_for(0)).mean((2, 3), keepdim=True).expand(2, 3, 32, 32)
    for f in (8, 4, 2, 1):
        ae = AutoEncoder(Blur(), 'blur', f, scale=.5)
        z = ae.encode(x)
        assert z.shape == (2, 4, 32//f, 32//f)
        assert torch.allclose(z, (.5*(2*x.mean((1, 2, 3)) - 1)).view(2, 1, 1, 1).expand_as(z), atol=1e-5)
        assert torch.allclose(ae.decode(z), x.mean((1, 2, 3)).view(2, 1, 1, 1).expand_as(x), atol=1e-5)

def test_resize_does_not_shift_the_picture():
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    assert torch.allclose(resized(resized(ramp, 2), .5)[..., 4:-4, 4:-4], ramp[..., 4:-4, 4:-4], atol=2e-3)
    assert torch.allclose(resized(ramp, 2)[0, 0, 20], resized(ramp, 2).flip(3)[0, 0, 20].neg() + 1, atol=1e-5)

@pytest.mark.parametrize('mb', [.5, 5., 1000.])
def test_the_budget_decides_the_batch_and_nothing_else(mb):
    seen, net = [], Blur()
    conv = net.encode; net.encode = lambda x: (seen.append(len(x)), conv(x))[1]
    x = torch.rand(7, 3, 16, 16, generator=rng_for(0))
    z = AutoEncoder(net, 'blur', 4).computing(budget_mb=mb).encode(x)
    assert sum(seen) == 7 and (max(seen) - 1)*8*4*32*32*4 <= mb*1e6
    assert torch.allclose(z, AutoEncoder(Blur(), 'blur', 4).encode(x), atol=1e-6)

def test_normalised_images_are_brought_back_to_pixels():
    real, _ = load('digits', size=16); real = real.subset(torch.arange(0, 1437, 200))
    with seeded(0): ae = AutoEncoder(TinyAE(), 'tiny', 4, 4, n_in=1)
    assert torch.allclose(ae.encode(real.x, real.norm), ae.encode(real.raw()), atol=1e-5)
    assert torch.allclose(ae.decode(ae.encode(real.raw()), real.norm), real.norm(ae.decode(ae.encode(real.raw()))), atol=1e-5)
    assert torch.equal(real.renorm(ae).norm(real.raw()), ae.encode(real.raw()))

def test_samples_depend_on_the_seed_alone(kl):
    x = torch.rand(5, 3, 16, 16, generator=rng_for(0))
    ae = lambda **kw: AutoEncoder(kl[1], 'kl', 4, scale=.18215).computing('sample', **kw)
    a, b, c = ae().encode(x), ae(budget_mb=.1).encode(x), ae(seed=1).encode(x)
    assert torch.allclose(a, b, atol=1e-5) and not torch.allclose(a, c, atol=1e-2) and torch.equal(a, ae().encode(x))

# --- files
def test_a_folder_and_a_file_give_the_same_network(kl):
    folder, net = kl
    a, b = load_autoencoder('sd14', 8, folder), load_autoencoder('sd14', 8, folder/'diffusion_pytorch_model.safetensors', SMALL)
    assert a.hash == b.hash and (a.native, a.channels, a.scale, a.posterior) == (8, 4, .18215, 'mean')
    half = {k: v.half().contiguous() for k, v in net.state_dict().items()}; save_file(half, folder/'half.safetensors')
    assert load_autoencoder('sd14', 8, folder/'half.safetensors', SMALL).hash != a.hash

def test_the_configuration_is_that_of_stable_diffusion():
    pytest.importorskip('diffusers')
    with torch.device('meta'): net = _net_of('kl')
    assert sum(p.numel() for p in net.parameters()) == 83_653_863

def test_files_that_are_wrong(kl, tmp_path):
    folder, net = kl
    sd = {n: v.contiguous() for n, v in net.state_dict().items()}; k = 'decoder.conv_in.weight'
    def file(name, t): save_file(t, tmp_path/name); return tmp_path/name
    refused(f'the tensor {k} is missing', fill_weights, net, file('a.safetensors', {n: v for n, v in sd.items() if n != k}))
    refused(f'the tensor {k} is .8, 3, 3, 3.; this autoencoder needs .8, 4, 3, 3.', fill_weights, net, file('b.safetensors', sd | {k: torch.zeros(8, 3, 3, 3)}))
    refused('the tensor loss.w does not belong', fill_weights, net, file('c.safetensors', sd | {'loss.w': torch.zeros(1)}))
    (tmp_path/'d.safetensors').write_bytes((tmp_path/'a.safetensors').read_bytes()[:-100]); refused('d.safetensors: truncated', fill_weights, net, tmp_path/'d.safetensors')
    (tmp_path/'e.ckpt').write_bytes(b'x'); refused('only safetensors', fill_weights, net, tmp_path/'e.ckpt')
    (tmp_path/'f').mkdir(); refused('no file .*f/diffusion_pytorch_model', load_autoencoder, 'sd14', path=tmp_path/'f')
    (tmp_path/'f'/'config.json').write_text('{'); refused('config.json: not JSON', load_autoencoder, 'sd14', path=tmp_path/'f')

@pytest.mark.parametrize('name', ['sd14', 'taesd'])
def test_no_network_and_no_weights_says_where_to_put_which_file(name, tmp_path, monkeypatch):
    diffusers = pytest.importorskip('diffusers')
    def offline(*a, **kw): raise OSError('We could not connect to the hub\nand more')
    monkeypatch.setattr(diffusers.AutoencoderKL, 'from_pretrained', offline); monkeypatch.setattr(diffusers.AutoencoderTiny, 'from_pretrained', offline)
    monkeypatch.setenv('DD_DATA', str(tmp_path))
    refused(f'{name}: no file {tmp_path}/{name}/.*and the hub gave none .We could not connect.*put diffusion_pytorch_model.safetensors of ', load_autoencoder, name)
    refused(f'{name}: no file {tmp_path}/{name}/', load_autoencoder, name, download=False)
    assert not list(tmp_path.iterdir())

def hub(asked, net, config_only=False):
    "A hub that is asked as diffusers asks it; with config_only it breaks off after the first file."
    def from_pretrained(repo, cache_dir=None, local_files_only=False, **kw):
        asked.append((repo, kw, local_files_only))
        if local_files_only: raise OSError('not in the cache')
        (Path(cache_dir)/'models').mkdir(); (Path(cache_dir)/'models'/'config.json').write_text('{}')
        warnings.warn('one of many'); logging.getLogger('huggingface_hub').warning('Retrying')
        if config_only:
            try: raise ConnectionError('the line is dead')
            except ConnectionError: raise OSError('no file of this name')
        return net
    return from_pretrained

def everything(p): return sorted(str(f.relative_to(p)) for f in p.rglob('*'))

def test_the_hub_is_asked_for_safetensors_of_the_right_place_and_only_once(tmp_path, monkeypatch):
    diffusers, asked = pytest.importorskip('diffusers'), []
    with seeded(0): net = _net_of('tiny')
    monkeypatch.setattr(diffusers.AutoencoderTiny, 'from_pretrained', hub(asked, net))
    monkeypatch.setenv('DD_DATA', str(tmp_path/'data'))
    a = load_autoencoder('taesd', 4)
    how = dict(subfolder=None, use_safetensors=True, low_cpu_mem_usage=False)
    assert asked == [('madebyollin/taesd', how, True), ('madebyollin/taesd', how, False)]
    assert everything(tmp_path/'data') == ['taesd', 'taesd/taesd_f32.safetensors'] and load_autoencoder('taesd', 4, download=False).hash == a.hash

def test_weights_that_cannot_be_kept_are_used(kl, tmp_path, monkeypatch):
    diffusers, asked = pytest.importorskip('diffusers'), []
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('DD_DATA', str(tmp_path/'file'))
    monkeypatch.setattr(diffusers.AutoencoderKL, 'from_pretrained', hub(asked, kl[1]))
    assert load_autoencoder('sd14', 4).f == 4 and asked[0][:2] == ('CompVis/stable-diffusion-v1-4', dict(subfolder='vae', use_safetensors=True, low_cpu_mem_usage=False))

def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch, capfd, recwarn):
    diffusers = pytest.importorskip('diffusers')
    for d in ('tmp', 'home', 'here'): (tmp_path/d).mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'tmp')); monkeypatch.setenv('HOME', str(tmp_path/'home')); monkeypatch.chdir(tmp_path/'here')
    monkeypatch.setenv('DD_DATA', str(tmp_path/'data'))
    monkeypatch.setattr(diffusers.AutoencoderTiny, 'from_pretrained', hub([], None, config_only=True))
    refused('taesd_f32.safetensors, and the hub gave none .the line is dead.; put diffusion_pytorch_model.safetensors of madebyollin/taesd there', load_autoencoder, 'taesd')
    assert everything(tmp_path) == ['here', 'home', 'tmp'] and not recwarn.list and capfd.readouterr() == ('', '')

def test_hash_is_of_weights_and_scale():
    with seeded(0): a, b = TinyAE(), TinyAE()
    b.load_state_dict(a.state_dict())
    h = lambda net, **kw: AutoEncoder(net, 'x', 4, 4, n_in=1, **kw).hash
    assert h(a) == h(b) and h(a, scale=2.) != h(a) and AutoEncoder(a, 'x', 4, 4, n_in=1).computing('sample').hash == h(a)
    with torch.no_grad(): b.encoder[0].bias[0] += 1e-6
    assert h(a) != h(b)

def test_training_is_deterministic_and_takes_colour():
    real, _ = load('digits', size=16); small = real.subset(torch.arange(0, 1437, 30))
    a, b = (train_tiny(small, epochs=1, seed=4) for _ in range(2))
    assert a.hash == b.hash == tiny_from(a.card(), a.net.state_dict()).hash
    colour = small.new(small.x.repeat(1, 3, 1, 1))
    assert train_tiny(colour, epochs=1).encode(colour.raw()).shape == (48, 4, 4, 4)
    refused('14 x 14 px cannot be divided', train_tiny, load('digits', size=14)[0], epochs=1)
    refused('f is 3; it must be 2, 4', TinyAE, f=3)

@pytest.mark.parametrize('kw, says', [(dict(f=3), 'f is 3'), (dict(f=16), 'f is 16'), (dict(f=0), 'f is 0')])
def test_arguments(kw, says): refused(says, AutoEncoder, Blur(), **kw)

@pytest.mark.parametrize('kw, says', [(dict(posterior='mode'), "posterior 'mode'"), (dict(budget_mb=0), 'budget_mb is 0')])
def test_ways_of_computing(kw, says): refused(says, AutoEncoder(Blur()).computing, **kw)

# --- measures
def test_psnr_and_correlation():
    x = torch.rand(4, 3, 8, 8, generator=rng_for(0))
    assert abs(psnr(x, x + .1) - 20) < 1e-3 and abs(psnr(torch.zeros(2, 1, 2, 2), torch.tensor([.1, .01]).view(2, 1, 1, 1).expand(2, 1, 2, 2)) - 30) < 1e-3
    assert distance_correlation(x, x.roll(1, 0)) < .99 and abs(distance_correlation(x, -2*x + 1) - 1) < 1e-5

# --- TAESD, where its file is
def taesd64(sd, x):
    "TAESD's encoder and decoder written out layer by layer, in double precision, on pixels in 0..1."
    w = {k: v.double() for k, v in sd.items()}
    conv = lambda h, n, stride=1: F.conv2d(h, w[f'{n}.weight'], w.get(f'{n}.bias'), stride, 1)
    def block(h, n): return torch.relu(h + conv(torch.relu(conv(torch.relu(conv(h, f'{n}.conv.0')), f'{n}.conv.2')), f'{n}.conv.4'))
    h = block(conv(x, 'encoder.layers.0'), 'encoder.layers.1')
    for i in (2, 6, 10):
        h = conv(h, f'encoder.layers.{i}', 2)
        for j in (1, 2, 3): h = block(h, f'encoder.layers.{i+j}')
    z = conv(h, 'encoder.layers.14')
    h = torch.relu(conv(3*torch.tanh(z/3), 'decoder.layers.0'))
    for i in (2, 7, 12):
        for j in range(3): h = block(h, f'decoder.layers.{i+j}')
        h = conv(h.repeat_interleave(2, 2).repeat_interleave(2, 3), f'decoder.layers.{i+4}')
    return z, conv(block(h, 'decoder.layers.17'), 'decoder.layers.18').clamp(0, 1)

def test_taesd_is_what_its_layers_say(dd_data):
    file = dd_data('taesd')/'taesd_f32.safetensors'; pytest.importorskip('diffusers')
    ae, x = load_autoencoder('taesd', 8, file), torch.rand(2, 3, 32, 32, generator=rng_for(0))
    z, y = taesd64(load_file(file), x.double())
    assert torch.allclose(ae.encode(x).double(), z, atol=1e-4) and torch.allclose(ae.decode(z.float()).double(), y, atol=1e-4)

def test_taesd_keeps_distances_of_photographs(dd_data):
    pytest.importorskip('diffusers')
    ae, (_, src) = load_autoencoder('taesd', 8, dd_data('taesd')/'taesd_f32.safetensors'), scan(dd_data('imagewoof')/'val')
    x = torch.stack([to_uint8(src[i][0], 64) for i in range(0, 500, 25)]).float()/255
    assert distance_correlation(x, ae.encode(x)) > .7
