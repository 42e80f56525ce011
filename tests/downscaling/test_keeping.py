"""Amounts that are kept while rows come in: the same bits for any region and block; those that the model expects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from diffusion.samplers import build_sampler
from downscaling.conserve import Mode
from downscaling.drawing import PairDrawer
from downscaling.keeping import VIOLATION, demanded
from downscaling.lattice import Target, build_domain
from downscaling.model import DownscalingModel, Expectation
from downscaling.overlap import Overlap
from downscaling.pairs import make_pair
from downscaling.request import DownscalingRequest
from downscaling.sampling import RainSampler, tile_side
from downscaling.transform import RainTransform
from gen.cli import main
from gen.grid import LatLonGrid, Region

Rain = Callable[..., np.ndarray]
WHERE = LatLonGrid(40.125 + 0.25 * np.arange(36), 5.125 + 0.25 * np.arange(28))


def drawn(
    model: DownscalingModel, coarse: np.ndarray, target: Target, keep: Mode, members: Any = (0,)
) -> tuple[Any, np.ndarray, float]:
    """Return the domain, the rates [M, h, W] and the largest violation."""
    domain = build_domain(WHERE, target, tile_side(model))
    sampler = RainSampler(model, domain, build_sampler("flow_euler", 1), keep=keep)
    pieces = list(sampler.draw(coarse, 28_400_000, members))
    assert [p.first for p in pieces] == np.cumsum([0, *(p.values.shape[1] for p in pieces[:-1])]).tolist()
    return domain, np.concatenate([p.values for p in pieces], axis=1), max(p.notes[VIOLATION] for p in pieces)


@pytest.mark.parametrize(("factor", "keep"), [(2.5, "coarse"), (4.0, "input"), (5 / 3, "input")])
def test_a_region_has_the_bits_of_the_whole_field_up_to_its_rim(
    tiny_model: DownscalingModel, rain: Rain, factor: float, keep: Mode
) -> None:
    """Also where the rim cuts coarse cells, and for a member that is drawn alone."""
    coarse = rain(36, 28)
    a, x, _ = drawn(tiny_model, coarse, Target(factor), keep, (0, 1))
    b, y, _ = drawn(tiny_model, coarse, Target(factor, region=Region(42.05, 46.3, 6.6, 9.9)), keep, (1,))
    top, left = b.rows.first - a.rows.first, b.columns.first - a.columns.first
    assert top > 0 and left > 0 and y.shape[1] < x.shape[1] and y.max() > 1
    np.testing.assert_array_equal(x[1:, top : top + y.shape[1], left : left + y.shape[2]], y)


@pytest.mark.parametrize("kind", ["log1p", "arcsinh"])
def test_expected_rain_is_the_integral_over_the_normal_distribution(kind: str) -> None:
    """The closed form against a sum over 400,001 points, for faint, heavy, certain and wild amounts."""
    transform = RainTransform(kind, ceiling=200.0)
    mean, spread = (
        torch.tensor(v, dtype=torch.float64) for v in ([0.1, 0.4, 2.0, 3.0, 1.0], [0.3, 0.02, 0.5, 0.2, 2.7])
    )
    u = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    density = torch.exp(-u.square() / 2) / (2 * np.pi) ** 0.5
    rain = transform.inverse(mean[:, None] + spread[:, None] * u).clamp(min=transform.threshold)
    torch.testing.assert_close(
        transform.expected(mean, spread), torch.trapezoid(rain * density, u), rtol=1e-6, atol=1e-8
    )


def test_the_chance_of_rain_multiplies_the_expected_amount(tiny_model: DownscalingModel) -> None:
    """Against a million draws of amounts and masks: within five standard errors."""
    expected = Expectation(*(torch.full((1, 1, 1), v) for v in (0.8, 0.3, 0.25)))
    generator = torch.Generator().manual_seed(0)
    amount = 0.8 + 0.3 * torch.randn(1_000_000, generator=generator)
    wet = torch.rand(1_000_000, generator=generator) < 0.25
    transform = tiny_model.transform
    rates = transform.inverse(amount).clamp(min=transform.threshold) * wet
    assert abs(float(tiny_model.expected_rain(expected)) - float(rates.mean())) < 5e-3 * float(rates.std())


@pytest.mark.parametrize("factor", [2.5, 4.0])
def test_members_keep_the_amounts_that_are_expected(
    tiny_model: DownscalingModel, rain: Rain, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mean stage that expects 1.5 mm/h everywhere: so much falls on every cell; what is missing stays so."""
    monkeypatch.setattr(DownscalingModel, "expected_rain", lambda _, e: torch.full_like(e.amount, 1.5))
    coarse = rain(36, 28)
    coarse[20:23, 11] = np.nan
    domain, fields, worst = drawn(tiny_model, coarse, Target(factor), "coarse", (0, 1))
    means = Overlap.between(WHERE, domain.grid, np.isfinite(fields[0])).apply(fields)
    assert np.nanmax(np.abs(means - 1.5)) < 2e-6 and worst < 2e-6
    assert np.isnan(fields).any() and np.nanmax(np.abs(fields[0] - fields[1])) > 0.1


def test_cells_that_expect_less_than_a_pixel_are_free() -> None:
    """16 pixels of 0.1 mm/h at least: a mean of 0.1 / 16 is an amount, one below asks for nothing."""
    overlap = Overlap.by_factor((4, 8), 4)
    expected = np.concatenate([np.full((4, 4), 0.0063), np.full((4, 4), 0.0062)], axis=1)
    np.testing.assert_allclose(demanded(expected, overlap, 0.1), [[0.0063, np.nan]])


def test_pairs_are_drawn_with_the_expected_amounts(tiny_model: DownscalingModel, rain: Rain) -> None:
    """Both members have the same coarse amounts, which are those of the mean stage and not the input's."""
    fine = rain(40, 40)
    pair = make_pair(fine, LatLonGrid(40 + 0.1 * np.arange(40), 5 + 0.1 * np.arange(40)), 4.0)
    overlap = Overlap.between(pair.coarse_grid, pair.fine_grid)
    drawer = PairDrawer(tiny_model, 2, keep="coarse", dtype="float32")
    a, b = overlap.apply(drawer.draw(pair, overlap, 0))
    wanted = demanded(drawer.expected(pair), overlap, tiny_model.transform.threshold)
    np.testing.assert_allclose(a, wanted, rtol=1e-5)
    np.testing.assert_allclose(b, wanted, rtol=1e-5)
    assert np.abs(wanted - pair.coarse).max() > 0.05


def test_the_file_says_which_amounts_are_kept(model_folder: Path, tmp_path: Path) -> None:
    """Conservation as words, and the largest violation of those amounts; another word is one line."""
    out = tmp_path / "fine.nc"
    options = ["--model", str(model_folder), "--times", "2024-01-15T08", "--members", "1", "--conserve", "coarse"]
    assert main(["sample", "--task", "downscaling", "--quiet", *options, "--out", str(out)]) == 0
    with xr.open_dataset(out) as file:
        assert "the coarse amounts that the model expects" in file.attrs["conservation"]
        assert "refers to them" in file.attrs["conservation"]
        assert float(file.attrs[VIOLATION]) < 1e-4
    with pytest.raises(ValueError, match="conserve must be one of none, input, coarse; got 'some'"):
        DownscalingRequest(conserve="some")  # type: ignore[arg-type]
