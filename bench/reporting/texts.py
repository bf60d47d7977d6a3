"""Texts that the models of one data set and preset generate, as Markdown: samples, reconstructions, interpolations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.files import read_json
from bench.evaluation.record import DecodedText, SampleTexts
from bench.reporting.render import code, escape_markdown

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
    methods = "; ".join(f"*{name}*: {meaning}" for name, meaning in DECODING.items())
    lines = [f"# {escape_markdown(title)}: texts", "", f"Every z is decoded in three ways. {methods}."]
    for name, sample in samples.items():
        lines += ["", f"## {code(name)}", "", f"Seed {sample.seed}.", *_section(sample.texts)]
    return "\n".join(lines) + "\n"


def _section(texts: SampleTexts) -> Iterator[str]:
    yield from ("", "### Samples from the prior", "")
    yield from (f"1. {sentence(text)}" for text in texts.samples)
    if texts.reconstructions:
        yield from ("", "### Reconstructions from the posterior mean", "")
        for item in texts.reconstructions:
            yield f"1. {sentence(item.original)}"
            yield from (f"   - *{name}*: {_decoded(item, name)}" for name in DECODING)
    if texts.interpolations:
        yield from ("", "### Interpolations between posterior means", "")
        for pair in texts.interpolations:
            yield f"1. from: {sentence(pair.start)}\\"
            yield f"   to: {sentence(pair.end)}"
            for name in DECODING:
                yield f"   - *{name}*"
                yield from (f"     - {step.share:.0%}: {_decoded(step, name)}" for step in pair.steps)


def _decoded(text: DecodedText, method: str) -> str:
    return sentence(getattr(text, method))


def sentence(text: str) -> str:
    """Return a sentence that Markdown shows as it is inside a list; an empty one is marked."""
    text = re.sub(r"^(\d+)([.)])", r"\1\\\2", escape_markdown(text))
    return re.sub(r"^([-+>])", r"\\\1", text) or "*(empty)*"
