r"""Dual-stream transformer: the network that turns noise into the next states of the atmosphere, in latent space.

LaDCast (arXiv 2506.09193): the state that a forecast starts from (condition) and the states to be generated (target)
are two streams of tokens on the globe. The condition is refined by itself; dual blocks let both streams attend jointly,
single blocks treat them as one; AdaLN tells every block the noise level, the season, and here also the hour of the day.

Two designs share the code and the parameter names (`diffusion.ladcast` translates published configurations):

======================  =====================================  ================================================
                        "geo" (default)                        "ladcast" (published weights)
======================  =====================================  ================================================
position                `GeoRoPE`, exact period in longitude   `GeoRoPE` of the paper, a seam at the date line
condition in dual       rotated like the target                not rotated
blocks
calendar                phases of year and day                 phase of the year
c_noise                 32 rad per unit at most                1 rad per unit at most
at the start            gates and output are zero              plain
======================  =====================================  ================================================
"""

from __future__ import annotations

__all__ = ["DESIGNS", "Conditions", "DualStreamTransformer"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.dual_blocks import (
    DualBlock,
    FinalModulation,
    NoiseEmbedding,
    PatchEmbed,
    Refiner,
    Rotations,
    SeasonMLP,
    SingleBlock,
)
from diffusion.georope import TIME_UNIT_HOURS, GeoRoPE, split_head
from diffusion.location import calendar_features, ladcast_year_features, latitude_features, spherical_harmonics
from gen.nn.attention import use_backend
from gen.nn.layers import Modulation
from gen.nn.rotary import rotary_table


@dataclass(frozen=True)
class Design:
    """Say in which points a network follows the paper."""

    periodic: bool
    rotate_context: bool
    hour_of_day: bool
    noise_scale: float
    zero_start: bool


DESIGNS = {
    "geo": Design(periodic=True, rotate_context=True, hour_of_day=True, noise_scale=32.0, zero_start=True),
    "ladcast": Design(periodic=False, rotate_context=False, hour_of_day=False, noise_scale=1.0, zero_start=False),
}
LOCATIONS = ("none", "latitude", "globe", "learned")
_HARMONICS = 4


class Conditions(NamedTuple):
    """Hold all that a forecast call knows before the noise level: `DualStreamTransformer.prepare` makes it once."""

    prepared: tuple[Tensor, Tensor, Tensor | None]
    season: Tensor | None
    frames: int


class DualStreamTransformer(ModelMixin, ConfigMixin):
    """Predict the preconditioned target of a noisy block of latent states.

    Args:
        in_channels: channels C of the noisy input.
        out_channels: channels of the output.
        conditioning_tensor_in_channels: channels Cc of the condition.
        latitude: degrees north of the latent rows, in the order of the rows.
        longitude: degrees east of the latent columns.
        num_attention_heads: heads.
        attention_head_dim: channels per head; the width D is the product.
        num_layers: dual blocks.
        num_single_layers: single blocks.
        num_refiner_layers: refiner blocks.
        mlp_ratio: width of feed-forward layers divided by D.
        patch_size: rows and columns of latents per token.
        patch_size_t: frames of the target per token; a token's time is the mean of its frames.
        step_hours: hours between frames.
        static_channels: channels S of ``static``, fields at latent resolution joined to the condition.
        location: what tokens are told of their place beyond relative position: "none", "latitude" (zonal harmonics: the
            network commutes with shifts in longitude), "globe" (all spherical harmonics) or "learned" (a vector per
            token of the grid).
        location_degree: highest degree of these harmonics.
        adaln: "block" (every block projects the condition) or "shared" (one projection, see `SharedModulation`).
        design: "geo" or "ladcast", see above.
        rope_theta: see `GeoRoPE`.
        rope_axes_dim: channels of a head for time, latitude, longitude; `split_head` by default.
        max_wavenumber: see `GeoRoPE`; half the number of token columns by default.

    Raises:
        ValueError: a size that does not fit or an unknown name.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conditioning_tensor_in_channels: int,
        latitude: Sequence[float],
        longitude: Sequence[float],
        num_attention_heads: int = 6,
        attention_head_dim: int = 64,
        num_layers: int = 2,
        num_single_layers: int = 4,
        num_refiner_layers: int = 1,
        mlp_ratio: float = 4.0,
        patch_size: int = 1,
        patch_size_t: int = 1,
        step_hours: float = 6.0,
        static_channels: int = 0,
        location: str = "latitude",
        location_degree: int = 8,
        adaln: str = "block",
        design: str = "geo",
        rope_theta: float = 256.0,
        rope_axes_dim: Sequence[int] | None = None,
        max_wavenumber: int | None = None,
    ) -> None:
        super().__init__()
        self._check(design, location, adaln, (len(latitude), len(longitude)), patch_size, patch_size_t)
        self.design, self.gradient_checkpointing = DESIGNS[design], False
        heads, dim = num_attention_heads, num_attention_heads * attention_head_dim
        axes = tuple(rope_axes_dim or split_head(attention_head_dim))
        if sum(axes) != attention_head_dim:
            raise ValueError(f"rope_axes_dim {axes} must add up to the head's {attention_head_dim}")
        wavenumber = max_wavenumber or max(1, len(longitude) // patch_size // 2)
        self.rope = GeoRoPE(axes, rope_theta, self.design.periodic, wavenumber)
        self.x_embedder = PatchEmbed(in_channels, dim, (patch_size_t, patch_size, patch_size))
        known = conditioning_tensor_in_channels + static_channels
        self.context_embedder = PatchEmbed(known, dim, (1, patch_size, patch_size))
        self.context_refiner = Refiner(dim, heads, num_refiner_layers, mlp_ratio, self.design.noise_scale)
        self.time_text_embed = NoiseEmbedding(dim, self.design.noise_scale)
        self.time_elapsed_embed = SeasonMLP(4 * _HARMONICS if self.design.hour_of_day else 256, dim)
        if location == "learned":
            self.location_table = nn.Parameter(torch.empty(math.prod(self.token_grid), dim))
            nn.init.normal_(self.location_table, std=0.02)
        elif location != "none":
            self.location_embed = nn.Linear(self._place_features().shape[1], dim)
        shared = adaln == "shared"
        self.shared_modulation = nn.Linear(dim, 6 * dim) if shared else None
        self.transformer_blocks = nn.ModuleList(
            DualBlock(dim, heads, mlp_ratio, self.design.rotate_context, shared) for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(dim, heads, mlp_ratio, shared) for _ in range(num_single_layers)
        )
        self.norm_out = FinalModulation(dim)
        self.proj_out = nn.Linear(dim, out_channels * patch_size_t * patch_size**2)
        self._tables: dict[tuple[int, int, torch.device, torch.dtype], Rotations] = {}
        self._places: dict[torch.device, Tensor] = {}
        if self.design.zero_start:
            self._initialise()

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor | float,
        cond: Tensor | None = None,
        hours: Tensor | None = None,
        static: Tensor | None = None,
        conditions: Conditions | None = None,
    ) -> Tensor:
        """Evaluate the network.

        Args:
            x: noisy target, scaled to unit variance, [B, C, T, H, W].
            c_noise: noise level as the preconditioning tells it, [B] or one number.
            cond: known states up to the start, [B or 1, Cc, Tc, H, W]; the last one is the start.
            hours: valid time of the start, int64 [B or 1], hours since 1970-01-01T00 UTC; None leaves the season out.
            static: [S, H, W], when the network has ``static_channels``.
            conditions: what `prepare` returned for (cond, hours, static), instead of these three.

        Returns:
            [B, out_channels, T, H, W].

        Raises:
            ValueError: a shape that does not fit the grid of the network.
        """
        conditions = conditions if conditions is not None else self.prepare(cond, hours, static)
        self._check_grid("x", x)
        batch, frames = x.shape[0], self._steps(x)
        tables = self._rotations(frames, conditions.frames, x)
        if not isinstance(c_noise, Tensor):
            c_noise = torch.full((1,), c_noise, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        c_noise = c_noise.reshape(-1).expand(batch)
        x = self._placed(self.x_embedder(x), frames)
        c = self.context_refiner(_expanded(conditions.prepared, batch), c_noise, tables.context)
        condition = self.time_text_embed(c_noise, self.time_text_embed.pooled(c))
        if conditions.season is not None:
            scale, shift = conditions.season.chunk(2, dim=-1)
            condition = condition * (1 + scale) + shift
        x = self._blocks(x, c, condition, tables)
        x = self.proj_out(self.norm_out(x, condition))
        f, p, (rows, columns) = self.config.patch_size_t, self.config.patch_size, self.token_grid
        return rearrange(x, "b (t h w) (c f p q) -> b c (t f) (h p) (w q)", f=f, h=rows, w=columns, p=p, q=p)

    def prepare(self, cond: Tensor | None, hours: Tensor | None = None, static: Tensor | None = None) -> Conditions:
        """Compute once what all calls of a sampler share: everything that does not depend on x and the noise level."""
        if cond is None:
            raise ValueError("the network needs cond [B, Cc, Tc, H, W] or conditions made by prepare()")
        self._check_grid("cond", cond)
        cond, frames = self._with_static(cond, static), cond.shape[2]
        table = self._rotations(0, frames, cond).context
        prepared = self.context_refiner.prepare(self._placed(self.context_embedder(cond), frames), table)
        season = None
        if hours is not None:
            features = calendar_features(hours, _HARMONICS, _HARMONICS) if self.design.hour_of_day else None
            season = self.time_elapsed_embed(ladcast_year_features(hours) if features is None else features)
        return Conditions(prepared, season, frames)

    def use_attention(self, backend: str) -> None:
        """Choose the attention backend of all blocks; raises ``ValueError`` where it does not work."""
        use_backend(self, backend)

    @property
    def token_grid(self) -> tuple[int, int]:
        """Return the rows and columns of tokens."""
        p = self.config.patch_size
        return len(self.config.latitude) // p, len(self.config.longitude) // p

    def _blocks(self, x: Tensor, c: Tensor, condition: Tensor, tables: Rotations) -> Tensor:
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        if self.shared_modulation is not None:
            condition = self.shared_modulation(F.silu(condition))
        for block in self.transformer_blocks:
            run = (block, x, c, condition, tables)
            x, c = self._gradient_checkpointing_func(*run) if recompute else block(*run[1:])
        tokens, count, last = torch.cat([x, c], dim=1), x.shape[1], len(self.single_transformer_blocks) - 1
        for i, block in enumerate(self.single_transformer_blocks):
            one = (block, tokens, condition, tables, count if i == last else None)  # the target alone is read
            tokens = self._gradient_checkpointing_func(*one) if recompute else block(*one[1:])
        return tokens[:, :count]

    def _rotations(self, frames: int, known: int, like: Tensor) -> Rotations:
        """Return the rotary tables for T steps and Tc known frames, float64 for float64 input; kept afterwards."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        key = (frames, known, like.device, dtype)
        if key not in self._tables:
            centres = 1 + (torch.arange(frames, device="cpu") + 0.5) * self.config.patch_size_t - 0.5
            target, context = (self._table(t, dtype) for t in (centres, torch.arange(1 - known, 1, device="cpu")))
            tables = (target, context, torch.cat([target, context]))
            self._tables[key] = Rotations(*(t[:, None].to(like.device) for t in tables))
        return self._tables[key]

    def _table(self, steps: Tensor, dtype: torch.dtype) -> Tensor:
        lat, lon = self._token_places()
        time = (steps.double() * (self.config.step_hours / TIME_UNIT_HOURS)).repeat_interleave(len(lat))
        angles = self.rope.angles(time, lat.repeat(len(steps)), lon.repeat(len(steps)))
        return rotary_table(angles, dtype)

    def _steps(self, x: Tensor) -> int:
        """Return the tokens in time."""
        if x.shape[2] % self.config.patch_size_t:
            raise ValueError(f"patch_size_t {self.config.patch_size_t} must divide the frames of x; got {x.shape[2]}")
        return x.shape[2] // self.config.patch_size_t

    def _token_places(self) -> tuple[Tensor, Tensor]:
        """Return latitude and longitude of the centres of tokens, each [rows * columns] float64 degrees."""
        p = self.config.patch_size
        lat = torch.tensor(self.config.latitude, dtype=torch.float64, device="cpu").unflatten(0, (-1, p)).mean(1)
        lon = torch.tensor(self.config.longitude, dtype=torch.float64, device="cpu").unflatten(0, (-1, p))
        lon = lon[:, 0] + ((lon - lon[:, :1] + 180) % 360 - 180).mean(1)
        return lat.repeat_interleave(len(lon)), lon.repeat(len(lat))

    def _place_features(self) -> Tensor:
        lat, lon = self._token_places()
        degree = self.config.location_degree
        if self.config.location == "latitude":
            return latitude_features(lat, degree).float()
        return (math.sqrt(4 * math.pi) * spherical_harmonics(lat, lon, degree)[:, 1:]).float()

    def _placed(self, tokens: Tensor, frames: int) -> Tensor:
        """Add the embedding of their place to tokens [B, T N, D]."""
        if self.config.location == "none":
            return tokens
        if self.config.location == "learned":
            return (tokens.unflatten(1, (frames, -1)) + self.location_table).flatten(1, 2)
        if tokens.device not in self._places:
            self._places[tokens.device] = self._place_features().to(tokens.device)
        place = self.location_embed(self._places[tokens.device].to(self.location_embed.weight.dtype))
        return (tokens.unflatten(1, (frames, -1)) + place.to(tokens.dtype)).flatten(1, 2)

    def _with_static(self, cond: Tensor, static: Tensor | None) -> Tensor:
        channels = self.config.static_channels
        if (0 if static is None else static.shape[0]) != channels:
            got = "none" if static is None else tuple(static.shape)
            raise ValueError(
                f"static must be [{channels}, H, W] as the network has {channels} static channels; got {got}"
            )
        if static is None:
            return cond
        fields = static.to(cond)[None, :, None].expand(cond.shape[0], -1, cond.shape[2], -1, -1)
        return torch.cat([cond, fields], dim=1)

    def _check_grid(self, name: str, x: Tensor) -> None:
        grid = (len(self.config.latitude), len(self.config.longitude))
        if x.ndim != 5 or tuple(x.shape[-2:]) != grid:
            raise ValueError(
                f"{name} must be [B, C, T, {grid[0]}, {grid[1]}], the grid of the network; got {tuple(x.shape)}"
            )

    @staticmethod
    def _check(design: str, location: str, adaln: str, shape: tuple[int, int], patch: int, frames: int) -> None:
        named = {"design": (design, DESIGNS), "location": (location, LOCATIONS), "adaln": (adaln, ("block", "shared"))}
        for name, (value, known) in named.items():
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        if frames < 1:
            raise ValueError(f"patch_size_t must be at least 1; got {frames}")
        if patch < 1 or shape[0] % patch or shape[1] % patch or 0 in shape:
            raise ValueError(f"patch_size must divide the latent grid {shape[0]} x {shape[1]}; got {patch}")

    def _initialise(self) -> None:
        """Start from the identity: gates, modulations and output are zero, other layers have Glorot weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, PatchEmbed):
                nn.init.xavier_uniform_(module.proj.weight.data.flatten(1))
                nn.init.zeros_(cast(Tensor, module.proj.bias))
        modulations = [m.linear for m in self.modules() if isinstance(m, (Modulation, FinalModulation))]
        layers = [*modulations, self.time_elapsed_embed.linear_2, self.proj_out, self.shared_modulation]
        for layer in filter(None, layers):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


def _expanded(prepared: tuple[Tensor, Tensor, Tensor | None], batch: int) -> tuple[Tensor, Tensor, Tensor | None]:
    tokens, pooled, attention = prepared
    if tokens.shape[0] == batch:
        return prepared
    attention = None if attention is None else attention.expand(batch, -1, -1)
    return tokens.expand(batch, -1, -1), pooled.expand(batch, -1), attention
