"""The only writer of SavedModels. A version is one folder, which is whole or absent."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tensorflow as tf

from at4ctr.data.dataset import Split
from at4ctr.data.store import Store
from at4ctr.durable import digest, sync
from at4ctr.errors import InputError
from at4ctr.model import quantized
from at4ctr.model.serving import ServingModel
from export import canonical, changes, describe, signatures, warmup
from export.golden import answers, tensors
from export.lookup import Front

MANIFEST = "MANIFEST.json"
GOLDEN = Path("assets.extra") / "golden"
STORE = ("format", "inputs", "options", "counts", "vocabulary", "notes")  # of the data's manifest
PARTS = ("spaces", "backbones", "head", "shift", "calibrators")  # of a ServingModel, no other


def save(
    model: ServingModel,
    store: Store,
    folder: Path,
    *,
    history: int,
    facts: Mapping[str, Any],
    golden: int = 64,
    split: Split = "test",
    version: int | None = None,
    check: Callable[[Path], None] | None = None,
    options: quantized.Config = quantized.Config(),  # noqa: B008  (immutable)
) -> Path:
    """Writes ``folder/<version>/`` and returns it.

    history: T that the model was trained with. facts: further facts for the manifest (git commit,
    config, metrics), as JSON can hold them. golden: how many rows of ``split`` are stored with the
    answers of ``model`` itself. version: None for the newest + 1, from 1.

    check: called with the finished version in a hidden folder, before it gets its name; where it
    raises, no version is left. store's train split gives the warm-up requests.

    options: how tables are stored. Golden answers are then those of the quantised model, and the
    manifest's ``quantization`` says how far they lie from the float32 model's.

    The signatures are those of ``signatures.functions``.

    Raises InputError for a version that exists or is below 1 (it never overwrites), a vocabulary
    that holds -1 or "", a model whose golden logits are not finite, and a quantised model whose
    golden probabilities change by more than ``options.largest_change``.
    """
    final = folder / str(_version(folder, version))
    front = Front(store, history, past=model.reads_history, ages=model.reads_ages)
    plain: dict[str, dict[str, Any]] = {}
    if options.quantize != "none":
        plain = answers(model, front, store, split, golden)
    staged = folder / f".{final.name}-{os.getpid()}"
    with ExitStack() as held:
        held.callback(shutil.rmtree, staged, ignore_errors=True)
        tables = held.enter_context(quantized.quantized(model, options.quantize))
        rows = answers(model, front, store, split, golden)
        outputs = list(rows["serving_default"]["outputs"])
        moved = {}
        if options.quantize != "none":
            moved = changes.demanded(options, plain, rows)
            rows = changes.beside(rows, plain)
        served = signatures.functions(model, front)
        weights = variables(model, served)
        manifest = _manifest(model, store, front, weights, outputs) | {"facts": dict(facts)}
        if options.quantize != "none":
            read = {p: f for p, f in tables.items() if any(w.startswith(f"{p}/") for w in weights)}
            manifest["quantization"] = changes.facts(options, moved, read)
        _write(staged, front, store, served, weights, rows, manifest)
        if check is not None:
            check(staged)
        _version(folder, int(final.name))
        for path in (*staged.rglob("*"), staged):
            sync(path)
        staged.rename(final)
        sync(folder)
    return final


def _write(
    folder: Path,
    front: Front,
    store: Store,
    served: Mapping[str, Any],
    weights: Mapping[str, tf.Variable],
    rows: Mapping[str, Mapping[str, Any]],
    manifest: Mapping[str, Any],
) -> None:
    """A version's files, in a folder of any name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    module = tf.Module(name="served")
    module.front, module.weights = front, dict(weights)
    tf.saved_model.save(module, str(folder), signatures=dict(served))
    defaults = {name: signatures.defaults(front, name) for name in served}
    signed = canonical.rewrite(folder, defaults)
    (folder / GOLDEN).mkdir(parents=True)
    for name, row in rows.items():
        _dump(folder / GOLDEN / f"{name}.json", row, nan=True)  # a token of REST's JSON
        (folder / GOLDEN / f"{name}.bin").write_bytes(tensors(row, signed[name]))
    warmup.write(folder, front, store)
    page = describe.page(front, manifest, served, rows)
    (folder / describe.PAGE).write_text(page, encoding="utf-8")
    _dump(folder / MANIFEST, {**manifest, "files": digests(folder)})


def variables(model: ServingModel, served: Mapping[str, Any]) -> dict[str, tf.Variable]:
    """The variables that the signatures read, by their path in the model."""
    read = {id(v) for function in served.values() for v in function.graph.variables}
    found: dict[str, tf.Variable] = {}
    seen: set[int] = set()
    view = tf.train.TrackableView(model)
    queue: list[tuple[str, Any]] = [(part, getattr(model, part)) for part in PARTS]
    for path, node in queue:
        if id(node) in seen:
            continue
        seen.add(id(node))
        if id(node) in read:
            found[path] = node
        queue += [(f"{path}/{name}", child) for name, child in view.children(node).items()]
    return dict(sorted(found.items()))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by its path in the version's folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


def _manifest(
    model: ServingModel,
    store: Store,
    front: Front,
    weights: Mapping[str, tf.Variable],
    outputs: list[str],
) -> dict[str, Any]:
    size = sum(v.shape.num_elements() * v.dtype.size for v in weights.values())
    shift, fitted = float(model.shift.numpy()), model.calibrators
    return {
        "simulated": store.simulated,
        "dataset": store.manifest["dataset"],
        "store": {key: store.manifest[key] for key in STORE if key in store.manifest},
        "item": front.schema.item_id.name,
        "schema": front.schema.to_json(),
        "labels": list(model.served),
        "outputs": outputs,
        "score": {"labels": list(model.fused), "weight": model.score_weight}
        if model.score_weight
        else None,
        **({"draws": draws(model)} if model.uncertain else {}),
        "history": front.history,
        "reads_history": front.reads_past,
        **({"reads_ages": True} if front.reads_ages else {}),
        "logit_shift": shift,
        "negative_rate": math.exp(shift),
        "calibrators": {label: module.name for label, module in fitted.items()},
        "variables": {
            path: {"shape": v.shape.as_list(), "dtype": v.dtype.name} for path, v in weights.items()
        },
        "variable_bytes": size,
    }


def draws(model: ServingModel) -> dict[str, dict[str, float]]:
    """Served label -> the ``slope`` a and ``intercept`` c with which a drawn logit f has the
    probability σ(a f + c): those of its calibrator, and ln w of the sampled label in c."""
    found = {}
    for label in model.labels:
        if label.name in model.served:
            shift = float(model.shift.numpy()) if label.sampled else 0.0
            zero, one = shift, 1.0 + shift
            if label.name in model.calibrators:
                fitted = model.calibrators[label.name]
                zero, one = (float(fitted.logits(tf.constant(z, tf.float64))) for z in (zero, one))
            found[label.name] = {"slope": one - zero, "intercept": zero}
    return found


def _version(folder: Path, version: int | None) -> int:
    """The version to write, which does not exist yet."""
    if version is None:
        names = (p.name for p in folder.iterdir()) if folder.is_dir() else ()
        return 1 + max((int(n) for n in names if n.isdecimal()), default=0)
    if version < 1:
        raise InputError(
            f"export to {folder}: version is {version}; expected at least 1; give a later number"
        )
    if (folder / str(version)).exists():
        raise InputError(
            f"export {folder / str(version)} exists and is never overwritten; expected a new "
            "version; leave version out for the next one"
        )
    return version


def _dump(file: Path, value: Mapping[str, Any], *, nan: bool = False) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, allow_nan=nan) + "\n")
