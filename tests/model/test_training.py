"""The training model: its total, and that it leaves the serving model alone."""

import numpy as np
import pytest

from at4ctr.auxiliaries import nip, uim
from at4ctr.backbones import din
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom, single
from at4ctr.layers import embedder
from at4ctr.model.build import Plan, serving_model, training_model
from at4ctr.tasks import Task
from tests.model import toys
from tests.oracles import losses

TASKS = {"uim": uim.Config(weight=0.3), "nip": nip.Config(weight=0.02)}


def test_the_total_is_equation_12():
    model = toys.training(toys.serving(din.Config()), TASKS, l2=0.5)
    found = {k: float(v) for k, v in model.losses_of(toys.tensors(toys.batch(9, 6))).items()}
    parts = found["click"] + 0.3 * found["uim"] + 0.02 * found["nip"] + 0.5 * found["l2"]
    assert found["total"] == pytest.approx(parts, rel=1e-6)
    assert min(found.values()) > 0


def test_the_main_loss_is_the_cross_entropy_of_the_logits():
    arrays = toys.batch(9, 6)
    for half, weight in ((False, 1.0), (True, 0.5)):
        serving = toys.serving(din.Config())
        plan = Plan.of(din.Config(), toys.EMBEDDING, half_bce=half)
        model = training_model(serving, toys.SCHEMA, plan)
        logits = toys.serving(din.Config())(toys.tensors(arrays), training=True)["click"].numpy()
        found = model.losses_of(toys.tensors(arrays))
        expected = losses.binary_cross_entropy(arrays["label_click"], logits.astype(np.float64))
        assert float(found["click"]) == pytest.approx(expected, rel=1e-5)
        assert float(found["total"]) == pytest.approx(weight * expected, rel=1e-5)


def test_every_label_has_its_weight_in_the_total():
    arrays = toys.tensors(toys.batch(9, 6, schema=toys.TWO))
    chosen = {"click": Task(weight=0.7), "conversion": Task(weight=3.0, over="all", serve=False)}
    plan = Plan.of(
        din.Config(),
        toys.EMBEDDING,
        head=shared_bottom.Config(),
        tasks=chosen,
        auxiliaries=TASKS,
        half_bce=True,
    )
    serving = serving_model(toys.TWO, toys.ROWS, plan)
    found = training_model(serving, toys.TWO, plan).losses_of(arrays)
    found = {k: float(v) for k, v in found.items()}
    parts = 0.5 * (0.7 * found["click"] + 3.0 * found["conversion"])
    parts += 0.3 * found["uim"] + 0.02 * found["nip"]
    assert found["total"] == pytest.approx(parts, rel=1e-6)
    assert min(found.values()) > 0
    assert serving.served == ("click",)
    assert set(serving.answer(arrays)) == {"probability", "logit"}


def test_an_auxiliary_reads_the_first_label():
    """Whatever else is learned: the tasks of the paper are about clicks."""
    arrays = toys.batch(9, 6, schema=toys.TWO)
    values = []
    for schema, head in ((toys.SCHEMA, single.Config()), (toys.TWO, shared_bottom.Config())):
        serving = toys.serving(din.Config(), schema, head=head)
        model = toys.training(serving, TASKS, schema)
        values.append(model.losses_of(toys.tensors(arrays)))
    for name in TASKS:
        assert float(values[0][name]) == float(values[1][name])


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"clik": Task()}, r"label of a task 'clik': did you mean click"),
        ({"conversion": Task()}, r"learns 'conversion', which is known within 'click'"),
        ({"click": Task(serve=False)}, r"no task of the experiment is served; .*click.serve=true"),
    ],
)
def test_tasks_without_sense_are_refused(tasks, said):
    with pytest.raises(InputError, match=said):
        toys.serving(din.Config(), toys.TWO, head=shared_bottom.Config(), tasks=tasks)


def test_an_auxiliary_leaves_the_serving_models_start():
    plain, other = toys.serving(din.Config()), toys.serving(din.Config())
    toys.training(other, TASKS)
    for a, b in zip(plain.variables, other.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_serving_model_holds_no_variable_of_a_task():
    model = toys.training(toys.serving(din.Config()), TASKS)
    served = {id(v) for v in model.serving.variables}
    extra = [v for v in model.variables if id(v) not in served]
    assert {id(v) for task in model.auxiliaries.values() for v in task.variables} == {
        id(v) for v in extra
    }
    assert len(extra) == 3 + 8 + 3


def test_another_seed_gives_another_start():
    a, b = toys.serving(din.Config()), toys.serving(din.Config(), seed=4)
    for name in ("item", "user"):
        assert (a.embedder.tables[name].numpy() != b.embedder.tables[name].numpy()).all()
    assert (a.head.logit.dense.kernel.numpy() != b.head.logit.dense.kernel.numpy()).any()


def test_l2_counts_only_what_the_batch_touched():
    config = embedder.Config(dimension=toys.D, l2=1.0)
    model = toys.training(toys.serving(din.Config(), embedding=config), {}, l2=1.0)
    arrays = toys.tensors(toys.batch(3, 4))
    before = float(model.losses_of(arrays)["l2"])
    used = set(arrays["item"].numpy()) | set(arrays["history_item"].numpy().ravel())
    free = next(i for i in range(2, 40) if i not in used)
    table = model.serving.embedder.tables["item"]
    table.scatter_nd_update([[free]], [[100.0] * toys.D])
    assert float(model.losses_of(arrays)["l2"]) == pytest.approx(before)
