"""gen sample, stopped, killed and shared: complete files or none, and the same bits after --resume."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from gen_sampling import MEMBER, arguments, child, count_samples, draw, one_line, read, same_bits, until

from forecast.task import Forecast
from gen.cli import main

RUNNER = """
import sys, time
import gen.writers.staged as staged
write, pieces = staged.StagedWriter.write, []
def stuck(self, *piece):
    write(self, *piece)
    pieces.append(piece)
    if len(pieces) == 3:
        time.sleep(600)
staged.StagedWriter.write = stuck
from gen.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_leaves_nothing_and_resumes_with_the_same_bits(
    workshop: Path, eight: xr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in the middle of the second block: no file under the name; --resume finishes it with the same bits.

    A resume with another seed is refused in one line and leaves what is there for the right one.
    """
    out, parts = tmp_path / "f.nc", tmp_path / ".f.nc.parts"
    asked = arguments(workshop, out, members=12)
    running = child(["-c", RUNNER, *asked])
    torn = parts / "unit-000000-000004-000008.data"
    until(lambda: torn.exists() or running.poll() is not None)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    running.communicate()
    assert os.listdir(tmp_path) == [".f.nc.parts"]
    assert [p.name for p in parts.glob("unit-*.index.npy")] == ["unit-000000-000000-000004.index.npy"]
    assert main([*asked, "--resume", "--seed", "9"]) == 2
    assert "cannot resume: the unfinished run was another request" in one_line(capsys)
    assert count_samples(lambda: main([*asked, "--resume"])) == 2
    whole = draw(workshop, tmp_path / "whole.nc", members=12)
    assert same_bits(read(out), whole) and same_bits(whole.isel({MEMBER: slice(8)}), eight)
    assert sorted(os.listdir(tmp_path)) == ["f.nc", "whole.nc"]
    assert count_samples(lambda: main([*asked, "--resume"])) == 0


COUNTER = """
import sys
import forecast.task as task
sample, units = task.Forecast.sample, []
def counted(self, unit):
    units.append(unit)
    return sample(self, unit)
task.Forecast.sample = counted
from gen.cli import main
code = main(sys.argv[1:])
print(len(units))
sys.exit(code)
"""


def test_two_processes_give_the_bits_of_one(workshop: Path, tmp_path: Path) -> None:
    """Two processes with RANK and WORLD_SIZE share the five blocks through the staging folder."""
    out = tmp_path / "two.nc"
    asked = ["-c", COUNTER, *arguments(workshop, out, members=10, init="2020-01-02,2020-01-03")]
    both = [child(asked, RANK=str(r), WORLD_SIZE="2") for r in (1, 0)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [text.split() for text, _ in said] == [["2"], ["3"]]
    one = draw(workshop, tmp_path / "one.nc", members=10, init="2020-01-02,2020-01-03")
    assert same_bits(read(out), one)
    assert sorted(os.listdir(tmp_path)) == ["one.nc", "two.nc"]


# VmHWM begins anew with the program; the maximum of getrusage is inherited from the process that started it
MEASURE = """
import re, sys
from pathlib import Path
from gen.cli import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_ensemble(workshop: Path, tmp_path: Path) -> None:
    """The peak of 200 members is at most 1.1 times that of 20, though their values alone are more than that tenth."""
    peak = {}
    for members in (20, 200):
        asked = arguments(workshop, tmp_path / f"{members}.zarr", members=members, lead="5d", batch=20, steps=1)
        process = child(["-c", MEASURE, *asked, "--format", "zarr"])
        text, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
        peak[members] = 1024 * int(text.split()[-1])
    values = 180 * 20 * 14 * 16 * 32 * 4  # members, lead times, channels, rows, columns, bytes
    assert values > 0.1 * peak[20]
    assert peak[200] <= 1.1 * peak[20], peak


def test_a_full_disk_keeps_what_is_complete(
    workshop: Path,
    eight: xr.Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ENOSPC in the second block: one line says how to go on, nothing lies under the name, --resume finishes."""
    import gen.writers.staged as staged

    append, chunks = staged.UnitFile.append, 0

    def full(self: Any, key: Any, encoded: bytes) -> None:
        nonlocal chunks
        chunks += 1
        if self._stem.name.startswith("unit-000000-000004"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, key, encoded)

    out = tmp_path / "f.nc"
    monkeypatch.setattr(staged.UnitFile, "append", full)
    assert main(arguments(workshop, out)) != 0
    line = one_line(capsys)
    assert "the disk is full" in line and "repeat the command with --resume" in line and chunks > 0
    assert os.listdir(tmp_path) == [".f.nc.parts"]
    monkeypatch.undo()
    assert main([*arguments(workshop, out), "--resume"]) == 0
    assert same_bits(read(out), eight) and os.listdir(tmp_path) == ["f.nc"]


def test_an_error_in_the_middle_leaves_no_file(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong while drawing the first block, neither file nor staging folder stay."""
    from forecast.task import Forecast

    def broken(self: Forecast, unit: Any) -> Any:
        raise RuntimeError("the accelerator fell off")
        yield

    monkeypatch.setattr(Forecast, "sample", broken)
    assert main(arguments(workshop, tmp_path / "f.nc")) == 1
    assert "the accelerator fell off" in one_line(capsys) and os.listdir(tmp_path) == []


def test_auto_resumes_although_the_free_memory_changed(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with room for two members per block is taken up with room for many: blocks of two, and only the rest.

    Finished, it is known as complete with any memory.
    """
    from forecast import memory

    asked, room = arguments(workshop, tmp_path / "f.nc", members=6, batch="auto", lead="12h"), 1.6e6
    monkeypatch.setattr(memory, "free_memory", lambda device: room)
    monkeypatch.setattr(memory, "SHARE", 1.0)
    monkeypatch.setattr("forecast.task.largest_result", lambda action: 0.4e6 / memory.PEAK_RESULTS)
    running, sample, drawn = True, Forecast.sample, list[Any]()

    def stops(self: Forecast, unit: Any) -> Any:
        drawn.append(unit)
        if running and len(drawn) == 3:
            until(lambda: len(list(tmp_path.glob(".f.nc.parts/unit-*.index.npy"))) == 2)
            raise RuntimeError("stopped here")
        return sample(self, unit)

    monkeypatch.setattr(Forecast, "sample", stops)
    assert main(asked) == 1 and "stopped here" in one_line(capsys)
    running, room = False, 1e12
    assert main([*asked, "--resume"]) == 0 and len(drawn) == 4
    assert read(tmp_path / "f.nc").attrs["members_per_block"] == "2"
    assert main([*asked, "--resume"]) == 0 and len(drawn) == 4


def test_half_a_block_is_not_written_twice(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the two starts of a block, the block is drawn again and its first start kept as it is."""
    import gen.writers.staged as staged

    asked = arguments(workshop, tmp_path / "f.nc", members=2, init="2020-01-02,2020-01-03")
    commit = staged.UnitFile.commit

    def breaks(self: Any) -> None:
        if self._stem.name.startswith("unit-000001"):
            raise RuntimeError("stopped here")
        commit(self)

    with monkeypatch.context() as patch:
        patch.setattr(staged.UnitFile, "commit", breaks)
        assert main(asked) == 1 and "stopped here" in one_line(capsys)
    kept = tmp_path / ".f.nc.parts" / "unit-000000-000000-000002.data"
    before = kept.stat().st_mtime_ns
    seen = list[int]()
    append = staged.NetCDFContainer.append
    monkeypatch.setattr(
        staged.NetCDFContainer,
        "append",
        lambda self, unit: seen.append(unit.data.stat().st_mtime_ns) or append(self, unit),
    )
    assert main([*asked, "--resume"]) == 0 and before in seen
    assert same_bits(
        read(tmp_path / "f.nc"), draw(workshop, tmp_path / "w.nc", members=2, init="2020-01-02,2020-01-03")
    )


def test_a_lost_process_is_not_awaited_for_ever(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 of two, whose partner never stages anything: one line after the patience, and --resume finishes alone."""
    from gen import sample

    asked = arguments(workshop, tmp_path / "f.nc", members=8, lead="12h")
    with monkeypatch.context() as patch:
        patch.setattr(sample, "PATIENCE_SECONDS", 0.3)
        patch.setattr(sample, "PATIENCE_UNITS", 0.0)
        patch.setenv("RANK", "0")
        patch.setenv("WORLD_SIZE", "2")
        assert main(asked) != 0
    line = one_line(capsys)
    assert "no new members from the other processes" in line and "repeat with --resume" in line
    assert count_samples(lambda: main([*asked, "--resume"])) == 1 and (tmp_path / "f.nc").exists()
