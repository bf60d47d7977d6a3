"""Build the method and its model of a cell from the stored configuration."""

from __future__ import annotations

import gc
import os

import torch

from bench.core import schedules
from bench.core.config import MODELS, build
from bench.core.errors import UserError
from bench.core.hashing import derive_seed
from bench.data.dataset import DataInfo
from bench.data.tensors import apply_model_config
from bench.method import Method
from bench.models import kl_terms
from bench.models.allocator import tune_malloc
from bench.models.build import build_model
from bench.models.vae import VAE
from bench.training import registry


def build_from_config(config: dict) -> tuple[Method, VAE, int]:
    """The method, its freshly initialised model and the cell's seed, from ``config.json``.

    The seed depends on base seed, data set and repetition but not on the method: all methods of a comparison begin
    with the same weights and see the same batches and noise.
    """
    about, data = config["method"], DataInfo.from_json(config["dataset"])
    sizes = build(MODELS[data.modality], config["model"], "model")
    data = apply_model_config(data, sizes)
    cls = registry.method(about["name"])
    if (made_by := about.get("revision", 1)) != cls.revision:
        name = f"{about['name']} revision"
        raise UserError(f"trained by {name} {made_by}, this code has revision {cls.revision}: train it anew")
    schedule = schedules.schedule_from_record(about["schedule"])
    kl_term = kl_terms.restored(about["kl_term"], registry.kl_terms().values()) if "kl_term" in about else None
    method = cls.create(build(cls.Config, about["config"], f"method '{cls.name}'"), schedule, kl_term)
    seed = derive_seed(config["base_seed"], data.name, config["seed"])
    torch.manual_seed(derive_seed(seed, "initialisation"))
    model = method.build(build_model(sizes, data, method.latent), data)
    return method, model.to(config["device"]), seed


def configure_torch(threads: int, device: str, gpu_share: float) -> None:
    """The same arithmetic in every process: thread count, full float32, deterministic convolutions; memory let go."""
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)  # whatever another cell's method or a notebook has set
    torch.set_float32_matmul_precision("highest")
    tune_malloc()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuDNN's LSTMs are not deterministic
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        if 0 < gpu_share < 1:
            torch.cuda.set_per_process_memory_fraction(gpu_share)
