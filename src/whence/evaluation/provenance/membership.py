"""Membership by the index head, beside the class branch and beside what no network is needed for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence.evaluation.membership import BLIND, membership_table
from whence.evaluation.provenance.measures import as_conditions, as_data, class_logs, distorted
from whence.evaluation.table import Table, Tables
from whence.membership import blind_control, entropy, log_margin, nearest_distance
from whence.provenance import Distortion, ProvenanceNetwork, embeddings, reading
from whence.provenance.network import check_network

Scores = dict[str, Float[Tensor, " examples"]]
Values = Float[np.ndarray, " examples"]

_BRANCHES = ("index", "class")
_HISTOGRAMS = {"confidence": (1, "confidence, log-odds"), "entropy": (-1, "entropy, nats")}  # sign, as it was turned
_COLOURS = {"index": "#0f766e", "class": "#c2410c", "look-up": "#4338ca", BLIND: "#6b7280"}  # by the name's beginning
_DASHES = ("solid", "dash", "dot", "dashdot")
_CHANCE = {"color": "#9ca3af", "dash": "dot", "width": 1}
_MEMBERS, _OTHERS = "#0f766e", "#c2410c"
_BINS = 40
_MARKED = (0.01, 0.001)  # shares of false positives at which the paper's critics read true ones


def membership_by_index(
    network: ProvenanceNetwork,
    members: Any,
    nonmembers: Any,
    *,
    conditions: Sequence[str] | Mapping[str, Distortion] = ("no distortion", "translation ±3 px"),
    fpr: Sequence[float] = (0.01, 0.001),
    seed: int = 0,
) -> Tables:
    """Measure how well an index head tells members of its training set from others (Provenance Networks, 5.4 and 7.7).

    On clean copies a look-up of the nearest stored picture is perfect and needs no network, so the paper's areas near 1
    there prove little: ask under distortions, which both members and non-members undergo. The fair test is a network
    trained on one random half of some data, with the other half as non-members.

    Confidences are log-odds, which order examples as the largest probability does but do not saturate at 1.

    Args:
        network: A trained network.
        members: Training examples of it, all or a sample: anything `as_examples` takes, inputs one tensor.
        nonmembers: Others, alike.
        conditions: Names out of `whence.provenance.CONDITIONS`, for pictures from 0 to 1; or distortions by name.
        fpr: Shares of false positives to allow, as `membership_table` takes them.
        seed: Of the distortions, the blind control and the bootstrap.

    Returns:
        A table of `membership_table` by condition. Rows: confidence, entropy and largest logit of the index (given the
        predicted class if the network is conditional), confidence and entropy of the classes, the log margin of the
        true class, minus the distance to the nearest of the undistorted members in pixels and in the network's
        embedding, and the blind control, which sees the distorted inputs alone. `membership_figure` draws them.

    Raises:
        LabelError: If there is no condition of a name.
        ArgumentError: If this is no provenance network, there are fewer than five examples of a kind, a label is none
            of the network's classes, or the index is one within the class and a predicted class has a single example,
            which is always sure.
        ShapeError: If inputs are not one tensor, or shapes differ.
    """
    check_network(network, "membership_by_index")
    own, others = as_data(members, "members'"), as_data(nonmembers, "non-members'")
    known = max(int(one[1].max()) for one in (own, others))
    if known >= network.index.classes:
        raise ArgumentError(f"The network knows the classes 0 to {network.index.classes - 1}; a label is {known}.")
    if own[0].shape[1:] != others[0].shape[1:]:
        shapes = " and ".join(str(tuple(one[0].shape)) for one in (own, others))
        raise ShapeError(f"Members and non-members must agree after the first axis; got {shapes}.")
    found = {}
    for place, (name, how) in enumerate(as_conditions(conditions).items()):
        pair = [distorted(one[0], how, seed * 7919 + 2 * place + kind) for kind, one in enumerate((own, others))]
        scores = [_scores(network, inputs, kind[1], own[0]) for inputs, kind in zip(pair, (own, others), strict=True)]
        table = membership_table(
            {score: (scores[0][score], scores[1][score]) for score in scores[0]},
            blind=blind_control(*pair, seed=seed),
            fpr=fpr,
            seed=seed,
        )
        table.data.attrs["title"] += f", {name}"
        found[name] = table
    return Tables(found)


def membership_figure(table: Table) -> Any:
    """Return a plotly figure of a test of membership (Provenance Networks, figures 7 and 18 to 21).

    Above, the ROC curve of every score, once as the paper draws it and once with both axes logarithmic, which shows
    true positives where few false ones are allowed: dotted lines stand at 1 % and, with enough others, at 0.1 %; at the
    left edge are true positives with no false one. Below, confidence and entropy of members and of others, of the index
    branch and of the class branch. Confidences are log-odds: the paper's probabilities pile up at 1.

    Args:
        table: One of those that `membership_by_index` gives, as it gives it: a file of it holds no scores.

    Raises:
        ArgumentError: If it is another table, or one that was read from a file.
    """
    needed = [f"{branch} {kind}" for branch in _BRANCHES for kind in _HISTOGRAMS]
    names = table.data.coords["score"].values.tolist() if "score" in table.data.coords else []
    if "members" not in table.data or not set(needed) <= set(names):
        raise ArgumentError(
            f"A figure of membership is drawn of the scores in a table of membership_by_index; {_title(table)} holds "
            "none. Give the table as it was made, not one that was read from a file."
        )
    from plotly.subplots import make_subplots

    titles = ["ROC", "ROC, both axes logarithmic", *(f"{name.capitalize()}" for name in needed)]
    whole = make_subplots(rows=3, cols=2, subplot_titles=titles, vertical_spacing=0.1)
    pairs = {name: tuple(_there(table.data[side], name) for side in ("members", "others")) for name in names}
    styles = _line_styles(names)
    least = 0.5 / max(len(others) for _, others in pairs.values())
    for name, pair in pairs.items():
        false, true = roc_curve(*pair)
        shared = {"mode": "lines", "name": name, "legendgroup": name, "line": styles[name]}
        whole.add_scatter(x=false, y=true, row=1, col=1, **shared)
        steps = {**shared, "line": {**styles[name], "shape": "hv"}, "showlegend": False}
        whole.add_scatter(x=np.maximum(false, least), y=np.maximum(true, least / 10), row=1, col=2, **steps)
    whole.add_scatter(x=[0, 1], y=[0, 1], row=1, col=1, mode="lines", name="chance", line=_CHANCE)
    even = np.geomspace(least, 1, 50)
    whole.add_scatter(x=even, y=even, row=1, col=2, mode="lines", showlegend=False, line=_CHANCE)
    for share in _MARKED:
        whole.add_vline(x=share, row=1, col=2, line={"dash": "dot", "color": "#9ca3af"})
    lowest = np.log10(1 / max(len(members) for members, _ in pairs.values())) - 0.3
    whole.update_xaxes(title="false positive rate", row=1)
    whole.update_yaxes(title="true positive rate", row=1, col=1)
    whole.update_xaxes(type="log", range=[np.log10(least), 0], row=1, col=2)
    whole.update_yaxes(type="log", range=[lowest, 0.05], row=1, col=2)
    for place, name in enumerate(needed):
        _histograms(whole, pairs[name], name, (2 + place // 2, 1 + place % 2))
    return whole.update_layout(
        title=_title(table), template="simple_white", barmode="overlay", height=1100, width=1100, bargap=0
    )


def roc_curve(members: Values, others: Values) -> tuple[Float[np.ndarray, " corners"], Float[np.ndarray, " corners"]]:
    """Return shares of false and of true positives where the curve turns, from none to all; ties are a slope."""
    values = np.unique(np.concatenate([members, others]))[::-1]
    true, false = (
        np.concatenate([[0.0], np.searchsorted(np.sort(-one), -values, side="right") / len(one)])
        for one in (members, others)
    )
    straight = ((np.diff(true)[:-1] == 0) & (np.diff(true)[1:] == 0)) | (
        (np.diff(false)[:-1] == 0) & (np.diff(false)[1:] == 0)
    )
    turns = np.concatenate([[True], ~straight, [True]])
    return false[turns], true[turns]


def _histograms(whole: Any, pair: Sequence[Values], name: str, place: tuple[int, int]) -> None:
    """Draw a score of members and of others over each other, with bins that both share."""
    sign, title = _HISTOGRAMS[name.partition(" ")[2]]
    values = [sign * one for one in pair]
    low, high = (float(of(np.concatenate(values))) for of in (np.min, np.max))
    bins = {"start": low, "end": high + 1e-9, "size": (high - low) / _BINS or 1.0}
    for one, label, colour in zip(values, ("members", "others"), (_MEMBERS, _OTHERS), strict=True):
        shown = {"name": label, "legendgroup": label, "showlegend": place == (2, 1), "marker": {"color": colour}}
        whole.add_histogram(
            x=one, xbins=bins, histnorm="probability", opacity=0.55, row=place[0], col=place[1], **shown
        )
    whole.update_xaxes(title=title, row=place[0], col=place[1])
    whole.update_yaxes(title="share", row=place[0], col=place[1])


def _line_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a colour for each kind of score, and a dash for each of a kind."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        colour = next((one for start, one in _COLOURS.items() if name.startswith(start)), "#1f2933")
        same = sum(one["color"] == colour for one in found.values())
        found[name] = {"color": colour, "dash": _DASHES[same % len(_DASHES)], "width": 1.6}
    return found


def _there(scores: Any, name: str) -> Values:
    values: NDArray[np.float64] = scores.sel(score=name).values
    return values[~np.isnan(values)]


def _title(table: Table) -> str:
    return str(table.data.attrs.get("title", "it"))


def _scores(network: ProvenanceNetwork, inputs: Tensor, labels: Int[Tensor, " examples"], bank: Tensor) -> Scores:
    """Return a number an example by score, higher = more likely a member."""
    index, spread, alike = [], [], []
    for read in reading(network, inputs):
        alike.append(read.logit.cpu().double())
        index.append(log_margin(read.index.cpu()))
        spread.append(entropy(read.index.cpu()))
    classes = class_logs(network, inputs)
    embedded = [embeddings(network, one).cpu() for one in (inputs, bank)]
    return {
        "index confidence": torch.cat(index),
        "index entropy": torch.cat(spread),
        "index logit": torch.cat(alike),
        "class confidence": log_margin(classes),
        "class entropy": entropy(classes),
        "class margin of the label": log_margin(classes, labels),
        "look-up in pixels": nearest_distance(inputs, bank),
        "look-up in the embedding": nearest_distance(*embedded),
    }
