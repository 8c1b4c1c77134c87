"""The examples of the studies."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch

__all__ = ["FASHION", "Data", "digits", "disc", "fashion"]

Data = tuple[torch.Tensor, torch.Tensor]

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""


def disc(n: int = 1000) -> Data:
    """x uniform in (−2, 2)², y = 1 inside the disc that holds half of the square."""
    rng = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(n, 2, generator=rng, dtype=torch.float64) - 2
    return x, (x.square().sum(1) < 8 / np.pi).double()


def digits() -> Data:
    """The 1797 handwritten digits of 8 × 8 pixels in scikit-learn's wheel, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data / 16.0, dtype=torch.float32), torch.tensor(found.target)


def fashion(n: int = 2000) -> Data:
    """The first of the test images of Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), pixels in [0, 1].

    Raises:
        SystemExit: they are not installed.
    """
    if not FASHION.is_dir():
        raise SystemExit(f"{FASHION} is not there; apt-get install dataset-fashion-mnist")

    def read(name: str, header: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, offset=header)

    images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 784)[:n]
    labels = read("t10k-labels-idx1-ubyte.gz", 8)[:n]
    return torch.tensor(images / np.float32(255.0)), torch.tensor(labels.astype(np.int64))
