"""Chunks, their encoding, and rounding to meaningful bits."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from gen.data.variables import make_channels
from gen.grid import LatLonGrid
from gen.writers.packing import ChunkBuffer, encoder, round_bits
from gen.writers.spec import FileSpec, plan


def test_rounding_error_is_bounded_by_half_a_unit_of_the_last_kept_bit():
    """|round(x) - x| <= 2^-(k+1) |x| (Klöwer et al. 2021), for every magnitude; rounding twice adds nothing."""
    x = (np.random.default_rng(0).standard_normal(10000) * 10.0 ** np.linspace(-6, 6, 10000)).astype(np.float32)
    for keep in (1, 7, 15, 22):
        rounded = round_bits(x, keep)
        assert np.all(np.abs(rounded.astype(np.float64) - x) <= 2.0 ** -(keep + 1) * np.abs(x.astype(np.float64)))
        assert np.array_equal(round_bits(rounded, keep), rounded)


def test_rounding_ties_to_even_and_keeps_what_is_not_finite():
    """1 + 1/4 and 1 + 3/4 lie halfway at one kept bit: to 1.0 and 2.0; zero, NaN and infinity stay."""
    x = np.array([1.25, 1.75, 0.0, -0.0, np.nan, np.inf, -np.inf], np.float32)
    assert np.array_equal(round_bits(x, 1), np.array([1, 2, 0, 0, np.nan, np.inf, -np.inf], np.float32), equal_nan=True)


def test_rounding_agrees_with_numcodecs():
    """An independent implementation gives the same bits."""
    numcodecs = pytest.importorskip("numcodecs")
    x = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    theirs = np.frombuffer(numcodecs.BitRound(9).encode(x), np.float32)
    assert np.array_equal(round_bits(x, 9), theirs)


def test_deflated_chunks_are_hdf5_shuffle_then_zlib():
    """The stream inflates to the byte planes of the values: first all first bytes, then all second bytes, ..."""
    chunk = np.random.default_rng(2).standard_normal((3, 5)).astype(np.float32)
    planes = np.frombuffer(zlib.decompress(encoder("netcdf", "fast")(chunk, 23)), np.uint8).reshape(4, 15)
    assert np.array_equal(planes.T.copy().view("<f4").reshape(3, 5), chunk)


@pytest.mark.parametrize("layout", ["weatherbench", "cf", "earth2studio"])
def test_chunks_do_not_depend_on_how_the_lead_axis_came_in_pieces(layout):
    """Whole, in halves backwards, or lead by lead in random order: the same chunks with the same bits."""
    spec = FileSpec(
        make_channels(["temperature", "2m_temperature"], [500, 850]),
        LatLonGrid.equiangular(40, 60),
        members=2,
        inits=np.array(["2024-01-01"], "datetime64[h]"),
        leads=np.arange(6, 6 * 31 + 1, 6).astype("timedelta64[h]"),
        layout=layout,
    )
    values = np.random.default_rng(3).standard_normal((2, 31, *spec.value_shape)).astype(np.float32)
    arrays = plan(spec)
    assert 1 < arrays[-1].chunk_leads < 31  # else the case proves nothing

    def chunks(pieces: list[tuple[int, int]]) -> dict[tuple[int, ...], bytes]:
        buffer, found = ChunkBuffer(arrays, 2), {}
        for first, last in pieces:
            for *key, block in buffer.add(values[:, first:last], slice(first, last)):
                found[tuple(key)] = block.tobytes()
        assert not buffer.missing and not buffer._open
        return found

    whole = chunks([(0, 31)])
    assert chunks([(17, 31), (0, 17)]) == whole
    assert chunks([(i, i + 1) for i in np.random.default_rng(4).permutation(31).tolist()]) == whole


def test_a_lead_time_is_taken_once():
    """Writing a lead time twice is a mistake of the caller and says so."""
    spec = FileSpec(
        make_channels(["2m_temperature"], []),
        LatLonGrid.equiangular(4, 8),
        1,
        np.array(["2024-01-01"], "datetime64[h]"),
        np.array([6, 12], "timedelta64[h]"),
    )
    buffer = ChunkBuffer(plan(spec), 1)
    list(buffer.add(np.zeros((1, 1, 1, 4, 8), np.float32), slice(0, 1)))
    assert buffer.missing == [1]
    with pytest.raises(ValueError, match="were written before"):
        list(buffer.add(np.zeros((1, 2, 1, 4, 8), np.float32), slice(0, 2)))
