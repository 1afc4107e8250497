"""Checks of a version, which is one exported model. Each returns what it found or raises
``CheckError``.

They read MANIFEST.json, import TensorFlow, and import nothing of at4ctr.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

TOLERANCE = 2.5e-6  # of sums in float32, whose order follows the rows of a batch
ROUNDING = 2e-5  # of a scale times a code, relative to half of the scale
MANIFEST = "MANIFEST.json"
SERVING_PARTS = ("spaces", "backbones", "head", "shift", "calibrators")
SIGNATURES = ("serving_default", "examples", "candidates")
TRAINING_ONLY = ("label", "weight", "user_index", "u31", "cut")  # and label_<name>
FOLDERS = ("assets", "assets.extra", "assets.extra/golden", "variables")
ALLOWED = re.compile(
    r"saved_model\.pb|SIGNATURES\.md|variables/variables\.(index|data-00000-of-00001)"
    r"|assets/[\w-]+\.txt|assets\.extra/tf_serving_warmup_requests"
    rf"|assets\.extra/golden/({'|'.join(SIGNATURES)})\.(json|bin)"
)
FORBIDDEN_OPERATIONS = re.compile(
    r".*PyFunc.*|ReadFile|WriteFile|Print.*|Resource(Sparse)?Apply.*|ResourceScatter.*"
    r"|(Assign(Add|Sub)|Stateless.*Dropout|.*Random(Uniform|Normal|Shuffle)).*|.*Grad"
)

STORED: Mapping[str, Mapping[str, str]] = {  # of a quantised table: its variables and their types
    "int8 rows": {"codes": "int8", "scales": "float32"},
    "half floats": {"values": "float16"},
}
TABLE = re.compile(r"spaces/[^/]+/(tables|similarities)/")
BEFORE = "unquantized"  # of a golden row: the answers of the float32 model

Graph = saved_model_pb2.SavedModel


class CheckError(Exception):
    """A check failed; the text says what was found and what was expected."""


def files(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Every file is there, none else, each with its SHA-256, and of the kinds that a version has:
    no link, no path that leads elsewhere, nothing that could hold code beside the graph."""
    for name in manifest["files"]:
        if not ALLOWED.fullmatch(name):
            raise CheckError(f"file {name!r} is named; expected none of that name in a version")
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CheckError(f"{name!r} is a link or no file; expected files and folders alone")
        if path.is_dir():
            if name not in FOLDERS:
                raise CheckError(f"folder {name!r} is there; expected {', '.join(FOLDERS)}")
        elif name != MANIFEST:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    same("file", found, manifest["files"])
    needed = {"saved_model.pb", *(f"assets.extra/golden/{n}.bin" for n in SIGNATURES)}
    same("needed file", dict.fromkeys(needed & found.keys()), dict.fromkeys(needed))
    return f"{len(found)} files have their SHA-256"


def checkpoint(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The checkpoint holds the serving variables and nothing else: no auxiliary, no slot."""
    found = {}
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    for key, shape in tf.train.list_variables(str(folder / "variables" / "variables")):
        if key == "_CHECKPOINTABLE_OBJECT_GRAPH":
            continue
        path = re.fullmatch(r"weights/(.+)/\.ATTRIBUTES/VARIABLE_VALUE", key)
        name = re.sub(r"\.(S|\.)", lambda m: "/" if m[1] == "S" else ".", path[1]) if path else key
        found[name] = {"shape": shape, "dtype": reader.get_variable_to_dtype_map()[key].name}
    same("variable", found, manifest["variables"])
    for name in found:
        if name.split("/")[0] not in SERVING_PARTS:
            raise CheckError(f"variable {name!r} is in none of {', '.join(SERVING_PARTS)}")
    size = sum(int(np.prod(v["shape"])) * tf.as_dtype(v["dtype"]).size for v in found.values())
    same("size", {"variable_bytes": size}, {"variable_bytes": manifest["variable_bytes"]})
    return f"{len(found)} serving variables of {size:,} bytes, no other"


def tables(manifest: Mapping[str, Any]) -> str:
    """Tables are stored as ``quantization`` says, each value within its bound, none as float32."""
    quantization, variables = manifest.get("quantization"), manifest["variables"]
    if quantization is None:
        return "float32"
    for path, facts in quantization["tables"].items():
        parts = STORED.get(facts["stored"], {})
        for part, dtype in parts.items():
            shape = facts["shape"][: 1 if part == "scales" else None]
            name, wanted = f"{path}/{part}", {"shape": shape, "dtype": dtype}
            same("stored", {name: variables.get(name)}, {name: wanted})
        if not parts or not facts["largest_error"] <= facts["bound"] * (1 + ROUNDING):
            raise CheckError(
                f"table {path!r} is {facts}; expected one of {', '.join(STORED)}, and no error "
                "beyond the bound"
            )
    for path, found in variables.items():
        if TABLE.match(path) and found["dtype"] == "float32" and len(found["shape"]) > 1:
            raise CheckError(f"table {path!r} is float32; expected {quantization['kind']}")
    return f"{quantization['kind']}: {len(quantization['tables'])} tables, none of float32"


def graph_variables(graph: Any, manifest: Mapping[str, Any]) -> str:
    """The graph declares as many variables of each shape as the manifest names.

    TensorFlow keeps the path of every asset (a vocabulary) in a scalar string variable.
    """
    found: Counter[str] = Counter()
    for node in nodes(graph):
        if node.op in ("VarHandleOp", "VariableV2", "Variable"):
            shape = [d.size for d in node.attr["shape"].shape.dim]
            found[f"{tf.as_dtype(node.attr['dtype'].type).name}{shape}"] += 1
    expected = Counter(f"{v['dtype']}{v['shape']}" for v in manifest["variables"].values())
    assets = sum(name.startswith("assets/") for name in manifest["files"])
    expected += Counter({"string[]": assets})
    same("number of graph variables of", found, expected)
    size = sum(1 for _ in nodes(graph))
    return f"{found.total() - assets} variables and {assets} vocabularies in {size:,} nodes"


def read_variables(signatures: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Every variable is read by a signature; one that is read by none belongs to training."""
    read = {id(v): v for signature in signatures.values() for v in signature.variables}
    found = Counter(f"{v.dtype.name}{v.shape.as_list()}" for v in read.values())
    expected = Counter(f"{v['dtype']}{v['shape']}" for v in manifest["variables"].values())
    same("number of read variables of", found, expected)
    return f"the signatures read all {len(read)}"


def training_only(graph: Any, manifest: Mapping[str, Any]) -> str:
    """No training-only name occurs in the graph, neither as an input nor as a parsed key."""
    declared = [*manifest["schema"]["features"], *manifest["schema"]["numbers"]]
    names = {f["name"] for f in declared}
    hidden = {f["name"] for f in declared if not f["serve"]}
    hidden |= {f"weights_{name}" for name in hidden}
    hidden |= {f"label_{label['name']}" for label in manifest["schema"]["labels"]}
    hidden |= set(TRAINING_ONLY) - names
    hidden |= {f"history_{name}" for name in hidden}
    found: set[str] = set()
    for node in nodes(graph):
        tensor = node.attr["value"].tensor
        if node.op == "Const" and tensor.dtype == tf.string.as_datatype_enum:
            found |= {s.decode("utf-8", "replace") for s in tensor.string_val}
    for signature in graph.meta_graphs[0].signature_def.values():
        found |= set(signature.inputs)
    if found & hidden:
        raise CheckError(f"the graph reads {min(found & hidden)!r}, which only training may read")
    return f"none of {len(hidden)} names is read"


def operations(graph: Any) -> str:
    """No operation runs Python, reads or writes a file of its own, or trains."""
    for node in nodes(graph):
        if FORBIDDEN_OPERATIONS.fullmatch(node.op):
            raise CheckError(f"operation {node.name!r} is a {node.op}; expected none in serving")
    return f"{len({n.op for n in nodes(graph)})} kinds, none of Python or training"


def defaults(graph: Any, manifest: Mapping[str, Any]) -> str:
    """Every input but the candidate's id may be left out, and then counts as missing."""
    for name in SIGNATURES:
        found = graph.meta_graphs[0].signature_def[name].defaults
        wanted = expected_inputs(manifest, name)
        for key in (manifest["item"], "examples"):
            wanted.pop(key, None)
        same(f"default of {name}", dict.fromkeys(found), dict.fromkeys(wanted))
        for key, proto in found.items():
            dtype, shape = wanted[key]
            value = tf.make_ndarray(proto)
            right = value.dtype == (object if dtype == "string" else dtype)
            missing = all(v != v if dtype == "float32" else v in (-1, b"") for v in value.flat)
            if not (right and len(shape) == value.ndim and missing):
                raise CheckError(f"default of {name} {key!r} is {value!r}; expected missing values")
    return f"only {manifest['item']!r} must be named"


def inputs(signatures: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Every signature takes exactly the served features and numbers, by name, type and shape."""
    same("signature", dict.fromkeys(signatures), dict.fromkeys(SIGNATURES))
    for name in SIGNATURES:
        specs = signatures[name].structured_input_signature[1]
        found = {k: [s.dtype.name, s.shape.as_list()] for k, s in specs.items()}
        same(f"input of {name}", found, expected_inputs(manifest, name))
        outputs = dict.fromkeys(signatures[name].structured_outputs)
        same(f"output of {name}", outputs, dict.fromkeys(manifest["outputs"]))
    return f"{', '.join(SIGNATURES)} take the served features only"


def expected_inputs(manifest: Mapping[str, Any], signature: str) -> dict[str, list]:
    """Name -> [dtype, shape], from the declared features; without a history that is not read."""
    schema, reads_history = manifest["schema"], manifest["reads_history"]
    if signature == "examples":
        return {"examples": ["string", [None]]}
    dtypes = {t["name"]: t["dtype"] for t in schema["tables"]}
    found: dict[str, list] = {}

    def add(name: str, dtype: str, group: str, wide: list[None]) -> None:
        rows: list[int | None] = [None]
        if signature == "candidates" and group == "profile":
            rows = [] if wide else [1]
        found[name] = [dtype, rows + wide]

    for f in (f for f in schema["features"] if f["serve"]):
        dtype, wide = dtypes[f["table"]], [] if f["length"] is None else [None]
        if f["group"] != "behaviour":
            add(f["name"], dtype, f["group"], wide)
        if f["weighted"]:
            add(f"weights_{f['name']}", "float32", f["group"], wide)
        past = f["name"] in schema["history"] or f["group"] == "behaviour"
        if past and reads_history:
            rows = [None] if signature == "candidates" else [None, None]
            found[f"history_{f['name']}"] = [dtype, rows + wide]
    if manifest.get("reads_ages"):
        found["history_seconds_ago"] = ["int64", [None] * (1 + (signature != "candidates"))]
    for n in (n for n in schema["numbers"] if n["serve"]):
        add(n["name"], "float32", n["group"], [])
    return found


def like(folder: Path, reference: Path) -> str:
    """The graph is the reference's, byte for byte, and the weights have its size. So a model that
    was trained with auxiliary tasks differs from that of the backbone alone in its weights only."""
    versions = (folder, reference)
    graphs = [(v / "saved_model.pb").read_bytes() for v in versions]
    same(
        "number of operations", *(Counter(n.op for n in nodes(Graph.FromString(g))) for g in graphs)
    )
    weights = ({p.name: p.stat().st_size for p in (v / "variables").iterdir()} for v in versions)
    same("size of", *weights)
    if graphs[0] != graphs[1]:
        raise CheckError("names, inputs or attributes differ; expected the reference's graph")
    return f"{reference} operation for operation, and in bytes"


def replay(
    folder: Path, name: str, signatures: Mapping[str, Any], manifest: Mapping[str, Any]
) -> str:
    """The golden rows get the answers that the model itself gave, to ``TOLERANCE``.

    For a logit beyond ±1 the tolerance is relative. No answer of a quantised version lies further
    from the float32 model's than the manifest says, and no probability beyond the bound.
    """
    file = folder / "assets.extra" / "golden" / f"{name}.json"
    golden = json.loads(file.read_text(encoding="utf-8"))
    specs = signatures[name].structured_input_signature[1]
    raw = {key: tensor(value, specs[key]) for key, value in golden["inputs"].items()}
    answer = signatures[name](**raw)
    worst = {}
    outputs = dict.fromkeys(manifest["outputs"])
    same(f"golden output of {name}", dict.fromkeys(golden["outputs"]), outputs)
    for key in outputs:
        expected = np.array(golden["outputs"][key], np.float64)
        found = answer[key].numpy().astype(np.float64)
        if found.shape != expected.shape or not found.size:
            raise CheckError(f"{key} has shape {found.shape}; expected {expected.shape}, not empty")
        scale = np.maximum(1.0, np.abs(expected))
        worst[key] = float(np.max(np.abs(found - expected) / scale))
        if not worst[key] <= TOLERANCE:
            raise CheckError(f"{key} differs by {worst[key]:.3g}; expected at most {TOLERANCE:g}")
        if quantization := manifest.get("quantization"):
            most = quantization["largest_change"][key] + TOLERANCE * float(scale.max())
            if key.startswith("probability"):
                most = min(most, quantization["bound"] + TOLERANCE)
            change = float(np.max(np.abs(found - np.array(golden[BEFORE][key], np.float64))))
            if not change <= most:
                raise CheckError(
                    f"{key} lies {change:.3g} from the float32 model's; expected at most {most:.3g}"
                )
    return f"{len(expected)} rows, largest difference {max(worst.values()):.2g}"


def tensor(value: list, spec: tf.TensorSpec) -> tf.Tensor:
    """A JSON value as the input that the signature takes; {"b64": ...} stands for bytes."""
    if value and isinstance(value[0], dict):
        return tf.io.decode_base64([to_web_safe(one["b64"]) for one in value])
    return tf.constant(value, spec.dtype)


def to_web_safe(text: str) -> str:
    return text.replace("+", "-").replace("/", "_").rstrip("=")


def same(what: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuses any difference, naming the first."""
    for name in [*found, *expected]:
        if name not in expected:
            raise CheckError(f"{what} {name!r} is there; expected none of that name")
        if name not in found:
            raise CheckError(f"{what} {name!r} is missing; expected {expected[name]}")
        if found[name] != expected[name]:
            raise CheckError(f"{what} {name!r} is {found[name]}; expected {expected[name]}")


def nodes(graph: Any) -> Iterator[Any]:
    for meta in graph.meta_graphs:
        yield from meta.graph_def.node
        for function in meta.graph_def.library.function:
            yield from function.node_def
