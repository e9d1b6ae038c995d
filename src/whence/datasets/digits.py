"""The handwritten digits that come with scikit-learn: real data without a download."""

from typing import Literal

import numpy as np
import torch

from whence._errors import ArgumentError
from whence.datasets.images import Images

_EVERY = 5  # of each class, every fifth example is for testing


def load_digits(split: Literal["train", "test"] = "train") -> Images:
    """Read scikit-learn's 1,797 handwritten digits (Alpaydin & Kaynak, 1998; UCI Optical Recognition).

    Each is a float32 tensor (1, 8, 8) from 0 (paper) to 1 (ink). Of each class, every fifth example is in ``"test"``,
    the others in ``"train"``: the same ones always.

    Args:
        split: ``"train"`` or ``"test"``.

    Raises:
        ArgumentError: If the split is another word.

    Examples:
        >>> len(load_digits("train")), len(load_digits("test"))
        (1442, 355)
    """
    if split not in ("train", "test"):
        raise ArgumentError(f"The splits of the digits are 'train' and 'test'; got {split!r}.")
    from sklearn.datasets import load_digits as read_digits  # here, as it takes 80 MiB and half a second to import

    bunch = read_digits()
    labels = np.asarray(bunch.target, dtype=np.int64)
    rank = np.zeros_like(labels)  # of an example among those of its class
    for digit in range(10):
        rank[labels == digit] = np.arange((labels == digit).sum())
    chosen = (rank % _EVERY == _EVERY - 1) == (split == "test")
    pixels = torch.from_numpy(np.asarray(bunch.images)[chosen].astype(np.uint8)).unsqueeze(1)
    return Images(
        pixels, torch.from_numpy(labels[chosen]), divisor=16.0, class_names=[str(digit) for digit in range(10)]
    )
