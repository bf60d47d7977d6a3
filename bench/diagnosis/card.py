"""A diagnosis as an HTML card and as a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from bench.diagnosis.advice import Advice
from bench.diagnosis.verdict import ACTIVE_VARIANCE, Measures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"collapsed": "#b3261e", "unused": "#b3261e", "not collapsed": "#1b7f4b", "undecided": "#8a6100"}
KL, MI = "#8fa8c8", "#1f4e8c"
BAR_HEIGHT = 48  # pixels
MAX_BARS = 128
MAX_TICKS = 24  # dimensions that are numbered
LOWEST_PEAK = 0.1  # nats: below, all bars are low


def html(
    status: str,
    headline: str,
    advice: Sequence[Advice],
    numbers: Iterable[tuple[str, str]],
    measures: Measures,
    remarks: Iterable[str],
) -> str:
    """Return a card without scripts, fonts or images from elsewhere."""
    parts = [f'<p><b style="color:{COLOURS[status]}">{escape(headline)}</b></p>']
    for cause in advice:
        methods = "".join(f" <code>{escape(name)}</code>" for name in cause.methods)
        rows = "".join(f"<li>{escape(row)}</li>" for row in cause.published)
        parts.append(
            f"<p><b>{escape(cause.title)}</b>: {escape(cause.evidence)}. {escape(cause.meaning)} "
            f"{escape(cause.do)}{f' Methods:{methods}' if methods else ''}</p>{f'<ul>{rows}</ul>' if rows else ''}"
        )
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in numbers)
    parts += [_bars(measures), f"<table>{cells}</table>"]
    parts += [f"<small>{escape(remark)}</small><br>" for remark in remarks]
    return f'<div style="max-width:60em;border:1px solid #ccc;padding:0 1em 1em">{"".join(parts)}</div>'


def _bars(m: Measures) -> str:
    """Return KL and MI per dimension as an SVG."""
    information = m["mi_dim"].clamp(min=0).tolist()[:MAX_BARS]
    kl = m["kl_dim"].tolist()[:MAX_BARS] if "kl_dim" in m else information
    largest = max(*kl, *information, LOWEST_PEAK)

    def bars(values: Iterable[float], colour: str) -> str:
        heights = [BAR_HEIGHT * value / largest for value in values]
        return "".join(
            f'<rect x="{6 * d}" y="{BAR_HEIGHT - height:.1f}" width="5" height="{height:.1f}" fill="{colour}"/>'
            for d, height in enumerate(heights)
        )

    title = f"KL (light) and MI (dark) per dimension, from dimension 0; full height is {largest:.2f} nats"
    return (
        f'<svg width="{6 * len(kl)}" height="{BAR_HEIGHT}" role="img" aria-label="{title}">{bars(kl, KL)}'
        f"{bars(information, MI)}</svg><br><small>{title}</small>"
    )


def figure(title: str, m: Measures) -> Figure:
    """Return KL and MI per dimension, the variance of the means, and the collapse curve, side by side.

    Dimensions are sorted by the variance of their means, and numbered as in the posteriors. Without KL per dimension
    there is no collapse curve.
    """
    from matplotlib.figure import Figure

    has_kl = "kl_dim" in m
    result = Figure(figsize=(11 if has_kl else 7.5, 3.2), layout="constrained")
    information, variance, *curve = result.subplots(1, 3 if has_kl else 2)
    order = m["mean_variance"].argsort(descending=True).cpu()
    positions = range(len(order))
    if has_kl:
        information.bar(positions, m["kl_dim"][order].tolist(), color=KL, label="KL")
    information.bar(positions, m["mi_dim"][order].clamp(min=0).tolist(), width=0.5, color=MI, label="MI")
    information.set(ylabel="nats", title="KL and MI per dimension")
    information.set_ylim(top=max(information.get_ylim()[1], LOWEST_PEAK) * 1.15)
    information.legend(frameon=False, ncols=2, loc="upper right")
    variance.bar(positions, m["mean_variance"][order].tolist(), color=MI)
    variance.axhline(ACTIVE_VARIANCE, color="black", linewidth=0.8, linestyle="--")
    variance.set(yscale="log", title="variance of the posterior means")
    variance.set_ylim(ACTIVE_VARIANCE / 1e4, max(variance.get_ylim()[1], 10 * ACTIVE_VARIANCE))
    for axes in (information, variance):
        shown = positions[:: -(-len(order) // MAX_TICKS)]
        axes.set_xticks(shown, [str(int(order[position])) for position in shown], fontsize=8)
        axes.set_xlabel("dimension")
    for axes in curve:
        axes.step(m["collapse_epsilons"].tolist(), m["collapse_curve"].tolist(), where="post", color=MI)
        axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="ε (nats)", title="share of collapsed dimensions")
        axes.text(0.97, 0.05, "(ε, 0.01)-collapse", transform=axes.transAxes, ha="right", fontsize=8)
    result.suptitle(title)
    return result
