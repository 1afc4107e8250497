"""The interface of a dataset: its options, where its raw log lies, and the SQL that reads it.

A dataset is one module of ``at4ctr.data.datasets``, or of ``configs``, with a frozen dataclass
``Config(Options)``. The module's name is the dataset's name. ``prepare`` turns the log into a
store; nothing else knows its raw format. For a log of impressions of your own, `mapped` asks for no
more than a mapping of its columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from at4ctr.data.days import Lines
from at4ctr.data.sampling import demand_rate
from at4ctr.errors import InputError, unknown
from at4ctr.schema import HashUse, Label, Schema, Similarity

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
USER_VECTORS, ITEM_VECTORS = "user_vectors.parquet", "item_vectors.parquet"  # beside the raw log


@dataclass(frozen=True)
class Source:
    """A raw log that was found, fetched or simulated.

    files: the files whose digests are in the manifest.
    simulated: True labels every later output *simulated*.
    notes: sentences for the report.
    """

    files: tuple[Path, ...]
    simulated: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options(ABC):
    """Options that every dataset has. Those in ``READING`` do not change the store.

    ``raw`` changes it through the files found there: their names, sizes and times are part of the
    store's name.

    raw: file or folder of the raw log; empty means ``data/raw/<dataset>``.
    history: T, how many of the latest behaviours a model sees.
    negative_rate: w in (0, 1], the rate at which training negatives of the sampled label are kept
        (He et al. 2014).
    unknown_rate: share of training rows whose user id (item id) reads as unknown, so that the row
        of the unknown id is trained; under ``paper`` no id is unknown and it is 0.
    grouping: ``rows`` shuffles the training rows. ``requests`` shuffles requests. A request is a
        user's consecutive rows that see the same history, such as a positive with its drawn
        negatives or the impressions of a page; with ``times`` they are also of one second. The
        rows of a request stay in one batch and share their user's profile and history, which are
        embedded and encoded once.
    protocol: ``strict`` builds vocabularies from training rows only, knows an attribute from the
        time of its first value on, and draws each split's negatives from that split's own rows;
        ``paper`` uses all rows for all three.
    negatives: drawn negatives per positive (ignored where the log has real ones).
    draw: the distribution of a negative's item. ``popularity``: in proportion to the item's share
        of the rows drawn from. ``uniform``: the same for every distinct item among them. Many
        published baselines were measured so, and popularity alone then tells much of the class.
    reject: which items a negative cannot be. ``own``: the positive's item. ``history``: also the
        items of the row's history, unless the positive's item is one of them; then the negative
        is another item of the history. So repetition alone never separates the classes. ``seen``:
        every item that the user has anywhere in the log, which depends on what the user does
        later.
    user_rate: share of the log's users that is kept, in (0, 1], by a keyed hash of their raw id;
        those kept at a share are kept at every larger one.
    min_behaviours: users with fewer behaviours are dropped.
    min_history: rows with fewer visible behaviours are dropped.
    seed: of every draw made in preparation.
    times: keeps the time of every row and behaviour (`Schema.times`), as `tin` reads it. A schema
        of your own declares them itself.
    similarity: adds the cosine of the vectors of user and candidate (`schema.Similarity`), from the
        files `USER_VECTORS` and `ITEM_VECTORS` beside the raw log. A schema of your own declares
        it, and HashIDs, itself.
    hash_id: how HashIDs, made of `ITEM_VECTORS`, stand for items' ids (`schema.Table.hash_id`).
    hash_bits: the binary digits of a HashID.
    user_least, item_least: how often training must see the id of a user or of an item for a row of
        its own (`schema.Table.least`); 1 keeps all. A schema of your own declares it itself.
    repeat_weight: s, how much more a negative weighs whose user was shown the same ad before
        without a click (`preparation.exposures`); 0 leaves weights alone. The schema is weighted.
    repeat_count: α in [0, 1], the weight of the number of earlier exposures; 1 − α is the weight
        of how recent the last one is.
    repeat_days: the half-life of an exposure, in days.
    repeat_by: the item feature whose equal values are the same ad; empty: the item's id.
    wait_by: the feature of the impressions, such as the advertiser, whose values each have a wait
        of their own for labels that are reported late (`preparation.waits`); empty: the item's id.
    wait_days: the longest wait in days; later reports do not count.
    wait_tolerance: how far the reports of a day may be from those after the longest wait, as a
        root mean square relative to their mean.
    """

    raw: str = ""
    history: int = 100
    negative_rate: float = 1.0
    unknown_rate: float = 0.05
    grouping: Literal["rows", "requests"] = "rows"
    protocol: Literal["strict", "paper"] = "strict"
    negatives: int = 1
    draw: Literal["popularity", "uniform"] = "popularity"
    reject: Literal["own", "history", "seen"] = "own"
    user_rate: float = 1.0
    min_behaviours: int = 10
    min_history: int = 1
    seed: int = 0
    times: bool = False
    similarity: bool = False
    hash_id: HashUse = ""
    hash_bits: int = 32
    user_least: int = 1
    item_least: int = 1
    repeat_weight: float = 0.0
    repeat_count: float = 0.5
    repeat_days: float = 1.0
    repeat_by: str = ""
    wait_by: str = ""
    wait_days: float = 7.0
    wait_tolerance: float = 0.1

    READING: ClassVar[tuple[str, ...]] = (
        "raw",
        "history",
        "negative_rate",
        "unknown_rate",
        "grouping",
    )
    FEWEST: ClassVar[int] = 1  # the least min_behaviours; 0: users may have impressions alone
    UTC_OFFSET_HOURS: ClassVar[float] = 0.0  # local minus universal time where the log was written
    RECIPE: ClassVar[str] = "din_at4ctr"  # the default of CONFIG
    LINES: ClassVar[Lines | None] = None  # how a raw log in lines is split into days, if it can be
    DAILY: ClassVar[bool] = False  # `load` reads all parts of a day's folder (`at4ctr.data.days`)

    def __post_init__(self) -> None:
        where = f"data options of {self.name}"
        if self.history < 1:
            raise InputError(
                f"{where}: history is {self.history}; expected at least 1; set data.history=100"
            )
        demand_rate(self.negative_rate, where)
        for field, known in (("protocol", ("strict", "paper")),
                             ("grouping", ("rows", "requests")),
                             ("draw", ("popularity", "uniform")),
                             ("reject", ("own", "history", "seen"))):  # fmt: skip
            if getattr(self, field) not in known:
                raise unknown(f"value of data.{field}", getattr(self, field), known)
        if not 0 < self.user_rate <= 1:
            raise InputError(
                f"{where}: user_rate is {self.user_rate}; expected 0 < user_rate <= 1, the share "
                "of users to keep; set data.user_rate=1 to keep all"
            )
        for field, least in (("negatives", 1), ("min_behaviours", self.FEWEST), ("min_history", 0),
                             ("user_least", 1), ("item_least", 1)):  # fmt: skip
            if getattr(self, field) < least:
                raise InputError(
                    f"{where}: {field} is {getattr(self, field)}; expected at least {least}"
                )
        for field, fits, expected in (
            (
                "repeat_weight",
                0 <= self.repeat_weight < float("inf"),
                "a finite number of at least 0",
            ),
            ("repeat_count", 0 <= self.repeat_count <= 1, "a share between 0 and 1"),
            ("repeat_days", 0 < self.repeat_days < float("inf"), "a finite time above 0"),
            ("wait_days", 0 < self.wait_days < float("inf"), "a finite time above 0"),
            ("wait_tolerance", 0 <= self.wait_tolerance <= 1, "a share between 0 and 1"),
        ):
            if not fits:
                raise InputError(
                    f"{where}: {field} is {getattr(self, field)}; expected {expected}; "
                    f"correct data.{field}"
                )
        if self.times and not (self.timed and self.schema().times):
            raise InputError(
                f"{where}: times is true, and the {'schema' if self.timed else 'log'} has none; "
                "expected a log with times and Schema(times=True); drop data.times"
            )

        if self.similarity or self.hash_id:
            schema = self.schema()
            uses = [table.hash_id for table in schema.tables if table.hash_id]
            if (self.similarity and not schema.similarities) or (self.hash_id and not uses):
                raise InputError(
                    f"{where}: similarity is {self.similarity} and hash_id is {self.hash_id!r}, "
                    "which the schema does not have; expected a schema that declares them "
                    "(docs/own_log.md); declare them there and drop these options"
                )
        if self.user_least > 1 or self.item_least > 1:
            schema = self.schema()
            for field, feature in (("user_least", schema.user_id), ("item_least", schema.item_id)):
                asked, found = getattr(self, field), schema.table(feature.table).least
                if asked not in (1, found):
                    raise InputError(
                        f"{where}: {field} is {asked}, and table {feature.table!r} of the schema "
                        f"has least={found}; expected a schema that declares it "
                        f"(docs/own_log.md); write Table({feature.table!r}, least={asked}) there "
                        f"and drop data.{field}"
                    )

    def with_vectors(self, schema: Schema) -> Schema:
        """A schema with the similarity and the HashIDs that the options ask for."""
        if self.hash_id:
            item = schema.item_id.table
            tables = tuple(
                replace(t, vectors=ITEM_VECTORS, hash_id=self.hash_id, hash_bits=self.hash_bits)
                if t.name == item
                else t
                for t in schema.tables
            )
            schema = replace(schema, tables=tables)
        if self.similarity:
            more = Similarity("similarity", USER_VECTORS, ITEM_VECTORS)
            schema = replace(schema, similarities=(*schema.similarities, more))
        return schema

    def with_least(self, schema: Schema) -> Schema:
        """A schema with the `user_least` and `item_least` that the options ask for."""
        asked = {schema.user_id.table: self.user_least, schema.item_id.table: self.item_least}
        tables = tuple(replace(t, least=max(t.least, asked.get(t.name, 1))) for t in schema.tables)
        return replace(schema, tables=tables)

    def with_options(self, schema: Schema) -> Schema:
        """A schema with all that the options may add to it."""
        return self.with_least(self.with_vectors(schema))

    @property
    def name(self) -> str:
        """The dataset's name: its module's."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def timed(self) -> bool:
        """Whether timestamps are times. If not, they only order rows, and no report shows them."""
        return True

    def preparation(self) -> dict:
        """The options that shape the store, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.READING}

    @abstractmethod
    def schema(self) -> Schema:
        """The features of the log."""

    @abstractmethod
    def acquire(self) -> Source:
        """Finds, fetches or simulates the raw log; InputError where it is missing or unreadable."""

    @abstractmethod
    def load(self, engine: Engine, source: Source) -> None:
        """Makes the engine's relation ``log``, and ``impressions`` where the log has real ones.

        ``log``: one row a behaviour, columns under their schema names: the profile features (the
        user's id among them), the item features, the behaviour features, the context features
        where there are no impressions; and ``timestamp`` BIGINT in seconds, ``ord`` BIGINT the
        original row order. Of a user's or an item's attribute the first value is kept, and is known
        from its own row on (`attributes`). So an attribute that is always known must stand in every
        row.
        Numbers of users and items are attributes, and those of the context stand with its features.
        ``weights_<feature>``, a list, stands beside each weighted feature.
        ``impressions``: the user's id, the item and context features, ``timestamp``, ``ord``,
        of every label ``label_<name>`` 0, 1 or, where it is not known, NULL, or `schema.OPEN`
        where it is known within another one and its window is open; ``truth_<name>``
        DOUBLE, its true probability, where the log knows it; ``reported_<name>`` BIGINT, when it
        was reported, where labels shall be as each cutoff knows them (`preparation.waits`);
        ``weight`` where `Schema.weighted`;
        profile features, where the log knows them with an impression. With `min_behaviours` 0 it
        must have all of them, as a user may have no row in ``log``.
        """

    @abstractmethod
    def split(self) -> str:
        """SQL that gives ``'train'``, ``'validation'``, ``'test'``, or NULL for no row at all.

        It is evaluated over the behaviours, or over the impressions where the log has them, with
        the columns ``"user"`` (a dense index), ``user_key`` (of the raw id alone, 0 .. 2^31-2),
        ``timestamp``, ``pos`` (0-based place among the user's in time order), ``n`` (how many the
        user has) and ``earlier`` (how many of the user's have a smaller timestamp). Window
        functions must be partitioned by ``"user"``.
        """

    def known_until(self) -> str:
        """SQL of the second before which the reports of a row's labels are known.

        It is evaluated over the impressions, and only of a log with a column ``reported_<label>``.
        """
        raise InputError(
            f"the log of {self.name} has times of reports, and no cutoff by time; expected a split "
            "by time, as a mapping of your own has; leave the times of reports out"
        )

    def check_whole(self, engine: Engine) -> None:
        """Raises InputError for faults of a loaded log that a single day of it may have."""
        del engine

    def counted_from(self) -> int | None:
        """The second from which rows count towards `Table.least`, where earlier ones have been
        counted before; None counts all."""
        return None

    def expires_before(self) -> int | None:
        """The second from which on an id that was known before must have a training row, or a
        behaviour in a training row's history, to stay in the vocabulary; None keeps all."""
        return None

    def labels_of_both_classes(self) -> tuple[Label, ...]:
        """The labels of which every split must have both classes."""
        return self.schema().labels

    def demand_daily(self) -> None:
        """Raises InputError unless `load` reads the parts of a day's folder."""
        if not self.DAILY:
            raise InputError(
                f"the log of {self.name} is not read by days; expected a dataset whose load reads "
                "the parts of a day's folder, such as taobao, tafeng or a mapping of your own; "
                "choose one, or train it as a whole (make train)"
            )

    def cut(self) -> str:
        """SQL over the same columns: how many of the user's behaviours a row sees.

        ``pos`` by default; ``earlier`` for a log whose timestamps are days, which have no order
        inside. It does not apply to impressions: they see the behaviours with a smaller timestamp.
        """
        return "pos"


def holdout(test: int = 1, validation: int = 1) -> str:
    """A `Options.split`: each user's last `test` rows are test, the `validation` rows before them
    validation."""
    return (
        f"CASE WHEN pos >= n - {test} THEN 'test' "
        f"WHEN pos >= n - {test + validation} THEN 'validation' ELSE 'train' END"
    )
