"""FuxiCTR's DIN, put together as its model zoo does (the wheel leaves that out) from the wheel's
``BaseModel``, ``FeatureEmbeddingDict``, ``DIN_Attention`` and ``MLP_Block``.

--loop library: npz file, ``RankDataLoader``, ``BaseModel.fit``. --optim sparse: no such option;
`lazy_torch`, without the library's clipping of all gradients.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import load

a = load.parse("fuxictr")
os.environ["OMP_NUM_THREADS"] = str(a.threads)
import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(a.threads)
torch.manual_seed(0)
import lazy_torch  # noqa: E402
from fuxictr.features import FeatureMap  # noqa: E402
from fuxictr.pytorch.dataloaders import RankDataLoader  # noqa: E402
from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MLP_Block  # noqa: E402
from fuxictr.pytorch.models import BaseModel  # noqa: E402

SIZES = {"user": a.users + 1, "item": a.items + 1, "category": a.categories + 1}
COLUMNS = (*SIZES, "history_item", "history_category")


def feature(name: str) -> dict[str, Any]:
    field = name.removeprefix("history_")
    made = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": SIZES[field]}
    if field == name:
        return made
    more = {"type": "sequence", "max_len": a.history, "share_embedding": field}
    return made | more | {"feature_encoder": None}


class DIN(BaseModel):
    def __init__(self, features: FeatureMap, folder: str) -> None:
        super().__init__(features, model_id="DIN", gpu=-1, verbose=0, model_root=folder,
                         metrics=["AUC"], optimizer="adam", loss="binary_crossentropy")  # fmt: skip
        self.embedding_layer = FeatureEmbeddingDict(features, a.dimension)
        self.attention = DIN_Attention(
            2 * a.dimension,
            attention_units=[80, 40],
            hidden_activations="Dice",
            output_activation=None,
        )
        self.trunk = MLP_Block(
            input_dim=features.sum_emb_out_dim(),
            output_dim=1,
            hidden_units=[200, 80],
            hidden_activations="ReLU",
            output_activation=self.output_activation,
        )
        self.compile("adam", "binary_crossentropy", 1e-3)
        self.reset_parameters()

    def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
        x = self.get_inputs(inputs)
        e = self.embedding_layer(x)
        target = torch.cat([e["item"], e["category"]], -1)
        history = torch.cat([e["history_item"], e["history_category"]], -1)
        pooled = self.attention(target, history, x["history_item"].long() != 0)
        e["history_item"], e["history_category"] = pooled.split(a.dimension, dim=-1)
        flat = self.embedding_layer.dict2tensor(e, flatten_emb=True)
        return {"y_pred": self.trunk(flat)}


def batches() -> Iterator[dict[str, torch.Tensor]]:
    d = load.rows(a)
    for i in range(0, len(d["label"]), a.batch):
        yield {k: torch.from_numpy(d[k][i : i + a.batch]) for k in (*COLUMNS, "label")}


def loader(folder: str) -> Any:
    d, path = load.rows(a), f"{folder}/train.npz"
    np.savez(path, **{k: d[k] for k in (*COLUMNS, "label")})
    made = RankDataLoader(features, stage="train", train_data=path, valid_data=path,
                          batch_size=a.batch, data_format="npz", shuffle=True,
                          num_workers=1)  # fmt: skip
    made = made.make_iterator() if hasattr(made, "make_iterator") else made
    return made[0] if isinstance(made, tuple) else made


with tempfile.TemporaryDirectory() as folder:
    features = FeatureMap("load", folder)
    features.features = OrderedDict((name, feature(name)) for name in COLUMNS)
    features.labels, features.num_fields = ["label"], len(COLUMNS)
    features.default_emb_dim = a.dimension
    features.set_column_index()
    clock = load.Clock(a)
    model = DIN(features, folder)
    model._max_gradient_norm = 10.0
    step = model.train_step
    if a.optim == "sparse":
        optims = lazy_torch.optimizers(model, sparse=True)

        def step(b: Any) -> torch.Tensor:
            def loss() -> torch.Tensor:
                return model.compute_loss(model(b), model.get_labels(b))

            return torch.tensor(lazy_torch.update(optims, loss))

    if a.loop == "raw":
        model.train()
        for b in batches():
            float(step(b).detach())
            clock.tick()
    else:

        def timed(b: Any) -> torch.Tensor:
            value = step(b)
            clock.tick()
            return value

        model.train_step, model.eval_step = timed, lambda: None
        model.load_weights = lambda *_: None
        model.fit(loader(folder), epochs=1)
load.report(clock, {"torch": torch.__version__})
