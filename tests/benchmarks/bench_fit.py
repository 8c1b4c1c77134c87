"""Maximum likelihood of the stable law: time and error beside other fits, memory, the sketch, and cold starts.

Times are processor time of one thread, the best of several repeats, so that they mean the same on a busy machine;
where two threads work it is said, and the time is that of the clock. ``python -m tests.benchmarks.bench_fit --scipy``
adds scipy's own fit of one sample.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats import sketch, stable
from gradnoise.analyzer.stats._likelihood import EVALUATED, Groups, space
from gradnoise.analyzer.stats._newton import climb

if TYPE_CHECKING:
    from collections.abc import Callable

# sd · √n of an efficient estimator of α with σ unknown, from the Fisher information.
CRAMER_RAO = {1.3: 1.418, 1.7: 1.502, 1.9: 1.127}
COLUMNS, DRAWS = 100_000, 512
MANY = 100_000_000


def best(work: Callable[[], Any], repeats: int = 5) -> float:
    """Least processor time of this thread, in seconds."""
    found = math.inf
    for _ in range(repeats):
        start = time.thread_time()
        work()
        found = min(found, time.thread_time() - start)
    return found


def likelihood(rng: np.random.Generator) -> None:
    n = 100_000
    groups = Groups(stable.rvs(1.7, 1.0, (1, n), rng), np.ones((1, n)), np.zeros((1, n)), np.zeros((1, n)))
    theta, memory, out = np.array([[1.7, 0.0, 0.0]]), space(), np.empty((1, EVALUATED))
    counts, weight, evaluations = np.array([n]), np.array([float(n)]), np.empty(1, dtype=np.int64)

    def work() -> None:
        climb(groups, counts, weight, False, 1e-7, 1, memory, theta, out, evaluations)

    work()
    print(f"log-likelihood, score and Hessian: {1e6 * best(work) / n:.3f} µs a point")


def single_fits(rng: np.random.Generator, with_scipy: bool) -> None:
    from levy.fitting import fit_levy

    print("\n| α, n = 1000 | ours, ms a column | with interval | levy-stable 2.0 | ratio |\n|---|---|---|---|---|")
    for alpha in (1.3, 1.7, 1.9, 2.0):
        u = stable.rvs(alpha, 1.0, (1000, 400), rng)
        plain = best(partial(stable.fit_columns, u, intervals=False, threads=1)) / 400
        interval = best(partial(stable.fit_columns, u, threads=1)) / 400
        peer = best(partial(fit_levy, u[:, 0], beta=0.0, mu=0.0), 2)
        print(f"| {alpha} | {1e3 * plain:.3f} | {1e3 * interval:.3f} | {1e3 * peer:.0f} | {peer / plain:.0f} |")
    if with_scipy:
        from scipy import stats

        x = stable.rvs(1.7, 1.0, 1000, rng)
        seconds = best(lambda: stats.levy_stable.fit(x, f0=0.0, floc=0.0), 1)
        print(f"\nscipy.stats.levy_stable.fit, one sample of 1000: {seconds:.0f} s")


def errors(rng: np.random.Generator) -> None:
    print("\n| α, n = 1000 | RMSE of α̂ / Cramér–Rao bound, 2000 samples |\n|---|---|")
    for alpha, bound in CRAMER_RAO.items():
        fits = stable.fit_columns(stable.rvs(alpha, 1.0, (1000, 2000), rng), intervals=False, threads=1)
        ratio = math.sqrt(1000 * np.mean((fits.alpha.value - alpha) ** 2)) / bound
        print(f"| {alpha} | {ratio:.3f} ± {ratio / math.sqrt(4000):.3f} |")


def columns_job(dtype: str) -> None:
    """In a process of its own: time and peak memory of a wide matrix."""
    import resource

    rng = np.random.default_rng(0)
    stable.fit_columns(rng.standard_normal((DRAWS, 600)), threads=2)  # compiled, both threads
    u = np.empty((DRAWS, COLUMNS), dtype=dtype)
    for row in u:
        row[:] = stable.rvs(1.7, 1.0, COLUMNS, rng)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, cpu = time.perf_counter(), time.process_time()
    stable.fit_columns(u, threads=2)
    report = {
        "clock": time.perf_counter() - clock,
        "cpu": time.process_time() - cpu,
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / u.nbytes,
    }
    print(json.dumps(report))


def sketch_job() -> None:
    """In a process of its own: a long vector through the sketch."""
    import resource

    rng = np.random.default_rng(0)
    x = np.empty(MANY, dtype=np.float32)
    for low in range(0, MANY, 1_000_000):
        x[low : low + 1_000_000] = stable.rvs(1.7, 1.0, 1_000_000, rng)
    sketch.finalize(sketch.update(sketch.zero(), x[:100_000]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = best(lambda: sketch.finalize(sketch.update(sketch.zero(), x)), 3)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    plain = best(lambda: np.abs(x).sum(), 3)
    exact = best(lambda: stable.fit(x), 1)
    difference = sketch.finalize(sketch.update(sketch.zero(), x)).alpha.value - stable.fit(x).alpha.value
    print(json.dumps({"ours": ours, "plain": plain, "exact": exact, "extra": extra, "difference": difference}))


def job(code: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def wide_matrices() -> None:
    print(f"\n| {COLUMNS} columns × {DRAWS} draws, intervals, 2 threads | s | processor s | extra memory / matrix |")
    print("|---|---|---|---|")
    for dtype in ("float32", "float64"):
        got = job(f"from tests.benchmarks.bench_fit import columns_job; columns_job({dtype!r})")
        print(f"| {dtype} | {got['clock']:.1f} | {got['cpu']:.1f} | {got['memory']:.2f} |")


def long_vectors() -> None:
    got = job("from tests.benchmarks.bench_fit import sketch_job; sketch_job()")
    print(
        f"\n{MANY:.0e} float32 values: sketch and fit {got['ours']:.3f} s, np.abs(x).sum() {got['plain']:.3f} s, ratio"
        f" {got['ours'] / got['plain']:.2f}; extra memory {got['extra']:.0f} MB; fit of the values themselves"
        f" {got['exact']:.2f} s, α̂ less by {got['difference']:.1e}"
    )


def sketch_error(rng: np.random.Generator) -> None:
    print("\n| α, 1e6 values | α̂ of the sketch less α̂ of the values | standard error |\n|---|---|---|")
    for alpha in (1.2, 1.7, 1.95, 2.0):
        x = stable.rvs(alpha, 1.0, 1_000_000, rng).astype(np.float32)
        exact, got = stable.fit(x), sketch.finalize(sketch.update(sketch.zero(), x))
        print(f"| {alpha} | {got.alpha.value - exact.alpha.value:.1e} | {exact.alpha.se:.1e} |")


STARTS = """
import json, time
start = time.perf_counter()
import gradnoise.analyzer.stats
imported = time.perf_counter() - start
import numpy as np
from gradnoise.analyzer.stats import stable
x = np.random.default_rng(0).standard_cauchy(1000)
start, cpu = time.perf_counter(), time.process_time()
stable.fit(x)
print(json.dumps([imported, time.perf_counter() - start, time.process_time() - cpu]))
"""


def starts() -> None:
    with tempfile.TemporaryDirectory() as cache:
        cold = job(STARTS, NUMBA_CACHE_DIR=cache)
        warm = min(job(STARTS, NUMBA_CACHE_DIR=cache) for _ in range(3))
    print(
        f"\nimport {warm[0]:.2f} s; first fit of a process {warm[1]:.2f} s from the cache, {cold[1]:.1f} s without one"
        f" ({cold[2]:.1f} s of the processor)"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scipy", action="store_true", help="run scipy's fit too, about a minute")
    with_scipy = parser.parse_known_args()[0].scipy
    rng = np.random.default_rng(0)
    likelihood(rng)
    single_fits(rng, with_scipy)
    errors(rng)
    wide_matrices()
    long_vectors()
    sketch_error(rng)
    starts()


if __name__ == "__main__":
    main()
