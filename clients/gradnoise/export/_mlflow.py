"""Scalars as metrics of MLflow runs."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from gradnoise.export._errors import ExportError, library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from gradnoise.export._scalars import Scalars

__all__ = ["MLflow"]


@dataclass(slots=True)
class _Run:
    """A run of MLflow's and what is known to be in it: metric -> its (step, number)."""

    id: str
    there: dict[str, set[tuple[int, float]]] = field(default_factory=dict)


class MLflow:
    """Writes metrics to an MLflow tracking server or store: one MLflow run for each producer of a run.

    The MLflow run has the run's name and the tags ``gradnoise.run`` and ``gradnoise.producer``, by which an export
    finds it again and adds only what is not there yet. Metrics are ``gradnoise/<form>/<group>/<kind>/<number>`` at the
    window's last step; the latest verdict is a tag.

    Args:
        uri: a tracking URI, such as ``http://host:5000``.
        experiment: MLflow's experiment, made if missing; default ``$MLFLOW_EXPERIMENT_NAME``, else ``gradnoise``.

    Raises:
        ExportError: the package mlflow is missing, or the store refuses.
    """

    def __init__(self, uri: str, experiment: str | None = None) -> None:
        library("mlflow", "mlflow")
        self._entities = library("mlflow.entities", "mlflow")
        self._errors = library("mlflow.exceptions", "mlflow")
        self._uri = uri
        self._runs: dict[tuple[str, str], _Run] = {}
        name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or "gradnoise"
        with self._refusals():
            self._client = library("mlflow.tracking", "mlflow").MlflowClient(tracking_uri=uri)
            there = self._client.get_experiment_by_name(name)
            self._experiment = there.experiment_id if there is not None else self._client.create_experiment(name)

    def write(self, scalars: Scalars) -> int:
        """Write what is not there yet; return how many numbers were written.

        Raises:
            ExportError: the store refuses.
        """
        with self._refusals():
            run = self._run(scalars)
            metrics = []
            for name, number in scalars.numbers.items():
                key = f"{scalars.name}/{name}"
                there = run.there.get(key)
                if there is None:
                    history = self._client.get_metric_history(run.id, key)
                    there = run.there[key] = {(metric.step, metric.value) for metric in history}
                if (scalars.step, number) not in there:
                    there.add((scalars.step, number))
                    metrics.append(self._entities.Metric(key, number, int(1000 * scalars.time), scalars.step))
            if metrics:
                tag = self._entities.RunTag(f"{scalars.name}/verdict", f"{scalars.verdict}, step {scalars.step}")
                self._client.log_batch(run.id, metrics=metrics, tags=[tag])
        return len(metrics)

    def close(self) -> None:
        """Mark the MLflow runs as finished; idempotent."""
        runs, self._runs = self._runs, {}
        with self._refusals():
            for run in runs.values():
                self._client.set_terminated(run.id)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except self._errors.MlflowException as error:
            raise ExportError(f"MLflow at {self._uri} refuses: {error.message}") from error

    def _run(self, scalars: Scalars) -> _Run:
        key = (scalars.run, scalars.producer)
        run = self._runs.get(key)
        if run is None:
            # Run ids and producers hold no quotes.
            query = f"tags.`gradnoise.run` = '{scalars.run}' and tags.`gradnoise.producer` = '{scalars.producer}'"
            found = self._client.search_runs([self._experiment], query, max_results=1)
            if not found:
                tags = {"gradnoise.run": scalars.run, "gradnoise.producer": scalars.producer}
                found = [self._client.create_run(self._experiment, tags=tags, run_name=scalars.run)]
            run = self._runs[key] = _Run(found[0].info.run_id)
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
