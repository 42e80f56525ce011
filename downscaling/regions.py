"""The 18 RainShift regions, boxes of 20 by 20 degrees (Harder et al. 2025, arXiv:2507.04930).

The boxes are those of the data set's region table; its longitudes, partly in 0..360, are brought to [-180, 180). A box
that crosses the date line keeps `west` > `east`, as `gen.grid.Region` has it; none of the 18 does.
"""

from __future__ import annotations

import difflib

__all__ = ["REGIONS", "normalised", "region"]

from gen.grid import Region

_BOXES = {  # south, north, west, east, as in the region table
    "africa-south": (-40, -20, 18, 38),
    "amazon-basin": (-20, 0, 300, 320),
    "arabian-peninsula": (15, 35, 40, 60),
    "australasia-east": (-40, -20, 137, 157),
    "blacksea": (35, 55, 22, 42),
    "cape-horn": (-56, -36, 280, 300),
    "caribbean": (5, 25, 280, 300),
    "east-asia-north-east": (30, 50, 130, 150),
    "east-asia-south": (20, 40, 100, 120),
    "europe_west": (40, 60, -5, 15),
    "horn-of-africa": (-5, 15, 32, 52),
    "melanesia": (-15, 5, 130, 150),
    "northamerica-east": (30, 50, 270, 290),
    "northamerica-west": (40, 60, 230, 250),
    "southamerica-east": (-40, -20, 300, 320),
    "southeastasia-west": (-2, 18, 90, 110),
    "tibetan-plateau": (30, 50, 75, 95),
    "west-africa": (4, 24, -10, 10),
}


def normalised(south: float, north: float, west: float, east: float) -> Region:
    """Return a box with longitudes in [-180, 180); the eastern edge may be 180 itself.

    Raises:
        ValueError: when the box does not lie on the globe or is empty.
    """
    if east - west >= 360.0:
        return Region(south, north, -180.0, 180.0)
    low, high = ((longitude + 180.0) % 360.0 - 180.0 for longitude in (west, east))
    return Region(float(south), float(north), low, 180.0 if high == -180.0 and east != west else high)


REGIONS: dict[str, Region] = {name: normalised(*box) for name, box in _BOXES.items()}


def region(name: str) -> Region:
    """Look a region up; "-", "_" and spaces are the same, and so are capitals.

    Raises:
        ValueError: for an unknown name, with the nearest known ones.
    """
    plain = {_plain(known): known for known in REGIONS}
    if _plain(name) in plain:
        return REGIONS[plain[_plain(name)]]
    near = [plain[key] for key in difflib.get_close_matches(_plain(name), plain, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(REGIONS)}"
    raise ValueError(f"no region {name!r}; {hint}")


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")
