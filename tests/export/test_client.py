"""The client as a command, against a server in another process; and TensorFlow Serving's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow_serving.config import model_server_config_pb2

from at4ctr.errors import InputError
from export import client, tfserving
from export.server import tensors
from export.server.rest import answer_json
from export.server.tensors import RefusedError, Spec
from tests.export.serving import ROOT, Server, publish

FILES = ROOT / "export" / "serving"


@pytest.fixture(scope="module")
def version(made) -> Path:
    return made / "2"


def command(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "export.client", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def where(server: Server, protocol: str) -> list[str]:
    return [f"--protocol={protocol}", f"--server={getattr(server, protocol)}"]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_golden_rows_are_answered_in_another_process(protocol, server, version):
    done = command(*where(server, protocol), f"--golden={version}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("ok ") for line in lines)


def test_a_difference_is_told_by_the_exit_status(server, version, tmp_path, capsys):
    changed = publish(version, tmp_path, 2)
    file = changed / "assets.extra" / "golden" / "candidates.json"
    row = json.loads(file.read_text())
    row["outputs"]["logit"][3] += 1e-3
    file.write_text(json.dumps(row))
    for protocol in ("grpc", "rest"):
        assert client.main([*where(server, protocol), f"--golden={changed}"]) == 1
        failed = [x for x in capsys.readouterr().out.splitlines() if x.startswith("FAILED")]
        assert len(failed) == 1
        assert "candidates" in failed[0]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("signature", ["serving_default", "examples", "candidates"])
def test_a_request_prints_its_probabilities(protocol, signature, server, version, capsys):
    file = version / "assets.extra" / "golden" / f"{signature}.json"
    assert client.main([*where(server, protocol), f"--request=golden:{file}"]) == 0
    found = [float(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(found, json.loads(file.read_text())["outputs"]["probability"], 1e-5)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_status_and_metadata(protocol, server, version, capsys):
    assert client.main([*where(server, protocol), "--status"]) == 0
    (state,) = json.loads(capsys.readouterr().out)["model_version_status"]
    ok = {"error_code": "OK", "error_message": ""}
    assert state == {"version": "2", "state": "AVAILABLE", "status": ok}
    assert client.main([*where(server, protocol), "--metadata", "--version=2"]) == 0
    signed = json.loads(capsys.readouterr().out)["signature_def"]
    golden = version / "assets.extra" / "golden"
    for name in ("serving_default", "examples", "candidates"):
        stored = json.loads((golden / f"{name}.json").read_text())
        assert signed[name]["inputs"].keys() == stored["inputs"].keys()
        assert signed[name]["outputs"].keys() == stored["outputs"].keys()


def test_a_request_of_one_input_needs_no_more_by_grpc(server, capsys):
    assert client.main([*where(server, "grpc"), '--request={"inputs": {"item": [101]}}']) == 0
    assert 0 < float(capsys.readouterr().out) < 1


WRONG = {
    '--request={"signature_name": "examples", "inputs": [1]}': "examples holds 1",
    '--request={"signature_name": "serving", "inputs": {}}': "nknown signature 'serving'",
    "--request={": "no JSON",
    "--request=golden:none": "cannot be read",
    "--golden=none": "no exported version",
    "--status --model=other": "unknown model 'other'",
    "--status --version=9": "could not find version 9",
    "--status --server=localhost": "expected host:port",
    "--status --server=127.0.0.1:1": "127.0.0.1:1",
}


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("options", WRONG)
def test_what_fails_is_one_sentence(options, protocol, server, capsys):
    asked = [options] if options.startswith("--request") else options.split()
    assert client.main([*where(server, protocol), *asked]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert WRONG[options] in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_running_server_is_verified_by_both_protocols(server, version, capsys):
    options = [f"--export={version}", f"--server={server.grpc}", f"--rest={server.rest}"]
    assert tfserving.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["grpc", "ok"]] * 3 + [["rest", "ok"]] * 3


def test_without_server_and_docker_it_says_so(version, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tfserving.main([f"--export={version}"]) == 2
    assert "there is no docker" in capsys.readouterr().err
    (tmp_path / "docker").write_text("#!/bin/sh\necho no daemon >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    assert tfserving.main([f"--export={version}"]) == 2
    assert "docker run failed (no daemon)" in capsys.readouterr().err


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.int64, arrays.array_shapes(max_dims=3, max_side=4)))
def test_json_and_back_is_the_same_array(value):
    spec = Spec("x", tf.int64, (None,) * value.ndim)
    text = json.dumps({"inputs": {"x": value.tolist()}}).encode()
    found = tensors.from_json(tensors.parse_json(text), {"x": spec})["x"]
    np.testing.assert_array_equal(found, value)
    assert found.dtype == value.dtype
    rows = tensors.from_json({"instances": [{"x": v.tolist()} for v in value]}, {"x": spec})["x"]
    np.testing.assert_array_equal(rows, value)
    proto = tf.make_tensor_proto(value)
    assert tensors.shape_of(proto, spec, value.size) == value.shape
    np.testing.assert_array_equal(tensors.from_proto(proto, spec), value)
    if value.size:
        with pytest.raises(RefusedError, match="claims"):
            tensors.shape_of(proto, spec, value.size - 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_a_float_has_the_decimals_that_read_back_as_it(values):
    found = np.array(values, np.float32)
    answer = json.loads(json.dumps(answer_json({"p": found, "q": found}, rows=False)))
    np.testing.assert_array_equal(np.array(answer["outputs"]["p"], np.float32), found)
    rows = answer_json({"p": found, "q": -found}, rows=True)["predictions"]
    assert [row["q"] for row in rows] == [-row["p"] for row in rows]


def _proto(package: str, messages: dict) -> descriptor_pool.DescriptorPool:
    """Messages that tensorflow-serving-api leaves out. Fields: number, type, of which message."""
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    file = descriptor_pb2.FileDescriptorProto(name="x.proto", package=package, syntax="proto3")
    file.dependency.append(wrappers.name)
    for name, fields in messages.items():
        made = file.message_type.add(name=name)
        for key, (number, kind, of) in fields.items():
            label = 3 if key == "allowed_batch_sizes" else 1
            made.field.add(name=key, number=number, type=kind, type_name=of, label=label)
    pool.Add(file)
    return pool


INT, TEXT = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
BATCHING = {
    "max_batch_size": (1, 11, INT),
    "batch_timeout_micros": (2, 11, INT),
    "max_enqueued_batches": (3, 11, INT),
    "num_batch_threads": (4, 11, INT),
    "thread_pool_name": (5, 11, TEXT),
    "allowed_batch_sizes": (6, 3, None),
    "pad_variable_length_inputs": (7, 8, None),
}
PROMETHEUS = {"enable": (1, 8, None), "path": (2, 9, None)}
MONITORING = {"prometheus_config": (1, 11, ".tensorflow.serving.PrometheusConfig")}


def parsed(file: str, message):
    return text_format.Parse((FILES / file).read_text(), message)


def test_the_servers_text_protos_are_such():
    config = model_server_config_pb2.ModelServerConfig
    for name in ("models.config", "models_labels.config"):
        (model,) = parsed(name, config()).model_config_list.config
        assert (model.name, model.base_path, model.model_platform) == (
            "ctr", "/models/ctr", "tensorflow",
        )  # fmt: skip
        assert set(model.version_labels.values()) <= set(
            model.model_version_policy.specific.versions
        )
    messages = {"BatchingParameters": BATCHING, "PrometheusConfig": PROMETHEUS}
    pool = _proto("tensorflow.serving", messages | {"MonitoringConfig": MONITORING})

    def made(name: str):
        found = pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
        return message_factory.GetMessageClass(found)()

    batching = parsed("batching_parameters.txt", made("BatchingParameters"))
    assert batching.max_batch_size.value == 512
    assert not batching.pad_variable_length_inputs
    monitoring = parsed("monitoring.config", made("MonitoringConfig"))
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_the_compose_file_and_the_manifest_name_what_is_there():
    (service,) = yaml.safe_load((FILES / "compose.yaml").read_text())["services"].values()
    mounted = dict(v.rsplit(":", 2)[:2] for v in service["volumes"] if v.startswith("./"))
    assert all((FILES / name).is_file() for name in mounted)
    asked = [x.split("=")[1] for x in service["command"] if x.startswith("--") and "_file=" in x]
    assert set(asked) == set(mounted.values())
    assert {p.rsplit(":", 1)[0] for p in service["ports"]} == {"127.0.0.1:8500", "127.0.0.1:8501"}
    deployment, cluster = yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert pod["metadata"]["labels"] == cluster["spec"]["selector"]
    named = {p["name"] for p in container["ports"]}
    assert {p["targetPort"] for p in cluster["spec"]["ports"]} == named
    volumes = {v["name"] for v in pod["spec"]["volumes"]}
    assert {m["name"] for m in container["volumeMounts"]} == volumes
    (probe,) = {
        service["healthcheck"]["test"][-1],
        container["readinessProbe"]["exec"]["command"][-1],
    }
    assert "GET /v1/models/ctr" in probe


@pytest.mark.parametrize("state", ["AVAILABLE", "LOADING"])
def test_the_readiness_probe_reads_the_state(state, server):
    """The manifest's own command, at the server's own port."""
    probe = yaml.safe_load((FILES / "compose.yaml").read_text())
    text = probe["services"]["serving"]["healthcheck"]["test"][-1]
    host, port = server.rest.split(":")
    text = text.replace("127.0.0.1/8501", f"{host}/{port}").replace("AVAILABLE", state)
    done = subprocess.run(["bash", "-c", text], timeout=30, check=False)
    assert (done.returncode == 0) == (state == "AVAILABLE")


def test_an_address_that_never_answers_is_given_up():
    with pytest.raises(InputError, match="serves no version"):
        tfserving.wait("grpc", "127.0.0.1:1", "ctr", 0.0)
