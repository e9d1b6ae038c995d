"""The results of ``benchmarks.counterfactual_peers`` as tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = "counterfactual_peers"
Result = dict[str, Any]


def file_of(results: Path, name: str, track: str) -> Path:
    """Return where the result of a network and track stands."""
    return results / FOLDER / f"{name.replace(', ', '-').replace(' ', '-')}-{track}.json"


def table(results: Path, networks: Sequence[str]) -> str:
    """Gather the results that are there into one file, and return it."""
    files = [file_of(results, name, track) for name in networks for track in "AB"]
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    machines = sorted({json.dumps(one["machine"], sort_keys=True) for one in found})
    text = "\n".join([head(found), *(f"Machine: {one}" for one in machines), "", *scores(found), "", *settings(found)])
    (results / f"{FOLDER}.md").write_text(text + "\n")
    return text


def head(found: list[Result]) -> str:
    """Say what is measured."""
    sets = {one["track"]: one["sets"] for one in found}
    tracks = {
        "A": "Track A: a random half left out, new initialisation, order and dropout each time ({} halves). A mean is "
        "of the scores of 5 trainings of the full data with other seeds; TRAK's 10 models are such trainings too.",
        "B": "Track B: a random 1 % or 5 % left out, same initialisation and order, no dropout ({} sets of each size). "
        "TRAK's 10 models are trainings of the full data with other seeds.",
    }
    return (
        f"MNIST, first 5,000 training images, {found[0]['targets'] if found else 0} test images as targets. "
        f"{' '.join(text.format(sets[track]) for track, text in tracks.items() if track in sets)} "
        "Scores: mean over targets of the rank correlation of summed scores and the loss after training without the "
        "set (95 % interval, a bootstrap over targets); 1 is best. Settings were chosen for each method, network and "
        f"track on {found[0]['tuning_sets'] if found else 0} other random sets of each size, by the mean over sizes. "
        '"Repaired" is dattri 0.3.0 with its eigenvectors and the order of weights and biases put right.\n'
    )


def scores(found: list[Result]) -> list[str]:
    """Return the table of scores: a row a method, a column a network, track and share."""
    columns = [(one, share) for one in found for share in next(iter(one["methods"].values()))["scores"]]
    named = [f"{one['network']}; {one['track']}, {float(share):.0%}" for one, share in columns]
    lines = [
        f"| | {' | '.join(named)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for method in names(found):
        for kind, suffix in (("scores", ""), ("mean", ", mean of 5")):
            if any(kind in one["methods"].get(method, {}) for one in found):
                cells = [cell(one["methods"].get(method, {}).get(kind, {}).get(share)) for one, share in columns]
                lines.append(f"| {method}{suffix} | {' | '.join(cells)} |")
    accuracies = (f"{one['network']} {one['track']} {one['accuracy']:.3f}" for one in found)
    return [*lines, "", f"Accuracy of the networks that are explained: {'; '.join(accuracies)}."]


def cell(one: dict[str, float] | None) -> str:
    """Return a score and its interval."""
    return "" if one is None else f"{one['score']:.2f} ({one['low']:.2f} to {one['high']:.2f})"


def settings(found: list[Result]) -> list[str]:
    """Return the table of the settings chosen, with the score on the sets that they were chosen on."""
    named = [f"{one['network']}; {one['track']}" for one in found]
    lines = [
        f"| settings chosen (score there) | {' | '.join(named)} |",
        f"|---|{'---|' * len(found)}",
    ]
    for method in names(found):
        rows = [one["methods"].get(method) for one in found]
        cells = ["" if row is None else f"{row['chosen']} ({row['tuning'][row['chosen']]:.2f})" for row in rows]
        if any(row is not None and len(row["tuning"]) > 1 for row in rows):
            lines.append(f"| {method} (of {max(len(row['tuning']) for row in rows if row)}) | {' | '.join(cells)} |")
    return lines


def names(found: list[Result]) -> list[str]:
    """Return every method, in the order measured."""
    return list(dict.fromkeys(method for one in found for method in one["methods"]))
