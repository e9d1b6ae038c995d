"""Examples of a data set answered by a network, named, and drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from whence._errors import ArgumentError
from whence._files import make_folder, write_atomically
from whence.datasets import as_examples
from whence.provenance.network import ProvenanceNetwork
from whence.provenance.retrieval import retrieve
from whence.provenance.sheets import class_called, retrieval_sheet
from whence.regions.control import as_ids


def retrieve_examples(
    network: ProvenanceNetwork,
    data: Any,
    ids: Sequence[int],
    train_data: Any,
    k: int = 5,
    *,
    picture: str | Path | None = None,
) -> xr.Dataset:
    """Answer some examples of a data set, and name the training examples behind each answer.

    Args:
        network: A trained network.
        data: Where the examples are from: anything `as_examples` takes.
        ids: Which of them.
        train_data: The data that the network was trained on.
        k: How many training examples to name for each.
        picture: A PNG file for `retrieval_sheet`'s picture; one that is there is replaced.

    Returns:
        As `retrieve` gives it; ``query`` are the ids.

    Raises:
        LabelError: If there is no such example.
        ChangedDataError: If a picture is asked with other training data than the network's.
        ArgumentError: If ids are no whole numbers, k is not from 1 to what there is, a picture is asked of what is no
            image, or a folder stands where it would be.
        DiskError: If the disk is full or refuses to write.
    """
    examples = as_examples(data)
    chosen = as_ids(ids, "example", len(examples))
    found = retrieve(network, examples.batch(chosen)[0], k).assign_coords(query=chosen)
    if picture is not None:
        place, buffer = Path(picture), io.BytesIO()
        if place.is_dir():
            raise ArgumentError(f"`picture` is a file to write, such as retrieved.png; a folder stands at {place}.")
        retrieval_sheet(found, examples, chosen, train_data).save(buffer, "PNG", optimize=True)
        make_folder(place.parent)
        write_atomically(place, buffer.getvalue())
    return found


def retrieval_rows(found: xr.Dataset, class_names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return what was retrieved as JSON's types.

    Args:
        found: Of `retrieve`.
        class_names: What classes are called.

    Returns:
        For each query ``id``, ``predicted``, ``confidence`` (a probability; None of a single-branch network) and
        ``exemplars``, each with ``id``, ``class`` and ``score`` (log probability, nats), most probable first.
    """
    rows = []
    for place, query in enumerate(found["query"].values.tolist()):
        one = found.isel(query=place)
        sure = float(one["class_confidence"])
        entries = (one[name].values.tolist() for name in ("exemplar", "exemplar_class", "score"))
        rows.append(
            {
                "id": query,
                "predicted": class_called(int(one["predicted"]), class_names),
                "confidence": None if math.isnan(sure) else math.exp(sure),
                "exemplars": [
                    {"id": exemplar, "class": class_called(label, class_names), "score": score}
                    for exemplar, label, score in zip(*entries, strict=True)
                    if exemplar >= 0
                ],
            }
        )
    return rows
