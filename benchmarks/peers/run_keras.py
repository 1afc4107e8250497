"""DIN as a plain Keras 3 user writes it: ``keras.layers.Embedding`` and Adam, no CTR library.

--optim sparse: `lazy_tf`. --gather: reads rows from the resource; ``Embedding`` reads the whole
variable first, which is a copy of it once scatter updates have been there.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
import load

a = load.parse("keras", "gather")
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers, ops  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(a.threads)
tf.config.threading.set_inter_op_parallelism_threads(a.threads)
keras.utils.set_random_seed(0)
import lazy_tf  # noqa: E402


class Dice(layers.Layer):
    def build(self, shape: tuple) -> None:
        self.norm = layers.BatchNormalization(center=False, scale=False, epsilon=1e-9)
        self.alpha = self.add_weight(shape=(shape[-1],), initializer="zeros", name="alpha")

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        p = ops.sigmoid(self.norm(x, training=training))
        return p * x + self.alpha * (1 - p) * x


class Gathering(layers.Embedding):
    def call(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.nn.embedding_lookup(self.embeddings.value, ids)


KEYS = ("user", "item", "category", "history_item", "history_category")
user, item, category = (keras.Input((), dtype="int32", name=n) for n in KEYS[:3])
past, past_category = (keras.Input((a.history,), dtype="int32", name=n) for n in KEYS[3:])
kind = Gathering if a.gather else layers.Embedding
embeddings = [
    kind(n + 1, a.dimension, embeddings_initializer=keras.initializers.RandomNormal(stddev=1e-4))
    for n in (a.users, a.items, a.categories)
]
of_user, of_item, of_category = embeddings
target = ops.concatenate([of_item(item), of_category(category)], -1)
history = ops.concatenate([of_item(past), of_category(past_category)], -1)
query = layers.RepeatVector(a.history)(target)
x = ops.concatenate([query, history, query - history, query * history], -1)
for units in (80, 40):
    x = Dice()(layers.Dense(units)(x))
score = ops.squeeze(layers.Dense(1)(x), -1) * ops.cast(ops.not_equal(past, 0), "float32")
pooled = ops.sum(ops.expand_dims(score, -1) * history, 1)
x = ops.concatenate([of_user(user), target, pooled], -1)
for units in (200, 80):
    x = layers.Dense(units, activation="relu")(x)
output = layers.Dense(1, activation="sigmoid")(x)
model = keras.Model([user, item, category, past, past_category], output)


clock, d = load.Clock(a), load.rows(a)
data = tf.data.Dataset.from_tensor_slices(({k: d[k] for k in KEYS}, d["label"]))
data = data.batch(a.batch, drop_remainder=True).prefetch(2)


class Tick(keras.callbacks.Callback):
    def on_train_batch_end(self, _batch: int, logs: object = None) -> None:  # noqa: ARG002
        clock.tick()


optimizer = keras.optimizers.Adam(1e-3)
if a.optim == "dense":
    model.compile(optimizer, "binary_crossentropy")
    model.fit(data, verbose=0, callbacks=[Tick()])
else:
    tables = [layer.embeddings for layer in embeddings]
    rest = [v for v in model.trainable_variables if not any(v is t for t in tables)]

    def loss(xb: dict, yb: tf.Tensor) -> tf.Tensor:
        predicted = model(xb, training=True)
        return tf.reduce_mean(keras.losses.binary_crossentropy(yb[:, None], predicted))

    step = lazy_tf.stepper(loss, tables, rest, optimizer)
    for xb, yb in data:
        float(step(xb, yb))
        clock.tick()
load.report(clock, {"tensorflow": tf.__version__, "keras": keras.__version__})
