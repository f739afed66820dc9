"The synthetic half of one update of DC: a loop over classes beside all classes as a team."
import statistics, time
from functools import partial
from study import *
from dd_repro.match import _joined

SIZES, TIMES = ((16, 32, 1), (16, 32, 10), (32, 64, 1), (32, 64, 10)), 7


def forms(size, width, ipc):
    "Name -> function, for images of noise."
    channels = 1 if size == 16 else 3
    real = ImageTensors(torch.randn(640, channels, size, size), torch.arange(640) % 10, 10)
    dc, d = DC(real, partial(ConvNet, channels, 10, size, width, 3), Matching(batch_real=64)), Pixels.from_real(real, ipc)
    g = [g for _, g, _ in dc.matches(d)]; stacked = tuple(map(torch.stack, zip(*g)))
    def syn(): return [d.sample(y=c)[0] for c in range(10)]
    def loop():
        for c, s in enumerate(syn()): match_loss(dc.grads(s, c, True), g[c]).backward(inputs=[d.images])
    def team(): match_loss(_joined(dc.syn_grads(syn())), _joined(stacked)).backward(inputs=[d.images])
    return dict(loop=loop, team=team)

def measured(f):
    "CPU seconds of some calls, after one."
    f(); ts = []
    for _ in range(TIMES): t = time.process_time(); f(); ts.append(time.process_time() - t)
    return ts

if __name__ == '__main__':
    o = begin(__doc__, 'bench')
    if o.smoke: SIZES, TIMES = SIZES[:1], 2
    for size, width, ipc in SIZES:
        for name, f in forms(size, width, ipc).items():
            ts = measured(f)
            dev = f'median of {TIMES}, CPU time of one thread; synthetic half of one update of DC; ConvNet-3 width {width}; {size} px; 10 classes'
            put(o, Row(f'bench/match/{size}px-w{width}-ipc{ipc}/{name}/seconds', 'decided', dev, name, 'convnet', 'seconds', 's', TIMES,
                       mean=statistics.median(ts), std=statistics.pstdev(ts), seconds=sum(ts),
                       device=device_name(), settings=settings_hash([size, width, ipc, name])))
