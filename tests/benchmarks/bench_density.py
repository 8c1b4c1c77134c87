"""The stable log-density beside its peers: time a point, and the largest relative error of the density.

Time: processor time of one thread for standard SαS draws at one α, the best of several repeats; peers that take
milliseconds a point get few points. Error: against the reference file and against Zolotarev's integral in 30 digits at
points spread evenly in ln x over 1e-3 ... 1e6, α up to 1.9999; "far" are those beyond x = 30. An answer that is not a
number, 0 or below counts as an error of 1.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import levy_stable

from gradnoise.analyzer.stats import stable, stable_torch
from tests.analyzer.stats import zolotarev

Floats = np.ndarray[Any, np.dtype[np.float64]]
ALPHAS = (0.7, 1.2, 1.5, 1.9, 1.99)
"""Where time is measured."""
EXTRA = (0.6, 0.95, 1.1, 1.7, 1.9999)
"""Where errors are measured beside the reference file's α."""


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    logpdf: Callable[[Floats, float], Any]
    points: int
    """To time it on."""
    checked: int = 10_000
    """Most reference points to check it on, at each α."""


def contenders() -> list[Contender]:
    def with_gradient(x: Floats, alpha: float) -> Any:
        a = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
        s = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        value = stable_torch.logpdf(torch.from_numpy(x), a, s)
        value.sum().backward()
        return value.detach().numpy()

    found = [
        Contender("logpdf", stable.logpdf, 1_000_000),
        Contender("logpdf, float32", lambda x, a: stable.logpdf(x.astype(np.float32), a), 1_000_000),
        Contender("logpdf and score", lambda x, a: stable.score(x, a).logpdf, 1_000_000),
        Contender("torch, float64", lambda x, a: stable_torch.logpdf(torch.from_numpy(x), a).numpy(), 200_000),
        Contender("torch, float32", lambda x, a: stable_torch.logpdf(torch.from_numpy(x).float(), a).numpy(), 200_000),
        Contender("torch and its gradient", with_gradient, 200_000),
        Contender("scipy levy_stable", lambda x, a: levy_stable.logpdf(x, a, 0.0), 20, 12),
    ]
    try:
        from levy import neglog_levy
    except ImportError:
        print("levy-stable 2.0 is not installed: pip install levy-stable==2.0.0")
    else:
        found.append(Contender("levy-stable 2.0", lambda x, a: -neglog_levy(x, a, 0.0, 0.0, 1.0), 100_000))
    return found


def reference() -> Floats:
    """Rows (α, x, ln f)."""
    rng = np.random.default_rng(0)
    more = []
    for alpha in EXTRA:
        more += [(alpha, x, np.log(zolotarev.density(x, alpha))) for x in 10 ** rng.uniform(-3, 6, 40)]
    return np.concatenate([zolotarev.reference(), more])


def nanoseconds(contender: Contender, alpha: float) -> float:
    x = stable.rvs(alpha, 1.0, contender.points, np.random.default_rng(1))
    contender.logpdf(x[:10], alpha)
    best = np.inf
    for _ in range(9 if contender.points > 100 else 1):
        start = time.thread_time()
        contender.logpdf(x, alpha)
        best = min(best, time.thread_time() - start)
    return 1e9 * best / len(x)


def errors(contender: Contender, rows: Floats) -> tuple[float, float]:
    """Largest relative error of the density, near and far."""
    worst = [0.0, 0.0]
    for alpha in np.unique(rows[:, 0]):
        x, expected = rows[rows[:, 0] == alpha, 1:].T
        some = np.unique(np.linspace(0, len(x) - 1, contender.checked).astype(int))
        got = np.asarray(contender.logpdf(x[some], float(alpha)), dtype=np.float64)
        error = np.abs(np.expm1(got - expected[some]))
        error[~np.isfinite(got)] = 1.0
        for k, part in enumerate((x[some] <= 30, x[some] > 30)):
            worst[k] = max(worst[k], float(error[part].max(initial=0.0)))
    return worst[0], worst[1]


def main() -> None:
    torch.set_num_threads(1)
    rows = reference()
    print(f"errors at {len(rows)} points, α from {rows[:, 0].min():g} to {rows[:, 0].max():g}, |x| up to 1e6\n")
    print("| density | " + " | ".join(f"ns a point, α = {a:g}" for a in ALPHAS) + " | × logpdf | near | far |")
    print("|---|" + "---:|" * (len(ALPHAS) + 3))
    base = 0.0
    for contender in contenders():
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            times = [nanoseconds(contender, alpha) for alpha in ALPHAS]
            near, far = errors(contender, rows)
        base = base or float(np.mean(times))
        figures = " | ".join(f"{t:,.0f}" for t in times)
        print(
            f"| {contender.name} | {figures} | {np.mean(times) / base:,.1f} | {near:.1e} | {far:.1e} |",
            flush=True,
        )

    rng = np.random.default_rng(2)
    x, alphas, q = rng.normal(size=100_000) * 3, rng.uniform(0.5, 2, 100_000), rng.random(100_000)
    print("\n| function | ns a point, α = 1.5 | a new α every point |")
    print("|---|---:|---:|")
    functions: list[tuple[str, Callable[..., Any], Floats]] = [
        ("logpdf", stable.logpdf, x), ("score", stable.score, x), ("sf", stable.sf, x), ("ppf", stable.ppf, q)
    ]  # fmt: skip
    for name, function, first in functions:
        each = []
        for alpha in (1.5, alphas):
            function(first, alpha)
            best = np.inf
            for _ in range(9):
                start = time.thread_time()
                function(first, alpha)
                best = min(best, time.thread_time() - start)
            each.append(1e9 * best / len(first))
        print(f"| {name} | {each[0]:.0f} | {each[1]:.0f} |")


if __name__ == "__main__":
    main()
