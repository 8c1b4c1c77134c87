"""``make calibration``: every simulation in this folder, or those named on the command line."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path


def main(names: list[str]) -> None:
    known = sorted(path.stem for path in Path(__file__).parent.glob("cal_*.py"))
    for name in names or known:
        if name not in known:
            raise SystemExit(f"no calibration {name!r}; there are: {', '.join(known)}")
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}"
    )
    missed = []
    for name in names or known:
        print(f"\n## {name}", flush=True)
        start = time.perf_counter()
        try:
            importlib.import_module(f"tests.calibration.{name}").main()
        except AssertionError as error:
            missed.append(name)
            print(f"\n**missed**: {error}")
        print(f"\n({time.perf_counter() - start:.0f} s)", flush=True)
    if missed:
        raise SystemExit(f"promised bands missed in: {', '.join(missed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
