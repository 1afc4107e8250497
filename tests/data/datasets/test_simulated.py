"""The simulated impression log: the labels, the truth, and the split by days."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from at4ctr.data.datasets.simulated import Config
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.simulation.world import DAY, START
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.data.datasets.test_amazon_beauty import decoded


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    return Config(
        raw=str(folder), users=300, items=400, categories=40, rows=9_000, impressions=6_000, days=5
    )


@pytest.fixture(scope="module")
def store(config, tmp_path_factory):
    return Store.open(prepare(config, tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def logs(config):
    behaviours, impressions = (pd.read_parquet(file) for file in config.acquire().files)
    kept = behaviours.user.map(behaviours.user.value_counts()) >= config.min_behaviours
    active = set(behaviours.user[kept])
    return behaviours[kept], impressions[impressions.user.isin(active)].reset_index(drop=True)


def test_it_is_labelled_and_knows_the_truth(store):
    assert store.simulated
    assert store.truth
    assert any("simulated" in note for note in store.manifest["notes"])


def test_the_log_is_simulated_once_and_anew_for_another_world(config):
    first = config.acquire()
    times = [file.stat().st_mtime_ns for file in first.files]
    again = replace(config, history=7, seed=5, protocol="paper").acquire()
    assert again.files == first.files
    assert [file.stat().st_mtime_ns for file in again.files] == times
    assert replace(config, world_seed=2).acquire().files != first.files
    assert replace(config, impressions=6_001).acquire().files != first.files


def test_a_log_of_which_one_file_is_missing_is_simulated_again(config, tmp_path):
    config = replace(config, raw=str(tmp_path))
    files = config.acquire().files
    files[1].unlink()
    assert config.acquire().files == files
    assert all(file.is_file() for file in files)


def test_the_last_day_is_test_and_the_day_before_validation(store, logs, config):
    _, impressions = logs
    day = (impressions.timestamp - START) // DAY
    last = config.days - 1
    split = np.select([day == last, day == last - 1], ["test", "validation"], "train")
    for name in ("train", "validation", "test"):
        assert store.counts(name)["rows"] == (split == name).sum() > 0
        assert (
            store.counts(name)["labels"]["click"]["positives"]
            == impressions.click[split == name].sum()
        )


def test_every_impression_keeps_its_label_position_probability_and_history(store, logs):
    behaviours, impressions = logs
    rows = decoded(store)
    times = {user: part.timestamp.to_numpy() for user, part in behaviours.groupby("user")}
    cut = [
        np.searchsorted(times[u], t)
        for u, t in zip(impressions.user, impressions.timestamp, strict=True)
    ]
    found, positions = [], []
    for split in ("train", "validation", "test"):
        users = store.read(split, store.groups(split), truth=True)
        found.append(users.instances["truth_click"])
        positions.append(users.instances["position"])
    names = store.vocabulary_path("position").read_text().split()
    position = [int(names[k - 2]) for k in np.concatenate(positions)]
    assert sorted(position) == sorted(impressions.position)
    probability = np.concatenate(found)
    made = zip(rows.user, rows.item, rows.label, rows.cut, position, probability, strict=True)
    raw = zip(
        impressions.user,
        impressions.item,
        impressions.click,
        cut,
        impressions.position,
        impressions.probability,
        strict=True,
    )
    assert sorted(made) == sorted(raw)
    sequence = behaviours.groupby("user").item.agg(tuple)
    assert all(s == sequence[u][: len(s)] for u, s in zip(rows.user, rows.seen, strict=True))


def test_behaviours_keep_their_types(store, logs):
    behaviours, _ = logs
    names = store.vocabulary_path("type").read_text().split()
    users = store.read("train", store.groups("train"))
    found = pd.Series(users.behaviours["type"]).value_counts()
    expected = behaviours.type.value_counts()
    assert {names[k - 2]: n for k, n in found.items() if k >= 2} == {
        t: n for t, n in expected.items() if t in names
    }


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("impressions", 0, "impressions is 0; expected at least 1"),
        ("days", 2, "days is 2; expected at least 3"),
        ("click_rate", 1.0, "click_rate is 1.0"),
        ("rows", 5, "rows is 5"),
    ],
)
def test_a_world_that_cannot_be_is_refused(field, value, says):
    with pytest.raises(InputError, match=says):
        replace(Config(), **{field: value})


def test_an_interrupted_simulation_leaves_no_log(config, tmp_path, monkeypatch):
    monkeypatch.setattr(pq.ParquetWriter, "write_table", _fails)
    config = replace(config, raw=str(tmp_path))
    with pytest.raises(OSError, match="no room"):
        config.acquire()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def _fails(*_args, **_options):
    raise OSError("no room")
