"""Shared fixtures: where the real data lie."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

import at4ctr  # noqa: F401  (sets the Keras version before TensorFlow loads)

# No example has a deadline: a busy machine is no fault. CI draws the same examples every time.
settings.register_profile("tests", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "tests")

SLOW = os.environ.get("AT4CTR_SLOW") == "1"  # of make test-slow
slow = pytest.mark.skipif(not SLOW, reason="takes minutes: make test-slow runs it")
DATA = Path(os.environ.get("AT4CTR_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def shared_data(name: str) -> Path:
    """The path of a real data file, or a skip that says how to provide it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real data {name} not found: set AT4CTR_DATA to the folder that holds it")
    return path


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
