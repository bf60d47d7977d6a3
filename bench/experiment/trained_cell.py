"""A trained cell: its model and posterior, its data, its metrics."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.core.config import ImageModelConfig, TextModelConfig, VectorModelConfig
from bench.core.errors import UserError, error_summary
from bench.core.hashing import derive_seed
from bench.data.cache import cache_dir
from bench.data.examples import Examples, as_array, image_inputs, text_inputs, vector_inputs
from bench.data.registry import data_folder, prepare_stored
from bench.data.tensors import Data, apply_model_config, load
from bench.data.text import TextData
from bench.evaluation.chunking import auto_chunk_size
from bench.evaluation.estimators.likelihood import importance_weighted_nll
from bench.evaluation.metrics import EvaluationContext, log_weights
from bench.experiment.cell_folder import CellFolder
from bench.experiment.cell_record import read
from bench.experiment.factory import load_trained
from bench.experiment.queries import folders_below
from bench.experiment.schema import CellConfig
from bench.experiment.stored_evaluation import read_columns
from bench.method import Method
from bench.models.decoding import greedy
from bench.models.distributions import Posterior
from bench.models.vae import VAE
from bench.training.torch_setup import available_device, torch_settings

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class TrainedCell:
    """A model with its selected weights, in evaluation mode, and the method whose posterior it has.

    Examples are images ``[N, S, S]`` or ``[N, 1, S, S]``, a list of sentences, or vectors ``[N, D]``, see
    ``bench.data.examples``; latent codes are ``[N, D]``. Others raise ``UserError``. Random numbers depend on ``seed``
    alone. No function changes torch's global state or depends on it; only the number of threads may change rounding.
    """

    folder: CellFolder
    config: CellConfig
    method: Method
    model: VAE
    context: EvaluationContext
    data_dir: Path | None

    @classmethod
    def read(cls, path: Path, data_dir: Path | None = None, device: str = "cpu") -> TrainedCell:
        """Load the trained cell in a folder; ``UserError`` if there is none, or its weights are missing."""
        device, data_dir = available_device(device), data_folder(data_dir)
        folder = _cell_folder(path)
        try:
            cell = read(folder)
        except ValueError as error:
            raise UserError(f"the cell in {path} cannot be read: {error}; run it again") from error
        if not cell.trained:
            reason = f"{cell.status}: {cell.reason}" if cell.reason else cell.status
            raise UserError(f"the cell in {path} is not trained ({reason}): finish it with 'python -m bench run …'")
        config = cell.config.model_copy(update={"device": device})
        with torch_settings(device):
            try:
                method, model, seed = load_trained(folder, config)
            except (UserError, OSError) as error:
                raise UserError(f"the cell in {path} cannot be loaded: {error}") from error
            info = apply_model_config(config.dataset, config.model)
            model.eval().requires_grad_(False)
            context = EvaluationContext(model, info, config.train, derive_seed(seed, "load"))
        return cls(folder, config, method, model, context, data_dir)

    @property
    def metrics(self) -> Mapping[str, float | int | bool | None]:
        """Metrics on the test set; empty without an evaluation. ``UserError`` if they cannot be read."""
        try:
            evaluation = self.folder.evaluation()
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the metrics of {self.folder.path}: {error}") from error
        return evaluation.metrics if evaluation else {}

    @property
    def examples(self) -> DataFrame:
        """One row per evaluated test example. ``UserError`` if they cannot be read."""
        try:
            return read_columns(self.folder.path)
        except (OSError, ValueError) as error:  # pyarrow's errors are among them
            raise UserError(f"cannot read the examples of {self.folder.path}: {error_summary(error)}") from error

    @cached_property
    def data(self) -> Data:
        """The data set of the cell, as its model takes it."""
        with torch_settings(self.config.device):
            prepared = prepare_stored(self.config.dataset, self.data_dir, cache_dir())
            return load(prepared, self.config.model).to(self.context.device)

    def encode(self, examples: Examples, seed: int = 0) -> Posterior:
        """Return q(z|x): ``.mean`` ``[N, D]``, ``.rsample(S)`` ``[N, S, D]``, ``.log_prob(z)``."""
        with self._evaluation(seed) as ctx:
            q = self.method.posterior(ctx, self.tensor(examples), train=False)
            q.mean  # noqa: B018 some compute it when it is first read: do that here
            return q

    def decode(self, z: Tensor | np.ndarray, seed: int = 0) -> Tensor | list[str]:
        """Decode z ``[N, D]``: text greedily, images and vectors by sampling x ~ p(x|z)."""
        with self._evaluation(seed) as ctx:
            codes = self._codes(z)
            if isinstance(self.config.model, TextModelConfig):
                return self._text.sentences(greedy(self.model.decoder, self.model.latent_to_decoder(codes)))
            return self._readable(self.model.sample(codes, ctx.generator("decode")))

    def sample(self, count: int, seed: int = 0) -> Tensor | list[str]:
        """Sample z from the prior and x ~ p(x|z)."""
        with self._evaluation(seed) as ctx:
            generator, count = ctx.generator("sample"), _whole_number("count", count, 1)
            return self._readable(self.model.sample(self.model.prior.sample(count, generator, ctx.device), generator))

    def iw_nll(self, examples: Examples, samples: int = 500, seed: int = 0) -> Tensor:
        """Return the importance-weighted estimate of -log p(x) with q as proposal: ``[N]`` in nats.

        ``UserError`` if q has no density.
        """
        with self._evaluation(seed) as ctx:
            count = _whole_number("samples", samples, 1) if self.model.latent_dim else 1
            blocks, estimates = self.tensor(examples).split(ctx.train.batch_size), []
            chunk = auto_chunk_size(self.model, blocks)
            for ctx.block, x in enumerate(blocks):
                q = self.method.posterior(ctx, x, train=False)
                if not q.has_density:
                    raise UserError(f"q of method '{self.method.name}' has no density: use metrics['nll']")
                z = q.rsample(count, ctx.generator())
                estimates.append(importance_weighted_nll(log_weights(self.model, x, q, z, chunk)))
            return torch.cat(estimates)

    def tensor(self, examples: Examples) -> Tensor:
        """Return examples as the model takes them: images ``[N, 1, H, W]``, word ids ``[N, T]``, vectors ``[N, D]``."""
        config = self.config
        with torch_settings(config.device):
            if isinstance(config.model, ImageModelConfig):
                shape = config.dataset.shape
                inputs = image_inputs(examples, config.model, shape[0] if len(shape) == 3 else 1)
            elif isinstance(config.model, VectorModelConfig):
                inputs = vector_inputs(examples, config.dataset)
            else:
                inputs = text_inputs(examples, config.model, config.dataset.vocabulary, lambda: self._text.vocabulary)
            return inputs.to(self.context.device)

    def _readable(self, x: Tensor) -> Tensor | list[str]:
        """Return x as it is given to a user: images ``[N, H, W]`` or ``[N, 3, H, W]``, sentences or vectors."""
        if isinstance(self.config.model, ImageModelConfig):
            return x.squeeze(1)
        return x if isinstance(self.config.model, VectorModelConfig) else self._text.sentences(x)

    @property
    def _text(self) -> TextData:
        assert isinstance(self.data, TextData)
        return self.data

    def _codes(self, z: Tensor | np.ndarray) -> Tensor:
        array, width = as_array(z, "z"), self.model.latent_dim
        if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != width or not len(array):
            raise UserError(f"z: {array.dtype} {array.shape}, not floats [N, {width}] with at least one row")
        with np.errstate(over="ignore"):
            codes = torch.from_numpy(array.astype(np.float32))
        if not codes.isfinite().all():
            raise UserError("z: values that are NaN or infinite in float32")
        return codes.to(self.context.device)

    @contextmanager
    def _evaluation(self, seed: int) -> Iterator[EvaluationContext]:
        """Yield a context with its own noise, and compute as in evaluation."""
        context, seed = self.context, _whole_number("seed", seed, 0)
        with torch_settings(self.config.device), torch.no_grad():
            yield EvaluationContext(self.model, context.data, context.train, derive_seed(context.seed, seed))


def _whole_number(name: str, value: int, least: int) -> int:
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UserError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return number


def _cell_folder(path: Path) -> CellFolder:
    """Return the cell in a folder; ``UserError`` with what to give instead if there is none."""
    if (path / "config.json").exists():
        return CellFolder(path)
    if path.is_file():
        raise UserError(f"{path} is a file: give the folder of a cell, such as {path.parent}")
    if below := folders_below(path):
        raise UserError(f"{path} is no cell, but has {len(below)} below it: give one of them, such as {below[0].path}")
    raise UserError(f"no cell in {path}: give a folder 'OUT/runs/…/seed-<n>-<id>'")
