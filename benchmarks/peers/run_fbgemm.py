"""DIN written by hand on FBGEMM's CPU kernels, which TorchRec's embedding collections run on.

The kernels update a table's rows in the backward pass by row-wise Adagrad; they have no Adam for
CPUs. They take widths that are multiples of 4. Each id is a bag of its own: so the kernels
make the same updates several times as fast as without pooling. Attention is computed at real
behaviours only, which is faster here than at padded ones. All else has torch's Adam, in bare steps.
"""

from __future__ import annotations

import load

a = load.parse("fbgemm")
import torch  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(a.threads)
torch.manual_seed(0)
from fbgemm_gpu.split_embedding_configs import EmbOptimType  # noqa: E402
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (  # noqa: E402
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (  # noqa: E402
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

WIDTH = 2 * a.dimension  # of a behaviour and of a candidate


class Table(nn.Module):
    """Ids [N] -> rows [N, D]."""

    def __init__(self, ids: int) -> None:
        super().__init__()
        self.kernel = SplitTableBatchedEmbeddingBagsCodegen(
            [(ids + 1, a.dimension, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=0.01,
            pooling_mode=PoolingMode.SUM,
        )
        self.kernel.init_embedding_weights_uniform(-0.05, 0.05)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.kernel(ids.long(), torch.arange(len(ids) + 1))


class Dice(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = torch.sigmoid(self.norm(x))
        return x * (p + self.alpha * (1 - p))


class DIN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items, self.categories = map(Table, (a.users, a.items, a.categories))
        self.query = nn.Linear(WIDTH, WIDTH)
        self.unit = nn.Sequential(
            nn.Linear(4 * WIDTH, 80), nn.Sigmoid(), nn.Linear(80, 40), nn.Sigmoid(),
            nn.Linear(40, 1),
        )  # fmt: skip
        self.trunk = nn.Sequential(
            nn.Linear(a.dimension + 4 * WIDTH, 200), Dice(200), nn.Linear(200, 80), Dice(80),
            nn.Linear(80, 1),
        )  # fmt: skip

    def dense(self) -> list[nn.Parameter]:
        """What the kernels do not update themselves."""
        return [p for part in (self.query, self.unit, self.trunk) for p in part.parameters()]

    def forward(self, b: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits [B]."""
        size, length = len(b["item"]), b["length"].long()
        real = torch.arange(a.history) < length[:, None]
        found = [
            table(torch.cat([b[name], b[f"history_{name}"][real]]))
            for table, name in ((self.items, "item"), (self.categories, "category"))
        ]
        target, keys = torch.cat(found, 1).split([size, int(length.sum())])
        owner = torch.repeat_interleave(length)
        query = self.query(target)[owner]
        scores = self.unit(torch.cat([query, keys, query - keys, query * keys], 1)).squeeze(1)
        padded = scores.new_full(real.shape, -torch.inf).masked_scatter(real, scores)
        weights = torch.softmax(padded, 1)[real]
        none = keys.new_zeros(size, WIDTH)
        interest = none.index_add(0, owner, weights[:, None] * keys)
        pooled = none.index_add(0, owner, keys)
        parts = [self.users(b["user"]), target, pooled, interest, target * pooled]
        return self.trunk(torch.cat(parts, 1)).squeeze(1)


clock, d, model = load.Clock(a), load.rows(a), DIN()
optimizer = torch.optim.Adam(model.dense(), lr=1e-3)
bce = nn.BCEWithLogitsLoss()
for i in range(0, len(d["label"]), a.batch):
    b = {k: torch.from_numpy(v[i : i + a.batch]) for k, v in d.items()}
    optimizer.zero_grad()
    loss = bce(model(b), b["label"])
    loss.backward()
    optimizer.step()
    loss.item()
    clock.tick()
load.report(clock, {"torch": torch.__version__})
