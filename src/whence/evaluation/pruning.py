"""Accuracy after training without a growing share of the data, removed by one strategy or another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence._errors import ArgumentError
from whence._files import checksum
from whence._numbers import is_number
from whence._processes import kept_arrays
from whence._statistics import student_interval
from whence.attribution.baselines import class_numbers
from whence.audit.identity import identity_of
from whence.datasets import as_examples
from whence.evaluation.inputs import accuracy, as_count, named
from whence.evaluation.orders import Keep, Order
from whence.evaluation.table import Table, table_of
from whence.evaluation.truth import Train, checked_model

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def pruning(
    train: Train,
    strategies: Mapping[str, Order | Keep],
    test: Any,
    *,
    shares: Sequence[float] = SHARES,
    seeds: int = 5,
    processes: int | None = None,
    path: str | Path | None = None,
) -> Table:
    """Train without a share of the data, for each strategy, and measure the accuracy (PLGK, A.4, figures 21 and 22).

    Args:
        train: Given ids and a seed, trains a new network on those examples; initialisation, order and any other
            randomness are to follow the seed. An id that comes twice counts twice.
        strategies: Orders of removal (all ids, the first to be removed first), or functions (how many to remove, seed)
            -> ids to train on, by name. Those of the paper are in `whence.evaluation`: figure 21 removes what matters
            least, figure 22 what matters most.
        test: The data on which accuracy is measured: anything `as_examples` takes.
        shares: Of the examples to remove, 0 up to but not 1.
        seeds: How many networks to train for each strategy and share.
        processes: How many to train at once, each forked and on one thread, sharing the data until it is
            changed. None is all usable cores on Linux without a GPU, else one.
        path: A folder in which to keep each result as it is found: a call that was interrupted goes on there. Results
            are told apart by ids, seed, test data and the code of ``train``, but not by what it calls or reads by name.

    Returns:
        A row each share removed, a column each strategy: mean accuracy over seeds, with Student's interval over seeds.

    Raises:
        ArgumentError: If a share or number is outside what is listed, orders are not of all the same ids, nothing is
            left to train on, ``train`` gives no network, or test labels are not one whole number each.
        DataError: If test data, or files of ``path``, cannot be read.
        DiskError: If the disk is full or refuses to write.
        ShapeError: If the network's outputs are not (examples, classes).
    """
    given, parts, many = named(strategies, "order"), checked_shares(shares), as_count(seeds, "seeds")
    examples, whole = as_examples(test), examples_of(given)
    (inputs, _), labels = examples.batch(range(len(examples))), class_numbers(examples, "test")
    jobs = [
        (sorted(left_of(one, round(share * whole), seed, name)), seed)
        for share in parts
        for name, one in given.items()
        for seed in range(many)
    ]

    def make(place: int) -> NDArray[np.float64]:
        ids, seed = jobs[place]
        return accuracy(checked_model(train(ids, seed)), inputs, labels)

    header = f"pruning {identity_of(train)} {examples.fingerprint}"
    keys = [checksum(f"{header} {ids} {seed}".encode()) for ids, seed in jobs]
    again = list(dict.fromkeys(keys))  # nothing removed is the same for every strategy: train it once
    first = [keys.index(key) for key in again]
    folder = None if path is None else Path(path)
    found = kept_arrays(
        lambda one: make(first[one]), again, folder=folder, processes=processes, description="training without"
    )
    known = dict(zip(again, found, strict=True))
    values = np.array([known[key][0] for key in keys]).reshape(len(parts), len(given), many)
    return table_of(
        [[student_interval(one) for one in row] for row in values],
        ("share removed", parts),
        ("strategy", list(given)),
        title=f"Pruning of {whole} training examples",
        measure=f"accuracy on {len(examples)} test examples, mean of {many} seed{'' if many == 1 else 's'}",
        interval="over seeds",
    )


def checked_shares(shares: Any) -> list[float]:
    """Return shares of the data to remove.

    Raises:
        ArgumentError: If they are none.
    """
    found = list(shares) if isinstance(shares, Iterable) and not isinstance(shares, str) else []
    if not found or not all(is_number(one) and 0 <= one < 1 for one in found):
        raise ArgumentError(f"`shares` must be shares of the data to remove, 0 up to but not 1; got {shares!r}.")
    return [float(one) for one in found]


def examples_of(strategies: dict[str, Order | Keep]) -> int:
    """Return how many training examples there are; refuse orders that are not of all the same ids.

    Raises:
        ArgumentError: If they are not.
    """
    orders = {name: np.asarray(one) for name, one in strategies.items() if not callable(one)}
    for name, order in orders.items():
        if order.ndim != 1 or not np.array_equal(np.sort(order), np.arange(len(order))):
            raise ArgumentError(
                f"The order {name!r} must name each id from 0 to {order.size - 1} once. Make it with one of the orders "
                "of whence.evaluation."
            )
    sizes = {name: len(order) for name, order in orders.items()}
    if len(set(sizes.values())) > 1:
        raise ArgumentError(f"Orders must be of the same training examples; they are of {sizes}.")
    if sizes:
        return next(iter(sizes.values()))
    return len(next(iter(strategies.values()))(0, 0))  # type: ignore[operator]


def left_of(strategy: Order | Keep, removed: int, seed: int, name: str) -> list[int]:
    """Return what is left to train on.

    Raises:
        ArgumentError: If that is nothing.
    """
    left = strategy(removed, seed) if callable(strategy) else strategy[removed:]
    found = [int(one) for one in left]
    if not found:
        raise ArgumentError(f"Strategy {name!r} leaves nothing to train on when {removed} are removed. Remove fewer.")
    return found
