"""gen.plot.tracks: the map shows where the tracks are, whichever meridian they cross."""

from __future__ import annotations

import numpy as np
import pytest

from gen.grid import LatLonGrid
from gen.plot import tracks as module
from gen.plot.forecast_view import ForecastView
from gen.plot.tracks import Line, draw_tracks, figure_grid, mean_line, window

GLOBE = LatLonGrid.equiangular(121, 240, poles=True)


def line(name: str, lon: list[float], lat: list[float] | None = None, first: int = 0) -> Line:
    """A track with a position every 12 hours."""
    hours = 12.0 * (first + np.arange(len(lon)))
    places = np.array(lat or [15.0 + k for k in range(len(lon))])
    return Line(name, hours, places, np.array(lon, float), np.full(len(lon), 980.0))


@pytest.mark.parametrize("west", [170.0, -8.0, 100.0])
def test_the_window_holds_the_tracks_across_any_meridian(west: float) -> None:
    """From `west` 20 degrees eastwards: a box of those degrees with a margin on both sides, not the way round."""
    region = window([line("0", [(west + 5 * k + 180) % 360 - 180 for k in range(5)])])
    assert region is not None and 36 < region.width < 40
    grid = figure_grid([line("0", [west, west + 20])], 120.0, GLOBE)
    inside = (west + 10 - grid.longitude[0]) % 360
    assert inside < grid.longitude[-1] - grid.longitude[0] and np.diff(grid.longitude)[0] < 0.2


def test_tracks_all_round_are_drawn_on_the_globe() -> None:
    """More than 150 degrees apart, near a pole, or none at all: the whole globe; a regional file keeps its grid."""
    for lines in ([line("0", [0, 90]), line("1", [180, 270])], [line("0", [0, 1], [80.0, 84.0])], []):
        assert figure_grid(lines, 120.0, GLOBE).is_global
    box = LatLonGrid(np.linspace(10, 40, 31), np.linspace(100, 150, 51))
    assert figure_grid([line("0", [110, 120])], 120.0, box) == box


def test_the_mean_stops_when_most_members_have_ended() -> None:
    """Positions are averaged as vectors, across the date line too; below half of the tracks there is no mean."""
    mean = mean_line(
        [line("0", [179, 178, 177], [10.0] * 3), line("1", [-179], [10.0]), line("2", [180, 178], [10.0] * 2)]
    )
    assert mean is not None and mean.hours.tolist() == [0, 12]
    assert abs(mean.lon[0]) == pytest.approx(180.0) and mean.lon[1] == pytest.approx(178.0)
    assert mean_line([]) is None


def test_the_figure_says_what_it_shows(forecast, monkeypatch, tmp_path) -> None:
    """Criteria, radius, members, SYNTHETIC; lines of members, mean and reference on the map and in the pressures."""
    kept: list = []
    monkeypatch.setattr(module, "save", lambda figure, path: kept.append(figure) or path)
    members = [line("0", [178, 179, -180, -179]), line("1", [177, 178, 179, 180])]
    grid = figure_grid(members, 120.0, GLOBE)
    strike = np.full(grid.shape, 0.5)
    draw_tracks(ForecastView(forecast.path), grid, strike, 120.0, members, line("IRENE", [178, 180]), True, "tempest",
                tmp_path / "x.png")  # fmt: skip
    (figure,) = kept
    heading = figure.get_suptitle()
    assert all(part in heading for part in ("one storm", "tempest", "gen-test", "6 members", "SYNTHETIC"))
    on_map, pressures, bar = figure.axes
    assert len(on_map.lines) == 4 and len(pressures.lines) == 5, "two members, mean, reference; the legend's own line"
    assert "120 km" in bar.get_xlabel()
    assert {text.get_text() for text in pressures.get_legend().get_texts()} >= {"members", "IRENE"}
