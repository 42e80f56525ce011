"""Archives that are cut off, damaged or no archives at all are one line, not a traceback."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from downscaling.sources.opening import open_precipitation
from gen.data.sources import SourceError

NAME = "RW_20240101-0050.asc"
HEADER = b"ncols 4\nnrows 3\nxllcorner 0\nyllcorner 0\ncellsize 1000\nNODATA_value -1\n"


def archive(path: Path, body: bytes) -> Path:
    """Write an archive with one ASCII grid."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        member = tarfile.TarInfo(NAME)
        member.size = len(HEADER + body)
        file.addfile(member, io.BytesIO(HEADER + body))
    return path


def test_an_archive_of_ascii_grids_is_read(tmp_path: Path) -> None:
    """Tenths of a millimetre, -1 where missing, from north to south in the file."""
    path = archive(tmp_path / "rw.tar", b"-1 0 1 2\n3 4 5 6\n7 8 9 10\n")
    values = open_precipitation(path).read(0)
    assert np.allclose(values, [[0.7, 0.8, 0.9, 1.0], [0.3, 0.4, 0.5, 0.6], [np.nan, 0, 0.1, 0.2]], equal_nan=True)


@pytest.mark.parametrize("body", [b"0 1 2\n", b"0 1 2 x\n" * 3])
def test_a_grid_of_the_wrong_size_is_refused(body: bytes, tmp_path: Path) -> None:
    """Too few numbers, or something else than numbers: the member is named."""
    source = open_precipitation(archive(tmp_path / "rw.tar", body))
    with pytest.raises(SourceError, match=f"rw.tar: {NAME} is damaged"):
        source.read(0)


@pytest.mark.parametrize("name", ["rw.tar", "rw.tar.gz"])
def test_what_is_no_archive_is_refused(name: str, tmp_path: Path) -> None:
    """Other bytes under the name of an archive, and a compressed one that is cut off."""
    path = tmp_path / name
    path.write_bytes(b"no archive")
    with pytest.raises(SourceError, match=f"{name} cannot be read as an archive"):
        open_precipitation(path)
    whole = archive(tmp_path / "whole.tar.gz", b"0 1 2 3\n" * 3).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=f"{name} cannot be read as an archive"):
        open_precipitation(path)


@pytest.mark.parametrize("name", ["a.pgm.gz", "raa01-rw_10000-2401010050-dwd---bin.gz"])
def test_damaged_compression_is_refused(name: str, tmp_path: Path) -> None:
    """A stream that is cut off, and one with a byte turned, say so."""
    whole = gzip.compress(np.random.default_rng(0).bytes(2000))
    for damaged in (
        whole[:1000],
        whole[:20] + bytes([whole[20] ^ 255]) + whole[21:],
        whole[:10] + b"\xff" + whole[11:],
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(SourceError, match="uncompressed"):
            open_precipitation(tmp_path / name)
