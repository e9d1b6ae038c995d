"""A few training examples that differ, on which a loss is tried."""

from whence._errors import DataError
from whence.datasets import Examples
from whence.runs.trees import leaves, rows

_LOOKED_AT = 32  # examples, spread over the data, among whose labels different ones are looked for


def varied_ids(examples: Examples, count: int) -> list[int]:
    """Return ids of examples with different labels, or spread over the data where their labels do not differ.

    Data are often sorted, by class or by length: the first examples would be alike.

    Args:
        examples: The training data.
        count: How many ids at most; at least 2.
    """
    last = len(examples) - 1
    pool = sorted({place * last // (_LOOKED_AT - 1) for place in range(_LOOKED_AT)})
    try:
        labels = examples.batch(pool)[1]
    except DataError:  # neighbours alone can be collated, such as texts sorted by length
        return list(range(min(count, len(examples))))
    spread = [place * (len(pool) - 1) // (count - 1) for place in range(count)]
    order = list(dict.fromkeys([*spread, *range(len(pool))]))
    different: dict[str, int] = {}
    for place in order:
        different.setdefault(repr([leaf.tolist() for leaf in leaves(rows(labels, place, place + 1))]), place)
    return sorted(pool[place] for place in list(dict.fromkeys([*different.values(), *order]))[:count])
