"""What both engines make of times, of files' names and of ids that requests cannot name."""

import gzip
import re
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from at4ctr.data.engines import instants
from at4ctr.data.mapped.rows import Rows, opened, select
from at4ctr.data.preparation import raw_ids
from at4ctr.data.preparation.prepare import engine_at
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Schema, Table
from tests.data import spark_tests

ROWS = Rows(files="x.*", columns={"user": "u", "item": "i", "tags": "g", "city": "c"},
            time="t", unit="datetime", labels={"click": "l"})  # fmt: skip
LOG: dict[str, Any] = {"u": [3, 4], "i": ["a", "b"], "g": [["x"], []], "c": [5, None], "l": [1, 0],
       "t": ["2018-10-20", "2018-10-21"]}  # fmt: skip
AT = datetime(2018, 10, 20, 1, 57, 43, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def session():
    yield from spark_tests.started()


@pytest.fixture(params=["duckdb", pytest.param("spark", marks=spark_tests.NEEDED)])
def engine(request, tmp_path):
    if request.param == "spark":
        request.getfixturevalue("session")
    (tmp_path / "scratch [1]").mkdir()
    with engine_at(tmp_path / "scratch [1]", request.param) as made:
        yield made


@pytest.fixture
def duck(tmp_path):
    with engine_at(tmp_path, "duckdb") as made:
        yield made


def schema(buckets=0):
    tables = [Table("user", buckets=buckets), Table("item", "string", buckets), Table("city"),
              Table("tag", "string", buckets)]  # fmt: skip
    return Schema(
        tuple(tables),
        (Feature("user", "profile", "user"), Feature("item", "item", "item"),
         Feature("tags", "item", "tag", length=2), Feature("city", "context", "city")),
    )  # fmt: skip


def mapped(engine, path, rows=ROWS, buckets=0):
    """The rows of a file by their columns, in its order."""
    file = opened(engine, path, "")
    try:
        sql = select(engine, file, rows, schema(buckets), "impressions()", 0)
        return engine.arrow(f"SELECT * FROM ({sql}) q ORDER BY ord").to_pylist()
    finally:
        engine.drop("raw")


def parquet(path, **columns):
    pq.write_table(pa.table(LOG | columns), path)
    return path


@contextmanager
def refused(words):
    with pytest.raises(InputError, match=words) as caught:
        yield
    assert "\n" not in str(caught.value)


def seconds_of(engine, texts, zone="UTC"):
    """Every text as seconds."""
    engine.register("texts", pa.table({"k": range(len(texts)), "t": texts}))
    found = instants.with_seconds(engine, "texts", "t", "string", zone)
    return [s for _, s in engine.rows(f"SELECT k, {instants.SECONDS} FROM {found} ORDER BY k")]


def test_a_text_is_the_instant_that_it_names(engine):
    same = ["2018-10-20 09:57:43+08:00", "2018-10-20T01:57:43Z", "2018-10-20 01:57:43",
            "2018-10-20 09:57:43 Asia/Shanghai", "2018-10-20T09:57:43.999+0800",
            "2018-10-20 09:57:43+08", "2018-10-19T20:27:43-05:30", "2018-10-20 01:57:43 UTC",
            "2018-10-20T03:57:43,5+02:00[Europe/Berlin]", "20181020015743", "2018/10/20 1:57:43",
            " 2018-10-20 01:57:43.9999999999 ", "2018-10-20 09:57:43 +08:00"]  # fmt: skip
    assert seconds_of(engine, same) == [AT] * len(same)
    midnight = AT - AT % 86400
    days = [
        "2018-10-20",
        "20181020",
        "2018-10-20 00:00",
        "2018/10/20",
        "2018102000",
        "201810200000",
    ]
    assert seconds_of(engine, days) == [midnight] * len(days)
    none = ["2018-10-20 09:57:43 CST", "2018-10-20 09:57:43 Mars/Olympus", "2018-02-30", "x", "",
            "2018-10-20 24:00:00", "2018-10-20 09:57:60", "2018-10-20 09:57:43+99:00", "epoch",
            "2018-10-20 09:57:43 +08:00 x", "1540000663", "20181320", "0000-00-00 00:00:00", None,
            "18-10-20", "10/20/2018", "2018-10-20 09:57:43 PST", "infinity"]  # fmt: skip
    assert seconds_of(engine, none) == [None] * len(none)


@pytest.mark.parametrize("zone", [
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo",
    "Asia/Shanghai", "Asia/Kolkata", "Africa/Casablanca",
])  # fmt: skip
def test_a_mapping_names_the_zone_of_local_times(engine, zone):
    rng = np.random.default_rng(5)
    start = datetime(1986, 1, 1)
    local = [start + timedelta(seconds=int(s)) for s in rng.integers(0, 10**9, 150)]
    clock = ZoneInfo(zone)
    days = [datetime(2007, 1, 1, 12, tzinfo=UTC) + timedelta(days=k) for k in range(400)]
    nights = [a for a, b in pairwise(days)
              if a.astimezone(clock).utcoffset() != b.astimezone(clock).utcoffset()]  # fmt: skip
    assert len(nights) >= 2 or zone.startswith("Asia") or zone == "Africa/Casablanca"
    for night in nights[:3]:  # every 20 minutes of the nights in which the clocks are set
        begin = night.astimezone(clock).replace(tzinfo=None, minute=1)
        local += [begin + timedelta(minutes=20 * k) for k in range(80)]
    expected = [int(t.replace(tzinfo=clock).timestamp()) for t in local]  # fold 0: the first hour
    assert seconds_of(engine, [f"{t:%Y-%m-%d %H:%M:%S}" for t in local], zone) == expected
    named = [f"{t:%Y-%m-%dT%H:%M:%S} {zone}" for t in local]
    assert seconds_of(engine, named, "Asia/Tokyo") == expected


@pytest.mark.parametrize(("zone", "away"), [("+08:00", 8), ("-0530", -5.5), ("UTC", 0)])
def test_a_zone_may_be_an_offset(engine, zone, away):
    assert seconds_of(engine, ["2018-10-20 01:57:43"], zone) == [AT - 3600 * away]
    assert seconds_of(engine, ["2018-10-20 01:57:43Z"], zone) == [AT]


def test_a_zone_that_is_none_is_refused(engine, tmp_path):
    path = parquet(tmp_path / "x.parquet")
    for zone in ("Mars/Olympus", "CST", "+8", ""):
        with refused(f"zone '{zone.replace('+', '.')}'; expected the name of a zone"):
            mapped(engine, path, replace(ROWS, zone=zone))
    with refused("has zone 'Asia/Shanghai' and times in seconds"):
        replace(ROWS, unit="seconds", zone="Asia/Shanghai")


def test_every_time_stamp_of_parquet_is_read(engine, tmp_path):
    exact = 1_540_000_663_999_999_999  # rounding would make another second of it
    columns = {
        f"{unit} {of}": pa.array([exact // per], pa.timestamp(unit, of))
        for unit, per in (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1))
        for of in (None, "UTC", "America/New_York")
    }
    columns |= {str(k): pa.array([date(2018, 10, 20)], k) for k in (pa.date32(), pa.date64())}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    pq.write_table(
        pa.table({"old": pa.array([exact], pa.timestamp("ns"))}), tmp_path / "old.parquet",
        use_deprecated_int96_timestamps=True,
    )  # fmt: skip
    engine.read_parquet("raw", tmp_path / "x.parquet")
    engine.read_parquet("old", tmp_path / "old.parquet")
    places = [("raw", f'"{c}"') for c in columns] + [("old", "old")]
    kinds = engine.one(f"SELECT {', '.join(f'typeof({sql})' for _, sql in places[:-1])} FROM raw")
    kinds = [*kinds, *engine.one("SELECT typeof(old) FROM old")]
    for zone, away in (("UTC", 0), ("Asia/Shanghai", 8 * 3600), ("+08:00", 8 * 3600)):
        made = [instants.with_seconds(engine, r, sql, kind, zone)
                for (r, sql), kind in zip(places, kinds, strict=True)]  # fmt: skip
        found = engine.one("SELECT " + ", ".join(
            f"(SELECT max({instants.SECONDS}) FROM {m})" for m in made
        ))  # fmt: skip
        expected = {c: AT - (away if "None" in c else 0) for c in columns if "date" not in c}
        expected |= {c: AT - AT % 86400 - away for c in columns if "date" in c}
        assert dict(zip([*columns, "old"], found, strict=True)) == expected | {"old": AT}, zone


def test_a_time_stamp_of_pandas_is_mapped(engine, tmp_path):
    at = pa.array([1_540_000_663_999_999_999] * 2, pa.timestamp("ns", "UTC"))
    found = mapped(engine, parquet(tmp_path / "x.parquet", t=at), replace(ROWS, zone="+08:00"))
    assert [r["timestamp"] for r in found] == [AT, AT]


@pytest.mark.parametrize(("unit", "time", "words"), [
    ("milliseconds", 20181020015743, r"row 1 has '20181020015743'.*set unit='datetime'"),
    ("seconds", 20181020, r"times such as '20181020'.*dates in digits.*set unit='datetime'"),
    ("seconds", 2018102001, r"times such as '2018102001'.*dates in digits"),
    ("milliseconds", 201810200157, r"times such as '201810200157'.*dates in digits"),
    ("seconds", 1540000663000, r"looks like milliseconds; set unit='milliseconds'"),
    ("seconds", "2018-10-20", r"looks like datetime; set unit='datetime'"),
    ("datetime", 1540000663, r"from 1970 to 2099.*looks like seconds; set unit='seconds'"),
    ("datetime", 1540000663000, r"looks like milliseconds"),
    ("datetime", "2018-13-45", r"such as 2018-11-07, [^(]*20181107134500; correct"),
    ("datetime", "9999-12-31", r"from 1970 to 2099 such as [^(]*20181107134500; correct"),
    ("datetime", "2018-10-20 09:57:43 CST", r"2018-11-07 13:45:00 Asia/Shanghai"),
])  # fmt: skip
def test_a_time_in_another_unit_is_refused_with_the_remedy(duck, tmp_path, unit, time, words):
    with refused(words):
        mapped(duck, parquet(tmp_path / "x.parquet", t=[time] * 2), replace(ROWS, unit=unit))


def test_dates_in_digits_are_no_seconds(engine, tmp_path):
    path = parquet(tmp_path / "x.parquet", t=[20181020] * 2)
    with refused("times such as '20181020'.*dates in digits.*set unit='datetime'"):
        mapped(engine, path, replace(ROWS, unit="seconds"))
    assert [r["timestamp"] for r in mapped(engine, path)] == [AT - AT % 86400] * 2
    path = parquet(tmp_path / "x.parquet", t=[20181020015743] * 2)
    with refused("row 1 has '20181020015743'.*set unit='datetime'"):
        mapped(engine, path, replace(ROWS, unit="milliseconds"))


def test_first_and_last_time_of_a_file_are_printed(engine, tmp_path, capsys):
    at = ["2018-10-21 08:00:00+08:00", "2018-10-20T01:57:43Z"]
    mapped(engine, parquet(tmp_path / "x.parquet", t=at))
    assert ("prepare: impressions() of x.parquet has 2 rows of 2018-10-20 01:57:43 to "
            "2018-10-21 00:00:00 UTC\n") in capsys.readouterr().err  # fmt: skip


NAMES = ("s[1]", "s1", "a{b,c}", "ab", "q?", "qx", "st*", "star", "sp ace", "it's", "né中", "%20",
         "back\\slash", "h#a;b", "_hidden", ".dot", "c:o", "~", "dt=2024-01-01")  # fmt: skip


def test_a_name_of_a_file_is_no_pattern(engine, tmp_path):
    for folder in ("logs*", "logs1"):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(NAMES):
            users = [number, 100 + number] if folder == "logs*" else [900, 901]
            parquet(tmp_path / folder / f"{name}.parquet", u=users)
            text = "".join(f"{u},a,,5,1,2018-10-20\n" for u in users)
            with gzip.open(tmp_path / folder / f"{name}.csv.gz", "wt") as file:
                file.write(f"u,i,g,c,l,t\n{text}")
    found = {}
    for name in NAMES:
        for number, end in enumerate(("parquet", "csv.gz")):
            opened(engine, tmp_path / "logs*" / f"{name}.{end}", "")
            found[name, number] = sorted(int(u) for (u,) in engine.rows("SELECT u FROM raw"))
            engine.drop("raw")
    expected = {(name, end): [k, 100 + k] for k, name in enumerate(NAMES) for end in (0, 1)}
    assert found == expected


def test_rows_read_are_those_of_the_file(engine, tmp_path, monkeypatch):
    path = parquet(tmp_path / "x.parquet")
    text = tmp_path / "x.csv"
    text.write_text("u,i,g,c,l,t\n\n" + "1,a,,5,1,2018-10-20\r\n" * 3)
    text.write_text(text.read_text().replace("\r\n", "\n"))
    kinds = dict.fromkeys("uigclt", "STRING")
    assert engine.read_csv("csv", text, kinds, header=True, quote='"') == 3
    engine.drop("csv")
    module = type(engine).__module__
    footer = pq.read_metadata(
        parquet(tmp_path / "longer.parquet", **{k: v * 2 for k, v in LOG.items()})
    )
    with monkeypatch.context() as patched:
        patched.setattr(pq, "read_metadata", lambda _: footer)
        with refused("x.parquet was read as 2 rows; expected the 4 that it holds"):
            opened(engine, path, "")
    where = "at4ctr.data.engines.spark_csv" if module.endswith("spark") else module
    monkeypatch.setattr(f"{where}.rows_held", lambda _, **__: (2, False))
    with refused("x.csv was read as 3 rows; expected the 2 that it holds"):
        engine.read_csv("csv", text, kinds, header=True, quote='"')


def test_raw_ids_that_requests_cannot_name(engine):
    texts = ["a\rb", "a\nb", "a\0b", "\r", "a", " é\t", "-1", "\u2028", "it's", "\x85"]
    engine.register("texts", pa.table({"k": range(10), "t": texts, "n": [-1, -2, *range(8)]}))
    columns = [raw_ids.unnameable_sql(engine, c, kind) for c, kind in
               (("t", "string"), ("n", "int64"))]  # fmt: skip
    found = engine.rows(f"SELECT {', '.join(columns)} FROM texts ORDER BY k")
    assert [t for t, _ in found] == [True] * 4 + [False] * 6 == list(map(raw_ids.unnameable, texts))
    assert [n for _, n in found] == [True] + [False] * 9


@pytest.mark.parametrize("buckets", [0, 9])
def test_what_requests_cannot_name_is_refused(duck, tmp_path, buckets):
    def fails(words, rows=ROWS, **columns):
        with refused(rf"x.parquet row 2 has {words}"):
            mapped(duck, parquet(tmp_path / "x.parquet", **columns), rows, buckets)

    fails(r"'-1' as 'user' \(u\); expected a whole number .* other than -1", u=[3, -1])
    fails(r"' -1' as 'user'", u=["3", " -1"])
    fails(r"'-1' as 'city'.*name the value in missing", c=[3, -1])
    fails(r"nothing as 'item'", i=["a", ""])
    fails(r"nothing as 'user'", replace(ROWS, missing=("-1",)), u=[3, -1])
    for text in ("a\rb", "a\nb", "a\0b", "\r"):
        said = re.escape(repr(text))
        fails(f"{said} as 'item'.*expected UTF-8 text of one line without NUL", i=["a", text])
    fails(".* as 'tags' .*each UTF-8 text of one line", g=[["x"], ["y", "a\rb"]])
    found = mapped(duck, parquet(tmp_path / "x.parquet", i=[" é\t", "a''b"]), ROWS, buckets)
    assert [r["item"] for r in found] == [" é\t", "a''b"]


def test_a_mapping_says_what_is_missing(engine, tmp_path):
    for columns, words in (({"u": [3, -1]}, r"'-1' as 'user'"), ({"g": [["x"], ["a\r"]]}, "")):
        with refused(f"x.parquet row 2 has {words}"):
            mapped(engine, parquet(tmp_path / "x.parquet", **columns))
    path = parquet(tmp_path / "x.parquet", c=[-1, 7], g=[["?", "x"], ["?"]])
    found = mapped(engine, path, replace(ROWS, missing=("-1", "?")))
    assert [r["city"] for r in found] == [None, 7]
    assert [r["tags"] for r in found] == [["x"], []]


def test_text_that_is_not_utf_8_is_refused(engine, tmp_path):
    offsets = pa.py_buffer(np.array([0, 1, 4], np.int32))
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"aa\xffb")])
    with refused(r"x.parquet row 2 has .* '(i|item)'"):
        mapped(engine, parquet(tmp_path / "x.parquet", i=broken))
    found = mapped(engine, parquet(tmp_path / "x.parquet", i=[b"\xc3\xa9", b"b"]))
    assert [r["item"] for r in found] == ["é", "b"]  # bytes that are text
