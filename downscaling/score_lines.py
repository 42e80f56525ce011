"""Finished records of an evaluation, line by line in a file, from which a stopped run continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Lines"]


class Lines:
    """Records by key, kept as lines of a file when there is one; a line that was cut off is written anew.

    Args:
        path: of the file. setup: what must agree with the run that wrote it.

    Raises:
        ValueError: the file belongs to another run, or is none of ours.
    """

    def __init__(self, path: Path | None, setup: Mapping[str, Any]) -> None:
        self.path, self.found = path, dict[str, Any]()
        if path is None:
            return
        head = json.dumps({"setup": setup}, sort_keys=True)
        if path.exists():
            whole = path.read_text(encoding="utf-8")
            kept = whole[: whole.rfind("\n") + 1]
            first, *lines = kept.splitlines() or [""]
            if first and first != head:
                raise ValueError(
                    f"{path} belongs to another evaluation ({_change(first, setup)}); choose another --out"
                )
            self.found = {r["key"]: r for r in map(json.loads, lines)}
            path.write_text(kept or head + "\n", encoding="utf-8")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + "\n", encoding="utf-8")

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record."""
        self.found[key] = {"key": key} | record
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as sink:
                sink.write(json.dumps(self.found[key], allow_nan=False) + "\n")


def _change(first: str, setup: Mapping[str, Any]) -> str:
    try:
        before = json.loads(first)["setup"]
    except (ValueError, KeyError, TypeError):
        return "its first line is not ours"
    names = [n for n in setup if before.get(n) != setup[n]]
    return f"another {names[0].replace('_', ' ')}" if names else "another setup"
