"""One recorded run and its attacked inputs for all tests of the adversarial case."""

from __future__ import annotations

import pytest

from tests.adversarial.small import PLAN, digits, recorded
from whence.adversarial import Groups, Study, attack, study
from whence.runs import Run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return recorded(tmp_path_factory.mktemp("adversarial"))


@pytest.fixture(scope="session")
def groups(run: Run) -> Groups:
    return attack(run, digits("test", 100), count=4, epsilon=0.2, bounds=(0.0, 1.0))


@pytest.fixture(scope="session")
def studied(run: Run) -> Study:
    return study(run, digits("test", 60), plan=PLAN)
