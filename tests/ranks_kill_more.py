"""Stages that `ranks_kill.py` leaves out, each with rank 1 killed once: teachers, statistics, stored labels, students. Not part of the tests, since every kill costs a start; `docs/scale.md` says what came out.

    OMP_NUM_THREADS=1 PYTHONPATH=.:tests torchrun --standalone --nproc-per-node=2 --max-restarts=8 tests/ranks_kill_more.py FOLDER"""
import json, os, sys
from datetime import timedelta
from pathlib import Path

import torch
from ranks_drive import NET, bytes_of, noise, smaller, some_teachers
from ranks_kill import kill_once

from dd_repro import labels, parallel, students, teachers
from dd_repro.distilled import Pixels
from dd_repro.labels import ViewSettings, relabel
from dd_repro.parallel import joined, leads, my_rank
from dd_repro.students import evaluate
from dd_repro.teachers import TeacherProtocol, teacher_stats, train_teachers
from dd_repro.zoo import make_net

def arm(top):
    "Rank 1 dies once in each stage, when it is called for the second time or later."
    def dying(room, name, mark, nth=2):
        f, calls = getattr(room, name), []
        def call(*a, **kw):
            calls.append(1)
            if my_rank() == 1 and len(calls) >= nth: kill_once(top/f'killed-{mark}')
            return f(*a, **kw)
        setattr(room, name, call)
    dying(labels, 'write_labels', 'labels')
    dying(students, 'train', 'students', 1)
    dying(teachers, '_measured', 'statistics')
    dying(teachers, 'train', 'teachers')

def work(at):
    real = noise(27)
    p = TeacherProtocol('t', epochs=2, batch=9, lr=.05, momentum=.9, how='flip_scale', init='random')
    t = train_teachers(lambda: make_net('convnet', 1, 4, 8, width=4, depth=1, norm='none'), real, at/'teachers', 2, p, quiet=True)
    made = some_teachers(real)
    stats = [[(float(s[k].mean.sum()), s[k].n) for k in s] for s in teacher_stats(made, real, at/'stats', bs=5, quiet=True)]
    d = Pixels.from_real(real, 3, lr=.01)
    store = relabel(d, made, at/'labels', 4, ViewSettings(4), quiet=True)
    accs = evaluate(d, noise(12), [NET().arch], smaller(), 4, together=False)[0].accs
    return [bytes_of(at/'labels', '*.safetensors'), stats, [float(v) for v in accs], [float(x.sum()) for n in t for x in n.state_dict().values()], len(store)]

if __name__ == '__main__':
    top = Path(sys.argv[1])
    torch.set_num_threads(1)
    parallel.WAIT = timedelta(seconds=300)
    with joined('cpu'):
        arm(top)
        got, want = work(top), work(top/'whole')
        if leads():
            said = dict(same=[json.dumps(a) == json.dumps(b) for a, b in zip(got, want)], killed=sorted(f.name for f in top.glob('killed-*')), starts=int(os.environ['TORCHELASTIC_RESTART_COUNT']) + 1)
            (top/'said.json').write_text(json.dumps(said, indent=1))
