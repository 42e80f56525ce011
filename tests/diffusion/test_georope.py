"""GeoRoPE: relativity, the period in longitude, and parity with the published variant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from diffusion.georope import GeoRoPE, split_head
from gen.nn.rotary import apply_rotary

AXES = (8, 28, 28)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def places(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return times in steps, latitudes and longitudes of random places."""
    u = torch.rand(3, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return 8 * u[0], 180 * u[1] - 90, 360 * u[2]


def logits(rope: GeoRoPE, q_at: tuple[Tensor, ...], k_at: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Return q.k for the same random queries and keys at given places."""
    q, k = random(1, 1, 9, rope.dim).to(dtype), random(1, 1, 9, rope.dim, seed=1).to(dtype)
    return apply_rotary(q, rope.angles(*q_at)) @ apply_rotary(k, rope.angles(*k_at)).mT


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_logits_depend_on_differences_of_time_latitude_and_longitude(
    dtype: torch.dtype, tolerance: float, periodic: bool
) -> None:
    """Core test 6: q(p + d).k(r + d) = q(p).k(r) for a common shift; rounding of 64 products of size 1."""
    rope, p, r = GeoRoPE(AXES, periodic=periodic), places(9), places(9, seed=1)
    shift = (3.0, -17.0, 123.0)
    moved = [tuple(a + d for a, d in zip(place, shift, strict=True)) for place in (p, r)]
    assert (logits(rope, p, r, dtype) - logits(rope, moved[0], moved[1], dtype)).abs().max() < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-4)])
@pytest.mark.parametrize("turns", [1, -2])
def test_a_full_turn_in_longitude_changes_nothing(turns: int, dtype: torch.dtype, tolerance: float) -> None:
    """Core test 7: shifting the queries alone by 360 degrees leaves the logits (wave number 16: 2e-15 * 16 * 64)."""
    rope, p, r = GeoRoPE(AXES), places(9), places(9, seed=1)
    turned = (p[0], p[1], p[2] + 360.0 * turns)
    assert (logits(rope, p, r, dtype) - logits(rope, turned, r, dtype)).abs().max() < tolerance


def test_the_published_variant_has_a_seam() -> None:
    """Core test 7, the other side: with real frequencies a full turn changes logits by O(1) or more."""
    rope, p, r = GeoRoPE(AXES, periodic=False), places(9), places(9, seed=1)
    turned = (p[0], p[1], p[2] + 360.0)
    assert (logits(rope, p, r, torch.float64) - logits(rope, turned, r, torch.float64)).abs().max() > 1


@given(dim=st.integers(3, 64).map(lambda n: 2 * n), top=st.integers(1, 120))
def test_wave_numbers_are_integers_from_one_to_the_top(dim: int, top: int) -> None:
    """Longitude frequencies are integers within [1, K], ascending, the last is K; latitude has them unrounded."""
    axes = split_head(dim)
    assert sum(axes) == dim
    assert all(d % 2 == 0 for d in axes)
    _, lat, lon = GeoRoPE(axes, max_wavenumber=top).frequencies()
    assert torch.equal(lon, lon.round())
    assert bool((lon.diff() >= 0).all()) and bool((lon >= 1).all()) and bool((lon <= top).all())
    if len(lon) > 1:
        assert lon[-1] == top
    assert float((lat - lon).abs().max() if len(lat) else 0.0) <= 0.5


def test_positions_without_content_decide_the_largest_logit() -> None:
    """For q = k = 1 the logit is sum_j cos(angle difference), which is largest where the places coincide."""
    rope = GeoRoPE(AXES)
    time, lat, lon = places(40)
    ones = torch.ones(1, 1, 40, rope.dim, dtype=torch.float64)
    rotated = apply_rotary(ones, rope.angles(time, lat, lon))
    assert torch.equal((rotated @ rotated.mT)[0, 0].argmax(-1), torch.arange(40))


def test_the_published_variant_equals_the_reference(shared: Path) -> None:
    """Cosines and sines of upstream LaDCast, head (16, 56, 56), theta 256, latitude times 6: 1e-6.

    Upstream computes angles up to 9 rad in float32, which costs 5e-7.
    """
    fixture = load_file(shared / "fixtures" / "ladcast" / "georope_15x30.safetensors")
    rope = GeoRoPE((16, 56, 56), periodic=False)
    lat, lon = torch.rad2deg(fixture["lat_rad"].double()) / 6, torch.rad2deg(fixture["lon_rad"].double())
    for name, times in (("pred", [1, 2, 3, 4]), ("cond1", [0]), ("cond2", [-1, 0])):
        grid = torch.cartesian_prod(torch.tensor(times).double(), lat, lon)
        angles = rope.angles(*grid.T).repeat_interleave(2, dim=1)
        torch.testing.assert_close(angles.cos().float(), fixture[f"{name}_cos"], rtol=0, atol=1e-6)
        torch.testing.assert_close(angles.sin().float(), fixture[f"{name}_sin"], rtol=0, atol=1e-6)


def test_values_outside_their_range_are_refused() -> None:
    """Odd axes, no channels, theta of 1, wave number 0 and odd heads: an error with the rule."""
    for arguments in ({"axes_dim": (7, 2, 2)}, {"axes_dim": (0, 0, 0)}, {"theta": 1.0}, {"max_wavenumber": 0}):
        with pytest.raises(ValueError, match="must be"):
            GeoRoPE(**arguments)
    with pytest.raises(ValueError, match="even number"):
        split_head(33)
