"""The collector: one line in a training loop records the noise of its gradients.

Importing it loads neither torch nor gRPC. See :func:`attach`, and :class:`Recorder` for loops without torch.
"""

from gradnoise.collector._attach import attach
from gradnoise.collector._config import Limits, Probe, Sampling
from gradnoise.collector._curvature.config import Curvature, CurvatureError
from gradnoise.collector._errors import CollectorError
from gradnoise.collector._handle import Handle
from gradnoise.collector._recording.recorder import Recorder
from gradnoise.collector._recording.recording import Stats
from gradnoise.collector._recording.sink import State

__all__ = [
    "CollectorError",
    "Curvature",
    "CurvatureError",
    "Handle",
    "Limits",
    "Probe",
    "Recorder",
    "Sampling",
    "State",
    "Stats",
    "attach",
]
