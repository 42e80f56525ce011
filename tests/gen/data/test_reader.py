"""gen.data.reader: the same states from every layout and format; rain from hourly totals; gaps, NaN and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from gen.data.reader import StoreReader
from gen.data.sources import SourceError
from gen.data.synthetic import analytic_states, era5_like, toy_world
from gen.data.variables import parse_channel
from gen.data.windows import ChunkStream, WorldReader, open_world
from gen.grid import LatLonGrid

GRID = LatLonGrid.equiangular(13, 24, poles=True)
LEVELS = (300, 500, 850)
CHANNELS = tuple(parse_channel(c) for c in ("2t", "z850", "z300", "q500", "sst", "tp06"))
NAMES = ("geopotential", "specific_humidity", "2m_temperature", "sea_surface_temperature", "total_precipitation_6hr")
COUNT = 30
TINY: dict[str, Any] = {"grid": GRID, "names": NAMES, "levels": LEVELS, "count": COUNT}


@pytest.fixture(scope="module")
def wb2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return era5_like(tmp_path_factory.mktemp("era5") / "wb2.zarr", "wb2", **TINY)


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    """Return the analytic states [T, C, H, W]; the sea everywhere, and rain as the sum of the six hourly shares."""
    hours = np.arange(COUNT) + np.datetime64("2020-01-01", "h").astype(int)
    states = torch.from_numpy(analytic_states(CHANNELS, GRID, hours)).double()
    hourly = states[:, 5] / 6 - 1e-9
    states[5:, 5] = torch.stack([hourly[k - 5 : k + 1].sum(0) for k in range(5, COUNT)]).clamp(min=0)
    return states[5:]


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("wb2", {"zarr_format": 2}),
        ("wb2", {"zarr_format": 3, "chunk": 7}),
        ("arco", {"zarr_format": 2, "unused": 9}),
        ("arco", {"zarr_format": 3, "chunk": 4, "unused": 2}),
    ],
)
def test_layout_and_format_do_not_matter(tmp_path: Path, truth: torch.Tensor, layout: str, options: Any) -> None:
    """Axis order, direction, chunks and format: the analytic states, on ascending latitude, at the stated times.

    Tolerance: float32 rounding; for rain, of the hourly totals of up to a millimetre (six of 6e-11).
    """
    reader = open_world(era5_like(tmp_path / "x.zarr", layout, **TINY, **options), CHANNELS)
    assert reader.grid == GRID and reader.span() == "2020-01-01T05 .. 2020-01-02T05"
    states = reader.read(slice(None))
    assert states.dtype == torch.float32 and states.is_contiguous()
    torch.testing.assert_close(states[:, :4].double(), truth[:, :4], rtol=1e-6, atol=0)
    torch.testing.assert_close(states[:, 5].double(), truth[:, 5], rtol=1e-6, atol=4e-10)
    sea = ~states[:, 4].isnan()
    assert 0.3 < float(sea.float().mean()) < 0.9
    torch.testing.assert_close(states[:, 4][sea].double(), truth[:, 4][sea], rtol=1e-6, atol=0)
    assert torch.equal(reader.read(slice(3, 8)), states[3:8]) or bool(sea[3:8].logical_not().any())


def test_rain_is_the_sum_of_six_hourly_totals(tmp_path: Path) -> None:
    """Totals 1, 2, 3 ... mm give 21, 27, 33 ... mm; negative sums become 0; a single negative total only lessens."""
    path = era5_like(tmp_path / "x.zarr", **TINY)
    group: Any = zarr.open_group(str(path), mode="r+")
    totals = np.arange(1, COUNT + 1, dtype=np.float32)[:, None, None] * np.full((1, 24, 13), 1e-3, np.float32)
    totals[0, 0, 0] = -0.5e-3
    totals[:, 1, 0] = -1e-6
    group["total_precipitation"][:] = totals
    rain = open_world(path, [parse_channel("tp06")]).read(slice(0, 3))[:, 0]
    torch.testing.assert_close(rain[:, 4, 4], torch.tensor([0.021, 0.027, 0.033]))
    assert float(rain[0, 0, 0]) == pytest.approx(0.0195) and bool((rain[:, 0, 1] == 0).all())


def test_a_time_needs_its_five_predecessors(wb2: Path) -> None:
    """The first five hours are no states where rain is asked for, and are where it is not; each refusal is a line."""
    reader = open_world(wb2, CHANNELS)
    assert len(reader.hours) == COUNT - 5 and reader.position("2020-01-01T05") == 0
    message = "wb2.zarr has no states for 2020-01-01T04: total_precipitation_6hr needs the hourly totals of the five"
    with pytest.raises(SourceError, match=message) as caught:
        reader.position("2020-01-01T04")
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="no states for 2021-01-01T00: it covers 2020-01-01T05 .. 2020-01-02T05"):
        reader.position("2021-01-01")
    assert open_world(wb2, CHANNELS[:5]).position("2020-01-01") == 0
    with pytest.raises(SourceError, match=r"no times in \[2019-01-01, 2020-01-01\)"):
        reader.indices("2019-01-01", "2020-01-01")


@pytest.mark.parametrize("every", [1, 3, 6, 12])
def test_a_subset_of_times_is_the_same_states(wb2: Path, every: int) -> None:
    """Every so many hours, at whole multiples since 1970: the states of the full reader, rain included."""
    whole, some = open_world(wb2, CHANNELS), open_world(wb2, CHANNELS, every)
    assert some.hours.tolist() == [h for h in whole.hours.tolist() if h % every == 0]
    assert some.stride == every and some.segments == [{"first": 0, "stop": len(some.hours)}]
    picked = whole.read(slice(None))[np.isin(whole.hours, some.hours)]
    assert torch.equal(some.read(slice(None)).nan_to_num(), picked.nan_to_num())
    with pytest.raises(SourceError, match="no times that are multiples of 1000 h"):
        open_world(wb2, CHANNELS, 1000)


def test_gaps_cut_segments(tmp_path: Path, truth: torch.Tensor) -> None:
    """Two hours are missing: two stretches, the second five hours shorter where rain is summed, no state misdated."""
    whole = xr.open_zarr(era5_like(tmp_path / "whole.zarr", **TINY), chunks=None)
    keep = np.r_[0:12, 14:COUNT]
    whole.isel(time=keep).drop_encoding().to_zarr(tmp_path / "gap.zarr", zarr_format=3, consolidated=False)
    dry, wet = open_world(tmp_path / "gap.zarr", CHANNELS[:4]), open_world(tmp_path / "gap.zarr", CHANNELS)
    assert dry.segments == [{"first": 0, "stop": 12}, {"first": 12, "stop": 28}]
    assert wet.segments == [{"first": 0, "stop": 7}, {"first": 7, "stop": 18}]
    assert wet.hours.tolist() == (np.datetime64("2020-01-01", "h").astype(int) + np.r_[5:12, 19:COUNT]).tolist()
    expected = truth[np.r_[0:7, 14 : COUNT - 5]]
    torch.testing.assert_close(wet.read(slice(None))[:, 5].double(), expected[:, 5], rtol=1e-6, atol=4e-10)
    with pytest.raises(SourceError, match="2020-01-01T16: total_precipitation_6hr needs the hourly totals"):
        wet.position("2020-01-01T16")


def test_a_simulated_world_is_read_as_before(tmp_path: Path) -> None:
    """States, times, chunks, segments and static fields are those of the world's own reader."""
    path = toy_world(tmp_path / "world.zarr", grid=LatLonGrid.gaussian(4, 8), count=40, chunk=10, segments=(20,))
    channels = [parse_channel(c) for c in ("2t", "z850", "z500", "tp06")]
    old, new = WorldReader(path, channels), open_world(path, channels)
    assert torch.equal(new.read(slice(3, 33)), old.read(slice(3, 33))) and np.array_equal(new.hours, old.hours)
    assert (new.chunk, new.segments, new.stride) == (old.chunk, old.segments, 6)
    assert new.blocks(5, 37) == old.blocks(5, 37) == [(10, 20), (20, 30)]
    names = ["geopotential_at_surface", "land_sea_mask"]
    torch.testing.assert_close(new.static(names), old.static(names))
    batches = [next(iter(ChunkStream(r, 0, 40, 8, seed=3))) for r in (old, new)]
    assert torch.equal(*batches)


def test_hourly_chunks_of_one_fill_batches(wb2: Path) -> None:
    """Where a chunk is one time, as many are mixed as a batch needs; an epoch has whole batches only, each state once.

    24 of the 25 states make three batches of eight: the last state has joined the group before.
    """
    reader = open_world(wb2, CHANNELS[:1])
    stream = ChunkStream(reader, 5, 30, 8, seed=0)
    batches = [b for _, b in zip(range(3), stream, strict=False)]
    assert [len(b) for b in batches] == [8, 8, 8]
    everything = reader.read(slice(None))
    seen = [int((everything == state).all((1, 2, 3)).nonzero()[0, 0]) for b in batches for state in b]
    assert len(set(seen)) == 24 and min(seen) >= 5


def test_nan_is_refused_by_channel_and_time(tmp_path: Path) -> None:
    """NaN in the sea surface is land; in any other channel it is one line with the channel and the time."""
    path = era5_like(tmp_path / "x.zarr", **TINY)
    group: Any = zarr.open_group(str(path), mode="r+")
    group["geopotential"][20, 2, 3, 4] = np.nan
    reader = open_world(path, CHANNELS)
    assert reader.read(slice(0, 15)).isnan().any()
    with pytest.raises(SourceError, match="z850 at 2020-01-01T20 has NaN or infinity in 1 of 312 cells"):
        reader.read(slice(10, 20))
    group["sea_surface_temperature"][7, 0, 0] = np.inf
    with pytest.raises(SourceError, match="sst at 2020-01-01T07 has NaN or infinity"):
        reader.read(slice(0, 5))


def test_threads_may_share_a_reader(wb2: Path) -> None:
    """Sixteen readings at once are those of one after the other."""
    reader = open_world(wb2, CHANNELS)
    expected = reader.read(slice(None)).nan_to_num()
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda k: reader.read(slice(k, k + 2)), range(16)))
    assert all(torch.equal(p.nan_to_num(), expected[k : k + 2]) for k, p in enumerate(parts))


def test_packed_integers_are_unpacked(wb2: Path, tmp_path: Path) -> None:
    """Scale, offset and fill value of CF are undone as xarray undoes them."""
    with xr.open_zarr(wb2, chunks=None) as ds:
        packed = ds[["2m_temperature", "sea_surface_temperature"]].load().drop_encoding()
    packing = {"scale_factor": 0.01, "add_offset": 280.0, "dtype": "int16", "_FillValue": -32767}
    encoding: Any = {name: packing | {"chunks": (1, 24, 13)} for name in packed}
    packed.to_zarr(tmp_path / "p.zarr", encoding=encoding, zarr_format=3, consolidated=False)
    states = open_world(tmp_path / "p.zarr", [CHANNELS[0], CHANNELS[4]]).read(slice(0, 4)).numpy()
    with xr.open_zarr(tmp_path / "p.zarr", chunks=None, consolidated=False) as ds:
        for i, name in enumerate(packed):
            expected = ds[name][:4].transpose("time", "latitude", "longitude").values
            np.testing.assert_allclose(states[:, i], expected, rtol=3e-7)


def test_static_fields_lie_the_right_way(wb2: Path) -> None:
    """In SI units on ascending rows, whatever the order in the store."""
    reader = open_world(wb2, CHANNELS[:1])
    field = reader.static_field(["geopotential_at_surface", "land_sea_mask"])
    with xr.open_zarr(wb2, chunks=None) as ds:
        assert np.array_equal(field.values[0], ds["geopotential_at_surface"].transpose("latitude", "longitude"))
    assert len(reader.static_names()) == 6
    with pytest.raises(SourceError, match="lacks zs; it has"):
        reader_without = open_world(wb2, CHANNELS[:1])
        reader_without._found.slots.pop(("geopotential_at_surface", None))
        reader_without.static_field(["geopotential_at_surface"])


def test_what_is_missing_is_one_line(wb2: Path, tmp_path: Path) -> None:
    """Channels, levels, stores and damaged stores."""
    cases = [
        (wb2, "msl", "lacks msl; it has z, q at 300/500/850 hPa; 2t, sst"),
        (wb2, "z700", "lacks z at 700 hPa"),
        (tmp_path / "no.zarr", "2t", "does not exist"),
        (tmp_path, "2t", "is no Zarr store"),
    ]
    for path, code, message in cases:
        with pytest.raises(SourceError, match=message) as caught:
            StoreReader(path, [parse_channel(code)])
        assert "\n" not in str(caught.value)
    damaged = era5_like(tmp_path / "d.zarr", **TINY | {"count": 8})
    chunk = next((damaged / "2m_temperature").glob("3.*"))
    chunk.write_bytes(b"no chunk")
    with pytest.raises(SourceError, match="2m_temperature cannot be read"):
        open_world(damaged, CHANNELS[:1]).read(slice(None))


def test_readers_go_into_worker_processes(wb2: Path) -> None:
    """Forked workers of a data loader and a pickled reader give the same states."""
    import pickle

    from torch.utils.data import DataLoader

    reader = open_world(wb2, CHANNELS[:4])
    expected = reader.read(slice(0, 8))
    again = pickle.loads(pickle.dumps(reader))
    states = [again.read(slice(i, i + 1))[0] for i in range(8)]
    assert torch.equal(torch.stack(states), expected)
    loader = DataLoader(States(reader), batch_size=4, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.cat(list(loader)), expected)


class States(torch.utils.data.Dataset):
    """Eight states of a reader, one at a time."""

    def __init__(self, reader: StoreReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.reader.read(slice(index, index + 1))[0]
