"""The card of a converted LaDCast model: what it is, where it comes from, what was not checked."""

from __future__ import annotations

__all__ = ["ladcast_card"]

from collections.abc import Mapping

TITLES = {"codec": "autoencoder", "dynamics": "transformer"}
DYNAMICS = """
Four states (+6, +12, +18 and +24 h) are drawn jointly per call, each conditioned on the state the call starts from.
Sampling by default: DPM-Solver++ 2M, 20 evaluations a call, noise levels 0.002 to 80, independent noise for every
member, call and start. `--parity` repeats the original's own sampling instead.
"""


def ladcast_card(sources: Mapping[str, str], dtype: str) -> str:
    """Return the text of `README.md` for the networks `sources` (component to origin), stored as `dtype`."""
    rows = "\n".join(f"| {TITLES[name]} | `{name}/` | {origin} |" for name, origin in sources.items())
    what = "Latent diffusion ensemble forecasts" if "dynamics" in sources else "A codec"
    return f"""# LaDCast, converted

{what} of the Earth's atmosphere at 1.5 degrees (240 x 121), 84 channels, every six hours: the published weights of
LaDCast (Y. Zhuang and K. Duraisamy 2025, arXiv 2506.09193, https://github.com/tonyzyl/ladcast), not retrained.

| network | here | converted from |
|---|---|---|
{rows}

Weights are stored as {dtype}; names, shapes and values are the original's. `codec.json` holds the published statistics
of ERA5 1979-2017 and of the latents (which leave the codec with a standard deviation of 0.5), `fields.safetensors` the
five static fields and the land mask.
{DYNAMICS if "dynamics" in sources else ""}
## Differences from the original's output

- 121 rows, latitude ascending: the row at the South Pole, which the networks never see, is extrapolated from the next
  two.
- Sea-surface temperature is NaN where the land-sea mask is 0.5 or more; the original leaves about 263 K there. Coastal
  cells with less land have a value.
- Rain, humidity, temperature and pressure are not negative.

## What was not verified

The scores of these weights were not verified by gen-earth; see the paper for its own. The networks have no information
on the hour of the day. Train and test years are the original's: trained on 1979-2017, chosen on 2018.

## Licence

Weights and statistics: MIT (tonyzyl/ladcast). The network design follows upstream's model code, Apache-2.0. The static
fields are from ERA5 (Copernicus Climate Change Service).
"""
