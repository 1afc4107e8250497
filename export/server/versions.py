"""Which version of a model is served: TensorFlow Serving's rule for a folder that it polls.

The folder with the largest number is the version to serve. It is loaded and warmed up while the
version before it still serves, and then takes over; the old one ends once its last answer is out.
Deleting the newest folder rolls back. A load that fails is tried again as TensorFlow Serving does:
six times, a minute apart.

This server is stricter in what it loads. A version is loaded when it is whole (``whole``), and its
files are compared again after loading. A version whose files change later is loaded again.
It is also more available: while the newest version cannot be served, the next newest one is.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import tensorflow as tf
from grpc import StatusCode as Code
from tensorflow_serving.apis import get_model_status_pb2

from export.server import apart, whole
from export.server.apart import Digests
from export.server.servable import Servable
from export.server.tensors import RefusedError
from export.server.whole import Fingerprint, NotWholeError

State = get_model_status_pb2.ModelVersionStatus.State
LAST_ANSWERS_SECONDS = 30.0


@dataclass(frozen=True)
class Status:
    """state: START (waits), LOADING, AVAILABLE, UNLOADING, END. text: why it waits or failed."""

    state: int
    code: int = 0
    text: str = ""


@dataclass(frozen=True)
class Patience:
    """retries: of a load that failed. retry_seconds: between two loads.
    settle_seconds: that the files of a version without MANIFEST.json must stay unchanged."""

    retries: int = 5
    retry_seconds: float = 60.0
    settle_seconds: float = 10.0


@dataclass
class Watch:
    """A version's files since they last changed.

    since: when this was seen. tries: loads that failed. due: when to look into them again.
    """

    seen: Fingerprint
    since: float
    tries: int = 0
    due: float = 0.0


class Versions:
    """The versions of one model, the newest of them served."""

    def __init__(
        self,
        name: str,
        base: Path,
        load: Callable[[Path, int], Servable],
        say: Callable[[str], None],
        patience: Patience = Patience(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """load: a version's folder and number to a warm servable. say: one line per event."""
        self.name, self.base, self.patience = name, base, patience
        self._load, self._say, self._clock = load, say, clock
        self._lock = threading.Condition()
        self._statuses: dict[int, Status] = {}
        self._twins: dict[int, str] = {}
        self._current: Servable | None = None
        self._loaded: Digests = {}  # of what serves
        self._busy: dict[int, int] = {}  # answers under way, by the servable's id
        self._watches: dict[int, Watch] = {}
        self._barred: set[int] = set()  # folders that could not be read at the last look
        self._said: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, seconds: float) -> None:
        """Polls now, and every so many seconds until ``stop``."""
        self.poll()

        def run() -> None:
            while not self._stopping.wait(seconds):
                try:
                    self.poll()
                except Exception as error:  # such as a disk that fails for a moment
                    self._say(f"polling {self.base} failed: {error}")

        self._thread = threading.Thread(target=run, name="versions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(LAST_ANSWERS_SECONDS)
        self._replace(None)

    @property
    def serving(self) -> int | None:
        """The version that answers."""
        with self._lock:
            return None if self._current is None else self._current.version

    def poll(self) -> None:
        """Looks at the folder once and follows it."""
        found = self._folders()
        if found is None:
            return
        self._forget(found)
        serving = self.serving
        for version in sorted(found, reverse=True):
            made = self._take(version, found[version])
            if made is not None:
                self._replace(made)
                return
            if version == serving:
                return
        if not found and serving is not None:
            self._replace(None)

    def _folders(self) -> dict[int, Path] | None:
        """The folder of each version; None where the base cannot be listed.

        A folder that cannot be read is named in the status, and the others go on.
        """
        found: dict[int, Path] = {}
        twins: dict[int, str] = {}
        barred: set[int] = set()
        try:
            names = sorted(os.listdir(self.base), key=lambda name: (len(name), name))
        except OSError as error:
            self._once("base", f"cannot read {self.base}: {error.strerror}; what serves goes on")
            return None
        self._said.pop("base", None)
        for name in filter(_is_number, names):
            version, path = int(name), self.base / name
            try:
                if not stat.S_ISDIR(os.stat(path).st_mode):
                    continue
                if version not in found:
                    os.scandir(path).close()
            except FileNotFoundError:
                continue
            except OSError as error:
                self._unreadable(version, path, error)
                barred.add(version)
            if version in found:
                twin = f"{found[version].name} is served; {name} has the same number and is not"
                twins[version] = twin
                self._once(f"twin {name}", f"version {version}: {twin}; delete one of them")
            found.setdefault(version, path)
        with self._lock:
            self._twins = twins
            for version in self._barred - barred:
                self._statuses.pop(version, None)
        self._barred = barred
        return found

    def _forget(self, found: dict[int, Path]) -> None:
        """Ends versions whose folder is gone. The one that serves ends when it is replaced."""
        self._watches = {v: w for v, w in self._watches.items() if v in found}
        with self._lock:
            for version, status in self._statuses.items():
                if version not in found and status.state in (State.START, State.LOADING):
                    self._statuses[version] = Status(State.END, text="its folder is gone")

    def _take(self, version: int, folder: Path) -> Servable | None:
        """A servable of the version where it is whole, due and not what serves already."""
        now = self._clock()
        try:
            seen = whole.fingerprint(folder)
        except OSError as error:
            self._watches.pop(version, None)
            self._unreadable(version, folder, error)
            return None
        watch = self._watches.get(version)
        if watch is None or watch.seen != seen:
            watch = self._watches[version] = Watch(seen, now)
        if now < watch.due:
            return None
        settled = watch.since + self.patience.settle_seconds
        try:
            if now < settled and not whole.has_manifest(folder):
                whole.check_graph(folder)
                raise NotWholeError(
                    "it has no MANIFEST.json and its files are new; it is loaded when they are "
                    f"unchanged for {self.patience.settle_seconds:g} s"
                )
            digests = whole.check(folder, self._digests)
            if version == self.serving and digests == self._loaded:
                self._set(version, Status(State.AVAILABLE))
                watch.due = math.inf
                return None
            made = self._loading(version, folder, digests)
            watch.due, self._loaded = math.inf, digests
            return made
        except NotWholeError as error:
            # Written within a tick of the clock, a file may change and keep its times: look twice.
            watch.due = settled if now < settled else math.inf
            self._waits(version, State.START, Code.UNAVAILABLE.value[0], f"waits: {error}")
        except Exception as error:  # whatever a broken version makes TensorFlow raise
            self._failed(version, watch, error)
        return None

    def _digests(self, folder: Path) -> Digests:
        """The digests of a folder, computed by a process of low priority while a version serves."""
        return apart.read(folder) if self.serving is None else apart.digests(folder)

    def _loading(self, version: int, folder: Path, digests: Digests) -> Servable:
        """Loads a version. Raises NotWholeError where its files changed meanwhile."""
        self._set(version, Status(State.LOADING))
        begin = time.monotonic()
        made = self._load(folder, version)
        try:
            if self._digests(folder) != digests:
                self._watches.pop(version, None)
                raise NotWholeError("its files changed while it was loaded; it is loaded again")
        except BaseException:
            made.close()
            raise
        self._said.pop(f"version {version}", None)
        self._say(f"version {version} is available after {time.monotonic() - begin:.1f} s")
        return made

    def _failed(self, version: int, watch: Watch, error: Exception) -> None:
        watch.tries += 1
        code, text = _failure(error)
        tries = self.patience.retries + 1
        last = watch.tries >= tries
        watch.due = math.inf if last else self._clock() + self.patience.retry_seconds
        when = "" if last else f"in {self.patience.retry_seconds:g} s, or "
        text = (
            f"cannot be served: {text} (try {watch.tries} of {tries}; the next one comes {when}"
            "when its files change)"
        )
        self._waits(version, State.END if last else State.LOADING, code, text)

    def _unreadable(self, version: int, folder: Path, error: OSError) -> None:
        where = error.filename or folder
        text = f"waits: {where} cannot be read ({error.strerror}); correct its permissions or disk"
        code = Code.PERMISSION_DENIED if isinstance(error, PermissionError) else Code.UNAVAILABLE
        self._waits(version, State.START, code.value[0], text)

    def _waits(self, version: int, state: int, code: int, text: str) -> None:
        """Sets the status that says why a version is not served. The one that serves goes on."""
        if version == self.serving:
            text = f"{text}; what was loaded before goes on"
            state, code = State.AVAILABLE, 0
        self._set(version, Status(state, code, text))
        self._once(f"version {version}", f"version {version} {text}")

    def _once(self, what: str, line: str) -> None:
        """Says a line unless it was the last one of its kind."""
        if self._said.get(what) != line:
            self._said[what] = line
            self._say(line)

    def _replace(self, made: Servable | None) -> None:
        """Serves ``made`` from now on, then ends what served."""
        with self._lock:
            old, self._current = self._current, made
            if made is not None:
                self._statuses[made.version] = Status(State.AVAILABLE)
            if old is None:
                return
            again = made is not None and made.version == old.version
            if not again:
                self._statuses[old.version] = Status(State.UNLOADING)
            self._lock.wait_for(lambda: not self._busy.get(id(old)), LAST_ANSWERS_SECONDS)
        old.close()
        if not again:
            self._watches.pop(old.version, None)  # it may be wanted again
            self._set(old.version, Status(State.END))
        self._say(f"version {old.version} is {'loaded anew' if again else 'unloaded'}")

    def _set(self, version: int, status: Status) -> None:
        with self._lock:
            self._statuses[version] = status

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None) -> Iterator[Servable]:
        """The served version, kept loaded for as long as the block runs.

        Raises RefusedError NOT_FOUND for another model and a version that is not served.
        """
        self.named(name)
        with self._lock:
            servable = self._current
            if servable is None or version not in (None, servable.version):
                wanted = "any version" if version is None else f"version {version}"
                serving = "none" if servable is None else f"version {servable.version}"
                raise RefusedError(
                    Code.NOT_FOUND, f"{wanted} of {name} is not served; {serving} is"
                )
            self._busy[id(servable)] = self._busy.get(id(servable), 0) + 1
        try:
            yield servable
        finally:
            with self._lock:
                self._busy[id(servable)] -= 1
                if not self._busy[id(servable)]:
                    del self._busy[id(servable)]
                self._lock.notify_all()

    def named(self, name: str) -> None:
        if name != self.name:
            raise RefusedError(
                Code.NOT_FOUND, f"unknown model {name[:60]!r}; {self.name!r} is served"
            )

    def statuses(self, name: str, version: int | None = None) -> dict[int, Status]:
        """Of one version or of all, newest first."""
        self.named(name)
        with self._lock:
            known = dict(sorted(self._statuses.items(), reverse=True))
            for number, text in self._twins.items():
                if number in known and not known[number].text:
                    known[number] = replace(known[number], text=text)
        if version is not None:
            known = {n: s for n, s in known.items() if n == version}
        if not known:
            which = "any version" if version is None else f"version {version}"
            raise RefusedError(Code.NOT_FOUND, f"could not find {which} of model {name}")
        return known


def _is_number(name: str) -> bool:
    """Whether it is a version's: what an int64 holds."""
    return name.isascii() and name.isdecimal() and int(name) < 1 << 63


def _failure(error: Exception) -> tuple[int, str]:
    """A status code and one line."""
    if isinstance(error, RefusedError):
        return error.code.value[0], error.text
    if isinstance(error, OSError) and error.errno:
        return Code.UNAVAILABLE.value[0], f"{error.filename or 'a file'}: {error.strerror or error}"
    code = error.error_code if isinstance(error, tf.errors.OpError) else Code.UNKNOWN.value[0]
    return code, " ".join(str(error).split())[:500] or type(error).__name__
