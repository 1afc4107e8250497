"""Preparation against a slow oracle, on small logs with ties, duplicates and strays."""

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pyarrow.parquet as pq
import pytest

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets import aliccp, taobao
from at4ctr.data.preparation import parts
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.oracles import prepare as oracle

START = 1_511_539_200
KINDS = ("pv", "cart", "fav", "buy")


def rows_of(seed, users=30, items=50, number=1200):
    """A random log in random order: ties, strays, duplicates, items that change category."""
    rng = np.random.default_rng(seed)
    rows = [
        (
            int(rng.integers(users) ** 2 + 7),
            int(rng.zipf(1.3) % items) + 2**33,
            int(rng.integers(5)),
            KINDS[rng.integers(4)],
            START + int(rng.integers(60)) - (100_000 if rng.random() < 0.03 else 0),
        )
        for _ in range(number)
    ]
    return rows + [rows[k] for k in rng.integers(number, size=40)]


def written(rows, path):
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return str(path)


def read(folder):
    """The store as {raw user: {split: [(cut, raw item, label, u31)]}} and its sequences."""
    store = Store.open(folder)
    user_ids = pq.read_table(folder / "dims" / "user.parquet").column("user").to_pylist()
    item_ids = pq.read_table(folder / "dims" / "item.parquet").column("item").to_pylist()
    found, sequences = {}, {}
    for part in store.manifest["parts"]:
        for row in pq.read_table(folder / "data" / part["file"]).to_pylist():
            user = user_ids[row["user"]]
            sequences[user] = [item_ids[i] for i in row["behaviour_item"]], row
            found[user] = {
                s: [
                    (cut, item_ids[item], label, u31)
                    for cut, item, label, u31 in zip(
                        *(row[f"{s}_{n}"] for n in ("cut", "item", "label_click", "u31")),
                        strict=True,
                    )
                ]
                for s in SPLITS
            }
    return store, sequences, found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("negatives", [1, 3])
def test_store_is_the_oracles(tmp_path, seed, negatives):
    rows = rows_of(seed)
    config = taobao.Config(raw=written(rows, tmp_path / "log.csv"), negatives=negatives, seed=seed)
    _, sequences, found = read(prepare(config, tmp_path))
    truth = oracle.behaviours(rows)
    assert {u: s for u, (s, _) in sequences.items()} == {
        u: [e[0] for e in s] for u, s in truth.items()
    }
    positives = oracle.last_k(truth)
    for split in SPLITS:
        pool = Counter(truth[u][k][0] for u, k in positives[split])
        expected = [(u, k, truth[u][k][0]) for u, k in positives[split]]
        got = [(u, c, i) for u in found for c, i, label, _ in found[u][split] if label]
        assert sorted(got) == sorted(expected)
        drawn = [(u, c, i) for u in found for c, i, label, _ in found[u][split] if not label]
        assert Counter((u, c) for u, c, _ in drawn) == {(u, k): negatives for u, k, _ in expected}
        assert all(i in pool and i != truth[u][c][0] for u, c, i in drawn)


def test_a_user_with_just_enough_behaviours_is_kept(tmp_path):
    rows = [(user, k, 1, "pv", START + k) for user, n in ((1, 9), (2, 10), (3, 11))
            for k in range(n)]  # fmt: skip
    raw = written(rows, tmp_path / "log.csv")
    _, sequences, _ = read(prepare(taobao.Config(raw=raw, holdout=2), tmp_path))
    assert {user: len(items) for user, (items, _) in sequences.items()} == {2: 10, 3: 11}


def test_u31_names_the_impression(tmp_path):
    rows = rows_of(2)
    config = taobao.Config(raw=written(rows, tmp_path / "log.csv"), negatives=2, seed=5)
    _, _, found = read(prepare(config, tmp_path))
    truth = oracle.behaviours(rows)
    for user, splits in found.items():
        for split in SPLITS:
            for place, (cut, _, _, u31) in enumerate(splits[split]):
                item, _, _, time = truth[user][cut]
                ordinal = oracle.ordinal(truth[user], cut)
                assert u31 == oracle.u31([user, item, time, ordinal, place % 3], 5)


def test_order_filters_and_duplicates_leave_u31_alone(tmp_path):
    rows = rows_of(2, items=8)
    config = taobao.Config(min_history=0, min_behaviours=1, negatives=2, seed=5)

    def drawn(rows, **options):
        """(user, item, time) of the positives -> the u31 of each and of its negatives."""
        raw = written(rows, tmp_path / f"log{len(list(tmp_path.iterdir()))}.csv")
        _, sequences, found = read(prepare(replace(config, raw=raw, **options), tmp_path))
        filters = {"only": options.get("behaviours"), "dedupe": options.get("dedupe", True)}
        truth = oracle.behaviours(rows, least=1, **filters)
        values = {}
        for user, splits in found.items():
            for place, (cut, _, _, u31) in enumerate(chain(*splits.values())):
                item, _, _, time = truth[user][cut]
                assert item == sequences[user][0][cut]
                values.setdefault((user, item, time), set()).add((place % 3, u31))
        return values

    base = drawn(rows)
    assert any(len(found) > 3 for found in base.values())  # some have an ordinal of 1
    assert drawn(rows[::-1]) == base
    for options in ({"behaviours": "pv"}, {"dedupe": False}):
        other = drawn(rows, **options)
        assert len(other) > 100
        shared = other.keys() & base.keys()
        assert len(shared) == min(len(other), len(base))
        assert all(other[k] <= base[k] or base[k] <= other[k] for k in shared)


def test_times_are_refused_of_a_log_that_has_none():
    with pytest.raises(InputError, match="times is true, and the log has none"):
        aliccp.Config(times=True)


def test_a_negative_has_the_time_of_its_positive(tmp_path):
    rows = rows_of(2)
    raw = written(rows, tmp_path / "log.csv")
    store = Store.open(prepare(taobao.Config(raw=raw, negatives=2, times=True), tmp_path))
    truth = oracle.behaviours(rows)
    users = pq.read_table(store.path / "dims/user.parquet").column("user").to_pylist()
    for split in SPLITS:
        held = store.read(split, store.groups(split))
        owners = np.repeat(held.users, held.counts)
        for user, cut, second in zip(
            owners, held.instances["cut"], held.instances["timestamp"], strict=True
        ):
            assert second == truth[users[user]][cut][3]
        for place, user in enumerate(held.users):
            mine = held.behaviours["timestamp"][held.offsets[place] : held.offsets[place + 1]]
            assert mine.tolist() == [b[3] for b in truth[users[user]]]


@pytest.mark.parametrize("negatives", [1, 20])
def test_the_size_of_parts_counts_negatives(tmp_path, monkeypatch, negatives):
    monkeypatch.setattr(parts, "GROUP", 2)
    monkeypatch.setattr(parts, "PART_ROWS", 600)
    raw = written(rows_of(5), tmp_path / "log.csv")
    store, sequences, _ = read(prepare(taobao.Config(raw=raw, negatives=negatives), tmp_path))
    for part in store.manifest["parts"]:
        groups = part["row_groups"]
        users = pq.read_table(store.path / "data" / part["file"]).to_pylist()
        rows = sum(len(u["behaviour_item"]) + sum(len(u[f"{s}_cut"]) for s in SPLITS)
                   for u in users)  # fmt: skip
        assert rows <= 600 or len(groups) == 1
    assert len(sequences) == sum(g["users"] for p in store.manifest["parts"]
                                 for g in p["row_groups"])  # fmt: skip


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_vocabulary_and_unknown(tmp_path, protocol):
    rows = rows_of(3, items=400)
    config = taobao.Config(raw=written(rows, tmp_path / "log.csv"), protocol=protocol, types=True)
    folder = prepare(config, tmp_path)
    store, _, found = read(folder)
    truth = oracle.behaviours(rows)
    category = oracle.categories(rows, truth)
    seen = oracle.seen_by_training(truth, oracle.last_k(truth)["train"])
    if protocol == "paper":
        seen = {(u, k) for u in truth for k in range(len(truth[u]))}
    lists = {
        "user": oracle.vocabulary(u for u, _ in seen),
        "item": oracle.vocabulary(truth[u][k][0] for u, k in seen),
        "category": oracle.vocabulary(category[truth[u][k][0]] for u, k in seen),
        "type": oracle.vocabulary(truth[u][k][2] for u, k in seen),
    }
    for table, expected in lists.items():
        assert store.vocabulary_path(table).read_text().split() == [str(raw) for raw in expected]
        assert store.rows(table) == len(expected) + 2
    items = pq.read_table(folder / "dims" / "item.parquet").to_pydict()
    assert dict(zip(items["item"], items["category"], strict=True)) == category
    for name in ("item", "category"):
        number = {raw: k + 2 for k, raw in enumerate(lists[name])}
        assert store.ids(name).tolist() == [number.get(raw, 1) for raw in items[name]]
    for split in SPLITS:
        targets = [i for u in found for _, i, _, _ in found[u][split]]
        unknown = sum(item not in lists["item"] for item in targets)
        assert store.counts(split)["unknown"]["item"] == unknown
        assert store.counts(split)["rows"] == len(targets)
    assert protocol == "strict" or store.counts("test")["unknown"]["item"] == 0
    assert protocol == "paper" or store.counts("test")["unknown"]["item"] > 0


def test_behaviour_features_stand_beside_the_items(tmp_path):
    rows = rows_of(4)
    folder = prepare(taobao.Config(raw=written(rows, tmp_path / "log.csv"), types=True), tmp_path)
    store, sequences, _ = read(folder)
    names = ["", "", *store.vocabulary_path("type").read_text().split()]
    for user, sequence in oracle.behaviours(rows).items():
        assert [names[k] for k in sequences[user][1]["behaviour_type"]] == [e[2] for e in sequence]


def test_parts_change_nothing_but_the_files(tmp_path, monkeypatch):
    config = taobao.Config(raw=written(rows_of(5), tmp_path / "log.csv"))
    _, sequences, found = read(prepare(config, tmp_path / "one"))
    monkeypatch.setattr(parts, "GROUP", 4)
    monkeypatch.setattr(parts, "PART_USERS", 8)
    store, again, split = read(prepare(config, tmp_path / "many"))
    assert len(store.manifest["parts"]) == -(-len(found) // 8)
    assert (again, split) == (sequences, found)
    for part in store.manifest["parts"]:
        file = pq.ParquetFile(store.path / "data" / part["file"])
        assert file.num_row_groups == len(part["row_groups"])
        for number, group in enumerate(part["row_groups"]):
            rows = file.read_row_group(number).to_pydict()
            assert len(rows["user"]) == group["users"] <= 4
            for s in SPLITS:
                labels = [label for users in rows[f"{s}_label_click"] for label in users]
                assert group[s] == {"rows": len(labels)}


def test_options_and_other_users_leave_u31_alone(tmp_path):
    rows = rows_of(6)
    more = rows_of(7, users=60) + rows  # other users, and other rows of the same, far earlier
    old = {row[0] for row in rows}
    more = [row for row in more[: len(more) - len(rows)] if row[0] not in old] + rows
    base = taobao.Config(raw=written(rows, tmp_path / "log.csv"))
    _, _, found = read(prepare(base, tmp_path))
    changes = (
        replace(base, raw=written(more, tmp_path / "more.csv")),
        replace(base, min_history=3),
        replace(base, min_behaviours=20),
        replace(base, protocol="paper"),
        replace(base, history=7, negative_rate=0.5),
    )

    def facts(content):
        return {
            (u, s, cut, label, u31)
            for u in content
            for s in SPLITS
            for cut, _, label, u31 in content[u][s]
        }

    for config in changes:
        _, _, other = read(prepare(config, tmp_path))
        same = {u: other[u] for u in other if u in found}
        assert facts(same) <= facts(found)
        assert len(facts(same)) > 100
    assert len(other) == len(found)


def test_seed_changes_draws(tmp_path):
    base = taobao.Config(raw=written(rows_of(8), tmp_path / "log.csv"))
    _, _, one = read(prepare(base, tmp_path))
    _, _, two = read(prepare(replace(base, seed=1), tmp_path))

    def items(found, wanted):
        rows = [row for u in found for row in found[u]["train"]]
        return np.array([item for _, item, label, _ in rows if label == wanted])

    assert (items(one, 1) == items(two, 1)).all()
    chance = sum(c * c for c in Counter(items(one, 0)).values()) / len(items(one, 0)) ** 2
    assert np.mean(items(one, 0) == items(two, 0)) == pytest.approx(chance, abs=0.05)
    assert chance < 0.5


@pytest.mark.parametrize("holds", [1, 3])
def test_last_k(tmp_path, holds):
    rows = rows_of(9)
    config = taobao.Config(raw=written(rows, tmp_path / "log.csv"), holdout=holds, min_history=2)
    _, _, found = read(prepare(config, tmp_path))
    expected = oracle.last_k(oracle.behaviours(rows), test=holds, least=2)
    for split in SPLITS:
        got = {(u, cut) for u in found for cut, _, label, _ in found[u][split] if label}
        assert got == set(expected[split])
