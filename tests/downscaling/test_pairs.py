"""Pairs: coarse rain is the area mean of fine rain, crops come back by address, events never leak, weights are fair."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from downscaling.pairs import CropIndex, PairStream, coarse_grid, make_pair, split_events, weather_events, whole_cells
from downscaling.sources.base import GriddedRain
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid

CRS = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040"
PLANE = ProjectedGrid.even(0.0, -4e6, 1000.0, (60, 80), CRS)
HOURS = np.arange("2020-01-01T00", "2020-01-01T06", dtype="datetime64[h]")


def source(seed: int, grid: ProjectedGrid | LatLonGrid = PLANE, dry: bool = False) -> GriddedRain:
    """Return six hours of rain: mostly faint, a heavy corner, a gap."""
    fields = np.random.default_rng(seed).gamma(0.2, 0.05, size=(6, *grid.shape)).astype(np.float32)
    fields[:, 40:, 60:] *= 0 if dry else 200
    fields[:, :10, :10] = np.nan
    return GriddedRain(f"source {seed}", grid, HOURS, 1.0, "test", lambda i, m: fields[i], synthetic=True)


@pytest.mark.parametrize("factor", [2.5, 4.0, 8.0])
def test_coarse_rain_holds_the_same_water(factor: float) -> None:
    """Area mean of the coarse field equals that of the fine one, on the plane and on the sphere, to float32."""
    sphere = LatLonGrid(40 + 0.1 * (np.arange(40) + 0.5), -3 + 0.1 * (np.arange(80) + 0.5))
    for grid in (PLANE.window(slice(0, 40), slice(0, 80)), sphere):
        fine = np.random.default_rng(0).gamma(0.3, size=(40, 80)).astype(np.float32)
        pair = make_pair(fine, grid, factor)
        assert pair.coarse.shape == (40 / factor, 80 / factor)
        weights = [g.cell_areas() if isinstance(g, LatLonGrid) else np.ones(g.shape) for g in (grid, pair.coarse_grid)]
        means = [np.average(v, weights=w) for v, w in zip((fine, pair.coarse), weights, strict=True)]
        assert means[0] == pytest.approx(means[1], rel=1e-6)


def test_missing_pixels_make_coarse_cells_unknown_only_when_too_many() -> None:
    """A block with 7 of 16 pixels missing keeps the mean of the others; with 9 missing it is unknown."""
    fine = np.ones((8, 8), np.float32)
    fine[0, :4], fine[1, :3] = np.nan, np.nan
    fine[4:6, 4:], fine[6, 4] = np.nan, np.nan
    pair = make_pair(fine, PLANE.window(slice(0, 8), slice(0, 8)), 4)
    np.testing.assert_array_equal(pair.coarse, [[1, 1], [1, np.nan]])


def test_outer_edges_agree_and_remainders_are_cut_off() -> None:
    """23 x 38 fine cells at factor 2.5 leave 20 x 35: 8 x 14 coarse cells with the same edges."""
    grid = PLANE.window(slice(3, 26), slice(5, 43))
    pair = make_pair(np.zeros((23, 38), np.float32), grid, 2.5)
    assert pair.fine.shape == (20, 35) and pair.coarse.shape == (8, 14)
    assert isinstance(pair.fine_grid, ProjectedGrid) and isinstance(pair.coarse_grid, ProjectedGrid)
    np.testing.assert_allclose(pair.coarse_grid.x_bounds()[[0, -1]], pair.fine_grid.x_bounds()[[0, -1]])
    np.testing.assert_allclose(pair.coarse_grid.y_bounds()[[0, -1]], pair.fine_grid.y_bounds()[[0, -1]])
    era5 = coarse_grid(LatLonGrid(0.1 * (np.arange(20) + 0.5), 0.1 * (np.arange(20) + 0.5)), 2.5)
    assert isinstance(era5, LatLonGrid)
    np.testing.assert_allclose(era5.latitude, 0.25 * (np.arange(8) + 0.5))


def test_whole_cells_of_a_factor() -> None:
    """2.5 = 5/2, 4 = 4/1, 10/3 is no float of small terms unless it is one; below one is refused."""
    assert [whole_cells(f) for f in (1.0, 2.5, 4.0, 8.0, 10 / 3)] == [1, 5, 4, 8, 10]
    for bad in (0.5, np.pi):
        with pytest.raises(ValueError, match="factor must be at least 1 and a ratio"):
            whole_cells(bad)
    with pytest.raises(ValueError, match="5x9 fine cells hold no 2x2 coarse ones of factor 4"):
        make_pair(np.zeros((5, 9), np.float32), PLANE.window(slice(0, 5), slice(0, 9)), 4)


def test_events_are_runs_without_gaps() -> None:
    """Two storms a week apart are two events; a gap of a day within one is not."""
    hours = np.array([0, 1, 25, 26, 200, 201]).astype("timedelta64[h]") + np.datetime64("2020-01-01T00", "h")
    assert [e.tolist() for e in weather_events(hours)] == [[0, 1, 2, 3], [4, 5]]
    assert [e.tolist() for e in weather_events(hours, gap_hours=12)] == [[0, 1], [2, 3], [4, 5]]


def test_an_event_is_in_one_part_only() -> None:
    """Parts are disjoint, complete and of the right sizes, the same for any order of names, others for another seed."""
    names = [f"2020-{m:02d}" for m in range(1, 13)]
    shares = {"train": 0.75, "validation": 0.125, "test": 0.125}
    parts = split_events(names, shares, seed=0)
    assert sorted(itertools.chain(*parts.values())) == names
    assert (len(parts["train"]), len(parts["validation"])) in ((9, 1), (9, 2)) and parts["test"]
    assert split_events(names[::-1], shares, seed=0) == parts and split_events(names, shares, seed=1) != parts
    assert all(len(p) == 1 for p in split_events(names[:3], shares, seed=0).values())
    with pytest.raises(ValueError, match="2 events cannot be dealt out to 3 parts"):
        split_events(names[:2], shares, seed=0)
    with pytest.raises(ValueError, match="share a name"):
        split_events(["a", "a", "b"], shares, seed=0)


def test_strata_are_drawn_alike_and_weights_undo_it() -> None:
    """Of 3000 draws each stratum gets its share within 4 standard deviations; the weighted mean rain is unbiased.

    The mean rain of all crops is known from the index itself; the standard error follows from the draws.
    """
    sources = [source(0), source(1, dry=True)]
    index = CropIndex.build(sources, (20, 20), stride=5)
    counts = index.counts()
    occur = np.flatnonzero(counts)
    assert occur.size >= 3 and counts.max() > 5 * counts[occur].min()
    drawn = [index.draw(0, n) for n in range(3000)]
    share = np.bincount([c.stratum for c, _ in drawn], minlength=counts.size)[occur] / 3000
    np.testing.assert_allclose(share, 1 / occur.size, atol=4 * np.sqrt(0.25 / 3000))

    def rain(crop: tuple[int, int, int, int]) -> float:
        s, t, r, c = crop
        return float(np.nanmean(sources[s].read(t)[r : r + 20, c : c + 20]))

    truth = np.mean([rain(tuple(a)) for a in index.address.tolist()])
    values = np.array([w * rain((c.source, c.time, c.row, c.column)) for c, w in drawn])
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / np.sqrt(3000))


def test_crops_avoid_gaps_and_cover_all_positions() -> None:
    """By brute force over all windows: the crops are those with enough values, in the stratum of their mean."""
    one = source(0)
    index = CropIndex.build([one], (16, 24), times=[[2]], stride=8, valid=0.9)
    field, expected = one.read(2), []
    for r, c in itertools.product(range(0, 45, 8), range(0, 57, 8)):
        window = field[r : r + 16, c : c + 24]
        if np.isfinite(window).mean() >= 0.9:
            expected.append([0, 2, r, c, int(np.searchsorted(index.edges, np.nanmean(window), side="right"))])
    np.testing.assert_array_equal(np.column_stack([index.address, index.stratum]), expected)
    with pytest.raises(ValueError, match="no crop of 61x8"):
        CropIndex.build([one], (61, 8))


def test_a_stream_is_a_function_of_seed_and_number() -> None:
    """Restarted, dealt out to two processes or read out of order, the pairs are the same to the bit."""
    sources = [source(0), source(1)]
    index = CropIndex.build(sources, (20, 30))
    whole = list(itertools.islice(PairStream(sources, index, 2.5, seed=3), 6))
    again = PairStream(sources, index, 2.5, seed=3, start=1, step=2)
    for pair, other in zip(whole[1::2], again, strict=False):
        np.testing.assert_array_equal(pair.fine, other.fine)
        np.testing.assert_array_equal(pair.coarse, other.coarse)
        assert pair.crop == other.crop and pair.weight == other.weight
    crop = whole[4].crop
    assert crop is not None and whole[4].coarse.shape == (8, 12)
    fine = sources[crop.source].read(crop.time)[crop.row : crop.row + 20, crop.column : crop.column + 30]
    np.testing.assert_array_equal(whole[4].fine, fine)
    assert any(p.crop != q.crop for p, q in zip(whole, PairStream(sources, index, 2.5, seed=4), strict=False))
    with pytest.raises(
        ValueError, match="crops of 20x30 are no whole number of coarse cells of factor 8; take multiples of 8"
    ):
        PairStream(sources, index, 8, seed=0)
