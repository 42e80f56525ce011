"""The figure of fine rain: what it shows, on both kinds of grid, and its mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen.cli import main
from gen.grid import LatLonGrid
from gen.plot.rain import CHANCES, RATES, _colours, draw_rain, is_rain
from gen.projected_grid import ProjectedGrid
from gen.writers.raster import RasterSpec, RasterWriter

CRS = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040"


def write(path: Path, fine: Any, coarse: Any, members: int = 4) -> Path:
    random = np.random.default_rng(0)
    values = np.where(random.random((members, *fine.shape)) < 0.5, 0, 5 * random.random((members, *fine.shape)))
    values[:, :3, :4] = np.nan
    given = np.full(coarse.shape, 1.5, np.float32)
    times = np.array(["2024-05-01T06"], "datetime64[m]")
    spec = RasterSpec(fine, members, times, 1.0, {"factor": "4 x 4"}, (0,) * members, coarse, 1, lambda t, m: given)
    with RasterWriter(path, spec, "netcdf") as writer:
        writer.write(0, slice(0, members), values[:, None, None])
        writer.commit(0, slice(0, members))
    return path


@pytest.mark.parametrize("plane", [True, False])
def test_the_command_draws_one_figure(plane: bool, tmp_path: Path) -> None:
    """Six maps with the coast, in degrees or kilometres."""
    fine: Any = LatLonGrid(48 + 0.1 * np.arange(40), 0.1 * np.arange(48))
    coarse: Any = LatLonGrid(48.15 + 0.4 * np.arange(10), 0.15 + 0.4 * np.arange(12))
    if plane:
        fine = ProjectedGrid.even(-500_000.0, -4_500_000.0, 10_000.0, (40, 48), CRS)
        coarse = fine.coarsen(4)
    path = write(tmp_path / "fine.nc", fine, coarse)
    assert is_rain(path)
    assert main(["plot", str(path), "--threshold", "2", "--quiet"]) == 0
    assert (tmp_path / "fine.png").stat().st_size > 30_000


def test_the_steps_of_colour_have_one_colour_each() -> None:
    """Below the lowest step the map is pale; rates have a colour above the highest, chances end at one."""
    assert len(RATES) + 1 == _colours(RATES).N and len(CHANCES) == _colours(CHANCES).N


@pytest.mark.parametrize(
    ("wish", "words"),
    [({"members": [9]}, "no member 9"), ({"time": "2024-05-02"}, "no time"), ({"time": "soon"}, "not a date")],
)
def test_mistakes_are_told(wish: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A member or time that is not there."""
    fine = LatLonGrid(48 + 0.1 * np.arange(8), 0.1 * np.arange(8))
    coarse = LatLonGrid(48.15 + 0.4 * np.arange(2), 0.15 + 0.4 * np.arange(2))
    with pytest.raises(ValueError, match=words):
        draw_rain(write(tmp_path / "fine.nc", fine, coarse), tmp_path / "f.png", **wish)


def test_cells_beyond_the_training_data_are_outlined() -> None:
    """Two of six cells side by side: six edges round both, none between them, and a legend; without any, nothing."""
    from gen.plot.canvas import new_figure
    from gen.plot.rain import _Panel

    grid = np.array([48.5, 49.5]), np.array([0.5, 1.5, 2.5])
    axes = new_figure(3, 3, "", "").subplots()
    cells = np.array([[True, True, False], [False, False, False]])
    panel = _Panel(None, grid)
    panel.outlined(axes, grid, ~cells & cells)
    assert not axes.collections and not axes.get_xlabel()
    panel.outlined(axes, grid, cells)
    lines = {tuple(sorted(map(tuple, line.tolist()))) for line in axes.collections[0].get_segments()}
    wanted = {((0, 48), (1, 48)), ((1, 48), (2, 48)), ((0, 49), (1, 49)), ((1, 49), (2, 49))}
    assert lines == wanted | {((0, 48), (0, 49)), ((2, 48), (2, 49))}
    assert "ood_index above 1" in axes.get_xlabel() and "33 % of cells" in axes.get_xlabel()
