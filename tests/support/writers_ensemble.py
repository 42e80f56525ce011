"""A small ensemble with known values, and a script that is killed while writing it.

`python writers_ensemble.py FOLDER FORMAT` forks one child per kill point; each child writes FOLDER/<point> and kills
itself with SIGKILL at that point, so that nothing of Python runs any more.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gen.data.variables import make_channels
from gen.grid import LatLonGrid
from gen.writers import staged
from gen.writers.spec import FileSpec
from gen.writers.staged import StagedWriter

UNITS = [(0, slice(0, 2)), (0, slice(2, 3)), (1, slice(0, 2)), (1, slice(2, 3))]
CHANNELS = make_channels(["geopotential", "temperature", "2m_temperature"], [500, 850])
KILL_POINTS = ("in_unit", "after_commit", "in_append", "before_finish", "before_rename", "after_rename")


def make_spec(layout: str = "weatherbench", latent: bool = False, **changes: Any) -> FileSpec:
    """3 members, 2 starts, 5 lead times, 5 channels on 6 x 8 points."""
    facts: dict[str, Any] = {
        "channels": CHANNELS,
        "grid": LatLonGrid.equiangular(6, 8),
        "members": 3,
        "inits": np.array(["2024-01-01T00", "2024-01-02T12"], "datetime64[h]"),
        "leads": np.arange(6, 31, 6).astype("timedelta64[h]"),
        "attrs": {"seed": "7", "created": "2024-01-01T00:00:00+00:00", "codec_hash": "c0dec"},
        "layout": layout,
        "latent": (4, 3, 4) if latent else None,
    }
    return FileSpec(**(facts | changes))


def make_values(spec: FileSpec) -> np.ndarray:
    """Values [inits, members, leads, channels, rows, columns], every one different."""
    shape = (len(spec.inits), spec.members, len(spec.leads), *spec.value_shape)
    values = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    for i, channel in enumerate(spec.channels if spec.latent is None else ()):
        values[:, :, :, i] += {"geopotential": 54000, "temperature": 260}.get(channel.name, 285)
    return values


def write(writer: StagedWriter, units: list[tuple[int, slice]], values: np.ndarray) -> None:
    """Write units in two pieces each, the later lead times first."""
    for init, members in units:
        writer.write(init, members, values[init, members, 3:], slice(3, 5))
        writer.write(init, members, values[init, members, :3], slice(0, 3))
        writer.commit(init, members)


def kill() -> None:
    """End this process at once, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at(point: str, container: type) -> None:
    real = container.append

    def torn_append(self: Any, unit: Any) -> None:
        real(self, unit)
        if unit.key[:2] == (1, 0):
            kill()

    if point == "in_append":
        container.append = torn_append
    if point == "before_finish":
        container.finish = lambda self: kill()
    if point == "before_rename":
        staged.StagedWriter._raise = lambda self: None
        Path.rename = lambda self, target: kill()
    if point == "after_rename":
        staged.sync = lambda folder: kill()


def run_killed(folder: Path, format: Any, point: str) -> None:
    """Write with a kill at `point`."""
    spec = make_spec(latent=format == "latent")
    values = make_values(spec)
    _kill_at(point, staged.CONTAINERS[format])
    writer = StagedWriter(folder / point, spec, format, "request")
    write(writer, UNITS[:2], values)
    writer.wait(UNITS[:2])
    if point == "in_unit":
        writer.write(1, slice(0, 2), values[1, 0:2, :4], slice(0, 4))
        writer._queue.put(kill)
    if point == "after_commit":
        kill()
    write(writer, UNITS[2:], values)
    writer.close()


def stage_other_ranks(path: Path) -> None:
    """Stage every second unit in a process that does not assemble."""
    spec = make_spec()
    with StagedWriter(path, spec, "netcdf", "request", assemble=False) as writer:
        write(writer, UNITS[1::2], make_values(spec))


def main() -> None:
    """Run the kill points, each in a child of its own, or a second rank."""
    folder, format = Path(sys.argv[1]), sys.argv[2]
    if format == "rank":
        return stage_other_ranks(folder)
    for point in KILL_POINTS:
        child = os.fork()
        if child == 0:
            try:
                run_killed(folder, format, point)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"{point}: the process was not killed")


if __name__ == "__main__":
    main()
