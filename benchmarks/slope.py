"""A straight line through measurements, and how certain its slope is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: How many standard errors a slope may differ from zero by chance.
MAX_CHANCE = 3.0
#: The part of its mean by which something may grow in all and still count as flat.
FLAT_GROWTH = 0.02


@dataclass(frozen=True, slots=True)
class Slope:
    """A slope and its standard error, in units of y for one unit of x.

    `growth` is the rise of the line over the whole range of x, as a part of the mean of y.
    """

    value: float
    error: float
    growth: float

    @property
    def is_flat(self) -> bool:
        """Whether y does not rise, or so little that it does not matter."""
        return self.value <= MAX_CHANCE * self.error or self.growth <= FLAT_GROWTH


def fit_slope(points: Sequence[tuple[float, float]]) -> Slope | None:
    """The slope of the line with the least squares of distances; None for less than three points.

    The standard error is the usual one of simple linear regression, with n - 2 degrees of freedom.
    """
    count = len(points)
    if count < 3:
        return None
    mean_x, mean_y = (math.fsum(each) / count for each in zip(*points, strict=True))
    spread = math.fsum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        return None
    value = math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    squares = math.fsum((y - mean_y - value * (x - mean_x)) ** 2 for x, y in points)
    width = max(x for x, _ in points) - min(x for x, _ in points)
    growth = value * width / mean_y if mean_y else math.inf * value if value else 0.0
    return Slope(value, math.sqrt(squares / (count - 2) / spread), growth)
