"""Formulas of the scores: pure functions of the :class:`Contrast` of a site, float64 [L, F], NaN where undefined."""

from __future__ import annotations

import numpy as np
import scipy  # loads its submodules on first use

from affectron.contrasts import Array, Contrast


def entropy(c: Contrast) -> Array:
    rate = np.where(c.target.count > 0, c.target.rate, 0.0)
    total = rate.sum(axis=0, keepdims=True)
    return np.where(total > 0, scipy.special.entr(rate / total).sum(axis=0, keepdims=True), np.nan)


def raw_entropy(c: Contrast) -> Array:
    rate = np.where(c.target.count > 0, c.target.rate, 0.0)
    alive = rate.any(axis=0, keepdims=True)
    return np.where(alive, scipy.special.entr(rate).sum(axis=0, keepdims=True), np.nan)


def frequency(c: Contrast) -> Array:
    return c.target.rate


#: Least denominator of ``differential``, in root mean squares of the neuron's activation.
LEAST_MEAN = 0.1


def differential(c: Contrast) -> Array:
    root_mean_square = np.sqrt(c.total.m2 / c.total.observed + c.total.mean**2)
    whole = np.maximum(np.abs(c.total.mean), LEAST_MEAN * root_mean_square)
    return np.abs(c.target.mean - c.rest.mean) / np.where(whole > 0, whole, np.nan)


def mean_difference(c: Contrast) -> Array:
    return c.target.mean - c.rest.mean


def cohens_d(c: Contrast) -> Array:
    pooled = (c.target.m2 + c.rest.m2) / (c.target.observed + c.rest.observed - 2)
    return mean_difference(c) / np.sqrt(np.where(pooled > 0, pooled, np.nan))


def hedges_g(c: Contrast) -> Array:
    freedom = c.target.observed + c.rest.observed - 2
    return cohens_d(c) * (1 - 3 / (4 * freedom - 1))


def squared_errors(c: Contrast) -> tuple[Array, Array]:
    """Squared standard errors s²/n of target and rest; NaN where a side has fewer than two observed tokens."""
    sides = []
    for side in (c.target, c.rest):
        n = np.where(side.observed > 1, side.observed, np.nan)
        sides.append(side.m2 / (n - 1) / n)
    return sides[0], sides[1]


def welch_error(c: Contrast) -> Array:
    target, rest = squared_errors(c)
    error: Array = np.sqrt(target + rest)
    return error


def welch_t(c: Contrast) -> Array:
    error = welch_error(c)
    return mean_difference(c) / np.where(error > 0, error, np.nan)


def welch_p(c: Contrast) -> Array:
    target, rest = squared_errors(c)
    # Welch-Satterthwaite in shares of the squared error, so that the square of a tiny variance cannot underflow.
    share = target / (target + rest)
    freedom = 1 / (share**2 / (c.target.observed - 1) + (1 - share) ** 2 / (c.rest.observed - 1))
    return 2 * scipy.special.stdtr(freedom, -np.abs(welch_t(c)))


def permutation_p(c: Contrast) -> Array:
    """Upper bound of the two-sided p value of the permutations of label and rest over the n observations.

    The n values are fixed, and the label's n_t are a random sample of them without replacement. d is a value less the
    mean of all, S the sum of d over the sample, Q the sum of d² over all n, f = n_t/n, and π the probability that a
    binomial variable K of n trials with probability f is n_t. For any λ:

    - Let g(k) = ln E exp(λS) for samples of k values. exp(g(k)) is the mean of the elementary symmetric polynomial
      e_k of exp(λd), so g is concave (Newton's inequalities), and g(0) = g(n) = 0. Hence g(K) >= min(K/n_t,
      (n - K)/n_r) g(n_t). The mean of this minimum is 1 - π (de Moivre 1730), so (1 - π) g(n_t) <= E g(K) <=
      ln E exp(g(K)) (Jensen).
    - E exp(g(K)) is that of a sample which each value enters by itself, with probability f. Its logarithm is at most
      λ²κQ/2, κ = (1 - 2f) / (2 ln((1 - f)/f)), and 1/4 at f = 1/2 (Kearns and Saul 1998).

    So P(S >= s) <= exp(-(1 - π) s² / (2κQ)) (Chernoff), and P(S <= -s) too.
    """
    n_t, n_r = c.target.observed, c.rest.observed
    n = n_t + n_r
    difference = mean_difference(c)
    s = n_t * n_r / n * difference
    q = c.target.m2 + c.rest.m2 + s * difference
    lean = (n_r - n_t) / n  # 1 - 2f, and ln((1 - f)/f) is 2 artanh(1 - 2f)
    kappa = np.where(lean == 0, 0.25, lean / (4 * np.arctanh(lean)))
    pi = scipy.stats.binom.pmf(n_t, n, n_t / n)
    # s²/q as the square of a quotient, so that the squares of tiny activations cannot underflow.
    return _two_sided(np.exp(-(1 - pi) / (2 * kappa) * (s / np.sqrt(q)) ** 2))


def frequency_difference(c: Contrast) -> Array:
    return c.target.rate - c.rest.rate


def log_odds(c: Contrast) -> Array:
    sides = []
    for side in (c.target, c.rest):
        count = np.where(side.count > 0, side.count, np.nan)
        sides.append(np.log((side.active + 0.5) / (count - side.active + 0.5)))
    return sides[0] - sides[1]


def mutual_information(c: Contrast) -> Array:
    count = c.target.count + c.rest.count
    on = (c.target.active + c.rest.active) / count
    off = (c.target.count - c.target.active + c.rest.count - c.rest.active) / count
    information = np.zeros_like(on)
    for side in (c.target, c.rest):
        share = np.where(side.count > 0, side.count, np.nan) / count
        information += scipy.special.rel_entr(side.active / count, share * on)
        information += scipy.special.rel_entr((side.count - side.active) / count, share * off)
    # Mutual information is never negative, but rounding can leave -1e-17 where the counts are independent.
    return np.maximum(information, 0.0)


def target_mean(c: Contrast) -> Array:
    return c.target.mean


def paired_d(c: Contrast) -> Array:
    variance = c.target.m2 / (c.target.observed - 1)
    return c.target.mean / np.sqrt(np.where(variance > 0, variance, np.nan))


def paired_t(c: Contrast) -> Array:
    return paired_d(c) * np.sqrt(c.target.observed)


def paired_p(c: Contrast) -> Array:
    """Upper bound of the two-sided p value of the signs of the n differences D: P(η >= z) / P(η >= √2) / 2, η normal
    and z = |ΣD| / sqrt(ΣD²). A one-sided p is at most half of it (Bentkus and Dzindzalieta 2015)."""
    n, mean = c.target.observed, c.target.mean
    z = np.sqrt(n) * np.abs(mean) / np.sqrt(c.target.m2 / n + mean**2)
    return _two_sided(scipy.special.ndtr(-z) / (4 * scipy.special.ndtr(-np.sqrt(2))))


def _two_sided(tail: Array) -> Array:
    p: Array = np.minimum(1.0, 2 * tail)
    return p
