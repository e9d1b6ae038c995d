"""One self-contained HTML page about one audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from whence._errors import ArgumentError
from whence._files import file_place, write_atomically
from whence.adversarial import Study
from whence.attribution import Attributor, as_trained, attribute
from whence.audit import Audit
from whence.audit.chunks import labels_of
from whence.counterfactual import repairs
from whence.datasets import Examples, as_examples
from whence.evaluation import Table
from whence.provenance import ProvenanceNetwork
from whence.report.alike import LikenessMap, MapSettings, likeness_map
from whence.report.answers import Answerer
from whence.report.attacked import Attacked, attacked, audited_inputs
from whence.report.choice import (
    choice_said,
    example_indices,
    positions_of,
    refuse_another_run,
    worth_explaining,
    wrong_of,
)
from whence.report.confusion import Confusion, confusion
from whence.report.explain import Explainer, Explanation
from whence.report.figures import Figure
from whence.report.inverting import InvariantSettings, with_invariants
from whence.report.mapped import with_regions
from whence.report.others import Others
from whence.report.pictures import Look, look
from whence.report.proof import Proof, proof
from whence.report.recognition import Recogniser, Recognition, shown_ids
from whence.report.summary import layer_names, run_facts, summary
from whence.report.training import curves, training_figures
from whence.report.trust import Trust, trust
from whence.report.words import short_unit
from whence.runs import Run


@final
@dataclass(frozen=True)
class Page:
    """Everything on the page, ready to be put into HTML.

    Attributes:
        title: Its heading.
        lead: What the run was, in a sentence or two.
        facts: Pairs of name and value about the run and the audit.
        proof: The completeness certificate.
        training: Plots of how training went.
        confusion: Which classes are taken for which.
        explanations: The chosen targets.
        target_looks: How the chosen targets look, by index.
        train_looks: How the listed training examples look, by id.
        unit: What an influence of 1 means.
        short_unit: The same, as it stands beside a number.
        rule: What a sign means.
        choice: Which targets were chosen, in a sentence.
        trust: Which method to trust, if that was measured.
        recognition: What a provenance network recognises, if one was given.
        attacked: What training did to adversarial inputs, if they were studied.
        alike: The map of what the network takes for alike, if one was asked for.
    """

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    proof: Proof
    training: tuple[Figure, ...]
    confusion: Confusion | None
    explanations: tuple[Explanation, ...]
    target_looks: dict[int, Look]
    train_looks: dict[int, Look]
    unit: str
    short_unit: str
    rule: str
    choice: str
    trust: Trust | None = None
    recognition: Recognition | None = None
    attacked: Attacked | None = None
    alike: LikenessMap | None = None

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All plots of the page."""
        measured = () if self.trust is None else (self.trust.figure,)
        shown = (plot for one in self.explanations for plot in one.figures)
        studied = () if self.attacked is None else self.attacked.figures
        mapped = () if self.alike is None else (self.alike.figure,)
        return (*self.proof.figures, *self.training, *measured, *mapped, *studied, *shown)


_EXPLAINED = "Every adversarial input, then the clean ones that they were made of."


def write_report(  # noqa: PLR0913 - the page's parts, all but four by keyword
    run: Run,
    audit: Audit,
    targets: Any,
    path: str | Path,
    *,
    chosen: Sequence[Any] | None = None,
    k: int = 25,
    remove: int = 0,
    retrain: int = 0,
    methods: Sequence[Attributor] = (),
    regions: int = 0,
    evaluation: Table | None = None,
    provenance: ProvenanceNetwork | None = None,
    adversarial: Study | None = None,
    alike: MapSettings | bool = False,
    invariants: InvariantSettings | None = None,
) -> Path:
    """Write one HTML page about an audit: self-contained, readable offline.

    It shows the completeness certificate, how training went, which classes are mixed up, and for each chosen target
    the training examples, layers and epochs behind its prediction (path-integrated loss-gradient kernels, figures
    1-4). A page that stands at ``path`` already is replaced, whole or not at all.

    Args:
        run: The run that was audited.
        audit: The audit.
        targets: The examples that were audited, in the order of the audit: any form that `as_examples` reads.
        path: Where to write the page; missing folders are made.
        chosen: Ids of the targets to explain, as in ``audit.influence.coords["target"]``. When left out: up to 24 wrong
            predictions, largest loss first, then a few right ones; of a study's own audit every adversarial input and
            its clean twin.
        k: How many training examples to list each time.
        remove: How many training examples to propose for removal, for every wrong answer among them, so that it becomes
            right; 0 for none. See `whence.counterfactual.repairs`.
        retrain: For how many of these answers to train again without the proposed ones, and without the smallest set
            predicted to turn the answer.
        methods: Other attributors, whose lists the page shows beside the audit's, with a switch between them.
        regions: On how many of the most helpful and of the most harmful images to show which parts mattered, by
            `whence.regions.region_map`, with the control that never saw the target.
        evaluation: Which method to trust on this run, as `whence.evaluation.compare_attributors` measures it; the page
            shows the table and its plot.
        provenance: A provenance network trained on the run's data: the page shows which training images it takes each
            target for, beside the nearest in pixels, and one training image distorted more and more.
        adversarial: A study of attacked inputs (`whence.adversarial.study`), which the page shows in a panel.
        alike: Whether to map what the network takes for alike, each target with its nearest training examples; or what
            such a map takes, a `MapSettings`. See `whence.path_kernel`.
        invariants: How to look for other inputs on which the predicted class's logit is what it is on a target, an
            `InvariantSettings`; None leaves them out. Each target's panel then shows some with their certificates.

    Returns:
        ``path``.

    Raises:
        ArgumentError: If ``k`` is not positive, ``targets`` are not the audited ones, or ``path`` is a folder.
        AuditError: If the audit, the evaluation or the study is of another run.
        DataError: If ``targets`` cannot be read.
        LabelError: If a chosen target was not audited.
        ChangedDataError: If the provenance network was trained on other data.
        DiskError: If the disk is full or refuses to write.
    """
    from whence.report.html import render

    place = file_place(path, "report.html")
    examples = as_examples(targets)
    page = make_page(
        run,
        audit,
        examples,
        chosen=chosen,
        k=k,
        remove=remove,
        retrain=retrain,
        methods=methods,
        regions=regions,
        evaluation=evaluation,
        provenance=provenance,
        adversarial=adversarial,
        alike=alike,
        invariants=invariants,
    )
    write_atomically(place, render(page).encode("utf-8"))
    return place


def make_page(  # noqa: PLR0913 - as `write_report`
    run: Run,
    audit: Audit,
    targets: Examples,
    *,
    chosen: Sequence[Any] | None = None,
    k: int = 25,
    remove: int = 0,
    retrain: int = 0,
    methods: Sequence[Attributor] = (),
    regions: int = 0,
    evaluation: Table | None = None,
    provenance: ProvenanceNetwork | None = None,
    adversarial: Study | None = None,
    alike: MapSettings | bool = False,
    invariants: InvariantSettings | None = None,
) -> Page:
    """Collect everything the page shows; arguments as for `write_report`.

    Raises:
        ArgumentError: If ``k`` is not positive, or ``targets`` are not the audited ones.
        AuditError: If the audit, the evaluation or the study is of another run.
    """
    if k < 1:
        raise ArgumentError(f"`k` must be at least 1 to list training examples, got {k}.")
    refuse_another_run(run, audit.data.attrs)
    made = audited_inputs(run, adversarial, audit)
    measured = None if evaluation is None else trust(run, evaluation)
    recogniser = None if provenance is None else Recogniser(provenance, run.examples)
    indices = example_indices(audit, targets)
    asked = sorted(set(indices))
    answerer = Answerer(run)
    answers = answerer.at(run.steps, targets, asked)
    names = targets.class_names or run.examples.class_names
    positions = (
        positions_of(audit, chosen)
        if chosen is not None
        else made.explained or worth_explaining(answers, asked, indices)
    )
    explainer = Explainer(audit, answers, asked, targets.labels, names, k, layer_names(run))
    wrong = wrong_of(answers, asked)
    mistaken = [index for index in dict.fromkeys(indices[position] for position in positions) if index in wrong]
    mended = repairs(run, targets, mistaken, k=remove, retrained=retrain) if remove and mistaken else {}
    explanations = tuple(
        replace(
            explainer.explain(position, indices[position], mended.get(indices[position])),
            origin=made.names.get(position, ""),
        )
        for position in positions
    )
    if methods:
        explanations = _with_others(run, targets, explanations, methods, names, k)
    if regions:
        explanations = with_regions(as_trained(run), targets, explanations, regions)
    recognised = None
    if recogniser is not None:
        explanations = recogniser.traced(targets, explanations)
        recognised = recogniser.recognition(targets, asked, explanations)
    if invariants is not None:
        explanations = with_invariants(run, targets, explanations, invariants)
    listed = {one.index for each in explanations for ranking in each.all_rankings for one in ranking.listed}
    listed |= shown_ids(recognised, explanations)
    return Page(
        f"Why {type(run.model).__name__} answers as it does",
        summary(run, audit, answers),
        run_facts(run, audit, answers),
        proof(audit),
        training_figures(curves(run, targets, ids=asked, answerer=answerer)),
        confusion(answers, names),
        explanations,
        {each.index: look(targets, each.index) for each in explanations},
        {index: look(run.examples, index) for index in sorted(listed)},
        audit.unit,
        short_unit(audit.unit),
        _rule(audit),
        _EXPLAINED if made.explained and chosen is None else choice_said(explanations, answers),
        measured,
        recognised,
        None if adversarial is None else attacked(adversarial),
        likeness_map(run, targets, asked, alike if isinstance(alike, MapSettings) else None) if alike else None,
    )


def _with_others(
    run: Run,
    targets: Examples,
    explanations: tuple[Explanation, ...],
    methods: Sequence[Attributor],
    names: Sequence[str] | None,
    k: int,
) -> tuple[Explanation, ...]:
    """Return the explanations with the lists of other methods."""
    trained, ids = as_trained(run), sorted({one.index for one in explanations})
    labels = labels_of(run.examples)
    scores = [attribute(method, trained, targets, ids=ids) for method in methods]
    others = Others(scores, None if labels is None else labels.numpy(), names, k)
    return tuple(replace(one, others=others.of(one.key, one.index, one.rankings)) for one in explanations)


def _rule(audit: Audit) -> str:
    quantity = audit.data.attrs.get("quantity", "quantity")
    if audit.helps < 0:
        return f"A negative influence helped: the example drove the target's {quantity} down."
    return f"A positive influence helped: the example drove the target's {quantity} up."
