"""What all tests share: the top of the tree, and skips with a reason where real data is not at hand."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
