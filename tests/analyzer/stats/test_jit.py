"""Compiled kernels survive a cache that cannot be written or read."""

import os
import subprocess
import sys
from pathlib import Path

KERNEL = """
from gradnoise.analyzer.stats._jit import kernel

@kernel
def twice(v: float) -> float:
    return 2.0 * v
"""

# Answer and cache hits of each way to find the kernel; every import of the module starts with nothing in memory.
SCRIPT = """
import importlib, os, pathlib, resource
import tiny

def run():
    module = importlib.reload(tiny)
    return module.twice(3.0), len(module.twice.stats.cache_hits)

def files(suffix):
    return list(pathlib.Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*" + suffix))

soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
print("full disk", *run(), len(files(".nb?")))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print("new", *run())
print("cached", *run())
for suffix in (".nbi", ".nbc"):
    for kept in (0, 0.5):
        for file in files(suffix):
            content = file.read_bytes()
            file.write_bytes(content[: int(kept * len(content))])
        print("damaged", *run())
        print("mended", *run())
"""


def test_a_cache_that_cannot_be_written_or_read_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(KERNEL)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    # -B: with that limit Python's own compiled files would be cut as well.
    done = subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    damaged = ["damaged 6.0 0", "mended 6.0 1"]
    assert done.stdout.splitlines() == ["full disk 6.0 0 0", "new 6.0 0", "cached 6.0 1", *(4 * damaged)]
