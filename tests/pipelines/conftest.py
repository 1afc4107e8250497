"""One chain of nights for all tests of the nightly job: it takes a few trainings."""

import json
import os
import shutil

import pytest

from at4ctr.data import disk
from export import verify
from pipelines import nightly, train
from pipelines.night import learn
from tests.pipelines.nights import FIRST, SECOND, WORSE, Chain, begun, deliver, flags, moved

IN_A_PROCESS = ("test_main_job", "test_nightly_operator")  # where a fresh one verifies, as in use


@pytest.fixture(autouse=True)
def verified_here(request, monkeypatch):
    """The same checks in the test's own process: loading TensorFlow takes longer than they do."""

    def checked(folder, like=None):
        passed, lines = zip(*verify.run(folder, like), strict=True)
        return verify.Report(all(passed), lines, 0.0)

    if request.module.__name__.rpartition(".")[2] not in IN_A_PROCESS:
        for module in (learn, train):
            monkeypatch.setattr(module, "verify", checked)


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """What four commands left: a first night, its blessing, a good one and a worse one.

    One for all processes of the tests, who read it alone: `copied` is what may be changed.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root, made = shared / "nights" / "chain", shared / "nights.json"
    with disk.locked(shared / "nights.lock"):
        if not made.is_file():
            codes = _made(root)
            made.write_text(json.dumps(codes))
    held, before = root.with_name("held"), root.with_name("before")
    return Chain(root, held, before, json.loads(made.read_text()))


def _made(root):
    for number in range(7):
        deliver(root, number, worse=number == WORSE)
    codes = [nightly.main(begun(root, FIRST))]
    shutil.copytree(root, root.with_name("held"))
    codes.append(nightly.main(flags(root, FIRST, bless=True, reason="the first")))
    shutil.copytree(root, root.with_name("before"))
    codes.append(nightly.main(flags(root, SECOND, metrics_file=root / "at4ctr.prom")))
    return [*codes, nightly.main(flags(root, WORSE))]


@pytest.fixture
def copied(chain, tmp_path):
    """The chain, to be damaged."""
    return moved(chain.root, tmp_path / "chain")
