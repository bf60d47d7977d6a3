"""A trained cell for people: its model and posterior, its data, its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bench.core.config import MODELS, TrainConfig, build
from bench.core.errors import UserError
from bench.core.hashing import derive_seed
from bench.core.safe_io import open_regular_file
from bench.data.cache import cache_dir
from bench.data.dataset import END, PAD, START, UNKNOWN, DataInfo
from bench.data.registry import prepare_stored
from bench.data.tensors import Data, apply_model_config, load
from bench.data.text import TextData
from bench.evaluation.chunking import auto_chunk_size
from bench.evaluation.estimators.likelihood import importance_weighted_nll
from bench.evaluation.metrics import EvaluationContext, log_weights
from bench.experiment.cell_folder import CellFolder
from bench.experiment.cell_record import read
from bench.experiment.examples import FILE_BYTES
from bench.experiment.worker import load_trained
from bench.method import Method
from bench.models.decoding import greedy
from bench.models.distributions import Posterior
from bench.models.vae import VAE
from bench.training.factory import configure_torch

if TYPE_CHECKING:
    from pandas import DataFrame

Examples: TypeAlias = "Tensor | np.ndarray | Sequence[str]"


@dataclass(frozen=True)
class TrainedCell:
    """A model as training selected it, in evaluation mode, with the method whose posterior is its encoder.

    Images go in and come out as ``[N, H, W]`` of 0 and 1, sentences as texts of words joined by spaces. Latent codes
    are tensors ``[N, D]``. Everything random takes a ``seed``.
    """

    folder: CellFolder
    config: Mapping[str, Any]  # config.json
    method: Method
    model: VAE
    context: EvaluationContext
    data_dir: Path | None

    @classmethod
    def read(cls, path: Path, data_dir: Path | None = None, device: str = "cpu") -> TrainedCell:
        folder = CellFolder(path)
        if not (path / "config.json").exists():
            raise UserError(f"no cell in {path}: give a folder 'OUT/runs/…/seed-<n>-<id>'")
        try:
            cell = read(folder)
        except ValueError as error:
            raise UserError(f"the records of the cell in {path} are damaged ({error})") from error
        if cell.status not in ("ok", "not evaluated"):
            raise UserError(f"the cell in {path} is not trained to its end")
        configure_torch(torch.get_num_threads(), device, gpu_share=0.0)
        config = {**cell.config, "device": device}
        try:
            method, model, seed = load_trained(folder, config)
            info = DataInfo.from_json(config["dataset"])
            info = apply_model_config(info, build(MODELS[info.modality], config["model"], "model"))
            train = build(TrainConfig, config["train"], "train")
        except UserError:
            raise
        except Exception as error:  # of a config or of weights that another program made, whatever they hold
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"the cell in {path} cannot be built from what its files say ({what})") from error
        context = EvaluationContext(model, info, train, derive_seed(seed, "load"))
        return cls(folder, config, method, model.eval(), context, data_dir)

    @property
    def metrics(self) -> dict[str, Any]:
        """Of its evaluation on the test set."""
        return (self.folder.evaluation() or {}).get("metrics", {})

    @property
    def examples(self) -> DataFrame:
        """One row per test example judged. ``UserError`` where they cannot be read."""
        import pandas as pd

        path = self.folder.path / "examples.parquet"
        try:
            with open_regular_file(path, FILE_BYTES) as file:
                return pd.read_parquet(file)
        except (OSError, ValueError) as error:  # pyarrow's are among them
            raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error

    @cached_property
    def data(self) -> Data:
        """The set that it was trained on, as its model takes it."""
        info = DataInfo.from_json(self.config["dataset"])
        prepared = prepare_stored(info, self.data_dir, cache_dir())
        sizes = build(MODELS[info.modality], self.config["model"], "model")
        return load(prepared, sizes).to(self.context.device)

    @torch.no_grad()
    def encode(self, examples: Examples, seed: int = 0) -> Posterior:
        """The method's posterior q(z|x): ``.mean`` ``[N, D]``, ``.rsample(S)`` ``[N, S, D]``, ``.log_prob(z)``."""
        return self.method.posterior(self._seeded(seed), self.tensor(examples), train=False)

    @torch.no_grad()
    def decode(self, z: Tensor | np.ndarray, seed: int = 0) -> Tensor | list[str]:
        """Of z ``[N, D]``: for text the most probable word at every step, for images a draw x ~ p(x|z)."""
        z = torch.as_tensor(z, dtype=torch.float32, device=self.context.device)
        if isinstance(self.data, TextData):
            return self.data.sentences(greedy(self.model.decoder, self.model.latent_to_decoder(z)))
        return self.model.sample(z, self._seeded(seed).generator("decode")).squeeze(1)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor | list[str]:
        """x ~ p(x|z) at draws of z from the prior."""
        generator = self._seeded(seed).generator("sample")
        drawn = self.model.sample(self.model.prior.sample(count, generator, self.context.device), generator)
        return self.data.sentences(drawn) if isinstance(self.data, TextData) else drawn.squeeze(1)

    @torch.no_grad()
    def nll(self, examples: Examples, samples: int = 500, seed: int = 0) -> Tensor:
        """Importance-weighted estimate of -log p(x) with q as proposal: ``[N]`` in nats."""
        ctx, found = self._seeded(seed), []
        blocks = self.tensor(examples).split(self.context.train.batch_size)
        chunk = auto_chunk_size(self.model, blocks)
        for ctx.block, x in enumerate(blocks):
            q = self.method.posterior(ctx, x, train=False)
            z = q.rsample(samples if self.model.latent_dim else 1, ctx.generator())
            found.append(importance_weighted_nll(log_weights(self.model, x, q, z, chunk)))
        return torch.cat(found)

    def tensor(self, examples: Examples) -> Tensor:
        """Examples as the model takes them: images ``[N, 1, H, W]``, sentences as rows of word ids ``[N, T]``."""
        if isinstance(examples, str) or not len(examples):
            raise UserError("give a list of examples, at least one")
        if isinstance(examples, (Tensor, np.ndarray)):
            x = torch.as_tensor(examples, device=self.context.device)
            if self.context.data.modality == "text":
                return x.long()
            return (x.unsqueeze(1) if x.dim() == 3 else x).float()
        if not isinstance(self.data, TextData):
            raise UserError("this model takes images [N, H, W], not texts")
        number = {word: place for place, word in enumerate(self.data.vocabulary)}
        longest = self.context.data.shape[0] - 2
        rows = [[number.get(word, UNKNOWN) for word in text.split()][:longest] for text in examples]
        x = torch.full((len(rows), max(map(len, rows), default=0) + 2), PAD)
        for place, row in enumerate(rows):
            x[place, : len(row) + 2] = torch.tensor([START, *row, END])
        return x.to(self.context.device)

    def _seeded(self, seed: int) -> EvaluationContext:
        context = self.context
        return EvaluationContext(self.model, context.data, context.train, derive_seed(context.seed, seed))
