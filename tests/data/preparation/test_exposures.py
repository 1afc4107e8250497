"""Weights of repeated exposures against a loop over the rows."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, logit

from at4ctr.calibration import fitting
from at4ctr.data.dataset import Options
from at4ctr.data.datasets import simulated as simulated_log
from at4ctr.data.engines.duck import Engine
from at4ctr.data.preparation import exposures
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Schema, Table
from tests.oracles import exposures as oracle

DAY = 86_400
NUMBER = 400


@dataclass(frozen=True)
class Log(Options):
    """Impressions in memory."""

    repeat_weight: float = 0.8
    repeat_count: float = 0.3
    repeat_days: float = 2.0

    def schema(self):
        tables = (Table("user"), Table("item"), Table("brand"))
        features = (Feature("user", "profile", "user"), Feature("item", "item", "item"),
                    Feature("brand", "item", "brand"))  # fmt: skip
        return Schema(tables, features, weighted=True)

    def acquire(self):
        raise NotImplementedError

    def load(self, engine, source):
        raise NotImplementedError

    def split(self):
        raise NotImplementedError


@pytest.fixture
def log():
    """Columns of a log with many rows of a user and item in one second."""
    rng = np.random.default_rng(3)
    return {
        "user": rng.integers(6, size=NUMBER),
        "item": rng.integers(8, size=NUMBER),
        "timestamp": 1_700_000_000 + DAY // 2 * rng.integers(20, size=NUMBER),
        "label_click": rng.integers(2, size=NUMBER),
        "ord": np.arange(NUMBER),
    }


def weights(folder, config, columns):
    """w_rep of every row."""
    columns = columns | {"brand": columns["item"] // 2}
    with Engine(Path(tempfile.mkdtemp(dir=folder))) as engine:
        engine.register("given", pa.table(columns))
        engine.execute("CREATE TABLE impressions AS SELECT * FROM given")
        exposures.add_repeats(engine, config)
        found = engine.arrow(f"SELECT {exposures.REPEATED} AS w FROM impressions ORDER BY ord")
        return found.column("w").to_numpy()


@pytest.mark.parametrize("by", ["", "brand"])
def test_repeats_are_weighed_as_in_a_loop(tmp_path, log, by):
    config = Log(repeat_by=by)
    ad = log["item"] // 2 if by else log["item"]
    expected = oracle.repeats(
        log["user"], ad, log["timestamp"], log["label_click"], strength=0.8, count=0.3, days=2
    )
    found = weights(tmp_path, config, log)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0.2 < (found > 1).mean() < 1


def test_a_weight_needs_an_unclicked_exposure_of_an_earlier_second(tmp_path):
    log = {
        "user": np.array([1, 1, 1, 2, 1]),
        "item": np.array([7, 7, 7, 7, 9]),
        "timestamp": 1_700_000_000 + np.array([0, 0, 2 * DAY, 2 * DAY, 2 * DAY]),
        "label_click": np.array([0, 1, 0, 0, 0]),
        "ord": np.arange(5),
    }
    assert weights(tmp_path, Log(), log).tolist() == [1, 1, pytest.approx(1.4), 1, 1]


def test_later_rows_change_no_weight(tmp_path, log):
    before = log["timestamp"] < np.median(log["timestamp"])
    whole = weights(tmp_path, Log(), log)
    part = weights(tmp_path, Log(), {k: v[before] for k, v in log.items()})
    np.testing.assert_array_equal(whole[before], part)


def prepared(config, folder):
    """Split -> labels and weights of a store."""
    store = Store.open(prepare(config, folder), config.schema(), config.preparation())
    found = {}
    for split in ("train", "test"):
        rows = Reader(store, split, batch_size=1000, history=1, drop_remainder=False)
        batches = list(rows.dataset(0))
        found[split] = tuple(
            np.concatenate([b[name].numpy() for b in batches])
            for name in ("label_click", "weight", "exposures")
        )
    return found, store


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A simulated log with repeated exposures."""
    folder = tmp_path_factory.mktemp("repeats")
    config = simulated_log.Config(
        raw=str(folder / "raw"), users=300, items=400, categories=40, rows=9000, days=4,
        impressions=30_000, click_rate=0.2, reshown=0.4, fatigue=0.3, repeat_weight=1.0,
    )  # fmt: skip
    return config, folder


def test_positives_keep_the_base_rate_of_training_rows(simulated):
    config, folder = simulated
    found, store = prepared(config, folder / "data")
    click, weight = (a.astype(np.float64) for a in found["train"][:2])
    (factor,) = np.unique(weight[click == 1])
    assert np.average(click, weights=weight) == pytest.approx(click.mean(), rel=1e-4)
    assert np.unique(found["test"][1][found["test"][0] == 1]).tolist() == [factor]
    assert any(f"a positive weighs {factor:.4f}" in note for note in store.manifest["notes"])


def test_predictions_keep_their_mean(simulated):
    """A model of the exposures alone, fitted to the weighted rows: its mean is that of the clicks
    over these rows, and over rows without weights once a calibrator is fitted to half of them."""
    config, folder = simulated
    found, _ = prepared(config, folder / "data")
    click, weight, met = (a.astype(np.float64) for a in found["train"])
    rate = {m: np.average(click[met == m], weights=weight[met == m]) for m in np.unique(met)}
    predicted = np.vectorize(rate.get)(met)
    assert np.average(predicted, weights=weight) == pytest.approx(click.mean(), rel=1e-4)
    assert predicted.mean() / click.mean() > 1.02
    calibrated = fitting.fit("platt", logit(predicted)[::2], click[::2])(logit(predicted))
    assert calibrated.mean() / click.mean() == pytest.approx(1, abs=0.02)


def test_the_simulator_shows_items_again_and_tires(simulated):
    config, _ = simulated
    plain = replace(config, reshown=0.0, fatigue=0.0)
    logs = {}
    for name, one in (("again", config), ("plain", plain)):
        source = one.acquire()
        logs[name] = pq.read_table(source.files[1]).to_pandas()
    again = logs["again"]
    counted = again.groupby(["user", "item"]).cumcount()
    np.testing.assert_array_equal(again["exposures"], counted)
    assert (again["exposures"] > 0).mean() > 0.2 + (logs["plain"]["exposures"] > 0).mean()
    odds = np.log(again["probability"] / (1 - again["probability"]))
    assert odds[counted >= 5].mean() < odds[counted == 0].mean()
    assert expit(odds).mean() == pytest.approx(again["click"].mean(), abs=0.02)


def test_options_that_do_not_fit_are_refused(tmp_path, log):
    with pytest.raises(InputError, match=r"at most 1000 half-lives; set data\.repeat_days=1"):
        weights(tmp_path, Log(repeat_days=0.001), log)
    with pytest.raises(InputError, match="repeat_by"):
        weights(tmp_path, Log(repeat_by="shop"), log)
    with pytest.raises(InputError, match="repeat_weight is -1"):
        Log(repeat_weight=-1.0)
    with Engine(tmp_path) as engine, pytest.raises(InputError, match="the log has no impressions"):
        exposures.add_repeats(engine, Log())
