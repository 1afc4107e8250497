"""The label of a click without a conversion, the score that reads it, and learned weights."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import din
from at4ctr.calibration import Platt
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom
from at4ctr.metrics import auc, sigmoid
from at4ctr.model.build import Plan, label_tasks, serving_model, training_model
from at4ctr.schema import Label
from at4ctr.tasks import Task
from tests.model import toys
from tests.oracles import derived as oracle

NAME, RATE = "click_without_conversion", 0.25
TASKS = {"click": Task(), "conversion": Task(weight=0.5), NAME: Task(serve=False)}


def plan(tasks=TASKS, **changes):
    head = shared_bottom.Config(bottom=(9,), tower=(6,))
    return Plan.of(din.Config(), toys.EMBEDDING, head=head, tasks=tasks, seed=3, **changes)


def built(schema=toys.TWO, **changes):
    made = serving_model(schema, toys.ROWS, plan(**{"negative_rate": RATE, **changes}))
    toys.jitter(made)
    return made


@pytest.fixture(scope="module")
def batch():
    return toys.tensors(toys.batch(40, schema=toys.TWO))


def test_its_tower_is_learned_and_not_served(batch):
    model = built()
    assert model.towers == ("click", "conversion", NAME)
    assert model.served == ("click", "conversion")
    assert NAME not in "".join(model.answer(batch))
    trained = training_model(model, toys.TWO, plan())
    found = {k: float(v) for k, v in trained.losses_of(batch).items()}
    total = found["click"] + 0.5 * found["conversion"] + found[NAME]
    assert found["total"] == pytest.approx(total, rel=1e-6)


def test_its_probability_is_that_of_the_unsampled_log(batch):
    model, logits = built(), built()(batch)
    own = {k: sigmoid(v.numpy().astype(np.float64)) for k, v in logits.items()}
    whole = model.scores(batch)["shifted"]
    assert set(whole) == {"click", "conversion", "click_and_conversion", NAME}
    p, c = own["click"], own[NAME]
    z = 1 / (p + (1 - p) / RATE)
    np.testing.assert_allclose(sigmoid(whole[NAME].numpy()), c * z, rtol=1e-6)


def test_the_score_is_answered_where_its_weight_is_above_0(batch):
    model = built()
    before = model.answer(batch)
    model.calibrate({"conversion": Platt(0.8, -0.3)})
    model.score_weight = 0.02
    after = model.answer(batch)
    assert list(after) == [*before, "score"]
    c = sigmoid(model.scores(batch)["shifted"][NAME].numpy())
    expected = oracle.score(after["probability_conversion"].numpy(), c, 0.02)
    np.testing.assert_allclose(after["score"], expected, rtol=1e-5)


def test_the_score_does_not_need_a_served_click(batch):
    tasks = {**TASKS, "click": Task(serve=False)}
    model = built(tasks=tasks)
    model.score_weight = 0.05
    assert set(model.answer(batch)) == {"probability", "logit", "score"}
    both = built()
    both.score_weight = 0.05
    np.testing.assert_allclose(model.answer(batch)["score"], both.answer(batch)["score"], rtol=1e-6)


def test_it_may_be_served(batch):
    answers = built(tasks={**TASKS, NAME: Task()}).answer(batch)
    assert {f"probability_{NAME}", f"logit_{NAME}"} <= set(answers)
    found = built(tasks={**TASKS, NAME: Task()}).scores(batch)["shifted"][NAME]
    np.testing.assert_allclose(answers[f"probability_{NAME}"], sigmoid(found.numpy()), rtol=1e-5)


def test_it_leaves_every_other_start(batch):
    fewer = {k: TASKS[k] for k in ("click", "conversion")}
    one, more = (serving_model(toys.TWO, toys.ROWS, plan(t))(batch) for t in (fewer, TASKS))
    for name, logits in one.items():
        np.testing.assert_array_equal(logits, more[name])


def test_it_is_learned_only_where_it_is_named():
    assert list(label_tasks(toys.TWO, {})) == ["click", "conversion"]
    assert list(label_tasks(toys.TWO, TASKS)) == list(TASKS)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (("click", NAME), r"learns 'click_without_conversion' and not 'conversion'"),
        (("click", "conversion", "click_without_conversio"), f"did you mean {NAME}"),
        (
            ("click", "conversion", "return", NAME, "conversion_without_return"),
            r"expected at most one of that kind",
        ),
    ],
)
def test_tasks_without_sense_are_refused(tasks, said):
    schema = toys.SCHEMA.__class__(
        toys.SCHEMA.tables,
        toys.SCHEMA.features,
        toys.SCHEMA.history,
        (*toys.LABELS, Label("return", within="conversion")),
    )
    with pytest.raises(InputError, match=said):
        label_tasks(schema, {name: Task() for name in tasks})


def test_labels_y_and_1_minus_y_of_equal_towers_have_opposite_aucs():
    """By name: nothing is exchanged between towers, logits and labels."""
    schema = toys.TWO.__class__(
        toys.SCHEMA.tables,
        toys.SCHEMA.features,
        toys.SCHEMA.history,
        (toys.LABELS[0], Label("skip")),
    )
    model = built(schema, tasks={}, negative_rate=1.0)
    for module in (model.head.towers.of, model.head.towers.logits.of):
        for a, b in zip(module["click"].variables, module["skip"].variables, strict=True):
            b.assign(a)
    arrays = toys.batch(60, schema=schema)
    arrays["label_skip"] = 1 - arrays["label_click"]
    logits = model.scores(toys.tensors(arrays))["calibrated"]
    found = {k: auc(arrays[f"label_{k}"], v.numpy()) for k, v in logits.items()}
    assert found["click"] == pytest.approx(1 - found["skip"], abs=1e-12)
    assert found["click"] != 0.5


def test_learned_weights_are_kendalls(batch):
    chosen = plan(uncertainty=True, half_bce=True)
    serving = serving_model(toys.TWO, toys.ROWS, chosen)
    model = training_model(serving, toys.TWO, chosen)
    fixed = training_model(serving, toys.TWO, plan(half_bce=True))
    assert float(model.losses_of(batch)["total"]) == float(fixed.losses_of(batch)["total"])
    starts = {"click": 0.4, "conversion": -1.5, NAME: 2.0}
    for name, s in starts.items():
        model.log_variances[name].assign(s)
    with tf.GradientTape() as tape:
        losses = model.losses_of(batch)
    found = {k: float(v) for k, v in losses.items()}
    weights = {k: 0.5 * TASKS[k].weight for k in starts}
    parts = {k: np.exp(-s) * weights[k] * found[k] + s / 2 for k, s in starts.items()}
    assert found["total"] == pytest.approx(sum(parts.values()), rel=1e-6)
    slopes = tape.gradient(losses["total"], [model.log_variances[k] for k in starts])
    for (name, s), slope in zip(starts.items(), slopes, strict=True):
        assert found[f"weight of {name}"] == pytest.approx(np.exp(-s), rel=1e-6)
        expected = 0.5 - np.exp(-s) * weights[name] * found[name]
        assert float(slope) == pytest.approx(expected, rel=1e-5)
    served = {id(v) for v in serving.variables}
    assert not served & {id(v) for v in model.log_variances.values()}
    assert {id(v) for v in model.log_variances.values()} <= {
        id(v) for v in model.trainable_variables
    }
