"""How far PCOC and ECE can be trusted: 95 % intervals where rows of one user belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from at4ctr.errors import InputError
from at4ctr.metrics import _inputs
from at4ctr.metrics.probability import _middle_ranks

Z_95 = 1.959963984540054  # the standard normal's 97.5 % quantile
BINS = 20
FEW = 30  # with fewer clicks or fewer users the intervals' theory does not hold: marked small
DRAWS = 2000
FAR = 0.2  # a mean prediction may differ from the click rate by this share of it
NO_CLICK = -float(np.log(0.025))  # expected clicks, of which none is seen in 2.5 % of all cases

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trust:
    """Calibration of some rows. An interval is (lower, upper); None: not defined on these rows."""

    rows: int
    clicks: int
    users: int
    small: bool
    pcoc: float | None = None
    pcoc_interval: tuple[float, float] | None = None
    ece: float | None = None
    ece_interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, object]:
        """Plain values by name; what is not defined is left out."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()
                if v is not None}  # fmt: skip


def trust(labels: npt.ArrayLike, probabilities: npt.ArrayLike, users: npt.ArrayLike) -> Trust:
    """PCOC and ECE (20 bins of equal mass) with 95 % intervals clustered by user.

    R = Σp / Σy is a ratio of totals over users, so by linearisation Var R = G/(G−1) Σ_u r_u²
    with r_u = Σ_{i∈u} (p_i − R y_i) / Σy; the interval is R exp(± 1.96 √Var R / R), of the
    logarithm because R is positive and skewed (a model fixed, users drawn anew).

    ECE = Σ_b |D_b| with D_b = Σ_{i∈b} (p_i − y_i) / N. It is biased upwards by noise, so a
    bootstrap's percentiles mislead. With V the clustered covariance of D and q the 97.5 %
    quantile of ‖N(0, V)‖₁ (simulated): lower = max(0, ECE − q), by the triangle inequality at
    least 97.5 % sure, and above 0 only where the rows contradict perfect calibration; upper =
    ECE + 1.96 √(sᵀVs), s = sign D, as E ECE is not below the true value (Jensen). Both take the
    bins as given: this is the error of the binned model.

    Args:
        labels: [N], 0 or 1.
        probabilities: [N], in [0, 1].
        users: [N], ids of what is drawn independently.

    Raises:
        InputError: as for `pcoc`; also for users of another length.
    """
    truth, p = _inputs.predicted(labels, probabilities)
    owners = _inputs.vector("users", users)
    _inputs.same_length("labels", truth, "users", owners)
    names, owner = np.unique(owners, return_inverse=True)
    return _trust(truth.astype(np.float64), p, owner, names.size)


def holm(ps: Sequence[float]) -> list[float]:
    """p values adjusted so that the tests together have the error rate of a single test.

    The i-th smallest of n becomes the largest (n − j + 1) p_j of j ≤ i, at most 1 (Holm 1979).
    """
    order = np.argsort(ps, kind="stable")
    factors = np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(ps)[order] * factors), 1.0)
    return [float(p) for p in adjusted]


def least_users(labels: npt.ArrayLike, users: npt.ArrayLike) -> int:
    """The number of users with a positive, or of those with a negative where these are fewer.

    Below `FEW` no interval holds, as a class then varies over too few users.
    """
    truth, who = np.asarray(labels) > 0, np.asarray(users)
    return int(min(np.unique(who[rows]).size for rows in (truth, ~truth)))


def clustered_error(moved: Floats, users: npt.NDArray) -> float:
    """Standard error of a sum of rows' influences [N], √(G/(G−1) Σ_u r_u²) with r_u the sum of
    user u's, of G users drawn anew."""
    names, owner = np.unique(users, return_inverse=True)
    by_user = np.bincount(owner, weights=moved)
    return float(np.sqrt((by_user**2).sum() * names.size / max(names.size - 1, 1)))


@dataclass(frozen=True)
class MeanPrediction:
    """Mean prediction and click rate of some rows.

    ratio: PCOC, with the ends of its 95 % interval; None where `trust` gives none. far: whether the
    ratio is further from 1 than `FAR` and its interval excludes 1. For rows without a click, of
    `FEW` users or more, it is whether more clicks are predicted than `NO_CLICK`.
    """

    predicted: float
    rate: float
    far: bool
    ratio: float | None = None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | bool]:
        """Plain values by name; what is not defined is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def mean_prediction(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, users: npt.ArrayLike
) -> MeanPrediction:
    """Whether the mean prediction is far from the click rate; arguments and errors as `trust`."""
    found = trust(labels, probabilities, users)
    predicted = float(np.mean(np.asarray(probabilities, np.float64)))
    rate = found.clicks / found.rows
    if not found.clicks:
        far = found.users >= FEW and predicted * found.rows > NO_CLICK
        return MeanPrediction(predicted, rate, far)
    if found.pcoc == 0 and min(found.clicks, found.users) >= FEW:
        return MeanPrediction(predicted, rate, True, 0.0, 0.0, 0.0)
    if found.pcoc is None or found.pcoc_interval is None:
        return MeanPrediction(predicted, rate, False, found.pcoc)
    low, high = found.pcoc_interval
    far = abs(found.pcoc - 1) > FAR and not low <= 1 <= high
    return MeanPrediction(predicted, rate, far, found.pcoc, low, high)


def by_segment(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    users: npt.ArrayLike,
    segments: Mapping[str, npt.NDArray[np.bool_]],
) -> dict[str, Trust]:
    """The `trust` of each named mask [N]; an empty segment has its counts alone.

    Raises:
        InputError: as for `trust`; also for a mask that is not boolean or of another length.
    """
    truth, p = _inputs.predicted(labels, probabilities)
    owners = _inputs.vector("users", users)
    _inputs.same_length("labels", truth, "users", owners)
    _, owner = np.unique(owners, return_inverse=True)
    clicks = truth.astype(np.float64)
    found = {}
    for name, mask in segments.items():
        if mask.dtype != np.bool_ or mask.shape != truth.shape:
            raise InputError(
                f"mask of segment {name!r} has type {mask.dtype} and shape {mask.shape}: "
                f"expected bool and {truth.shape}, give one flag for each row"
            )
        if not mask.any():
            found[name] = Trust(0, 0, 0, True)
            continue
        inside = owner[mask]
        there = np.bincount(inside) > 0
        compact = (np.cumsum(there) - 1)[inside]
        found[name] = _trust(clicks[mask], p[mask], compact, int(there.sum()))
    return found


def _trust(y: Floats, p: Floats, owner: npt.NDArray[np.int64], users: int) -> Trust:
    """owner: [N], 0 to users - 1, each of them present."""
    clicks = int(y.sum())
    ece, ece_interval = _ece(y, p, owner, users)
    small = min(clicks, users) < FEW
    found = Trust(y.size, clicks, users, small, ece=ece, ece_interval=ece_interval)
    if not clicks:
        return found
    ratio = float(p.sum() / clicks)
    if users < 2 or ratio == 0:
        return replace(found, pcoc=ratio)
    residuals = np.bincount(owner, weights=(p - ratio * y) / clicks)
    error = np.sqrt((residuals**2).sum() * users / (users - 1))
    factor = float(np.exp(np.minimum(Z_95 * error / ratio, 700.0)))
    return replace(found, pcoc=ratio, pcoc_interval=(ratio / factor, ratio * factor))


def _ece(
    y: Floats, p: Floats, owner: npt.NDArray[np.int64], users: int
) -> tuple[float, tuple[float, float] | None]:
    order = np.argsort(p)
    bin_of = np.empty(p.size, np.int64)
    bin_of[order] = BINS * _middle_ranks(p[order]) // p.size  # as in `bin_means`
    gaps = (p - y) / y.size
    cells = sparse.csr_array((gaps, (owner, bin_of)), shape=(users, BINS))
    total = np.asarray(cells.sum(axis=0)).ravel()
    ece = float(np.abs(total).sum())
    if users < 2:
        return ece, None
    moment = (cells.T @ cells).toarray() - np.outer(total, total) / users
    V = moment * users / (users - 1)
    values, vectors = np.linalg.eigh(V)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = np.random.default_rng(0).standard_normal((DRAWS, BINS)) @ root.T
    q = float(np.quantile(np.abs(draws).sum(1), 0.975))
    sign = np.sign(total)
    above = Z_95 * float(np.sqrt(max(sign @ V @ sign, 0.0)))
    return ece, (max(0.0, ece - q), ece + above)
