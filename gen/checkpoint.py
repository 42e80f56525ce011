"""Save and load training checkpoints as safetensors and JSON; nothing is ever pickled.

A checkpoint is a folder `step_0000100/` with one `NAME.safetensors` and `NAME.json` per tree of values (model,
averages, optimiser, data loader of each process, trainer state). It is written under a temporary name and renamed when
complete, so a folder with the final name is whole.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["CheckpointError", "begin", "commit", "latest", "prune", "read_tree", "sync_tree", "write_tree"]

_NAME = re.compile(r"step_(\d{7,})")
_PARTIAL = ".partial"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or belongs to another run; the message is one line."""


def begin(root: Path, step: int) -> Path:
    """Create and return the empty temporary folder of a checkpoint."""
    folder = root / f"step_{step:07d}{_PARTIAL}"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def commit(partial: Path) -> Path:
    """Give a complete temporary folder its final name, replacing an older one of the same step."""
    final = partial.with_name(partial.name.removesuffix(_PARTIAL))
    for path in partial.iterdir():
        sync_tree(path)
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    sync_tree(final.parent)
    return final


def latest(root: Path) -> Path | None:
    """Return the complete checkpoint with the highest step, or None."""
    found = _complete(root)
    return found[-1] if found else None


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what interrupted saves left behind."""
    for folder in _complete(root)[:-keep]:
        shutil.rmtree(folder)
    for folder in root.glob(f"step_*{_PARTIAL}"):
        shutil.rmtree(folder)


def write_tree(folder: Path, name: str, tree: Any) -> None:
    """Write nested dicts, lists, tuples, numbers, strings, bytes, tensors and arrays as NAME.json + NAME.safetensors.

    Raises:
        TypeError: if the tree holds anything else.
    """
    tensors: dict[str, Tensor] = {}
    encoded = _encode(tree, name, tensors)
    (folder / f"{name}.json").write_text(json.dumps(encoded), encoding="utf-8")
    if tensors:
        save_file(tensors, folder / f"{name}.safetensors")


def read_tree(folder: Path, name: str) -> Any:
    """Read what `write_tree` wrote.

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    try:
        encoded = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        path = folder / f"{name}.safetensors"
        return _decode(encoded, load_file(path) if path.exists() else {})
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {folder} lacks {Path(error.filename).name}; use an older one") from None
    except (SafetensorError, UnicodeDecodeError, json.JSONDecodeError, KeyError) as error:
        raise CheckpointError(f"checkpoint {folder} is damaged in {name}: {_one_line(error)}; delete it") from None


def sync_tree(path: Path) -> None:
    """Ask the system to put a file or folder entry on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _complete(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    found = [(int(m[1]), p) for p in root.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir()]
    return [path for _, path in sorted(found)]


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a tree into JSON; a container or value JSON lacks becomes {"!kind": ...}."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        plain = all(isinstance(k, str) and not k.startswith("!") for k in value)
        if plain:
            return {k: _encode(v, f"{path}.{k}", tensors) for k, v in value.items()}
        return {"!items": [[_encode(k, path, tensors), _encode(v, f"{path}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_encode(v, f"{path}.{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"!tuple": items}
    if isinstance(value, bytes):
        return {"!bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Tensor):
        key = f"{path}#{len(tensors)}"
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"!tensor": key}
    if isinstance(value, np.ndarray):
        return {"!array": _encode(torch.from_numpy(value.copy()), path, tensors)}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot save {path}: a {type(value).__name__} is no number, text, tensor or tree of them")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "")
    if kind == "!items":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in value[kind]}
    if kind == "!tuple":
        return tuple(_decode(v, tensors) for v in value[kind])
    if kind == "!bytes":
        return base64.b64decode(value[kind])
    if kind == "!tensor":
        return tensors[value[kind]]
    if kind == "!array":
        return _decode(value[kind], tensors).numpy()
    return {k: _decode(v, tensors) for k, v in value.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
