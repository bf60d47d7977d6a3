"""Shuffled encoder: the basic VAE whose encoder is shown other examples, a negative control.

Loss:      E_q[-log p(x|z)] + KL(q(z|x') || p(z)), z ~ q(z|x'), with training examples x' drawn independently of x
Defaults:  –
Deviates:  –
Note:      Not a method: z has no information about x, so the KL buys nothing and q becomes the prior. An MI or a
           shuffle gap clearly above 0 after training is therefore a fault of the measurement. The x' are up to 32
           examples of a random training batch, replaced after every update and kept with the weights for validation and
           evaluation. Another example of the same batch would not do for text: batches have sentences of similar
           lengths, which z could then encode.
"""

import torch
from torch import Tensor, nn

from bench.method import END, START, VAE, Context, DataInfo, Method, Posterior

KEPT = 32  # examples x'; a larger batch is shown them in turn


class KeptExamples(nn.Module):
    """``KEPT`` examples in place of those of a batch; zeros or empty sentences before training."""

    x: Tensor  # (KEPT, …)

    def __init__(self, data: DataInfo) -> None:
        super().__init__()
        if data.modality == "text":
            self.register_buffer("x", torch.zeros(KEPT, *data.shape, dtype=torch.int64))
            self.x[:, 0], self.x[:, 1] = START, END
        else:
            channels = (1,) if data.modality == "image" and len(data.shape) == 2 else ()
            self.register_buffer("x", torch.zeros(KEPT, *channels, *data.shape))

    def replace(self, batch: Tensor) -> None:
        """Keep the examples of a batch (B, …) instead, repeated if there are too few."""
        rows = batch[torch.arange(KEPT, device=batch.device) % len(batch)]
        self.x.zero_()[:, : rows.shape[1]] = rows

    def forward(self, count: int) -> Tensor:
        """Return (count, …) examples."""
        return self.x[torch.arange(count, device=self.x.device) % KEPT]


class ShuffledEncoder(Method):
    title = "Shuffled encoder"
    summary = "negative control: the encoder is shown other examples"
    citation = "this benchmark"
    family = "reference"
    marker = "half_up"
    table_order = 6
    suites = {"controls": ["shuffled_encoder"]}
    vae_settings = "its encoder is never shown x"

    def build(self, model: VAE, data: DataInfo) -> VAE:
        model.aux["kept"] = KeptExamples(data)
        return model

    def posterior(self, ctx: Context, x: Tensor, train: bool) -> Posterior:
        return ctx.model.encode(ctx.model.aux["kept"](len(x)))

    def on_phase_start(self, ctx: Context) -> None:
        ctx.model.aux["kept"].replace(ctx.next_batch())

    def on_step_end(self, ctx: Context) -> None:
        ctx.model.aux["kept"].replace(ctx.next_batch())
