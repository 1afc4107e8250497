"""The plans of AQCL's tables, and their report."""

import re

import pytest

from at4ctr.analysis.tables import Row
from at4ctr.auxiliaries.aqcl import Config
from at4ctr.data.datasets import amazon_beauty, tafeng
from at4ctr.errors import InputError
from pipelines.tables import aqcl, bodies
from pipelines.tables.page import Page
from pipelines.tables.plans import Cell, Plan
from tests.pipelines.test_paper import composed_cells, paper

DATA = {"amazon_beauty": amazon_beauty.Config(), "tafeng": tafeng.Config()}
EVERY = [(t, "") for t in aqcl.TABLES] + [("", f) for f in aqcl.FIGURES]


@pytest.mark.parametrize("dataset", DATA)
@pytest.mark.parametrize(("table", "figure"), EVERY)
def test_every_cell_composes(dataset, table, figure):
    plan = aqcl.plan(dataset, table, figure)
    for cell, made in composed_cells(plan, DATA[dataset]):
        assert {*made.auxiliaries, *made.perturbations} == set(cell.recipe.split("+")[1:])
        assert made.data.protocol == ("strict" if table == "aqcl2_strict" else "paper")
        tuned = dataset in aqcl.CHOSEN
        assert (made.fit.learning_rate == 0.001) == (not tuned)


@pytest.mark.parametrize("dataset", aqcl.CHOSEN)
def test_every_method_has_its_chosen_setting(dataset):
    assert aqcl.CHOSEN[dataset].keys() == aqcl.METHODS.keys()
    for table in ("aqcl2", "aqcl2_strict"):
        for cell in aqcl.plan(dataset, table, "").cells:
            assert cell.overrides == aqcl.CHOSEN[dataset][cell.label]
    pairs = {c.base: c for c in aqcl.plan(dataset, "aqcl3", "").cells if c.base}
    for cell in aqcl.plan(dataset, "aqcl3", "").cells:
        if cell.label in pairs and cell.label != "DIN":
            assert set(cell.overrides) < set(pairs[cell.label].overrides)


def test_printed_numbers_are_the_papers():
    text = paper("aqcl.txt")
    for dataset, name in (("amazon_beauty", "Amazon"), ("tafeng", "Ta Feng")):
        block = text[text.index(f"\n{name}\tDIN\t") :].splitlines()[1:7]
        for line, (method, values) in zip(block, aqcl.TABLE2[dataset].items(), strict=True):
            assert method in line.split("\t")
            assert re.findall(r"0\.\d{4}", line) == [f"{v:.4f}" for v in values]
    after = text[text.index("Table 3: Performance of AQCL") :].splitlines()[2:9]
    names = after[0].split("\t")
    for k, dataset in enumerate(("amazon_beauty", "tafeng")):
        column = [line.split("\t")[names.index(("Amazon", "Ta Feng")[k])] for line in after[1:]]
        ours = [f"{v:.4f}" for pair in aqcl.TABLE3[dataset].values() for v in pair]
        assert column == ours


def test_a_log_that_the_paper_has_not_is_refused():
    with pytest.raises(InputError, match="FIG=aqcl_weight compares methods on the logs of AQCL"):
        aqcl.plan("taobao", "", "aqcl_weight")


def test_the_report_of_active_users(tmp_path):
    def run(auc, low, entropy):
        groups = {"low": {"auc": low}, "middle": {"auc": auc}, "high": {}}
        return {"auc": auc, "activeness": groups, "normalized_entropy": entropy}

    cells = (Cell("DIN", "din", printed={"auc": 0.7}), Cell("AQCL", "din+aqcl", base="DIN"))
    rows = [Row("DIN", {1: run(0.70, 0.60, 0.9)}), Row("AQCL", {1: run(0.72, 0.65, 1.1)}, "DIN")]
    page = Page(Plan("t", "activeness", "T", cells), {}, 1, tmp_path)
    lines = bodies.activeness(page, rows, {"DIN": {}, "AQCL": {}})
    ours = [c.strip() for c in lines[3].split("|")]
    assert ours[1:9] == ["AQCL", "1", "0.7200", "+10.0 %", "–", "0.6500", "+50.0 %", "0.7200"]
    assert lines[0].count("paper's AUC") == 1
    assert "Worse than a constant: AQCL." in "\n".join(lines)


@pytest.mark.parametrize("figure", aqcl.FIGURES)
def test_a_sweep_compares_its_rows_with_one_of_them(figure):
    cells, base = aqcl.plan("amazon_beauty", "", figure).cells, aqcl.SWEEPS[figure][-1]
    assert [c.base for c in cells] == [None if c.label == base else base for c in cells]
    assert base in [c.label for c in cells]


def test_the_sweeps_of_codewords_compare_with_the_defaults():
    default = Config()
    assert aqcl.SWEEPS["aqcl_codewords"][-1] == f"T = {default.codewords}"
    assert aqcl.SWEEPS["aqcl_nearest"][-1] == f"K = {default.nearest}"
