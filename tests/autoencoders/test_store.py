"""autoencoders.store: a codec on disk is the codec in memory, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoencoders.recipe import CodecRecipe
from autoencoders.store import load_codec, save_codec
from autoencoders.weather import WeatherCodec
from gen.hub import HubError, open_model


@pytest.fixture(scope="module")
def codec(recipe: CodecRecipe) -> WeatherCodec:
    return recipe.codec(recipe.model())  # type: ignore[arg-type]


def outputs(codec: WeatherCodec, recipe: CodecRecipe) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        z = codec.encode(recipe.reader.read(slice(0, 4)))
        return z, codec.decode(z)


@pytest.mark.parametrize("principal", [True, False])
def test_a_saved_codec_has_the_same_bits(params: object, tmp_path: Path, principal: bool) -> None:
    """Both families: encode and decode of the loaded codec equal those of the saved one."""
    recipe = CodecRecipe(params(principal=principal), seed=0)  # type: ignore[operator]
    torch.manual_seed(0)
    codec = recipe.codec(recipe.model().eval())  # type: ignore[arg-type]
    save_codec(tmp_path / "codec", codec)
    again = load_codec(tmp_path / "codec")
    assert type(again.dcae) is type(codec.dcae) and not again.training
    for expected, got in zip(outputs(codec, recipe), outputs(again, recipe), strict=True):
        assert torch.equal(got, expected)
    assert open_model(tmp_path / "codec").index["kind"] == "codec"


def test_half_precision_is_for_the_disk(codec: WeatherCodec, recipe: CodecRecipe, tmp_path: Path) -> None:
    """Stored as float16, loaded as float32; the orography keeps its precision.

    A mean field of half precision moves anomalies by up to 2^-11 of the normalised field: a few hundredths of a latent
    unit.
    """
    save_codec(tmp_path / "half", codec, dtype=torch.float16)
    stored = load_file(tmp_path / "half" / "fields.safetensors")
    assert {n: v.dtype for n, v in stored.items()} == {
        "orography": torch.float32, "static": torch.float16, "center": torch.float16, "spread": torch.float16,
    }  # fmt: skip
    again = load_codec(tmp_path / "half")
    assert {v.dtype for v in again.state_dict().values()} == {torch.float32}
    difference = outputs(again, recipe)[0] - outputs(codec, recipe)[0]
    assert 0 < float(difference.abs().max()) < 0.1


def test_a_damaged_field_is_found(codec: WeatherCodec, tmp_path: Path) -> None:
    """One changed byte of the mean fields, the meta data or the weights stops the loading, naming the file."""
    for name in ("fields.safetensors", "codec.json", "codec/diffusion_pytorch_model.safetensors"):
        save_codec(tmp_path / "codec", codec)
        path = tmp_path / "codec" / name
        raw = bytearray(path.read_bytes())
        raw[-3] ^= 1
        path.write_bytes(raw)
        with pytest.raises(HubError, match=f"is damaged: {name}"):
            load_codec(tmp_path / "codec")
