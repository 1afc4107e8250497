"""What a log of one's own may hold that nobody meant: what is read, and what is refused."""

import importlib
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import configs
from at4ctr.data.mapped.config import Mapped
from at4ctr.data.mapped.rows import Rows
from at4ctr.data.preparation.prepare import engine_at
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Label, Schema, Table
from tests.data.toy_log import forget, recipes

START, ROWS = 1_700_000_000, 200
COLUMNS = {"user": "uid", "item": "sku"}
TAGS = {**COLUMNS, "tags": "tags"}


def log(**changed):
    """Column -> values of a log of one row a minute."""
    found = {
        "uid": [k % 7 for k in range(ROWS)],
        "sku": [k % 5 for k in range(ROWS)],
        "ts": [START + 60 * k for k in range(ROWS)],
        "y": [k % 2 for k in range(ROWS)],
    }
    return {**found, **changed}


@dataclass(frozen=True)
class Config(Mapped):
    dtype: Literal["int64", "string"] = "int64"
    rows: Rows = field(default_factory=lambda: shown())

    READING: ClassVar[tuple[str, ...]] = (*Mapped.READING, "rows")

    def schema(self):
        tags = (Feature("tags", "item", "tag", length=3),) if "tags" in self.rows.columns else ()
        return Schema(
            tables=(Table("user", self.dtype), Table("item"), Table("tag", self.dtype)),
            features=(Feature("user", "profile", "user"), Feature("item", "item", "item"), *tags),
            history=(),
            labels=(Label("click"),),
        )

    def impressions(self):
        return self.rows


def shown(**changed):
    return Rows(**{"files": "shown*", "columns": COLUMNS, "time": "ts", "labels": {"click": "y"}}
                | changed)  # fmt: skip


def write(folder, end, columns, name="shown", encoding="utf-8", mark=","):
    folder.mkdir(exist_ok=True)
    if end == "parquet":
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        return
    lines = [columns, *zip(*columns.values(), strict=True)]
    text = "".join(mark.join(map(str, line)) + "\n" for line in lines)
    (folder / f"{name}.csv").write_bytes(text.encode(encoding))


def loaded(tmp_path, **options):
    """The rows of ``impressions`` in the order of the log, as the mapping makes them."""
    config = Config(raw=str(tmp_path / "raw"), **options)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with engine_at(scratch, "duckdb") as engine:
        config.load(engine, config.acquire())
        config.check_whole(engine)
        return engine.arrow("SELECT * FROM impressions ORDER BY ord").to_pylist()


def refused(tmp_path, says, **options):
    with pytest.raises(InputError, match=says) as caught:
        loaded(tmp_path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["rowid", "ord", "ORD", "file_row_number", "c0", "place"])
def test_columns_that_nobody_asked_for_do_no_harm(tmp_path, end, name):
    write(tmp_path / "raw", end, {name: list(range(ROWS, 0, -1)), **log()})
    found = loaded(tmp_path)
    assert [row["timestamp"] for row in found] == log()["ts"]
    assert [row["ord"] for row in found] == list(range(ROWS))


@pytest.mark.parametrize("end", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["rowid", "ord", "file_row_number"])
def test_they_are_read_where_the_mapping_asks_for_them(tmp_path, end, name):
    write(tmp_path / "raw", end, {name: list(range(ROWS, 0, -1)), **log()})
    found = loaded(tmp_path, rows=shown(columns={"user": name, "item": "sku"}))
    assert [row["user"] for row in found] == list(range(ROWS, 0, -1))


def test_the_place_in_a_list_is_not_the_file_s_column_of_that_name(tmp_path):
    pages = {"uid": [1], "ts": [START], "skus": [[4, 5, 6]], "ys": [[0, 1, 0]], "place": [9]}
    write(tmp_path / "raw", "parquet", pages)
    rows = shown(columns={"user": "uid * 10 + place", "item": "sku"},
                 lists={"sku": "skus", "y": "ys"})  # fmt: skip
    found = loaded(tmp_path, rows=rows)
    assert [(row["user"], row["item"], row["label_click"]) for row in found] == [
        (11, 4, 0), (12, 5, 1), (13, 6, 0)]  # fmt: skip


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_a_file_of_no_row_beside_others_is_read(tmp_path, end):
    write(tmp_path / "raw", end, log(), "shown-1")
    write(tmp_path / "raw", end, {name: [] for name in log()}, "shown-2")
    assert len(loaded(tmp_path)) == ROWS


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_a_log_of_no_row_is_refused(tmp_path, end):
    write(tmp_path / "raw", end, {name: [] for name in log()})
    refused(tmp_path, r"impressions\(\) gives no row; expected some")


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_labels_may_be_floats_of_0_and_1_alone(tmp_path, end):
    write(tmp_path / "raw", end, log(y=[float(y) for y in log()["y"]]))
    assert [row["label_click"] for row in loaded(tmp_path)] == log()["y"]
    write(tmp_path / "raw", end, log(y=[1.0, 0.5] * (ROWS // 2)))
    (tmp_path / "scratch").rename(tmp_path / "before")
    refused(tmp_path, r"(line 3|row 2) has '0.5' as 'label_click' \(y\); expected 0, 1")


@pytest.mark.parametrize(("end", "said"), [
    ("csv", r"CAST\(CAST\(nullif\(uid, ''\) AS DOUBLE\) AS BIGINT\)"),
    ("parquet", r"CAST\(CAST\(uid AS DOUBLE\) AS BIGINT\)"),
])  # fmt: skip
def test_ids_as_floats_are_refused_with_a_remedy_that_works(tmp_path, end, said):
    write(tmp_path / "raw", end, log(uid=[float(k) for k in log()["uid"]]))
    refused(tmp_path, rf"has '0.0' as 'user' \(uid\).*map it as {said}")
    (tmp_path / "scratch").rename(tmp_path / "before")
    rows = shown(columns={"user": said.replace("\\", ""), "item": "sku"})
    assert [row["user"] for row in loaded(tmp_path, rows=rows)] == log()["uid"]


@pytest.mark.parametrize(("element", "shows"), [
    (1.5, r"\[1.5, 2.0\]"), ("abc", r"\[abc, 2.0\]"), (-1, r"\[-1, 2.0\]"),
])  # fmt: skip
def test_each_value_of_a_list_is_checked_as_a_value_alone(tmp_path, element, shows):
    write(tmp_path / "raw", "csv", log(tags=[f"{element}|2.0"] * ROWS))
    rows = shown(columns={**COLUMNS, "tags": "string_split(tags, '|')"})
    refused(tmp_path, rf"line 2 has '{shows}' as 'tags'.*a list, each a whole number", rows=rows)


def test_whole_values_of_a_list_are_read_and_missing_ones_left_out(tmp_path):
    write(tmp_path / "raw", "parquet", log(tags=[["1", "", "23", None]] * ROWS))
    assert loaded(tmp_path, rows=shown(columns=TAGS))[0]["tags"] == [1, 23]


def test_a_list_of_fractions_is_no_list_of_texts(tmp_path):
    write(tmp_path / "raw", "parquet", log(tags=[[1.5]] * ROWS))
    says = r"reads 'tags' \(tags\) of type DOUBLE\[\].*of a table of texts"
    refused(tmp_path, says, rows=shown(columns=TAGS), dtype="string")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_binary_texts_are_utf_8_or_refused(tmp_path, kind):
    names = [f"ü{k}" for k in log()["uid"]]
    write(tmp_path / "raw", "parquet", log(uid=pa.array([n.encode() for n in names], kind)))
    assert [row["user"] for row in loaded(tmp_path, dtype="string")] == names
    (tmp_path / "scratch").rename(tmp_path / "before")
    wrong = [b"u"] * 4 + [b"\xff"] + [b"u"] * (ROWS - 5)
    write(tmp_path / "raw", "parquet", log(uid=pa.array(wrong, pa.binary())))
    refused(tmp_path, r"row 5 has b'\\xff' in column 'uid'; expected UTF-8", dtype="string")


@pytest.mark.parametrize(
    ("end", "place"), [("csv", "csv line 102"), ("parquet", "parquet row 101")]
)
def test_an_expression_that_fails_is_named_with_row_and_reason(tmp_path, end, place):
    price = ["1.5"] * 100 + ["n/a"] + ["2"] * (ROWS - 101)
    write(tmp_path / "raw", end, log(price=price))
    says = rf"from .*shown.{place} as 'item' .*Could not convert string 'n/a' to"
    refused(tmp_path, says, rows=shown(columns={"user": "uid", "item": "price::DOUBLE::BIGINT"}))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_of_utf_16_is_refused(tmp_path, encoding):
    write(tmp_path / "raw", "csv", log(), encoding=encoding)
    refused(tmp_path, "shown.csv line 1 begins with the bytes .* as UTF-16 does; expected UTF-8")


@pytest.mark.parametrize("mark", ["||", '"', "\n", "ab"])
def test_a_delimiter_is_one_character(mark):
    with pytest.raises(InputError, match=r"has the delimiter .* expected one character"):
        shown(delimiter=mark)


@pytest.mark.parametrize("mark", [";", "'", "\\", "§"])
def test_any_other_delimiter_is_read(tmp_path, mark):
    write(tmp_path / "raw", "csv", log(), mark=mark)
    assert len(loaded(tmp_path, rows=shown(delimiter=mark))) == ROWS


@pytest.mark.parametrize(("table", "says"), [
    (Table("user", "float"),  # type: ignore[arg-type]
     "unknown dtype of table 'user' 'float'"),
    (Table("user", buckets=-3), "'user' has -3 hash buckets; expected at least 1"),
])  # fmt: skip
def test_a_table_has_a_known_dtype_and_no_negative_buckets(table, says):
    schema = Config().schema()
    with pytest.raises(InputError, match=says):
        replace(schema, tables=(table, *schema.tables[1:]))


@pytest.mark.parametrize(("odd", "says"), [
    ([4_070_908_800], r"1 of 201 impressions is at 2099-01-01 00:00:00 UTC or later, 27,4"),
    ([4_070_908_800, 4_102_444_799], r"2 of 202 impressions are at 2099-01-01"),
    ([0], r"1 of 201 impressions is at 1970-01-01 00:00:00 UTC or earlier, 19,67.* before"),
])  # fmt: skip
def test_a_few_rows_far_from_all_others_do_not_make_the_splits(tmp_path, odd, says):
    columns = log()
    for name, values in columns.items():
        values += odd if name == "ts" else [1] * len(odd)
    write(tmp_path / "raw", "csv", columns)
    refused(tmp_path, says)
    (tmp_path / "scratch").rename(tmp_path / "before")
    dates = {"validation_from": "2023-11-14T23:00", "test_from": "2023-11-15"}
    assert len(loaded(tmp_path, **dates)) == ROWS + len(odd)


def test_a_log_of_two_parts_is_no_log_with_odd_rows(tmp_path):
    late = [START + 60 * k + (10**6 if k >= ROWS - 10 else 0) for k in range(ROWS)]
    write(tmp_path / "raw", "csv", log(ts=late))
    assert len(loaded(tmp_path)) == ROWS


@pytest.mark.parametrize(("text", "says"), [
    ("import os\ndef f(:\n", r"configs/torn.py line 2 cannot be loaded \(SyntaxError: .*Python"),
    ("import os\n\nos.nothing()\n", r"configs/torn.py line 3 cannot be loaded \(AttributeError"),
    ("import nowhere_at_all\n", r"configs/torn.py line 1 cannot be loaded \(ModuleNotFoundError"),
])  # fmt: skip
def test_a_file_of_configs_that_cannot_be_loaded_breaks_itself_alone(
    tmp_path, monkeypatch, text, says
):
    folder = recipes(tmp_path, monkeypatch)
    (folder / "torn.py").write_text(text)
    importlib.invalidate_caches()
    try:
        assert configs.dataset("mylog").__module__ == "configs.mylog"
        for load in (configs.dataset, lambda name: configs.recipe(name, Config())):
            with pytest.raises(InputError, match=says) as caught:
                load("torn")
            assert "\n" not in str(caught.value)
    finally:
        forget("mylog")
        forget("torn")
