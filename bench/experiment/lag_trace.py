"""The trace of inference lag over training, for cells with one latent dimension (He et al., ICLR 2019, Figures 2, 3).

At stages of training the means of q(z|x) and of the true posterior p(z|x), which one dimension allows to integrate by
quadrature, are stored for fixed test examples in the cell's ``lag_trace.npz``. Training does not depend on it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.core.files import read_arrays
from bench.core.hashing import derive_seed

if TYPE_CHECKING:
    from bench.core.config import TrainConfig
    from bench.data.tensors import Data
    from bench.experiment.cell_folder import CellFolder
    from bench.method import Method
    from bench.models.vae import VAE
    from bench.training.context import TrainingContext

FILE = "lag_trace.npz"
STAGES = 24  # at most; the first is before training
EXAMPLES = 500  # of the test set, the first ones


@dataclass(frozen=True)
class LagTrace:
    """Inference over the training of one cell: F stages, N test examples, a scalar latent."""

    updates: np.ndarray  # (F,) decoder updates
    means: np.ndarray  # (F, N) means of q(z|x)
    true_means: np.ndarray  # (F, N) means of p(z|x)
    kl: np.ndarray  # (F, N) KL(q(z|x) ‖ p(z|x)) in nats

    def __post_init__(self) -> None:
        shape, others = self.means.shape, {self.true_means.shape, self.kl.shape}
        if others != {shape} or len(shape) != 2 or 0 in shape or self.updates.shape != shape[:1]:
            raise ValueError("not the arrays of a lag trace")

    @property
    def lag(self) -> np.ndarray:
        """The mean distance between the two means at every stage: (F,)."""
        return np.abs(self.means - self.true_means).mean(axis=1)

    @classmethod
    def read(cls, folder: Path) -> LagTrace | None:
        """Return the trace in a cell's folder, or None if there is no valid one."""
        try:
            return cls(**read_arrays(folder / FILE))
        except Exception:  # zipfile, zlib and NumPy raise errors of many kinds for a damaged file
            return None


def stages(total: int) -> set[int]:
    """Return the updates after which inference is traced: 0, then in equal ratios up to ``total``."""
    return {0} | {round(total ** (i / (STAGES - 2))) for i in range(STAGES - 1)}


class LagTracer:
    """An observer of the trainer that writes the trace of a cell. It continues the stored one of a resumed training."""

    def __init__(
        self, folder: CellFolder, method: Method, model: VAE, data: Data, train: TrainConfig, seed: int, count: int
    ):
        """``count``: how many test examples to trace."""
        from bench.evaluation.chunking import auto_chunk_size
        from bench.evaluation.metrics import EvaluationContext

        self.folder, self.method, self.model = folder, method, model
        self.ctx = EvaluationContext(model, data.info, train, derive_seed(seed, "lag"))
        _, (self.x,) = data.blocks("test", count, count)
        self.chunk = auto_chunk_size(model.eval(), [self.x])
        #: Decoder updates -> means, true means and KL of the examples: (3, N).
        self.stages: dict[int, np.ndarray] = {}
        if stored := LagTrace.read(folder.path):
            rows = np.stack([stored.means, stored.true_means, stored.kl], axis=1)
            self.stages = dict(zip(stored.updates.tolist(), rows, strict=True))

    def __call__(self, ctx: TrainingContext) -> None:
        if ctx.step in stages(ctx.total):
            self.trace(ctx.step)

    def trace(self, update: int) -> None:
        """Trace the present model, trained for ``update`` decoder updates. It is in training mode afterwards."""
        import torch

        from bench.evaluation.estimators.inference_gap import elbo, true_posterior

        self.model.eval()
        with torch.no_grad():
            q = self.method.posterior(self.ctx, self.x, train=False)
            truth = true_posterior(self.model, self.x, q.mean, self.chunk)
            kl = truth.log_px - elbo(self.model, self.x, q, self.ctx.generator("lag"), self.chunk)
        self.model.train()
        self.stages[update] = torch.stack([q.mean.squeeze(1), truth.mean.squeeze(1), kl]).float().cpu().numpy()
        stages = dict(sorted(self.stages.items()))
        trace = LagTrace(np.array([*stages]), *np.stack([*stages.values()], axis=1))
        self.folder.write(FILE, lambda file: np.savez_compressed(file, **asdict(trace)))  # type: ignore[arg-type]
