"""Rain to amounts and back."""

from __future__ import annotations

import math

import pytest
import torch

from downscaling.transform import RainTransform


@pytest.mark.parametrize("kind", ["log1p", "arcsinh"])
def test_the_transform_is_inverted(kind: str) -> None:
    """From drizzle to a cloudburst, to float64 rounding; zero stays zero."""
    transform = RainTransform(kind, eps=0.2, scale=2.0)
    rain = torch.tensor([0.0, 1e-3, 0.1, 1.0, 12.0, 300.0], dtype=torch.float64)
    torch.testing.assert_close(transform.inverse(transform.forward(rain)), rain, rtol=1e-12, atol=1e-15)


def test_amounts_are_what_the_formulas_say() -> None:
    """ln(1 + 1 / 0.5) / 2 and arcsinh(2) / 2 for 1 mm/h."""
    one = torch.tensor(1.0, dtype=torch.float64)
    assert float(RainTransform("log1p", 0.5, 2.0).forward(one)) == pytest.approx(math.log(3) / 2)
    assert float(RainTransform("arcsinh", 0.5, 2.0).forward(one)) == pytest.approx(math.asinh(2) / 2)


def test_no_amount_gives_negative_rain_or_more_than_the_ceiling() -> None:
    """A published deterministic model gave 18,113 mm/h outside its training data: here nothing can."""
    amounts = torch.tensor([-50.0, -1.0, 50.0, 1e6])
    rain = RainTransform(ceiling=400.0).inverse(amounts)
    assert float(rain.min()) == 0.0 and float(rain.max()) == pytest.approx(400.0, rel=1e-5)


def test_dry_means_below_the_threshold() -> None:
    assert RainTransform(threshold=0.1).wet(torch.tensor([0.0, 0.099, 0.1])).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"kind": "sqrt"}, "one of log1p, arcsinh; got 'sqrt'"), ({"eps": 0.0}, "eps of the rain transform must be")],
)
def test_impossible_transforms_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RainTransform(**changes)  # type: ignore[arg-type]
