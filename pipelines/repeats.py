"""Measures the weights of repeated exposures (REW) on a simulated log, and writes the page.

``make repeats`` trains a model without weights, with weights, and with weights and a calibrator,
seed by seed. The model ranks each user's test rows. The page has the share of repeated exposures
among the first `TOP` of each user, beside AUC and PCOC. Finished runs are reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from absl import flags

from at4ctr.analysis.tables import markdown, spread
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.metrics import auc
from at4ctr.metrics.probability import sigmoid
from at4ctr.schema import FIRST_ID
from pipelines import measure, train
from pipelines.main import main
from pipelines.tables.jobs import Workshop
from pipelines.tables.queue import Job, Queue

PAGE = Path("docs/results/simulated/repeats.md")
SEEDS = 3
TOP = 3
RECIPE = "din"
LOG = (
    "data.users=1000 data.items=2000 data.categories=200 data.rows=40000 data.impressions=150000 "
    "data.days=9 data.click_rate=0.1 data.reshown=0.3 data.fatigue=0.3 data.history=5 "
    "data.cutting=random fit.batch_size=256 fit.optimizer=adam fit.learning_rate=0.002 "
    "embedding.dimension=8"
)
REW = "data.repeat_weight=1.0"
ROWS: Mapping[str, tuple[str, ...]] = {
    "Platt": ("calibrator=platt",),
    "REW, Platt": (REW, "calibrator=platt"),
    "REW": (REW,),
}


def top_share(
    users: np.ndarray, logits: np.ndarray, repeated: np.ndarray, top: int
) -> tuple[float, float]:
    """The share of repeated rows among the first `top` of every user by falling logit, and among
    all rows of these users, who have more than `top`. Ties keep the order of the rows."""
    order = np.lexsort((-logits, users))
    users, repeated = users[order], repeated[order]
    _, begin, number = np.unique(users, return_index=True, return_counts=True)
    place = np.arange(len(users)) - np.repeat(begin, number)
    ranked = np.repeat(number > top, number)
    return float(repeated[ranked & (place < top)].mean()), float(repeated[ranked].mean())


def _repeated(store: Store) -> np.ndarray:
    """Whether each test row, in the store's order, repeats an exposure of its user."""
    rows = Reader(store, "test", batch_size=4096, history=1, drop_remainder=False)
    ids = np.concatenate([b["exposures"].numpy() for b in rows.dataset(0)])
    known = store.vocabulary_path("exposures").read_text(encoding="utf-8").split()
    return ids != FIRST_ID + known.index("0")


def _measured(store: Store, folder: Path) -> dict[str, float]:
    found = pq.read_table(folder / measure.PREDICTIONS)
    users, clicks, logits = (found.column(c).to_numpy() for c in ("user", "response", "logit"))
    top, among = top_share(users, logits, _repeated(store), TOP)
    pcoc = float(sigmoid(logits).sum() / clicks.sum())
    return {"auc": auc(clicks, logits), "pcoc": pcoc, "top": top, "all": among}


def page(found: Mapping[str, list[dict[str, float]]]) -> str:
    """The page's Markdown. found: row -> what each seed's run gives."""
    header = ["method", "runs", "AUC", "PCOC", f"repeated in the top {TOP}", "repeated in all"]
    names = ("auc", "pcoc", "top", "all")
    rows = [
        [label, str(len(runs)), *(spread([r[n] for r in runs]) for n in names)]
        for label, runs in found.items()
    ]
    base, ours = (np.mean([r["top"] for r in found[k]]) for k in list(ROWS)[:2])
    return "\n".join([
        "# Weights of repeated exposures (simulated log)",
        "",
        f"Made by `make repeats`. The log is simulated: {LOG.partition(' fit.')[0]}. The model is "
        f"`{RECIPE}`, which reads how often the user was shown the item; REW is `{REW}`.",
        "",
        *markdown(header, rows),
        "",
        f"The first {TOP} of each user's test rows hold {1 - ours / base:.1%} fewer repeated "
        "exposures with the weights than without. The factor of the positives keeps the weighted "
        "base rate, not the mean of predictions over rows without weights. The calibrator, fitted "
        "to validation rows, takes that difference away. It changes no order of a user's rows.",
        "",
    ])  # fmt: skip


def _main() -> None:
    f = flags.FLAGS
    workshop = Workshop("simulated", f.raw)
    jobs: dict[tuple[str, int], tuple[Job, Store]] = {}
    for seed in range(1, SEEDS + 1):
        for label, overrides in ROWS.items():
            given = (LOG, *overrides, f"seed={seed}")
            jobs[label, seed] = workshop.job(f"{label}, seed {seed}", RECIPE, given)
    queue = Queue(train.RUNS, "simulated", f.jobs)
    queue.run([job for job, _ in jobs.values()], lambda: None)
    found: dict[str, list[dict[str, float]]] = {label: [] for label in ROWS}
    for (label, _), (job, store) in jobs.items():
        found[label].append(_measured(store, queue.folders[job.key]))
    text = page(found)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(_main)
