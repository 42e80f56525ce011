"""What the networks are told: coarse rain on fine pixels, places, numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from downscaling.conditions import FEATURES, FIELDS, STATICS, features, known_fields, place_km, positions, upsample
from downscaling.transform import RainTransform
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid


def test_positions_count_coarse_cells() -> None:
    """Fine centres in coarse cells by their edges, in either order of the axis; factor 2.5."""
    edges = np.arange(0.0, 1.01, 0.25)
    fine = np.arange(0.05, 1.0, 0.1)
    expected = (np.arange(10) + 0.5) / 2.5
    np.testing.assert_allclose(positions(fine, edges).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(positions(fine[::-1], edges[::-1]).numpy(), expected, atol=1e-12)


def test_a_plane_is_interpolated_exactly() -> None:
    """A field linear in rows and columns, between the outermost cell centres; pixels on an edge see both cells."""
    coarse = 2.0 * torch.arange(6.0)[:, None] - torch.arange(8.0)[None]
    rows, columns = ((torch.arange(n, dtype=torch.float64) + 0.5) / 2.5 for n in (15, 20))
    cell, linear = upsample(coarse, rows, columns)
    plane = 2.0 * (rows - 0.5)[:, None] - (columns - 0.5)[None]
    inside = (slice(2, -2), slice(2, -2))
    torch.testing.assert_close(linear[inside], plane.float()[inside], rtol=0, atol=1e-5)
    finest = coarse.repeat_interleave(5, 0).repeat_interleave(5, 1)
    mean = torch.nn.functional.avg_pool2d(finest[None], 2)[0]
    torch.testing.assert_close(cell, mean, rtol=0, atol=1e-5)


def test_known_fields_say_what_they_are_called() -> None:
    """Amounts, wetness, validity and the phase within the cell; missing cells count as dry and invalid."""
    coarse = torch.tensor([[0.0, 4.0], [torch.nan, 1.0]])
    rows = columns = (torch.arange(8, dtype=torch.float64) + 0.5) / 4
    transform = RainTransform()
    found = dict(zip(FIELDS, known_fields(coarse, rows, columns, transform), strict=True))
    assert float(found["cell_amount"][0, 7]) == pytest.approx(float(transform.forward(torch.tensor(4.0))))
    assert found["cell_wet"][:4, :4].sum() == 0 and found["cell_wet"][:4, 4:].min() == 1
    assert found["valid"][4:, :4].sum() == 0 and found["valid"][:4].min() == 1
    assert float(found["row_sin"][1, 0]) == pytest.approx(math.sin(2 * math.pi * 0.375))
    assert float(found["column_cos"][0, 6]) == pytest.approx(math.cos(2 * math.pi * 0.625))
    assert all(not bool(found[name].any()) for name in (*STATICS, "statics_known"))
    statics = {name: torch.full((8, 8), float(i + 1)) for i, name in enumerate(STATICS)}
    told = known_fields(coarse, rows, columns, transform, statics)
    assert told[-5:, 0, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 1.0]


def test_features_know_local_time_and_the_season() -> None:
    """Noon of local time at 90 W is 18 UTC; unknown times say so."""
    named = dict(
        zip(FEATURES, features(4.0, 1.0, 1.0, 45.0, -90.0, np.datetime64("2024-07-01T18")).tolist(), strict=True)
    )
    assert named["hour_cos"] == pytest.approx(-1.0, abs=1e-6) and named["time_known"] == 1.0
    assert named["log_factor"] == 0.0 and named["latitude_sin"] == pytest.approx(math.sqrt(0.5))
    assert named["year_cos"] == pytest.approx(-1.0, abs=0.01)
    assert features(4.0, 1.0, 0.0, 45.0)[3:8].tolist() == [0.0] * 5


def test_places_are_kilometres() -> None:
    """A degree of latitude is 111.2 km; a degree of longitude shrinks with the cosine; projected grids are metres."""
    grid = LatLonGrid(np.array([59.0, 60.0, 61.0]), np.array([10.0, 11.0, 12.0]))
    north, east = place_km(grid)
    assert float(north[1, 0] - north[0, 0]) == pytest.approx(111.19, abs=0.01)
    assert float(east[1, 1] - east[1, 0]) == pytest.approx(111.19 / 2, abs=0.01)
    plane = ProjectedGrid.even(0.0, 0.0, 2000.0, (3, 4), "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040")
    steps = place_km(plane)
    assert float(steps[0, 1, 0] - steps[0, 0, 0]) == 2.0 and float(steps[1, 0, 1] - steps[1, 0, 0]) == 2.0
