"""A paired bootstrap that draws users: AUC and per-user sums of two models under equal weights.

Rows of one user are alike, so intervals from rows drawn one by one would be too narrow. Instead
users are drawn, with replacement and as many as there are, each with all its rows (Efron and
Tibshirani 1993, "An Introduction to the Bootstrap", §8). Both models see the same draws, so that
what makes rows easy or hard for both cancels in their difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]

BLOCK = 1024  # scores at a time: a block's sums stay in the cache
LANES = 32  # replicates at a time


def draws(users: int, replicates: int, seed: int) -> Iterator[Floats]:
    """How often each user is drawn: float32 [users, lanes] matrices, `replicates` lanes in all."""
    rng = np.random.default_rng(seed)
    for first in range(0, replicates, LANES):
        lanes = min(LANES, replicates - first)
        weights = np.empty((users, lanes), np.float32)
        for lane in range(lanes):
            drawn = rng.integers(0, users, users, dtype=np.int32)
            weights[:, lane] = np.bincount(drawn, minlength=users)
        yield weights


@dataclass(frozen=True)
class _Block:
    """Some distinct scores of positives, ascending, as counts [scores, users]."""

    positives: sparse.csr_array
    negatives: sparse.csr_array  # above the score before, up to this one
    tied: sparse.csr_array | None  # of those, the ones with this very score


class Ranking:
    """One model's order of the rows, sorted once; `areas` is its AUC under any users' weights.

    With W the users' weights, s⁺ the distinct scores of positives and P, N, T the counts (score,
    user) of positives at s⁺, of negatives above the s⁺ before and up to it, and of those at it:

        AUC = Σ_j (P W)_j · [(Σ_{i≤j} N W)_j − ½ (T W)_j] / (Σ P W · Σ all negatives)

    which is P(s⁺ > s⁻) + ½ P(s⁺ = s⁻) of weighted rows. Counts are small integers, exact in
    float32 inside a block and in float64 between them. Where negatives are fewer, the roles are
    exchanged: the fewer distinct scores, the less work.
    """

    def __init__(self, clicked: Flags, scores: Floats, owner: Ints, users: int) -> None:
        """clicked, scores, owner: [N]; owner counts users from 0."""
        self._exchanged = bool(2 * clicked.sum() > clicked.size)
        positive = ~clicked if self._exchanged else clicked
        values, place = np.unique(scores[positive], return_inverse=True)
        others, theirs = scores[~positive], owner[~positive]
        slot = np.searchsorted(values, others)
        below = slot < values.size
        tied = below.copy()
        tied[below] = values[slot[below]] == others[below]

        def counts(rows: Ints, columns: Ints) -> sparse.csr_array:
            ones = np.ones(rows.size, np.float32)
            return sparse.csr_array((ones, (rows, columns)), shape=(values.size, users))

        P = counts(place, owner[positive])
        N = counts(slot[below], theirs[below])
        T = counts(slot[tied], theirs[tied]) if tied.any() else None
        self._blocks = [
            _Block(P[i : i + BLOCK], N[i : i + BLOCK], None if T is None else T[i : i + BLOCK])
            for i in range(0, values.size, BLOCK)
        ]
        self._positives = np.bincount(owner[positive], minlength=users).astype(np.float64)
        self._negatives = np.bincount(theirs, minlength=users).astype(np.float64)

    def areas(self, weights: Floats) -> Floats:
        """AUC [lanes] under users' weights [users, lanes]; NaN where a class is not drawn."""
        lanes = weights.shape[1]
        below, wins = np.zeros(lanes), np.zeros(lanes)
        for block in self._blocks:
            positives = block.positives @ weights
            negatives = (block.negatives @ weights).astype(np.float64)
            np.cumsum(negatives, axis=0, out=negatives)
            carry = negatives[-1].copy()
            if block.tied is not None:
                negatives -= 0.5 * (block.tied @ weights)
            wins += np.einsum("jr,jr->r", positives, negatives)
            wins += positives.sum(axis=0, dtype=np.float64) * below
            below += carry
        pairs = (self._positives @ weights) * (self._negatives @ weights)
        found = np.divide(wins, pairs, out=np.full(lanes, np.nan), where=pairs > 0)
        return 1 - found if self._exchanged else found


def per_user(values: Floats, owner: Ints, users: int) -> Floats:
    """Sums [users] of values [N] of a user's rows."""
    return np.bincount(owner, weights=values, minlength=users).astype(np.float64, copy=False)


@dataclass(frozen=True)
class Replicates:
    """Paired differences [R], candidate − incumbent: of the AUC, and relative, of the NE."""

    auc: Floats
    entropy: Floats


def paired(
    clicked: Flags,
    candidate: tuple[Floats, Floats],
    incumbent: tuple[Floats, Floats],
    users: Ints,
    replicates: int,
    seed: int,
) -> Replicates:
    """The bootstrap of ΔAUC and of NE' / NE − 1, which on the same rows is the log losses' ratio.

    clicked: [N]. candidate, incumbent: scores [N] and log losses [N]. users: [N], any ids: they
    are drawn in sorted order, so the order of the rows is of no effect. A draw without one of the
    classes has no AUC and is left out.
    """
    names, owner = np.unique(users, return_inverse=True)
    number = names.size
    rankings = [Ranking(clicked, model[0], owner, number) for model in (candidate, incumbent)]
    losses = np.stack([per_user(model[1], owner, number) for model in (candidate, incumbent)])
    auc, entropy = [], []
    for weights in draws(number, replicates, seed):
        new, old = (ranking.areas(weights) for ranking in rankings)
        auc.append(new - old)
        new, old = losses @ weights
        entropy.append(new / old - 1)
    found = np.concatenate(auc)
    return Replicates(found[~np.isnan(found)], np.concatenate(entropy))
