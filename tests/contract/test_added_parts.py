"""The files that the pages show, written into folders of their own, are parts like any other."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import configs
from at4ctr import config
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.folders import config_of, modules
from at4ctr.model.build import Plan, serving_model, training_model
from at4ctr.optimizers import LazyAdam
from pipelines import train
from pipelines.assembly import Assembly
from tests.data import toy_store
from tests.model import toys

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = ("WORKSPACE.md", "docs/training.md")
ADDED = {
    "at4ctr/backbones": "pooled",
    "at4ctr/heads": "separate",
    "at4ctr/encodings": "rank",
    "at4ctr/auxiliaries": "near",
    "at4ctr/data/datasets": "shop",
    "configs": "din_beside_deepfm",
}


def shown() -> dict[str, str]:
    """Path -> text of each code block that begins with a path."""
    pages = "".join((CHECKOUT / page).read_text() for page in PAGES)
    return dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", pages, re.DOTALL))


@pytest.fixture(scope="module", autouse=True)
def added(tmp_path_factory):
    """The blocks as files, in folders that the registries look into as well."""
    root = tmp_path_factory.mktemp("added")
    with pytest.MonkeyPatch.context() as patch:
        for path, text in shown().items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        for folder in ADDED:
            module = importlib.import_module(folder.replace("/", "."))
            patch.setattr(module, "__path__", [*module.__path__, str(root / folder)])
        importlib.invalidate_caches()
        yield
    for folder, name in ADDED.items():
        package = folder.replace("/", ".")
        sys.modules.pop(f"{package}.{name}", None)
        vars(sys.modules[package]).pop(name, None)


def train_one_step(model, batch) -> dict[str, float]:
    """The losses before it; every variable that has a gradient has moved."""
    with tf.GradientTape() as tape:
        losses = model.losses_of(batch)
    variables = model.trainable_variables
    found = tape.gradient(losses["total"], variables)
    pairs = [(g, v) for g, v in zip(found, variables, strict=True) if g is not None]
    LazyAdam(0.01).apply_gradients(pairs)
    assert float(model.losses_of(batch)["total"]) != float(losses["total"])
    return {name: float(value) for name, value in losses.items()}


def test_the_pages_show_one_file_for_each_kind_of_part():
    assert set(shown()) == {f"{folder}/{name}.py" for folder, name in ADDED.items()}
    for folder, name in ADDED.items():
        assert name in modules(folder.replace("/", "."))


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A store with numbers and two labels, and its schema with the added encoding."""
    path = tmp_path_factory.mktemp("rich") / "store"
    toy_store.make(path, users=40, rich=True)
    store = Store.open(path)
    numbers = tuple(replace(n, encoding="rank") for n in store.schema.numbers)
    return store, replace(store.schema, numbers=numbers)


def test_a_head_and_an_encoding_train_two_labels_and_numbers(rich):
    store, schema = rich
    plan = Plan.of(
        config_of("backbones", "din", "backbone"),
        toys.EMBEDDING,
        head=config_of("heads", "separate", "head", {"units": (9, 5)}),
    )
    known = store.numbers()["price"]._replace(quantiles=tuple(np.linspace(-2, 2, 9).tolist()))
    sizes = {t.name: store.rows(t.name) for t in schema.tables}
    serving = serving_model(schema, sizes, plan, {"price": known})
    model = training_model(serving, schema, plan)
    batch = toys.tensors(Reader(store, "train", batch_size=64, history=8).batch(0, 0))
    encoding: Any = serving.embedder.encodings["price"]
    head: Any = serving.head
    watched = [encoding.rows, *(t.dense[0].kernel for t in head.trunks.values())]
    before = [v.numpy() for v in watched]
    losses = train_one_step(model, batch)
    assert {"click", "conversion"} < set(losses)
    assert np.isfinite(list(losses.values())).all()
    for old, new in zip(before, watched, strict=True):
        assert (old != new.numpy()).any()
    served = serving.answer(batch)
    assert {"probability_click", "probability_conversion"} < set(served)
    assert all(np.isfinite(v).all() for v in served.values())
    ranks = encoding(tf.constant([-9.0, -2.0, 0.0, 9.0])).numpy() - encoding.rows[1]
    np.testing.assert_allclose(ranks, np.outer([0, 1 / 9, 5 / 9, 1], encoding.rows[0]), atol=1e-6)


def test_a_label_that_is_not_asked_for_is_not_computed():
    head = config_of("heads", "separate", "head")
    model = toys.serving(config_of("backbones", "din", "backbone"), toys.TWO, head=head)
    arrays = toys.tensors(toys.batch(schema=toys.TWO))
    found = model.forward(arrays, training=False, labels=("click",))
    assert set(found.outputs.logits) == {"click"}


def test_a_head_that_cannot_serve_says_so():
    head = config_of("heads", "separate", "head")
    with pytest.raises(InputError, match=r"^head separate has no input: fm .*; expected"):
        toys.serving(config_of("backbones", "fm", "backbone"), head=head)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The folder of the shop's log: 30 users with 12 purchases each."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    lines = [f"{k % 30},{rng.integers(20)},{1_700_000_000 + 60 * k}" for k in range(360)]
    (folder / "purchases.csv").write_text("\n".join(["user,item,timestamp", *lines]))
    return folder


@pytest.fixture(scope="module")
def store(shop, tmp_path_factory):
    data = configs.dataset("shop")(raw=str(shop))
    return Store.open(prepare(data, tmp_path_factory.mktemp("data")))


@pytest.mark.parametrize("recipe", ["pooled+near", "din_beside_deepfm"])
def test_a_dataset_and_a_recipe_are_found_by_their_names(shop, store, recipe):
    words = "head=separate head.units=6 fit.batch_size=32 data.history=5"
    e = train.experiment("shop", recipe, str(shop), words)
    assert config.from_json(config.to_json(e), datasets=configs.datasets()) == e
    made = Assembly(e, store)
    model = made.training(made.serving())
    losses = train_one_step(model, toys.tensors(made.reader("train", 32).batch(0, 0)))
    assert set(losses) == {"click", "total"} | ({"near"} if recipe == "pooled+near" else set())
    assert np.isfinite(list(losses.values())).all()
    widths = [space.dimension for space in model.serving.spaces.values()]
    assert widths == ([18] if recipe == "pooled+near" else [16, 8])
