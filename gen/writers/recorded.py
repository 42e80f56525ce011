"""What an unfinished or finished file says of itself, before a writer opens it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["recorded_attributes"]


def recorded_attributes(path: Path) -> dict[str, str]:
    """Return the attributes of the stopped run that was writing `path`, else those of the file, else none.

    Only for what may be taken over before `--resume`; whether it is the same run is decided by the fingerprint.
    """
    path = Path(path).absolute()
    journal, store = path.with_name(f".{path.name}.parts") / "journal.json", path / "zarr.json"
    for source, key in ((journal, "attrs"), (store, "attributes")):
        if source.is_file():
            return _texts(_json(source).get(key, {}))
    return _netcdf(path) if path.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; an unreadable one holds nothing."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content


def _netcdf(path: Path) -> dict[str, str]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _texts(dict(file.attrs))
    except OSError:
        return {}


def _texts(attrs: dict[str, Any]) -> dict[str, str]:
    decoded = {k: v.decode() if isinstance(v, bytes) else v for k, v in attrs.items()}
    return {k: v for k, v in decoded.items() if isinstance(v, str)}
