"""Two ranks that are killed while they work, and started again by torchrun; what comes out is compared with a run that nobody disturbed.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node=2 --max-restarts=3 tests/ranks_kill.py FOLDER"""
import json, os, signal, sys
from datetime import timedelta
from pathlib import Path

import torch
from ranks_drive import NET, bytes_of, images_of, noise, task_of

from dd_repro import experts, files, parallel
from dd_repro.d3s import D3S, D3SMethod
from dd_repro.experts import expert_protocol, train_experts
from dd_repro.method import RunOptions, learn
from dd_repro.parallel import gathered, joined, leads, my_rank

def kill_once(mark):
    "SIGKILL to this very process, the first time."
    if mark.exists(): return
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)

def arm(top):
    "Rank 1 dies in its second expert and in the middle of a batch, rank 0 while it writes."
    train, after, replace = experts._one_expert, D3S.after, os.replace
    def one_expert(i, *given):
        if i == 3: kill_once(top/'killed-expert')
        with open(top/f'trained-{i}', 'a') as f: f.write('x')
        return train(i, *given)
    def stepped(self, d):
        after(self, d)
        if self.joint and self.b == 1 and self.t == 2 and my_rank() == 1: kill_once(top/'killed-batch')
    def put(old, new):
        if Path(new).name == 'isu.safetensors' and leads() and (top/'run'/'done'/'000000.json').is_file(): kill_once(top/'killed-writer')
        return replace(old, new)
    experts._one_expert, D3S.after, files.os.replace = one_expert, stepped, put

def work(at):
    "Experts and a synthesis; the bytes of both."
    b = train_experts(NET, noise(), at/'experts', 4, expert_protocol(2, batch=8, aug=''), quiet=True)
    d, run = learn(task_of(), D3SMethod(ipc=3, batch=6, iterations=4, lr_img=.1), at/'run', RunOptions(quiet=True, every=1))
    return b.key, images_of(d).tolist(), run.it

if __name__ == '__main__':
    top = Path(sys.argv[1])
    torch.set_num_threads(1)
    parallel.WAIT = timedelta(seconds=60)
    with joined('cpu'):
        arm(top)
        got = work(top)
        want = work(top/'whole')
        if leads():
            times = {f.name: len(f.read_text()) for f in sorted(top.glob('trained-*'))}
            said = dict(same=got == want, killed=sorted(f.name for f in top.glob('killed-*')), starts=int(os.environ['TORCHELASTIC_RESTART_COUNT']) + 1, trained=times, left=len(list((top/'run').glob('batch-*'))))
            (top/'said.json').write_text(json.dumps(said, indent=1))
