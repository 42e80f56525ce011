"""Files appear whole or not at all: kills, full disks, several processes, bounded memory."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import writers_ensemble
import xarray as xr

from gen.data.variables import make_channels
from gen.grid import LatLonGrid
from gen.writers import journal
from gen.writers.spec import FileSpec, WriterError
from gen.writers.staged import DiskFullError, StagedWriter


def digest(path: Path) -> str:
    """Hash a file, or the names and contents of a folder."""
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for file in files:
        whole.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return whole.hexdigest()


def run_script(*arguments: str) -> subprocess.Popen:
    script = Path(writers_ensemble.__file__)
    return subprocess.Popen([sys.executable, str(script), *arguments], cwd=script.parents[2])


@pytest.mark.parametrize("format", ["netcdf", "zarr", "latent"])
def test_a_killed_run_resumes_to_the_same_bytes(ensemble, tmp_path, format):
    """SIGKILL inside a unit, between units, while copying, before and after the rename: resume gives the same file."""
    assert run_script(str(tmp_path), format).wait(timeout=120) == 0
    spec = ensemble.make_spec(latent=format == "latent")
    values = ensemble.make_values(spec)
    with StagedWriter(tmp_path / "unbroken", spec, format, "request") as writer:
        ensemble.write(writer, ensemble.UNITS, values)
    expected = digest(tmp_path / "unbroken")
    for point in ensemble.KILL_POINTS:
        target = tmp_path / point
        assert target.exists() == (point == "after_rename")
        with StagedWriter(target, spec, format, "request", resume=True) as writer:
            pending = writer.pending(ensemble.UNITS)
            assert (0, slice(0, 2)) not in pending and (0, slice(2, 3)) not in pending
            assert len(pending) == {"in_unit": 2, "after_commit": 2}.get(point, len(pending)) <= 2
            ensemble.write(writer, pending, values)
        assert digest(target) == expected
        assert not (tmp_path / f".{point}.parts").exists()


def test_nothing_has_the_final_name_before_the_end(ensemble, tmp_path):
    """While writing only the hidden folder exists; closing early is refused and keeps what is there for --resume."""
    spec, target = ensemble.make_spec(), tmp_path / "f.nc"
    writer = StagedWriter(target, spec)
    ensemble.write(writer, ensemble.UNITS[:3], ensemble.make_values(spec))
    writer.wait(ensemble.UNITS[:3])
    assert os.listdir(tmp_path) == [".f.nc.parts"]
    with pytest.raises(WriterError, match="only 5 of 6 members are there; repeat with --resume"):
        writer.close()
    assert os.listdir(tmp_path) == [".f.nc.parts"]


def test_an_error_of_the_caller_leaves_the_finished_units(ensemble, tmp_path):
    """An exception inside `with` writes no file; with nothing finished no trace is left, else --resume takes it up."""
    spec, values = ensemble.make_spec(), ensemble.make_values(ensemble.make_spec())
    with pytest.raises(KeyboardInterrupt), StagedWriter(tmp_path / "f.nc", spec) as writer:
        writer.write(0, slice(0, 2), values[0, :2, :2], slice(0, 2))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), StagedWriter(tmp_path / "f.nc", spec) as writer:
        ensemble.write(writer, ensemble.UNITS[:1], values)
        writer.wait(ensemble.UNITS[:1])
        raise KeyboardInterrupt
    with StagedWriter(tmp_path / "f.nc", spec, resume=True) as writer:
        assert writer.pending(ensemble.UNITS) == ensemble.UNITS[1:]
        ensemble.write(writer, ensemble.UNITS[1:], values)
    assert os.listdir(tmp_path) == ["f.nc"]


def test_another_request_cannot_resume(ensemble, tmp_path):
    """One line says what differs; the staged units stay."""
    spec = ensemble.make_spec()
    with pytest.raises(RuntimeError, match="stop"), StagedWriter(tmp_path / "f.nc", spec, fingerprint="a") as writer:
        ensemble.write(writer, ensemble.UNITS[:1], ensemble.make_values(spec))
        writer.wait(ensemble.UNITS[:1])
        raise RuntimeError("stop")
    with pytest.raises(WriterError, match=r"cannot resume.*other model, seed or sampling options") as caught:
        StagedWriter(tmp_path / "f.nc", spec, fingerprint="b", resume=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(WriterError, match="members 3 -> 4"):
        StagedWriter(tmp_path / "f.nc", ensemble.make_spec(members=4), fingerprint="a", resume=True)
    assert StagedWriter(tmp_path / "f.nc", spec, fingerprint="a", resume=True).has(0, slice(0, 2))


def test_resuming_a_finished_file_changes_nothing(ensemble, tmp_path):
    """Nothing is pending and the bytes stay; without resume the file is replaced."""
    spec, values = ensemble.make_spec(), ensemble.make_values(ensemble.make_spec())
    for _ in range(2):
        with StagedWriter(tmp_path / "f.nc", spec, fingerprint="a") as writer:
            assert writer.pending(ensemble.UNITS) == ensemble.UNITS
            ensemble.write(writer, ensemble.UNITS, values)
    before = (tmp_path / "f.nc").stat()
    with StagedWriter(tmp_path / "f.nc", spec, fingerprint="a", resume=True) as writer:
        assert writer.complete and writer.pending(ensemble.UNITS) == []
    assert (tmp_path / "f.nc").stat().st_ino == before.st_ino


def test_two_writers_of_one_file_are_refused(ensemble, tmp_path):
    """The second one says so at once instead of mixing its units in."""
    first = StagedWriter(tmp_path / "f.nc", ensemble.make_spec())
    with pytest.raises(WriterError, match="another process is writing this file"):
        StagedWriter(tmp_path / "f.nc", ensemble.make_spec())
    with pytest.raises(WriterError, match="only 0 of 6"):
        first.close()


def test_two_processes_make_the_file_of_one(ensemble, tmp_path):
    """Every second unit staged by another process: the same bytes as from one process."""
    spec, values = ensemble.make_spec(), ensemble.make_values(ensemble.make_spec())
    with StagedWriter(tmp_path / "one.nc", spec, fingerprint="request") as writer:
        ensemble.write(writer, ensemble.UNITS, values)
    other = run_script(str(tmp_path / "two.nc"), "rank")
    with StagedWriter(tmp_path / "two.nc", spec, fingerprint="request") as writer:
        ensemble.write(writer, ensemble.UNITS[0::2], values)
        writer.wait(ensemble.UNITS, timeout=60)
        assert other.wait(timeout=60) == 0
    with xr.open_dataset(tmp_path / "one.nc") as one, xr.open_dataset(tmp_path / "two.nc") as two:
        assert one.identical(two)


def test_waiting_for_a_process_that_died_ends(ensemble, tmp_path):
    """With a timeout, rank 0 does not wait for ever and keeps its own units."""
    spec = ensemble.make_spec()
    with (
        pytest.raises(WriterError, match="no new members from the other processes"),
        StagedWriter(tmp_path / "f.nc", spec) as writer,
    ):
        ensemble.write(writer, ensemble.UNITS[:1], ensemble.make_values(spec))
        writer.wait(ensemble.UNITS, timeout=0.3)
    assert not (tmp_path / "f.nc").exists()


def test_a_full_disk_is_one_line_with_numbers(ensemble, tmp_path, monkeypatch):
    """ENOSPC from the system while staging: path, bytes missing and free, what to do; --resume then finishes."""
    spec, values = ensemble.make_spec(), ensemble.make_values(ensemble.make_spec())
    real, calls = journal.UnitFile.append, []

    def failing(self, key, encoded):
        calls.append(key)
        if len(calls) == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, key, encoded)

    monkeypatch.setattr(journal.UnitFile, "append", failing)
    with pytest.raises(DiskFullError) as caught, StagedWriter(tmp_path / "f.nc", spec) as writer:
        ensemble.write(writer, ensemble.UNITS, values)
    message = str(caught.value)
    assert str(tmp_path / "f.nc") in message and "are needed" in message and "are free" in message
    assert "--resume" in message and "\n" not in message
    assert not (tmp_path / "f.nc").exists()
    with StagedWriter(tmp_path / "f.nc", spec, resume=True) as writer:
        ensemble.write(writer, writer.pending(ensemble.UNITS), values)
    assert (tmp_path / "f.nc").exists()


def test_a_file_size_limit_of_the_system_is_reported_the_same_way(ensemble, tmp_path):
    """A real refusal by the kernel (RLIMIT_FSIZE) reaches the caller as one error, from the staging or from HDF5."""
    code = (
        "import resource, runpy, pathlib; e = runpy.run_path('tests/support/writers_ensemble.py');"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)); s = e['make_spec']();"
        f"w = e['StagedWriter'](pathlib.Path({str(tmp_path / 'f.nc')!r}), s);"
        "\ntry:\n    e['write'](w, e['UNITS'], e['make_values'](s)); w.close()"
        "\nexcept ValueError as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout.startswith("DiskFullError") and done.stdout.count("\n") == 1, done.stdout + done.stderr
    assert not (tmp_path / "f.nc").exists()


def test_a_file_that_cannot_fit_is_refused_before_work_begins(tmp_path):
    """A petabyte is refused with both numbers and no trace."""
    spec = FileSpec(
        make_channels(["temperature"], [500]),
        LatLonGrid.equiangular(721, 1440),
        members=10**6,
        inits=np.array(["2024-01-01"], "datetime64[h]"),
        leads=np.arange(6, 1441, 6).astype("timedelta64[h]"),
    )
    with pytest.raises(DiskFullError, match=r"too small: [0-9.]+ GB are needed, [0-9.]+ [GM]B free"):
        StagedWriter(tmp_path / "f.nc", spec)
    assert not list(tmp_path.iterdir())


def test_wrong_use_is_refused(ensemble, tmp_path):
    """Shapes, units outside the file, absent folders and names that are folders are named in the message."""
    spec = ensemble.make_spec()
    with pytest.raises(WriterError, match="there is no folder"):
        StagedWriter(tmp_path / "absent" / "f.nc", spec)
    with pytest.raises(WriterError, match="is a folder"):
        StagedWriter(tmp_path, spec)
    with pytest.raises(ValueError, match="format must be one of netcdf"):
        StagedWriter(tmp_path / "f.grib", spec, "grib")
    with pytest.raises(WriterError), StagedWriter(tmp_path / "f.nc", spec) as writer:
        with pytest.raises(ValueError, match=r"must be \(2, 5, 5, 6, 8\)"):
            writer.write(0, slice(0, 2), np.zeros((2, 5, 4, 6, 8)))
        with pytest.raises(ValueError, match="outside the file"):
            writer.write(2, slice(0, 2), np.zeros((2, 5, 5, 6, 8)))
        writer.write(0, slice(0, 2), np.zeros((2, 4, 5, 6, 8)), slice(0, 4))
        writer.commit(0, slice(0, 2))


def test_memory_does_not_grow_with_the_ensemble(tmp_path):
    """Of 48 pieces at most six are in memory at once: two queued, one staged, its chunks and bytes, the caller's."""
    spec = FileSpec(
        make_channels(["temperature"], [250, 500, 700, 850]),
        LatLonGrid.equiangular(48, 96),
        48,
        np.array(["2024-01-01"], "datetime64[h]"),
        np.arange(6, 61, 6).astype("timedelta64[h]"),
    )
    rng = np.random.default_rng(0)
    tracemalloc.start()
    with StagedWriter(tmp_path / "f.nc", spec, workers=1, compress="none") as writer:
        for first in range(0, 48, 2):
            for lead in (0, 5):
                piece = rng.standard_normal((2, 5, *spec.value_shape), np.float32)
                writer.write(0, slice(first, first + 2), piece, slice(lead, lead + 5))
            writer.commit(0, slice(first, first + 2))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 6 * piece.nbytes
