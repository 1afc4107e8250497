"""The comparison with other libraries, without its clock: rows of one log for all, the page."""

import json
import sys

import numpy as np
import pytest

from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from benchmarks import bench_peers, random_log

SIZES = random_log.Sizes(users=400, items=300, categories=7, history=6, rows=200)


@pytest.fixture(params=bench_peers.LOADS.values(), ids=list(bench_peers.LOADS))
def load(request, tmp_path):
    """The rows of a request, and the folder of a load."""
    bench_peers.make(tmp_path / "load", SIZES, request.param)
    return request.param, tmp_path / "load"


def read(folder):
    """What peers read."""
    return {p.stem: np.load(p) for p in (folder / "rows").iterdir()}


def multiset(columns):
    """Rows of several columns, sorted."""
    flat = np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1)
    return flat[np.lexsort(flat.T)]


def test_requests_have_their_size_and_the_last_one_the_rest(load):
    size, folder = load
    users = read(folder)["user"]
    _, first, counts = np.unique(users, return_index=True, return_counts=True)
    counts = counts[np.argsort(first)]
    assert (counts[:-1] == size).all()
    assert counts[-1] == (SIZES.rows % size or size)
    assert (np.flatnonzero(np.diff(users)) + 1).tolist() == sorted(first)[1:]


def test_each_row_has_its_requests_history_and_ids_within_the_tables(load):
    _, folder = load
    rows = read(folder)
    assert {str(v.dtype) for k, v in rows.items() if k != "label"} == {"int32"}
    assert rows["label"].dtype == np.float32
    real = np.arange(SIZES.history) < rows["length"][:, None]
    for name, last in (("item", SIZES.items), ("category", SIZES.categories)):
        assert ((rows[f"history_{name}"] > 0) == real).all()
        assert rows[name].min() >= 1
        assert max(rows[name].max(), rows[f"history_{name}"].max()) <= last
    same = rows["user"][1:] == rows["user"][:-1]
    past = rows["history_item"]
    assert (past[1:][same] == past[:-1][same]).all()
    expected = (rows["history_item"] - 1) % SIZES.categories + 1
    assert (rows["history_category"] == np.where(real, expected, 0)).all()


def test_a_pair_is_a_positive_and_a_negative():
    label = random_log.drawn(SIZES, 2).label
    assert label.reshape(-1, 2).sum(1).tolist() == [1] * 100


@pytest.mark.parametrize("grouping", ["rows", "requests"])
def test_ours_reads_the_rows_that_peers_read(load, grouping):
    size, folder = load
    store = Store.open(folder / "store", schema=random_log.SCHEMA)
    options = {"batch_size": 64, "history": SIZES.history, "grouping": grouping}
    reader = Reader(store, "train", drop_remainder=False, **options)
    found, histories = [], 0
    for k in range(reader.steps(0)):
        batch = reader.batch(0, k)
        owner = batch.get("owner", np.arange(len(batch["item"])))
        histories += len(batch["history_length"])
        past = [batch[n][owner] for n in ("user", "history_item", "history_category")]
        past.append(batch["history_length"][owner])
        now = [batch[n] for n in ("item", "category", "label_click")]
        found.append([*past, *now])
    columns = [np.concatenate(c).astype(np.int64) for c in zip(*found, strict=True)]
    for c in (0, 1, 2, 4, 5):  # ids of libraries count from 1, ours from 2
        columns[c] -= columns[c] > 0
    rows = read(folder)
    names = ("user", "history_item", "history_category", "length", "item", "category", "label")
    theirs = [rows[n].astype(np.int64) for n in names]
    np.testing.assert_array_equal(multiset(columns), multiset(theirs))
    assert histories == (-(-SIZES.rows // size) if grouping == "requests" else SIZES.rows)


@pytest.mark.parametrize("plan", bench_peers.PLANS.values(), ids=list(bench_peers.PLANS))
def test_no_peer_needs_more_rows_or_users_than_there_are(plan):
    for steps in (plan.steps + plan.warmup, plan.few + plan.few_warmup):
        assert steps * plan.batch <= plan.log.rows
    assert plan.log.rows <= plan.log.users


def test_a_load_is_made_once(tmp_path):
    bench_peers.make(tmp_path / "load", SIZES, 25)
    before = (tmp_path / "load" / "rows" / "item.npy").stat().st_mtime_ns
    bench_peers.make(tmp_path / "load", SIZES, 25)
    assert (tmp_path / "load" / "rows" / "item.npy").stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == ["load"]


def test_ours_groups_by_requests_where_a_request_has_several_rows(tmp_path):
    ours, plan = bench_peers.SETTINGS[0], bench_peers.PLANS["full"]
    words = {load: bench_peers.command(ours, plan, load, tmp_path) for load in bench_peers.LOADS}
    assert {k for k, w in words.items() if "data.grouping=requests" in w} == {"pairs", "pages"}
    assert all("fit.optimizer=rowwise_adagrad" in w for w in words.values())


def results(speeds, rounds=3, load="pages", peak=1000):
    """Setting -> examples/s, with 10 more in each round."""
    known = {s.label: s for s in bench_peers.SETTINGS}
    return [
        {
            "setting": label,
            "load": load,
            "round": k,
            "sizes": "full",
            "examples_per_s": speed + 10 * k,
            "peak_mb": peak,
            "load_before": 0.5,
            "load_after": 0.5 + k,
            "cores": 2,
            "threads": 2,
            "machine": bench_peers.machine(),
            "commit": "0123abcd",
            "code": bench_peers.code(known[label], bench_peers.PLANS["full"]),
            "date": f"2026-12-0{k + 1}",
        }
        for label, speed in speeds.items()
        for k in range(rounds)
    ]


SPEEDS = {
    "at4ctr, row-wise Adagrad, width 20": 39_990,
    "at4ctr, LazyAdam": 29_990,
    "at4ctr, LazyAdam, DIN + UIM + NIP": 19_990,
    "FBGEMM, row-wise Adagrad, width 20": 9_990,
    "plain Keras, sparse": 7_990,
    "plain Keras, as shipped": 3_990,
}


def test_the_page_has_medians_ranges_and_multiples_under_the_same_optimizer():
    made = bench_peers.page(results(SPEEDS), "full")
    assert "2026-12-01 to 2026-12-03" in made
    assert "0.5 to 2.5" in made
    rows = [line.split(" | ") for line in made.splitlines() if line.startswith("| FBGEMM")]
    assert rows[0][1:5] == ["3", "10,000 (9,990 to 10,010)", "4.0×", "1,000"]
    assert "commit 0123abcd" in made
    assert "the first 81,920: 40 steps" in made
    keras = next(line for line in made.splitlines() if line.startswith("| plain Keras, sparse"))
    assert "| 3.8× |" in keras  # LazyAdam's 30,000 over 8,000
    assert "### Pages of 25 rows a request" in made
    assert "### Pairs" not in made


def test_an_aim_is_met_or_missed_and_says_by_whom():
    lines = bench_peers.verdict("pages", bench_peers.rows_of(results(SPEEDS), "pages"))
    assert lines[0].startswith("- 4 times each library at its best: **missed**")
    assert lines[0].endswith("3.75 times plain Keras, sparse, the nearest.")
    assert "**missed**, 7.5 times plain Keras, as shipped, the nearest" in lines[1]
    assert "met, 2.00 times FBGEMM" in lines[2]
    assert "**missed**, 1,000 MB beside 1,000" in lines[3]


def test_no_aim_is_judged_on_a_busy_machine():
    quiet, busy = results(SPEEDS), results(SPEEDS)
    busy[4]["load_after"] = 3.1
    assert "missed" in bench_peers.page(quiet, "full")
    made = bench_peers.page(busy, "full")
    assert "no aim is judged" in made
    assert "missed" not in made
    assert "| 4.0× |" in made


def test_an_aim_whose_rows_were_not_measured_is_left_out():
    few = results({"at4ctr, LazyAdam": 10})
    assert bench_peers.verdict("pages", bench_peers.rows_of(few, "pages")) == []
    with pytest.raises(InputError, match="no result"):
        bench_peers.page([], "full")


def test_what_is_there_is_not_measured_again():
    settings, loads = bench_peers.SETTINGS[:2], ["pairs", "pages"]
    done = results({settings[0].label: 1}, rounds=1)
    todo = list(bench_peers.missing(done, 2, settings, loads))
    assert len(todo) == 2 * 2 * 2 - 1
    assert (0, "pages", settings[0]) not in todo
    assert [number for number, _, _ in todo] == [0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("when", ["load_before", "load_after"])
def test_a_result_beside_other_work_is_measured_again(when):
    done = results({bench_peers.SETTINGS[0].label: 1}, rounds=2)
    assert not list(bench_peers.missing(done, 2, bench_peers.SETTINGS[:1], ["pages"]))
    done[1][when] = 3.1
    todo = bench_peers.missing(done, 2, bench_peers.SETTINGS[:1], ["pages"])
    assert list(todo) == [(1, "pages", bench_peers.SETTINGS[0])]


def test_tasks_and_libraries_as_shipped_run_in_the_first_round_only():
    todo = bench_peers.missing([], 2, bench_peers.SETTINGS, ["pages"])
    assert {s.kind for number, _, s in todo if number == 1} == {"ours", "best"}


def test_results_of_other_code_or_another_machine_do_not_count():
    done = results(SPEEDS, rounds=1)
    assert bench_peers.current(done, "full") == done
    done[0]["code"], done[1]["machine"] = "0", "another"
    del done[2]["code"]
    assert bench_peers.current(done, "full") == done[3:]


def test_the_code_of_a_result_is_its_plan_and_setting_but_not_their_words():
    plan, s = bench_peers.PLANS["full"], bench_peers.SETTINGS[0]
    assert bench_peers.code(s, plan) == bench_peers.code(s._replace(by_hand="other"), plan)
    assert bench_peers.code(s, plan) != bench_peers.code(s, plan._replace(steps=1))
    assert bench_peers.code(s, plan) != bench_peers.code(s._replace(words=()), plan)


def test_a_load_of_other_sizes_lies_elsewhere(monkeypatch):
    before, plan = bench_peers.load_folder("tiny", "pairs"), bench_peers.PLANS["tiny"]
    other = plan._replace(log=plan.log._replace(items=7))
    monkeypatch.setitem(bench_peers.PLANS, "tiny", other)
    assert bench_peers.load_folder("tiny", "pairs") != before
    assert before.name.startswith("pairs-")


def test_each_peer_has_the_threads_of_the_cores_it_may_use(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_peers, "environment", lambda _: "python")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    for s in bench_peers.SETTINGS:
        if s.peer != bench_peers.OURS:
            words = bench_peers.command(s, bench_peers.PLANS["tiny"], "pairs", tmp_path)
            assert "--threads=3" in words


def test_an_environment_is_made_again_when_its_pins_change(monkeypatch, tmp_path):
    (tmp_path / "requirements_x.txt").write_text("# first\nlibrary==1\nnumpy==2\n")
    (tmp_path / "x").mkdir()
    monkeypatch.setattr(bench_peers, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(bench_peers, "PEERS", tmp_path)
    ran = []
    monkeypatch.setattr(bench_peers, "run", ran.append)
    bench_peers.environment("x")
    assert ran[1][-1] == "numpy==2"
    assert ran[2][-2:] == ["--no-deps", "library==1"]
    bench_peers.environment("x")
    assert len(ran) == 3
    (tmp_path / "requirements_x.txt").write_text("library==2\n")
    bench_peers.environment("x")
    assert len(ran) == 6


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import time; time.sleep(60)", "did not end within 1 s"),
        ("raise SystemExit(3)", "ended with 3"),
        ("print(1)", "printed no JSON line"),
    ],
)
def test_a_process_that_fails_is_one_error(monkeypatch, code, said):
    monkeypatch.setattr(bench_peers, "TIMEOUT", 1)
    with pytest.raises(InputError, match=said):
        bench_peers.measured([sys.executable, "-c", code])


def run(monkeypatch, folder, *words):
    flags = [f"--results={folder / 'r.json'}", f"--out={folder / 'page.md'}", *words]
    monkeypatch.setattr(bench_peers, "ENVIRONMENTS", folder)
    monkeypatch.setattr("sys.argv", ["bench_peers", *flags])
    return bench_peers.main()


def test_the_page_is_written_from_the_file(monkeypatch, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(results(SPEEDS)))
    (tmp_path / "page.md").write_text("a\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nb\n")
    assert run(monkeypatch, tmp_path, "--rounds=0") == 0
    made = (tmp_path / "page.md").read_text()
    assert made.startswith("a\n")
    assert made.endswith("b\n")
    assert "old" not in made
    assert "FBGEMM" in made


def test_the_page_is_written_before_a_failure_ends_it(monkeypatch, tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(results(SPEEDS)))
    (tmp_path / "page.md").write_text("<!-- peers: begin -->\n<!-- peers: end -->\n")

    def failing(*_):
        raise InputError("a process failed")

    monkeypatch.setattr(bench_peers, "measure", failing)
    assert run(monkeypatch, tmp_path) == 2
    assert "error: a process failed" in capsys.readouterr().err
    assert "FBGEMM" in (tmp_path / "page.md").read_text()


def test_a_result_replaces_that_of_its_place(monkeypatch, tmp_path):
    done = results({bench_peers.SETTINGS[1].label: 1}, rounds=2)
    monkeypatch.setattr(bench_peers, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(bench_peers, "make", lambda *_: None)
    found = {"train_examples_per_s": 5.0, "peak_mb": 7}
    monkeypatch.setattr(bench_peers, "measured", lambda _: found)
    todo = [(0, "pages", bench_peers.SETTINGS[1])]
    bench_peers.measure("full", todo, done, tmp_path / "r.json")
    assert [(r["round"], r["examples_per_s"]) for r in done] == [(1, 11), (0, 5)]
    assert json.loads((tmp_path / "r.json").read_text()) == done
    assert bench_peers.current(done, "full") == done


def test_results_of_other_sizes_are_refused(monkeypatch, tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(results(SPEEDS)))
    assert run(monkeypatch, tmp_path, "--rounds=0", "--sizes=tiny") == 2
    assert "expected tiny" in capsys.readouterr().err


def test_an_unknown_peer_is_refused(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, "--peers=torchrec") == 2
    assert "torchrec" in capsys.readouterr().err


def test_each_library_has_pins():
    for setting in bench_peers.SETTINGS:
        if setting.environment:
            pins = bench_peers.PEERS / f"requirements_{setting.environment}.txt"
            assert "==" in pins.read_text()
            assert (bench_peers.PEERS / f"{setting.script}.py").is_file()
