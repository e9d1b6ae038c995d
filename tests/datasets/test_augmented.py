"""Augmented data: a draw depends on the seed, the epoch and the index, and on nothing else."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from whence._errors import ArgumentError, DataError
from whence.datasets import Augmented, as_examples, load_digits

X, Y = torch.arange(24.0).reshape(8, 3), torch.arange(8)


def jitter(value: Tensor) -> Tensor:
    """Add noise from all three generators."""
    return value + torch.randn(3) + random.random() + float(np.random.rand())


def augmented(seed: int = 0) -> Augmented:
    return Augmented(TensorDataset(X, Y), jitter, seed=seed)


@given(epoch=st.integers(0, 99), order=st.permutations(range(8)))
def test_a_draw_does_not_depend_on_the_order_of_reading(epoch: int, order: list[int]) -> None:
    examples = as_examples(augmented())
    inputs, labels = examples.batch(order, epoch=epoch)
    for row, index in enumerate(order):
        assert torch.equal(inputs[row], augmented().item(index, epoch=epoch)[0])
    assert labels.tolist() == list(order)


def test_draws_differ_between_seeds_epochs_and_indices() -> None:
    noise = {
        tuple((augmented(seed).item(index, epoch=epoch)[0] - X[index]).mul(1e3).round().tolist())
        for seed in range(3)
        for epoch in range(3)
        for index in range(3)
    }
    assert len(noise) == 27


def test_drawing_leaves_all_generators_as_they_were() -> None:
    data = augmented()
    before = (torch.get_rng_state(), random.getstate(), repr(np.random.get_state()))
    data.item(1, epoch=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, [5, 2, 7]), lambda d: ConcatDataset([d, d])])
def test_examples_of_any_epoch_can_be_had_without_moving_the_loader(wrap: Any) -> None:
    data = wrap(augmented())
    examples = as_examples(data)
    examples.set_epoch(4)
    loaded = next(iter(DataLoader(data, batch_sampler=[[0, 2]])))[0]
    assert torch.equal(examples.batch([0, 2], epoch=4)[0], loaded)
    assert not torch.equal(examples.batch([0, 2], epoch=3)[0], loaded)
    assert torch.equal(next(iter(DataLoader(data, batch_sampler=[[0, 2]])))[0], loaded)


def test_the_epoch_reaches_worker_processes_that_run_already() -> None:
    data = augmented()
    loader = DataLoader(data, batch_size=4, num_workers=1, persistent_workers=True)
    for epoch in (0, 3):
        data.set_epoch(epoch)
        inputs = torch.cat([batch[0] for batch in loader])
        assert torch.equal(inputs, as_examples(data).batch(range(8), epoch=epoch)[0])


def test_a_seed_makes_other_data() -> None:
    assert as_examples(augmented(0)).fingerprint == as_examples(augmented(0)).fingerprint
    assert as_examples(augmented(0)).fingerprint != as_examples(augmented(1)).fingerprint


def test_the_fingerprint_does_not_depend_on_the_epoch() -> None:
    data = augmented()
    original = as_examples(data).fingerprint
    data.set_epoch(5)
    assert as_examples(data).fingerprint == original


def test_pictures_labels_and_class_names_are_those_of_the_data_beneath() -> None:
    digits = load_digits("test")
    examples = as_examples(Augmented(digits, lambda x: x + torch.rand_like(x)))
    drawn, original = examples.picture(3), digits.display(3)
    assert drawn is not None
    assert original is not None
    assert np.array_equal(drawn, original)
    assert torch.equal(examples.labels, digits.labels)
    assert examples.class_names == digits.class_names


def test_what_cannot_be_augmented_is_refused() -> None:
    class Stream(IterableDataset[Any]):
        """A stream."""

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(DataError, match=r"Augmented needs a map-style dataset .* got Stream"):
        Augmented(Stream(), jitter)
    with pytest.raises(DataError, match=r"items \(input, label\); item 1 is a Tensor"):
        Augmented([torch.zeros(3)] * 2, jitter).item(1, epoch=0)
    with pytest.raises(ArgumentError, match=r"counted from 0; got -1"):
        augmented().set_epoch(-1)
