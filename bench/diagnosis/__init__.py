"""Diagnosis of posterior collapse for any VAE, from its posteriors and, if available, its likelihood.

``bench.diagnose`` is ``diagnose`` of this package. It needs neither the trainer nor a run of the benchmark.
"""

from bench.diagnosis.api import diagnose as diagnose
from bench.diagnosis.diagnosis import Diagnosis as Diagnosis

__all__ = ["Diagnosis", "diagnose"]
