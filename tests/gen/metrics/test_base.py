"""Partial sums: weights, merging, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gen.grid import LatLonGrid
from gen.metrics.base import PartialSums, area_mean, merge


def sums(days: list[int], *, members: int = 4, channels: tuple[str, ...] = ("z500", "2t")) -> PartialSums:
    rng = {d: np.random.default_rng(d) for d in days}
    inits = np.datetime64("2024-01-01", "h") + 24 * np.array(days)
    named = {
        "model/crps": np.stack([rng[d].random((3, len(channels))) for d in days]),
        "model/rank_histogram": np.stack([rng[d].random((3, len(channels), members + 1)) for d in days]),
    }
    leads = np.array([24, 48, 72], dtype="timedelta64[h]")
    return PartialSums(inits, leads, channels, named, {"members": {"model": members}})


def test_area_mean_of_a_linear_function_of_the_sine_is_exact() -> None:
    """Exact cell areas integrate cell means of sin(lat) exactly: <1 + sin(lat)> = 1 on any rows (1e-14)."""
    grid = LatLonGrid(np.array([-80.0, -30.0, -5.0, 40.0, 75.0]), np.arange(0, 360, 60.0))
    bounds = np.sin(np.deg2rad(grid.latitude_bounds()))
    cell_mean = torch.from_numpy((bounds[1:] + bounds[:-1]) / 2)[:, None].expand(grid.shape)
    got = area_mean(1 + cell_mean, torch.from_numpy(grid.cell_areas().copy()))
    assert float(got) == pytest.approx(1.0, abs=1e-14)


def test_area_mean_leaves_missing_cells_out() -> None:
    """NaN cells carry no weight; a map without any value has no mean; infinity is not missing."""
    values = torch.tensor([[[1.0, torch.nan], [3.0, torch.nan]], [[torch.nan] * 2] * 2, [[torch.inf, 0.0], [0.0, 0.0]]])
    got = area_mean(values, torch.tensor([[1.0, 1.0], [3.0, 1.0]]))
    assert float(got[0]) == 2.5 and torch.isnan(got[1]) and float(got[2]) == np.inf


def test_merging_in_any_order_equals_one_pass_bit_for_bit(tmp_path: Path) -> None:
    """Partial sums of days {0, 3}, {1}, {2, 4}, written and read, merge to those of days 0 to 4, all bits equal."""
    parts = [PartialSums.load(sums(d).save(tmp_path / f"{d[0]}.npz")) for d in ([2, 4], [1], [0, 3])]
    whole, merged = sums([0, 1, 2, 3, 4]), merge(parts)
    assert np.array_equal(merged.inits, whole.inits) and merged.channels == whole.channels
    assert merged.setup == whole.setup and set(merged.statistics) == set(whole.statistics)
    for name, values in whole.statistics.items():
        assert np.array_equal(merged.statistics[name], values)


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    """Repeated dates, other ensemble sizes or channels, files of another kind: one line with the reason."""
    with pytest.raises(ValueError, match="2024-01-02T00 is in more than one part"):
        merge([sums([0, 1]), sums([1])])
    with pytest.raises(ValueError, match="differ in members"):
        merge([sums([0], members=4), sums([1], members=8)])
    with pytest.raises(ValueError, match="differ in channels"):
        merge([sums([0]), sums([1], channels=("z500", "msl"))])
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match="does not hold partial sums"):
        PartialSums.load(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="no such file"):
        PartialSums.load(tmp_path / "none.npz")


def test_dates_must_ascend_and_shapes_agree() -> None:
    """The constructor refuses unsorted dates and statistics of another shape."""
    good = sums([0, 1])
    with pytest.raises(ValueError, match="strictly ascending"):
        PartialSums(good.inits[::-1], good.leads, good.channels, good.statistics)
    with pytest.raises(ValueError, match="must begin with"):
        PartialSums(good.inits, good.leads[:2], good.channels, good.statistics)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial sums appear under their name only when complete: an error while writing keeps the earlier file."""
    path = sums([0]).save(tmp_path / "a.npz")
    before = path.read_bytes()

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError):
        sums([0, 1]).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
