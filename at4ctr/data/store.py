"""The store, which is the prepared log on disk: one row a user, and instances that point into it.

The whole sequence of a user is stored once; an instance of a split is a ``cut`` (its history is
``behaviour_item[:cut]``), a target and a label. Sequences and targets hold rows of
``dims/item.parquet``; ``ids/<feature>.npy`` maps a row to its model id, because a behaviour on an
item that is unknown to the model still has, say, a known category.

The first rows of ``dims/user.parquet`` and ``dims/item.parquet`` are the users and items, with all
their attributes. Where rows of the log come before an attribute's first value, *versions* follow,
which lack it: ``versions`` of the manifest counts them, the columns ``user_index`` and
``item_index`` of ``dims`` name the user or item of each, and an instance names its user's version
in ``user_row``.

``values/<feature>.parquet`` has raw values of the features that rows hold as model ids.
``numbers/<number>.npy`` and ``weights/<feature>.npy`` are by dims row as ``ids`` are, and
``vectors/<name>.npy`` are made of pre-trained vectors, by model id: the rows of a table, the hash
codes of a table's HashIDs, and the vectors ``<similarity>.user`` and ``<similarity>.item``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.dataset import SPLITS, Split
from at4ctr.errors import InputError, unknown
from at4ctr.schema import FIRST_ID, Schema

if TYPE_CHECKING:
    from at4ctr.contracts import Numbers

FORMAT = 6
GROUPS_AT_ONCE = 64  # row groups of a read where a whole split is scanned
MANIFEST = "manifest.json"
KINDS = {"table": "tables", "feature": "features", "label": "labels", "number": "numbers",
         "similarity": "similarities"}  # fmt: skip
_HEADER = (
    threading.Lock()
)  # numpy parses a header by ast.literal_eval, unsafe in threads before 3.12


class RowGroup(NamedTuple):
    """One row group of a part. rows: how many instances of one split it has."""

    part: str
    number: int
    users: int
    rows: int


@dataclass(frozen=True)
class Users:
    """Some row groups, decoded: U users, E behaviours, N instances of one split.

    users: [U] row in ``dims/user``.
    offsets: [U + 1] where a user's behaviours begin and end.
    behaviours: [E] arrays: ``item`` (row in ``dims/item``), every behaviour feature and, where the
        schema has times, ``timestamp`` int64 in seconds.
    counts: [U] how many instances a user has.
    instances: [N] arrays: ``cut``, ``item``, ``label_<name>`` (int8; `schema.NOT_KNOWN` or
        `schema.OPEN` where it is not known), ``u31``, every context feature and number, ``weight``
        where rows have one,
        ``truth_<name>`` where asked for, ``timestamp`` as of behaviours, and ``user_row`` (row in
        ``dims/user``, of which ``users`` holds the first) where users have versions.
    """

    users: np.ndarray
    offsets: np.ndarray
    behaviours: Mapping[str, np.ndarray]
    counts: np.ndarray
    instances: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Store:
    """A finished store. Make one with ``Store.open``."""

    path: Path
    manifest: Mapping[str, Any]
    schema: Schema

    @classmethod
    def open(
        cls,
        path: Path | str,
        schema: Schema | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Store:
        """Opens a finished store.

        schema, options: what the store is expected to be of; ``options`` are the preparation's
            (``Options.preparation()``). None accepts any.
        Raises InputError for an unfinished preparation, another format, schema or options, or a
        missing file.
        """
        path = Path(path)
        manifest = _manifest(path)
        store = cls(path, manifest, Schema.from_json(manifest["schema"]))
        if schema is not None:
            _same_schema(path, schema, store.schema)
        if options is not None:
            expected = json.loads(json.dumps(dict(options)))
            _same(path, "option", expected, manifest["options"])
        store._check_features()
        store._check_files()
        return store

    @property
    def simulated(self) -> bool:
        """True where the log was simulated: every output must say so."""
        return bool(self.manifest["simulated"])

    @property
    def truth(self) -> tuple[str, ...]:
        """The labels whose true probabilities are stored."""
        return tuple(self.manifest["truth"])

    def rows(self, table: str) -> int:
        """The rows of an embedding table, with padding and unknown."""
        self.schema.table(table)
        return int(self.manifest["vocabulary"][table])

    def counts(self, split: Split) -> Mapping[str, Any]:
        """``rows``, ``labels`` (by name: ``known``, ``positives``) and ``unknown`` (by feature)."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return self.manifest["counts"][split]

    def vocabulary_path(self, table: str) -> Path:
        """The raw ids of a table, one a line; line i has id i + 2. Hashed tables have none."""
        if self.schema.table(table).buckets:
            raise InputError(
                f"table {table!r} is hashed into buckets and has no vocabulary file; "
                "expected a table with buckets=0"
            )
        return self.path / "vocabulary" / f"{table}.txt"

    def raw_ids(self, feature: str, wanted: Collection[int] | None = None) -> dict[int, str]:
        """Model id -> raw id of a feature; {} of hashed ids. wanted: of these ids alone."""
        name = self.schema.feature(feature).table
        if self.schema.table(name).buckets:
            return {}
        with self.vocabulary_path(name).open(encoding="utf-8", newline="\n") as file:
            lines = enumerate((line.removesuffix("\n") for line in file), FIRST_ID)
            return {i: raw for i, raw in lines if raw and (wanted is None or i in wanted)}

    def values_path(self, feature: str) -> Path:
        """``id``, ``raw``: of each model id of a context or behaviour feature's rows, one of the
        log's values that have it; a missing value is null."""
        return self.path / "values" / f"{feature}.parquet"

    def ids(self, feature: str) -> np.ndarray:
        """Model ids [N] or [N, length] int32 of every dims row of a profile or item feature."""
        return self._array("ids", feature, "profile or item feature")

    def number(self, number: str) -> np.ndarray:
        """A profile or item number [N] float32 of every dims row; NaN where it is missing."""
        return self._array("numbers", number, "profile or item number")

    def weights(self, feature: str) -> np.ndarray:
        """Weights [N, length] float32 of a weighted feature's values by dims row; 0 in padding."""
        return self._array("weights", feature, "weighted feature")

    def numbers(self) -> dict[str, Numbers]:
        """What the training rows hold of each number."""
        from at4ctr.contracts import Numbers  # which loads TensorFlow

        found = self.manifest["numbers"]
        return {k: Numbers(**v | {"quantiles": tuple(v["quantiles"])}) for k, v in found.items()}

    def vectors(self) -> dict[str, np.ndarray]:
        """Name of `Schema.vectors` -> an array by model id, as `preparation.vectors` writes it."""
        return {n: self._array("vectors", n, "table with vectors") for n in self._arrays["vectors"]}

    def _array(self, kind: str, what: str, said: str) -> np.ndarray:
        held = self._arrays[kind]
        if what not in held:
            raise unknown(said, what, held)
        with _HEADER:
            if held[what] is None:
                array = np.load(self.path / kind / f"{what}.npy", mmap_mode="r")
                held[what] = np.asarray(array)  # the same pages, without memmap's overhead
        return held[what]

    def groups(self, split: Split) -> list[RowGroup]:
        """Every row group in store order, with the split's rows in it."""
        self.counts(split)
        return [
            RowGroup(part["file"], number, group["users"], group[split]["rows"])
            for part in self.manifest["parts"]
            for number, group in enumerate(part["row_groups"])
        ]

    def mean_behaviours(self) -> float:
        """The mean number of behaviours before a training row. One scan of a column."""
        total, groups = 0, self.groups("train")
        for first in range(0, len(groups), GROUPS_AT_ONCE):
            table = self.columns(groups[first : first + GROUPS_AT_ONCE], ["train_cut"])
            total += int(flat(table.column("train_cut")).sum(dtype=np.int64))
        return total / max(sum(group.rows for group in groups), 1)

    def item_clicks(self) -> np.ndarray:
        """How many training rows of each item id have the first label. [rows] int64, 0 where the
        id is unknown. One scan of two columns."""
        label, ids = f"train_{self.schema.labels[0].column}", self.ids(self.schema.item_id.name)
        found = np.zeros(self.rows(self.schema.item_id.table), np.int64)
        groups = self.groups("train")
        for first in range(0, len(groups), GROUPS_AT_ONCE):
            table = self.columns(groups[first : first + GROUPS_AT_ONCE], ["train_item", label])
            clicked = flat(table.column("train_item"))[flat(table.column(label)) == 1]
            found += np.bincount(ids[clicked], minlength=len(found))
        found[:FIRST_ID] = 0
        return found

    def columns(self, groups: Sequence[RowGroup], names: Sequence[str]) -> pa.Table:
        """Some columns of some row groups, in store order."""
        tables = []
        for part, members in groupby(sorted(groups), key=lambda g: g.part):
            file, numbers = self._part(part), [g.number for g in members]
            try:
                with pq.ParquetFile(file, metadata=self._footer(part), memory_map=True) as parquet:
                    table = parquet.read_row_groups(numbers, columns=list(names))
            except (OSError, IndexError, pa.ArrowException) as error:
                raise self._damaged(f"part {file.name} cannot be read ({error})") from error
            missing = set(names) - set(table.column_names)
            if missing:
                raise self._damaged(f"part {file.name} lacks column {min(missing)!r}")
            tables.append(table)
        return pa.concat_tables(tables)

    def read(self, split: Split, groups: Sequence[RowGroup], *, truth: bool = False) -> Users:
        """Decodes row groups, in store order, with the instances of one split."""
        behaviour = ["item", *(f.name for f in self.schema.group("behaviour"))]
        behaviour += ["timestamp"] if self.schema.times else []
        instance = self.instance_columns(truth=truth)
        names = [f"behaviour_{n}" for n in behaviour] + [f"{split}_{n}" for n in instance]
        table = self.columns(groups, ["user", *names])
        users = table.column("user").to_numpy().astype(np.int32, copy=False)
        wide = {"timestamp": np.int64}
        behaviours = {n: flat(table.column(f"behaviour_{n}"), wide.get(n)) for n in behaviour}
        instances = {n: flat(table.column(f"{split}_{n}"), wide.get(n)) for n in instance}
        lengths = list_lengths(table.column("behaviour_item"))
        counts = list_lengths(table.column(f"{split}_cut"))
        for arrays, what in ((behaviours, "behaviour"), (instances, split)):
            if len({len(a) for a in arrays.values()}) > 1:
                sizes = ", ".join(f"{n} {len(a)}" for n, a in arrays.items())
                raise self._damaged(f"the {what} lists differ in length ({sizes})")
        cut = instances["cut"]
        if len(cut) and ((cut < 0) | (cut > np.repeat(lengths, counts))).any():
            raise self._damaged(f"a {split}_cut lies outside its user's sequence")
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Users(users, offsets, behaviours, counts, instances)

    def instance_columns(self, *, truth: bool) -> list[str]:
        """The columns of a split, without its name; true probabilities with `truth`."""
        columns = [
            "cut",
            "item",
            *(label.column for label in self.schema.labels),
            "u31",
            *(["user_row"] if self.manifest["versions"]["user"] else []),
        ]
        columns += [f.name for f in self.schema.group("context")]
        columns += [n.name for n in self.schema.numbers if n.group == "context"]
        columns += ["weight"] if self.schema.weighted else []
        columns += ["timestamp"] if self.schema.times else []
        return [*columns, *(f"truth_{label}" for label in (self.truth if truth else ()))]

    def items(self, rows: np.ndarray) -> np.ndarray:
        """The items of rows of ``dims/item``, each by its first row: its versions are one item."""
        return np.take(self._items, rows) if self.manifest["versions"]["item"] else rows

    @cached_property
    def _items(self) -> np.ndarray:
        column = pq.read_table(self.path / "dims" / "item.parquet", columns=["item_index"]).column(
            0
        )
        return column.to_numpy().astype(np.int32, copy=False)

    @cached_property
    def _arrays(self) -> dict[str, dict[str, Any]]:
        """Kind -> name -> array once it is read."""
        features = self.schema.group("profile") + self.schema.group("item")
        names = {
            "ids": [f.name for f in features],
            "numbers": [n.name for n in self.schema.numbers if n.group != "context"],
            "weights": [f.name for f in features if f.weighted],
            "vectors": [v.name for v in self.schema.vectors],
        }
        return {kind: dict.fromkeys(of) for kind, of in names.items()}

    @cached_property
    def _footers(self) -> dict[str, pq.FileMetaData]:
        return {}

    def _footer(self, part: str) -> pq.FileMetaData:
        if part not in self._footers:
            self._footers[part] = pq.read_metadata(self._part(part))
        return self._footers[part]

    def _part(self, name: str) -> Path:
        return self.path / "data" / Path(name).name

    def _damaged(self, what: str) -> InputError:
        return InputError(f"store {self.path}: {what}; delete the store and prepare it again")

    def _check_features(self) -> None:
        for f in self.schema.group("behaviour") + self.schema.group("context"):
            if f.length is not None:
                raise InputError(
                    f"store {self.path}: {f.group} feature {f.name!r} has length {f.length}; "
                    "expected None, as the store holds one value for each; declare it so"
                )

    def _check_files(self) -> None:
        files = [self.path / "dims" / f"{name}.parquet" for name in ("user", "item")]
        files += [self.path / k / f"{n}.npy" for k, names in self._arrays.items() for n in names]
        files += [self.vocabulary_path(t.name) for t in self.schema.tables if not t.buckets]
        rows = self.schema.group("behaviour") + self.schema.group("context")
        files += [self.values_path(f.name) for f in rows]
        files += [self._part(part["file"]) for part in self.manifest["parts"]]
        for file in files:
            if not file.is_file():
                raise self._damaged(f"file {file.relative_to(self.path)} is missing")


def flat(column: pa.ChunkedArray, dtype: Any = None) -> np.ndarray:
    """The values of a list column, row after row; by default integers above 8 bits as int32."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    values = np.concatenate(chunks) if chunks else np.empty(0, np.int32)
    if dtype is not None:
        return values.astype(dtype, copy=False)
    wide = values.dtype.kind in "iu" and values.dtype.itemsize > 1
    return values.astype(np.int32, copy=False) if wide else values


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """[rows] int64: how many values each list of a column has."""
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.concatenate(lengths).astype(np.int64) if lengths else np.empty(0, np.int64)


def _manifest(path: Path) -> dict:
    if not path.is_dir():
        raise InputError(f"store {path} does not exist; prepare the dataset first")
    file = path / MANIFEST
    if not file.is_file():
        raise InputError(
            f"store {path} has no {MANIFEST}, so its preparation did not finish; "
            "delete the folder and prepare the dataset again"
        )
    try:
        manifest = json.loads(file.read_text())
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"store {path}: {MANIFEST} is not a manifest ({error!r}); "
            "delete the store and prepare it again"
        ) from error
    if found != FORMAT:
        raise InputError(
            f"store {path} has format {found}; expected {FORMAT}; "
            "delete the store and prepare it again with this version"
        )
    return manifest


def _same_schema(path: Path, expected: Schema, found: Schema) -> None:
    for kind, all_of in KINDS.items():
        want = {x["name"]: x for x in expected.to_json()[all_of]}
        have = {x["name"]: x for x in found.to_json()[all_of]}
        _same(path, kind, want, have)
        if list(want) != list(have):
            _same(
                path,
                "schema",
                {f"order of {all_of}": list(want)},
                {f"order of {all_of}": list(have)},
            )
    _same(path, "schema", {"history": list(expected.history)}, {"history": list(found.history)})
    for flag in ("weighted", "times"):
        _same(path, "schema", {flag: getattr(expected, flag)}, {flag: getattr(found, flag)})


def _same(path: Path, kind: str, expected: Mapping, found: Mapping) -> None:
    absent = "nothing"
    for name in [*expected, *(n for n in found if n not in expected)]:
        want, have = expected.get(name, absent), found.get(name, absent)
        if isinstance(want, dict) and isinstance(have, dict):
            _same(path, f"{kind} {name!r}:", want, have)
        elif want != have:
            raise InputError(
                f"store {path}: {kind} {name!r} is {have!r}; expected {want!r}; "
                "prepare a store for these settings, or use the settings it was prepared with"
            )
