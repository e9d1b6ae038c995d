"""Several trainings at once: how many by default, what may be sent, and how processes end."""

import multiprocessing
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from whence._errors import ArgumentError, DataError
from whence._processes import as_processes, in_processes


@pytest.fixture
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5}, raising=False)


@pytest.mark.usefixtures("three_cores")
def test_all_usable_cores_are_taken_but_never_more_than_there_are_trainings() -> None:
    assert [as_processes(None, count) for count in (0, 1, 2, 3, 30)] == [1, 1, 2, 3, 3]
    assert [as_processes(asked, 30) for asked in (1, 8)] == [1, 8]


@pytest.mark.usefixtures("three_cores")
def test_without_affinity_all_cores_are_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert as_processes(None, 30) == 5


@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize("accelerator", ["cuda", "xpu"])
def test_with_a_gpu_the_default_is_one_process(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getattr(torch, accelerator), "is_available", lambda: True)
    assert as_processes(None, 30) == 1
    with pytest.raises(ArgumentError, match=r"on a machine with a GPU\. Give `processes=1`"):
        dict(in_processes(lambda one: one, 2, 2))


@pytest.mark.usefixtures("three_cores")
def test_where_a_fork_is_unsafe_the_default_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert as_processes(None, 30) == 1


@pytest.mark.usefixtures("three_cores")
def test_inside_a_process_of_such_work_the_default_is_one() -> None:
    assert dict(in_processes(lambda _: as_processes(None, 30), 2, 2)) == {0: 1, 1: 1}


def test_a_function_that_cannot_be_pickled_runs_in_processes_of_its_own() -> None:
    lock = threading.Lock()

    def make(place: int) -> tuple[int, int]:
        with lock:
            return 10 * place, os.getpid()

    found = dict(in_processes(make, 4, 2))
    assert [found[place][0] for place in range(4)] == [0, 10, 20, 30]
    assert os.getpid() not in {one[1] for one in found.values()}


def test_a_training_may_have_loaders_with_processes() -> None:
    def make(place: int) -> float:
        data = TensorDataset(torch.full((4,), float(place)))
        return float(sum(x.sum() for (x,) in DataLoader(data, num_workers=1)))

    assert dict(in_processes(make, 2, 2)) == {0: 0.0, 1: 4.0}


def test_what_follows_no_seed_differs_between_processes() -> None:
    drawn = dict(in_processes(lambda _: (torch.rand(()).item(), float(np.random.rand())), 4, 2))
    assert len({one[0] for one in drawn.values()}) == len({one[1] for one in drawn.values()}) == 4


class TwoWordsError(Exception):
    """An error that pickle cannot make again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def test_an_error_in_a_process_is_raised_here_and_says_where_it_arose() -> None:
    def make(place: int) -> int:
        raise DataError(f"number {place} is bad")

    with pytest.raises(DataError, match=r"number \d is bad") as caught:
        list(in_processes(make, 2, 2))
    assert 'raise DataError(f"number {place} is bad")' in caught.value.__notes__[0]


def test_an_error_that_cannot_be_sent_is_told_in_words() -> None:
    def make(place: int) -> int:
        raise TwoWordsError("not", "sendable")

    with pytest.raises(RuntimeError, match=r"TwoWordsError: not sendable"):
        list(in_processes(make, 2, 2))


def test_a_process_that_is_killed_is_no_wait_without_end() -> None:
    def make(place: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return place

    with pytest.raises(ArgumentError, match=r"ended \(exit code -9\): killed, perhaps as memory ran out.*fewer `proc"):
        list(in_processes(make, 2, 2))


def test_who_stops_asking_ends_the_processes_amid_their_work() -> None:
    found = in_processes(lambda place: time.sleep(60 * place), 3, 2)
    assert next(found) == (0, None)
    started = time.monotonic()
    found.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 30
    assert not multiprocessing.active_children()
