"""Rewrite a forecast file of ours: between the layouts weatherbench, cf and earth2studio, and NetCDF and Zarr.

Also the way in for the published weights of others, which a task turns into a model folder of ours (`run_import`).

The values are read and written in blocks of members and lead times, so that memory does not grow with the file; they
keep their bits. The attributes go along, with one line more in `history`.
"""

from __future__ import annotations

import datetime
import difflib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen.progress import SILENT, Bar, Reporter
from gen.provenance import config_hash

if TYPE_CHECKING:
    from gen.metrics.stores import ForecastStore
    from gen.writers.spec import FileSpec
    from gen.writers.staged import StagedWriter

__all__ = ["IMPORTS", "read_header", "run_convert", "run_import"]

IMPORTS = {"ladcast": "forecast.interop:convert_ladcast"}  # whose weights -> who reads them
FORMATS = ("netcdf", "zarr")
BLOCK_BYTES = 64 * 1024 * 1024
OF_ONE_FILE = ("Conventions", "request_fingerprint")  # written anew with every file


def run_convert(
    file: Path, out: Path, layout: str | None = None, format: str | None = None, reporter: Reporter = SILENT
) -> Path:
    """Rewrite a forecast file and return the path of the new one.

    Args:
        file: forecast file of ours, NetCDF or Zarr, any layout.
        out: file to write; an older one is replaced when the new one is complete.
        layout: "weatherbench", "cf" or "earth2studio" (default: the old file's).
        format: "netcdf" or "zarr" (default: zarr for the ending .zarr, else netcdf).
        reporter: where progress goes.

    Raises:
        ValueError: not a forecast file of ours, latents, an unknown layout or format, or `out` is `file`.
    """
    from gen.metrics.stores import ForecastStore
    from gen.writers.spec import LAYOUTS
    from gen.writers.staged import StagedWriter

    file, out = Path(file), Path(out)
    attrs, dims = read_header(file)
    if "channel" in dims:
        raise ValueError(f"{file} holds latents; turn them into fields first: gen decode {file} --model … --out …")
    if out.resolve() == file.resolve():
        raise ValueError(f"{out} is the file to be read; choose another --out")
    layout = layout or next((name for name, names in LAYOUTS.items() if names.member in dims), "weatherbench")
    _choose("layout", layout, tuple(LAYOUTS))
    kind: Any = _choose("format", format or ("zarr" if out.suffix == ".zarr" else "netcdf"), FORMATS)
    store = ForecastStore(file)
    spec = _spec(store, {**attrs, "history": _history(attrs, file)}, layout)
    mark = config_hash({"from": str(file.resolve()), "attrs": attrs})
    with StagedWriter(out, spec, kind, mark) as writer, reporter.bar("members", _units(spec), "members") as bar:
        for init, members in _blocks(spec):
            _copy(store, writer, spec, init, members)
            _advance(bar, members, writer)
    return out


def run_import(
    origin: str,
    source: str,
    out: Path,
    *,
    autoencoder: str | None = None,
    transformer: str | None = None,
    static: Path | None = None,
    dtype: str | None = None,
    layout: str | None = None,
    format: str | None = None,
) -> Path:
    """Write a model folder of ours from published weights and return its path.

    Args:
        origin: key of `IMPORTS`.
        source: folder, or "owner/name" on the Hugging Face hub.
        out: folder to write.
        autoencoder: see `forecast.interop.convert_ladcast`; None is its default.
        transformer: likewise.
        static: likewise.
        dtype: likewise.
        layout: only for forecast files; refused.
        format: likewise.

    Raises:
        ValueError: an unknown origin, an option that weights do not have, or files that are not what they should be.
    """
    name = _choose("origin", origin, tuple(IMPORTS))
    for option, value in (("--layout", layout), ("--format", format)):
        if value is not None:
            raise ValueError(f"{option} is for forecast files; --from {name} turns weights into a model folder")
    module, _, function = IMPORTS[name].partition(":")
    wishes = {"autoencoder": autoencoder, "transformer": transformer, "static": static, "dtype": dtype}
    given = {key: value for key, value in wishes.items() if value is not None}
    path: Path = getattr(importlib.import_module(module), function)(source, out, **given)
    return path


def read_header(file: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return attributes and dimension names of a file of ours.

    Raises:
        ValueError: it cannot be read, or was not written by this suite.
    """
    import xarray

    if not file.exists():
        raise ValueError(f"{file}: no such file")
    try:
        with xarray.open_dataset(file, engine="zarr" if file.is_dir() else None, decode_times=False) as data:
            attrs, dims = {str(k): str(v) for k, v in data.attrs.items()}, tuple(map(str, data.sizes))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} is neither NetCDF nor Zarr ({' '.join(str(error).split())[:100]})") from error
    if attrs.get("synthetic") != "true":
        raise ValueError(f'{file} was not written by gen: it lacks the attribute synthetic = "true"')
    return attrs, dims


def _choose(what: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        close = difflib.get_close_matches(value, choices, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose {', '.join(choices)}"
        raise ValueError(f"unknown {what} {value!r}; {hint}")
    return value


def _history(attrs: Mapping[str, str], file: Path) -> str:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return f"{attrs.get('history', '')}\n{now} converted from {file.name} by gen-earth".strip()


def _spec(store: ForecastStore, attrs: Mapping[str, str], layout: Any) -> FileSpec:
    from gen.writers.spec import FileSpec

    return FileSpec(
        channels=store.channels,
        grid=store.grid,
        members=store.members,
        inits=store.inits,
        leads=store.leads,
        attrs={key: value for key, value in attrs.items() if key not in OF_ONE_FILE},
        layout=layout,
    )


def _units(spec: FileSpec) -> int:
    return spec.members * len(spec.inits)


def _blocks(spec: FileSpec) -> Iterator[tuple[int, slice]]:
    """Yield (initialisation, members) in the order of the file, each about BLOCK_BYTES but at least one member."""
    per_member = spec.nbytes // _units(spec)
    size = max(1, BLOCK_BYTES // per_member)
    for init in range(len(spec.inits)):
        for first in range(0, spec.members, size):
            yield init, slice(first, min(first + size, spec.members))


def _copy(store: ForecastStore, writer: StagedWriter, spec: FileSpec, init: int, members: slice) -> None:
    """Copy a block a few lead times at a time."""
    import torch

    per_lead = (members.stop - members.start) * spec.nbytes // (_units(spec) * len(spec.leads))
    size = max(1, BLOCK_BYTES // per_lead)
    for first in range(0, len(spec.leads), size):
        leads = slice(first, min(first + size, len(spec.leads)))
        maps = [store.read(spec.inits[init], spec.leads[leads], c, members) for c in spec.channels]
        writer.write(init, members, torch.stack(maps, dim=2).numpy(), leads)
    writer.commit(init, members)


def _advance(bar: Bar, members: slice, writer: StagedWriter) -> None:
    bar.advance(members.stop - members.start, f"{writer.bytes_written / 1e6:.0f} MB")
