"""SIGNATURES.md: a version's inputs and answers, for those who write a client."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from at4ctr.schema import history_name
from export.lookup import Front, Input

PAGE = "SIGNATURES.md"
SHOWN = 5  # behaviours and candidates of the example request
WHAT = {
    "serving_default": "B rows; histories of L behaviours, oldest first, padding anywhere, any L. "
    "The model sees the latest {history} real ones. One row instead of B stands for all.",
    "examples": "B serialized `tf.Example`s with the names of `serving_default`. What an example "
    "leaves out is missing; a history of several values a behaviour is flat.",
    "candidates": "One user, one history of L behaviours, N candidate items.",
}


def page(
    front: Front,
    manifest: Mapping[str, Any],
    served: Mapping[str, Any],
    golden: Mapping[str, Mapping[str, Any]],
) -> str:
    """Markdown. served: the traced signatures by name; golden: a request of each."""
    answers = "; ".join(f"`{name}` float32: {what}" for name, what in _outputs(manifest))
    lines = ["# Signatures", ""]
    lines += ["Raw ids as they stand in the log. A missing value is -1, or the empty text."]
    if any(given.dtype.is_floating for given in front.inputs.values()):
        lines += [
            "A missing number is NaN, in JSON the token `NaN`. An infinite number is refused."
        ]
        lines += ["A missing weight (NaN) counts as 1."]
    lines += [
        "",
        f"Only `{front.schema.item_id.name}` must be named: TensorFlow Serving puts a missing",
    ]
    lines += ["value for any other input that a request leaves out (`SignatureDef.defaults`)."]
    for name, function in served.items():
        specs = function.structured_input_signature[0][0]
        lines += ["", f"## {name}", "", WHAT[name].format(history=front.history), ""]
        lines += ["| input | dtype | shape | what |", "|---|---|---|---|"]
        if isinstance(specs, tf.TensorSpec):
            lines.append("| `examples` | string | [B] | serialized `tf.Example` |")
        else:
            lines += [_row(front, key, spec, name) for key, spec in specs.items()]
        size = "[N]" if name == "candidates" else "[B]"
        lines += ["", f"Answers, each {size}: {answers}."]
    request = json.dumps(_short(golden["candidates"]["inputs"]), ensure_ascii=False)
    lines += [
        "",
        "A request of `candidates` by REST:",
        "",
        "```",
        "POST /v1/models/<model>:predict",
    ]
    lines += [f'{{"signature_name": "candidates", "inputs": {request}}}', "```"]
    return "\n".join(lines) + "\n"


def _outputs(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each answer and what it is, in the manifest's order."""
    labels = {label["name"]: label for label in manifest["schema"]["labels"]}
    derived = {f"{x['within']}_without_{name}": x for name, x in labels.items() if x["within"]}
    named = len(manifest["labels"]) > 1
    known = {}
    for name in manifest["labels"]:
        after, fitted = f"_{name}" if named else "", manifest["calibrators"].get(name)
        if name in derived:
            outer, inner = derived[name]["within"], derived[name]["name"]
            known[f"probability{after}"] = f"P({outer} and not {inner}), for the unsampled log"
            known[f"logit{after}"] = "before the calibration and the correction for sampling"
            continue
        within = labels[name]["within"]
        logit = f"logit{after}{_shifted(manifest['logit_shift'] if labels[name]['sampled'] else 0)}"
        formula = f"the fitted {fitted} map of {logit}" if fitted else f"σ({logit})"
        of = f"P({name} | {within})" if within else f"P({name})"
        known[f"probability{after}"] = f"{of}, calibrated for the unsampled log"
        known[f"logit{after}"] = f"before the calibration (probability{after} = {formula})"
        if "draws" in manifest:
            slope, intercept = manifest["draws"][name].values()
            known[f"deviation{after}"] = (
                f"standard deviation of logit{after}; a draw f = logit{after} + "
                f"deviation{after} · ε, ε ~ N(0, 1), has the probability "
                f"σ({slope:.6g} f{_shifted(intercept)})"
            )
        if within:
            known[f"probability_{within}_and_{name}"] = f"P({within} and {name})"
    if manifest["score"]:
        inner, weight = manifest["score"]["labels"][0], manifest["score"]["weight"]
        outer = labels[inner]["within"]
        known["score"] = (
            f"(s + P({inner} | {outer}) − s P({outer} and not {inner})) / (1 + s), s = {weight:g}: "
            "ranks candidates, and is no probability"
        )
    return ((name, known[name]) for name in manifest["outputs"])


def _shifted(by: float) -> str:
    return f" {'−' if by < 0 else '+'} {abs(by):.6g}" if by else ""


def _row(front: Front, key: str, spec: tf.TensorSpec, signature: str) -> str:
    given = front.inputs[key]
    return f"| `{key}` | {spec.dtype.name} | {_shape(given, signature)} | {_what(given)} |"


def _shape(given: Input, signature: str) -> str:
    wide = [] if given.length is None else ["M"]
    if signature != "candidates":
        return f"[{', '.join(['B', *(['L'] * given.past), *wide])}]"
    if given.group == "profile":
        return f"[{', '.join(wide or ['1'])}]"
    return f"[{', '.join([*(['L'] if given.past else ['N']), *wide])}]"


def _what(given: Input) -> str:
    of = {"profile": "of the user", "item": "of the candidate", "context": "of the impression"}
    name, what = f"`{given.of.name}`", "of each behaviour" if given.past else of[given.group]
    if given.aged:
        return "seconds from each behaviour to the request; -1 where it is unknown"
    if given.weighs:
        return f"weight, of at least 0, of each value of {name} {what}, or none of them (M = 0)"
    if given.dtype.is_floating:
        return f"number {name} {what}"
    several = f"; up to {given.length} values are read" if given.length else ""
    return f"{name} {what}{several}"


def _short(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The first candidates and the latest behaviours of a request."""
    past = history_name("")
    return {k: v[-SHOWN:] if k.startswith(past) else v[:SHOWN] for k, v in inputs.items()}
