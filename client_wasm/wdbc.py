"""The breast cancer data of the demo: three sites that may not pool their rows, and what they may exchange instead.

Everything here is a pure function of its arguments. ``wdbc.md`` says where the data comes from.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# The part of the benign (0) and of the malignant (1) training rows that each site sees: about 50, 30 and 20 % of all
# rows, of which 26, 44 and 56 % are malignant. Real sites differ in size and in whom they see.
SITE_SHARES: Mapping[int, tuple[float, ...]] = MappingProxyType({0: (0.59, 0.27, 0.14), 1: (0.35, 0.35, 0.30)})


class Data(NamedTuple):
    """Rows of features with their labels."""

    x: Floats
    """[rows, features]"""
    y: Integers
    """[rows], 1 = malignant, 0 = benign"""
    features: tuple[str, ...]


class Split(NamedTuple):
    """Row indices, each array ascending; together they are all rows, once."""

    train: Integers
    test: Integers


class SiteSums(NamedTuple):
    """What a site tells about its rows: enough for the mean and the deviation of all sites together, and no row."""

    n: int
    total: Floats
    """[features], the sum of x"""
    squares: Floats
    """[features], the sum of x²"""


class Moments(NamedTuple):
    """Mean and population standard deviation of each feature, [features] each, in the feature's own unit."""

    mean: Floats
    std: Floats


def load() -> Data:
    """The 569 rows: x float64[569, 30], y int64[569] (212 malignant), and the 30 feature names."""
    text = files("client_wasm").joinpath("wdbc.csv").read_text(encoding="ascii")
    header, *rows = csv.reader(text.splitlines())
    values = np.array(rows, dtype=np.float64)
    return Data(values[:, :-1].copy(), values[:, -1].astype(np.int64), tuple(header[:-1]))


def _shuffled(rows: Integers, seed: int) -> Integers:
    """The rows in a random order. Sorts by the raw output of PCG64, which numpy never changes (NEP 19)."""
    keys = np.random.PCG64(seed).random_raw(len(rows))
    return rows[np.argsort(keys, kind="stable")]


def held_out(y: Integers, *, seed: int = 0, fraction: float = 0.2) -> Split:
    """Hold out ``fraction`` of each class, rounded to whole rows, for the test.

    Raises ValueError when ``fraction`` is not in (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}, expected a number between 0 and 1")
    test = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        rows = _shuffled(np.flatnonzero(y == label), seed)
        test[rows[: round(fraction * len(rows))]] = True
    return Split(np.flatnonzero(~test), np.flatnonzero(test))


def site_rows(
    y: Integers, rows: Integers, *, seed: int = 0, shares: Mapping[int, tuple[float, ...]] = SITE_SHARES
) -> list[Integers]:
    """Deal ``rows`` (indices into ``y``) out to sites; each row goes to exactly one, each result is ascending.

    ``shares[label]`` is the part of that label's rows that each site gets, ``SITE_SHARES`` unless given. Raises
    ValueError when a label of the rows has no shares, or the shares do not add up to 1 or differ in number of sites.
    """
    sites = len(next(iter(shares.values())))
    dealt: list[list[Integers]] = [[] for _ in range(sites)]
    for label in np.unique(y[rows]):
        parts = shares.get(int(label), ())
        if len(parts) != sites or min(parts) < 0 or abs(sum(parts) - 1) > 1e-9:
            raise ValueError(f"label {label} needs shares of {sites} sites that add up to 1, got {parts}")
        own = _shuffled(rows[y[rows] == label], seed)
        cuts = np.rint(np.cumsum(parts)[:-1] * len(own)).astype(np.int64)
        for site, part in zip(dealt, np.split(own, cuts), strict=True):
            site.append(part)
    return [np.sort(np.concatenate([*site, np.empty(0, np.int64)])) for site in dealt]


def site_sums(x: Floats) -> SiteSums:
    """Count, sum and sum of squares of the rows of x[rows, features]."""
    return SiteSums(len(x), x.sum(axis=0), np.square(x).sum(axis=0))


def federated_moments(sites: Sequence[SiteSums]) -> Moments:
    """The moments of all sites' rows together, from their sums: mean = Σx / n, std² = Σx² / n - mean².

    The difference loses the digits that its two terms share (Chan, Golub and LeVeque, "Algorithms for computing the
    sample variance", The American Statistician 37, 1983). A variance that is not above that error counts as zero, and
    the deviation of such a constant feature is given as 1, so that dividing by it is harmless. Raises ValueError when
    there are no rows or the sites differ in the number of features.
    """
    n = sum(site.n for site in sites)
    if n == 0:
        raise ValueError("no rows: the moments of nothing are not defined")
    if len({site.total.shape for site in sites} | {site.squares.shape for site in sites}) != 1:
        raise ValueError("the sites differ in the number of features")
    mean = np.sum([site.total for site in sites], axis=0) / n
    square = np.sum([site.squares for site in sites], axis=0) / n
    variance = square - np.square(mean)
    noise = 4 * n * np.finfo(np.float64).eps * square  # bound on the error of a sum of n squares, and to spare
    return Moments(mean, np.sqrt(np.where(variance > noise, variance, 1.0)))


def standardise(x: Floats, moments: Moments) -> Floats:
    """(x - mean) / std, float64[rows, features]: each feature without a unit, around 0, with deviation 1."""
    return (x - moments.mean) / moments.std


def log_odds(w: Floats, b: float, x: Floats) -> Floats:
    """The log-odds z = x w + b, float64[rows], for w[features] and x[rows, features]; p(malignant) = 1 / (1 + e^-z)."""
    return x @ w + b


def accuracy(w: Floats, b: float, x: Floats, y: Integers) -> float:
    """The part of the rows whose more probable label is the true one; p = 0.5 counts as malignant."""
    return float(np.mean((log_odds(w, b, x) >= 0) == (y == 1)))


def log_loss(w: Floats, b: float, x: Floats, y: Integers) -> float:
    """Mean of -ln p(y | x) = ln(1 + e^z) - y z over the rows, in nats. Bishop, PRML (2006), eq. 4.90."""
    z = log_odds(w, b, x)
    return float(np.mean(np.logaddexp(0.0, z) - y * z))
