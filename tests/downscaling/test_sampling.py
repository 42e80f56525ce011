"""Fine rain of any domain: crops, seams, pieces, conservation, missing and dry fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from diffusion.samplers import build_sampler
from downscaling.conserve import Mode
from downscaling.lattice import Domain, Target, build_domain
from downscaling.model import DownscalingModel
from downscaling.overlap import Overlap
from downscaling.sampling import VIOLATION, RainSampler, tile_side
from gen.grid import LatLonGrid, Region

Rain = Callable[..., np.ndarray]
MINUTE = 28_400_000
KEEP: tuple[Mode, Mode] = ("none", "input")


def grid(rows: int, columns: int, south: float = 40.125, west: float = 5.125) -> LatLonGrid:
    return LatLonGrid(south + 0.25 * np.arange(rows), west + 0.25 * np.arange(columns))


def drawn(
    model: DownscalingModel,
    coarse: np.ndarray,
    where: LatLonGrid,
    target: Target,
    members: Any = (0,),
    rows: tuple[int, int] | None = None,
    **options: Any,
) -> tuple[Domain, np.ndarray, float]:
    """Return the domain, the rates [M, h, W] and the largest violation."""
    domain = build_domain(where, target, tile_side(model))
    sampler = RainSampler(model, domain, build_sampler("flow_midpoint", 1), half_life_hours=2.0, **options)
    pieces = list(sampler.draw(coarse, MINUTE, members, rows))
    worst = max(piece.notes.get(VIOLATION, 0.0) for piece in pieces)
    return domain, np.concatenate([piece.values for piece in pieces], axis=1), worst


def test_two_crops_agree_inside(tiny_model: DownscalingModel, rain: Rain) -> None:
    """From one tile side (160 pixels) inside the rim of both crops the rain is the same to 1e-5 mm/h."""
    coarse, side = rain(84, 80), tile_side(tiny_model)
    a, x, _ = drawn(tiny_model, coarse, grid(84, 80), Target(4.0))
    b, y, _ = drawn(tiny_model, coarse[5:, 3:], grid(79, 77, 41.375, 5.875), Target(4.0))
    top, left = b.rows.first - a.rows.first, b.columns.first - a.columns.first
    x = x[:, top:, left:]
    assert x.shape == y.shape and np.abs(x - y).max() > 0.1
    assert np.abs(x - y)[:, side:, side:].max() <= 1e-5


def test_regions_of_one_input_agree_everywhere(tiny_model: DownscalingModel, rain: Rain) -> None:
    """Tiles are drawn whole, so a region has the bits of the whole field up to its rim."""
    coarse, where = rain(84, 50), grid(84, 50)
    a, x, _ = drawn(tiny_model, coarse, where, Target(2.5))
    b, y, _ = drawn(tiny_model, coarse, where, Target(2.5, region=Region(43.3, 50.1, 6.2, 11.0)))
    top, left = b.rows.first - a.rows.first, b.columns.first - a.columns.first
    np.testing.assert_array_equal(x[:, top : top + y.shape[1], left : left + y.shape[2]], y)


@pytest.mark.parametrize("conserved", [False, True])
def test_a_run_that_begins_in_the_middle_has_the_same_bits(
    tiny_model: DownscalingModel, rain: Rain, conserved: bool
) -> None:
    """Rows from any band on are those of the whole run: tiles need not be drawn in order."""
    coarse, where = rain(84, 24), grid(84, 24)
    _, whole, _ = drawn(tiny_model, coarse, where, Target(4.0), keep=KEEP[conserved])
    domain = build_domain(where, Target(4.0), tile_side(tiny_model))
    sampler = RainSampler(
        tiny_model,
        domain,
        build_sampler("flow_midpoint", 1),
        half_life_hours=2.0,
        keep=KEEP[conserved],
    )
    for piece in sampler.draw(coarse, MINUTE, [0], (256, 336)):
        np.testing.assert_array_equal(piece.values, whole[:, piece.first : piece.first + piece.values.shape[1]])


def test_members_do_not_depend_on_their_block(tiny_model: DownscalingModel, rain: Rain) -> None:
    """Members drawn together and one by one have the same bits; members differ."""
    coarse, where = rain(20, 20), grid(20, 20)
    _, both, _ = drawn(tiny_model, coarse, where, Target(2.5), (3, 4), batch=2)
    _, one, _ = drawn(tiny_model, coarse, where, Target(2.5), (4,))
    np.testing.assert_array_equal(both[1:], one)
    assert np.abs(both[0] - both[1]).max() > 0.1


def test_no_seam_at_tiles_and_windows(tiny_model: DownscalingModel) -> None:
    """Steps across the edges of windows and tiles are those of the interior: index 0.98 to 1.02.

    The coarse rain is even, so that texture comes from the noise; rates are cut at 1 mm/h, since few heavy pixels would
    decide. Every fourth line is compared, where tokens and coarse cells have their edges and leave their own print.
    Edges of windows lie at 48 k and 48 k + 16, those of tiles among them. Other seeds give 0.995 to 1.018.
    """
    coarse = np.full((60, 40), 1.0, np.float32)
    domain, fields, _ = drawn(tiny_model, coarse, grid(60, 40), Target(4.0), range(5))
    steps: dict[bool, list[float]] = {True: [], False: []}
    for axis, first in ((1, domain.rows.first), (2, domain.columns.first)):
        change = np.abs(np.diff(np.minimum(fields, 1.0), axis=axis))
        for line in range(12 - first % 4, fields.shape[axis] - 8, 4):
            at_seam = (line + first) % 48 in (0, 16)
            steps[at_seam] += change.take(line - 1, axis=axis).ravel().tolist()
    assert 0.98 <= np.mean(steps[True]) / np.mean(steps[False]) <= 1.02


@pytest.mark.parametrize("factor", [2.5, 4.0, 8.0])
def test_conserved_amounts_are_exact(tiny_model: DownscalingModel, rain: Rain, factor: float) -> None:
    """Area means over every coarse cell are the input's to 1e-6 of its maximum; nothing negative, dry cells dry."""
    coarse, where = rain(30, 21), grid(30, 21)
    domain, fields, worst = drawn(tiny_model, coarse, where, Target(factor), (0, 1), keep="input")
    lap = Overlap.between(where, domain.grid)
    means = lap.apply(fields)
    assert np.nanmax(np.abs(means - coarse)) <= 1e-6 * coarse.max() and worst <= 1e-6 * coarse.max()
    assert fields.min() >= 0 and fields[:, lap.touched_by(coarse == 0)].max() == 0


def test_missing_cells_stay_missing(tiny_model: DownscalingModel, rain: Rain) -> None:
    """Pixels of a missing coarse cell have no value, with and without conservation; all others have one."""
    coarse = rain(24, 20)
    coarse[3:6, 7] = np.nan
    for conserved in (False, True):
        _, fields, _ = drawn(tiny_model, coarse, grid(24, 20), Target(4.0), keep=KEEP[conserved])
        wanted = np.repeat(np.repeat(np.isnan(coarse), 4, 0), 4, 1)
        np.testing.assert_array_equal(np.isnan(fields[0]), wanted)


def test_a_dry_field_stays_dry(tiny_model: DownscalingModel) -> None:
    """Without any rain there is none, exactly, conserved or not; missing cells do not change that."""
    coarse = np.zeros((13, 27), np.float32)
    for conserved in (False, True):
        _, fields, _ = drawn(tiny_model, coarse, grid(13, 27), Target(2.5), keep=KEEP[conserved])
        assert fields.shape == (1, 32, 67)
        assert not fields.any()


def test_one_wet_cell_keeps_its_rain(tiny_model: DownscalingModel) -> None:
    """All rain of a single wet cell falls inside it."""
    coarse = np.zeros((20, 20), np.float32)
    coarse[8, 11] = 3.0
    domain, fields, _ = drawn(tiny_model, coarse, grid(20, 20), Target(4.0), keep="input")
    assert fields[0, 32:36, 44:48].mean() == pytest.approx(3.0, rel=1e-3)
    assert fields.sum() == pytest.approx(fields[0, 32:36, 44:48].sum())


def test_across_the_date_line_there_is_no_gap(tiny_model: DownscalingModel, rain: Rain) -> None:
    """A region across 180 degrees of a global input takes its cells from both ends and conserves each."""
    globe = LatLonGrid(np.arange(-89.5, 90), np.arange(0.5, 360))
    coarse = rain(180, 360)
    region = Region(-10, 10, 170, -170)
    domain, fields, worst = drawn(tiny_model, coarse, globe, Target(4.0, region=region), keep="input")
    wanted = np.concatenate([coarse[80:100, 170:180], coarse[80:100, 180:190]], axis=1)
    lap = Overlap.between(LatLonGrid(np.arange(-9.5, 10), np.arange(170.5, 190)), domain.grid)
    assert np.abs(lap.apply(fields[0]) - wanted).max() <= 1e-6 * coarse.max()
    assert worst <= 1e-6 * coarse.max()


def globe(west: float) -> LatLonGrid:
    """Cells of three degrees, 120 on a circle; at factor 4 a circle has 480 pixels, three tiles and a third."""
    return LatLonGrid(np.arange(-88.5, 90, 3), west + np.arange(1.5, 360, 3))


def test_a_domain_across_the_date_line_is_cut_from_the_global_one(tiny_model: DownscalingModel, rain: Rain) -> None:
    """170 E to 170 W has the bits of the global field, wherever the input and the field are opened; conserved, too."""
    coarse = rain(60, 120)
    rolled = np.roll(coarse, 60, axis=1)
    for conserved in (False, True):
        boxes = Region(-6, 6, -180, 180), Region(-6, 6, 0, 360), Region(-6, 6, 171, -171)
        a, x, _ = drawn(tiny_model, coarse, globe(0), Target(4.0, region=boxes[0]), keep=KEEP[conserved])
        b, y, _ = drawn(tiny_model, rolled, globe(-180), Target(4.0, region=boxes[1]), keep=KEEP[conserved])
        c, z, _ = drawn(tiny_model, coarse, globe(0), Target(4.0, region=boxes[2]), keep=KEEP[conserved])
        assert x.shape == y.shape == (1, 16, 480) and z.shape == (1, 16, 24) and x.max() > 1
        np.testing.assert_array_equal(np.roll(y, b.columns.first - a.columns.first, axis=2), x)
        np.testing.assert_array_equal(np.roll(x, a.columns.first - c.columns.first, axis=2)[..., :24], z)


def test_a_crop_of_a_global_input_agrees_across_the_date_line(tiny_model: DownscalingModel, rain: Rain) -> None:
    """An input from 6 E to 30 W: one tile side inside the rain is the global one to 1e-5.

    Inputs that end inside the longer tile before the date line agree from its side inwards.
    """
    coarse, where = rain(60, 120)[28:32], globe(0)
    rows = where.latitude[28:32]
    part = LatLonGrid(rows, where.longitude[2:110])
    a, x, _ = drawn(tiny_model, coarse, LatLonGrid(rows, where.longitude), Target(4.0))
    b, y, _ = drawn(tiny_model, coarse[:, 2:110], part, Target(4.0))
    assert not b.columns.circle
    x = np.roll(x, a.columns.first - b.columns.first, axis=2)[..., : y.shape[2]]
    inside = slice(tile_side(tiny_model), y.shape[2] - tile_side(tiny_model))
    assert b.columns.first + inside.start < 480 < b.columns.first + inside.stop
    assert np.abs(x - y)[..., inside].max() <= 1e-5 < np.abs(x - y).max()


def test_no_seam_where_the_circle_closes(tiny_model: DownscalingModel) -> None:
    """Even rain: steps from the date line to the end of the blend behind it are those elsewhere, within 4 %."""
    coarse = np.ones((60, 120), np.float32)
    domain, fields, _ = drawn(tiny_model, coarse, globe(0), Target(4.0, region=Region(-84, 84, 0, 360)), range(3))
    fields = np.roll(np.minimum(fields, 1.0), domain.columns.first - 240, axis=2)
    steps = np.abs(np.diff(fields, axis=2)).mean((0, 1))
    line = np.arange(1, 480)  # between pixels line - 1 and line; the date line is line 240
    token, near = line % 4 == 0, (line >= 240) & (line <= 256)
    assert 0.96 <= steps[token & near].mean() / steps[token & ~near].mean() <= 1.04
