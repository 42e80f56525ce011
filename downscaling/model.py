r"""The downscaling model: a mean stage and a flow-matching transformer for the rest.

The mean stage says of every fine pixel how much rain to expect (amount mu, spread sigma, both of the transformed rain)
and how likely rain is (p). The flow draws what is left,

    x = ((a - mu) / sigma,  (w - (2 p - 1)) / max(2 sqrt(p (1 - p)), floor)),        w = 1 where it rains, else -1,

two fields of order one whatever the intensity; both stages are `diffusion.hourglass.HourglassTransformer`. Drawing
fields of mean and residual separately follows Mardani et al. 2025 ("Residual corrective diffusion modeling for
km-scale atmospheric downscaling"); the spread per pixel is learnt as in adaptive flow matching (Fotiadis et al. 2024).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

__all__ = [
    "DownscalingMeta",
    "DownscalingModel",
    "DownscalingNetworks",
    "Expectation",
    "SamplingDefaults",
    "build_networks",
    "wet_spread",
]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.build import build_precondition
from diffusion.denoiser import Denoiser
from diffusion.hourglass import HourglassTransformer
from diffusion.losses import denoising_errors
from downscaling.calibration import Calibration, Settings
from downscaling.conditions import FEATURES, FIELDS
from downscaling.predictors import Predictor
from downscaling.transform import RainTransform

if TYPE_CHECKING:
    from gen.hub import ModelFolder

KNOWN = len(FIELDS) + 3  # and the three fields of the mean stage
WET_SPREAD_FLOOR = 0.3
LOG_SPREAD = (-4.0, 1.0)


class Expectation(NamedTuple):
    """What the mean stage says [B, H, W]: expected amount, its spread, probability of rain."""

    amount: Tensor
    spread: Tensor
    wet: Tensor


@dataclass(frozen=True)
class SamplingDefaults:
    """How the model is sampled unless the request says otherwise.

    Args:
        sampler, steps: see `diffusion.samplers.build_sampler`. settings: further arguments.
        noise_scale: factor on the initial noise, the same at all factors.
        wet_threshold: chance (-1 to 1) above which it rains, the same at all factors.
        calibration: takes the place of these two where it was fitted (`downscaling.calibrate`).
        tile: side of a tile in pixels; overlap: pixels that neighbouring tiles share.
        members_per_block: members drawn together.
    """

    sampler: str = "flow_midpoint"
    steps: int = 6
    settings: dict[str, Any] = field(default_factory=dict)
    noise_scale: float = 1.0
    wet_threshold: float = 0.0
    tile: int = 256
    overlap: int = 64
    members_per_block: int = 4
    calibration: Calibration | None = None

    def at(self, factor: float) -> Settings:
        """Return what depends on the factor."""
        if self.calibration is None:
            return Settings(self.noise_scale, self.wet_threshold)
        return self.calibration.at(factor)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SamplingDefaults:
        """Rebuild from `dataclasses.asdict`."""
        given, found = dict(values), values.get("calibration")
        given["calibration"] = None if found is None else Calibration.from_dict(found)
        return cls(**given)


@dataclass(frozen=True)
class DownscalingMeta:
    """What the weights do not say.

    Args:
        transform: arguments of `RainTransform`.
        precondition: name and arguments ("flow" or "edm").
        spacing_km: range of fine grid spacings in the training data. factors: range of factors.
        interval_hours: range of averaging intervals.
        quantiles: 1,001 quantiles of the coarse rain rates of training, mm/h, for transfer and for `ood_index`.
        trained_on: what the training data are, in words. simulated: whether they are simulated.
        sampling: the defaults of the sampler. name: the model's name.
        conditions: which of the conditions that may be missing were told in training: "time", "statics".
        predictors: coarse fields beside the rain that the networks have channels for, and their statistics.
    """

    transform: dict[str, Any]
    precondition: dict[str, Any]
    spacing_km: tuple[float, float]
    factors: tuple[float, float]
    interval_hours: tuple[float, float]
    quantiles: list[float]
    trained_on: str
    simulated: bool
    sampling: SamplingDefaults
    name: str = "downscaling"
    conditions: tuple[str, ...] = ()
    predictors: tuple[Predictor, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DownscalingMeta:
        """Rebuild from `dataclasses.asdict`."""
        names: tuple[str, ...] = ("spacing_km", "factors", "interval_hours", "conditions")
        given = {**values, **{k: tuple(values[k]) for k in names if k in values}}
        given["sampling"] = SamplingDefaults.from_dict(values["sampling"])
        given["predictors"] = tuple(Predictor(**p) for p in values.get("predictors", ()))
        return cls(**given)


class DownscalingNetworks(nn.Module):
    """Both stages, as they are trained.

    Args:
        mean: maps `FIELDS` to three fields. flow: maps the noisy residual and everything known to its velocity.
        precondition: of the flow.
    """

    def __init__(self, mean: HourglassTransformer, flow: HourglassTransformer, precondition: dict[str, Any]) -> None:
        super().__init__()
        self.mean, self.denoiser = mean, Denoiser(flow, build_precondition(**precondition))

    @property
    def cell(self) -> int:
        """Return the pixels along the side of what the flow draws: 1, or the factor of a codec."""
        return 1

    @property
    def channels(self) -> int:
        """Return the channels of what the flow draws."""
        return 2

    @property
    def unit(self) -> int:
        """Return the number of pixels that divides the sides of all that both stages can take."""
        flow: Any = self.denoiser.network
        return math.lcm(self.mean.factor, self.cell * int(flow.factor))

    def noise_shape(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Return the shape of the noise of one member on H x W pixels."""
        return self.channels, rows // self.cell, columns // self.cell

    def parts(self) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
        """Return what a model folder holds of them: components and JSON documents by name."""
        return {"mean": self.mean, "flow": self.denoiser.network}, {}

    def expect(self, fields: Tensor, features: Tensor, place_km: Tensor | None = None) -> tuple[Expectation, Tensor]:
        """Return the expectation, and the logit of the probability of rain [B, H, W], in float32."""
        amount, spread, logit = self.mean(fields, 0.0, None, features, place_km).float().unbind(1)
        log_spread = LOG_SPREAD[0] + (LOG_SPREAD[1] - LOG_SPREAD[0]) * torch.sigmoid(spread)
        base = fields[:, 1].float()  # the linearly interpolated coarse amount: the first guess
        return Expectation(F.softplus(4 * (base + amount)) / 4, log_spread.exp(), torch.sigmoid(logit)), logit

    def errors(
        self, known: dict[str, Tensor], amount: Tensor, wet: Tensor, there: Tensor, sigma: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        """Return the three training losses.

        Args:
            known: `fields`, `features`, `place` of a batch.
            amount: transformed rain [B, H, W].
            wet: where it rains.
            there: where the rain is known.
            sigma: noise levels [B].
            noise: unit normal [B, 2, H, W], or as `noise_shape` says.

        Returns:
            `amount`: negative log likelihood of the amounts; `chance`: cross entropy of the rain masks; `flow`: the
            flow-matching (or denoising) loss of the residual; each a mean over known pixels.
        """
        fields, features, place = (known[k] for k in ("fields", "features", "place"))
        expected, logit = self.expect(fields, features, place)
        count = there.sum().clamp(min=1)
        likelihood = 0.5 * ((amount - expected.amount) / expected.spread).square() + expected.spread.log()
        chance = F.binary_cross_entropy_with_logits(logit, wet.float(), reduction="none")
        fixed = Expectation(*(e.detach() for e in expected))
        cond = self.conditions(fields, features, place, fixed)
        x, whole = self.target(amount, wet, fixed, there)
        weights = whole[:, None] * (whole.numel() / whole.sum().clamp(min=1))
        flow = denoising_errors(self.denoiser, x, noise, sigma, cond, weights).mean()
        return {
            "amount": torch.where(there, likelihood, torch.zeros(())).sum() / count,
            "chance": torch.where(there, chance, torch.zeros(())).sum() / count,
            "flow": flow,
        }

    def target(self, amount: Tensor, wet: Tensor, expected: Expectation, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the flow learns to draw, 0 where it is not known, and where it is known."""
        return torch.where(there[:, None], self.residual(amount, wet, expected), torch.zeros(())), there

    def conditions(
        self, fields: Tensor, features: Tensor, place_km: Tensor | None, expected: Expectation
    ) -> dict[str, Any]:
        """Return what the flow is told, as keywords of its network."""
        return {"fields": self.known(fields, expected), "features": features, "place_km": place_km}

    def known(self, fields: Tensor, expected: Expectation) -> Tensor:
        """Return all known fields of the flow [B, KNOWN, H, W]."""
        guess = torch.stack([expected.amount, expected.spread.log() / 2, 2 * expected.wet - 1], dim=1)
        return torch.cat([fields, guess.to(fields)], dim=1)

    def residual(self, amount: Tensor, wet: Tensor, expected: Expectation) -> Tensor:
        """Return x [B, 2, H, W] of amounts and rain masks [B, H, W]."""
        chance = 2 * wet.to(amount) - 1
        return torch.stack(
            [(amount - expected.amount) / expected.spread, (chance - (2 * expected.wet - 1)) / wet_spread(expected)],
            dim=1,
        )

    def levels(self, x: Tensor, expected: Expectation) -> Tensor:
        """Return amounts and chances [B, 2, H, W] of residuals; it rains where the chance is positive."""
        amount = expected.amount + expected.spread * x[:, 0]
        return torch.stack([amount, 2 * expected.wet - 1 + wet_spread(expected) * x[:, 1]], dim=1)

    def compose(self, x: Tensor, expected: Expectation) -> tuple[Tensor, Tensor]:
        """Return amounts and rain masks [B, H, W] of residuals: the inverse of `residual`."""
        amount, chance = self.levels(x, expected).unbind(1)
        return amount, chance > 0


class DownscalingModel(nn.Module):
    """Both stages with what binds them, ready to draw.

    Args:
        networks: the stages. meta: what the weights do not say.
    """

    def __init__(self, networks: DownscalingNetworks, meta: DownscalingMeta) -> None:
        """Bind the parts."""
        super().__init__()
        self.networks, self.meta = networks, meta
        self.transform = RainTransform(**meta.transform)

    @torch.no_grad()
    def draw(
        self,
        fields: Tensor,
        features: Tensor,
        noise: Tensor,
        sampler: Any,
        place_km: Tensor | None = None,
        denoiser: Any = None,
        settings: Settings | None = None,
    ) -> Tensor:
        """Draw fine rain.

        Args:
            fields: `FIELDS` [1, Cc, H, W] of one scene.
            features: `FEATURES` [1, S].
            noise: unit normal [M, 2, H, W] (or as `DownscalingNetworks.noise_shape` says), one sample a member.
            sampler: a sampler of `diffusion.samplers`.
            place_km: kilometres north and east [2, H, W].
            denoiser: takes the place of the model's own, such as `diffusion.tiling.Blended` of it.
            settings: of the factor at hand (`SamplingDefaults.at`); by default those that hold for all factors.

        Returns:
            Rain rates in mm/h [M, H, W]; 0 where it is dry.
        """
        return self.rain(self.levels(fields, features, noise, sampler, place_km, denoiser, None, settings), settings)

    @torch.no_grad()
    def levels(
        self,
        fields: Tensor,
        features: Tensor,
        noise: Tensor,
        sampler: Any,
        place_km: Tensor | None = None,
        denoiser: Any = None,
        expected: Expectation | None = None,
        settings: Settings | None = None,
    ) -> Tensor:
        """Draw amounts and chances [M, 2, H, W], which may be blended with those of neighbours before `rain`.

        Args:
            fields: see `draw`.
            features: see `draw`.
            noise: see `draw`.
            sampler: see `draw`.
            place_km: see `draw`.
            denoiser: see `draw`.
            expected: what the mean stage says, when it has been asked already.
            settings: see `draw`.
        """
        if expected is None:
            expected, _ = self.networks.expect(fields, features, place_km)
        cond = self.networks.conditions(fields, features, place_km, expected)
        scaled = noise * self._or_default(settings).noise_scale
        x = sampler(denoiser or self.networks.denoiser, scaled, cond=cond).float()
        return self.networks.levels(x, expected)

    def rain(self, levels: Tensor, settings: Settings | None = None) -> Tensor:
        """Return the rain rates in mm/h [M, H, W] of `levels`: 0, or at least the threshold where the chance says rain.

        The chance alone decides, so that pixels with little rain are not lost to the threshold a second time. Heavy
        rain goes through the tail map of the settings (see `draw`); no rate exceeds the transform's ceiling.
        """
        chosen = self._or_default(settings)
        rain = chosen.tail(self.transform.inverse(levels[:, 0]).clamp(min=self.transform.threshold))
        if chosen.tail.rates:
            rain = rain.clamp(max=self.transform.ceiling)
        return torch.where(levels[:, 1] > chosen.wet_threshold, rain, torch.zeros_like(rain))

    def expected_rain(self, expected: Expectation) -> Tensor:
        """Return the expected rain rates in mm/h [B, H, W] of the mean stage: the chance of rain times that of amounts.

        Amounts are normal (the likelihood that the stage is trained with) and held as in `rain`.
        """
        return self.transform.expected(expected.amount, expected.spread) * expected.wet

    def _or_default(self, settings: Settings | None) -> Settings:
        sampling = self.meta.sampling
        return Settings(sampling.noise_scale, sampling.wet_threshold) if settings is None else settings

    def save(self, folder: Path, *, card: str = "", dtype: torch.dtype = torch.float32) -> None:
        """Write the model as a model folder."""
        from gen.hub import save_model

        components, documents = self.networks.parts()
        documents = {"downscaling": asdict(self.meta), **documents}
        save_model(folder, components, {"kind": "downscaling"}, documents=documents, dtype=dtype, card=card)

    @classmethod
    def load(cls, folder: Path | ModelFolder) -> DownscalingModel:
        """Read a model folder; raises `gen.hub.HubError` when a file is damaged or it holds another kind of model."""
        from gen.hub import HubError, open_model

        model = open_model(folder)
        if (kind := model.index.get("kind")) != "downscaling":
            raise HubError(f"{folder} holds a model of kind {kind!r}, not a downscaling model")
        meta = DownscalingMeta.from_dict(model.document("downscaling"))
        if "codec" in model.components:
            from downscaling.latent import load_latent

            return cls(load_latent(model, dict(meta.precondition)), meta).eval()
        mean, flow = (model.load(name, HourglassTransformer) for name in ("mean", "flow"))
        return cls(DownscalingNetworks(mean, flow, dict(meta.precondition)), meta).eval()


def build_networks(mean: dict[str, Any], flow: dict[str, Any], precondition: dict[str, Any]) -> DownscalingNetworks:
    """Build both stages; `mean` and `flow` are further arguments of `HourglassTransformer`."""
    known: dict[str, Any] = {"cond_features": len(FEATURES)}
    first = HourglassTransformer(**{**known, "in_channels": len(FIELDS), "out_channels": 3, **mean})
    second = HourglassTransformer(**{**known, "in_channels": 2, "out_channels": 2, "cond_channels": KNOWN, **flow})
    return DownscalingNetworks(first, second, precondition)


def wet_spread(expected: Expectation) -> Tensor:
    """Return the spread of the chance (-1 to 1) of rain, with a floor."""
    return (2 * (expected.wet * (1 - expected.wet)).sqrt()).clamp(min=WET_SPREAD_FLOOR)
