"""The reader's labels, numbers and weights, and which labels sampling allows."""

from dataclasses import replace

import numpy as np
import pytest

from at4ctr.data.reader import Reader
from at4ctr.data.sampling import sampled_label
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Label
from tests.data import toy_store
from tests.data.test_reader import batches, oracle, reader


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("rich") / "store"
    return toy_store.make(path, users=120, truth=True, rich=True)


def rich_oracle(toy, user, row, T):
    """A row as the batch should hold it, in its order."""
    found = oracle(toy, user, row, T)
    del found["history_tags"]
    truths = {"truth_click": found.pop("truth_click"), "truth_conversion": row["truth_conversion"]}
    ids = {k: found.pop(k) for k in ("user_index", "item_index")}
    tail = {k: found.pop(k) for k in ("history_length", "behaviours", "label_click")}
    past = user["behaviour_timestamp"][max(row["cut"] - T, 0) : row["cut"]]
    found["history_seconds_ago"] = [row["timestamp"] - t for t in past] + [0] * (T - len(past))
    found |= tail
    return (
        found
        | {
            "label_conversion": float(row["label_conversion"]),
            "income": toy.numbers["income"][user["user"]].tolist(),
            "price": toy.numbers["price"][row["item"]].tolist(),
            "rate": row["rate"],
            "weight": row["weight"],
            "weights_tags": toy.weights[row["item"]].tolist(),
        }
        | ids
        | truths
    )


@pytest.mark.parametrize("split", toy_store.SPLITS)
def test_every_row_holds_its_labels_numbers_and_weights(toy, split):
    expected = {r["truth_click"]: rich_oracle(toy, u, r, 5) for u, r in toy.rows(split)}
    for batch in batches(reader(toy, split)):
        for name in ("label_conversion", "income", "price", "rate", "weight", "weights_tags"):
            assert batch[name].dtype == np.float32
        for i in range(len(batch["item"])):
            row = {name: values[i].tolist() for name, values in batch.items()}
            wanted = expected.pop(row["truth_click"])
            assert list(row) == list(wanted)
            for name, value in wanted.items():
                np.testing.assert_array_equal(row[name], value, name)
    assert not expected


def test_nested_samples_keep_all_labels_of_a_row(toy):
    rows = {row["truth_click"]: row for _, row in toy.rows("train")}
    kept = {}
    for w in (0.1, 0.3, 1.0):
        found = {}
        for batch in batches(reader(toy, negative_rate=w)):
            labels = zip(batch["label_click"], batch["label_conversion"], strict=True)
            found |= dict(zip(batch["truth_click"].tolist(), labels, strict=True))
        for key, labels in found.items():
            assert labels == (rows[key]["label_click"], rows[key]["label_conversion"])
        assert {k for k, row in rows.items() if row["label_click"]} <= set(found)
        kept[w] = set(found)
    assert kept[0.1] < kept[0.3] < kept[1.0] == set(rows)


def test_it_goes_on_at_any_step_bit_for_bit(toy):
    def read(start):
        subject = reader(toy, drop_remainder=True, negative_rate=0.5, unknown_rate=0.1)
        return list(subject.dataset(1, start).as_numpy_iterator())

    whole = read(0)
    for start in (1, len(whole) // 2, len(whole) - 1):
        for found, expected in zip(read(start), whole[start:], strict=True):
            assert list(found) == list(expected)
            for name, values in expected.items():
                assert found[name].tobytes() == values.tobytes(), name


CLICK, CONVERSION = toy_store.RICH.labels


@pytest.mark.parametrize(("labels", "says"), [
    ((replace(CLICK, sampled=False), CONVERSION), "no label is sampled"),
    ((replace(CLICK, sampled=False), replace(CONVERSION, sampled=True)),
     "the sampled label 'conversion' is known within 'click'"),
    ((CLICK, CONVERSION, Label("like")), "label 'like' is not known within 'click' alone"),
    ((Label("view"), CLICK, CONVERSION), "label 'view' is not known within 'click' alone"),
])  # fmt: skip
def test_what_cannot_be_corrected_is_refused(labels, says):
    with pytest.raises(InputError, match=f"negative_rate is 0.5 and {says}; expected a sampled"):
        sampled_label(labels, 0.5)


def test_a_chain_of_labels_is_corrected():
    labels = (CLICK, CONVERSION, Label("return", within="conversion"))
    assert sampled_label(labels, 0.5) == "label_click"


def test_a_reader_refuses_a_rate_without_a_sampled_label(tmp_path):
    toy_store.make(tmp_path / "store")
    store = Store.open(tmp_path / "store")
    object.__setattr__(store, "schema", replace(store.schema, labels=(Label("click"),)))
    Reader(store, "train", batch_size=5, history=3)
    with pytest.raises(InputError, match=r"split train: negative_rate is 0.5 and no label is"):
        Reader(store, "train", batch_size=5, history=3, negative_rate=0.5)
