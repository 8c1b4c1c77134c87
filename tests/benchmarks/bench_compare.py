"""The comparison of laws at n = 1000: with and without rivals, each rival beside scipy's fit of the same law, and
goodness of fit by 199 bootstrap samples. Milliseconds of processor time, the best of several runs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import numpy as np
from scipy import stats

from gradnoise.analyzer.stats import compare, goodness, rivals, stable

N = 1000


def best_ms(work: Callable[[], object], repeats: int) -> float:
    """Least processor time of one call, after one to compile."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return 1e3 * min(taken)


def main() -> None:
    """Print both tables."""
    rng = np.random.default_rng(1)
    x = 2.0 * rng.standard_t(3, N)
    columns = rng.standard_t(3, (N, 200))
    print(f"Student t, ν = 3, n = {N}\n")
    print("| what | ms |")
    print("|---|---|")
    work: dict[str, tuple[Callable[[], object], int]] = {
        "`stable.fit`": (lambda: stable.fit(x), 200),
        "`stable_vs_gaussian(x, rivals=False)`": (lambda: compare.stable_vs_gaussian(x, rivals=False), 200),
        "`stable_vs_gaussian(x)`": (lambda: compare.stable_vs_gaussian(x), 100),
        "`stable_vs_gaussian(x, location=True)`": (lambda: compare.stable_vs_gaussian(x, location=True), 30),
    }
    for name, (call, repeats) in work.items():
        print(f"| {name} | {best_ms(call, repeats):.2f} |")
    for with_rivals in (False, True):

        def all_columns(with_rivals: bool = with_rivals) -> object:
            return compare.stable_vs_gaussian_columns(columns, rivals=with_rivals, threads=1)

        print(f"| `stable_vs_gaussian_columns(rivals={with_rivals})`, a column | {best_ms(all_columns, 3) / 200:.2f} |")
    for law in goodness.Law:

        def test(law: goodness.Law = law) -> object:
            return goodness.goodness_of_fit(x, law, rng=rng)

        print(f"| `goodness_of_fit(x, {law})`, 199 replicates | {best_ms(test, 2):.0f} |")
    print("\n| rival, location 0 | ms | scipy, ms | ratio | log-likelihood over scipy's |")
    print("|---|---|---|---|---|")
    peers: dict[Callable[..., rivals.RivalFit], stats.rv_continuous] = {
        rivals.student_t: stats.t,
        rivals.laplace: stats.laplace,
        rivals.generalised_gaussian: stats.gennorm,
    }
    for fit, peer in peers.items():
        own, other = best_ms(functools.partial(fit, x), 50), best_ms(functools.partial(peer.fit, x, floc=0), 5)
        gain = fit(x).loglik - float(peer.logpdf(x, *peer.fit(x, floc=0)).sum())
        print(f"| {fit.__name__} | {own:.3f} | {other:.2f} | {other / own:.1f} | {gain:+.1e} |")
    print(f"| gaussian_mixture | {best_ms(lambda: rivals.gaussian_mixture(x), 50):.3f} | not in scipy | | |")
    print(f"| all four | {best_ms(lambda: rivals.fit_all(x), 50):.3f} | | | |")


if __name__ == "__main__":
    main()
