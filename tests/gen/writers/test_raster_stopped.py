"""Files of fine rain appear whole or not at all: kills, full disks, processes; the same bytes after --resume."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import writers_rasters as rasters
import xarray as xr
from writers_rasters import digest

from gen.writers import journal
from gen.writers.raster import RasterWriter, index_path
from gen.writers.staged import DiskFullError

FORMATS = ["netcdf", "zarr", "geotiff"]


def run_script(*arguments: str) -> subprocess.Popen[bytes]:
    script = Path(rasters.__file__)
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, str(script), *arguments], cwd=root, env=env)


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, format: Any) -> None:
    """SIGKILL in the skeleton, in and after a band, a note or a copy, before the rename, after it, before the index.

    The resumed file has the bytes of an unbroken run, its creation date and the largest notes included, although the
    resumed run was told another date; for GeoTIFF so has the file of the index beside it.
    """
    assert run_script(str(tmp_path), format).wait(timeout=120) == 0
    suffix, spec = rasters.SUFFIXES[format], rasters.make_spec()
    whole = tmp_path / f"unbroken{suffix}"
    with RasterWriter(whole, spec, format, "request") as writer:
        rasters.write(writer, rasters.units(spec), format)
    for point in rasters.KILL_POINTS:
        target = tmp_path / f"{point}{suffix}"
        if point == "in_index" and format != "geotiff":
            continue
        assert target.exists() == (point in ("after_rename", "in_index")), point
        later = rasters.make_spec() if point in ("after_rename", "in_index") else rasters.make_spec("2030-01-01")
        with RasterWriter(target, later, format, "request", resume=True) as writer:
            left = writer.pending(rasters.units(spec))
            done = {"in_skeleton": 1, "after_note": 3, "in_unit": 5, "after_commit": 5}
            assert len(left) <= 8 - done.get(point, 5), (point, left)
            rasters.write(writer, left, format)
        assert digest(target) == digest(whole), point
        assert not (tmp_path / f".{target.name}.parts").exists()
        if format == "geotiff":
            assert digest(index_path(target)) == digest(index_path(whole)), point
    if format != "geotiff":
        opened = xr.open_zarr(whole) if format == "zarr" else xr.open_dataset(whole)
        with opened as file:
            assert file.attrs["largest"] == "3.1" and file.attrs["created"] == "2024-05-02"


@pytest.mark.parametrize("format", FORMATS)
def test_two_processes_make_the_file_of_one(tmp_path: Path, format: Any) -> None:
    """Every second band staged by another process, whose notes count as well."""
    suffix, spec = rasters.SUFFIXES[format], rasters.make_spec()
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    with RasterWriter(one, spec, format, "request") as writer:
        rasters.write(writer, rasters.units(spec), format)
    other = run_script(str(two), "rank")
    with RasterWriter(two, spec, format, "request") as writer:
        rasters.write(writer, rasters.units(spec)[0::2], format)
        writer.wait(rasters.units(spec), timeout=60)
        assert other.wait(timeout=60) == 0
    assert digest(one) == digest(two)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("where", ["staging", "finishing"])
def test_a_full_disk_is_one_line_with_numbers(
    tmp_path: Path, format: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC while staging or while the file is finished: what is missing and what to do; --resume then finishes."""
    suffix, spec = rasters.SUFFIXES[format], rasters.make_spec()
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"f{suffix}"
    with RasterWriter(whole, spec, format, "request") as writer:
        rasters.write(writer, rasters.units(spec), format)
    real, calls = journal.UnitFile.append, []

    def failing(self: Any, key: Any, encoded: bytes) -> None:
        calls.append(key)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, key, encoded)

    def full(self: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "staging":
        monkeypatch.setattr(journal.UnitFile, "append", failing)
    else:
        monkeypatch.setattr(rasters.CONTAINERS[format], "finish", full)
    with pytest.raises(DiskFullError) as caught, RasterWriter(path, spec, format, "request") as writer:
        rasters.write(writer, rasters.units(spec), format)
    message = str(caught.value)
    assert "the disk is full" in message and "--resume" in message and "\n" not in message and not path.exists()
    monkeypatch.undo()
    with RasterWriter(path, spec, format, "request", resume=True) as writer:
        assert len(writer.pending(rasters.units(spec))) == (4 if where == "staging" else 0)
        rasters.write(writer, writer.pending(rasters.units(spec)), format)
    assert digest(path) == digest(whole)


@pytest.mark.parametrize("format", FORMATS)
def test_a_refusal_of_the_system_is_told_the_same_way(tmp_path: Path, format: Any) -> None:
    """The kernel itself refuses (RLIMIT_FSIZE): one error, no file under the name."""
    code = (
        "import resource, runpy, pathlib; e = runpy.run_path('tests/support/writers_rasters.py');"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)); s = e['make_spec'](); f = {format!r};"
        f"p = pathlib.Path({str(tmp_path / ('f' + rasters.SUFFIXES[format]))!r})"
        "\ntry:\n    w = e['RasterWriter'](p, s, f); e['write'](w, e['units'](s), f); w.close()"
        "\nexcept ValueError as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout.startswith("DiskFullError") and done.stdout.count("\n") == 1, done.stdout + done.stderr
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
