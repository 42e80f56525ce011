"""gen data era5: the states of both public layouts on the 1.5 degree grid, the same bits after a kill, nothing half."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from gen.cli import main
from gen.data.era5 import GRID, LICENCE, Era5Request, make_era5
from gen.data.regrid import Coarsening
from gen.data.sources import SourceError, open_source
from gen.data.statics import STATIC_NAMES, load_static
from gen.data.synthetic import era5_like
from gen.data.variables import LADCAST_CHANNELS, parse_channel
from gen.data.windows import open_world
from gen.data.world_writer import WorldWriter
from gen.grid import LatLonGrid

CODES = ("z500", "z850", "2t", "sst", "tp06")
CHANNELS = tuple(parse_channel(c) for c in CODES)
NAMES = ("geopotential", "2m_temperature", "sea_surface_temperature", "total_precipitation_6hr")
FINER = LatLonGrid.equiangular(241, 480, poles=True)  # 0.75 degrees stand for 0.25
SPAN: dict[str, Any] = {"start": "2020-01-01T06", "every": 6, "channels": CHANNELS}


@pytest.fixture(scope="module")
def wb2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("era5") / "wb2.zarr"
    return era5_like(path, "wb2", names=NAMES, levels=(500, 700, 850), count=32, chunk=5)


@pytest.fixture(scope="module")
def arco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("era5") / "arco.zarr"
    return era5_like(path, "arco", grid=FINER, names=NAMES, levels=(300, 500, 850, 1000), count=14, unused=3)


def contents(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def test_the_store_holds_the_states_of_its_source(wb2: Path, tmp_path: Path) -> None:
    """From the WeatherBench layout: the same numbers, on whole six hours, in our layout, with source and statics."""
    out = make_era5(Era5Request(str(wb2), tmp_path / "o.zarr", **SPAN, chunk=2))
    ours, source = open_world(out, CHANNELS), open_world(wb2, CHANNELS, every=6)
    assert ours.span() == "2020-01-01T06 .. 2020-01-02T06" and ours.grid == GRID and ours.chunk == 2
    expected = source.read(slice(None))
    assert torch.equal(ours.read(slice(None)).nan_to_num(), expected.nan_to_num())
    assert torch.equal(load_static(out, GRID).values, load_static(wb2, GRID).values)
    with xr.open_zarr(out) as ds:
        assert ds["geopotential"].dims == ("time", "level", "latitude", "longitude")
        assert ds.attrs["complete"] and ds.attrs["segments"] == [{"first": 0, "stop": 5}]
        assert {*STATIC_NAMES, "geopotential_at_surface"} <= set(ds.data_vars)
        assert ds["2m_temperature"].attrs["units"] == "K"
    assert [p.name for p in tmp_path.iterdir()] == ["o.zarr"]


def test_a_finer_source_gives_area_means(arco: Path, tmp_path: Path) -> None:
    """From the ARCO layout: the means over the cells, rain summed at the source, two of four levels, valid times."""
    out = make_era5(Era5Request(str(arco), tmp_path / "o.zarr", **SPAN, chunk=3))
    ours = open_world(out, CHANNELS)
    source = open_world(arco, CHANNELS, every=6)
    assert ours.span() == source.span() == "2020-01-01T06 .. 2020-01-01T12"
    fine = source.read(slice(None)).numpy()
    expected = torch.from_numpy(Coarsening(FINER, GRID)(fine))
    torch.testing.assert_close(ours.read(slice(None)), expected, rtol=0, atol=0, equal_nan=True)
    for i in (0, 2, 4):
        before = (fine[:, i].astype(float) * FINER.area_weights()).sum((1, 2))
        after = (expected[:, i].double().numpy() * GRID.area_weights()).sum((1, 2))
        np.testing.assert_allclose(after, before, rtol=1e-6)
    sea = [float(np.isnan(make(arco, tmp_path / f"{share}.zarr", share)).mean()) for share in (0.0, 0.5, 1.0)]
    assert sea[0] < sea[1] < sea[2]


def make(source: Path, out: Path, share: float) -> np.ndarray:
    only = {**SPAN, "channels": CHANNELS[3:4]}
    return (
        open_world(make_era5(Era5Request(str(source), out, **only, min_sea=share)), CHANNELS[3:4])
        .read(slice(0, 1))
        .numpy()
    )


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_a_killed_run_goes_on(wb2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int) -> None:
    """Killed after any chunk: no store has the name; the second call reads the rest only and makes the same bytes."""
    request = Era5Request(str(wb2), tmp_path / "o.zarr", **SPAN, chunk=2)
    whole = contents(make_era5(Era5Request(str(wb2), tmp_path / "whole.zarr", **SPAN, chunk=2)))
    write, done = WorldWriter.write, []

    def stop(self: WorldWriter, number: int, states: np.ndarray) -> None:
        if len(done) == killed_after:
            self._group["2m_temperature"][self.times(number)] = 7.0  # half a chunk
            raise KeyboardInterrupt
        done.append(number)
        write(self, number, states)

    monkeypatch.setattr(WorldWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        make_era5(request)
    assert not request.out.exists()
    again: list[int] = []
    monkeypatch.setattr(WorldWriter, "write", lambda self, k, states: (again.append(k), write(self, k, states)))
    assert contents(make_era5(request)) == whole
    assert again == list(range(killed_after, 3))
    make_era5(request)  # complete: nothing is read
    assert len(again) == 3 - killed_after and sorted(p.name for p in tmp_path.iterdir()) == ["o.zarr", "whole.zarr"]


def test_another_request_does_not_touch_a_store(wb2: Path, tmp_path: Path) -> None:
    """Neither a finished nor an unfinished store is overwritten by other times or channels."""
    make_era5(Era5Request(str(wb2), tmp_path / "o.zarr", **SPAN))
    before = contents(tmp_path / "o.zarr")
    with pytest.raises(SourceError, match="exists and was made by another request"):
        make_era5(Era5Request(str(wb2), tmp_path / "o.zarr", **{**SPAN, "start": "2020-01-01T12"}))
    assert contents(tmp_path / "o.zarr") == before
    os.replace(tmp_path / "o.zarr", tmp_path / ".p.zarr.partial")
    (tmp_path / ".p.zarr.progress").write_text('{"chunks": 1}')
    with pytest.raises(SourceError, match="unfinished work of another request"):
        make_era5(Era5Request(str(wb2), tmp_path / "p.zarr", **{**SPAN, "every": 12, "start": "2020-01-01T12"}))


def test_missing_times_cut_segments(wb2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A source without 13 UTC lacks rain at 18: that time is left out and said, and trajectories do not cross it."""
    keep = np.r_[0:13, 14:32]
    with xr.open_zarr(wb2, chunks=None) as ds:
        gap = ds[["total_precipitation", "land_sea_mask"]].isel(time=keep).drop_encoding()
        gap.to_zarr(tmp_path / "gap.zarr", zarr_format=3, consolidated=False)
    with caplog.at_level(logging.WARNING, "gen"):
        out = make_era5(Era5Request(str(tmp_path / "gap.zarr"), tmp_path / "o.zarr", channels=CHANNELS[4:]))
    reader = open_world(out, CHANNELS[4:])
    assert [str(np.datetime64(int(h), "h"))[8:] for h in reader.hours] == ["01T06", "01T12", "02T00", "02T06"]
    assert reader.segments == [{"first": 0, "stop": 2}, {"first": 2, "stop": 4}]
    assert "lacks times: the store has 2 segments" in caplog.text


def test_source_and_licence_travel_with_the_data(tmp_path: Path) -> None:
    """What says it is simulated stays simulated; else source, citation and the words of the licence are there."""
    tiny: Any = {"names": NAMES[1:2], "count": 7, "zarr_format": 3}
    source = era5_like(tmp_path / "s.zarr", **tiny)
    request: Any = {"channels": CHANNELS[2:3]}
    made = zarr.open_group(make_era5(Era5Request(str(source), tmp_path / "a.zarr", **request)), mode="r")
    assert made.attrs["synthetic"] == "true" and "license" not in made.attrs
    zarr.open_group(source, mode="r+").attrs["synthetic"] = "false"
    made = zarr.open_group(make_era5(Era5Request(str(source), tmp_path / "b.zarr", **request)), mode="r")
    assert made.attrs["license"] == LICENCE and "Contains modified Copernicus" in LICENCE
    assert made.attrs["synthetic"] == "false" and "10.1002/qj.3803" in str(made.attrs["source"])
    assert not open_source(tmp_path / "b.zarr").synthetic and open_source(tmp_path / "a.zarr").synthetic


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "1999-01-01"}, "start 1999-01-01T00 lies outside wb2.zarr, which covers 2020-01-01T06"),
        ({"start": "2020-01-01"}, "rain needs the five hours before a time"),
        ({"stop": "2021-01-01"}, "stop 2021-01-01T00 lies outside"),
        ({"start": "soon"}, "start must be a date like"),
        ({"channels": "z500,msl"}, "lacks msl; it has z at 500/700/850 hPa; 2t, sst"),
        ({"channels": "z500,z300"}, "lacks z at 300 hPa"),
        ({"every": "6 hours"}, 'every must be a duration like "6h"'),
        ({"source": "nothing.zarr"}, "nothing.zarr does not exist"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    wb2: Path, tmp_path: Path, capsys: pytest.CaptureFixture, options: dict[str, str], message: str
) -> None:
    """Dates, channels, durations and sources: exit code 2, one line, no file."""
    wanted = {"source": str(wb2), "out": str(tmp_path / "o.zarr"), "channels": "z500,tp06", **options}
    arguments = [part for name, value in wanted.items() for part in (f"--{name}", value)]
    assert main(["data", "era5", *arguments, "--quiet"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert not list(tmp_path.iterdir())


def test_the_command_says_the_size_before(
    wb2: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: Any
) -> None:
    """States, channels and gigabytes come first; a store that cannot fit is refused."""
    arguments = ["data", "era5", "--source", str(wb2), "--channels", "2t,sst", "--every", "1d"]
    with caplog.at_level(logging.INFO, "gen"):
        assert main([*arguments, "--out", str(tmp_path / "o.zarr")]) == 0
    assert "2 states of 2t, sst, at most 0.000465 GB" in caplog.text
    assert capsys.readouterr().out.strip() == str(tmp_path / "o.zarr")
    assert open_world(tmp_path / "o.zarr", CHANNELS[2:4]).hours.size == 2


def test_a_full_disk_is_foreseen(wb2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even compressed states would fit, nothing is begun."""
    import gen.data.era5 as era5

    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(era5.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(SourceError, match="GB before compression.*are free"):
        make_era5(Era5Request(str(wb2), tmp_path / "o.zarr", **SPAN))


def test_without_network_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A cloud store that cannot be reached is one line with a way out."""
    from gen.data import cloud

    monkeypatch.setattr(cloud.check_network, "__defaults__", ("http://127.0.0.1:9", 2.0))
    for source in cloud.STORES:
        assert main(["data", "era5", "--source", source, "--out", str(tmp_path / "o.zarr")]) == 2
        assert f"no network for {source}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_channels_are_those_of_ladcast() -> None:
    """84: six variables on thirteen levels, level ascending within a variable, then six of the surface."""
    assert len(LADCAST_CHANNELS) == 84 and [c.code for c in LADCAST_CHANNELS[:3]] == ["z50", "z100", "z150"]
    codes = [c.code for c in LADCAST_CHANNELS]
    assert codes[13:16] == ["q50", "q100", "q150"] and codes[77] == "w1000"
    assert codes[78:] == ["10u", "10v", "2t", "msl", "sst", "tp06"]
    levels = [50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000]
    assert [c.level for c in LADCAST_CHANNELS[:78]] == 6 * levels
