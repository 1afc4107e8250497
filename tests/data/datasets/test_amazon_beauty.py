"""Amazon Beauty: both forms of its files, its errors, and the split against pandas."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets.amazon_beauty import META, REVIEWS, Config, read_categories, read_reviews
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.conftest import shared_data

SEPARABLE = 0.02  # strict: no more than this off AUC 0.5


def review(user, item, time, **more):
    return json.dumps({"reviewerID": user, "asin": item, "unixReviewTime": time, **more})


def packed(path, lines):
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path


def decoded(store: Store, every: int = 1) -> pd.DataFrame:
    """Every instance of a store: split, user and item (raw), label, cut, and seen (raw items).

    every: only so many-th rows have their ``seen``, the others None.
    """
    name = {"user": store.schema.user_id.name, "item": store.schema.item_id.name}
    dims = {k: pq.read_table(store.path / "dims" / f"{k}.parquet").column(name[k]) for k in name}
    users, items = (dims[k].to_numpy() for k in ("user", "item"))
    frames = []
    for split in SPLITS:
        found = store.read(split, store.groups(split))
        owner = np.repeat(np.arange(len(found.users)), found.counts)
        cut = found.instances["cut"]
        start = found.offsets[owner]
        sequence = items[found.behaviours["item"]]
        frame = {
            "split": split,
            "user": users[found.users[owner]],
            "item": items[found.instances["item"]],
            "item_index": found.instances["item"],
            "label": found.instances["label_click"],
            "cut": cut,
            "seen": [
                None if k % every else tuple(sequence[a : a + c])
                for k, (a, c) in enumerate(zip(start, cut, strict=True))
            ],
        }
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def separation(store: Store, rows: pd.DataFrame) -> dict[str, float]:
    """AUC of two things that must tell nothing: popularity in training, and being unknown."""
    train = rows[(rows.split == "train") & (rows.label == 1)]
    popularity = train.groupby("item").size()
    found = {}
    for split in ("validation", "test"):
        part = rows[rows.split == split]
        score = part.item.map(popularity).fillna(0)
        unknown = store.ids(store.schema.item_id.name)[part.item_index] == 1
        found[f"{split} popularity"] = roc_auc_score(part.label, score)
        found[f"{split} unknown"] = roc_auc_score(part.label, unknown)
    return found


@pytest.fixture
def raw(tmp_path):
    """Two users in the official form: JSON reviews, metadata as Python literals."""
    folder = tmp_path / "raw"
    folder.mkdir()
    reviews = [review("A'1", f"B{k}", 1_000_000_000 + k * 86_400, overall=5.0) for k in range(5)]
    reviews += [review("A2", f"B{k}", 1_000_000_000 - k * 86_400) for k in range(5)]
    packed(folder / REVIEWS, reviews)
    packed(
        folder / META,
        [
            "{'asin': 'B0', 'title': \"It's\", 'categories': [['Beauty', 'Hair', 'Combs']]}",
            "{'asin': 'B1', 'categories': [['Beauty', 'Skin'], ['Health', 'Care']], 'price': 1.5}",
            json.dumps({"asin": "B2", "categories": [list("abcdefgh")]}),
            "{'asin': 'B3', 'description': 'no path'}",
            "{'asin': 'elsewhere', 'categories': not even parsed}",
        ],
    )
    return folder


def test_reviews_keep_ids_times_and_the_order_of_the_file(raw):
    table = read_reviews(raw / REVIEWS).to_pydict()
    assert table["user"] == ["A'1"] * 5 + ["A2"] * 5
    assert table["item"] == [f"B{k}" for k in range(5)] * 2
    assert table["timestamp"][6] == 1_000_000_000 - 86_400
    assert table["ord"] == list(range(1, 11))


def test_metadata_may_be_json_or_python_and_items_may_lack_it(raw):
    paths = read_categories(raw / META, {f"B{k}" for k in range(5)})
    assert paths == {
        "B0": ["Beauty", "Hair", "Combs"],
        "B1": ["Beauty", "Skin"],
        "B2": [*"abcdefgh"],
    }


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("not json", r"line 2: 'not json'.*expected a JSON object"),
        ('["A1", "B1", 3]', r"line 2: .*expected a JSON object"),
        (json.dumps({"reviewerID": "A", "unixReviewTime": 3}), r"line 2: .*'asin'.*expected"),
        (review("", "B", 3), r"line 2: reviewerID is ''; expected a text"),
        (review("A", 7, 3), r"line 2: asin is 7; expected a text"),
        (review("A", "B", "soon"), r"line 2: unixReviewTime is 'soon'; expected whole seconds"),
        (review("A", "B", 1.5), r"line 2: unixReviewTime is 1.5"),
        (review("A", "B", 1_400_000_000_000), r"line 2: unixReviewTime is 1400000000000.*millisec"),
    ],
)
def test_a_bad_review_is_refused_with_file_and_line(tmp_path, line, says):
    path = packed(tmp_path / REVIEWS, [review("A", "B", 3), line, review("A", "C", 4)])
    with pytest.raises(InputError, match=f"{REVIEWS}, {says}") as caught:
        read_reviews(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{'title': 'no name'}", "has no asin"),
        ("{'asin': 'B', 'categories': [[", "expected a JSON object or a Python dictionary"),
        ("{'asin': 'B', 'categories': 3}", "expected a JSON object or a Python dictionary"),
        ("{'asin': 'B', 'categories': [[4]]}", "categories is no list of paths of names"),
    ],
)
def test_bad_metadata_is_refused_with_file_and_line(tmp_path, line, says):
    path = packed(tmp_path / META, [line])
    with pytest.raises(InputError, match=rf"{META}, line 1: .*{says}"):
        read_categories(path, {"B"})


@pytest.mark.parametrize("value", [
    "[" * 100_000, "-" * 1_000_000 + "1", "1+" * 300_000 + "1", "(" * 199 + "[" * 100_000,
    "{1:" * 150_000, "[[" + "'x'," * 200_000, "9" * 500_000, "[['\ud800']]", "[['a\\rb']]",
], ids=[*"abcdefghi"])  # fmt: skip
@pytest.mark.parametrize(
    "form", ["{'asin': 'x', 'categories': %s}", '{"asin": "x", "categories": %s}']
)
def test_hostile_metadata_is_refused_in_a_sentence(tmp_path, form, value):
    path = packed(tmp_path / META, [form % value.replace("\ud800", "\\ud800")])
    with pytest.raises(InputError, match=f"{META},? line 1") as caught:
        read_categories(path, {"x"})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("line", [
    '{"reviewerID": %s' % ("[" * 100_000), review("u\ud800", "i", 5), review("u", "a\rb", 5),
    review("u\0", "i", 5), '{"reviewerID": "u", "asin": "i", "unixReviewTime": %s}' % ("9" * 5000),
], ids=["deep", "surrogate", "return", "NUL", "digits"])  # fmt: skip
def test_a_hostile_review_is_refused_in_a_sentence(tmp_path, line):
    path = packed(tmp_path / REVIEWS, [review("u", "i", 5), line])
    with pytest.raises(InputError, match=f"{REVIEWS}, line 2") as caught:
        read_reviews(path)
    assert "\n" not in str(caught.value)


def test_truncated_gzip_plain_text_and_no_review_are_refused(tmp_path):
    path = packed(tmp_path / REVIEWS, [review(f"A{k}", "B", k) for k in range(5000)])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"cannot be read past line .*expected a whole gzip"):
        read_reviews(path)
    path.write_text(review("A", "B", 3))
    with pytest.raises(InputError, match=r"past line 0 .*expected a whole gzip"):
        read_reviews(path)
    with pytest.raises(InputError, match="holds no review"):
        read_reviews(packed(path, [""]))


def test_missing_files_come_with_instructions(tmp_path):
    packed(tmp_path / REVIEWS, [review("A", "B", 3)])
    with pytest.raises(InputError, match=rf"{META} is missing.*download the 5-core"):
        Config(raw=str(tmp_path)).acquire()


def test_a_misspelt_way_of_categories_lists_the_known():
    with pytest.raises(InputError, match=r"'leaves'.*known: all, leaf"):
        Config(categories="leaves")  # type: ignore[arg-type]


def test_last_interaction_is_test_and_the_one_before_validation(raw, tmp_path):
    config = Config(raw=str(raw), protocol="paper")
    store = Store.open(prepare(config, tmp_path))
    rows = decoded(store)
    rows = rows[rows.label == 1].set_index(["user", "split", "cut"]).sort_index()
    assert rows.item["A'1", "test", 4] == "B4"
    assert rows.seen["A'1", "test", 4] == ("B0", "B1", "B2", "B3")
    assert rows.item["A2", "test", 4] == "B0"  # times run backwards
    assert rows.item["A2", "validation", 3] == "B1"
    assert list(rows.item["A2", "train"]) == ["B3", "B2"]  # B4 sees no history
    assert len(rows) == 2 * 4


@pytest.mark.parametrize("ways", ["leaf", "all"])
def test_categories_become_ids(raw, tmp_path, ways):
    config = Config(raw=str(raw), protocol="paper", categories=ways)
    store = Store.open(prepare(config, tmp_path))
    names = store.vocabulary_path("category").read_text().splitlines()
    items = pq.read_table(store.path / "dims" / "item.parquet").column("item").to_pylist()
    ids = {i: np.atleast_1d(row) for i, row in zip(items, store.ids("category"), strict=True)}
    texts = {i: [names[k - 2] for k in row if k] for i, row in ids.items()}
    expected = {"B0": ["Beauty", "Hair", "Combs"], "B1": ["Beauty", "Skin"], "B2": [*"cdefgh"]}
    expected = {i: expected.get(i, []) for i in items}
    if ways == "leaf":
        expected = {i: path[-1:] for i, path in expected.items()}
    assert texts == expected


@pytest.mark.slow
def test_the_real_log_has_the_published_counts_and_the_split_of_an_oracle(tmp_path):
    folder = shared_data(f"amazon_beauty/{REVIEWS}").parent
    store = Store.open(prepare(Config(raw=str(folder)), tmp_path))
    counts = store.manifest["counts"]
    assert [counts[k] for k in ("users", "items", "behaviours")] == [22_363, 12_101, 198_502]
    rows = decoded(store, every=500)
    log = pd.read_json(folder / REVIEWS, lines=True, convert_dates=False)
    log = log.sort_values(["reviewerID", "unixReviewTime"], kind="stable")
    grouped = log.groupby("reviewerID")
    left, cut = grouped.cumcount(ascending=False), grouped.cumcount()
    split = np.select([left == 0, left == 1], ["test", "validation"], "train")
    expected = set(zip(split, log.reviewerID, log.asin, cut, strict=True))
    expected = {row for row in expected if row[3] > 0}
    positives = rows[rows.label == 1]
    columns = [positives[c] for c in ("split", "user", "item", "cut")]
    assert len(positives) == len(expected)
    assert set(zip(*columns, strict=True)) == expected
    history = grouped.asin.agg(tuple)
    sample = rows[rows.seen.notna()]
    for user, seen, cut in zip(sample.user, sample.seen, sample.cut, strict=True):
        assert seen == history[user][:cut]
    for what, auc in separation(store, rows).items():
        assert abs(auc - 0.5) <= SEPARABLE, what
