"""Build the method, the model and the data of a cell from its configuration."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from bench.core.config import ModelConfig, build
from bench.core.errors import UserError, error_summary
from bench.core.hashing import derive_seed
from bench.core.plugins import code_digest
from bench.core.syntax import parse_call
from bench.data.dataset import Prepared
from bench.data.tensors import Data, apply_model_config, load
from bench.experiment.cell_folder import CellFolder
from bench.experiment.schema import CellConfig
from bench.method import Method
from bench.models.build import build_model
from bench.models.registry import load_likelihood_module, load_model_module
from bench.models.vae import VAE
from bench.training import checkpoint, registry
from bench.training.expressions import build_modifier
from bench.training.torch_setup import torch_settings


def build_from_config(config: CellConfig) -> tuple[Method, VAE, int]:
    """Return the method, its freshly initialised model, and the cell's seed.

    The seed depends on base seed, data set and repetition but not on the method: all methods of a comparison start from
    the same weights and see the same batches and noise.
    """
    record, data = config.method, apply_model_config(config.dataset, config.model)
    cls = registry.method(record.name)
    if record.revision != cls.revision:
        trained, current = f"{record.name} revision {record.revision}", f"revision {cls.revision}"
        raise UserError(f"trained by {trained}, this code has {current}: train it again")
    modifiers = [build_modifier(m.name, m.settings) for m in (record.schedule, record.kl_term) if m]
    settings = build(cls.Config, record.config, f"method '{cls.name}'")
    method = cls.create(settings, **{modifier.kind: modifier.value for modifier in modifiers})
    seed = derive_seed(config.base_seed, data.name, config.seed)
    with torch_settings("cpu"):
        torch.default_generator.manual_seed(derive_seed(seed, "initialisation"))  # not the generators of GPUs
        model = method.build(build_model(config.model, data, method.latent), data)
    return method, model.to(config.device), seed


def code_digests(config: CellConfig) -> dict[str, str]:
    """Return the digest of each module that defines the cell's method, KL term, chosen model or chosen likelihood."""
    names = [config.method.name, *([config.method.kl_term.name] if config.method.kl_term else [])]
    modules = [registry.method(name).__module__ for name in names]
    for setting, load_module in (("architecture", load_model_module), ("likelihood", load_likelihood_module)):
        if expression := getattr(config.model, setting, ""):
            modules.append(load_module(parse_call(expression).name).__name__)
    return {module: code_digest(module) for module in modules}


def load_trained(folder: CellFolder, config: CellConfig) -> tuple[Method, VAE, int]:
    """Return the same as ``build_from_config``, with the weights that training selected."""
    if not folder.has_weights():
        raise UserError(f"the weights of {folder.path.name} are missing (git does not keep them): train it again")
    method, model, seed = build_from_config(config)
    result = folder.result()
    best_update = result.training.best_update if result and result.training else None
    weights = checkpoint.load_best(folder.path, config.device, best_update)
    try:
        model.load_state_dict(weights["model"])
        method_state = weights["method"]
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:  # torch's
        raise UserError(
            f"{folder.path / 'best.pt'} has other weights than this code builds "
            f"(trained by protocol {config.protocol_version}): train it again"
        ) from error
    try:
        method.load_state_dict(method_state)
    except Exception as error:
        problem = f"cannot load its state from {folder.path / 'best.pt'} ({error_summary(error)})"
        raise UserError(f"method '{method.name}' {problem}: repair its load_state_dict") from error
    return method, model, seed


def load_data(config: CellConfig, path: Path) -> Data:
    """Return the prepared data set at ``path`` as tensors on the cell's device; the last one is kept in memory."""
    return _load_data(path, config.dataset.fingerprint, config.model, config.device)


@lru_cache(maxsize=1)  # consecutive cells of a worker share the data set
def _load_data(path: Path, fingerprint: str, model: ModelConfig, device: str) -> Data:
    prepared = Prepared.read(path)
    if prepared is None or prepared.info.fingerprint != fingerprint:
        raise ValueError(f"{path} is missing or has changed since the run was planned: start it again")
    with torch_settings("cpu"):  # the next cell may need other tensors than the caller's mode makes
        return load(prepared, model).to(device)
