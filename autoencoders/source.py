"""What a codec is trained on: the reader of a store, its static fields, and a normalisation from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

__all__ = ["load_normalizer", "open_states", "read_orography", "read_static"]

import numpy as np
import torch
from torch import Tensor

from gen.data.normalize import Normalizer
from gen.data.reader import StoreReader
from gen.data.statics import load_static, normalise_static
from gen.data.variables import Channel
from gen.data.windows import WorldReader, open_world
from gen.fields import Field

OROGRAPHY = "geopotential_at_surface"


def open_states(path: str | Path, channels: Sequence[Channel], every: int | None = None) -> WorldReader | StoreReader:
    """Open a simulated world, which may still be growing (NaN to come), or another store of states.

    Raises:
        ValueError: the store cannot be used or lacks a channel.
    """
    import zarr

    marks: Any = zarr.open_group(str(path), mode="r").attrs if (Path(path) / "zarr.json").is_file() else {}
    simulated = any("seed" in segment for segment in marks.get("segments", ()))  # those of other stores have none
    return WorldReader(path, channels) if simulated and every is None else open_world(path, channels, every)


def read_static(
    reader: WorldReader | StoreReader, names: Sequence[str], source: str = "", south_pole: bool = True
) -> Tensor:
    """Return static fields [S, H, W] with zero mean and unit variance over the rows that the autoencoder sees.

    Args:
        reader: the data; its grid is that of the fields.
        names: which fields.
        source: where they are instead of in the data, see `gen.data.statics.load_static`.
        south_pole: False drops the row at the South Pole before the statistics are taken.
    """
    if south_pole and not source:
        return reader.static(names)
    if source:
        found = load_static(source, reader.grid)
        known = [c.name for c in found.channels]
        if absent := [name for name in names if name not in known]:
            raise ValueError(f"{source} lacks {', '.join(absent)}; it has {', '.join(known)}")
        field = Field(found.values[[known.index(name) for name in names]], tuple(map(Channel, names)), reader.grid)
    elif isinstance(reader, StoreReader):
        field = reader.static_field(names)
    else:
        maps = [np.asarray(reader.group[name], dtype=np.float32) for name in names]
        field = Field(torch.from_numpy(np.stack(maps)), tuple(map(Channel, names)), reader.grid)
    if not south_pole:
        return normalise_static(field)
    std, mean = torch.std_mean(field.values, dim=(1, 2), keepdim=True)
    return (field.values - mean) / std


def read_orography(reader: WorldReader | StoreReader) -> Tensor | None:
    """Return the geopotential at the surface [H, W], m2 s-2, or None where the store has none."""
    if isinstance(reader, StoreReader):
        return reader.static_field([OROGRAPHY]).values[0] if OROGRAPHY in reader.static_names() else None
    return torch.from_numpy(np.asarray(reader.group[OROGRAPHY], np.float32)) if OROGRAPHY in reader.group else None


def load_normalizer(where: str, channels: Sequence[Channel]) -> Normalizer:
    """Read the normalisation of some channels from a JSON file, or from `package:file` inside an installed package.

    The file is what `Normalizer.to_dict` gives, alone or under the key "normalizer" (the `codec.json` of a model), or
    a table `{"channels": {code: [mean, standard deviation]}}` in SI units, as `forecast:ladcast_statistics.json`.

    Raises:
        ValueError: no such file, another content, or a channel that it lacks.
    """
    document = _document(where)
    table = document.get("normalizer", document)
    try:
        if isinstance(table["channels"], dict):
            pairs = table["channels"]
            table = {"channels": list(pairs), "mean": [p[0] for p in pairs.values()]} | {
                "std": [p[1] for p in pairs.values()]
            }
        found = Normalizer.from_dict(table)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{where} holds no normalisation: {type(error).__name__} {error}") from error
    if absent := [c.code for c in channels if c not in found.channels]:
        raise ValueError(f"{where} has no statistics of {', '.join(absent)}")
    return found.select(channels)


def _document(where: str) -> dict[str, Any]:
    package, colon, name = where.partition(":")
    try:
        inside = bool(colon) and package.isidentifier()
        text = (resources.files(package).joinpath(name) if inside else Path(where)).read_text(encoding="utf-8")
        document = json.loads(text)
    except (OSError, ModuleNotFoundError, json.JSONDecodeError) as error:
        raise ValueError(f"the normalisation {where} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{where} holds no normalisation: it is no JSON object")
    return document
