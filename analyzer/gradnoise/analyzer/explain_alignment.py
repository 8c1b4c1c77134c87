"""What a row of alignment says, in a few words that hang on its numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MEANINGS", "READABLE", "explain_row"]

MEANINGS = {
    "loss": "F, the mean loss over the data",
    "gamma": "exponent of the noise's variance along v_i in lambda_i",
    "scatter": "sd of ln variance about that power law",
    "gamma_plain": "the same by plain regression of the logs, as others print it",
    "gamma_robust": "the same from robust scales",
    "slope": "B c_ii / lambda_i; 1 where C = H",
    "pearson": "correlation of ln c_ii and ln lambda_i",
    "spearman": "rank correlation of c_ii and lambda_i",
    "spearman_robust": "the same from robust scales",
    "negative_share": "share of these leading eigenvalues, not of all, that are not above 0: they have no logarithm",
    "off_diagonal": "share of the squares of the noise's covariance off the diagonal in H's eigenbasis (0: same axes)",
    "anisotropy_gain": "how much more curvature the noise meets than isotropic noise would (1)",
    "anisotropy_gain_sign": "the same from directions of the draws alone",
    "projection_coefficient": "how much of the noise lies along v_1, in H's own share of it",
    "projection_coefficient_sign": "the same from directions of the draws alone",
    "subspace_overlap": "how far the leading directions of noise and H are the same (1: quite)",
    "subspace_overlap_self": "the same between two halves of the draws: how well they know their own",
    "subspace_energy": "share of the noise in H's leading directions",
    "subspace_energy_sign": "the same from directions of the draws alone",
    "matrix_cosine": "cosine between H and the noise's covariance (1: proportional)",
    "matrix_cosine_sign": "the same from directions of the draws alone",
    "tic_trace": "Tr C / Tr H",
    "tic_damped": "Tr(C (H + delta)^-1) at the chosen coordinates; index j: delta is 10^-j of the largest |lambda|",
    "mu": "alignment for the square loss: Tr(CG) / (2 F |G|^2)",
    "b_simple": "noise scale: the batch at which noise and gradient are as large, in examples",
    "b_noise": "the same weighted by the curvature",
    "b_typical": "the same by the median draw",
    "trace_h": "sum of H's eigenvalues",
    "frobenius_h": "root of the sum of their squares",
    "trace_sigma": "total variance of one minibatch's gradient",
    "trace_h_sigma": "curvature that the noise meets",
    "sigma_squared": "Tr Sigma^2",
    "effective_rank": "in how many directions the noise spreads",
    "typical_norm2": "squared norm of the median draw's noise",
    "gradient_norm2": "squared norm of the gradient",
    "eigenvalue": "lambda_i",
    "variance": "variance of the noise along v_i",
    "scale2": "the same, robustly",
    "alpha": "stable index of the noise along the eigenvectors (2: normal); below 2 the covariance does not exist",
    "sharpness": "mean rise of the loss when all these parameters change at random",
    "barrier": "height of the loss over the straight line between the ends",
    "barrier_position": "where, from 0 to 1",
    "barrier_over_ends": "height of the loss over the larger end",
    "barrier_over_ends_position": "where, from 0 to 1",
}
"""Metric -> what it is."""

READABLE = ("ok", "at_boundary")
"""The statuses of rows that may be taken as they are."""


def explain_row(row: Mapping[str, Any]) -> str:
    """Return what a row of ``ALIGNMENT_SCHEMA``, by column name, says; why there is no value where there is none."""
    if row["status"] not in READABLE:
        return f"{row['status']}: {row['reason']}"
    meaning = MEANINGS.get(row["metric"], "")
    reading = _READINGS.get(row["metric"], _against_null)(row)
    return f"{meaning}: {reading}" if meaning and reading else meaning or reading


def _against_null(row: Mapping[str, Any]) -> str:
    """Say where an interval lies to what the metric reads where there is nothing to find."""
    low, high = _end(row["low"]), _end(row["high"])
    null_low, null_high = _end(row["null_low"]), _end(row["null_high"])
    if math.isnan(low + high + null_low + null_high):
        return ""
    if low > null_high:
        return "above its null"
    return "below its null" if high < null_low else "not told apart from its null"


def _gamma(row: Mapping[str, Any]) -> str:
    low, high = _end(row["low"]), _end(row["high"])
    if math.isnan(low + high):
        return ""
    if low <= 0.0 <= high and low <= 1.0 <= high:
        return "open: neither 0 (unrelated) nor 1 (as H) is excluded"
    if low <= 1.0 <= high:
        return "1, as noise proportional to H has, is not excluded"
    if low <= 0.0 <= high:
        return "0, unrelated to H, is not excluded"
    if low > 1.0:
        return "steeper than H"
    return "flatter than H" if low > 0.0 else "the noise is less where the curvature is more"


def _slope(row: Mapping[str, Any]) -> str:
    low, high = _end(row["low"]), _end(row["high"])
    if math.isnan(low + high):
        return ""
    if low <= 1.0 <= high:
        return "1, as C = H has, is not excluded; gamma says whether it holds along each"
    return "more noise than C = H" if low > 1.0 else "less noise than C = H"


def _alpha(row: Mapping[str, Any]) -> str:
    reading = _against_null(row)
    return "heavy-tailed: read the robust rows" if reading == "below its null" else reading


def _sharpness(row: Mapping[str, Any]) -> str:
    return str(row["method"]).partition(";")[0]  # its radius, without which the number says nothing


_READINGS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "gamma": _gamma,
    "gamma_plain": _gamma,
    "gamma_robust": _gamma,
    "slope": _slope,
    "alpha": _alpha,
    "sharpness": _sharpness,
}


def _end(value: float | None) -> float:
    return math.nan if value is None else value
