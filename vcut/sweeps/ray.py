"""Clips of a sweep handed out by Ray, one by one, to workers on this machine or on a cluster.

Each worker is an actor that holds the model, and gets its next clip when it has finished one: a slow one holds nobody
back. Workers write the clips themselves, so all machines need the same folders. The process that hands out keeps the
manifest. A clip whose worker died is given to another one; if that process dies, its workers end with it.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vcut.errors import VcutError, import_fault
from vcut.sweeps.clip import Maker, Outcome
from vcut.sweeps.runner import Say
from vcut.sweeps.sweep import Task

LOCAL = "local"
"""Address that stands for an instance of Ray's own, on this machine, for this sweep alone."""

TRIES = 3
"""Workers that may die of one clip, or at their start one after the other, before the sweep stops."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to, and what its machines have together."""

    ray: Any
    cores: int
    gpus: int


class Worker:
    """An actor that makes clips: ``start`` returns the function that makes them, and is called on the worker."""

    def __init__(self, start: Callable[[], Maker]) -> None:
        self._start = start

    def ready(self) -> None:
        """Return when the worker can be given a clip."""
        self._make = self._start()

    def make(self, task: Task) -> Outcome:
        """Make a clip, and return what came of it."""
        return self._make(task)


@contextlib.contextmanager
def connected(address: str = LOCAL) -> Iterator[Cluster]:
    """Yield the cluster whose head node has this address; :data:`LOCAL` starts one on this machine.

    Raises:
        VcutError: Ray is not installed, or nobody answers.
    """
    try:
        import ray as module
    except ImportError as error:
        raise VcutError(f"--ray needs Ray: {import_fault(error, 'ray')}") from error
    # in part untyped, and Any where it is not installed
    ray: Any = module
    _check_answer(address)
    try:
        options = {"include_dashboard": False} if address == LOCAL else {}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise VcutError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
    try:
        there = ray.cluster_resources()
        yield Cluster(ray, int(there.get("CPU", 0)), int(there.get("GPU", 0)))
    finally:
        # the workers go with the connection
        ray.shutdown()


def _check_answer(address: str) -> None:
    """Raise if nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise VcutError(f"no Ray cluster answers at {address}: {error}") from error


def handed_out(
    cluster: Cluster, tasks: Sequence[Task], start: Callable[[], Maker], *, cores: int, gpu: bool, warn: Say
) -> Iterator[tuple[Task, Outcome]]:
    """Yield each task with what came of it, in the order in which clips are finished.

    Args:
        cluster: where the workers are.
        tasks: clips to make, those of one form after each other, so that a worker seldom loads another form.
        start: makes the function that makes clips; it is called once on each worker.
        cores: cores of a worker.
        gpu: a worker has a GPU besides.
        warn: takes a line for each worker that dies.

    Raises:
        VcutError: the cluster has no room for a worker, a worker met a fault that all clips would meet, or
            :data:`TRIES` workers died of one clip.
    """
    ray = cluster.ray
    room = min(cluster.cores // cores, cluster.gpus if gpu else cluster.cores)
    if room < 1:
        raise VcutError(
            f"the cluster has {cluster.cores} cores and {cluster.gpus} GPUs, no room for a worker with {cores} and "
            f"{int(gpu)}: ask for less, --cpus-per-worker 1"
        )
    kind = ray.remote(Worker).options(num_cpus=cores, num_gpus=int(gpu))
    waiting, deaths = deque(tasks), Counter[str]()
    # each worker with its task, or None while it starts, by the promise that it ends
    busy: dict[Any, tuple[Any, Task | None]] = {}

    def hire() -> None:
        worker = kind.remote(start)
        busy[worker.ready.remote()] = worker, None

    for _ in range(min(room, len(tasks))):
        hire()
    while waiting or any(task for _, task in busy.values()):
        (promise,), _ = ray.wait(list(busy))
        worker, done = busy.pop(promise)
        doing = f"it made {done.file}" if done else "it started"
        try:
            outcome = ray.get(promise)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, VcutError):
                raise error.cause from None
            raise
        except ray.exceptions.RayActorError as error:
            deaths[doing] += 1
            if deaths[doing] == TRIES:
                reason = str(error).splitlines()[0]
                raise VcutError(f"{TRIES} workers died, each while {doing}: {reason}") from None
            warn(f"a worker died while {doing}; another one takes its place")
            if done:
                waiting.appendleft(done)
            hire()
            continue
        deaths[doing] = 0
        if waiting:
            task = waiting.popleft()
            busy[worker.make.remote(task)] = worker, task
        if done:
            yield done, outcome
