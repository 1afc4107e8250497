"""What every metric demands of its inputs: same length, no NaN, labels 0 or 1."""

import numpy as np
import numpy.typing as npt

from at4ctr.errors import InputError

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]


def vector(name: str, values: npt.ArrayLike) -> npt.NDArray:
    """`values` as a non-empty vector [N]."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"{name} has shape {array.shape}: expected one value a row, flatten it")
    if array.size == 0:
        raise InputError(f"{name} is empty: expected at least one row, check the evaluated split")
    return array


def same_length(first: str, a: npt.NDArray, second: str, b: npt.NDArray) -> None:
    """Refuses vectors whose rows cannot correspond."""
    if a.size != b.size:
        raise InputError(
            f"{first} has {a.size} rows and {second} {b.size}: expected one for each, "
            "take both from the same split"
        )


def numbers(name: str, values: npt.ArrayLike) -> Floats:
    """`values` as a non-empty floating vector [N] without NaN; float32 stays float32."""
    array = vector(name, values)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} has type {array.dtype}: expected numbers, convert it first")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    wrong = np.isnan(array)
    if wrong.any():
        raise InputError(
            f"{name} holds {int(wrong.sum())} NaN, the first at row {int(wrong.argmax())}: "
            "expected numbers, look for the training step where the loss left the finite range"
        )
    return array


def classes(labels: npt.ArrayLike) -> Flags:
    """`labels` as a boolean vector [N], True where clicked."""
    array = numbers("labels", labels)
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"labels holds {float(array[row])} at row {row}: expected 0 or 1, binarise it first"
        )
    return array == 1


def scored(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Flags, Floats]:
    """Labels and real-valued scores, row by row."""
    truth, values = classes(labels), numbers("scores", scores)
    same_length("labels", truth, "scores", values)
    return truth, values


def predicted(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike
) -> tuple[Flags, npt.NDArray[np.float64]]:
    """Labels and probabilities in [0, 1], row by row."""
    truth, values = classes(labels), numbers("probabilities", probabilities)
    same_length("labels", truth, "probabilities", values)
    wrong = (values < 0) | (values > 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"probabilities holds {float(values[row])} at row {row}: expected a value in [0, 1], "
            "pass the sigmoid of the logit"
        )
    return truth, values.astype(np.float64, copy=False)


def both_classes(metric: str, truth: Flags) -> None:
    """Refuses labels of one class for a metric that compares two."""
    positives = int(truth.sum())
    if positives in (0, truth.size):
        raise InputError(
            f"{metric} needs both classes: labels has {positives} positives in {truth.size} rows, "
            "evaluate on more rows or leave this metric out"
        )
