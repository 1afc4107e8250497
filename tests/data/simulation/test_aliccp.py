"""The simulated click and conversion log: rates, truth, clickbait, delays, visits, bytes."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from at4ctr.data.simulation.aliccp import Log, write

LOG = Log(users=2_000, items=2_000, impressions=200_000, conversion_rate=0.1, seed=3)
SKELETON = ["sample_id", "click", "conversion", "index", "number", "features"]


def read(folder, file):
    rows = pd.read_csv(folder / f"sample_skeleton_{file}.csv", names=SKELETON, dtype={"index": str})
    return rows.merge(pd.read_parquet(folder / f"truth_{file}.parquet"), on="sample_id")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aliccp_log")
    write(LOG, folder)
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return pd.concat([read(folder, file) for file in ("train", "test")], ignore_index=True)


def within(label, truth, deviations=4.5):
    """Whether labels are draws with the probabilities `truth`, by the error of their mean."""
    error = np.sqrt((truth * (1 - truth)).sum()) / len(truth)
    return abs(label.mean() - truth.mean()) < deviations * error


def test_the_rates_are_those_asked_for(rows):
    assert len(rows) == pytest.approx(LOG.impressions, rel=0.1)
    clicked = rows[rows.click == 1]
    assert rows.truth_click.mean() == pytest.approx(LOG.click_rate, rel=0.1)
    assert clicked.truth_conversion.mean() == pytest.approx(LOG.conversion_rate, rel=0.2)
    assert not rows.conversion[rows.click == 0].any()


def test_clicks_are_draws_with_their_probabilities_in_every_decile(rows):
    for _, decile in rows.groupby(pd.qcut(rows.truth_click, 10)):
        assert within(decile.click, decile.truth_click)


def test_conversions_are_draws_with_their_probabilities_in_every_decile_of_clicks(rows):
    clicked = rows[rows.click == 1]
    for _, decile in clicked.groupby(pd.qcut(clicked.truth_conversion, 10)):
        assert within(decile.conversion, decile.truth_conversion)


def test_clickbait_is_clicked_more_and_bought_less(rows):
    bait, other = rows[rows.clickbait], rows[~rows.clickbait]
    assert 0.01 < len(bait) / len(rows) < 0.15
    assert bait.click.mean() > 1.5 * other.click.mean()
    assert bait.truth_click.mean() > 1.5 * other.truth_click.mean()
    assert (bait.conversion[bait.click == 1].mean()
            < 0.3 * other.conversion[other.click == 1].mean())  # fmt: skip


def test_only_conversions_have_a_delay(rows):
    delay = rows.delay_seconds
    assert (delay.notna() == (rows.conversion == 1)).all()
    assert delay.min() >= 0
    hours = delay.median() / 3600
    assert 1 < hours < 24
    assert delay.quantile(0.95) > 24 * 3600


@pytest.mark.parametrize("file", ["train", "test"])
def test_every_visit_has_one_row_of_common_features(folder, rows, file):
    part = read(folder, file)
    names = ["index", "number", "features"]
    common = pd.read_csv(folder / f"common_features_{file}.csv", names=names, dtype={"index": str})
    assert common["index"].is_unique
    assert common["index"].str.fullmatch("[0-9a-f]{16}").all()
    assert {*common["index"]} == {*part["index"]}
    assert (part.sample_id == np.arange(1, len(part) + 1)).all()
    for table in (part, common):
        assert (table.features.str.count("\x01") + 1 == table.number).all()
    named = common.features.str.extract("(?:^|\x01)101\x02([0-9]+)\x031.0")[0]
    assert named.isna().mean() == pytest.approx(0.14, abs=0.04)
    assert len(part) == pytest.approx(len(rows) / 2, rel=0.1)


def test_train_and_test_are_the_same_users_at_other_moments(folder):
    users, indices = [], []
    for file in ("train", "test"):
        text = (folder / f"common_features_{file}.csv").read_text().splitlines()
        users.append({line.split("\x01")[0].split(",")[2] for line in text if ",101\x02" in line})
        indices.append({line.split(",")[0] for line in text})
    assert not indices[0] & indices[1]
    assert len(users[0] & users[1]) > 0.5 * len(users[1])


def test_a_match_is_of_the_item_and_the_past_and_as_heavy_as_the_past(folder):
    """508 stands where the item's category is among the user's past ones, with its weight."""
    common = {}
    for line in (folder / "common_features_train.csv").read_text().splitlines():
        index, _, text = line.split(",")
        pairs = (p.split("\x02") for p in text.split("\x01"))
        common[index] = dict(v.split("\x03") for f, v in pairs if f == "109_14")
    first, met = {"109_14": 4_000_000, "206": 12_000_000, "508": 11_000_000}, 0
    with (folder / "sample_skeleton_train.csv").open() as lines:
        for line, _ in zip(lines, range(3_000), strict=False):
            *_, index, _, text = line.strip().split(",")
            fields = dict(p.split("\x02") for p in text.split("\x01"))
            category = int(fields["206"].split("\x03")[0]) - first["206"]
            weight = common[index].get(str(first["109_14"] + category))
            expected = weight and f"{first['508'] + category}\x03{weight}"
            assert fields.get("508") == expected
            met += weight is not None
    assert met > 300


def test_the_same_log_is_the_same_bytes(tmp_path):
    logs = [Log(users=300, items=200, impressions=6_000, seed=seed) for seed in (1, 1, 2)]
    sums = []
    for number, log in enumerate(logs):
        write(log, tmp_path / str(number))
        files = sorted((tmp_path / str(number)).iterdir())
        assert len(files) == 6
        sums.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert sums[0] == sums[1]
    assert not {*sums[0]} & {*sums[2]}
