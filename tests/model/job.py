"""A training job on a toy store, in this process or, to be killed, in one of its own.

python -m tests.model.job STORE FOLDER [--step N] [--file N]: dies by SIGKILL before step N, or
before the Nth file of a checkpoint is digested; otherwise leaves ``final.json`` in FOLDER.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import at4ctr  # noqa: F401  (before TensorFlow)
from at4ctr import checkpoints, cluster, durable, evaluation
from at4ctr.auxiliaries import cl4ctr, nip, uim
from at4ctr.backbones import din
from at4ctr.contracts import HeadConfig
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.fit import Fit, Trainer
from at4ctr.heads import shared_bottom, single
from at4ctr.layers import embedder
from at4ctr.model.build import Plan, serving_model, training_model

HISTORY = 8
BACKBONE = din.Config(attention=(8, 4))
HEAD = single.Config(units=(12, 6), dropout=0.3)
SEVERAL = shared_bottom.Config(bottom=(12,), tower=(6,), dropout=0.3)
TASKS = {
    "uim": uim.Config(),
    "nip": nip.Config(mask_duplicates=True, block=8),
    "cl4ctr": cl4ctr.Config(weight=0.1, layers=1, hidden=4),  # draws at every step
}
FIT = Fit(
    batch_size=16,
    epochs=2,
    learning_rate=0.01,
    checkpoint_every=2,
    checkpoint_share=1.0,
    evaluations=2,
    log_every=1,
)


def trainer(
    store: Store,
    folder: Path,
    *,
    backbone: Any = BACKBONE,
    head: HeadConfig = HEAD,
    auxiliaries: Mapping[str, Any] = TASKS,
    config: Fit = FIT,
    negative_rate: float = 0.7,
    validate: Any = "store",
    grouping: Any = "rows",
) -> Trainer:
    """A trainer whose validation is the store's, a function, or None; several labels share a
    bottom."""
    head = SEVERAL if head is HEAD and len(store.schema.labels) > 1 else head
    embedding = embedder.Config(dimension=4)

    def reader(split: Any, size: int, context: Any = None, *, learn: bool = False) -> Reader:
        training = learn or split == "train"
        rate = negative_rate if training else 1.0
        return Reader(
            store,
            split,
            batch_size=size,
            history=HISTORY,
            negative_rate=rate,
            shuffle=training,
            block_users=16,
            context=context,
            grouping=grouping if training else "rows",
            longest_request=4,
        )

    plan = Plan.of(
        backbone, embedding, head=head, auxiliaries=auxiliaries, negative_rate=negative_rate
    )
    serving = serving_model(
        store.schema,
        {t.name: store.rows(t.name) for t in store.schema.tables},
        plan,
        store.numbers(),
        store.vectors(),
    )
    model = training_model(serving, store.schema, plan)
    if validate == "store":
        predict, split = evaluation.Predictor(serving), reader("validation", 64)
        validate = lambda: {k: evaluation.report(v) for k, v in predict(split).items()}  # noqa: E731
    search = None if validate is None else partial(reader, "validation", learn=True)
    return Trainer(model, partial(reader, "train"), config, folder, validate, search)


def fingerprint(made: Trainer) -> dict[str, Any]:
    """Every bit of the model's and the optimizers' variables, and where training stands."""
    slots = [v for optimizer in made.kept.optimizers.values() for v in optimizer.variables]
    variables = [*made.model.variables, *slots]
    digests = [hashlib.sha256(v.numpy().tobytes()).hexdigest()[:12] for v in variables]
    names = [f"{i} {v.name}" for i, v in enumerate(variables)]
    cursor = made.cursor
    return {
        "variables": dict(zip(names, digests, strict=True)),
        "cursor": [cursor.epoch, cursor.batch, cursor.step, cursor.best, cursor.best_step],
        "curves": cursor.curves,
    }


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step", type=int)
    parser.add_argument("--file", type=int)
    given = parser.parse_args()
    with cluster.strategy().scope():
        made = trainer(Store.open(given.store), given.folder)
        step, digest, files = made._step, durable.digest, [0]

        def counted(batch: Any) -> Any:
            if made.cursor.step == given.step:
                die()
            return step(batch)

        def digested(path: Path) -> str:
            files[0] += 1
            if files[0] == given.file:
                die()
            return digest(path)

        made._step = counted
        vars(checkpoints).update(digest=digested)
        made.train()
    (given.folder / "final.json").write_text(json.dumps(fingerprint(made)))


if __name__ == "__main__":
    _main()
