"""The validation curve of a short run: points of a sample that change nothing else."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from at4ctr import evaluation, fit
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.fit import Fit, Trainer
from tests.data import toy_store
from tests.model import job

CONFIG = replace(job.FIT, batch_size=8, epochs=1, evaluations=1, checkpoint_every=2)
NAME = "sample click.auc"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("store") / "toy"
    toy_store.make(path, users=60)
    return Store.open(path)


def trainer(store, folder, *, sampled=True):
    """A trainer of a backbone whose statistics for serving are estimated before each point."""
    made = job.trainer(store, folder, config=CONFIG, auxiliaries={})
    if sampled:
        predict = evaluation.Predictor(made.model.serving)

        def sample(rows):
            reader = Reader(store, "validation", batch_size=rows, history=job.HISTORY,
                            shuffle=False, drop_remainder=False)  # fmt: skip
            return {k: evaluation.report(v) for k, v in predict(reader, 1).items()}

        made.sample = sample
    return made


def weights(made):
    return [v.numpy() for v in made.model.variables]


def test_points_of_a_sample_change_nothing_else_not_even_after_a_kill(store, tmp_path):
    """A run without a sample, and one with a sample that is killed in the middle and resumed."""

    class KilledError(Exception):
        pass

    plain = trainer(store, tmp_path / "plain", sampled=False)
    plain.train()
    first = trainer(store, tmp_path / "sampled")
    step, last = first._step, plain.total - 2

    def killed(batch):
        if first.cursor.step == last:
            raise KilledError
        return step(batch)

    first._step = killed
    with pytest.raises(KilledError):
        first.train()
    made = trainer(store, tmp_path / "sampled")
    made.train()
    points = [p for p in made.cursor.curves if NAME in p]
    steps = plain.total
    assert steps > 10  # so that the points differ
    assert [p["step"] for p in points] == [int(np.ceil(steps * k / 5)) for k in range(1, 6)]
    shared = [p for p in first.cursor.curves if NAME in p and p["step"] <= last]
    assert points[: len(shared)] == shared
    assert len({p[NAME] for p in points}) > 1
    others = [p for p in made.cursor.curves if NAME not in p]
    assert others == plain.cursor.curves
    assert points[-1][NAME] == others[-1]["validation click.auc"]  # the sample is the whole split
    assert (made.cursor.best, made.cursor.best_step) == (plain.cursor.best, plain.cursor.best_step)
    for a, b in zip(weights(made), weights(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    made._sample()  # as where a stop came after the point and before the evaluation of that step
    assert [p for p in made.cursor.curves if NAME in p] == points


@pytest.mark.parametrize(("options", "points"), [
    ({}, {20, 40, 60, 80, 100}),
    ({"epochs": 2}, {34, 67, 100}),
    ({"epochs": 5}, set()),
    ({"evaluations": 5}, set()),
    ({"evaluations": 4}, {20, 40, 60, 80, 100}),
    ({"curve_points": 0}, set()),
    ({"curve_points": 1}, set()),
])  # fmt: skip
def test_points_are_taken_where_evaluations_are_too_few_for_a_curve(options, points):
    made: Any = SimpleNamespace(config=Fit(**options), sample=lambda rows: rows)
    assert Trainer._points(made, 100) == points
    made.sample = None
    assert not Trainer._points(made, 100)


@pytest.mark.parametrize(("rows", "sample"), [(0, 2048), (204_800, 2048), (10**8, 10**6)])
def test_a_sample_grows_with_the_run(rows, sample):
    assert fit.sample_rows(rows) == sample


def test_too_few_steps_are_said_with_a_remedy():
    assert fit.too_few(Fit(), 100) == ""
    said = fit.too_few(Fit(batch_size=2048, epochs=2), 99)
    assert "takes 99 steps of 2,048 rows in 2 epochs; expected at least 100" in said
    assert "set a larger fit.epochs or a smaller fit.batch_size" in said
