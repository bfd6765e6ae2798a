"""What happens within a run of pytest: which functions each test calls, and mutants that are tried in forks of it."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, settings

from tests.mutation.mutants import Mutant

Send = Callable[[object], None]
Calls = set[tuple[str, int]]
"""Functions, by their files and first lines."""
MARKS = "not slow and not parity and not browser"


def run_tests(arguments: list[str], *plugins: object) -> int:
    """Run pytest in this process. Every run draws the same examples, or a mutant would live or die by chance."""
    settings.register_profile(
        "mutation", max_examples=40, deadline=None, phases=(Phase.explicit, Phase.generate)
    )
    options = (
        "-x -q -n 0 -p no:cacheprovider -p no:randomly --hypothesis-seed=0 --hypothesis-profile=mutation"
    )
    return int(pytest.main([*options.split(), "-m", MARKS, *arguments], plugins=plugins))


class Plan(NamedTuple):
    """One mutant: its file, the tests that may notice it, and the seconds of processor time for them."""

    file: Path
    mutant: Mutant
    tests: list[str]
    limit: float


@dataclass(eq=False)
class Coverage:
    """Plugin that sends what a sound run calls of ``files``: a row for the imports, and one for each test."""

    files: set[str]
    send: Send
    stack: list[Calls] = field(default_factory=lambda: [set()])
    fixtures: dict[object, Calls] = field(default_factory=dict)
    processes: int = 0

    def __post_init__(self) -> None:
        sys.settrace(self.trace)
        threading.settrace(self.trace)
        sys.addaudithook(self.audit)

    def trace(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call. That is all: to be told of lines too would make tests many times slower."""
        code = frame.f_code
        if code.co_filename in self.files:
            self.stack[-1].add((code.co_filename, code.co_firstlineno))

    def audit(self, event: str, _: object) -> None:
        """Count the processes that are started: what they execute is not seen."""
        self.processes += event in ("subprocess.Popen", "os.fork", "os.posix_spawn")

    @contextlib.contextmanager
    def called(self) -> Iterator[Calls]:
        """What is called in the block, and so in the block around it."""
        self.stack.append(set())
        yield self.stack[-1]
        self.stack[-2].update(self.stack.pop())

    def pytest_collection_finish(self) -> None:
        """Send what was called by importing."""
        self.send({"calls": sorted(self.stack[0])})
        cached = [each for each in gc.get_objects() if type(each) is functools._lru_cache_wrapper]
        here = str(Path.cwd())
        self.caches = [each for each in cached if _file(each).startswith(here)]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: object) -> Iterator[None]:
        """Note what a fixture calls: every test that takes it would see a fault of that."""
        with self.called() as self.fixtures[fixturedef]:
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Iterator[None]:
        """Send the calls and the seconds of a test. What is cached is called by everyone who asks for it."""
        for cache in self.caches:
            cache.cache_clear()
        self.processes = 0
        begun = time.process_time()
        with self.called() as found:
            result = yield
        for fixture in itertools.chain(*item._fixtureinfo.name2fixturedefs.values()):
            found |= self.fixtures.get(fixture, set())
        seconds = time.process_time() - begun
        self.send({
            "test": item.nodeid, "seconds": seconds, "processes": self.processes, "calls": sorted(found)
        })  # fmt: skip
        return result


@dataclass(eq=False)
class Forks:
    """Plugin that runs no test but tries mutants: each has a fork, in which functions get the changed code.

    It sends the number of each mutant with whether it was killed, or None if its function is not found.
    """

    plans: dict[int, Plan]
    send: Send

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try every mutant."""
        items = {item.nodeid: item for item in session.items}
        functions = _functions()
        gc.freeze()
        for number, (file, mutant, tests, limit) in self.plans.items():
            changed = list(_changed(file, mutant, functions))

            def work(tests: list[str] = tests, changed: list[Any] = changed) -> int:
                for function, code in changed:
                    function.__code__ = code
                for item, following in itertools.pairwise([*(items[test] for test in tests), None]):
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                    if session.testsfailed:
                        return 1
                return 0

            self.send((number, killed(file, mutant, work, limit) if changed else None))
        return True


def _file(cached: Any) -> str:
    return getattr(getattr(cached.__wrapped__, "__code__", None), "co_filename", "")


def fork(work: Callable[[], int], limit: float = 0) -> int:
    """Start a fork of this process that ends with the status that ``work`` returns, and return its number.

    It leads a group and says nothing. A signal ends it after ``limit`` seconds, or with 4 GiB more of memory.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        if limit:
            signal.alarm(int(4 * limit) + 60)  # others may have the processor
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit + time.process_time()) + 1,) * 2)
            most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**32
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        status = work()
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """The status with which a fork ends; what it started ends too."""
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status)


def killed(file: Path, mutant: Mutant, work: Callable[[], int], limit: float) -> bool:
    """Whether ``work`` fails in a fork. The changed file is there meanwhile, for processes that it starts.

    The folders that its tests make are removed: a fork that ends at once leaves them, up to a gigabyte a mutant.
    """
    sound = file.read_text()
    file.write_text(mutant.source())
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as room:
            os.environ["PYTEST_DEBUG_TEMPROOT"] = room
            return ended(fork(work, limit)) != 0
    finally:
        file.write_text(sound)


def _functions() -> dict[tuple[str, str, int], list[FunctionType]]:
    """All functions that there are, by file, name and first line."""
    found: dict[tuple[str, str, int], list[FunctionType]] = {}
    for function in gc.get_objects():
        if type(function) is FunctionType:  # isinstance would ask odd objects, some of which then warn
            code = function.__code__
            found.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno), []).append(function)
    return found


def _changed(
    file: Path, mutant: Mutant, functions: dict[tuple[str, str, int], list[FunctionType]]
) -> Iterator[tuple[FunctionType, CodeType]]:
    """The functions that a mutant changes, each with its new code; none if that cannot be told."""
    if mutant.function is None:
        return
    name, lines = mutant.function
    codes = [compile(mutant.tree(), str(file), "exec")]
    while codes:
        code = codes.pop()
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        if (code.co_qualname, code.co_firstlineno) == (name, lines.start):
            for function in functions.get((str(file), name, lines.start), ()):
                if len(function.__code__.co_freevars) == len(code.co_freevars):
                    yield function, code
