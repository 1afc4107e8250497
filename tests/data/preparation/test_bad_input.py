"""Bad logs and options: one sentence each, and nothing half-written is left."""

import gzip
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from at4ctr.data.datasets import amazon_beauty, taobao
from at4ctr.data.engines import csv_file, duck
from at4ctr.data.engines.duck import Engine
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.sampling import PRIME, uniform31
from at4ctr.data.store import MANIFEST
from at4ctr.errors import InputError
from pipelines.days import deal

START = 1_511_539_200
GOOD = [f"{k % 4 + 1},{k % 23 + 1},{k % 5},pv,{START + k}" for k in range(400)]


def assert_refused(tmp_path, lines, *, name="log.csv", words=(), **options):
    """The message for a log of these lines; it names the file, and nothing is left."""
    path = tmp_path / name
    data = lines if isinstance(lines, bytes) else "".join(f"{x}\n" for x in lines).encode()
    path.write_bytes(data)
    return assert_refusal(tmp_path, taobao.Config(raw=str(path), **options), words)


def assert_refusal(tmp_path, config, words):
    with pytest.raises(InputError) as error:
        prepare(config, tmp_path / "data")
    message = str(error.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message
    left = [p for p in (tmp_path / "data").rglob("*") if not p.is_dir() or "tmp" in p.name]
    assert not left
    return message


def test_missing_file(tmp_path):
    assert_refusal(
        tmp_path, taobao.Config(raw=str(tmp_path / "no.csv")), ["no.csv", "does not exist"]
    )
    with pytest.raises(InputError, match=r"does not exist.*data.raw \(RAW=path\)"):
        csv_file.check_file(tmp_path / "no.csv")


def test_folder_without_log(tmp_path):
    assert_refusal(tmp_path, taobao.Config(raw=str(tmp_path)), [str(tmp_path), "UserBehavior.csv"])


def test_empty_file(tmp_path):
    assert_refused(tmp_path, b"", words=["log.csv", "empty", "0 bytes"])
    assert_refused(
        tmp_path, gzip.compress(b""), name="log.csv.gz", words=["log.csv.gz", "expected"]
    )


@pytest.mark.parametrize("delimiter", [";", "\t", " "])
def test_wrong_delimiter(tmp_path, delimiter):
    lines = [line.replace(",", delimiter) for line in GOOD]
    assert_refused(tmp_path, lines, words=["log.csv line 1", "1 column", "','", "expected 5"])


@pytest.mark.parametrize("line", ["1,2,3,pv", f"1,2,3,pv,{START},7", "1"])
def test_wrong_column_count(tmp_path, line):
    count = line.count(",") + 1
    assert_refused(tmp_path, [*GOOD, line], words=["line 401", f"{count} column", "expected 5"])
    assert_refused(tmp_path, [line, *GOOD], words=["line 1", f"{count} column", "expected 5"])


def test_header_where_none_belongs(tmp_path):
    header = "user_id,item_id,category_id,behavior_type,timestamp"
    assert_refused(
        tmp_path, [header, *GOOD], words=["line 1 is a header", header, "delete the line"]
    )


@pytest.mark.parametrize("cut", [0.1, 0.6, 0.99, -8, -1])
def test_truncated_gzip(tmp_path, cut):
    whole = gzip.compress("".join(f"{x}\n" for x in GOOD * 50).encode())
    size = cut if cut < 0 else int(len(whole) * cut)
    assert_refused(tmp_path, whole[:size], name="log.csv.gz", words=["log.csv.gz", "gzip", "again"])


def test_no_gzip_at_all(tmp_path):
    assert_refused(tmp_path, GOOD, name="log.csv.gz", words=["log.csv.gz", "gzip"])


def test_a_gzip_file_that_grows_without_measure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "SMALL", 1 << 20)
    rows = f"1,2,3,pv,{START}\n".encode() * 200_000  # 4 MB of 12 kB
    says = ["gives more than ", "when it is decompressed; expected at most 100 times its size"]
    assert_refused(tmp_path, gzip.compress(rows), name="log.csv.gz", words=says)
    assert_refused(tmp_path, gzip.compress(rows.replace(b"\n", b"")), name="log.csv.gz", words=[])
    with pytest.raises(InputError, match="gives more than "):
        deal(taobao.Config(raw=str(tmp_path / "log.csv.gz")), tmp_path / "days")
    (tmp_path / "meta.json.gz").write_bytes(gzip.compress(b'{"asin": "x"}\n' * 300_000))
    with pytest.raises(InputError, match="gives more than "):
        amazon_beauty.read_categories(tmp_path / "meta.json.gz", set())


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "LONGEST_LINE", 1000)
    path = tmp_path / "log.csv"
    path.write_text("1" * 1000)
    with pytest.raises(InputError, match=r"log\.csv line 1 has 1,000 characters or more"):
        list(csv_file.lines(path, path.open(), 1000))


def test_a_damaged_gzip_file_is_refused_wherever_it_is_read(tmp_path):
    whole = bytearray(gzip.compress("".join(f"{x}\n" for x in GOOD * 50).encode()))
    whole[40:60] = bytes(20)
    assert_refused(tmp_path, bytes(whole), name="log.csv.gz", words=["log.csv.gz", "gzip", "again"])
    with pytest.raises(InputError, match="is not a readable gzip file"):
        deal(taobao.Config(raw=str(tmp_path / "log.csv.gz")), tmp_path / "days")


@pytest.mark.parametrize("column", ["user", "item", "category"])
def test_an_id_that_stands_for_a_missing_value(tmp_path, column):
    fields = dict(zip(taobao.COLUMNS, GOOD[0].split(","), strict=True)) | {column: "-1"}
    lines = [*GOOD, ",".join(fields.values()), *GOOD]
    assert_refused(
        tmp_path, lines, words=[f"line 401 has -1 in column '{column}'", "missing value"]
    )


@pytest.mark.parametrize(("column", "value"), [
    ("user", "x7"), ("item", ""), ("category", "1 5"), ("timestamp", "2017-11-25"),
    ("item", "9" * 20), ("item", "2.5"), ("user", "2.268E+06"), ("timestamp", "1511539200.0"),
    ("category", "1_000"), ("item", "0x1f"),
])  # fmt: skip
def test_a_field_that_is_no_number(tmp_path, column, value):
    fields = dict(zip(taobao.COLUMNS, GOOD[0].split(","), strict=True)) | {column: value}
    lines = [*GOOD, ",".join(fields.values()), *GOOD]
    assert_refused(tmp_path, lines, words=["line 401", repr(value), repr(column), "whole number"])


@pytest.mark.parametrize(("line", "words"), [
    ("1,2,x,pv,1511539200", ["'x'", "'category'"]), ("1,2,3,pv", ["4 column(s)"]),
    ("1,2,3,click,1511539200", ["'click'"]), ("1,2,3,pv,1511539200000", ["milliseconds"]),
])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_count_as_lines(tmp_path, line, words, end):
    lines = [*GOOD[:10], "", *GOOD[10:20], "", "", line, *GOOD]
    data = end.join(lines).encode()
    assert_refused(tmp_path, data, words=["log.csv line 24 ", *words])


def test_line_ends_of_two_kinds(tmp_path):
    data = "\r\n".join(GOOD) + "\r\n"
    assert_refused(
        tmp_path, (data + GOOD[0] + "\n" + data).encode(), words=["line 401", "dos2unix"]
    )
    text = "\n".join(GOOD) + "\n"
    assert_refused(
        tmp_path, (text + GOOD[0] + "\r\n" + text).encode(), words=["line 401", "dos2unix"]
    )


def test_text_that_is_not_utf8(tmp_path):
    data = "\n".join([*GOOD, f"1,2,3,p\xe9,{START}"]).encode("latin-1")
    assert_refused(tmp_path, data, words=["line 401", "UTF-8"])


def test_a_file_that_may_not_be_read_is_no_damaged_gzip(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(csv_file, "open_text", denied)
    message = assert_refused(tmp_path, GOOD, words=["log.csv", "cannot be read", "permissions"])
    assert "gzip" not in message


def test_line_numbers_hold_far_into_a_large_file(tmp_path):
    lines = GOOD * 5000  # 48 MB, several of the reader's buffers
    lines[1_777_776] = "1,2,three,pv,4"
    assert_refused(tmp_path, lines, words=["line 1777777", "'three'"])


def test_unknown_behaviour_type(tmp_path):
    lines = [*GOOD, f"1,2,3,click,{START}"]
    assert_refused(tmp_path, lines, words=["line 401", "'click'", "pv, cart, fav, buy"])


@pytest.mark.parametrize("window", [True, False])
def test_milliseconds(tmp_path, window):
    lines = [line + "000" for line in GOOD]
    assert_refused(tmp_path, lines, words=["milliseconds", "seconds"], window=window)


def test_one_timestamp_in_milliseconds(tmp_path):
    late = GOOD[7] + "000"
    assert_refused(
        tmp_path, [*GOOD, late, *GOOD, late], words=["line 401", "milliseconds", str(START)]
    )


def test_all_outside_the_window(tmp_path):
    lines = [line.replace("15115", "14115") for line in GOOD]
    message = assert_refused(
        tmp_path, lines, words=["1411539200", str(taobao.FIRST), "data.window=false"]
    )
    assert "window" in message
    path = tmp_path / "log.csv"
    assert prepare(taobao.Config(raw=str(path), window=False), tmp_path / "data")


def test_no_behaviour_of_the_type(tmp_path):
    lines = [line.replace("pv", "buy") for line in GOOD]
    assert_refused(tmp_path, lines, words=["pv", "data.behaviours=all"], behaviours="pv")


def test_no_user_left(tmp_path):
    assert_refused(
        tmp_path, GOOD, words=["4 users", "min_behaviours=101", "100"], min_behaviours=101
    )


def test_no_training_row(tmp_path):
    assert_refused(tmp_path, GOOD, words=["train", "no row"], holdout=200)


def test_no_test_row(tmp_path):
    lines = [f"{k % 12 + 1},{k},1,pv,{START + k}" for k in range(400)]  # each user in one split
    options = {"cutting": "can_user_9_1", "words": ["test split has no row"]}
    assert_refused(tmp_path, lines, **options, seed=_seed_of_training_only(lines))


def _seed_of_training_only(lines):
    users = np.unique([int(line.split(",")[0]) for line in lines])
    for seed in range(1000):
        if uniform31([users], f"{seed}/users").min() >= PRIME // 10 + PRIME * 9 // 100:
            return seed
    raise AssertionError


def test_one_class_only(tmp_path):
    lines = [line.split(",")[0] + ",1,1,pv," + line.rsplit(",", 1)[1] for line in GOOD]
    assert_refused(tmp_path, lines, words=["train", "all positives", "both classes"])


def test_disk_too_small(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    assert_refused(tmp_path, GOOD, words=["1,000 bytes free", "expected about"])


def test_memory_too_small_says_so(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("AT4CTR_MEMORY", "16MiB")
    with Engine(tmp_path / "scratch") as engine:
        sql = "CREATE TABLE t AS SELECT array_agg(i || 'abcdefgh') FROM range(3000000) r(i)"
        with pytest.raises(InputError, match="16 MiB"):
            engine.run("big", sql)


@pytest.mark.parametrize(
    ("said", "size"),
    [("6GB", 6 * 10**9), ("512MiB", 512 << 20), ("1.5 gib", 3 << 29), ("20000000", 20_000_000)],
)
def test_the_memory_that_is_asked_for(monkeypatch, said, size):
    monkeypatch.setenv("AT4CTR_MEMORY", said)
    assert duck.memory() == size


@pytest.mark.parametrize("said", ["much", "-6GB", "6 TB", "1KB", "0", "nan"])
def test_a_memory_that_is_no_size_is_refused(monkeypatch, said):
    monkeypatch.setenv("AT4CTR_MEMORY", said)
    with pytest.raises(InputError, match=r"AT4CTR_MEMORY is .*; expected a size .*; set MEMORY="):
        duck.memory()


def test_a_quarter_of_the_control_groups_memory(monkeypatch, tmp_path):
    monkeypatch.delenv("AT4CTR_MEMORY", raising=False)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for said, expected in (("max", whole // 4), (str(1 << 30), 1 << 28), ("4096", duck.LEAST)):
        (tmp_path / "memory.max").write_text(said + "\n")
        monkeypatch.setattr(duck, "CGROUP", tmp_path / "memory.max")
        assert duck.memory() == expected


@pytest.mark.parametrize(("kind", "message"), [
    (duckdb.TransactionException, "Failed to commit: Could not write file: No space left"),
    (duckdb.OutOfMemoryException, "failed to offload data block"),
])  # fmt: skip
def test_a_step_that_fails_of_the_disk_says_so(tmp_path, kind, message):
    with (
        Engine(tmp_path) as engine,
        pytest.raises(InputError, match="'events' failed for want of disk"),
        engine._guarded("events"),
    ):
        raise kind(message)


FULL = """
import resource, signal, sys
from pathlib import Path
from at4ctr.data.datasets import taobao
from at4ctr.data.preparation.prepare import prepare
from at4ctr.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    prepare(taobao.Config(raw=sys.argv[1]), Path(sys.argv[2]))
except InputError as error:
    print(error)
"""


def test_a_disk_that_becomes_full_is_not_the_logs_fault(tmp_path):
    path = tmp_path / "log.csv"
    with path.open("w") as file:
        file.writelines(f"{k * 7919 % 99991},{k * 104729 % 999983},{k},pv,{START + k}\n"
                        for k in range(300_000))  # fmt: skip
    command = [sys.executable, "-c", FULL, str(path), str(tmp_path / "data")]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert "for want of disk" in done.stdout, done.stdout + done.stderr
    assert "CSV" not in done.stdout


@pytest.mark.parametrize(("option", "value", "words"), [
    ("history", 0, "history is 0"), ("negative_rate", 0.0, "negative_rate is 0.0"),
    ("negative_rate", float("nan"), "negative_rate is nan"), ("negatives", 0, "negatives is 0"),
    ("min_behaviours", 0, "min_behaviours is 0"), ("min_history", -1, "min_history is -1"),
    ("holdout", 0, "holdout is 0"), ("behaviours", "clicks", "all, pv"),
    ("cutting", "last_1", "last_10"), ("protocol", "strickt", "'strickt'"),
    ("simulate_rows", 10, "simulate_rows is 10"),
])  # fmt: skip
def test_bad_options(option, value, words):
    with pytest.raises(InputError, match=words):
        taobao.Config(**{option: value})


def test_prepared_once(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("".join(f"{x}\n" for x in GOOD))
    config = taobao.Config(raw=str(path))
    store = prepare(config, tmp_path / "data")
    time = os.stat(store / MANIFEST).st_mtime_ns
    assert prepare(replace(config, history=5, negative_rate=0.1), tmp_path / "data") == store
    assert os.stat(store / MANIFEST).st_mtime_ns == time
    assert prepare(replace(config, negatives=2), tmp_path / "data") != store
    path.write_text("".join(f"{x}\n" for x in GOOD[1:]))
    assert prepare(config, tmp_path / "data") != store
