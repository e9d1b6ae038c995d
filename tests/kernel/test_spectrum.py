"""The participation ratio against its closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from whence._errors import ArgumentError
from whence.kernel import participation_ratio


@pytest.mark.parametrize(("equal", "zero"), [(1, 0), (1, 9), (7, 0), (7, 3)])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_equal_weights_beside_zeros_count_as_many_as_they_are(equal: int, zero: int, scale: float) -> None:
    assert participation_ratio(np.array([scale] * equal + [0.0] * zero)) == pytest.approx(equal, rel=1e-14)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_geometric_weights_count_one_plus_ratio_over_one_minus_ratio(ratio: float) -> None:
    weights = ratio ** torch.arange(2000, dtype=torch.float64)
    assert participation_ratio(weights) == pytest.approx((1 + ratio) / (1 - ratio), rel=1e-12)


def test_a_dimension_of_a_labelled_array_is_summed_over_and_the_others_stay() -> None:
    weights = xr.DataArray([[1.0, 1.0, 0.0], [2.0, 1.0, 1.0]], {"step": [3, 9]}, ("step", "mode"))
    found = participation_ratio(weights, "mode")
    assert found.dims == ("step",)
    assert found.step.values.tolist() == [3, 9]
    np.testing.assert_allclose(found, [2, 16 / 6], rtol=1e-15)
    assert float(participation_ratio(weights)) == pytest.approx(36 / 8)
    assert found.attrs["unit"] == "components"


@pytest.mark.parametrize(
    ("weights", "dim", "words"),
    [
        ([1.0, -2.0], None, r"not negative; the smallest given is -2\.0\. Give absolute values"),
        ([1.0, np.nan], None, r"finite and not negative"),
        ([0.0, 0.0], None, r"All weights .* are zero"),
        ([], None, r"no weights"),
        (xr.DataArray([[1.0, 0.0], [0.0, 0.0]], dims=("a", "b")), "b", r"All weights .* are zero"),
        (xr.DataArray([1.0], dims=("a",)), "mode", r"no dimension 'mode' to sum over; the weights have a"),
        ([1.0], "mode", r"names a dimension of an xarray\.DataArray; got list and 'mode'"),
    ],
)
def test_what_has_no_ratio_is_refused_in_words(weights: object, dim: str | None, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        participation_ratio(weights, dim)  # type: ignore[call-overload]
