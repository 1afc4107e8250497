"""Which version the local server serves, and when it is ready."""

from __future__ import annotations

import gc
import shutil
import signal
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from export.client import Grpc, Rest
from export.server import serve
from export.server.servable import WARM_UP, Servable
from export.server.tensors import Limits, RefusedError
from export.server.versions import Patience, State, Versions
from tests.export.serving import Server, golden, publish

LIMITS = Limits()


class Load:
    """Threads that ask all the time, by gRPC and REST."""

    def __init__(self, server: Server, version: Path) -> None:
        inputs = {name: values[:2] for name, values in golden(version)["inputs"].items()}
        self.request = {"inputs": inputs}
        self.errors: list[str] = []
        self.seen: set[float] = set()
        self.count = 0
        self.done = threading.Event()
        kinds = (Grpc, Grpc, Rest)
        addresses = (server.grpc, server.grpc, server.rest)
        self.threads = [
            threading.Thread(target=self._run, args=(kind, where))
            for kind, where in zip(kinds, addresses, strict=True)
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, kind, where: str) -> None:
        client = kind(where, "ctr", 60.0)
        while not self.done.is_set():
            try:
                answer = client.predict(self.request, None)
                self.seen.add(round(float(answer["logit"][0]), 4))
                self.count += 1
                time.sleep(0.01)  # leaves the server a core to load on
            except Exception as error:
                self.errors.append(str(error))
        client.close()

    def stop(self) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()


def states(server: Server) -> dict[int, tuple[int, str]]:
    client = Rest(server.rest, "ctr", 60.0)
    found = client.status(None)["model_version_status"]
    client.close()
    return {
        int(s["version"]): (State.Value(s["state"]), s["status"]["error_message"]) for s in found
    }


def test_versions_come_and_go_and_no_request_fails(made, tmp_path):
    """1, then 2 under load; 3 is broken; 4 is half copied, then whole; without 2 and 4, 1 again;
    then the end."""
    folder = tmp_path / "export"
    folder.mkdir()
    server = Server(folder, "--retry_seconds=1000000", "--settle_seconds=0")
    server.wait("waiting for one")
    publish(made / "1", folder, 1)
    assert "available" in server.wait("version 1 is available")
    load = Load(server, made / "1")
    publish(made / "2", folder, 2)
    server.wait("version 1 is unloaded")
    asked = load.count
    while load.count < asked + 20 and not load.errors:
        time.sleep(0.01)
    assert states(server) == {1: (State.END, ""), 2: (State.AVAILABLE, "")}
    left = shutil.ignore_patterns("user.txt")
    shutil.copytree(made / "2", folder / ".4", ignore=left)  # the manifest is there
    (folder / ".4").rename(folder / "4")
    server.wait("version 4 waits: assets/user.txt is missing")
    (folder / ".3").mkdir()
    (folder / ".3" / "saved_model.pb").write_bytes(b"nothing")
    (folder / ".3").rename(folder / "3")
    assert "try 1 of 6" in server.wait("version 3 cannot be served")
    assert states(server)[2][0] == State.AVAILABLE
    assert states(server)[3][0] == State.LOADING
    assert "cannot be served" in states(server)[3][1]
    assert states(server)[4][0] == State.START
    assert "assets/user.txt is missing" in states(server)[4][1]
    text = (made / "2" / "assets" / "user.txt").read_bytes()
    with (folder / "4" / "assets" / "user.txt").open("wb") as slow:
        slow.write(text[:6])
        slow.flush()
        server.wait("version 4 waits: assets/user.txt has SHA-256")
        slow.write(text[6:])
    server.wait("version 4 is available")
    server.wait("version 2 is unloaded")
    for gone in ("3", "2", "4"):
        (folder / gone).rename(folder / f".gone{gone}")
    server.wait("version 4 is unloaded")
    assert states(server)[1][0] == State.AVAILABLE
    load.stop()
    assert not load.errors
    first = {round(golden(made / v)["outputs"]["logit"][0], 4) for v in "12"}
    assert {min(first, key=lambda x: abs(x - seen)) for seen in load.seen} == first
    assert server.stop() == 0
    assert server.lines[-1] == "serve: stopped"


def test_a_real_version_is_tried_again_once_its_files_change(made, tmp_path):
    """Without a manifest, so that TensorFlow itself fails. A folder whose number no int64 holds, as
    one that is no number, is no version."""
    for name in ("0x2", "1.5", str(1 << 63)):
        publish(made / "1", tmp_path, 1).rename(tmp_path / name)
    version, tried = publish(made / "1", tmp_path, 1), []

    def load(folder: Path, number: int) -> Servable:
        tried.append(number)
        return Servable(folder, number, 1)

    (version / "MANIFEST.json").unlink()
    versions = Versions("ctr", tmp_path, load, lambda _: None, Patience(settle_seconds=0.0))
    graph = (version / "saved_model.pb").read_bytes()
    (version / "saved_model.pb").write_bytes(b"nothing")
    versions.poll()
    versions.poll()
    assert (tried, versions.serving) == ([1], None)
    (version / "saved_model.pb").write_bytes(graph)
    versions.poll()
    versions.poll()
    assert (tried, versions.serving) == ([1, 1], 1)
    assert versions.statuses("ctr").keys() == {1}
    versions.stop()
    assert versions.serving is None


def test_a_version_that_is_replaced_gives_its_memory_back(made, tmp_path):
    publish(made / "1", tmp_path, 1)
    versions = Versions("ctr", tmp_path, lambda f, n: Servable(f, n, 1), lambda _: None)
    versions.poll()
    with versions.use("ctr") as servable:
        old = weakref.ref(servable.session)
    del servable
    publish(made / "2", tmp_path, 2)
    versions.poll()
    assert versions.serving == 2
    gc.collect()
    assert old() is None
    versions.stop()


def records(version: Path) -> list[bytes]:
    return [r.numpy() for r in tf.data.TFRecordDataset(str(version / WARM_UP))]


def rewrite(version: Path, logs: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(version / WARM_UP)) as file:
        for log in logs:
            file.write(log)


def test_every_warm_up_request_is_replayed_before_a_version_answers(server, made):
    count = len(records(made / "2"))
    assert count > 0
    lines = [line.removeprefix("serve: ") for line in server.lines]
    replayed = lines.index(f"version 2: {count} warm-up requests replayed")
    assert lines[replayed + 1].startswith("version 2 is available")


def test_a_warm_up_that_fails_refuses_the_version(made, tmp_path):
    version = publish(made / "1", tmp_path, 1)
    servable = Servable(version, 1, 1)
    good = records(version)
    rewrite(version, [good[0]] * 1001)
    with pytest.raises(RefusedError, match="more than 1,000"):
        servable.warm_up(version)
    rewrite(version, [good[0], b"\xff"])
    with pytest.raises(RefusedError, match="request 2 is no PredictionLog"):
        servable.warm_up(version)
    log = prediction_log_pb2.PredictionLog.FromString(good[0])
    log.predict_log.request.model_spec.signature_name = "absent"
    rewrite(version, [log.SerializeToString()])
    with pytest.raises(RefusedError, match="request 1: unknown signature 'absent'"):
        servable.warm_up(version)
    rewrite(version, [good[0]] * 1000)
    assert servable.warm_up(version) == 1000
    servable.close()


def test_ids_below_missing_are_answered_where_the_log_has_them(made):
    servable = Servable(made / "1", 1, 1)
    arrays = {name: np.array(value) for name, value in golden(made / "1")["inputs"].items()}
    arrays = {n: v.astype(object) if v.dtype.kind == "U" else v for n, v in arrays.items()}
    low, unknown = (arrays | {"item": arrays["item"] * 0 + n} for n in (-2, 7))
    with pytest.raises(RefusedError, match="item holds -2"):
        servable.predict("serving_default", low, LIMITS)
    free = Limits(negative_ids=True)
    found, expected = (servable.predict("serving_default", r, free) for r in (low, unknown))
    np.testing.assert_array_equal(found["logit"], expected["logit"])  # both are unknown ids
    servable.close()


def test_the_command_refuses_in_one_sentence(made, server, tmp_path, capsys):
    port = server.grpc.rsplit(":", 1)[1]
    cases = {
        f"--model={tmp_path / 'none'}": "is no folder",
        f"--model={made / '1'}": "is itself a version",
        f"--model={made} --threads=0": "--threads is 0",
        f"--model={made} --port={port}": "cannot listen",
        f"--model={made} --port=0 --rest_port={server.rest.rsplit(':', 1)[1]}": "cannot listen",
    }
    kept = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        for options, words in cases.items():
            assert serve.main(options.split()) == 2
            said = capsys.readouterr().err
            assert said.startswith("error: ")
            assert words in said
            assert said.count("\n") == 1
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
