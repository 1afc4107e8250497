"""Simulated logs of a `World`: behaviours in Taobao's format, impressions with true P(click).

How a user's n-th behaviour comes about (`World` holds every probability):

- the times are sessions, bursts with a geometric number of behaviours some 45 s apart, whose
  starts favour the evening; each session has one interest, drawn by the weights at its start;
- `transition`: one of the fixed successors of the item before, across session borders too;
- `repeat`: the item of one of the last five behaviours, itself perhaps a repeat;
- `explore`: any item by popularity;
- otherwise a category of the session's interest, then an item of it, each by
  popularity · exp(affinity) (`Catalogue.choose`).

A user's first behaviour is never a transition or a repeat. Clicks of impressions do not feed back
into behaviours. The same world gives the same bytes on the same machine and NumPy version.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from at4ctr.data.disk import demand_room
from at4ctr.data.simulation.world import (
    DAY,
    START,
    Catalogue,
    Floats,
    Ints,
    People,
    Rng,
    World,
    intercept,
)
from at4ctr.errors import InputError

TYPES = ("pv", "cart", "fav", "buy")
TYPE_SHARES = (0.896, 0.055, 0.029, 0.020)  # of the official log
POSITIONS = 10
SHOWN = (0.4, 0.3, 0.1, 0.2)  # user's interests, popular, successors of the last item, uniform
BLOCK_ROWS = 131_072  # expected rows in memory; part of what a seed means, so no option
LAGS = 5  # a repeat goes back at most so far
TIRED = 5  # earlier impressions of an item that count, at most
PILOT = 100_000  # impressions from which the intercept is solved
GAP = 45.0  # mean seconds between behaviours of a session

Writer = TypeVar("Writer", pa.csv.CSVWriter, pq.ParquetWriter)

_ID, _FLAG = pa.int64(), pa.int8()
_KEYS = [("user", _ID), ("item", _ID), ("category", _ID)]
BEHAVIOUR = pa.schema([*_KEYS, ("type", pa.string()), ("timestamp", _ID)])
_SHOWING = [("position", _FLAG), ("timestamp", _ID), ("click", _FLAG)]
IMPRESSION = pa.schema([*_KEYS, *_SHOWING, ("probability", pa.float64()), ("exposures", _ID)])


@dataclass(frozen=True)
class Block:
    """All behaviours of a few users, user by user, in the order in which they happened."""

    number: int
    first_user: int
    people: People
    user: Ints  # [n], counted from `first_user`
    item: Ints  # [n]
    time: Ints  # [n], Unix seconds, ascending within a user
    interest: Ints  # [n], the session's


def write_behaviours(world: World, path: Path) -> int:
    """Writes a log like the official UserBehavior.csv; returns its number of rows.

    No header; user,item,category,type,timestamp; grouped by user and, save for the share
    `unordered` of users, in true order, ties in seconds included. A share `duplicates` of the
    rows is there twice, and a share `strays` has a timestamp up to 90 days outside the window.
    The number of rows is `rows` within about 4 · rows · √((exp(σ²) - 1) / users), σ = `activity`
    (2 % of the default world). The file appears under its name only when it is complete.

    Raises InputError when the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    demand_room(path.parent, 48 * world.rows, "the simulated log")
    catalogue = Catalogue(world)
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    rows = 0
    opened = partial(pa.csv.CSVWriter, schema=BEHAVIOUR, write_options=options)
    with whole_file(path, opened) as writer:
        for block in _blocks(catalogue):
            table = _soiled(catalogue, block)
            writer.write_table(table)
            rows += table.num_rows
    return rows


def write_impressions(world: World, folder: Path, *, impressions: int) -> None:
    """Writes behaviours.parquet (five columns) and impressions.parquet into `folder`.

    The behaviours are those of `write_behaviours` without duplicates, strays and disorder. An
    impression shows one item some seconds after a behaviour and before the next, so that the
    behaviours with an earlier timestamp are the user's whole state. Of the items shown, 40 % are
    popular ones of the user's interests, 30 % popular anywhere, 10 % successors of the last item,
    20 % uniform; a share `reshown` shows one of the user's last five items again instead. The
    position is uniform in 1..10. Columns: user, item, category, position, timestamp, click, the
    probability with which the click was drawn, and exposures e, how many earlier rows have the same
    user and item:

        P = σ(b + a(u, i) + interest_effect · s(u, i, t) + transition_effect · [i ∈ succ(last)]
              + popularity_effect · z(i) - examination · ln(position) - fatigue · min(e, 5))

    with a the affinity (`Catalogue.affinity`), s the mean of [i in the session's interest] and of
    the weight at t of the user's interests that hold i, z the standardised log popularity, and b
    such that the first block of users clicks at `click_rate` (7.0-7.1 % of the default world).

    Raises InputError for no impressions, for users without a gap of 2 s between two behaviours to
    place one in, and when the disk has no room.
    """
    if impressions < 1:
        raise InputError(f"impressions is {impressions}, expected at least 1: ask for more")
    folder.mkdir(parents=True, exist_ok=True)
    demand_room(folder, 16 * world.rows + 40 * impressions, "the simulated log")
    catalogue = Catalogue(world)
    ends = np.cumsum(world.lengths())
    opened = partial(pq.ParquetWriter, schema=BEHAVIOUR, compression="zstd")
    shown = partial(pq.ParquetWriter, schema=IMPRESSION, compression="zstd")
    before = 0
    with (
        whole_file(folder / "behaviours.parquet", opened) as behaviours,
        whole_file(folder / "impressions.parquet", shown) as log,
    ):
        for block in _blocks(catalogue):
            last_user = block.first_user + len(block.people.taste) - 1
            upto = int(ends[last_user] * impressions // ends[-1])
            behaviours.write_table(_clean(catalogue, block))
            if block.number == 0:
                pilot = _Showing.drawn(catalogue, world.stream(6), block, PILOT)
                base = intercept(pilot.logits, world.click_rate)
            if upto > before:
                log.write_table(_impressions(catalogue, block, upto - before, base))
            before = upto


def _blocks(catalogue: Catalogue) -> Iterator[Block]:
    world, length = catalogue.world, catalogue.world.lengths()
    size = max(1, BLOCK_ROWS * world.users // world.rows)
    for number, first in enumerate(range(0, world.users, size)):
        rng = world.stream(2, number)
        here = length[first : first + size]
        people = People.born(catalogue, rng, len(here))
        user = np.repeat(np.arange(len(here)), here)
        place = np.arange(len(user)) - np.repeat(np.cumsum(here) - here, here)
        session, start, time = _times(world, rng, user, place)
        interest = people.pick(rng, world, user[start], time[start])[session]
        item = _items(catalogue, rng, people.taste[user], place, interest)
        yield Block(number, first, people, user, item, time, interest)


def _times(world: World, rng: Rng, user: Ints, place: Ints) -> tuple[Ints, Ints, Ints]:
    """Session [n] of each row, first row of each session [S], timestamps [n]."""
    opens = (place == 0) | (rng.random(len(user)) < 1 / world.session)
    start = np.flatnonzero(opens)
    session = np.cumsum(opens) - 1
    evening = rng.normal(19.5, 4.5, len(start)) % 24 * 3600
    begins = rng.integers(world.days, size=len(start)) * DAY + evening.astype(np.int64)
    begins = begins[np.lexsort((begins, user[start]))]
    gap = rng.exponential(GAP, len(user)).astype(np.int64)
    gap[start] = 0
    elapsed = np.cumsum(gap)
    time = begins[session] + elapsed - elapsed[start][session]
    apart = user * (2 * world.days * DAY)  # keeps the running maximum within a user
    window = world.days * DAY - 1
    time = np.maximum.accumulate(np.minimum(time, window) + apart) - apart
    return session, start, START + time


def _items(catalogue: Catalogue, rng: Rng, taste: Floats, place: Ints, interest: Ints) -> Ints:
    """The items [n] of the behaviours: each by its own way, then the chains are followed."""
    world, number, first = catalogue.world, len(place), place == 0
    chained = world.transition + world.repeat
    way = rng.random(number)
    way[first] = chained + way[first] * (1 - chained)
    item = np.empty(number, np.int64)
    anywhere = np.flatnonzero((way >= chained) & (way < chained + world.explore))
    item[anywhere] = catalogue.draw_anywhere(rng, len(anywhere))
    own = np.flatnonzero(way >= chained + world.explore)
    item[own] = catalogue.by_taste(rng, taste[own], interest[own])
    slot = rng.integers(world.successors, size=number)
    lag = 1 + (rng.random(number) * np.minimum(place, LAGS)).astype(np.int64)
    moved = (way < world.transition) & ~first
    source = np.arange(number) - np.where(moved, 1, lag)
    known = (way >= chained) | first
    pending = np.flatnonzero(~known)
    while len(pending):
        ready = known[source[pending]]
        now = pending[ready]
        parent = item[source[now]]
        item[now] = np.where(moved[now], catalogue.successors[parent, slot[now]], parent)
        known[now] = True
        pending = pending[~ready]
    return item


def _clean(catalogue: Catalogue, block: Block) -> pa.Table:
    """The behaviours as they happened."""
    rng = catalogue.world.stream(3, block.number)
    user = catalogue.user_ids[block.first_user + block.user]
    item = catalogue.item_ids[block.item]
    category = catalogue.category_ids[catalogue.category[block.item]]
    drawn = np.searchsorted(np.cumsum(TYPE_SHARES[:-1]), rng.random(len(user)), side="right")
    columns = [user, item, category, pa.array(TYPES).take(pa.array(drawn)), block.time]
    return pa.table(columns, schema=BEHAVIOUR)


def _soiled(catalogue: Catalogue, block: Block) -> pa.Table:
    """The behaviours with the disorder, the strays and the duplicates of a real log."""
    world, number = catalogue.world, len(block.user)
    rng = world.stream(4, block.number)
    order = np.arange(number)
    loose = rng.random(len(block.people.taste)) < world.unordered
    mixed = np.flatnonzero(loose[block.user])
    order[mixed] = mixed[np.lexsort((rng.random(len(mixed)), block.user[mixed]))]
    time = block.time.copy()
    stray = np.flatnonzero(rng.random(number) < world.strays)
    away = rng.integers(1, 90 * DAY, len(stray), endpoint=True)
    time[stray] = np.where(rng.random(len(stray)) < 0.5, world.end + away, START - away)
    twice = rng.random(number) < world.duplicates
    table = _clean(catalogue, block).set_column(4, BEHAVIOUR.field(4), pa.array(time))
    return table.take(pa.array(order.repeat(1 + twice)))


@dataclass(frozen=True)
class _Showing:
    """Impressions [n] of a block: row of the last behaviour, and what was shown when and where."""

    last: Ints
    time: Ints
    item: Ints
    position: Ints
    exposures: Ints  # earlier impressions of the item
    logits: Floats  # log odds of a click, without intercept

    @classmethod
    def drawn(cls, catalogue: Catalogue, rng: Rng, block: Block, number: int) -> "_Showing":
        world, gap = catalogue.world, np.diff(block.time)
        room = np.flatnonzero((gap >= 2) & (np.diff(block.user) == 0))
        if not len(room):
            raise InputError(
                f"a block of {len(block.people.taste)} users of the world has no two behaviours "
                "2 s apart, expected some to place impressions between: raise World.rows"
            )
        last = np.sort(room[rng.integers(len(room), size=number)])
        wait = rng.exponential(GAP / 2, number).astype(np.int64)
        time = block.time[last] + 1 + np.minimum(wait, gap[last] - 2)
        item = _shown(catalogue, rng, block, last, time)
        if world.reshown:
            order = np.lexsort((time, last))
            time, item = time[order], item[order]
            item = _reshown(world, rng, block.user[last], item)
        exposures = _earlier(block.user[last], item)
        position = rng.integers(1, POSITIONS, number, endpoint=True)
        state = block.people.state(world, block.user[last], time)
        appeal = catalogue.appeal(state, block.interest[last], block.item[last], item)
        appeal -= world.examination * np.log(position) + world.fatigue * np.minimum(
            exposures, TIRED
        )
        return cls(last, time, item, position, exposures, appeal)


def _impressions(catalogue: Catalogue, block: Block, number: int, base: float) -> pa.Table:
    """`number` impressions of the block's users, `base` being the intercept."""
    rng = catalogue.world.stream(5, block.number)
    showing = _Showing.drawn(catalogue, rng, block, number)
    probability = 1 / (1 + np.exp(-base - showing.logits))
    click = rng.random(number) < probability
    user = catalogue.user_ids[block.first_user + block.user[showing.last]]
    item = catalogue.item_ids[showing.item]
    category = catalogue.category_ids[catalogue.category[showing.item]]
    place = showing.position.astype(np.int8)
    click = click.astype(np.int8)
    shown = [place, showing.time, click, probability, showing.exposures]
    return pa.table([user, item, category, *shown], schema=IMPRESSION)


def _reshown(world: World, rng: Rng, user: Ints, item: Ints) -> Ints:
    """The items [n] of impressions in order, some of them those of earlier impressions."""
    row = np.arange(len(user))
    place = row - np.searchsorted(user, user)
    lag = 1 + (rng.random(len(user)) * np.minimum(place, LAGS)).astype(np.int64)
    again = (rng.random(len(user)) < world.reshown) & (place > 0)
    source = np.where(again, row - lag, row)
    while not np.array_equal(source, source[source]):
        source = source[source]
    return item[source]


def _earlier(user: Ints, item: Ints) -> Ints:
    """How many earlier rows [n] have the same user and item."""
    order = np.lexsort((item, user))  # which is stable
    pairs = np.stack([user[order], item[order]])
    begins = np.append(True, (np.diff(pairs) != 0).any(axis=0))
    row = np.arange(len(user))
    found = np.empty(len(user), np.int64)
    found[order] = row - np.maximum.accumulate(np.where(begins, row, 0))
    return found


def _shown(catalogue: Catalogue, rng: Rng, block: Block, last: Ints, time: Ints) -> Ints:
    """The items shown [n]: the mixture SHOWN."""
    world, number = catalogue.world, len(last)
    interest = block.people.pick(rng, world, block.user[last], time)
    edges = catalogue.interest_edges
    liked = catalogue.draw(edges[interest], edges[interest + 1], rng.random(number))
    popular = catalogue.draw_anywhere(rng, number)
    slot = rng.integers(world.successors, size=number)
    following = catalogue.successors[block.item[last], slot]
    anything = rng.integers(world.items, size=number)
    way = np.searchsorted(np.cumsum(SHOWN[:-1]), rng.random(number), side="right")
    return np.choose(way, [liked, popular, following, anything])


@contextmanager
def whole_file(path: Path, opened: Callable[[Path], Writer]) -> Iterator[Writer]:
    """A writer onto a temporary name that becomes `path` at the end, or is deleted on error.

    The name is the process's own, and the file's time is the world's first second: two processes
    that simulate the same log at once make the same file, whoever comes last.
    """
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with opened(partial_path) as writer:
            yield writer
        os.utime(partial_path, (START, START))
        os.replace(partial_path, path)
    finally:
        partial_path.unlink(missing_ok=True)
