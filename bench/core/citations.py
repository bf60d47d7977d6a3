"""Links to cited papers.

A citation contains the identifier of its paper: ``arXiv 1901.05534``, else ``OpenReview Sy2fzU9gl``,
``ACL Anthology 2024.lrec-main.1250`` or ``doi 10.1126/science.1127647``.
"""

from __future__ import annotations

import re

ADDRESSES = {
    "arXiv": "https://arxiv.org/abs/",
    "OpenReview": "https://openreview.net/forum?id=",
    "ACL Anthology": "https://aclanthology.org/",
    "doi": "https://doi.org/",
}
IDENTIFIER = re.compile(
    r"\b(?:(arXiv)[ :](\d{4}\.\d{4,5})|(OpenReview) ([\w-]{8,})"
    r"|(ACL Anthology) ([A-Z]\d\d-\d{4}|\d{4}\.[\w-]+\.\d+)|(doi)[ :](10\.\d{4,9}/[^\s,;)]*\w))"
)


def paper_links(text: str) -> list[str]:
    """Return the addresses of the papers whose identifiers are in a text, each once, in the order of the text."""
    identifiers = ([part for part in match.groups() if part] for match in IDENTIFIER.finditer(text))
    return list(dict.fromkeys(ADDRESSES[archive] + identifier for archive, identifier in identifiers))


def paper_link(citation: str) -> str:
    """Return the address of the first paper of a citation, or "" if it has no identifier."""
    return next(iter(paper_links(citation)), "")
