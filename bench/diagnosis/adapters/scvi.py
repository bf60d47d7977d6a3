"""``scvi.model.SCVI`` of scvi-tools: ``from bench.diagnosis.adapters.scvi import diagnose``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scvi.model import SCVI
from torch import Tensor

from bench.core.errors import UserError
from bench.diagnosis import api
from bench.diagnosis.adapters import evaluation_mode
from bench.diagnosis.diagnosis import Diagnosis
from bench.evaluation.estimators.subsample import evenly_spaced

EXAMPLES = 5000  # cells, whose counts are in memory at once
BATCH = 512


def diagnose(model: SCVI, adata: AnnData | None = None, examples: int = EXAMPLES, **options: Any) -> Diagnosis:
    """Diagnose a trained model on ``examples`` cells of ``adata``, by default of those that it was trained on.

    The likelihood is the model's own, given each cell's observed library size; a model of latent library sizes is
    diagnosed without one. KL and KL weight over training are read from ``model.history``. ``options`` are those of
    ``bench.diagnose``.
    """
    if not isinstance(model, SCVI):
        raise UserError(f"a {type(model).__name__} is no scvi.model.SCVI: give its posteriors to bench.diagnose")
    module, cells = model.module, model.adata if adata is None else adata
    loader = model._make_data_loader(
        adata=model._validate_anndata(cells), indices=evenly_spaced(cells.n_obs, examples), batch_size=BATCH
    )
    with evaluation_mode(module), torch.no_grad():
        batches = [{name: value for name, value in batch.items() if value is not None} for batch in loader]
        tensors = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        outputs = [module.inference(**module._get_inference_input(batch)) for batch in batches]
        posterior = [torch.cat(parts) for parts in zip(*((o["qz"].loc, o["qz"].scale) for o in outputs), strict=True)]
        library = torch.cat([output["library"] for output in outputs])

        def log_prob(index: Tensor, z: Tensor) -> Tensor:
            rows = {name: value[index] for name, value in tensors.items()}
            inputs = module._get_generative_input(rows, {"z": z, "library": library[index]})
            return module.generative(**inputs)["px"].log_prob(rows["X"].to(z.device)).sum(-1)

        index = torch.arange(len(library), device="cpu")
        defaults: dict[str, Any] = {"history": _history(model)}
        if module.use_observed_lib_size:
            defaults["log_prob"] = log_prob
        return api.diagnose(torch.distributions.Normal(*posterior), index, **defaults | options)


def _history(model: SCVI) -> dict[str, np.ndarray] | None:
    """Return KL and KL weight by epoch; the weight is logged every few steps, and interpolated."""
    if not model.history or "kl_local_train" not in model.history:
        return None
    kl = model.history["kl_local_train"].to_numpy(dtype=float).ravel()
    if len(kl) < 2:
        return None
    if "kl_weight" not in model.history:
        return {"kl": kl}
    weights = model.history["kl_weight"].to_numpy(dtype=float).ravel()
    at = np.interp(np.linspace(0, 1, len(kl)), np.linspace(0, 1, len(weights)), weights)
    return {"kl": kl, "kl_weight": at}
