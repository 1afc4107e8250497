"""Schemas: what may be declared, and that a declaration survives JSON."""

import dataclasses
import json

import pytest

import configs
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Label, Number, Schema, Table, history_name
from tests.model import toys
from tests.test_config import DATASETS

USER, ITEM = Feature("user", "profile", "user"), Feature("item", "item", "item")
TABLES = (Table("user"), Table("item"))


def test_groups_and_ids_follow_the_declaration():
    schema = toys.SCHEMA
    assert [f.name for f in schema.group("item")] == ["item", "category", "tags"]
    assert (schema.user_id.name, schema.item_id.name) == ("user", "item")
    assert schema.feature("tags").length == 3
    assert schema.table("tag").name == "tag"
    assert history_name("item") == "history_item"


@pytest.mark.parametrize("name", DATASETS)
def test_json_and_back_for_every_dataset(name):
    schema = configs.dataset(name)().schema()
    back = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert back == schema
    assert back.fingerprint() == schema.fingerprint()


def test_the_fingerprint_changes_with_every_declaration():
    base = Schema(TABLES, (USER, ITEM), ("item",))
    others = [
        Schema(TABLES, (USER, ITEM)),
        Schema(TABLES[::-1], (USER, ITEM), ("item",)),
        Schema(TABLES, (ITEM, USER), ("item",)),
        Schema((Table("user", "string"), TABLES[1]), (USER, ITEM), ("item",)),
        Schema((Table("user", buckets=9), TABLES[1]), (USER, ITEM), ("item",)),
        Schema(TABLES, (dataclasses.replace(USER, serve=False), ITEM), ("item",)),
        Schema(TABLES, (dataclasses.replace(USER, length=2), ITEM), ("item",)),
    ]
    assert len({s.fingerprint() for s in [base, *others]}) == len(others) + 1
    assert Schema(TABLES, (USER, ITEM), ("item",)).fingerprint() == base.fingerprint()


@pytest.mark.parametrize(
    ("tables", "features", "history", "message"),
    [
        (TABLES, (USER, USER, ITEM), (), "'user' is declared twice"),
        ((*TABLES, Table("user")), (USER, ITEM), (), "'user' is declared twice"),
        (TABLES, (USER, Feature("item", "itm", "item")), (), "'itm': did you mean item"),  # type: ignore[arg-type]
        (TABLES, (USER, Feature("item", "item", "itm")), (), "'itm': did you mean item"),
        (TABLES, (USER, Feature("item", "item", "item", length=0)), (), "length 0"),
        (TABLES, (USER, ITEM), ("itm",), "'itm': did you mean item"),
        (TABLES, (USER, ITEM), ("user",), "unknown history feature 'user'"),
        (TABLES, (USER,), (), "no item feature"),
        (TABLES, (ITEM,), (), "no profile feature"),
    ],
)
def test_a_wrong_declaration_is_refused_in_a_sentence(tables, features, history, message):
    with pytest.raises(InputError, match=message) as raised:
        Schema(tables, features, history)
    assert "\n" not in str(raised.value)


def test_two_sampled_labels_are_refused():
    labels = (Label("click", sampled=True), Label("like", sampled=True))
    with pytest.raises(InputError, match=r"labels click and like are both sampled; expected at mo"):
        Schema(TABLES, (USER, ITEM), labels=labels)


def test_unknown_names_list_the_known():
    with pytest.raises(InputError, match="did you mean category"):
        toys.SCHEMA.feature("categry")
    with pytest.raises(InputError, match="did you mean user"):
        toys.SCHEMA.table("users")


@pytest.mark.parametrize("name", ["length", "begin", "second", "item", "user"])
def test_a_context_column_cannot_have_a_name_of_the_readers(name):
    table = (Table("u"), Table("i"), Table("c"))
    own = (Feature("who", "profile", "u"), Feature("sku", "item", "i"))
    with pytest.raises(InputError, match=f"context feature cannot be called {name!r}"):
        Schema(table, (*own, Feature(name, "context", "c")))
    with pytest.raises(InputError, match=f"context number cannot be called {name!r}"):
        Schema(table, own, numbers=(Number(name, "context"),))
