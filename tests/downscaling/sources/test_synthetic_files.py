"""Every layout written by the test itself: decoded values, turned axes, converted units, errors of one line."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from downscaling.sources.base import PrecipitationSource, to_rate
from downscaling.sources.opening import open_precipitation
from downscaling.sources.radolan import decode, parse_header
from downscaling.sources.rainshift import open_rainshift
from gen.data.sources import SourceError
from gen.grid import LatLonGrid
from gen.projected_grid import PolarStereographic, ProjectedGrid

TIMES = np.array(["2021-01-01T00", "2021-01-01T01", "2021-01-01T02"], "datetime64[ns]")


def cf_file(path: Path, units: str, values: np.ndarray | None = None, name: str = "tp", **attrs: str) -> Path:
    """Write hourly rain [3, 4, 6], latitudes descending, longitudes across Greenwich in 0..360."""
    field = np.arange(72.0).reshape(3, 4, 6) if values is None else values
    coords = {"time": TIMES, "latitude": [51.5, 50.5, 49.5, 48.5], "longitude": [357.5, 358.5, 359.5, 0.5, 1.5, 2.5]}
    array = xr.DataArray(field, dims=("time", "latitude", "longitude"), coords=coords, attrs={"units": units, **attrs})
    array.to_dataset(name=name).to_netcdf(path)
    return path


def error_of(path: Path, **options: str | float) -> str:
    """Return the one line with which a file is refused."""
    with pytest.raises(SourceError) as caught:
        open_precipitation(path, **options).read(0)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_units_become_millimetres_per_hour() -> None:
    """Amounts are divided by their interval, rates are scaled: 1 kg m-2 s-1 is 3600 mm/h."""
    assert to_rate("m", 1.0, "x") == 1000 and to_rate("kg m**-2", 6.0, "x") == pytest.approx(1 / 6)
    assert to_rate("kg m-2 s-1", None, "x") == 3600 and to_rate("mm/day", None, "x") == pytest.approx(1 / 24)
    assert to_rate("0.1 (mm)", 24.0, "x") == pytest.approx(0.1 / 24)
    with pytest.raises(SourceError, match="an amount .mm. over an unknown interval"):
        to_rate("mm", None, "x")


def test_axes_are_turned_and_unwrapped(tmp_path: Path) -> None:
    """Rows run north, columns east across Greenwich with negative longitudes; hours from the spacing of times."""
    source = open_precipitation(cf_file(tmp_path / "a.nc", "mm"))
    assert isinstance(source, PrecipitationSource) and isinstance(source.grid, LatLonGrid)
    np.testing.assert_allclose(source.grid.longitude, np.arange(-2.5, 3))
    np.testing.assert_allclose(source.grid.latitude, [48.5, 49.5, 50.5, 51.5])
    np.testing.assert_allclose(source.read(1), np.arange(24.0, 48).reshape(4, 6)[::-1])
    assert source.interval_hours == 1 and "not stated" in source.attribution


def test_metres_are_converted_or_found_out(tmp_path: Path) -> None:
    """0.001 m in an hour is 1 mm/h; the same numbers called mm are refused, unless the caller insists."""
    small = np.full((3, 4, 6), 1e-3)
    assert open_precipitation(cf_file(tmp_path / "a.nc", "m", small)).read(0).max() == pytest.approx(1.0)
    wrong = cf_file(tmp_path / "b.nc", "mm", small)
    assert "it looks like metres or another unit; state the units" in error_of(wrong)
    assert open_precipitation(wrong, units="m").read(0).max() == pytest.approx(1.0)
    assert open_precipitation(wrong, units="mm").read(0).max() == pytest.approx(1e-3)
    drizzle = cf_file(tmp_path / "d.nc", "m", small / 100)
    assert open_precipitation(drizzle).read(0).max() == pytest.approx(
        0.01
    )  # a faint field in stated metres is believed
    assert "more than falls on Earth" in error_of(cf_file(tmp_path / "c.nc", "m", np.full((3, 4, 6), 5.0)))


def test_negative_rain_is_refused_and_packing_noise_is_not(tmp_path: Path) -> None:
    """-9999 that is not marked as missing is an error; -1e-9 m becomes zero."""
    values = np.ones((3, 4, 6))
    values[0, 0, 0] = -9999
    assert "has negative rain (-1e+04 mm/h, 1 pixel)" in error_of(cf_file(tmp_path / "a.nc", "mm", values))
    values = np.full((3, 4, 6), 1e-3)
    values[0, 0, 0] = -1e-9
    assert open_precipitation(cf_file(tmp_path / "b.nc", "m", values)).read(0).min() == 0


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """No file, an unknown kind, no rain, no units, unknown units, an irregular grid, garbage."""
    assert "does not exist" in error_of(tmp_path / "none.nc")
    (tmp_path / "a.txt").write_text("rain")
    assert "unknown kind of file; known are Zarr, NetCDF" in error_of(tmp_path / "a.txt")
    assert "no precipitation that is recognised among t2m" in error_of(cf_file(tmp_path / "b.nc", "mm", name="t2m"))
    assert "states no units; give them" in error_of(cf_file(tmp_path / "c.nc", ""))
    assert "unknown units 'furlong'" in error_of(cf_file(tmp_path / "d.nc", "furlong"))
    axis = {"latitude": [0.0, 1.0, 5.0], "longitude": [0.0, 1.0, 2.0], "time": TIMES[:1]}
    uneven = xr.DataArray(np.ones((1, 3, 3)), dims=("time", "latitude", "longitude"), coords=axis, name="tp")
    uneven.assign_attrs(units="mm/h").to_netcdf(tmp_path / "e.nc")
    assert "irregular grid: latitude is not evenly spaced" in error_of(tmp_path / "e.nc")
    for name in ("f.nc", "f.h5", "f.grib2", "f.tif", "f.pgm", "raa01-f---bin"):
        (tmp_path / name).write_bytes(b"no such format " * 9)
        assert name in error_of(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert "is empty" in error_of(tmp_path / "empty")


def test_a_forecast_is_laid_out_along_valid_times_member_by_member(tmp_path: Path) -> None:
    """Two starts, two lead times of six hours, three members, six-hourly amounts in metres: mm/h by start and lead."""
    values = np.random.default_rng(0).random((2, 3, 2, 4, 5)) * 0.02
    dims = ("time", "number", "prediction_timedelta", "latitude", "longitude")
    coords = {
        "time": np.array(["2024-01-01", "2024-01-02"], "datetime64[ns]"),
        "prediction_timedelta": np.array([6, 12], "timedelta64[h]").astype("timedelta64[ns]"),
        "latitude": np.arange(4.0),
        "longitude": np.arange(5.0),
    }
    array = xr.DataArray(values, dims=dims, coords=coords, attrs={"units": "m"}, name="total_precipitation_6hr")
    array.to_dataset().assign_attrs(synthetic="true").to_netcdf(tmp_path / "forecast.nc")
    source = open_precipitation(tmp_path / "forecast.nc")
    assert (source.members, source.interval_hours, source.synthetic) == (3, 6, True)
    stamps = ["2024-01-01T06:00", "2024-01-01T12:00", "2024-01-02T06:00", "2024-01-02T12:00"]
    assert source.times().astype(str).tolist() == stamps
    np.testing.assert_allclose(source.read(2, member=1), values[1, 1, 0] * 1000 / 6, rtol=1e-6)


def test_bounds_end_and_length_of_intervals_come_first(tmp_path: Path) -> None:
    """A daily mean centred at noon ends at midnight; flux units need no interval."""
    time = xr.DataArray(np.array(["2020-01-01T12", "2020-01-02T12"], "datetime64[ns]"), dims="time")
    edges = np.array([["2020-01-01", "2020-01-02"], ["2020-01-02", "2020-01-03"]], "datetime64[ns]")
    data = xr.Dataset(
        {
            "pr": (("time", "lat", "lon"), np.full((2, 3, 4), 1 / 3600), {"units": "kg m-2 s-1"}),
            "time_bnds": (("time", "nv"), edges),
        },
        coords={"time": time.assign_attrs(bounds="time_bnds"), "lat": np.arange(3.0), "lon": np.arange(4.0)},
    )
    data.to_netcdf(tmp_path / "gcm.nc", encoding={"time": {"units": "hours since 2020-01-01"}})
    source = open_precipitation(tmp_path / "gcm.nc")
    assert source.interval_hours == 24 and source.times()[0] == np.datetime64("2020-01-02T00:00")
    np.testing.assert_allclose(source.read(0), 1.0, rtol=1e-6)


def test_a_polar_stereographic_grid_mapping_is_understood(tmp_path: Path) -> None:
    """x and y in kilometres, rows from the north: a plane in metres, rows to the north."""
    mapping = {
        "grid_mapping_name": "polar_stereographic",
        "latitude_of_projection_origin": 90.0,
        "standard_parallel": 60.0,
        "straight_vertical_longitude_from_pole": 10.0,
        "earth_radius": 6370040.0,
    }
    data = xr.Dataset(
        {
            "rain": (
                ("time", "y", "x"),
                np.arange(12.0)[None].reshape(1, 3, 4),
                {"units": "mm/h", "grid_mapping": "crs"},
            ),
            "crs": ((), 0, mapping),
        },
        coords={
            "time": TIMES[:1],
            "y": ("y", [-4000.0, -4001, -4002], {"units": "km"}),
            "x": ("x", np.arange(4.0), {"units": "km"}),
        },
    )
    data.to_netcdf(tmp_path / "plane.nc")
    source = open_precipitation(tmp_path / "plane.nc")
    assert isinstance(source.grid, ProjectedGrid) and source.grid.spacing == (1000, 1000)
    np.testing.assert_allclose(source.read(0), np.arange(12.0).reshape(3, 4)[::-1])
    assert PolarStereographic.parse(source.grid.crs).true_latitude == 60


@pytest.fixture
def region(tmp_path: Path) -> Path:
    """Write a region of RainShift: packed integers, descending latitude, longitudes in 0..360 in and +-180 out."""
    folder = tmp_path / "amazon-basin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for side, step, west in (("in", 0.25, 300.0), ("out", 0.1, -60.0)):
        n = round(2 / step)
        lat, lon = -(step * (np.arange(n) + 0.5)), west + step * (np.arange(n) + 0.5)
        rain = rng.gamma(0.3, 2.0, size=(3, n, n))
        rain[0, 0, 0] = np.nan
        scale = {"in": 1e-6, "out": 1e-2}[side]
        name = {"in": "tp", "out": "precipitation"}[side]
        values = {name: (("time", "latitude", "longitude"), rain * (1e-3 if side == "in" else 1.0))}
        if side == "in":
            values["cape"] = (("time", "latitude", "longitude"), 100 * rng.random((3, n, n)))
        data = xr.Dataset(values, coords={"time": TIMES, "latitude": lat, "longitude": lon})
        pack = {"dtype": "int16", "scale_factor": scale, "add_offset": 32767 * scale - 10 * scale, "_FillValue": -32768}
        store = folder / f"test_data_{side}.zarr"
        data.to_zarr(store, encoding={name: pack}, zarr_format=2)
    static = {
        "lsm": (("latitude", "longitude"), rng.random((20, 20))),
        "z": (("latitude", "longitude"), rng.random((20, 20))),
    }
    coords = {"latitude": -(0.1 * (np.arange(20) + 0.5)), "longitude": -60 + 0.1 * (np.arange(20) + 0.5)}
    xr.Dataset(static, coords=coords).to_netcdf(folder / "static_variables.nc")
    return folder


@pytest.mark.parametrize("zipped", ["", "root", "folder"])
def test_rainshift_is_decoded_turned_and_on_one_set_of_longitudes(region: Path, zipped: str) -> None:
    """int16 leaks nowhere: rain in mm/h to half a packing step, NaN kept, rows north, both grids in one convention."""
    raw = {side: xr.open_zarr(region / f"test_data_{side}.zarr", chunks=None).load() for side in ("in", "out")}
    for side in raw if zipped else ():
        store = region / f"test_data_{side}.zarr"
        with zipfile.ZipFile(f"{store}.zip", "w") as archive:
            for file in sorted(p for p in store.rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(store if zipped == "root" else region))
        shutil.rmtree(store)
    data = open_rainshift(region)
    assert data.coarse.grid.shape == (8, 8) and data.fine.grid.shape == (20, 20)
    assert isinstance(data.coarse.grid, LatLonGrid) and isinstance(data.fine.grid, LatLonGrid)
    np.testing.assert_allclose(data.coarse.grid.longitude_bounds()[[0, -1]], [300, 302])
    np.testing.assert_allclose(data.fine.grid.longitude_bounds()[[0, -1]], [300, 302])
    np.testing.assert_allclose(data.coarse.read(1), raw["in"].tp[1].values[::-1] * 1000, atol=1e-3)
    np.testing.assert_allclose(data.fine.read(1), np.maximum(raw["out"].precipitation[1].values[::-1], 0), atol=5e-3)
    assert np.isnan(data.fine.read(0)[-1, 0]) and data.fine.interval_hours == 1
    np.testing.assert_allclose(data.predictors(2)["cape"], raw["in"].cape[2].values[::-1], rtol=1e-6)
    assert set(data.statics()) == {"lsm", "z"} and data.statics()["lsm"].shape == (20, 20)
    name = "test_data_out.zarr.zip" if zipped else "test_data_out.zarr"
    np.testing.assert_array_equal(open_precipitation(region / name).read(2), data.fine.read(2))
    with pytest.raises(SourceError, match=r"holds neither train_data_in.zarr nor train_data_in.zarr.zip"):
        open_rainshift(region, "train")


def radolan_file(numbers: np.ndarray, interval: str = "INT  60", precision: str = "E-01", bytes_off: int = 0) -> bytes:
    """Return a binary composite of the given 2-byte numbers."""
    rows, columns = numbers.shape
    tail = f"VS 3SW   2.13.1PR {precision}{interval}GP{rows:4d}x{columns:4d}MS 17<boo,ros,prx,gpx> "
    total = 2 * numbers.size + len("RW102050100000814BY0000000") + len(tail) + 1 + bytes_off
    return f"RW102050100000814BY{total:7d}{tail}".encode() + b"\x03" + numbers.astype("<u2").tobytes()


def test_radolan_bits_mean_what_the_description_says() -> None:
    """Twelve bits of value; secondary source keeps it, sign negates it, no data and clutter make it missing."""
    numbers = np.array([[0x0123, 0x1123, 0x2123], [0x4123, 0x8123, 0x29C4]])
    header, amounts = decode(radolan_file(numbers))
    np.testing.assert_allclose(amounts, np.array([[29.1, 29.1, np.nan], [-29.1, np.nan, np.nan]]), rtol=1e-6)
    assert header.time == np.datetime64("2014-08-10T20:50") and header.interval_hours == 1
    assert decode(radolan_file(numbers, precision="E-02"))[1][0, 0] == pytest.approx(2.91)


def test_radolan_headers_that_are_something_else_are_refused() -> None:
    """Another product, too few bytes, bytes that the header does not count, a grid of unknown size."""
    with pytest.raises(SourceError, match="is not that of a RADOLAN amount"):
        parse_header("RX102050100000814BY 810134VS 3SW   2.13.1PR E+00INT   5GP 900x 900MS  2<>")
    with pytest.raises(SourceError, match="holds 10 bytes of data where 12 belong"):
        decode(radolan_file(np.zeros((2, 3)))[:-2])
    with pytest.raises(SourceError, match="has no RADOLAN header"):
        decode(b"RW" * 100)


def test_de1200_corners_are_those_published(tmp_path: Path) -> None:
    """1200 x 1100 cells between 45.69643 N 3.56699 E and 55.84544 N 18.73162 E (outer corners, DWD's RV product)."""
    path = tmp_path / "raa01-rw_10000-2301010050-dwd---bin.gz"
    path.write_bytes(gzip.compress(radolan_file(np.zeros((1200, 1100))), 1))
    grid = open_precipitation(path).grid
    assert isinstance(grid, ProjectedGrid)
    plane = PolarStereographic.parse(grid.crs)
    x, y = grid.x_bounds(), grid.y_bounds()
    np.testing.assert_allclose(plane.inverse(x[0], y[0]), (45.69643, 3.56699), atol=2e-4)
    np.testing.assert_allclose(plane.inverse(x[-1], y[-1]), (55.84544, 18.73162), atol=2e-4)


def test_imerg_granules_are_transposed(tmp_path: Path) -> None:
    """[time, longitude, latitude] in mm/hr becomes [latitude, longitude]; -9999.9 is missing; ends on the half hour."""
    values = np.arange(12.0, dtype=np.float32).reshape(1, 4, 3)
    values[0, 0, 0] = np.float32(-9999.9)
    with h5py.File(tmp_path / "3B-HHR.h5", "w") as file:
        stamps = "StartGranuleDateTime=2024-06-17T23:30:00.000Z;\nStopGranuleDateTime=2024-06-17T23:59:59.999Z;\n"
        file.attrs["FileHeader"] = np.bytes_(stamps)
        file["Grid/lat"], file["Grid/lon"] = np.float32([10.05, 10.15, 10.25]), np.float32([-0.15, -0.05, 0.05, 0.15])
        file["Grid/precipitation"] = values
        attrs = {"units": b"mm/hr", "_FillValue": np.float32(-9999.9), "DimensionNames": b"time,lon,lat"}
        file["Grid/precipitation"].attrs.update(attrs)
    source = open_precipitation(tmp_path / "3B-HHR.h5")
    assert source.interval_hours == 0.5 and source.times()[0] == np.datetime64("2024-06-18T00:00")
    expected = values[0].T.copy()
    expected[0, 0] = np.nan
    np.testing.assert_array_equal(source.read(0), expected)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = [1.0]
    assert "HDF5 of an unknown layout (data)" in error_of(tmp_path / "other.h5")


def test_fmi_reflectivity_becomes_rain(tmp_path: Path) -> None:
    """Z = 223 R^1.53: 1 mm/h is 10 log10 223 = 23.48 dBZ, count 111; 0 is dry, 255 missing; rows from the north."""
    counts = np.full((20, 10), 111, np.uint8)
    counts[0, 0], counts[1, 0] = 255, 0
    head = (
        "P5\n# obstime 201609281600\n# producttype CAPPI\n# projection radar {\n# type stereographic\n"
        "# centrallongitude 25\n# centrallatitude 90\n# truelatitude 60\n# bottomleft 18.600000 57.930000\n"
        "# topright 34.903000 69.005000\n# }\n10 20\n255\n"
    )
    path = tmp_path / "201609281600_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz"
    path.write_bytes(gzip.compress(head.encode() + counts.tobytes()))
    source = open_precipitation(path)
    values = source.read(0)
    assert np.isnan(values[-1, 0]) and values[-2, 0] == 0
    assert values[0, 0] == pytest.approx(10 ** ((23.5 - 10 * np.log10(223)) / 15.3), rel=1e-6)
    assert isinstance(source.grid, ProjectedGrid) and source.times()[0] == np.datetime64("2016-09-28T16:00")
    place = PolarStereographic.parse(source.grid.crs).inverse(source.grid.x_bounds()[0], source.grid.y_bounds()[0])
    assert place == pytest.approx((57.93, 18.6), abs=1e-6)


def test_geotiff_points_scales_and_gaps(tmp_path: Path) -> None:
    """A float image with no-data value, registered at points; without units it is refused, with them it is read."""
    from PIL import Image
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[33550], tags[33922] = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 10.0, 50.0, 0.0)
    tags[34735] = (1, 1, 0, 2, 1024, 0, 1, 2, 1025, 0, 1, 2)
    tags[42113] = "-1"
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    values[0, 0] = -1
    Image.fromarray(values).save(tmp_path / "rain_20200102-0600.tif", tiffinfo=tags)
    assert "states no units" in error_of(tmp_path / "rain_20200102-0600.tif")
    source = open_precipitation(tmp_path / "rain_20200102-0600.tif", units="mm", interval_hours=2.0)
    assert source.times()[0] == np.datetime64("2020-01-02T06:00") and isinstance(source.grid, LatLonGrid)
    np.testing.assert_allclose(source.grid.latitude, [49, 49.5, 50])
    np.testing.assert_allclose(source.grid.longitude, [10, 10.5, 11, 11.5])
    expected = np.where(values < 0, np.nan, values / 2)[::-1]
    np.testing.assert_array_equal(source.read(0), expected)
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.tif")
    assert "several bands" in error_of(tmp_path / "rgb.tif")


def test_grib_of_total_precipitation_is_divided_by_its_hours(tmp_path: Path) -> None:
    """A six-hour amount of 12 kg m-2 on a latitude-longitude grid is 2 mm/h; a temperature is no rain."""
    eccodes = pytest.importorskip("eccodes")
    for name, category, number in (("rain", 1, 8), ("warmth", 0, 0)):
        message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
        product: dict[str, int | str] = (
            {"centre": "kwbc", "productDefinitionTemplateNumber": 8} if name == "rain" else {}
        )
        keys = {**product, "discipline": 0, "parameterCategory": category, "parameterNumber": number, "Ni": 4, "Nj": 3}
        keys |= {"latitudeOfFirstGridPointInDegrees": 52, "latitudeOfLastGridPointInDegrees": 50}
        keys |= {"longitudeOfFirstGridPointInDegrees": 359, "longitudeOfLastGridPointInDegrees": 2}
        keys |= {
            "iDirectionIncrementInDegrees": 1,
            "jDirectionIncrementInDegrees": 1,
            "dataDate": 20200101,
            "dataTime": 0,
        }
        for key, value in keys.items():
            eccodes.codes_set(message, key, value)
        if name == "rain":
            eccodes.codes_set(message, "typeOfStatisticalProcessing", 1)
            eccodes.codes_set(message, "stepRange", "0-6")
        eccodes.codes_set_values(message, np.arange(12.0))
        with (tmp_path / f"{name}.grib2").open("wb") as file:
            eccodes.codes_write(message, file)
        eccodes.codes_release(message)
    source = open_precipitation(tmp_path / "rain.grib2")
    assert isinstance(source.grid, LatLonGrid) and source.interval_hours == 6
    np.testing.assert_allclose(source.grid.longitude, [-1, 0, 1, 2])
    np.testing.assert_allclose(source.read(0), np.arange(12.0).reshape(3, 4)[::-1] / 6, atol=1e-3)
    assert source.times()[0] == np.datetime64("2020-01-01T06:00")
    assert "holds no precipitation message" in error_of(tmp_path / "warmth.grib2")


def test_folders_join_files_of_one_kind_only(tmp_path: Path) -> None:
    """Two hours in two files are one source; the same hour twice, or another grid, is refused."""
    for k in (1, 2):
        stamp = f"raa01-rw_10000-14081020{k}0-dwd---bin"
        raw = radolan_file(np.full((900, 900), k)).replace(b"RW102050", f"RW1020{k}0".encode())
        (tmp_path / stamp).write_bytes(raw)
    source = open_precipitation(tmp_path)
    assert [float(source.read(i)[0, 0]) for i in (0, 1)] == pytest.approx([0.1, 0.2])
    shutil.copy(tmp_path / stamp, tmp_path / f"{stamp}-again")
    assert "both hold 2014-08-10T20:20" in error_of(tmp_path)
    cf_file(tmp_path / "other.nc", "mm/h")
    assert "differ in grid" in error_of(tmp_path)
