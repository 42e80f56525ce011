"""Progress of long work: a bar on a terminal, plain log lines elsewhere, nothing when quiet.

Only the command line makes a `Reporter`; everything below it receives one as an argument, or a plain callback
`report(done, total)`, and never asks where it runs.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TextIO

__all__ = ["Bar", "Reporter", "SILENT", "configure_logging"]

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """Count the parts of one piece of work that are done."""

    def __init__(self, total: float | None) -> None:
        self.done: float = 0
        self.total, self.note = total, ""

    def advance(self, count: float = 1, note: str = "") -> None:
        """Add `count` finished units and show `note` (for example the lead time or the bytes written)."""
        self.report(self.done + count, self.total, note)

    def report(self, done: float, total: float | None = None, note: str = "") -> None:
        """Set the number of finished units; usable as the callback `report(done, total)`."""
        self.done, self.total, self.note = done, self.total if total is None else total, note or self.note
        self.show()

    def show(self) -> None:
        """Show the state; the silent bar does nothing."""

    def close(self) -> None:
        """Finish; the silent bar does nothing."""


class _TerminalBar(Bar):
    def __init__(self, label: str, total: float | None, unit: str, stream: TextIO) -> None:
        from tqdm import tqdm

        super().__init__(total)
        scaled = unit == "B"
        self._bar: Any = tqdm(
            desc=label,
            total=total,
            unit=unit if scaled else f" {unit}",
            unit_scale=scaled,
            file=stream,
            dynamic_ncols=True,
        )

    def show(self) -> None:
        """Redraw the bar."""
        self._bar.total = self.total
        if self.note:
            self._bar.set_postfix_str(self.note, refresh=False)
        self._bar.update(self.done - self._bar.n)

    def close(self) -> None:
        """Leave the last state on the terminal."""
        self._bar.close()


class _LogBar(Bar):
    def __init__(self, label: str, total: float | None, unit: str, clock: Callable[[], float]) -> None:
        super().__init__(total)
        self._label, self._unit, self._clock = label, unit, clock
        self._start = self._last = clock()
        self._said: float | None = None

    def show(self) -> None:
        """Log a line when the last one is old enough or the work is complete."""
        if self._clock() - self._last >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self._say()

    def close(self) -> None:
        """Log the final state unless it was the last line."""
        if self._said != self.done:
            self._say()

    def _say(self) -> None:
        self._last, self._said = self._clock(), self.done
        elapsed = self._last - self._start
        count = f"{self.done:g}" + (f"/{self.total:g}" if self.total else "")
        parts = [f"{self._label}: {count} {self._unit}".rstrip()]
        parts += [self.note] if self.note else []
        parts.append(f"{elapsed:.0f} s")
        if self.total and 0 < self.done < self.total:
            parts.append(f"about {elapsed * (self.total - self.done) / self.done:.0f} s left")
        log.info("%s", ", ".join(parts))


class Reporter:
    """Tell a person how far the work is.

    Args:
        quiet: say nothing but warnings and errors.
        stream: where bars are drawn; bars are used when it is a terminal (default: standard error).
        clock: seconds, monotonic.
    """

    def __init__(
        self, *, quiet: bool = False, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.quiet, self._clock = quiet, clock
        self._stream = sys.stderr if stream is None else stream

    def say(self, text: str) -> None:
        """Print one line of result on standard output, unless quiet."""
        if not self.quiet:
            import click

            click.echo(text)

    def bar(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Bar]:
        """Open a bar: `with reporter.bar("members", 8, "members") as bar: ... bar.advance(1, "240 h")`."""
        return self._open(label, total, unit)

    @contextmanager
    def _open(self, label: str, total: float | None, unit: str) -> Iterator[Bar]:
        bar = self._make(label, total, unit)
        try:
            if isinstance(bar, _TerminalBar):
                from tqdm.contrib.logging import logging_redirect_tqdm

                with logging_redirect_tqdm():
                    yield bar
            else:
                yield bar
        finally:
            bar.close()

    def _make(self, label: str, total: float | None, unit: str) -> Bar:
        if self.quiet:
            return Bar(total)
        if self._stream.isatty():
            return _TerminalBar(label, total, unit, self._stream)
        return _LogBar(label, total, unit, self._clock)


SILENT = Reporter(quiet=True)


def configure_logging(*, quiet: bool = False) -> None:
    """Send the log to standard error as plain lines: ours from INFO (quiet: WARNING), other packages' from WARNING."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("gen", "autoencoders", "diffusion", "forecast"):
        logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.INFO)
