"""MovieLens: tensorflow-datasets' builder, conversion, both targets, errors; all offline."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets import movielens
from at4ctr.data.datasets.movielens import COLUMNS, FOLDER, KEPT, Config
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import history_name
from tests.data.datasets.test_amazon_beauty import decoded

GENRES = ("Action", "Children's", "Comedy", "Drama", "Film-Noir", "War")
ROOT = Path(__file__).resolve().parents[3]
USERS, MOVIES, EACH = 40, 60, 20


def ratings():
    """A log in MovieLens' own terms; many ratings of a user share their second."""
    rng = random.Random(0)
    movies = {m: rng.sample(GENRES, rng.randint(1, 6)) for m in range(1, MOVIES + 1)}
    people = range(1, USERS + 1)
    users = {u: (rng.choice("MF"), rng.choice([1, 18, 56]), rng.randrange(21)) for u in people}
    rows = [
        (u, m, rng.randint(1, 5), 978_300_000 + rng.randrange(12))
        for u in users
        for m in rng.sample(sorted(movies), EACH)
    ]
    return movies, users, rows


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """The raw folder where the builder itself prepared the log; only the network is not real."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "ml-1m").mkdir()
    movies, users, rows = ratings()
    lines = {
        "movies": [f"{m}::Movie {m} (1999)::{'|'.join(g)}" for m, g in movies.items()],
        "users": [f"{u}::{g}::{a}::{o}::0{u}" for u, (g, a, o) in users.items()],
        "ratings": ["::".join(map(str, row)) for row in rows],
    }
    for name, text in lines.items():
        (folder / "ml-1m" / f"{name}.dat").write_text("\n".join(text) + "\n")
    manager = tfds.download.DownloadManager
    with (
        contextlib.chdir(folder),
        mock.patch.object(requests, "head"),
        mock.patch.object(manager, "download_and_extract", return_value=str(folder)),
    ):
        Config(size="1m").acquire()
    return folder / KEPT


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected():
    """The log as a frame, under our names."""
    movies, users, rows = ratings()
    frame = pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"])
    frame["gender"] = [users[u][0] for u in frame.user]
    frame["age"] = [users[u][1] for u in frame.user]
    frame["genres"] = [
        tuple(sorted(g.replace("Children's", "Children") for g in movies[m])) for m in frame.item
    ]
    return frame.astype({"user": str, "item": str})


def test_the_builder_s_log_is_converted_whole_and_once(downloaded):
    (file,) = downloaded.glob("*.parquet")
    table = pq.read_table(file)
    assert table.schema.equals(COLUMNS)
    found = table.to_pandas()
    found["genres"] = [tuple(sorted(g)) for g in found.genres]
    known = expected()
    columns = list(known.columns)
    assert sorted(found[columns].values.tolist()) == sorted(known.values.tolist())
    assert "student" in set(found.occupation)
    before = file.stat()
    assert before.st_mtime == known.timestamp.max()
    with contextlib.chdir(downloaded.parents[2]):
        assert Config(size="1m").acquire().files[0].stat().st_ino == before.st_ino
    assert not list(downloaded.glob(".*tmp*")) + list(downloaded.glob("*.lock"))


def test_a_named_folder_is_read_where_it_lies_and_gives_the_same_file(downloaded, here):
    (first,) = downloaded.glob("*.parquet")
    listing = sorted(downloaded.rglob("*"))
    (again,) = Config(raw=str(downloaded), size="1m").acquire().files
    assert again.resolve().is_relative_to(here)
    assert (again.name, again.read_bytes()) == (first.name, first.read_bytes())
    assert again.stat().st_mtime_ns == first.stat().st_mtime_ns
    assert sorted(downloaded.rglob("*")) == listing


def test_each_user_s_last_ratings_are_held_out(downloaded, here):
    store = Store.open(
        prepare(Config(raw=str(downloaded), size="1m", protocol="paper", negatives=3), here)
    )
    rows, known = decoded(store), expected()
    positives = rows[rows.label == 1]
    assert len(positives) == USERS * (EACH - 1)  # the first rating sees nothing
    assert (rows.label == 0).sum() == 3 * len(positives)
    times = known.set_index(["user", "item"]).timestamp
    for split, place in (("test", EACH - 1), ("validation", EACH - 2)):
        part = positives[positives.split == split]
        assert sorted(part.user) == sorted(set(known.user))
        assert set(part.cut) == {place}
    last = positives[positives.split == "test"]
    for user, item, seen in zip(last.user, last.item, last.seen, strict=True):
        assert len(set(seen) | {item}) == EACH
        order = [times[user, i] for i in (*seen, item)]
        assert order == sorted(order)
    negatives = rows[rows.label == 0]
    assert not any(i in seen for i, seen in zip(negatives.item, negatives.seen, strict=True))
    assert not store.manifest["simulated"]
    assert any("Harper" in n for n in store.manifest["notes"])


def test_ratings_as_the_target_have_their_own_labels(downloaded, here):
    store = Store.open(
        prepare(Config(raw=str(downloaded), size="1m", target="rating", protocol="paper"), here)
    )
    rows, known = decoded(store), expected()
    rating = known.set_index(["user", "item"]).rating
    times = known.set_index(["user", "item"]).timestamp
    liked = [rating[u, i] >= 4 for u, i in zip(rows.user, rows.item, strict=True)]
    assert (rows.label == liked).all()
    for user, item, seen in zip(rows.user, rows.item, rows.seen, strict=True):
        earlier = known[(known.user == user) & (known.timestamp < times[user, item])]
        assert set(seen) == set(earlier.item)
    first = known.groupby("user").timestamp.transform("min")
    assert len(rows) == (known.timestamp > first).sum()


@pytest.mark.parametrize("target", ["implicit", "rating"])
def test_a_batch_has_profile_genres_and_history(downloaded, here, target):
    config = Config(raw=str(downloaded), size="1m", target=target, unknown_rate=0.0, draw="uniform")
    store = Store.open(prepare(config, here), config.schema(), config.preparation())
    batch = Reader(store, "test", batch_size=8, history=10, shuffle=False).batch(0, 0)
    assert batch["genres"].shape == (8, 6)
    long = batch["history_length"].max()
    assert batch[history_name("genres")].shape == (8, long, 6)
    assert 0 < long <= 10
    words = {n: ["", "?", *store.vocabulary_path(n).read_text().splitlines()]
             for n in ("user", "item", "genre", "gender", "age")}  # fmt: skip
    known = expected()
    genres = dict(zip(known.item, known.genres, strict=True))
    people = known.set_index("user")
    for k in range(8):
        user, item = (words[n][batch[n][k]] for n in ("user", "item"))
        assert people.gender[user].iloc[0] == words["gender"][batch["gender"][k]]
        assert str(people.age[user].iloc[0]) == words["age"][batch["age"][k]]
        if item != "?":
            assert tuple(sorted(words["genre"][g] for g in batch["genres"][k] if g)) == genres[item]


def of_the_wheel(folder):
    """The three files of the wheel, of a small log, and its movies and ratings as frames."""
    rng = np.random.default_rng(3)
    flags = rng.integers(2, size=(30, 4))
    flags[:, 0] |= flags.sum(1) == 0
    genres = ["unknown", "Action", "Children's", "War"]
    movies = pd.DataFrame(flags, columns=genres).assign(movie_id=range(1, 31))
    movies = movies[["movie_id", *genres]]
    users = pd.DataFrame({
        "user_id": range(1, 13), "age": [17, 18, 70] * 4, "gender": list("MFM") * 4,
        "occupation": ["student", "other", "none"] * 4, "zip_code": ["1", "2", "x"] * 4,
    })  # fmt: skip
    pairs = [(u, m) for u in range(1, 13) for m in rng.permutation(np.arange(1, 31))[:20].tolist()]
    rows = pd.DataFrame(pairs, columns=["user_id", "movie_id"])
    rows["rating"] = rng.integers(1, 6, len(rows))
    rows.loc[rows.user_id == 3, "rating"] = 1  # who likes nothing has rows all the same
    rows["timestamp"] = 880_000_000 + rng.integers(5, size=len(rows))
    rows = rows.sample(frac=1, random_state=0).reset_index(drop=True)
    folder.mkdir()
    for name, frame in (("data", rows), ("items", movies), ("users", users)):
        frame.to_parquet(folder / f"MovieLens100k_{name}.parquet.brotli", compression="brotli")
    return movies, rows


def test_liked_movies_are_seen_in_the_order_of_time_and_movie(here):
    movies, rows = of_the_wheel(here / "raw")
    config = Config(raw="raw", target="liked", protocol="paper", min_behaviours=0, min_history=0)
    store = Store.open(prepare(config, here / "data"))
    expected, first = [], movies.set_index("movie_id").idxmax(axis=1)
    for user, each in rows.sort_values(["timestamp", "movie_id"]).groupby("user_id"):
        seen = []
        for place, row in enumerate(each.itertuples()):
            if place >= 5:
                split = {18: "validation", 19: "test"}.get(place, "train")
                expected.append((split, str(user), str(row.movie_id), int(row.rating >= 4), *seen))
            seen += [str(row.movie_id)] * (row.rating >= 4)
    found = decoded(store)
    made = [(r.split, r.user, r.item, r.label, *r.seen) for r in found.itertuples()]
    assert sorted(made) == sorted(expected)
    words = store.vocabulary_path("genre").read_text().splitlines()
    items = pq.read_table(store.path / "dims" / "item.parquet").column("item").to_pylist()
    genre = [words[i[0] - 2] for i in store.ids("genres")]
    assert dict(zip(items, genre, strict=True)) == {str(m): g for m, g in first.items()}
    assert not any("UTC" in note for note in store.manifest["notes"])


def test_the_wheel_s_files_have_ages_in_ranges_and_all_genres(here):
    movies, rows = of_the_wheel(here / "raw")
    table = movielens._read(*Config(raw="raw").acquire().files).to_pandas()
    ages = dict(zip(table.user, table.age, strict=True))
    assert ages == {str(u): (56, 1, 18)[u % 3] for u in range(1, 13)}
    flags = movies.set_index("movie_id")
    known = {str(m): [g for g in flags.columns if flags.loc[m, g]] for m in flags.index}
    assert {i: list(g) for i, g in zip(table.item, table.genres, strict=True)} == {
        i: known[i] for i in set(table.item)
    }
    columns = ["user_id", "movie_id", "rating", "timestamp"]
    found = table[["user", "item", "rating", "timestamp"]].astype(int)
    assert found.to_numpy().tolist() == rows[columns].to_numpy().tolist()


def test_files_that_are_not_the_wheel_s_are_refused(here):
    of_the_wheel(here / "raw")
    (here / "raw" / "MovieLens100k_users.parquet.brotli").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"100k_users.parquet.brotli cannot be read .*; expected"):
        prepare(Config(raw="raw"), here / "data")
    (here / "raw" / "MovieLens100k_items.parquet.brotli").unlink()
    with pytest.raises(InputError, match=r"100k_items.parquet.brotli is missing; .*RAW=folder"):
        Config(raw="raw").acquire()


def fake(self, split, **_):  # noqa: ARG001
    """What stands in for the builder's records: ten ratings each of six users."""
    rng = np.random.default_rng(1)
    size = 60
    data = {
        "user_id": [f"u{k % 6}" for k in range(size)],
        "user_gender": [k % 2 == 0 for k in range(size)],
        "bucketized_user_age": np.full(size, 25.0, np.float32),
        "user_occupation_label": np.full(size, 3, np.int64),
        "movie_id": [f"m{k}" for k in rng.integers(20, size=size)],
        "user_rating": rng.integers(1, 6, size).astype(np.float32),
        "timestamp": np.arange(size, dtype=np.int64),
    }
    genres = tf.ragged.constant([[k % 5] * (k % 3) for k in range(size)], dtype=tf.int64)
    listed = tf.data.Dataset.from_tensor_slices(genres).map(lambda g: tf.convert_to_tensor(g))
    plain = tf.data.Dataset.from_tensor_slices(data)
    return tf.data.Dataset.zip(plain, listed).map(lambda d, g: d | {"movie_genres": g})


@pytest.fixture
def metadata(downloaded, tmp_path):
    """A data folder with metadata and no record."""
    target = tmp_path / "tfds"
    shutil.copytree(
        downloaded / "movielens",
        target / "movielens",
        ignore=shutil.ignore_patterns("*.tfrecord-*"),
    )
    return target


def test_mocked_data_reach_a_batch(metadata, here):
    with tfds.testing.mock_data(data_dir=str(metadata), as_dataset_fn=fake):
        config = Config(raw=str(metadata), size="1m")
        folder = prepare(config, here / "data")
    store = Store.open(folder)
    assert store.manifest["counts"]["behaviours"] == 60
    assert {s: store.counts(s)["labels"]["click"]["positives"] for s in SPLITS} == {
        "train": 42, "validation": 6, "test": 6
    }  # fmt: skip
    batch = Reader(store, "train", batch_size=16, history=5).batch(0, 0)
    assert set(batch["label_click"]) == {0.0, 1.0}
    assert store.vocabulary_path("occupation").read_text() == "customer service\n"


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("Failed to resolve 'example.org'"),
        DownloadError("Failed to get url x. HTTP code: 404."),
        NonMatchingChecksumError("Artifact has wrong checksum.\nTo debug, see: ..."),
    ],
)
def test_a_download_that_fails_tells_the_manual_way(here, error):
    reached = isinstance(error, requests.ConnectionError)
    with (
        mock.patch.object(requests, "head", side_effect=error if reached else None),
        mock.patch.object(tfds.download.DownloadManager, "download_and_extract", side_effect=error),
        pytest.raises(InputError, match=r"1m-ratings could not be dow.*RAW=folder") as caught,
    ):
        Config(size="1m").acquire()
    assert str(error).splitlines()[0].rstrip(".") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((here / KEPT).glob("*.parquet")) + list((here / KEPT).glob(".*lock"))


def test_a_named_folder_without_the_log_is_not_downloaded_into(here):
    raw = here / "elsewhere"
    raw.mkdir()
    with pytest.raises(
        InputError, match=r"elsewhere holds no movielens/1m-ratings.*leave data.raw"
    ):
        Config(raw=str(raw), size="1m").acquire()
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("*.tfrecord-*", lambda b: b[: len(b) // 2]),
        ("*.tfrecord-*", lambda b: b[:1000] + bytes([b[1000] ^ 1]) + b[1001:]),
        ("dataset_info.json", lambda b: b[: len(b) // 2]),
        ("features.json", lambda _: b"{}"),
    ],
)
def test_a_damaged_folder_is_refused_and_nothing_is_left(downloaded, here, name, content):
    shutil.copytree(downloaded / "movielens", here / "raw" / "movielens")
    (file,) = (here / "raw" / FOLDER).glob(f"*/{name}")
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(InputError, match=r"1m-ratings/0.1.1 cannot be read past") as caught:
        Config(raw="raw", size="1m").acquire()
    assert "\n" not in str(caught.value)
    assert not [p for p in (here / KEPT).rglob("*") if p.is_file()]


def test_an_incomplete_version_is_not_taken(downloaded, here):
    folder = here / FOLDER
    folder.mkdir(parents=True)
    prepared = downloaded / FOLDER / "0.1.1"
    for name in ("incomplete.AB_0.1.1", "0.1.0", "0.0.9"):
        shutil.copytree(prepared, folder / name)
    assert movielens._prepared(here) == folder / "0.1.0"


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match=r"unknown value of data.size '10m'"):
        Config(size="10m")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"unknown value of data.target 'ratings': did you mean"):
        Config(target="ratings")  # type: ignore[arg-type]


def test_the_builder_is_imported_only_where_it_is_needed(downloaded):
    code = """
import sys
from at4ctr.data.datasets import movielens, taobao
for do in (movielens.Config(size="1m").schema, movielens.Config(size="1m").acquire):
    do()
    assert "tensorflow_datasets" not in sys.modules
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=downloaded.parents[2], env=env, check=True)
