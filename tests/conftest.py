"""What all tests share: the top of the tree, skips with a reason where real data is not at hand, and a state that no other test left."""
import gc, os, sys, signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def alone():
    "Every test draws from the same place of torch's generator and leaves threads and types as it found them, whatever ran before it."
    torch = sys.modules.get('torch')
    if torch is None: yield; return
    threads, kind = torch.get_num_threads(), torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(kind)
    if torch.get_num_threads() != threads: torch.set_num_threads(threads)

@pytest.fixture(autouse=True, scope='session')
def frozen():
    "What imports have made is never garbage; collecting it again and again took a tenth of the time."
    gc.collect(); gc.freeze()

@pytest.fixture(scope='session')
def root():
    "The top of the source tree."
    return ROOT

@pytest.fixture(scope='session')
def dd_data():
    "A function: the folder of real data, if it has `name`; else the test is skipped and says so."
    home = Path(os.environ.get('DD_DATA') or os.devnull)
    def need(name):
        "Path of one data set below DD_DATA."
        if not (home/name).exists(): pytest.skip(f'DD_DATA has no {name}')
        return home/name
    return need

# a job in the background ignores Ctrl-C, and so would every program that a test starts and interrupts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)
