"""Libraries that adapters drive, where they are installed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def kronfluence() -> Iterator[Any]:
    """Give the library; it collects garbage often, which takes long beside the objects of a whole test session."""
    pytest.importorskip("kronfluence")
    gc.freeze()
    yield pytest.importorskip("kronfluence.analyzer")
    gc.unfreeze()


@pytest.fixture
def traker() -> Any:
    return pytest.importorskip("trak")
