"""The files of a simulated world: format, seed, dirt, impressions with their probabilities."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from at4ctr.data.simulation import write as simulate
from at4ctr.data.simulation.world import Catalogue, World
from at4ctr.data.simulation.write import write_behaviours, write_impressions
from at4ctr.errors import InputError
from tests.data.simulation.test_world import CLEAN, NAMES, SMALL, dense, log_of

START, END = 1_511_539_200, 1_512_316_799


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> tuple[int, bytes]:
    path = tmp_path_factory.mktemp("log") / "UserBehavior.csv"
    return write_behaviours(SMALL, path), path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("impressions")
    write_impressions(SMALL, path, impressions=60_000)
    return path


@pytest.fixture(scope="module")
def impressions(folder) -> pd.DataFrame:
    return pq.read_table(folder / "impressions.parquet").to_pandas()


# --- the file


def test_official_format(lines):
    rows, content = lines
    assert content.endswith(b"\n")
    records = [line.split(b",") for line in content.splitlines()]
    assert len(records) == rows
    assert {len(r) for r in records} == {5}
    assert {r[3] for r in records} == {b"pv", b"buy", b"cart", b"fav"}
    assert all(r[c].isdigit() for r in records for c in (0, 1, 2, 4))
    assert all(int(r[c]) > 0 for r in records for c in (0, 1, 2))


def test_seeded_byte_for_byte(lines, folder, tmp_path):
    write_behaviours(SMALL, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == lines[1]
    write_behaviours(dataclasses.replace(SMALL, seed=2), tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_bytes() != lines[1]
    write_impressions(SMALL, tmp_path, impressions=60_000)
    for name in ("behaviours.parquet", "impressions.parquet"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_several_blocks_make_one_log(monkeypatch, tmp_path):
    monkeypatch.setattr(simulate, "BLOCK_ROWS", 5_000)
    log = log_of(CLEAN, tmp_path)
    assert abs(len(log) - CLEAN.rows) < 0.1 * CLEAN.rows
    assert log["user"].nunique() == CLEAN.users
    write_impressions(CLEAN, tmp_path, impressions=777)
    assert pq.read_metadata(tmp_path / "impressions.parquet").num_rows == 777
    assert pq.read_metadata(tmp_path / "behaviours.parquet").num_rows == len(log)


def test_failure_leaves_nothing_behind(monkeypatch, tmp_path):
    def broken(*_):
        raise OSError("disk on fire")

    monkeypatch.setattr(simulate, "_soiled", broken)
    (tmp_path / "log.csv").write_text("the old one")
    with pytest.raises(OSError, match="fire"):
        write_behaviours(SMALL, tmp_path / "log.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]
    assert (tmp_path / "log.csv").read_text() == "the old one"


def test_users_are_grouped_and_ids_are_scattered(tmp_path):
    log = log_of(CLEAN, tmp_path)
    changes = (log["user"] != log["user"].shift()).sum()
    assert changes == log["user"].nunique() == CLEAN.users
    assert log["user"].max() > 10 * CLEAN.users
    assert log["item"].max() > 10 * CLEAN.items
    assert not log["user"].drop_duplicates().is_monotonic_increasing


def test_category_is_a_function_of_item(tmp_path):
    log = log_of(SMALL, tmp_path)
    assert (log.groupby("item")["category"].nunique() == 1).all()
    assert log["category"].nunique() > SMALL.categories / 2


def test_types_have_the_official_shares(tmp_path):
    share = log_of(SMALL, tmp_path)["type"].value_counts(normalize=True)
    for name, expected in {"pv": 0.896, "cart": 0.055, "fav": 0.029, "buy": 0.020}.items():
        assert abs(share[name] - expected) < 4 * np.sqrt(expected / SMALL.rows)


# --- dirt


def test_without_dirt_time_ascends_inside_the_window(tmp_path):
    log = log_of(CLEAN, tmp_path)
    assert log["timestamp"].between(START, END).all()
    step = log.groupby("user")["timestamp"].diff().dropna()
    assert (step >= 0).all()
    assert (step == 0).any()


@pytest.mark.parametrize("share", [0.0005, 0.05])
def test_strays(share, tmp_path):
    log = log_of(dataclasses.replace(CLEAN, strays=share), tmp_path)
    outside = ~log["timestamp"].between(START, END)
    assert abs(outside.mean() - share) < 4 * np.sqrt(share / len(log))


def test_duplicates_are_exact(tmp_path):
    clean = log_of(CLEAN, tmp_path)
    log = log_of(dataclasses.replace(CLEAN, duplicates=0.05), tmp_path)
    extra = len(log) - len(clean)
    assert abs(extra / len(clean) - 0.05) < 4 * np.sqrt(0.05 / len(clean))
    kept = log.loc[~((log == log.shift()).all(axis=1))]
    assert len(kept) <= len(clean)
    assert len(log.drop_duplicates()) == len(clean.drop_duplicates())


def test_disorder_only_reorders(tmp_path):
    clean = log_of(CLEAN, tmp_path)
    log = log_of(dataclasses.replace(CLEAN, unordered=0.3), tmp_path)
    moved = (log.groupby("user")["timestamp"].diff() < 0).groupby(log["user"]).any().mean()
    assert 0.2 < moved <= 0.36
    pd.testing.assert_frame_equal(
        log.sort_values(NAMES, ignore_index=True), clean.sort_values(NAMES, ignore_index=True)
    )


# --- impressions


def test_impression_columns(folder, impressions):
    schema = pq.read_schema(folder / "impressions.parquet")
    assert schema.names == [
        *NAMES[:3], "position", "timestamp", "click", "probability", "exposures",
    ]  # fmt: skip
    assert str(schema.field("click").type) == "int8"
    assert str(schema.field("probability").type) == "double"
    assert pq.read_schema(folder / "behaviours.parquet").names == NAMES
    assert len(impressions) == 60_000
    assert set(impressions["position"]) == set(range(1, 11))
    assert set(impressions["click"]) == {0, 1}
    assert impressions["probability"].between(0, 1, inclusive="neither").all()
    assert 0.05 < impressions["click"].mean() < 0.1


def test_clicks_are_drawn_with_the_stated_probability(impressions):
    decile = pd.qcut(impressions["probability"], 10, labels=False)
    for _, part in [(None, impressions), *impressions.groupby(decile)]:
        p = part["probability"]
        error = np.sqrt((p * (1 - p)).sum())
        assert abs((part["click"] - p).sum()) < 4 * error


def test_impressions_lie_strictly_between_two_behaviours(folder, impressions):
    log = pq.read_table(folder / "behaviours.parquet").to_pandas()
    span = log.groupby("user")["timestamp"].agg(["min", "max"]).loc[impressions["user"]]
    shown = impressions["timestamp"].to_numpy()
    assert (span["min"].to_numpy() < shown).all()
    assert (shown < span["max"].to_numpy()).all()
    taken = set(zip(log["user"], log["timestamp"], strict=True))
    assert not taken & set(zip(impressions["user"], shown, strict=True))


def test_probability_is_the_documented_formula(folder, impressions):
    """From the files and the world's tables alone, up to the intercept."""
    catalogue = Catalogue(SMALL)
    (block,) = simulate._blocks(catalogue)
    log = pq.read_table(folder / "behaviours.parquet").to_pandas()
    log["session"] = block.interest
    log["before"] = log["item"]
    joined = pd.merge_asof(
        impressions.reset_index().sort_values("timestamp"),
        log.sort_values("timestamp", kind="stable")[["user", "timestamp", "session", "before"]],
        on="timestamp", by="user",
    ).set_index("index").sort_index()  # fmt: skip
    user = dense(joined["user"], catalogue.user_ids)
    item = dense(joined["item"], catalogue.item_ids)
    last = dense(joined["before"], catalogue.item_ids)
    people = block.people
    tau = (joined["timestamp"].to_numpy() - START) / (END - START)
    raw = np.exp(people.base[user] + SMALL.drift * (2 * tau[:, None] - 1) * people.slope[user])
    held = people.interests[user] == catalogue.interest[item][:, None]
    lasting = (raw * held).sum(axis=1) / raw.sum(axis=1)
    current = (lasting + (joined["session"].to_numpy() == catalogue.interest[item])) / 2
    logs = np.log(catalogue.popularity)
    expected = (
        SMALL.affinity * (people.taste[user] * catalogue.vectors[item]).sum(axis=1) / np.sqrt(8)
        + SMALL.interest_effect * current
        + SMALL.transition_effect * (catalogue.successors[last] == item[:, None]).any(axis=1)
        + SMALL.popularity_effect * (logs[item] - logs.mean()) / logs.std()
        - SMALL.examination * np.log(joined["position"].to_numpy(float))
    )
    p = joined["probability"].to_numpy()
    intercept = np.log(p) - np.log1p(-p) - expected
    assert np.ptp(intercept) < 1e-4  # float32 vectors


def test_bayes_auc_is_well_above_that_of_popularity(folder, impressions):
    popular = pq.read_table(folder / "behaviours.parquet").to_pandas()["item"].value_counts()
    bayes = roc_auc_score(impressions["click"], impressions["probability"])
    counted = impressions["item"].map(popular).fillna(0)
    assert bayes > 0.8
    assert bayes > roc_auc_score(impressions["click"], counted) + 0.1


def test_positions_are_examined_unequally(impressions):
    rate = impressions.groupby("position")["click"].mean()
    assert rate[1] > 1.5 * rate[10]
    assert np.corrcoef(rate.index, rate)[0, 1] < -0.7
    assert abs(impressions["position"].mean() - 5.5) < 0.06


# --- refusals


def test_impressions_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError, match="impressions is 0"):
        write_impressions(SMALL, tmp_path, impressions=0)
    lonely = World(users=50, items=50, categories=5, rows=50, activity=0.0)
    with pytest.raises(InputError, match="no two behaviours"):
        write_impressions(lonely, tmp_path, impressions=10)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_noticed_beforehand(monkeypatch, tmp_path):
    usage = dataclasses.make_dataclass("usage", ["free"])
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(1_000))
    with pytest.raises(InputError, match="1,000 bytes free"):
        write_behaviours(SMALL, tmp_path / "log.csv")
    assert not list(tmp_path.iterdir())


def test_the_smallest_worlds_work(tmp_path):
    one = World(users=1, items=1, categories=1, rows=30, candidates=1, latent=1, days=1)
    log = log_of(one, tmp_path)
    assert log["item"].nunique() == 1
    write_impressions(one, tmp_path, impressions=5)
    assert pq.read_metadata(tmp_path / "impressions.parquet").num_rows == 5
