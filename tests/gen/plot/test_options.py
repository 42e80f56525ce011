"""`gen plot`: every option through the command line, one line for nonsense, and fields with gaps."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gen.cli import main
from gen.grid import LatLonGrid
from gen.plot.canvas import NO_DATA, MapPanel, new_figure
from gen.plot.forecast_view import ForecastView
from gen.plot.overview import spread_growth
from gen.plot.spaghetti import contour_values


@pytest.fixture(scope="session")
def sea(make_forecast, tmp_path_factory) -> Path:
    """Return a file whose sea-surface temperature is NaN east of Greenwich, as a reanalysis has it over land."""
    made = make_forecast(grid=LatLonGrid.equiangular(19, 36, poles=True))
    path = tmp_path_factory.mktemp("sea") / "sea.nc"
    with xr.open_dataset(made.path, engine="h5netcdf", decode_timedelta=True) as data:
        sst = data["2m_temperature"].where(data.longitude >= 180).rename("sea_surface_temperature")
        both = xr.Dataset({"sea_surface_temperature": sst, "geopotential": data.geopotential}, attrs=data.attrs)
        both.attrs["channels"] = "z500 z850 sst"
        both.to_netcdf(path, engine="h5netcdf")
    return path


def drawn(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run `gen plot` and return the names of the files it says it wrote."""
    assert main(["plot", *line.split()]) == 0
    return [Path(name).name for name in capsys.readouterr().out.split()]


def test_kinds_and_variables_choose_the_figures(sea: Path, figures, capsys) -> None:
    """Without --what maps and z500 spaghetti; with it only those kinds, each of the variables asked for."""
    assert drawn(f"{sea} --leads 30 --out a", capsys) == ["a_maps_z500.png", "a_spaghetti.png"]
    spaghetti = drawn(f"{sea} --what spaghetti --variables sst,z500,sst --leads 30 --out a", capsys)
    assert spaghetti == ["a_spaghetti_sst.png", "a_spaghetti.png"]
    assert "sea surface temperature (°C): every member" in figures[2].get_suptitle()
    line = f"{sea} --what meteogram,maps --variables sst --point 20,-30 --leads 30 --out a"
    assert drawn(line, capsys) == ["a_maps_sst.png", "a_meteogram.png"]
    assert figures[-1].axes[0].get_title("left") == "sea surface temperature (°C)"


def test_a_field_with_gaps_becomes_an_image(sea: Path, tmp_path: Path, capsys) -> None:
    """The real file of a map of sea-surface temperature: written whole."""
    assert drawn(f"{sea} --what maps --variables sst --leads 30 --out {tmp_path}/a", capsys) == ["a_maps_sst.png"]
    assert (tmp_path / "a_maps_sst.png").stat().st_size > 20_000


def test_some_members_are_some_members(forecast, figures) -> None:
    """Mean and spread are those of the chosen members, the heading says which; one member has no spread."""
    view = ForecastView(forecast.path, members=(4, 1))
    whole = ForecastView(forecast.path).map("z500", 30)
    assert np.array_equal(view.map("z500", 30), whole[[1, 4]]) and view.members == 2
    assert np.array_equal(view.series("2t", 3, 4), ForecastView(forecast.path).series("2t", 3, 4)[[1, 4]])
    assert main(["plot", str(forecast.path), "--what", "maps", "--variables", "2t", "--members", "1,4", "--quiet"]) == 0
    assert main(["plot", str(forecast.path), "--what", "maps", "--variables", "2t", "--members", "5", "--quiet"]) == 0
    assert "2 members of 6 (1, 4)" in figures[0].get_suptitle()
    assert "1 member of 6 (5)" in figures[1].get_suptitle()
    assert len(figures[0].axes) > len(figures[1].axes)  # the row of spread and its colour bar


def test_projections_of_cartopy_are_used_or_refused_in_one_line(sea: Path, tmp_path: Path) -> None:
    """Plate Carree is 360 degrees wide, no coast jumps across Robinson's map; reading loads no ecCodes (see stores)."""
    if importlib.util.find_spec("cartopy") is None:
        pytest.skip("needs pip install 'gen-earth[viz]'")
    code = f"""
import sys
from gen.cli import main
from gen.plot import maps
kept = []
maps.save = lambda figure, path: kept.append(figure) or path
names = ["PlateCarree", "Nonsense", "UTM", "Orthographic", "Robinson"]
line = ["plot", {str(sea)!r}, "--what", "maps", "--variables", "sst", "--leads", "30", "--quiet", "--projection"]
codes = [main([*line, name]) for name in names]
low, high = kept[0].axes[0].get_xlim()
axes = kept[1].axes[0]
segments = [s for c in axes.collections for s in getattr(c, "get_segments", list)() if len(s) > 1]
jump = max(abs(s[1:, 0] - s[:-1, 0]).max() for s in segments) / (axes.get_xlim()[1] - axes.get_xlim()[0])
print(codes, 358 < high - low < 365, len(segments) > 100 and jump < 0.1, "eccodes" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.strip().endswith("[0, 2, 2, 2, 0] True True False")
    said = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    words = ("no projection 'Nonsense'", "UTM", "whole map")
    assert all(word in line for word, line in zip(words, said, strict=True))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--what map", "there is no figure 'map'; choose of maps, spaghetti, meteogram"),
        ("--what meteogram", "a meteogram needs a place; give --point LAT,LON"),
        ("--members 6", "has no member 6; it has 0 to 5"),
        ("--members a", "'a' is not a list of numbers"),
        ("--leads 7", "has no lead time 7 h; it has 6, 18, 30"),
        ("--variables t850", "has no t850; it has sst, z500, z850"),
        ("--variables ssst", "unknown channel 'ssst'; did you mean sst?"),
        ("--init 2025-01-01", "has no forecast from 2025-01-01T00"),
        ("--init soon", "init 'soon' is not a date"),
        ("--what meteogram --variables sst --point 20,30", "sst has no values at grid point 20,30"),
        ("--out nowhere/a", "nowhere"),
    ],
)
def test_nonsense_is_one_line(sea: Path, line: str, words: str, tmp_path: Path, capsys, monkeypatch) -> None:
    """Exit code 2, the value and what there is, no figure."""
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in line else ["--out", "a"]
    assert main(["plot", str(sea), *out, *line.split()]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1 and words in said.err
    assert not list(tmp_path.iterdir())


def test_empty_lists_mean_the_default(sea: Path, figures, capsys) -> None:
    """`--leads ,` and the like ask for nothing in particular."""
    line = f"{sea} --variables , --leads , --members , --what , --out a"
    assert drawn(line, capsys) == ["a_maps_z500.png", "a_spaghetti.png"]


def test_gaps_are_grey_and_said(sea: Path, figures) -> None:
    """Half a map of sea-surface temperature is painted as "no value", a whole field is not; the colour bar says so."""
    assert main(["plot", str(sea), "--what", "maps", "--variables", "sst,z500", "--leads", "30", "--quiet"]) == 0
    grey = [[p for p in f.axes[0].patches if p.get_facecolor()[0] == float(NO_DATA)] for f in figures]
    assert [len(patches) for patches in grey] == [1, 0]
    labels = [[axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()] for figure in figures]
    assert labels[0] == ["ensemble mean (°C); grey: no value", "ensemble spread (K); grey: no value"]
    assert labels[1] == ["ensemble mean (dam)", "ensemble spread (dam)"]


def test_a_gap_does_not_spread_over_seam_or_pole() -> None:
    """Continued to the date line and the poles, a field keeps what is known: one column or row of NaN eats no other."""
    grid = LatLonGrid.equiangular(18, 36)
    panel = MapPanel(new_figure(4, 3, "a").subplots(), grid.latitude, grid.longitude)
    field = np.ones(grid.shape)
    field[:, 18] = np.nan  # 180 degrees east: the first column of the map
    field[-1, :9] = np.nan
    _, _, placed = panel._place(field)
    assert (placed[:-2, [0, 2, -1]] == 1).all() and np.isnan(placed[1:-1, 1]).all() and (placed[-1] == 1).all()


def test_spaghetti_and_growth_know_only_the_sea(sea: Path) -> None:
    """Contours enclose shares of the known area; the spread is the mean over known cells: half the sphere here."""
    view, full = ForecastView(sea), ForecastView(sea)
    mean = view.map("sst", 30).mean(axis=0)
    halves = np.where(view.longitude >= 180, 0.0, np.nan) + np.broadcast_to(view.latitude[:, None], mean.shape)
    whole = np.broadcast_to(view.latitude[:, None], mean.shape)
    assert contour_values(view, halves, 1.0) == contour_values(full, whole, 1.0)
    _, curves = spread_growth(view, "sst")
    variance = view.map("sst", int(view.leads[-1])).var(axis=0, ddof=1)[:, view.longitude >= 180].mean(axis=1)
    north = view.latitude >= 20
    weights = np.cos(np.deg2rad(view.latitude[north]))
    assert curves["north of 20 N"][-1] == pytest.approx(np.sqrt(np.average(variance[north], weights=weights)))


def test_a_file_of_nothing_but_gaps_is_refused(sea: Path, tmp_path: Path, capsys) -> None:
    """Spaghetti of a field without a value north of 20 N is one line, not an empty figure."""
    with xr.open_dataset(sea, engine="h5netcdf", decode_timedelta=True) as data:
        data.where(data.latitude < 10).to_netcdf(tmp_path / "south.nc", engine="h5netcdf")
    assert main(["plot", str(tmp_path / "south.nc"), "--what", "spaghetti", "--variables", "sst"]) == 2
    assert "has no values where spaghetti is drawn" in capsys.readouterr().err
