"""A trained cell: its model and posterior, its data, its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.core.errors import UserError, error_summary
from bench.core.hashing import derive_seed
from bench.data.cache import cache_dir
from bench.data.dataset import END, PAD, START, UNKNOWN
from bench.data.registry import prepare_stored
from bench.data.tensors import Data, apply_model_config, load
from bench.data.text import TextData
from bench.evaluation.chunking import auto_chunk_size
from bench.evaluation.estimators.likelihood import importance_weighted_nll
from bench.evaluation.metrics import EvaluationContext, log_weights
from bench.experiment.cell_folder import CellFolder
from bench.experiment.cell_record import read
from bench.experiment.factory import load_trained
from bench.experiment.schema import CellConfig
from bench.experiment.stored_evaluation import read_columns
from bench.method import Method
from bench.models.decoding import greedy
from bench.models.distributions import Posterior
from bench.models.vae import VAE
from bench.training.torch_setup import configure_torch

if TYPE_CHECKING:
    from pandas import DataFrame

Examples: TypeAlias = "Tensor | np.ndarray | Sequence[str]"


@dataclass(frozen=True)
class TrainedCell:
    """A model with its selected weights, in evaluation mode, and the method whose posterior it has.

    Images are ``[N, H, W]`` with values 0 and 1, sentences are strings of words separated by spaces, latent codes are
    ``[N, D]``. Functions that draw random numbers take a ``seed``.
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
        folder = CellFolder(path)
        try:
            cell = read(folder)
        except ValueError as error:
            raise UserError(f"no cell in {path} ({error}): give a folder 'OUT/runs/…/seed-<n>-<id>'") from error
        if not cell.trained:
            raise UserError(f"the cell in {path} is not trained completely")
        configure_torch(torch.get_num_threads(), device, gpu_share=0.0)
        config = cell.config.model_copy(update={"device": device})
        method, model, seed = load_trained(folder, config)
        info = apply_model_config(config.dataset, config.model)
        context = EvaluationContext(model, info, config.train, derive_seed(seed, "load"))
        return cls(folder, config, method, model.eval(), context, data_dir)

    @property
    def metrics(self) -> Mapping[str, float | int | bool | None]:
        """Metrics on the test set; empty without an evaluation."""
        evaluation = self.folder.evaluation()
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
        prepared = prepare_stored(self.config.dataset, self.data_dir, cache_dir())
        return load(prepared, self.config.model).to(self.context.device)

    @torch.no_grad()
    def encode(self, examples: Examples, seed: int = 0) -> Posterior:
        """Return q(z|x): ``.mean`` ``[N, D]``, ``.rsample(S)`` ``[N, S, D]``, ``.log_prob(z)``."""
        return self.method.posterior(self._seeded(seed), self.tensor(examples), train=False)

    @torch.no_grad()
    def decode(self, z: Tensor | np.ndarray, seed: int = 0) -> Tensor | list[str]:
        """Decode z ``[N, D]``: text greedily, images by sampling x ~ p(x|z)."""
        z = torch.as_tensor(z, dtype=torch.float32, device=self.context.device)
        if isinstance(self.data, TextData):
            return self.data.sentences(greedy(self.model.decoder, self.model.latent_to_decoder(z)))
        return self.model.sample(z, self._seeded(seed).generator("decode")).squeeze(1)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor | list[str]:
        """Sample z from the prior and x ~ p(x|z)."""
        generator = self._seeded(seed).generator("sample")
        x = self.model.sample(self.model.prior.sample(count, generator, self.context.device), generator)
        return self.data.sentences(x) if isinstance(self.data, TextData) else x.squeeze(1)

    @torch.no_grad()
    def nll(self, examples: Examples, samples: int = 500, seed: int = 0) -> Tensor:
        """Return the importance-weighted estimate of -log p(x) with q as proposal: ``[N]`` in nats."""
        ctx, estimates = self._seeded(seed), []
        blocks = self.tensor(examples).split(self.context.train.batch_size)
        chunk = auto_chunk_size(self.model, blocks)
        for ctx.block, x in enumerate(blocks):
            q = self.method.posterior(ctx, x, train=False)
            z = q.rsample(samples if self.model.latent_dim else 1, ctx.generator())
            estimates.append(importance_weighted_nll(log_weights(self.model, x, q, z, chunk)))
        return torch.cat(estimates)

    def tensor(self, examples: Examples) -> Tensor:
        """Return examples as the model takes them: images ``[N, 1, H, W]``, sentences as word ids ``[N, T]``."""
        if isinstance(examples, str) or not len(examples):
            raise UserError("give a list of examples, at least one")
        if isinstance(examples, (Tensor, np.ndarray)):
            x = torch.as_tensor(examples, device=self.context.device)
            if self.context.data.modality == "text":
                return x.long()
            return (x.unsqueeze(1) if x.dim() == 3 else x).float()
        if not isinstance(self.data, TextData):
            raise UserError("this model takes images [N, H, W], not texts")
        ids = {word: position for position, word in enumerate(self.data.vocabulary)}
        max_words = self.context.data.shape[0] - 2
        words = [[ids.get(word, UNKNOWN) for word in text.split()][:max_words] for text in examples]
        rows = [torch.tensor([START, *row, END]) for row in words]
        return pad_sequence(rows, batch_first=True, padding_value=PAD).to(self.context.device)

    def _seeded(self, seed: int) -> EvaluationContext:
        context = self.context
        return EvaluationContext(self.model, context.data, context.train, derive_seed(context.seed, seed))
