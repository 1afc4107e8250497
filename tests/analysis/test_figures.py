"""Figures: both formats exist, axes are labelled, the same numbers give the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from at4ctr.analysis import figures, plots
from at4ctr.analysis.figures import Line
from at4ctr.analysis.relevance import Relevance
from at4ctr.evaluation import Predictions

LINES = [
    Line("din", [(0.1, [0.7, 0.72]), (1.0, [0.75, 0.74])]),
    Line("din+uim+nip", [(0.1, [0.73]), (1.0, [])]),
]


def rates(path):
    figures.rates(LINES, path, "tafeng: Fig. 2")


def sweep(path):
    base = [Line("test, din", [(0.0, [0.7, 0.71])])]
    figures.sweep(LINES, base, 0.1, "weight of UIM", path, "tafeng: Fig. 3")


def densities(path):
    rng = np.random.default_rng(0)
    draws = rng.uniform(-1, 1, (2, 100))
    figures.densities([("din", [Relevance(*draws)])], path, "tafeng: Fig. 5")


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (rates, ["rate of kept training negatives", "test AUC", "din+uim+nip", "Fig. 2"]),
        (sweep, ["weight of UIM", ">AUC<", "best on validation", "test, din"]),
        (densities, ["cosine of user and item", "density", "din, shuffled"]),
    ],
)
def test_labelled_and_repeatable(draw, said, tmp_path):
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.png")
    svg = (tmp_path / "a.svg").read_text()
    for text in said:
        assert text in svg
    for kind in ("png", "svg"):
        first, second = ((tmp_path / f"{n}.{kind}").read_bytes() for n in ("a", "b"))
        assert first == second
        assert len(first) > 1000
    assert "<dc:date>" not in svg


def test_a_picture_of_one_of_several_labels_has_its_name(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(plots, "finish", lambda _figure, _path, title: titles.append(title))
    labels = np.arange(200) % 2
    found = Predictions(labels, labels - 0.5, np.arange(200), np.ones(200), None)
    plots.reliability(found, tmp_path / "x.png", "conversion", simulated=False)
    plots.reliability(found, tmp_path / "x.png", simulated=True, before=found.calibrated)
    assert titles == ["Reliability, test, conversion", "Reliability, test (simulated log)"]


def test_curves_name_training_and_validation_and_leave_out_what_never_changes(monkeypatch):
    """A run with a falling loss, one validation at its end, a sample between, and one rate."""
    drawn = []
    monkeypatch.setattr(plots, "finish", lambda figure, *_: drawn.append(figure))
    points = [
        {"step": s, "click": 1 / s, "total": 2 / s, "learning_rate": 1e-3} for s in range(1, 9)
    ]
    points += [{"step": s, "sample click.auc": 0.5 + s / 99, "sample click.logloss": 1 / s}
               for s in (2, 6)]  # fmt: skip
    points += [{"step": 8, "validation click.auc": 0.6, "validation click.logloss": 0.2}]
    plots.curves(points, Path("x.png"), simulated=False)
    (figure,) = drawn
    found = {
        axis.get_ylabel().replace("\n", " "): {
            line.get_label(): line.get_color() for line in axis.get_lines()
        }
        for axis in figure.axes
    }
    training, sample = {"training": "C0"}, {"validation, sample": "0.45"}
    validation = {"validation": "C1"} | sample
    assert found == {
        "click": training | validation,
        "total": training,
        "validation click auc": validation,
    }
    for axis in figure.axes:
        texts = [text.get_text() for text in axis.get_legend().get_texts()]
        assert texts == [line.get_label() for line in axis.get_lines()]
    drawn.clear()
    plots.curves([{"step": s, "click": 0.5} for s in (1, 2)], Path("x.png"), simulated=False)
    assert len(drawn[0].axes) == 1  # nothing else is left to draw
