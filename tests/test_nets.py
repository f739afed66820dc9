"Networks beyond what the notebooks show: parity of the ConvNet's norm and second derivatives, weights from torchvision, the large networks."
import pytest, torch, torchvision
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from dd_repro.convnet import ConvNet, check_shape
from dd_repro.core import seeded
from dd_repro.zoo import NETS, make_net

LARGE = ('resnet50', 'resnet101', 'densenet121', 'regnet_y_8gf', 'convnext_tiny', 'deit_tiny')

def plain(net, x):
    "The ConvNet written again with elementary operations only."
    for conv, norm, *_ in net.blocks:
        x = F.conv2d(x, conv.weight, conv.bias, padding=conv.padding)
        m = x.mean((2, 3), keepdim=True); v = ((x - m)**2).mean((2, 3), keepdim=True)
        x = ((x - m)/(v + 1e-5).sqrt()*norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2])/4
    return x.flatten(1) @ net.head.weight.T + net.head.bias

def second(f, net, x, y):
    "Gradient, and the gradient of the gradient's length with respect to images and parameters."
    ps = list(net.parameters())
    g = torch.autograd.grad(F.cross_entropy(f(x), y), ps, create_graph=True)
    return [*g, *torch.autograd.grad(sum((a*a).sum() for a in g), [x, *ps])]

def test_convnet_equals_elementary_operations_to_second_order():
    with seeded(0): net, x = ConvNet(2, 5, 8, 6, 2).double(), torch.randn(7, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    y = torch.arange(7) % 5
    for a, b in zip(second(net, net, x, y), second(lambda x: plain(net, x), net, x, y)): torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

def test_convnet_gradgradcheck():
    with seeded(0): net, x = ConvNet(1, 3, 4, 2, 1).double(), torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, (x,)) and torch.autograd.gradgradcheck(net, (x,))

def test_vmap_of_grad_equals_one_by_one():
    with seeded(0): nets, x, y = [ConvNet(1, 4, 8, 4, 2).double() for _ in range(3)], torch.randn(3, 5, 1, 8, 8).double(), torch.arange(15).view(3, 5) % 4
    P = {k: torch.stack([n.get_parameter(k).detach() for n in nets]) for k, _ in nets[0].named_parameters()}
    g = vmap(grad(lambda p, x, y: F.cross_entropy(functional_call(nets[0], p, (x,)), y)))(P, x, y)
    for i, n in enumerate(nets):
        F.cross_entropy(n(x[i]), y[i]).backward()
        for k, p in n.named_parameters(): torch.testing.assert_close(g[k][i], p.grad, rtol=1e-9, atol=1e-9)

def test_arch_rebuilds_convnet():
    net = ConvNet(4, 7, 16, 8, 2, 'batch')
    make_net(net.arch).load_state_dict(net.state_dict())
    assert make_net(net.arch).arch == net.arch

@pytest.mark.parametrize('kw', [dict(size=24, depth=4), dict(size=2), dict(depth=0), dict(size=0)])
def test_sizes_that_cannot_be_halved(kw):
    with pytest.raises(ValueError, match='cannot be halved'): ConvNet(**kw)

def test_check_shape_names_both():
    with pytest.raises(ValueError, match=r'images are \[3, 64, 64\]; the network expects \[3, 32, 32\]'): ConvNet(width=4)(torch.zeros(1, 3, 64, 64))

def test_torchvision_weights_fit_resnet18():
    theirs, ours = torchvision.models.resnet18(weights=None).eval(), make_net('resnet18_bn', n_out=1000, size=128).eval()
    w = theirs.state_dict()
    ours.body.load_state_dict({k: v for k, v in w.items() if not k.startswith('fc.')})
    ours.head.load_state_dict({k[3:]: v for k, v in w.items() if k.startswith('fc.')})
    x = torch.rand(1, 3, 128, 128)
    with torch.no_grad(): torch.testing.assert_close(ours(x), theirs(x))

def test_heads_are_the_official_ones_at_32_px():
    sizes = {n: make_net(n).head.in_features for n in ('alexnet', 'vgg11', 'resnet18', 'resnet18_ap')}
    assert sizes == dict(alexnet=192*16, vgg11=512, resnet18=512, resnet18_ap=512*16)

@pytest.mark.parametrize('name', [n for n in NETS if n not in LARGE])
@pytest.mark.parametrize('n_in, size', [(1, 32), (4, 48), (3, 128)])
def test_any_channels_and_size(name, n_in, size):
    kw = dict(width=8) if 'resnet18' in name or name == 'convnet' else {}
    if name == 'convnet' and size == 48: kw['depth'] = 3
    net = make_net(name, n_in, 3, size, **kw)
    assert net(torch.rand(2, n_in, size, size)).shape == (2, 3) and net.embed(torch.rand(2, n_in, size, size)).ndim == 2

@pytest.mark.parametrize('name', LARGE)
def test_large_networks(name):
    net = make_net(name, 1, 7, 32).eval()
    with torch.no_grad(): assert net(torch.rand(2, 1, 32, 32)).shape == (2, 7)
    assert net.arch == dict(name=name, n_in=1, n_out=7, size=32)

@pytest.mark.parametrize('name, n', [('densenet121', 7_978_856), ('convnext_tiny', 28_589_128), ('deit_tiny', 5_717_416)])
def test_parameter_counts_at_224_px(name, n):
    assert sum(p.numel() for p in make_net(name, n_out=1000, size=224).parameters()) == n

@pytest.mark.parametrize('call, what', [
    (lambda: make_net('convnext'), "network 'convnext' is not known; did you mean convnet"),
    (lambda: make_net('alexnet', size=16), 'alexnet needs images of at least 32 px'),
    (lambda: make_net('vit', size=33), '33-px images cannot be cut into patches'),
    (lambda: make_net('resnet18', pool='max'), "pool 'max' is not one of"),
    (lambda: make_net('resnet18', stem='big'), "stem 'big' is not one of"),
    (lambda: make_net('vgg11', norm='layer'), "norm 'layer' is not one of instance, group, batch, none")])
def test_bad_input_is_one_line(call, what):
    with pytest.raises(ValueError, match=what) as e: call()
    assert '\n' not in str(e.value)
