"""Labels: the targets of a batch, the loss of each, and labels composed of others."""

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from at4ctr import tasks
from at4ctr.contracts import Targets
from at4ctr.errors import InputError
from at4ctr.schema import OPEN, Label
from at4ctr.tasks import Task, both
from tests.model.toys import LABELS
from tests.oracles import derived as oracle

LIKE = Label("like")
THREE = (*LABELS, Label("return", within="conversion"))
BOTH = "click_and_conversion"


def grid(limit: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.linspace(-limit, limit, count)
    a, b = np.meshgrid(points, points)
    return a.ravel(), b.ravel()


def sigmoid(x: npt.ArrayLike) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.asarray(x, np.float64)))


def entropy(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def test_both_is_the_logit_of_the_product():
    a, b = grid(15.0, 121)
    p = sigmoid(a) * sigmoid(b)
    found = both(tf.constant(a), tf.constant(b))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, np.log(p) - np.log1p(-p), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("limit", "count"), [(40.0, 81), (1e4, 41)])
def test_both_is_finite_with_a_finite_gradient(limit, count):
    a, b = (tf.Variable(x, dtype=tf.float32) for x in grid(limit, count))
    with tf.GradientTape() as tape:
        found = both(a, b)
    assert np.isfinite(found).all()
    for slope in tape.gradient(found, [a, b]):
        assert np.isfinite(slope).all()
        assert (slope.numpy() >= 0).all()
        assert (slope.numpy() <= 1.0 + 1e-6).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 1)])
def test_both_takes_any_shape(shape):
    a, b = tf.fill(shape, 0.3), tf.fill(shape, -1.2)
    assert both(a, b).shape == shape
    np.testing.assert_array_equal(both(a, b), both(b, a))


def test_the_gradient_of_both_is_that_of_its_oracle():
    a, b = grid(8.0, 33)
    first, second = tf.Variable(a, dtype=tf.float32), tf.Variable(b, dtype=tf.float32)
    with tf.GradientTape() as tape:
        found = both(first, second)
    slopes = tape.gradient(found, [first, second])
    p = sigmoid(a) * sigmoid(b)  # d logit / da = (1 − σ(a)) / (1 − p)
    for slope, x in zip(slopes, (a, b), strict=True):
        np.testing.assert_allclose(slope, sigmoid(-x) / (1 - p), rtol=2e-5, atol=1e-7)


def learned(logits: dict, labels: dict, **chosen: Task) -> dict[str, float]:
    """``loss`` of a batch whose unknown labels are -1; every label is learned by default."""
    batch = {f"label_{k}": tf.constant(v, tf.float32) for k, v in labels.items()}
    declared = tuple(label for label in THREE if label.name in labels)
    found = tasks.loss(
        declared,
        {label.name: chosen.get(label.name, Task()) for label in declared},
        {k: tf.constant(v, tf.float32) for k, v in logits.items()},
        tasks.targets(declared, batch),
    )
    return {k: float(v) for k, v in found.items()}


def test_a_surely_wrong_composed_label_costs_80():
    logits, one = {"click": [-40.0], "conversion": [-40.0]}, {"click": [1], "conversion": [1]}
    found = learned(logits, one, conversion=Task(over="all"))
    assert found["conversion"] == pytest.approx(80.0, rel=1e-6)
    both_of = [tf.Variable([-40.0]), tf.Variable([-40.0])]
    with tf.GradientTape() as tape:
        logits = dict(zip(("click", "conversion"), both_of, strict=True))
        total = tasks.loss(
            LABELS,
            {"conversion": Task(over="all")},
            logits,
            Targets(*({k: tf.ones([1]) for k in (*logits, BOTH)} for _ in range(2))),
        )["conversion"]
    for slope in tape.gradient(total, both_of):
        np.testing.assert_allclose(slope, [-1.0], rtol=1e-5)


CLICK, CONVERSION = [1, 0, 1, 1, 0, 1], [0, -1, 1, -1, -1, 1]  # row 3: not known
LOGITS = {"click": [0.3, -1.0, 2.0, 0.1, 1.5, -0.7], "conversion": [1.1, 0.4, -0.6, 2.2, -3.0, 0.9]}
ROWS = {"click": CLICK, "conversion": CONVERSION}


def test_within_counts_the_rows_where_the_label_is_known():
    found = learned(LOGITS, ROWS)
    click = entropy(np.array(CLICK), sigmoid(LOGITS["click"])).sum() / 6
    known = [0, 2, 5]
    conversion = entropy(np.array(CONVERSION), sigmoid(LOGITS["conversion"]))[known].sum() / 6
    assert found == pytest.approx({"click": click, "conversion": conversion}, rel=1e-5)


def test_all_counts_every_row_that_says_something_of_the_product():
    """A row without a click has no conversion; one whose conversion is not known says nothing."""
    found = learned(LOGITS, ROWS, conversion=Task(over="all"))
    p = sigmoid(LOGITS["click"]) * sigmoid(LOGITS["conversion"])
    y = np.array([0, 0, 1, 0, 0, 1])
    assert found["conversion"] == pytest.approx(entropy(y, p)[[0, 1, 2, 4, 5]].sum() / 6, rel=1e-5)


def test_three_labels_compose_along_the_funnel():
    logits = {**LOGITS, "return": [0.2, 0.1, -0.4, 0.0, 1.0, 0.8]}
    found = tasks.composed(THREE, {k: tf.constant(v, tf.float32) for k, v in logits.items()})
    p = sigmoid(logits["click"]) * sigmoid(logits["conversion"]) * sigmoid(logits["return"])
    np.testing.assert_allclose(found["return"], np.log(p) - np.log1p(-p), rtol=1e-5, atol=1e-6)
    rows = {**ROWS, "return": [-1, -1, 0, -1, -1, 1]}
    losses = learned(logits, rows, **{"return": Task(over="all")})
    y, known = np.array([0, 0, 0, 0, 0, 1]), [0, 1, 2, 4, 5]
    assert losses["return"] == pytest.approx(entropy(y, p)[known].sum() / 6, rel=1e-5)


@pytest.mark.parametrize("over", ["within", "all"])
def test_an_unknown_row_moves_nothing(over):
    """Whatever its logits are, also where they are not finite in float32's sense of a loss."""
    logits = {k: tf.Variable(v, dtype=tf.float32) for k, v in LOGITS.items()}
    batch = {f"label_{k}": tf.constant(v, tf.float32) for k, v in ROWS.items()}
    chosen = {"conversion": Task(over=over)}
    with tf.GradientTape() as tape:
        found = tasks.loss(LABELS, chosen, logits, tasks.targets(LABELS, batch))["conversion"]
    slope = tape.gradient(found, logits["conversion"]).numpy()
    silent = {"within": [1, 3, 4], "all": [3]}[over]
    np.testing.assert_array_equal(np.flatnonzero(slope == 0), silent)
    logits["conversion"].assign(tf.tensor_scatter_nd_update(
        tf.convert_to_tensor(logits["conversion"]), [[3]], [1e4]
    ))  # fmt: skip
    again = tasks.loss(LABELS, chosen, logits, tasks.targets(LABELS, batch))["conversion"]
    assert float(again) == float(found)


@pytest.mark.parametrize("rows", [0, 3])
def test_a_batch_without_a_known_row_costs_nothing(rows):
    logits = {k: tf.Variable(tf.zeros([rows])) for k in ROWS}
    batch = {"label_click": tf.zeros([rows]), "label_conversion": -tf.ones([rows])}
    with tf.GradientTape() as tape:
        found = tasks.loss(
            LABELS, {"conversion": Task()}, logits, tasks.targets(LABELS, batch)
        )["conversion"]  # fmt: skip
    assert float(found) == 0.0
    assert not tape.gradient(found, logits["conversion"]).numpy().any()


def test_a_rows_weight_weighs_its_loss_and_the_divisor_is_the_batch():
    weights = np.array([0.5, 0.0, 2.0, 1.0, 3.0, 1.5], np.float32)
    batch = {f"label_{k}": tf.constant(v, tf.float32) for k, v in ROWS.items()}
    found = tasks.targets(LABELS, batch | {tasks.WEIGHT: tf.constant(weights)})
    np.testing.assert_array_equal(found.labels["conversion"], [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(found.weights["click"], weights)
    np.testing.assert_array_equal(found.weights["conversion"], weights * [1, 0, 1, 0, 0, 1])
    logits = {k: tf.constant(v, tf.float32) for k, v in LOGITS.items()}
    losses = tasks.loss(LABELS, {k: Task() for k in ROWS}, logits, found)
    for name, values in ROWS.items():
        rows = entropy(np.maximum(values, 0), sigmoid(LOGITS[name]))
        own = weights * (np.array(values) >= 0)
        assert float(losses[name]) == pytest.approx((own * rows).sum() / 6, rel=1e-5)


def test_a_label_without_a_task_is_not_learned():
    logits = {k: tf.constant(v, tf.float32) for k, v in LOGITS.items()}
    batch = {f"label_{k}": tf.constant(v, tf.float32) for k, v in ROWS.items()}
    found = tasks.loss(LABELS, {"click": Task()}, logits, tasks.targets(LABELS, batch))
    assert list(found) == ["click"]


def test_an_open_window_hides_what_is_composed_of_its_label():
    """Clicked or not, of training's targets and of evaluation's responses alike."""
    rows = {"click": [1, 0, 1, 0, 1, 1], "conversion": [1, -2, -2, -1, 0, -1]}
    rows["return"] = [0, -2, -2, -1, -2, -1]
    found = tasks.targets(
        THREE, {f"label_{k}": tf.constant(v, tf.float32) for k, v in rows.items()}
    )
    seen = tasks.responses(THREE, {k: np.array(v, np.int8) for k, v in rows.items()})
    expected = {
        "conversion": [1, None, None, None, 0, None],
        BOTH: [1, None, None, 0, 0, None],
        "return": [0, None, None, None, None, None],
        "conversion_and_return": [0, None, None, 0, None, None],
        "click_without_conversion": [0, None, None, 0, 1, None],
        "conversion_without_return": [1, None, None, 0, None, None],
    }
    assert set(found.labels) == set(found.weights) == set(seen) == {"click", *expected}
    for name, values in expected.items():
        known = [v is not None for v in values]
        np.testing.assert_array_equal(found.weights[name].numpy() > 0, known, err_msg=name)
        np.testing.assert_array_equal(seen[name] >= 0, known, err_msg=name)
        wanted = [v for v in values if v is not None]
        np.testing.assert_array_equal(found.labels[name].numpy()[known], wanted, err_msg=name)
        np.testing.assert_array_equal(seen[name][known], wanted, err_msg=name)


def test_names_of_composed_labels():
    assert [tasks.composed_name(label) for label in (*LABELS, LIKE)] == [
        "click", "click_and_conversion", "like"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight": -1.0}, r"a task's weight is -1.0; expected a finite weight of at least 0"),
        ({"weight": float("nan")}, r"a task's weight is nan; expected"),
        ({"over": "al"}, r"over 'al': did you mean all"),
    ],
)
def test_a_task_without_sense_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Task(**settings)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [1.0, 0.1, 0.003])
def test_the_derived_label_is_corrected_exactly_for_the_sampling(rate, dtype):
    grid = [(p, z) for p in (1e-6, 0.01, 0.4, 0.97) for z in (1e-4, 0.2, 0.9)]
    found = np.array([oracle.in_sampled_log(p, z, rate) for p, z in grid])
    a, b = (tf.constant(np.log(x) - np.log1p(-x), dtype) for x in found.T)
    logit = tasks.unsampled(b, a, tf.constant(np.log(rate), tf.float32)).numpy()
    truth = np.array([p * (1 - z) for p, z in grid])
    wanted = np.log(truth) - np.log1p(-truth)
    np.testing.assert_allclose(logit, wanted, rtol=3e-5 if dtype == "float32" else 2e-6)


@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_the_correction_of_the_derived_label_is_finite(shift):
    a, b = (tf.constant(x, tf.float32) for x in grid(200.0, 21))
    found = tasks.unsampled(b, a, tf.constant(shift))
    assert np.isfinite(found).all()
    if not shift:
        np.testing.assert_allclose(found, b, rtol=1e-6)


def test_a_click_without_a_conversion_is_known_where_the_composed_label_is():
    """CTnoCVR, Table 1, and rows that are not known: row 3 clicked, row 6 of an open window."""
    rows = {"click": [*CLICK, 0], "conversion": [*CONVERSION, OPEN]}
    batch = {f"label_{k}": tf.constant(v, tf.float32) for k, v in rows.items()}
    found = tasks.targets(LABELS, batch)
    name = "click_without_conversion"
    assert tasks.without_name(LABELS[1]) == name
    known = np.array([1, 1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(found.weights[name], known)
    np.testing.assert_array_equal(found.labels[name] * known, [1, 0, 0, 0, 0, 0, 0])
    columns = {k: np.array(v) for k, v in rows.items()}
    responses = tasks.responses(LABELS, columns)[name]
    np.testing.assert_array_equal(responses >= 0, known == 1)
    np.testing.assert_array_equal(responses[known == 1], [1, 0, 0, 0, 0])
    truths = {"click": np.array([0.4]), "conversion": np.array([0.1])}
    assert tasks.responses(LABELS, truths)[name] == pytest.approx([0.36])


def test_the_loss_of_the_derived_label_is_over_all_rows_where_it_is_known():
    logits = {**LOGITS, "click_without_conversion": [0.5, -2.0, 1.0, 0.3, -0.1, -1.2]}
    batch = {f"label_{k}": tf.constant(v, tf.float32) for k, v in ROWS.items()}
    chosen = {k: Task(over="all") for k in logits}
    given = {k: tf.constant(v, tf.float32) for k, v in logits.items()}
    found = tasks.loss(LABELS, chosen, given, tasks.targets(LABELS, batch))
    rows = entropy(np.array([1, 0, 0, 0, 0, 0]), sigmoid(logits["click_without_conversion"]))
    expected = rows[[0, 1, 2, 4, 5]].sum() / 6
    assert float(found["click_without_conversion"]) == pytest.approx(expected, rel=1e-5)


def test_the_score_is_ctnocvrs():
    p, c = np.random.default_rng(0).random((2, 50))
    for weight in (0.0, 1e-4, 0.05):
        np.testing.assert_allclose(tasks.score(p, c, weight), oracle.score(p, c, weight))
        found = tasks.score(tf.constant(p), tf.constant(c), weight)
        np.testing.assert_allclose(found, oracle.score(p, c, weight))
    np.testing.assert_array_equal(tasks.score(p, c, 0.0), p)


@pytest.mark.parametrize("copies", [2, 8])
def test_repeated_rows_leave_every_loss(copies):
    """Losses are means, so that 512 rows and 4,096 begin alike."""
    once = learned(LOGITS, ROWS, conversion=Task(over="all"))
    again = learned(*({k: v * copies for k, v in x.items()} for x in (LOGITS, ROWS)),
                    conversion=Task(over="all"))  # fmt: skip
    assert again == pytest.approx(once, rel=1e-6)
