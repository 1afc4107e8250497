"""A world with known preferences: its parameters, its catalogue of items and its people.

Items are numbered so that those of one category, and the categories of one *interest* (a cluster
of categories), lie side by side. A draw by popularity inside an interest, a category or the whole
catalogue is then one binary search in one cumulative sum.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from at4ctr.errors import InputError

START = 1_511_539_200  # 2017-11-25 00:00:00 UTC+8, the first second of the official log
DAY = 86_400

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]
Rng = np.random.Generator

_POSITIVE = ("users", "items", "categories", "rows", "days", "categories_per_interest",
             "min_interests", "latent", "successors", "candidates")  # fmt: skip
_SHARES = ("transition", "repeat", "explore", "duplicates", "strays", "unordered", "reshown")
_EFFECTS = ("drift", "affinity", "item_zipf", "category_zipf", "activity", "interest_effect",
            "transition_effect", "popularity_effect", "examination", "fatigue")  # fmt: skip


@dataclass(frozen=True)
class World:
    """Size and character of a simulated world.

    Raises InputError for a value that makes no world.
    """

    users: int = 30_000
    items: int = 42_000
    categories: int = 10_000
    rows: int = 1_000_000  # expected; see `simulate.write_behaviours`
    days: int = 9  # from 2017-11-25 00:00:00 UTC+8
    seed: int = 1
    activity: float = 0.8  # σ of the log-normal number of behaviours of a user
    item_zipf: float = 0.8  # popularity of the item of rank r ∝ r^-item_zipf
    category_zipf: float = 0.8  # items in the category of rank r ∝ r^-category_zipf
    categories_per_interest: int = 25
    min_interests: int = 2  # a user's interests, uniform in min..max, drawn with replacement
    max_interests: int = 6
    drift: float = 1.5  # how far the log weights of interests move from first to last day, halved
    latent: int = 8  # length of taste and item vectors
    affinity: float = 1.0  # standard deviation of a random user-item affinity, in log odds
    candidates: int = 8  # drawn by popularity for each choice; see `Catalogue.choose`
    session: float = 8.0  # mean behaviours in a session
    transition: float = 0.2  # P(behaviour is drawn from the successors of the one before)
    successors: int = 4  # of each item
    repeat: float = 0.1  # P(behaviour repeats the item of one of the last five)
    explore: float = 0.2  # P(behaviour is drawn by global popularity)
    duplicates: float = 0.0001  # share of exact duplicates added
    strays: float = 0.0005  # share of rows with a timestamp outside the window
    unordered: float = 0.01  # share of users whose rows stand in random order
    click_rate: float = 0.07  # of impressions; the intercept is solved for it
    interest_effect: float = 2.5  # log odds, as all below: item of the session's sole interest
    transition_effect: float = 1.5  # item is a successor of the last behaviour's
    popularity_effect: float = 0.3  # per standard deviation of log popularity
    examination: float = 0.5  # per unit of -ln(position)
    reshown: float = 0.0  # P(impression shows the item of one of the user's last five again)
    fatigue: float = 0.0  # log odds lost for each of up to five earlier impressions of the item

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            _demand(self, name, "a whole number of at least 1", _whole(getattr(self, name)))
        for name in _SHARES:
            _demand(self, name, "a share between 0 and 1", 0 <= getattr(self, name) <= 1)
        for name in _EFFECTS:
            _demand(self, name, "a finite number of at least 0", 0 <= getattr(self, name) < np.inf)
        _demand(self, "seed", "a whole number of at least 0", _whole(self.seed, least=0))
        _demand(self, "click_rate", "strictly between 0 and 1", 0 < self.click_rate < 1)
        _demand(self, "session", "a finite number of at least 1", 1 <= self.session < np.inf)
        _demand(self, "categories", f"at most items={self.items}", self.categories <= self.items)
        _demand(self, "rows", f"at least users={self.users}", self.rows >= self.users)
        limit = f"a whole number of at least min_interests={self.min_interests}"
        _demand(self, "max_interests", limit, _whole(self.max_interests, self.min_interests))
        rest = 1 - self.transition - self.repeat
        _demand(self, "explore", f"at most 1 - transition - repeat = {rest:.3g}",
                self.explore <= rest + 1e-12)  # fmt: skip

    @property
    def end(self) -> int:
        """The last second of the window, Unix time."""
        return START + self.days * DAY - 1

    @property
    def interests(self) -> int:
        """Number of clusters of categories."""
        return max(1, self.categories // self.categories_per_interest)

    def stream(self, *key: int) -> Rng:
        """A generator for each part of the world: no part shifts another's draws."""
        return np.random.Generator(
            np.random.SFC64(np.random.SeedSequence(self.seed, spawn_key=key))
        )

    def lengths(self) -> Ints:
        """Behaviours of each user: log-normal with mean rows / users, at least 1."""
        centre = np.log(self.rows / self.users) - self.activity**2 / 2
        drawn = self.stream(1).lognormal(centre, self.activity, self.users)
        return np.maximum(1, np.rint(drawn)).astype(np.int64)


def _whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _demand(world: World, name: str, expected: str, holds: bool) -> None:
    if not holds:
        value = getattr(world, name)
        raise InputError(f"World.{name} is {value!r}, expected {expected}: set it within that")


class Catalogue:
    """Items, their categories, interests, popularity, vectors and successors.

    - category sizes: one item each, the rest by a Zipf law over categories;
    - popularity: a Zipf law over items, independent of category;
    - vectors, each coordinate of variance 1: interest z_g, category (z_g + ε)/√2,
      item √0.6 · category + √0.4 · ε;
    - successors: `world.successors` items drawn uniformly from the item's own interest (never the
      item itself unless it is the only one), fixed for the world.
    """

    def __init__(self, world: World) -> None:
        rng = world.stream(0)
        self.world = world
        sizes = _zipf(world.categories, world.category_zipf)
        spare = world.items - world.categories
        count = 1 + rng.multinomial(spare, rng.permutation(sizes / sizes.sum()))
        self.category = np.repeat(np.arange(world.categories, dtype=np.int32), count)
        interest = np.arange(world.categories) * world.interests // world.categories
        self.category_interest = interest.astype(np.int32)
        self.interest = self.category_interest[self.category]
        self.category_edges = _edges(count)
        self.interest_edges = _edges(np.bincount(self.interest, minlength=world.interests))
        weight = rng.permutation(_zipf(world.items, world.item_zipf))
        self.popularity = weight / weight.sum()
        self.cumulative = np.concatenate([[0.0], np.cumsum(self.popularity)])
        self.interest_vectors = _normal(rng, world.interests, world.latent)
        blur = _normal(rng, world.categories, world.latent)
        self.category_vectors = (self.interest_vectors[interest] + blur) * np.float32(0.5**0.5)
        self.vectors = _normal(rng, world.items, world.latent) * np.float32(0.4**0.5)
        self.vectors += self.category_vectors[self.category] * np.float32(0.6**0.5)
        self.successors = self._successors(rng)
        self.user_ids = _scattered(rng, world.users, 1_020_000)
        self.item_ids = _scattered(rng, world.items, 5_200_000)
        self.category_ids = _scattered(rng, world.categories, 5_200_000)

    def _successors(self, rng: Rng) -> Ints:
        low = self.interest_edges[self.interest]
        size = self.interest_edges[self.interest + 1] - low
        own = np.arange(self.world.items) - low
        table = np.empty((self.world.items, self.world.successors), np.int32)
        for slot in range(self.world.successors):
            step = 1 + (rng.random(len(own)) * (size - 1)).astype(np.int64)
            table[:, slot] = low + (own + step) % size
        return table

    def draw(self, low: Ints, high: Ints, uniform: Floats) -> Ints:
        """Items drawn by popularity from the ranges [low, high); arguments broadcast."""
        bottom, top = self.cumulative[low], self.cumulative[high]
        found = np.searchsorted(self.cumulative, bottom + uniform * (top - bottom), side="right")
        return np.clip(found - 1, low, high - 1)

    def draw_anywhere(self, rng: Rng, number: int) -> Ints:
        """`number` items drawn by popularity from the whole catalogue."""
        return self.draw(np.int64(0), np.int64(self.world.items), rng.random(number))  # type: ignore[arg-type]

    def choose(
        self, rng: Rng, taste: Floats, edges: tuple[Ints, Ints], kind: Ints | None, vectors: Floats
    ) -> Ints:
        """Items by popularity · exp(affinity) inside the ranges `edges` = (low [n], high [n]).

        `candidates` items are drawn by popularity and one of them is taken with probability
        ∝ exp(affinity) (Gumbel's trick): the law itself as candidates → ∞, and flatter before.
        The taste [n, latent] is compared with `vectors[kind[item]]`, or `vectors[item]` without
        `kind`: the same rule chooses interests, categories and items.
        """
        size = (len(taste), self.world.candidates)
        low, high = (edge[:, None] for edge in edges)
        found = self.draw(low, high, rng.random(size))
        score = np.einsum("nkd,nd->nk", vectors[found if kind is None else kind[found]], taste)
        score *= np.float32(self.world.affinity / self.world.latent**0.5)
        score -= np.log(np.maximum(rng.standard_exponential(size, np.float32), 1e-30))
        return found[np.arange(len(taste)), score.argmax(axis=1)]

    def by_taste(self, rng: Rng, taste: Floats, interest: Ints) -> Ints:
        """An item [n] of each interest [n]: a category by taste, then an item of it by taste."""
        wide = self.interest_edges[interest], self.interest_edges[interest + 1]
        seen = self.choose(rng, taste, wide, self.category, self.category_vectors)
        category = self.category[seen]
        narrow = self.category_edges[category], self.category_edges[category + 1]
        return self.choose(rng, taste, narrow, None, self.vectors)

    def appeal(self, state: "State", session: Ints, last: Ints, item: Ints) -> Floats:
        """Log odds [n] that `item` is clicked, without intercept and position.

        `session` is the interest of the current session, `last` the item of the last behaviour.
        """
        world, interest = self.world, self.interest[item]
        weight = (state.weights * (state.interests == interest[:, None])).sum(axis=1)
        follows = (self.successors[last] == item[:, None]).any(axis=1)
        logs = np.log(self.popularity)
        popular = (logs[item] - logs.mean()) / max(logs.std(), 1e-12)
        return (
            self.affinity(state.taste, item)
            + world.interest_effect * (weight + (session == interest)) / 2
            + world.transition_effect * follows
            + world.popularity_effect * popular
        )

    def affinity(self, taste: Floats, item: Ints) -> Floats:
        """Log odds a(u, i) = affinity · u·v_i / √latent for taste [n, latent] and item [n]."""
        scale = self.world.affinity / self.world.latent**0.5
        return scale * np.einsum("nd,nd->n", taste, self.vectors[item]).astype(np.float64)


@dataclass(frozen=True)
class State:
    """The lasting part of the state of users at given times: n (user, time) pairs."""

    taste: Floats  # [n, latent]
    interests: Ints  # [n, M]
    weights: Floats  # [n, M]


@dataclass(frozen=True)
class People:
    """A few users: what they like and how it drifts. M is `max_interests`.

    At τ ∈ [0, 1] of the window interest j weighs softmax_j(base + drift · (2τ-1) · slope).
    """

    taste: Floats  # [n, latent]
    interests: Ints  # [n, M]
    base: Floats  # [n, M], -inf where the user has fewer interests
    slope: Floats  # [n, M]

    @classmethod
    def born(cls, catalogue: Catalogue, rng: Rng, number: int) -> "People":
        """Interests are drawn by popularity and taste: an interest is that of a chosen item."""
        world = catalogue.world
        taste = _normal(rng, number, world.latent)
        shape = (number, world.max_interests)
        wide = taste.repeat(world.max_interests, axis=0)
        edges = np.zeros(len(wide), np.int64), np.full(len(wide), world.items)
        item = catalogue.choose(rng, wide, edges, catalogue.interest, catalogue.interest_vectors)
        base, slope = rng.standard_normal(shape), rng.standard_normal(shape)
        owned = rng.integers(world.min_interests, world.max_interests + 1, number)
        base[np.arange(world.max_interests) >= owned[:, None]] = -np.inf
        return cls(taste, catalogue.interest[item].reshape(shape), base, slope)

    def weights(self, world: World, user: Ints, time: Ints) -> Floats:
        """Weights [n, M] of the interests of `user` [n] at `time` [n], Unix seconds."""
        centred = 2 * (time - START) / (world.end - START) - 1
        logits = self.base[user] + world.drift * centred[:, None] * self.slope[user]
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weight / weight.sum(axis=1, keepdims=True)

    def state(self, world: World, user: Ints, time: Ints) -> State:
        return State(self.taste[user], self.interests[user], self.weights(world, user, time))

    def pick(self, rng: Rng, world: World, user: Ints, time: Ints) -> Ints:
        """One interest [n] of each `user` [n], by the weights at `time` [n]."""
        cumulative = self.weights(world, user, time).cumsum(axis=1)
        slot = (rng.random((len(user), 1)) * cumulative[:, -1:] >= cumulative).sum(axis=1)
        return self.interests[user, slot]


def intercept(logits: Floats, rate: float) -> float:
    """The b with mean σ(b + logits) = rate, by bisection."""
    low, high = -60.0 - logits.max(), 60.0 - logits.min()
    for _ in range(80):
        middle = (low + high) / 2
        below = (1 / (1 + np.exp(-middle - logits))).mean() < rate
        low, high = (middle, high) if below else (low, middle)
    return float(high)


def _zipf(number: int, exponent: float) -> Floats:
    return np.arange(1, number + 1, dtype=np.float64) ** -exponent


def _edges(count: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(count)])


def _normal(rng: Rng, rows: int, columns: int) -> Floats:
    return rng.standard_normal((rows, columns), np.float32)


def _scattered(rng: Rng, number: int, span: int) -> Ints:
    """Distinct raw ids in 1..max(span, 1.25 · number), in random order."""
    return 1 + rng.choice(max(span, number * 5 // 4), number, replace=False)
