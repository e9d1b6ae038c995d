"""Invariants where the truth is known: rings in the plane, planes in any dimension, circles, and figure 3.1.

    python -m benchmarks.invariants_toys
    python -m benchmarks.invariants_toys figure     # one part again

Rings: two rings of noise, the outer one with a gap; a classifier of tanh units; a flow of the plane as the prior. The
level sets of the classifier's logit are found by marching squares and refined in float64. The law of right samples is
that of the prior under the condition, by the co-area formula in the space of latents. Each way of searching starts
from the same 256 draws. A cell of the table is a measure, its bar and whether it passed; where a way should fail, that
is said: a measure that nothing fails would prove nothing.

Results: ``benchmarks/results/invariants_toys.json`` and ``.md``, and ``invariants-figure-3-1.png``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from scipy.stats import chi2, kstest, norm
from torch import Tensor, nn

from benchmarks._machine import machine
from benchmarks._pictures import save_figure
from benchmarks._rings import Flow, Function, classifier, contour, density, rings, slopes, to_segments, trained_flow
from whence._errors import UnreachedError
from whence.invariants import (
    FirstOrder,
    GaussNewton,
    InfiniteOptimization,
    InvariantSet,
    Metropolis,
    Objective,
    Pixels,
    Prior,
    Search,
    Solver,
    draw,
    invariants,
)
from whence.invariants.problem import Problem
from whence.invariants.traversal import Inputs

SAMPLES, LEVELS, TOLERANCE = 256, (0.0, 3.0), 1e-3
RATES = (1e-3, 1e-2, 1e-1, 1.0)
NOISE = 1.5  # deviation of the starts of searches over inputs, which know nothing of the data
WINDOW = 4.0  # figure 3.1's level sets are contoured in the square of this half side
BARS = {
    "residual": 1e-3, "distance": 2e-3, "identity": 0.05, "coverage": 0.99, "hausdorff": 0.06, "realism": 0.94,
    "law": 1.36 / SAMPLES**0.5, "pieces": 1.0,
}  # fmt: skip
AT_LEAST = ("coverage", "realism", "pieces")
WORDS = {
    "residual": "greatest residual", "distance": "greatest distance to the level set",
    "identity": "distance against residual over slope: greatest error", "coverage": "coverage of the law's mass",
    "hausdorff": "95 % of the level set among the data is this near a sample", "realism": "share among the data",
    "law": "distance from the law (Kolmogorov, Smirnov)", "pieces": "share of the level set's pieces hit",
}  # fmt: skip
FAILS = {
    "Gauss-Newton": ("law",),
    "Algorithm 1, rate 10": ("residual", "distance", "coverage", "hausdorff", "realism", "law"),
    "Adam over inputs": ("residual", "distance", "realism", "law"),
    "Adam": ("law",),
}
"""Where the study (peers' section 6) saw a way fail; of the other cells it says nothing, or that they pass."""


class Truth:
    """A level set of the classifier's logit: in the plane, and in the space of the flow's latents with its law."""

    def __init__(self, model: nn.Module, flow: Flow, level: float, support: float) -> None:
        self.level = level
        self.function: Function = lambda points: model(points)[:, 0]
        self.segments, pieces = contour(self.function, level, 3.0, 600)
        middles = self.segments.mean(1)
        self.inside = density(middles) >= support
        self.support, self.middles = support, middles[self.inside]
        self.lengths = (self.segments[:, 1] - self.segments[:, 0]).norm(dim=1)[self.inside]
        mass = np.bincount(pieces[self.inside.numpy()], self.lengths.numpy(), minlength=pieces.max() + 1)
        self.pieces, self.kept = pieces, np.flatnonzero(mass > 0.1)
        latent, parts = contour(lambda points: self.function(flow.decode(points)), level, 4.5, 450)
        angle = torch.atan2(*latent.mean(1).flip(1).unbind(1)).numpy()
        self.latent = latent[np.lexsort((angle, parts))]
        centres = self.latent.mean(1)
        _, gradients = slopes(lambda points: self.function(flow.decode(points)), centres)
        length = (self.latent[:, 1] - self.latent[:, 0]).norm(dim=1)
        mass_of = torch.exp(-centres.square().sum(1) / 2) * length / gradients.norm(dim=1)
        self.mass, self.seen = mass_of / mass_of.sum(), flow.decode(centres)

    def measures(self, found: InvariantSet, *, latent: bool) -> dict[str, float]:
        """Return what samples are measured by; those that are no numbers any more count as infinitely far."""
        points = found.inputs.nan_to_num(1e6, 1e6, -1e6).clamp(-1e6, 1e6)
        values, _ = slopes(self.function, points)
        away = to_segments(points, self.segments)[0]
        near = torch.cdist(self.middles, points).amin(1)
        order = near.argsort()
        share = self.lengths[order].cumsum(0) / self.lengths.sum()
        told = {
            "residual": float((values - self.level).abs().max()),
            "distance": float(away.max()),
            "identity": self.identity(points),
            "coverage": float(self.mass[torch.cdist(self.seen, points).amin(1) <= 0.1].sum()),
            "hausdorff": float(near[order][share >= 0.95][0]),
            "realism": float((density(points) >= self.support).double().mean()),
            "law": self.law(found.latents) if latent else self.law_of_inputs(points),
            "pieces": self.hit(points),
        }
        return told | {"solved": float(found.solved.mean()), "evaluations": float(found.certificate.evaluations.mean())}

    def identity(self, points: Tensor) -> float:
        """Return the greatest error of |residual| / slope as the distance, of samples moved off by 0.003."""
        _, gradients = slopes(self.function, points)
        moved = points + 0.003 * nn.functional.normalize(gradients, dim=1)
        values, gradients = slopes(self.function, moved)
        foreseen = (values - self.level).abs() / gradients.norm(dim=1)
        return float((foreseen / to_segments(moved, self.segments)[0] - 1).abs().max())

    def law(self, latents: Tensor) -> float:
        """Return the distance of samples' places along the level set of latents from the law."""
        points = latents.nan_to_num(1e6, 1e6, -1e6).clamp(-1e6, 1e6)
        _, segment, share = to_segments(points, self.latent)
        places = (self.mass.cumsum(0) - self.mass)[segment] + share * self.mass[segment]
        return float(kstest(places.numpy(), "uniform").statistic)

    def law_of_inputs(self, points: Tensor) -> float:
        """Return the same of inputs that no latent is known of: by the nearest of the latents' level set's inputs."""
        places = self.mass.cumsum(0)[torch.cdist(points, self.seen).argmin(1)]
        return float(kstest(places.numpy(), "uniform").statistic)

    def hit(self, points: Tensor) -> float:
        """Return the share of the level set's pieces among the data that a sample lies on."""
        away, segment, _ = to_segments(points, self.segments[self.inside])
        pieces = self.pieces[self.inside.numpy()][segment[away <= 0.01].numpy()]
        return float(np.isin(self.kept, pieces).mean())


def ways(data: Tensor) -> dict[str, tuple[Solver, Prior | None]]:
    """Return the ways to search; some have a prior of their own."""
    pixels = Pixels(data.new_zeros(2).double(), torch.full((2,), NOISE, dtype=torch.float64))
    return {
        "Gauss-Newton": (GaussNewton(), None),
        "Metropolis": (Metropolis(moves=150), None),
        **{f"SGD, rate {rate:g}": (InfiniteOptimization(rate, 1.0, None, 512, 1e-6), None) for rate in RATES},
        "Adam": (FirstOrder(steps=512), None),
        "Algorithm 1, rate 10": (InfiniteOptimization(10.0, 1.0, None, 512, 0.01), None),
        "Adam over inputs": (FirstOrder(steps=512), pixels),
    }


def searched(objective: Objective, level: float, prior: Prior, solver: Solver) -> InvariantSet:
    """Return all samples of a search, whether one reached the value or not."""
    goal = torch.tensor([level], dtype=torch.float64)
    try:
        return invariants(
            objective, torch.zeros(2, dtype=torch.float64), prior, SAMPLES, solver=solver, pool=0, goal=goal, restarts=0
        )
    except UnreachedError as error:
        found: InvariantSet = error.found
        return found


def ring_checks() -> dict[str, Any]:
    """Hold every way against the level sets of the rings' classifier."""
    data, labels = rings(1500, 0)
    model, begun = classifier(data, labels), time.process_time()
    flow = trained_flow()
    seconds = time.process_time() - begun
    support = float(density(rings(20_000, 5)[0]).quantile(0.01))
    drawn = flow.decode(draw(flow, 5000, 8, dtype=torch.float64))
    objective = Objective(lambda points: model(points)[:, 0], "logit", tolerance=TOLERANCE)
    test, answers = rings(4000, 6)
    told: dict[str, Any] = {
        "accuracy": float(((model(test.double())[:, 0] > 0) == (answers == 1)).double().mean()),
        "flow_seconds": seconds,
        "prior_realism": float((density(drawn) >= support).double().mean()),
        "levels": {},
    }
    for level in LEVELS:
        truth = Truth(model, flow, level, support)
        one: dict[str, Any] = {
            "segments": len(truth.segments),
            "pieces": len(truth.kept),
            "vertex_residual": float((truth.function(truth.segments.reshape(-1, 2)) - level).abs().max()),
            "prior_residual": float((objective(drawn)[:, 0] - level).abs().median()),
            "ways": {},
        }
        for name, (solver, prior) in ways(data).items():
            begun = time.process_time()
            found = searched(objective, level, prior or flow, solver)
            one["ways"][name] = truth.measures(found, latent=prior is None) | {"seconds": time.process_time() - begun}
            print(level, name, one["ways"][name], flush=True)
        told["levels"][str(level)] = one
    return told


def walked(function: Any, goal: list[float], numbers: int, n: int, solver: Solver) -> Search:
    """Return a search from draws of a standard normal prior."""
    objective = Objective(function, "toy", tolerance=1e-4)
    problem = Problem(objective, Inputs((numbers,)), torch.tensor(goal, dtype=torch.float64))
    search = Search(draw(problem.prior, n, 0, dtype=torch.float64))
    solver.solve(problem, search)
    return search


def plane_checks(n: int = 4000) -> list[dict[str, Any]]:
    """f(z) = aᵀz = c in any dimension: mean and covariance are known."""
    rows = []
    for numbers in (2, 16, 64):
        normal = torch.linspace(1, 2, numbers, dtype=torch.float64)
        square, k = float(normal.square().sum()), numbers - 1
        both: dict[str, Solver] = {"Gauss-Newton": GaussNewton(), "Metropolis": Metropolis(moves=25)}
        for name, solver in both.items():
            found = walked(lambda points, normal=normal: points @ normal, [2.0], numbers, n, solver).latents
            error = torch.cov(found.T) - torch.eye(numbers).double() + torch.outer(normal, normal) / square
            row = {
                "numbers": numbers, "way": name,
                "mean": float((found.mean(0) - 2 * normal / square).abs().max()), "mean_bar": 5 / n**0.5,
                "covariance": float(error.norm()),
                "covariance_bar": (k * (k + 1) / n * (1 + 3 * (4 / (k * (k + 1))) ** 0.5)) ** 0.5,
                "off_plane": float((found @ normal / square**0.5).std()), "off_plane_bar": 1e-4,
            }  # fmt: skip
            passed = all(row[key] <= row[f"{key}_bar"] for key in ("mean", "covariance", "off_plane"))
            rows.append(row | {"passed": passed})
    return rows


def circle_checks(n: int = 2000) -> dict[str, Any]:
    """f(z) = ‖z‖², and ‖(z₁, z₂)‖² with z₃: angles are uniform, and what is free is normal."""
    one = walked(lambda points: points.square().sum(1), [2.25], 2, n, Metropolis()).latents
    both = lambda points: torch.stack([points[:, :2].square().sum(1), points[:, 2]], 1)  # noqa: E731
    two = walked(both, [1.0, 0.7], 4, n, Metropolis()).latents
    told: dict[str, Any] = {"off_circle": float((one.norm(dim=1) - 1.5).abs().max())}
    for name, points in (("circle", one), ("two equations", two)):
        angles = torch.atan2(points[:, 1], points[:, 0])
        told[name] = float(chi2.sf(2 * n * float(angles.cos().mean() ** 2 + angles.sin().mean() ** 2), 2))
    told["free number"] = float(kstest(two[:, 3].numpy(), norm.cdf).pvalue)
    return told


def figure(path: Path) -> dict[str, Any]:
    """Draw figure 3.1 of EquiDiff: 1,500 points of two circles, the boundary, and the invariants of three queries."""
    random = torch.Generator().manual_seed(0)
    points = torch.rand(2500, 2, generator=random) * 4 - 2
    points = points[points.norm(dim=1) < 1.9][:1500]
    # Near the circle classes overlap: else probabilities are 0 or 1 to the last bit, and have no level sets.
    inner = (points.norm(dim=1) + 0.08 * torch.randn(len(points), generator=random) < 1).long()
    model = classifier(points[:1200], inner[:1200], hidden=32, steps=200)
    objective = Objective(lambda inputs: model(inputs)[:, 0].sigmoid(), "probability", tolerance=1e-4)
    accuracy = float(((objective(points[1200:].double())[:, 0] > 0.5) == (inner[1200:] == 1)).double().mean())
    queries = torch.tensor([[0.85, 0.2], [-0.7, 0.72], [0.3, -1.08]], dtype=torch.float64)
    chances = objective(queries)[:, 0].tolist()
    titles = ["data", f"network, accuracy {accuracy:.3f}", *(f"p = {chance:.3f}" for chance in chances)]
    drawn = make_subplots(1, 5, subplot_titles=titles, horizontal_spacing=0.02)
    for label, colour in ((0, "#1764a3"), (1, "#d6508f")):
        _points(drawn, points[inner == label], 1, {"size": 3, "color": colour})
    _heat(drawn, objective)
    _line(drawn, contour(objective_of(objective), 0.5, 2.0, 400)[0], 2)
    told = [_answers(drawn, objective, query, place) for place, query in enumerate(queries, 3)]
    drawn.update_xaxes(range=[-2, 2], showticklabels=False).update_yaxes(range=[-2, 2], showticklabels=False)
    for place in range(1, 6):  # circles are round
        drawn.update_yaxes(scaleanchor="x" if place == 1 else f"x{place}", row=1, col=place)
    save_figure(drawn.update_layout(template="plotly_white", showlegend=False), path, width=1500, height=370)
    return {"accuracy": accuracy, "queries": told}


def objective_of(objective: Objective) -> Function:
    """Return an objective of one value as a function of points."""
    return lambda points: objective(points)[:, 0]


def _answers(drawn: go.Figure, objective: Objective, query: Tensor, place: int) -> dict[str, Any]:
    """Draw the invariants of one query over the exact level set."""
    prior = Pixels(torch.zeros(2, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    found = invariants(objective, query, prior, 300, solver=Metropolis(), pool=0)
    chance = float(found.certificate.attrs["goal"][0])
    segments = contour(objective_of(objective), chance, WINDOW, 800)[0]
    kept = found.inputs[torch.from_numpy(found.solved)]
    inside = kept[(kept.abs() < WINDOW).all(1)]  # of the others the truth is not known: it was not contoured there
    _line(drawn, segments, place)
    _points(drawn, kept, place, {"size": 4, "color": "#e8830c"})
    _points(drawn, query[None], place, {"size": 14, "color": "black", "symbol": "star"})
    away = {"inside": len(inside), "farthest": float(to_segments(inside, segments)[0].max())}
    return {"value": chance, "solved": len(kept), **away}


def _heat(drawn: go.Figure, objective: Objective) -> None:
    axis = torch.linspace(-2, 2, 161, dtype=torch.float64)
    heat = objective(torch.cartesian_prod(axis, axis)).reshape(161, 161).T
    look: dict[str, Any] = {"zmin": 0, "zmax": 1, "colorscale": [[0, "#cfe0ef"], [1, "#f5d3e2"]], "showscale": False}
    for place in range(2, 6):
        drawn.add_heatmap(x=axis.numpy(), y=axis.numpy(), z=heat.numpy(), row=1, col=place, **look)


def _points(drawn: go.Figure, points: Tensor, place: int, marker: dict[str, Any]) -> None:
    across, up = points.numpy().T
    drawn.add_scatter(x=across, y=up, mode="markers", marker=marker, row=1, col=place)


def _line(drawn: go.Figure, segments: Tensor, place: int) -> None:
    gaps = torch.cat([segments, torch.full((len(segments), 1, 2), torch.nan, dtype=segments.dtype)], 1).reshape(-1, 2)
    across, up = gaps.numpy().T
    drawn.add_scatter(x=across, y=up, mode="lines", line={"color": "black", "width": 1}, row=1, col=place)


def passed(name: str, value: float) -> bool:
    """Say whether a measure reaches its bar."""
    return bool(value >= BARS[name] if name in AT_LEAST else value <= BARS[name])


def page(told: dict[str, Any]) -> str:
    """Return the results as tables."""
    rings_, circle = told["rings"], told["circles"]
    lines = [
        "# Invariants where the truth is known", "", f"Machine: {json.dumps(told['machine'], sort_keys=True)}", "",
        f"## Rings: {SAMPLES} samples from draws of a flow", "",
        f"Classifier: accuracy {rings_['accuracy']:.3f}. Flow: {rings_['flow_seconds']:.0f} CPU seconds, "
        f"{rings_['prior_realism']:.3f} of its draws among the data (above its 1 % quantile of density). SGD is "
        "Algorithm 1 without its filter and with the threshold of the tolerance; with a rate of 10 its threshold is "
        "the published one.", "",
    ]  # fmt: skip
    for level, one in rings_["levels"].items():
        lines += _level(level, one)
    lines += [
        "## Planes: f(z) = aᵀz, 4,000 samples",
        "",
        "| numbers | way | mean | covariance | off the plane | |",
        "|---" * 6 + "|",
    ]
    for row in told["planes"]:
        cells = [f"{row[key]:.2g} (≤ {row[f'{key}_bar']:.2g})" for key in ("mean", "covariance", "off_plane")]
        lines.append(
            f"| {row['numbers']} | {row['way']} | {' | '.join(cells)} | {'passed' if row['passed'] else 'FAILED'} |"
        )
    lines += [
        "", "## Circles: 2,000 samples, p of tests (passed above 0.01)", "",
        f"Uniform on the circle (Rayleigh): {circle['circle']:.2f}; off it by at most {circle['off_circle']:.1g}. Two "
        f"equations: angle {circle['two equations']:.2f}, free number (Kolmogorov, Smirnov) "
        f"{circle['free number']:.2f}.",
        "", "## Figure 3.1", "", "![Figure 3.1](invariants-figure-3-1.png)", "",
        *(f"p = {one['value']:.3f}: {one['solved']} of 300 solved. {one['inside']} of these lie where the level set "
          f"was contoured (both numbers within {WINDOW:g} of 0), at most {one['farthest']:.1g} from it.\n"
          for one in told["figure"]["queries"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _level(level: str, one: dict[str, Any]) -> list[str]:
    """Return the table of one level set."""
    bars = " | ".join(f"{'≥' if key in AT_LEAST else '≤'} {bar:.3g}" for key, bar in BARS.items())
    lines = [
        f"### Logit {level}",
        "",
        f"{one['segments']} segments in {one['pieces']} pieces among the data; the ends' residual is at most "
        f"{one['vertex_residual']:.1g}. The median residual of the prior's draws is {one['prior_residual']:.2f}.",
        "",
        f"| way | solved | evaluations | CPU s | {' | '.join(WORDS.values())} |",
        "|---" * (4 + len(BARS)) + "|",
        f"| bar | | | | {bars} |",
    ]
    for name, found in one["ways"].items():
        cells = [_cell(name, key, found[key]) for key in BARS]
        head = f"{name} | {found['solved']:.1%} | {found['evaluations']:.0f} | {found['seconds']:.1f}"
        lines.append(f"| {head} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(way: str, key: str, value: float) -> str:
    right = passed(key, value)
    foreseen = key in FAILS.get(way, ())
    other = "" if right != foreseen else " (study: failed)" if right else " (study: passed or not told)"
    return f"{value:.3g} {'passed' if right else 'FAILED'}{other}"


def main() -> None:
    """Measure what is asked for and write it beside what was measured before."""
    torch.set_num_threads(1)
    results = Path(__file__).parent / "results"
    picture = results / "invariants-figure-3-1.png"
    parts: dict[str, Callable[[], Any]] = {
        "planes": plane_checks, "circles": circle_checks, "rings": ring_checks, "figure": lambda: figure(picture),
    }  # fmt: skip
    parser = argparse.ArgumentParser(description="Invariants where the truth is known.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; all if left out")
    file = results / "invariants_toys.json"
    told = json.loads(file.read_text()) if file.exists() else {}
    for name in parser.parse_args().parts or parts:
        told |= {"machine": machine(), name: parts[name]()}
        file.write_text(json.dumps(told, indent=1) + "\n")
    if set(parts) <= set(told):
        (results / "invariants_toys.md").write_text(page(told))


if __name__ == "__main__":
    main()
