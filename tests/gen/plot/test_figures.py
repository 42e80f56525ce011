"""The figures show the file's numbers and say what they are."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from gen.plot import quicklook, run_plot
from gen.plot.forecast_view import ForecastView
from gen.plot.maps import ensemble_spread
from gen.plot.overview import draw_overview, spread_growth
from gen.plot.spaghetti import contour_values


def texts(figure) -> str:
    """Return every heading, title and label of a figure."""
    found = [figure.get_suptitle(), figure.get_supxlabel()]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
    return "\n".join(found)


def test_plot_writes_maps_spaghetti_and_meteogram(forecast, tmp_path):
    """One PNG per variable, one of spaghetti, one meteogram; each is an image of reasonable size with real content."""
    written = run_plot(forecast.path, out=tmp_path / "fig.png", point="47.4,8.5", leads=[30, 126])
    names = ["fig_maps_z500", "fig_maps_2t", "fig_maps_msl", "fig_maps_tp06", "fig_spaghetti", "fig_meteogram"]
    assert [path.stem for path in written] == names
    for path in written:
        with Image.open(path) as image:
            assert image.width > 600 and image.height > 300
            assert "SYNTHETIC" in image.info["Description"]
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_maps_say_what_they_show(forecast, figures, tmp_path):
    """Model, members, initialisation, valid time, lead, units, and that it is synthetic."""
    run_plot(forecast.path, variables=["2t"], leads=[30])
    heading = texts(figures[0])
    for part in ("gen-test", "6 members", "init 2024-01-01 00 UTC", "SYNTHETIC (simulated world)", "+30 h"):
        assert part in heading
    for part in ("valid 2024-01-02 06 UTC", "ensemble mean (°C)", "ensemble spread (K)", "not of the real atmosphere"):
        assert part in heading


def test_spaghetti_has_a_line_for_every_member_and_value(forecast, figures):
    """3 values x (6 members + mean), at levels that are multiples of 6 dam and occur in the field."""
    run_plot(forecast.path, variables=["z500"], leads=[126])
    from matplotlib.contour import QuadContourSet

    drawn = [c for c in figures[1].axes[0].get_children() if isinstance(c, QuadContourSet)]
    levels = sorted({float(c.levels[0]) for c in drawn})
    assert len(drawn) == len(levels) * 7 and all(level % 6 == 0 for level in levels)
    mean = ForecastView(forecast.path).map("z500", 126).mean(axis=0)
    assert all(mean[11:].min() < level < mean[11:].max() for level in levels)


def test_contour_values_enclose_a_fifth_half_and_four_fifths():
    """For height = latitude-like steps the values are the area quantiles north of 20 N, rounded to 6 dam."""

    class View:
        latitude = np.arange(-89.5, 90, 1.0)
        grid = type("Grid", (), {"is_global": True})

    mean = 600 - np.repeat(np.abs(View.latitude)[:, None], 4, axis=1)
    sines = [np.sin(np.deg2rad(20)) + s * (1 - np.sin(np.deg2rad(20))) for s in (0.2, 0.5, 0.8)]
    expected = sorted(6 * round((600 - np.rad2deg(np.arcsin(s))) / 6) for s in sines)
    assert contour_values(View(), mean) == expected


def test_meteogram_boxes_are_numpy_percentiles(forecast, figures):
    """Bars span 25-75 % and 10-90 %, lines the range, ticks the median, all at their lead hours, in °C."""
    run_plot(forecast.path, variables=["2t"], point=(12.0, 44.0))
    view = ForecastView(forecast.path)
    row, column = view.nearest(12.0, 44.0)
    values = view.series("2t", row, column)
    axes = next(a for a in figures[-1].axes if "temperature" in a.get_title("left"))
    outer, inner = axes.containers
    for bars, (low, high) in ((outer, (10, 90)), (inner, (25, 75))):
        assert np.allclose([b.get_y() for b in bars], np.percentile(values, low, axis=0))
        assert np.allclose([b.get_y() + b.get_height() for b in bars], np.percentile(values, high, axis=0))
        assert np.allclose([b.get_x() + b.get_width() / 2 for b in bars], forecast.leads)
    span, median = axes.collections
    assert np.allclose([s[:, 1] for s in span.get_segments()], np.stack([values.min(0), values.max(0)], -1))
    assert np.allclose([s[0, 1] for s in median.get_segments()], np.median(values, axis=0))


def test_meteogram_wind_is_the_speed_of_each_member(forecast, figures):
    """The median of sqrt(u^2 + v^2), not the speed of the median wind."""
    run_plot(forecast.path, variables=["2t"], point=(12.0, 44.0))
    view = ForecastView(forecast.path)
    at = view.nearest(12.0, 44.0)
    speed = np.hypot(view.series("10u", *at), view.series("10v", *at))
    axes = next(a for a in figures[-1].axes if "wind" in a.get_title("left"))
    assert np.allclose([s[0, 1] for s in axes.collections[1].get_segments()], np.median(speed, axis=0))


def test_growth_is_the_root_of_the_mean_variance(forecast):
    """Per band: sqrt of the area mean of the members' variance; it grows in proportion to lead time here."""
    view = ForecastView(forecast.path)
    hours, curves = spread_growth(view, "z500")
    variance = ensemble_spread(view.map("z500", int(hours[-1]))) ** 2
    keep = view.latitude >= 20
    expected = np.sqrt(np.average(variance[keep].mean(axis=1), weights=np.cos(np.deg2rad(view.latitude[keep]))))
    assert curves["north of 20 N"][-1] == pytest.approx(expected)
    assert np.allclose(curves["tropics"] / hours, curves["tropics"][0] / hours[0], rtol=0.02)  # float32 of 5.5 dam


def test_quicklook_is_quick(forecast, tmp_path):
    """One figure in less than 8 seconds, imports included, on one slow core."""
    start = time.process_time()
    path = quicklook(forecast.path, tmp_path / "quick.png")
    assert path.exists() and time.process_time() - start < 8


def test_quicklook_of_one_member_shows_fields_instead_of_spread(make_forecast, figures):
    """No division by zero, no panel of spread: a third map takes its place."""
    draw_overview(ForecastView(make_forecast(members=1).path), "unused.png")
    said = texts(figures[0])
    assert "1 member," in said and "spread" not in said and "precipitation" in said


def test_errors_of_the_request_reach_the_caller(forecast, tmp_path):
    """A file that is no forecast, and a malformed point: one line each."""
    (tmp_path / "text.nc").write_text("no forecast")
    for arguments, rule in [
        ({"file": tmp_path / "text.nc"}, "cannot be read"),
        ({"file": tmp_path / "absent.nc"}, "no such forecast"),
        ({"file": forecast.path, "point": "north"}, "write LAT,LON"),
    ]:
        with pytest.raises(ValueError, match=rule) as caught:
            run_plot(**arguments)
        assert "\n" not in str(caught.value)
