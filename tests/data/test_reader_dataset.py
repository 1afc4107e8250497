"""The reader through tf.data: the same batches, resumed exactly, and shared between workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.data import toy_store


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "store"
    return toy_store.make(path, users=150, truth=True)


def reader(toy, **settings):
    settings = {"batch_size": 16, "history": 5, "truth": True, "block_users": 30} | settings
    return Reader(Store.open(toy.path), "train", **settings)


def worker(toy, number: int, of: int, **settings):
    context = tf.distribute.InputContext(of, number, of)
    return reader(toy, context=context, **settings)


def names(batches) -> list[float]:
    """The rows of batches in order: a row's random probability is its name."""
    return [p for batch in batches for p in np.asarray(batch["truth_click"]).tolist()]


def assert_same(found, expected) -> None:
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert list(a) == list(b)
        for name in a:
            assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name


@pytest.mark.parametrize("parallel", [1, 2, 7])
@pytest.mark.parametrize("drop", [True, False])
def test_yields_the_batches_of_numpy_in_order(toy, parallel, drop):
    subject = reader(toy, drop_remainder=drop)
    for epoch in (0, 3):
        numpy = [subject.batch(epoch, i) for i in range(subject.steps(epoch))]
        dataset = reader(toy, drop_remainder=drop).dataset(epoch, parallel=parallel)
        assert int(dataset.cardinality()) == len(numpy)
        assert_same(dataset, numpy)


def test_shapes_are_static_where_known(toy):
    dropped = reader(toy).dataset(0).element_spec
    kept = reader(toy, drop_remainder=False).dataset(0).element_spec
    batch = reader(toy).batch(0, 0)
    assert list(dropped) == list(kept) == list(batch)
    for name, values in batch.items():
        assert dropped[name] == tf.TensorSpec(values.shape, values.dtype)
        assert kept[name] == tf.TensorSpec((None, *values.shape[1:]), values.dtype)


def test_resumes_from_any_step(toy):
    subject = reader(toy)
    every = list(subject.dataset(1))
    assert len({block for block, _ in _blocks(subject, 1)}) > 2
    for start in range(len(every) + 1):
        assert_same(reader(toy).dataset(1, start), every[start:])


def _blocks(subject: Reader, epoch: int) -> list[tuple[int, int]]:
    ends = subject._plan(epoch).ends
    starts = np.arange(subject.steps(epoch)) * subject.batch_size
    return [(int(np.searchsorted(ends, s, side="right")), int(s)) for s in starts]


@pytest.mark.parametrize("stop", [0, 1, 4, 11])
def test_resumes_from_an_iterators_checkpoint(toy, tmp_path, stop):
    every = list(reader(toy).dataset(2))
    iterator = iter(reader(toy).dataset(2))
    for _ in range(stop):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "checkpoint"))
    again = iter(reader(toy).dataset(2))
    tf.train.Checkpoint(iterator=again).read(saved).assert_consumed()
    assert_same(again, every[stop:])


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("rate", [1.0, 0.4])
def test_workers_share_the_rows(toy, workers, rate):
    whole = Counter(names(reader(toy, drop_remainder=False, negative_rate=rate).dataset(0)))
    for epoch in (0, 1):
        shards = [
            worker(toy, i, workers, drop_remainder=False, negative_rate=rate)
            for i in range(workers)
        ]
        assert len({shard.steps(epoch) for shard in shards}) == 1
        shares = [Counter(names(shard.dataset(epoch))) for shard in shards]
        assert sum(shares, Counter()) == whole
        assert set(whole.values()) == {1}
        assert min(len(share) for share in shares) > 0
        assert all(shard.rows == len(whole) for shard in shards)


def test_workers_drop_to_equal_full_batches(toy):
    shards = [worker(toy, i, 3) for i in range(3)]
    assert len({shard.steps(0) for shard in shards}) == 1
    rows = [names(shard.dataset(0)) for shard in shards]
    assert {len(r) for r in rows} == {16 * shards[0].steps(0)}
    assert len({*rows[0], *rows[1], *rows[2]}) == sum(len(r) for r in rows)


def test_a_worker_that_runs_out_yields_empty_batches(tmp_path):
    toy = toy_store.make(tmp_path / "store", users=20, group=16, parts=1, truth=True)
    shards = [worker(toy, i, 2, batch_size=4, drop_remainder=False) for i in range(2)]
    sizes = [[len(b["label_click"]) for b in shard.dataset(0)] for shard in shards]
    assert len(sizes[0]) == len(sizes[1])
    assert sum(sizes[0]) + sum(sizes[1]) == len(toy.rows("train"))
    assert 0 in sizes[0] + sizes[1]


def test_more_workers_than_row_groups_are_refused(tmp_path):
    toy = toy_store.make(tmp_path / "store", users=20, group=16, parts=1, truth=True)
    with pytest.raises(InputError, match="2 row groups with rows for 3 workers"):
        worker(toy, 0, 3, batch_size=1)


def test_a_strategy_does_not_shard_again(toy):
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    dataset = strategy.experimental_distribute_dataset(reader(toy).dataset(0))
    assert_same(dataset, reader(toy).dataset(0))


def test_unknown_rate_hides_ids_of_some_rows_and_nothing_else(tmp_path):
    toy_store.make(tmp_path / "store", users=200, seed=3)
    store = Store.open(tmp_path / "store")
    plain = Reader(store, "train", batch_size=32, history=5, seed=4)
    hidden = Reader(store, "train", batch_size=32, history=5, seed=4, unknown_rate=0.3)
    rows, share = 0, {"user": 0, "item": 0}
    for a, b in zip(plain.dataset(0), hidden.dataset(0), strict=True):
        rows += len(a["label_click"])
        for name, values in a.items():
            differs = (values != b[name]).numpy()
            if name in share:
                assert (b[name].numpy()[differs] == 1).all()
                share[name] += int(differs.sum())
            else:
                assert not differs.any()
    for count in share.values():
        assert abs(count / rows - 0.3) < 4 * (0.3 * 0.7 / rows) ** 0.5
    again = hidden.batch(1, 0)["user"]
    assert (again == hidden.batch(1, 0)["user"]).all()
    assert (hidden.batch(1, 0)["user"] != plain.batch(1, 0)["user"]).any()


def test_sampling_that_leaves_no_negative_is_refused(tmp_path):
    toy_store.make(tmp_path / "store", users=50, seed=3)
    store = Store.open(tmp_path / "store")
    with pytest.raises(InputError, match="no negative of split train is left"):
        Reader(store, "train", batch_size=4, history=5, negative_rate=1e-10)
