"""A typed list of modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


class Modules(nn.ModuleList, Generic[M]):
    """A ModuleList whose items have a type."""

    def __iter__(self) -> Iterator[M]:
        return cast("Iterator[M]", super().__iter__())
