"""The tables of AQCL (Pan et al., "Click-Through Rate Prediction with Auto-Quantized Contrastive
Learning"), and sweeps of its settings.

``TABLE=aqcl2`` and ``aqcl3``, and ``FIG=aqcl_weight``, ``aqcl_codewords`` and ``aqcl_nearest``, on
Amazon Beauty and Ta Feng. The protocol is the nearest to the paper's
(``TABLE=external``): ``paper``, negatives drawn uniformly. ``TABLE=aqcl2_strict`` has DIN, ICL and
AQCL under ``strict``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from at4ctr.errors import InputError
from at4ctr.evaluation import ACTIVENESS_GROUPS
from pipelines.tables.plans import Cell, Plan

DATASETS = ("amazon_beauty", "tafeng")
PAPER = ("data.protocol=paper", "data.draw=uniform")
# The paper's own training is one rate and dropout.
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "amazon_beauty": ("fit.learning_rate=0.001", "head.dropout=0.2", "fit.epochs=3"),
    "tafeng": ("fit.learning_rate=0.001", "head.dropout=0.2", "fit.epochs=3", "data.history=50"),
}  # fmt: skip
METHODS = {  # of Table 2
    "DIN": "din",
    "DropoutNet": "din+dropoutnet",
    "DeepMCP": "din+deepmcp",
    "DMR": "dmr+last_behaviour",
    "ICL": "din+icl",
    "AQCL": "din+aqcl",
}
# Dataset -> method -> overrides that validation chose. Each method had six trials of `make tune` on
# half of Beauty's users and a quarter of Ta Feng's, seed 0, over the rate (log:0.001:0.01) and
# DIN's dropout (0 or 0.2; 0 for the others), DropoutNet's two rates (0.02:0.2), the weight of
# DeepMCP (log:0.03:1), of DMR's loss (log:0.01:0.3), of ICL and AQCL (log:0.0005:0.05), and the
# last two's mask.
CHOSEN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "amazon_beauty": {
        "DIN": ("fit.learning_rate=0.008351", "head.dropout=0.2"),
        "DropoutNet": ("fit.learning_rate=0.008227", "head.dropout=0",
                       "perturbations.dropoutnet.user=0.1616",
                       "perturbations.dropoutnet.item=0.04821"),
        "DeepMCP": ("fit.learning_rate=0.009121", "head.dropout=0",
                    "auxiliaries.deepmcp.weight=0.1781"),
        "DMR": ("fit.learning_rate=0.004472", "head.dropout=0",
                "auxiliaries.last_behaviour.weight=0.01309"),
        "ICL": ("fit.learning_rate=0.007222", "head.dropout=0",
                "auxiliaries.icl.weight=0.001605", "auxiliaries.icl.mask=0.1"),
        "AQCL": ("fit.learning_rate=0.002729", "head.dropout=0",
                 "auxiliaries.aqcl.weight=0.0005634", "auxiliaries.aqcl.mask=0.05"),
    },
    "tafeng": {
        "DIN": ("fit.learning_rate=0.002612", "head.dropout=0"),
        "DropoutNet": ("fit.learning_rate=0.002612", "head.dropout=0",
                       "perturbations.dropoutnet.user=0.1497",
                       "perturbations.dropoutnet.item=0.02002"),
        "DeepMCP": ("fit.learning_rate=0.002612", "head.dropout=0",
                    "auxiliaries.deepmcp.weight=0.375"),
        "DMR": ("fit.learning_rate=0.002612", "head.dropout=0",
                "auxiliaries.last_behaviour.weight=0.1159"),
        "ICL": ("fit.learning_rate=0.002278", "head.dropout=0",
                "auxiliaries.icl.weight=0.004678", "auxiliaries.icl.mask=0.3"),
        "AQCL": ("fit.learning_rate=0.002729", "head.dropout=0",
                 "auxiliaries.aqcl.weight=0.0005634", "auxiliaries.aqcl.mask=0.05"),
    },
}  # fmt: skip
TRIED = {"amazon_beauty": "half", "tafeng": "a quarter"}  # of the users, in the trials
# AUC of Table 2: overall, and of non-, slightly and highly active users
TABLE2 = {
    "amazon_beauty": {
        "DIN": (0.6956, 0.6719, 0.7064, 0.7998),
        "DropoutNet": (0.6929, 0.6691, 0.7034, 0.7975),
        "DeepMCP": (0.7053, 0.6797, 0.7191, 0.8097),
        "DMR": (0.6982, 0.6736, 0.7087, 0.8064),
        "ICL": (0.7016, 0.6767, 0.7138, 0.8059),
        "AQCL": (0.7078, 0.6826, 0.7231, 0.8105),
    },
    "tafeng": {
        "DIN": (0.6865, 0.6783, 0.6929, 0.7009),
        "DropoutNet": (0.6812, 0.6762, 0.6843, 0.6927),
        "DeepMCP": (0.6881, 0.6791, 0.6947, 0.7057),
        "DMR": (0.6880, 0.6806, 0.6930, 0.7031),
        "ICL": (0.6914, 0.6812, 0.6931, 0.7032),
        "AQCL": (0.6931, 0.6832, 0.6969, 0.7098),
    },
}
TABLE3 = {  # AUC without and with AQCL
    "amazon_beauty": {"Wide & Deep": (0.6803, 0.6841), "DeepFM": (0.6810, 0.6848),
                      "DIN": (0.6956, 0.7078)},
    "tafeng": {"Wide & Deep": (0.6716, 0.6732), "DeepFM": (0.6721, 0.6768),
               "DIN": (0.6865, 0.6931)},
}  # fmt: skip
BACKBONES = {"Wide & Deep": "widedeep", "DeepFM": "deepfm", "DIN": "din"}
SWEEPS = {  # the field, its symbol, its values, and the row that the others are compared with
    "aqcl_weight": ("weight", "λ", (0.001, 0.005, 0.01, 0.05, 0.1), "DIN"),
    "aqcl_codewords": ("codewords", "T", (32, 128, 512), "T = 128"),
    "aqcl_nearest": ("nearest", "K", (1, 5, 10), "K = 5"),
}
DMR_NOTE = (
    "DMR is the whole model with its own auxiliary loss, where the paper adds the loss to DIN: the "
    "loss reads DMR's own states."
)
NEGATIVES_NOTE = "AQCL's columns are of its own negatives, which it does not describe."
ORDER_NOTE = (
    "Beauty's reviews of one day are not in the order of the official file here, which may be a "
    "part of the distance to the paper."
)
RATES_OF_TABLE3 = (
    "Wide & Deep and DeepFM had no trials of their own: with and without AQCL they have the rate, "
    "dropout, weight and mask that were chosen for DIN with AQCL."
)


def _chosen(dataset: str, method: str) -> tuple[str, ...]:
    return CHOSEN.get(dataset, {}).get(method, ())


def _plan(dataset: str, name: str, title: str, cells: list[Cell], *protocol: str) -> Plan:
    said = (
        "Settings were chosen on validation by six trials of `make tune` for each method, with "
        f"uniform negatives, {TRIED[dataset]} of the users and a seed that no row has (`CHOSEN` in "
        "`pipelines/tables/aqcl.py`)."
    )
    notes = [DMR_NOTE] * any(c.label == "DMR" for c in cells)
    notes += [NEGATIVES_NOTE] * any(c.printed for c in cells)
    notes += [ORDER_NOTE] * (dataset == "amazon_beauty")
    return Plan(
        name, "activeness", title, tuple(cells), notes=(said, *notes),
        defaults=(*DEFAULTS[dataset], *protocol),
    )  # fmt: skip


def _printed(values: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(("auc", *ACTIVENESS_GROUPS), values, strict=True))


def table2(dataset: str) -> Plan:
    cells = [
        Cell(m, r, _chosen(dataset, m), "DIN" if m != "DIN" else None,
             printed=_printed(TABLE2[dataset][m]))
        for m, r in METHODS.items()
    ]  # fmt: skip
    plan = _plan(dataset, "aqcl2", "AQCL's Table 2, methods for cold users", cells, *PAPER)
    return replace(plan, pairs=(("AQCL", "ICL"),))


def strict2(dataset: str) -> Plan:
    cells = [
        Cell(m, METHODS[m], _chosen(dataset, m), "DIN" if m != "DIN" else None)
        for m in ("DIN", "ICL", "AQCL")
    ]
    title = "DIN, ICL and AQCL under the strict protocol"
    plan = _plan(dataset, "aqcl2_strict", title, cells)
    return replace(plan, pairs=(("AQCL", "ICL"),))


def table3(dataset: str) -> Plan:
    cells = []
    for name, (without, with_it) in TABLE3[dataset].items():
        recipe, ours = BACKBONES[name], f"{name} + AQCL"
        setting = _chosen(dataset, "AQCL")
        alone = tuple(a for a in setting if not a.startswith("auxiliaries."))
        alone = _chosen(dataset, name) if name in METHODS else alone
        cells.append(Cell(name, recipe, alone, printed={"auc": without}))
        cells.append(Cell(ours, f"{recipe}+aqcl", setting, name, printed={"auc": with_it}))
    title = "AQCL's Table 3, AQCL on three backbones"
    plan = _plan(dataset, "aqcl3", title, cells, *PAPER)
    return replace(plan, notes=(*plan.notes, RATES_OF_TABLE3))


def sweep(dataset: str, figure: str) -> Plan:
    field, symbol, values, base = SWEEPS[figure]
    chosen = [a for a in _chosen(dataset, "AQCL") if not a.startswith(f"auxiliaries.aqcl.{field}=")]
    cells = [Cell("DIN", "din", _chosen(dataset, "DIN"), x=0.0)] if base == "DIN" else []
    for value in values:
        label, setting = f"{symbol} = {value:g}", (*chosen, f"auxiliaries.aqcl.{field}={value:g}")
        compared = None if label == base else base
        cells.append(Cell(label, "din+aqcl", setting, compared, x=float(value)))
    plan = _plan(dataset, f"fig-{figure}", f"AQCL's {symbol}", cells, *PAPER)
    return replace(plan, axis=symbol)


TABLES = {"aqcl2": table2, "aqcl2_strict": strict2, "aqcl3": table3}
FIGURES = tuple(SWEEPS)


def plan(dataset: str, table: str, figure: str) -> Plan:
    """The plan of TABLE= or FIG=."""
    if dataset not in DATASETS:
        name = f"TABLE={table}" if table else f"FIG={figure}"
        raise InputError(
            f"{name} compares methods on the logs of AQCL's paper, and DATASET={dataset} is none; "
            f"expected one of {', '.join(DATASETS)}; name it by DATASET"
        )
    return TABLES[table](dataset) if table else sweep(dataset, figure)
