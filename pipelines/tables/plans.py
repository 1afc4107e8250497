"""The tables and figures of AT4CTR as data: what each compares, and the numbers it prints.

``make reproduce TABLE=2`` (or ``FIG=2``) trains a plan's cells. Of the paper, Tables 2 to 4 are
compared with its full Taobao log, Table 5 and Fig. 2 with its Industry log (``_printed.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from at4ctr.errors import InputError, unknown
from pipelines.tables.printed import (
    AQCL,
    AT,
    DBPMAN,
    DIEN,
    LIBRARIES,
    PAPER,
    RATES,
    TABLE4_DBPMAN_AT,
)


@dataclass(frozen=True)
class Cell:
    """One row: a recipe with overrides. base: label of the row it is compared with.

    paper: (AUC, half log loss) that Tables 2 to 4 print for Taobao; None where they print none.
    printed: what another paper prints, by label and metric, such as ``conversion.auc``.
    x: the swept value, for figures and Table 5. group: which line of a figure, which method.
    """

    label: str
    recipe: str
    overrides: tuple[str, ...] = ()
    base: str | None = None
    paper: tuple[float, float] | None = None
    printed: Mapping[str, float] = field(default_factory=dict)
    x: float | None = None
    group: str = ""


@dataclass(frozen=True)
class Plan:
    """What one command compares. kind: how the report is written (``pipelines.tables.reports``).

    pairs: further (label, base) to compare. champion: label of the row that is compared with the
    best other row. notes: sentences of the report. defaults: overrides of every cell, which the
    user's own may change; those of a single cell may not be changed. metric, chosen: the metric by
    which trials are compared, and the place where the best of them are written down. axis: label of
    the cells' x, in the plan's picture.
    """

    name: str
    kind: str
    title: str
    cells: tuple[Cell, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    champion: str | None = None
    notes: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()
    metric: str = "validation.auc"
    chosen: str = "`configs/_tuned.py`"
    axis: str = ""


UIM_WEIGHTS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
NIP_WEIGHTS = (1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 0.1)
# AQCL's own training (§5.2.2): Adam at 0.001, dropout 0.2; of its L2 weights, 1e-5 to 1e-1, one.
AQCL_TRAINING = ("fit.learning_rate=0.001", "head.dropout=0.2", "embedding.l2=0.001")
AQCL_EPOCHS = ("fit.epochs=5", "fit.patience=1")  # it states neither
# DIN of public libraries on MovieLens-100K, in our fields.
LIKED = (
    "data.target=liked", "data.protocol=paper", "data.min_behaviours=0", "data.min_history=0",
    "data.history=50", "data.unknown_rate=0", "embedding.dimension=16",
    "backbone.attention=80,40", "head.units=200,80", "fit.optimizer=adam",
    "fit.learning_rate=0.001", "fit.batch_size=256",
)  # fmt: skip
# FuxiCTR's penalty is λ/2 times the squares of all rows, at every step. Ours is λ times those of a
# batch's rows over its size. A user is one row in 943 of it, so that 1e-5 · 943 / 2 decays a user's
# row as much.
LIKED_L2 = {"DIN, L2 1e-5": "1e-5", "DIN, L2 0.005": "0.005"}
LIKED_EPOCHS = ("fit.epochs=8",)
# Every protocol of one negative a positive, and four of them for the two plainest.
_PROTOCOL = ("protocol", "draw", "reject", "negatives")
PROTOCOLS = (
    *product(("strict", "paper"), ("popularity", "uniform"), ("own", "seen"), ("1",)),
    ("strict", "popularity", "own", "4"),
    ("paper", "popularity", "own", "4"),
)


def _cell(label: str, recipe: str, base: str | None = None) -> Cell:
    return Cell(label, recipe, base=base, paper=PAPER.get(recipe))


def table2() -> Plan:
    rows = {
        "FM": "fm",
        "WideDeep": "widedeep",
        "DeepFM": "deepfm",
        "DIN": "din",
        "DIEN": DIEN,
        "DBPMaN": DBPMAN,
        "DeepMCP": f"{DBPMAN}+deepmcp",
        "DMR": "dmr+last_behaviour",
        "CL4CTR": f"{DBPMAN}+cl4ctr",
        "AT4CTR": DBPMAN + AT,
    }
    cells = tuple(_cell(k, v, None if k == "DBPMaN" else "DBPMaN") for k, v in rows.items())
    note = "DeepMCP, CL4CTR and AT4CTR stand on DBPMaN, as in the paper."
    return Plan("table2", "results", "Table 2, the models", cells, champion="AT4CTR", notes=(note,))


def table3(backbone: str) -> Plan:
    tasks = ("", "+uim", "+nip", AT)
    cells = tuple(
        _cell(backbone + task, backbone + task, backbone if task else None) for task in tasks
    )
    pairs = ((backbone + AT, f"{backbone}+uim"), (backbone + AT, f"{backbone}+nip"))
    note = "NIP alone is not in the paper."
    return Plan("table3", "results", "Table 3, the ablation", cells, pairs=pairs, notes=(note,))


def table4() -> Plan:
    rows = {
        "WideDeep": ("widedeep", "+uim"),
        "DeepFM": ("deepfm", "+uim"),
        "DIN": ("din", AT),
        "DIEN": (DIEN, AT),
        "DBPMaN": (DBPMAN, AT),
    }
    cells = []
    for label, (recipe, tasks) in rows.items():
        cells += [_cell(label, recipe), _cell(f"{label}_AT", recipe + tasks, label)]
    cells[-1] = replace(cells[-1], paper=TABLE4_DBPMAN_AT)
    note = "WideDeep and DeepFM see no history and take UIM alone, as in the paper."
    title = "Table 4, backbones with and without AT4CTR"
    return Plan("table4", "results", title, tuple(cells), notes=(note,))


def _rates(backbone: str) -> tuple[Cell, ...]:
    return tuple(
        Cell(f"{group}, w = {w}", recipe, (f"data.negative_rate={w}",), x=w, group=group,
             base=None if recipe == backbone else f"{backbone}, w = {w}")
        for w in RATES
        for group, recipe in ((backbone, backbone), (backbone + AT, backbone + AT))
    )  # fmt: skip


def table5(backbone: str) -> Plan:
    title = "Table 5, storage and training time against the rate w of kept negatives"
    return Plan("table5", "cost", title, _rates(backbone))


def figure2(backbone: str) -> Plan:
    title = "Fig. 2, AUC against the rate w of kept negatives"
    note = "The paper's Fig. 2 is of its Industry log."
    return Plan("fig2", "rates", title, _rates(backbone), notes=(note,))


def figure3(backbone: str) -> Plan:
    return _sweep("fig3", "Fig. 3, the weight of UIM", backbone, "uim", UIM_WEIGHTS)


def figure4(backbone: str) -> Plan:
    return _sweep("fig4", "Fig. 4, the weight of NIP", f"{backbone}+uim", "nip", NIP_WEIGHTS)


def _sweep(name: str, title: str, base: str, task: str, weights: Sequence[float]) -> Plan:
    cells = [Cell(base, base, x=0.0)]
    for w in weights:
        setting = (f"auxiliaries.{task}.weight={w}",)
        cells.append(Cell(f"{base}+{task}, λ = {w:g}", f"{base}+{task}", setting, base, x=w))
    note = (
        "In the paper, Fig. 3 and Fig. 4 are the same two sweeps on two datasets; here FIG=3 "
        "sweeps UIM (alone) and FIG=4 NIP (beside UIM at its own weight), on the dataset named."
    )
    return Plan(name, "sweep", title, tuple(cells), notes=(note,))


def figure5(backbone: str) -> Plan:
    cells = tuple(Cell(backbone + t, backbone + t) for t in ("", "+uim", AT))
    return Plan("fig5", "relevance", "Fig. 5, relevance of user and item", cells)


def external(dataset: str) -> Plan:
    if dataset == "movielens":
        (low, high), (least, most) = LIBRARIES
        note = (
            f"DIN of two public libraries has test AUC {low} to {high} and log loss {least} to "
            f"{most} over 3 seeds on the same rows: embedding 16, attention 80-40 with Dice, trunk "
            "200-80, Adam at 0.001, batches of 256, L2 1e-5, at most 8 epochs, the best "
            "validation AUC. FuxiCTR's L2 is half of λ times the squares of all embeddings at "
            "every step. Ours is λ times those of a batch's rows over its size. So 0.005 decays a "
            "user's row here about as 1e-5 does there."
        )
        title = "DIN against public libraries on MovieLens-100K"
        each = ((k, (*LIKED, f"embedding.l2={l2}")) for k, l2 in LIKED_L2.items())
        cells = [Cell(label, "din", setting) for label, setting in each]
        return Plan("external", "results", title, tuple(cells), notes=(note,),
                    defaults=LIKED_EPOCHS)  # fmt: skip
    if dataset not in AQCL:
        known = [*AQCL, "movielens"]
        raise unknown("dataset with published baselines (TABLE=external)", dataset, known)
    cells = []
    for values in PROTOCOLS:
        protocol = tuple(f"data.{k}={v}" for k, v in zip(_PROTOCOL, values, strict=True))
        setting = (*AQCL_TRAINING, *protocol)
        group = ", ".join(f"{k} {v}" for k, v in zip(_PROTOCOL, values, strict=True))
        cells += [Cell(f"{r}: {group}", r, setting, group=group) for r in AQCL[dataset]]
    title = "Baselines against AQCL's Table 3"
    return Plan("external", "external", title, tuple(cells), defaults=AQCL_EPOCHS)


_RATE = "fit.learning_rate"
_PLAIN = (
    (_RATE, "head.dropout", "embedding.l2"),
    (("0.003", "0", "0"), ("0.01", "0", "0"), ("0.003", "0.2", "0.001")),
)
_FM = ((_RATE, "embedding.l2"), (("0.003", "0"), ("0.01", "0"), ("0.01", "0.001")))


def _weighted(low: str, high: str, *fields: str) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Two learning rates at the low weights, the smaller one at the high weights too."""
    names = (_RATE, *(f"auxiliaries.{field}" for field in fields))
    trials = (("0.003", low), ("0.003", high), ("0.01", low))
    return names, tuple((rate, *weights.split(",")) for rate, weights in trials)


_BOTH = _weighted("0.1,0.01", "0.3,0.03", "uim.weight", "nip.weight")
_UIM = _weighted("0.1", "0.3", "uim.weight")
# label -> recipe, and fields with the values of each trial
TUNING: dict[str, tuple[str, tuple[tuple[str, ...], Sequence[Sequence[str]]]]] = {
    "FM": ("fm", _FM),
    "WideDeep": ("widedeep", _PLAIN),
    "WideDeep_AT": ("widedeep+uim", _UIM),
    "DeepFM": ("deepfm", _PLAIN),
    "DeepFM_AT": ("deepfm+uim", _UIM),
    "DIN": ("din", _PLAIN),
    "DIN_AT": ("din" + AT, _BOTH),
    "DMR": ("dmr+last_behaviour", _weighted("0.1", "1", "last_behaviour.weight")),
    "DIEN": (DIEN, _weighted("0.2", "2", "next_behaviour.weight")),
    "DIEN_AT": (DIEN + AT, _BOTH),
    "DBPMaN": (DBPMAN, _weighted("0.01", "0.1", "path_augmenting.weight")),
    "AT4CTR": (DBPMAN + AT, _BOTH),
    "DeepMCP": (
        f"{DBPMAN}+deepmcp",
        _weighted("0.5,0.01", "5,0.01", "deepmcp.matching", "deepmcp.correlation"),
    ),
    "CL4CTR": (f"{DBPMAN}+cl4ctr", _weighted("0.01", "0.1", "cl4ctr.weight")),
}


def tuning() -> Plan:
    cells = []
    for method, (recipe, (names, trials)) in TUNING.items():
        for values in trials:
            setting = tuple(f"{n}={v}" for n, v in zip(names, values, strict=True))
            shown = ", ".join(s.removeprefix("auxiliaries.") for s in setting)
            cells.append(Cell(f"{method}: {shown}", recipe, setting, group=method))
    return Plan("tuning", "tuning", "Trials on validation", tuple(cells))


NAMED = {"din_at4ctr": "din" + AT}  # recipes with a file of their own


def recipes(names: Sequence[str]) -> Plan:
    """Any recipes side by side, each compared with the longest listed one that lies within it.
    Where none lies within another, all are compared with the first one.
    """
    listed = list(dict.fromkeys(filter(None, (name.strip() for name in names))))
    if not listed:
        raise InputError(
            "RECIPES is empty; expected names such as RECIPES=din,din+uim; name at least one, or "
            "leave RECIPES out"
        )
    bases = [_within(name, listed) for name in listed]
    if not any(bases):
        bases = [None, *[listed[0]] * (len(listed) - 1)]
    cells = tuple(Cell(n, n, base=base) for n, base in zip(listed, bases, strict=True))
    return Plan("comparison", "results", ", ".join(listed), cells)


def _within(name: str, listed: Sequence[str]) -> str | None:
    """The listed recipe of the same backbone with most of a recipe's tasks, but not with all."""
    backbone, tasks = _parts(name)
    inner = [
        (len(theirs), other)
        for other in listed
        for first, theirs in (_parts(other),)
        if first == backbone and theirs < tasks
    ]
    return max(inner, key=lambda pair: pair[0])[1] if inner else None


def _parts(name: str) -> tuple[str, set[str]]:
    """Backbone and tasks of a recipe's name."""
    first, *tasks = NAMED.get(name, name).split("+")
    return first, set(tasks)


TABLES = ("2", "3", "4", "5", "external", "tuning")
FIGURES = ("2", "3", "4", "5")


def plan(
    dataset: str,
    table: str,
    figure: str,
    backbone: str,
    other_tables: Sequence[str] = (),
    other_figures: Sequence[str] = (),
) -> Plan:
    """The plan of TABLE= or FIG=. backbone: '' is DBPMaN, and DIN where many settings are swept.
    other_tables, other_figures: further names, for the message about an unknown one.
    """
    for kind, value, known in (
        ("TABLE", table, (*TABLES, *other_tables)),
        ("FIG", figure, (*FIGURES, *other_figures)),
    ):
        if value and value not in known:
            raise unknown(kind, value, known)
    if table and figure:
        raise InputError(
            f"TABLE={table} and FIG={figure} are both given; expected one of them; drop one"
        )
    if backbone and table in ("2", "4", "external", "tuning"):
        raise InputError(
            f"TABLE={table} names its own backbones and BACKBONE={backbone} is given; expected "
            "BACKBONE with TABLE=3, TABLE=5 or FIG=2 to 5; drop it"
        )
    if table:
        return {
            "2": table2,
            "3": lambda: table3(backbone or DBPMAN),
            "4": table4,
            "5": lambda: table5(backbone or "din"),
            "external": lambda: external(dataset),
            "tuning": tuning,
        }[table]()
    if figure == "5":
        return figure5(backbone or DBPMAN)
    return {"2": figure2, "3": figure3, "4": figure4}[figure](backbone or "din")
