"""A Lightning callback: ``from bench.diagnosis.adapters.lightning import DiagnosisCallback``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from bench.diagnosis import api
from bench.diagnosis.diagnosis import Diagnosis


class DiagnosisCallback(Callback):
    """Diagnoses the posteriors of the validation set at every validation, with the history of training so far.

    ``diagnosis`` is the last one. Logged are ``diagnosis/mi``, ``diagnosis/kl``, ``diagnosis/au`` and
    ``diagnosis/collapsed`` (1 or 0; not logged without a verdict).

    Args:
        posterior: Function of the module and a validation batch that returns mean and log-variance ``[B, D]``.
        kl_weight: Function of the module that returns its current KL weight, or None.
        examples: At most this many examples, the first of the validation set.
        options: Those of ``bench.diagnose``.
    """

    def __init__(
        self,
        posterior: Callable[[LightningModule, Any], tuple[Tensor, Tensor]],
        kl_weight: Callable[[LightningModule], float] | None = None,
        examples: int = 1000,
        **options: Any,
    ) -> None:
        self.posterior, self.kl_weight, self.examples, self.options = posterior, kl_weight, examples, options
        self.diagnosis: Diagnosis | None = None
        self.history: dict[str, list[float]] = {name: [] for name in ("kl", "kl_weight") if name == "kl" or kl_weight}
        self._parts: list[tuple[Tensor, Tensor]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parts = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if sum(len(mean) for mean, _ in self._parts) < self.examples:
            mean, logvar = self.posterior(pl_module, batch)
            self._parts.append((mean.detach().cpu(), logvar.detach().cpu()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not self._parts:
            return
        mean, logvar = (torch.cat(tensors)[: self.examples] for tensors in zip(*self._parts, strict=True))
        self.history["kl"].append(api.diagnose((mean, logvar), prior=self.options.get("prior")).measures["kl"])
        if self.kl_weight is not None:
            self.history["kl_weight"].append(float(self.kl_weight(pl_module)))
        history = self.history if len(self.history["kl"]) > 1 else None
        self.diagnosis = api.diagnose((mean, logvar), history=history, **self.options)
        values = {name: float(self.diagnosis.measures[name]) for name in ("mi", "kl", "au")}
        if self.diagnosis.status != "undecided":
            values["collapsed"] = float(self.diagnosis.status == "collapsed")
        pl_module.log_dict({f"diagnosis/{name}": value for name, value in values.items()})
