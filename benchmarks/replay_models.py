"""The models of `replay_nights`, from nights and from cold trainings, and their differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from at4ctr import metrics
from at4ctr.data.nights import state
from at4ctr.gates import resampling
from at4ctr.schema import FIRST_ID
from pipelines.night import attempt as attempts
from pipelines.night.places import Places
from pipelines.night.report import scores as nightly_scores

KINDS = ("nights", "cold")
STAGES = {"data": ("DATA_OK", "TRAINING"), "train": ("TRAINED",), "gate": ("EVALUATED",),
          "export": ("EXPORTED", "INFRA_OK", "PUBLISHED")}  # fmt: skip


def places_of(folder: Path) -> Places:
    return Places("replay", folder / "runs", folder / "serving", folder / "registry")


def seconds(folder: Path, day: date) -> Path:
    return folder / "seconds" / f"{day}.json"


@dataclass(frozen=True)
class Model:
    """One model of a date on the rows that judge it. keys: label, user and item of each row. state:
    bytes of the state that it leaves for the next night."""

    trained: int
    outcome: str
    seconds: Mapping[str, float]
    state: int
    keys: npt.NDArray
    labels: npt.NDArray
    users: npt.NDArray
    p: npt.NDArray[np.float64]

    @property
    def auc(self) -> float:
        return metrics.auc(self.labels, self.p)


class Gap(NamedTuple):
    """Night − cold: of each seed, and the 95 % interval of their mean. noise: |difference| of every
    two cold trainings."""

    seeds: tuple[float, ...]
    low: float
    high: float
    noise: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.seeds))


By: TypeAlias = dict[str, list[Model]]  # kind -> seeds
Found: TypeAlias = dict[date, By]


def model(folder: Path, day: date) -> Model | None:
    """What a part found on a date; None where it is not done."""
    places = places_of(folder)
    done = [a for a in attempts.attempts(places, day) if a.finished or a.stage == "EVALUATED"]
    if not done:
        return None
    last, record = done[-1], done[-1].record
    found = nightly_scores.read(last.folder / attempts.PREDICTIONS, [])
    if found is None:
        raise SystemExit(f"{last.folder} ended without predictions: {last.outcome}")
    with np.load(last.folder / attempts.PREDICTIONS) as file:
        ids = {table: file[f"id_{table}"] for table in ("user", "item")}
    known = state.vocabularies(last.state)
    raw = [np.r_[np.full(FIRST_ID, "-1"), known[t].to_numpy().astype(str)][ids[t]] for t in ids]
    spent = json.loads(seconds(folder, day).read_text(encoding="utf-8"))
    return Model(
        record["rows"]["train"],
        (record["outcome"] or {"name": ""})["name"] + _by_hand(places, last),
        {
            part: sum(spent[s]["cpu"] for s in stages if s in spent)
            for part, stages in STAGES.items()
        },
        sum(p.stat().st_size for p in last.state.rglob("*.parquet")),
        np.stack([found.labels.astype(int).astype(str), *raw]),
        found.labels,
        found.users,
        found.candidate,
    )


def _by_hand(places: Places, attempt: attempts.Attempt) -> str:
    """What an operator overruled of an attempt, as the ledger tells."""
    where = "/".join(attempt.folder.parts[-2:])
    told = {e.facts.get("of") for e in places.ledger.entries(places.model)
            if e.kind == "blessed" and e.facts.get("attempt") == where}  # fmt: skip
    said = {"data": "log accepted by hand", "model": "first model blessed"}
    return "".join(f"; {text}" for of, text in said.items() if of in told)


def gap(by: By) -> Gap:
    """Of the models of a date."""
    nights, cold = (by[kind] for kind in KINDS)
    first = cold[0]
    for other in (*nights, *cold):
        demand_same(first, other)
    nothing = np.zeros(first.p.size)
    drawn = np.mean(
        [
            resampling.paired(first.labels == 1, (a.p, nothing + 1), (b.p, nothing + 1),
                              first.users, 1000, 0).auc
            for a, b in zip(nights, cold, strict=True)
        ],
        axis=0,
    )  # fmt: skip
    low, high = np.quantile(drawn, (0.025, 0.975))
    apart = tuple(a.auc - b.auc for a, b in zip(nights, cold, strict=True))
    noise = tuple(abs(a.auc - b.auc) for a, b in combinations(cold, 2))
    return Gap(apart, float(low), float(high), noise)


def demand_same(a: Model, b: Model) -> None:
    """A row is the same where label, user and item are; "-1", unknown to one model, is like any: a
    cold training knows items of histories beyond what a night's state keeps."""
    same = a.keys.shape == b.keys.shape
    if not same or not ((a.keys == b.keys) | (a.keys == "-1") | (b.keys == "-1")).all():
        raise SystemExit("two models of a date were judged by other rows")


def done(folder: Path, day: date, seeds: int) -> By:
    """The models of a date, or none unless every seed has both."""
    by = {k: [m for s in range(seeds) if (m := model(folder / f"{k}-{s}", day))] for k in KINDS}
    return by if all(len(models) == seeds for models in by.values()) else {}
