"""The weight of the fused score: chosen on validation, kept in the run, measured on test."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from at4ctr.calibration import Platt
from at4ctr.evaluation import Predictions
from at4ctr.metrics import sigmoid
from pipelines import fusion
from tests.oracles import derived, metrics

NAME, ROWS = "click_without_conversion", 400


def model(**changes: Any) -> Any:
    return SimpleNamespace(**{"fused": ("conversion", NAME), "score_weight": 0.0, **changes})


def drawn(helps: float, seed: int = 0) -> dict[str, Predictions]:
    """Conversions of every third row, which the derived label's logit tells apart or not."""
    rng = np.random.default_rng(seed)
    rows = np.arange(0, ROWS, 3)
    bought = (rng.random(rows.size) < 0.4).astype(np.float32)
    users, one = rng.integers(0, 9, ROWS), np.ones(ROWS, int)
    rest = rng.normal(size=ROWS)
    rest[rows] -= helps * bought
    own = 0.02 * rng.normal(size=rows.size) - 3
    clicked = np.zeros(ROWS, np.float32)
    clicked[rows] = 1 - bought
    return {
        "conversion": Predictions(bought, own, users[rows], one[rows], None, own, {}, rows),
        NAME: Predictions(clicked, rest, users, one, None, rest, {}, np.arange(ROWS)),
    }


def curve(found: dict[str, Predictions]) -> dict[str, float]:
    """Of the oracles: the rows of both labels are matched by their positions one by one."""
    rows, rest = found["conversion"], found[NAME]
    assert rows.rows is not None
    c = np.array([sigmoid(rest.calibrated[i]) for i in rows.rows])
    p = sigmoid(rows.calibrated)
    return {f"{s:g}": metrics.auc(rows.labels, derived.score(p, c, s)) for s in fusion.WEIGHTS}


@pytest.mark.parametrize("helps", [2.0, -2.0])
def test_the_best_weight_is_taken_and_kept(helps, tmp_path):
    found, made = drawn(helps), model()
    (tmp_path / fusion.SCORE).write_text("{}")  # of an unfinished end
    chosen = fusion.choose(made, found, {}, tmp_path)
    assert chosen == pytest.approx(curve(found))
    assert list(chosen) == [f"{s:g}" for s in fusion.WEIGHTS]
    again = model()
    fusion.restore(again, tmp_path)
    assert again.score_weight == made.score_weight
    measured = fusion.metrics(made, found)["score"]
    assert measured["auc"] == pytest.approx(max(chosen.values()))
    assert measured["weight"] == made.score_weight
    if helps > 0:
        assert made.score_weight == float(max(chosen, key=chosen.__getitem__)) > 0
        assert json.loads((tmp_path / fusion.SCORE).read_text()) == {"weight": made.score_weight}
    else:
        assert made.score_weight == 0.0
        assert not (tmp_path / fusion.SCORE).exists()


def test_of_equal_weights_the_least_is_taken(tmp_path):
    found, made = drawn(0.0), model()
    found[NAME] = replace(found[NAME], calibrated=0 * found[NAME].calibrated)
    fusion.choose(made, found, {}, tmp_path)
    assert made.score_weight == 0.0


def test_the_calibrators_are_applied_first(tmp_path):
    found = drawn(0.5)
    choices: Any = {"conversion": SimpleNamespace(calibrator=Platt(9.0, 2.0)),
                    "click": SimpleNamespace(calibrator=None)}  # fmt: skip
    chosen = fusion.choose(model(), found, choices, tmp_path)
    rows = found["conversion"]
    fitted = replace(rows, calibrated=Platt(9.0, 2.0).logits(rows.calibrated))
    assert chosen == pytest.approx(curve({**found, "conversion": fitted}))


@pytest.mark.parametrize("fused", [(), ("conversion", NAME)])
def test_without_predictions_or_a_derived_label_there_is_none(fused, tmp_path):
    found = drawn(1.0) if not fused else {}
    made = model(fused=fused, score_weight=0.3)
    assert fusion.choose(made, found, {}, tmp_path) == {}
    assert made.score_weight == 0.0
    assert fusion.metrics(made, found) == {}


def test_rows_of_one_class_choose_nothing(tmp_path):
    found, made = drawn(1.0), model()
    found["conversion"].labels[:] = 0
    assert fusion.choose(made, found, {}, tmp_path) == {}
    assert fusion.metrics(made, found)["score"] == {"label": "conversion", "weight": 0.0}
