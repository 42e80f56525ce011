"""Tasks: the table of what `gen` can do, resolved only when asked for.

`gen` imports no task. The table holds strings; `load_task` imports the one that is wanted.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

__all__ = ["TASKS", "Task", "load_task"]

TASKS: dict[str, str] = {"forecast": "forecast.task:Forecast"}


@runtime_checkable
class Task(Protocol):
    """What every task offers.

    `Request` is a frozen dataclass of what a person asks for; its constructor checks the values and raises
    `ValueError` with one line. `sample` yields blocks as they are made: memory does not grow with members, leads or
    area.
    """

    Request: ClassVar[type]

    @classmethod
    def open(cls, request: Any) -> Task:
        """Open the model that the request names."""
        ...

    def sample(self, request: Any) -> Iterator[Any]:
        """Yield the blocks of the answer in the order in which they are written."""
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
