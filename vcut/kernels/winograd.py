"""Convolutions with fewer multiplications: minimal filtering (Winograd 1980; Lavin and Gray, arXiv 1509.09308).

Along an axis, a tile of ``r`` results needs ``d`` values of the input. Both the values and the filter's taps are
combined to ``p`` numbers each, multiplied one by one, and the results are sums of the products:

    ``Y = A^T [ (G g) * (B^T d) ]``, along both axes ``Y = A^T [ (G g G^T) * (B^T d B) ] A``

With channels, each of the products is a matrix product over all tiles. Three ways (:class:`Filtering`):

- :func:`minimal`. Seen as polynomials, filter and values are evaluated at ``t+2`` points. 3x3 filters with a tile of
  4 take 36 products for 16 results where the plain sum takes 144, and are four times as large; with a tile of 2, 16
  for 4 where the plain sum takes 36, and 16/9 as large. Over one axis a tile of 4 takes 6 products instead of 12.
- :data:`UPSAMPLED`. The map's values were repeated, so the taps meet one value of the small map or its neighbour:
  ``w1 x' + (w2 + w3) x = (w1 + w2 + w3) x - w1 (x - x')``, and the next result has the first product too. Along both
  axes 9 products for four results instead of 36, filters as large as before, and no upsampled map in memory.
- :data:`WHOLE`. The filter has one tap along this axis.

It is the same sum in another order. In float32 it is off by some 1e-6, as a plain sum of so many terms is; in
bfloat16 rounding the values in between would triple the error, so it is not for half precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from vcut.kernels import matrices

POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(1), Fraction(-1), Fraction(-2), Fraction(1, 2)),
}
"""Points of each tile, besides infinity, where polynomials are evaluated. Small fractions lose the fewest digits."""

BAND_BYTES = 16 << 20
"""Bytes of the transformed input that are held at a time."""

Rows = tuple[tuple[float, ...], ...]
"""Rows of a matrix."""


@dataclass(frozen=True)
class Filtering:
    """Reading of the results of one tile along one axis off products.

    Attributes:
        outputs: ``A^T [r, p]``.
        filters: ``G [p, taps]``.
        inputs: ``B^T [p, d]``.
        step: values from the first one of a tile to the first one of the next.
    """

    outputs: Rows
    filters: Rows
    inputs: Rows
    step: int

    @property
    def results(self) -> int:
        """Number of results of a tile."""
        return len(self.outputs)

    @property
    def margin(self) -> int:
        """Number of values before the first one that a result is at."""
        return len(self.filters[0]) // 2

    def tiles(self, length: int) -> int:
        """Number of tiles of an axis with ``length`` values."""
        return ceil(length / self.step)

    def used(self, length: int) -> list[bool]:
        """Whether each product counts for an axis of ``length``: a small map sees zeros and wants fewer results."""
        if self.tiles(length) > 1:
            return [True] * len(self.inputs)
        wanted = self.outputs[: length * self.results // self.step]
        seen = slice(self.margin, self.margin + length)
        return [any(row[seen]) and any(result[p] for result in wanted) for p, row in enumerate(self.inputs)]

    def values(self, x: Tensor, dim: int, start: int, stop: int) -> Tensor:
        """The values of ``x`` along ``dim`` for the tiles from ``start`` to ``stop``, with zeros where ``x`` ends."""
        first = start * self.step - self.margin
        last = (stop - 1) * self.step - self.margin + len(self.inputs[0])
        inner = x.narrow(dim, max(0, first), min(last, x.shape[dim]) - max(0, first))
        zeros = [0, 0] * (x.ndim - 1 - dim) + [max(0, -first), max(0, last - x.shape[dim])]
        return F.pad(inner, zeros)


WHOLE = Filtering(outputs=((1.0,),), filters=((1.0,),), inputs=((1.0,),), step=1)
UPSAMPLED = Filtering(
    outputs=((1.0, -1.0, 0.0), (1.0, 0.0, 1.0)),
    filters=((1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    inputs=((0.0, 1.0, 0.0), (-1.0, 1.0, 0.0), (0.0, -1.0, 1.0)),
    step=1,
)


@cache
def minimal(tile: int) -> Filtering:
    """``tile`` results of three taps, exact until the end.

    A and G evaluate polynomials of ``tile`` and of 3 coefficients at the points (at infinity: the leading one), G
    with the scales of Lagrange's interpolation; B^T has the coefficients of his polynomials, and is transposed here.
    """
    points = POINTS[tile]
    others = [tuple(q for q in points if q != p) for p in points]
    scales = [*(prod(p - q for q in rest) for p, rest in zip(points, others, strict=True)), Fraction(1)]

    def evaluate(terms: int) -> list[list[Fraction]]:
        return [
            *([p**k for k in range(terms)] for p in points),
            [Fraction(k == terms - 1) for k in range(terms)],
        ]

    filters = [[value / scale for value in row] for row, scale in zip(evaluate(3), scales, strict=True)]
    inputs = [_from_roots(roots, len(points) + 1) for roots in (*others, points)]
    outputs = list(zip(*evaluate(tile), strict=True))
    return Filtering(_floats(outputs), _floats(filters), _floats(inputs), step=tile)


def _floats(rows: Sequence[Sequence[Fraction]]) -> Rows:
    return tuple(tuple(map(float, row)) for row in rows)


def _from_roots(roots: tuple[Fraction, ...], terms: int) -> list[Fraction]:
    """Coefficients, the constant first, of the polynomial with these ``roots``, padded to ``terms``."""
    coefficients = [Fraction(1)]
    for root in roots:
        raised, scaled = [Fraction(0), *coefficients], [root * c for c in coefficients] + [Fraction(0)]
        coefficients = [high - low for high, low in zip(raised, scaled, strict=True)]
    return coefficients + [Fraction(0)] * (terms - len(coefficients))


Axes = tuple[Filtering, Filtering]
"""The filtering along i and along j."""


def transform(weight: Tensor, axes: Axes) -> Tensor:
    """``G g G^T``: filters ``[o, c, k, l]`` to a matrix for every product, ``[p, o, c]``, in their dtype."""
    both = _both(axes[0].filters, axes[1].filters, weight)
    taps = weight.flatten(2).movedim(-1, 0)
    return torch.mm(both, taps.flatten(1)).view(-1, *taps.shape[1:])


def convolve(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, axes: Axes) -> Tensor:
    """The convolution of ``x [n, i, j, c]`` with zeros around it, ``[n, i', j', o]``.

    ``weights`` are the matrices of :func:`transform`, as :func:`vcut.kernels.matrices.all_arranged` gives them. The
    map is gone over in bands, so that what is held in between is about three times :data:`BAND_BYTES`.
    """
    i, j = axes
    n, height, width, channels = x.shape
    used = [p for p, (a, b) in enumerate(product(i.used(height), j.used(width))) if a and b]
    outputs, inputs = _both(i.outputs, j.outputs, x)[:, used], _both(i.inputs, j.inputs, x)[used]
    rows, columns, out_channels = i.tiles(height), j.tiles(width), weights[0].shape[-2]
    # the bias joins at a product that every result of the tile has once
    joins = int(outputs.eq(1).all(0).nonzero()[0])
    tile_bytes = len(used) * max(channels, out_channels) * x.element_size()
    out = x.new_empty(n, rows, i.results, columns, j.results, out_channels)
    for images, some_rows, some_columns in _bands((n, rows, columns), BAND_BYTES // tile_bytes):
        values = i.values(x[images], 1, some_rows.start, some_rows.stop)
        values = j.values(values, 2, some_columns.start, some_columns.stop)
        values = values.unfold(1, len(i.inputs[0]), i.step).unfold(2, len(j.inputs[0]), j.step)
        count = prod(values.shape[:3])
        values = values.permute(4, 5, 0, 1, 2, 3).reshape(inputs.shape[1], -1)
        values = torch.mm(inputs, values).view(len(used), count, channels)
        products = values.new_empty(len(used), count, out_channels)
        matrices.products(values, weights, used, products)
        if bias is not None:
            products[joins] += bias
        del values
        place = out[images, some_rows, :, some_columns].permute(2, 4, 0, 1, 3, 5)
        place.copy_(torch.mm(outputs, products.flatten(1)).view(place.shape))
    whole = out.flatten(3, 4).flatten(1, 2)
    return whole[:, : height * i.results // i.step, : width * j.results // j.step].contiguous()


def _bands(shape: tuple[int, int, int], most: int) -> Iterator[tuple[slice, slice, slice]]:
    """Images, rows and columns of tiles, as even as they come, at most ``most`` tiles in a band (at least one)."""
    _, rows, columns = shape
    lengths = most // (rows * columns), most // columns, most
    starts = [
        [slice(k, min(k + max(1, length), size)) for k in range(0, size, max(1, length))]
        for size, length in zip(shape, lengths, strict=True)
    ]
    return ((images, band, part) for band in starts[1] for part in starts[2] for images in starts[0])


def _both(along_i: Rows, along_j: Rows, like: Tensor) -> Tensor:
    """The matrix applied along i and along j, for tiles written as rows."""
    first, second = (torch.tensor(rows, dtype=torch.float64, device="cpu") for rows in (along_i, along_j))
    return torch.kron(first, second).to(like)
