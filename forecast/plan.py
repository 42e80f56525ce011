"""What training and sampling the dynamics would cost, from parameters or a model folder alone: see `gen.dryrun`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["folder_plan", "forecast_plan"]

import torch
from torch import Tensor, nn

from autoencoders.dcae import DCAE
from autoencoders.plan import codec_evaluations, interval_text
from autoencoders.principal import PrincipalDCAE
from diffusion.dual_stream import DualStreamTransformer
from diffusion.samplers import build_sampler
from forecast.model import DynamicsMeta, FoldedFrames, SamplingDefaults
from gen.dryrun import Call, Plan
from gen.grid import LatLonGrid
from gen.hub import ModelFolder


def forecast_plan(params: Any, networks: Mapping[str, nn.Module]) -> Plan:
    """Return the plan of the dynamics that `forecast.recipe.ForecastParams` describe."""
    network = networks["dynamics"]
    call = _evaluation(network, params.frames, params.folded)
    config: Any = network.config
    shape = (int(config.conditioning_tensor_in_channels), len(config.latitude), len(config.longitude))
    nbytes = 2 * shape[0] * shape[1] * shape[2]
    facts = [("a latent state", f"{shape[0]} channels on {shape[1]} x {shape[2]}, {nbytes / 1e3:.1f} kB in float16")]
    if params.train:
        facts.append(("training data", interval_text(params.train, nbytes, None)))
    calls = _calls(SamplingDefaults(**params.sampling), params.frames, params.step_hours)
    return Plan(networks, {"dynamics": call}, call, ("dynamics",), {"dynamics": calls}, tuple(facts))


def folder_plan(folder: ModelFolder) -> Plan:
    """Return the plan of a forecast model on disk; weights are not read."""
    meta, codec = DynamicsMeta.from_dict(folder.document("dynamics")), folder.document("codec")
    network = DualStreamTransformer.from_config(_config(folder.path / "dynamics"))
    family = PrincipalDCAE if codec["family"] == "PrincipalDCAE" else DCAE
    autoencoder = family.from_config(_config(folder.path / "codec"))
    rows, columns = LatLonGrid.from_dict(codec["grid"]).shape
    body: Any = getattr(autoencoder, "body", autoencoder)
    statics, channels = int(body.config.static_channels), len(codec["normalizer"]["channels"])
    grid = (rows - (not codec.get("south_pole", True)), columns)
    evaluations = {
        "dynamics": _evaluation(network, meta.frames, meta.folded),
        **codec_evaluations(autoencoder, channels, statics, grid),
    }
    calls = {"dynamics": _calls(meta.sampling, meta.frames, meta.step_hours), "decode": 24 / meta.step_hours}
    return Plan({"dynamics": network, "codec": autoencoder}, evaluations, member_day=calls)


def _evaluation(network: Any, frames: int, folded: bool) -> Call:
    """Return one evaluation of the transformer, the preparation of its conditions included."""
    config = network.config
    channels, shape = int(config.conditioning_tensor_in_channels), (len(config.latitude), len(config.longitude))
    seen: nn.Module = FoldedFrames(network, frames) if folded else network

    def call(batch: int, dtype: torch.dtype) -> Tensor:
        x = torch.empty(batch, channels, frames, *shape, dtype=dtype)
        cond = torch.empty(batch, channels, 1, *shape, dtype=dtype)
        hours = torch.zeros(batch, dtype=torch.int64)
        out: Tensor = seen(x, torch.zeros(batch), cond=cond, hours=hours)
        return out

    return call


def _calls(sampling: SamplingDefaults, frames: int, step_hours: int) -> float:
    """Return the evaluations of the network per day of a forecast."""
    with torch.device("cpu"):
        sampler: Any = build_sampler(sampling.sampler, sampling.steps, **sampling.settings)
    return 24.0 / (frames * step_hours) * sampler.evaluations


def _config(folder: Path) -> dict[str, Any]:
    import json

    return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
