"""Share of the clips that a process makes: asked for, or read from what started it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from vcut.errors import ConfigError

T = TypeVar("T")


class Shard(NamedTuple):
    """Part ``number`` of ``of``, counted from 0; ``source`` names the variables that said so."""

    number: int = 0
    of: int = 1
    source: str = ""

    def part(self, things: Sequence[T]) -> Sequence[T]:
        """Every ``of``-th of ``things``: each is in one shard, and neighbours are spread over all."""
        return things[self.number :: self.of]


def from_environment(variables: Mapping[str, str]) -> Shard:
    """The shard of this process among those that torchrun, accelerate or Slurm started; 0 of 1 if there are none.

    A Slurm array whose tasks are several processes each makes one shard of every process.

    Raises:
        ConfigError: a variable is no number, or numbers do not fit, as of an array with gaps.
    """
    rank = _pair(variables, "RANK", "WORLD_SIZE") or _pair(variables, "SLURM_PROCID", "SLURM_NTASKS")
    array = _pair(variables, "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    if array:
        first, step = (_number(variables, f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "STEP"))
        array = array._replace(number=(array.number - first) // (step or 1))
    whole = Shard()
    for part in (array, rank):
        if not part or part.of <= 1:
            continue
        if not 0 <= part.number < part.of:
            raise ConfigError(
                f"{part.source} make this process number {part.number} of {part.of}, counted from 0: say which "
                "clips it makes, --shard 0/4"
            )
        source = f"{whole.source}, {part.source}".removeprefix(", ")
        whole = Shard(whole.number * part.of + part.number, whole.of * part.of, source)
    return whole


def _pair(variables: Mapping[str, str], number: str, of: str) -> Shard | None:
    if number not in variables or of not in variables:
        return None
    return Shard(_number(variables, number), _number(variables, of), f"{number} and {of}")


def _number(variables: Mapping[str, str], name: str) -> int:
    """The number that a variable holds, 0 if there is none."""
    text = variables.get(name, "0")
    if not text.isdecimal():
        raise ConfigError(f"{name} must be a whole number, got {text!r}")
    return int(text)
