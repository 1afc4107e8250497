"""DeepCTR-Torch's DIN; all inputs go through one float32 matrix (ids above 2^24 would be wrong).

``l2_reg_embedding=0`` (its default of 1e-5 walks the tables once more). --optim sparse: the
library never passes ``sparse`` on; `lazy_torch` in bare steps.
"""

from __future__ import annotations

from typing import Any

import load

a = load.parse("deepctr_torch")
import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(a.threads)
torch.manual_seed(0)
import lazy_torch  # noqa: E402
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat, get_feature_names  # noqa: E402
from deepctr_torch.models import DIN  # noqa: E402

SIZES = {"user": a.users + 1, "item": a.items + 1, "category": a.categories + 1}


def past(name: str) -> VarLenSparseFeat:
    feature = SparseFeat(f"hist_{name}", SIZES[name], a.dimension, embedding_name=name)
    return VarLenSparseFeat(feature, maxlen=a.history, length_name="length")


columns = [SparseFeat(n, size, a.dimension) for n, size in SIZES.items()]
columns += [past("item"), past("category")]
model = DIN(
    columns,
    ["item", "category"],
    dnn_hidden_units=(200, 80),
    att_hidden_size=(80, 40),
    att_activation="Dice",
    device="cpu",
    l2_reg_embedding=0.0,
)


clock, d = load.Clock(a), load.rows(a)
x = {n: d[n.replace("hist_", "history_")] for n in get_feature_names(columns)}
y = d["label"]
if a.loop == "raw" or a.optim == "sparse":
    optims = lazy_torch.optimizers(model, sparse=a.optim == "sparse")
    found = (x[k] for k in model.feature_index)
    whole = torch.from_numpy(np.concatenate([v.reshape(len(v), -1) for v in found], -1))
    labels = torch.from_numpy(y)
    bce = torch.nn.functional.binary_cross_entropy
    model.train()
    for i in range(0, len(y), a.batch):
        rows, label = whole[i : i + a.batch].float(), labels[i : i + a.batch]
        lazy_torch.update(optims, lambda r=rows, label=label: bce(model(r).squeeze(), label))
        clock.tick()
else:
    model.compile(torch.optim.Adam(model.parameters(), lr=1e-3), "binary_crossentropy")
    step = model.optim.step

    def timed(*args: Any, **more: Any) -> Any:
        found = step(*args, **more)
        clock.tick()
        return found

    model.optim.step = timed
    model.fit(x, y, batch_size=a.batch, epochs=1, verbose=0, shuffle=True)
load.report(clock, {"torch": torch.__version__})
