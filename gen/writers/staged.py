"""Write an ensemble forecast while it is being computed; the file appears under its name only when it is complete.

A unit is one initialisation and some members. `write` hands pieces of it to a background thread that encodes and
stages them beside the target; `commit` makes the unit durable and lets the assembling process copy it into the partial
file. After a kill at any instant, a writer opened with `resume=True` knows which units are there and the finished
file holds the same bits as that of an unbroken run. Memory holds a few pieces, whatever the ensemble size.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gen.writers.journal import Journal, StagedUnit, UnitFile, combined_fingerprint, sync
from gen.writers.latent import latent_attributes
from gen.writers.netcdf import FINGERPRINT, NetCDFContainer
from gen.writers.packing import COMPRESSIONS, Chunk, ChunkBuffer, Compress, Encode, encoder
from gen.writers.spec import FileSpec, WriterError, plan
from gen.writers.zarr_store import ZarrContainer

__all__ = ["DiskFullError", "Format", "StagedWriter", "estimate_bytes"]

log = logging.getLogger(__name__)

Format = Literal["netcdf", "zarr", "latent", "geotiff"]
CONTAINERS: dict[str, type[NetCDFContainer] | type[ZarrContainer]] = {
    "netcdf": NetCDFContainer,
    "zarr": ZarrContainer,
    "latent": ZarrContainer,
}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
POLL_SECONDS = 0.05
QUEUED_PIECES = 2


class DiskFullError(WriterError):
    """Say how much space is missing for which file."""


def estimate_bytes(spec: FileSpec, format: Format = "netcdf", compress: Compress = "fast") -> int:
    """Return the expected bytes on disk while writing; a NetCDF file lies there twice, staged and assembled."""
    return _staged_bytes(spec, CONTAINERS[format].keeps_units, compress)


def _staged_bytes(spec: Any, keeps_units: bool, compress: Compress) -> int:
    return math.ceil(spec.nbytes * COMPRESSIONS[compress] * (1 if keeps_units else 2))


class StagedWriter:
    """Write units of an ensemble forecast in the background.

    Other kinds of files (`gen.writers.raster`) give it other `containers`, arrays and buffers.

    Args:
        path: the final file (NetCDF) or folder (Zarr, latent); an older one is replaced at the end.
        spec: what the file holds.
        format: "netcdf", "zarr" or "latent".
        fingerprint: hash of everything that decides the values; a run with another one cannot be resumed.
        resume: take up the units of an interrupted run.
        compress: "fast" (lossless), "small" (rounded to each variable's meaningful bits) or "none".
        assemble: whether this process makes the file; exactly one process does, the others only stage units.
        workers: threads that encode (default: half the processors, at most 8).

    Raises:
        WriterError: the run cannot be resumed, another process writes the file, or the request does not fit the spec.
        DiskFullError: the file cannot fit on the disk.
    """

    containers: Mapping[str, Any] = CONTAINERS

    def __init__(
        self,
        path: Path | str,
        spec: Any,
        format: Format = "netcdf",
        fingerprint: str = "",
        resume: bool = False,
        *,
        compress: Compress = "fast",
        assemble: bool = True,
        workers: int | None = None,
    ) -> None:
        self.path, self.spec, self.bytes_written = Path(path).absolute(), spec, 0
        self._check(format, compress)
        self._compress: Compress = compress
        self._container_class, self._assemble = self.containers[format], assemble
        self._encode = self._encoder()
        whole = combined_fingerprint(fingerprint, spec, format, compress)
        self._journal = Journal(self.path, whole, spec.describe())
        self.complete = resume and self._container_class.fingerprint(self.path) == whole
        self._attrs = self._prepare(format, resume)
        self._container: Any = None
        self._appended: set[tuple[int, int, int]] = set()
        self._open: dict[tuple[int, int, int], tuple[Any, UnitFile]] = {}
        self._done = {u.key for u in self._journal.units()} if resume else set()
        self._error: BaseException | None = None
        self._closed = self.complete
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUED_PIECES)
        self._pool = ThreadPoolExecutor(workers or max(1, min(8, (os.cpu_count() or 1) // 2)), "encode")
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def has(self, init_index: int, members: slice) -> bool:
        """Return whether every one of these members of an initialisation is complete already."""
        return self.complete or set(range(members.start, members.stop)) <= self._members(init_index)

    def pending(self, units: Iterable[tuple[int, slice]]) -> list[tuple[int, slice]]:
        """Return the units (initialisation index, members) that still have to be computed."""
        return [unit for unit in units if not self.has(*unit)]

    def write(self, init_index: int, members: slice, values: Any, lead_slice: slice | None = None) -> None:
        """Queue values for writing; returns at once unless two pieces are waiting already.

        Args:
            init_index: which initialisation.
            members: which members, start and stop given.
            values: float32 [members, leads, channels, rows, columns]; must not be changed afterwards.
            lead_slice: which lead times (default: all); pieces of a unit may come in any order.

        Raises:
            WriterError: earlier values could not be written.
        """
        if self.complete:
            return
        leads = slice(0, len(self.spec.leads)) if lead_slice is None else lead_slice
        array = np.asarray(values, np.float32)
        expected = (members.stop - members.start, leads.stop - leads.start, *self.spec.value_shape)
        if array.shape != expected:
            raise ValueError(f"values [members, leads, channels, rows, columns] must be {expected}; got {array.shape}")
        if not (0 <= init_index < len(self.spec.inits) and 0 <= members.start < members.stop <= self.spec.members):
            raise ValueError(f"unit {init_index}, members {members.start}..{members.stop} lies outside the file")
        self._put(lambda: self._stage((init_index, members.start, members.stop), array, leads))

    def commit(self, init_index: int, members: slice) -> None:
        """Queue the end of a unit: all its lead times have been written."""
        if not self.complete:
            self._put(lambda: self._commit((init_index, members.start, members.stop)))

    def wait(self, units: Iterable[tuple[int, slice]], timeout: float | None = None) -> None:
        """Wait until all `units` are staged, by this process or by others.

        Raises:
            WriterError: nothing arrived for `timeout` seconds, or this process could not write.
        """
        self._drain()
        units, last, seen = list(units), time.monotonic(), -1
        while not self.complete:
            self._raise()
            staged = {(u.init, m) for u in self._journal.units() for m in range(u.start, u.stop)}
            if all((i, m) in staged for i, members in units for m in range(members.start, members.stop)):
                return
            if len(staged) != seen:
                seen, last = len(staged), time.monotonic()
                self._put(self._append_staged if self._assemble else lambda: None)
            if timeout is not None and time.monotonic() - last > timeout:
                raise WriterError(f"{self.path}: no new members from the other processes for {timeout:.0f} s; stopping")
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Finish: the assembling process puts the complete file under its name, others wait for their own units.

        Raises:
            WriterError: units are missing or could not be written; what is staged stays for `resume=True`.
        """
        if self._closed:
            return self._stop()
        self._closed = True
        try:
            self._put(self._append_staged if self._assemble else lambda: None)
            self._stop()
            self._raise()
            if self._assemble:
                self._finish()
        except BaseException as error:
            self._abandon()
            raise self._explain(error) from error
        self.complete = True

    def __enter__(self) -> StagedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._closed = True
            self._stop(drop=True)
            self._abandon()

    def _prepare(self, format: Format, resume: bool) -> dict[str, str]:
        if not self._assemble:
            return {} if self.complete else self._join()
        extra = latent_attributes(self.spec) if format == "latent" else {}
        attrs = self._journal.start({**self.spec.attrs, **extra, FINGERPRINT: self._journal.fingerprint}, resume)
        if self.complete:
            log.info("%s is complete already", self.path)
            self._journal.remove()
            return attrs
        staged, free = self._journal.staged_bytes(), shutil.disk_usage(self.path.parent).free
        needed = _staged_bytes(self.spec, self._container_class.keeps_units, self._compress) - staged
        if needed > free:
            self._journal.release() if self._journal.units() else self._journal.remove()
            raise DiskFullError(f"{self.path}: the disk is too small: {_size(needed)} are needed, {_size(free)} free")
        return attrs

    def _join(self) -> dict[str, str]:
        try:
            return self._journal.join()
        except WriterError:
            self.complete = self._container_class.fingerprint(self.path) == self._journal.fingerprint
            if not self.complete:  # else the others had nothing for this process to do
                raise
            return {}

    def _members(self, init: int) -> set[int]:
        return {m for i, start, stop in list(self._done) if i == init for m in range(start, stop)}

    def _put(self, job: Callable[[], None]) -> None:
        self._raise()
        self._queue.put(job)

    def _drain(self) -> None:
        """Wait until everything that was queued is on disk: nobody's patience runs out over one's own work."""
        done = threading.Event()
        self._put(done.set)
        while not done.wait(POLL_SECONDS):
            self._raise()

    def _work(self) -> None:
        """Run the queued jobs in order; after a failure only empty the queue, so that nobody waits for ever."""
        while (job := self._queue.get()) is not None:
            if self._error is None:
                try:
                    job()
                except BaseException as error:
                    self._error = error

    def _stage(self, key: tuple[int, int, int], values: NDArray[np.float32], leads: slice) -> None:
        if key not in self._open:
            self._open[key] = self._buffer(key), UnitFile(self._journal.folder, *key)
        buffer, unit = self._open[key]
        for name, encoded in self._pool.map(self._encode_chunk, buffer.add(values, leads)):
            unit.append(name, encoded)
            self.bytes_written += len(encoded)

    def _check(self, format: Format, compress: Compress) -> None:
        _check(self.path, self.spec, format, compress)

    def _encoder(self) -> Encode:
        self._plans = plan(self.spec)
        return encoder(self._container_class.name, self._compress)

    def _buffer(self, key: tuple[int, int, int]) -> Any:
        return ChunkBuffer(self._plans, key[2] - key[1])

    def _keep_bits(self, array: int) -> int:
        return self._plans[array].keep_bits

    def _encode_chunk(self, chunk: Chunk) -> tuple[tuple[int, int, int, int], bytes]:
        return chunk[:4], self._encode(chunk[4], self._keep_bits(chunk[0]))

    def _commit(self, key: tuple[int, int, int]) -> None:
        if key not in self._open:
            raise WriterError(f"{self.path}: unit {key[0]}, members {key[1]}..{key[2]} was committed without values")
        buffer, unit = self._open.pop(key)
        if buffer.missing:
            unit.discard()
            raise WriterError(f"{self.path}: unit {key} was committed without lead indices {buffer.missing}")
        unit.commit()
        self._done.add(key)
        if self._assemble:
            self._append_staged()

    def _append_staged(self) -> None:
        """Copy complete units, of this and other processes, into the partial file."""
        if self._container is None:
            partial = self._journal.folder / "assembled"
            self._container = self._container_class(partial, self.spec, self._attrs, self._compress)
        for unit in self._journal.units():
            if unit.key not in self._appended and unit.data.exists():
                self._container.append(unit)
                if self._container.keeps_units:
                    unit.data.unlink()
            self._appended.add(unit.key)

    def _finish(self) -> None:
        units = self._journal.units()
        staged = sum(unit.stop - unit.start for unit in units)
        wanted = len(self.spec.inits) * self.spec.members
        if staged != wanted or _overlap(units):
            raise WriterError(f"{self.path}: only {staged} of {wanted} members are there; repeat with --resume")
        assert self._container is not None
        self._container.finish()
        if self.path.is_dir():
            self.path.rename(self._journal.folder / "replaced")
        (self._journal.folder / "assembled").rename(self.path)
        sync(self.path.parent)
        self._journal.remove()

    def _stop(self, drop: bool = False) -> None:
        if self._thread.is_alive():
            if drop and self._error is None:
                self._error = WriterError(f"{self.path}: writing was stopped")
            self._queue.put(None)
            self._thread.join()
            self._pool.shutdown()

    def _abandon(self) -> None:
        for _, unit in self._open.values():
            unit.discard()
        self._open.clear()
        if self._container is not None:
            self._container.abandon()
        if self._assemble and not self._journal.units():
            self._journal.remove()
        self._journal.release()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._explain(self._error) from self._error

    def _explain(self, error: BaseException) -> BaseException:
        """Turn an error of the operating system into one line."""
        if not isinstance(error, OSError) or isinstance(error, WriterError):
            return error
        if error.errno in FULL or "No space left" in str(error):
            needed = max(_staged_bytes(self.spec, False, self._compress) - self._journal.staged_bytes(), 0)
            free = shutil.disk_usage(self.path.parent).free
            return DiskFullError(
                f"{self.path}: the disk is full: about {_size(needed)} more are needed, {_size(free)} are free; "
                "make room and repeat the command with --resume"
            )
        return WriterError(f"{self.path}: cannot write: {error.strerror or error}")


def _check(path: Path, spec: FileSpec, format: Format, compress: Compress) -> None:
    if format not in CONTAINERS:
        raise ValueError(f"format must be one of {', '.join(CONTAINERS)}; got {format!r}")
    if compress not in COMPRESSIONS:
        raise ValueError(f"compress must be one of {', '.join(COMPRESSIONS)}; got {compress!r}")
    if (format == "latent") != (spec.latent is not None):
        raise ValueError("the format latent needs FileSpec.latent, and only it")
    if not path.parent.is_dir():
        raise WriterError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir() and format == "netcdf":
        raise WriterError(f"{path}: is a folder; give a file name such as {path / 'forecast.nc'}")
    if path.is_file() and format != "netcdf":
        raise WriterError(f"{path}: is a file, and {format} writes a folder; give another name")


def _overlap(units: list[StagedUnit]) -> bool:
    pairs = [(u.init, m) for u in units for m in range(u.start, u.stop)]
    return len(set(pairs)) != len(pairs)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"
