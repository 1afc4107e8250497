"""Taobao's options on real and simulated rows, and what the strict protocol is for."""

import csv
import gzip
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets import taobao
from at4ctr.data.preparation import negatives
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.simulation.world import World
from at4ctr.data.simulation.write import write_behaviours
from at4ctr.data.store import Store
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
                s: [c for c, y in zip(row[f"{s}_cut"], row[f"{s}_label_click"], strict=True) if y]
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


@pytest.mark.parametrize("options", [{}, {"window": False, "dedupe": False}, {"behaviours": "pv"}])
def test_what_is_left_out_is_counted_by_reason(tmp_path, simulated, options):
    config = taobao.Config(raw=str(simulated), min_behaviours=20, **options)
    manifest = Store.open(prepare(config, tmp_path)).manifest
    counts, rows = manifest["counts"], raw_rows(simulated)
    rules = {
        "window": (taobao.FIRST, taobao.LAST) if options.get("window", True) else None,
        "dedupe": options.get("dedupe", True),
        "only": options.get("behaviours"),
    }
    expected = oracle.dropped(rows, oracle.behaviours(rows, least=20, **rules), **rules)
    assert counts["dropped"] == expected
    assert expected["min_behaviours"] > 0
    assert options or (expected["window"] > 0 < expected["duplicates"])
    assert counts["raw"] == len(rows) == counts["behaviours"] + sum(expected.values())
    (note,) = [note for note in manifest["notes"] if "left out" in note]
    assert f"{len(rows):,}" in note
    assert all(f"{number:,} ({reason})" in note for reason, number in expected.items())


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
    inode = log.stat().st_ino
    assert prepare(config) == store.path
    assert log.stat().st_ino == inode
    (tmp_path / "data" / "raw" / "taobao").mkdir()
    shutil.copy(real(), tmp_path / "data" / "raw" / "taobao" / "UserBehavior.csv")
    assert not Store.open(prepare(config)).simulated


def separations(folder, split):
    """AUC of one number each: what a split's target items tell of their label."""
    store = Store.open(folder)
    number = len(store.ids("item"))
    training = store.read("train", store.groups("train")).instances
    rows = store.read(split, store.groups(split)).instances
    popularity = np.bincount(training["item"][training["label_click"] == 1], minlength=number)
    own = np.bincount(rows["item"][rows["label_click"] == 1], minlength=number)
    categories = store.ids("category")
    families = np.bincount(
        categories[training["item"][training["label_click"] == 1]], minlength=store.rows("category")
    )
    scores = {
        "popularity": popularity,
        "popularity in the split": own,
        "rank of popularity": -store.ids("item"),
        "popularity of the category": families[categories],
        "unknown item": store.ids("item") == 1,
        "unknown category": categories == 1,
    }
    label, item = rows["label_click"], rows["item"]
    return {what: roc_auc_score(label, score[item]) for what, score in scores.items()}


def learnt(folder, split="test"):
    """AUC on a split of models of the item alone that were fitted on the training rows."""
    store = Store.open(folder)
    sets = {s: store.read(s, store.groups(s)).instances for s in ("train", split)}
    item, label = sets["train"]["item"], sets["train"]["label_click"]
    count = np.bincount(item[label == 1], minlength=len(store.ids("item")))
    category = store.ids("category")
    family = np.bincount(category[item[label == 1]], minlength=store.rows("category"))[category]
    unknown = (store.ids("item") == 1) | (category == 1)
    bins = np.minimum(np.log2(count + 1).astype(int), 15)
    rate = np.bincount(bins[item], label, 16) / np.maximum(np.bincount(bins[item], minlength=16), 1)
    facts = np.stack([count, family, unknown, store.ids("item")], axis=1)
    tree = DecisionTreeClassifier(max_leaf_nodes=32, min_samples_leaf=200, random_state=0)
    tree.fit(facts[item], label)
    shown, truth = sets[split]["item"], sets[split]["label_click"]
    return {
        "rate by popularity": roc_auc_score(truth, rate[bins[shown]]),
        "tree": roc_auc_score(truth, tree.predict_proba(facts[shown])[:, 1]),
    }


def test_training_on_popularity_and_novelty_learns_nothing(tmp_path, simulated):
    folder = prepare(taobao.Config(raw=str(simulated), negatives=4), tmp_path)
    for split in ("train", "test"):
        for what, auc in learnt(folder, split).items():
            assert auc == pytest.approx(0.5, abs=0.02), (what, split)


def test_training_on_popularity_would_learn_other_draws(tmp_path, simulated, monkeypatch):
    """The check has power: negatives of a flattened popularity are found out."""
    drawn, made, items = negatives._drawn, negatives._pool, []
    uniform = "(SELECT row_number() OVER (ORDER BY item) - 1 AS row, item FROM items_of_pool)"

    def flat(rows, config, _, *rest):
        return drawn(rows, config, items * 3, *rest).replace("JOIN pool", f"JOIN {uniform}")

    def pool(engine, config, late):
        sizes = made(engine, config, late)
        engine.execute("CREATE TABLE items_of_pool AS SELECT DISTINCT item FROM pool")
        items.append((0, int(engine.one("SELECT count(*) FROM items_of_pool")[0])))
        return sizes

    monkeypatch.setattr(negatives, "_pool", pool)
    monkeypatch.setattr(negatives, "_drawn", flat)
    folder = prepare(taobao.Config(raw=str(simulated), negatives=4), tmp_path)
    assert all(auc > 0.6 for auc in learnt(folder).values())


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
    positives = rows["item"][rows["label_click"] == 1]
    number = len(store.ids("item"))
    popularity = np.bincount(training["item"][training["label_click"] == 1], minlength=number)
    uniform = np.random.default_rng(0).integers(number, size=len(positives))
    labels = np.repeat([1, 0], len(positives))
    assert roc_auc_score(labels, popularity[np.concatenate([positives, uniform])]) > 0.7
    strays = training["item"][training["label_click"] == 1][: len(positives)]
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
    positive, negative = ((rows["item"][rows["label_click"] == y] == top).mean() for y in (1, 0))
    share = np.bincount(rows["item"][rows["label_click"] == 1]) / (rows["label_click"] == 1).sum()
    drawn = share[top] * (np.delete(share / (1 - share), top)).sum()
    assert positive == pytest.approx(0.3, abs=0.02)
    assert negative == pytest.approx(drawn, abs=0.01)
    collide = (share**2).sum()
    auc = roc_auc_score(rows["label_click"], share[rows["item"]])
    assert 0.02 < auc - 0.5 < collide / 2
    assert store.manifest["shortcuts"]["train"]["popularity"] == pytest.approx(auc, abs=1e-9)
    (note,) = [n for n in store.manifest["notes"] if n.startswith("popularity alone separates")]
    assert f"AUC {auc:.3f} in train" in note


def test_on_a_log_with_repeats_the_history_mends_repetition(tmp_path, simulated):
    """Users of the simulated log repeat items: repetition alone has an AUC of 0.59 under `own`.

    Under `history` it has 0.5, and popularity 0.54: what users repeat is popular.
    """
    usual, history = (
        Store.open(prepare(taobao.Config(raw=str(simulated), reject=reject), tmp_path)).manifest
        for reject in ("own", "history")
    )
    for manifest, warned in ((usual, {"repetition"}), (history, {"popularity"})):
        found = {n.split()[0] for n in manifest["notes"] if "alone separates" in n}
        assert found == warned
        assert found == {d.split()[0] for d in manifest["summary"]["doubts"]}  # of the report
    for split in SPLITS:
        assert usual["shortcuts"][split]["repetition"] > 0.57
        assert history["shortcuts"][split]["repetition"] == pytest.approx(0.5, abs=0.005)
        assert history["shortcuts"][split]["popularity"] < 0.55
