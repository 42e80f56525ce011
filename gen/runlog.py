"""Write what a training run measures: one JSON object a line in `metrics.jsonl`, and TensorBoard beside it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen.trainstate import TrainState

__all__ = ["Clock", "RunLog", "read_log"]

log = logging.getLogger(__name__)


class Clock:
    """Measure training time from where the state left off, and the speed since the last look."""

    def __init__(self, state: TrainState) -> None:
        self._before, self._start = state.elapsed, monotonic()
        self._seen, self._since = state.samples, self._start

    def tick(self, state: TrainState) -> None:
        """Bring the elapsed time of the state up to date."""
        state.elapsed = self._before + monotonic() - self._start

    def rate(self, state: TrainState) -> float:
        """Return samples per second since the last call."""
        now = monotonic()
        rate = (state.samples - self._seen) / max(now - self._since, 1e-9)
        self._seen, self._since = state.samples, now
        return rate


class RunLog:
    """Append rows to `folder/metrics.jsonl` and `folder/tb/`.

    Args:
        folder: the run's folder.
        step: the step the run continues from; rows after it (of a run that was cut off) are dropped.
        tensorboard: write event files too; left out with one warning when the package is missing.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = True) -> None:
        self.path = folder / "metrics.jsonl"
        self._drop_after(step)
        self._events = _event_writer(folder / "tb", step) if tensorboard else None

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Append one row and make it visible at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        if self._events is not None:
            for name, value in row.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._events is not None:
            self._events.close()

    def _drop_after(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = [json.dumps(row) for row in read_log(self.path) if row["step"] <= step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, self.path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            log.warning("%s: left out an incomplete line", path)
    return rows


def _event_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("no TensorBoard files: the package is missing (pip install tensorboard)")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
