"""Conservation: the coarse amounts exactly, nothing negative, nothing wet that must be dry, and the least change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from downscaling.conserve import _newton, approach, conserve, violation
from downscaling.overlap import Overlap
from downscaling.wet_mask import Prior
from gen.grid import LatLonGrid

Array = np.ndarray


def rain(shape: tuple[int, int], seed: int, wet: float = 0.4) -> Array:
    """Return a heavy-tailed field with dry areas: a share `wet` is wet."""
    rng = np.random.default_rng(seed)
    waves = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))
    waves[0, 0] = 1
    gauss = np.fft.ifft2(np.fft.fft2(rng.standard_normal(shape)) * waves**-1.6).real
    level = np.quantile(gauss, 1 - wet)
    return np.maximum(np.exp(2.5 * (gauss - level) / gauss.std()) - 1, 0.0)


@pytest.mark.parametrize("factor", [2.5, 4.0, 8.0, 3.3])
@pytest.mark.parametrize("kind", ["another event", "a disturbed truth", "all dry", "dry in float32"])
def test_mode_input_keeps_every_coarse_amount(factor: float, kind: str) -> None:
    """Largest violation <= 1e-6 of the largest amount (asked: 1e-9), no negative pixel, dry blocks dry."""
    truth = rain((120, 100), 0)
    disturbed = truth * np.exp(0.3 * np.random.default_rng(1).standard_normal(truth.shape))
    zero = np.zeros((120, 100))
    prior = {"another event": rain((120, 100), 2), "a disturbed truth": disturbed, "all dry": zero}.get(kind, zero)
    overlap = Overlap.by_factor((120, 100), factor)
    coarse = overlap.apply(truth)
    made = conserve(prior.astype(np.float32) if "float32" in kind else prior, coarse, overlap, "input")
    assert made.largest_violation <= 1e-9 * coarse.max()
    assert violation(made.values.astype(np.float32), coarse, overlap) <= 1e-6 * coarse.max()
    assert (made.values >= 0).all()
    assert (coarse == 0).any() and (made.values[overlap.touched_by(coarse == 0)] == 0).all()


def test_the_sphere_is_no_exception() -> None:
    """ERA5 over IMERG on the sphere, 40 to 50 degrees north, three members at once."""
    fine = LatLonGrid(40 + 0.1 * (np.arange(100) + 0.5), 0.1 * (np.arange(100) + 0.5) - 5)
    coarse_grid = LatLonGrid(40 + 0.25 * (np.arange(40) + 0.5), 0.25 * (np.arange(40) + 0.5) - 5)
    overlap = Overlap.between(coarse_grid, fine)
    coarse = overlap.apply(rain(fine.shape, 5))
    members = np.stack([rain(fine.shape, seed) for seed in (6, 7, 8)])
    made = conserve(members, coarse, overlap)
    assert made.values.shape == members.shape and 0 < made.iterations < 30
    assert made.largest_violation <= 1e-9 * coarse.max()


def test_projection_is_the_minimum_found_by_a_dense_solver() -> None:
    """10 x 5 pixels, 4 x 2 cells: an interior-point minimiser of the divergence under A z = c finds the same field.

    It is told nothing of duals: unknowns are the pixels, constraints the dense matrix. Its own accuracy is 1e-6.
    """
    overlap = Overlap.by_factor((10, 5), 2.5)
    rng = np.random.default_rng(3)
    prior, coarse = rng.gamma(1.0, size=(10, 5)) + 0.1, rng.gamma(1.0, size=(4, 2)) + 0.2
    made = conserve(prior, coarse, overlap, tolerance=1e-13).values
    matrix = np.stack([overlap.apply(unit.reshape(10, 5)).ravel() for unit in np.eye(50)], axis=1)
    y = prior.ravel()
    found = minimize(
        lambda z: float((z * np.log(z / y) - z + y).sum()),
        np.full(50, coarse.mean()),
        jac=lambda z: np.log(z / y),
        constraints={"type": "eq", "fun": lambda z: matrix @ z - coarse.ravel(), "jac": lambda z: matrix},
        bounds=[(1e-9, None)] * 50,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert found.success
    np.testing.assert_allclose(made.ravel(), found.x, atol=1e-5)


def test_the_logarithm_of_the_change_is_a_combination_of_shares() -> None:
    """Stationarity: log(z / y) lies in the row space of the shares, to rounding."""
    overlap = Overlap.by_factor((20, 20), 2.5)
    prior = np.random.default_rng(4).gamma(1.0, size=(20, 20)) + 0.05
    coarse = overlap.apply(np.random.default_rng(5).gamma(1.0, size=(20, 20)) + 0.05)
    made = conserve(prior, coarse, overlap, tolerance=1e-13).values
    shares = np.stack([overlap.gather_sum(unit.reshape(8, 8)).ravel() for unit in np.eye(64)], axis=1)
    change = np.log(made / prior).ravel()
    fitted = shares @ np.linalg.lstsq(shares, change, rcond=None)[0]
    np.testing.assert_allclose(fitted, change, atol=1e-8)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([2.0, 3.0]))
def test_whole_factors_scale_every_block(seed: int, factor: float) -> None:
    """For nested cells Newton on the dual and block multiplication are the same: z = y c_i / (A y)_i."""
    overlap = Overlap.by_factor((12, 18), factor)
    prior = np.random.default_rng(seed).gamma(0.7, size=(12, 18)) + 1e-3
    coarse = np.random.default_rng(seed + 1).gamma(0.7, size=overlap.coarse_shape) + 1e-3
    block = np.ones((int(factor), int(factor)))
    by_hand = prior * np.kron(coarse / overlap.apply(prior), block)
    np.testing.assert_allclose(conserve(prior, coarse, overlap).values, by_hand, rtol=1e-12)
    newton, _ = _newton(Prior(prior, np.zeros_like(prior), coarse > 0, 0), coarse, overlap, 1e-13)
    np.testing.assert_allclose(newton, by_hand, rtol=1e-9)


@pytest.mark.parametrize("factor", [2.5, 4.0])
def test_members_do_not_know_each_other_and_units_do_not_matter(factor: float) -> None:
    """Permuting members permutes results to the bit; a common scale (mm/h to kg m-2 s-1) goes through."""
    overlap = Overlap.by_factor((40, 40), factor)
    coarse = overlap.apply(rain((40, 40), 0))
    members = np.stack([rain((40, 40), seed) for seed in (1, 2, 3)])
    whole = conserve(members, coarse, overlap)
    np.testing.assert_array_equal(conserve(members[[2, 0, 1]], coarse, overlap).values, whole.values[[2, 0, 1]])
    np.testing.assert_array_equal(conserve(members[1], coarse, overlap).values, whole.values[1])
    small = conserve(members / 3600, coarse / 3600, overlap).values * 3600
    np.testing.assert_allclose(small, whole.values, rtol=1e-6, atol=1e-9 * coarse.max())


@pytest.mark.parametrize("factor", [2.5, 4.0])
def test_a_field_that_fits_stays_and_projecting_twice_changes_nothing(factor: float) -> None:
    """The projection is idempotent; the multiplier of a fitting prior is one."""
    overlap = Overlap.by_factor((40, 40), factor)
    truth = np.random.default_rng(0).gamma(0.8, size=(40, 40))
    made = conserve(truth, overlap.apply(truth), overlap)
    np.testing.assert_allclose(made.values, truth, rtol=1e-9)
    assert made.largest_multiplier == pytest.approx(1.0, abs=1e-9) and made.filled_cells == 0


@pytest.mark.parametrize(("factor", "band"), [(2.5, 20), (4.0, 8)])
def test_bands_between_common_edges_are_projected_one_by_one(factor: float, band: int) -> None:
    """Cells on both sides of a line where fine and coarse edges coincide share no pixel: bands give the whole field."""
    overlap = Overlap.by_factor((80, 60), factor)
    coarse = overlap.apply(rain((80, 60), 0))
    prior = rain((80, 60), 1)
    whole = conserve(prior, coarse, overlap, tolerance=1e-12).values
    part, rows = Overlap.by_factor((band, 60), factor), round(band / factor)
    pieces = [
        conserve(prior[k * band : (k + 1) * band], coarse[k * rows : (k + 1) * rows], part, tolerance=1e-12).values
        for k in range(80 // band)
    ]
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=1e-6, atol=1e-9 * coarse.max())


def test_a_wet_cell_above_a_dry_prior_is_filled_evenly() -> None:
    """Nested: over the block. Cut pixels: over those wholly inside, none outside; one wet cell of the whole field."""
    for factor, pixels in ((4.0, 16), (2.5, 4)):
        overlap = Overlap.by_factor((20, 20), factor)
        coarse = np.zeros(overlap.coarse_shape)
        coarse[1, 1] = 2.0
        made = conserve(np.zeros((20, 20)), coarse, overlap)
        wet = made.values > 0
        assert wet.sum() == pixels and made.filled_cells == 1 and np.ptp(made.values[wet]) < 1e-9
        assert made.values.sum() == pytest.approx(2.0 * factor**2, rel=1e-9)
        assert (overlap.owner[wet] == coarse.shape[1] + 1).all()


def test_a_shared_wet_pixel_cannot_make_the_demand_impossible() -> None:
    """All prior rain lies in one pixel that two cells share, which want 10 and 0.1: their own pixels take the rest."""
    overlap = Overlap.by_factor((5, 5), 2.5)
    prior, coarse = np.zeros((5, 5)), np.array([[10.0, 0.1], [10.0, 0.1]])
    prior[:, 2] = 1.0
    made = conserve(prior, coarse, overlap)
    assert made.largest_violation <= 1e-8 and made.filled_cells == 4 and (made.values >= 0).all()


def test_missing_pixels_stay_missing_and_count_nowhere() -> None:
    """The mean over the valid part of each cell is kept; cells with too few valid pixels ask for nothing."""
    valid = np.random.default_rng(0).random((40, 40)) > 0.2
    valid[:7, :9] = False
    overlap = Overlap.by_factor((40, 40), 2.5, valid)
    truth = rain((40, 40), 3, wet=0.9)
    coarse = overlap.apply(truth)
    assert np.isnan(coarse[:2, :3]).all()
    prior = np.where(valid, rain((40, 40), 4, wet=0.9), np.nan)
    made = conserve(prior, coarse, overlap)
    np.testing.assert_array_equal(np.isnan(made.values), ~valid)
    assert made.largest_violation <= 1e-8 * np.nanmax(coarse)


def test_modes_choose_the_amounts() -> None:
    """none: the prior without negatives, its violation told; coarse: the corrected field instead of the input's."""
    overlap = Overlap.by_factor((8, 8), 4)
    prior = np.full((8, 8), 2.0)
    prior[0, 0] = -1.0
    coarse, corrected = np.full((2, 2), 1.0), np.full((2, 2), 3.0)
    none = conserve(prior, coarse, overlap, "none")
    np.testing.assert_array_equal(none.values, np.maximum(prior, 0))
    assert none.largest_violation == pytest.approx(1.0)
    made = conserve(prior, coarse, overlap, "coarse", corrected=corrected)
    np.testing.assert_allclose(overlap.apply(made.values), corrected)
    with pytest.raises(ValueError, match="mode 'coarse' needs the corrected coarse field"):
        conserve(prior, coarse, overlap, "coarse")
    with pytest.raises(ValueError, match="must be one of none, input, coarse; got 'hard'"):
        conserve(prior, coarse, overlap, "hard")  # type: ignore[arg-type]


def test_bad_input_is_one_line() -> None:
    """Negative amounts, missing values where the mask says valid, wrong shapes."""
    overlap = Overlap.by_factor((8, 8), 4)
    with pytest.raises(ValueError, match=r"coarse amounts must be finite and >= 0; the least is -1"):
        conserve(np.ones((8, 8)), np.full((2, 2), -1.0), overlap)
    with pytest.raises(ValueError, match="the prior must be finite"):
        conserve(np.full((8, 8), np.nan), np.ones((2, 2)), overlap)
    with pytest.raises(ValueError, match=r"the coarse field must end in the shape \(2, 2\); got \(3, 2\)"):
        conserve(np.ones((8, 8)), np.ones((3, 2)), overlap)
    with pytest.raises(ValueError, match="the floor must be a rate >= 0; got -0.1"):
        conserve(np.ones((8, 8)), np.ones((2, 2)), overlap, floor=-0.1)
    assert conserve(np.zeros((8, 8)), np.zeros((2, 2)), overlap).values.max() == 0


def thresholded(field: Array, floor: float) -> Array:
    """Return rain that is dry below the floor, as a model draws it: many pixels at the floor exactly."""
    return np.where(field > 0, np.maximum(field, floor), 0.0)


@pytest.mark.parametrize("factor", [1.0, 1.5, 5 / 3, 2.5, 3.3, 4.0, 8.0])
@pytest.mark.parametrize("kind", ["another event", "a disturbed truth", "all dry"])
def test_a_floor_keeps_amounts_and_lets_no_avoidable_drizzle_arise(factor: float, kind: str) -> None:
    """Amounts are exact; a wet pixel is below the floor only if it is the last one of a cell that has less."""
    truth, floor = rain((120, 100), 0) * 0.3, 0.1
    disturbed = thresholded(truth * np.exp(np.random.default_rng(1).standard_normal(truth.shape)), floor)
    event = {"another event": thresholded(rain((120, 100), 2), floor), "a disturbed truth": disturbed}
    prior = event.get(kind, np.zeros((120, 100)))
    overlap = Overlap.by_factor((120, 100), factor)
    coarse = overlap.apply(truth)
    made = conserve(prior, coarse, overlap, floor=floor)
    assert violation(made.values.astype(np.float32), coarse, overlap) <= 1e-6 * coarse.max()
    assert made.values.min() == 0 and (made.values[overlap.touched_by(coarse == 0)] == 0).all()
    faint = (made.values > 0) & (made.values < floor) & (overlap.fine_area > 0)
    poorest = overlap.gather_sum((np.nan_to_num(coarse) * overlap.coarse_area < floor * (1 + 1e-9)).astype(float)) > 0
    assert not (faint & ~poorest).any()


@pytest.mark.parametrize(("factor", "changed"), [(2.5, 0.02), (4.0, 0.0), (8.0, 0.0)])
def test_with_a_floor_the_rain_mask_of_the_prior_is_kept_where_amounts_allow_it(factor: float, changed: float) -> None:
    """Amounts of a field with the prior's mask and at least the floor: same mask, nothing below the floor, exact.

    Where cells share pixels the test of what fits into them is sufficient, not necessary: a few pixels may change.
    """
    prior = thresholded(rain((120, 120), 2), 0.1)
    rng = np.random.default_rng(3)
    other = np.where(prior > 0, 0.1 + rng.permutation(prior.ravel()).reshape(prior.shape) * rng.random(prior.shape), 0)
    overlap = Overlap.by_factor(prior.shape, factor)
    coarse = overlap.apply(other)
    made = conserve(prior, coarse, overlap, floor=0.1)
    assert made.largest_violation <= 1e-9 * coarse.max()
    assert ((made.values > 0) != (prior > 0)).sum() <= changed * (prior > 0).sum()
    assert ((made.values > 0) & (made.values < 0.1)).sum() <= changed / 4 * (prior > 0).sum()
    without = conserve(prior, coarse, overlap)
    assert ((without.values > 0) & (without.values < 0.1)).any()  # what the floor mends


@pytest.mark.parametrize("factor", [2.5, 4.0])
def test_the_floored_projection_is_the_minimum_found_by_a_dense_solver(factor: float) -> None:
    """The same divergence under A z = c and z >= floor, by an interior-point minimiser that knows no duals."""
    shape = {2.5: (10, 5), 4.0: (8, 8)}[factor]
    overlap = Overlap.by_factor(shape, factor)
    rng = np.random.default_rng(5)
    prior = 0.2 + rng.gamma(1.0, size=shape)
    coarse = overlap.apply(prior) * rng.uniform(0.4, 0.9, overlap.coarse_shape)
    made = conserve(prior, coarse, overlap, floor=0.2, tolerance=1e-13).values
    size = prior.size
    matrix, y = np.stack([overlap.apply(u.reshape(shape)).ravel() for u in np.eye(size)], axis=1), prior.ravel()
    found = minimize(
        lambda z: float((z * np.log(z / y) - z + y).sum()),
        np.full(size, coarse.mean()),
        jac=lambda z: np.log(z / y),
        constraints={"type": "eq", "fun": lambda z: matrix @ z - coarse.ravel(), "jac": lambda z: matrix},
        bounds=[(0.2, None)] * size,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert found.success and (made == 0.2).any()
    np.testing.assert_allclose(made.ravel(), found.x, atol=1e-5)


def test_a_cell_with_less_than_its_mask_needs_loses_the_least_pixels() -> None:
    """Four pixels of 0.1 fit into 16 x 0.025 mm/h, those with the most prior; below 0.1 / 16 one pixel has all."""
    overlap = Overlap.by_factor((8, 8), 4)
    prior = np.zeros((8, 8))
    prior[:4, :4] = 0.1 + np.arange(16).reshape(4, 4)
    coarse = np.array([[0.025, 0.0], [0.0, 0.0]])
    made = conserve(prior, coarse, overlap, floor=0.1).values
    np.testing.assert_array_equal(np.flatnonzero(made), 24 + np.arange(4))
    np.testing.assert_allclose(made[3, :4], 0.1)
    made = conserve(prior, coarse / 5, overlap, floor=0.1).values
    assert (made > 0).sum() == 1 and made[3, 3] == pytest.approx(0.08)


def test_rain_without_a_wet_pixel_falls_towards_its_neighbours() -> None:
    """0.02 mm/h beside 5 mm/h above a dry prior: one pixel of 0.32, on the side of the neighbour; 5 fills half."""
    overlap = Overlap.by_factor((8, 12), 4)
    coarse = np.array([[0.02, 5.0, 0.0], [0.0, 0.0, 0.0]])
    made = conserve(np.zeros((8, 12)), coarse, overlap, floor=0.1)
    assert made.filled_cells == 2
    assert np.count_nonzero(made.values[:, :4]) == 1 and made.values[:, 3].max() == pytest.approx(0.32)
    assert np.count_nonzero(made.values[:, 4:8]) == 8


def roughness(field: Array, edges: range) -> float:
    """Return the mean step across coarse edges over that elsewhere."""
    steps = [np.abs(np.diff(f, axis=0)) for f in (field, field.T)]
    at = np.zeros(len(steps[0]), bool)
    at[[k - 1 for k in edges]] = True
    return float(np.mean([s[at].mean() for s in steps]) / np.mean([s[~at].mean() for s in steps]))


@pytest.mark.parametrize("factor", [4, 8])
def test_an_approach_leaves_fewer_blocks_and_the_exact_amounts(factor: int) -> None:
    """Correlated rain, large scales wrong by smooth factors: steps at the edges of cells come near the truth's.

    The error of the projection alone is what the approach must halve; the amounts stay exact and the mask the prior's.
    """
    truth = rain((128, 128), 0, wet=0.9)
    rng = np.random.default_rng(1)
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128), indexing="ij"))
    large = np.fft.ifft2(np.fft.fft2(rng.standard_normal((128, 128))) * (waves < 0.5 / factor)).real
    overlap = Overlap.by_factor((128, 128), factor)
    coarse = overlap.apply(truth)
    prior = truth * np.exp(large / large.std())
    near = approach(prior, coarse, overlap)
    edges = range(factor, 128, factor)
    real = roughness(truth, edges)
    wrong, right = (roughness(conserve(p, coarse, overlap).values, edges) / real - 1 for p in (prior, near))
    assert wrong > 0.05 and abs(right) < wrong / 2
    np.testing.assert_array_equal(near > 0, prior > 0)
    made = conserve(near, coarse, overlap)
    assert made.largest_violation <= 1e-9 * coarse.max()
    errors = [np.abs(conserve(p, coarse, overlap).values - truth).mean() for p in (prior, near)]
    assert errors[1] < errors[0]


def test_an_approach_keeps_what_fits_and_ignores_dry_and_missing_cells() -> None:
    """Ratios of one change nothing; a dry cell, a missing one and one without rain lend their neighbours no factor."""
    overlap = Overlap.by_factor((16, 16), 4)
    prior = np.random.default_rng(0).gamma(1.0, size=(16, 16)) + 0.1
    coarse = overlap.apply(prior)
    np.testing.assert_allclose(approach(prior, coarse, overlap), prior, rtol=1e-12)
    coarse[1, 1], coarse[2, 2] = 0.0, np.nan
    np.testing.assert_allclose(approach(prior, coarse, overlap), prior, rtol=1e-12)
    prior[4:8, 4:8] = 0.0
    coarse[1, 1] = 9.0
    np.testing.assert_allclose(approach(prior, coarse, overlap), prior, rtol=1e-12)
    doubled = approach(prior, 2 * coarse, overlap)
    np.testing.assert_allclose(doubled, 2 * prior, rtol=1e-9)


@pytest.mark.parametrize("factor", [1.25, 4 / 3])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cells_that_own_no_pixel_keep_amounts_that_some_fine_rain_has(factor: float, floor: float) -> None:
    """Factors below 1.5 and the rain of another event, whose mask holds no solution: exact all the same."""
    truth, other = rain((40, 40), 0), thresholded(rain((40, 40), 2), floor)
    overlap = Overlap.by_factor((40, 40), factor)
    coarse = overlap.apply(truth)
    made = conserve(other, coarse, overlap, floor=floor)
    assert made.largest_violation <= 1e-6 * coarse.max() and made.unmet_cells == 0
    assert (made.values >= 0).all() and (made.values[overlap.touched_by(coarse == 0)] == 0).all()


def test_amounts_that_no_fine_rain_has_are_counted() -> None:
    """A cell that owns no pixel wants 10 between neighbours that want 0.1: impossible, and said so."""
    overlap = Overlap.by_factor((4, 4), 4 / 3)
    coarse = np.full((3, 3), 0.1)
    coarse[1, 1] = 10.0
    made = conserve(np.ones((4, 4)), coarse, overlap)
    assert made.unmet_cells > 0 and made.largest_violation > 0.1 and (made.values >= 0).all()
    assert conserve(np.ones((4, 4)), np.full((3, 3), 0.1), overlap).unmet_cells == 0


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("shift", [3e-9, 1e-5, 1e-3, 0.37])
@pytest.mark.parametrize("factor", [2.2, 2.5, 4.0])
def test_slivers_and_faint_amounts_stop_no_other_cell(factor: float, shift: float, floor: float) -> None:
    """Grids that nearly or nowhere meet, amounts that know nothing of the prior, some a millionth of others: all kept.

    A faint cell may own but a sliver of the pixels it depends on; its multiplier is then enormous.
    """
    random, fine = np.random.default_rng(int(factor * 10)), np.arange(121.0)
    coarse = factor * np.arange(int(120 / factor) - 1) + shift
    overlap = Overlap.from_edges((coarse, coarse), (fine, fine))
    shape = overlap.coarse_shape
    amounts = np.where(random.random(shape) < 0.6, np.exp(3 * random.standard_normal(shape)), 0.0)
    prior = np.where(random.random((120, 120)) < 0.4, random.gamma(0.3, 10, (120, 120)), 0.0)
    made = conserve(prior, amounts, overlap, floor=floor)
    assert made.unmet_cells == 0 and made.largest_violation <= 1e-6 * amounts.max()


def test_what_cannot_be_kept_does_not_run_away() -> None:
    """Wet cells of factor 1.1 between dry ones have no solution: no pixel gets more than each of its cells asks for."""
    random, fine = np.random.default_rng(0), np.arange(61.0)
    coarse = 1.1 * np.arange(53) + 0.37
    overlap = Overlap.from_edges((coarse, coarse), (fine, fine))
    amounts = np.where(random.random((52, 52)) < 0.5, random.gamma(0.3, 10, (52, 52)), 0.0)
    made = conserve(random.gamma(0.3, 10, (60, 60)), amounts, overlap)
    assert made.unmet_cells > 0
    i, j, area = overlap.entries
    most = (amounts * overlap.coarse_area).ravel()[i]
    assert (made.values.ravel()[j] * area <= most * (1 + 1e-9)).all()
