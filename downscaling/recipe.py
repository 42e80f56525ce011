"""Train the downscaling model on pairs made from fine rain: mean stage and flow together, one run, one loss.

The flow sees the mean stage's answers as they are at the moment, without passing gradients to it; the mean stage
settles within the first few hundred steps. Conditional distributions do not depend on how crops are picked by their
mean rain, which the coarse field determines, so that crops by strata need no weights in the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["DownscalingParams", "DownscalingRecipe"]

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.build import build_noise_level
from diffusion.samplers import build_sampler
from downscaling.conditions import FIELDS, place_km
from downscaling.model import (
    KNOWN,
    DownscalingMeta,
    DownscalingModel,
    DownscalingNetworks,
    SamplingDefaults,
    build_networks,
)
from downscaling.predictors import fit_predictors
from downscaling.scenes import Events, SceneStream, Told, scene, spacing_km
from downscaling.statics import Statics
from downscaling.transform import RainTransform
from gen.hub import resolve

QUANTILES = 1001
VALIDATION_PAIRS = 6
MEMBERS = 4


@dataclass
class DownscalingParams:
    """What to train on and what to train.

    Args:
        train: rain to learn from: mappings with `path` and, if wanted, `accumulate` (a list of numbers of frames that
            are averaged, with `substeps` parts of the motion from one to the next), `coarsen` (a list of factors by
            which the grid is coarsened), `every` (every n-th frame) and `share` (how often the event is drawn, in
            proportion; all the same by default). A weather event belongs to `train` or to `valid`, never to both.
            Pairs of two data sets are mappings with `path` and `coarse`, or `rainshift`, `regions` and `split`, and
            `every` and `share` (`downscaling.paired_events.open_paired`).
        valid: the same, to validate on.
        factors: ratios of coarse to fine spacing, in turn.
        crop: side of a training crop in fine pixels; a whole number of coarse cells of every factor.
        transform: arguments of `RainTransform`.
        mean, flow: further arguments of `HourglassTransformer` for the two stages.
        precondition: name and arguments; "flow" or "edm".
        noise_level: name and arguments of the training distribution of noise levels.
        space: "pixel" or "latent", where the flow draws latents of `codec` and the mean stage stays on pixels.
        codec: model folder of a rain codec that has passed `downscaling.codec_gate`.
        predictors: names of coarse fields that pairs of two data sets have beside the rain, such as "cape" and "tcw".
        time: whether the time of day and year is told.
        statics: arguments of `Statics.open` if elevation and land are told: `elevation` and perhaps `land`, files; or
            `rainshift`, whose regions have their own.
        dropout: chance that a sample is told no time, no place (neither statics nor latitude), and no predictors.
        init: model folder whose networks, of the same sizes, training starts from.
        sampling: defaults stored with the model.
        trained_on: what the data are, in words. simulated: whether they are simulated. name: the model's name.

    Raises:
        ValueError: a crop that does not fit, or a space that does not exist.
    """

    train: list[dict[str, Any]] = field(default_factory=list)
    valid: list[dict[str, Any]] = field(default_factory=list)
    factors: list[float] = field(default_factory=lambda: [2.5, 4.0, 8.0])
    crop: int = 120
    transform: dict[str, Any] = field(default_factory=dict)
    mean: dict[str, Any] = field(default_factory=dict)
    flow: dict[str, Any] = field(default_factory=dict)
    precondition: dict[str, Any] = field(default_factory=lambda: {"name": "flow"})
    noise_level: dict[str, Any] = field(default_factory=lambda: {"name": "logitnormal", "mean": 0.3, "std": 1.2})
    space: str = "pixel"
    codec: str | None = None
    predictors: list[str] = field(default_factory=list)
    time: bool = False
    statics: dict[str, str] = field(default_factory=dict)
    dropout: float = 0.3
    init: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    trained_on: str = ""
    simulated: bool = False
    name: str = "downscaling"

    def __post_init__(self) -> None:
        """Check the names."""
        if self.space not in ("pixel", "latent"):
            raise ValueError(f"space must be pixel or latent; got {self.space!r}")
        if (self.codec is None) == (self.space == "latent"):
            raise ValueError("codec must name a rain codec with space: latent, and nothing with space: pixel")
        if self.predictors and self.space == "latent":
            raise ValueError("predictors need space: pixel; the latent flow has no channels for them")
        if not self.factors or min(self.factors) < 1:
            raise ValueError(f"factors must be at least 1; got {self.factors}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1; got {self.dropout:g}")


class DownscalingRecipe:
    """Recipe for `downscaling.model.DownscalingModel` (see `gen.engine.Recipe`)."""

    Params = DownscalingParams

    def __init__(self, params: DownscalingParams, seed: int) -> None:
        """Open the rain and list the crops."""
        self.params, self.seed = params, seed
        self.transform = RainTransform(**params.transform)
        self.noise_level = build_noise_level(**params.noise_level)
        for part in ("train", "valid"):
            if not getattr(params, part):
                raise ValueError(f"{part} names no rain: give a list of mappings with `path`")
        if params.codec is not None:
            from downscaling.codec_gate import admitted

            admitted(params.codec, params.transform)
        statics: Statics | None = None
        if "rainshift" in params.statics:
            from downscaling.rainshift_statics import open_region_statics

            statics = open_region_statics(params.statics["rainshift"])
        elif params.statics:
            statics = Statics.open(**{k: Path(v) for k, v in params.statics.items()})
        names = tuple(params.predictors)
        self.train = Events(params.train, params.factors, params.crop, seed, names)
        self.valid = Events(params.valid, params.factors, params.crop, seed + 1, names)
        if names and not self.train.maps:
            raise ValueError(
                f"predictors are {', '.join(names)}, and no event of train is a pair of files that has them"
            )
        self.told = Told(params.time, statics, params.dropout, fit_predictors(self.train.maps, names))

    @staticmethod
    def networks(params: DownscalingParams) -> dict[str, nn.Module]:
        """Build the networks without data; `gen info --config` counts their parameters."""
        both = _built(params)
        return {"mean": both.mean, "flow": both.denoiser.network}

    def model(self) -> nn.Module:
        """Build both stages, with the weights of `init` if one is named."""
        params = self.params
        if params.init is not None:
            return DownscalingModel.load(resolve(params.init)).networks.train().float()
        return _built(params)

    def train_loader(self, batch_size: int, rank: int = 0, world: int = 1) -> Any:
        """Return a stateful loader of scenes."""
        from torchdata.stateful_dataloader import StatefulDataLoader

        stream = SceneStream(self.train, self.transform, batch_size, rank, world, told=self.told, seed=self.seed)
        return StatefulDataLoader(stream, batch_size=None, num_workers=0)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the sum of the three losses of `DownscalingNetworks.errors`, and each."""
        rain = batch["rain"]
        there = torch.isfinite(rain)
        rain = torch.nan_to_num(rain)
        sigma = self.noise_level(len(rain), generator).to(rain)
        networks: Any = model
        shape = (len(rain), *networks.noise_shape(*rain.shape[1:]))
        noise = torch.randn(shape, generator=generator, dtype=torch.float32).to(rain)
        parts = networks.errors(batch, self.transform.forward(rain), self.transform.wet(rain), there, sigma, noise)
        loss = parts["amount"] + parts["chance"] + parts["flow"]
        return loss, {name: value.detach() for name, value in parts.items()}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return scores of small ensembles on validation crops: losses, fair CRPS against the mean stage, spread."""
        bare: Any = model
        networks: DownscalingNetworks = bare
        device = next(networks.parameters()).device
        chosen = DownscalingModel(networks, self.meta([0.0])).to(device)
        defaults = chosen.meta.sampling
        sampler = build_sampler(defaults.sampler, defaults.steps, **defaults.settings)
        scores: dict[str, list[float]] = {}
        for factor, stream in zip(self.params.factors, self.valid.streams, strict=True):
            for number in range(VALIDATION_PAIRS):
                pair = stream.sample(number)
                parts = scene(pair, self.transform, self.told)
                known = {k: v[None].to(device) for k, v in parts.items()}
                shape, generator = networks.noise_shape(*pair.fine.shape), torch.Generator().manual_seed(number)
                noise = torch.randn((MEMBERS, *shape), generator=generator).to(device)
                given = known["fields"], known["features"], noise, sampler, known["place"]
                rain = chosen.draw(*given, settings=defaults.at(factor))
                for name, value in _scores(rain.double().cpu(), known["rain"][0].double().cpu()).items():
                    scores.setdefault(f"{name}/x{factor:g}", []).append(value)
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        for factor in self.params.factors:
            spread, error = means.pop(f"variance/x{factor:g}"), means.pop(f"error/x{factor:g}")
            means[f"spread_skill/x{factor:g}"] = math.sqrt((1 + 1 / MEMBERS) * spread / max(error, 1e-12))
        return means

    def meta(self, quantiles: list[float]) -> DownscalingMeta:
        """Return what the weights do not say."""
        params = self.params
        spacing = [spacing_km(place_km(s.grid)) for s in self.train.sources]
        hours = [float(s.interval_hours) for s in self.train.sources]
        return DownscalingMeta(
            transform=dict(params.transform),
            precondition=dict(params.precondition),
            spacing_km=(min(spacing), max(spacing)),
            factors=(min(params.factors), max(params.factors)),
            interval_hours=(min(hours), max(hours)),
            quantiles=quantiles,
            trained_on=params.trained_on,
            simulated=params.simulated,
            sampling=SamplingDefaults.from_dict(params.sampling),
            name=params.name,
            conditions=self.told.names,
            predictors=self.told.predictors,
        )

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the model folder."""
        networks: Any = model
        DownscalingModel(networks, self.meta(self._quantiles())).save(folder)

    def _quantiles(self) -> list[float]:
        """Return quantiles of the coarse training rain over all crops, by importance."""
        rates, weights = [], []
        for stream in self.train.streams:
            for number in range(200):
                pair = stream.sample(number)
                known = pair.coarse[np.isfinite(pair.coarse)]
                rates.append(known)
                weights.append(np.full(known.shape, pair.weight))
        values, share = np.concatenate(rates), np.concatenate(weights)
        order = np.argsort(values)
        reached = np.cumsum(share[order]) / share.sum()
        return [float(v) for v in np.interp(np.linspace(0, 1, QUANTILES), reached, values[order])]


def _built(params: DownscalingParams) -> DownscalingNetworks:
    """Build both stages with fresh weights."""
    mean, flow, more = dict(params.mean), dict(params.flow), len(params.predictors)
    if more:  # and whether they are known
        mean = {"in_channels": len(FIELDS) + more + 1, **mean}
        flow = {"cond_channels": KNOWN + more + 1, **flow}
    parts = mean, flow, dict(params.precondition)
    if params.space == "pixel" or params.codec is None:
        return build_networks(*parts)
    from downscaling.codec_gate import admitted
    from downscaling.latent import build_latent_networks

    return build_latent_networks(*parts, admitted(params.codec, params.transform))


def _scores(rain: Tensor, truth: Tensor) -> dict[str, float]:
    """Return fair CRPS, variance and squared error of the mean, and the error of the wet share of members [M, H, W]."""
    there = torch.isfinite(truth)
    x, y = rain[:, there], truth[there]
    members = len(x)
    ranked = x.sort(0).values
    weight = 2 * torch.arange(1, members + 1, dtype=x.dtype) - members - 1
    spread = (weight[:, None] * ranked).sum(0) * 2 / (members * (members - 1))
    return {
        "crps": float(((x - y).abs().mean(0) - spread / 2).mean()),
        "variance": float(x.var(0).mean()),
        "error": float((x.mean(0) - y).square().mean()),
        "wet": float((x >= 0.1).double().mean() - (y >= 0.1).double().mean()),
    }
