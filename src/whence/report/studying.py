"""A study of adversarial inputs from end to end: made, kept as files, and shown on a page."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xarray as xr
from safetensors.torch import save as tensors_as_bytes

from whence._errors import ArgumentError
from whence._files import disk_errors, make_folder, write_atomically
from whence._numbers import json_ready
from whence.adversarial import Plan, Study, findings, study
from whence.audit.storage import refuse_existing, save_dataset
from whence.report.page import write_report
from whence.runs import Run


def study_run(run: Run, targets: Any, out: str | Path, *, plan: Plan | None = None) -> dict[str, Any]:
    """Study adversarial inputs of a run, keep what was found in a folder, and write a page about it.

    The page explains the predictions on clean, random and adversarial inputs by the training examples behind them, and
    has the adversarial panel. An audit that was interrupted goes on when called again.

    Args:
        run: The recorded run.
        targets: What is attacked: anything `as_examples` takes, with classes as labels.
        out: The folder: ``audit.zarr``, ``tables`` and ``page.html`` in it.
        plan: What to take, as in `whence.adversarial.study`.

    Returns:
        Where things are, and the main numbers, by name.

    Raises:
        ArgumentError: If a part of the plan is outside what it may be, or ``out`` is a file.
        AttackError: If the attack finds too few adversarial inputs.
        AuditError: If a page stands in the folder already, or an audit of something else.
        MissingExtraError: If foolbox is not installed.
        DiskError: If the disk is full or refuses to write.
    """
    folder = Path(out)
    if folder.is_file():
        raise ArgumentError(f"{folder} is a file; give the path of a folder.")
    refuse_existing(folder / "page.html")
    make_folder(folder)
    found = study(run, targets, plan=plan, path=folder / "audit.zarr")
    shutil.rmtree(folder / "tables", ignore_errors=True)  # of a study that was stopped before its page
    save_study(found, folder / "tables")
    page = write_report(run, found.audit, found.targets, folder / "page.html", adversarial=found)
    right = found.outcomes["right"].mean("example")
    return {
        "page": page.resolve(),
        "tables": (folder / "tables").resolve(),
        "attack": found.groups.attack,
        "audit_mean_error": found.audit.completeness.mean_error,
        **{
            f"right_{str(name).replace(' ', '_')}": round(float(right.sel(group=name)), 4)
            for name in right.group.values
        },
        "claims_that_hold": f"{sum(one.holds for one in findings(found))} of {len(findings(found))}",
    }


def save_study(found: Study, folder: str | Path) -> None:
    """Write what a study found, whole or not at all: arrays as Zarr groups, inputs as safetensors, findings as JSON.

    Args:
        found: The study; its audit is kept apart.
        folder: A new folder.

    Raises:
        AuditError: If something stands there.
        DiskError: If the disk is full or refuses to write.
    """
    final = Path(folder)
    refuse_existing(final)
    place = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(place, ignore_errors=True)
    make_folder(place)
    arrays: dict[str, xr.Dataset] = {
        "influences": found.influences,
        "agreement": found.agreement,
        "path": found.path,
        "regime": found.regime,
        "differences": found.differences,
        "sensitivity": found.sensitivity,
        "course": found.course,
        "losses": found.losses.to_dataset(name="loss"),
        "outcomes": found.outcomes,
        "undoing": found.undoing.to_dataset(name="cosine"),
    }
    if found.hardened is not None:
        arrays["hardened"] = found.hardened
    for name, one in arrays.items():
        save_dataset(one, place / f"{name}.zarr")
    inputs = {name: one.contiguous().cpu() for name, one in found.groups.inputs.items()}
    write_atomically(place / "inputs.safetensors", tensors_as_bytes({**inputs, "label": found.groups.labels.cpu()}))
    told = {
        "attack": found.groups.attack,
        "ids": list(found.groups.ids),
        "recipe": asdict(found.plan.recipe),
        "concentration": found.concentration,
        "findings": [asdict(one) for one in findings(found)],
    }
    write_atomically(place / "findings.json", (json.dumps(json_ready(told), indent=1, allow_nan=False) + "\n").encode())
    with disk_errors(final):
        place.rename(final)
