"""torch-rechub's DIN, which attends to item and category apart and does not mask padding.

--loop library: ``DataGenerator`` and ``CTRTrainer``. --optim sparse: no such option; `lazy_torch`
in bare steps.
"""

from __future__ import annotations

import tempfile
from typing import Any

import load

a = load.parse("rechub")
import torch  # noqa: E402

torch.set_num_threads(a.threads)
torch.manual_seed(0)
import lazy_torch  # noqa: E402
from torch_rechub.basic.features import SequenceFeature, SparseFeature  # noqa: E402
from torch_rechub.models.ranking import DIN  # noqa: E402
from torch_rechub.trainers import CTRTrainer  # noqa: E402
from torch_rechub.utils.data import DataGenerator  # noqa: E402

KEYS = ("user", "item", "category", "history_item", "history_category")
SIZES = {"item": a.items + 1, "category": a.categories + 1}
model = DIN(
    [SparseFeature("user", a.users + 1, a.dimension)],
    [
        SequenceFeature(f"history_{n}", size, a.dimension, pooling="concat", shared_with=n,
                        padding_idx=0)
        for n, size in SIZES.items()
    ],
    [SparseFeature(n, size, a.dimension, padding_idx=0) for n, size in SIZES.items()],
    mlp_params={"dims": [200, 80]},
    attention_mlp_params={"dims": [80, 40]},
)  # fmt: skip
clock, d = load.Clock(a), load.rows(a)


if a.loop == "raw" or a.optim == "sparse":
    optims = lazy_torch.optimizers(model, sparse=a.optim == "sparse")
    bce = torch.nn.BCELoss()
    model.train()
    for i in range(0, len(d["label"]), a.batch):
        b = {k: torch.from_numpy(d[k][i : i + a.batch]) for k in (*KEYS, "label")}
        label = b.pop("label")
        lazy_torch.update(optims, lambda b=b, label=label: bce(model(b), label))
        clock.tick()
else:
    known, label = {k: d[k] for k in KEYS}, d["label"]
    data, _, _ = DataGenerator(known, label).generate_dataloader(
        x_val=known, y_val=label, x_test=known, y_test=label, batch_size=a.batch
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = CTRTrainer(
            model, optimizer_params={"lr": 1e-3}, n_epoch=1, device="cpu", model_path=folder
        )
        step = trainer.optimizer.step

        def timed(*args: Any, **more: Any) -> Any:
            found = step(*args, **more)
            clock.tick()
            return found

        trainer.optimizer.step = timed
        trainer.train_one_epoch(data)
load.report(clock, {"torch": torch.__version__})
