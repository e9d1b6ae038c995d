"""What a search for invariants found: every sample with its certificate, the failures too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from whence._errors import ArgumentError
from whence.audit.storage import open_group, save_dataset, with_plain_strings
from whence.invariants.solvers.protocol import Status

FORMAT = 1


@final
@dataclass(frozen=True, eq=False)
class InvariantSet:
    """Samples of an invariant set, each with what proves how well it belongs there.

    Attributes:
        inputs: The samples, solved or not.
        latents: Of which the prior makes them.
        query: The input whose values they are to take.
        certificate: One row a sample: ``residual``, the distance of its values from the query's; ``solved``, whether it
            is within the tolerance; ``latent_quantile``, the share of the prior's draws whose latents are shorter;
            ``status``, how its search ended; ``evaluations`` of the prior's network that it cost (a pass back counts
            as two); ``value``, the components of the objective; with a filter ``filtered_residual``, the distance of
            the filtered sample's values from the filtered query's. The attributes tell the objective, the query's
            values, the tolerance, the objective's ``spread`` (standard deviation over data or the prior's draws), the
            evaluations of the pool that they started from, and the seconds.
    """

    inputs: Float[Tensor, "samples *input"]
    latents: Float[Tensor, "samples *latent"]
    query: Float[Tensor, "*input"]
    certificate: xr.Dataset

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        solved = int(self.solved.sum())
        return f"InvariantSet({solved} of {len(self)} solved for {self.objective}; see its summary() and certificate)"

    @property
    def solved(self) -> Bool[np.ndarray, " samples"]:
        """Which samples are invariants: within the tolerance."""
        return np.asarray(self.certificate.solved.values, dtype=bool)

    @property
    def objective(self) -> str:
        """What was kept."""
        return str(self.certificate.attrs["objective"])

    def only(self, rows: Any) -> InvariantSet:
        """Return some of the samples: by a mask or by places, in their order.

        Raises:
            ArgumentError: If there is no such sample.
        """
        places = np.asarray(rows)
        if places.dtype == bool and places.shape == (len(self),):
            places = places.nonzero()[0]
        places = places.astype(np.int64) if not places.size else places
        inside = places.dtype.kind in "iu" and places.ndim == 1
        if not inside or (len(places) and not 0 <= places.min() <= places.max() < len(self)):
            raise ArgumentError(f"Rows are places of {len(self)} samples, or a mask of them; got {rows!r}.")
        kept = torch.from_numpy(places).to(self.inputs.device)
        return replace(
            self,
            inputs=self.inputs[kept],
            latents=self.latents[kept],
            certificate=self.certificate.isel(sample=places),
        )

    def summary(self) -> dict[str, Any]:
        """Return the result in a few numbers: how many are solved, how far they are off, what they cost."""
        told, solved = self.certificate, self.solved
        cost = float(told.evaluations.sum()) + float(told.attrs["pool_evaluations"])
        facts = {
            "objective": self.objective,
            "samples": len(self),
            "solved": int(solved.sum()),
            "tolerance": told.attrs["tolerance"],
            "greatest_residual": float(told.residual.values[solved].max()) if solved.any() else None,
            "spread": told.attrs["spread"],
            "evaluations_per_solved": cost / int(solved.sum()) if solved.any() else None,
            "seconds": told.attrs["seconds"],
        }
        names, counts = np.unique(told.status.values[~solved], return_counts=True)
        return facts | {"failures": {str(name): int(count) for name, count in zip(names, counts, strict=True)}}

    def save(self, path: str | Path) -> None:
        """Write the set as a Zarr group at ``path``, whole or not at all.

        Raises:
            AuditError: If something stands at ``path`` already.
            DiskError: If the disk is full or refuses to write.
        """
        arrays = {"inputs": self.inputs, "latents": self.latents}
        data = self.certificate.assign(
            {name: (("sample", *_axes(name, one.ndim - 1)), one.cpu().numpy()) for name, one in arrays.items()}
        ).assign(query=(_axes("inputs", self.query.ndim), self.query.cpu().numpy()))
        save_dataset(data.assign_attrs(format=FORMAT, kind="invariants"), Path(path))


def load_invariants(path: str | Path) -> InvariantSet:
    """Read a saved set.

    Raises:
        AuditError: If there is none at ``path``, or one of another format.
    """
    from whence._errors import AuditError

    data = open_group(Path(path), "set of invariants", "Give the path that InvariantSet.save wrote.")
    if data.attrs.get("kind") != "invariants" or data.attrs.get("format") != FORMAT:
        raise AuditError(f"{path} holds no set of invariants of format {FORMAT}. Give the path that save wrote.")
    data = with_plain_strings(data.load())
    tensors = {name: torch.from_numpy(data[name].values) for name in ("inputs", "latents", "query")}
    certificate = data.drop_vars(list(tensors))
    attrs = {name: value for name, value in data.attrs.items() if name not in ("format", "kind")}
    return InvariantSet(**tensors, certificate=certificate.drop_attrs(deep=False).assign_attrs(attrs))


def said(status: Status) -> str:
    """Return a status as results name it."""
    return status.name.lower()


def _axes(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}_{axis}" for axis in range(count))
