"""Exported versions that tests read and do not change, and servers of them."""

import dataclasses
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import tensorflow as tf

from at4ctr.backbones import din
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.heads import shared_bottom
from at4ctr.model.build import Plan, serving_model
from at4ctr.tasks import Task
from export import saved_model
from tests.data import rich_log
from tests.export import EMBEDDING, rich
from tests.export.serving import Server, export


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """The folder of versions 1 and 2, of different weights."""
    folder = tmp_path_factory.mktemp("made") / "export"
    export(folder, 2)
    return folder


@pytest.fixture(scope="session")
def server(made):
    """Serves version 2."""
    started = Server(made)
    assert "available" in started.wait("version 2 is available")
    yield started
    assert started.stop(signal.SIGINT) == 0


@pytest.fixture(scope="session")
def rich_store(tmp_path_factory) -> Store:
    """Of a log with two labels, a number of each group and weighted tags."""
    folder = tmp_path_factory.mktemp("rich")
    found = Store.open(prepare(rich_log.Log(raw=rich_log.write(folder / "raw")), folder / "data"))
    numbers = tuple(
        dataclasses.replace(n, encoding=rich.ENCODINGS[n.name]) for n in found.schema.numbers
    )
    return dataclasses.replace(found, schema=dataclasses.replace(found.schema, numbers=numbers))


@pytest.fixture(scope="session")
def rich_built(rich_store):
    """Tasks -> a model that is not trained."""
    return partial(_rich_built, rich_store)


def _rich_built(rich_store: Store, tasks: Mapping[str, Task] = MappingProxyType({})) -> Any:
    made = serving_model(
        rich_store.schema,
        {t.name: rich_store.rows(t.name) for t in rich_store.schema.tables},
        Plan.of(
            din.Config(),
            EMBEDDING,
            head=shared_bottom.Config(bottom=(16,), tower=(8,)),
            tasks=tasks,
            negative_rate=rich.RATE,
            seed=3,
        ),
        rich_store.numbers(),
        rich_store.vectors(),
    )
    starts: list[Any] = list(made.embedder.encodings.values())  # too small to be seen
    for variable in (v for encoding in starts for v in encoding.trainable_variables):
        variable.assign(20 * variable)
    return made


@pytest.fixture(scope="session")
def rich_model(rich_built):
    """Conversions have a fitted calibrator."""
    made = rich_built()
    made.calibrate({"conversion": rich.FITTED})
    return made


@pytest.fixture(scope="session")
def rich_version(rich_model, rich_store, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rich_export")
    return saved_model.save(rich_model, rich_store, folder, history=rich.T, facts={})


@pytest.fixture(scope="session")
def rich_signatures(rich_version):
    return tf.saved_model.load(str(rich_version)).signatures
