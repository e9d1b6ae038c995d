"""Examples: a batch is what a DataLoader makes, whatever the data is; what cannot be read is refused by name."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from whence._errors import ArgumentError, DataError, LabelError, RandomDataError
from whence.datasets import Examples, as_examples, call_model, load_digits


def pair(count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, 3, generator=generator), torch.arange(count) % 3


class Items(Dataset[Any]):
    """A map-style dataset over a list."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Noisy(Dataset[Any]):
    """A dataset whose inputs are drawn anew at each reading."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(2), index


def doubled(items: list[Any]) -> Any:
    """Collate, and double the inputs."""
    inputs, labels = default_collate(items)
    return inputs * 2, labels


class Stream(IterableDataset[Any]):
    """A stream."""

    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(2), 0


def kinds() -> dict[str, Any]:
    """Return one dataset of each kind."""
    x, y = pair()
    return {
        "tensors": TensorDataset(x, y),
        "digits": load_digits("test"),
        "items": Items([(x[i], int(y[i])) for i in range(7)]),
        "arrays": Items([(x[i].numpy(), np.int64(y[i])) for i in range(7)]),
        "two inputs": Items([((x[i], x[i] + 1), float(y[i])) for i in range(7)]),
        "dict inputs": Items([({"a": x[i], "b": x[i] * 2}, y[i]) for i in range(7)]),
        "subset": Subset(TensorDataset(x, y), [5, 3, 1, 6, 2, 2, 0]),
        "list": [(x[i], y[i]) for i in range(7)],
    }


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare nested batches bit by bit; a DataLoader says list where Examples says tuple."""
    if isinstance(theirs, Tensor):
        assert ours.dtype == theirs.dtype
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key])
    else:
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("kind", kinds())
@given(ids=st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_a_batch_is_what_a_data_loader_makes_of_the_same_ids(kind: str, ids: list[int]) -> None:
    data = kinds()[kind]
    loader = DataLoader(data, batch_sampler=[ids])
    assert_same(as_examples(data).batch(ids), next(iter(loader)))


def test_a_batch_of_channels_last_tensors_has_the_strides_of_a_data_loader() -> None:
    images = torch.randn(6, 3, 5, 4).to(memory_format=torch.channels_last)
    data = TensorDataset(images, torch.arange(6))
    assert_same(as_examples(data).batch([4, 1]), next(iter(DataLoader(data, batch_sampler=[[4, 1]]))))


def test_ids_may_be_a_tensor_a_range_or_an_array() -> None:
    examples = as_examples(pair())
    expected = examples.batch([1, 2])[0]
    for ids in (torch.tensor([1, 2]), torch.tensor([1, 2], dtype=torch.int32), range(1, 3)):
        assert torch.equal(examples.batch(ids)[0], expected)


def test_arrays_tensors_and_read_only_arrays_are_the_same_data() -> None:
    x, y = pair()
    frozen = x.numpy().copy()
    frozen.flags.writeable = False
    prints = {as_examples((a, b)).fingerprint for a, b in [(x, y), (x.numpy(), y.numpy()), (frozen, y)]}
    assert len(prints) == 1


def test_examples_are_returned_as_they_are() -> None:
    examples = as_examples(pair())
    assert as_examples(examples) is examples
    assert as_examples(examples, collate_fn=default_collate) is examples
    assert as_examples(examples, collate_fn=doubled) is not examples


def test_a_collate_function_is_used_for_tensors_too() -> None:
    x, y = pair()
    assert torch.equal(as_examples((x, y), collate_fn=doubled).batch([3])[0], 2 * x[3:4])


def test_dictionaries_with_labels_are_parted() -> None:
    data = Items([{"input_ids": torch.arange(3) + i, "labels": i} for i in range(4)])
    inputs, labels = as_examples(data).batch([2, 0])
    assert list(inputs) == ["input_ids"]
    assert inputs["input_ids"].tolist() == [[2, 3, 4], [0, 1, 2]]
    assert labels.tolist() == [2, 0]


@pytest.mark.parametrize("kind", kinds())
def test_labels_are_those_of_the_batches(kind: str) -> None:
    examples = as_examples(kinds()[kind])
    assert torch.equal(examples.labels, examples.batch(range(len(examples)))[1])


def test_call_model_passes_tensors_tuples_and_dictionaries() -> None:
    def model(a: Any, b: Any = 0) -> Any:
        return a - b

    assert call_model(model, 3) == 3
    assert call_model(model, (5, 2)) == 3
    assert call_model(model, {"b": 1, "a": 4}) == 3


# fingerprints


@given(row=st.integers(0, 6), column=st.integers(0, 5))
def test_the_fingerprint_of_tensors_changes_with_one_number_one_label_or_the_length(row: int, column: int) -> None:
    x, y = pair()
    original = as_examples((x, y)).fingerprint
    pixel, label = x.clone(), y.clone()
    pixel.view(7, 6)[row, column] += 1e-6
    label[row] += 1
    others = [(pixel, y), (x, label), (x[:-1], y[:-1]), (x.reshape(7, 3, 2), y), (x.double(), y), (x, y.int())]
    assert original not in {as_examples(other).fingerprint for other in others}
    assert original == as_examples((x.clone(), y.clone())).fingerprint


def test_the_fingerprint_of_tensors_cut_out_of_larger_ones_is_that_of_copies() -> None:
    column = torch.arange(24.0).reshape(6, 4)[:, 1]
    items = [(column[row : row + 1], row) for row in range(6)]
    copies = [(one.clone(memory_format=torch.contiguous_format), row) for one, row in items]
    assert as_examples(Items(items)).fingerprint == as_examples(Items(copies)).fingerprint


def test_the_fingerprint_of_a_dataset_changes_with_an_item_a_label_or_the_length() -> None:
    x, y = pair()
    items = [(x[i], int(y[i])) for i in range(7)]
    original = as_examples(Items(items)).fingerprint
    others = [items[:-1], items[::-1], [*items[:-1], (x[6], 9)], [(x[0] + 1, 0), *items[1:]]]
    assert original not in {as_examples(Items(other)).fingerprint for other in others}
    assert original == as_examples(Items(list(items))).fingerprint


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "import torch; from whence.datasets import as_examples, load_digits;"
        "items = [({'a': torch.arange(3.), 'b': 'text'}, 1), ({'a': torch.ones(3), 'b': 'x'}, 0)];"
        "collate = lambda items: (torch.stack([i[0]['a'] for i in items]), torch.tensor([i[1] for i in items]));"
        "print(as_examples(load_digits('test')).fingerprint, as_examples(items, collate_fn=collate).fingerprint)"
    )
    environment = {"PYTHONHASHSEED": "1"}  # this process has another
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    with redirect_stdout(StringIO()) as here:
        exec(code, {})
    assert done.stdout == here.getvalue()
    assert done.stdout.count("blake2b:") == 2


def test_an_item_without_a_fingerprint_is_refused_by_name() -> None:
    data = Items([(object(), 0)])
    with pytest.raises(DataError, match=r"holds a object, of which no fingerprint"):
        as_examples(data, collate_fn=lambda items: (torch.zeros(len(items)), torch.zeros(len(items))))


# what cannot be read


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Stream(), r"A Stream gives a stream without an index\. Give a map-style dataset"),
        (DataLoader(TensorDataset(*pair())), r"This is a DataLoader; give .* loader\.dataset"),
        (torch.zeros(3), r"A Tensor is not a dataset of \(input, label\)"),
        ("train", r"A str is not a dataset"),
        (3, r"A int is not a dataset"),
        ([], r"The data is empty: a list of length 0"),
        ((torch.zeros(0, 2), torch.zeros(0)), r"The data is empty"),
        (
            (torch.zeros(2, 2), ["cat", "dog"]),
            r"Beside a tensor of inputs, labels must be one too; they are list of str\.",
        ),
        (
            (torch.zeros(2, 2), np.array(["cat", "dog"])),
            r"an array of <U3\. Number classes from 0, such as torch\.tensor",
        ),
        ((torch.zeros(3, 2), torch.zeros(4)), r"one row an example; got shapes \(3, 2\) and \(4,\)"),
        (Items([torch.zeros(2)] * 3), r"A batch must be \(inputs, labels\).* it is a Tensor of 1"),
        (Items([(torch.zeros(2), 0, 1)] * 3), r"it is a list of 3.*several inputs go into a tuple or a dict"),
        (Items([(object(), 0)]), r"cannot be made into a batch: .* Give collate_fn="),
    ],
)
def test_data_of_another_kind_is_refused_with_what_to_do(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        as_examples(data)


def test_examples_of_different_shapes_are_refused_when_they_meet() -> None:
    examples = as_examples(Items([(torch.zeros(2), 0), (torch.zeros(3), 0)]))
    with pytest.raises(DataError, match=r"Examples \[0, 1\]\.\.\. cannot be made into a batch"):
        examples.batch([0, 1])


def test_random_items_are_refused_and_the_way_out_is_named() -> None:
    with pytest.raises(
        RandomDataError, match=r"Example 0 of the Noisy is another each time.*whence\.datasets\.Augmented"
    ):
        as_examples(Noisy())


def test_reading_data_leaves_the_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RandomDataError):
        as_examples(Noisy())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        ([7], LabelError, r"No example id 7: the ids of this data are 0 to 6\."),
        ([0, -1], LabelError, r"No example id -1"),
        ([], ArgumentError, r"whole numbers along one axis, at least one; got .* shape \(0,\)"),
        (torch.tensor([0.5]), ArgumentError, r"whole numbers"),
        (torch.ones(7, dtype=torch.bool), ArgumentError, r"got torch\.bool"),
        (torch.zeros(1, 1, dtype=torch.int64), ArgumentError, r"shape \(1, 1\)"),
    ],
)
@pytest.mark.parametrize("kind", ["tensors", "items"])
def test_ids_outside_the_data_are_refused(kind: str, ids: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        as_examples(kinds()[kind]).batch(ids)


def test_labels_that_are_no_numbers_are_refused_when_asked_for() -> None:
    with pytest.raises(DataError, match=r"numbers; they are tuple of str\. Number classes from 0"):
        _ = as_examples(Items([(torch.zeros(2), "cat")] * 2)).labels


# pictures and class names


def test_a_tensor_is_drawn_from_its_smallest_to_its_largest_value() -> None:
    x = torch.stack([torch.linspace(-1, 3, 16).reshape(1, 4, 4), torch.full((1, 4, 4), 2.0)])
    examples = as_examples((x, torch.zeros(2)))
    drawn = examples.picture(0)
    assert drawn is not None
    assert drawn.dtype == np.uint8
    assert drawn.shape == (4, 4)
    assert (drawn.min(), drawn.max()) == (0, 255)
    assert np.array_equal(drawn.reshape(-1), np.round(np.linspace(0, 255, 16)))
    flat = examples.picture(1)
    assert flat is not None
    assert not flat.any()


def test_colours_come_last_in_a_picture() -> None:
    x = torch.randint(0, 256, (1, 3, 5, 4), dtype=torch.uint8)
    drawn = as_examples((x, torch.zeros(1))).picture(0)
    assert drawn is not None
    assert np.array_equal(drawn, x[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(2,), (3, 3, 3), (2, 8, 8), (8, 8)])
def test_other_inputs_have_no_picture(shape: tuple[int, ...]) -> None:
    assert as_examples((torch.rand(2, *shape), torch.zeros(2))).picture(1) is None


def test_what_a_dataset_displays_goes_before_and_reaches_through_a_subset() -> None:
    digits = load_digits("test")
    examples = as_examples(Subset(digits, [4, 9]))
    drawn, original = examples.picture(1), digits.display(9)
    assert drawn is not None
    assert original is not None
    assert np.array_equal(drawn, original)
    assert examples.class_names == tuple("0123456789")
    assert examples.labels.tolist() == [int(digits[4][1]), int(digits[9][1])]


def test_examples_say_what_they_are() -> None:
    examples = as_examples(pair())
    assert isinstance(examples, Examples)
    assert repr(examples) == "Examples(7 of TensorDataset)"
