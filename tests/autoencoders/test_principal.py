"""autoencoders.principal: the network starts at the best linear codec of patches, and can leave it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autoencoders.principal import PrincipalDCAE

UNIT = [0.5, 2.0, 0.1]


def network(**changes: Any) -> dict[str, Any]:
    """Return the arguments of a body with 3 data channels, 1 static channel, factor 4 and 6 latent channels."""
    settings: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "static_channels": 1,
        "latent_channels": 6,
        "encoder_block_out_channels": [12, 12, 12],
        "encoder_layers_per_block": [0, 0, 0],
    }
    return {**settings, **changes}


def fields(count: int = 60, seed: int = 0) -> Tensor:
    """Return correlated noise [N, 3, 8, 16] whose channels differ in size."""
    noise = torch.randn(count, 3, 8, 16, generator=torch.Generator().manual_seed(seed))
    smooth = sum(noise.roll(k, -1) + noise.roll(k, -2) for k in range(4))
    assert isinstance(smooth, Tensor)
    return (smooth + smooth.roll(1, 1)) * torch.tensor([1.0, 3.0, 0.1])[:, None, None]


def patches(x: Tensor, unit: list[float]) -> np.ndarray:
    """Return patches of 4 x 4 cells in units of u, [N * patches, 3 * 16], by plain slicing."""
    values = x.double().numpy() / np.array(unit)[:, None, None]
    rows = [values[:, :, i : i + 4, j : j + 4].reshape(len(values), -1) for i in (0, 4) for j in (0, 4, 8, 12)]
    return np.concatenate(rows)


@pytest.fixture
def fitted() -> tuple[PrincipalDCAE, Tensor, Tensor]:
    """Return a fitted model, its data and the error that `fit` reports."""
    torch.manual_seed(0)
    model, x = PrincipalDCAE(network(), UNIT).eval(), fields()
    return model, x, model.fit(x)


def reconstruct(model: PrincipalDCAE, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.decode(model.encode(x, torch.zeros(1, 8, 16)))


def test_the_start_is_the_best_linear_codec(fitted: tuple[PrincipalDCAE, Tensor, Tensor]) -> None:
    """The error per channel is that of the best approximation of rank 6 (Eckart and Young 1936), by numpy's SVD.

    Both the reported error and the one of encode and decode; float32 covariances leave 1e-3.
    """
    model, x, reported = fitted
    matrix = patches(x, UNIT)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    best = (matrix - (u[:, :6] * s[:6]) @ v[:6]).reshape(-1, 3, 16)
    expected = np.sqrt((best**2).mean(axis=(0, 2)))
    np.testing.assert_allclose(reported.numpy(), expected, rtol=1e-3)
    error = (reconstruct(model, x) - x) / torch.tensor(UNIT)[:, None, None]
    np.testing.assert_allclose(error.square().mean((0, 2, 3)).sqrt().numpy(), expected, rtol=1e-3)
    assert expected.max() < 0.8 * np.sqrt((matrix**2).mean())


def test_the_unit_decides_what_is_kept() -> None:
    """A channel measured in a smaller unit is reconstructed better, at the cost of the others."""
    errors = []
    for unit in (UNIT, [0.5, 2.0, 0.01]):
        torch.manual_seed(0)
        model = PrincipalDCAE(network(), unit)
        model.fit(fields())
        errors.append((reconstruct(model, fields()) - fields()).square().mean((0, 2, 3)))
    assert errors[1][2] < errors[0][2] and errors[1][0] > errors[0][0]


def test_latents_have_unit_size(fitted: tuple[PrincipalDCAE, Tensor, Tensor]) -> None:
    """Every latent channel has mean square one over the data, and two different ones are uncorrelated."""
    model, x, _ = fitted
    with torch.no_grad():
        z = model.encode(x, torch.zeros(1, 8, 16)).movedim(1, -1).reshape(-1, 6)
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(6), rtol=0, atol=2e-3)


def test_encode_and_decode_start_linear(fitted: tuple[PrincipalDCAE, Tensor, Tensor]) -> None:
    """Both are linear to rounding, blind to the static fields, and together a projection."""
    model, x, _ = fitted
    a, b, static = x[:1], x[1:2], torch.ones(1, 8, 16)
    with torch.no_grad():
        z = [model.encode(v, static) for v in (a, b, 2 * a - 3 * b)]
        torch.testing.assert_close(z[2], 2 * z[0] - 3 * z[1], rtol=0, atol=1e-4)
        assert torch.equal(model.encode(a, 5 * static), z[0])
        y = [model.decode(v) for v in (z[0], z[1], 2 * z[0] - 3 * z[1])]
        torch.testing.assert_close(y[2], 2 * y[0] - 3 * y[1], rtol=0, atol=1e-4)
    once = reconstruct(model, x)
    torch.testing.assert_close(reconstruct(model, once), once, rtol=0, atol=2e-3)


def test_a_latent_column_is_a_patch(fitted: tuple[PrincipalDCAE, Tensor, Tensor]) -> None:
    """Changing one latent column changes its own 4 x 4 cells and no others."""
    model = fitted[0]
    z = torch.zeros(1, 6, 2, 4)
    z[:, :, 1, 2] = 1.0
    with torch.no_grad():
        changed = (model.decode(z) - model.decode(torch.zeros(1, 6, 2, 4))).abs().sum((0, 1)) > 0
    inside = torch.zeros(8, 16, dtype=torch.bool)
    inside[4:8, 8:12] = True
    assert torch.equal(changed, inside)


def test_neighbouring_patches_help_to_draw_one() -> None:
    """With context 3 the synthesis is the least-squares one (numpy's lstsq on neighbourhoods made by index arithmetic).

    The reported error is that of encode and decode, and on fields that are continuous across patches it is below the
    best codec that draws each patch from its own latents only.
    """
    torch.manual_seed(0)
    x = fields()
    alone, wide = PrincipalDCAE(network(), UNIT).eval(), PrincipalDCAE(network(), UNIT, context=3).eval()
    single, reported = alone.fit(x), wide.fit(x)
    with torch.no_grad():
        z = wide.encode(x, torch.zeros(1, 8, 16)).numpy()
    rows = [[-1, 0, 1], [0, 1, 2]]  # of two rows of patches: -1 and 2 lie beyond a pole
    around = []
    for i in range(2):
        for j in range(4):
            cells = [((r, c) if 0 <= r < 2 else (i, c + 2)) for r in rows[i] for c in (j - 1, j, j + 1)]
            around.append(np.concatenate([z[:, :, r, c % 4] for r, c in cells], axis=1))
    target = patches(x, UNIT)
    best, *_ = np.linalg.lstsq(np.concatenate(around), target, rcond=None)
    error = (target - np.concatenate(around) @ best).reshape(-1, 3, 16)
    expected = np.sqrt((error**2).mean(axis=(0, 2)))
    np.testing.assert_allclose(reported.numpy(), expected, rtol=2e-3)
    actual = (reconstruct(wide, x) - x) / torch.tensor(UNIT)[:, None, None]
    np.testing.assert_allclose(actual.square().mean((0, 2, 3)).sqrt().numpy(), expected, rtol=2e-3)
    assert float(reported.square().mean()) < 0.9 * float(single.square().mean())


def test_an_even_context_is_refused() -> None:
    """A neighbourhood has a middle."""
    with pytest.raises(ValueError, match="context must be odd and positive; got 2"):
        PrincipalDCAE(network(), UNIT, context=2)


def test_half_precision_does_not_round_the_linear_part(fitted: tuple[PrincipalDCAE, Tensor, Tensor]) -> None:
    """Under bfloat16 autocast encode and decode are the same bits, as long as the corrections are zero."""
    model, x, _ = fitted
    exact = reconstruct(model, x[:2])
    with torch.autocast("cpu", torch.bfloat16):
        half = reconstruct(model, x[:2])
    assert half.dtype == torch.float32 and torch.equal(half, exact)


def test_training_leaves_the_linear_start(fitted: tuple[PrincipalDCAE, Tensor, Tensor]) -> None:
    """The zero corrections have gradients, and a few steps reduce the error below the best linear one."""
    model, x, reported = fitted
    scale, static = torch.tensor(UNIT)[:, None, None], torch.zeros(1, 8, 16)
    optimiser = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for step in range(30):
        z, y = model(x, static)
        loss = ((y - x) / scale).square().mean()
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            assert float(model.body.decoder.conv_out.weight.grad.abs().max()) > 0  # type: ignore[union-attr]
        if step == 1:
            assert model.gate.grad is not None and float(model.gate.grad.abs().max()) > 0
        optimiser.step()
    assert float(loss.detach()) < 0.97 * float(reported.square().mean())


def test_few_states_leave_nothing_infinite() -> None:
    """One state has fewer independent patches than latent channels; weights and reconstruction stay finite."""
    model = PrincipalDCAE(network(latent_channels=12), UNIT)
    x = fields(1)
    error = model.fit(x)
    assert all(bool(p.isfinite().all()) for p in model.parameters()) and bool(error.isfinite().all())
    torch.testing.assert_close(reconstruct(model, x), x, rtol=0, atol=1e-2)


def test_noise_acts_on_the_latent(fitted: tuple[PrincipalDCAE, Tensor, Tensor]) -> None:
    """`forward` returns the latent without noise and the reconstruction of the latent with it."""
    model, x, _ = fitted
    with torch.no_grad():
        z, y = model(x[:2], torch.zeros(1, 8, 16), noise=lambda v: v + 1)
        assert torch.equal(y, model.decode(z + 1)) and torch.equal(z, model.encode(x[:2], torch.zeros(1, 8, 16)))


def test_settings_make_the_same_model() -> None:
    """The configuration holds the network and the unit; a unit of the wrong length is refused."""
    model = PrincipalDCAE(network=network(), unit=UNIT)
    again = PrincipalDCAE.from_config(dict(model.config))
    assert torch.equal(again.scale, torch.tensor(UNIT)) and again.latent_channels == 6
    assert again.latent_spec((8, 16)).shape == (2, 4)
    with pytest.raises(ValueError, match="one value for each of the 3 data channels; got 2"):
        PrincipalDCAE(network(), [1.0, 2.0])
