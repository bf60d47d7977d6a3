"""Figures at the sizes of a paper: readable with many rows and with outliers."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.text import Annotation, Text

from bench.reporting import figures
from bench.reporting.figures import forest, planes
from bench.reporting.figures.style import COLUMN, WIDTH, clip, core, limits, pages
from bench.reporting.frame import cells_frame, rows_frame
from bench.reporting.groups import CONTROLS
from tests.reporting.records import finished_cell

ROWS = 15  # more than a legend holds


def study(rows: int = ROWS, seeds: int = 2, **outlier: float) -> figures.Data:
    """Return a study of a basic VAE and other rows, the last of which has the metrics ``outlier``."""
    cells = []
    for i in range(rows):
        name = f"method_{i}" if i else "vae"
        metrics = {"iw_nll": 50.0 + i / 10, "kl": 1.0 + i % 7, "rec": 49.0 - i % 5, "mi": 0.05 if i % 3 == 0 else 1.0}
        metrics |= {"collapsed": i % 3 == 0, "gap_amortisation": 0.1 + i / 50, "gap_approximation": 0.2}
        metrics |= outlier if i == rows - 1 else {}
        history = [{"update": update, "kl": 0.01 * update, "mi": 1.0, "au": 2, "au_kl": 1} for update in (10, 20, 30)]
        for seed in range(seeds):
            shifted = metrics | {"iw_nll": metrics["iw_nll"] + seed / 10}
            costs = {"flops": 100.0 * (1 + i % 4)}
            cell = finished_cell(name, seed, metrics=shifted, history=history, costs=costs)
            method = cell.config.method.model_copy(update={"baseline": name == "vae"})
            cells.append(replace(cell, config=cell.config.model_copy(update={"method": method})))
    frame = cells_frame(cells)
    return figures.collect(frame, rows_frame(frame), print)


def notes(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts if isinstance(text, Annotation)]


@pytest.mark.filterwarnings("error")
def test_figures_of_many_rows_are_readable():
    """At the width of a column or page, text of 7 pt at least, no legend taller than its axes, ten panels at most."""
    names = set()
    for name, figure in figures.pages(study(seeds=1), pytest.fail):
        names.add(name)
        figure.draw_without_rendering()
        width, height = figure.get_size_inches()
        assert width in (COLUMN, WIDTH) and height <= 9.5, name
        assert len(figure.axes) <= 10, name
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert min(text.get_fontsize() for text in texts) >= 7, name
        for ax in figure.axes:
            assert ax.get_position().width * width > 1.0, name
            label = ax.xaxis.label.get_window_extent()
            assert label.x0 >= 0 and label.x1 <= figure.bbox.x1, name
            if legend := ax.get_legend():
                assert legend.get_window_extent().height <= 1.05 * ax.get_window_extent().height, name
    assert names >= {"nll", "mi", "nll_cost", "rate_distortion", "dynamics", "gaps"}


def test_core_leaves_out_what_would_stretch_an_axis():
    near = [40.0, 40.1, 40.3, 40.2, 40.15]
    assert core(near) == (40.0, 40.3)
    assert core([*near, 53.0]) == (40.0, 40.3)
    assert core([*near, *near, 53.0, 1e15]) == (40.0, 40.3)
    assert core([*near, -1e15]) == (40.0, 40.3)
    assert core([*near, 53.0], [53.0]) == (40.0, 53.0)
    assert core([1.0, 2.0, 4.0]) == (1.0, 4.0) and core([]) == (0.0, 1.0) and core([3.0, float("nan")]) == (3.0, 3.0)
    low, high = limits(3.0, 3.0)
    assert low < 3.0 < high


def test_outliers_become_an_arrow_with_their_value():
    data = study(8, iw_nll=99.0, kl=1e15, mi=6.5)
    [nll] = forest.differences(data.rows, data.looks)
    assert nll.axes[0].get_xlim()[1] < 5 and any("49" in note for note in notes(nll))
    [cost] = planes.cost(data.rows, data.looks)
    assert cost.axes[0].get_ylim()[1] < 5 and any("method_7 49" in note for note in notes(cost))
    [plane] = planes.rate_distortion(data.rows, data.finished, data.looks)
    assert plane.axes[0].get_xlim()[1] < 20 and any("1e+15" in note for note in notes(plane))
    [mi] = forest.information(data.finished, data.looks)
    assert mi.axes[0].get_xlim()[1] < 3 and any("6.5" in note for note in notes(mi))


def test_arrows_at_the_same_height_have_readable_names():
    figure, ax = plt.subplots(figsize=(COLUMN, 3))
    for name in ("SA-VAE", "Aggressive"):
        clip(ax, 3.0, 0.5, name)
    first, second = (Text.get_window_extent(text) for text in ax.texts)
    assert not first.overlaps(second)
    plt.close(figure)


def test_forest_is_sorted_and_has_the_intervals():
    data = study(5)
    [figure] = forest.differences(data.rows, data.looks)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"method_{i}" for i in (1, 2, 3, 4)]
    marks = [line for line in ax.lines if line.get_marker() not in ("None", None, "<", ">")]
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_mi_of_mixed_seeds_has_no_mean_in_the_figure():
    cells = [
        finished_cell("mixed", seed, metrics={"mi": mi, "collapsed": mi < 0.1}) for seed, mi in enumerate((3.0, 0.02))
    ]
    cells += [finished_cell("active", seed, metrics={"mi": 2.0 + seed}) for seed in range(2)]
    frame = cells_frame(cells)
    data = figures.collect(frame, rows_frame(frame), print)
    [figure] = forest.information(data.finished, data.looks)
    means = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", ".", "<", ">")]
    assert [mean.get_xdata()[0] for mean in means] == [2.5]


def test_curves_show_the_baseline_and_the_best_rows_that_use_z():
    names = ["vae", *(f"row {i}" for i in range(9)), "control"]
    rows = pd.DataFrame({"title": names, "nll": [50.0 - i for i in range(11)], "iw_nll": 60.0})
    rows = rows.assign(baseline=rows["title"] == "vae", family=[""] * 10 + [CONTROLS])
    rows["collapsed"] = [1.0, 0, 0, 0, 0, 0, 1.0, 0.5, 1.0, 0, 0]
    assert figures.chosen(rows) == ["vae", "row 1", "row 2", "row 3", "row 4", "row 8"]
    assert figures.chosen(rows[-3:]) == ["row 7", "row 8", "control"]


def test_front_has_the_rows_that_no_other_beats():
    points = pd.DataFrame({"cost": [1, 1, 2, 3, 4], "nll": [5.0, 4.0, 6.0, 3.0, 3.0]})
    assert [*planes.front(points, "cost", "nll").index] == [1, 3]


def test_pages_are_of_equal_length():
    assert [len(page) for page in pages(range(51), 50)] == [26, 25]
    assert [*pages([], 8)] == []
