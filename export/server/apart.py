"""SHA-256 of a folder's files, by a process of its own of the lowest priority.

A thread would need Python's lock after each block that it reads, and threads that answer requests
would have to wait for it. This file is run by its path and imports no other module of the project.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

LOWEST = 19  # a nice value
Digests = dict[str, str]


def digests(folder: Path) -> Digests:
    """SHA-256 of every file, by its path in the folder. Raises OSError where one is unreadable."""
    words = [sys.executable, "-I", __file__, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"the process that reads {folder} ended with {done.returncode}")
    found = json.loads(done.stdout)
    if "errno" in found:
        raise OSError(found["errno"], found["strerror"], found["filename"])
    read: Digests = found["digests"]
    return read


def read(folder: Path) -> Digests:
    """As `digests`, in this process."""
    found = {}
    for root, _, files in os.walk(folder, onerror=_raise):
        for name in files:
            path = Path(root, name)
            try:
                with path.open("rb") as file:
                    found[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                        file, "sha256"
                    ).hexdigest()
            except FileNotFoundError:  # deleted since it was listed
                continue
    return found


def _raise(error: OSError) -> None:
    raise error


def main() -> None:
    os.nice(LOWEST)
    try:
        found: dict[str, object] = {"digests": read(Path(sys.argv[1]))}
    except OSError as error:
        found = {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
