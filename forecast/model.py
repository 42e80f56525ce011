"""The forecast model: codec, dual-stream transformer and what binds them.

One call generates `frames` latent states jointly, conditioned on the state they start from. What a diffusion sampler
draws, x[k] for k = 1..frames, is one of two `target`s:

- "increments": z[k] = z[0] + step_std[k] x[k], where `step_std` is the standard deviation of z[k] - z[0] over the
  training world, so that x has unit variance per channel and frame; needs less of the network at short leads;
- "states": z[k] = x[k], as in LaDCast (arXiv 2506.09193), whose published weights need it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

__all__ = ["DynamicsMeta", "FoldedFrames", "ForecastModel", "SamplingDefaults", "Target"]

import torch
from torch import Tensor, nn

from autoencoders.store import codec_parts, load_codec
from autoencoders.weather import WeatherCodec
from diffusion.build import build_precondition
from diffusion.denoiser import Denoiser
from diffusion.dual_stream import DualStreamTransformer
from diffusion.location import spherical_harmonics
from gen.hub import HubError, ModelFolder, open_model

Target = Literal["increments", "states"]


class FoldedFrames(nn.Module):
    """Show a network all frames of a place as one token: [B, C, T, h, w] goes in as [B, C T, 1, h, w].

    A trajectory over a few frames is smooth, so that one token holds it well; attention then costs T^2 times less.

    Args:
        network: transformer with C T input and output channels.
        frames: T.
    """

    def __init__(self, network: DualStreamTransformer, frames: int) -> None:
        super().__init__()
        self.network, self.frames = network, frames

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> Tensor:
        """Evaluate the network on folded frames; conditions are handed on."""
        folded = x.flatten(1, 2).unsqueeze(2)
        out: Tensor = self.network(folded, c_noise, **cond)
        return out.squeeze(2).unflatten(1, (-1, self.frames))


@dataclass(frozen=True)
class SamplingDefaults:
    """How the model is sampled unless the request says otherwise.

    Args:
        sampler: name known to `diffusion.samplers.build_sampler`.
        steps: sampler steps.
        settings: further arguments of the sampler (noise levels, churn).
        noise_scale: factors on the initial noise per latent channel (empty: 1). On a Gaussian the spread of a step
            grows by the same factors; they are fitted on validation years so that spread matches error.
        members_per_block: members computed together, or "auto" for what fits the memory; part of the file's
            reproducibility record.
    """

    sampler: str = "dpmpp_2m"
    steps: int = 8
    settings: dict[str, Any] = field(default_factory=dict)
    noise_scale: list[float] = field(default_factory=list)
    large_scale: float = 1.0
    large_degree: int = 5
    members_per_block: int | Literal["auto"] = 4


@dataclass(frozen=True)
class DynamicsMeta:
    """What the weights do not say.

    Args:
        frames: states generated per call; `step_hours`: hours between them.
        step_std: standard deviation of the increments, [frames][latent channels]; empty for the target "states".
        precondition: name and arguments of the preconditioning ("edm" or "flow").
        trained_on: what the training data are, in words.
        simulated: whether the training data are simulated.
        sampling: the defaults of the sampler.
        name: the model's name.
        target: what is drawn, "increments" or "states" (see above).
        folded: whether the network sees the frames of a call as channels of one token (see `FoldedFrames`) or, as
            published LaDCast weights do, frame by frame.

    Raises:
        ValueError: an unknown target, or `step_std` that does not belong to it.
    """

    frames: int
    step_hours: int
    step_std: list[list[float]]
    precondition: dict[str, Any]
    trained_on: str
    simulated: bool
    sampling: SamplingDefaults
    name: str = "forecast"
    target: Target = "increments"
    folded: bool = True

    def __post_init__(self) -> None:
        """Check that target and step_std belong together."""
        if self.target not in get_args(Target):
            raise ValueError(f"target must be one of {', '.join(get_args(Target))}; got {self.target!r}")
        expected = self.frames if self.target == "increments" else 0
        if len(self.step_std) != expected:
            raise ValueError(f"step_std must have {expected} rows for {self.target}; got {len(self.step_std)}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DynamicsMeta:
        """Rebuild from `dataclasses.asdict`."""
        return cls(**{**values, "sampling": SamplingDefaults(**values["sampling"])})


class ForecastModel(nn.Module):
    """Codec and dynamics, ready to sample.

    Args:
        codec: physical fields to unit-variance latents and back.
        network: the dual-stream transformer.
        meta: what binds them.
    """

    step_std: Tensor

    def __init__(self, codec: WeatherCodec, network: DualStreamTransformer, meta: DynamicsMeta) -> None:
        """Bind the parts."""
        super().__init__()
        self.codec, self.meta = codec, meta
        self.network = network
        seen: nn.Module = FoldedFrames(network, meta.frames) if meta.folded else network
        self.denoiser = Denoiser(seen, build_precondition(**meta.precondition))
        std = torch.tensor(meta.step_std) if meta.step_std else torch.empty(0, 0)
        self.register_buffer("step_std", std.T[:, :, None, None])  # [C, T, 1, 1], empty for "states"

    def advance(self, z: Tensor, hours: Tensor, noise: Tensor, sampler: Any, churn_noise: Any = None) -> Tensor:
        """Generate the next states.

        Args:
            z: latents [B, C, h, w] as they leave the codec.
            hours: their valid time, int64 [B], hours since 1970-01-01.
            noise: unit normal [B, C, T, h, w].
            sampler: a sampler of `diffusion.samplers`.
            churn_noise: source of further noise, for stochastic samplers.

        Returns:
            Latents [B, T, C, h, w].
        """
        cond = {"conditions": self.network.prepare(z[:, :, None], hours)}
        x = sampler(self.denoiser, self.shape_noise(noise), cond=cond, churn_noise=churn_noise).to(z.dtype)
        if self.meta.target == "increments":
            x = z[:, :, None] + self.step_std * x
        return x.transpose(1, 2)

    def shape_noise(self, noise: Tensor) -> Tensor:
        """Scale unit noise [B, C, T, h, w] as the sampling defaults say: per channel, and on large scales."""
        defaults = self.meta.sampling
        if defaults.large_scale != 1.0:
            large = (noise.flatten(-2) @ self._projection.to(noise).T).unflatten(-1, noise.shape[-2:])
            noise = noise + (defaults.large_scale - 1.0) * large
        if defaults.noise_scale:
            noise = noise * torch.tensor(defaults.noise_scale).to(noise)[:, None, None, None]
        return noise

    @cached_property
    def _projection(self) -> Tensor:
        """Return the matrix [h w, h w] that projects latent fields on harmonics up to `large_degree`."""
        latitude, longitude = (torch.tensor(list(self.network.config[k])) for k in ("latitude", "longitude"))
        rows, columns = len(latitude), len(longitude)
        places = latitude.repeat_interleave(columns), longitude.repeat(rows)
        basis = spherical_harmonics(*places, self.meta.sampling.large_degree).double()
        weighted = basis * torch.cos(torch.deg2rad(places[0].double()))[:, None]
        return basis @ torch.linalg.solve(weighted.T @ basis, weighted.T)

    def save(self, folder: Path, *, card: str = "", dtype: torch.dtype = torch.float32) -> None:
        """Write the model as a model folder."""
        from gen.hub import save_model

        components, documents, tensors = codec_parts(self.codec, dtype)
        documents["dynamics"] = asdict(self.meta)
        components["dynamics"] = self.network
        save_model(
            folder, components, {"kind": "forecast"}, documents=documents, tensors=tensors, dtype=dtype, card=card
        )

    @classmethod
    def load(cls, folder: Path | ModelFolder) -> ForecastModel:
        """Read a model folder; raises `gen.hub.HubError` when a file is damaged or it holds another kind of model.

        Every file is checked against its SHA-256, unless `gen.hub.open_model` has done so.
        """
        model = open_model(folder)
        if (kind := model.index.get("kind")) != "forecast":
            raise HubError(f"{model.path} holds a model of kind {kind!r}, not a forecast model")
        meta = DynamicsMeta.from_dict(model.document("dynamics"))
        return cls(load_codec(model), model.load("dynamics", DualStreamTransformer), meta).eval()
