"""gen.tasks: names become classes only when asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gen.tasks import TASKS, load_task


def test_every_entry_of_the_table_resolves() -> None:
    """Each string names a class with the parts of the protocol."""
    for name in TASKS:
        task = load_task(name)
        assert isinstance(task.Request, type)
        parts = ("open", "units", "spec", "attributes", "warning", "sample")
        assert all(callable(getattr(task, part)) for part in parts)


def test_an_unknown_name_gets_the_near_miss() -> None:
    """A mistyped task names the one that was probably meant, another the whole list."""
    with pytest.raises(ValueError, match="unknown task 'forcast'; did you mean 'forecast'"):
        load_task("forcast")
    with pytest.raises(ValueError, match="the tasks are downscaling, forecast"):
        load_task("qqq")


def test_the_table_imports_no_task() -> None:
    """Reading the table loads neither the task nor torch."""
    loaded = "{name.split('.')[0] for name in sys.modules}"
    code = f"import sys, gen.tasks; sys.exit(len({loaded} & {{'forecast', 'torch', 'numpy'}}))"
    subprocess.run([sys.executable, "-c", code], check=True)
