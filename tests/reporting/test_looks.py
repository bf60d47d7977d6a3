"""The look of a method: fixed, and distinguishable with and without colour."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bench.experiment.cell_folder import cell_folders
from bench.experiment.plan import method_record
from bench.reporting import looks
from bench.reporting.looks import look
from bench.training import registry
from bench.training.expressions import parse_methods
from tests.fixtures import make_cells

RESULTS = Path(__file__).parents[2] / "results"


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first: str, second: str) -> float:
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def lightness(color: str) -> float:
    """L* of CIELAB, from 0 to 100."""
    return 116 * max(luminance(color), 0.008856) ** (1 / 3) - 16


def record(expression: str):
    [row], _ = parse_methods([expression], "quick")
    return method_record(row)


@pytest.fixture(scope="module")
def records():
    """Every method of the repository."""
    methods = [registry.method(name) for name in registry.method_names()]
    return [
        make_cells.method(cls.name, cls.table_order, title=cls.title, family=cls.family, marker=cls.marker)
        for cls in methods
        if cls.__module__.startswith("bench.methods.")
    ]


def test_colours_have_contrast_on_light_and_dark_pages():
    for light, dark in looks.COLORS.values():
        assert contrast(light, looks.LIGHT) >= 3 and contrast(dark, looks.DARK) >= 3
    assert looks.COLORS["baseline"][0] == "#000000"
    assert len({*looks.COLORS.values()}) == len(looks.COLORS)


def test_methods_differ_in_colour_or_marker(records):
    assert len(records) >= 54
    families = {(each.family, each.marker) for each in records}
    assert len(families) == len(records) == len({each.title for each in records if each.title})
    assert {each.marker for each in records} <= {*looks.SHAPES}
    black = [each.name for each in records if look(each).color_light == "#000000"]
    assert black == ["vae"]


def test_published_records_have_the_look_of_their_method():
    """After a change of looks: write title and marker into their config.json; the cell id does not depend on them."""
    for folder in cell_folders(RESULTS):
        stored = folder.config.method
        cls = registry.method(stored.name)
        assert (stored.title, stored.family, stored.marker) == (cls.title, cls.family, cls.marker), folder.path


def test_methods_differ_without_colour(records):
    drawn = [look(each) for each in records]
    for first, second in combinations(drawn, 2):
        if first.marker == second.marker:
            for name in ("color_light", "color_dark"):
                assert abs(lightness(getattr(first, name)) - lightness(getattr(second, name))) > 18, first


def test_shapes_differ():
    """Any two shapes disagree on a tenth at least of the area that they cover together."""
    grid = np.array([*product(np.linspace(-0.8, 0.8, 81), repeat=2)])
    inside = {name: looks.marker_path(name).contains_points(grid) for name in looks.SHAPES}
    for first, second in combinations(looks.SHAPES, 2):
        a, b = inside[first], inside[second]
        assert (a ^ b).sum() > 0.1 * (a | b).sum(), (first, second)


def test_rows_of_a_method_differ_by_their_own_record():
    rows = ["beta_vae(beta=0.2)", "beta_vae(beta=0.4)", "beta_vae(beta=0.4)+anneal", "beta_vae(beta=0.2)+anneal"]
    rows += ["beta_vae(beta=0.4)+free_bits", "beta_vae(beta=0.4)+free_bits+anneal"]
    styles = [look(record(row)) for row in rows]
    assert len({*styles}) == len(rows)
    assert len({(style.color_light, style.marker) for style in styles}) == 1
    modified = ["vae", "vae+anneal", "vae+cyclical", "vae+free_bits", "vae+lr(scale=2.0)", "vae+free_bits+anneal"]
    assert len({(look(record(row)).fill, look(record(row)).dashes) for row in modified}) == len(modified)
    assert len({look(record(row)).dashes for row in modified}) == len(modified)
    assert look(record("vae")).fill == 1 and look(record("vae+anneal")).fill == 0
    assert look(record("vae")).dashes == () != look(record("vae+anneal")).dashes


def test_method_without_a_marker_has_a_stable_one():
    methods = [make_cells.method(name, 1, family="prior") for name in ("mine", "yours")]
    first, second = map(look, methods)
    assert first == look(methods[0].model_copy(update={"order": 7.0})) != second
    assert "circle" not in (first.marker, second.marker)
    assert first.color_light == looks.COLORS["prior"][0]
    assert look(make_cells.method("mine", 1, family="new")).color_light == looks.OTHER_FAMILY[0]


def test_svg_path_is_closed_and_of_unit_size():
    for name in looks.SHAPES:
        data = looks.svg_path(looks.Look("#000000", "#ffffff", name))
        assert data.startswith("M") and data.endswith("Z") and len(data) < 400
        assert 0.85 < looks.marker_path(name).get_extents().size.max() <= 1.001, name


def test_paper_names():
    titles = {each.expression: each.title for each in map(record, ("beta_vae(beta=0.2)+anneal", "vae+lr(scale=0.5)"))}
    names = [looks.paper_name(title, expression) for expression, title in titles.items()]
    assert names == ["β-VAE (β = 0.2) + annealing", "VAE + learning rate (scale = 0.5)"]
    assert looks.paper_name("", "my_method") == "my_method"
    assert looks.paper_name("β-VAE", "beta_vae(beta=0.2|0.4)") == "β-VAE (β = 0.2/0.4)"
