"""The size of a batch, whatever it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradnoise.collector._batch import batch_size_of


class _Raises:
    @property
    def shape(self) -> tuple[int, ...]:
        raise RuntimeError("no shape today")


_loop: list[Any] = [torch.zeros(4, 2)]
_loop.append(_loop)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(5, 2), 5),
        ([torch.zeros(5, 2), torch.zeros(5)], 5),
        ({"x": torch.zeros(5, 2), "more": ({"y": torch.zeros(5)}, "text", None, 3)}, 5),
        ([torch.zeros(5, 2), torch.zeros(4)], None),
        ([torch.tensor(1.0)], None),
        ("text", None),
        (None, None),
        (_Raises(), None),
        (_loop, 4),
    ],
)
def test_a_batch_has_a_size_where_its_tensors_agree(batch: object, size: int | None) -> None:
    assert batch_size_of(batch) == size
