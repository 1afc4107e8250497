"""Several devices and several hosts train as one; and what TF_CONFIG may say."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from at4ctr import cluster
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.conftest import SLOW, slow
from tests.data import toy_store
from tests.model import host, job
from tests.model import mirrored as mirrored_job
from tests.model.mirrored import CLIP

DEVICES = ("2", "4") if SLOW else ("2",)
TWO = {"worker": ["a:1", "b:1"]}


def config(monkeypatch, value) -> None:
    monkeypatch.setenv("TF_CONFIG", value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "names no cluster"),
        ({"cluster": ["a:1"]}, "names no cluster"),
        ({"cluster": {"worker": []}}, "not all of them host:port"),
        ({"cluster": {"worker": ["a", "b:1"]}}, "not all of them host:port"),
        ({"cluster": {"worker": [1, 2]}}, "not all of them host:port"),
        ({"cluster": {"worker": ["a:1", "a:1"]}}, "one address twice"),
        ({"cluster": {**TWO, "ps": ["c:1"]}}, "'ps'"),
        ({"cluster": TWO}, "the task None"),
        ({"cluster": TWO, "task": {"type": "chief", "index": 0}}, "type is none of worker"),
        ({"cluster": TWO, "task": {"type": "worker", "index": 2}}, "index is not from 0 to 1"),
        ({"cluster": TWO, "task": {"type": "worker", "index": "0"}}, "index is not from 0 to 1"),
        ({"cluster": TWO, "task": {"type": "worker"}}, "index is not from 0 to 1"),
    ],
)
def test_a_malformed_cluster_is_one_sentence(monkeypatch, value, said):
    config(monkeypatch, value)
    with pytest.raises(InputError, match="TF_CONFIG") as raised:
        cluster.hosts()
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_chief_comes_first(monkeypatch):
    both = {"chief": ["c:1"], **TWO}
    for kind, number, index in (("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)):
        config(monkeypatch, {"cluster": both, "task": {"type": kind, "index": number}})
        assert cluster.hosts() == (3, index)
        assert cluster.is_chief() == (index == 0)


def test_a_cluster_of_one_is_one_host(monkeypatch):
    config(monkeypatch, {"cluster": {"chief": ["c:1"]}, "task": {"type": "chief", "index": 0}})
    assert cluster.hosts() == (1, 0)


def test_devices_and_a_cluster_are_refused(monkeypatch):
    config(monkeypatch, {"cluster": TWO, "task": {"type": "worker", "index": 0}})
    with pytest.raises(InputError, match=r"leave fit\.devices empty"):
        cluster.strategy(("CPU:0",))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("store") / "toy"
    toy_store.make(path, users=60)
    return Store.open(path)


@pytest.fixture(scope="module")
def mirrored(store, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("mirrored")
    found: dict = {}
    for count in DEVICES:
        done = subprocess.run(
            [sys.executable, "-m", "tests.model.mirrored", str(store.path), str(folder), count],
            cwd=host.ROOT,
            env={**os.environ, "PYTHONPATH": str(host.ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        for name, value in json.loads((folder / f"{count}.json").read_text()).items():
            found.setdefault(name, {}).update(value if isinstance(value, dict) else {"": value})
    return found


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("optimizer", mirrored_job.OPTIMIZERS)
def test_several_devices_train_as_one(mirrored, optimizer, devices):
    """Every loss, UIM and NIP with gathered negatives too, the validation AUC and the last weights;
    PReLU, as Dice's batch statistics are each replica's own."""
    one, several = mirrored[optimizer]["1"], mirrored[optimizer][devices]
    assert len(one["losses"]) == len(several["losses"]) > 10
    np.testing.assert_allclose(one["losses"], several["losses"], rtol=1e-4)
    np.testing.assert_allclose(one["auc"], several["auc"], atol=1e-6)
    assert one["weights"].keys() == several["weights"].keys()
    for name, weights in one["weights"].items():
        np.testing.assert_allclose(weights, several["weights"][name], atol=1e-4, err_msg=name)
    assert one["moved"] > 0.01


@pytest.mark.parametrize("devices", DEVICES)
def test_several_devices_clip_by_the_norm_of_the_whole_batch(mirrored, devices):
    one, several = (mirrored["lazy_adam"][n]["norms"] for n in ("1", devices))
    assert len(one) > 10
    assert min(one) > CLIP  # so that every step was clipped
    np.testing.assert_allclose(one, several, rtol=1e-4)


def test_losses_of_own_negatives_are_the_mean_over_the_replicas(mirrored):
    """The paper's way: each replica's candidates are its own rows."""
    halves, both = mirrored["shards"]["halves"], mirrored["shards"]["both"]
    assert both.keys() == {"click", "uim", "nip", "total"}
    for name, value in both.items():
        np.testing.assert_allclose(value, np.mean([h[name] for h in halves]), rtol=1e-5)


def test_requests_of_two_devices_find_the_negatives_of_one(mirrored):
    one, two = mirrored["requests"]["1"], mirrored["requests"]["2"]
    assert one["uim"] > 0
    assert two["uim"] == pytest.approx(one["uim"], rel=1e-4)


def test_a_batch_that_devices_cannot_share_is_refused(mirrored):
    assert mirrored["refused"][""].startswith("fit.batch_size is 15, which 2 devices cannot share")


def test_structure_weights_learn_on_several_devices_as_on_one(mirrored):
    one, two = (np.array(mirrored["search"][n]) for n in "12")
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert np.abs(one).max() > 0.01


def test_devices_resume_exactly(mirrored):
    """Dice, whose population statistics are estimated anew: bit for bit."""
    whole, resumed = mirrored["uim"]["undisturbed"], mirrored["uim"]["resumed"]
    assert np.isfinite(whole["losses"]).all()
    assert resumed == whole
    assert np.isfinite(list(mirrored["uim"]["curves"].values())).all()


def test_the_posterior_of_two_devices_is_that_of_one(mirrored):
    one, two = (mirrored["posterior"][n] for n in ("1", "2"))
    for alone, shared in zip(one, two, strict=True):
        assert np.abs(alone).max() > 0
        np.testing.assert_allclose(shared, alone, rtol=1e-4, atol=1e-6)


def test_population_statistics_of_two_devices_are_those_of_one(mirrored):
    one, two = (mirrored["population"][n] for n in ("1", "2"))
    assert len(one) == 4  # mean and variance of two layers
    for alone, shared in zip(one, two, strict=True):
        np.testing.assert_allclose(shared, alone, rtol=1e-5, atol=1e-7)
        assert np.abs(alone).max() > 0


@pytest.fixture(scope="module")
def together(store, tmp_path_factory) -> Path:
    """Every case, trained by two processes."""
    folder = tmp_path_factory.mktemp("together")
    arguments = ["tests.model.host", str(store.path), str(folder), ",".join(host.CASES)]
    for status, said in host.pair(arguments, folder):
        assert status == 0, said[-3000:]
    return folder


def said_by(folder: Path, case: str, index: int) -> dict:
    return json.loads((folder / f"{case}.{index}.json").read_text())


@pytest.mark.parametrize("case", ["lazy_adam", "adam"])
def test_two_hosts_train_as_one(store, together, tmp_path, case):
    """Every loss, the validation AUC and every weight, with negatives gathered."""
    alone = host.trained(case, store, tmp_path)
    chief, other = (said_by(together, case, i) for i in range(2))
    assert chief["variables"] == other["variables"]
    assert len(alone["losses"]) > 10
    np.testing.assert_allclose(chief["losses"], alone["losses"], rtol=1e-4)
    np.testing.assert_allclose(chief["auc"], alone["auc"], atol=1e-6)
    for name, weights in alone["weights"].items():
        np.testing.assert_allclose(chief["weights"][name], weights, atol=1e-4, err_msg=name)
    for here, there, whole in zip(chief["rows"], other["rows"], alone["rows"], strict=True):
        assert here + there == whole


def test_each_row_is_seen_once_an_epoch_by_one_host(store, together):
    chief, other = (said_by(together, "drawn", i) for i in range(2))
    everything = job.trainer(store, together / "all", config=job.FIT).feed._readers[0]
    steps = chief["steps"]
    assert steps == other["steps"]
    for epoch in range(2):
        batches = [everything.batch(epoch, k) for k in range(everything.steps(epoch))]
        known = Counter(tuple(r) for b in batches for r in host.rows_of(b))
        part = slice(epoch * steps, (epoch + 1) * steps)
        seen = Counter(tuple(r) for w in (chief, other) for b in w["rows"][part] for r in b)
        assert seen.total() == steps * job.FIT.batch_size
        # The one reader too leaves out a batch that is not full.
        assert (seen - known).total() <= job.FIT.batch_size - 1
        shards = [sum(map(len, w["rows"][part])) for w in (chief, other)]
        assert shards[0] == shards[1]


@slow
def test_a_host_that_dies_goes_on_with_the_others(store, together, tmp_path):
    """kill -9 of one: the other says so and stops; both again, and the result has the same bits."""
    arguments = ["tests.model.host", str(store.path), str(tmp_path), "drawn"]
    (survivor, said), (killed, _) = host.pair([*arguments, "--die", "7"], tmp_path)
    assert killed == -9
    assert survivor != 0
    assert "hosts was lost" in said, said[-2000:]
    assert not (tmp_path / "drawn.0.json").exists()
    assert (tmp_path / "drawn" / "checkpoints" / "step-000000006").exists()
    for status, said in host.pair(arguments, tmp_path):
        assert status == 0, said[-3000:]
    for index in range(2):
        whole, found = said_by(together, "drawn", index), said_by(tmp_path, "drawn", index)
        assert found["variables"] == whole["variables"]
        assert found["curves"] == whole["curves"]
        assert found["rows"] == whole["rows"][6:]


@slow
def test_a_host_that_is_stopped_stops_all_after_the_same_step(store, together, tmp_path):
    """SIGTERM of one: both end with 143 and a checkpoint; both again, and no bit differs."""
    arguments = ["tests.model.host", str(store.path), str(tmp_path), "drawn"]
    for status, said in host.pair([*arguments, "--stop", "7"], tmp_path):
        assert status == 143, said[-2000:]
        assert said.splitlines()[-1] == (
            "stopped by SIGTERM after step 8, whose checkpoint is saved: run the same command "
            "again to continue"
        )
    assert (tmp_path / "drawn" / "checkpoints" / "step-000000008").exists()
    for status, said in host.pair(arguments, tmp_path):
        assert status == 0, said[-3000:]
    for index in range(2):
        whole, found = said_by(together, "drawn", index), said_by(tmp_path, "drawn", index)
        assert found["variables"] == whole["variables"]
        assert found["rows"] == whole["rows"][8:]


def test_another_number_of_shards_is_refused(store, together, tmp_path):
    shutil.copytree(together / "lazy_adam", tmp_path / "run")
    case = host.CASES["lazy_adam"]
    made = job.trainer(store, tmp_path / "run", **{**case, "config": job.FIT})
    with pytest.raises(
        InputError, match=r"trained from 2 shards .*goes on with 1; .*fit\.shards=2"
    ):
        made.train()
