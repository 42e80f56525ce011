"""Latitude-longitude grids of the sphere: cells, areas, regions and exact conservative regridding.

A grid value is the mean over a cell. Cells are bounded by the midpoints between rows and columns; on a global grid the
outer rows reach the poles, so that areas `(sin b[j+1] - sin b[j]) * dlon` sum to 4 pi whatever the rows are.

Regridding is the exact overlap of spherical cells (Jones 1999, doi 10.1175/1520-0493(1999)127<2204:FASOCR>2.0.CO;2,
Eqs. 1 to 6), which for two latitude-longitude grids is a product of one matrix per axis: in `sin(latitude)` and in
longitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["LatLonGrid", "Region", "conservative_weights", "haversine", "regrid"]

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

EARTH_RADIUS_KM = 6371.0
TOLERANCE_DEG = 1e-6


@dataclass(frozen=True)
class Region:
    """A box in degrees; it may cross the date line or Greenwich (`west` > `east`, or a negative `west`).

    Raises:
        ValueError: when the box does not lie on the globe or is empty.
    """

    south: float
    north: float
    west: float
    east: float

    def __post_init__(self) -> None:
        """Check that the box lies on the globe."""
        if not -90.0 <= self.south < self.north <= 90.0:
            raise ValueError(
                f"region needs -90 <= south < north <= 90; got south={self.south:g}, north={self.north:g} "
                "(the order is SOUTH,NORTH,WEST,EAST)"
            )
        if not (-180.0 <= self.west <= 360.0 and -180.0 <= self.east <= 360.0):
            raise ValueError(f"region longitudes must be in [-180, 360]; got west={self.west:g}, east={self.east:g}")
        if self.west == self.east or self.east - self.west > 360.0:
            raise ValueError(
                f"region must span more than 0 and at most 360 degrees of longitude; got west={self.west:g}, "
                f"east={self.east:g} (-180,180 is the whole circle)"
            )

    @classmethod
    def parse(cls, text: str) -> Region:
        """Read "SOUTH,NORTH,WEST,EAST" in degrees."""
        try:
            south, north, west, east = (float(part) for part in text.split(","))
        except ValueError:
            raise ValueError(
                f"region must be four numbers SOUTH,NORTH,WEST,EAST in degrees, such as 30,72,-12,42; got {text!r}"
            ) from None
        return cls(south, north, west, east)

    @property
    def width(self) -> float:
        """Return the extent in longitude, degrees in (0, 360]."""
        width = self.east - self.west
        return width if width > 0 else width + 360.0


@dataclass(frozen=True, eq=False)
class LatLonGrid:
    """Rows and columns of cell centres in degrees.

    Args:
        latitude: strictly ascending in [-90, 90], at least two rows.
        longitude: strictly ascending in [-360, 360), at least two columns, less than a full circle from first to
            last; whole circles start in [0, 360), boxes that cross Greenwich have negative values.

    Raises:
        ValueError: when an axis breaks these rules.
    """

    latitude: Array
    longitude: Array

    def __post_init__(self) -> None:
        """Store float64 copies and check them."""
        for name, low, high in (("latitude", -90.0, 90.0), ("longitude", -360.0, 360.0)):
            axis = np.array(getattr(self, name), dtype=np.float64)
            axis.setflags(write=False)
            object.__setattr__(self, name, axis)
            if axis.ndim != 1 or axis.size < 2 or not np.isfinite(axis).all() or not (np.diff(axis) > 0).all():
                raise ValueError(f"{name} must be at least two strictly ascending degrees; got {_short(axis)}")
            if axis[0] < low - TOLERANCE_DEG or axis[-1] > high + (TOLERANCE_DEG if name == "latitude" else 0.0):
                raise ValueError(f"{name} must be in [{low:g}, {high:g}]; got {_short(axis)}")
        if self.longitude[-1] - self.longitude[0] > 360.0 - TOLERANCE_DEG:
            raise ValueError(f"longitude repeats a meridian: {_short(self.longitude)} - drop the last column")

    @classmethod
    def equiangular(cls, nlat: int, nlon: int, poles: bool = False) -> LatLonGrid:
        """Return equal spacing; `poles` puts rows on the poles, else rows are centred in `nlat` equal bands."""
        half = 0.0 if poles else 90.0 / nlat
        return cls(np.linspace(-90.0 + half, 90.0 - half, nlat), _circle(nlon))

    @classmethod
    def gaussian(cls, nlat: int, nlon: int) -> LatLonGrid:
        """Return the rows of Gauss-Legendre quadrature, `sin(latitude)` at the roots of P_nlat."""
        nodes, _ = np.polynomial.legendre.leggauss(nlat)
        return cls(np.rad2deg(np.arcsin(nodes)), _circle(nlon))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LatLonGrid:
        """Rebuild a grid from `to_dict`."""
        return cls(np.asarray(values["latitude"]), np.asarray(values["longitude"]))

    def to_dict(self) -> dict[str, list[float]]:
        """Return the axes as JSON-ready lists."""
        return {"latitude": self.latitude.tolist(), "longitude": self.longitude.tolist()}

    def __eq__(self, other: object) -> bool:
        """Compare the axes to within 1e-6 degrees."""
        if not isinstance(other, LatLonGrid) or self.shape != other.shape:
            return False
        pairs = ((self.latitude, other.latitude), (self.longitude, other.longitude))
        return all(bool(np.allclose(a, b, rtol=0.0, atol=TOLERANCE_DEG)) for a, b in pairs)

    def __hash__(self) -> int:
        return hash(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns)."""
        return self.latitude.size, self.longitude.size

    @property
    def is_periodic(self) -> bool:
        """Return whether the columns go round the globe."""
        widest = float(np.diff(self.longitude).max())
        return 360.0 - float(self.longitude[-1] - self.longitude[0]) <= 1.01 * widest

    @property
    def is_global(self) -> bool:
        """Return whether the cells cover the sphere: periodic columns, outer rows at most one row from the poles."""
        first, last = np.diff(self.latitude)[[0, -1]]
        south, north = self.latitude[0] + 90.0, 90.0 - self.latitude[-1]
        return self.is_periodic and bool(south <= 1.01 * first and north <= 1.01 * last)

    def latitude_bounds(self) -> Array:
        """Return the row edges [nlat + 1] in degrees; a regional grid ends half a row outside, at most at a pole."""
        rows = self.latitude
        inner = (rows[1:] + rows[:-1]) / 2
        if self.is_global:
            return np.concatenate([[-90.0], inner, [90.0]])
        return np.concatenate([[max(-90.0, 2 * rows[0] - inner[0])], inner, [min(90.0, 2 * rows[-1] - inner[-1])]])

    def longitude_bounds(self) -> Array:
        """Return the column edges [nlon + 1] in degrees; round the globe the last is the first plus 360."""
        columns = self.longitude
        inner = (columns[1:] + columns[:-1]) / 2
        if self.is_periodic:
            seam = (columns[-1] + columns[0] + 360.0) / 2
            return np.concatenate([[seam - 360.0], inner, [seam]])
        return np.concatenate([[2 * columns[0] - inner[0]], inner, [2 * columns[-1] - inner[-1]]])

    def cell_areas(self) -> Array:
        """Return the solid angle of each cell [nlat, nlon] in steradian; a global grid sums to 4 pi."""
        rows = np.diff(np.sin(np.deg2rad(self.latitude_bounds())))
        return np.outer(rows, np.deg2rad(np.diff(self.longitude_bounds())))

    def area_weights(self) -> Array:
        """Return cell areas [nlat, nlon] that sum to one."""
        areas = self.cell_areas()
        return areas / areas.sum()

    def indices(self, region: Region) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and column numbers of the cell centres in `region`, columns from west to east.

        Raises:
            ValueError: when the region holds fewer than two rows or columns.
        """
        south, north = region.south - TOLERANCE_DEG, region.north + TOLERANCE_DEG
        rows = np.flatnonzero((self.latitude >= south) & (self.latitude <= north))
        east_of = (self.longitude - region.west + TOLERANCE_DEG) % 360.0
        columns = np.arange(self.longitude.size)
        if region.width < 360.0 - TOLERANCE_DEG:
            columns = np.flatnonzero(east_of <= region.width + 2 * TOLERANCE_DEG)
            columns = columns[np.argsort(east_of[columns], kind="stable")]
        if rows.size < 2 or columns.size < 2:
            raise ValueError(
                f"region {region.south:g},{region.north:g},{region.west:g},{region.east:g} holds {rows.size} rows and "
                f"{columns.size} columns of the {self.shape[0]}x{self.shape[1]} grid; it needs at least two of each"
            )
        return rows, columns

    def subset(self, region: Region) -> LatLonGrid:
        """Return the grid of the cells in `region`; across Greenwich the western longitudes become negative."""
        rows, columns = self.indices(region)
        longitude = self.longitude[columns]
        steps = np.concatenate([[0.0], np.diff(longitude) % 360.0])
        unrolled = longitude[0] + np.cumsum(steps)
        return LatLonGrid(self.latitude[rows], unrolled - (360.0 if unrolled[-1] >= 360.0 else 0.0))


def haversine(lat1: ArrayLike, lon1: ArrayLike, lat2: ArrayLike, lon2: ArrayLike) -> Array:
    """Return great-circle distances in km on a sphere of radius 6371 km; degrees in, broadcasting."""
    phi1, phi2 = np.deg2rad(np.asarray(lat1, float)), np.deg2rad(np.asarray(lat2, float))
    half_lon = np.deg2rad(np.asarray(lon2, float) - np.asarray(lon1, float)) / 2
    h = np.sin((phi2 - phi1) / 2) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin(half_lon) ** 2
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0.0, 1.0))))


def conservative_weights(src: LatLonGrid, dst: LatLonGrid, order: int = 1) -> tuple[Array, Array]:
    """Return the latitude [nlat_dst, nlat_src] and longitude [nlon_dst, nlon_src] matrices of conservative regridding.

    Entry (i, j) is the share of destination cell i that source cell j covers; a row sums to the share of the cell that
    the source grid covers (one inside). With `order` 2 the field is linear inside a source cell, with centred slopes
    and an unchanged cell mean, so that refined fields have no steps and integrals still agree exactly.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2; got {order}")
    mu_src, mu_dst = (np.sin(np.deg2rad(g.latitude_bounds())) for g in (src, dst))
    lat = _axis_weights(mu_src, mu_dst, period=None, order=order)
    lon_src, lon_dst = src.longitude_bounds(), dst.longitude_bounds()
    lon = _axis_weights(lon_src, lon_dst, period=360.0, order=order, wrap=src.is_periodic)
    return lat, lon


def regrid(values: Any, src: LatLonGrid, dst: LatLonGrid, order: int = 1) -> Any:
    """Return area means of `values` [..., H, W] on the cells of `dst`; arrays give arrays, tensors tensors.

    Global integrals of fields without NaN are kept to rounding. NaN is treated as no data: a destination cell is the
    mean over the valid part of it (first order), and NaN where nothing valid overlaps it.
    """
    if hasattr(values, "detach"):
        import torch

        out = regrid(values.detach().cpu().numpy(), src, dst, order)
        return torch.from_numpy(out).to(values)
    values = np.asarray(values)
    if values.shape[-2:] != src.shape:
        raise ValueError(f"values must end in the source grid's shape {src.shape}; got {values.shape}")
    if src == dst:
        return values
    kind = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    valid = ~np.isnan(values)
    lat, lon = conservative_weights(src, dst, order if valid.all() else 1)
    filled = np.where(valid, values, 0.0).astype(np.float64)
    total = lat @ filled @ lon.T
    share = lat @ valid.astype(np.float64) @ lon.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(share > 1e-9, total / share, np.nan).astype(kind)


def _axis_weights(src: Array, dst: Array, period: float | None, order: int, wrap: bool = False) -> Array:
    """Return overlap shares [n_dst, n_src] of the intervals between edges; shifts by `period` are the same place."""
    shifts = (0.0,) if period is None else (-2 * period, -period, 0.0, period, 2 * period)
    width = np.diff(dst)[:, None]
    share = np.zeros((dst.size - 1, src.size - 1))
    moment = np.zeros_like(share)
    centre = (src[1:] + src[:-1]) / 2
    for shift in shifts:
        low = np.maximum(dst[:-1, None], src[None, :-1] + shift)
        high = np.minimum(dst[1:, None], src[None, 1:] + shift)
        overlap = np.clip(high - low, 0.0, None)
        share += overlap / width
        moment += overlap / width * ((low + high) / 2 - centre - shift)
    return share if order == 1 else share + moment @ _slopes(src, centre, period if wrap else None)


def _slopes(edges: Array, centre: Array, period: float | None) -> Array:
    """Return the matrix that turns cell means into slopes: centred differences, one-sided at closed ends."""
    n = centre.size
    here = np.arange(n)
    left, right = (here - 1) % n, (here + 1) % n
    if period is None:
        left, right = np.maximum(here - 1, 0), np.minimum(here + 1, n - 1)
    span = centre[right] - centre[left]
    span = np.where(span <= 0, span + (period or 0.0), span)
    matrix = np.zeros((n, n))
    matrix[here, right] += 1.0 / span
    matrix[here, left] -= 1.0 / span
    return matrix


def _circle(count: int) -> Array:
    """Return `count` equally spaced longitudes from Greenwich eastward."""
    return np.arange(count, dtype=np.float64) * (360.0 / count)


def _short(axis: Array) -> str:
    """Return the axis as text, its middle left out."""
    return np.array2string(axis, precision=6, threshold=6, edgeitems=2, separator=", ")
