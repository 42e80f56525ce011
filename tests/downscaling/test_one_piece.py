"""Grids whose edges never meet coarse ones: told, bounded, refused."""

from __future__ import annotations

import numpy as np
import pytest

from downscaling import one_piece
from downscaling.keeping import Keeper
from downscaling.lattice import Target, build_domain
from downscaling.one_piece import PIXEL_BYTES, conserved_in
from gen.grid import LatLonGrid

COARSE = LatLonGrid(40 + 0.25 * np.arange(80), 5 + 0.25 * np.arange(80))


def keeper(south: float | None, rows: int = 90) -> Keeper:
    """Of a domain of factor 2.5; `south` is the first row of a grid of its own."""
    fine = None if south is None else LatLonGrid(south + 0.1 * np.arange(rows), 7.025 + 0.1 * np.arange(30))
    return Keeper(build_domain(COARSE, Target(None if fine else 2.5, grid=fine), 64), "input", 0.1)


def test_only_grids_that_never_meet_the_input_are_told() -> None:
    """A factor, and a grid of one's own on the same lattice, are cut; one that lies 0.005 degrees off is not."""
    assert conserved_in(None, 4) == conserved_in(keeper(None), 4) == conserved_in(keeper(42.025), 4) == ""
    assert "the field is one piece" in conserved_in(keeper(42.03), 4)
    assert len(keeper(42.025).rows) > 2 == len(keeper(42.03).rows)


def test_a_piece_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides is the piece, not the field: the same field in pieces goes where the whole one does not."""
    made, cut = keeper(42.03), keeper(42.025)
    height, width = (a.stop - a.first for a in (made.domain.rows, made.domain.columns))
    need = PIXEL_BYTES * 4 * height * width
    monkeypatch.setattr(one_piece, "free_memory", lambda: 1.2 * need)
    with pytest.raises(ValueError, match=f"{height} x {width} pixels of 4 members .* take a smaller --batch") as caught:
        conserved_in(made, 4)
    assert "\n" not in str(caught.value)
    assert conserved_in(made, 3) and conserved_in(cut, 4) == ""


def test_the_stated_bytes_hold_what_a_piece_takes() -> None:
    """Peak of the projection of two members on 30 x 30 pixels with their halo, as Python's own accounting has it."""
    import tracemalloc

    made = keeper(42.03, rows=30)
    rows, columns = made.domain.rows, made.domain.columns
    random = np.random.default_rng(0)
    rain = random.exponential(1.0, (2, rows.stop - rows.first, columns.stop - columns.first)).astype(np.float32)
    coarse = random.exponential(1.0, COARSE.shape).astype(np.float32)[np.ix_(rows.cells, columns.cells)]
    tracemalloc.start()
    pieces = list(made.finished(iter([(rows.first, rain)]), coarse, rows.first, rows.stop))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pieces[0][1].shape == (2, 30, 30) and peak <= 1.2 * PIXEL_BYTES * rain.size
