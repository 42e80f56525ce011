"""gen.costs and gen.dryrun: counts of networks that never hold a number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gen.costs import plan_lines, training_lines
from gen.dryrun import Plan, measure
from gen.engine import EngineConfig, RunConfig
from gen.info import run_info

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "forecast"
PUBLISHED = {  # parameters; GFLOP of one evaluation by the published code, attention included
    "ladcast-dcae": (256_411_145, {"encode": 695, "decode": 781}),
    "ladcast-375M": (374_938_452, {"dynamics": 979}),
    "ladcast-1.6B": (1_605_496_660, {"dynamics": 4155}),
}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            q = self.proj(x)[:, None]
        assert not torch.is_autocast_enabled(x.device.type)
        return F.scaled_dot_product_attention(q, q, q)[:, 0]


@pytest.fixture
def plan() -> Plan:
    """16 tokens of width 8: a projection (2 x 16 x 8 x 8 FLOPs) and attention (2 products of 2 x 16 x 16 x 8)."""
    with torch.device("meta"):
        network = Attention()

    def call(batch: int, dtype: torch.dtype) -> Tensor:
        out: Tensor = network(torch.empty(batch, 16, 8, dtype=dtype))
        return out

    return Plan({"net": network}, {"net": call}, call, ("net",), {"net": 4.0}, (("data", "none"),))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_cost_what_they_should(name: str) -> None:
    """Parameters of the published weights; FLOPs at most 2 % above the published code's, and at most 5 % below.

    The rows at the poles are convolved twice; the last block need not update the condition. Memory for training is at
    least that of the optimiser's state.
    """
    parameters, flops = PUBLISHED[name]
    text = "\n".join(run_info(config=CONFIGS / f"{name}.yaml"))
    assert f"{parameters:,} (" in text
    for call, expected in flops.items():
        found = re.search(rf"^{call}, once +([\d.,]+) GFLOP", text, re.M)
        assert found and 0.95 < float(found[1].replace(",", "")) / expected < 1.02
    memory = re.search(r"^training, memory +([\d.]+) GB per process", text, re.M)
    assert memory and float(memory[1]) > 20e-9 * parameters
    assert "341,875 states hourly" in text


def test_flow_matching_is_a_matter_of_configuration() -> None:
    """The two files differ in preconditioning, noise levels, sampler and names; the network is the same."""
    from forecast.recipe import ForecastParams, ForecastRecipe
    from gen.config import from_mapping, load

    runs = [load(RunConfig, CONFIGS / f"ladcast-375M{end}.yaml") for end in ("", "-flow")]
    params = [from_mapping(ForecastParams, run.params) for run in runs]
    differing = {name for name, value in vars(params[0]).items() if value != vars(params[1])[name]}
    assert differing == {"precondition", "noise_level", "sampling", "name"}
    assert (runs[0].engine, runs[0].optim) == (runs[1].engine, runs[1].optim)
    with torch.device("meta"):
        count = sum(p.numel() for p in ForecastRecipe.networks(params[1])["dynamics"].parameters())
    assert count == 374_938_452


def test_flops_and_memory_of_a_known_network(plan: Plan) -> None:
    """FLOPs in closed form, linear in the batch; without gradients at most a few tensors of 16 x 8 live."""
    call, networks = plan.evaluations["net"], plan.networks.values()
    once, thrice = (measure(call, networks, batch=b) for b in (1, 3))
    assert once.flops == 2 * 16 * 8 * 8 + 2 * 2 * 16 * 16 * 8 and thrice.flops == 3 * once.flops
    assert 2 * 16 * 8 * 4 <= once.nbytes <= 6 * 16 * 8 * 4
    assert not torch.empty(1).is_meta  # the stand-ins are gone


def test_what_autograd_keeps_is_counted_once(plan: Plan) -> None:
    """x and q are kept (512 bytes each), the output, its row sums (16 floats) and a seed; weights are not."""
    kept = measure(plan.evaluations["net"], plan.networks.values(), kept=True).nbytes
    assert 3 * 512 + 64 <= kept <= 3 * 512 + 64 + 64


def test_lines_add_up(plan: Plan) -> None:
    """72 trained parameters: 16 bytes each, 4 for the frozen 72, 4 for one average; cost is three forward passes."""
    engine = EngineConfig(steps=10, batch_size=2, accumulate=3)
    text = "\n".join([*plan_lines(plan), *training_lines(plan, RunConfig(engine=engine), recomputes=False)])
    assert "net                Attention, 144 parameters" in text
    assert "training, state    0.0 MB: weights, gradients, moments, 1 average of 72 parameters" in text
    assert "10 steps x 6 samples per process" in text and "data               none" in text
    assert re.search(r"^member and day +0\.0 GFLOP: 4 x net$", text, re.M)


def test_a_model_folder_tells_the_cost_of_a_forecast_day() -> None:
    """The demo: two calls a day of five steps and four decoded states, in FLOPs."""
    text = "\n".join(run_info("demo"))
    assert re.search(r"^member and day +[\d.]+ GFLOP: 10 x dynamics, 4 x decode$", text, re.M)
    assert re.search(r"^decode, once +[\d.]+ GFLOP", text, re.M)
