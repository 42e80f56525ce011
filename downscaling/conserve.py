"""Make fine rain agree with coarse rain: non-negative, exactly, without wetting what is dry.

Given a prior y >= 0 on fine cells and coarse amounts c, find z >= 0 with A z = c (`downscaling.overlap`) that changes
the prior least in the sense of Kullback and Leibler, weighted by area a:

    minimise  sum_j a_j (z_j log(z_j / y_j) - z_j + y_j),       z = y exp(S^T lambda),  S_ij = w_ij / a_j

with the share S_ij of fine cell j that lies in coarse cell i (on cells of equal area S^T is A^T up to a factor in
lambda). Where no fine cell is cut by a coarse edge this is the multiplication of every block by c_i / (A y)_i, done at
once. Otherwise the dual, g(lambda) = sum_j a_j z_j - sum_i W_i c_i lambda_i, is convex; its gradient is W (A z - c) and
its Hessian S diag(a z) S^T is a sparse nine-point matrix, so Newton's method with a line search takes few steps.

Rules where division would fail:
    - fine cells that touch a dry coarse cell (c = 0) are dry, as z >= 0 demands;
    - a wet coarse cell whose own pixels (wholly inside it) are dry in the prior gets its amount spread evenly over
      them when all its pixels are dry, and a thousandth of it, to be scaled, when pixels that it shares are wet;
    - coarse cells without enough valid area and those with missing amounts ask for nothing.
Where edges of both grids coincide the problem falls apart: bands of rows between two such lines (every second coarse
row for 2.5) may be projected one by one and give what the whole field gives, which is how large domains are streamed.
For factors below two a wet cell can have no pixel of its own; then the demand may be impossible, and
`largest_violation` says how much is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["Conserved", "Mode", "conserve", "violation"]

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import splu

from downscaling.overlap import Overlap

Array = NDArray[np.float64]
Mode = Literal["none", "input", "coarse"]

FAINT = 1e-6  # of the coarse amount: a prior below it counts as dry when a wet cell needs pixels of its own
SEED = 1e-3  # of the coarse amount: what dry own pixels get beside wet shared ones
ITERATIONS = 60
LONGEST_STEP = 10.0  # of a Newton step in any lambda: a factor exp(10)
ARMIJO = 1e-4  # of the decrease that the slope promises
SHORTEST = 1e-8  # of a Newton step
ROUNDING = 1e-12
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Conserved:
    """A projected field and what the projection cost.

    Args:
        values: [..., Hf, Wf], NaN where the fine field has no values.
        largest_violation: max |A z - c|, in the units of the field.
        largest_multiplier: max z / y over pixels that were wet in the prior (1 if none was); large where the prior was
            nearly dry.
        filled_cells: number of wet coarse cells (of all members) whose own pixels were dry in the prior.
        iterations: Newton steps of the slowest member, 0 for multiplication.
    """

    values: Array
    largest_violation: float
    largest_multiplier: float
    filled_cells: int
    iterations: int


def conserve(
    prior: ArrayLike,
    coarse: ArrayLike,
    overlap: Overlap,
    mode: Mode = "input",
    *,
    corrected: ArrayLike | None = None,
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
        tolerance: largest violation wanted, as a share of the largest coarse amount.

    Raises:
        ValueError: for an unknown mode, shapes that do not fit, negative or missing values where there must be none.
    """
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
    out, filled, steps = np.empty_like(y), 0, 0
    for k in range(y.shape[0]):
        start, wet, count = _prepared(y[k], c[k], overlap)
        out[k], used = solve(start, c[k], wet, overlap, tolerance)
        filled, steps = filled + count, max(steps, used)
    positive = y > FAINT * max(float(np.nanmax(c, initial=0.0)), TINY)
    multiplier = float((out[positive] / y[positive]).max()) if positive.any() else 1.0
    values = np.where(overlap.valid, out, np.nan)
    worst = violation(values, c, overlap)
    return Conserved(values.reshape(*lead, *overlap.fine_shape), worst, multiplier, filled, steps)


def violation(values: ArrayLike, coarse: ArrayLike, overlap: Overlap) -> float:
    """Return max |A z - c| over active cells with an amount, zero if there are none."""
    difference = np.abs(overlap.apply(np.asarray(values, np.float64)) - np.asarray(coarse, np.float64))
    return float(np.nanmax(difference, initial=0.0))


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


def _prepared(y: Array, c: Array, overlap: Overlap) -> tuple[Array, NDArray[np.bool_], int]:
    """Return the prior, emptied in dry cells and wetted where wet ones need it, the wet cells and how many did."""
    asked = overlap.active & np.isfinite(c)
    wet = asked & (c > 0)
    allowed = overlap.valid & ~overlap.touched_by(asked & (c == 0))
    y = np.where(allowed, y, 0.0)
    own = np.where(allowed, overlap.owner, -1)
    amount = np.where(wet, c, 0.0).ravel()
    best = np.zeros(c.size)
    np.maximum.at(best, own[own >= 0], y[own >= 0])
    poor = wet.ravel() & (best <= FAINT * amount)
    return (_seeded(y, own, allowed, amount, poor, overlap) if poor.any() else y), wet, int(poor.sum())


def _seeded(
    y: Array, own: NDArray[np.int64], allowed: NDArray[np.bool_], amount: Array, poor: NDArray[np.bool_], lap: Overlap
) -> Array:
    """Return the prior with rain in the own pixels of `poor` cells, or in shared ones where they have none."""
    empty = poor & ~(lap.spread_sum(y).ravel() > FAINT * amount * lap.coarse_area.ravel())
    seed = np.where(empty, amount, SEED * amount) * poor
    y = np.where(own >= 0, np.maximum(y, seed[own]), y)
    lonely = empty & (np.bincount(own[own >= 0], minlength=amount.size) == 0)
    if lonely.any():
        level = lap.gather_sum((lonely * amount).reshape(lap.coarse_shape)) / np.maximum(lap.fine_area, TINY)
        y = np.where(allowed, np.maximum(y, level), y)
    return y


def _multiply(y: Array, c: Array, wet: NDArray[np.bool_], overlap: Overlap, _: float) -> tuple[Array, int]:
    """Scale every block to its amount (nested cells); pixels outside the wet cells stay."""
    mean = overlap.spread_sum(y)
    area = np.where(wet, c * overlap.coarse_area, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.where(wet & (mean > 0), area / mean, 1.0).ravel()
    return np.where(overlap.owner >= 0, y * factor[overlap.owner], y), 0


def _newton(y: Array, c: Array, wet: NDArray[np.bool_], overlap: Overlap, tolerance: float) -> tuple[Array, int]:
    """Maximise the dual over the wet cells."""
    cells = np.flatnonzero(wet)
    if not cells.size:
        return y, 0
    problem = _Dual(y, c, cells, overlap)
    goal = tolerance * float(c.flat[cells].max())
    lam = problem.first_guess()
    value, z = problem.value(lam)
    used = 0
    while used < ITERATIONS:
        gradient = problem.gradient(z)
        if np.abs(gradient / problem.area).max() <= goal:
            break
        found = problem.search(lam, value, gradient, problem.step(z, gradient))
        if found is None:
            break
        lam, value, z = found
        used += 1
    out = y.ravel().copy()
    out[problem.pixels] = z / problem.pixel_area
    return out.reshape(y.shape), used


class _Dual:
    """The dual function on wet coarse cells and the wet pixels that they touch; z here is amount times area."""

    def __init__(self, y: Array, c: Array, cells: NDArray[np.int64], overlap: Overlap) -> None:
        number = np.full(c.size, -1)
        number[cells] = np.arange(cells.size)
        i, j, share = _shares(overlap, number)
        keep = (y.ravel()[j] > 0) & (number[i] >= 0)
        i, j, share = number[i[keep]], j[keep], share[keep]
        self.pixels, place = np.unique(j, return_inverse=True)
        self.shares = csr_array(coo_array((share, (i, place)), shape=(cells.size, self.pixels.size)))
        self._gather = self.shares.T.tocsr()
        self.pixel_area = overlap.fine_area.ravel()[self.pixels]
        self.mass = y.ravel()[self.pixels] * self.pixel_area
        self.area = overlap.coarse_area.ravel()[cells]
        self.wanted = c.ravel()[cells] * self.area

    def first_guess(self) -> Array:
        """Return what would be exact if no pixel were cut."""
        with np.errstate(divide="ignore"):
            guess = np.log(self.wanted) - np.log(self.shares @ self.mass)
        return np.where(np.isfinite(guess), guess, 0.0)

    def value(self, lam: Array) -> tuple[float, Array]:
        """Return g and the amounts z = y exp(S^T lambda)."""
        with np.errstate(over="ignore", invalid="ignore"):
            z = self.mass * np.exp(np.minimum(self._gather @ lam, 700.0))
            total = float(z.sum() - self.wanted @ lam)
        return (total if np.isfinite(total) else np.inf), z

    def gradient(self, z: Array) -> Array:
        """Return S z - W c."""
        return np.asarray(self.shares @ z - self.wanted)

    def step(self, z: Array, gradient: Array) -> Array:
        """Return the Newton step -H^-1 gradient, H = S diag(z) S^T, with a whiff of its diagonal."""
        s = self.shares
        scaled = csr_array((s.data * z[s.indices], s.indices, s.indptr), shape=s.shape)
        hessian = (scaled @ self._gather).tocsc()
        diagonal = hessian.diagonal()
        root = 1 / np.sqrt(np.maximum(diagonal, TINY))
        hessian.data *= root[hessian.indices] * np.repeat(root, np.diff(hessian.indptr))
        hessian.setdiag(1 + ROUNDING)
        factors = splu(hessian, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        return -root * factors.solve(root * gradient)

    def search(self, lam: Array, value: float, gradient: Array, step: Array) -> tuple[Array, float, Array] | None:
        """Go along a step, halved until g falls as it should (Armijo); None when rounding lets it fall no more."""
        step = step * min(1.0, LONGEST_STEP / np.abs(step).max())
        slope, length = float(gradient @ step), 1.0
        while length > SHORTEST:
            trial, z = self.value(lam + length * step)
            if trial <= value + ARMIJO * length * slope + ROUNDING * abs(value):
                return lam + length * step, trial, z
            length /= 2
        return None


def _shares(overlap: Overlap, number: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return (coarse cell, fine cell, share of the fine cell) of all overlaps, as flat numbers."""
    rows, columns = overlap.rows.tocoo(), overlap.columns.tocoo()
    share = [m.data / np.maximum(m.sum(axis=0), TINY)[m.col] for m in (rows, columns)]
    i = rows.row[:, None] * overlap.coarse_shape[1] + columns.row[None, :]
    j = rows.col[:, None] * overlap.fine_shape[1] + columns.col[None, :]
    keep = (number[i] >= 0) & overlap.valid.ravel()[j]
    return i[keep].astype(np.int64), j[keep].astype(np.int64), np.outer(*share)[keep]
