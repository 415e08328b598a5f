"""95 % percentile bootstrap intervals, as MUSE reports them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quail_lightning.run.results import Estimate, Measure, Undefined

Floats = NDArray[np.float64]

RESAMPLES = 9_999  # MUSE's number (scipy's default)
SEED = 0
CELLS = 4_000_000  # resamples × records drawn at once; bounds memory to about 100 MB


def resample_weights(sizes: Sequence[int], resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[list[Floats]]:
    """Bootstrap resamples of one or several strata, as weights.

    Each stratum is drawn with replacement and by itself. The same sizes and seed give the same resamples, so
    series over the same records are resampled together. The generator is its own: no global random state is
    read or changed.

    Worked shape: sizes (100, 80) → pieces of [weights [r, 100], weights [r, 80]], every row summing to 1, the
    r of all pieces summing to ``resamples``.

    Args:
        sizes: records in each stratum, at least 1.
        resamples: how many.
        seed: of the generator.
    """
    generator = np.random.default_rng(seed)
    piece = max(1, CELLS // sum(sizes))
    for start in range(0, resamples, piece):
        rows = min(piece, resamples - start)
        yield [_weights(generator, rows, size) for size in sizes]


def percentile_interval(replicates: ArrayLike) -> tuple[float, float]:
    """The 2.5 % and the 97.5 % percentile of a statistic's bootstrap replicates ([resamples])."""
    low, high = np.percentile(np.asarray(replicates, dtype=np.float64), [2.5, 97.5])
    return float(low), float(high)


def bootstrap_mean(scores: ArrayLike, resamples: int = RESAMPLES, seed: int = SEED) -> Measure:
    """Mean of per-record scores with its interval.

    Args:
        scores: [n], in the metric's unit.
        resamples: how many.
        seed: of the resampling's own generator.

    Returns:
        The estimate with its ``scores``; undefined where there is no record or one is not finite (a diverged
        model), which is not the same as 0.
    """
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if values.size == 0:
        return Undefined("no records")
    broken = int((~np.isfinite(values)).sum())
    if broken:
        return Undefined(f"{broken} of {values.size} records have no finite value")
    replicates = [weights @ values for (weights,) in resample_weights([values.size], resamples, seed)]
    low, high = percentile_interval(np.concatenate(replicates))
    return Estimate(float(values.mean()), values.size, low, high, tuple(values.tolist()))


def bootstrap_ratio(
    numerator: ArrayLike, denominator: ArrayLike, resamples: int = RESAMPLES, seed: int = SEED
) -> Measure:
    """Ratio of two means over the same records, resampled together.

    Whoever calls makes sure that the denominator's own interval excludes zero; the few resamples whose
    denominator is exactly 0 are left out.

    Args:
        numerator: [n].
        denominator: [n], of the same records in the same order.
        resamples: how many.
        seed: of the resampling's own generator.

    Returns:
        The estimate, without ``scores`` (a ratio of means is no mean of ratios); undefined where there is no
        record or the denominator's mean is 0.
    """
    return bootstrap_of_means([numerator, denominator], quotient, resamples, seed)


def bootstrap_of_means(
    series: Sequence[ArrayLike],
    statistic: Callable[..., Floats],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Measure:
    """A function of several means over the same records, which are resampled together.

    Args:
        series: each [n], of the same records in the same order.
        statistic: takes as many arrays of means as there are series, and gives one value for each; NaN where it
            has none. Resamples without a value are left out.
        resamples: how many.
        seed: of the resampling's own generator.

    Returns:
        The estimate, without ``scores``; undefined where there is no record or no value.
    """
    values = [np.asarray(scores, dtype=np.float64).reshape(-1) for scores in series]
    assert len({each.size for each in values}) == 1
    if values[0].size == 0:
        return Undefined("no records")
    value = float(statistic(*(np.atleast_1d(each.mean()) for each in values))[0])
    if np.isnan(value):
        return Undefined("the denominator is 0")
    found = [
        statistic(*(weights @ each for each in values))
        for (weights,) in resample_weights([values[0].size], resamples, seed)
    ]
    replicates = np.concatenate(found)
    low, high = percentile_interval(replicates[~np.isnan(replicates)])
    return Estimate(value, values[0].size, low, high)


def of_bounds(measures: Sequence[Estimate], statistic: Callable[..., Floats]) -> Measure:
    """A function of several figures that hold no records: its bounds are the extremes that theirs allow.

    Args:
        measures: the figures.
        statistic: as for ``bootstrap_of_means``, of the figures themselves.

    Returns:
        The estimate, n the least of theirs; undefined where the function has no value.
    """
    sides = [np.array([each.value, each.low, each.high]) for each in measures]
    corners = np.stack(np.meshgrid(*sides, indexing="ij")).reshape(len(sides), -1)
    values = statistic(*corners)
    values = values[~np.isnan(values)]
    if not values.size:
        return Undefined("no records")
    first = float(statistic(*(side[:1] for side in sides))[0])
    if np.isnan(first):
        return Undefined("the denominator is 0")
    return Estimate(first, min(each.n for each in measures), float(values.min()), float(values.max()))


def quotient(above: Floats, below: Floats) -> Floats:
    """above / below, as a statistic for ``bootstrap_of_means``: NaN where ``below`` is 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def _weights(generator: np.random.Generator, rows: int, size: int) -> Floats:
    drawn = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size) / size
