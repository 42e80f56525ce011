"""The staging folder of an unfinished file: what has been computed survives a kill at any instant.

`.<name>.parts/` beside the target holds `journal.json` (what is being written) and, per unit, `unit-*.data` (encoded
chunks one after the other) and `unit-*.index.npy` (where each chunk lies). Data are flushed to the disk before the
index appears under its name, and the index before anything relies on it, so a unit that has an index is complete.
Several processes may stage units of one file; only the assembling one creates or removes the folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gen.writers.spec import FileSpec, WriterError

__all__ = ["Journal", "StagedUnit", "UnitFile", "combined_fingerprint", "sync", "write_durably"]

VERSION = 1
PATIENCE_SECONDS = 60.0
UNIT = re.compile(r"unit-(\d+)-(\d+)-(\d+)\.index\.npy")


def combined_fingerprint(request: str, spec: FileSpec, container: str, compress: str) -> str:
    """Return one hash of the caller's fingerprint and of everything that decides the bytes of the arrays."""
    text = json.dumps([VERSION, request, spec.describe(), container, compress], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class StagedUnit:
    """A complete unit: members `start..stop` of one initialisation, the chunks of which lie in `data`."""

    data: Path
    init: int
    start: int
    stop: int

    @property
    def key(self) -> tuple[int, int, int]:
        """Initialisation, first member, one past the last."""
        return self.init, self.start, self.stop

    def index(self) -> NDArray[np.int64]:
        """Read int64 [chunks, 6]: array, member within the unit, lead chunk, level chunk, offset, bytes."""
        table: NDArray[np.int64] = np.load(self.data.with_suffix(".index.npy"))
        return table

    def chunks(self) -> Iterator[tuple[NDArray[np.int64], bytes]]:
        """Yield (row of the index, encoded bytes) ordered by array, member, lead and level."""
        with self.data.open("rb") as stream:
            for row in self.index():
                stream.seek(int(row[4]))
                yield row, stream.read(int(row[5]))


class UnitFile:
    """Collect the encoded chunks of one unit and make it durable with `commit`."""

    def __init__(self, folder: Path, init: int, start: int, stop: int) -> None:
        self._stem = folder / f"unit-{init:06d}-{start:06d}-{stop:06d}"
        self._stream: BinaryIO = self._stem.with_suffix(".data").open("wb")
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._size = 0

    def append(self, key: tuple[int, int, int, int], encoded: bytes) -> None:
        """Add one chunk; `key` is (array, member, lead chunk, level chunk)."""
        self._stream.write(encoded)
        self._rows.append((*key, self._size, len(encoded)))
        self._size += len(encoded)

    def commit(self) -> None:
        """Flush the data to the disk, then let the index appear."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        table = io.BytesIO()
        np.save(table, np.asarray(sorted(self._rows), np.int64).reshape(-1, 6))
        write_durably(self._stem.with_suffix(".index.npy"), table.getvalue())

    def discard(self) -> None:
        """Close and forget an incomplete unit."""
        self._stream.close()
        self._stem.with_suffix(".data").unlink(missing_ok=True)


class Journal:
    """The staging folder of one target file.

    Args:
        target: the final path.
        fingerprint: from `combined_fingerprint`.
        facts: what the folder is for (`FileSpec.describe`), to explain a mismatch.
    """

    def __init__(self, target: Path, fingerprint: str, facts: dict[str, object]) -> None:
        self.target, self.fingerprint, self._facts = target, fingerprint, facts
        self.folder = target.with_name(f".{target.name}.parts")
        self._locks: list[BinaryIO] = []

    def start(self, attrs: dict[str, str], resume: bool) -> dict[str, str]:
        """Create the folder, or take up the one that is there; return the attributes the file was started with.

        Raises:
            WriterError: another process is writing the file, or the folder belongs to another request.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._take("lock"):
            raise WriterError(f"{self.target}: another process is writing this file; wait for it or stop it")
        if resume and (self.folder / "journal.json").exists():
            attrs = self._take_up()
        else:
            self._clear()
            content = {"fingerprint": self.fingerprint, "facts": self._facts, "attrs": attrs}
            write_durably(self.folder / "journal.json", json.dumps(content, indent=1).encode())
        self._take("ready", patience=PATIENCE_SECONDS)
        return attrs

    def join(self) -> dict[str, str]:
        """Wait until the assembling process holds the folder open, then return the attributes of the file.

        Raises:
            WriterError: there is no such process, or it writes another request.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._held("ready"):
            if time.monotonic() > deadline:
                raise WriterError(f"{self.target}: no process assembles this file; start the one with rank 0 as well")
            time.sleep(0.05)
        return self._read()

    def units(self) -> list[StagedUnit]:
        """Return the complete units, by initialisation and member."""
        found = []
        for path in sorted(self.folder.glob("unit-*.index.npy")):
            match = UNIT.fullmatch(path.name)
            if match:
                init, start, stop = map(int, match.groups())
                data = path.with_name(path.name.replace(".index.npy", ".data"))
                found.append(StagedUnit(data, init, start, stop))
        return found

    def staged_bytes(self) -> int:
        """Return the bytes that lie in the folder."""
        return sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())

    def remove(self) -> None:
        """Delete the folder and release the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Release the lock and keep the folder."""
        while self._locks:
            self._locks.pop().close()

    def _read(self) -> dict[str, str]:
        """Check that the folder is for this request."""
        path = self.folder / "journal.json"
        content = json.loads(path.read_text())
        if content["fingerprint"] != self.fingerprint:
            raise WriterError(
                f"{self.target}: cannot resume: the unfinished run was another request ({self._difference(content)}); "
                "repeat its options, or start again without --resume"
            )
        return dict(content["attrs"])

    def _take_up(self) -> dict[str, str]:
        try:
            attrs = self._read()
        except WriterError:
            self.release()
            raise
        complete = {unit.data.name for unit in self.units()}
        for path in [*self.folder.glob("unit-*.data"), *self.folder.glob("*.tmp")]:
            if path.name not in complete:
                path.unlink()
        return attrs

    def _take(self, name: str, patience: float = 0.0) -> bool:
        """Lock a file of the folder until the process ends; the system releases it after a kill."""
        import fcntl

        stream, deadline = (self.folder / name).open("ab"), time.monotonic() + patience
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    stream.close()
                    return False
                time.sleep(0.001)
            else:
                self._locks.append(stream)
                return True

    def _held(self, name: str) -> bool:
        """Return whether a living process holds the lock `name`."""
        import fcntl

        try:
            with (self.folder / name).open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in ("lock", "ready"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _difference(self, content: dict[str, dict[str, object]]) -> str:
        before, now = content["facts"], json.loads(json.dumps(self._facts))
        keys = [key for key in now if before.get(key) != now[key]]
        short = [f"{k} {before.get(k)} -> {now[k]}" if len(str(now[k])) < 40 else f"other {k}" for k in keys]
        return ", ".join(short) or "other model, seed or sampling options"


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that it is either absent or whole, also after a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file to the disk, or the names inside a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
