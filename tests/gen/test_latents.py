"""gen.latents: the commands `encode` and `decode`, from options to stores."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from autoencoders.dcae import DCAE
from autoencoders.latents import LatentStore, encode_analyses
from autoencoders.store import load_codec, save_codec
from autoencoders.weather import WeatherCodec
from forecast.decode import decode_file
from gen.cli import cli, main
from gen.data.normalize import Normalizer
from gen.data.synthetic import analytic_states, toy_world
from gen.data.variables import make_channels
from gen.data.windows import WorldReader
from gen.grid import LatLonGrid
from gen.hub import HubError, open_model
from gen.latents import run_decode, run_encode

GRID = LatLonGrid.gaussian(8, 16)
NAMES = ("geopotential", "2m_temperature")
CHANNELS = make_channels(NAMES, (500,))


def write_codec(folder: Path, seed: int) -> Path:
    """A codec of random weights, 8 x 16 to 2 channels on 4 x 8."""
    torch.manual_seed(seed)
    sample = torch.from_numpy(analytic_states(CHANNELS, GRID, range(0, 2400, 60)))
    widths = {"encoder_block_out_channels": (8, 8), "encoder_layers_per_block": (0, 0), "attention_head_dim": 8}
    dcae = DCAE(2, 2, latent_channels=2, **widths)
    save_codec(folder, WeatherCodec(dcae, Normalizer.fit(iter([sample]), CHANNELS), GRID))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec, a world of 20 times in four chunks, and its latents."""
    folder = tmp_path_factory.mktemp("latents")
    write_codec(folder / "codec", 0)
    toy_world(folder / "world.zarr", grid=GRID, names=NAMES, levels=(500,), count=20, chunk=5)
    run_encode(str(folder / "world.zarr"), folder / "codec", folder / "latents.zarr")
    return folder


def test_latents_are_those_of_the_codec(made: Path) -> None:
    """Every time equals codec.encode of its state, to half precision (2^-11 relative, and absolute near zero)."""
    store = LatentStore(made / "latents.zarr", "2020-01-01", "2020-01-06")
    codec, reader = load_codec(made / "codec"), WorldReader(made / "world.zarr", CHANNELS)
    with torch.no_grad():
        expected = codec.encode(reader.read(slice(0, 20)))
    assert np.array_equal(store.hours, reader.hours) and store.codec_hash == open_model(made / "codec").digest
    torch.testing.assert_close(store.latent.float(), expected, rtol=2**-10, atol=1e-4)


def test_only_the_interval_is_encoded_and_the_rest_later(made: Path, tmp_path: Path) -> None:
    """[start, stop) fills the chunks it touches; a second call with the whole world fills the others, same bits."""
    out = tmp_path / "latents.zarr"
    run_encode(str(made / "world.zarr"), made / "codec", out, start="2020-01-01", stop="2020-01-02")
    assert np.asarray(zarr.open_group(out, mode="r")["done"]).tolist() == [1, 0, 0, 0]
    run_encode(str(made / "world.zarr"), made / "codec", out)
    whole, parts = (zarr.open_group(p, mode="r") for p in (made / "latents.zarr", out))
    assert np.array_equal(np.asarray(parts["latent"]), np.asarray(whole["latent"]))


def test_the_batch_does_not_change_latents(made: Path, tmp_path: Path) -> None:
    """Three times per call or twenty: the same latents to half precision."""
    out = run_encode(str(made / "world.zarr"), made / "codec", tmp_path / "l.zarr", batch=3)
    stores = [np.asarray(zarr.open_group(p, mode="r")["latent"], np.float32) for p in (made / "latents.zarr", out)]
    np.testing.assert_allclose(stores[0], stores[1], rtol=2**-10, atol=1e-4)


def test_a_store_of_another_codec_is_not_continued(made: Path, tmp_path: Path) -> None:
    """Latents of two codecs never mix."""
    other = write_codec(tmp_path / "other", 1)
    with pytest.raises(ValueError, match="holds latents of another codec"):
        run_encode(str(made / "world.zarr"), other, made / "latents.zarr")


def test_an_interval_without_data_is_refused(made: Path, tmp_path: Path) -> None:
    """The line names what the world covers, and no store is begun."""
    with pytest.raises(ValueError, match="the world covers 2020-01-01T00"):
        run_encode(str(made / "world.zarr"), made / "codec", tmp_path / "l.zarr", start="1990-01-01", stop="1990-02-01")
    assert not list(tmp_path.iterdir())


def test_a_codec_alone_cannot_decode_a_forecast(made: Path, tmp_path: Path) -> None:
    """Forecast latents belong to a forecast model; the line says which kinds are known."""
    with pytest.raises(ValueError, match="kind 'codec'; known are forecast"):
        run_decode(made / "latents.zarr", made / "codec", tmp_path / "x.nc")


def test_an_unknown_model_is_refused(made: Path, tmp_path: Path) -> None:
    """A name that is neither packaged nor a folder is an error, not a download."""
    with pytest.raises(HubError, match="there is no model"):
        run_encode(str(made / "world.zarr"), tmp_path / "nothing", tmp_path / "l.zarr")


@pytest.mark.parametrize(("command", "function"), [("encode", encode_analyses), ("decode", decode_file)])
def test_options_of_the_command_are_those_of_the_function(command: str, function: object) -> None:
    """Whatever the command line can pass on is accepted, and every option can be given."""
    options = {p.name for p in cli.commands[command].params} - {"quiet", "model", "source", "out"}
    parameters = set(inspect.signature(function).parameters)  # type: ignore[arg-type]
    assert options == parameters - {"folder", "digest", "source", "out", "report"}


def test_the_command_encodes(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`gen encode` writes the store and prints its name; errors are one line with exit code 2."""
    line = f"encode {made}/world.zarr --model {made}/codec --out {tmp_path}/l.zarr --stop 2020-01-03 --device cpu"
    assert main([*line.split(), "--quiet"]) == 0 and (tmp_path / "l.zarr").is_dir()
    assert main(f"encode {made}/nothing.zarr --model {made}/codec --out {tmp_path}/m.zarr".split()) != 0
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
