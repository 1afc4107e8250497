"""The simulated world: that its character is in its logs, and what is no world is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from at4ctr.data.simulation import write as simulate
from at4ctr.data.simulation.world import Catalogue, People, World
from at4ctr.data.simulation.write import write_behaviours
from at4ctr.errors import InputError

SMALL = World(users=1_500, items=4_000, categories=400, rows=60_000, categories_per_interest=20)
CLEAN = dataclasses.replace(SMALL, duplicates=0, strays=0, unordered=0)
START, END = 1_511_539_200, 1_512_316_799
NAMES = ["user", "item", "category", "type", "timestamp"]


def log_of(world: World, tmp_path: Path) -> pd.DataFrame:
    write_behaviours(world, tmp_path / "log.csv")
    return pd.read_csv(tmp_path / "log.csv", names=NAMES)


def dense(raw: pd.Series, ids: np.ndarray) -> np.ndarray:
    """The world's numbers of raw ids; -1 if unknown."""
    return pd.Index(ids).get_indexer(raw)


def follows(log: pd.DataFrame, catalogue: Catalogue) -> np.ndarray:
    """For each behaviour but a user's first: is it a successor of the one before?"""
    item = dense(log["item"], catalogue.item_ids)
    same = log["user"].to_numpy()[1:] == log["user"].to_numpy()[:-1]
    return (catalogue.successors[item[:-1]] == item[1:, None]).any(axis=1)[same]


def test_activity_is_heavy_tailed(tmp_path):
    count = log_of(CLEAN, tmp_path)["user"].value_counts()
    assert 0.02 < (count < 10).mean() < 0.3
    assert count.max() > 5 * count.median()
    assert abs(count.sum() - CLEAN.rows) < 0.1 * CLEAN.rows


def test_item_popularity_is_heavy_tailed(tmp_path):
    heavy = log_of(CLEAN, tmp_path)["item"].value_counts()
    assert heavy.iloc[: CLEAN.items // 10].sum() > 0.4 * len(heavy) * heavy.mean()
    even = dataclasses.replace(CLEAN, item_zipf=0.0)
    flat = log_of(even, tmp_path)["item"].value_counts()
    assert flat.max() < heavy.max() / 2


def test_category_sizes_are_heavy_tailed():
    sizes = np.sort(np.bincount(Catalogue(SMALL).category))[::-1]
    assert sizes.min() >= 1
    assert sizes.sum() == SMALL.items
    assert sizes[:40].sum() > 0.3 * SMALL.items


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_transitions_come_as_often_as_the_world_says(share, tmp_path):
    """Without repeats, and in interests so wide that a successor by chance is rare."""
    world = dataclasses.replace(
        CLEAN, transition=share, repeat=0.0, explore=1 - share, item_zipf=0.0
    )
    hit = follows(log_of(world, tmp_path), Catalogue(world))
    chance = (1 - share) * world.successors / world.items
    error = np.sqrt((share + chance) / len(hit))
    assert abs(hit.mean() - share - chance) < 4 * error


def test_transitions_stand_out_in_the_default_mixture(tmp_path):
    without = dataclasses.replace(SMALL, transition=0.0)
    base = follows(log_of(without, tmp_path), Catalogue(without)).mean()
    with_them = follows(log_of(SMALL, tmp_path), Catalogue(SMALL)).mean()
    assert base < 0.05
    assert SMALL.transition - 0.02 < with_them < SMALL.transition + base + 0.02


def test_successors_share_the_interest_and_are_others():
    catalogue = Catalogue(SMALL)
    own = np.arange(SMALL.items)[:, None]
    assert (catalogue.interest[catalogue.successors] == catalogue.interest[own]).all()
    assert (catalogue.successors != own).all()


def test_repeats_are_of_the_last_five(tmp_path):
    world = dataclasses.replace(CLEAN, repeat=1.0, transition=0.0, explore=0.0)
    assert (log_of(world, tmp_path).groupby("user")["item"].nunique() == 1).all()
    rare = dataclasses.replace(CLEAN, transition=0.0, explore=0.7, item_zipf=0.0, repeat=0.3)
    log = log_of(rare, tmp_path)
    earlier = [log.groupby("user")["item"].shift(lag) for lag in range(1, 6)]
    again = np.any([log["item"] == e for e in earlier], axis=0)[earlier[0].notna()]
    assert abs(again.mean() - 0.3) < 0.01


def test_draw_follows_popularity():
    catalogue = Catalogue(SMALL)
    low, high = catalogue.interest_edges[3], catalogue.interest_edges[4]
    uniform = (np.arange(200_000) + 0.5) / 200_000
    found = np.bincount(catalogue.draw(low, high, uniform), minlength=SMALL.items) / 200_000
    expected = np.zeros(SMALL.items)
    expected[low:high] = catalogue.popularity[low:high] / catalogue.popularity[low:high].sum()
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_choice_approaches_popularity_times_exp_affinity():
    world = dataclasses.replace(SMALL, candidates=400)
    catalogue = Catalogue(world)
    category = np.flatnonzero(np.bincount(catalogue.category) >= 5)[0]
    low, high = catalogue.category_edges[category], catalogue.category_edges[category + 1]
    taste = np.random.default_rng(0).standard_normal(world.latent).astype(np.float32)
    weight = catalogue.popularity[low:high] * np.exp(
        world.affinity * catalogue.vectors[low:high] @ taste / np.sqrt(world.latent)
    )
    number = 20_000
    edges = np.full(number, low), np.full(number, high)
    tastes = np.tile(taste, (number, 1))
    rng = np.random.default_rng(1)
    chosen = catalogue.choose(rng, tastes, edges, None, catalogue.vectors)
    found = np.bincount(chosen - low, minlength=high - low) / number
    np.testing.assert_allclose(found, weight / weight.sum(), atol=0.02)


def test_chosen_items_have_more_affinity_than_popular_ones():
    catalogue = Catalogue(SMALL)
    chosen, popular = [], []
    for block in simulate._blocks(catalogue):
        taste = block.people.taste[block.user]
        other = np.random.default_rng(0).permutation(block.item)
        chosen.append(catalogue.affinity(taste, block.item))
        popular.append(catalogue.affinity(taste, other))
    gain = np.concatenate(chosen) - np.concatenate(popular)
    assert gain.mean() > 0.3
    assert gain.mean() > 10 * gain.std() / np.sqrt(len(gain))


def halves_overlap(world: World, by_time: bool) -> float:
    """Mean over users of Σ min(p, q), p and q the interests of the sessions of two halves."""
    overlaps = []
    rng = np.random.default_rng(0)
    for block in simulate._blocks(Catalogue(world)):
        table = pd.DataFrame({"u": block.user, "g": block.interest, "t": block.time})
        new = (table["u"].diff() != 0) | (table["g"].diff() != 0) | (table["t"].diff() > 3_600)
        visits = table[new]
        key = visits["t"] if by_time else pd.Series(rng.random(len(visits)), visits.index)
        half = key.groupby(visits["u"]).rank(pct=True) > 0.5
        size = visits["u"].map(visits["u"].value_counts())
        counts = visits.assign(h=half)[size >= 8].value_counts(["u", "h", "g"]).unstack("h")
        share = counts.fillna(0) / counts.groupby("u").transform("sum")
        overlaps.append(share.min(axis=1).groupby("u").sum())
    return float(pd.concat(overlaps).mean())


def test_interests_drift():
    world = dataclasses.replace(SMALL, rows=120_000)
    assert halves_overlap(world, by_time=True) < halves_overlap(world, by_time=False) - 0.05
    still = dataclasses.replace(world, drift=0.0)
    assert abs(halves_overlap(still, by_time=True) - halves_overlap(still, by_time=False)) < 0.04


def test_a_session_has_one_interest_and_a_user_several():
    (block,) = simulate._blocks(Catalogue(CLEAN))
    same = np.diff(block.user) == 0
    close = same & (np.diff(block.time) < 60)
    assert (np.diff(block.interest)[close] == 0).mean() > 0.95
    owned = np.isfinite(block.people.base).sum(axis=1)
    assert set(owned) == {2, 3, 4, 5, 6}
    table = pd.DataFrame({"u": block.user, "g": block.interest})
    assert (table.groupby("u")["g"].nunique().to_numpy() <= owned).all()


def test_interest_weights_are_the_documented_softmax():
    people = People(
        np.zeros((1, 2), np.float32),
        np.array([[4, 7]]),
        np.array([[0.3, -0.2]]),
        np.array([[1.0, -1.0]]),
    )
    world = dataclasses.replace(SMALL, drift=2.0)
    time = np.array([START, END])
    found = people.weights(world, np.zeros(2, int), time)
    for row, side in zip(found, (-1, 1), strict=True):
        raw = np.exp([0.3 + 2 * side, -0.2 - 2 * side])
        np.testing.assert_allclose(row, raw / raw.sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 0}, "World.users is 0"),
        ({"items": -3}, "World.items is -3"),
        ({"rows": 2.5}, "World.rows is 2.5"),
        ({"days": 0}, "World.days is 0"),
        ({"seed": -1}, "World.seed is -1"),
        ({"categories": 5_000}, "at most items=4000"),
        ({"rows": 100}, "at least users=1500"),
        ({"transition": 1.5}, "between 0 and 1"),
        ({"strays": float("nan")}, "World.strays is nan"),
        ({"transition": 0.6, "repeat": 0.3}, "World.explore is 0.2"),
        ({"min_interests": 4, "max_interests": 3}, "min_interests=4"),
        ({"click_rate": 0.0}, "World.click_rate is 0.0"),
        ({"session": 0.5}, "World.session is 0.5"),
        ({"activity": float("inf")}, "World.activity is inf"),
    ],
)
def test_a_world_that_cannot_be_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SMALL, **change)


def test_every_part_of_the_world_has_its_own_stream():
    draws = [tuple(SMALL.stream(*key).random(3)) for key in [(0,), (1,), (2, 0), (2, 1), (3, 0)]]
    assert len(set(draws)) == len(draws)
    assert tuple(SMALL.stream(2, 1).random(3)) == draws[3]
    assert tuple(dataclasses.replace(SMALL, seed=9).stream(2, 1).random(3)) != draws[3]
