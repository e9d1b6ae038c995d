"""What holds for every test: shapes are checked, seeds are fixed, two threads."""

import os
import random
from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import settings

import tests.typechecker  # noqa: F401  (the hook finds it by name)

jaxtyping.install_import_hook("whence", "tests.typechecker.checked")  # before whence is imported
os.environ.setdefault("WHENCE_PROGRESS", "0")
settings.register_profile("whence", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("whence")
torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def _seeds() -> Iterator[None]:
    """Every test starts from the same random state, and leaves torch's defaults as they were."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
