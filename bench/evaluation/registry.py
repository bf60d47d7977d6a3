"""Registry of metric groups. Imports no torch.

A group is a set of metrics that can be measured on a trained cell at any time. It adds to the basic evaluation and
changes nothing in it. Each file in ``bench/evaluation/groups/`` defines one as ``GROUP``; other packages register
theirs under the entry-point group ``posterior_collapse_bench.metric_groups``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bench.core.config import check_ranges
from bench.core.errors import UserError
from bench.core.plugins import Registry

if TYPE_CHECKING:
    import numpy as np

    from bench.evaluation.trained_model import TrainedModel

BASIC_METRICS = (
    *("iw_nll", "iw_nll_se", "iw_nll_mc_se", "ess", "pareto_k", "elbo", "rec", "kl", "mi", "mi_loo", "mi_high"),
    *("mi_batch", "kl_aggregate", "kl_aggregate_reverse", "au", "au_kl", "au_ratio", "collapsed_dims"),
    *("bpd", "ppl", "words"),
)
REGISTRY = Registry("metric group", "bench.evaluation.groups", "posterior_collapse_bench.metric_groups")


@dataclass(frozen=True)
class GroupSettings:
    """Base class of a group's settings: numbers with defaults, all of them positive."""

    def __post_init__(self) -> None:
        check_ranges(self, positive=" ".join(f.name for f in fields(self)))


Settings = TypeVar("Settings", bound=GroupSettings)


@dataclass(frozen=True)
class Metric:
    """One number of a group, and its column in the tables.

    ``description`` is the column's footnote and a format string. It may name the group's settings, the group's metrics
    (their largest value in the table), ``plain`` (heading of the plain NLL), ``unit`` (of the data set) and
    ``evaluated`` (the test examples).
    """

    name: str
    heading: str = ""  # empty: in evaluation.json and in the CSV file, but in no table
    description: str = ""
    digits: int = 2
    bias: str = ""  # direction of the estimate's error, and what reduces it; for the documentation


@dataclass(frozen=True)
class GroupResult:
    """Metrics of the test set, and values per example ``[N]`` in the order of the set (NaN where not measured)."""

    metrics: Mapping[str, float | int | None]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricGroup(Generic[Settings]):
    """A group of metrics.

    On the command line and in presets the fields of ``settings`` are called ``<group>_<field>``. ``decodings``
    estimates from them how many (example, sample) pairs the group decodes.
    """

    summary: str  # one line
    settings: type[Settings]
    metrics: tuple[Metric, ...]
    measure: Callable[[TrainedModel, Settings], GroupResult]
    decodings: Callable[[Settings], float]
    panel: str  # table panel that shows the metrics
    table_order: float = 100.0
    default: bool = False  # measured where neither a preset nor ``evaluation.metrics`` names the groups

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.metrics)

    def undefined(self) -> GroupResult:
        """Return a result without numbers, for models on which the metrics are not defined."""
        return GroupResult(dict.fromkeys(self.metric_names))


def metric_groups() -> dict[str, MetricGroup[Any]]:
    """Return every metric group by name, in the order of the tables. ``UserError`` if a group's file is broken."""
    groups = {name: _load(name) for name in _names()}
    owners = dict.fromkeys(BASIC_METRICS, "the basic evaluation")
    for name, group in groups.items():
        for metric in group.metric_names:
            if (owner := owners.setdefault(metric, f"group {name}")) != f"group {name}":
                raise UserError(f"metric '{metric}' is defined by {owner} and by group {name}: rename the second")
    return dict(sorted(groups.items(), key=lambda item: (item[1].table_order, item[0])))


def group_of_metric() -> dict[str, str]:
    """Return the group of every metric that belongs to one."""
    return {metric: name for name, group in metric_groups().items() for metric in group.metric_names}


@cache
def _names() -> tuple[str, ...]:
    return REGISTRY.names()


@cache
def _load(name: str) -> MetricGroup[Any]:
    module = REGISTRY.load(name)
    group = getattr(module, "GROUP", None)
    if not isinstance(group, MetricGroup):
        raise REGISTRY.defect(name, module, "must define GROUP, a bench.evaluation.MetricGroup")
    return group
