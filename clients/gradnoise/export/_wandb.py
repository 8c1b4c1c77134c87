"""Scalars as history of Weights & Biases runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from gradnoise.export._errors import ExportError, library

if TYPE_CHECKING:
    from types import TracebackType

    from gradnoise.export._scalars import Scalars

__all__ = ["WandB"]

_STEP = "gradnoise/step"


class WandB:
    """Writes to a project of Weights & Biases: one W&B run for each producer of a run, in a group of the run's name.

    Numbers are ``gradnoise/<form>/<group>/<kind>/<number>`` over ``gradnoise/step``, the window's last step, the
    verdict is a text beside them. Login, server and offline mode are W&B's own: ``WANDB_API_KEY``, ``WANDB_BASE_URL``,
    ``WANDB_MODE=offline`` (send it later with ``wandb sync``). A W&B run's history cannot be asked what it holds
    offline: exporting again makes new W&B runs.

    Args:
        project: W&B's project.

    Raises:
        ExportError: the package wandb is missing.
    """

    def __init__(self, project: str) -> None:
        self._wandb = library("wandb", "wandb")
        self._project = project
        self._runs: dict[tuple[str, str], Any] = {}

    def write(self, scalars: Scalars) -> int:
        """Write the numbers; return how many.

        Raises:
            ExportError: W&B refuses to begin a run.
        """
        numbers = {f"{scalars.name}/{name}": number for name, number in scalars.numbers.items()}
        if numbers:
            self._run(scalars).log({_STEP: scalars.step, **numbers, f"{scalars.name}/verdict": scalars.verdict})
        return len(numbers)

    def close(self) -> None:
        """Finish the W&B runs; idempotent."""
        runs, self._runs = self._runs, {}
        for run in runs.values():
            run.finish()

    def _run(self, scalars: Scalars) -> Any:
        key = (scalars.run, scalars.producer)
        run = self._runs.get(key)
        if run is None:
            try:
                run = self._wandb.init(
                    project=self._project,
                    name=scalars.run,
                    group=scalars.run,
                    job_type="gradnoise",
                    config={"gradnoise_run": scalars.run, "gradnoise_producer": scalars.producer},
                    reinit="create_new",  # beside others, of this export and of the caller's own
                )
            except self._wandb.Error as error:
                raise ExportError(f"Weights & Biases refuses: {error}") from error
            run.define_metric(_STEP)
            run.define_metric("gradnoise/*", step_metric=_STEP)
            self._runs[key] = run
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
