"""Real processes of the command that start at once: they are forked from a server that has torch loaded already."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOAD = ["vcut.sweeps.clip", "vcut.loading", "av"]


def vcut(words: Sequence[str], said: Path | None, more_memory: int | None) -> None:
    """Run the command and end the process with its exit code."""
    if said:
        for number in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    if more_memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more_memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    from vcut import cli

    sys.exit(cli.main(words))


@contextlib.contextmanager
def started(
    words: Sequence[str], said: Path | None = None, more_memory: int | None = None
) -> Iterator[BaseProcess]:
    """The process of a command, of which nothing is left after the block.

    Args:
        words: the words of the command line.
        said: a file to which stdout and stderr are appended.
        more_memory: bytes of address space that the process may take beyond those that it begins with.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOAD)
    process = server.Process(target=vcut, args=(words, said, more_memory))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
