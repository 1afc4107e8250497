"""Plans: against the paper's own text where it is there, and against one another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import configs
from at4ctr import config
from at4ctr.backbones import din
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.data.datasets import movielens, taobao
from at4ctr.errors import InputError
from at4ctr.heads import single
from at4ctr.layers import embedder
from pipelines.tables import plans as _paper
from pipelines.tables import printed as _printed
from pipelines.tables.printed import AT, DBPMAN

PAPERS = Path(__file__).resolve().parents[3] / "shared" / "papers"


def paper(name: str) -> str:
    """The text of a paper, or a skip that says where it is looked for."""
    path = PAPERS / name
    if not path.exists():
        pytest.skip(f"no text of the paper at {path}")
    return path.read_text()


def composed(plan: _paper.Plan, cell: _paper.Cell, data: Options) -> Experiment:
    """The experiment of a cell."""
    overrides = (*plan.defaults, *cell.overrides)
    options = config.override({"data": data}, [a for a in overrides if a.startswith("data.")])
    rest = [a for a in overrides if not a.startswith("data.")]
    return config.override(configs.recipe(cell.recipe, options["data"]), rest)


def composed_cells(plan: _paper.Plan, data: Options) -> list[tuple[_paper.Cell, Experiment]]:
    """Every cell and its experiment; the plan's labels are distinct, and its pairs name them."""
    labels = [cell.label for cell in plan.cells]
    assert len(set(labels)) == len(labels)
    assert {cell.base for cell in plan.cells if cell.base} <= set(labels)
    assert {label for pair in plan.pairs for label in pair} <= set(labels)
    return [(cell, composed(plan, cell, data)) for cell in plan.cells]


def printed(text: str, table: str) -> list[list[float]]:
    """The numbers of a Markdown table's rows, in order; those without any left out."""
    after = text[text.index(f"Table {table}:") :].split("\n\n", 2)[1]
    rows = [re.findall(r"\d+\.\d+", line) for line in after.splitlines()]
    return [[float(number) for number in row] for row in rows if row]


def test_table_2_is_the_papers():
    taobao_columns = [tuple(row[2:]) for row in printed(paper("at4ctr.txt"), "2")]
    assert [cell.paper for cell in _paper.table2().cells] == taobao_columns


def test_table_3_is_the_papers():
    (together, with_both) = printed(paper("at4ctr.txt"), "3")  # the first two stand in one row
    assert _printed.PAPER[DBPMAN] == (together[4], together[6])
    assert _printed.PAPER[f"{DBPMAN}+uim"] == (together[5], together[7])
    assert _printed.PAPER[DBPMAN + AT] == tuple(with_both[2:])
    assert [c.paper is None for c in _paper.table3(DBPMAN).cells] == [False, False, True, False]


def test_table_4_is_the_papers():
    taobao_columns = [tuple(row[2:]) for row in printed(paper("at4ctr.txt"), "4")]
    assert [cell.paper for cell in _paper.table4().cells] == taobao_columns


def test_table_5_is_the_papers():
    """Where the text has one value for two, it is one of the two."""
    text = paper("at4ctr.txt")
    assert "on the industry dataset. From Table 5" in text
    ratios, storage, _ = printed(text, "5")
    assert list(_printed.RATES) == ratios
    assert list(_printed.STORAGE.values()) == storage
    (line,) = [x for x in text.splitlines() if "Time(h)" in x]
    cells = [re.findall(r"\d+\.\d+", cell) for cell in line.split("|")[2:-1]]
    known = [[str(h) for h in _printed.HOURS[w] if h is not None] for w in ratios]
    assert known == cells


def test_aqcl_is_the_papers():
    rows = re.findall(r"^(W&D|DeepFM|DIN)\t([\d.]+)\t([\d.]+)\t", text_of_table_3(), re.M)
    names = {"W&D": "widedeep", "DeepFM": "deepfm", "DIN": "din"}
    for column, dataset in ((1, "amazon_beauty"), (2, "tafeng")):
        found = {names[row[0]]: float(row[column]) for row in rows}
        assert _printed.AQCL[dataset] == found


def text_of_table_3() -> str:
    text = paper("aqcl.txt")
    return text[text.index("Table 3: ") :][:600]


@pytest.mark.parametrize(
    ("listed", "bases"),
    [
        (("din", "din+uim", "din+uim+nip"), (None, "din", "din+uim")),
        (("din+uim+nip", "din"), ("din", None)),
        (("dien+next_behaviour", "dien+next_behaviour+uim"), (None, "dien+next_behaviour")),
        (("din_at4ctr", "din", "din+nip+uim"), ("din", None, "din")),
        (("din", "din+uim", "fm"), (None, "din", None)),
        (("din+uim", "din+nip"), (None, "din+uim")),
        (("widedeep", "din+uim", "tuned"), (None, "widedeep", "widedeep")),
    ],
)
def test_a_recipe_is_compared_with_the_longest_within_it_or_all_with_the_first(listed, bases):
    assert tuple(cell.base for cell in _paper.recipes(listed).cells) == bases


def test_a_cell_sets_nothing_that_its_plan_leaves_to_the_user():
    for plan in (_paper.external("tafeng"), _paper.tuning(), _paper.table5("din")):
        fields = {a.partition("=")[0] for cell in plan.cells for a in cell.overrides}
        assert not fields & {a.partition("=")[0] for a in plan.defaults}


def test_plans_are_the_papers():
    table2 = _paper.table2().cells
    assert [c.label for c in table2] == [
        *("FM", "WideDeep", "DeepFM", "DIN", "DIEN", "DBPMaN", "DeepMCP", "DMR", "CL4CTR"),
        "AT4CTR",
    ]
    printed = [c.paper[0] for c in table2 if c.paper]
    assert len(printed) == 10
    assert max(printed) == printed[-1]
    for plan in (_paper.table2(), _paper.table3("din"), _paper.table4(), _paper.figure4("din")):
        labels = [c.label for c in plan.cells]
        assert len(set(labels)) == len(labels)
        assert {c.base for c in plan.cells if c.base} <= set(labels)
    assert _paper.table5("din").cells == _paper.figure2("din").cells


def test_every_method_has_the_same_budget():
    counts: dict[str, int] = {}
    for cell in _paper.tuning().cells:
        counts[cell.group] = counts.get(cell.group, 0) + 1
    assert len(set(counts.values())) == 1
    assert {c.label for c in _paper.table2().cells} <= set(counts)


def test_every_cell_of_every_plan_composes():
    plans = [_paper.table2(), _paper.table3("din"), _paper.table4(), _paper.table5("din")]
    plans += [_paper.figure3("din"), _paper.figure4("din"), _paper.external("tafeng")]
    plans += [_paper.figure5("din"), _paper.tuning()]
    for plan in plans:
        for cell in plan.cells:
            made = composed(plan, cell, taobao.Config())
            backbone, *tasks = cell.recipe.split("+")
            module = type(made.experts[backbone].backbone).__module__
            assert module == f"at4ctr.backbones.{backbone}"
            assert sorted(made.auxiliaries) == sorted(tasks)
            if cell.x is not None and "weight" in "".join(cell.overrides):
                assert cell.x in [task.weight for task in made.auxiliaries.values()]


def test_external_needs_published_baselines():
    with pytest.raises(InputError, match="amazon_beauty, movielens, tafeng"):
        _paper.external("taobao")


def test_the_external_check_of_movielens_is_what_the_libraries_ran():
    cell, other = _paper.external("movielens").cells
    assert other.overrides == (*cell.overrides[:-1], "embedding.l2=0.005")
    plain = [a for a in cell.overrides if a.startswith("data.")]
    options = config.override({"data": movielens.Config()}, plain)["data"]
    assert (options.size, options.target, options.history) == ("100k", "liked", 50)
    made = configs.recipe(cell.recipe, options)
    made = config.override(made, [a for a in cell.overrides if a not in plain])
    assert made.experts["din"].backbone == din.Config(attention=(80, 40))
    assert made.spaces["main"] == embedder.Config(dimension=16, l2=1e-5)
    assert made.head == single.Config(units=(200, 80))
