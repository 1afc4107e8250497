"""The page of a study: trials, importance and history as Markdown with pictures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from at4ctr.analysis import figures
from at4ctr.analysis.tables import NONE, markdown
from at4ctr.durable import replaced
from pipelines.tuning import space as spaces_of
from pipelines.tuning.study import Study

FILE = "report.md"
STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
NOTE = (
    "All trials have the same seed, 0 unless SET names one, which no table of results uses. No "
    "trial reads a test row. The best of many trials is partly luck: expect a lower value on "
    "another seed, and compare on several."
)
IMPORTANCE = (
    "Importance is the share of the variance of the finished trials that a field explains alone "
    "(functional ANOVA of a random forest, Hutter et al. 2014). Few trials give a rough picture."
)


def train_command(dataset: str, recipe: str, raw: str, overrides: Sequence[str]) -> str:
    """``make train`` of a recipe with overrides."""
    words = {"DATASET": dataset, "CONFIG": recipe, "RAW": raw, "SET": spaces_of.quoted(overrides)}
    shown = (f'{k}="{v}"' if " " in v or "'" in v else f"{k}={v}" for k, v in words.items() if v)
    return " ".join(["make train", *shown])


def write_text(path: Path, lines: Sequence[str]) -> Path:
    """Writes the lines of a page: old or new, never half."""
    with replaced(path) as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write(
    study: Study, title: str, command: str, train: str, fixed: str, *, simulated: bool
) -> Path:
    """``report.md`` of a study, with ``history.png`` and ``importance.png`` beside it.

    fixed: the overrides that all trials share, as a text.
    """
    best, ended = study.best, study.ended
    counted = {said: sum(t.state == s for t in ended) for s, said in STATES.items()}
    counts = ", ".join(f"{n} {said}" for said, n in counted.items() if n) or "none has ended"
    title += " (simulated log)" * simulated
    lines = [f"# {title}", "", f"`{command}`", ""]
    lines += [f"{len(ended)} of {study.trials} trials: {counts}. {NOTE}", ""]
    if best is not None:
        shown = spaces_of.quoted(spaces_of.assignments(study.spaces, best.params))
        lines += [f"Best validation {study.watch}: **{best.value:.4f}**, trial {best.number + 1}: "
                  f"`{shown}`.", "", "```", train, "```", ""]  # fmt: skip
    lines += _pictures(study, title)
    header = ["trial", *(s.field for s in study.spaces), study.watch, "evaluations", "s", "end"]
    lines += ["## Trials", "", *markdown(header, [_row(study, t, best) for t in ended])]
    if fixed:
        lines += ["", f"Every trial has `{fixed}`."]
    reasons = [f"- trial {t.number + 1}: {' '.join(t.user_attrs.get('why', '').split())}"
               for t in ended if t.state == TrialState.FAIL]  # fmt: skip
    if reasons:
        lines += ["", "## Failed", "", *reasons]
    return write_text(study.folder / FILE, lines)


def _row(study: Study, trial: FrozenTrial, best: FrozenTrial | None) -> list[str]:
    seen = list(trial.intermediate_values.values())
    value = trial.value
    if value is None and seen:
        value = study.sign * max(study.sign * v for v in seen)
    mark = "**" if best is not None and trial.number == best.number else ""
    settings = [s.text(trial.params[s.field]) if s.field in trial.params else NONE
                for s in study.spaces]  # fmt: skip
    seconds = trial.user_attrs.get("seconds")
    return [
        str(trial.number + 1), *settings,
        NONE if value is None else f"{mark}{value:.4f}{mark}", str(len(seen)),
        NONE if seconds is None else f"{seconds:.0f}", STATES[trial.state],
    ]  # fmt: skip


def importance(study: Study) -> Mapping[str, float]:
    """Field -> its importance; {} where too few trials finished or their values are equal."""
    finished = [t for t in study.ended if t.state == TrialState.COMPLETE]
    varied = {s.field for s in study.spaces if len({t.params[s.field] for t in finished}) > 1}
    if len(finished) < 4 or not varied or len({t.value for t in finished}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study.optuna, evaluator=evaluator)


def _pictures(study: Study, title: str) -> list[str]:
    points = [
        (t.number + 1, value, t.state == TrialState.COMPLETE)
        for t in study.ended
        for value in [t.value if t.state == TrialState.COMPLETE else _last(t)]
        if value is not None
    ]
    if not points:
        return []
    name = study.watch
    figures.history(points, study.sign, name, study.folder / "history.png", title)
    lines = ["![history](history.png)", ""]
    if shares := importance(study):
        figures.shares(shares, study.folder / "importance.png", title)
        lines += ["![importance](importance.png)", "", IMPORTANCE, ""]
    return lines


def _last(trial: FrozenTrial) -> float | None:
    values = trial.intermediate_values
    return values[max(values)] if values else None
