"""The one form in which data reaches the rest of the library."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import default_collate as torch_collate

from whence._errors import ArgumentError, DataError, LabelError, RandomDataError
from whence.datasets import _hooks
from whence.datasets._fingerprint import fingerprint
from whence.datasets._randomness import kept_generators

_FINGERPRINTED = 256  # examples of a dataset whose items must be made one by one
_READ_TWICE = 8  # examples, to find out whether items are random
_CHUNK = 256  # examples at a time, to read all labels
_LABEL_KEYS = ("labels", "label")  # of examples that are dictionaries
_NUMBERED = (
    "Number classes from 0, such as torch.tensor([names.index(one) for one in labels]); a dataset may tell the names "
    "as class_names."
)


@final
class Examples:
    """A dataset of ``(input, label)`` read by example id; made by `as_examples`.

    An id is the example's index in the dataset, 0 to ``len - 1``.

    Args:
        source: A map-style dataset.
        collate_fn: Makes a batch of a list of items, as for a ``DataLoader``.

    Attributes:
        source: The dataset.
        collate_fn: Makes a batch of a list of items.
        class_names: What each class is called, when the dataset knows (``class_names`` or ``classes``).

    Raises:
        DataError: If the dataset is empty, or its items are not ``(input, label)``.
        RandomDataError: If reading an item twice gives two different ones.
    """

    def __init__(self, source: Any, *, collate_fn: Callable[[list[Any]], Any] | None = None) -> None:
        self.source = source
        self.collate_fn: Callable[[list[Any]], Any] = torch_collate if collate_fn is None else collate_fn
        self.class_names: tuple[str, ...] | None = _hooks.class_names_of(source)
        if len(source) == 0:
            raise DataError(f"The data is empty: a {type(source).__name__} of length 0. Give at least one example.")
        if self._in_memory:
            return
        with kept_generators():
            self.batch([0])
            self._check_repeatable()

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        return f"Examples({len(self)} of {type(self.source).__name__})"

    def batch(self, ids: Sequence[int] | Tensor, *, epoch: int = 0) -> tuple[Any, Any]:
        """Return examples, collated as a ``DataLoader`` would.

        Args:
            ids: Which examples, in this order.
            epoch: The epoch whose random draws `Augmented` data gives; of no effect on other data.

        Returns:
            ``(inputs, labels)``, the first axis of each tensor being the example. ``inputs`` is a tensor, or a dict or
            tuple of tensors; see `call_model`.

        Raises:
            DataError: If an item, or what ``collate_fn`` makes of the items, is not ``(input, label)``.
        """
        rows = self._rows(ids)
        if self._in_memory:
            gathered = _hooks.gather(self.source, rows)
            if gathered is not None:
                return gathered
        found = _hooks.items(self.source, rows.tolist(), epoch=epoch)
        try:
            collated = self.collate_fn(found)
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise DataError(
                f"Examples {rows.tolist()[:4]}... cannot be made into a batch: {error}. Give collate_fn= as for your "
                "DataLoader, or let the dataset return tensors of one shape."
            ) from error
        return _split(collated)

    def picture(self, index: int) -> np.ndarray | None:
        """Return an example as a picture: uint8, (height, width) or (height, width, 3); None if it is not an image.

        It is what the dataset's ``display(index)`` gives, when it has that; else the input itself when it is a tensor
        (1 or 3, height, width) with sides of at least 4, its smallest value black and its largest white.
        """
        row = int(self._rows([index])[0])
        with kept_generators():
            return _hooks.picture_of(self.source, row)

    @cached_property
    def labels(self) -> Tensor:
        """Every label, first axis the example; read once, then kept.

        Raises:
            DataError: If labels are neither tensors nor numbers.
        """
        known = _hooks.labels_of(self.source)
        if known is not None and len(known) == len(self):
            return known
        with kept_generators():
            chunks = [
                self.batch(range(start, min(start + _CHUNK, len(self))))[1] for start in range(0, len(self), _CHUNK)
            ]
        if not all(isinstance(chunk, Tensor) for chunk in chunks):
            raise DataError(f"Labels must be tensors or numbers; they are {_kind(chunks[0])}. {_NUMBERED}")
        return torch.cat(chunks)

    @cached_property
    def fingerprint(self) -> str:
        """``"blake2b:..."`` of the data, the same in every process.

        Of data held in memory as tensors: all of it. Of other datasets: their length, the labels where the dataset
        knows them, and up to 256 evenly spaced items.
        """
        tensors = _hooks.tensors_of(self.source)
        if tensors is not None:
            return fingerprint(["tensors", *tensors])
        count = min(_FINGERPRINTED, len(self))
        spaced = [position * (len(self) - 1) // max(count - 1, 1) for position in range(count)]
        with kept_generators():
            found = (_hooks.items(self.source, [index], epoch=0)[0] for index in spaced)
            return fingerprint(["items", len(self), _hooks.labels_of(self.source), *found])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draws a ``DataLoader`` over `Augmented` data gives, in its workers too."""
        for part in _hooks.augmented_parts(self.source):
            part.set_epoch(epoch)

    @cached_property
    def _in_memory(self) -> bool:
        """Whether a batch is an index into tensors, which is what collating the items would give."""
        return self.collate_fn is torch_collate and _hooks.tensors_of(self.source) is not None

    def _rows(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Return ids as an int64 tensor (ids,), checked."""
        rows = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids)).cpu()
        if rows.dim() != 1 or len(rows) == 0 or rows.is_floating_point() or rows.dtype == torch.bool:
            raise ArgumentError(
                f"ids must be whole numbers along one axis, at least one; got {rows.dtype}, shape {tuple(rows.shape)}."
            )
        low, high = (int(extreme) for extreme in rows.aminmax())
        if low < 0 or high >= len(self):
            raise LabelError(
                f"No example id {low if low < 0 else high}: the ids of this data are 0 to {len(self) - 1}."
            )
        return rows.to(torch.int64)

    def _check_repeatable(self) -> None:
        """Read a few items twice, without seeding in between."""
        count = min(_READ_TWICE, len(self))
        for index in sorted({position * (len(self) - 1) // max(count - 1, 1) for position in range(count)}):
            first, second = (fingerprint(_hooks.items(self.source, [index], epoch=0)) for _ in range(2))
            if first != second:
                raise RandomDataError(
                    f"Example {index} of the {type(self.source).__name__} is another each time it is read, so training "
                    "on it cannot be walked again. Take the random transform out of the dataset and wrap it: "
                    "whence.datasets.Augmented(dataset, transform, seed=0)."
                )


def as_examples(data: Any, *, collate_fn: Callable[[list[Any]], Any] | None = None) -> Examples:
    """Read data of any supported kind.

    Args:
        data: A map-style dataset (or list) whose items are ``(input, label)`` or dicts with ``labels``; a pair
            ``(inputs, labels)`` of tensors or arrays, first axis the example; or `Examples`.
        collate_fn: Makes a batch of a list of items, as for a ``DataLoader``; torch's default when left out.

    Raises:
        DataError: If the data is empty, a stream, a ``DataLoader``, or its items have another structure.
        RandomDataError: If reading an item twice gives two different ones.

    Examples:
        >>> examples = as_examples((torch.eye(3), torch.tensor([0, 1, 2])))
        >>> len(examples), examples.batch([2, 0])[1].tolist()
        (3, [2, 0])
    """
    if isinstance(data, Examples):
        same = collate_fn is None or collate_fn is data.collate_fn
        return data if same else Examples(data.source, collate_fn=collate_fn)
    if (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(isinstance(part, Tensor | np.ndarray) for part in data)
    ):
        return Examples(_paired(_tensor(data[0]), _tensor(data[1])), collate_fn=collate_fn)
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray):
        raise DataError(f"Beside a tensor of inputs, labels must be one too; they are {_kind(data[1])}. {_NUMBERED}")
    if isinstance(data, DataLoader):
        raise DataError("This is a DataLoader; give the dataset it reads, loader.dataset (and its collate_fn).")
    streamed = isinstance(data, IterableDataset)
    if streamed or isinstance(data, Tensor | np.ndarray | str | Mapping) or not _map_style(data):
        reason = "gives a stream without an index" if streamed else "is not a dataset of (input, label)"
        raise DataError(
            f"A {type(data).__name__} {reason}. Give a map-style dataset (with len() and an index) whose items are "
            "(input, label), or a pair (inputs, labels) of tensors."
        )
    return Examples(data, collate_fn=collate_fn)


def call_model(model: Callable[..., Any], inputs: Any) -> Any:
    """Apply a model to a batch: ``model(**inputs)`` for a dict, ``model(*inputs)`` for a tuple or list."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def _map_style(data: Any) -> bool:
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def _kind(given: Any) -> str:
    """Say what something is, and of a sequence what is in it."""
    first = f" of {type(given[0]).__name__}" if isinstance(given, tuple | list) and given else ""
    return type(given).__name__ + first


def _tensor(values: Tensor | np.ndarray) -> Tensor:
    if isinstance(values, Tensor):
        return values
    if values.dtype.kind not in "biufc":
        raise DataError(f"Inputs and labels must be numbers; got an array of {values.dtype}. {_NUMBERED}")
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _paired(inputs: Tensor, labels: Tensor) -> TensorDataset:
    if inputs.dim() == 0 or labels.dim() == 0 or len(inputs) != len(labels):
        raise DataError(
            f"Inputs and labels need one row an example; got shapes {tuple(inputs.shape)} and {tuple(labels.shape)}."
        )
    return TensorDataset(inputs, labels)


def _split(collated: Any) -> tuple[Any, Any]:
    """Part a collated batch into inputs and labels."""
    if isinstance(collated, Mapping):
        for key in _LABEL_KEYS:
            if key in collated:
                return {name: value for name, value in collated.items() if name != key}, collated[key]
    if isinstance(collated, tuple | list) and len(collated) == 2:
        inputs, labels = collated
        return (tuple(inputs) if isinstance(inputs, list) else inputs), labels
    shown = f"{type(collated).__name__} of {len(collated)}" if hasattr(collated, "__len__") else type(collated).__name__
    raise DataError(
        f"A batch must be (inputs, labels), or a dict with 'labels'; it is a {shown}. Let the dataset's items be "
        "(input, label); several inputs go into a tuple or a dict: ((a, b), label)."
    )
