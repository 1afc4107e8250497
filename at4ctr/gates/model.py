"""The model gate: a candidate against the incumbent on the same later, unsampled rows.

Every check is a row of the verdict. It fails where the candidate is shown to be worse, and passes
where the candidate is shown to be as good. It warns between the two, and the policy then decides.
It holds where nothing can be shown: a logit is not finite, a threshold is not set, there is no
incumbent, or there is hardly a click.

Of candidates that are as good as their incumbents at most the share `Thresholds.error` is refused.
Each of the four families of checks has a quarter of that share, divided equally among the labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from at4ctr.errors import InputError
from at4ctr.gates import calibration, ratios, resampling
from at4ctr.gates.verdict import NUMBERS, Check, Outcome, Thresholds, Verdict, decide, unset
from at4ctr.metrics import auc
from at4ctr.metrics.intervals import FEW
from at4ctr.metrics.probability import losses, sigmoid

Segments = Mapping[str, Mapping[str, npt.NDArray[np.bool_]]]


@dataclass(frozen=True)
class Scores:
    """A model's predictions on the gate's rows, in the order of the store: [N] each.

    labels: 0 or 1. calibrated: logit of the served probability, in float64. users: ids of users.
    `Predictions` of ``at4ctr.evaluation`` has these three.
    """

    labels: npt.NDArray
    calibrated: npt.NDArray
    users: npt.NDArray

    def __post_init__(self) -> None:
        sizes = {np.asarray(v).shape for v in (self.labels, self.calibrated, self.users)}
        if len(sizes) != 1 or len(next(iter(sizes))) != 1 or not len(self.labels):
            raise InputError(
                f"scores have labels, logits and users of shapes {sorted(sizes)}; expected "
                "one value a row, and a row at least; take all three from one evaluation"
            )

    @property
    def probability(self) -> npt.NDArray[np.float64]:
        """[N], as served."""
        return sigmoid(self.calibrated)


def judge(
    candidate: Scores,
    incumbent: Scores | None,
    thresholds: Thresholds,
    *,
    segments: Segments,
    labels: int = 1,
) -> Verdict:
    """Whether the candidate may take the incumbent's place.

    Args:
        candidate, incumbent: on the same rows; None: there is no incumbent.
        segments: family -> segment -> rows [N], as ``at4ctr.analysis.segments.masks`` gives them.
            Without any, that check holds.
        labels: how many labels are judged, each by a call of its own, and share the error.

    Raises:
        InputError: the two are not of the same rows in the same order; a mask of another length.
    """
    if incumbent is not None:
        _demand_same_rows(candidate, incumbent)
    seen = np.asarray(candidate.labels, np.float64)
    clicks, users = int((seen == 1).sum()), int(np.unique(candidate.users).size)
    own = [
        _numbers(NUMBERS, candidate),
        _enough("clicks", clicks, thresholds.clicks),
        _enough("rows without click", int((seen == 0).sum()), thresholds.clicks),
        _users(candidate, thresholds.users),
    ]
    other = _incumbent(incumbent)
    checks = [*own, other]
    if all(c.outcome in ("pass", "warn") for c in own):
        rival = incumbent if other.outcome == "pass" else None
        level = thresholds.level(labels)
        if rival is not None:
            checks += _compared(candidate, rival, thresholds, level)
        checks += _calibrated(candidate, rival, segments, thresholds, level)
    decision = decide(checks, thresholds.policy)
    return Verdict(decision, tuple(checks), seen.size, clicks, users, thresholds)


def _demand_same_rows(candidate: Scores, incumbent: Scores) -> None:
    for name in ("labels", "users"):
        new, old = np.asarray(getattr(candidate, name)), np.asarray(getattr(incumbent, name))
        if new.size != old.size:
            raise InputError(
                f"model gate: the candidate has {new.size:,} rows and the incumbent {old.size:,}; "
                "expected the same rows; evaluate both on one store"
            )
        kinds = {new.dtype.kind, old.dtype.kind}
        nan = (new != new) & (old != old) if kinds == {"f"} else np.zeros(new.size, bool)
        wrong = (new != old) & ~nan
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"model gate: row {row} has {name} {new[row]} for the candidate and {old[row]} for "
                "the incumbent; expected the same rows in the same order; evaluate both on one "
                "store"
            )


def _numbers(name: str, scores: Scores) -> Check:
    z, labels = np.asarray(scores.calibrated), np.asarray(scores.labels)
    wrong = int((~np.isfinite(z)).sum() + (~((labels == 0) | (labels == 1))).sum())
    if wrong:
        said = f"{wrong:,} of {z.size:,} rows have no finite logit, or no label 0 or 1"
        return Check(name, "hold", said, float(wrong), 0.0)
    return Check(name, "pass", f"all {z.size:,} rows have finite logits and labels", 0.0, 0.0)


def _incumbent(incumbent: Scores | None) -> Check:
    if incumbent is None:
        said = "there is no incumbent to compare with; bless the first model by hand"
        return Check("incumbent", "hold", said)
    return _numbers("incumbent", incumbent)


def _users(scores: Scores, least: int | None) -> Check:
    """The check of the number of users with a click, or of users with a row without click where
    these are fewer. The bootstrap draws users, so few of either make its intervals unreliable."""
    labels, users = np.asarray(scores.labels), np.asarray(scores.users)
    sides = ((labels == 1, "users with a click"), (labels == 0, "users with a row without click"))
    found, what = min((int(np.unique(users[rows]).size), what) for rows, what in sides)
    return _enough("users", found, least, what)


def _enough(name: str, found: int, least: int | None, what: str = "") -> Check:
    """Below `FEW` no interval holds, so nothing can be compared."""
    if least is None:
        return unset(name, float(found))
    said, floor = f"{found:,} {what or name}", min(FEW, least)
    if found >= least:
        said, outcome = f"{said}; at least {least:,} are demanded", "pass"
    elif found >= floor:
        said, outcome = f"{said}; fewer than {least:,} are little evidence", "warn"
    else:
        said, outcome = f"{said}; fewer than {floor:,} show nothing", "hold"
    return Check(name, cast(Outcome, outcome), said, float(found), float(least))


def _compared(
    candidate: Scores, incumbent: Scores, limits: Thresholds, level: float
) -> Iterator[Check]:
    """ΔAUC and NE, from one bootstrap."""
    clicked = np.asarray(candidate.labels) == 1
    models = [(z := np.asarray(s.calibrated, np.float64), losses(clicked, z))
              for s in (candidate, incumbent)]  # fmt: skip
    drawn = resampling.paired(
        clicked, models[0], models[1], np.asarray(candidate.users), limits.draws(level), limits.seed
    )
    difference = auc(clicked, models[0][0]) - auc(clicked, models[1][0])
    yield _area(difference, int(clicked.sum()), drawn.auc, limits.auc_loss, level)
    change = float(models[0][1].sum() / models[1][1].sum() - 1)
    yield _entropy(change, drawn.entropy, limits.entropy_rise, level)


def _area(
    difference: float, clicks: int, drawn: resampling.Floats, loss: float | None, level: float
) -> Check:
    """value: ΔAUC; interval: two-sided 95 %, whatever the level."""
    if not drawn.size:
        said = "no draw of users has both classes; evaluate on more users"
        return Check("auc", "hold", said)
    interval = _between(drawn, 0.025)
    if loss is None:
        return unset("auc", difference, interval)
    low, high = _between(drawn, level)
    said = f"ΔAUC is {difference:+.5f} ({_share(level)}: {low:+.5f} to {high:+.5f})"
    outcome: Outcome = "pass" if low >= -loss else "fail" if high < -loss else "warn"
    if outcome == "fail":
        said += f"; it is shown to be below the tolerated {-loss:+.5f}"
    elif outcome == "warn":
        said += f"; {_undecided(clicks, difference - low, loss)}"
    else:
        said += f"; it is shown to be at least {-loss:+.5f}"
    return Check("auc", outcome, said, difference, -loss, interval)


def _undecided(clicks: int, width: float, loss: float) -> str:
    """A sentence: the night's rows show nothing, and about how many clicks would.

    The distance `width` of ΔAUC from its lower bound shrinks as 1/√clicks. Two equally good models
    are shown to be so on half of all nights once the distance is `loss`, which takes
    clicks · (width / loss)² clicks.
    """
    said = f"the model is shown neither to be worse by {loss:.5f} nor to be as good"
    if not loss:
        return f"{said}; with auc_loss=0 no number of clicks shows two equal models to be so"
    needed = float(f"{clicks * (width / loss) ** 2:.2g}")
    if needed <= clicks:
        return f"{said}, though {clicks:,} clicks do show it of most equally good models"
    return (
        f"{said}: of two equally good models about {needed:,.0f} clicks would show it on every "
        f"second night, and this one has {clicks:,}"
    )


def _entropy(change: float, drawn: resampling.Floats, rise: float | None, level: float) -> Check:
    """value: NE' / NE − 1; interval: two-sided 95 %, whatever the level."""
    name, interval = "normalized entropy", _between(drawn, 0.025)
    if rise is None:
        return unset(name, change, interval)
    low, high = _between(drawn, level)
    said = f"NE changes by {change:+.3%} ({_share(level)}: {low:+.3%} to {high:+.3%})"
    outcome: Outcome = "pass" if high <= rise else "fail" if low > rise else "warn"
    if outcome == "fail":
        said += f"; it is shown to rise by more than the tolerated {rise:.3%}"
    elif outcome == "warn":
        said += f"; a rise by more than {rise:.3%} is neither shown nor ruled out"
    else:
        said += f"; it is shown to rise by at most {rise:.3%}"
    return Check(name, outcome, said, change, rise, interval)


def _share(level: float) -> str:
    """Of a two-sided interval whose sides have this level each: ``95 %``."""
    return f"{100 * (1 - 2 * level):.4g} %"


def _between(values: resampling.Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, (level, 1 - level))
    return float(low), float(high)


def _calibrated(
    candidate: Scores, incumbent: Scores | None, segments: Segments, limits: Thresholds,
    level: float,
) -> Iterator[Check]:  # fmt: skip
    """PCOC of all rows, and of every large segment."""
    _, owner = np.unique(np.asarray(candidate.users), return_inverse=True)
    clicked, new = np.asarray(candidate.labels, np.float64), candidate.probability
    old = None if incumbent is None else incumbent.probability

    def sums(mask: npt.NDArray[np.bool_]) -> ratios.Sums:
        return ratios.Sums.of(mask, owner, clicked, new, old)

    whole = sums(np.ones(clicked.size, bool))
    yield calibration.overall(whole, limits, level)
    masks = {f"{family} {name}": np.asarray(mask) for family, group in segments.items()
             for name, mask in group.items() if family != name}  # fmt: skip
    for name, mask in masks.items():
        _demand_mask(name, mask, clicked.shape)
    parts = {name: sums(mask) for name, mask in masks.items()}
    yield from calibration.segments(whole, parts, limits, level)


def _demand_mask(name: str, mask: npt.NDArray[np.generic], shape: tuple[int, ...]) -> None:
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise InputError(
            f"model gate: the mask of segment {name} has type {mask.dtype} and shape {mask.shape}; "
            f"expected bool and {shape}; give one flag for each row"
        )
