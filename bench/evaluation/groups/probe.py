"""Accuracy of a linear probe on posterior means, and of probes trained on few labels.

Not measured on data sets without labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.evaluation.registry import GroupResult, GroupSettings, Metric, MetricGroup

if TYPE_CHECKING:
    from bench.evaluation.trained_model import TrainedModel

FEW_LABELS = (100, 500, 1000)


@dataclass(frozen=True)
class Settings(GroupSettings):
    examples: int = 2000  # of the training set


def measure(trained: TrainedModel, settings: Settings) -> GroupResult:
    import numpy as np
    import torch

    from bench.evaluation.estimators.linear_probe import chance_accuracy, few_label_accuracy, linear_probe
    from bench.evaluation.estimators.subsample import evenly_spaced

    ctx, data = trained.ctx, trained.data
    labels = data.labels
    if not {"train", "test"} <= labels.keys() or not trained.has_latent:
        return GroupResult({})
    sample = evenly_spaced(len(labels["train"]), settings.examples)
    train_labels, test_labels = labels["train"][sample], labels["test"][trained.basic.columns["index"]]
    if len(sample) < 2 or not np.isin(test_labels, train_labels).any():
        return GROUP.undefined()  # no cross-validation, or no test example of a known class
    blocks = []
    for ctx.block, index in enumerate(torch.from_numpy(sample).split(trained.config.batch_size)):
        ctx.check_cancelled()
        x = data.batch(index, ctx.generator("probe"))
        blocks.append(trained.method.posterior(ctx, x, train=False).mean.cpu().numpy())
    train, test = np.concatenate(blocks), trained.basic.arrays["means"]  # (M, D), (N, D)
    few = few_label_accuracy(train, train_labels, test, test_labels, FEW_LABELS)
    return GroupResult(
        {
            "probe": linear_probe(train, train_labels, test, test_labels),
            **{f"probe_{count}": accuracy for count, accuracy in few.items()},
            "probe_chance": chance_accuracy(train_labels, test_labels),
        }
    )


GROUP = MetricGroup(
    summary="accuracy of a linear probe for the labels on posterior means, also trained on few labels",
    settings=Settings,
    measure=measure,
    decodings=lambda settings: 0,
    panel="Use of z",
    table_order=4,
    default=True,
    metrics=(
        Metric(
            "probe",
            "probe",
            "accuracy of a linear probe on posterior means, trained on {examples} training examples; accuracy of the "
            "most frequent label: {probe_chance}",
            digits=3,
            bias="downwards; decreases with more labels",
        ),
        *(Metric(f"probe_{n}", f"probe {n}", f"the same, trained on {n} labels", digits=3) for n in FEW_LABELS),
        Metric("probe_chance", description="share of the most frequent label in the test set", digits=3),
    ),
)
