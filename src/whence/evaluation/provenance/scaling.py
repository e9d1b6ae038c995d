"""How little of the data an index needs: accuracies over subsets of growing size, chosen in one way or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from whence._errors import ArgumentError
from whence._numbers import is_number
from whence.datasets import as_examples
from whence.evaluation.inputs import named
from whence.evaluation.orders import Keep, Order, balanced_at_random
from whence.evaluation.provenance.measures import (
    FEW,
    FIVE,
    Data,
    agreement,
    as_data,
    class_hits,
    exemplars,
    neighbours_in_embedding,
    neighbours_in_features,
    own_index,
)
from whence.evaluation.provenance.trainings import MakeNetwork, Setting, Trainings, over, trained
from whence.evaluation.pruning import examples_of, left_of
from whence.evaluation.table import Tables, table_of
from whence.provenance import ProvenanceNetwork

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
COLUMNS = (
    "class",
    *(f"class of retrieved: {few}" for few in FEW),
    "index, training",
    *(f"class of nearest in the {where}: {few}" for where in ("embedding", "features") for few in FEW[:2]),
)


def subset_scaling(
    make_network: MakeNetwork,
    train_data: Any,
    test_data: Any,
    trainings: Trainings,
    *,
    strategies: Order | Keep | Mapping[str, Order | Keep] | None = None,
    shares: Sequence[float] = SHARES,
) -> Tables:
    """Train network and index on a growing share of the data (Provenance Networks, 4.3 and 7.5, tables 1 and 4).

    The paper's accuracies of retrieval jump up and down with the share, of one training each; several seeds tell that
    from noise, and the nearest neighbours in the network's own embedding and features are what its head has to beat.

    Args:
        make_network: Makes a network of the subset, such as `whence.provenance.two_branches`.
        train_data, test_data: Anything `as_examples` takes; inputs one tensor.
        trainings: How to train.
        strategies: What to leave out, as `whence.evaluation.pruning` takes it: orders (the first to be left out
            first), or functions (how many to leave out, seed) -> ids, by name. By default as many of each class at
            random, the paper's; beyond it `least_prototypical`, `least_ambiguous`, `least_diverse`, and
            `least_absolute` or `most_harmful` of scores of an audit.
        shares: Of the examples to keep, above 0, up to 1.

    Returns:
        A table by strategy, a row each share kept. Columns: class accuracy on the test data (of a single-branch network
        that of the first retrieved); of the first retrieved example, any of five and the majority of five whether the
        class is right; index accuracy on the subset; the same of the nearest by cosine in the embedding, and in the
        features of the backbone, which the class does not enter.

    Raises:
        ArgumentError: If a share is outside what is listed, orders are not of all the training examples, a subset has
            under five examples (of a class, if the network is conditional), labels are not one whole number each, or
            ``make_network`` gives no provenance network.
        ShapeError: If inputs are not one tensor.
        DataError: If files of ``trainings.path`` cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    data, test = as_data(train_data, "training"), as_data(test_data, "test")
    parts = [float(one) for one in shares if is_number(one)]
    if not parts or len(parts) < len(shares) or not all(0 < one <= 1 for one in parts):
        raise ArgumentError(f"`shares` must be shares of the data to keep, above 0, up to 1; got {list(shares)}.")
    given = named({"stratified": balanced_at_random(data[1])} if strategies is None else strategies, "subset")
    whole = examples_of(given)
    if whole != len(data[1]):
        raise ArgumentError(f"The strategies are of {whole} training examples; there are {len(data[1])}.")
    told = f"scaling {as_examples(test).fingerprint}"
    settings = [
        _setting(make_network, data, test, (name, one, share), (told, trainings))
        for name, one in given.items()
        for share in parts
    ]
    found = trained(settings, trainings)
    return Tables(
        {
            name: table_of(
                found[place * len(parts) : (place + 1) * len(parts)],
                ("share kept", parts),
                ("accuracy of", COLUMNS),
                title=f"Subsets of {whole} training examples, {name}",
                measure=f"accuracy, {over(trainings.seeds)}; on {len(test[1])} test examples but for the index",
                interval="over seeds",
            )
            for place, name in enumerate(given)
        }
    )


def _setting(
    make: MakeNetwork,
    data: Data,
    test: Data,
    which: tuple[str, Order | Keep, float],
    how: tuple[str, Trainings],
) -> Setting:
    name, strategy, share = which
    removed = len(data[1]) - max(1, round(share * len(data[1])))

    def subset(seed: int) -> Data:
        ids = sorted(left_of(strategy, removed, seed, name))
        if len(ids) < FIVE:
            raise ArgumentError(f"A subset needs five examples to retrieve; {name!r} keeps {len(ids)} at {share:g}.")
        return data[0][ids], data[1][ids]

    return Setting(
        name=how[0],
        make=make,
        data=subset,
        fingerprint=lambda seed: as_examples(subset(seed)).fingerprint,
        objective=how[1].objective,
        measure=partial(measured, test=test),
    )


def measured(network: ProvenanceNetwork, data: Data, *, test: Data) -> list[float]:
    """Return what `COLUMNS` lists of a network, its training data and test data."""
    labels = test[1].numpy()
    near = [of(network, data, test[0]) for of in (neighbours_in_embedding, neighbours_in_features)]
    hits = [
        class_hits(network, *test),
        *agreement(exemplars(network, test[0])[1], labels),
        own_index(network, data[0]),
        *(one for ids in near for one in agreement(data[1].numpy()[ids], labels)[:2]),
    ]
    return [float(np.mean(one)) for one in hits]
