"""A simulated click and conversion log in the format of Ali-CCP, with the truth in side files.

`write` makes the four official files and ``truth_{train,test}.parquet``: sample_id, truth_click =
P(click), truth_conversion = P(conversion | click), delay_seconds from click to conversion (NULL
where there is none) and clickbait, whether the item is one. A user's impressions come in visits. A
visit has one row of common features, as in the official log: the user's profile, and what the user
did before, counted by category, shop, brand and intention node. The visits of the first half of
the days are training rows, the others test rows. The laws:

    P(click) = σ(b + affinity + appeal + [item in the visit's interest] + 0.4·c + 0.3·s
               + 0.3·popularity + 1.5·clickbait + effect of the position)
    P(conversion | click) = σ(d + 0.6·affinity + 0.8·affinity' + worth + 0.6·s + 0.3·r
               + 0.5·(consumption level - 1) - 2.5·clickbait)

c, s and r are ln(1 + n) of how often the visit's user met the item's category, shop and brand;
appeal and worth are normal numbers of the item; affinity' compares the user's taste with vectors of
the item that clicks know nothing of; b and d are such that the first block of users has the rates
that are asked for. A delay is exponential, with a mean of the item's own (log-normal, median six
hours). Users' interests drift away from their past, so fewer test rows are clicked (3.7 % against
4.1 % of the default log). The same `Log` gives the same bytes on the same machine, NumPy and
PyArrow version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

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
from at4ctr.data.simulation.write import whole_file
from at4ctr.errors import InputError

Flags = NDArray[np.bool_]

FILES = ("train", "test")
SKELETON, COMMON = "sample_skeleton_{}.csv", "common_features_{}.csv"
TRUTH = "truth_{}.parquet"
FEATURE, ID, VALUE = "\x01", "\x02", "\x03"  # stand before a further feature, its id, its value

BLOCK_ROWS = 131_072  # expected impressions in memory; part of what a seed means, so no option
VISIT = 50.0  # mean impressions in a visit; 58 in the official log
PAST = 60.0  # mean behaviours of a user before the last visit; half of them before the first
NODES = 3  # intention nodes of an item, at most
SHOWN = (0.5, 0.3, 0.2)  # of the visit's interest by popularity, anything by popularity, uniform
POSITIONS, POSITION_EFFECTS = (0.62, 0.37, 0.01), (0.0, 0.3, -0.3)
NAMELESS, BRANDLESS = 0.14, 0.1  # shares of visits without a user id and of items without a brand
PILOT = 200_000  # clicks drawn to solve the conversions' intercept
PROFILE = {"121": 97, "122": 13, "124": 2, "125": 7, "126": 3, "127": 3, "128": 2, "129": 4}
FIRST = {  # id of the first value of each field: fields share no ids, as in the official log
    "101": 0, "121": 3_438_000, "122": 3_438_200, "124": 3_438_300, "125": 3_438_400,
    "126": 3_438_500, "127": 3_438_600, "128": 3_438_700, "129": 3_864_887,
    "150_14": 3_900_000, "109_14": 4_000_000, "110_14": 4_200_000, "127_14": 4_500_000,
    "205": 5_000_000, "508": 11_000_000, "509": 11_200_000, "702": 11_500_000, "853": 11_800_000,
    "206": 12_000_000, "207": 12_200_000, "210": 12_500_000, "216": 12_800_000, "301": 13_000_000,
}  # fmt: skip

_ID, _FLAG = pa.int64(), pa.int8()
SKELETON_COLUMNS = pa.schema([
    ("sample_id", _ID), ("click", _FLAG), ("conversion", _FLAG), ("common_index", pa.string()),
    ("number", _ID), ("features", pa.string()),
])  # fmt: skip
COMMON_COLUMNS = pa.schema([
    ("common_index", pa.string()), ("number", _ID), ("features", pa.string())
])  # fmt: skip
TRUTH_COLUMNS = pa.schema([
    ("sample_id", _ID), ("truth_click", pa.float64()), ("truth_conversion", pa.float64()),
    ("delay_seconds", _ID), ("clickbait", pa.bool_()),
])  # fmt: skip


@dataclass(frozen=True)
class Log:
    """Size and rates of a log.

    impressions: of both files together, expected: every user has at least one.
    click_rate, conversion_rate: the second of the clicks; 0.039 and 0.0054 in the official log.
    clickbait: share of items that are clicked much and bought little.
    """

    users: int = 20_000
    items: int = 20_000
    impressions: int = 2_000_000
    click_rate: float = 0.04
    conversion_rate: float = 0.02
    clickbait: float = 0.05
    seed: int = 1

    def __post_init__(self) -> None:
        for field, low, high, expected in (
            ("conversion_rate", 1e-9, 1 - 1e-9, "strictly between 0 and 1"),
            ("clickbait", 0, 1, "a share between 0 and 1"),
            ("impressions", self.users, np.inf, f"at least users={self.users}"),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise InputError(
                    f"Log.{field} is {value!r}, expected {expected}: set it within that"
                )
        self.world()

    def world(self) -> World:
        """The world of which items and users are; a behaviour of its own is an impression here."""
        return World(
            users=self.users,
            items=self.items,
            categories=max(1, self.items // 50),
            rows=self.impressions,
            days=8,
            click_rate=self.click_rate,
            seed=self.seed,
        )


def write(log: Log, folder: Path) -> None:
    """Writes the six files into `folder`; each appears under its name when it is complete.

    Raises InputError when the disk has no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    demand_room(folder, 400 * log.impressions, "the simulated log")
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    bases: tuple[float, float] | None = None
    with ExitStack() as stack:
        writers = {}
        for file in FILES:
            for name, columns in ((SKELETON, SKELETON_COLUMNS), (COMMON, COMMON_COLUMNS)):
                opened = partial(pa.csv.CSVWriter, schema=columns, write_options=options)
                path = folder / name.format(file)
                writers[name, file] = stack.enter_context(whole_file(path, opened))
            truth = partial(pq.ParquetWriter, schema=TRUTH_COLUMNS, compression="zstd")
            path = folder / TRUTH.format(file)
            writers[TRUTH, file] = stack.enter_context(whole_file(path, truth))
        rows = dict.fromkeys(FILES, 0)
        for block in _blocks(Goods.made(log)):
            bases = bases or block.intercepts(log)
            tables = block.tables(bases, rows)
            for (name, file), table in tables.items():
                writers[name, file].write_table(table)
                if name == TRUTH:
                    rows[file] += table.num_rows


@dataclass(frozen=True)
class Goods:
    """The items: their catalogue, and what it does not know of them. I is their number."""

    log: Log
    catalogue: Catalogue
    kinds: Mapping[str, Ints]  # of "category", "shop", "brand", "node": [I, up to NODES], -1: none
    sizes: Mapping[str, int]  # how many of each kind there are
    clickbait: Flags
    appeal: Floats  # [I]
    worth: Floats  # [I]
    use: Floats  # [I, latent], the vectors of affinity'
    delay: Floats  # [I], mean seconds

    @classmethod
    def made(cls, log: Log) -> Goods:
        world = log.world()
        catalogue, rng, items = Catalogue(world), world.stream(7), log.items
        sizes = {"category": world.categories}
        kinds = {"category": catalogue.category[:, None].astype(np.int64)}
        for kind, share in (("shop", 10), ("brand", 20), ("node", 25)):
            each = max(2, items // share // world.interests)  # in an interest
            width = NODES if kind == "node" else 1
            drawn = rng.integers(each, size=(items, width)) + each * catalogue.interest[:, None]
            kinds[kind], sizes[kind] = drawn, each * world.interests
        kinds["brand"][rng.random(items) < BRANDLESS] = -1
        nodes = kinds["node"] = np.sort(kinds["node"], axis=1)
        nodes[:, 1:][nodes[:, 1:] == nodes[:, :-1]] = -1
        nodes[:, 1:][rng.random((items, NODES - 1)) < 0.4] = -1
        return cls(
            log,
            catalogue,
            kinds,
            sizes,
            clickbait=rng.random(items) < log.clickbait,
            appeal=0.5 * rng.standard_normal(items),
            worth=0.8 * rng.standard_normal(items),
            use=rng.standard_normal((items, world.latent)),
            delay=6 * 3600 * np.exp(rng.standard_normal(items)),
        )


class Counts(NamedTuple):
    """How often the visits' users met the values of a kind: sorted by visit and value."""

    size: int  # of the kind
    key: Ints  # visit · size + value
    number: Ints

    @classmethod
    def of(cls, size: int, visit: Ints, value: Ints) -> Counts:
        """value: [n, width] of the visit [n], -1 for none."""
        there = value >= 0
        key, number = np.unique((visit[:, None] * size + value)[there], return_counts=True)
        return cls(size, key, number)

    def at(self, visit: Ints, value: Ints) -> Ints:
        """The numbers [n, width] of the values [n, width], 0 for those not met."""
        wanted = visit[:, None] * self.size + value
        place = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        return np.where((value >= 0) & (self.key[place] == wanted), self.number[place], 0)


@dataclass(frozen=True)
class Block:
    """All visits and impressions of a few users, user by user. V visits, n impressions."""

    goods: Goods
    rng: Rng  # of what is drawn from here on
    first_visit: int  # of all the log
    user: Ints  # [V], the raw id, -1 where it is not known
    profile: Mapping[str, Ints]  # field -> [V]
    past: Mapping[str, Counts]
    test: Flags  # [V]
    visit: Ints  # [n]
    item: Ints  # [n]
    position: Ints  # [n]
    click_logits: Floats  # [n], without intercepts, as the next
    conversion_logits: Floats

    def intercepts(self, log: Log) -> tuple[float, float]:
        """b and d with which this block has the rates of `log`."""
        b = intercept(self.click_logits, log.click_rate)
        chance = np.cumsum(_sigmoid(b + self.click_logits))
        draws = log.world().stream(9).random(PILOT) * chance[-1]
        clicked = np.minimum(np.searchsorted(chance, draws, side="right"), len(chance) - 1)
        return b, intercept(self.conversion_logits[clicked], log.conversion_rate)

    def tables(
        self, bases: tuple[float, float], before: Mapping[str, int]
    ) -> dict[tuple[str, str], pa.Table]:
        """The rows of every file: name and file -> table. before: rows that each file has."""
        rng, goods = self.rng, self.goods
        truth_click = _sigmoid(bases[0] + self.click_logits)
        truth_conversion = _sigmoid(bases[1] + self.conversion_logits)
        click = rng.random(len(self.item)) < truth_click
        conversion = (rng.random(len(self.item)) < truth_conversion) & click
        delay = rng.exponential(goods.delay[self.item]).astype(np.int64)
        index = _hex(self.first_visit + np.arange(len(self.user)), goods.log.seed)
        common, skeleton = self._common(), self._skeleton()
        tables = {}
        for file, visits in zip(FILES, (~self.test, self.test), strict=True):
            rows = visits[self.visit]
            sample = before[file] + 1 + np.arange(int(rows.sum()))
            visits, rows = pa.array(visits), pa.array(rows)
            tables[COMMON, file] = pa.table([index, *common], COMMON_COLUMNS).filter(visits)
            logged = [
                *(pa.array(label.astype(np.int8)) for label in (click, conversion)),
                index.take(pa.array(self.visit)),
                *skeleton,
            ]
            known = [
                *(pa.array(p) for p in (truth_click, truth_conversion)),
                pa.array(delay, mask=~conversion),
                pa.array(goods.clickbait[self.item]),
            ]
            for name, columns, made in (
                (SKELETON, SKELETON_COLUMNS, logged),
                (TRUTH, TRUTH_COLUMNS, known),
            ):
                kept = [pa.array(sample), *(column.filter(rows) for column in made)]
                tables[name, file] = pa.table(kept, columns)
        return tables

    def _common(self) -> tuple[pa.Array, pa.Array]:
        """Number of features and features [V] of the visits."""
        visits = len(self.user)
        tokens = [_tokens("101", self.user), *(_tokens(f, v) for f, v in self.profile.items())]
        for field, kind in (("109_14", "category"), ("110_14", "shop"),
                            ("127_14", "brand"), ("150_14", "node")):  # fmt: skip
            met = self.past[kind]
            number = np.bincount(met.key // met.size, minlength=visits)
            tokens.append(_joined(_tokens(field, met.key % met.size, met.number), number))
        return _features(tokens)

    def _skeleton(self) -> tuple[pa.Array, pa.Array]:
        """Number of features and features [n] of the impressions."""
        goods, item, tokens = self.goods, self.item, []
        tokens.append(_tokens("205", goods.catalogue.item_ids[item]))
        for field, crossed, kind in (("206", "508", "category"), ("207", "509", "shop"),
                                     ("216", "702", "brand"), ("210", "853", "node")):  # fmt: skip
            value = goods.kinds[kind][item]
            met = self.past[kind].at(self.visit, value)
            there = value >= 0
            tokens.append(_joined(_tokens(field, value[there]), there.sum(axis=1)))
            both = _tokens(crossed, value[met > 0], met[met > 0])
            tokens.append(_joined(both, (met > 0).sum(axis=1)))
        tokens.append(_tokens("301", self.position))
        return _features(tokens)


def _blocks(goods: Goods) -> Iterator[Block]:
    catalogue, world = goods.catalogue, goods.catalogue.world
    length = world.lengths()
    size = max(1, BLOCK_ROWS * world.users // world.rows)
    first_visit = 0
    for number, first in enumerate(range(0, world.users, size)):
        rng = world.stream(8, number)
        here = length[first : first + size]
        people = People.born(catalogue, rng, len(here))
        user = np.repeat(np.arange(len(here)), here)
        opens = np.append(True, np.diff(user) > 0) | (rng.random(len(user)) < 1 / VISIT)
        visit, owner = np.cumsum(opens) - 1, user[opens]
        time = START + rng.integers(world.days * DAY, size=len(owner))
        time = time[np.lexsort((time, owner))]
        interest = people.pick(rng, world, owner, time)
        past = _past(goods, rng, people, owner)
        profile = {f: rng.integers(n, size=len(here))[owner] for f, n in PROFILE.items()}
        profile["121"] = people.interests[owner, 0] % PROFILE["121"]
        profile["122"] = profile["121"] % PROFILE["122"]
        item = _shown(catalogue, rng, interest[visit])
        position = rng.choice(len(POSITIONS), size=len(owner), p=POSITIONS)[visit]
        names = catalogue.user_ids[first + owner]
        names[rng.random(len(owner)) < NAMELESS] = -1
        taste = people.taste[owner[visit]]
        met = {k: np.log1p(past[k].at(visit, goods.kinds[k][item])[:, 0]) for k in past}
        logs = np.log(catalogue.popularity)
        bait, liking = goods.clickbait[item], catalogue.affinity(taste, item)
        use = np.einsum("nd,nd->n", taste, goods.use[item]) / world.latent**0.5
        yield Block(
            goods,
            rng,
            first_visit,
            names,
            profile,
            past,
            test=time >= START + world.days * DAY // 2,
            visit=visit,
            item=item,
            position=position,
            click_logits=liking
            + goods.appeal[item]
            + (catalogue.interest[item] == interest[visit])
            + 0.4 * met["category"]
            + 0.3 * met["shop"]
            + 0.3 * (logs[item] - logs.mean()) / max(logs.std(), 1e-12)
            + 1.5 * bait
            + np.array(POSITION_EFFECTS)[position],
            conversion_logits=0.6 * liking
            + 0.8 * use
            + goods.worth[item]
            + 0.6 * met["shop"]
            + 0.3 * met["brand"]
            + 0.5 * (profile["126"][visit] - 1)
            - 2.5 * bait,
        )
        first_visit += len(owner)


def _past(goods: Goods, rng: Rng, people: People, owner: Ints) -> dict[str, Counts]:
    """What the users of the visits had done by then: the later the visit, the more of it."""
    users = len(people.taste)
    number = 2 + rng.exponential(PAST, users).astype(np.int64)
    begin = np.cumsum(number) - number
    user = np.repeat(np.arange(users), number)
    wish = people.pick(rng, goods.catalogue.world, user, np.full(len(user), START))
    item = goods.catalogue.by_taste(rng, people.taste[user], wish)
    visits = np.bincount(owner, minlength=users)
    turn = np.arange(len(owner)) - (np.cumsum(visits) - visits)[owner]
    seen = number[owner] * (visits[owner] + turn + 1) // (2 * visits[owner])
    visit = np.repeat(np.arange(len(owner)), seen)
    place = np.arange(len(visit)) - np.repeat(np.cumsum(seen) - seen, seen)
    row = item[np.repeat(begin[owner], seen) + place]
    return {k: Counts.of(goods.sizes[k], visit, values[row]) for k, values in goods.kinds.items()}


def _shown(catalogue: Catalogue, rng: Rng, interest: Ints) -> Ints:
    """The items shown [n] for the interests [n] of their visits: the mixture SHOWN."""
    edges, number = catalogue.interest_edges, len(interest)
    liked = catalogue.draw(edges[interest], edges[interest + 1], rng.random(number))
    popular = catalogue.draw_anywhere(rng, number)
    anything = rng.integers(catalogue.world.items, size=number)
    way = np.searchsorted(np.cumsum(SHOWN[:-1]), rng.random(number), side="right")
    return np.choose(way, [liked, popular, anything])


def _sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def _tokens(field: str, value: Ints, met: Ints | None = None) -> pa.Array:
    """Texts [n] of one feature each, NULL where the value is -1.

    met: how often the user met it: the feature's value is ln(1 + n), otherwise 1.
    """
    ids = pa.array(FIRST[field] + value, mask=value < 0).cast(pa.string())
    number: pa.Array | str = "1.0"
    if met is not None:
        known, which = np.unique(met, return_inverse=True)
        number = pa.array([f"{np.log1p(n):.5f}" for n in known], pa.string()).take(pa.array(which))
    return pc.binary_join_element_wise(f"{field}{ID}", ids, VALUE, number, "")


def _joined(tokens: pa.Array, number: Ints) -> pa.ListArray:
    """Lists of a flat array's texts, `number` [n] each."""
    offsets = np.append(0, np.cumsum(number)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), tokens)


def _features(tokens: list[pa.Array]) -> tuple[pa.Array, pa.Array]:
    """How many features a row has and their text, of texts [n] and lists of texts [n]."""
    number: Ints = np.zeros(len(tokens[0]), np.int64)
    texts = []
    for each in tokens:
        if isinstance(each, pa.ListArray):
            size = pc.list_value_length(each)
            text = pc.binary_join(each, FEATURE)
            texts.append(pc.if_else(pc.greater(size, 0), text, pa.scalar(None, pa.string())))
            number += size.to_numpy(zero_copy_only=False)
        else:
            texts.append(each)
            number += each.is_valid().to_numpy(zero_copy_only=False)
    return pa.array(number), pc.binary_join_element_wise(*texts, FEATURE, null_handling="skip")


def _hex(number: Ints, seed: int) -> pa.Array:
    """Sixteen hexadecimal digits of each number, different for different numbers (SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = (number + (seed << 40)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    digits = np.array([f"{byte:02x}" for byte in range(256)], "S2")
    pairs = digits[np.ascontiguousarray(mixed.astype(">u8")).view(np.uint8).reshape(-1, 8)]
    return pa.array(np.ascontiguousarray(pairs).view("S16")[:, 0].astype(str))
