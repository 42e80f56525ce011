"""`gen encode` and `gen decode`: analyses to latents with their statistics, and latent forecasts back to fields."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

__all__ = ["run_decode", "run_encode"]

from gen.progress import SILENT, Reporter

ENCODERS = {"codec": "autoencoders.latents:encode_analyses", "forecast": "autoencoders.latents:encode_analyses"}
DECODERS = {"forecast": "forecast.decode:decode_file"}


def run_encode(source: str, model: Path, out: Path, reporter: Reporter = SILENT, **options: Any) -> Path:
    """Encode a source with the codec of a model folder into a Zarr store; a stopped run goes on where it was."""
    from gen.hub import open_model

    folder = open_model(Path(model))
    encode = _find(ENCODERS, folder.index.get("kind", ""))
    with reporter.bar("times", unit="chunks") as bar:
        path: Path = encode(folder.path, folder.digest, source, Path(out), report=bar.report, **options)
    reporter.say(str(path))
    return path


def run_decode(source: Path, model: Path, out: Path, reporter: Reporter = SILENT, **options: Any) -> Path:
    """Decode a latent forecast with the model that made it; another model is refused."""
    from gen.hub import open_model

    folder = open_model(Path(model))
    decode = _find(DECODERS, folder.index.get("kind", ""))
    with reporter.bar("frames", unit="frames") as bar:
        path: Path = decode(folder.path, folder.digest, Path(source), Path(out), report=bar.report, **options)
    reporter.say(str(path))
    return path


def _find(table: dict[str, str], kind: str) -> Any:
    if kind not in table:
        raise ValueError(f"this folder holds a model of kind {kind!r}; known are {', '.join(sorted(table))}")
    module, _, name = table[kind].partition(":")
    return getattr(importlib.import_module(module), name)
