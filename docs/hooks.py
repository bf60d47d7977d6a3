"""Hooks of MkDocs (mkdocs.yml): add the pages of the site and adapt their links.

The site has the folders of the repository. In the place of a method's file is its card, and ``results/figures/`` is a
gallery.
"""

from __future__ import annotations

import re
from pathlib import Path

import generate  # docs/generate.py: MkDocs imports this file with its folder on sys.path
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "results/*.md", "results/**/tables/*.md")
FILES = (
    "CITATION.cff",
    "LICENSE",
    "docs/*.json",
    "docs/slurm.sh",
    "results/**/tables/*.csv",
    "results/**/figures/*/*.png",
    ".github/workflows/*",
)
FIGURES = "results/figures"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the methods to the navigation, by family."""
    families: dict[str, list[dict[str, str]]] = {}
    for cls in generate.method_classes():
        families.setdefault(cls.family, []).append({cls.name: f"methods/{cls.name}.md"})
    config.nav[-1]["Methods"] += [{family: pages} for family, pages in families.items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository, the cards and the gallery."""
    for pattern in (*PAGES, *FILES):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            included = InclusionLevel.INCLUDED if name.startswith(".") else InclusionLevel.UNDEFINED
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls, inclusion=included))
    for cls in generate.method_classes():
        files.append(File.generated(config, f"methods/{cls.name}.md", content=generate.card(cls)))
    files.append(File.generated(config, f"{FIGURES}/README.md", content=gallery()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Point links to the cards and the gallery, and remove the escapes that GitHub needs and Python-Markdown shows."""
    markdown = re.sub(r"\]\(((?:\.\./)*methods/\w+)\.py\)", r"](\1.md)", markdown)
    markdown = re.sub(r"\]\(((?:\S*/)?figures)/([\w-]+)\)", r"](\1/README.md#\2)", markdown)
    markdown = re.sub(r"\\([~$])", r"\1", markdown.replace(r"\<", "&lt;"))
    row = re.compile(r"^\|.*$", re.MULTILINE)
    return row.sub(lambda match: re.sub(r"`[^`]+`", lambda code: code[0].replace(r"\|", "|"), match[0]), markdown)


def gallery() -> str:
    """Return a page of all figures under ``results/``."""
    lines = [
        "# Gallery",
        "",
        "Every figure of the published results. `python -m bench report` draws them as PDF, too.",
    ]
    for folder in sorted(path for path in (ROOT / FIGURES).iterdir() if path.is_dir()):
        lines += ["", f"## {folder.name}", ""]
        for figure in sorted(folder.glob("*.png")):
            title = figure.stem.replace("_", " ")
            lines += [f"**{title}**", "", f"![{title}]({folder.name}/{figure.name}){{ loading=lazy }}", ""]
    return "\n".join(lines) + "\n"
