"""The model gate's thresholds, its checks, and the verdict that follows from the checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from at4ctr.errors import InputError, unknown

Decision = Literal["BLESS", "REJECT", "HOLD"]
Outcome = Literal["pass", "warn", "fail", "hold"]
Policy = Literal["fresh", "strict"]
NUMBERS = "candidate numbers"  # the check that no override passes
TAIL = 20  # replicates beyond a bound, at least
FAMILIES = 4  # of checks, among which the error is shared: ΔAUC, NE, PCOC, segments


@dataclass(frozen=True)
class Thresholds:
    """What a candidate must reach. A threshold that is None is not set, which holds the model.

    policy: what becomes of a candidate that is neither shown to be worse than the incumbent nor
        shown to be as good: ``fresh`` publishes it with a warning, ``strict`` holds it.
    error: at most this share of candidates that are as good as their incumbents is refused, all
        checks of all labels taken together, where the incumbent's PCOC lies within pcoc_limit.
    auc_loss: a fall of the AUC by this is tolerated.
    entropy_rise: NE' / NE − 1 of this is tolerated.
    pcoc, segment_pcoc: so far may PCOC be from 1, of all rows and of a large segment, and so much
        further than the incumbent's.
    pcoc_limit: no PCOC of all rows that is shown to be further from 1 passes, whatever the
        incumbent's; at least pcoc.
    segment_share: a segment is large from this share of all clicks, or of all predicted ones, on.
    clicks, users: the least that is evidence enough for ``strict``; users are those with a click,
        or, where these are fewer, those with a row without one.
    replicates, seed: of the bootstrap; more replicates are drawn where a level needs them.
    labels: which labels are judged, of those that the model serves, composed ones among them; () is
        all. Thresholds are the same for each. Leave out a label with too few positives a night.
    """

    policy: Policy = "fresh"
    error: float = 0.1
    auc_loss: float | None = 0.001
    entropy_rise: float | None = 0.001
    pcoc: float | None = 0.02
    pcoc_limit: float | None = 0.2
    segment_pcoc: float | None = 0.05
    segment_share: float | None = 0.05
    clicks: int | None = 400
    users: int | None = 100
    replicates: int = 1000
    seed: int = 0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.replicates < 1000:
            raise InputError(
                f"model gate: replicates is {self.replicates}; expected at least 1000, as the "
                "bounds are quantiles of few per cent; set replicates=1000"
            )
        if self.policy not in get_args(Policy):
            raise unknown("policy of the model gate", self.policy, get_args(Policy))
        if not 0 < self.error < 1:
            raise InputError(
                f"model gate: error is {self.error}; expected a share between 0 and 1, of equally "
                "good models that may be refused; set error=0.1"
            )
        for name, value in asdict(self).items():
            if name in ("labels", "policy") or value is None:
                continue
            if not (np.isfinite(value) and value >= 0):
                raise InputError(
                    f"model gate: threshold {name} is {value}; expected a number of at least 0, "
                    "or none to hold every model"
                )
            if name in ("pcoc", "segment_pcoc", "pcoc_limit") and value >= 1:
                raise InputError(
                    f"model gate: threshold {name} is {value}; expected less than 1, as PCOC is "
                    f"demanded within 1 ± {name}; set a smaller one"
                )

    def level(self, labels: int) -> float:
        """One-sided level of each family of checks of each of so many labels (Bonferroni)."""
        return self.error / (FAMILIES * labels)

    def draws(self, level: float) -> int:
        """Replicates whose quantile at a level is not of the outermost few."""
        return max(self.replicates, math.ceil(TAIL / level))


@dataclass(frozen=True)
class Check:
    """One row of the verdict. value, bound, interval (95 %): None where there is no such number."""

    name: str
    outcome: Outcome
    sentence: str
    value: float | None = None
    bound: float | None = None
    interval: tuple[float, float] | None = None


def unset(
    name: str, value: float | None = None, interval: tuple[float, float] | None = None
) -> Check:
    """A check whose threshold nobody has set."""
    said = f"no threshold is set for {name}, so it cannot pass; set one"
    return Check(name, "hold", said, value, None, interval)


@dataclass(frozen=True)
class Verdict:
    """The gate's decision and its checks. reason: the operator's, who blessed the model although
    the decision ``was`` another one."""

    decision: Decision
    checks: tuple[Check, ...]
    rows: int
    clicks: int
    users: int
    thresholds: Thresholds = field(default_factory=Thresholds)
    reason: str = ""
    was: Decision | None = None

    @property
    def decisive(self) -> tuple[Check, ...]:
        """The checks that made the decision; after BLESS the warnings."""
        outcomes = {c.outcome for c in self.checks}
        said = {"BLESS": "warn", "REJECT": "fail", "HOLD": "hold" if "hold" in outcomes else "warn"}
        return tuple(c for c in self.checks if c.outcome == said[self.decision])

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``gate.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_json`, also of what JSON made of it.

        Raises InputError where ``gate.json`` is not that of a verdict.
        """
        try:
            checks = tuple(
                Check(**{**c, "interval": None if c["interval"] is None else tuple(c["interval"])})
                for c in value["checks"]
            )
            given = value["thresholds"]
            thresholds = Thresholds(**{**given, "labels": tuple(given["labels"])})
            return cls(**{**value, "checks": checks, "thresholds": thresholds})
        except (KeyError, TypeError) as error:
            raise InputError(
                f"gate.json is not the record of a verdict ({error}); expected what this version "
                "writes; run the night's gate again"
            ) from error


def decide(checks: Iterable[Check], policy: Policy) -> Decision:
    """HOLD if any check holds, else REJECT if any fails, else BLESS; HOLD where there is none.

    A warning is no failure: ``fresh`` blesses in spite of it, ``strict`` holds.
    """
    outcomes = {c.outcome for c in checks}
    if "hold" in outcomes or not outcomes:
        return "HOLD"
    if "fail" in outcomes:
        return "REJECT"
    return "HOLD" if "warn" in outcomes and policy == "strict" else "BLESS"


def together(verdicts: Mapping[str, Verdict]) -> Verdict:
    """One verdict of several labels: the first one's rows, clicks and users, the checks of all.

    The names and sentences of other labels' checks begin with the label.
    """
    (_, first), *others = verdicts.items()
    checks = list(first.checks)
    for label, verdict in others:
        checks += [replace(c, name=f"{label} {c.name}", sentence=f"{label}: {c.sentence}")
                   for c in verdict.checks]  # fmt: skip
    decision = decide(checks, first.thresholds.policy)
    return replace(first, decision=decision, checks=tuple(checks))


def override(verdict: Verdict, reason: str) -> Verdict:
    """The verdict as blessed by an operator: the checks stay, the reason stands beside them.

    Raises InputError for an empty reason, and for a candidate with values that are no
    probabilities: no reason makes those worth serving.
    """
    if not reason.strip():
        raise InputError(
            "the model was to be blessed without a reason; expected one for the ledger; write "
            '--bless --reason "why this model is right in spite of the gate"'
        )
    for check in verdict.checks:
        if check.name.endswith(NUMBERS) and check.outcome != "pass":
            raise InputError(
                f"the model cannot be blessed: {check.sentence}; expected probabilities; train "
                "again"
            )
    if verdict.decision == "BLESS":
        return verdict
    return replace(verdict, decision="BLESS", reason=reason.strip(), was=verdict.decision)
