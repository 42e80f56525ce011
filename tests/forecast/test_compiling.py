"""forecast.compiling: the compiled network draws the same ensemble to rounding, or says that it cannot."""

from __future__ import annotations

import logging
from types import ModuleType

import pytest
import torch
from torch import Tensor

from diffusion.samplers import build_sampler
from forecast.compiling import compile_network
from forecast.model import ForecastModel
from forecast.rollout import rollout

START = torch.randn(2, 6, 4, 8, generator=torch.Generator().manual_seed(0))


def latents(model: ForecastModel) -> Tensor:
    """Return the latents of two members over two calls."""
    sampler = build_sampler("dpmpp_2m", 3)
    return torch.cat(list(rollout(model, START, [420768] * 2, [0, 1], 2, 0, sampler)), dim=1)


def test_compiled_samples_are_equal_to_rounding(states: ModuleType) -> None:
    """The network is traced once, for the block's shape, and the ensemble agrees to 1e-4 of unit noise.

    The last stage of the compiler, which takes the better part of a minute here, is left out.
    """
    model = states.build()
    plain = latents(model)
    assert compile_network(model, 2, torch.float32, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    torch.testing.assert_close(latents(model), plain, rtol=0, atol=1e-4)
    assert not torch._dynamo.utils.counters["stats"].get("unique_graphs")  # nothing was left to compile


def test_without_a_compiler_the_network_stays_as_it_was(states: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """One line names the reason; the bits are those without --compile."""

    def missing(graph: object, inputs: object) -> None:
        raise RuntimeError("no compiler found\nwith more lines below")

    model = states.build()
    plain = latents(model)
    with caplog.at_level(logging.WARNING):
        assert not compile_network(model, 2, torch.float32, backend=missing)  # type: ignore[arg-type]
    (record,) = [r for r in caplog.records if r.name == "forecast.compiling"]
    assert "\n" not in record.message and "--compile does not work here" in record.message
    assert torch.equal(latents(model), plain)
