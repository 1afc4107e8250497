"""Segments hold every row once; the table, the JSON and the pictures show all of them."""

import json
from typing import Any

import numpy as np
import pytest

from at4ctr.analysis import plots, segments
from at4ctr.calibration import Platt
from at4ctr.evaluation import Predictions
from at4ctr.metrics import logit, sigmoid
from at4ctr.metrics.intervals import trust
from at4ctr.schema import Feature, Schema, Table

SCHEMA = Schema(
    tables=tuple(Table(n) for n in ("user", "item", "tag", "shop")),
    features=(
        Feature("user", "profile", "user"),
        Feature("item", "item", "item"),
        Feature("tags", "item", "tag", length=3),
        Feature("shop", "item", "shop"),
    ),
)


def predictions(rows=4_000, seed=0):
    """Predictions, and ids by role; new items are overestimated by half."""
    rng = np.random.default_rng(seed)
    ids = {
        "user": rng.integers(1, 200, rows),
        "item": rng.integers(1, 6, rows),
        "category": np.minimum(rng.geometric(0.15, rows) + 1, 30),
    }
    truth = rng.beta(2, 8, rows)
    p = np.where(ids["item"] == 1, np.minimum(1.5 * truth, 1 - 1e-9), truth)
    labels = (rng.random(rows) < truth).astype(np.float32)
    return Predictions(labels, logit(p), ids["user"], rng.integers(0, 60, rows), None), ids


def test_every_family_holds_every_row_once():
    found, ids = predictions()
    families = segments.masks(found, ids)
    assert list(families) == ["all", "item", "user", "activeness", "history", "category"]
    for group in families.values():
        np.testing.assert_array_equal(np.stack(list(group.values())).sum(0), 1)
    assert len(families["category"]) == segments.CATEGORIES + 1
    sizes = [mask.sum() for name, mask in families["category"].items() if name != "other"]
    assert sizes == sorted(sizes, reverse=True)


def test_a_category_is_named_by_the_logs_value_where_that_names_it_alone():
    found, ids = predictions()
    ids["category"] = np.resize(range(10), found.labels.size)
    values = {2: "shoes", 3: "#4", 4: "", 5: "other", 6: " shoes ", 7: "a|b", 8: "x" * 40, 9: "0"}
    asked: list[set[int]] = []

    def names(wanted):
        asked.append(set(wanted))
        return values

    group = segments.masks(found, ids, segments.Category("shop", names))["shop"]
    assert set(group) == {
        "missing", "unknown", "shoes", "#4", "#4'", "#5", "#6", "a/b", "x" * 29 + "…", "0",
    }  # fmt: skip
    np.testing.assert_array_equal(np.stack(list(group.values())).sum(0), 1)
    np.testing.assert_array_equal(group["shoes"], ids["category"] == 2)
    assert asked == [set(range(10))]
    assert "category" not in segments.masks(found, ids, segments.Category("shop", names))


def test_rows_lie_in_the_band_of_their_candidates_clicks():
    found, ids = predictions()
    ids["item_clicks"] = np.resize([0, 1, 4, 5, 19, 20, 99, 100, 5000], found.labels.size)
    group = segments.masks(found, ids)["item clicks"]
    inside = {name: set(ids["item_clicks"][mask].tolist()) for name, mask in group.items()}
    assert inside == {"0": {0}, "1–4": {1, 4}, "5–19": {5, 19}, "20–99": {20, 99},
                      "100+": {100, 5000}}  # fmt: skip


def test_the_bands_of_history_length():
    found, _ = predictions()
    bands = segments.masks(found, {})["history"]
    assert list(bands) == ["0", "1–4", "5–19", "20–49", "50+"]
    for name, (first, last) in zip(
        bands, [(0, 0), (1, 4), (5, 19), (20, 49), (50, 99)], strict=True
    ):
        inside = found.lengths[bands[name]]
        assert (inside.min(), inside.max()) == (first, min(last, 59))


def test_what_is_not_known_has_no_segments():
    found, ids = predictions()
    assert "category" not in segments.masks(found, {"item": ids["item"]})
    columns = {"user": ids["user"], "item": ids["item"], "shop": ids["category"]}
    assert set(segments.ids(SCHEMA, columns)) == {"user", "item", "category"}
    assert segments.ids(SCHEMA, columns)["category"] is ids["category"]
    assert set(segments.ids(SCHEMA, {"user": ids["user"]})) == {"user"}


def test_the_report_finds_the_segment_that_is_off():
    found, ids = predictions()
    report: Any = segments.report(found, ids)
    new = ids["item"] == 1
    assert report["item"]["unknown"] == trust(
        found.labels[new], found.probability[new], found.users[new]
    )
    assert report["item"]["unknown"].pcoc_interval[0] > 1.2
    assert report["item"]["known"].pcoc_interval[0] < 1 < report["item"]["known"].pcoc_interval[1]
    values = json.loads(json.dumps(segments.to_json(report), allow_nan=False))
    assert values["all"]["all"]["rows"] == 4_000


def test_the_table_shows_and_marks_small_and_empty_segments():
    found, ids = predictions(300)
    report = segments.report(found, ids | {"item": np.full(300, 2)})
    lines = segments.table(report).splitlines()
    assert len(lines) == 2 + sum(len(group) for group in report.values())
    assert len({line.count("|") for line in lines}) == 1
    assert "| item unknown * | 0 | 0 | 0 | – | – | – | – |" in lines
    assert lines[2].startswith("| all | 300 |")


def test_a_value_that_looks_like_mathematics_is_drawn_as_it_is(tmp_path):
    found, ids = predictions(300)
    names = dict.fromkeys(range(2, 31), r"gifts $\under $20")
    report = segments.report(found, ids, segments.Category(values=lambda _: names))
    for width in (8, 5):
        path = tmp_path / f"{width}.png"
        plots.segments(report, path, simulated=False, width=width)
        assert path.stat().st_size > 5_000


@pytest.mark.parametrize("rows", [1, 40, 3_000])
def test_pictures_are_drawn_whatever_the_rows(rows, tmp_path):
    found, ids = predictions(rows)
    plots.segments(segments.report(found, ids), tmp_path / "s.png", simulated=True)
    z = found.calibrated
    for name, before in (("plain", None), ("both", Platt(1.3, 0.4).logits(z))):
        plots.reliability(found, tmp_path / f"{name}.png", simulated=False, before=before)
    sizes = [p.stat().st_size for p in sorted(tmp_path.iterdir())]
    assert len(sizes) == 3
    assert all(size > 5_000 for size in sizes)
    np.testing.assert_allclose(sigmoid(z), found.probability)


def test_without_a_click_there_is_a_picture_too(tmp_path):
    found, ids = predictions(50)
    none = Predictions(0 * found.labels, found.calibrated, found.users, found.lengths, None)
    report = segments.report(none, ids)
    assert report["all"]["all"].pcoc is None
    plots.segments(report, tmp_path / "s.png", simulated=False)
    assert (tmp_path / "s.png").stat().st_size > 5_000
