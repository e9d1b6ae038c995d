"""Random transforms that can be drawn again."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch.utils.data import Dataset

from whence._errors import ArgumentError, DataError
from whence.datasets._randomness import seeded_generators


@final
class Augmented(Dataset[Any]):
    """A dataset under a random transform whose every draw can be repeated.

    Item ``index`` in ``epoch`` depends only on the seed, the epoch and the index: not on the order of reading, nor on
    the worker process that reads it. So a run recorded on it can be walked again. While an item is made, the
    generators of Python, numpy and torch (on the CPU) are seeded; afterwards they are as they were.

    Args:
        dataset: A map-style dataset of ``(input, label)``.
        transform: Takes the input and returns the transformed one, with randomness from any of the three generators.
        seed: What all draws depend on.

    Raises:
        DataError: If ``dataset`` has no length or cannot be indexed.

    Examples:
        >>> data = [(torch.zeros(2), 0), (torch.ones(2), 1)]
        >>> noisy = Augmented(data, lambda x: x + torch.randn(2), seed=3)
        >>> bool((noisy[1][0] == noisy[1][0]).all()), bool((noisy.item(1, epoch=1)[0] == noisy[1][0]).any())
        (True, False)
    """

    def __init__(self, dataset: Any, transform: Callable[[Any], Any], *, seed: int = 0) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"Augmented needs a map-style dataset with a length and an index; got {type(dataset).__name__}. "
                "Read a stream into a list first."
            )
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64)
        torch.Tensor.share_memory_(self._epoch)  # type: ignore[no-untyped-call]  # seen by workers that run already

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.item(index, epoch=self.epoch)

    @property
    def epoch(self) -> int:
        """The epoch whose draws indexing gives."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draws indexing gives, in this process and in worker processes.

        Raises:
            ArgumentError: If the epoch is negative.
        """
        if epoch < 0:
            raise ArgumentError(f"An epoch is counted from 0; got {epoch}.")
        self._epoch.fill_(epoch)

    def item(self, index: int, *, epoch: int) -> tuple[Any, Any]:
        """Return ``(transformed input, label)`` of one example as drawn in ``epoch``.

        Raises:
            DataError: If the dataset's item is not a pair.
        """
        with seeded_generators(self.seed, epoch, index):
            found = self.dataset[index]
            if not (isinstance(found, tuple | list) and len(found) == 2):
                raise DataError(
                    f"Augmented needs items (input, label); item {index} is a {type(found).__name__}. "
                    "Wrap the dataset so that it returns pairs."
                )
            return self.transform(found[0]), found[1]
