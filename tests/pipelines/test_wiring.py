"""Which rows and which numbers each stage of the main job is given.

Two whole runs on stores that differ in the labels of the test split alone: all that is decided
before the test must be equal in both. A calibrator must map what the graph gives it: logit + ln w.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from at4ctr import evaluation
from at4ctr.auxiliaries import aqcl
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from pipelines import measure, train
from pipelines.assembly import Assembly
from pipelines.night import learn
from tests.oracles import metrics as oracle

RATE = 0.3
SETTINGS = (
    "data.users=200 data.items=150 data.categories=20 data.rows=5000 data.impressions=6000 "
    f"data.days=4 data.click_rate=0.2 data.negative_rate={RATE} data.history=8 "
    "fit.batch_size=64 fit.epochs=3 fit.evaluations=3 fit.patience=2 fit.learning_rate=0.01 "
    "embedding.dimension=4 calibrator=platt"
)


def reversed_labels(store, folder):
    """The store with each user's test labels in reverse order."""
    shutil.copytree(store.path, folder)
    changed = 0
    for file in (folder / "data").glob("*.parquet"):
        table = pq.read_table(file)
        labels = table.column("test_label_click").to_pylist()
        turned = [row[::-1] for row in labels]
        changed += sum(a != b for a, b in zip(labels, turned, strict=True))
        place = table.column_names.index("test_label_click")
        kind = table.schema.field("test_label_click").type
        table = table.set_column(place, "test_label_click", pa.array(turned, kind))
        size = pq.read_metadata(file).row_group(0).num_rows
        pq.write_table(table, file, row_group_size=size)
    assert changed > 20
    return Store.open(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(experiment, store, folder of the run, its metrics) of either store."""
    root = tmp_path_factory.mktemp("wiring")
    e = train.experiment("simulated", "widedeep", str(root / "raw"), SETTINGS)
    store = Store.open(prepare(e.data, root))
    done = []
    with pytest.MonkeyPatch.context() as patch:
        for number, its in enumerate((store, reversed_labels(store, root / "turned"))):
            patch.setattr(train, "RUNS", root / f"runs-{number}")
            folder = train.run(e, "widedeep", its, export=False)
            done.append((e, its, folder, json.loads((folder / "metrics.json").read_text())))
    return done


def labels_of(store, split):
    return store.read(split, store.groups(split)).instances["label_click"]


def test_nothing_that_is_decided_before_the_test_reads_its_rows(runs):
    """Early stopping, the choice of the weights and the calibrator."""
    (_, store, folder, one), (_, _, other, two) = runs
    assert one["auc"] != two["auc"]
    for fact in ("validation", "calibrator", "steps", "best_step"):
        assert one[fact] == two[fact], fact
    assert one["steps"] > one["best_step"] > 0  # it stopped early
    mine, its = ((f / "calibrator.json").read_bytes() for f in (folder, other))
    assert mine == its
    rows = store.counts("validation")["rows"]
    assert one["validation"]["rows"] == rows != store.counts("test")["rows"]
    assert one["calibrator"]["click"]["rows"] == rows
    assert one["rows"] == store.counts("test")["rows"]
    assert one["positives"] == labels_of(store, "test").sum()


def test_an_auxiliary_knows_the_rows_of_a_device_and_the_mean_of_the_store(runs):
    e, store, *_ = runs[0]
    e = replace(e, auxiliaries={"aqcl": aqcl.Config(codewords=65, use_history=False)})
    with pytest.raises(InputError, match=r"aqcl.codewords is 65 and a step has 64 rows"):
        Assembly(e, store).training(Assembly(e, store).serving())
    e = replace(e, auxiliaries={"aqcl": aqcl.Config(codewords=64, use_history=False)})
    model = Assembly(e, store).training(Assembly(e, store).serving())
    cuts = store.read("train", store.groups("train")).instances["cut"]
    task: Any = model.auxiliaries["aqcl"]
    assert task.mean_behaviours == pytest.approx(cuts.mean())


def test_a_calibrator_of_an_unfinished_end_is_gone(runs, tmp_path):
    """A run that is taken up again fits anew, or has none where there is no validation row."""
    e, store, folder, _ = runs[0]
    model = Assembly(e, store).restored(folder)
    assert model.calibrators
    shutil.copy(folder / "calibrator.json", tmp_path / "calibrator.json")
    assert measure.calibrate("platt", model, {}, tmp_path, 0)["click"].kind == "none"
    assert not model.calibrators
    assert not (tmp_path / "calibrator.json").exists()


def maximum_likelihood(z, y):
    """Slope and intercept of a logistic regression, by Newton's method."""
    x, beta = np.stack([z, np.ones_like(z)], 1), np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x @ beta)))
        beta += np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x, x.T @ (y - p))
    return beta


def test_the_calibrator_is_fitted_to_what_it_is_given_when_served(runs):
    """Its input is logit + ln w in both places: with w < 1 a bare logit gives another intercept."""
    e, store, folder, metrics = runs[0]
    served = Assembly(e, store).restored(folder)
    predict = evaluation.Predictor(served)
    found = predict(Assembly(e, store).reader("validation", 512))["click"]
    z = np.asarray(found.shifted, np.float64)
    best = roc_auc_score(labels_of(store, "validation"), z)
    assert metrics["validation"]["auc"] == pytest.approx(best, abs=1e-5)
    slope, intercept = maximum_likelihood(z, labels_of(store, "validation").astype(float))
    kept = json.loads((folder / "calibrator.json").read_text())["click"]
    assert kept["slope"] == pytest.approx(slope, rel=1e-4)
    assert kept["intercept"] == pytest.approx(intercept, abs=1e-4)
    assert abs((slope - 1) * np.log(RATE)) > 1e-3  # the check has power
    test = predict(Assembly(e, store).reader("test", 512))["click"]
    z = np.asarray(test.shifted, np.float64)
    q = 1 / (1 + np.exp(-(slope * z + intercept)))
    np.testing.assert_allclose(test.probability, q, rtol=1e-3)
    y = labels_of(store, "test")
    assert metrics["pcoc"] == pytest.approx(q.sum() / y.sum(), rel=1e-3)
    assert metrics["gauc"] == pytest.approx(oracle.gauc(y, z, test.users), abs=1e-4)
    assert metrics["logloss"] == pytest.approx(
        -np.where(y, np.log(q), np.log1p(-q)).mean(), rel=1e-3
    )
    assert metrics["uncalibrated"]["pcoc"] == pytest.approx(
        (1 / (1 + np.exp(-z))).sum() / y.sum(), rel=1e-3
    )


def test_a_night_fits_on_validation_and_is_judged_on_the_test(runs):
    e, store, folder, _ = runs[0]
    model = Assembly(e, store).restored(folder)
    fitted = Assembly(e, store).predictions(model, "validation")
    judged = learn.predicted(model, e, store)
    np.testing.assert_array_equal(fitted["click"].labels, labels_of(store, "validation"))
    np.testing.assert_array_equal(judged["click"].labels, labels_of(store, "test"))


def test_only_training_rows_are_sampled_shuffled_and_hidden(runs):
    e, store, _, _ = runs[0]
    training = Assembly(e, store).reader("train", 64)
    assert (training.negative_rate, training.shuffle, training.unknown_rate) == (RATE, True, 0.05)
    for split in ("validation", "test"):
        reader = Assembly(e, store).reader(split, 64)
        assert (reader.negative_rate, reader.shuffle, reader.unknown_rate) == (1.0, False, 0.0)
        assert reader.rows == store.counts(split)["rows"]
