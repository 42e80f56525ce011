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
