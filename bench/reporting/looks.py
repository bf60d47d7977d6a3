"""The look and the name of a method, the same in every figure, table and data set.

Both depend on the row's own record only: colour by family, marker by method, and fill and dashes by settings and
modifiers. A marker occurs at most twice: in the family ``objective``, whose colour has a medium lightness, and in one
of the other families, whose colours are dark on white and light on black. So rows differ in grey, too.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from bench.core.syntax import Call, parse_expression, parse_value

if TYPE_CHECKING:
    from matplotlib.path import Path

    from bench.experiment.schema import MethodRecord

#: Backgrounds of the light and of the dark page. The contrast of every colour is 3:1 at least.
LIGHT, DARK = "#ffffff", "#16171a"
#: Shape of the basic VAE, which alone is black.
BASELINE = "circle"
#: Family -> colour on ``LIGHT`` and on ``DARK``.
COLORS = {
    "baseline": ("#000000", "#ffffff"),
    "objective": ("#2f8fd8", "#2f8fd8"),
    "posterior": ("#6a1f9c", "#d9b3ff"),
    "optimisation": ("#a3231a", "#ffaba3"),
    "decoder": ("#0a5c36", "#8fe0b4"),
    "prior": ("#70450a", "#ecc777"),
    "reference": ("#555555", "#c8c8c8"),
}
OTHER_FAMILY = COLORS["reference"]
#: Names of shapes.
SHAPES = (
    *(BASELINE, "square", "diamond", "thin_diamond", "wide_diamond", "pentagon", "pentagon_down", "hexagon"),
    *("triangle_up", "triangle_down", "triangle_left", "triangle_right", "half_up", "half_down", "half_left"),
    *("half_right", "plus", "cross", "star", "star_down", "star3", "star3_down", "star4", "star4_cross", "star6"),
    *("star8", "hourglass", "bowtie", "bar", "column"),
)
#: Modifier -> lengths of dashes and gaps, in line widths. That of a KL term, and of several modifiers.
DASHES = {"anneal": (4.0, 1.5), "cyclical": (4.0, 1.2, 1.0, 1.2), "lr": (7.0, 2.0)}
KL_TERM, SEVERAL = (1.0, 1.2), (6.0, 1.2, 1.0, 1.2, 1.0, 1.2)
OPEN = "anneal"  # the modifier of an empty marker; that of others is nearly so
GREEK = {"beta": "β", "gamma": "γ", "delta": "δ", "kappa": "κ"} | {"lambda_": "λ", "alpha": "α", "sigma": "σ"}
MODIFIERS = {"anneal": "annealing", "cyclical": "cyclical annealing", "lr": "learning rate"}


@dataclass(frozen=True)
class Look:
    """How a row is drawn: colours on a light and on a dark page, a name of ``SHAPES``, and what distinguishes variants.

    ``fill`` is the opacity of the marker's face, whose outline is opaque; ``dashes`` is empty for a solid line.
    """

    color_light: str
    color_dark: str
    marker: str
    fill: float = 1.0
    dashes: tuple[float, ...] = ()


def look(method: MethodRecord) -> Look:
    """Return the look of a row.

    With default settings the marker is full, with other settings partly filled, more for a larger value. With a
    modifier it is open, or nearly so, and the line is dashed.
    """
    own, *modifiers = parse_expression(method.expression)
    tones = [_tone(call) for call in (own, *modifiers) if call.settings or call in modifiers and call.name != OPEN]
    tone = sum(tones) / len(tones) if tones else math.nan
    dashes: tuple[float, ...] = ()
    if modifiers:
        fill = 0.03 + 0.3 * tone if tones else 0.0
        dashes = DASHES.get(modifiers[0].name, KL_TERM) if len(modifiers) == 1 else SEVERAL
    else:
        fill = 0.05 + 0.9 * tone if tones else 1.0
    marker = method.marker if method.marker in SHAPES else SHAPES[1 + _hash(method.name) % (len(SHAPES) - 1)]
    colors = COLORS.get("baseline" if marker == BASELINE else method.family, OTHER_FAMILY)
    return Look(*colors, marker, round(fill, 3), dashes)


def _tone(call: Call) -> float:
    """Return a number in [0, 1] for the settings of a call: v² / (1/4 + v²) for one number, else a hash of the call."""
    values = [parse_value("|".join(texts)) for texts in call.settings.values()]
    if len(values) == 1 and type(values[0]) in (int, float) and values[0] >= 0:
        return (values[0] / math.hypot(0.5, values[0])) ** 2 if math.isfinite(values[0]) else 1.0
    return _hash(repr(call)) % 1000 / 999


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def paper_name(title: str, expression: str) -> str:
    """Return a row's name as in papers, such as ``β-VAE (β = 0.4) + annealing``, from its method's title."""
    own, *modifiers = parse_expression(expression)
    names = [MODIFIERS.get(call.name, call.name.replace("_", " ")) for call in modifiers]
    calls = zip((title or own.name, *names), (own, *modifiers), strict=True)
    return " + ".join(name + _settings(call) for name, call in calls)


def _settings(call: Call) -> str:
    values = [f"{GREEK.get(name, name.replace('_', ' '))} = {'/'.join(texts)}" for name, texts in call.settings.items()]
    return f" ({', '.join(values)})" if values else ""


@cache
def marker_path(shape: str) -> Path:
    """Return the outline of a shape as a path of matplotlib that touches the square from -0.5 to 0.5."""
    import numpy as np
    from matplotlib.transforms import Affine2D

    path = _outline(shape)
    return path.transformed(Affine2D().scale(0.5 / np.abs(path.vertices).max()))


def _outline(shape: str) -> Path:
    """Return the outline of a shape, centred at 0."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D

    def star(points: int, inner: float, degrees: float = 0.0) -> Path:
        return Path.unit_regular_star(points, inner).transformed(Affine2D().rotate_deg(degrees))

    def polygon(*corners: tuple[float, float]) -> Path:
        return Path([*corners, corners[0]], closed=True)

    def half(degrees: float) -> Path:
        return Path.wedge(0, 180).transformed(Affine2D().translate(0, -0.5).rotate_deg(degrees))

    plain = {BASELINE: "o", "square": "s", "diamond": "D", "thin_diamond": "d", "pentagon": "p", "hexagon": "h"}
    plain |= {f"triangle_{name}": code for name, code in zip(("up", "down", "left", "right"), "^v<>", strict=True)}
    plain |= {"plus": "P", "cross": "X"}
    if shape in plain:
        style = MarkerStyle(plain[shape])
        return style.get_path().transformed(style.get_transform())
    upside_down = Affine2D().rotate_deg(180)
    shapes = {
        "wide_diamond": lambda: _outline("thin_diamond").transformed(Affine2D().rotate_deg(90)),
        "pentagon_down": lambda: _outline("pentagon").transformed(upside_down),
        "half_up": lambda: half(0),
        "half_down": lambda: half(180),
        "half_left": lambda: half(90),
        "half_right": lambda: half(270),
        "star": lambda: star(5, 0.4),
        "star_down": lambda: star(5, 0.4, 180),
        "star3": lambda: star(3, 0.2),
        "star3_down": lambda: star(3, 0.2, 180),
        "star4": lambda: star(4, 0.35),
        "star4_cross": lambda: star(4, 0.35, 45),
        "star6": lambda: star(6, 0.45),
        "star8": lambda: star(8, 0.6),
        "hourglass": lambda: polygon((-0.45, 0.5), (0.45, 0.5), (-0.45, -0.5), (0.45, -0.5)),
        "bowtie": lambda: polygon((0.5, -0.45), (0.5, 0.45), (-0.5, -0.45), (-0.5, 0.45)),
        "bar": lambda: polygon((-0.55, -0.22), (0.55, -0.22), (0.55, 0.22), (-0.55, 0.22)),
        "column": lambda: polygon((-0.22, -0.55), (0.22, -0.55), (0.22, 0.55), (-0.22, 0.55)),
    }
    return shapes[shape]()


def svg_path(style: Look) -> str:
    """Return the outline of a look's marker as SVG path data that touches the square from -0.5 to 0.5."""
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    parts = []
    for vertices, code in marker_path(style.marker).iter_segments(simplify=False):
        numbers = [] if code == 79 else [f"{sign * v + 0:.3g}" for v, sign in zip(vertices, (1, -1) * 3, strict=False)]
        parts.append(letters[int(code)] + " ".join(numbers))
    return "".join(parts)
