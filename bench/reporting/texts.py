"""Texts that the models of one data set and preset generate, as Markdown: samples, reconstructions, interpolations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.files import read_json
from bench.evaluation.record import SampleTexts
from bench.reporting.render import code, escape_markdown
from bench.reporting.template import template

if TYPE_CHECKING:
    from pandas import DataFrame

#: Decoding methods: how a point of the latent space becomes a sentence.
DECODING = {
    "greedy": "the most probable word at every step",
    "beam": "beam search",
    "ancestral": "one sample from p(x|z)",
}


@dataclass(frozen=True)
class Samples:
    """The texts of one cell."""

    seed: int
    texts: SampleTexts


def read_samples(frame: DataFrame, log: Callable[[str], object]) -> dict[str, Samples]:
    """Return the texts of the first seed of every method that has some; ``log`` receives damaged files."""
    samples = {}
    for name, cells in frame[frame["status"] == "done"].groupby("method", sort=False):
        file = cells["cell"].iloc[0].folder / "texts.json"
        try:
            if (record := read_json(file, missing_ok=True)) is not None:
                samples[name] = Samples(int(cells["seed"].iloc[0]), SampleTexts.model_validate(record))
        except (OSError, ValueError) as error:
            log(f"no texts of {name}: {file.parent.name}/{file.name} is damaged ({type(error).__name__})")
    return samples


def markdown(title: str, samples: Mapping[str, Samples]) -> str:
    """Return the texts of all methods as one Markdown page."""
    functions = {"escape": escape_markdown, "code": code, "sentence": sentence}
    return template("texts.md").render(title=title, samples=samples, decoding=DECODING, **functions)


def sentence(text: str) -> str:
    """Return a sentence that Markdown shows as it is inside a list; an empty one is marked."""
    text = re.sub(r"^(\d+)([.)])", r"\1\\\2", escape_markdown(text))
    return re.sub(r"^([-+>])", r"\\\1", text) or "*(empty)*"
