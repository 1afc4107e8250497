"""The analysis of runs: one page that needs nothing beside it, and its data."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest

from at4ctr.analysis.abundance import information_abundance
from at4ctr.backbones import din, tin
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom
from at4ctr.model.build import Plan, serving_model
from pipelines import analyse, train
from pipelines.assembly import Assembly
from tests.data import toy_store
from tests.model import toys

HEAD = shared_bottom.Config(bottom=(6,), tower=(4,))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[analyse.Run]:
    """Two models that are not trained, on one store with times."""
    folder = tmp_path_factory.mktemp("runs")
    store = Store.open(toy_store.make(folder / "store", users=120, rich=True).path)
    rows = {t.name: store.rows(t.name) for t in store.schema.tables}
    e: Any = SimpleNamespace(data=SimpleNamespace(history=12), seed=0)
    found = []
    for seed, config in enumerate((din.Config(), tin.Config("both"))):
        plan = Plan.of(config, toys.EMBEDDING, head=HEAD, seed=seed)
        model = serving_model(store.schema, rows, plan, store.numbers())
        name = type(config).__module__.rpartition(".")[2]
        found.append(analyse.Run(name, folder / name, Assembly(e, store), model))
    return found


def written(runs, out: Path) -> tuple[str, dict[str, Any]]:
    page = analyse.analyse(runs, out, rows=5000, pairs=300)
    return page.read_text(), json.loads((out / analyse.DATA).read_text())


def test_the_page_holds_its_pictures_and_the_data_its_values(runs, tmp_path):
    page, data = written(runs, tmp_path)
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page)
    assert page.count("data:image/png;base64,") == 2 * 2 + 2
    for words in ("Behaviours and the response", "Dimensional collapse", "Interest entanglement"):
        assert words in page
    tables = {(x["space"], x["table"]): x for x in data["tables"]}
    for run in runs:
        for name, rows in run.model.embedder.tables.items():
            expected = information_abundance(rows.numpy()[2:])
            assert tables[run.name, name]["abundance"] == pytest.approx(expected)
    cells = pq.read_table(tmp_path / "correlation.parquet").to_pylist()
    assert {x["what"] for x in cells} == {
        "Mutual information", "Mutual information, all candidates", "Learned by tin, tin",
    }  # fmt: skip
    assert {x["by"] for x in cells} == {"position", "interval"}
    pairs = pq.read_table(tmp_path / "pairs.parquet")
    near = pairs["near_first"].to_numpy()
    distance = {name: pairs[f"euclidean {name}"].to_numpy() for name in ("din", "tin")}
    assert near.any()
    assert distance["din"][near].max() < np.median(distance["din"])
    assert distance["tin"][near].min() > np.median(distance["tin"])
    assert data["order"]["din"] > 0.5 > -0.5 > data["order"]["tin"]


def test_the_same_runs_give_the_same_bytes_and_one_run_is_enough(runs, tmp_path):
    first = written(runs[:1], tmp_path / "a")[0]
    assert first == written(runs[:1], tmp_path / "b")[0]
    assert "Name further runs" in first
    assert "None of the runs has the backbone tin" in first


def test_what_tin_learned_is_the_mean_of_its_terms(runs):
    run = runs[1]
    found = analyse.correlations([run], 5000, "click", "")
    (learned,) = [v for title, (_, v) in found.values.items() if title.startswith("Learned")]
    batch, sums = run.reader().batch(0, 0), dict[Any, list[float]]()
    x = run.model.embedder(toys.tensors(batch))
    terms = cast(Any, run.model.backbone).correlation(x).numpy()
    raw = {v: k for k, v in run.made.store.raw_ids("category").items()}
    target = raw.get(found.target, found.target)
    for term, row, place in zip(terms, *map(np.array, x.packed[1:]), strict=True):
        if batch["category"][row] == int(target):
            key = (batch["history_category"][row, place], batch["history_length"][row] - 1 - place)
            sums.setdefault(key, []).append(term)
    own = raw.get(found.categories[0], found.categories[0])
    for p in range(12):
        if (int(own), p) in sums:
            expected = np.mean(sums[int(own), p])
            assert learned.positions[0, p] == pytest.approx(expected, rel=1e-4)
        else:
            assert np.isnan(learned.positions[0, p])


def test_refusals_name_what_is_wrong(runs, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"holds no metrics\.json"):
        analyse.opened([str(tmp_path)])
    with pytest.raises(InputError, match="RUN names no run"):
        analyse.opened([])
    with pytest.raises(InputError, match=r"category of category \(--category\)"):
        analyse.correlations(runs[:1], 5000, "click", "nothing")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}")
    made = SimpleNamespace(restored=lambda _: None, store=runs[0].made.store)
    monkeypatch.setattr(analyse, "Assembly", lambda *_: made)
    monkeypatch.setattr(train, "open_store", lambda *_: made.store)
    data = SimpleNamespace(data=None)
    stores = {"a": made.store.path.name, "b": "other"}
    monkeypatch.setattr(
        train, "load_snapshot", lambda path: (data, "din", stores[path.parent.name])
    )
    with pytest.raises(InputError, match=r"a run of the store other and .* expected runs of one"):
        analyse.opened([str(tmp_path / "a"), str(tmp_path / "b")])
