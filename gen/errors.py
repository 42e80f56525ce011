"""Errors as a person should see them: one line on standard error and an exit code, 2 for bad input, 1 for the rest."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import click

__all__ = ["BAD_INPUT", "FAILED", "guarded"]

BAD_INPUT, FAILED = 2, 1
USER_FILE_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError)


def guarded(action: Callable[[], Any], *, debug: bool = False) -> int:
    """Call `action`; turn every expected error into one line `error: ...` and an exit code.

    Args:
        action: what to do; an integer it returns is the exit code.
        debug: let errors through with their traceback.
    """
    try:
        result = action()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (Exception, KeyboardInterrupt) as error:
        if debug or (described := _describe(error)) is None:
            raise
        text, code = described
        click.echo(f"error: {' '.join(text.split())}", err=True)
        return code
    return result if isinstance(result, int) else 0


def _describe(error: BaseException) -> tuple[str, int] | None:
    """Return the line and the exit code of an expected error, None for a bug."""
    match error:
        case click.Abort() | KeyboardInterrupt():
            return "interrupted; --resume continues a run that was writing", FAILED
        case click.ClickException():
            return error.format_message(), BAD_INPUT
        case OSError(errno=errno.ENOSPC):
            place = f" ({error.filename})" if error.filename else ""
            return f"the disk is full{place}; make room, then repeat with --resume", FAILED
        case BrokenPipeError():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - keeps the interpreter's last flush quiet
            return "the reader of the output went away", FAILED
        case OSError():
            return str(error), BAD_INPUT if isinstance(error, USER_FILE_ERRORS) else FAILED
        case ValueError():
            return str(error), BAD_INPUT
        case MemoryError():
            return f"out of memory; use fewer members per block (--batch). {error}", FAILED
        case ImportError() | RuntimeError():
            return f"{error} (gen --debug shows where)", FAILED
    return None
