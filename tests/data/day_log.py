"""Logs in day folders, small, with ties, strays and late rows, and what a night made of them."""

from collections import Counter
from datetime import date, timedelta

import numpy as np
import pyarrow.parquet as pq

from at4ctr.data import days
from at4ctr.data.dataset import SPLITS
from at4ctr.data.nights import increment, state
from at4ctr.data.store import Store

FIRST = date(2017, 11, 25)
CALENDAR = days.Periods(utc_offset_hours=8, evaluation=0.25)
BEGIN = CALENDAR.begin(FIRST)


def dated(number):
    return FIRST + timedelta(number)


def taobao_rows(seed, number, users=25, items=40, rows=220):
    """A day's rows (user, item, category, type, time) in random order: ties, items whose category
    changes, exact duplicates, rows of the day before; users and items come up over the days."""
    rng = np.random.default_rng([seed, number])
    begin = CALENDAR.begin(dated(number))
    made = [
        (
            int(rng.integers(users + 5 * number) ** 2 + 7),
            int(rng.zipf(1.3) % (items + 8 * number)) + 2**33,
            int(rng.integers(6 + number)),
            ("pv", "cart", "fav", "buy")[rng.integers(4)],
            begin + int(rng.integers(864)) * 100 - (86_400 if rng.random() < 0.02 else 0),
        )
        for _ in range(rows)
    ]
    return made + [made[k] for k in rng.integers(rows, size=9)]


def deliver(root, number, rows, parts=2):
    """Writes a day's rows as headerless CSV parts; the rows that a dataset keeps of them."""
    folder = root / f"dt={dated(number)}"
    folder.mkdir(parents=True)
    for part in range(parts):
        text = "".join(",".join(map(str, r)) + "\n" for r in rows[part::parts])
        (folder / f"part-{part:05d}.csv").write_text(text)
    (folder / "_SUCCESS").touch()
    return list(dict.fromkeys(r for part in range(parts) for r in rows[part::parts]))


def windows(nights):
    """The windows of consecutive nights, from the first day's first second on."""
    found, since = [], BEGIN
    for number in range(nights):
        found.append(CALENDAR.window(dated(number), since))
        since = found[-1].cutoff
    return found


def night(config, root, window, parent, folder, **options):
    found = days.find(root, CALENDAR.dates(window))
    return increment.build(config, found, window, parent, folder, **options)


def chain(config, root, nights, folder, **options):
    """Night after night, each from the state of the one before."""
    made, parent = [], None
    for number, window in enumerate(windows(nights)):
        made.append(night(config, root, window, parent, folder / f"night-{number}", **options))
        parent = made[-1].state
    return made


def decoded(folder, history):
    """Counter of (split, user, item, label, u31, context, history, attributes), raw ids."""
    store = Store.open(folder)
    dims = {
        g: pq.read_table(folder / "dims" / f"{g}.parquet").to_pylist() for g in ("user", "item")
    }
    for group, rows in dims.items():
        for row in rows:
            row.pop(f"{group}_index", None)  # depends on who else is there
    user, item = store.schema.user_id.name, store.schema.item_id.name
    extra = [f.name for f in store.schema.group("behaviour")]
    context = [f.name for f in store.schema.group("context")]
    names = {f: ["", "?", *store.vocabulary_path(store.schema.feature(f).table).read_text().split()]
             for f in extra + context}  # fmt: skip
    found = Counter()
    for part in store.manifest["parts"]:
        for row in pq.read_table(folder / "data" / part["file"]).to_pylist():
            past = [(dims["item"][i][item], *(names[f][row[f"behaviour_{f}"][k]] for f in extra))
                    for k, i in enumerate(row["behaviour_item"])]  # fmt: skip
            for split in SPLITS:
                rows = row.get(f"{split}_user_row", [row["user"]] * len(row[f"{split}_cut"]))
                for k, cut in enumerate(row[f"{split}_cut"]):
                    who = dims["user"][rows[k]]
                    what = dims["item"][row[f"{split}_item"][k]]
                    shown = tuple(names[f][row[f"{split}_{f}"][k]] for f in context)
                    facts = (row[f"{split}_label_click"][k], row[f"{split}_u31"][k], shown)
                    seen = tuple(past[max(0, cut - history) : cut])
                    found[split, who[user], what[item], *facts, seen, repr((who, what))] += 1
    return found


def vocabularies(made):
    """Table -> raw ids in order, which the store and the state must agree on."""
    store = Store.open(made.store)
    found = {t: ids.to_pylist() for t, ids in state.vocabularies(made.state).items()}
    for table, ids in found.items():
        assert store.vocabulary_path(table).read_text().split("\n") == [*map(str, ids), ""]
        assert store.rows(table) == len(ids) + 2
    return found


def states(made):
    """The contents of a state, whatever the order of its rows."""
    return {n: sorted(map(repr, pq.read_table(made.state / f"{n}.parquet").to_pylist()))
            for n in state.RELATIONS}  # fmt: skip
