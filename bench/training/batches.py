"""Training batches."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core.config import TrainConfig
from bench.core.hashing import derive_seed
from bench.data.tensors import Data


class Batches:
    """Training batches as a function of their number: a new order in every pass, new binarisation noise in every batch.

    Raise ``ValueError`` if the training set does not fill one batch.
    """

    def __init__(self, data: Data, config: TrainConfig, seed: int, purpose: str):
        self.data, self.config, self.seed, self.purpose = data, config, seed, purpose
        self.start_pass(0)
        self.per_pass = len(self.order)
        if not self.per_pass:
            raise ValueError(f"{len(data.train)} training examples do not fill one batch of {config.batch_size}")

    def start_pass(self, number: int) -> None:
        """Shuffle the training set for a pass."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.purpose, "order", number))
        self.order = self.data.order(self.config.batch_size, self.config.equal_lengths, generator)
        self.pass_number = number

    def __getitem__(self, number: int) -> Tensor:
        """Return batch ``number``, counted over all passes: (B, …)."""
        pass_number, position = divmod(number, self.per_pass)
        if pass_number != self.pass_number:
            self.start_pass(pass_number)
        device = self.data.train.device
        noise = torch.Generator(device).manual_seed(derive_seed(self.seed, self.purpose, "noise", number))
        return self.data.batch(self.order[position], noise)
