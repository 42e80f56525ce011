"""`gen encode` and `gen decode`: a world to latents with their statistics, and latent forecasts back to fields."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

__all__ = ["run_decode", "run_encode"]

from gen.progress import SILENT, Reporter

ENCODERS = {"codec": "autoencoders.latents:encode_analyses", "forecast": "autoencoders.latents:encode_analyses"}
DECODERS = {"forecast": "forecast.decode:decode_file"}


def run_encode(source: str, model: Path, out: Path, reporter: Reporter = SILENT, **options: Any) -> Path:
    """Encode a source with the codec of a model into a Zarr store; a stopped run goes on where it was.

    Args:
        source: Zarr store, a simulated world or ERA5.
        model: model folder (a codec's or a forecast model's), or the name of a packaged model.
        out: Zarr store to write or to continue.
        reporter: where progress goes.
        options: `start`, `stop`, `batch`, `device`, `every`, `part`, see `autoencoders.latents.encode_analyses`.

    Raises:
        ValueError: no such model, nothing in the interval, or `out` holds latents of another codec.
    """
    return _run(ENCODERS, model, source, out, reporter, "chunks", options)


def run_decode(source: Path, model: Path, out: Path, reporter: Reporter = SILENT, **options: Any) -> Path:
    """Decode a latent forecast with the model that made it; another model is refused.

    Args:
        source: Zarr store written with `--format latent`.
        model: model folder, or the name of a packaged model.
        out: file to write.
        reporter: where progress goes.
        options: `variables`, `levels`, `format`, `layout` and `device`, see `forecast.decode.decode_file`.

    Raises:
        ValueError: no such model, another model's latents, or something the model does not have.
    """
    return _run(DECODERS, model, Path(source), out, reporter, "frames", options)


def _run(
    table: dict[str, str], model: Path, source: Any, out: Path, reporter: Reporter, unit: str, options: dict[str, Any]
) -> Path:
    from gen.hub import open_model, resolve

    folder = open_model(resolve(model))
    function = _find(table, str(folder.index.get("kind", "")))
    with reporter.bar("writing", unit=unit) as bar:
        path: Path = function(folder.path, folder.digest, source, Path(out), report=bar.report, **options)
    reporter.say(str(path))
    return path


def _find(table: dict[str, str], kind: str) -> Any:
    if kind not in table:
        raise ValueError(f"this folder holds a model of kind {kind!r}; known are {', '.join(sorted(table))}")
    module, _, name = table[kind].partition(":")
    return getattr(importlib.import_module(module), name)
