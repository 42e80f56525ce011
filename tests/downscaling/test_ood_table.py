"""The index of regions: closed forms, regions inside a field, missing values, what is told."""

from __future__ import annotations

import numpy as np
import pytest

from downscaling.ood_table import WHOLE, named_cells, summarised, table, told
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid


def test_mean_level_largest_and_share_are_those_of_all_maps() -> None:
    """Against numpy on all values at once; the 95 % level to 0.01; missing values count nowhere."""
    fields = np.random.default_rng(0).exponential(0.5, (7, 30, 40)).astype(np.float32)
    fields[:, 4:9, 3] = np.nan
    cells = {"a": np.ones((30, 40), bool), "b": np.arange(40)[None] + np.zeros((30, 1)) < 10}
    for summary in summarised(fields, cells):
        values = fields[:, cells[summary.name]]
        values = values[np.isfinite(values)].astype(np.float64)
        assert summary.cells == values.size and summary.largest == values.max()
        assert summary.mean == pytest.approx(values.mean()) and summary.outside == (values > 1).mean()
        assert summary.high == pytest.approx(np.quantile(values, 0.95), abs=0.011)


def test_dry_and_missing_fields_have_a_line() -> None:
    """All inside: zeros; nothing known: said so."""
    dry, missing = (
        summarised([np.full((3, 4), v, np.float32)], {"r": np.ones((3, 4), bool)})[0] for v in (0.0, np.nan)
    )
    assert (dry.mean, dry.high, dry.largest, dry.outside) == (0, 0, 0, 0)
    assert told([dry, missing]).endswith("r: no value") and "mean 0," in str(dry)
    assert table([missing])[1].split() == ["r", "-", "-", "-", "-"]


@pytest.mark.parametrize("west", [-180.0, 0.0])
def test_regions_wholly_inside_a_field_are_told(west: float) -> None:
    """A global field holds all 18, each with its 400 cells of one degree; a field of 24 degrees holds one."""
    globe = LatLonGrid(np.arange(-84.5, 85), west + np.arange(0.5, 360))
    found = named_cells(globe, None)
    assert len(found) == 19 and all(cells.sum() == 400 for name, cells in found.items() if name != WHOLE)
    place = np.argwhere(found["cape-horn"])
    assert globe.latitude[place[:, 0]].max() == -36.5 and (globe.longitude[place[:, 1]] % 360).min() == 280.5
    small = LatLonGrid(38 + np.arange(0.5, 24), -7 + np.arange(0.5, 24))
    assert list(named_cells(small, None)) == [WHOLE, "europe_west"]
    assert list(named_cells(small, "-5,15,32,52")) == [WHOLE, "europe_west"]


def test_a_named_region_is_the_only_row() -> None:
    """However it was spelt; a map plane has no regions."""
    box = LatLonGrid(40 + np.arange(0.5, 20), -5 + np.arange(0.5, 20))
    assert list(named_cells(box, "Europe-West")) == ["europe_west"]
    plane = ProjectedGrid.even(0, 0, 1e3, (4, 5), "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040")
    assert list(named_cells(plane, None)) == [WHOLE]


def test_the_table_has_a_line_for_each_region() -> None:
    """Columns stand under their names."""
    lines = table(summarised([np.full((2, 2), 1.5, np.float32)], named_cells(LatLonGrid([0, 1], [0, 1]), None)))
    assert len(lines) == 2 and len(set(map(len, lines))) == 1
    assert lines[0].split() == ["ood_index", "mean", "95", "%", "largest", "above", "1"]
    assert lines[1].split() == ["whole", "field", "1.50", "1.50", "1.50", "100.0", "%"]
