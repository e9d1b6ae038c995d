"""Ids and numbers within a class are a bijection; labels that are no classes are refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whence._errors import ArgumentError, DataError, LabelError
from whence.provenance import class_index


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_global_to_local_and_back_is_the_identity(labels: list[int]) -> None:
    index = class_index(torch.tensor(labels), classes=7)
    seen: dict[int, int] = {}
    for one, label in enumerate(labels):  # by hand
        assert int(index.local[one]) == seen.get(label, 0)
        seen[label] = seen.get(label, 0) + 1
    assert index.ids(index.labels, index.local).tolist() == list(range(len(labels)))
    assert int(index.valid.sum()) == len(labels)
    assert [len(index.members(label)) for label in range(7)] == [labels.count(label) for label in range(7)]


def test_numbers_beyond_a_class_are_masked_and_refused() -> None:
    index = class_index([0, 1, 1])
    assert index.valid.tolist() == [[True, False], [True, True]]
    with pytest.raises(LabelError, match="beyond its end"):
        index.ids(torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(LabelError, match="No class 2: the classes are 0 to 1"):
        index.members(2)


def test_labels_outside_the_classes_are_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match=r"Labels must be 0 to 2, as there are 3 classes; 1 are not, such as 3"):
        class_index([0, 3], classes=3)
    with pytest.raises(DataError, match=r"torch makes no tensor of them: .*Number the classes from 0"):
        class_index(["cat", "dog"])
    with pytest.raises(DataError, match="class numbers, one an example"):
        class_index(torch.zeros(3))
