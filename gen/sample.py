"""Sampling: request, task, writer loop.

Every unit (one start, one block of members) is drawn and staged by itself; the writer appends finished units to the
file in the background, and the file appears under its name when all are there. Several processes share the units.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["run_sample"]

from gen.progress import SILENT, Reporter
from gen.provenance import config_hash, provenance
from gen.tasks import load_task
from gen.writers.staged import StagedWriter

log = logging.getLogger(__name__)


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
    spec, fingerprint = _stamp(task, request)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    writer = StagedWriter(
        request.path, spec, format=request.format, fingerprint=fingerprint, resume=request.resume, assemble=rank == 0
    )
    if warning := task.warning():
        log.warning("note: %s", warning)
    units = task.units()
    todo = [u for u in units[rank::world] if not writer.has(u.init_index, u.members)]
    with writer, reporter.bar("members", sum(_size(u) for u in todo), "members") as bar:
        for unit in todo:
            for block in task.sample(unit):
                writer.write(unit.init_index, unit.members, block.values, block.leads)
            writer.commit(unit.init_index, unit.members)
            bar.advance(_size(unit), f"{request.lead_hours} h, {writer.bytes_written / 1e6:.0f} MB")
        if rank == 0:
            writer.wait([(u.init_index, u.members) for u in units])
            writer.close()
    if rank == 0:
        _finish(request, sum(_size(u) for u in todo), time.monotonic() - began, reporter)
    return Path(request.path)


def _size(unit: Any) -> int:
    return int(unit.members.stop - unit.members.start)


def _stamp(task: Any, request: Any) -> tuple[Any, str]:
    """Add provenance to the file's attributes; the fingerprint tells whether a stopped run is the same run."""
    asked = {k: str(v) for k, v in dataclasses.asdict(request).items() if k not in ("out", "resume", "plot", "device")}
    identity = config_hash({**asked, **task.attributes(), "model_sha256": task.digest})
    spec = task.spec()
    stamp = provenance(config_hash=config_hash(asked), model_hash=task.digest, seed=request.seed)
    return dataclasses.replace(spec, attrs={**spec.attrs, **stamp}), identity


def _finish(request: Any, members: int, seconds: float, reporter: Reporter) -> None:
    """Draw the quick-look figure and say what was made."""
    reporter.say(f"{request.path}: {members} members in {seconds:.1f} s")
    if request.plot and request.format != "latent":
        from gen.plot import quicklook

        figure = quicklook(request.path, request.path.with_suffix(".png"))
        reporter.say(f"{figure}")
