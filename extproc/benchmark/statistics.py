"""What several seeds say together: means and paired ratios, with 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from msgspec import Struct

_T_975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
"""0.975 quantile of Student's t at 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, table 1.3.6.7.2)."""
_Z_975 = 1.959964


class Mean(Struct, frozen=True):
    """The mean of a value over seeds, with its 95 % interval."""

    value: float
    low: float | None
    """None, as `high`: there is one seed, which says nothing of the others."""
    high: float | None
    n: int
    """Seeds."""

    @property
    def half_width(self) -> float | None:
        return None if self.high is None else self.high - self.value


class Ratio(Struct, frozen=True):
    """How many times one policy's value is another's, with the 95 % interval."""

    value: float
    low: float | None
    """None, as `high`: there is one seed."""
    high: float | None
    n: int
    """Pairs."""

    def at_most(self, reach: float) -> bool | None:
        """Whether it is surely at most (True) or surely above (False) `reach`; None: the interval holds both."""
        if self.low is None or self.high is None:
            return None
        return True if self.high <= reach else False if self.low > reach else None

    def at_least(self, reach: float) -> bool | None:
        """As `at_most`, the other way round."""
        if self.low is None or self.high is None:
            return None
        return True if self.low >= reach else False if self.high < reach else None


def mean(values: Sequence[float]) -> Mean:
    """Raises ValueError where there are no values."""
    if not values:
        raise ValueError("no values to take the mean of")
    center = fmean(values)
    if len(values) == 1:
        return Mean(center, None, None, 1)
    margin = t_975(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Mean(center, center - margin, center + margin, len(values))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ratio of two policies' values over the same seeds, in the same order: the geometric mean of the seeds' ratios,
    with Student's t on their logarithms.

    A seed makes a run harder or easier for all policies alike; within a pair that cancels.  Logarithms, because such
    effects multiply, so that a seed with high latencies does not outweigh the others as it does in a ratio of means;
    because the inverse ratio has the inverse interval; and because, unlike Fieller's, the interval always exists and
    is positive.  No bootstrap: ten pairs are too few for one, which would come out too narrow.
    Raises ValueError where there are no pairs, the lengths differ, or a value is not positive.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"cannot pair {len(ours)} values with {len(theirs)}")
    if min(*ours, *theirs) <= 0:
        raise ValueError("a ratio needs values above 0")
    logs = mean([math.log(a / b) for a, b in zip(ours, theirs, strict=True)])
    if logs.low is None or logs.high is None:
        return Ratio(math.exp(logs.value), None, None, 1)
    return Ratio(math.exp(logs.value), math.exp(logs.low), math.exp(logs.high), logs.n)


def ratio_of_means(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """Ratio of two means over the same seeds, in the same order, of values that may be 0 or below, such as gains; with
    Student's t on the residuals, as for the ratio estimator of sampling theory.

    None where the mean of *theirs* is not surely above 0: there is nothing to have a share of.
    Raises ValueError where there are no pairs or the lengths differ.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"cannot pair {len(ours)} values with {len(theirs)}")
    below = mean(theirs)
    if (below.value if below.low is None else below.low) <= 0:
        return None
    value = fmean(ours) / below.value
    residuals = mean([a - value * b for a, b in zip(ours, theirs, strict=True)])
    if residuals.half_width is None:
        return Ratio(value, None, None, 1)
    margin = residuals.half_width / below.value
    return Ratio(value, value - margin, value + margin, len(ours))


def t_975(freedom: int) -> float:
    """0.975 quantile of Student's t, to four digits.  Beyond the table by its expansion at infinity (Abramowitz and
    Stegun, 26.7.5).  Raises ValueError below one degree of freedom."""
    if freedom < 1:
        raise ValueError("Student's t needs at least one degree of freedom")
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    z = _Z_975
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + first + second + third
