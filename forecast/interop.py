"""Published LaDCast weights (Zhuang and Duraisamy 2025, arXiv 2506.09193) as networks and models of ours.

The networks have upstream's parameters under upstream's names, so that nothing is rearranged: configurations are
translated, every name and shape is compared, and weights are copied one tensor at a time.
"""

from __future__ import annotations

__all__ = [
    "LadcastTransformer",
    "convert_ladcast",
    "hours_of_dates",
    "load_ladcast_autoencoder",
    "load_ladcast_transformer",
]

import inspect
from collections.abc import Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoencoders.dcae import DCAE
from autoencoders.weather import WeatherCodec
from diffusion.dual_stream import DualStreamTransformer
from diffusion.ladcast import ladcast_config
from forecast.ladcast_card import ladcast_card
from forecast.ladcast_files import EMA_FIELDS, Kind, LadcastError, PublishedNetwork, find_networks, read_network
from forecast.ladcast_statistics import (
    LADCAST_GRID,
    LADCAST_MISSING,
    SIGMA_DATA,
    ladcast_latent_statistics,
    ladcast_normalizer,
)
from forecast.model import DynamicsMeta, SamplingDefaults
from gen.data.variables import LADCAST_CHANNELS

OURS = frozenset({"self", "padding", "vector_channels"})  # arguments of DCAE that upstream does not have
AUTOENCODER_OPTIONS = frozenset({"temb_channels", "decoder_norm_types", "decoder_act_fns", "scaling_factor"})
TRANSFORMER_FIELDS = frozenset(
    {
        "in_channels", "out_channels", "conditioning_tensor_in_channels", "num_attention_heads", "attention_head_dim",
        "num_layers", "num_single_layers", "num_refiner_layers", "mlp_ratio", "patch_size", "rope_theta",
        "rope_axes_dim", "rope_spatial_grid_start_pos", "rope_spatial_grid_end_pos",
    }
)  # fmt: skip
TRANSFORMER_OPTIONS = frozenset(
    {
        "patch_size_t", "qk_norm", "spatial_deg2rad", "incl_time_elapsed", "nope", "scale_attn_by_lat",
        "conditioning_tensor_rope_axes_dim", "conditioning_tensor_intermediate_proj_dim",
    }
)  # fmt: skip
FRAMES, STEP_HOURS = 4, 6
LAND_SHARE = 0.5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SAMPLING = SamplingDefaults(
    sampler="dpmpp_2m",
    steps=20,
    settings={"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
    members_per_block="auto",
)


class LadcastTransformer(nn.Module):
    """The published transformer with upstream's arguments; `network` is the same with ours.

    Args:
        network: the dual-stream transformer with published weights.
    """

    def __init__(self, network: DualStreamTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor | float, cond: Tensor, dates: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        Args:
            x: noisy target times c_in, [B, 84, T, 15, 30].
            c_noise: ln(sigma) / 4, [B] or one number.
            cond: known states up to the start, [B or 1, 84, Tc, 15, 30], as they leave the codec of a converted model.
            dates: valid time of the start, int64 YYYYMMDDHH [B or 1]; None leaves the season out.

        Returns:
            [B, 84, T, 15, 30].

        Raises:
            ValueError: dates that are no whole numbers or not in the calendar, or a shape that does not fit.
        """
        hours = None if dates is None else hours_of_dates(dates)
        out: Tensor = self.network(x, c_noise, cond, hours)
        return out


def hours_of_dates(dates: Tensor) -> Tensor:
    """Turn int64 dates YYYYMMDDHH into hours since 1970-01-01T00 UTC, exactly.

    Raises:
        ValueError: floating-point dates (float32 turns 2018010100 into 2018010112), or no date of the calendar.
    """
    if dates.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"dates must be int64 YYYYMMDDHH; got {dates.dtype}, which cannot hold every hour")
    texts = [f"{d // 10**6:04d}-{d // 10**4 % 100:02d}-{d // 100 % 100:02d}T{d % 100:02d}" for d in dates.tolist()]
    try:
        hours = np.array(texts, dtype="datetime64[h]").astype(np.int64)
    except ValueError as error:
        raise ValueError(f"dates must be YYYYMMDDHH; {error}") from None
    return torch.from_numpy(hours).to(dates.device)


def load_ladcast_autoencoder(folder: Path | str) -> DCAE:
    """Load the published autoencoder, float32 on the CPU, in eval mode.

    `encode(x, static)` takes normalised fields [B, 84, 120, 240] and static fields [5, 120, 240] without the row at the
    South Pole to raw latents [B, 84, 15, 30]; `decode(z)` takes these to normalised fields.

    Args:
        folder: with `config.json` and safetensors.

    Raises:
        ValueError: another network, or weights that are damaged, missing, unknown, mis-shaped or not finite; one line.
    """
    published = read_network(folder, "autoencoder")
    loaded: Any = published.load_into(_autoencoder(published))
    return loaded


def load_ladcast_transformer(folder: Path | str) -> LadcastTransformer:
    """Load the published transformer, float32 on the CPU, in eval mode: `forward(x, c_noise, cond, dates)`.

    Args:
        folder: with `config.json` and safetensors.

    Raises:
        ValueError: as `load_ladcast_autoencoder`.
    """
    published = read_network(folder, "transformer")
    loaded: Any = published.load_into(_transformer(published))
    return LadcastTransformer(loaded).eval()


def convert_ladcast(
    source: str | Path,
    out: str | Path,
    *,
    autoencoder: str | Path | None = None,
    transformer: str | Path | None = None,
    static: str | Path | None = None,
    dtype: str = "float32",
) -> Path:
    """Write a model folder of ours from published weights: a forecast model, or a codec where there is no transformer.

    Latents leave the codec with a standard deviation of 0.5, as the transformer expects. Where the land-sea mask is 0.5
    or more, decoded sea-surface temperature is NaN.

    Args:
        source: folder of a network, folder with networks in sub-folders, or "owner/name" on the hub.
        out: folder to write; it appears when it is complete.
        autoencoder: sub-folder of the source, or another folder.
        transformer: likewise.
        static: the five static fields, see `gen.data.statics.load_static`.
        dtype: how weights are stored: float32, bfloat16 or float16.

    Raises:
        ValueError: something is missing, damaged or does not fit; one line, and nothing is written.
    """
    from gen.hub import save_model

    if dtype not in DTYPES:
        raise LadcastError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    if static is None:
        raise LadcastError(
            "the autoencoder reads five static fields of the Earth's surface, which are not part of the weights; give"
            " --static with the folder of the two published .pt files, a NetCDF file or a WeatherBench-2 store"
        )
    published = find_networks(source, autoencoder, transformer)
    networks = _networks(published)
    codec = _codec(networks["codec"], static)
    _check_latents(codec, networks.get("dynamics"))
    documents: dict[str, Any] = {"codec": codec.to_meta()}
    if "dynamics" in networks:
        documents["dynamics"] = asdict(_meta(networks["dynamics"]))
    parts = {"codec": published["autoencoder"]}
    parts |= {"dynamics": published["transformer"]} if "dynamics" in networks else {}
    return save_model(
        out,
        networks,
        {"kind": "forecast" if "dynamics" in networks else "codec"},
        documents=documents,
        tensors={"fields": codec.to_tensors()},
        card=ladcast_card({name: part.label for name, part in parts.items()}, dtype),
        dtype=DTYPES[dtype],
        weights={name: part.files for name, part in parts.items()},
    )


def _networks(published: dict[Kind, PublishedNetwork]) -> dict[str, nn.Module]:
    """Build the networks on the meta device and compare them with the weights."""
    networks: dict[str, nn.Module] = {"codec": _autoencoder(published["autoencoder"])}
    published["autoencoder"].check(networks["codec"])
    if "transformer" in published:
        networks["dynamics"] = _transformer(published["transformer"])
        published["transformer"].check(networks["dynamics"])
    return networks


def _autoencoder(published: PublishedNetwork) -> DCAE:
    names = set(inspect.signature(DCAE.__init__).parameters) - OURS
    config = _fields(published, names, names - AUTOENCODER_OPTIONS)
    return _built(published, lambda: DCAE(**config, padding="ladcast"))


def _transformer(published: PublishedNetwork) -> DualStreamTransformer:
    config = _fields(published, TRANSFORMER_FIELDS | TRANSFORMER_OPTIONS, TRANSFORMER_FIELDS)
    return _built(published, lambda: DualStreamTransformer(**ladcast_config(config)))


def _fields(published: PublishedNetwork, known: Set[str], needed: Set[str]) -> dict[str, Any]:
    """Return the fields of a configuration that describe the network; refuse others, which would change it."""
    fields = {k: v for k, v in published.config.items() if not k.startswith("_") and k not in EMA_FIELDS}
    where = published.files.folder / "config.json"
    if unknown := sorted(set(fields) - known):
        raise LadcastError(f"{where} has {', '.join(unknown[:5])}, which the published network does not have")
    if lacking := sorted(needed - set(fields)):
        raise LadcastError(f"{where} lacks {', '.join(lacking[:5])}")
    return fields


def _built(published: PublishedNetwork, build: Any) -> Any:
    """Build a network on the meta device."""
    try:
        with torch.device("meta"):
            return build().eval()
    except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as error:
        raise LadcastError(f"{published.files.folder / 'config.json'}: {' '.join(str(error).split())}") from None


def _codec(dcae: Any, static: str | Path) -> WeatherCodec:
    """Bind an autoencoder to the published statistics and the static fields."""
    from gen.data.statics import load_static, normalise_static

    channels, config = len(LADCAST_CHANNELS), dcae.config
    data = int(config["in_channels"]) - int(config["static_channels"])
    mean, scale = ladcast_latent_statistics()
    if (data, int(config["static_channels"]), dcae.latent_channels) != (channels, 5, len(mean)):
        raise LadcastError(
            f"the autoencoder has {data} data, {config['static_channels']} static and {dcae.latent_channels} latent"
            f" channels; the published statistics are for {channels}, 5 and {len(mean)}"
        )
    field = load_static(static, LADCAST_GRID)
    return WeatherCodec(
        dcae,
        ladcast_normalizer(),
        LADCAST_GRID,
        static=normalise_static(field),
        latent_mean=mean,
        latent_std=scale,
        south_pole=False,
        missing=LADCAST_MISSING,
        land=field.values[0] >= LAND_SHARE,
    )


def _check_latents(codec: WeatherCodec, network: Any) -> None:
    """Raise LadcastError unless the transformer reads and writes the latents of the codec."""
    if network is None:
        return
    config = network.config
    wanted = {int(config[k]) for k in ("in_channels", "out_channels", "conditioning_tensor_in_channels")}
    seen = (len(config["latitude"]), len(config["longitude"]))
    if wanted != {codec.latent_shape[0]} or seen != codec.latent_shape[1:]:
        count, *shape = codec.latent_shape
        raise LadcastError(
            f"the transformer is for latents of {' and '.join(map(str, sorted(wanted)))} channels on {seen[0]} x "
            f"{seen[1]}; this autoencoder makes {count} channels on {shape[0]} x {shape[1]}"
        )


def _meta(network: nn.Module) -> DynamicsMeta:
    """Return what the published weights do not say."""
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    size = f"{millions / 1000:.1f}B" if millions >= 1000 else f"{millions:.0f}M"
    return DynamicsMeta(
        frames=FRAMES,
        step_hours=STEP_HOURS,
        step_std=[],
        precondition={"name": "edm", "sigma_data": SIGMA_DATA},
        trained_on="ERA5 1979-2017 at 1.5 degrees, hourly starts (tonyzyl/ladcast)",
        simulated=False,
        sampling=SAMPLING,
        name=f"ladcast-{size}",
        target="states",
        folded=False,
    )
