"""What the commands share: kinds of values, options that mean the same everywhere, the reporter."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

__all__ = [
    "DECIMALS",
    "EXISTING",
    "FILE",
    "NAMES",
    "NUMBERS",
    "Batch",
    "CommaList",
    "Group",
    "device_option",
    "given",
    "layout_choice",
    "make_reporter",
    "quiet_option",
]


class Group(click.Group):
    """A group that lists its commands in the order of the work and names the near miss of an unknown one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are defined."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command or say which one was probably meant."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.commands, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(self.commands)}"
            raise click.UsageError(f"unknown command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


class CommaList(click.ParamType):
    """Texts separated by commas."""

    name = "LIST"

    def __init__(self, item: Callable[[str], Any] = str) -> None:
        self._item = item

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Split at commas and convert each part."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._item(part.strip()) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers separated by commas", param, ctx)


class Batch(click.ParamType):
    """A positive number or "auto"."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Accept "auto" or a whole number above zero."""
        if value == "auto":
            return "auto"
        try:
            if (number := int(value)) > 0:
                return number
        except ValueError:
            pass
        self.fail(f"{value!r} is neither a positive whole number nor 'auto'", param, ctx)


FILE = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True)
NAMES, NUMBERS, DECIMALS = CommaList(), CommaList(int), CommaList(float)
quiet_option = click.option("--quiet", is_flag=True, help="Say nothing but warnings and errors.")
device_option = click.option("--device", help="cpu, cuda, cuda:1 … (default: the accelerator if there is one).")
layout_choice = click.Choice(["weatherbench", "cf", "earth2studio"])


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a person gave."""
    return {name: value for name, value in options.items() if value is not None}


def make_reporter(quiet: bool) -> Any:
    """Set up logging and return the reporter of this run."""
    from gen.progress import Reporter, configure_logging

    configure_logging(quiet=quiet)
    return Reporter(quiet=quiet)
