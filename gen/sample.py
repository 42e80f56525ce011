"""Sampling: request, task, writer loop.

Every unit (a block of members of one start or of several) is drawn by itself and each of its parts staged; the writer
appends finished parts to the file in the background, and the file appears under its name when all are there. Several
processes share the units.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["run_sample", "stamped"]

from gen.progress import SILENT, Reporter
from gen.provenance import config_hash, provenance
from gen.tasks import load_task
from gen.writers.raster import RasterSpec, RasterWriter
from gen.writers.spec import WriterError
from gen.writers.staged import StagedWriter

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 1800.0  # without a new part from another process, before the assembling one gives up
PATIENCE_UNITS = 5.0  # and at least so many times this process' slowest unit


def run_sample(task_name: str, options: Mapping[str, Any], reporter: Reporter = SILENT) -> Path:
    """Draw what `options` ask for and return the path of the file.

    Args:
        task_name: key of `gen.tasks.TASKS`.
        options: fields of the task's request.
        reporter: where progress goes.
    """
    task_class: Any = load_task(task_name)
    request = task_class.Request(**options)
    began = time.monotonic()
    task = task_class.open(request)
    spec, fingerprint = stamped(task, request)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    writer = (RasterWriter if isinstance(spec, RasterSpec) else StagedWriter)(
        request.path,
        spec,
        format=request.format,
        fingerprint=fingerprint,
        resume=request.resume,
        compress=request.compress,
        assemble=rank == 0,
    )
    if warning := task.warning():
        log.warning("note: %s", warning)
    units = task.units()
    left = [(u, [p for p in u.parts if not writer.has(p.init_index, p.members)]) for u in units[rank::world]]
    members, slowest = sum(_size(parts) for _, parts in left), 0.0
    with writer, reporter.bar(task.counted, members, task.counted) as bar:
        for unit, parts in left:
            if parts:
                slowest = max(slowest, _draw(task, unit, parts, writer))
                bar.advance(_size(parts), f"{task.extent}, {writer.bytes_written / 1e6:.0f} MB")
        if rank == 0:
            _wait(writer, units, max(PATIENCE_SECONDS, PATIENCE_UNITS * slowest))
            writer.close()
    if rank == 0:
        _finish(request, [f"{members} {task.counted}", *task.closing()], time.monotonic() - began, reporter)
    return Path(request.path)


def _draw(task: Any, unit: Any, parts: list[Any], writer: StagedWriter) -> float:
    """Compute a unit and stage those of its parts that are not there yet; return the seconds."""
    began = time.monotonic()
    for block in task.sample(task.cut(unit, parts)):
        if block.part in parts:
            writer.write(block.part.init_index, block.part.members, block.values, block.leads)
            if isinstance(writer, RasterWriter):
                writer.note(block.part.init_index, block.part.members, block.notes)
    for part in parts:
        writer.commit(part.init_index, part.members)
    return time.monotonic() - began


def _wait(writer: StagedWriter, units: Any, patience: float) -> None:
    """Wait for the units of the other processes, but not for ever: one of them may have died unseen."""
    try:
        writer.wait([(p.init_index, p.members) for u in units for p in u.parts], timeout=patience)
    except WriterError as error:
        if "from the other processes" not in str(error):
            raise
        raise WriterError(f"{error}; one of them has died or hangs: stop them all and repeat with --resume") from None


def stamped(task: Any, request: Any) -> tuple[Any, str]:
    """Return the specification of a task's file with its provenance, and a fingerprint that only the same run has."""
    asked = {k: str(v) for k, v in dataclasses.asdict(request).items() if k not in ("out", "resume", "plot", "device")}
    identity = config_hash({**asked, **task.attributes(), "model_sha256": task.digest})
    spec = task.spec()
    stamp = provenance(config_hash=config_hash(asked), model_hash=task.digest, seed=request.seed)
    return dataclasses.replace(spec, attrs={**spec.attrs, **stamp}), identity


def _size(parts: list[Any]) -> int:
    return sum(int(p.members.stop - p.members.start) for p in parts)


def _finish(request: Any, made: list[str], seconds: float, reporter: Reporter) -> None:
    """Draw the quick-look figure and say what was made."""
    reporter.say(f"{request.path}: {made[0]} in {seconds:.1f} s")
    for line in made[1:]:
        reporter.say(line)
    if request.plot and request.format not in ("latent", "geotiff"):
        from gen.plot import quicklook

        figure = quicklook(request.path, request.path.with_suffix(".png"))
        reporter.say(f"{figure}")
