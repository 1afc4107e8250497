"""Day folders of a raw log: every line in the folder of its day, whole, once, in its order."""

import gzip
import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import configs
from at4ctr.data import days
from at4ctr.data.datasets import tafeng, taobao
from at4ctr.errors import InputError
from pipelines import days as dealing
from pipelines.days import deal, main
from pipelines.night import chain
from tests.conftest import shared_data

HEAD = b'\xef\xbb\xbf"TRANSACTION_DT","CUSTOMER_ID","AGE_GROUP"\r\n'


def contents(root):
    """Name -> bytes of every file under the day folders."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*"))
            if p.is_file()}  # fmt: skip


def write(folder, lines, name="UserBehavior.csv"):
    folder.mkdir(exist_ok=True)
    packed = name.endswith(".gz")
    (folder / name).write_bytes(gzip.compress(b"".join(lines)) if packed else b"".join(lines))
    return taobao.Config(raw=str(folder / name))


def line(number, second, end=b"\n"):
    return b"%d,007,7,pv,%d%s" % (number, second, end)


@settings(deadline=None, max_examples=30)
@given(seconds=st.lists(st.integers(taobao.FIRST - 90_000, taobao.LAST + 90_000), min_size=1),
       block=st.integers(1, 200), packed=st.booleans(), open_end=st.booleans())  # fmt: skip
def test_each_line_is_in_its_day(tmp_path_factory, seconds, block, packed, open_end):
    seconds = [*seconds, taobao.FIRST]
    lines = [line(n, s) for n, s in enumerate(seconds)]
    if open_end:
        lines[-1] = lines[-1].rstrip()
    folder = tmp_path_factory.mktemp("deal")
    data = write(folder / "raw", lines, "a.csv.gz" if packed else "a.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "BLOCK", block)
        dealt = deal(data, folder / "days")
    expected = {}
    for number, second in enumerate(seconds):
        there = datetime.fromtimestamp(second, UTC) + timedelta(hours=8)
        if date(2017, 11, 25) <= there.date() <= date(2017, 12, 3):
            expected.setdefault(there.date(), []).append(line(number, second))
    assert dealt.days == {d: len(found) for d, found in sorted(expected.items())}
    assert dealt.left_out == len(seconds) - sum(dealt.days.values())
    found = days.find(folder / "days", dealt.days)
    assert [d.files[0].read_bytes() for d in found] == [b"".join(expected[d.date]) for d in found]
    assert days.dates(folder / "days") == tuple(dealt.days)
    assert not any(d.simulated for d in found)


def test_the_header_stands_first_in_every_day_as_it_is(tmp_path):
    lines = [b'"11/2/2000","00001","A "\r\n', b'"11/1/2000","00002",""\r\n',
             b'"12/31/2000","00001","A "\r\n', b'"11/2/2000","00003","K "\r\n']  # fmt: skip
    (tmp_path / "a.csv").write_bytes(HEAD + b"".join(lines))
    deal(tafeng.Config(raw=str(tmp_path / "a.csv")), tmp_path / "days", last=date(2000, 11, 30))
    assert contents(tmp_path / "days") == {
        "dt=2000-11-01/_SUCCESS": b"",
        "dt=2000-11-01/part-00000.csv": HEAD + lines[1],
        "dt=2000-11-02/_SUCCESS": b"",
        "dt=2000-11-02/part-00000.csv": HEAD + lines[0] + lines[3],
    }


def test_a_second_time_nothing_changes_and_another_log_is_refused_whole(tmp_path):
    data = write(tmp_path / "raw", [line(n, taobao.FIRST + n * 40_000) for n in range(9)])
    root = tmp_path / "days"
    first = deal(data, root, last=date(2017, 11, 26))
    assert len(first.new) == 2
    before, moments = contents(root), [p.stat().st_mtime_ns for p in sorted(root.rglob("*"))]
    assert deal(data, root, last=date(2017, 11, 26)).new == ()
    assert [p.stat().st_mtime_ns for p in sorted(root.rglob("*"))] == moments
    other = write(tmp_path / "other", [line(n, taobao.FIRST + n * 39_000) for n in range(9)])
    with pytest.raises(InputError, match=r"dt=2017-11-25 holds another log of its day; expected"):
        deal(other, root)
    assert contents(root) == before
    more = deal(data, root)
    assert more.new == tuple(more.days)[2:]
    assert contents(root).items() > before.items()
    (root / "dt=2017-11-27" / "part-00001.csv").touch()
    with pytest.raises(InputError, match=r"dt=2017-11-27 holds another log"):
        deal(data, root)


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    data = write(tmp_path / "raw", [line(n, taobao.FIRST + n * 86_400) for n in range(3)])
    root, rename, told = tmp_path / "days", os.rename, []

    def cut(self, target):
        assert (self / days.READY).is_file()
        if told:
            raise OSError(28, "No space left on device", str(target))
        told.append(target)
        rename(self, target)

    monkeypatch.setattr(type(root), "rename", cut)
    with pytest.raises(InputError, match="became full"):
        deal(data, root)
    assert [p.name for p in root.iterdir()] == ["dt=2017-11-25"]
    monkeypatch.undo()
    (root / ".days.tmp-1").mkdir()  # of a killed process
    assert len(deal(data, root).new) == 2
    assert sorted(p.name for p in root.iterdir()) == [f"dt=2017-11-{d}" for d in (25, 26, 27)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [([line(1, taobao.FIRST), b"1,2,3,pv,noon\n"], r"a.csv line 2 \(.*noon.*\) has no day"),
     ([line(1, taobao.FIRST), b"\n"], r"a.csv line 2 \(b''\) has no day"),
     ([line(1, taobao.FIRST * 1000)], r"has no row of 2017-11-25 to 2017-12-03 among its 1;")],
)  # fmt: skip
def test_what_cannot_be_dealt_is_named_and_leaves_nothing(tmp_path, lines, said, monkeypatch):
    monkeypatch.setattr(dealing, "BLOCK", 8)
    data = write(tmp_path / "raw", lines, "a.csv")
    with pytest.raises(InputError, match=said):
        deal(data, tmp_path / "days")
    assert not list((tmp_path / "days").iterdir())


def test_a_dataset_that_does_not_tell_the_day_of_a_line_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"log of trivago cannot .* one of tafeng, taobao; write"):
        deal(configs.dataset("trivago")(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_deals_a_simulated_log_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--set=data.simulate_rows=3000", "--end=2017-11-27"]
    assert main(words) == 0
    assert "data/taobao: 3 days, simulated, 2017-11-25 to 2017-11-27, " in capsys.readouterr().out
    found = days.find(tmp_path / "data" / "taobao", [date(2017, 11, 27)])
    assert found[0].simulated
    assert main(words) == 0
    assert "3 of them were there already" in capsys.readouterr().out
    for wrong, said in ((["--begin=yesterday"], "--begin is 'yesterday'; expected a day"),
                        (["--end=2017-01-01"], "begin at 2017-11-25 and end at 2017-01-01"),
                        (["--dataset=taobap"], "did you mean taobao"),
                        (["--fish"], "Unknown command line flag 'fish'"),
                        (["now"], "unexpected argument 'now'")):  # fmt: skip
        assert main(wrong) == 2
        assert said in capsys.readouterr().err


def test_the_days_of_a_real_log_are_read_as_the_whole_is(tmp_path):
    """Rows by day in the store's own calendar, of the published slice."""
    file = shared_data("taobao/UserBehavior_43users.csv")
    dealt = deal(taobao.Config(raw=str(file)), tmp_path)
    again = [n for d in days.find(tmp_path, dealt.days) for n in d.files[0].read_bytes().split()]
    whole = file.read_bytes().split()
    assert len(whole) == 4321
    assert dealt.left_out == 1
    assert sorted(again) == sorted(n for n in whole if taobao.FIRST <= int(n[-10:]) <= taobao.LAST)


def test_a_chain_takes_the_zone_of_its_dataset_unless_told_otherwise():
    for name in ("taobao", "tafeng", "simulated"):
        found = configs.dataset(name)
        made = chain.made({"dataset": name, "config": "fm"})
        assert made.periods.utc_offset_hours == found.UTC_OFFSET_HOURS
        assert made.asked["utc_offset_hours"] == f"{found.UTC_OFFSET_HOURS:g}"
    assert configs.dataset("taobao").UTC_OFFSET_HOURS == 8
    given = chain.made({"dataset": "taobao", "config": "fm", "utc_offset_hours": "0"})
    assert given.periods == replace(given.periods, utc_offset_hours=0)
