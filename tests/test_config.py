"""Experiments: overrides, snapshots, and what is refused."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

import configs
from at4ctr.config import Experiment, from_json, override, to_json
from at4ctr.data.dataset import Options
from at4ctr.data.datasets import taobao
from at4ctr.errors import InputError
from at4ctr.folders import modules
from at4ctr.model.build import label_tasks
from at4ctr.tasks import Task
from configs import recipe


def datasets() -> list[str]:
    found = []
    for name in modules("at4ctr.data.datasets"):
        kind = getattr(importlib.import_module(f"at4ctr.data.datasets.{name}"), "Config", None)
        if isinstance(kind, type) and issubclass(kind, Options):
            found.append(name)
    return found


DATASETS = datasets()
RECIPES = modules("configs")
FUNNELS = [name for name in DATASETS if len(configs.dataset(name)().schema().labels) > 1]
FUNNEL = ("esmm", "ctnocvr", "stem_al")  # recipes of more labels than one
CASES = [(r, d) for r in RECIPES for d in DATASETS if r not in FUNNEL or d in FUNNELS]


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    units: tuple[int, ...] = (200, 80)
    block: int | None = None
    kind: Literal["a", "bc"] = "a"


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    parts: Mapping[str, Any] = field(default_factory=lambda: {"x": Inner()})
    name: str = "n"
    flag: bool = False
    count: int = 3
    devices: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("count=7", 7),
        ("count=1e3", 1000),
        ("count=-2", -2),
        ("count=9007199254740993", 9007199254740993),
        ("flag=true", True),
        ("flag=0", False),
        ("flag=False", False),
        ("name=a=b", "a=b"),
        ("name=", ""),
        ("devices=CPU:0,CPU:1", ("CPU:0", "CPU:1")),
        ("devices=()", ()),
        ("inner.rate=1e-4", 1e-4),
        ("inner.rate=2", 2.0),
        ("inner.units=64,32", (64, 32)),
        ("inner.units=(64,)", (64,)),
        ("inner.block=8", 8),
        ("inner.block=None", None),
        ("inner.kind=bc", "bc"),
        ("parts.x.units=5", (5,)),
    ],
)
def test_an_override_takes_the_fields_type(assignment, value):
    made = override(Outer(), [assignment])
    for name in assignment.partition("=")[0].split("."):
        made = made[name] if isinstance(made, Mapping) else getattr(made, name)
    assert made == value
    assert type(made) is type(value)


def test_overrides_add_up_and_leave_the_original():
    start = Outer()
    made = override(start, ["inner.rate=0.1", "count=1", "inner.block=2", "count=4"])
    assert made == Outer(inner=Inner(rate=0.1, block=2), count=4)
    assert start == Outer()
    assert override(start, []) == start


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("coutn=3", r"'coutn'.*did you mean count"),
        ("inner.rat=3", r"inner\.rat.*did you mean rate"),
        ("parts.y.rate=3", r"'y'.*known: x"),
        ("inner.kind=b", r"inner\.kind.*known: a, bc"),
        ("count=three", r"count='three': expected a whole number"),
        ("count=1.5", "expected a whole number"),
        ("count=inf", "expected a whole number"),
        ("inner.rate=nan", "expected a finite number"),
        ("count=nan", "expected a whole number"),
        ("inner.rate=low", r"inner\.rate='low': expected a finite number"),
        ("inner.units=8,x", "expected a whole number"),
        ("inner.block=x", "expected a whole number"),
        ("flag=maybe", "expected true or false"),
        ("count", "not of the form field=value"),
        ("=3", "not of the form field=value"),
        ("inner=3", "set one of its fields: rate, units"),
        ("parts=3", "set one of its fields: x"),
        ("parts.x=3", "set one of its fields: rate, units"),
        ("count.x=3", "nothing lies below"),
        ("inner.rate.x.y=3", "nothing lies below"),
        ("inner.=3", "unknown field"),
        (".inner=3", "unknown field"),
    ],
)
def test_a_wrong_override_is_refused_in_a_sentence(assignment, message):
    with pytest.raises(InputError, match=message) as raised:
        override(Outer(), [assignment])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "assignment", "message"),
    [
        ("din", "auxiliaries.uim.weight=0.2",
         "the recipe has no auxiliary uim, so the override sets nothing; expected a recipe with "
         "it; write CONFIG=din+uim"),
        ("din+nip", "auxiliaries.uim.weight=0.2",
         "expected a recipe with it or one of nip; write CONFIG=din+nip+uim"),
        ("din", "perturbations.dropoutnet.user=0.2",
         "the recipe has no perturbation dropoutnet, so the override sets nothing; expected a "
         "recipe with it; write CONFIG=din+dropoutnet"),
        ("din_at4ctr", "auxiliaries.icl.weight=0.2", "add it in configs/din_at4ctr.py"),
        ("din", "auxiliaries.uimm.weight=0.2", "unknown auxiliary in auxiliaries.uimm 'uimm': did"),
        ("din", "encodings.mns.units=3", "there is none; leave it out"),
    ],
)  # fmt: skip
def test_an_override_of_a_part_that_is_not_there_is_refused(name, assignment, message):
    made = recipe(name, configs.dataset("taobao")())
    with pytest.raises(InputError) as raised:
        override(made, [assignment], name)
    assert message in str(raised.value)
    assert not str(raised.value).endswith("known: ")


def test_a_dataset_of_configs_is_not_a_known_recipe(monkeypatch, tmp_path):
    (tmp_path / "mylog_.py").write_text("class Config: ...\n")
    (tmp_path / "broken_.py").write_text("1 / 0\n")
    (tmp_path / "mine_.py").write_text("def experiment(data): ...\n")
    monkeypatch.setattr(configs, "__path__", [*configs.__path__, str(tmp_path)])
    with pytest.raises(InputError, match=r"unknown recipe .*: .*\bmine_") as raised:
        recipe("dinn", configs.dataset("taobao")())
    for name in ("mylog_", "broken_"):
        assert name not in str(raised.value)
        sys.modules.pop(f"configs.{name}", None)
    sys.modules.pop("configs.mine_", None)


def test_overriding_a_mapping_at_the_top_is_refused_too():
    with pytest.raises(InputError, match="set one of its fields"):
        override({"data": Inner()}, ["data=3"])


@pytest.mark.parametrize(("name", "dataset"), CASES)
def test_a_snapshot_comes_back_equal(name, dataset):
    made = recipe(name, configs.dataset(dataset)())
    made = override(
        made, ["seed=5", "fit.devices=CPU:0,CPU:1", "head.dropout=0.7", "data.history=9"]
    )
    text = json.dumps(to_json(made), allow_nan=False)
    back = from_json(json.loads(text))
    assert back == made
    assert isinstance(back, Experiment)
    assert json.dumps(to_json(back)) == text


def leaves(value: Any, path: str = "") -> list[str]:
    """Every path that could be overridden."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif dataclasses.is_dataclass(value):
        items = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    else:
        return [path]
    return [p for name, inner in items for p in leaves(inner, f"{path}.{name}".lstrip("."))]


@pytest.mark.parametrize(("name", "dataset"), CASES)
def test_every_field_of_every_recipe_can_be_set_to_what_it_is(name, dataset):
    made = recipe(name, configs.dataset(dataset)())
    for path in leaves(made):
        now: Any = made
        for step in path.split("."):
            now = now[step] if isinstance(now, Mapping) else getattr(now, step)
        text = ",".join(map(str, now)) if isinstance(now, tuple) else str(now)
        assert override(made, [f"{path}={text}"]) == made, path


def snapshot() -> dict:
    return to_json(recipe("din", configs.dataset("taobao")()))


@pytest.mark.parametrize(
    "kind",
    [
        "os:system",
        "subprocess:Popen",
        "pathlib:Path",
        "at4ctr.backbones.din:Config",
        "backbones/dni",
        "backbones/../heads/single",
        "backbones/",
        "backbones",
        "layers/mlp",
        "os/path",
        "datasets/mylog",
        "Fit",
        "",
        7,
    ],
)
def test_a_snapshot_makes_nothing_but_configurations_of_at4ctr(kind):
    value = snapshot()
    value["experts"]["din"]["backbone"]["type"] = kind
    with pytest.raises(InputError, match="is not a configuration of this version"):
        from_json(value)


def test_a_snapshot_imports_nothing_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass C:\n x: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for kind in ("trap:C", "trap/C", "../trap", "backbones/trap", "datasets/trap"):
        with pytest.raises(InputError, match="is not a configuration"):
            from_json({"type": kind})
    assert "trap" not in sys.modules


def test_an_unknown_or_missing_field_is_refused():
    value = snapshot()
    value["fit"]["bach_size"] = 3
    with pytest.raises(InputError, match=r"bach_size.*did you mean batch_size"):
        from_json(value)
    value = snapshot()
    del value["experts"]
    with pytest.raises(InputError, match="experts"):
        from_json(value)
    value = snapshot()
    value["fit"]["batch_size"] = "many"
    with pytest.raises(InputError, match="fit cannot be made"):
        from_json(value)


def test_misspelt_datasets_and_recipes_name_the_closest():
    with pytest.raises(InputError, match="did you mean taobao"):
        configs.dataset("taobo")
    with pytest.raises(InputError, match=r"did you mean .*din_at4ctr"):
        recipe("din_at4ct", configs.dataset("taobao")())
    with pytest.raises(InputError, match="unknown recipe"):
        recipe("_tuned", configs.dataset("taobao")())


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(InputError, match="seed"):
        override(recipe("din", configs.dataset("taobao")()), [f"seed={seed}"])


def test_fields_that_must_fit_together_are_set_at_once():
    found = override(
        {"data": configs.dataset("simulated")()}, ["data.items=4000", "data.categories=400"]
    )
    assert (found["data"].items, found["data"].categories) == (4000, 400)


def test_a_history_too_short_for_the_backbone_is_refused():
    data = taobao.Config(history=14)
    with pytest.raises(InputError, match=r"data\.history is 14.*dbpman.*at least 15"):
        configs.recipe("dbpman", data)
    configs.recipe("dbpman", replace(data, history=15))
    configs.recipe("din", data)


def test_a_part_is_chosen_by_its_name_and_set_at_once():
    made = recipe("din", configs.dataset("taobao")())
    found = override(made, ["head=shared_bottom", "head.tower=7", "tasks.click.weight=2"])
    assert type(found.head).__module__ == "at4ctr.heads.shared_bottom"
    assert (found.head.tower, found.tasks["click"].weight) == ((7,), 2.0)
    again = override(made, ["head.tower=7", "head=shared_bottom"])
    assert again.head == found.head
    with pytest.raises(InputError, match="shared_bottom"):
        override(made, ["head=shared_botom"])
    assert override(made, ["backbone=fm"]).experts["din"].backbone.pool_history is False


def test_a_snapshot_names_parts_by_their_registry_and_file():
    value = snapshot()
    assert value["data"]["type"] == "datasets/taobao"
    assert value["experts"]["din"]["backbone"]["type"] == "backbones/din"
    assert value["head"]["type"] == "heads/single"
    text = json.dumps(value)
    assert "at4ctr." not in text.replace("at4ctr.json", "")


@pytest.mark.parametrize(
    "name",
    [
        "ctnocvr",
        "din+uim+ctnocvr",
        "din+ctnocvr+uim",
        "esmm+ctnocvr",
        "stem+ctnocvr",
        "din+stem+ctnocvr",
        "dnn+ame+ctnocvr",
    ],
)
def test_ctnocvr_adds_a_label_to_any_recipe(name):
    data = configs.dataset("retailrocket")()
    made = recipe(name, data)
    rest = "+".join(n for n in name.split("+") if n != "ctnocvr")
    bare = recipe(rest or "din", data)
    assert made.tasks["click_without_conversion"] == Task(serve=False)
    assert made.tasks["conversion"] == replace(bare.tasks["conversion"], weight=0.5)
    own = made.spaces.keys() - bare.spaces.keys()
    assert own == ({"click_without_conversion"} if "stem" in name else set())
    kept = {k: x for k, x in made.experts.items() if x.space not in own}
    assert replace(made, tasks=bare.tasks, spaces=bare.spaces, experts=kept) == bare
    assert (len(kept) < len(made.experts)) == bool(own)
    assert made.evaluated == (*bare.evaluated, "click_without_conversion")
    changed = override(made, ["tasks.click_without_conversion.weight=2"])
    assert changed.tasks["click_without_conversion"].weight == 2.0
    assert from_json(to_json(changed)) == changed


@pytest.mark.parametrize("name", ["stem", "stem_al", "ctnocvr"])
def test_a_recipe_that_names_no_task_learns_every_label_in_an_extension_too(name):
    module = importlib.import_module(f"configs.{name}")
    named = recipe("din", configs.dataset("retailrocket")())
    found, expected = (module.extended(x) for x in (replace(named, tasks={}), named))
    assert found.spaces == expected.spaces
    assert label_tasks(named.data.schema(), found.tasks) == expected.tasks


@pytest.mark.parametrize(
    ("name", "dataset", "said"),
    [
        ("ctnocvr", "taobao", "no label that is known within another; expected"),
        ("din+ctnocvr+ctnocvr", "retailrocket", "names 'ctnocvr' twice"),
        ("stem_al+ctnocvr", "retailrocket", "does not serve 'conversion', whose probability"),
    ],
)
def test_ctnocvr_without_sense_is_refused(name, dataset, said):
    with pytest.raises(InputError, match=said):
        recipe(name, configs.dataset(dataset)())


@pytest.mark.parametrize(
    ("name", "spaces"),
    [
        ("dnn+uim+stem", {"shared": 18, "click": 18, "conversion": 18}),
        ("din+stem_al", {"click": 18, "conversion": 18}),
        ("deepfm+ame", {"small": 16, "medium": 32, "large": 64}),
    ],
)
def test_a_recipe_is_put_into_several_spaces(name, spaces):
    data = configs.dataset("retailrocket")()
    made = recipe(name, data)
    bare = recipe(name.rpartition("+")[0], data)
    assert {k: v.dimension for k, v in made.spaces.items()} == spaces
    assert {k: e.space for k, e in made.experts.items()} == dict(zip(spaces, spaces, strict=True))
    (expert,) = bare.experts.values()
    assert {e.backbone for e in made.experts.values()} == {expert.backbone}
    hidden = ("conversion",) if name == "din+stem_al" else ()
    assert getattr(made.head, "auxiliary", ()) == hidden
    assert {k for k, t in made.tasks.items() if not t.serve} == set(hidden)
    assert bare == replace(
        made, experts=bare.experts, spaces=bare.spaces, head=bare.head, tasks=bare.tasks
    )
    assert from_json(to_json(made)) == made


def test_each_expert_of_a_recipe_goes_into_each_space():
    data = configs.dataset("retailrocket")()
    made = recipe("multi_embedding+stem_al", data)
    names = [
        f"{s}_{e}" for s in ("click", "conversion") for e in recipe("multi_embedding", data).experts
    ]
    assert list(made.experts) == names


def test_stem_al_without_another_label_is_refused():
    with pytest.raises(InputError, match="taobao has the label 'click' alone"):
        recipe("stem_al", configs.dataset("taobao")())


def test_a_weighting_of_another_name_is_refused():
    made = recipe("esmm", configs.dataset("retailrocket")())
    assert override(made, ["weighting=uncertainty"]).plan.uncertainty
    assert not made.plan.uncertainty
    with pytest.raises(InputError, match="did you mean uncertainty"):
        override(made, ["weighting=uncertain"])
    with pytest.raises(InputError, match="did you mean uncertainty"):
        replace(made, weighting="uncertaint")  # type: ignore[arg-type]


def test_esmm_learns_what_is_within_a_click_over_all_rows():
    made = recipe("esmm", configs.dataset("retailrocket")())
    assert {k: t.over for k, t in made.tasks.items()} == {"click": "within", "conversion": "all"}
    with pytest.raises(InputError, match="taobao has no label that is known within another"):
        recipe("esmm", configs.dataset("taobao")())


def test_what_is_composed_of_a_label_that_is_not_served_has_no_metrics():
    made = recipe("esmm", configs.dataset("retailrocket")())
    assert made.evaluated == ("click", "conversion", "click_and_conversion")
    hidden = override(made, ["tasks.click.serve=false"])
    assert hidden.evaluated == ("conversion",)
    with pytest.raises(InputError, match=r"fit\.watch"):
        override(hidden, ["fit.watch=click_and_conversion.auc"])
