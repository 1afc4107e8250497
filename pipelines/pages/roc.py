"""ROC curves of scores on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from at4ctr import metrics
from at4ctr.analysis import plots

mpl.use("Agg")
import matplotlib.pyplot as plt

Floats = npt.NDArray[np.float64]
LOOKS = (("#0072b2", "-"), ("#c1660c", "--"), ("#6a3d9a", ":"))  # colour and style, in order


def draw(
    labels: npt.NDArray, scores: Mapping[str, Floats], path: Path, title: str = "ROC, test"
) -> None:
    """The curve of each score [N] with its AUC; at most as many scores as there are `LOOKS`.

    labels: [N], 0 and 1, both of them.
    """
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    for (name, z), (color, style) in zip(scores.items(), _looks(scores), strict=True):
        label = f"{name}, AUC {metrics.auc(labels, z):.4f}"
        axis.plot(*metrics.roc(labels, z), color=color, linestyle=style, linewidth=1.6, label=label)
    axis.plot((0, 1), (0, 1), color="0.7", linewidth=1, zorder=0)
    axis.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1))
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower right")
    plots.finish(figure, path, title)


def _looks(scores: Mapping[str, Floats]) -> Sequence[tuple[str, str]]:
    return LOOKS[: len(scores)]
