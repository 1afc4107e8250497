"""What a row means: features in groups, their tables, and how raw ids become table rows.

Row 0 of every table is padding, row 1 is "unknown"; real ids start at ``FIRST_ID``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from at4ctr.errors import InputError, unknown

PADDING, UNKNOWN, FIRST_ID = 0, 1, 2
MISSING: Mapping[str, int | str] = {"int64": -1, "string": ""}  # in requests, by a table's dtype
RESERVED = frozenset(
    ("probability", "user_index", "item_index", "user_row", "timestamp", "ord", "u31", "cut",
     "owner", "weight", "seconds_ago", "behaviours")
)  # fmt: skip
ROWS = frozenset(("user", "item", "length", "begin", "second"))  # a row's columns in the reader
BEHAVIOURS = "behaviours"  # a batch's: how many behaviours of the user precede each row
AGES = "history_seconds_ago"  # a batch's: how long before its row each behaviour was

Group = Literal["profile", "item", "context", "behaviour"]
HashUse = Literal["", "alone", "beside"]
HASH_USES: tuple[HashUse, ...] = ("", "alone", "beside")
_LABEL = re.compile("[a-z][a-z0-9_]*")
GROUPS: tuple[Group, ...] = ("profile", "item", "context", "behaviour")


NOT_KNOWN = -1  # a label
OPEN = -2  # a label whose window has not ended, so that the row may still get it


@dataclass(frozen=True)
class Label:
    """One response of the log, 0 or 1, or unknown.

    In a store and in a batch an unknown label is `NOT_KNOWN`, or `OPEN` while the row may still get
    it. The two differ in labels composed of this one. A row without a click is a known negative of
    click-and-conversion, unless its conversion is `OPEN`. Clicked rows of the same time are then
    unknown, and the known rows of that time would be negatives alone.

    within: another label; this one is known only in rows where that one is 1. A conversion is known
        within a click: its model is P(conversion | click).
    sampled: whether ``data.negative_rate`` keeps its negatives at the rate w < 1.
    """

    name: str
    within: str | None = None
    sampled: bool = False

    @property
    def column(self) -> str:
        """Its name in the store and in a reader's batch."""
        return f"label_{self.name}"


@dataclass(frozen=True)
class Table:
    """One embedding table, shared by every feature that names it.

    dtype: how its raw ids stand in the log, ``int64`` or ``string``.
    buckets: 0 for a vocabulary built from the log; otherwise raw ids are hashed into so many
        rows, ``2 + FarmHash64(str(raw)) mod buckets``, and nothing is unknown.
    least: how often training must see an id (`data.preparation.vocabulary`) for a row of its own. A
        rarer one shares the unknown row, in training and in the export.
    vectors: a Parquet file beside the raw log with columns ``id`` and ``vector``: pre-trained
        vectors of one width, the initial values of the rows. A learned linear layer brings them
        to D.
    frozen: whether those rows stay as they are.
    hash_id: '' for none. Otherwise the ``vectors`` only give each id a HashID (`layers.hash_id`),
        and are no initial values. ``alone``: the vector of the HashID's digits takes the place of
        the id's row. ``beside``: it is added to the row.
    hash_bits: the binary digits of a HashID.
    """

    name: str
    dtype: Literal["int64", "string"] = "int64"
    buckets: int = 0
    least: int = 1
    vectors: str = ""
    frozen: bool = False
    hash_id: HashUse = ""
    hash_bits: int = 32


@dataclass(frozen=True)
class Feature:
    """One column of the log, declared once.

    group: ``profile`` (of the user), ``item`` (of the candidate, and of every behaviour),
        ``context`` (of the impression) or ``behaviour`` (of a past behaviour, such as its type).
    length: None for one value; otherwise at most so many values, whose rows are averaged.
    weighted: whether each of several values has a weight of that average, in ``weights_<name>``.
    serve: False for an input that only training reads; it never enters a signature.
    """

    name: str
    group: Group
    table: str
    length: int | None = None
    serve: bool = True
    weighted: bool = False


@dataclass(frozen=True)
class Number:
    """A column of numbers: float32, NaN where missing.

    group: ``profile``, ``item`` or ``context``; an item's numbers stand among the context, since a
        behaviour has none.
    encoding: a module of ``at4ctr/encodings``, which makes a vector of it.
    serve: as of a `Feature`.
    """

    name: str
    group: Group
    encoding: str = "mns"
    serve: bool = True


@dataclass(frozen=True)
class Similarity:
    """The cosine of pre-trained vectors of the user and the candidate, as a number of the context.

    It is no column of a log: the model computes it from the two ids, in training and in the export.

    user, item: Parquet files beside the raw log with columns ``id`` and ``vector``, all vectors of
        one width, of ids of the first profile and the first item feature. They stay as they are.
        Where one of the two ids has no vector, or a vector of zeros, the similarity is missing.
    encoding: as of a `Number`.
    """

    name: str
    user: str
    item: str
    encoding: str = "mns"


@dataclass(frozen=True)
class Schema:
    """The features of a dataset.

    features: profile, item, context and behaviour features. The first profile feature is the
        user's id, the first item feature the item's id.
    history: which item features describe a past behaviour, and after them which behaviour features
        join its vector; () for a log without any. Other behaviour features stand in ``extras``.
    labels: what is predicted; the first is known in every row.
    numbers: columns that are no ids.
    similarities: numbers that are made of pre-trained vectors; they follow the context's own.
    weighted: whether a row has a weight in training, in the column ``weight``.
    times: whether the store keeps the time of every row and behaviour, so that a batch has `AGES`.
    """

    tables: tuple[Table, ...]
    features: tuple[Feature, ...]
    history: tuple[str, ...] = ()
    labels: tuple[Label, ...] = (Label("click", sampled=True),)
    numbers: tuple[Number, ...] = ()
    weighted: bool = False
    times: bool = False
    similarities: tuple[Similarity, ...] = ()

    def __post_init__(self) -> None:
        self._demand_labels()
        every: tuple[Feature | Number | Similarity, ...]
        every = (*self.features, *self.numbers, *self.similarities)
        names = [f.name for f in every]
        tables = [t.name for t in self.tables]
        labels = [label.name for label in self.labels]
        for kind, declared in (("feature", names), ("table", tables), ("label", labels)):
            for name in declared:
                if declared.count(name) > 1:
                    raise InputError(f"schema: {kind} {name!r} is declared twice; declare it once")
        for number in self.numbers:
            if number.group == "behaviour":
                raise InputError(
                    f"schema: number {number.name!r} is of group behaviour; expected profile, item "
                    "or context; declare the behaviour's value as a feature of buckets"
                )
        for f in every:
            if f.name in RESERVED or f.name.startswith(
                (history_name(""), weights_name(""), "label_", "truth_", "reported_")
            ):
                raise InputError(
                    f"schema: a feature cannot be called {f.name!r}, a name of the reader's own; "
                    "call it something else"
                )
            if isinstance(f, Similarity):
                continue
            if f.group == "context" and f.name in ROWS:
                raise InputError(
                    f"schema: a context {kind_of(f)} cannot be called {f.name!r}, a name of the "
                    "reader's own; call it something else"
                )
            if f.group not in GROUPS:
                raise unknown(f"group of feature {f.name!r}", f.group, GROUPS)
        for f in self.features:
            if f.table not in tables:
                raise unknown(f"table of feature {f.name!r}", f.table, tables)
            if f.length is not None and f.length < 1:
                raise InputError(
                    f"schema: feature {f.name!r} has length {f.length}; expected None or at least 1"
                )
            if f.weighted and (f.length is None or f.name in self.history):
                raise InputError(
                    f"schema: feature {f.name!r} is weighted; expected a feature of several values "
                    "(length=…) that the history does not name; take weighted=True away"
                )
        self._demand_tables()
        self._demand_history()
        if self.times and not self.history:
            raise InputError(
                "schema: times=True without a history, whose behaviours would have the times; "
                "expected both or neither; declare Schema.history or take times=True away"
            )
        for group in ("profile", "item"):
            if not self.group(group):
                raise InputError(f"schema: no {group} feature; declare at least its id")
        self._demand_similarities()
        hidden = [f.name for f in self.features if f.name in self.history and not f.serve]
        if hidden:
            raise InputError(
                f"schema: history feature {hidden[0]!r} has serve=False; expected features that "
                "are served; take it out of Schema.history or serve it"
            )

    def _demand_tables(self) -> None:
        for t in self.tables:
            if t.dtype not in MISSING:
                raise unknown(f"dtype of table {t.name!r}", str(t.dtype), MISSING)
            if t.buckets < 0:
                raise InputError(
                    f"schema: table {t.name!r} has {t.buckets} hash buckets; expected at least 1, "
                    "or 0 for a vocabulary of the log's ids; correct buckets"
                )
            if t.frozen and not t.vectors:
                raise InputError(
                    f"schema: table {t.name!r} is frozen without vectors; expected the file of its "
                    "pre-trained vectors; add vectors='items.parquet' or drop frozen=True"
                )
            if t.least < 1 or (t.least > 1 and t.buckets):
                found = f" and {t.buckets} hash buckets" if t.buckets else ""
                raise InputError(
                    f"schema: table {t.name!r} has least={t.least}{found}; expected at least 1, "
                    "and 1 beside hash buckets, which know no single id; write "
                    f"{'buckets=0' if t.least > 1 else 'least=1'}"
                )
            if t.vectors and t.buckets:
                raise InputError(
                    f"schema: table {t.name!r} has vectors and {t.buckets} hash buckets; expected "
                    "a vocabulary, as each id has its own vector; set buckets=0"
                )
            if t.hash_id not in HASH_USES:
                raise unknown(f"hash_id of table {t.name!r}", t.hash_id, HASH_USES)
            if t.hash_id and (not t.vectors or t.frozen):
                raise InputError(
                    f"schema: table {t.name!r} has hash_id={t.hash_id!r} "
                    f"{'and frozen=True' if t.vectors else 'without vectors'}; expected the file "
                    "of the vectors that are hashed and rows that learn; write "
                    "vectors='items.parquet' and no frozen=True"
                )
            if not 1 <= t.hash_bits <= 62:
                raise InputError(
                    f"schema: hash_bits of table {t.name!r} is {t.hash_bits}; expected 1 to 62; "
                    "write hash_bits=32"
                )

    def _demand_similarities(self) -> None:
        for s in self.similarities:
            for f in (self.user_id, self.item_id):
                if self.table(f.table).buckets:
                    raise InputError(
                        f"schema: similarity {s.name!r} reads vectors of {f.name!r}, whose table "
                        f"{f.table!r} has hash buckets; expected a vocabulary, as each id has its "
                        "own vector; set buckets=0"
                    )
                if not f.serve:
                    raise InputError(
                        f"schema: similarity {s.name!r} reads vectors of {f.name!r}, which has "
                        "serve=False; expected an id that is served; serve it or leave the "
                        "similarity out"
                    )

    def _demand_history(self) -> None:
        known = {f.name: f.group for g in ("item", "behaviour") for f in self.group(g)}
        groups = []
        for name in self.history:
            if name not in known:
                raise unknown("history feature", name, known)
            groups.append(known[name])
        if self.history and (groups[0] != "item" or groups != sorted(groups, reverse=True)):
            raise InputError(
                f"schema: the history is {self.history}; expected item features first and "
                "behaviour features after them; put them in that order"
            )

    def _demand_labels(self) -> None:
        known: list[str] = []
        for label in self.labels:
            if label.within is not None and label.within not in known:
                raise InputError(
                    f"schema: label {label.name!r} is known within {label.within!r}; expected a "
                    f"label declared before it ({', '.join(known) or 'none is'}); declare "
                    f"{label.within!r} first"
                )
            known.append(label.name)
        for label in self.labels:
            if not _LABEL.fullmatch(label.name) or label.name in ("total", "l2"):
                raise InputError(
                    f"schema: a label is called {label.name!r}; expected small letters, digits and "
                    "underscores after a letter, and not total or l2, which are other losses; "
                    "rename it"
                )
            for word in ("and", "without"):
                if label.within is not None and f"{label.within}_{word}_{label.name}" in known:
                    raise InputError(
                        f"schema: label {label.within}_{word}_{label.name} has the name of an "
                        f"answer that {label.name!r} gives; expected names that differ; rename it"
                    )
            if label.sampled and label.within is not None:
                raise InputError(
                    f"schema: label {label.name!r} is sampled and known within {label.within!r}; "
                    "expected a sampled label that is known in every row; take sampled=True away"
                )
        sampled = [label.name for label in self.labels if label.sampled]
        if len(sampled) > 1:
            raise InputError(
                f"schema: labels {' and '.join(sampled)} are both sampled; expected at most one, "
                "as a row is kept or left out as a whole; drop sampled=True of the others"
            )
        if not self.labels or self.labels[0].within is not None:
            raise InputError(
                "schema: no label is known in every row; expected the first label without within; "
                "declare labels=(Label('click', sampled=True), …)"
            )

    def label(self, name: str) -> Label:
        for label in self.labels:
            if label.name == name:
                return label
        raise unknown("label", name, [label.name for label in self.labels])

    def group(self, group: Group) -> tuple[Feature, ...]:
        """The features of a group, in order of declaration."""
        return tuple(f for f in self.features if f.group == group)

    def served(self, group: Group) -> tuple[Feature, ...]:
        """Those of a group that the serving model reads."""
        return tuple(f for f in self.group(group) if f.serve)

    @property
    def behaviour(self) -> tuple[Feature, ...]:
        """The features of a past behaviour: those of ``history``, then other behaviour features."""
        named = tuple(self.feature(name) for name in self.history)
        return named + tuple(f for f in self.group("behaviour") if f not in named)

    def served_numbers(self, group: Group) -> tuple[Number, ...]:
        """The numbers of a group that the serving model reads."""
        return tuple(n for n in self.numbers if n.group == group and n.serve)

    def of_user(self, keys: Iterable[str]) -> set[str]:
        """Which entries of a batch belong to a user: profile, its weights and numbers, history."""
        profile = {f.name for f in self.group("profile")}
        profile |= {weights_name(name) for name in profile}
        profile |= {n.name for n in self.numbers if n.group == "profile"}
        return {key for key in keys if key in profile or key.startswith(history_name(""))}

    def feature(self, name: str) -> Feature:
        for f in self.features:
            if f.name == name:
                return f
        raise unknown("feature", name, [f.name for f in self.features])

    def table(self, name: str) -> Table:
        for t in self.tables:
            if t.name == name:
                return t
        raise unknown("table", name, [t.name for t in self.tables])

    @property
    def user_id(self) -> Feature:
        return self.group("profile")[0]

    @property
    def item_id(self) -> Feature:
        return self.group("item")[0]

    @property
    def vectors(self) -> tuple[Vectors, ...]:
        """Every file of pre-trained vectors, those of tables first."""
        found = [Vectors(t.name, t.name, t.vectors) for t in self.tables if t.vectors]
        for s in self.similarities:
            found += [Vectors(f"{s.name}.user", self.user_id.table, s.user),
                      Vectors(f"{s.name}.item", self.item_id.table, s.item)]  # fmt: skip
        return tuple(found)

    def fingerprint(self) -> str:
        """Twelve hex digits that change with any declaration."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict) -> Schema:
        return cls(
            tables=tuple(Table(**t) for t in value["tables"]),
            features=tuple(Feature(**f) for f in value["features"]),
            history=tuple(value["history"]),
            labels=tuple(Label(**label) for label in value["labels"]),
            numbers=tuple(Number(**number) for number in value["numbers"]),
            weighted=value["weighted"],
            times=value["times"],
            similarities=tuple(Similarity(**found) for found in value["similarities"]),
        )


class Vectors(NamedTuple):
    """A file of pre-trained vectors of a table's ids, and its name in a store."""

    name: str
    table: str
    file: str


def kind_of(declared: Feature | Number) -> str:
    return "number" if isinstance(declared, Number) else "feature"


def weights_name(feature: str) -> str:
    """The batch key of the weights of a feature's several values."""
    return f"weights_{feature}"


def history_name(feature: str) -> str:
    """The batch key of an item feature over the history."""
    return f"history_{feature}"
