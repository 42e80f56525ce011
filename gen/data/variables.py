"""The table of variables and the names of channels.

Names are those of WeatherBench; short names those of ECMWF; standard names those of CF. A channel is one map: a
variable, with a pressure level in hPa where it has one. Its code is short name plus level: `z500`, `2t`, `msl`, `tp06`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import total_ordering

__all__ = [
    "LADCAST_CHANNELS",
    "LADCAST_LEVELS",
    "LADCAST_NAMES",
    "VARIABLES",
    "Channel",
    "Variable",
    "make_channels",
    "parse_channel",
]


@dataclass(frozen=True)
class Variable:
    """What a variable is.

    Args:
        name: WeatherBench name.
        short: stem of the channel code.
        standard_name: CF standard name, empty where CF has none.
        long_name: for people.
        units: SI units as CF writes them.
        kind: "upper" (has levels), "surface" or "static".
        minimum: physical lower limit, or None.
        pole_sign: -1 for the components of a vector, which change sign across a pole, else +1.
        aliases: other names found in files, lower case; some are shared and told apart by the dimensions.
    """

    name: str
    short: str
    standard_name: str
    long_name: str
    units: str
    kind: str = "surface"
    minimum: float | None = None
    pole_sign: int = 1
    aliases: tuple[str, ...] = ()


_TABLE = (
    Variable("geopotential", "z", "geopotential", "geopotential", "m2 s-2", "upper", aliases=("phi",)),
    Variable("specific_humidity", "q", "specific_humidity", "specific humidity", "kg kg-1", "upper", 0.0,
             aliases=("hus", "shum")),
    Variable("temperature", "t", "air_temperature", "temperature", "K", "upper", 0.0, aliases=("ta", "air")),
    Variable("u_component_of_wind", "u", "eastward_wind", "eastward wind", "m s-1", "upper", pole_sign=-1,
             aliases=("ua", "uwnd")),
    Variable("v_component_of_wind", "v", "northward_wind", "northward wind", "m s-1", "upper", pole_sign=-1,
             aliases=("va", "vwnd")),
    Variable("vertical_velocity", "w", "lagrangian_tendency_of_air_pressure", "vertical velocity in pressure",
             "Pa s-1", "upper", aliases=("wap", "omega")),
    Variable("10m_u_component_of_wind", "10u", "eastward_wind", "10 metre eastward wind", "m s-1", pole_sign=-1,
             aliases=("u10", "u10m", "uas")),
    Variable("10m_v_component_of_wind", "10v", "northward_wind", "10 metre northward wind", "m s-1", pole_sign=-1,
             aliases=("v10", "v10m", "vas")),
    Variable("2m_temperature", "2t", "air_temperature", "2 metre temperature", "K", minimum=0.0,
             aliases=("t2m", "tas", "t2")),
    Variable("mean_sea_level_pressure", "msl", "air_pressure_at_mean_sea_level", "mean sea level pressure", "Pa",
             minimum=0.0, aliases=("mslp", "psl", "prmsl", "air_pressure_at_sea_level")),
    Variable("surface_pressure", "sp", "surface_air_pressure", "surface pressure", "Pa", minimum=0.0, aliases=("ps",)),
    Variable("sea_surface_temperature", "sst", "sea_surface_temperature", "sea surface temperature", "K",
             minimum=0.0, aliases=("tos",)),
    Variable("total_precipitation_6hr", "tp06", "lwe_thickness_of_precipitation_amount",
             "precipitation of the six hours before", "m", minimum=0.0, aliases=("total_precipitation_6h", "tp6h")),
    Variable("land_sea_mask", "lsm", "land_binary_mask", "land sea mask", "1", "static", 0.0,
             aliases=("land_area_fraction", "sftlf")),
    Variable("geopotential_at_surface", "zs", "surface_geopotential", "geopotential at the surface", "m2 s-2",
             "static", aliases=("orography_geopotential",)),
    Variable("standard_deviation_of_orography", "sdor", "", "standard deviation of orography", "m", "static", 0.0),
    Variable("angle_of_sub_gridscale_orography", "anor", "", "angle of sub-gridscale orography", "radian", "static"),
    Variable("anisotropy_of_sub_gridscale_orography", "isor", "", "anisotropy of sub-gridscale orography", "1",
             "static"),
    Variable("slope_of_sub_gridscale_orography", "slor", "", "slope of sub-gridscale orography", "1", "static"),
)  # fmt: skip

VARIABLES: dict[str, Variable] = {variable.name: variable for variable in _TABLE}
_BY_SHORT = {variable.short: variable for variable in _TABLE}
_ORDER = {variable.name: i for i, variable in enumerate(_TABLE)}


@total_ordering
@dataclass(frozen=True)
class Channel:
    """One map: a variable and, for upper-air variables, a pressure level in hPa.

    Channels sort by variable in the order of the table, then by level.

    Raises:
        ValueError: when the variable is unknown, or the level missing or superfluous.
    """

    name: str
    level: int | None = None

    def __post_init__(self) -> None:
        """Check the name against the table."""
        if self.name not in VARIABLES:
            raise ValueError(f"unknown variable {self.name!r}{_hint(self.name, VARIABLES)}")
        upper = VARIABLES[self.name].kind == "upper"
        if upper and (self.level is None or not 0 < self.level <= 1100):
            raise ValueError(f"{self.name} needs a pressure level in hPa, 1 to 1100; got {self.level}")
        if not upper and self.level is not None:
            raise ValueError(f"{self.name} has no levels; got {self.level}")

    def __lt__(self, other: Channel) -> bool:
        return (_ORDER[self.name], self.level or 0) < (_ORDER[other.name], other.level or 0)

    @property
    def variable(self) -> Variable:
        """Return the entry of the table."""
        return VARIABLES[self.name]

    @property
    def code(self) -> str:
        """Return the short name with the level: `z500`, `2t`."""
        return self.variable.short + ("" if self.level is None else str(self.level))


def parse_channel(text: str) -> Channel:
    """Read a code (`z500`, `2t`), a name (`2m_temperature`), a name with level (`geopotential@500`) or an alias.

    Raises:
        ValueError: when the text names no channel.
    """
    word, at, level = text.strip().partition("@")
    if at and level.isdecimal():
        return Channel(_known(word), int(level))
    if variable := _find(text.strip()):
        return Channel(variable.name)
    match = re.fullmatch(r"([a-z]+)(\d+)", text.strip())
    if match and (variable := _find(match[1])) and variable.kind == "upper":
        return Channel(variable.name, int(match[2]))
    hint = _hint(text, _BY_SHORT if len(text) < 6 else VARIABLES)
    raise ValueError(f"unknown channel {text!r}{hint}; codes look like z500, t850, 2t, msl")


def make_channels(names: Sequence[str], levels: Sequence[int]) -> tuple[Channel, ...]:
    """Return the channels of `names`: upper-air ones first, each on all `levels` ascending, then the others."""
    known = [_known(name) for name in names]
    upper = [name for name in known if VARIABLES[name].kind == "upper"]
    rest = [name for name in known if VARIABLES[name].kind != "upper"]
    return (*(Channel(n, int(p)) for n in upper for p in sorted(levels)), *(Channel(n) for n in rest))


def _find(word: str) -> Variable | None:
    """Return the variable of a name, short name or unshared alias."""
    if word in VARIABLES:
        return VARIABLES[word]
    return _BY_SHORT.get(word) or next((v for v in _TABLE if word in v.aliases), None)


def _known(word: str) -> str:
    if (variable := _find(word)) is None:
        raise ValueError(f"unknown variable {word!r}{_hint(word, VARIABLES)}")
    return variable.name


def _hint(word: str, choices: dict[str, Variable]) -> str:
    near = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(choices)}"


LADCAST_LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
LADCAST_NAMES = (
    "geopotential",
    "specific_humidity",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "vertical_velocity",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "2m_temperature",
    "mean_sea_level_pressure",
    "sea_surface_temperature",
    "total_precipitation_6hr",
)
LADCAST_CHANNELS = make_channels(LADCAST_NAMES, LADCAST_LEVELS)  # 84, in the order of the published networks
