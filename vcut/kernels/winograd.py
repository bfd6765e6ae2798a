"""A 3x3 convolution with fewer multiplications: minimal filtering (Winograd 1980; Lavin and Gray, arXiv 1509.09308).

A tile of ``t x t`` results needs ``(t+2)^2`` values of the input. Seen as polynomials, the filter and these values
are evaluated at ``t+2`` points along each axis and multiplied point by point; the result is read off the products:

    ``Y = A^T [ (G g G^T) * (B^T d B) ] A``

With channels, each of the ``(t+2)^2`` points is a matrix product over all tiles. A tile of 4 takes 36 products for
16 results where the plain sum takes 144, a quarter of the work, with weights four times as large; a tile of 2 takes
16 for 4 where the plain sum takes 36, with weights 16/9 as large. The transforms by A and B are small matrices.

It is the same sum in another order. In float32 it is off by some 1e-6, as a plain sum of so many terms is; in
bfloat16 rounding the transformed values would triple the error, so it is not for half precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from math import ceil, isqrt, prod

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(1), Fraction(-1), Fraction(-2), Fraction(1, 2)),
}
"""Points of each tile, besides infinity, where polynomials are evaluated. Small fractions lose the fewest digits, and
:func:`_by_point` wants 1 in the second place."""

BAND_BYTES = 16 << 20
"""Bytes of the transformed input that are held at a time."""

Rows = tuple[tuple[float, ...], ...]
"""Rows of a matrix."""

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A function like ``F.linear``: values ``[n, c]``, a matrix ``[o, c]`` and perhaps a bias ``[o]`` to ``[n, o]``."""


def matrices(tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """``A^T [t, t+2]``, ``G [t+2, 3]`` and ``B^T [t+2, t+2]`` for ``tile`` results along an axis, in float64."""
    outputs, filters, inputs = (
        torch.tensor(rows, dtype=torch.float64, device="cpu") for rows in _toom_cook(tile)
    )
    return outputs.T, filters, inputs


@cache
def _toom_cook(tile: int) -> tuple[Rows, Rows, Rows]:
    """A, G and B^T, exact until the end.

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
    return _floats(evaluate(tile)), _floats(filters), _floats(inputs)


def _floats(rows: Sequence[Sequence[Fraction]]) -> Rows:
    return tuple(tuple(map(float, row)) for row in rows)


def _from_roots(roots: tuple[Fraction, ...], terms: int) -> list[Fraction]:
    """Coefficients, the constant first, of the polynomial with these ``roots``, padded to ``terms``."""
    coefficients = [Fraction(1)]
    for root in roots:
        raised, scaled = [Fraction(0), *coefficients], [root * c for c in coefficients] + [Fraction(0)]
        coefficients = [high - low for high, low in zip(raised, scaled, strict=True)]
    return coefficients + [Fraction(0)] * (terms - len(coefficients))


def transform(weight: Tensor, tile: int) -> Tensor:
    """``G g G^T``: filters ``[o, c, 3, 3]`` to a matrix for every point, ``[(t+2)^2, o, c]``, in their dtype."""
    both = _both_axes(matrices(tile)[1], weight)
    return torch.einsum("pk,ock->poc", both, weight.flatten(2))


def convolve(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, linear: Linear = F.linear) -> Tensor:
    """The 3x3 convolution of ``x [n, i, j, c]`` with zeros around it, ``[n, i, j, o]``.

    ``weights`` are the matrices of :func:`transform`, in any form that ``linear`` takes; their number tells the tile.
    The map is gone over in bands, so that what is held in between is about three times :data:`BAND_BYTES`.
    """
    tile = isqrt(len(weights)) - 2
    outputs, _, inputs = (_both_axes(matrix, x) for matrix in matrices(tile))
    n, height, width, channels = x.shape
    out_channels = weights[0].shape[0]
    rows, columns = ceil(height / tile), ceil(width / tile)
    row_bytes = len(weights) * max(channels, out_channels) * columns * x.element_size()
    band = max(1, BAND_BYTES // row_bytes)
    images, band = max(1, band // rows), min(band, rows)
    out = x.new_empty(n, rows, tile, columns, tile, out_channels)
    for start in range(0, rows, band):
        stop = min(start + band, rows)
        top, bottom = start * tile - 1, stop * tile + 1
        zeros = (1, columns * tile + 1 - width, max(0, -top), max(0, bottom - height))
        for part, result in zip(torch.split(x, images), torch.split(out, images), strict=True):
            values = F.pad(part[:, max(0, top) : bottom], (0, 0, *zeros))
            values = values.unfold(1, tile + 2, tile).unfold(2, tile + 2, tile)
            # [n, s, t, c, p, q] to [n*s*t, p*q, c]
            values = values.movedim(3, -1).reshape(-1, len(weights), channels)
            values = torch.bmm(inputs.expand(len(values), -1, -1), values)
            products = _by_point(values, weights, bias, linear)
            del values
            products = torch.bmm(outputs.expand(len(products), -1, -1), products)
            products = products.view(len(part), stop - start, columns, tile, tile, out_channels)
            result[:, start:stop] = products.transpose(2, 3)
    whole = out.flatten(3, 4).flatten(1, 2)
    return whole[:, :height, :width].contiguous()


def _by_point(values: Tensor, weights: Sequence[Tensor], bias: Tensor | None, linear: Linear) -> Tensor:
    """``[n, p, c]`` times each point's matrix.

    The bias joins at the point (1, 1): powers of 1 are 1, so that comes out at every place of the tile.
    """
    ones = isqrt(len(weights)) + 1
    products = values.new_empty(*values.shape[:2], weights[0].shape[0])
    for p, weight in enumerate(weights):
        products[:, p] = linear(values[:, p], weight, bias if p == ones else None)
    return products


def _both_axes(matrix: Tensor, like: Tensor) -> Tensor:
    """The matrix applied along i and along j, for tiles written as rows."""
    return torch.kron(matrix, matrix).to(like)
