"""The laws of drawn negatives, the share of users, and what the manifest says of them."""

import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.metrics import roc_auc_score

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets import taobao
from at4ctr.data.preparation import repetition, shortcuts
from at4ctr.data.preparation import sql as steps
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.data.preparation.test_prepare import START, read, rows_of, written
from tests.data.preparation.test_prepare_impressions import Toy
from tests.oracles import prepare as oracle

MANY = 40


def unrepeated(seed, users=200, items=300):
    """A log in which no user has an item twice, as in MovieLens: items are of unequal popularity,
    users of unequal activity."""
    rng = np.random.default_rng(seed)
    appeal = rng.normal(0, 1.4, items)
    rows = []
    for user in range(users):
        number = int(np.clip(np.exp(rng.normal(3.6, 0.8)), 10, items // 2))
        order = np.argsort(-appeal - rng.gumbel(size=items))[:number]
        rows += [(user + 1, int(i) + 1, 1, "pv", START + k) for k, i in enumerate(order)]
    return rows


def alone(found, truth):
    """The AUCs of popularity, novelty and repetition, by split, counted in loops."""
    training = [(u, k) for u in found for k, _, label, _ in found[u]["train"] if label]
    popular = Counter(truth[u][k][0] for u, k in training)
    known = {truth[u][k][0] for u, k in oracle.seen_by_training(truth, training)}
    scores = {
        "popularity": lambda _, item: popular[item],
        "novelty": lambda _, item: item not in known,
        "repetition": lambda past, item: item in past,
    }
    values = {split: defaultdict(list) for split in SPLITS}
    for user, splits in found.items():
        for split in SPLITS:
            for cut, item, label, _ in splits[split]:
                past = {e[0] for e in truth[user][:cut]}
                values[split]["label"].append(label)
                for name, score in scores.items():
                    values[split][name].append(score(past, item))
    return {
        split: {name: roc_auc_score(of["label"], of[name]) for name in scores}
        for split, of in values.items()
    }


def warned(folder):
    return [n for n in Store.open(folder).manifest["notes"] if "alone separates" in n]


def drawn(found, split):
    """(user, place of the positive, negative) of a split."""
    return [(u, cut, item) for u in found for cut, item, label, _ in found[u][split] if not label]


def tail(laws, items):
    """Pearson's chi-square of draws, `MANY` a law, by item: its tail probability.

    The laws differ, so the statistic is a little smaller than chi-square's: the test is mild.
    """
    expected = Counter()
    for law in laws:
        for item, probability in law.items():
            expected[item] += MANY * probability
    got = Counter(items)
    assert got.keys() <= expected.keys()
    statistic = sum((got[i] - n) ** 2 / n for i, n in expected.items())
    return chi2.sf(statistic, len(expected) - 1)


def prepared(tmp_path, rows, **options):
    """The store, its instances by user, and the oracle's sequences; a log is written once."""
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / f"log{abs(hash(tuple(rows)))}.csv"
    raw = str(path) if path.exists() else written(rows, path)
    config = taobao.Config(raw=raw, **options)
    folder = prepare(config, tmp_path)
    return folder, read(folder)[2], oracle.behaviours(rows)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("protocol", ["strict", "paper"])
@pytest.mark.parametrize("reject", ["own", "seen"])
def test_every_distinct_item_is_equally_likely(tmp_path, seed, protocol, reject):
    _, found, truth = prepared(
        tmp_path, rows_of(seed, items=120), draw="uniform", reject=reject, protocol=protocol,
        negatives=MANY, seed=seed,
    )  # fmt: skip
    everything = [(u, k) for u, s in truth.items() for k in range(len(s))]
    for split in SPLITS:
        negatives = drawn(found, split)
        once = sorted({(u, k) for u, k, _ in negatives})
        assert once == sorted(oracle.last_k(truth)[split])
        assert len(negatives) == MANY * len(once)
        pool = everything if protocol == "paper" else once
        options = {"pool": pool, "seen": reject == "seen"}
        laws = oracle.candidates(truth, once, **options)
        assert tail(laws, [i for _, _, i in negatives]) > 1e-3
        other = oracle.candidates(truth, once, uniform=False, **options)
        assert tail(other, [i for _, _, i in negatives]) < 1e-3  # the check has power


@pytest.mark.parametrize("seed", [0, 1])
def test_popular_items_are_drawn_by_their_share_of_what_was_not_seen(tmp_path, seed):
    _, found, truth = prepared(
        tmp_path, rows_of(seed, items=120), reject="seen", negatives=MANY, seed=seed
    )
    for split in SPLITS:
        negatives = drawn(found, split)
        once = sorted({(u, k) for u, k, _ in negatives})
        laws = oracle.candidates(truth, once, uniform=False, seen=True)
        assert tail(laws, [i for _, _, i in negatives]) > 1e-3
        own = oracle.candidates(truth, once, uniform=False)
        assert tail(own, [i for _, _, i in negatives]) < 1e-3


def test_nothing_the_user_ever_met_is_a_negative(tmp_path):
    rows = rows_of(3, items=120)
    _, found, truth = prepared(tmp_path, rows, reject="seen", negatives=4)
    met = {u: {e[0] for e in s} for u, s in truth.items()}
    assert all(item not in met[u] for s in SPLITS for u, _, item in drawn(found, s))
    _, usual, _ = prepared(tmp_path, rows, negatives=4)
    assert any(item in met[u] for s in SPLITS for u, _, item in drawn(usual, s))
    for user, splits in found.items():  # the instances are otherwise the same
        for split in SPLITS:
            bare = [[(c, label, u31) for c, _, label, u31 in rows[split]]
                    for rows in (splits, usual[user])]  # fmt: skip
            assert bare[0] == bare[1]


def test_a_user_who_met_everything_gets_no_negative_and_the_manifest_says_so(tmp_path):
    rows = [(1, item, 1, "pv", START + item) for item in range(1, 31)]
    rows += [(user, item, 1, "pv", START + item) for user in (2, 3, 4)
             for item in range(4 * user, 4 * user + 14)]  # fmt: skip
    options = {"reject": "seen", "draw": "uniform"}
    folder, found, _ = prepared(tmp_path, rows, **options)
    assert not any(drawn({1: found[1]}, split) for split in SPLITS)
    assert drawn({2: found[2]}, "test")
    notes = Store.open(folder).manifest["notes"]
    positives = sum(label for s in SPLITS for _, _, label, _ in found[1][s])
    (note,) = [n for n in notes if "given up" in n]
    assert int(note.split()[0]) >= positives
    assert "after 64 draws of items of the user's" in note
    assert any("before or after the row" in n for n in notes)


@pytest.mark.parametrize("draw", ["popularity", "uniform"])
@pytest.mark.parametrize("reject", ["own", "history", "seen"])
@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_what_each_property_alone_separates_is_measured(tmp_path, draw, reject, protocol):
    options = {"draw": draw, "reject": reject, "protocol": protocol}
    folder, found, truth = prepared(tmp_path, rows_of(4, items=200), negatives=2, **options)
    measured = Store.open(folder).manifest["shortcuts"]
    for split, expected in alone(found, truth).items():
        if protocol == "paper":  # its vocabulary has every item
            expected["novelty"] = 0.5
        assert measured[split] == pytest.approx(expected, abs=1e-12)
    if draw == "uniform":
        assert measured["train"]["popularity"] > 0.55
        assert any(n.startswith("popularity") and n.endswith("data.draw=popularity")
                   for n in warned(folder)) == (protocol == "strict")  # fmt: skip


def test_repetition_is_measured_warned_of_and_mended(tmp_path, capsys):
    """Without repeats in the log, a negative that the history holds is a negative for sure."""
    rows = unrepeated(0)
    folder, found, truth = prepared(tmp_path, rows, min_behaviours=1)
    assert alone(found, truth)["train"]["repetition"] < 0.45
    assert alone(found, truth)["test"]["repetition"] < 0.45
    (note,) = warned(folder)
    assert note.startswith("repetition alone")
    assert note.endswith("set data.reject=history")
    assert f"prepare: warning: {note}\n" in capsys.readouterr().err
    options = {"min_behaviours": 1, "reject": "history"}
    folder, found, truth = prepared(tmp_path, rows, negatives=4, **options)
    assert warned(folder) == []
    for split, aucs in alone(found, truth).items():
        few = split != "train"  # 200 positives: σ = 0.02
        assert aucs == pytest.approx(dict.fromkeys(aucs, 0.5), abs=0.06 if few else 0.02)
        assert aucs["repetition"] == 0.5


def test_rejecting_the_history_alone_would_make_popularity_separate(tmp_path, monkeypatch):
    """The weights are needed: without a round of them, popular items are rare among negatives."""
    monkeypatch.setattr(repetition, "ROUNDS", 0)
    options = {"min_behaviours": 1, "reject": "history"}
    folder, found, truth = prepared(tmp_path, unrepeated(0), **options)
    assert alone(found, truth)["train"]["popularity"] > 0.53
    (note,) = warned(folder)
    assert note.startswith("popularity alone")


@pytest.mark.parametrize("protocol", ["strict", "paper"])
@pytest.mark.parametrize("draw", ["popularity", "uniform"])
def test_a_negative_is_in_the_history_where_its_positive_is(tmp_path, protocol, draw):
    options = {"reject": "history", "protocol": protocol, "draw": draw, "negatives": MANY}
    _, found, truth = prepared(tmp_path, rows_of(6, items=120), **options)
    held = []
    for user, splits in found.items():
        for split in SPLITS:
            for cut, item, label, _ in splits[split]:
                past, own = [e[0] for e in truth[user][:cut]], truth[user][cut][0]
                assert (item in past) == (own in past)
                assert label == (item == own)
                if not label and own in past:
                    counts = Counter(i for i in past if i != own)
                    held.append((counts, item))
    assert len(held) > 1000
    expected, got = defaultdict(float), Counter(item for _, item in held)
    for counts, _ in held:
        for item, n in counts.items():
            expected[item] += n / counts.total()
    statistic = sum((got[i] - n) ** 2 / n for i, n in expected.items())
    assert chi2.sf(statistic, len(expected) - 1) > 1e-3


def test_new_items_are_negatives_as_often_as_positives(tmp_path):
    """No item's weight is at its bound here; the chance of being given up is below 1 in 1000."""
    options = {"min_behaviours": 1, "reject": "history", "negatives": 10}
    _, found, _ = prepared(tmp_path, unrepeated(1), **options)
    rows = [(i, label) for u in found for _, i, label, _ in found[u]["train"]]
    positives = Counter(i for i, label in rows if label)
    negatives = Counter(i for i, label in rows if not label)
    share = {i: negatives[i] / 10 / n for i, n in positives.items() if n >= 50}
    assert len(share) > 20
    assert min(share.values()) > 0.8
    assert max(share.values()) < 1.2
    assert 0 <= 10 * positives.total() - negatives.total() < 1e-3 * negatives.total()


def test_a_large_log_is_measured_on_a_share_of_its_users(tmp_path, monkeypatch):
    rows = unrepeated(2)
    whole = Store.open(prepared(tmp_path / "a", rows, min_behaviours=1)[0]).manifest["shortcuts"]
    monkeypatch.setattr(shortcuts, "ROWS", 3000)
    part = Store.open(prepared(tmp_path / "b", rows, min_behaviours=1)[0]).manifest["shortcuts"]
    assert whole != part
    for split in SPLITS:
        assert part[split] == pytest.approx(whole[split], abs=0.1)


def test_the_standard_error_is_that_of_shuffled_labels():
    rng = np.random.default_rng(0)
    scores = rng.zipf(1.8, 300).clip(max=20)
    labels = np.arange(300) < 80
    aucs = []
    for _ in range(2000):
        rng.shuffle(labels)
        auc, error = shortcuts._auc(scores, labels.astype(int), (~labels).astype(int))
        aucs.append(auc)
    assert auc == pytest.approx(oracle.auc(scores[labels], scores[~labels]), abs=1e-12)
    assert error == pytest.approx(np.std(aucs), rel=0.05)


@pytest.mark.parametrize(
    "options", [{"draw": "uniform"}, {"reject": "seen"}, {"reject": "history"}, {"user_rate": 0.6}]
)
def test_the_same_options_draw_the_same_and_a_seed_draws_others(tmp_path, options):
    rows = rows_of(5, items=120)
    folder, found, _ = prepared(tmp_path / "a", rows, **options)
    again, same, _ = prepared(tmp_path / "b", rows, **options)
    assert found == same
    assert (folder / "data" / "part-00000.parquet").read_bytes() == (
        again / "data" / "part-00000.parquet"
    ).read_bytes()
    other, changed, _ = prepared(tmp_path / "a", rows, seed=1, **options)
    assert folder != other
    assert found != changed
    usual, _, _ = prepared(tmp_path / "a", rows)
    assert folder.parent == usual.parent
    assert folder != usual
    ((name, value),) = options.items()
    said = f"option '{name}' is {getattr(taobao.Config(), name)!r}; expected {value!r}"
    with pytest.raises(InputError, match=re.escape(said)):
        Store.open(usual, options=taobao.Config(**options).preparation())


def test_the_users_of_a_share_are_kept_at_every_larger_one(tmp_path):
    rows = rows_of(6, users=400, number=12_000)
    all_ids = {row[0] for row in rows}
    before, kept = set(), {}
    for share in (0.05, 0.3, 0.6, 1.0):
        folder, found, _ = prepared(tmp_path, rows, user_rate=share, min_behaviours=1)
        assert (
            found.keys()
            == oracle.sampled(all_ids, share, 0) & oracle.behaviours(rows, least=1).keys()
        )
        assert before < found.keys()
        before, kept[share] = set(found), found
        counts = Store.open(folder).manifest["counts"]
        assert counts["behaviours"] + sum(counts["dropped"].values()) == counts["raw"]
        assert ("users" in counts["dropped"]) == (share < 1)
    assert len(kept[0.3]) / len(kept[1.0]) == pytest.approx(0.3, abs=0.08)
    for user, splits in kept[0.3].items():
        for split in SPLITS:  # their positives are those of the whole log
            positives = [[r for r in rows[split] if r[2]] for rows in (splits, kept[1.0][user])]
            assert positives[0] == positives[1]


def test_a_share_of_users_leaves_no_trace_of_the_others(tmp_path):
    rows = rows_of(7, users=60, number=2400)
    folder, _, _ = prepared(tmp_path, rows, user_rate=0.4)
    kept = oracle.sampled({row[0] for row in rows}, 0.4, 0)
    alone, _, truth = prepared(tmp_path, [row for row in rows if row[0] in kept])
    for name in ("vocabulary/item.txt", "dims/item.parquet", "dims/user.parquet"):
        assert (folder / name).read_bytes() == (alone / name).read_bytes()
    users = pq.read_table(folder / "dims" / "user.parquet").column("user").to_pylist()
    assert set(users) == set(truth)


def test_a_share_of_users_takes_their_impressions_along(tmp_path):
    whole, half = (Store.open(prepare(Toy(user_rate=rate), tmp_path)) for rate in (1.0, 0.5))
    all_ids, ids = (
        pq.read_table(store.path / "dims" / "user.parquet").column("reader").to_pylist()
        for store in (whole, half)
    )
    assert set(ids) == oracle.sampled(all_ids, 0.5, 0)
    assert 0 < len(ids) < len(all_ids)

    def shown(store, users, kept):
        for split in SPLITS:
            block = store.read(split, store.groups(split))
            owner = np.repeat(block.users, block.counts)
            columns = [block.instances[n].tolist() for n in ("cut", "label_click", "u31")]
            yield sorted((users[u], *r) for u, *r in zip(owner, *columns, strict=True)
                         if users[u] in kept)  # fmt: skip

    assert list(shown(half, ids, ids)) == list(shown(whole, all_ids, ids))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("user_rate", 0.0, "user_rate is 0.0; expected 0 < user_rate <= 1"),
        ("user_rate", 1.5, "user_rate is 1.5"),
        ("user_rate", -0.1, "user_rate is -0.1"),
        ("user_rate", float("nan"), "user_rate is nan"),
        ("draw", "unifrom", "unknown value of data.draw 'unifrom': did you mean uniform"),
        ("reject", "all", "unknown value of data.reject 'all'.*history, own, seen"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(option, value, says):
    with pytest.raises(InputError, match=says) as caught:
        replace(taobao.Config(), **{option: value})
    assert "\n" not in str(caught.value)


def test_a_share_that_keeps_nobody_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"user_rate 1e-09 keeps none.*raise data.user_rate"):
        prepared(tmp_path, rows_of(8), user_rate=1e-9)


@given(st.floats(0.0001, 1), st.floats(0.0001, 1))
def test_shares_nest(one, two):
    users = range(1, 200)
    low, high = sorted((one, two))
    assert oracle.sampled(users, low, 3) <= oracle.sampled(users, high, 3)


@pytest.mark.parametrize("changed", [{}, {"protocol": "paper"}, {"draw": "uniform"}])
def test_running_sums_by_blocks_are_those_of_one(tmp_path, monkeypatch, changed):
    config = taobao.Config(raw=written(rows_of(4), tmp_path / "log.csv"), **changed)
    whole = read(prepare(config, tmp_path / "one"))[2]
    monkeypatch.setattr(steps, "BLOCK", 4)
    assert read(prepare(config, tmp_path / "many"))[2] == whole
