"""The model gate: a candidate against the incumbent on the same later, unsampled rows.

Every check is a row of the verdict: it passes, fails or holds. A hold means that nobody can tell: a
logit that is not finite, a threshold that is not set, too few clicks or users, no incumbent.
HOLD if any check holds, else REJECT if any fails, else BLESS: what cannot be told never passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from at4ctr.errors import InputError
from at4ctr.gates import resampling
from at4ctr.gates.verdict import NUMBERS, Check, Outcome, Thresholds, Verdict, decide
from at4ctr.metrics import auc
from at4ctr.metrics.intervals import FEW, NO_CLICK, Trust, by_segment
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
) -> Verdict:
    """Whether the candidate may take the incumbent's place.

    Args:
        candidate, incumbent: on the same rows; None: there is no incumbent.
        segments: family -> segment -> rows [N], as ``at4ctr.analysis.segments.masks`` gives them.
            Without any, that check holds.

    Raises:
        InputError: the two are not of the same rows in the same order; a mask of another length.
    """
    if incumbent is not None:
        _demand_same_rows(candidate, incumbent)
    labels = np.asarray(candidate.labels, np.float64)
    clicks, users = int((labels == 1).sum()), int(np.unique(candidate.users).size)
    own = [
        _numbers(NUMBERS, candidate),
        _enough("clicks", clicks, thresholds.clicks),
        _enough("rows without click", int((labels == 0).sum()), thresholds.clicks),
        _users(candidate, thresholds.users),
    ]
    other = _incumbent(incumbent)
    checks = [*own, other]
    if all(c.outcome == "pass" for c in own):
        if incumbent is not None and other.outcome == "pass":
            checks += _compared(candidate, incumbent, thresholds)
        checks.append(_pcoc(candidate, thresholds))
        checks += _segments(candidate, segments, thresholds)
    return Verdict(decide(checks), tuple(checks), labels.size, clicks, users, thresholds)


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
    """Users with a click, or those with a row without one where these are fewer: as the bootstrap
    draws users, no more than these make either class vary."""
    labels, users = np.asarray(scores.labels), np.asarray(scores.users)
    sides = ((labels == 1, "users with a click"), (labels == 0, "users with a row without click"))
    found, what = min((int(np.unique(users[rows]).size), what) for rows, what in sides)
    return _enough("users", found, least, what)


def _enough(name: str, found: int, least: int | None, what: str = "") -> Check:
    if least is None:
        return _unset(name, float(found))
    outcome: Outcome = "pass" if found >= least else "hold"
    said = f"{found:,} {what or name}; at least {least:,} are needed to tell anything"
    return Check(name, outcome, said, float(found), float(least))


def _unset(
    name: str, value: float | None = None, interval: tuple[float, float] | None = None
) -> Check:
    said = f"no threshold is set for {name}, so it cannot pass; set one"
    return Check(name, "hold", said, value, None, interval)


def _compared(candidate: Scores, incumbent: Scores, limits: Thresholds) -> Iterator[Check]:
    """ΔAUC and NE, from one bootstrap."""
    clicked = np.asarray(candidate.labels) == 1
    models = [(z := np.asarray(s.calibrated, np.float64), losses(clicked, z))
              for s in (candidate, incumbent)]  # fmt: skip
    drawn = resampling.paired(
        clicked, models[0], models[1], np.asarray(candidate.users), limits.replicates, limits.seed
    )
    yield _area(clicked, models[0][0], models[1][0], drawn.auc, limits.auc_loss)
    change = float(models[0][1].sum() / models[1][1].sum() - 1)
    interval = _between(drawn.entropy)
    if limits.entropy_rise is None:
        yield _unset("normalized entropy", change, interval)
        return
    said = (
        f"NE changes by {change:+.3%} (95 %: {interval[0]:+.3%} to {interval[1]:+.3%}); at most "
        f"{limits.entropy_rise:+.3%} is allowed"
    )
    outcome: Outcome = "pass" if change <= limits.entropy_rise else "fail"
    yield Check("normalized entropy", outcome, said, change, limits.entropy_rise, interval)


def _area(
    clicked: npt.NDArray[np.bool_],
    new: resampling.Floats,
    old: resampling.Floats,
    drawn: resampling.Floats,
    loss: float | None,
) -> Check:
    """value: the one-sided lower 95 % bound, the 5 % quantile; interval: two-sided 95 %."""
    difference = auc(clicked, new) - auc(clicked, old)
    if not drawn.size:
        said = "no draw of users has both classes; evaluate on more users"
        return Check("auc", "hold", said)
    lower, interval = float(np.quantile(drawn, 0.05)), _between(drawn)
    if loss is None:
        return _unset("auc", lower, interval)
    said = (
        f"ΔAUC is {difference:+.5f} and its lower 95 % bound {lower:+.5f}; at least {-loss:+.5f} "
        "is demanded"
    )
    if lower < -loss <= interval[1]:
        said += f"; {_undecided(interval, int(clicked.sum()), difference - lower, loss)}"
    return Check("auc", "pass" if lower >= -loss else "fail", said, lower, -loss, interval)


def _undecided(interval: tuple[float, float], clicks: int, width: float, loss: float) -> str:
    """That the evening could not tell, and about how many clicks could.

    The distance `width` of ΔAUC from its lower bound shrinks as 1/√clicks, and two equally good
    models pass in half of all evenings from where it is `loss`: at clicks · (width / loss)².
    """
    said = (
        f"the model is not shown to be worse (95 %: {interval[0]:+.5f} to {interval[1]:+.5f}), "
        "only not shown to be good enough"
    )
    if not loss:
        return f"{said}; with auc_loss=0 no number of clicks shows two equal models to be so"
    needed = float(f"{clicks * (width / loss) ** 2:.2g}")
    if needed <= clicks:
        return f"{said}, though {clicks:,} clicks do show it of most equally good models"
    return (
        f"{said}: of two equally good models about {needed:,.0f} clicks would show it on every "
        f"second evening, and this one has {clicks:,}"
    )


def _between(values: resampling.Floats) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _pcoc(scores: Scores, limits: Thresholds) -> Check:
    found = by_segment(scores.labels, scores.probability, scores.users,
                       {"all": np.ones(len(scores.labels), bool)})["all"]  # fmt: skip
    if limits.pcoc is None or limits.pcoc_noise is None or found.pcoc is None:
        return _unset("pcoc", found.pcoc, found.pcoc_interval)
    bound = limits.pcoc + limits.pcoc_noise / float(np.sqrt(found.clicks))
    said = f"PCOC is {found.pcoc:.4f}; {1 - bound:.4f} to {1 + bound:.4f} is allowed"
    outcome: Outcome = "pass" if abs(found.pcoc - 1) <= bound else "fail"
    return Check("pcoc", outcome, said, found.pcoc, bound, found.pcoc_interval)


def _segments(scores: Scores, segments: Segments, limits: Thresholds) -> Iterator[Check]:
    """Every large segment: fails where its whole 95 % interval of PCOC lies beyond the bound.

    Large is what has `segment_share` of the clicks, or of the predicted ones: a segment that is
    predicted far too high has few of the first. A point beyond the bound whose interval reaches in
    passes: with 300 clicks in a segment it is off by 5 % on two of five evenings of a model that
    is right, so of several such segments one is on most. The sentence says so.
    """
    share, off = limits.segment_share, limits.segment_pcoc
    if share is None or off is None:
        yield _unset("segments")
        return
    masks = {f"{family} {name}": np.asarray(mask) for family, group in segments.items()
             for name, mask in group.items() if family != name}  # fmt: skip
    trusts = by_segment(scores.labels, scores.probability, scores.users, masks)
    labels, p = (np.asarray(v, np.float64) for v in (scores.labels, scores.probability))
    expected = {name: float(p[mask].sum()) for name, mask in masks.items()}
    seen, thought = (max(share * float(v.sum()), FEW) for v in (labels, p))
    large = [name for name, t in trusts.items() if t.clicks >= seen or expected[name] >= thought]
    if not large:
        yield Check("segments", "hold", "no large segment was given; give the segments' rows")
    for name in large:
        yield _segment(f"segment {name}", trusts[name], expected[name], off)


def _segment(name: str, found: Trust, expected: float, off: float) -> Check:
    if not found.clicks:
        return _silent(name, found, expected, off)
    if found.pcoc and found.pcoc_interval is None:
        said = f"its {found.clicks:,} clicks are of one user, who tells no interval"
        return Check(name, "hold", said, found.pcoc, off)
    pcoc, (low, high) = found.pcoc or 0.0, found.pcoc_interval or (0.0, 0.0)  # 0: so is every p
    said = f"PCOC is {pcoc:.4f} (95 %: {low:.4f} to {high:.4f})"
    outcome: Outcome = "fail" if low > 1 + off or high < 1 - off else "pass"
    bounds = f"{1 - off:.4f} to {1 + off:.4f}"
    if outcome == "fail":
        said = f"{said}; its interval must not lie outside {bounds}"
    elif abs(pcoc - 1) > off:
        said = f"{name}: {said}, off by more than {off:.1%}, not shown: it may lie in {bounds}"
    else:
        said = f"{said}; {bounds} is allowed"
    return Check(name, outcome, said, pcoc, off, (low, high))


def _silent(name: str, found: Trust, expected: float, off: float) -> Check:
    """A segment without a click: 0 is what at most 3.69 expected ones may give (Poisson's 97.5 %),
    if the rows are of many users."""
    low = expected / NO_CLICK
    said = (
        f"no click is seen in {found.rows:,} rows of {found.users:,} users, and {expected:,.0f} "
        "are predicted"
    )
    if found.users < FEW:
        return Check(name, "hold", f"{said}; so few users tell nothing", None, off)
    outcome: Outcome = "fail" if low > 1 + off else "pass"
    said = f"{said}, so PCOC is above {low:.2f}; at most {1 + off:.4f} is allowed"
    return Check(name, outcome, said, None, off)
