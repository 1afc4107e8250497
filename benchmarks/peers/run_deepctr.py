"""DeepCTR's DIN on Keras 2, which it was written for.

--optim dense: Keras Adam, with ``l2_reg_embedding=0`` (its default of 1e-6 walks the tables once
more); sparse: the library has no such option, `lazy_tf` patches it in.
"""

from __future__ import annotations

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import load

a = load.parse("deepctr")
import tensorflow as tf  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(a.threads)
tf.config.threading.set_inter_op_parallelism_threads(a.threads)
import lazy_tf  # noqa: E402
from deepctr.feature_column import (  # noqa: E402
    SparseFeat,
    VarLenSparseFeat,
    get_feature_names,
)
from deepctr.models import DIN  # noqa: E402

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
    att_activation="dice",
    l2_reg_embedding=0.0,
)


class Tick(tf.keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.on_train_batch_end = clock.tick


clock, d = load.Clock(a), load.rows(a)
x = {n: d[n.replace("hist_", "history_")] for n in get_feature_names(columns)}
y = d["label"]
optimizer = tf.keras.optimizers.Adam(1e-3)
if a.optim == "dense":
    model.compile(optimizer, "binary_crossentropy")
    model.fit(x, y, batch_size=a.batch, verbose=0, shuffle=False, callbacks=[Tick()])
else:
    shapes = [(size, a.dimension) for size in SIZES.values()]
    tables = [v for v in model.trainable_variables if tuple(v.shape) in shapes]
    assert len(tables) == len(SIZES)
    rest = [v for v in model.trainable_variables if not any(v is t for t in tables)]
    bce = tf.keras.losses.binary_crossentropy

    def loss(xb: dict, yb: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(bce(yb[:, None], model(xb, training=True)))

    step = lazy_tf.stepper(loss, tables, rest, optimizer)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(a.batch, drop_remainder=True)
    for xb, yb in data.prefetch(2):
        float(step(xb, yb))
        clock.tick()
load.report(clock, {"tensorflow": tf.__version__})
