"""Reading a forecast for drawing: every layout, customary units, refusals that say what there is."""

from __future__ import annotations

import numpy as np
import pytest

from gen.grid import LatLonGrid, Region
from gen.plot.forecast_view import ForecastView, parse_point
from gen.plot.units import display, spread_levels


@pytest.mark.parametrize(
    ("layout", "format"),
    [("weatherbench", "netcdf"), ("cf", "netcdf"), ("earth2studio", "netcdf"), ("weatherbench", "zarr")],
)
def test_every_layout_reads_the_same(make_forecast, layout, format):
    """Maps in customary units equal the values written, to float32, south first whatever the file's order."""
    made = make_forecast(layout, format)
    view = ForecastView(made.path)
    assert view.members == 6 and view.leads.tolist() == made.leads.tolist()
    assert np.allclose(view.map("z500", 30), made.values[:, 2, 0] / 98.0665, rtol=1e-6)
    second = [c.code for c in made.spec.channels].index("2t")
    assert np.allclose(view.map("2t", 6), made.values[:, 0, second] - 273.15, atol=1e-3)
    row, column = view.nearest(-35.0, 359.0)
    assert view.grid.latitude[row] == -35 and view.grid.longitude[column] == 0
    assert np.allclose(view.series("msl", row, column)[:, 4], view.map("msl", int(made.leads[4]))[:, row, column])


def test_customary_units():
    """0 °C is 273.15 K, 1000 hPa is 1e5 Pa, 98.0665 m2/s2 are one decametre, 1 mm is 0.001 m; differences in K."""
    for code, si, shown, units in [
        ("2t", 273.15, 0.0, "°C"),
        ("msl", 1e5, 1000.0, "hPa"),
        ("z500", 98.0665, 1.0, "dam"),
        ("tp06", 0.001, 1.0, "mm / 6 h"),
        ("q850", 0.001, 1.0, "g/kg"),
        ("u850", 7.0, 7.0, "m/s"),
    ]:
        assert display(code).convert(np.array(si)) == pytest.approx(shown)
        assert display(code).units == units
    assert display("2t").difference_units == "K"


def test_levels_are_round_and_cover_the_data():
    """Multiples of 1, 2 or 5 times a power of ten, about 9 to 19 of them, from below the data to above."""
    for low, high in [(480.3, 597.1), (-61.2, 43.0), (0.0, 3.3), (1e-6, 9e-6), (99990.0, 99991.0)]:
        levels = display("z500").levels(np.linspace(low, high, 10001))
        step = levels[1] - levels[0]
        mantissa = step / 10 ** np.floor(np.log10(step) + 1e-9)
        assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-6
        assert np.allclose(np.diff(levels), step) and 7 <= len(levels) <= 20
        assert levels[0] <= low + 0.01 * (high - low) and levels[-1] >= high - 0.01 * (high - low)
    assert spread_levels(np.zeros(5))[0] == 0.0 and len(spread_levels(np.zeros(5))) > 2


def test_questions_that_the_file_cannot_answer_are_refused(forecast):
    """Each line names what was asked and what there is."""
    view = ForecastView(forecast.path)
    with pytest.raises(ValueError, match="no lead time 7 h; it has 6, 18, 30"):
        view.choose_leads([7])
    with pytest.raises(ValueError, match="has no t850; it has z500"):
        view.choose_variables(["t850"])
    with pytest.raises(ValueError, match="no forecast from 2023-01-01T00; it has 2024-01-01T00"):
        ForecastView(forecast.path, "2023-01-01")
    with pytest.raises(ValueError, match="is not a date"):
        ForecastView(forecast.path, "yesterday")


def test_places_outside_the_file_are_refused(make_forecast):
    """A regional file knows its corners; the nearest point of a global one is found across Greenwich."""
    grid = LatLonGrid.equiangular(36, 72).subset(Region.parse("30,70,-20,40"))
    view = ForecastView(make_forecast(grid=grid).path)
    row, column = view.nearest(47.0, 359.0)
    assert abs(view.grid.latitude[row] - 47) <= 2.5 and abs(view.grid.longitude[column] - -1) <= 2.5
    with pytest.raises(ValueError, match="lies outside the file, which covers latitudes"):
        view.nearest(0.0, 0.0)


def test_points_are_parsed_and_checked():
    """LAT,LON with signs; words, three numbers and impossible latitudes are refused with an example."""
    assert parse_point("47.4,8.5") == (47.4, 8.5) and parse_point(" -33.9, -70.7 ") == (-33.9, -70.7)
    for text in ("Zurich", "47.4", "91,0", "0,400", "1,2,3", "1..2,3"):
        with pytest.raises(ValueError, match="write LAT,LON in degrees"):
            parse_point(text)
