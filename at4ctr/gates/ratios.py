"""Tests whether PCOC is off, and further off than another model's, on rows of many users.

R = Σp / Σy is a ratio of totals over users, so by linearisation Var ln R = G/(G−1) Σ_u ψ_u² with
ψ_u = P_u/P − Y_u/Y, where P_u and Y_u are the sums of a user's probabilities and clicks and G is
the number of users. Two models on the same rows share the clicks: a difference or a sum of their
ln R has the difference or the sum of their ψ, so what they share cancels or counts twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from at4ctr.metrics.intervals import NO_CLICK, Z_95

Floats = npt.NDArray[np.float64]
MOST = 700.0  # exponent of the largest factor of an interval


@dataclass(frozen=True)
class Sums:
    """Sums by user [G]: of rows, clicks, the candidate's probabilities and the incumbent's."""

    rows: Floats
    clicks: Floats
    new: Floats
    old: Floats | None

    @classmethod
    def of(
        cls,
        mask: npt.NDArray[np.bool_],
        owner: npt.NDArray[np.integer],
        clicked: Floats,
        new: Floats,
        old: Floats | None,
    ) -> Sums:
        """mask, owner, clicked, new, old: [N] each; owner: 0, 1, …"""
        inside = owner[mask]
        rows = np.bincount(inside)
        there = rows > 0

        def total(values: Floats) -> Floats:
            return np.bincount(inside, values[mask])[there].astype(np.float64, copy=False)

        other = None if old is None else total(old)
        return cls(rows[there].astype(float), total(clicked), total(new), other)

    @property
    def users(self) -> int:
        return self.rows.size

    @property
    def pcoc(self) -> float | None:
        """Of the candidate; None without a click."""
        return _ratio(self.new, self.clicks)

    @property
    def before(self) -> float | None:
        """Of the incumbent."""
        return None if self.old is None else _ratio(self.old, self.clicks)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % of the candidate's PCOC: R exp(± 1.96 √Var ln R); None where there is none."""
        ratio = self.pcoc
        if not ratio or self.users < 2:
            return None
        error = _error(_influence(self.new, self.clicks))
        factor = float(np.exp(min(Z_95 * error, MOST)))
        return ratio / factor, ratio * factor

    def alone(self) -> Sums:
        """Without the incumbent."""
        return Sums(self.rows, self.clicks, self.new, None)


def p_value(sums: Sums, off: float) -> float:
    """Two-sided p of the hypothesis that PCOC is within 1 ± off, or its distance from 1 no more
    than ``off`` greater than the incumbent's; the latter only where there is an incumbent.

    Distances are of logarithms. On either side each part of the hypothesis has a normal test of its
    own, and all of these must reject (Berger 1982, "Multiparameter hypothesis testing and
    acceptance sampling"). The two sides are joined by Bonferroni. Without a click R is not defined;
    p is then the Poisson probability of no click, given the expected number of clicks at the
    nearest allowed PCOC. p is 1 where there are fewer than two users.
    """
    if not sums.clicks.sum():
        return _silent(sums, off)
    if sums.users < 2:
        return 1.0
    if not sums.new.sum():  # every probability is 0, and there are clicks
        return 1.0 if sums.old is not None and not sums.old.sum() else 0.0
    sides = [1 - float(ndtr(_least(sums, side, bound)))
             for side, bound in ((1.0, np.log1p(off)), (-1.0, -np.log1p(-off)))]  # fmt: skip
    return min(1.0, 2 * min(sides))


def _least(sums: Sums, side: float, bound: float) -> float:
    """The least of the z of the parts. side: 1 of a PCOC that is too high, -1 of one too low.
    bound: of the distance of logarithms."""
    mine, psi = _log(sums.new, sums.clicks), _influence(sums.new, sums.clicks)
    found = [_z(side * mine - bound, psi)]
    if sums.old is not None:
        total = sums.old.sum()
        if not total:  # infinitely far off
            return -np.inf
        other, phi = _log(sums.old, sums.clicks), _influence(sums.old, sums.clicks)
        found += [_z(side * mine - sign * other - bound, side * psi - sign * phi)
                  for sign in (1.0, -1.0)]  # fmt: skip
    return min(found)


def _silent(sums: Sums, off: float) -> float:
    """Of rows without a click."""
    expected = sums.new.sum() / (1 + off)
    if sums.old is not None and sums.new.sum() <= (1 + off) * sums.old.sum():
        return 1.0
    return float(np.exp(-expected))


def least_silent(sums: Sums) -> float:
    """The lower 97.5 % bound of PCOC of rows without a click."""
    return float(sums.new.sum()) / NO_CLICK


def _ratio(predicted: Floats, clicks: Floats) -> float | None:
    seen = float(clicks.sum())
    return float(predicted.sum()) / seen if seen else None


def _log(predicted: Floats, clicks: Floats) -> float:
    """ln R, where there are clicks."""
    return float(np.log(predicted.sum() / clicks.sum()))


def _influence(predicted: Floats, clicks: Floats) -> Floats:
    return predicted / predicted.sum() - clicks / clicks.sum()


def _error(psi: Floats) -> float:
    """The standard error of a sum of influences [G], which is 0 on the sample."""
    return float(np.sqrt((psi**2).sum() * psi.size / (psi.size - 1)))


def _z(distance: float, psi: Floats) -> float:
    error = _error(psi)
    if error:
        return distance / error
    return np.inf if distance > 0 else -np.inf
