"""Attempt folders as the nightly job leaves them, of simulated evenings and the real gates."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256

import numpy as np

from at4ctr import evaluation
from at4ctr.analysis import segments
from at4ctr.evaluation import Predictions
from at4ctr.gates import data as data_gate
from at4ctr.gates import model as model_gate
from at4ctr.gates.anomaly import Thresholds as DataThresholds
from at4ctr.gates.statistics import Column, Relation, Stats
from at4ctr.gates.verdict import Thresholds, override
from tests.gates.evening import evening

DAY = 86_400
STAGES = ("PLANNED", "WAIT_DATA", "DATA_OK", "TRAINING", "TRAINED", "EXPORTED", "INFRA_OK",
          "EVALUATED", "BLESSED", "PUBLISHED")  # fmt: skip
LENIENT = Thresholds(clicks=50, users=20, segment_pcoc=0.5, pcoc=0.2, auc_loss=0.05)


def begin(day):
    """First second of a day eight hours ahead of UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) - 8 * 3600


def stats(day, seed, rows=7000, renumbered=False):
    """A day's counts; renumbered: no id is known, and they fall into other buckets."""
    rng = np.random.default_rng(seed)
    shape = np.random.default_rng(5 if renumbered else 4).dirichlet(np.full(64, 2.0))
    rows = int(rng.poisson(rows * (1.25 if day.weekday() >= 5 else 1.0)))

    def column(unknown):
        buckets = tuple(int(n) for n in rng.multinomial(rows, shape))
        known = (
            None if unknown is None else int(rng.binomial(rows, 0.99 if renumbered else unknown))
        )
        return Column("BIGINT", int(rng.binomial(rows, 0.002)), rows, known, buckets,
                      (("17", buckets[0]), ("4", buckets[1])))  # fmt: skip

    first = begin(day)
    relation = Relation(
        rows, rows // 6, 3, rows - 3, int(rng.binomial(rows, 0.12)), first + 40, first + DAY - 60,
        0, 0,
        tuple([0] * 24 + [rows // 24] * 24 + [0] * 24), ((0, rows),),
        {"user": column(0.05), "item": column(0.02), "category": column(0.0), "hour": column(None)},
    )  # fmt: skip
    return Stats("taobao", first, first + DAY, 0.5, {"impressions": relation},
                 {"malformed": int(rng.binomial(rows, 0.001))})  # fmt: skip


def settings(batch=1024):
    """As `config.json` of a chain, in part."""
    return {
        "form": 1,
        "asked": {"dataset": "taobao"},
        "experiment": {"data": {"negative_rate": 0.5}, "fit": {"batch_size": batch}},
        "periods": {"type": "periods", "days": 1, "utc_offset_hours": 8.0},
        "data_gate": {"type": "data gate", "deviations": 5.0},
        "model_gate": {},
    }


def predictions(seed, users, noise):
    """Candidate before and after its calibrator, and incumbent."""
    labels, owner, (new, old) = evening(seed, users=users, rows=8, noise=noise)
    rng = np.random.default_rng(seed)
    lengths = rng.poisson(20, users)[owner]
    ids = {"user": (owner + 2) * (rng.random(users) > 0.05)[owner] + (owner < 0),
           "item": rng.integers(1, 40, owner.size)}  # fmt: skip
    found = Predictions(labels, new, owner, lengths, None, 1.25 * new + 0.25, ids)
    return found, 1.25 * new + 0.25, replace(found, calibrated=old)


def attempt(nights, day, ends="PUBLISHED", *, seed=0, of=None, before=(), first=False, users=250,
            noise=(0.3, 0.33), parent=None, thresholds=LENIENT, bless="", renumbered=False,
            sentence="", batch=1024, retryable=False, number=1, stage=None):  # fmt: skip
    """Writes ``nights/dt=day/attempt-NN`` that ends so, and gives its folder.

    before: the days' statistics before. of: what was rejected. stage: where a FAILED one stopped.
    """
    folder = nights / f"dt={day}" / f"attempt-{number:02d}"
    folder.mkdir(parents=True)
    cutoff = begin(day) + 3 * DAY // 4
    reached = {"SKIPPED": 2, "HOLD": 8, "REJECTED": 2 if of == "data" else 8, "FAILED": 4}
    stages = [{"stage": s, "at": f"2017-12-31T19:{n:02d}:00Z", "seconds": 30.0 * n}
              for n, s in enumerate(STAGES[: reached.get(ends, 10)])]  # fmt: skip
    version = int(f"{day:%Y%m%d}01")
    record = {
        "form": 2, "model": "ctr", "date": str(day), "attempt": folder.name, "blessed": None,
        "settings": "0" * 64, "cold": parent is None, "cold_asked": False,
        "parent": parent and {"version": parent[0], "date": str(parent[1]), "attempt":
                              f"dt={parent[1]}/attempt-01", "cutoff": begin(parent[1])},
        "window": [cutoff - DAY, cutoff, begin(day) + DAY], "stages": stages, "simulated": True,
        "stage": stages[-1]["stage"], "version": version if ends == "PUBLISHED" else None,
    }  # fmt: skip
    if bless:
        record["blessed"] = {"reason": bless, "by": "ada", "was": "HOLD"}
    write(folder / "config.json", settings(batch))
    if ends != "SKIPPED":
        record["inputs"] = {str(day): {"part-0000.csv": sha256(str(day).encode()).hexdigest()}}
        odd = _counted(folder, day, seed, before, renumbered)
        if of == "data":
            sentence = f"the log of {day} is refused: {odd[0].sentence}"
    if reached.get(ends, 10) >= 8:
        record["rows"] = {"train": 26_000, "validation": 2000, "test": 2000}
        said = _judged(folder, seed, users, noise, first, thresholds, bless, parent)
        sentence = sentence or said
    if ends == "PUBLISHED":
        sentence = f"version {version} is published"
    record["outcome"] = _outcome(ends, sentence, of, stage, retryable)
    write(folder / "run.json", record)
    return folder


def _counted(folder, day, seed, before, renumbered):
    """The files of the data gate; the anomalies."""
    now = stats(day, seed, renumbered=renumbered)
    odd = data_gate.check(now, before, DataThresholds())
    write(folder / "stats.json", {str(day): now.to_json()})
    write(folder / "anomalies.json", {str(day): [a.to_json() for a in odd]})
    return odd


def _outcome(ends, sentence, of, stage, retryable):
    """As the job records it; None of a night that has not ended."""
    if ends == "UNFINISHED":
        return None
    code = {"PUBLISHED": 0, "SKIPPED": 10, "FAILED": 75 if retryable else 2, "HOLD": 12}
    found = {"name": ends, "exit": code.get(ends, 11 if of == "data" else 12), "of": of,
             "sentence": sentence}  # fmt: skip
    failed = {"of": stage or "TRAINED", "retryable": retryable}
    return found | (failed if ends == "FAILED" else {})


def _judged(folder, seed, users, noise, first, thresholds, bless, parent):
    """The files of a judged night; the sentence of a check that did not pass."""
    new, before, old = predictions(seed, users, noise)
    known = {"user": new.ids["user"], "item": new.ids["item"]}
    scores = [model_gate.Scores(x.labels, x.calibrated, x.users) for x in (new, old)]
    verdict = model_gate.judge(scores[0], None if first else scores[1], thresholds,
                               segments=segments.masks(new, known))  # fmt: skip
    if bless:
        verdict = override(verdict, bless)
    values = [evaluation.report(x) | {"segments": segments.to_json(segments.report(x, known))}
              for x in (new, old)]  # fmt: skip
    raw = evaluation.report(replace(new, calibrated=before))
    warm = parent and {"parent": parent[0], "step": 5120, "new": {"user": 410, "item": 37},
                       "fresh": [], "moved": 0.0}  # fmt: skip
    training = {"commit": "0123abc", "steps": 260, "train_seconds": 41.5, "warm": warm,
                "calibrator": {"click": {"kind": "platt", "rows": 2000}},
                "unknown_share": {"user": 0.05}}  # fmt: skip
    write(folder / "metrics.json", {
        "candidate": values[0] | {"uncalibrated": raw}, "incumbent": None if first else values[1],
        "no_incumbent": "nothing was published before" if first else None,
        "training": training, "simulated": True})  # fmt: skip
    write(folder / "gate.json", verdict.to_json())
    columns = {"labels": new.labels, "users": new.users, "lengths": new.lengths,
               "candidate": new.calibrated, "uncalibrated": before}  # fmt: skip
    if not first:
        columns["incumbent"] = old.calibrated
    np.savez_compressed(folder / "predictions.npz", **columns)
    wrong = [c for c in verdict.checks if c.outcome != "pass"]
    return f"the gate refuses the model ({wrong[0].name}): {wrong[0].sentence}" if wrong else ""


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def chain(nights, first, count, **last):
    """So many nights, the last one as said: one is missing, one was skipped, one was rejected."""
    before, parent, made = [], None, []
    for n in range(count):
        day = first + timedelta(n)
        common = {"seed": n, "before": before, "parent": parent, "first": parent is None}
        if n == count - 1:
            made.append(attempt(nights, day, **{**common, **last}))
            break
        if n == count - 4:
            continue
        if n == count - 3:
            made.append(attempt(nights, day, "SKIPPED", sentence="no folder", parent=parent))
            continue
        ends = {"bless": "the first model"} if n == 0 else {}
        made.append(attempt(nights, day, **common, **ends))
        before.append(stats(day, n))
        parent = (int(f"{day:%Y%m%d}01"), day)
    return made


def copied(folder, to):
    return shutil.copytree(folder, to / "ctr" / folder.parent.name / folder.name)


def night(text):
    return date.fromisoformat(text)
