"""Make fine rain agree with coarse rain: non-negative, exactly, without wetting what is dry.

Given a prior y >= 0 on fine cells and coarse amounts c, find z >= 0 with A z = c (`downscaling.overlap`) that changes
the prior least in the sense of Kullback and Leibler, weighted by area a:

    minimise  sum_j a_j (z_j log(z_j / y_j) - z_j + y_j),   z = max(f, y exp(S^T lambda)),   S_ij = w_ij / a_j

with the share S_ij of fine cell j that lies in coarse cell i (on cells of equal area S^T is A^T up to a factor in
lambda) and the least rate f_j of the pixels that shall stay wet, zero by default. Where no fine cell is cut by a coarse
edge this is the multiplication of every block by one factor, found by filling from the floor. Otherwise the dual,
g(lambda) = sum_j a_j G_j(lambda) - sum_i W_i c_i lambda_i with dG_j = z_j, is convex; its gradient is W (A z - c), its
Hessian S diag(a z where z > f) S^T is a sparse nine-point matrix, and Newton's method with a line search takes few
steps, in which no cell's rain may change by more than a factor exp(10).

Rules where division would fail:
    - fine cells that touch a dry coarse cell (c = 0) are dry, as z >= 0 demands;
    - where the rain mask of the prior cannot hold the amounts it is changed (`downscaling.wet_mask`);
    - coarse cells without enough valid area and those with missing amounts ask for nothing.
Where edges of both grids coincide the problem falls apart: bands of rows between two such lines (every second coarse
row for 2.5) may be projected one by one and give what the whole field gives, which is how large domains are streamed.
For factors of 2 and more, and of 1 and 1.5 to 2 where the grids share an edge, every cell has pixels of its own and all
amounts can be kept. Other factors leave cells without; where their amounts do not fit the mask all pixels near them may
become wet, and if that does not help either `unmet_cells` counts them and `largest_violation` says how much is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["Conserved", "Mode", "approach", "conserve", "violation"]

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import splu

from downscaling.overlap import Overlap
from downscaling.wet_mask import FAINT, Prior, opened, wet_mask

Array = NDArray[np.float64]
Mode = Literal["none", "input", "coarse"]

APPROACHES = 2
WIDEST = 4.0  # factor of an approach
ITERATIONS = 60
MISSED = 1e-6
LONGEST_STEP = 10.0  # of a Newton step: a factor exp(10) for the rain of any cell
ARMIJO = 1e-4  # of the decrease that the slope promises
SHORTEST = 1e-8  # of a Newton step
ROUNDING = 1e-12
WHIFF = 1e-6  # of the weight of a free pixel: what one at its floor has in a Newton step
LEVELS = 500  # fillings from the floor, each of which holds at least one more pixel
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Conserved:
    """A projected field and what the projection cost.

    Args:
        values: [..., Hf, Wf], NaN where the fine field has no values.
        largest_violation: max |A z - c|, in the units of the field.
        largest_multiplier: max z / y over pixels that were wet in the prior (1 if none was); large where the prior was
            nearly dry.
        filled_cells: number of wet coarse cells (of all members) that got wet pixels, as the prior had none for them.
        iterations: Newton steps of the slowest member, 0 for multiplication.
        unmet_cells: number of coarse cells (of all members) whose amount is missed by more than a millionth of the
            largest. They own no pixel, as all cells of some rows or columns do for factors between 1 and 1.5, and no
            rain was found that fits them and their neighbours; there may be none.
    """

    values: Array
    largest_violation: float
    largest_multiplier: float
    filled_cells: int
    iterations: int
    unmet_cells: int = 0


def conserve(
    prior: ArrayLike,
    coarse: ArrayLike,
    overlap: Overlap,
    mode: Mode = "input",
    *,
    corrected: ArrayLike | None = None,
    floor: float = 0.0,
    tolerance: float = 1e-9,
) -> Conserved:
    """Project fine fields onto coarse amounts.

    Args:
        prior: [..., Hf, Wf] members; values where `overlap.valid`, no NaN there.
        coarse: [..., Hc, Wc] amounts of the input, broadcast to the members; NaN asks for nothing.
        overlap: how the cells lie.
        mode: "none" leaves the prior as it is (negatives become zero), "input" keeps the amounts of the input, "coarse"
            those of `corrected`, the coarse field that a model has corrected.
        corrected: [..., Hc, Wc], needed by "coarse".
        floor: least rate of pixels that are wet in the prior. They stay wet, and others dry, wherever that allows the
            amounts; with 0 wet pixels may become as small as they like.
        tolerance: largest violation wanted, as a share of the largest coarse amount.

    Raises:
        ValueError: for an unknown mode, shapes that do not fit, negative or missing values where there must be none.
    """
    if not (floor >= 0 and np.isfinite(floor)):
        raise ValueError(f"the floor must be a rate >= 0; got {floor:g}")
    if mode not in get_args(Mode):
        raise ValueError(f"conservation mode must be one of {', '.join(get_args(Mode))}; got {mode!r}")
    if mode == "coarse" and corrected is None:
        raise ValueError("mode 'coarse' needs the corrected coarse field")
    demanded = coarse if mode != "coarse" or corrected is None else corrected
    y, c, lead = _checked(prior, demanded, overlap)
    if mode == "none":
        values = np.where(overlap.valid, y, np.nan)
        return Conserved(values.reshape(*lead, *overlap.fine_shape), violation(values, c, overlap), 1.0, 0, 0)
    solve = _multiply if overlap.is_nested else _newton
    out, filled, steps, unmet = np.empty_like(y), 0, 0, 0
    for k in range(y.shape[0]):
        prior_k = wet_mask(y[k], c[k], overlap, floor)
        out[k], used = solve(prior_k, c[k], overlap, tolerance)
        if (missed := _missed(out[k], c[k], overlap)).any():
            prior_k = opened(prior_k, c[k], missed, overlap)
            out[k], used = solve(prior_k, c[k], overlap, tolerance)
            unmet += int(_missed(out[k], c[k], overlap).sum())
        filled, steps = filled + prior_k.filled, max(steps, used)
    positive = y > FAINT * max(float(np.nanmax(c, initial=0.0)), TINY)
    multiplier = float((out[positive] / y[positive]).max()) if positive.any() else 1.0
    values = np.where(overlap.valid, out, np.nan)
    worst = violation(values, c, overlap)
    return Conserved(values.reshape(*lead, *overlap.fine_shape), worst, multiplier, filled, steps, unmet)


def approach(prior: ArrayLike, coarse: ArrayLike, overlap: Overlap) -> Array:
    """Bring fine fields near coarse amounts by factors without edges, so that a projection leaves no blocks behind.

    Twice every field is multiplied by the ratios of the amounts to its means over the cells, between 1/4 and 4,
    interpolated linearly between the centres of the cells; dry and missing ones and those without rain in the field do
    not count. The rain mask stays.

    Args:
        prior: [..., Hf, Wf] >= 0, finite where `overlap.valid`.
        coarse: [..., Hc, Wc] >= 0 or NaN, broadcast to the fields.
        overlap: how the cells lie.

    Returns:
        [..., Hf, Wf], zero where invalid.
    """
    y, c, lead = _checked(prior, coarse, overlap)
    for _ in range(APPROACHES):
        mean = overlap.apply(y)
        with np.errstate(invalid="ignore", divide="ignore"):
            counts = (c > 0) & (mean > FAINT * c)
            ratio = np.where(counts, np.clip(c / mean, 1 / WIDEST, WIDEST), 0.0)
        near = overlap.interpolate(counts.astype(np.float64))
        y = y * np.where(near > ROUNDING, overlap.interpolate(ratio) / np.maximum(near, ROUNDING), 1.0)
    return y.reshape(*lead, *overlap.fine_shape)


def violation(values: ArrayLike, coarse: ArrayLike, overlap: Overlap) -> float:
    """Return max |A z - c| over active cells with an amount, zero if there are none."""
    difference = np.abs(overlap.apply(np.asarray(values, np.float64)) - np.asarray(coarse, np.float64))
    return float(np.nanmax(difference, initial=0.0))


def _missed(z: Array, c: Array, overlap: Overlap) -> NDArray[np.bool_]:
    """Return which cells miss their amounts by more than a millionth of the largest."""
    return np.abs(overlap.apply(z) - c) > MISSED * float(np.nanmax(c, initial=0.0))


def _checked(prior: ArrayLike, coarse: ArrayLike, overlap: Overlap) -> tuple[Array, Array, tuple[int, ...]]:
    """Return members [M, Hf, Wf] with zeros where invalid, amounts [M, Hc, Wc] and the leading shape."""
    y, c = np.array(prior, np.float64), np.asarray(coarse, np.float64)
    for name, array, shape in (("prior", y, overlap.fine_shape), ("coarse field", c, overlap.coarse_shape)):
        if array.shape[-2:] != shape:
            raise ValueError(f"the {name} must end in the shape {shape}; got {array.shape}")
    if not np.isfinite(y[..., overlap.valid]).all():
        raise ValueError("the prior must be finite wherever the overlap says that pixels are valid")
    if np.nanmin(c, initial=0.0) < 0 or np.isinf(c).any():
        raise ValueError(f"coarse amounts must be finite and >= 0; the least is {np.nanmin(c):g}")
    y = np.where(overlap.valid, np.maximum(y, 0.0), 0.0)
    c = np.broadcast_to(c, (*y.shape[:-2], *overlap.coarse_shape))
    return y.reshape(-1, *overlap.fine_shape), c.reshape(-1, *overlap.coarse_shape), y.shape[:-2]


def _multiply(prior: Prior, c: Array, overlap: Overlap, _: float) -> tuple[Array, int]:
    """Scale every block to its amount (nested cells), nothing below the floor; pixels outside the wet cells stay."""
    wanted = np.where(prior.wet, c * overlap.coarse_area, 0.0)
    own, free = overlap.owner, np.where(prior.values > 0, 1.0, 0.0)
    z = prior.values
    for _round in range(LEVELS):
        mass = overlap.spread_sum(free * prior.values)
        left = wanted - overlap.spread_sum((1 - free) * prior.least)
        with np.errstate(invalid="ignore", divide="ignore"):
            factor = np.where(prior.wet & (mass > 0), left / mass, 1.0).ravel()
        z = np.where(own >= 0, prior.values * factor[own], prior.values)
        low = (free > 0) & (z < prior.least) & prior.wet.ravel()[own] & (own >= 0)
        if not low.any():
            break
        free[low] = 0.0
    return np.where(free > 0, z, np.where(prior.values > 0, prior.least, 0.0)), 0


def _newton(prior: Prior, c: Array, overlap: Overlap, tolerance: float) -> tuple[Array, int]:
    """Maximise the dual over the wet cells."""
    cells = np.flatnonzero(prior.wet)
    if not cells.size:
        return prior.values, 0
    problem = _Dual(prior, c, cells, overlap)
    goal = tolerance * float(c.flat[cells].max())
    lam = problem.first_guess()
    value, z = problem.value(lam)
    used = 0
    while used < ITERATIONS:
        gradient = problem.gradient(z)
        if np.abs(gradient / problem.area).max() <= goal:
            break
        found = problem.search(lam, value, gradient, problem.step(z, gradient), problem.reach(z))
        if found is None:
            break
        lam, value, z = found
        used += 1
    out = prior.values.ravel().copy()
    z = np.minimum(z, problem.most())
    out[problem.pixels] = np.maximum(z / problem.pixel_area, prior.least.ravel()[problem.pixels])
    return out.reshape(prior.values.shape), used


class _Dual:
    """The dual function on wet coarse cells and the wet pixels that they touch; z here is amount times area."""

    def __init__(self, prior: Prior, c: Array, cells: NDArray[np.int64], overlap: Overlap) -> None:
        number = np.full(c.size, -1)
        number[cells] = np.arange(cells.size)
        y, pixel_area = prior.values.ravel(), overlap.fine_area.ravel()
        i, j, area = overlap.entries
        keep = (y[j] > 0) & (number[i] >= 0)
        i, j, share = number[i[keep]], j[keep], (area / pixel_area[j])[keep]
        self.pixels, place = np.unique(j, return_inverse=True)
        self.shares = csr_array(coo_array((share, (i, place)), shape=(cells.size, self.pixels.size)))
        self._gather = self.shares.T.tocsr()
        self.pixel_area = pixel_area[self.pixels]
        self.mass = y[self.pixels] * self.pixel_area
        self.least = prior.least.ravel()[self.pixels] * self.pixel_area
        self.area = overlap.coarse_area.ravel()[cells]
        self.wanted = c.ravel()[cells] * self.area

    def first_guess(self) -> Array:
        """Return what would be exact if no pixel were cut and none at its floor."""
        with np.errstate(divide="ignore"):
            guess = np.log(self.wanted) - np.log(self.shares @ self.mass)
        return np.where(np.isfinite(guess), guess, 0.0)

    def value(self, lam: Array) -> tuple[float, Array]:
        """Return g and the amounts z = max(least, y exp(S^T lambda))."""
        power = np.minimum(self._gather @ lam, 700.0)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            free = self.mass * np.exp(power)
            at_floor = self.least * (1 + power - np.log(self.least / self.mass))
            total = float(np.where(free < self.least, at_floor, free).sum() - self.wanted @ lam)
        return (total if np.isfinite(total) else np.inf), np.maximum(free, self.least)

    def most(self) -> Array:
        """Return what no pixel exceeds where amounts can be kept: all that one of its cells asks for."""
        found = np.full(self.pixels.size, np.inf)
        rows = np.repeat(np.arange(self.wanted.size), np.diff(self.shares.indptr))
        np.minimum.at(found, self.shares.indices, self.wanted[rows] / self.shares.data)
        return found

    def gradient(self, z: Array) -> Array:
        """Return S z - W c."""
        return np.asarray(self.shares @ z - self.wanted)

    def step(self, z: Array, gradient: Array) -> Array:
        """Return the Newton step -H^-1 gradient, H = S diag(z) S^T, with a whiff of its diagonal and of the floors."""
        s, weight = self.shares, np.where(z > self.least, z, WHIFF * z)
        scaled = csr_array((s.data * weight[s.indices], s.indices, s.indptr), shape=s.shape)
        hessian = (scaled @ self._gather).tocsc()
        diagonal = hessian.diagonal()
        root = 1 / np.sqrt(np.maximum(diagonal, TINY))
        hessian.data *= root[hessian.indices] * np.repeat(root, np.diff(hessian.indptr))
        hessian.setdiag(1 + ROUNDING)
        factors = splu(hessian, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        with np.errstate(over="ignore"):
            step = -root * factors.solve(root * gradient)
        return np.nan_to_num(step)  # as far as numbers go where a cell's pixels are all at their floors

    def reach(self, z: Array) -> Array:
        """Return how far each lambda may go: `LONGEST_STEP` over the share of its cell in the pixels of its rain.

        A cell whose rain lies in slivers of its neighbours' pixels changes it by large lambdas only; were they bounded
        like the others, it would never get there, nor would the others if all steps were shortened alike.
        """
        weight = np.where(z > self.least, z, WHIFF * z)
        squared = csr_array((self.shares.data**2, self.shares.indices, self.shares.indptr), shape=self.shares.shape)
        return LONGEST_STEP * np.maximum(self.shares @ weight / np.maximum(squared @ weight, TINY), 1.0)

    def search(
        self, lam: Array, value: float, gradient: Array, step: Array, reach: Array
    ) -> tuple[Array, float, Array] | None:
        """Go along a step within reach, halved until g falls as it should (Armijo); None when it falls no more."""
        beyond = float((np.abs(step) / reach).max())
        for within in (np.clip(step, -reach, reach), step / max(1.0, beyond)):  # the first need not lead downhill
            slope, length = float(gradient @ within), 1.0
            while slope < 0 and length > SHORTEST:
                trial, z = self.value(lam + length * within)
                if trial <= value + ARMIJO * length * slope + ROUNDING * abs(value):
                    return lam + length * within, trial, z
                length /= 2
        return None
