"""What a dataset may offer beside its items, found through ``Subset`` and ``ConcatDataset``.

A dataset may have: ``all_labels()`` → every label at once; ``display(index)`` → a picture as uint8 array (height,
width) or (height, width, 3), or None; ``class_names`` (or torchvision's ``classes``). None of them is needed.
"""

from bisect import bisect_right
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from whence.datasets.augmented import Augmented
from whence.datasets.images import Images, picture

_SMALLEST_PICTURE = 4  # pixels a side


def tensors_of(source: Any) -> tuple[Tensor, ...] | None:
    """Return all that a dataset's items are made of, when it holds them in memory as tensors."""
    if type(source) is TensorDataset and len(source.tensors) == 2:
        return source.tensors
    return source.tensors() if isinstance(source, Images) else None


def gather(source: Any, ids: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return a batch without a loop over examples, when the dataset allows it."""
    if isinstance(source, Images):
        return source.gather(ids)
    if type(source) is TensorDataset and len(source.tensors) == 2:
        inputs, labels = (tensor.index_select(0, ids.to(tensor.device)) for tensor in source.tensors)
        return inputs, labels
    return None


def items(source: Any, ids: list[int], *, epoch: int) -> list[Any]:
    """Return the items ``ids`` as a ``DataLoader`` reads them in ``epoch``."""
    if not augmented_parts(source):
        together = getattr(source, "__getitems__", None)
        return list(together(ids)) if callable(together) else [source[index] for index in ids]
    return [_item(source, index, epoch) for index in ids]


def augmented_parts(source: Any) -> list[Augmented]:
    """Return the `Augmented` datasets in ``source``."""
    if isinstance(source, Augmented):
        return [source]
    if isinstance(source, Subset):
        return augmented_parts(source.dataset)
    if isinstance(source, ConcatDataset):
        return [part for dataset in source.datasets for part in augmented_parts(dataset)]
    return []


def labels_of(source: Any) -> Tensor | None:
    """Return every label at once, when the dataset knows them without making its items."""
    if type(source) is TensorDataset and len(source.tensors) == 2:
        return source.tensors[1]
    if isinstance(source, Augmented):
        return labels_of(source.dataset)
    if isinstance(source, Subset):
        known = labels_of(source.dataset)
        return None if known is None else known[torch.as_tensor(list(source.indices), dtype=torch.int64)]
    offered = getattr(source, "all_labels", None)
    return offered() if callable(offered) else None


def class_names_of(source: Any) -> tuple[str, ...] | None:
    """Return what the classes are called, when the dataset knows."""
    if isinstance(source, Subset | Augmented):
        return class_names_of(source.dataset)
    if isinstance(source, ConcatDataset):
        return class_names_of(source.datasets[0])
    for attribute in ("class_names", "classes"):
        names = getattr(source, attribute, None)
        if isinstance(names, tuple | list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None


def picture_of(source: Any, index: int) -> np.ndarray | None:
    """Return an example's picture: what the dataset shows, or else its input if that looks like an image."""
    if isinstance(source, Augmented):
        return picture_of(source.dataset, index)
    if isinstance(source, Subset):
        return picture_of(source.dataset, int(source.indices[index]))
    if isinstance(source, ConcatDataset):
        part, place = _part(source, index)
        return picture_of(part, place)
    display = getattr(source, "display", None)
    if callable(display):
        shown = display(index)
        return None if shown is None else np.asarray(shown, dtype=np.uint8)
    found = source[index]
    return _drawn(found[0]) if isinstance(found, tuple | list) else None


def _item(source: Any, index: int, epoch: int) -> Any:
    if isinstance(source, Augmented):
        return source.item(index, epoch=epoch)
    if isinstance(source, Subset):
        return _item(source.dataset, int(source.indices[index]), epoch)
    if isinstance(source, ConcatDataset):
        part, place = _part(source, index)
        return _item(part, place, epoch)
    return source[index]


def _part(source: ConcatDataset[Any], index: int) -> tuple[Any, int]:
    """Return the dataset of a concatenation in which ``index`` lies, and its place there."""
    number = bisect_right(source.cumulative_sizes, index)
    return source.datasets[number], index - (source.cumulative_sizes[number - 1] if number else 0)


def _drawn(value: Any) -> np.ndarray | None:
    """Return an input as a picture if it is one: a Pillow image, or a tensor (1 or 3, height, width)."""
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("RGB"), dtype=np.uint8)
    if not isinstance(value, Tensor) or value.dim() != 3 or min(value.shape[1:]) < _SMALLEST_PICTURE:
        return None
    if value.dtype == torch.uint8:
        return picture(value)
    if not value.is_floating_point():
        return None
    finite = torch.nan_to_num(value.detach().to(torch.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    return picture(((finite - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny) * 255.0).round())
