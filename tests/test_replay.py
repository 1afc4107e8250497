"""The replay's own logic: which nights are played, seconds taken, rows compared, a page written."""

import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, cast

import numpy as np
import pytest

from at4ctr.data.days import find
from at4ctr.registry import Entry
from benchmarks import replay_models, replay_nights, replay_page
from pipelines.night import attempt as attempts
from pipelines.night import chain, steps
from pipelines.night.outcome import End

LOG = replay_nights.LOGS["taobao"]
DATES = [LOG.first + timedelta(k) for k in range(3)]


def model(seed, shift=0.0, **given):
    """A model that ranks `shift` of the clicks better."""
    rng = np.random.default_rng(seed)
    labels, users = np.arange(60) % 2, np.arange(60) // 6
    p = np.clip((0.3 + shift) * labels + rng.random(60) * 0.6, 0, 1)
    base = replay_models.Model(
        100,
        "PUBLISHED",
        {"data": 1.0, "train": 2.0, "gate": 0.5, "export": 4.0},
        2_000_000,
        np.stack([labels, users, np.arange(60)]).astype(str),
        labels,
        users,
        p,
    )
    return replace(base, **given)


def test_the_days_are_dealt_once_and_the_commit_is_kept(tmp_path):
    log = replace(LOG, data=lambda rows: replace(LOG.data(rows), raw=str(tmp_path / "log.csv")))
    begin = LOG.periods.begin(LOG.first)
    moments = [begin + 86_400, begin - 1, begin, begin + 86_399, begin + 3 * 86_400]
    lines = [f"{n},7,007,pv,{t}\n".encode() for n, t in enumerate(moments)]
    (tmp_path / "log.csv").write_bytes(b"".join(lines))
    for _ in range(2):
        root = replay_nights.delivered(log, "taobao", tmp_path, 6000, DATES[1])
    found = [d.files[0].read_bytes() for d in find(root, DATES[:2])]
    assert found == [lines[2] + lines[3], lines[0]]
    assert len([*root.glob("dt=*")]) == 2
    assert (tmp_path / replay_page.COMMIT).exists()
    assert not replay_nights.simulated(root, DATES[0])


def test_a_night_ends_with_its_period():
    assert LOG.dates(3) == DATES
    weeks = replace(replay_nights.LOGS["tafeng"], before=2)
    assert weeks.dates(2) == [weeks.first + timedelta(20), weeks.first + timedelta(27)]


def test_the_flags_of_a_log_make_a_chain_and_a_seed_is_the_last_word():
    for name, log in replay_nights.LOGS.items():
        made = chain.made({**replay_nights.seeded(log, 3), "dataset": name})
        assert made.periods == log.periods
        assert made.experiment.data.name == name
        assert made.experiment.seed == 3


def test_seconds_of_a_repeated_step_add_up_and_the_steps_come_back(tmp_path, monkeypatch):
    before = dict(steps.STEPS)
    with replay_nights.timed(tmp_path / "a" / "s.json"):
        monkeypatch.setattr(replay_nights, "cpu", iter([0.0, 0.1, 0.3, 0.4]).__next__)
        for _ in range(2):
            steps.STEPS["WAIT_DATA"](cast(steps.Night, None))
    assert before == steps.STEPS
    known = json.loads((tmp_path / "a" / "s.json").read_text())
    assert set(known) == {"WAIT_DATA"}
    assert known["WAIT_DATA"]["cpu"] == pytest.approx(0.2)


@pytest.mark.parametrize("of", ["data", "model"])
def test_only_a_refused_log_is_accepted(monkeypatch, of):
    asked, accepted = [], []

    def step(night):
        asked.append(night)
        if len(asked) < 3:
            raise End("REJECTED", 11, "odd", of=of)
        return {"rows": 7}

    class Attempt:
        record = {"inputs": {}}  # noqa: RUF012

    nothing: Any = None
    one = steps.Night(nothing, nothing, cast(Any, Attempt()))
    monkeypatch.setitem(steps.STEPS, "DATA_OK", step)
    monkeypatch.setattr("pipelines.night.days.accept", lambda *a: accepted.append(a))
    if of == "model":
        with pytest.raises(End):
            replay_nights.accepting(one, "DATA_OK")
        assert not accepted
    else:
        assert replay_nights.accepting(one, "DATA_OK") == {"rows": 7}
        assert len(accepted) == 2


def test_models_are_compared_on_the_same_rows_alone():
    nights, cold = [model(1, 0.1), model(2, 0.1)], [model(1), model(2)]
    found = replay_models.gap({"nights": nights, "cold": cold})
    assert found.seeds == tuple(a.auc - b.auc for a, b in zip(nights, cold, strict=True))
    assert found.low < found.mean < found.high
    assert found.noise == (abs(cold[0].auc - cold[1].auc),)
    same = replay_models.gap({"nights": cold, "cold": cold})
    assert same[:3] == ((0, 0), 0, 0)
    other = cold[0].keys.copy()
    other[2, 4] = "-1"
    replay_models.demand_same(cold[0], replace(cold[0], keys=other))
    other[2, 5] = "x"
    with pytest.raises(SystemExit, match="other rows"):
        replay_models.demand_same(cold[0], replace(cold[0], keys=other))


def test_what_was_done_by_hand_is_told_of_its_own_attempt(tmp_path):
    places = replay_models.places_of(tmp_path)
    for night, of in ((1, "data"), (1, "model"), (2, "model")):
        where = f"dt=2017-11-0{night}/attempt-01"
        facts = {"attempt": where, "of": of, "reason": "why"}
        places.ledger.append(Entry("blessed", "replay", "2017-12-01T00:00:00Z", None, facts))
    told = [replay_models._by_hand(places, attempts.Attempt(tmp_path / f"dt=2017-11-0{n}" / a))
            for n, a in ((1, "attempt-01"), (2, "attempt-01"), (2, "attempt-02"))]  # fmt: skip
    assert told == ["; log accepted by hand; first model blessed", "; first model blessed", ""]


def test_the_page_has_the_dates_that_every_seed_has_done(tmp_path, monkeypatch):
    parts = [f"{kind}-{seed}" for kind in replay_models.KINDS for seed in range(2)]
    done = {(part, day) for part in parts for day in DATES[:2]} | {("cold-0", DATES[2])}
    cold = model(1)
    nights = replace(cold, p=cold.p[::-1].copy(), state=3_500_000)
    monkeypatch.setattr(
        replay_models,
        "model",
        lambda f, d: (
            None if (f.name, d) not in done else nights if f.name.startswith("nights") else cold
        ),
    )
    (tmp_path / replay_page.COMMIT).write_text("abc")
    told = dict.fromkeys(("command", "about", "opened", "recipe", "chosen"), "x")
    replay_page.write(tmp_path, DATES, 2, told, tmp_path / "out", simulated=True)
    text = (tmp_path / "out" / "replay.md").read_text()
    assert text.startswith("# Nights against cold trainings (simulated log)\n")
    assert str(date(2017, 11, 25)) in text
    assert str(DATES[2]) not in text
    apart = nights.auc - cold.auc
    assert abs(apart) > 0.1
    assert f"| {nights.auc:.4f} | {cold.auc:.4f} | {apart:+.4f} (" in text
    assert f"night − cold is {apart:+.4f} ± 0.0000" in text
    assert "1 after it, 0 are within 0.002" in text
    assert "| 100 | 1.0 | 2.0 | 0.5 | 4.0 | 7.5 | 3.5 | 100 | 1.0 | 2.0 | 0.5 | 3.5 |" in text
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "replay.md", "replay.png", "replay.svg",
    }  # fmt: skip


def test_what_grows_is_said_in_figures():
    def by(data, rows, state):
        seconds = {"data": data, "train": 10 * data, "gate": 1.0, "export": 4.0}
        night = model(1, seconds=seconds, trained=rows, state=state)
        return {"nights": [night], "cold": [replace(night, seconds={**seconds, "train": 5 * rows})]}

    found = dict(zip(DATES, (by(1, 5, 1), by(2, 7, 3e6), by(3, 8, 4e6)), strict=True))
    said = " ".join(replay_page.timing(found).split())
    assert "a night 22 to 33 CPU seconds from the second date on; the cold" in said
    assert "training's grew from 37 to 43." in said
    assert "took a night 2.0 on the second date and 3.0 on the last, for 7 and 8 rows" in said
    assert "anew: 3.0 MB, then 4.0 MB." in said
    assert replay_page.timing(dict(list(found.items())[:2])) == ""
