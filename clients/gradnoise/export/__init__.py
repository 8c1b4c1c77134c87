"""Results as plain scalars in the tools that teams look at: TensorBoard, Weights & Biases, MLflow.

>>> from gradnoise.export import TensorBoard, export
>>> with TensorBoard("runs") as target:                                          # doctest: +SKIP
...     report = export(client.tail("resnet-sgd-1").to_pylist(), target)

Every target loads its library when it is made; none of them is needed otherwise.
"""

from gradnoise.export._errors import ExportError
from gradnoise.export._export import ExportReport, export
from gradnoise.export._mlflow import MLflow
from gradnoise.export._scalars import ALIGNMENT_NUMBERS, NUMBERS, Scalars, Target
from gradnoise.export._tensorboard import TensorBoard
from gradnoise.export._wandb import WandB

__all__ = [
    "ALIGNMENT_NUMBERS",
    "NUMBERS",
    "ExportError",
    "ExportReport",
    "MLflow",
    "Scalars",
    "Target",
    "TensorBoard",
    "WandB",
    "export",
]
