"""Ali-CCP: the files against a literal reading of the format, the split, and what is refused."""

import gzip
import hashlib
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets import aliccp
from at4ctr.data.datasets.aliccp import Config
from at4ctr.data.preparation.prepare import engine_at, prepare
from at4ctr.data.sampling import PRIME, uniform31
from at4ctr.data.simulation import aliccp as simulation
from at4ctr.data.store import Store
from at4ctr.errors import InputError

USER = {"101": "user", "121": "profile_id", "122": "profile_group", "124": "gender", "125": "age",
        "126": "consumption_1", "127": "consumption_2", "128": "employed",
        "129": "geography"}  # fmt: skip
PAST = {"109_14": "past_categories", "110_14": "past_shops", "127_14": "past_brands",
        "150_14": "past_intentions"}  # fmt: skip
SHOWN = {"205": "item", "206": "category", "207": "shop", "216": "brand", "508": "category_match",
         "509": "shop_match", "702": "brand_match", "853": "intention_match",
         "301": "position"}  # fmt: skip


def features(*triples):
    return "\x01".join(f"{field}\x02{i}\x03{value}" for field, i, value in triples)


def row(sample, click, conversion, index, *triples, number=None, text=None):
    shown = features(*triples) if text is None else text
    number = len(triples) if number is None else number
    return f"{sample},{click},{conversion},{index},{number},{shown}\n"


def common(index, *triples):
    return f"{index},{len(triples)},{features(*triples)}\n"


ITEM = ("205", 4123456, "1.0")
LOG = {
    "sample_skeleton_train.csv": [
        row(1, 1, 0, "bacff91692951881", ("210", 9004113, "1.0"), ("216", 9079435, "1.0"), ITEM,
            ("206", 8316799, "1.0"), ("210", 9004114, "2.5"), ("508", 9355000, "2.70805"),
            ("853", 9351665, "0.69315"), ("853", 9351666, "1.09861"), ("301", 9351665, "1")),
        row(2, 0, 1, "bacff91692951881", ITEM),  # a conversion without a click
        row(3, 0, 0, "810d5366057b3f58", ("301", 9351665, "1.0")),  # no item
        row(4, 0, 0, "810d5366057b3f58", ("999", 1, "1.0"), ("1205", 7, "1.0"), ITEM),
        row(5, 1, 1, "810d5366057b3f58", ITEM, ("207", 7, "1.0"), ("205", 5, "1.0")),
    ],
    "common_features_train.csv": [
        common("810d5366057b3f58", ("101", 412797, "1.0"), ("125", 3438772, "1.0")),
        common("bacff91692951881", ("127", 3, "1.0"), ("127_14", 30, "1E-1"), ("127_14", 31, "0"),
               ("127_14", 33, "0.1"), ("127_14", 32, "2e0"), ("129", 3864888, "1.0"),
               ("109_14", 40, "0.69315")),
        common("810d5366057b3f58", ("101", 1, "1.0")),  # the first counts
        common("ffffffffffffffff", ("101", 2, "1.0")),  # of no impression
    ],
    "sample_skeleton_test.csv": [
        row(1, 0, 0, "810d5366057b3f58", ITEM), row(2, 1, 0, "810d5366057b3f58", ITEM),
    ],
    "common_features_test.csv": [common("810d5366057b3f58", ("101", 77, "1.0"))],
}  # fmt: skip


def written(folder, changed=None):
    for name, lines in (LOG | (changed or {})).items():
        (folder / name).write_text("".join(lines))
    return folder


def loaded(config, folder, engine="duckdb"):
    """The impressions by `ord`, and the engine's notes of rows left out, by reason."""
    folder.mkdir(exist_ok=True)
    with engine_at(folder, engine) as made:
        config.load(made, config.acquire())
        columns = made.columns("impressions")
        rows = made.rows('SELECT * FROM impressions ORDER BY "ord"')
        assert made.one("SELECT count(*) FROM log") == (0,)
        return [dict(zip(columns, row, strict=True)) for row in rows], made.notes


def literal(folder, longest):
    """What the rows are, read line by line."""

    def parsed(text):
        return [(f, int(i), np.float32(v)) for f, i, v in
                (p.replace("\x02", "\x03").split("\x03") for p in text.split("\x01"))]  # fmt: skip

    def values(triples, single, several, most):
        row = dict.fromkeys(single.values())
        for field, name in single.items():
            row[name] = next((i for f, i, _ in triples if f == field), None)
        for field, name in several.items():
            pairs = sorted(((w, i) for f, i, w in triples if f == field), reverse=True)[:most]
            row[name], row[f"weights_{name}"] = [i for _, i in pairs], [w for w, _ in pairs]
        return row

    rows, before = [], 0
    for start, file in ((0, "train"), (2**40, "test")):
        users = {}
        for line in (folder / f"common_features_{file}.csv").read_text().splitlines():
            index, _, text = line.split(",")
            users.setdefault(index, values(parsed(text), USER, PAST, longest))
        nobody = dict.fromkeys(next(iter(users.values())))
        lines = (folder / f"sample_skeleton_{file}.csv").read_text().splitlines()
        for number, line in enumerate(lines):
            _, click, conversion, index, _, text = line.split(",")
            shown = values(parsed(text), SHOWN, {"210": "intentions"}, 10)
            if (click, conversion) != ("0", "1") and shown["item"] is not None:
                rows.append({
                    "common_index": f"{index}/{file}", **users[index], **shown,
                    "timestamp": number + start, "ord": before + number, "label_click": int(click),
                    "label_conversion": int(conversion) if click == "1" else None,
                })  # fmt: skip
                users[index] = nobody  # the rows after the first say nothing of the user
        before += len(lines)
    return rows


def equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert {k: v for k, v in one.items() if not k.startswith("truth_")} == other


@pytest.mark.parametrize("longest", [50, 2])
def test_hand_written_rows_are_what_the_format_says(tmp_path, longest):
    folder = written(tmp_path)
    config = Config(raw=str(folder), unclicked=0.5, longest=longest)
    rows, notes = loaded(config, tmp_path / "scratch")
    equal(rows, literal(folder, longest))
    assert notes == [
        f"1 rows of {TRAIN} were left out: conversion without a click",
        f"1 rows of {TRAIN} were left out: no item",
    ]
    first, fourth = rows[0], rows[1]
    assert first["past_brands"] == [32, 33, 30, 31][:longest]
    assert first["weights_past_brands"] == [2.0, *[pytest.approx(0.1)] * 2, 0.0][:longest]
    assert first["intentions"] == [9004114, 9004113]
    assert (first["user"], first["intention_match"]) == (None, 9351665)
    assert (fourth["user"], fourth["item"], fourth["past_shops"]) == (412797, 4123456, [])
    assert [r["user"] for r in rows] == [None, 412797, None, 77, None]


def test_compressed_files_are_the_same(tmp_path):
    folder = written(tmp_path)
    config = Config(raw=str(folder), unclicked=0.5)
    plain = loaded(config, tmp_path / "plain")
    for name in ("sample_skeleton_train.csv", "common_features_test.csv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        with pytest.raises(InputError, match=rf"holds both {name} and {name}\.gz; expected one"):
            config.acquire()
        (folder / name).unlink()
    assert loaded(config, tmp_path / "packed")[0] == plain[0]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aliccp")
    log = simulation.Log(60, 300, impressions=4_000, click_rate=0.2, conversion_rate=0.3)
    simulation.write(log, folder)
    return folder


def test_a_simulated_log_is_what_the_format_says(simulated, tmp_path):
    config = Config(raw=str(simulated), longest=10)
    source = config.acquire()
    assert source.simulated
    assert "no figure made of it" in source.notes[0]
    rows, notes = loaded(config, tmp_path / "scratch")
    equal(rows, literal(simulated, 10))
    assert notes == []
    assert max(len(r["past_shops"] or ()) for r in rows) == 10
    assert all(0 < r["truth_click"] < 1 and 0 < r["truth_conversion"] < 1 for r in rows)


def test_every_row_of_a_store_has_its_users_features_labels_and_truths(simulated, tmp_path):
    config = Config(raw=str(simulated), longest=10, validation_share=0.3)
    store = Store.open(prepare(config, tmp_path))
    rows = literal(simulated, 10)
    first = {r["common_index"]: r for r in reversed(rows)}
    dims = {t: pq.read_table(store.path / "dims" / f"{t}.parquet").to_pylist()
            for t in ("user", "item")}  # fmt: skip
    profile = [f.name for f in store.schema.group("profile")]
    profile += [f"weights_{n}" for n in profile if n.startswith("past_")]
    assert len(dims["user"]) == len(first)  # no versions: every row knows its user's features
    for user in dims["user"]:
        assert {k: first[user["common_index"]][k] for k in profile} == user
    found = Counter()
    for split in SPLITS:
        users = store.read(split, store.groups(split), truth=True)
        truths = [users.instances[f"truth_{x}"] for x in ("click", "conversion")]
        assert all(((t > 0) & (t < 1)).all() for t in truths)
        labels = (users.instances[f"label_{x}"].tolist() for x in ("click", "conversion"))
        indices = np.repeat(users.users, users.counts).tolist()
        for user, item, *known in zip(indices, users.instances["item"].tolist(), *labels,
                                      strict=True):  # fmt: skip
            pair = dims["user"][user]["common_index"], dims["item"][item]["item"]
            found[(*pair, *known)] += 1
    names = ("common_index", "item", "label_click", "label_conversion")
    assert found == Counter(tuple(-1 if r[n] is None else r[n] for n in names) for r in rows)
    assert store.truth == ("click", "conversion")


def test_the_schema_names_every_column(simulated, tmp_path):
    config = Config(raw=str(simulated))
    schema = config.schema()
    rows, _ = loaded(config, tmp_path / "scratch")
    declared = {f.name for f in schema.features} | {x.column for x in schema.labels}
    weights = {f"weights_{f.name}" for f in schema.features if f.weighted}
    more = {"timestamp", "ord", "truth_click", "truth_conversion"}
    assert set(rows[0]) == declared | weights | more
    assert len(weights) == 5
    assert schema.user_id.name == "common_index"
    assert not schema.user_id.serve


def test_the_test_file_is_test_and_validation_is_a_share_of_the_training_users(simulated, tmp_path):
    config = Config(raw=str(simulated), validation_share=0.3, seed=5)
    with engine_at(tmp_path, "duckdb") as engine:
        config.load(engine, config.acquire())
        keyed = f"SELECT *, {engine.key('common_index', 'string')} AS user_key FROM impressions"
        found = engine.rows(f"SELECT common_index, {config.split()} FROM ({keyed}) k")
    words = {i: int(hashlib.md5(i.encode()).hexdigest()[:12], 16) % PRIME for i, _ in found}
    expected = {
        index: "test" if index.endswith("/test")
        else "validation" if uniform31([np.array(word)], "5/validation") < 0.3 * PRIME
        else "train"
        for index, word in words.items()
    }  # fmt: skip
    assert dict(found) == expected
    assert set(expected.values()) == {"train", "validation", "test"}


def test_a_log_is_simulated_where_none_is_and_named_after_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(users=20, items=60, impressions=400)
    source = config.acquire()
    assert source.simulated
    assert [p.name for p in source.files] == [
        "sample_skeleton_train.csv", "common_features_train.csv", "sample_skeleton_test.csv",
        "common_features_test.csv", "truth_train.parquet", "truth_test.parquet",
    ]  # fmt: skip
    assert source.files[0].parent.parent == aliccp.SIMULATED
    times = [p.stat().st_mtime_ns for p in source.files]
    assert config.acquire() == source
    assert [p.stat().st_mtime_ns for p in source.files] == times
    other = Config(users=20, items=60, impressions=400, log_seed=2).acquire()
    assert not {*other.files} & {*source.files}
    aliccp.RAW.mkdir(parents=True)
    written(aliccp.RAW)
    real = Config(users=20, items=60, impressions=400).acquire()
    assert not real.simulated
    assert "SIGIR 2018" in real.notes[0]


TRAIN = "sample_skeleton_train.csv"
KNOWN = "810d5366057b3f58"


@pytest.mark.parametrize(("file", "line", "words"), [
    (TRAIN, row(9, 2, 0, KNOWN, ITEM), r"train.csv line 7 has click 2; expected 0 or 1"),
    (TRAIN, row(9, 1, -1, KNOWN, ITEM), r"line 7 has conversion -1; expected 0 or 1"),
    (TRAIN, row(9, 1, "", KNOWN, ITEM), r"line 7 has '' in column 'conversion'; expected a whole"),
    (TRAIN, row(9, 1, 0, KNOWN, text="205:5:1.0", number=1),
     r"line 7 has the features '205:5:1.0'; expected field\\x02id\\x03value"),
    (TRAIN, row(9, 1, 0, KNOWN, ITEM, ("206", "a", "1.0")), r"line 7 has the features '205"),
    (TRAIN, row(9, 1, 0, KNOWN, ITEM, ("206", 5, "-1.0")), r"values of at least 0; correct or"),
    (TRAIN, row(9, 1, 0, KNOWN, ITEM, ("206", 5, "nan")), r"line 7 has the features"),
    (TRAIN, row(9, 1, 0, KNOWN, text="", number=0), r"line 7 has the features ''"),
    (TRAIN, row(9, 1, 0, KNOWN, ITEM, number=2), r"line 7 has 1 features; expected 2, as its col"),
    (TRAIN, "9,1,0\n", r"line 7 has 3 column\(s\); expected 6"),
    (TRAIN, row(9, 1, 0, "gone", ITEM) + row(10, 1, 0, "gone", ITEM) + row(11, 1, 0, "a", ITEM),
     r"line 7 has the common features 'gone', which common_features_train.csv lacks, as it lacks "
     r"those of 3 lines in all; expected a row for each"),
    ("common_features_train.csv", "x,2,101\x021\x031.0\n", r"common_features_train.csv line 6 has "
     r"1 features; expected 2"),
    ("common_features_test.csv", "x,1,101\x021\n", r"common_features_test.csv line 3 has the feat"),
])  # fmt: skip
def test_bad_lines_are_refused_by_number(tmp_path, file, line, words):
    # the blank line before it is a line of the file and no row
    folder = written(tmp_path, {file: [*LOG[file], "\n", line]})
    with pytest.raises(InputError, match=words):
        loaded(Config(raw=str(folder), unclicked=0.5), tmp_path / "scratch")


def test_conversions_without_a_click_are_refused_where_there_are_too_many(tmp_path):
    folder = written(tmp_path)
    with pytest.raises(InputError, match=r"train.csv line 2 has a conversion without a click, as "
                       r"have 1 of 2 conversions; expected a share of at most 0.1"):  # fmt: skip
        loaded(Config(raw=str(folder)), tmp_path / "scratch")


def test_a_file_that_is_missing_is_named(tmp_path):
    folder = written(tmp_path)
    (folder / "common_features_test.csv").unlink()
    with pytest.raises(InputError, match=r"common_features_test.csv is missing; expected .*RAW="):
        Config(raw=str(folder)).acquire()


def test_a_truth_that_lacks_rows_is_refused(simulated, tmp_path):
    for path in simulated.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = (tmp_path / TRAIN).read_text().splitlines(keepends=True)
    (tmp_path / TRAIN).write_text("".join([*lines, lines[-1].replace(",", "9999,", 1)]))
    with pytest.raises(InputError, match=r"1 rows of the simulated log have no row in truth_train"):
        loaded(Config(raw=str(tmp_path)), tmp_path / "scratch")


@pytest.mark.parametrize(("field", "value", "words"), [
    ("validation_share", 1.0, "validation_share is 1.0; expected 0 <= validation_share < 1"),
    ("unclicked", -0.1, "unclicked is -0.1; expected a share from 0 to 1"),
    ("longest", 0, "longest is 0; expected at least 1"),
    ("conversion_rate", 0.0, "Log.conversion_rate is 0.0, expected strictly between 0 and 1"),
    ("clickbait", 1.5, "Log.clickbait is 1.5, expected a share"),
    ("impressions", 10, "Log.impressions is 10, expected at least users=20000"),
    ("click_rate", 1.0, "World.click_rate is 1.0"),
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(field, value, words):
    with pytest.raises(InputError, match=words):
        Config(**{field: value})
