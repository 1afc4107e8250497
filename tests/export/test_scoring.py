"""Files of requests: what is written is what the signature answers, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from export.scoring import arrays, score, version
from pipelines import predict
from tests.export.rich import OUTPUTS, ask, rows_of
from tests.publishing import CHECKOUT

KINDS = {"user": pa.string(), "item": pa.int64(), "slot": pa.int64(), "age": pa.float32(),
         "price": pa.float64(), "rate": pa.float32()}  # fmt: skip
LISTS = {"tags", "weights_tags", "history_item", "history_event"}


@pytest.fixture(scope="module")
def model(rich_version):
    return version.load(version.newest(rich_version.parent))


@pytest.fixture(scope="module")
def raw(rich_store):
    """50 requests with padded lists, as the signature takes them."""
    return rows_of(rich_store, "train")[0]


@pytest.fixture(scope="module")
def expected(raw, rich_signatures):
    return ask(rich_signatures, raw)


def ragged(raw):
    """The same requests without the padding of their histories, and with an id of no meaning."""
    real = [[v != -1 for v in row] for row in raw["history_item"]]
    found: dict[str, list] = {"request": [f"q{k}" for k in range(len(real))]}
    for name, values in raw.items():
        found[name] = values
        if name.startswith("history_"):
            found[name] = [[v for v, there in zip(row, keep, strict=True) if there]
                           for row, keep in zip(values, real, strict=True)]  # fmt: skip
    return found


def table(columns, **changed):
    columns = columns | changed
    return pa.table({n: pa.array(v, KINDS.get(n)) if isinstance(v, list) else v
                     for n, v in columns.items()})  # fmt: skip


def as_csv(columns, path):
    """Lists as JSON; a missing number is an empty field of the file."""

    def cell(value):
        if isinstance(value, list):
            return json.dumps([None if v != v else v for v in value])
        return "nan" if value != value else value

    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([map(cell, row) for row in zip(*columns.values(), strict=True)])
    return path


def scored(model, path, out, **given):
    requests = score.opened(model, path, given.pop("absent", ()))
    score.score(model, requests, out, **given)
    return pq.read_table(out)


def check(found, expected):
    assert set(found.column_names) >= OUTPUTS
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].to_numpy(), values, 1e-5, 1e-6, err_msg=name)


def test_scores_are_the_signatures_answers_whatever_the_chunks(
    model, raw, expected, tmp_path, monkeypatch
):
    rows = table(ragged(raw))
    whole = pq.write_table(rows, tmp_path / "a.parquet") or tmp_path / "a.parquet"
    found = scored(model, whole, tmp_path / "out" / "scores.parquet")
    check(found, expected)
    assert found["request"].to_pylist() == rows["request"].to_pylist()
    kept = {"request", *(n for n in raw if n not in LISTS)}
    assert set(found.column_names) == kept | OUTPUTS
    assert found["price"].type == pa.float64()
    assert found.schema.metadata[b"at4ctr.simulated"] == b"false"
    monkeypatch.setattr(score, "CELLS", 40)  # so that chunks are halved
    monkeypatch.setattr(score, "GROUP", 16)
    seen = []
    again = scored(model, whole, tmp_path / "b.parquet", rows=13, progress=seen.append)
    check(again, expected)
    assert seen[-1] == 50
    assert len(seen) > 4
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["scores.parquet"]


def test_a_folder_is_read_in_the_order_of_its_names_and_other_types_are_the_same(
    model, raw, expected, tmp_path
):
    rows, folder = table(ragged(raw)), tmp_path / "in"
    folder.mkdir()
    large = pa.list_(pa.int32())
    narrow = rows.set_column(rows.column_names.index("history_item"), "history_item",
                             rows["history_item"].cast(large))  # fmt: skip
    pq.write_table(narrow.slice(20), folder / "part-2.parquet")
    pq.write_table(rows.slice(0, 20), folder / "part-1.parquet")
    pq.write_table(rows.slice(0, 0), folder / "part-3.parquet")
    (folder / "_SUCCESS").touch()
    found = scored(model, folder, tmp_path / "scores.parquet")
    check(found, expected)
    text = found["request"].to_pylist()
    assert text == [f"q{k}" for k in range(50)]
    mixed = rows.set_column(rows.column_names.index("user"), "user",
                            rows["user"].dictionary_encode())  # fmt: skip
    pq.write_table(mixed, tmp_path / "mixed.parquet")
    check(scored(model, tmp_path / "mixed.parquet", tmp_path / "scores.parquet"), expected)


@pytest.mark.parametrize("name", ["requests.csv", "requests.csv.gz"])
def test_csv_gives_the_same_scores(model, raw, expected, tmp_path, name):
    path = as_csv(ragged(raw), tmp_path / name)
    found = scored(model, path, tmp_path / "scores.parquet", rows=17, nulls=True)
    check(found, expected)
    assert found["item"].to_pylist() == raw["item"]


def test_nulls_are_refused_or_missing_and_an_absent_column_is_missing(
    model, raw, rich_signatures, tmp_path
):
    columns, path = ragged(raw), tmp_path / "a.parquet"
    gone = {"user": [None, *columns["user"][1:]], "rate": [*columns["rate"][:-1], None],
            "tags": [None, *columns["tags"][1:]],
            "weights_tags": [None, *columns["weights_tags"][1:]]}  # fmt: skip
    for name in gone:
        pq.write_table(table(columns, **{name: gone[name]}), path)
        row = 50 if name == "rate" else 1
        with pytest.raises(InputError, match=rf"row {row}: {name} is null .*--nulls=missing"):
            scored(model, path, tmp_path / "scores.parquet")
    pq.write_table(table(columns, **gone).drop_columns(["slot"]), path)
    found = scored(model, path, tmp_path / "scores.parquet", nulls=True, absent=["slot"])
    asked = raw | {"user": ["", *raw["user"][1:]], "rate": [*raw["rate"][:-1], np.nan],
                   "slot": [-1] * 50, "tags": [["", ""], *raw["tags"][1:]]}  # fmt: skip
    check(found, ask(rich_signatures, asked))
    assert found["user"].to_pylist()[0] is None


def test_what_cannot_be_answered_is_refused_in_a_sentence(model, raw, tmp_path):
    columns, path, out = ragged(raw), tmp_path / "a.parquet", tmp_path / "scores.parquet"
    last = slice(0, -1)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"item": [1.5] * 50}, "type double; expected whole numbers"),
        ({"user": list(range(50))}, "type int64; expected texts"),
        ({"history_item": columns["item"]}, "expected lists of whole numbers"),
        ({"probability_click": [0.0] * 50}, "as an answer of the model is called"),
        ({"rate": [*columns["rate"][last], np.inf]}, "row 50: rate is inf; expected finite"),
        ({"price": [*columns["price"][last], 1e39]}, r"row 50: price is 1e\+39; expected finite"),
        ({"weights_tags": [[-1.0, 1.0]] * 50}, "row 1: weights_tags is -1.0.* of at least 0"),
        ({"weights_tags": [[1.0]] * 50}, "weights_tags has 1 entries and tags 2; expected as many"),
        ({"history_event": [*columns["history_event"][last], ["view"] * 99]},
         "row 50: history_event has 99 entries and history_item"),
        ({"item": pa.array([2**63] * 50, pa.uint64())}, "row 1: item is 9223372036854775808"),
    ]  # fmt: skip
    for changed, said in refused:
        kinds = {n: pa.float64() for n in changed if n == "item" and isinstance(changed[n], list)}
        made = pa.table({**{n: table(columns)[n] for n in columns if n not in changed},
                         **{n: pa.array(v, kinds.get(n)) if isinstance(v, list) else v
                            for n, v in changed.items()}})  # fmt: skip
        pq.write_table(made, path)
        with pytest.raises(InputError, match=said) as error:
            scored(model, path, out)
        assert "\n" not in str(error.value)
        assert not out.exists()
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
    pq.write_table(table(columns).drop_columns(["slot"]), path)
    with pytest.raises(InputError, match=r"no column 'slot' and has .*--absent=slot"):
        scored(model, path, out)
    with pytest.raises(InputError, match=r"has the column 'item'|expected the candidate"):
        scored(model, path, out, absent=["slot", "item"])
    with pytest.raises(InputError, match="did you mean slot"):
        scored(model, path, out, absent=["slt"])
    with pytest.raises(InputError, match="has the column 'rate', and --absent says"):
        scored(model, path, out, absent=["slot", "rate"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("user,item\nr1\n", "has no column 'age'"),
        ("user,user\nr1,r2\n", "the column 'user' twice"),
        ("\xff\xfe", "cannot be read"),
    ],
)
def test_csv_files_that_are_none(model, tmp_path, text, said):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=said):
        scored(model, path, tmp_path / "scores.parquet")


def test_fields_of_csv_name_their_row(model, raw, tmp_path):
    columns, out = ragged(raw), tmp_path / "scores.parquet"
    for name, value, said in (
        ("item", "12a", r"row 50: item is '12a'; expected whole numbers"),
        ("rate", "much", r"row 50: rate is 'much'; expected finite numbers"),
        ("history_item", "1|2", r"row 50: history_item is '1\|2'; .*\(\[1\] in CSV\)"),
        ("history_item", "[1.5]", r"row 50: history_item is '\[1.5\]'"),
        ("history_event", "[1]", r"row 50: history_event is '\[1\]'.*\[\"a\"\] in CSV"),
        ("item", "", r"row 50: item is null .*write -1"),
    ):
        path = as_csv(columns | {name: [*columns[name][:-1], value]}, tmp_path / "a.csv")
        with pytest.raises(InputError, match=said):
            scored(model, path, out, nulls=name != "item")
    path.write_text(path.read_text() + "1,2\n")
    with pytest.raises(InputError, match="cannot be read"):
        scored(model, path, out, nulls=True)
    head = path.read_text().splitlines()[0]
    path.write_text(head + "\n")
    with pytest.raises(InputError, match="has no row"):
        scored(model, path, out)
    assert not out.exists()


def test_files_and_places(model, raw, tmp_path):
    rows, folder = table(ragged(raw)), tmp_path / "in"
    folder.mkdir()
    with pytest.raises(InputError, match="holds none; expected a file of requests"):
        score.opened(model, folder)
    with pytest.raises(InputError, match="does not exist; expected a file of requests"):
        score.opened(model, tmp_path / "b.parquet")
    pq.write_table(rows.slice(0, 0), folder / "a.parquet")
    with pytest.raises(InputError, match="has no row"):
        score.opened(model, folder)
    pq.write_table(rows, folder / "a.parquet")
    for out, said in (
        (folder / "scores.parquet", "lies at the place of the requests"),
        (tmp_path / "scores.csv", "expected a Parquet file"),
    ):
        with pytest.raises(InputError, match=said):
            scored(model, folder, out)
    other = rows.set_column(0, "request", pa.array(range(50)))
    pq.write_table(other, folder / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: column 'request' is int64, and string in"):
        score.opened(model, folder)
    (folder / "b.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"b\.parquet cannot be read"):
        score.opened(model, folder)
    (folder / "b.csv").touch()
    with pytest.raises(InputError, match="both Parquet and CSV"):
        score.opened(model, folder)
    with pytest.raises(InputError, match="holds no exported model; expected a run"):
        version.newest(folder)
    with pytest.raises(InputError, match="does not exist; expected a run"):
        version.newest(tmp_path / "runs" / "latest")


def test_lists_of_lists_are_padded_at_both_depths():
    column = version.Column("history_tags", "string", 2, past=True)
    rows = arrays.Rows(pa.table({"x": [0] * 4}), "a", 1)
    given = pa.array([[["a"], ["b", "c"]], [], None, [[], ["d"]]])
    found, sizes = arrays._padded(column, given, rows, True)
    none = ["", ""]
    assert found.tolist() == [[["a", ""], ["b", "c"]], [none] * 2, [none] * 2, [none, ["d", ""]]]
    assert sizes is not None
    assert sizes.tolist() == [2, 0, 0, 2]
    with pytest.raises(InputError, match="row 3: history_tags is null"):
        arrays._padded(column, given, rows, False)
    ages = version.Column("history_seconds_ago", "int64", 1, past=True)
    with pytest.raises(InputError, match=r"row 2: history_seconds_ago is -7; .* from -1 on"):
        arrays._padded(ages, pa.array([[3, -1], [-7]]), rows, False)
    inner = pa.array([[["a"], None]])
    with pytest.raises(InputError, match="row 1: history_tags is null or holds a null"):
        arrays._padded(column, inner, rows, False)


def test_a_killed_command_leaves_nothing_that_looks_whole(rich_version, raw, tmp_path):
    """It is killed when the first rows are on the disk and the others are not."""
    many = pa.concat_tables([table(ragged(raw))] * 2400)
    pq.write_table(many, tmp_path / "a.parquet")
    out = tmp_path / "out" / "scores.parquet"
    command = [sys.executable, "-m", "pipelines.predict", f"--run={rich_version.parent}",
               f"--raw={tmp_path / 'a.parquet'}", f"--out={out}", "--batch=1024"]  # fmt: skip
    process = subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.DEVNULL)
    aside = out.with_name(".scores.parquet.tmp")
    while not (aside.exists() and aside.stat().st_size > 4) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -9
    assert not out.exists()
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(aside)
    pq.write_table(many.slice(0, 100), tmp_path / "a.parquet")
    model = version.load(rich_version)
    assert len(scored(model, tmp_path / "a.parquet", out)) == 100
    assert [p.name for p in out.parent.iterdir()] == ["scores.parquet"]


def test_the_command_says_what_it_did_or_what_is_wrong(rich_version, raw, tmp_path, capsys):
    pq.write_table(table(ragged(raw)), tmp_path / "a.parquet")
    given = [f"--run={rich_version.parent}", f"--raw={tmp_path / 'a.parquet'}"]
    out = tmp_path / "scores.parquet"
    assert predict.main([*given, f"--out={out}"]) == 0
    said = capsys.readouterr()
    assert f"{out}: 50 rows with " in said.out
    assert "rows/s" in said.out
    for words, text in (
        (given, "OUT is not set"),
        ([f"--out={out}"], "RAW is not set"),
        ([*given, "--outt=x"], "Unknown command line flag"),
        ([*given, f"--out={out}", "more"], "unexpected argument 'more'"),
        ([*given, f"--out={out}", "--run=nowhere"], "nowhere does not exist; expected a run"),
    ):
        assert predict.main(words) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ")
        assert text in said.err
        assert said.err.count("\n") == 1
    os.remove(out)
    assert tf.io.gfile.exists(str(rich_version))
