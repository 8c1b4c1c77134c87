"""The noise scales of an ordinary window: from its draws, group by group and of the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.analyzer.stats import contrasts, noise_scale

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradnoise.analyzer.stats.alignment import Metric
    from gradnoise.analyzer.windows import GroupDraws, Window

__all__ = ["noise_scales"]


def noise_scales(window: Window) -> Iterator[tuple[str, int, int, Metric]]:
    """Yield group (``*``: the whole model), its parameters, its draws, and a number, of every group in turn.

    Where the window holds a full gradient that says of how many examples it is, and how minibatches are drawn from
    them, their finite number is accounted for.

    Raises:
        gradnoise.analyzer.stats.StatsError: the window contradicts itself.
    """
    groups = [
        noise_scale.Gradients(group.name, group.size, group.values, group.theta, group.draw, group.batch_size)
        for group in window.groups
    ]
    examples, replacement = _population(window)
    sizes = {group.name: (group.size, len(group.draw)) for group in window.groups}
    sizes[noise_scale.WHOLE] = (
        sum(size for size, _ in sizes.values()),
        max((draws for _, draws in sizes.values()), default=0),
    )
    for scale in noise_scale.noise_scale(groups, examples=examples, replacement=replacement):
        for metric in scale.metrics:
            yield scale.group, *sizes[scale.group], metric


def _population(window: Window) -> tuple[int | None, contrasts.Replacement | None]:
    """Return the number of examples behind the draws and how they are drawn from them; None, None if not known."""
    references = (window.reference or {}).values()
    full = next((each for each in references if each.kind == "full"), None)
    if full is None or full.dataset_size is None or full.replacement is None:
        return None, None
    drawn = max((_examples(group) for group in window.groups), default=0)
    largest = max(
        (int(group.batch_size.max()) for group in window.groups if group.batch_size is not None and len(group.draw)),
        default=0,
    )
    if full.replacement:
        return full.dataset_size, contrasts.Replacement.WITH
    if largest >= full.dataset_size:
        return None, None  # a minibatch of all the data has no noise
    # Of one pass no two minibatches share an example; of many passes nearly all pairs are of different ones.
    one_pass = drawn <= full.dataset_size
    return full.dataset_size, contrasts.Replacement.EPOCH if one_pass else contrasts.Replacement.WITHOUT


def _examples(group: GroupDraws) -> int:
    return 0 if group.batch_size is None else int(group.batch_size.sum(dtype="int64"))
