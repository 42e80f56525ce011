"""A small forecast file with known fields, and the figures before they are written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gen.data.variables import make_channels
from gen.grid import LatLonGrid
from gen.writers.spec import FileSpec
from gen.writers.staged import StagedWriter

NAMES = ["geopotential", "2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind"]
NAMES += ["mean_sea_level_pressure", "total_precipitation_6hr"]


@pytest.fixture(scope="session")
def make_forecast(tmp_path_factory):
    """Return a function that writes members whose spread grows from zero, on smooth waves of longitude."""

    def make(layout: str = "weatherbench", format: str = "netcdf", members: int = 6, grid: LatLonGrid | None = None):
        grid = grid or LatLonGrid.equiangular(18, 36)
        channels = make_channels(NAMES, [500, 850])
        leads = np.arange(6, 127, 12)
        phi, lam = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
        wave = np.cos(phi) ** 2 * np.cos(3 * lam + 0.02 * leads[:, None, None])
        scale = {"z500": (54000, 2500), "z850": (14000, 900), "2t": (283, 20), "msl": (101300, 1500), "tp06": (0, 3e-3)}
        base = np.stack([a + b * wave for a, b in (scale.get(c.code, (0, 8)) for c in channels)], axis=1)
        noise = np.random.default_rng(1).standard_normal((members, 1, len(channels), 1, 1)) * leads[:, None, None, None]
        size = np.array([scale.get(c.code, (0, 8))[1] for c in channels])[:, None, None]
        values = base + 0.002 * noise * size
        values[:, :, -1] = np.maximum(values[:, :, -1], 0)
        attrs = {"model": "gen-test", "warning": "a forecast of a simulated world, not of the real atmosphere"}
        spec = FileSpec(
            channels,
            grid,
            members,
            np.array(["2024-01-01"], "datetime64[h]"),
            leads.astype("timedelta64[h]"),
            attrs,
            layout,
        )
        path = Path(tmp_path_factory.mktemp("forecast")) / ("f.zarr" if format == "zarr" else "f.nc")
        with StagedWriter(path, spec, format) as writer:
            writer.write(0, slice(0, members), values)
            writer.commit(0, slice(0, members))
        return SimpleNamespace(path=path, values=values.astype(np.float32), spec=spec, leads=leads)

    return make


@pytest.fixture(scope="session")
def forecast(make_forecast):
    """Return a global forecast."""
    return make_forecast()


@pytest.fixture
def figures(monkeypatch):
    """Collect figures instead of writing them."""
    from gen.plot import maps, meteogram, overview, scores, spaghetti

    kept = []
    for module in (maps, meteogram, overview, scores, spaghetti):
        monkeypatch.setattr(module, "save", lambda figure, path: kept.append(figure) or path)
    return kept
