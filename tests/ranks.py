"""Processes that make a clip together: real ones, started as torchrun does, and a number of them made up."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from vcut.parallel.team import Team

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["micro", "vcut.parallel"])

Result = tuple[int, Any]
"""How a process ended: its exit code, and what its function returned; of one that failed, its error as text."""


def run(size: int, function: Callable[..., Any], *arguments: Any) -> list[Result]:
    """Call ``function`` in ``size`` processes of one thread each, and return the result of each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    readers, processes = [], []
    for rank in range(size):
        reader, writer = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_start, args=(writer, rank, size, port, function, arguments))
        process.start()
        writer.close()
        readers.append(reader)
        processes.append(process)
    results = []
    for reader, process in zip(readers, processes, strict=True):
        try:
            result = reader.recv()
        except EOFError:
            result = None
        process.join(60)
        assert process.exitcode is not None, "a process did not end"
        results.append((process.exitcode, result))
    return results


def results_of(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What :func:`run`'s processes return, all of which succeed."""
    ended = run(size, function, *arguments)
    for code, result in ended:
        assert code == 0, result
    return [result for _, result in ended]


def _start(
    writer: Connection, rank: int, size: int, port: int, function: Callable[..., Any], arguments: Any
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        result = function(*arguments)
    except BaseException:
        writer.send(traceback.format_exc())
        writer.close()
        os._exit(1)
    writer.send(result)
    writer.close()


@contextmanager
def made_up(size: int, number: int = 0) -> Iterator[Team]:
    """A team of which this process is one rank, and the others are not there: nothing arrives, nothing waits."""
    dist.init_process_group("fake", store=FakeStore(), rank=number, world_size=size)
    try:
        yield Team(size, number)
    finally:
        dist.destroy_process_group()
