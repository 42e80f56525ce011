"""Tasks: the table of what `gen` can do, resolved only when asked for.

`gen` imports no task. The table holds strings; `load_task` imports the one that is wanted.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gen.writers.raster import RasterSpec
    from gen.writers.spec import FileSpec

__all__ = ["TASKS", "Part", "Task", "Unit", "load_task"]

TASKS: dict[str, str] = {"forecast": "forecast.task:Forecast", "downscaling": "downscaling.task:Downscaling"}


class Part(Protocol):
    """The smallest piece that is kept as a whole: some members of one start."""

    @property
    def init_index(self) -> int:
        """Return which start."""
        ...

    @property
    def members(self) -> slice:
        """Return which members, start and stop given."""
        ...


class Unit(Protocol):
    """The smallest piece that is computed as a whole: parts of one start or of several."""

    @property
    def parts(self) -> Sequence[Part]:
        """Return the parts in the order of the file."""
        ...


class Task(Protocol):
    """What every task offers to `gen.sample.run_sample`.

    `Request` is a frozen dataclass of what a person asks for; its constructor checks the values and raises `ValueError`
    with one line. `digest` is the SHA-256 of the model; `counted` names what the members of all parts add up to, and
    `extent` says how long or large they are. Blocks are yielded as they are made, so that memory does not grow with
    members, lead times or area.
    """

    Request: type[Any]
    digest: str
    counted: str
    extent: str

    @classmethod
    def open(cls, request: Any) -> Task:
        """Open the model and the analysis that the request names, and check the request against them."""
        ...

    def units(self) -> Sequence[Unit]:
        """Return every unit in the order of the file."""
        ...

    def cut(self, unit: Any, parts: Sequence[Any]) -> Any:
        """Return what has to be computed of a unit when only some of its parts are missing."""
        ...

    def spec(self) -> FileSpec | RasterSpec:
        """Return what the file holds."""
        ...

    def attributes(self) -> dict[str, str]:
        """Return the facts beside the request that decide the values."""
        ...

    def warning(self) -> str:
        """Return what must be said before anyone believes the fields, or an empty text."""
        ...

    def closing(self) -> list[str]:
        """Return lines to end with, beside the name of the file."""
        ...

    def sample(self, unit: Any) -> Iterator[Any]:
        """Yield blocks: `part`, `leads` (a slice) and `values` [members, leads, channels, rows, columns]."""
        ...


def load_task(name: str, table: Mapping[str, str] = TASKS) -> type[Task]:
    """Import a task by its name.

    Raises:
        ValueError: the name is not in the table; the message names the near miss.
    """
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"the tasks are {', '.join(sorted(table))}"
        raise ValueError(f"unknown task {name!r}; {hint}")
    module, _, attribute = table[name].partition(":")
    task: type[Task] = getattr(importlib.import_module(module), attribute)
    return task
