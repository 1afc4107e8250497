"""What is refused of a log of one's own: mappings, files and options, in one sentence each."""

from dataclasses import replace

import pytest

from at4ctr.data.mapped.rows import Rows
from at4ctr.data.preparation.prepare import prepare
from at4ctr.errors import InputError
from tests.data.toy_log import mylog_of, tables, write


@pytest.fixture
def mylog(tmp_path, monkeypatch):
    yield from mylog_of(tmp_path, monkeypatch)


SHOWN = Rows(files="shown.*", time="at", unit="milliseconds", labels={"click": "clicked"},
             columns={"user": "who", "item": "sku", "slot": "rank"})  # fmt: skip


def changed(**columns):
    return replace(SHOWN, columns={**SHOWN.columns, **columns})


@pytest.mark.parametrize("end", ["csv", "parquet"])
@pytest.mark.parametrize(("rows", "says"), [
    (changed(slot="rnk"), r"impressions\(\) for 'slot' has 'rnk'.*columns are who, sku, rank, at"),
    (changed(slot="rank +"), r"impressions\(\) for 'slot' has 'rank \+', which is no expression"),
    (changed(price="rank"), r"unknown feature in impressions\(\) 'price'"),
    (changed(event="rank"), r"unknown feature in impressions\(\) 'event'"),
    (changed(user="nullif(who, 'r3')"), r"shown\.\w+ (line|row) \d+ has nothing as 'user'"),
    (changed(slot="who"), r"has 'r\d+' as 'slot' \(who\); expected a whole number"),
    (changed(slot="(rank::INT + 0.5)::VARCHAR"), r"has '\d.5' as 'slot'.*whole number"),
    (changed(slot="(who || 'x')::INT"), r"cannot be read from .*Could not convert"),
    (replace(SHOWN, columns={"user": "who", "item": "sku"}),
     r"impressions\(\) does not give the schema's feature 'slot'.*NULL where"),
    (replace(SHOWN, unit="seconds"), r"as 'timestamp'.*looks like milliseconds; set unit"),
    (replace(SHOWN, unit="microseconds"), r"as 'timestamp'.*looks like milliseconds"),
    (replace(SHOWN, time='"at"::BIGINT // 1000'), r"as 'timestamp'.*looks like seconds"),
    (replace(SHOWN, time="who", unit="datetime"), r"has 'r\d+' as 'timestamp'.*a date or time"),
    (replace(SHOWN, time="'2024-05-01'"), "looks like datetime"),
    (replace(SHOWN, time=""), r"impressions\(\) has no time"),
    (replace(SHOWN, labels={}), r"impressions\(\) has no label 'click'"),
    (replace(SHOWN, labels={"click": "rank"}),
     r"has '[234]' as 'label_click' \(rank\); expected 0, 1"),
    (replace(SHOWN, where="clikced = 1"), r"as its where has 'clikced = 1'"),
    (replace(SHOWN, where="false"), r"impressions\(\) gives no row"),
    (replace(SHOWN, lists={"rank": "[1]"}), "calls a list 'rank', a name that is taken"),
    (replace(SHOWN, lists={"x": "rank"}), "for the list 'x'"),
    (replace(SHOWN, files="views.*"), r"holds no views.\*"),
])  # fmt: skip
def test_a_wrong_mapping_is_refused_in_a_sentence(mylog, tmp_path, monkeypatch, rows, says, end):
    monkeypatch.setattr(mylog, "impressions", lambda _: rows)
    folder = write(tmp_path / "raw", end, tables())
    with pytest.raises(InputError, match=says) as caught:
        prepare(mylog(raw=folder), tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(mylog, tmp_path):
    def refused(says):
        with pytest.raises(InputError, match=says) as caught:
            prepare(mylog(raw=str(tmp_path / "raw")), tmp_path / "data")
        assert "\n" not in str(caught.value)

    refused("raw does not exist; expected a folder")
    write(tmp_path / "raw", "parquet", tables())
    path = tmp_path / "raw" / "shown.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    refused("shown.parquet cannot be read as Parquet")
    path.write_bytes(b"")
    refused("shown.parquet is empty")
    path.unlink()
    for header, says in (("who,who", "'who'"), ("who,", "''")):
        (tmp_path / "raw" / "shown.csv").write_text(f"{header}\n1,2\n")
        refused(f"shown.csv has a column called {says}")


@pytest.mark.parametrize(("options", "says"), [
    ({"test_share": 0.0}, "test_share is 0.0"),
    ({"test_share": 0.7, "validation_share": 0.4}, "a sum below 1"),
    ({"test_from": "2024-05-01"}, "only one of test_from"),
    ({"test_from": "2024-05-01", "validation_from": "2024-05-02"}, "is after test_from"),
    ({"test_from": "2024-05-01", "validation_from": "1st of May"}, "'1st of May'; expected a date"),
    ({"min_behaviours": -1}, "min_behaviours is -1"),
])  # fmt: skip
def test_bad_options_are_refused(mylog, options, says):
    with pytest.raises(InputError, match=says):
        mylog(**options)


def test_an_unknown_unit_is_refused():
    with pytest.raises(InputError, match="did you mean milliseconds"):
        Rows(files="x", columns={}, unit="miliseconds")  # type: ignore[arg-type]
