"""What sharing layers between class and index does, over sizes of network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from whence._errors import ArgumentError
from whence._statistics import Interval
from whence.datasets import as_examples
from whence.evaluation.provenance.measures import as_data
from whence.evaluation.provenance.scaling import COLUMNS, measured
from whence.evaluation.provenance.trainings import Setting, Trainings, over, trained
from whence.evaluation.table import Tables, table_of
from whence.provenance import ProvenanceNetwork, shared_levels
from whence.provenance.papers import SIZES, Levels

LEVELS = (1, 2, 3, 4)
_COUNTED = ("all, millions", "index head, millions", "shared, % of all", "shared, % without the index head")


def sharing_by_size(
    train_data: Any,
    test_data: Any,
    trainings: Trainings,
    *,
    sizes: Sequence[str] = tuple(SIZES),
    levels: Sequence[int] = LEVELS,
) -> Tables:
    """Train networks that share more or fewer layers, small and large (Provenance Networks, 4.4 and 7.6, tables 5, 6).

    Parameters are counted here by code: those of tables 5 and 6 do not follow from the layers the paper states, whose
    60,000-way head alone has 7.7 million parameters where "small" has 4.0 in all.

    Args:
        train_data, test_data: Pictures and labels, anything `as_examples` takes.
        trainings: How to train.
        sizes: Of `whence.provenance.shared_levels`: small, medium, large, xlarge.
        levels: Alike, 1 to 4.

    Returns:
        Tables ``parameters`` (counts, without intervals) and ``accuracy`` (as the columns of `subset_scaling`), a row
        each size and level. "Class of retrieved" is the paper's class consistency; its top-5 is any of five.

    Raises:
        ArgumentError: If there is no such size or level or none is given, labels are not one whole number each, there
            are fewer than five training examples, or the data is not of pictures.
        ShapeError: If inputs are not one tensor.
        DataError: If files of ``trainings.path`` cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    if not sizes or not levels:
        raise ArgumentError(f"Give at least one of `sizes` and of `levels`; got {list(sizes)} and {list(levels)}.")
    data, test = as_data(train_data, "training"), as_data(test_data, "test")
    prints = as_examples(data).fingerprint, as_examples(test).fingerprint
    makes = {
        f"{size}, level {level}": partial(shared_levels, size=size, level=level) for size in sizes for level in levels
    }
    counted = [_counted(make(data)) for make in makes.values()]
    settings = [
        Setting(
            name=f"sharing {prints[1]}",
            make=make,
            data=lambda _seed: data,
            fingerprint=lambda _seed: prints[0],
            objective=trainings.objective,
            measure=partial(measured, test=test),
        )
        for make in makes.values()
    ]
    rows = ("network", list(makes))
    size = f"{len(data[1])} training and {len(test[1])} test examples"
    return Tables(
        {
            "parameters": table_of(
                counted,
                rows,
                ("parameters", _COUNTED),
                title=f"Parameters, {len(data[1])} training examples",
                measure="counted",
                interval="none: a count is exact",
            ),
            "accuracy": table_of(
                trained(settings, trainings),
                rows,
                ("accuracy of", COLUMNS),
                title=f"Shared layers, {size}",
                measure=f"accuracy, {over(trainings.seeds)}; on test examples but for the index",
                interval="over seeds",
            ),
        }
    )


def _counted(network: ProvenanceNetwork) -> list[Interval]:
    backbone = network.backbone
    shared = _size(backbone.shared) if isinstance(backbone, Levels) else 0
    whole, head = _size(network), _size(network.head)
    values = (whole / 1e6, head / 1e6, 100 * shared / whole, 100 * shared / (whole - head))
    return [Interval(one, float("nan"), float("nan")) for one in values]


def _size(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())
