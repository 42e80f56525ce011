"""The dual-stream transformer: symmetries of the sphere, and what its output depends on."""

from __future__ import annotations

from datetime import datetime

import pytest
import torch
from tiny_dual_stream import COLUMNS, LONGITUDE, ROWS, build, hours, inputs, rolled
from torch import Tensor, nn
from torch.nn import functional as F


@pytest.mark.parametrize("location", ["none", "latitude"])
@pytest.mark.parametrize(("patch", "columns"), [(1, 3), (2, 2)])
def test_rolling_the_globe_rolls_the_forecast(location: str, patch: int, columns: int) -> None:
    """Turning x and cond about the axis turns the output: no date line. 1e-12 in float64 for values of order 1."""
    network, arguments = build(location=location, patch_size=patch, num_layers=2, num_single_layers=2), inputs()
    with torch.no_grad():
        plain, turned = network(**arguments), network(**rolled(arguments, columns))
    assert plain.std() > 0.1
    torch.testing.assert_close(turned, plain.roll(columns, dims=-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "changes", [{"design": "ladcast", "location": "none"}, {"location": "globe"}, {"location": "learned"}]
)
def test_the_paper_and_absolute_longitude_break_the_symmetry(changes: dict[str, str]) -> None:
    """The paper's angles have a seam and "globe" tells the longitude: a turned state gives another forecast."""
    network, arguments = build(**changes), inputs()
    with torch.no_grad():
        difference = network(**rolled(arguments, 3)) - network(**arguments).roll(3, dims=-1)
    assert difference.abs().max() > 1e-3


def test_only_differences_of_longitude_matter() -> None:
    """A grid moved by 7.3 degrees, or by a full turn, gives the same output: 1e-12 in float64."""
    arguments = inputs()
    with torch.no_grad():
        plain = build()(**arguments)
        for shift in (7.3, 360.0):
            moved = build(longitude=[v + shift for v in LONGITUDE])
            torch.testing.assert_close(moved(**arguments), plain, rtol=0, atol=1e-12)


def test_token_centres_are_means_of_their_latents_across_the_date_line() -> None:
    """Columns at 352.5 and 7.5 degrees make a token at 0, not at 180."""
    network = build(patch_size=2, longitude=[352.5, 7.5, 22.5, 37.5, 52.5, 67.5, 82.5, 97.5])
    lat, lon = network._token_places()
    assert lat.reshape(2, 4)[:, 0].tolist() == [-45.0, 45.0]
    assert [v % 360 for v in lon.reshape(2, 4)[0].tolist()] == [0.0, 30.0, 60.0, 90.0]


def test_patches_are_a_strided_convolution_and_return_to_their_place() -> None:
    """The embedding equals the convolution whose weight it holds; with closed gates a latent only moves its patch."""
    network, arguments = build(started=False, patch_size=2, location="none"), inputs(1)
    layer = network.x_embedder.proj
    expected = F.conv3d(arguments["x"], layer.weight, layer.bias, stride=(1, 2, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(network.x_embedder(arguments["x"]), expected, rtol=0, atol=1e-13)
    nn.init.normal_(network.proj_out.weight)
    changed = {**arguments, "x": arguments["x"].clone()}
    changed["x"][:, :, 1, 2, 5] += 1
    with torch.no_grad():
        moved = (network(**changed) - network(**arguments)).abs().amax(dim=(0, 1)) > 1e-12
    patch = torch.zeros_like(moved)
    patch[1, 2:4, 4:6] = True
    assert torch.equal(moved, patch)


def test_a_new_network_is_the_identity_in_its_blocks_and_zero_at_its_output() -> None:
    """Zero gates and output: the blocks hand their tokens on unchanged, the first prediction is 0, exactly."""
    network, arguments = build(started=False), inputs()
    seen: list[Tensor] = []
    network.transformer_blocks[0].register_forward_hook(lambda _, given, got: seen.extend((*given[:2], *got)))
    network.single_transformer_blocks[0].register_forward_hook(lambda _, given, got: seen.extend((given[0], got)))
    output = network(**arguments)
    assert not output.any()
    x_in, c_in, x_out, c_out, both_in, both_out = seen
    assert torch.equal(x_in, x_out) and torch.equal(c_in, c_out) and torch.equal(both_in[:, : x_in.shape[1]], both_out)
    (output - 1).square().mean().backward()
    assert network.proj_out.weight.grad is not None and network.proj_out.bias.grad.abs().min() > 0


@pytest.mark.parametrize("changes", [{}, {"adaln": "shared", "location": "learned", "num_refiner_layers": 0}])
def test_every_parameter_learns(changes: dict[str, object]) -> None:
    """Once the zeros have been left, every parameter has a gradient; nothing hangs loose."""
    network = build(static_channels=1, **changes)
    network(**inputs(), static=torch.rand(1, ROWS, COLUMNS)).square().mean().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_season_and_hour_of_day_matter_and_the_paper_knows_no_hour() -> None:
    """Six hours later or half a year later the output differs; in the paper's design six hours are 1/1460 of a year."""
    arguments = inputs(1)
    now, later, half = (hours(datetime(2023, 1, 1)) + n for n in (0, 6, 182 * 24))
    for design, expected in (("geo", 0.01), ("ladcast", 0.0)):
        network = build(design=design)
        with torch.no_grad():
            y = [network(**{**arguments, "hours": h}) for h in (now, later, half)]
        assert (y[2] - y[0]).abs().max() > 1e-3
        assert ((y[1] - y[0]).abs().max() / (y[2] - y[0]).abs().max() > 0.3) == (expected > 0)


def test_the_condition_is_known_to_the_target_and_its_order_in_time_matters() -> None:
    """Another condition, and the same two states in the other order, give another output."""
    network, arguments = build(), inputs(known=2)
    with torch.no_grad():
        plain = network(**arguments)
        assert (network(**{**arguments, "cond": arguments["cond"].flip(2)}) - plain).abs().max() > 1e-3
        assert (network(**{**arguments, "cond": 2 * arguments["cond"]}) - plain).abs().max() > 1e-3


def test_samples_of_a_batch_do_not_mix() -> None:
    """Each sample alone gives the same as in the batch: 1e-12 in float64."""
    network, arguments = build(), inputs()
    with torch.no_grad():
        together = network(**arguments)
        for i in range(2):
            alone = network(**{k: v[i : i + 1] for k, v in arguments.items()})
            torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-12)


def test_static_fields_join_the_condition() -> None:
    """They change the output, break the symmetry in longitude, and must have the configured shape."""
    network, arguments = build(static_channels=2), inputs()
    static = torch.randn(2, ROWS, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = network(**arguments, static=static)
        assert (network(**arguments, static=-static) - plain).abs().max() > 1e-3
        assert (network(**rolled(arguments, 3), static=static) - plain.roll(3, dims=-1)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="2 static channels; got none"):
        network(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"design": "paper"}, "design must be one of geo, ladcast"),
        ({"location": "city"}, "location must be one of"),
        ({"adaln": "none"}, "adaln must be one of block, shared"),
        ({"patch_size_t": 0}, "patch_size_t must be at least 1"),
        ({"patch_size": 3}, "must divide the latent grid 4 x 8"),
        ({"rope_axes_dim": (4, 4, 4)}, "must add up to the head's 16"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    """The error names value and rule."""
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_states_on_another_grid_are_refused() -> None:
    """The network knows its grid; another one would get wrong positions."""
    network, arguments = build(), inputs()
    with pytest.raises(ValueError, match=r"x must be \[B, C, T, 4, 8\]"):
        network(**{**arguments, "x": arguments["x"][..., 1:]})
    with pytest.raises(ValueError, match="needs cond"):
        network(arguments["x"], arguments["c_noise"])


def test_shared_modulation_with_block_wise_weights_is_the_same_function() -> None:
    """If every block's projection has the same weights, and biases play the offsets, both forms agree: 1e-12."""
    full, shared, arguments = build(), build(adaln="shared"), inputs()
    state = full.state_dict()
    weight = torch.randn(6 * 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 6
    for name in list(state):
        if "blocks" in name and "norm" in name and name.endswith("linear.weight") and "refiner" not in name:
            state[name] = weight[: state[name].shape[0]]
    full.load_state_dict(state)
    renamed = {
        k.replace("linear.bias", "offset") if "blocks" in k and "refiner" not in k else k: v for k, v in state.items()
    }
    own = {k: v for k, v in renamed.items() if k in shared.state_dict()}
    own.update({"shared_modulation.weight": weight, "shared_modulation.bias": torch.zeros(6 * 32, dtype=torch.float64)})
    shared.load_state_dict(own, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(shared(**arguments), full(**arguments), rtol=0, atol=1e-12)


def test_frames_folded_into_tokens_keep_their_order_and_mean_time() -> None:
    """Two frames per token: 1 and 2, 3 and 4 lie at 1.5 and 3.5 steps; closed gates change one token's frames only."""
    network, arguments = build(started=False, patch_size_t=2, location="none"), inputs(1, frames=4)
    target = network._rotations(2, 1, arguments["x"]).target
    lat, lon = network._token_places()
    for step, time in ((0, 1.5), (1, 3.5)):
        angles = network.rope.angles(torch.full_like(lat, time), lat, lon)
        expected = torch.polar(torch.ones_like(angles), angles)
        actual = torch.view_as_complex(target[step * 32 : (step + 1) * 32, 0])
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    nn.init.normal_(network.proj_out.weight)
    changed = {**arguments, "x": arguments["x"].clone()}
    changed["x"][:, :, 2] += 1
    with torch.no_grad():
        moved = (network(**changed) - network(**arguments)).abs().amax(dim=(0, 1, 3, 4)) > 1e-12
    assert moved.tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="must divide the frames of x; got 3"):
        network(**inputs(1, frames=3))
