"""What holds for every test: shapes are checked, seeds are fixed, one thread."""

import gc
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests import typechecker

typechecker.install()  # before whence is imported
os.environ.setdefault("WHENCE_PROGRESS", "0")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for one: tests are of the CPU, on every machine
settings.register_profile("whence", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("whence")
gc.set_threshold(50_000, 20, 20)  # so many modules are compiled that to walk all objects for 700 new ones takes long
torch.set_num_threads(1)  # networks this small gain nothing from a second thread: two wait for each other


@pytest.fixture(autouse=True)
def _seeds() -> Iterator[None]:
    """Every test starts from the same random state, and leaves torch's defaults as they were."""
    typechecker.begin()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


LONGEST = (
    "test_cli.py",
    "test_docs.py",
)  # a page or a demonstration is one test: begun last, a worker would wait for it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that workers end together."""
    items.sort(key=lambda one: one.path.name not in LONGEST)
