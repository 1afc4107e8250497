"""The plans of the ads system's tables, and the abundance of embedding spaces on their page."""

import json

import pytest

from at4ctr.analysis.tables import Row
from at4ctr.data.datasets import aliccp, amazon_beauty, retailrocket, tafeng
from at4ctr.errors import InputError
from at4ctr.model.build import serving_model
from pipelines.tables import ads
from pipelines.tables.jobs import Workshop
from pipelines.tables.reports import Report
from tests.pipelines.test_paper import composed, composed_cells

DATA = {
    "amazon_beauty": amazon_beauty.Config(), "tafeng": tafeng.Config(),
    "retailrocket": retailrocket.Config(), "aliccp": aliccp.Config(),
}  # fmt: skip
KNOWN = {"tin": ads.ONE_LABEL, "experts": ads.ONE_LABEL, "spaces": ads.ONE_LABEL,
         "stem": ads.SEVERAL, "ranking": ("aliccp",)}  # fmt: skip
CASES = [(t, d) for t, found in KNOWN.items() for d in found]


@pytest.mark.parametrize(("table", "dataset"), CASES)
def test_every_cell_composes_to_a_model(table, dataset):
    plan = ads.plan(dataset, table, "")
    for cell, made in composed_cells(plan, DATA[dataset]):
        assert made.data.name == dataset
        schema = made.data.schema()
        assert serving_model(schema, {t.name: 5 for t in schema.tables}, made.plan).served
        if table == "tin" and cell.recipe == "tin":
            assert made.data.times


@pytest.mark.parametrize("dataset", ads.ONE_LABEL)
def test_both_kinds_of_spaces_have_the_same_columns(dataset):
    plan = ads.plan(dataset, "spaces", "")
    for cell in plan.cells:
        spaces = composed(plan, cell, DATA[dataset]).spaces
        assert len(spaces) == (3 if cell.group == "three spaces of D" else 1)
        assert sum(s.dimension for s in spaces.values()) == 3 * int(cell.x or 0)


@pytest.mark.parametrize("dataset", ads.SEVERAL)
def test_every_row_of_stem_has_24_columns(dataset):
    plan = ads.plan(dataset, "stem", "")
    for cell in plan.cells:
        spaces = composed(plan, cell, DATA[dataset]).spaces
        assert sum(s.dimension for s in spaces.values()) == 24


@pytest.mark.parametrize("table", KNOWN)
def test_another_log_is_refused(table):
    with pytest.raises(InputError, match=f"TABLE={table} has no plan for DATASET=taobao; expected"):
        ads.plan("taobao", table, "")


def test_the_page_has_the_mean_abundance_over_seeds(tmp_path, monkeypatch):
    plan = ads.plan("tafeng", "spaces", "")
    cell = plan.cells[0]
    folders = {}
    for seed, value in ((1, 6.0), (2, 9.0)):
        folder = folders[seed] = tmp_path / str(seed)
        folder.mkdir()
        (folder / "abundance.json").write_text(
            json.dumps({"item": {"abundance": value, "width": 48}})
        )
    report = Report(plan, {}, 2, "make", tmp_path)
    monkeypatch.setattr("pipelines.tables.bodies.activeness", lambda *_: [])
    rows = [Row(cell.label, {s: {"auc": 0.5} for s in folders})]
    lines = report._spaces(report.page, rows, {cell.label: folders})
    assert "| one space of 48 | 7.50 (16%) |" in lines


def test_each_simulated_log_is_a_store_of_its_own(tmp_path, monkeypatch):
    """Their options of preparation are the same, and the rate of clicks is one of the log alone."""
    monkeypatch.chdir(tmp_path)
    workshop = Workshop("aliccp", "")
    size = (
        "data.impressions=20000",
        "data.users=2000",
        "data.conversion_rate=0.3",
        "backbone.pool_history=false",
    )
    stores = [
        workshop.job("x", "dnn", (*size, f"data.click_rate={rate}", rest))[1]
        for rate, rest in ((0.1, ""), (0.4, ""), (0.1, "fit.epochs=2"))
    ]
    assert stores[0] is stores[2]
    assert stores[0].path != stores[1].path
