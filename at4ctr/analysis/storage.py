"""The size on disk of a store's training data at a rate of kept negatives (AT4CTR, Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.preparation.parts import GROUP
from at4ctr.data.sampling import keep, sampled_label
from at4ctr.data.store import RowGroup, Store
from at4ctr.schema import Label


class Size(NamedTuple):
    """rows: kept training instances. instances, behaviours: bytes on disk."""

    rows: int
    instances: int
    behaviours: int


def sizes(store: Store, rates: Sequence[float]) -> dict[float, Size]:
    """Bytes of the kept training instances at every rate, and of the behaviours they point into.

    The columns are really written, with the store's own Parquet settings, to a temporary folder
    that is deleted at once; one part of the store at a time is in memory. The users' sequences are
    stored once, so their bytes do not depend on the rate.
    """
    found = dict.fromkeys(rates, Size(0, 0, 0))
    parts: dict[str, list[RowGroup]] = {}
    for group in store.groups("train"):
        parts.setdefault(group.part, []).append(group)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "part.parquet"
        for groups in parts.values():
            names = ["user", "behaviour_item"]
            names += [f"behaviour_{f.name}" for f in store.schema.group("behaviour")]
            behaviours = _bytes(store.columns(groups, names), file)
            names = store.instance_columns(truth=bool(store.truth))
            table = store.columns(groups, [f"train_{name}" for name in names])
            for w in rates:
                kept = sampled(table, w, store.schema.labels)
                rows = len(kept["train_u31"].combine_chunks().flatten())
                size = Size(rows, _bytes(kept, file), behaviours)
                found[w] = Size(*(a + b for a, b in zip(found[w], size, strict=True)))
    return found


def sampled(table: pa.Table, w: float, labels: Sequence[Label]) -> pa.Table:
    """Training columns (one list a user) with the instances that are kept at rate w."""
    lists = {name: table[name].combine_chunks() for name in table.column_names}
    u31 = lists["train_u31"]
    kept = np.ones(len(u31.flatten()), bool)
    if w < 1:
        label = lists[f"train_{sampled_label(labels, w)}"]
        kept = keep(label.flatten().to_numpy(), u31.flatten().to_numpy(), w)
    before = np.concatenate([[0], np.cumsum(kept)])
    starts = u31.offsets.to_numpy()
    offsets = pa.array(before[starts - starts[0]].astype(np.int32))
    return pa.table({
        name: pa.ListArray.from_arrays(offsets, column.flatten().filter(pa.array(kept)))
        for name, column in lists.items()
    })  # fmt: skip


def _bytes(table: pa.Table, file: Path) -> int:
    pq.write_table(table, file, compression="zstd", row_group_size=GROUP, use_dictionary=False,
                   write_statistics=False)  # fmt: skip
    return file.stat().st_size
