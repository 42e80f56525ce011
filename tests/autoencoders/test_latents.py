"""autoencoders.latents: a world is encoded once, in as many goes as it takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from autoencoders.latents import LatentStore, encode_world
from autoencoders.recipe import CodecRecipe
from autoencoders.weather import WeatherCodec
from gen.data.synthetic import toy_world
from gen.grid import LatLonGrid


@pytest.fixture(scope="module")
def codec(recipe: CodecRecipe) -> WeatherCodec:
    return recipe.codec(recipe.model())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(codec: WeatherCodec, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_world(codec, "digest", world, tmp_path_factory.mktemp("latents") / "whole.zarr")


def stored(path: Path) -> np.ndarray:
    group: Any = zarr.open_group(path, mode="r")
    return np.asarray(group["latent"])


def stops_after(count: int) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return report


def test_an_interrupted_encoding_goes_on(codec: WeatherCodec, world: Path, whole: Path, tmp_path: Path) -> None:
    """Stopped after two of six chunks and started again: only four are computed, all bits are those of one go."""
    out = tmp_path / "latents.zarr"
    with pytest.raises(KeyboardInterrupt):
        encode_world(codec, "digest", world, out, report=stops_after(2))
    assert np.isfinite(stored(out)).all(axis=(1, 2, 3)).sum() == 32
    read, reads = codec.encode, []

    def counted(values: torch.Tensor) -> torch.Tensor:
        reads.append(len(values))
        return read(values)

    codec.encode = counted  # type: ignore[method-assign]
    try:
        encode_world(codec, "digest", world, out)
    finally:
        del codec.encode  # type: ignore[method-assign]
    assert reads == [16, 16, 16, 16]
    assert stored(out).tobytes() == stored(whole).tobytes()
    assert not list(tmp_path.glob(".*"))


def test_what_is_not_simulated_yet_is_left_out(codec: WeatherCodec, world: Path, whole: Path, tmp_path: Path) -> None:
    """A chunk with NaN stays empty and is encoded by a later call, when the world is complete."""
    growing = tmp_path / "world.zarr"
    shutil.copytree(world, growing)
    group: Any = zarr.open_group(growing, mode="r+")
    kept = np.asarray(group["2m_temperature"])
    group["2m_temperature"][40:48] = np.nan
    out = encode_world(codec, "digest", growing, tmp_path / "latents.zarr")
    empty = np.isnan(stored(out)).all(axis=(1, 2, 3))
    assert np.flatnonzero(empty).tolist() == list(range(32, 48))
    group["2m_temperature"][:] = kept
    encode_world(codec, "digest", growing, out)
    assert stored(out).tobytes() == stored(whole).tobytes()


def test_progress_counts_chunks(codec: WeatherCodec, world: Path, tmp_path: Path) -> None:
    """`report` is called with every finished chunk of the interval."""
    said: list[tuple[int, int]] = []
    encode_world(
        codec, "digest", world, tmp_path / "l.zarr", start="2020-01-05", stop="2020-01-13",
        report=lambda done, total: said.append((done, total)),
    )  # fmt: skip
    assert said == [(1, 2), (2, 2)]


def test_stores_do_not_mix(codec: WeatherCodec, whole: Path, tmp_path: Path) -> None:
    """Latents of another codec or of another world's times are refused, the store is not touched."""
    before = stored(whole).tobytes()
    other = toy_world(
        tmp_path / "other.zarr", grid=LatLonGrid.gaussian(8, 16), levels=[500], count=96, chunk=16, start="2021-01-01"
    )
    with pytest.raises(ValueError, match="latents of another world; choose another file"):
        encode_world(codec, "digest", other, whole)
    with pytest.raises(ValueError, match="latents of another codec; choose another file"):
        encode_world(codec, "other digest", other, whole)
    assert stored(whole).tobytes() == before


def test_an_interval_is_held_in_memory(whole: Path) -> None:
    """[begin, end) of the calendar with its hours and segments; an empty interval is refused."""
    store = LatentStore(whole, "2020-01-12", "2020-01-14")
    assert store.latent.dtype == torch.float16 and store.latent.numpy().tobytes() == stored(whole)[44:52].tobytes()
    assert store.hours.tolist() == [438288 + 24 * 11 + 6 * k for k in range(8)]
    assert store.segment.tolist() == [1] * 4 + [2] * 4 and store.codec_hash == "digest"
    assert store.starts(1).tolist() == [0, 1, 2, 4, 5, 6]
    with pytest.raises(ValueError, match=r"no latents in \[2020-02-01, 2020-03-01\)"):
        LatentStore(whole, "2020-02-01", "2020-03-01")


def test_shares_of_two_processes_make_one_store(codec: WeatherCodec, world: Path, whole: Path, tmp_path: Path) -> None:
    """Every second chunk each, in either order: the bits of one go; the second finds what the first began."""
    out = tmp_path / "latents.zarr"
    encode_world(codec, "digest", world, out, part="2/2")
    done = np.isfinite(stored(out)).all(axis=(1, 2, 3)).reshape(6, 16).all(axis=1)
    assert done.tolist() == [False, True] * 3
    encode_world(codec, "digest", world, out, part="1/2")
    assert stored(out).tobytes() == stored(whole).tobytes()
    for part in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(ValueError, match="part must be K/N with 1 <= K <= N"):
            encode_world(codec, "digest", world, out, part=part)


def test_two_processes_may_begin_at_once(codec: WeatherCodec, world: Path, whole: Path, tmp_path: Path) -> None:
    """Both make the empty store; one gives it its name, the other takes that one: nothing is lost or left over."""
    from concurrent.futures import ThreadPoolExecutor

    from autoencoders.latents import _create, _publish
    from autoencoders.source import open_states

    out, reader = tmp_path / "latents.zarr", open_states(world, codec.channels)
    for name in (".a.partial", ".b.partial"):
        _create(reader, codec, "digest", tmp_path / name)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: _publish(tmp_path / name, out), (".a.partial", ".b.partial")))
    assert [p.name for p in tmp_path.iterdir()] == ["latents.zarr"]
    assert stored(encode_world(codec, "digest", world, out)).tobytes() == stored(whole).tobytes()


def test_latents_are_read_from_disk_as_from_memory(whole: Path) -> None:
    """Windows, starts and shapes are equal; one chunk is kept when the cache holds one."""
    held, lazy = (LatentStore(whole, "2020-01-02", "2020-01-22", in_memory=m) for m in (True, False))
    assert isinstance(held.latent, torch.Tensor) and not isinstance(lazy.latent, torch.Tensor)
    assert held.latent.shape == lazy.latent.shape and len(lazy.latent) == 80
    starts = held.starts(3)
    assert np.array_equal(starts, lazy.starts(3))
    shuffled = np.random.default_rng(0).permutation(starts)
    assert torch.equal(held.windows(shuffled, 3), lazy.windows(shuffled, 3))
    assert torch.equal(held.latent[5:9], lazy.latent[5:9]) and torch.equal(held.latent[7], lazy.latent[7])
    lazy = LatentStore(whole, "2020-01-02", "2020-01-22", in_memory=False)
    lazy.latent._most = 1
    assert torch.equal(held.windows(shuffled[:20], 3), lazy.windows(shuffled[:20], 3))
    assert len(lazy.latent._kept) == 1


def test_statistics_are_measured_while_encoding(codec: WeatherCodec, world: Path, whole: Path, tmp_path: Path) -> None:
    """Mean and deviation per channel are those of all encoded states; a stopped encoding has those of its part."""
    part = tmp_path / "part.zarr"
    with pytest.raises(KeyboardInterrupt):
        encode_world(codec, "digest", world, part, report=stops_after(2))
    for path, count in ((whole, 96), (part, 32)):
        x = stored(path)[:count].astype(float)
        mean, std = LatentStore(path, "2020-01-01", "2020-01-25").statistics()
        np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=0, atol=1e-6)
        np.testing.assert_allclose(std, x.std((0, 2, 3)), rtol=1e-5)


@pytest.fixture(scope="module")
def hourly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of latents whose value is the hour of the day of its state, hourly, with hours 30 to 32 missing."""
    path = tmp_path_factory.mktemp("hourly") / "latents.zarr"
    hours = np.delete(np.arange(480000, 480100), [30, 31, 32])
    group = zarr.open_group(path, mode="w")
    values = np.broadcast_to((hours - 480000)[:, None, None, None], (97, 2, 2, 4)).astype(np.float16)
    group.create_array("latent", data=values, chunks=(8, 2, 2, 4))
    group.create_array("time", data=hours)
    group.create_array("done", data=np.ones(13, np.int8), chunks=(1,))
    group.attrs.update({"codec_sha256": "digest", "segments": [{"first": 0, "stop": 30}, {"first": 30, "stop": 97}]})
    return path


@pytest.mark.parametrize("in_memory", [True, False])
def test_windows_are_found_by_their_times(hourly: Path, in_memory: bool) -> None:
    """Six hours apart from every hour; no window crosses the gap, none is shifted by it."""
    begin, end = (str(np.datetime64(480000 + h, "h")) for h in (0, 100))
    store = LatentStore(hourly, begin, end, in_memory=in_memory)
    assert store.spacing == 1
    starts = store.starts(4, 6)
    assert (store.hours[starts] - 480000).tolist() == [*range(0, 6), *range(33, 76)]
    windows = store.windows(starts, 4, 6)[:, :, 0, 0, 0].numpy()
    expected = (store.hours[starts] - 480000)[:, None] + 6 * np.arange(5)
    assert np.array_equal(windows, expected)


def test_encoding_tells_expected_gaps_from_missing_data(codec: WeatherCodec, world: Path, tmp_path: Path) -> None:
    """NaN in a channel that the codec fills is encoded, NaN in another one leaves the chunk out."""
    grown = tmp_path / "world.zarr"
    shutil.copytree(world, grown)
    group: Any = zarr.open_group(grown, mode="r+")
    group["2m_temperature"][0:16] = np.nan
    group["geopotential"][16:20] = np.nan
    codec.missing = {"2t": 0.0}
    try:
        out = encode_world(codec, "digest", grown, tmp_path / "latents.zarr")
    finally:
        codec.missing = {}
    whole = np.isfinite(stored(out)).all(axis=(1, 2, 3)).reshape(6, 16).all(axis=1)
    assert whole.tolist() == [True, False, True, True, True, True]
