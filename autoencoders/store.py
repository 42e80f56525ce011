"""Weather codecs on disk: component `codec` of a model folder, with `codec.json` and `fields.safetensors` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = ["codec_parts", "load_codec", "save_codec"]

import torch

from autoencoders.dcae import DCAE
from autoencoders.principal import PrincipalDCAE
from autoencoders.weather import WeatherCodec

if TYPE_CHECKING:
    from gen.hub import ModelFolder


def codec_parts(
    codec: WeatherCodec, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return what a model folder holds of a codec: components, JSON files and tensor files by name."""
    fields = {n: v if n in ("orography", "land") else v.to(dtype) for n, v in codec.to_tensors().items()}
    return {"codec": codec.dcae}, {"codec": codec.to_meta()}, {"fields": fields}


def save_codec(folder: Path, codec: WeatherCodec, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that holds only a codec."""
    from gen.hub import save_model

    components, documents, tensors = codec_parts(codec, dtype)
    save_model(folder, components, {"kind": "codec"}, documents=documents, tensors=tensors, dtype=dtype)


def load_codec(folder: Path | ModelFolder) -> WeatherCodec:
    """Read the codec of a model folder; every file is checked against its SHA-256 (unless `open_model` has done so)."""
    from gen.hub import open_model

    model = open_model(folder)
    fields, meta = model.tensors("fields"), model.document("codec")
    family = PrincipalDCAE if meta["family"] == "PrincipalDCAE" else DCAE
    return WeatherCodec.from_meta(model.load("codec", family), meta, fields).eval()
