"""Taobao's options on real and simulated rows, and what the strict protocol is for."""

import csv
import gzip
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from at4ctr.data import taobao
from at4ctr.data.dataset import SPLITS
from at4ctr.data.prepare import prepare
from at4ctr.data.simulate import write_behaviours
from at4ctr.data.store import Store
from at4ctr.data.world import World
from tests.conftest import shared_data
from tests.oracles import prepare as oracle


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A simulated log of 200,000 rows."""
    path = tmp_path_factory.mktemp("log") / "UserBehavior.csv"
    write_behaviours(World(users=5000, items=8000, categories=500, rows=200_000), path)
    return path


def real():
    return shared_data("taobao/UserBehavior_43users.csv")


def raw_rows(path):
    with path.open() as file:
        return [(int(u), int(i), int(c), kind, int(t)) for u, i, c, kind, t in csv.reader(file)]


def sequences(folder):
    """Raw user -> items, cuts of positives by split."""
    users = pq.read_table(folder / "dims" / "user.parquet").column("user").to_pylist()
    items = pq.read_table(folder / "dims" / "item.parquet").column("item").to_pylist()
    found = {}
    for part in sorted((folder / "data").iterdir()):
        for row in pq.read_table(part).to_pylist():
            cuts = {
                s: [c for c, y in zip(row[f"{s}_cut"], row[f"{s}_label"], strict=True) if y]
                for s in SPLITS
            }
            found[users[row["user"]]] = [items[k] for k in row["behaviour_item"]], cuts
    return found


@pytest.mark.parametrize("options", [
    {}, {"window": False}, {"dedupe": False}, {"behaviours": "pv"},
    {"window": False, "dedupe": False, "min_behaviours": 60},
])  # fmt: skip
def test_real_rows_are_filtered_as_the_oracle_does(tmp_path, options):
    folder = prepare(taobao.Config(raw=str(real()), **options), tmp_path)
    truth = oracle.behaviours(
        raw_rows(real()),
        window=(taobao.FIRST, taobao.LAST) if options.get("window", True) else None,
        dedupe=options.get("dedupe", True),
        least=options.get("min_behaviours", 10),
        only=options.get("behaviours"),
    )
    expected = {u: [e[0] for e in s] for u, s in truth.items()}
    assert {u: s for u, (s, _) in sequences(folder).items()} == expected
    assert len(expected) > 10


def test_simulated_strays_and_duplicates_are_dropped(tmp_path, simulated):
    folder = prepare(taobao.Config(raw=str(simulated)), tmp_path)
    truth = oracle.behaviours(raw_rows(simulated))
    expected = {u: [e[0] for e in s] for u, s in truth.items()}
    assert {u: s for u, (s, _) in sequences(folder).items()} == expected


def test_gzip_and_folder_give_the_same(tmp_path):
    (tmp_path / "raw").mkdir()
    zipped = tmp_path / "raw" / "UserBehavior.csv.gz"
    zipped.write_bytes(gzip.compress(real().read_bytes()))
    plain = prepare(taobao.Config(raw=str(real())), tmp_path / "a")
    other = prepare(taobao.Config(raw=str(zipped.parent)), tmp_path / "b")
    assert sequences(plain) == sequences(other)
    assert not Store.open(other).simulated


def test_can_user_9_1(tmp_path, simulated):
    folder = prepare(taobao.Config(raw=str(simulated), cutting="can_user_9_1"), tmp_path)
    found = sequences(folder)
    splits = Counter()
    for items, cuts in found.values():
        (split,) = [s for s in SPLITS if cuts[s]]
        assert cuts[split] == [len(items) - 1]
        splits[split] += 1
    share = {s: splits[s] / len(found) for s in SPLITS}
    assert share == pytest.approx({"train": 0.81, "validation": 0.09, "test": 0.1}, abs=0.02)
    store = Store.open(folder)
    seen = {i for items, cuts in found.values() if cuts["train"] for i in items}
    assert {int(raw) for raw in store.vocabulary_path("item").read_text().split()} == seen
    assert store.counts("test")["unknown"]["user"] == store.counts("test")["rows"]


def test_without_a_log_one_is_simulated_and_labelled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = taobao.Config(simulate_rows=20_000)
    store = Store.open(prepare(config))
    assert store.simulated
    line = capsys.readouterr().err.splitlines()[0]
    assert "data/raw/taobao/UserBehavior.csv" in line
    assert "simulated" in line
    assert any("simulated" in note for note in store.manifest["notes"])
    (log,) = (tmp_path / "data" / "raw" / "simulated").iterdir()
    time = log.stat().st_mtime_ns
    assert prepare(config) == store.path
    assert log.stat().st_mtime_ns == time
    (tmp_path / "data" / "raw" / "taobao").mkdir()
    shutil.copy(real(), tmp_path / "data" / "raw" / "taobao" / "UserBehavior.csv")
    assert not Store.open(prepare(config)).simulated


def separations(folder, split):
    """AUC of one number each: what a split's target items tell of their label."""
    store = Store.open(folder)
    number = len(store.ids("item"))
    training = store.read("train", store.groups("train")).instances
    rows = store.read(split, store.groups(split)).instances
    popularity = np.bincount(training["item"][training["label"] == 1], minlength=number)
    own = np.bincount(rows["item"][rows["label"] == 1], minlength=number)
    categories = store.ids("category")
    families = np.bincount(
        categories[training["item"][training["label"] == 1]], minlength=store.rows("category")
    )
    scores = {
        "popularity": popularity,
        "popularity in the split": own,
        "rank of popularity": -store.ids("item"),
        "popularity of the category": families[categories],
        "unknown item": store.ids("item") == 1,
        "unknown category": categories == 1,
    }
    label, item = rows["label"], rows["item"]
    return {what: roc_auc_score(label, score[item]) for what, score in scores.items()}


@pytest.mark.parametrize("cutting", ["last_10", "can_user_9_1"])
@pytest.mark.parametrize("split", SPLITS)
def test_popularity_and_novelty_tell_nothing_under_strict(tmp_path, simulated, cutting, split):
    config = taobao.Config(raw=str(simulated), cutting=cutting, negatives=4)
    for what, auc in separations(prepare(config, tmp_path), split).items():
        few = cutting != "last_10" and split != "train"  # some 450 positives: σ = 0.015
        assert auc == pytest.approx(0.5, abs=0.06 if few else 0.02), what


def test_popularity_and_novelty_tell_nothing_on_real_rows(tmp_path):
    folder = prepare(taobao.Config(raw=str(real()), negatives=4), tmp_path)
    for what, auc in separations(folder, "train").items():
        assert auc == pytest.approx(0.5, abs=0.02), what
    for what, auc in separations(folder, "test").items():  # 430 positives: σ = 0.016
        assert auc == pytest.approx(0.5, abs=0.05), what


def test_other_draws_would_be_told(tmp_path, simulated):
    """The check has power: uniform negatives fail it, and so do those of another split's rows."""
    store = Store.open(prepare(taobao.Config(raw=str(simulated)), tmp_path))
    rows = store.read("test", store.groups("test")).instances
    training = store.read("train", store.groups("train")).instances
    positives = rows["item"][rows["label"] == 1]
    number = len(store.ids("item"))
    popularity = np.bincount(training["item"][training["label"] == 1], minlength=number)
    uniform = np.random.default_rng(0).integers(number, size=len(positives))
    labels = np.repeat([1, 0], len(positives))
    assert roc_auc_score(labels, popularity[np.concatenate([positives, uniform])]) > 0.7
    strays = training["item"][training["label"] == 1][: len(positives)]
    unknown = (store.ids("item") == 1)[np.concatenate([positives, strays])]
    assert unknown[labels == 1].any()
    assert not unknown[labels == 0].any()


def test_rejection_biases_only_a_dominant_item(tmp_path):
    """An item of share p is rarer among negatives by p - Σ p² of it; the others gain evenly."""
    rng = np.random.default_rng(1)
    items = np.where(rng.random(20_000) < 0.3, 0, rng.integers(1, 400, 20_000))
    lines = [f"{k % 200 + 1},{i},1,pv,{taobao.FIRST + k}\n" for k, i in enumerate(items)]
    path = tmp_path / "log.csv"
    path.write_text("".join(lines))
    store = Store.open(prepare(taobao.Config(raw=str(path), negatives=4), tmp_path))
    rows = store.read("train", store.groups("train")).instances
    top = int(np.bincount(rows["item"]).argmax())
    positive, negative = ((rows["item"][rows["label"] == y] == top).mean() for y in (1, 0))
    share = np.bincount(rows["item"][rows["label"] == 1]) / (rows["label"] == 1).sum()
    drawn = share[top] * (np.delete(share / (1 - share), top)).sum()
    assert positive == pytest.approx(0.3, abs=0.02)
    assert negative == pytest.approx(drawn, abs=0.01)
