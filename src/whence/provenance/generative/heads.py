"""Index heads: which example of a class a feature comes from (Provenance Networks, 5.5, 7.2.3 and 7.13)."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from whence.provenance.indices import ClassIndex


@final
class ClassHeads(nn.Module):
    """One linear index head for each class, with parameters of its own.

    The heads lie side by side in one layer: output i is the number of example i within its class, in the head of that
    class. That is what one linear layer a class computes, in one product, also for thousands of classes (as faces).

    Args:
        width: Of the feature.
        index: Classes and their examples.
    """

    def __init__(self, width: int, index: ClassIndex) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(index))

    def forward(self, feature: Float[Tensor, "batch width"]) -> Float[Tensor, "batch examples"]:
        """Return the logit of each example in the head of its class."""
        found: Tensor = self.linear(feature)
        return found


@final
class SharedClassHead(nn.Module):
    """One linear index head for all classes, as wide as the largest; numbers beyond a class's end are masked.

    Output i is the logit of example i's number within its class, so that a number of several classes is read for each.
    A number that is no example's is read for none: the validity mask of the paper's equation 17.

    Args:
        width: Of the feature.
        index: Classes and their examples.
    """

    def __init__(self, width: int, index: ClassIndex) -> None:
        super().__init__()
        self.linear = nn.Linear(width, index.largest)
        self.local: Tensor
        self.register_buffer("local", index.local.clone(), persistent=False)

    def forward(self, feature: Float[Tensor, "batch width"]) -> Float[Tensor, "batch examples"]:
        """Return the logit of each example by its number within its class."""
        found: Tensor = self.linear(feature)
        return found.index_select(1, self.local)
