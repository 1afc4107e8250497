"""The plans that compare ways to train one model."""

import pytest

from at4ctr.errors import InputError
from pipelines.tables import training
from pipelines.train import experiment


@pytest.mark.parametrize("dataset", training.SIZES)
def test_each_recipe_is_trained_on_rows_and_on_requests(dataset):
    plan = training.plan(dataset, "grouping", "")
    assert len(plan.cells) == 2 * len(training.RECIPES)
    for rows, requests in zip(plan.cells[::2], plan.cells[1::2], strict=True):
        assert rows.recipe == requests.recipe
        assert requests.base == rows.label
        assert rows.overrides == ("data.grouping=rows",)
        assert requests.overrides == ("data.grouping=requests",)


@pytest.mark.parametrize("dataset", training.RATES)
def test_each_optimizer_has_its_own_rates(dataset):
    plan = training.plan(dataset, "optimizers", "")
    first, second = (
        experiment(dataset, cell.recipe, "", " ".join((*plan.defaults, *cell.overrides))).fit
        for cell in plan.cells
    )
    assert (first.optimizer, second.optimizer) == ("lazy_adam", "rowwise_adagrad")
    rates = [(f"{fit.learning_rate:g}", f"{fit.table_rate:g}") for fit in (first, second)]
    assert rates == [training.RATES[dataset][cell.label] for cell in plan.cells]
    assert [cell.base for cell in plan.cells] == [None, "LazyAdam"]


@pytest.mark.parametrize("dataset", training.RATES)
def test_with_and_without_the_tasks_each_has_its_own_rates(dataset):
    without, with_them = training.plan(dataset, "tuned", "").cells
    assert (without.recipe, with_them.recipe, with_them.base) == ("din", "din+uim+nip", "DIN")
    first, _ = training.plan(dataset, "optimizers", "").cells
    assert without.overrides == first.overrides
    assert without.overrides != with_them.overrides


@pytest.mark.parametrize("table", training.TABLES)
def test_another_dataset_is_refused(table):
    with pytest.raises(InputError, match=f"TABLE={table} has no settings for DATASET=taobao"):
        training.plan("taobao", table, "")
