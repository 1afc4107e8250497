"""The tables and figures of CTnoCVR (Zhang et al., SIGIR 2022) and PICO (Lin et al., AAAI 2023).

Both papers put multi-task heads on a plain network of embeddings, and so do these plans: backbone
``dnn``, embeddings of 8, three layers of 64, 32 and 16 of which the first is shared or an expert
(PICO §4.4, its sizes for Ali-CCP). ``TABLE=multitask_trials`` tries the same settings for every
method, and `CHOSEN` holds those with the best validation AUC of ``click_and_conversion``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from at4ctr.errors import InputError
from pipelines.tables.plans import Cell, Plan

DATASETS = ("retailrocket", "aliccp", "taobao_funnel")
JOINT = "click_and_conversion"
_SHARED = ("head.bottom=64", "head.units=32,16")
_EXPERTS = ("head.expert=64", "head.tower=32,16")
HEADS: Mapping[str, tuple[str, ...]] = {
    "Single-DNN": ("head=single_dnn", "head.units=64,32,16"),
    "Shared-Bottom": ("head=shared_bottom", "head.bottom=64", "head.tower=32,16"),
    "Cross-Stitch": ("head=cross_stitch", *_SHARED),
    "MMoE": ("head=mmoe", "head.experts=3", *_EXPERTS),
    "PLE": ("head=ple", "head.own=1", "head.shared=1", *_EXPERTS),
    "AutoHERI": ("head=autoheri", *_SHARED),
}
ESMM = (*HEADS["Shared-Bottom"], "tasks.conversion.over=all")
METHODS: Mapping[str, tuple[str, tuple[str, ...]]] = {  # label -> recipe, overrides
    **{name: ("dnn", head) for name, head in HEADS.items()},
    "AITM": ("dnn", ("head=aitm", *_SHARED)),
    "ESMM": ("dnn", ESMM),
    "PICO (Shared-Bottom)": ("dnn+pico", HEADS["Shared-Bottom"]),
    "PICO (MMoE)": ("dnn+pico", HEADS["MMoE"]),
    "PICO (PLE)": ("dnn+pico", HEADS["PLE"]),
    "ESMM + CTnoCVR": ("dnn+ctnocvr", ESMM),
    "MMoE + CTnoCVR": ("dnn+ctnocvr", HEADS["MMoE"]),
    "CGC + CTnoCVR": ("dnn+ctnocvr", HEADS["PLE"]),
}
TRIALS = (
    ("fit.learning_rate=0.001", "embedding.l2=0"),
    ("fit.learning_rate=0.003", "embedding.l2=0"),
    ("fit.learning_rate=0.001", "embedding.l2=0.001"),
)
# Of every run. An epoch is short, so the weights of the best one are kept.
DEFAULTS = (
    "embedding.dimension=8", "fit.epochs=10", "fit.patience=2", f"fit.watch={JOINT}.auc",
)  # fmt: skip
SIZES: Mapping[str, tuple[str, ...]] = {  # of each dataset
    "retailrocket": ("fit.batch_size=512",),
    "taobao_funnel": ("fit.batch_size=512",),
    "aliccp": (
        "backbone.pool_history=false", "fit.batch_size=512", "data.impressions=200000",
        "data.click_rate=0.1", "data.conversion_rate=0.1",
    ),
}  # fmt: skip
CHOSEN: Mapping[str, Mapping[str, tuple[str, ...]]] = {  # dataset -> method -> its best trial
    "retailrocket": {
        **dict.fromkeys(METHODS, TRIALS[1]),
        **dict.fromkeys(("PICO (Shared-Bottom)", "MMoE + CTnoCVR"), TRIALS[0]),
    }
}
# Click and conversion AUC on Ali-CCP, PICO's Table 2; its Table 4 is of a log that is not public.
PICO_TABLE2 = {
    "Single-DNN": (61.975, 59.525),
    "Shared-Bottom": (61.977, 61.643),
    "Cross-Stitch": (61.936, 61.782),
    "MMoE": (61.843, 60.111),
    "PLE": (61.889, 60.499),
    "AutoHERI": (61.968, 60.387),
    "PICO (Shared-Bottom)": (61.886, 61.928),
}
PICO_TABLE3 = {  # Ecomm-Ads, which is not public; on MMoE
    "PICO (MMoE)": (83.667, 87.569),
    "fixed temperature": (83.659, 87.493),
    "statistical temperature": (83.637, 87.381),
    "without negatives": (83.628, 87.344),
    "without contrast": (83.670, 87.326),
    "MMoE": (83.642, 87.393),
}
PICO_TABLE4 = {  # Ecomm-Ads
    "Shared-Bottom": (83.622, 87.354),
    "PICO (Shared-Bottom)": (83.642, 87.557),
    "MMoE": (83.642, 87.393),
    "PICO (MMoE)": (83.667, 87.569),
    "PLE": (83.660, 87.188),
    "PICO (PLE)": (83.652, 87.515),
}
CTNOCVR_TABLE3 = {  # conversion AUC on Ali-CCP, of the paper's own sample and split
    "ESMM": 67.11,
    "ESMM + CTnoCVR": 68.02,
    "MMoE": 69.13,
    "MMoE + CTnoCVR": 69.61,
    "PLE": 69.03,
    "CGC + CTnoCVR": 69.80,
}
# Of Table 3: the setting that leaves a part of PICO out.
ABLATIONS = {
    "fixed temperature": ("auxiliaries.pico.temperature=fixed",),
    "statistical temperature": ("auxiliaries.pico.temperature=statistical",),
    "without negatives": ("auxiliaries.pico.negatives=false",),
    "without contrast": ("auxiliaries.pico.beta=0",),
}
CVR_WEIGHTS = (0.2, 0.5, 1.0, 2.0, 5.0)
PUBLIC = (
    "On the whole official Ali-CCP files public results are a click AUC of 0.59 to 0.62 and a "
    "conversion AUC of 0.60 to 0.70, by split and population. Train on them with RAW=folder and "
    "without the data options of the log's size."
)
SIMULATED = (
    "The log is simulated in Ali-CCP's format. It has clickbait by construction: 5 % of its items "
    "are clicked much and bought little. What CTnoCVR gains here, it gains on what was built in."
)


def _printed(click: float | None, conversion: float) -> dict[str, float]:
    found = {} if click is None else {"click.auc": click / 100}
    return {**found, "conversion.auc": conversion / 100}


def _cell(dataset: str, method: str, base: str | None, printed: Mapping[str, float]) -> Cell:
    recipe, overrides = METHODS[method]
    chosen = CHOSEN.get(dataset, {}).get(method, ())
    return Cell(method, recipe, (*overrides, *chosen), base=base, printed=printed)


def _plan(dataset: str, name: str, title: str, cells: list[Cell], *notes: str) -> Plan:
    more = (PUBLIC, SIMULATED) if dataset == "aliccp" else ()
    said = (
        f"Every method had the {len(TRIALS)} trials of TABLE=multitask_trials."
        if CHOSEN.get(dataset)
        else "No settings were tuned for this dataset: all methods have the defaults."
    )
    return Plan(
        name, "labels", title, tuple(cells), notes=(said, *notes, *more),
        defaults=(*DEFAULTS, *SIZES[dataset]),
    )  # fmt: skip


def pico2(dataset: str) -> Plan:
    cells = [
        _cell(
            dataset, name, "Shared-Bottom" if name != "Shared-Bottom" else None, _printed(*values)
        )
        for name, values in PICO_TABLE2.items()
    ]
    cells.append(_cell(dataset, "AITM", "Shared-Bottom", {}))
    note = "AITM is not in the paper. The paper's columns are of the whole Ali-CCP log."
    return _plan(dataset, "pico2", "PICO's Table 2, multi-task methods", cells, note)


def pico3(dataset: str) -> Plan:
    cells = []
    for name, values in PICO_TABLE3.items():
        method, setting = (name, ()) if name in METHODS else ("PICO (MMoE)", ABLATIONS[name])
        base = None if name == "MMoE" else "MMoE" if name in METHODS else "PICO (MMoE)"
        cell = _cell(dataset, method, base, _printed(*values))
        cells.append(replace(cell, label=name, overrides=(*cell.overrides, *setting)))
    note = (
        "The variants leave one part of PICO out and keep its settings. The paper's columns are of "
        "its Ecomm-Ads log, which is not public."
    )
    return _plan(dataset, "pico3", "PICO's Table 3, the ablation", cells, note)


def pico4(dataset: str) -> Plan:
    cells = []
    for name, values in PICO_TABLE4.items():
        head = name.removeprefix("PICO (").removesuffix(")")
        cells.append(_cell(dataset, name, None if head == name else head, _printed(*values)))
    note = "The paper's columns are of its Ecomm-Ads log, which is not public."
    return _plan(dataset, "pico4", "PICO's Table 4, PICO on several heads", cells, note)


def pico_layers(dataset: str) -> Plan:
    """PICO's Fig. 3: which layer of the towers is contrasted, where the embeddings alone are
    shared."""
    recipe, _ = METHODS["PICO (Shared-Bottom)"]
    head = HEADS["Single-DNN"]
    chosen = CHOSEN.get(dataset, {}).get("PICO (Shared-Bottom)", ())
    cells = [Cell("no contrast", "dnn", (*head, *chosen), x=0.0)]
    for layer in range(3):
        setting = (*head, *chosen, f"auxiliaries.pico.layer={layer}")
        cells.append(Cell(f"layer {layer + 1}", recipe, setting, "no contrast", x=layer + 1.0))
    note = "The heads are separate networks on shared embeddings, as in the paper."
    plan = _plan(dataset, "fig-pico3", "PICO's Fig. 3, the layer that is contrasted", cells, note)
    return replace(plan, axis="layer that is contrasted (0: none)")


def ctnocvr3(dataset: str) -> Plan:
    cells = []
    for name, value in CTNOCVR_TABLE3.items():
        base = {"ESMM + CTnoCVR": "ESMM", "MMoE + CTnoCVR": "MMoE", "CGC + CTnoCVR": "PLE"}
        cell = _cell(dataset, name, base.get(name), _printed(None, value))
        halved = () if "CTnoCVR" in name else ("tasks.conversion.weight=0.5",)
        cells.append(replace(cell, overrides=(*cell.overrides, *halved)))
    note = (
        "The loss of the conversion has the weight 0.5 in every row, the best of the paper's "
        "Figure 3a. CGC is PLE of one level. The paper's column is of its own sample of Ali-CCP."
    )
    return _plan(dataset, "ctnocvr3", "CTnoCVR's Table 3", cells, note)


def ctnocvr_weights(dataset: str) -> Plan:
    """CTnoCVR's Fig. 3a: the weight of the conversion's loss, on MMoE and CGC."""
    cells = []
    for name in ("MMoE + CTnoCVR", "CGC + CTnoCVR"):
        for w in CVR_WEIGHTS:
            cell = _cell(dataset, name, None, {})
            setting = (*cell.overrides, f"tasks.conversion.weight={w}")
            cells.append(
                replace(cell, label=f"{name}, λ₁ = {w:g}", overrides=setting, x=w, group=name)
            )
    plan = _plan(dataset, "fig-ctnocvr3", "CTnoCVR's Fig. 3a, the conversion's weight", cells)
    return replace(plan, axis="weight of the conversion's loss")


def trials(dataset: str) -> Plan:
    cells = [
        Cell(f"{method}: {', '.join(setting)}", recipe, (*overrides, *setting), group=method)
        for method, (recipe, overrides) in METHODS.items()
        for setting in TRIALS
    ]
    return Plan(
        "multitask_trials", "tuning", "Trials of multi-task methods on validation", tuple(cells),
        defaults=(*DEFAULTS, *SIZES[dataset]), metric=f"validation.labels.{JOINT}.auc",
        chosen="`CHOSEN` in `pipelines/tables/multitask.py`",
    )  # fmt: skip


TABLES = {
    "ctnocvr3": ctnocvr3, "pico2": pico2, "pico3": pico3, "pico4": pico4,
    "multitask_trials": trials,
}  # fmt: skip
FIGURES = {"ctnocvr3": ctnocvr_weights, "pico3": pico_layers}


def plan(dataset: str, table: str, figure: str) -> Plan:
    """The plan of TABLE= or FIG=, of a dataset of clicks and conversions."""
    if dataset not in DATASETS:
        name = f"TABLE={table}" if table else f"FIG={figure}"
        raise InputError(
            f"{name} compares clicks and conversions, and DATASET={dataset} has none of these; "
            f"expected one of {', '.join(DATASETS)}; name it by DATASET"
        )
    return TABLES[table](dataset) if table else FIGURES[figure](dataset)
