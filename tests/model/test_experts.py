"""Several experts, each with a backbone of its own in an embedding space of its own."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import din, fm, widedeep
from at4ctr.errors import InputError
from at4ctr.heads import single
from at4ctr.layers.embedder import Config as Space
from at4ctr.model.build import ExpertConfig, Plan, serving_model, training_model
from tests.model import toys
from tests.oracles import fm as oracle_of_fm
from tests.oracles import models as oracle

HEAD = single.Config(units=(9, 5), activation="dice")
SPACES = {"main": Space(4, 0.5), "wide": Space(6, 0.5), "small": Space(3, 0.5)}
EXPERTS = {
    "din": ExpertConfig(din.Config()),
    "pooled": ExpertConfig(widedeep.Config(pool_history=True), "wide"),
    "fm": ExpertConfig(fm.Config(), "small"),
}


def build(*names: str):
    experts = {name: EXPERTS[name] for name in names}
    plan = Plan(experts, HEAD, SPACES, seed=3)
    model = serving_model(toys.SCHEMA, toys.ROWS, plan)
    toys.jitter(model)
    return model, plan


def expected(model, arrays, *, training: bool) -> np.ndarray:
    """Of din in the first space, widedeep in the second and fm in the third."""
    samples = {
        name: toys.samples(SimpleNamespace(embedder=embedder), arrays)
        for name, embedder in model.spaces.items()
    }
    unit = model.backbones["din"].attention
    stack = [toys.layer(unit.first), *toys.layers(unit.rest)]
    first = [oracle.din_input(s, toys.layer(unit.project), stack) for s in samples["main"]]
    second = [oracle.widedeep_input(s, pool=True) for s in samples["wide"]]
    inputs = np.concatenate([np.array(first), np.array([deep for deep, _ in second])], 1)
    found = toys.logits(model, inputs, [wide for _, wide in second], training=training)
    if "fm" in model.backbones:
        tables = toys.tables(SimpleNamespace(embedder=model.spaces["small"]))
        fields = [f for f in toys.SCHEMA.features if f.group != "behaviour"]
        features = [(f.name, f.table) for f in fields]
        for i in range(len(found)):
            now = {name: values[i] for name, values in arrays.items()}
            vectors, weights = oracle_of_fm.fields(now, tables, features)
            found[i] += oracle_of_fm.terms(weights, vectors)
    return found


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("names", [("din", "pooled"), ("din", "pooled", "fm")], ids="+".join)
def test_they_are_joined_under_one_head(names, training):
    model, _ = build(*names)
    arrays = toys.batch(9, 6, seed=4)
    found = model(toys.tensors(arrays), training=training)["click"]
    wanted = expected(model, arrays, training=training)
    np.testing.assert_allclose(found, wanted, rtol=3e-4, atol=3e-5)


def test_each_space_has_tables_of_its_own_width():
    model, _ = build("din", "pooled", "fm")
    widths = {name: space.tables["item"].shape[1] for name, space in model.spaces.items()}
    assert widths == {"main": 4, "wide": 6, "small": 3}
    assert "item/linear" in model.spaces["small"].tables
    assert "item/linear" not in model.spaces["wide"].tables
    found = model.forward(toys.tensors(toys.batch(5, 6)), training=False)
    assert {name: x.item.shape[1] for name, x in found.spaces.items()} == {
        "main": 12, "wide": 18, "small": 9
    }  # fmt: skip


def test_gradients_reach_every_expert_and_its_tables():
    model, plan = build("din", "pooled", "fm")
    training = training_model(model, toys.SCHEMA, plan)
    with tf.GradientTape() as tape:
        loss = training.losses_of(toys.tensors(toys.batch(9, 6)))["total"]
    tables = {name: space.tables["item"] for name, space in model.spaces.items()}
    weights = [*model.backbones["din"].attention.trainable_variables[:1], *tables.values()]
    for g in tape.gradient(loss, weights):
        values = tf.convert_to_tensor(g).numpy()
        assert np.isfinite(values).all()
        assert values.any()


def test_the_l2_penalty_is_of_each_space_by_its_weight():
    spaces = {"main": Space(4, 0.5, l2=0.25), "wide": Space(6, 0.5, l2=2.0), "free": Space(3)}
    experts = {"din": EXPERTS["din"], "pooled": EXPERTS["pooled"]}
    plan = Plan(experts, HEAD, spaces, seed=3)
    model = training_model(serving_model(toys.SCHEMA, toys.ROWS, plan), toys.SCHEMA, plan)
    arrays = toys.batch(9, 6)
    found = {k: float(v) for k, v in model.losses_of(toys.tensors(arrays)).items()}
    of = {}
    for name in ("main", "wide"):
        embedder = SimpleNamespace(embedder=model.serving.spaces[name])
        rows = toys.samples(embedder, arrays)
        parts = [[s.profile, s.item, s.context, s.history.ravel()] for s in rows]
        of[name] = sum((np.concatenate(p) ** 2).sum() for p in parts) / 9
    total = found["click"] + 0.25 * of["main"] + 2.0 * of["wide"]
    assert found["total"] == pytest.approx(total, rel=1e-5)


def test_another_expert_leaves_the_first_ones_start():
    one = serving_model(toys.SCHEMA, toys.ROWS, Plan({"din": EXPERTS["din"]}, HEAD, SPACES, seed=3))
    both = serving_model(toys.SCHEMA, toys.ROWS, Plan(EXPERTS, HEAD, SPACES, seed=3))
    for part in (lambda m: m.backbones["din"], lambda m: m.spaces["main"]):
        for a, b in zip(part(one).variables, part(both).variables, strict=True):
            np.testing.assert_array_equal(a, b)
    main, wide = (both.spaces[name].tables["item"].numpy() for name in ("main", "wide"))
    assert (main[:, :4] != wide[:, :4]).all()


def test_one_user_with_many_candidates_is_the_same_for_all_experts():
    model, _ = build("din", "pooled", "fm")
    toys.assert_one_user_is_repeated(model, toys.SCHEMA)


@pytest.mark.parametrize(
    ("experts", "spaces", "said"),
    [
        ({}, SPACES, r"the experiment has 0 experts and 3 embedding spaces; expected at least one"),
        (EXPERTS, {}, r"3 experts and 0 embedding spaces"),
        (EXPERTS, {"main": Space(4)}, r"space of expert pooled 'wide'"),
    ],
)
def test_what_makes_no_sense_is_refused(experts, spaces, said):
    with pytest.raises(InputError, match=said):
        serving_model(toys.SCHEMA, toys.ROWS, Plan(experts, HEAD, spaces))
