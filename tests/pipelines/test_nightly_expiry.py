"""A night whose version forgets ids that have not come for a day."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf

from at4ctr.data.nights import state
from at4ctr.errors import InputError
from pipelines.night import chain as chains
from tests.pipelines import nights
from tests.pipelines.nights import FIRST, SECOND, WORSE, call, cut, dated, flags, moved, record

GONE = {7, 12, 30}  # items


def without(root, number):
    """Delivers a day without some items."""
    folder = nights.deliver(root, number)
    lines = (folder / "part-00000.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if int(line.split(",")[1]) not in GONE]
    assert len(kept) < len(lines)
    (folder / "part-00000.csv").write_text("".join(kept))


def test_a_night_that_was_stopped_forgets_ids_that_have_not_come(
    chain, tmp_path, monkeypatch, capsys
):
    root = moved(chain.before, tmp_path / "chain")
    for number in (SECOND, WORSE):
        without(root, number)
    asked = flags(root, WORSE, expire_days=1, adopt=True, reason="ids come and go")
    cut(monkeypatch, capsys, asked, "night.trained.before")
    code, value = call(capsys, flags(root, WORSE))
    assert (code, value["outcome"]) == (0, "PUBLISHED"), value
    (parent, _), (folder, found) = record(root, FIRST), record(root, WORSE)
    assert found["attempt"] == "attempt-01"
    before, after = (state.vocabularies(f / "data/state") for f in (parent, folder))
    known, now = before["item"].to_pylist(), after["item"].to_pylist()
    assert set(known) >= GONE
    assert set(now).isdisjoint(GONE)
    assert [i for i in known if i in now] == now[: len(set(known) & set(now))]
    told = json.loads((folder / "training.json").read_text())["warm"]
    assert told["gone"]["item"] == len(set(known) - set(now)) >= len(GONE)
    version = root / "serving/ctr" / str(value["version"])
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    names = served.structured_input_signature[1]
    answers = {}
    for item in (*sorted(GONE), 999_999, now[0]):
        given = {n: tf.fill([1] * len(s.shape), tf.cast(1, s.dtype)) for n, s in names.items()}
        asked = served(**given | {"item": tf.constant([item], tf.int64)})
        answers[item] = float(asked["logit"][0])
    assert len({answers[i] for i in GONE | {999_999}}) == 1
    assert answers[now[0]] != answers[999_999]
    assert "expire_days was 0 and is 1" in (root / "registry/ctr/nightly.json").read_text()
    assert str(dated(SECOND)) in found["inputs"]


def test_the_days_of_expiry_are_whole_and_a_period_at_least():
    chain = {**nights.CHAIN, "days": "7"}
    assert chains.made({**chain, "expire_days": "7"}).expire_days == 7
    for wrong in ("6", "-1", "7.5", ""):
        with pytest.raises(InputError, match=r"--expire_days is .*, or 0 for no end"):
            chains.made({**chain, "expire_days": wrong})
