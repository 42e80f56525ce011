"""Projected grids: columns and rows in metres on a map plane, and where they lie on the Earth.

Radar composites and hydrological analyses use the polar stereographic projection, which is computed here, on a sphere
or an ellipsoid of eccentricity e (Snyder 1987, "Map projections: a working manual", USGS 1395, Eqs. 21-33 to 21-38):

    x = rho sin(lon - lon_0),    y = -rho cos(lon - lon_0),    rho = a m(lat_ts) t(lat) / t(lat_ts)
    t = tan(pi/4 - lat/2) / [(1 - e sin lat) / (1 + e sin lat)]^(e/2),    m = cos lat / sqrt(1 - e^2 sin^2 lat)

for the north; the south is its mirror image. The projection is named by a PROJ string such as
"+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040", lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["PolarStereographic", "ProjectedGrid"]

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SPACING_TOLERANCE = 1e-3  # of a step
ELLIPSOIDS = {"WGS84": (6378137.0, 298.257223563), "GRS80": (6378137.0, 298.257222101)}
ITERATIONS = 12  # of the inverse; each gains a factor e^2 of 0.007


@dataclass(frozen=True)
class PolarStereographic:
    """A polar stereographic projection: degrees to metres and back.

    Args:
        true_latitude: latitude without distortion, degrees; its sign says which pole is the centre.
        central_longitude: meridian that runs down (north) or up (south) from the pole, degrees.
        semi_major: equatorial radius, metres.
        semi_minor: polar radius, metres; by default that of a sphere.
        false_easting: x of the pole, metres.
        false_northing: y of the pole, metres.
    """

    true_latitude: float
    central_longitude: float
    semi_major: float = 6371200.0
    semi_minor: float | None = None
    false_easting: float = 0.0
    false_northing: float = 0.0

    @classmethod
    def parse(cls, text: str) -> PolarStereographic:
        """Read a PROJ string with +proj=stere and +lat_0=90 or -90; kilometres are recognised by the radius.

        Raises:
            ValueError: when the string names another projection or lacks its earth.
        """
        pairs = (part.lstrip("+").partition("=") for part in text.split() if part.startswith("+"))
        keys = {name: value for name, _, value in pairs}
        pole = float(keys.get("lat_0", "nan"))
        if keys.get("proj") != "stere" or abs(pole) != 90.0:
            raise ValueError(f"only polar stereographic projections (+proj=stere +lat_0=90) are known; got {text!r}")
        major, minor = _radii(keys, text)
        metres = 1000.0 if major < 1e5 else 1.0
        east, north = (float(keys.get(k, 0.0)) * metres for k in ("x_0", "y_0"))
        true = float(keys.get("lat_ts", pole))
        return cls(true, float(keys.get("lon_0", 0.0)), major * metres, minor * metres, east, north)

    @property
    def eccentricity(self) -> float:
        """Return e, zero for a sphere."""
        minor = self.semi_major if self.semi_minor is None else self.semi_minor
        return float(np.sqrt(max(0.0, 1.0 - (minor / self.semi_major) ** 2)))

    @property
    def text(self) -> str:
        """Return the PROJ string."""
        pole = np.copysign(90.0, self.true_latitude)
        round_earth = f"+R={self.semi_major:.10g}"
        earth = f"+a={self.semi_major:.10g} +b={self.semi_minor:.10g}" if self.eccentricity else round_earth
        offset = f" +x_0={self.false_easting:.10g} +y_0={self.false_northing:.10g}"
        place = f"+lat_0={pole:g} +lat_ts={self.true_latitude:.10g} +lon_0={self.central_longitude:.10g}"
        return f"+proj=stere {place} {earth}" + (offset if self.false_easting or self.false_northing else "")

    def forward(self, latitude: ArrayLike, longitude: ArrayLike) -> tuple[Array, Array]:
        """Return x and y in metres of points in degrees, broadcasting."""
        sign = np.copysign(1.0, self.true_latitude)
        phi = np.deg2rad(sign * np.asarray(latitude, float))
        turn = np.deg2rad(np.asarray(longitude, float) - self.central_longitude)
        rho = self._scale() * self._t(phi)
        return rho * np.sin(turn) + self.false_easting, -sign * rho * np.cos(turn) + self.false_northing

    def inverse(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Return latitude and longitude in degrees, longitude in [-180, 180), of points in metres."""
        sign, e = np.copysign(1.0, self.true_latitude), self.eccentricity
        east, north = np.asarray(x, float) - self.false_easting, np.asarray(y, float) - self.false_northing
        t = np.hypot(east, north) / self._scale()
        phi = np.pi / 2 - 2 * np.arctan(t)
        for _ in range(ITERATIONS if e else 0):
            sine = e * np.sin(phi)
            phi = np.pi / 2 - 2 * np.arctan(t * ((1 - sine) / (1 + sine)) ** (e / 2))
        turn = np.rad2deg(np.arctan2(east, -sign * north))
        return sign * np.rad2deg(phi), (turn + self.central_longitude + 180.0) % 360.0 - 180.0

    def _t(self, phi: Array) -> Array:
        e = self.eccentricity
        sine = e * np.sin(phi)
        return np.asarray(np.tan(np.pi / 4 - phi / 2) / ((1 - sine) / (1 + sine)) ** (e / 2))

    def _scale(self) -> float:
        """Return rho / t: the factor that makes the true latitude true (at the pole, the limit of m / t)."""
        e, phi = self.eccentricity, np.deg2rad(abs(self.true_latitude))
        if abs(self.true_latitude) > 90.0 - 1e-9:
            return float(2 * self.semi_major / np.sqrt((1 + e) ** (1 + e) * (1 - e) ** (1 - e)))
        m = np.cos(phi) / np.sqrt(1 - (e * np.sin(phi)) ** 2)
        return float(self.semi_major * m / self._t(np.asarray(phi)))


@dataclass(frozen=True, eq=False)
class ProjectedGrid:
    """Columns and rows of square or rectangular cells on a map plane.

    Args:
        x: [W] cell centres in metres, evenly ascending, at least two.
        y: [H] cell centres in metres, evenly ascending (so rows run from south to north), at least two.
        crs: PROJ string of a polar stereographic projection.

    Raises:
        ValueError: when an axis is not even or the projection is unknown.
    """

    x: Array
    y: Array
    crs: str

    def __post_init__(self) -> None:
        """Store float64 copies and check them."""
        for name in ("x", "y"):
            axis = np.array(getattr(self, name), dtype=np.float64)
            axis.setflags(write=False)
            object.__setattr__(self, name, axis)
            if axis.ndim != 1 or axis.size < 2 or not np.isfinite(axis).all() or not (np.diff(axis) > 0).all():
                raise ValueError(f"{name} must be at least two strictly ascending metres; got {axis.size} values")
            steps = np.diff(axis)
            if np.ptp(steps) > SPACING_TOLERANCE * steps.mean():
                raise ValueError(f"{name} must be evenly spaced; its steps are {steps.min():g} to {steps.max():g} m")
        PolarStereographic.parse(self.crs)

    @classmethod
    def even(cls, x0: float, y0: float, step: float, shape: tuple[int, int], crs: str) -> ProjectedGrid:
        """Return `shape` (rows, columns) of square cells; (x0, y0) is the centre of the south-western one."""
        columns, rows = (np.arange(n, dtype=np.float64) for n in shape[::-1])
        return cls(x0 + step * columns, y0 + step * rows, crs)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ProjectedGrid:
        """Rebuild a grid from `to_dict`."""
        return cls(np.asarray(values["x"]), np.asarray(values["y"]), str(values["crs"]))

    def to_dict(self) -> dict[str, Any]:
        """Return axes and projection as JSON-ready values."""
        return {"x": self.x.tolist(), "y": self.y.tolist(), "crs": self.crs}

    def __eq__(self, other: object) -> bool:
        """Compare projection and axes, the axes to a thousandth of a step."""
        if not isinstance(other, ProjectedGrid) or self.shape != other.shape or self.crs != other.crs:
            return False
        tolerance = SPACING_TOLERANCE * min(self.spacing)
        return all(np.allclose(a, b, rtol=0, atol=tolerance) for a, b in ((self.x, other.x), (self.y, other.y)))

    def __hash__(self) -> int:
        return hash((self.shape, self.crs))

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns)."""
        return self.y.size, self.x.size

    @property
    def spacing(self) -> tuple[float, float]:
        """Return the steps (dy, dx) in metres on the map plane."""
        return tuple(float((axis[-1] - axis[0]) / (axis.size - 1)) for axis in (self.y, self.x))  # type: ignore[return-value]

    def x_bounds(self) -> Array:
        """Return the column edges [W + 1] in metres."""
        return _edges(self.x)

    def y_bounds(self) -> Array:
        """Return the row edges [H + 1] in metres."""
        return _edges(self.y)

    def latlon(self) -> tuple[Array, Array]:
        """Return latitude and longitude [H, W] of the cell centres in degrees, longitude in [-180, 180)."""
        return PolarStereographic.parse(self.crs).inverse(self.x[None, :], self.y[:, None])

    def window(self, rows: slice, columns: slice) -> ProjectedGrid:
        """Return the grid of some neighbouring rows and columns."""
        return ProjectedGrid(self.x[columns], self.y[rows], self.crs)

    def coarsen(self, factor: float) -> ProjectedGrid:
        """Return the whole cells `factor` times as wide that fit in, from the south-western corner.

        Raises:
            ValueError: when the factor is below one or fewer than two cells fit.
        """
        if factor < 1:
            raise ValueError(f"factor must be at least 1; got {factor:g}")
        axes = []
        for bounds, step in zip((self.x_bounds(), self.y_bounds()), self.spacing[::-1], strict=True):
            count = int(np.floor((bounds.size - 1) / factor + 1e-9))
            axes.append(bounds[0] + step * factor * (np.arange(count) + 0.5))
        return ProjectedGrid(axes[0], axes[1], self.crs)


def _edges(centres: Array) -> Array:
    half = (centres[-1] - centres[0]) / (centres.size - 1) / 2
    return np.concatenate([centres - half, [centres[-1] + half]])


def _radii(keys: dict[str, str], text: str) -> tuple[float, float]:
    """Return both radii from +R, +a with +b or +rf, or an ellipsoid's name."""
    if "R" in keys:
        return float(keys["R"]), float(keys["R"])
    name = keys.get("ellps", keys.get("datum"))
    if name in ELLIPSOIDS:
        major, flattening = ELLIPSOIDS[name]
        return major, major * (1 - 1 / flattening)
    if "a" not in keys:
        raise ValueError(f"the projection states no earth (+R, +a and +b, or +ellps=WGS84): {text!r}")
    major = float(keys["a"])
    if "rf" in keys:
        return major, major * (1 - 1 / float(keys["rf"]))
    return major, float(keys.get("b", major))
