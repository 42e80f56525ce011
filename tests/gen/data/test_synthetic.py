"""Analytic weather is smooth over the poles, seeded and readable as a world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gen.data.sources import open_source
from gen.data.splits import Segments
from gen.data.synthetic import analytic_states, toy_world
from gen.data.variables import make_channels
from gen.data.windows import WorldReader
from gen.grid import LatLonGrid

NAMES = ["geopotential", "u_component_of_wind", "v_component_of_wind", "total_precipitation_6hr"]
CHANNELS = make_channels(NAMES, [500])


def test_fields_are_continuous_over_the_pole() -> None:
    """Half a turn apart on the last rows, scalars agree and wind components change sign as the rows close in."""
    differences = []
    for rows in (20, 40, 80):
        x = analytic_states(CHANNELS, LatLonGrid.equiangular(rows, 16), [0])[0, :, -1]
        sign = np.array([c.variable.pole_sign for c in CHANNELS])[:, None]
        opposite = np.roll(x, 8, axis=-1) * sign
        differences.append(np.abs(x - opposite).max(-1)[:3])
    ratio = differences[0] / differences[2]
    assert (ratio > 3.0).all()  # first order in the row spacing: 4 for a quarter of it


def test_the_seed_and_the_time_decide() -> None:
    """Same seed, same bits; another seed or a far time, other weather; six hours later, much the same."""
    grid = LatLonGrid.gaussian(12, 24)
    a, b = (analytic_states(CHANNELS, grid, [0, 6, 2400], seed) for seed in (0, 1))
    assert np.array_equal(a, analytic_states(CHANNELS, grid, [0, 6, 2400], 0))
    near, far = np.abs(a[1] - a[0]).mean((1, 2)), np.abs(a[2] - a[0]).mean((1, 2))
    assert (near[:3] < 0.6 * far[:3]).all()
    assert np.abs(a - b).max() > 10
    assert a[:, -1].min() >= 0  # rain


def test_a_toy_world_is_a_world(tmp_path: Path) -> None:
    """Readers for training and for analyses see the same states; segments and the synthetic mark are stated."""
    path = toy_world(tmp_path / "w.zarr", names=NAMES, levels=(500, 850), count=24, chunk=8, segments=(16,))
    reader, source = WorldReader(path, CHANNELS), open_source(path)
    assert torch.equal(reader.read(slice(5, 6))[0], source.read(source.times()[5], CHANNELS).values)
    assert reader.chunk == 8 and source.synthetic
    assert Segments.of(path).ranges == ((0, 16), (16, 24))
    jump = (reader.read(slice(16, 17)) - reader.read(slice(15, 16))).abs().mean()
    assert jump > 2 * (reader.read(slice(15, 16)) - reader.read(slice(14, 15))).abs().mean()
    plain = open_source(toy_world(tmp_path / "w.nc", names=NAMES, levels=(500, 850), count=6))
    assert torch.equal(plain.read(plain.times()[5], CHANNELS).values, reader.read(slice(5, 6))[0])
