"""Means of scores with their intervals, and how many clips it takes to see a difference.

Images are the sample: the clips of one image are alike, so they are averaged first. An interval is Student's,
``mean +- t_(0.975, n-1) s / sqrt(n)`` for n images whose values have the deviation s.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

LEVEL = 0.95
"""Probability that an interval holds the true mean."""

POWER = 0.8
"""Probability that a difference of the size asked for is seen, at the 5 % level on both sides."""


@dataclass(frozen=True)
class Estimate:
    """Mean of n images. ``low`` and ``high`` end its interval; None with a single image, which has no deviation."""

    mean: float
    low: float | None
    high: float | None
    images: int
    # of the images' values; None with a single image
    deviation: float | None

    @property
    def half(self) -> float | None:
        """Half the length of the interval."""
        return None if self.high is None else self.high - self.mean

    def to_dict(self) -> dict[str, Any]:
        """The mean, its interval and the number of images, as plain JSON values."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "images": self.images}


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean of one value for each image, with its interval; None of no values."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, None, 1, None)
    deviation = statistics.stdev(values)
    half = student_quantile((1 + LEVEL) / 2, n - 1) * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n, deviation)


def image_means(values: Iterable[tuple[str, float]]) -> list[float]:
    """Mean of each image, from the values of its clips."""
    by_image: dict[str, list[float]] = {}
    for image, value in values:
        by_image.setdefault(image, []).append(value)
    return [math.fsum(several) / len(several) for several in by_image.values()]


def paired_differences(
    values: Mapping[tuple[str, int], float], baseline: Mapping[tuple[str, int], float]
) -> list[tuple[str, float]]:
    """Differences of the clips that both have: image and difference, from values by image and number of the clip."""
    return [(key[0], value - baseline[key]) for key, value in values.items() if key in baseline]


def images_needed(deviation: float, difference: float) -> int:
    """Number of images in which a mean paired difference of this size is seen with probability :data:`POWER`.

    ``n = ((z_0.975 + z_0.8) s / difference)^2 + z_0.975^2 / 2``, rounded up: Guenther's (1981) approximation for the
    t-test, s the deviation of the images' differences. At least 2.
    """
    normal = NormalDist()
    z, power = normal.inv_cdf((1 + LEVEL) / 2), normal.inv_cdf(POWER)
    return max(2, math.ceil(((z + power) * deviation / difference) ** 2 + z**2 / 2)) if deviation else 2


def student_cdf(t: float, degrees: int) -> float:
    """Distribution function of Student's t: Abramowitz and Stegun 26.7.3 and 26.7.4, exact, ``degrees / 2`` terms."""
    angle = math.atan2(t, math.sqrt(degrees))
    cos, sin = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    total, term = 0.0, cos if odd else 1.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cos * cos * k / (k + 1)
    within = 2 / math.pi * (angle + sin * total) if odd else sin * total
    return 0.5 + within / 2


def student_quantile(probability: float, degrees: int) -> float:
    """The t that :func:`student_cdf` takes to ``probability``, in 0.5..1, by bisection."""
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, degrees) < probability else (low, middle)
    return high
