"""The validation curve of a short run: points of a sample that change nothing else."""

from dataclasses import replace
from types import SimpleNamespace

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


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """A run with points of a sample, which ended undisturbed."""
    made = trainer(store, tmp_path_factory.mktemp("whole"))
    made.train()
    return made


def weights(made):
    return [v.numpy() for v in made.model.variables]


def without_sample(curves):
    return [p for p in curves if not any(k.startswith("sample") for k in p)]


def test_a_run_of_one_epoch_has_five_points_at_equal_distances(whole):
    steps = whole.feed.steps(0)
    found = [p["step"] for p in whole.cursor.curves if NAME in p]
    assert found == [int(np.ceil(steps * k / 5)) for k in range(1, 6)]
    assert steps > 10  # so that the points differ
    last = [p for p in whole.cursor.curves if NAME in p or "validation click.auc" in p]
    assert last[-2][NAME] == last[-1]["validation click.auc"]  # the sample holds the whole split


def test_points_of_a_sample_change_no_weight_and_no_choice(store, tmp_path, whole):
    made = trainer(store, tmp_path, sampled=False)
    made.train()
    assert without_sample(whole.cursor.curves) == made.cursor.curves
    assert (made.cursor.best, made.cursor.best_step) == (whole.cursor.best, whole.cursor.best_step)
    for a, b in zip(weights(made), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_was_killed_between_points_has_the_same_curve(store, tmp_path, whole):
    class KilledError(Exception):
        pass

    made = trainer(store, tmp_path)
    step, last = made._step, whole.feed.steps(0) - 2

    def killed(batch):
        if made.cursor.step == last:
            raise KilledError
        return step(batch)

    made._step = killed
    with pytest.raises(KilledError):
        made.train()
    again = trainer(store, tmp_path)
    again.train()
    assert again.cursor.curves == whole.cursor.curves
    for a, b in zip(weights(again), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    again._sample()  # a stop came after the point and before the evaluation of the same step
    assert again.cursor.curves == whole.cursor.curves


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
    made = SimpleNamespace(config=Fit(**options), sample=lambda rows: rows)
    assert Trainer._points(made, 100) == points
    assert not Trainer._points(SimpleNamespace(config=made.config, sample=None), 100)


@pytest.mark.parametrize(("rows", "sample"), [(0, 2048), (204_800, 2048), (10**8, 10**6)])
def test_a_sample_grows_with_the_run(rows, sample):
    assert fit.sample_rows(rows) == sample


def test_too_few_steps_are_said_with_a_remedy():
    assert fit.too_few(Fit(), 100) == ""
    said = fit.too_few(Fit(batch_size=2048, epochs=2), 99)
    assert "takes 99 steps of 2,048 rows in 2 epochs; expected at least 100" in said
    assert "set a larger fit.epochs or a smaller fit.batch_size" in said


def test_a_run_says_so_before_its_first_step(store, tmp_path, caplog):
    made = trainer(store, tmp_path, sampled=False)
    said = []

    def stop(batch):
        del batch
        said.extend(caplog.messages)
        raise KeyboardInterrupt

    made._step = stop
    with caplog.at_level("WARNING", logger="at4ctr"), pytest.raises(KeyboardInterrupt):
        made.train()
    assert any(fit.too_few(CONFIG, made.total) in message for message in said)
