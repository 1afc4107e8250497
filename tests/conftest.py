"""Shared fixtures: where the real data lie."""

import os
from pathlib import Path

import pytest

import at4ctr  # noqa: F401  (sets the Keras version before TensorFlow loads)

DATA = Path(os.environ.get("AT4CTR_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def shared_data(name: str) -> Path:
    """The path of a real data file, or a skip that says how to provide it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real data {name} not found: set AT4CTR_DATA to the folder that holds it")
    return path
