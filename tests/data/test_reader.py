"""The reader against plain Python slices of what was written: contents, order, sampling."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.data.block import in_blocks, stateless
from at4ctr.data.reader import Reader
from at4ctr.data.store import RowGroup, Store
from at4ctr.errors import InputError
from tests.data import toy_store


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_store.make(tmp_path_factory.mktemp("toy") / "store", truth=True)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    path = tmp_path_factory.mktemp("wide") / "store"
    return toy_store.make(path, users=2000, group=64, longest=8, instances=12, truth=True)


def reader(toy, split="train", **settings):
    settings = {"batch_size": 7, "history": 5, "truth": True, "drop_remainder": False} | settings
    return Reader(Store.open(toy.path), split, **settings)


def batches(reader, epoch=0):
    return [reader.batch(epoch, i) for i in range(reader.steps(epoch))]


def keys(reader, epoch=0) -> list[float]:
    """The rows of an epoch in order: a row's random probability is its name."""
    return [p for batch in batches(reader, epoch) for p in batch["truth_click"].tolist()]


def padded(values: list, length: int, zero) -> list:
    return values + [zero] * (length - len(values))


def oracle(toy, user: dict, row: dict, T: int) -> dict:
    """A row as the batch should hold it, by plain slices."""
    ids, who, what = toy.ids, user["user"], row["item"]
    seen = user["behaviour_item"][: row["cut"]][-T:]
    types = user["behaviour_type"][: row["cut"]][-T:]
    return {
        "user": int(ids["user"][who]),
        "city": int(ids["city"][who]),
        "item": int(ids["item"][what]),
        "category": int(ids["category"][what]),
        "tags": ids["tags"][what].tolist(),
        "position": row["position"],
        "history_item": padded([int(ids["item"][i]) for i in seen], T, 0),
        "history_category": padded([int(ids["category"][i]) for i in seen], T, 0),
        "history_tags": padded([ids["tags"][i].tolist() for i in seen], T, [0, 0, 0]),
        "history_type": padded(types, T, 0),
        "history_length": len(seen),
        "behaviours": row["cut"],
        "label_click": float(row["label"]),
        "user_index": who,
        "item_index": what,
        "truth_click": row["truth_click"],
    }


@pytest.mark.parametrize("split", toy_store.SPLITS)
@pytest.mark.parametrize("T", [1, 5, 30, 1000])
@pytest.mark.parametrize("block_users", [1, 20, 10**6])
def test_every_row_once_with_the_windows_of_a_plain_slice(toy, split, T, block_users):
    subject = reader(toy, split, history=T, block_users=block_users)
    expected = {row["truth_click"]: oracle(toy, user, row, T) for user, row in toy.rows(split)}
    found = 0
    for batch in batches(subject):
        assert list(batch) == list(next(iter(expected.values())))
        for i in range(len(batch["label_click"])):
            row = {name: values[i].tolist() for name, values in batch.items()}
            assert row == expected.pop(row["truth_click"])
            found += 1
    assert not expected
    assert found == subject.rows == len(toy.rows(split))


def test_types_and_shapes_are_the_specified_ones(toy):
    batch = reader(toy, batch_size=6).batch(0, 0)
    special = {"label_click": np.float32, "truth_click": np.float64}
    shapes = {"tags": (6, 3), "history_tags": (6, 5, 3)}
    for name, values in batch.items():
        assert values.dtype == special.get(name, np.int32), name
        plain = (6, 5) if name.startswith("history_") and name != "history_length" else (6,)
        assert values.shape == shapes.get(name, plain), name


def test_history_never_reaches_the_cut(tmp_path):
    toy = toy_store.make(tmp_path / "store", items=900, truth=True, ordered=True)
    cuts = {row["truth_click"]: row["cut"] for _, row in toy.rows("train")}
    full = 0
    for batch in batches(reader(toy)):
        for key, window, n in zip(
            batch["truth_click"], batch["history_item"], batch["history_length"], strict=True
        ):
            position = window[:n] - 2  # an item's id is its position + 2
            assert position.tolist() == list(range(cuts[key] - n, cuts[key]))
            assert not window[n:].any()
            full += n == 5
    assert full


def test_without_truth_no_probability(toy):
    assert "truth_click" not in reader(toy, truth=False).batch(0, 0)


def test_a_batch_is_the_callers_own(toy):
    subject = reader(toy)
    before = subject.batch(0, 0)
    for values in subject.batch(0, 0).values():
        values.fill(77)
    for name, values in subject.batch(0, 0).items():
        assert np.array_equal(values, before[name]), name


def test_sampling_keeps_positives_and_nests(wide):
    rows = {row["truth_click"]: row for _, row in wide.rows("train")}
    kept = {}
    for w in (0.1, 0.3, 1.0):
        subject = reader(wide, negative_rate=w, history=1, batch_size=500, seed=int(10 * w))
        found = keys(subject)
        assert len(found) == len(set(found)) == subject.rows
        kept[w] = set(found)
        assert kept[w] >= {key for key, row in rows.items() if row["label"]}
        negatives = sum(not row["label"] for row in rows.values())
        share = sum(not rows[key]["label"] for key in found) / negatives
        assert abs(share - w) <= 4 * np.sqrt(w * (1 - w) / negatives)
    assert kept[0.1] < kept[0.3] < kept[1.0] == set(rows)


def test_order_is_a_function_of_seed_and_epoch(toy):
    orders = {(s, e): keys(reader(toy, seed=s), e) for s in (0, 1) for e in (0, 1, 2)}
    for (seed, epoch), order in orders.items():
        assert keys(reader(toy, seed=seed), epoch) == order
        assert Counter(order) == Counter(orders[0, 0])
    assert len({tuple(order) for order in orders.values()}) == len(orders)


def test_every_seed_epoch_and_block_draws_for_itself():
    draws = [
        float(stateless(seed, epoch, stream).random())
        for seed in (0, 1, -1)
        for epoch in (0, 1)
        for stream in (0, 1, 2)
    ]
    assert len(set(draws)) == len(draws)


def test_without_shuffle_store_order_and_nothing_dropped(toy):
    stored = [row["truth_click"] for _, row in toy.rows("train")]
    assert len(stored) % 7
    assert keys(reader(toy, shuffle=False, drop_remainder=None, block_users=9)) == stored
    dropped = keys(reader(toy, shuffle=False, drop_remainder=True))
    assert dropped == stored[: len(stored) // 7 * 7]


def test_shuffling_drops_the_remainder_unless_told(toy):
    total = len(toy.rows("train"))
    subject = reader(toy, drop_remainder=None)
    assert subject.steps(0) == total // 7
    assert {len(batch["label_click"]) for batch in batches(subject)} == {7}
    last = batches(reader(toy))[-1]
    assert len(last["label_click"]) == total % 7 > 0


def test_shuffling_spans_users(wide):
    def neighbours(**settings) -> float:
        shares = []
        for batch in batches(reader(wide, batch_size=64, history=1, **settings)):
            count = Counter(batch["user_index"].tolist())
            shares += [count[user] > 1 for user in batch["user_index"].tolist()]
        return float(np.mean(shares))

    assert neighbours() < 0.08  # 63 other rows, of about 2000 · 4.8 with 6 of the same user
    assert neighbours(shuffle=False) > 0.8
    assert neighbours(block_users=64) > 2 * neighbours()


def test_blocks_hold_enough_users_or_all():
    groups = [RowGroup("a", i, users, 1) for i, users in enumerate([5, 5, 5, 1, 9, 2, 8, 3])]
    for users in (1, 6, 10, 17, 38, 1000):
        blocks = in_blocks(groups, users)
        assert [g for block in blocks for g in block] == groups
        assert all(sum(g.users for g in block) >= min(users, 38) for block in blocks)
    assert len(in_blocks(groups, 10)) == 3


def test_any_access_order_and_a_cache_of_one_block_give_the_same(toy, monkeypatch):
    expected = batches(reader(toy, block_users=1))
    monkeypatch.setattr("at4ctr.data.reader.BLOCKS_HELD", 1)
    subject = reader(toy, block_users=1)
    for index in np.random.default_rng(3).permutation(len(expected)):
        found = subject.batch(0, int(index))
        for name, values in expected[index].items():
            assert np.array_equal(found[name], values), name


@pytest.mark.parametrize("index", [-1, 10**6])
def test_a_batch_outside_the_epoch_is_refused(toy, index):
    with pytest.raises(InputError, match=f"batch {index} of epoch 0: expected 0 to"):
        reader(toy).batch(0, index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"history": 0}, "history is 0; expected at least 1"),
        ({"negative_rate": 0.0}, "negative_rate is 0.0; expected 0 < w <= 1"),
        ({"negative_rate": 1.5}, "negative_rate is 1.5; expected 0 < w <= 1"),
        ({"negative_rate": float("nan")}, "negative_rate is nan; expected 0 < w <= 1"),
        (
            {"batch_size": 10_000, "drop_remainder": True},
            r"batch_size is 10000, larger than the \d+ rows kept for a worker; set batch_size to",
        ),
        ({"split": "trian"}, "unknown split 'trian': did you mean train"),
    ],
)
def test_settings_out_of_range_are_refused(toy, settings, message):
    with pytest.raises(InputError, match=message):
        reader(toy, **settings)


def test_truth_that_is_not_stored_is_refused(tmp_path):
    toy = toy_store.make(tmp_path / "store")
    with pytest.raises(InputError, match="truth=True, but the store holds no true"):
        reader(toy)


def test_a_split_without_rows_is_refused(tmp_path):
    toy = toy_store.make(tmp_path / "store", instances=0, truth=True)
    with pytest.raises(InputError, match="split train has 0 rows"):
        reader(toy)


def test_a_store_that_contradicts_its_manifest_is_refused(tmp_path):
    toy = toy_store.make(tmp_path / "store", truth=True)
    file = toy.path / "manifest.json"
    file.write_text(file.read_text().replace('"train": {"rows": ', '"train": {"rows": 1'))
    with pytest.raises(InputError, match=r"\d+ train rows in \d+ row groups from .* expected"):
        reader(toy).batch(0, 0)


def request_of(row: dict, user: dict) -> tuple:
    return user["user"], row["cut"]


@pytest.mark.parametrize("block_users", [1, 20, 10**6])
@pytest.mark.parametrize("size", [3, 16])
def test_requests_stay_together_and_share_their_user(toy, block_users, size):
    settings = {"batch_size": size, "block_users": block_users, "shuffle": True}
    subject = reader(toy, grouping="requests", longest_request=min(size, 8), **settings)
    expected = {row["truth_click"]: oracle(toy, user, row, 5) for user, row in toy.rows("train")}
    requests = {row["truth_click"]: request_of(row, user) for user, row in toy.rows("train")}
    runs = itertools.groupby(requests, requests.get)
    run = {name: i for i, (_, names) in enumerate(runs) for name in names}
    longest = max(Counter(run.values()).values())
    assert longest > 1
    seen: list[float] = []
    for batch in batches(subject):
        owner, users = batch.pop("owner"), len(batch["history_length"])
        assert (np.diff(owner) >= 0).all()
        np.testing.assert_array_equal(np.unique(owner), np.arange(users))
        for i, name in enumerate(batch["truth_click"].tolist()):
            for key, values in batch.items():
                at = owner[i] if len(values) == users and key in shared(batch) else i
                assert values[at].tolist() == expected[name][key], key
        names = batch["truth_click"].tolist()
        assert len(names) < size + min(longest, size)
        for j in range(users):
            inside = {requests[n] for n, k in zip(names, owner, strict=True) if k == j}
            assert len(inside) == 1
        seen += names
    assert Counter(seen) == Counter(expected.keys())
    if size >= longest:  # no request was cut: its rows came one after the other
        ids = [run[name] for name in seen]
        assert len(set(ids)) == 1 + sum(a != b for a, b in itertools.pairwise(ids))


def shared(batch: dict) -> set:
    return {"user", "city"} | {k for k in batch if k.startswith("history_")}


def test_requests_are_a_function_of_seed_epoch_and_batch(wide):
    settings = {"batch_size": 50, "block_users": 500, "grouping": "requests", "longest_request": 20,
                "negative_rate": 0.5,
                "drop_remainder": True, "shuffle": True}  # fmt: skip
    one, two = reader(wide, **settings), reader(wide, **settings)
    order = list(range(one.steps(1)))
    found = {i: two.batch(1, i) for i in reversed(order)}
    for i in order:
        batch = one.batch(1, i)
        assert batch.keys() == found[i].keys()
        for key, values in batch.items():
            np.testing.assert_array_equal(values, found[i][key])
    assert keys(one, 0) != keys(one, 1)
    assert {len(one.batch(1, i)["item"]) for i in order} != {50}
    some = next(iter(one.dataset(1, 3)))
    for key, values in one.batch(1, 3).items():
        np.testing.assert_array_equal(some[key], values)


def test_an_unknown_user_is_unknown_in_the_whole_request(wide):
    subject = reader(wide, batch_size=64, grouping="requests", unknown_rate=0.3)
    shares = [(b["user"] == 1).mean() for b in batches(subject)]
    assert np.mean(shares) == pytest.approx(0.3, abs=0.05)


def test_workers_share_the_requests(wide):
    settings = {
        "batch_size": 30,
        "block_users": 100,
        "grouping": "requests",
        "longest_request": 9,
        "shuffle": True,
    }
    whole = Counter(keys(reader(wide, **settings)))
    parts = Counter()
    for i in range(3):
        context = tf.distribute.InputContext(3, i, 3)
        parts += Counter(keys(reader(wide, context=context, **settings)))
    assert parts == whole


def test_the_order_of_requests_does_not_depend_on_the_batch(toy):
    settings = {"grouping": "requests", "longest_request": 2, "shuffle": True}
    orders = [keys(reader(toy, batch_size=size, **settings)) for size in (4, 8, 16)]
    assert orders[0] == orders[1] == orders[2]


def test_another_grouping_is_refused(toy):
    with pytest.raises(InputError, match="grouping"):
        reader(toy, grouping="pages")
    with pytest.raises(InputError, match=r"batch_size is 7 with grouping=requests; .* least 64"):
        reader(toy, grouping="requests")
