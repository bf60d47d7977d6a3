"""What the models of one data set and preset write, as a page of Markdown: samples, reconstructions, interpolations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.core.files import read_json
from bench.experiment.schema import problem_of_texts
from bench.reporting.render import code, escape_markdown

if TYPE_CHECKING:
    from pandas import DataFrame

#: How a point of the latent space becomes a sentence.
WAYS = {"greedy": "the most probable word at every step", "beam": "beam search", "ancestral": "one draw from p(x|z)"}


def read(frame: DataFrame, log: Callable[[str], object]) -> dict[str, tuple[int, dict]]:
    """Method -> (seed, texts) of its first seed, where there are some.

    A damaged file is left out, which goes to ``log``.
    """
    found = {}
    for name, cells in frame[frame["status"] == "ok"].groupby("method", sort=False):
        file = cells["cell"].iloc[0].folder / "texts.json"
        try:
            if (texts := read_json(file, missing_ok=True)) is not None:
                if wrong := problem_of_texts(texts):
                    raise ValueError(wrong)
                found[name] = int(cells["seed"].iloc[0]), texts
        except (OSError, ValueError) as error:
            log(f"no texts of {name}: {file.parent.name}/{file.name} is damaged ({type(error).__name__})")
    return found


def page(title: str, found: Mapping[str, tuple[int, dict]]) -> str | None:
    """Markdown of what ``read`` found, None where it found nothing."""
    sections: list[str] = []
    for name, (seed, texts) in found.items():
        sections += ["", f"## {code(name)}", "", f"Seed {seed}.", *_section(texts)]
    if not sections:
        return None
    ways = "; ".join(f"*{way}*: {what}" for way, what in WAYS.items())
    head = [f"# {escape_markdown(title)}: texts", "", f"What z says, in three ways. {ways}."]
    return "\n".join(head + sections) + "\n"


def _section(texts: dict) -> Iterator[str]:
    yield from ("", "### Samples from the prior", "")
    yield from (f"1. {shown(text)}" for text in texts["samples"])
    if texts.get("reconstructions"):
        yield from ("", "### Reconstructions from the posterior mean", "")
        for each in texts["reconstructions"]:
            yield f"1. {shown(each['original'])}"
            yield from (f"   - *{way}*: {shown(each[way])}" for way in WAYS)
    if texts.get("interpolations"):
        yield from ("", "### Interpolations between posterior means", "")
        for each in texts["interpolations"]:
            yield f"1. from: {shown(each['start'])}\\"
            yield f"   to: {shown(each['end'])}"
            yield from _steps(each["steps"])


def _steps(steps: Sequence[dict]) -> Iterator[str]:
    """Way by way, for what changes from step to step is what the reader looks for."""
    for way in WAYS:
        yield f"   - *{way}*"
        yield from (f"     - {step['share']:.0%}: {shown(step[way])}" for step in steps)


def shown(text: str) -> str:
    """A sentence as it is: no list, heading or quotation where it begins like one; an empty one said to be so."""
    text = re.sub(r"^(\d+)([.)])", r"\1\\\2", escape_markdown(text))
    return re.sub(r"^([-+>])", r"\\\1", text) or "*(nothing)*"
