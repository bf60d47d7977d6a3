"""``results/``: tables that are those of the records, and a page whose numbers are looked up in the tables."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from jinja2 import Environment

from bench.core.errors import UserError
from bench.core.files import read_json
from bench.reporting import readme, report
from bench.reporting.tables import PUBLISHED
from tests.fixtures import make_cells

RESULTS = Path(__file__).parents[1] / "results"
#: It and the folders in it with a report of their own.
OUTPUTS = (RESULTS, *(tables.parent for tables in sorted(RESULTS.glob("*/tables"))))
PAGES = ("README.md", "details.md")
#: The cells of every data set and preset, the fewest first; the others are slow.
FOLDERS = sorted(
    (folder for out in OUTPUTS for folder in out.glob("runs/*/*")), key=lambda folder: len([*folder.glob("*/*")])
)
DECIMAL = re.compile(r"(?<![\w.=])\d[\d,]*\.\d+(?![\w.])")
#: What may have digits in the text of a template: code, links, versions, years.
NOT_TYPED = re.compile(r"^    .*$|`[^`]*`|\]\([^)]*\)|version \d\.\d\.\d|\(\d{4}\)", re.MULTILINE)


@pytest.fixture(scope="module")
def pilot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fabricated cells of data sets that the template is about, with their tables and the page."""
    out = tmp_path_factory.mktemp("pilot")
    controls = [
        (make_cells.method("autoencoder", 5), 118.0, 7.5, 2, 1.0),
        (make_cells.method("shuffled_encoder", 6), 118.9, 0.02, 0, 1.0),
    ]
    yahoo = {"dataset": replace(make_cells.TEXT, name="yahoo"), "preset": "small"}
    make_cells.write(out, **make_cells.TEXT_CELLS | yahoo | {"methods": [*make_cells.TEXTS, *controls]})
    make_cells.write_audit(out, "vae")
    make_cells.write(out, seeds=1, dataset=replace(make_cells.DATA, name="omniglot"), preset="small")
    for template in RESULTS.glob("*.j2"):
        shutil.copy(template, out)
    build_without_figures(out)
    return out


def build_without_figures(out: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.reporting.figures.draw", lambda *_: [])
        report.build(out, log=lambda line: None)


@pytest.mark.parametrize("page", PAGES)
def test_page_is_the_rendered_template(page: str):
    template, text = RESULTS / f"{page}.j2", (RESULTS / page).read_text("utf-8")
    assert readme.render(template, RESULTS) == text, "run python -m bench report results"
    assert not typed_numbers(template.read_text("utf-8"))
    assert not unknown_numbers(text, RESULTS)


@pytest.mark.parametrize(
    "folder", [*FOLDERS[:1], *(pytest.param(folder, marks=pytest.mark.slow) for folder in FOLDERS[1:])]
)
def test_tables_are_those_of_the_records(folder: Path, tmp_path: Path):
    out = folder.parents[2]
    (tmp_path / "runs" / folder.parent.name).mkdir(parents=True)
    (tmp_path / folder.relative_to(out)).symlink_to(folder)
    for name in ("sweeps.json", "audit"):
        if (out / name).exists():
            (tmp_path / name).symlink_to(out / name)
    (tmp_path / "tuning").mkdir()
    for link in (out / "tuning" / "runs", *out.glob(f"tuning/{folder.parent.name}-{folder.name}-*.json")):
        (tmp_path / "tuning" / link.name).symlink_to(link)
    build_without_figures(tmp_path)
    built = {file.name: file.read_bytes() for file in (tmp_path / "tables").iterdir()}
    rows = built.pop(report.AUDIT.name, b"").splitlines()
    assert {*rows} <= ({*(out / report.AUDIT).read_bytes().splitlines()} if rows else set())
    assert built == {file: (out / "tables" / file).read_bytes() for file in built}, f"run python -m bench report {out}"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_tables_compile_and_fit_the_page(tmp_path: Path):
    files = [file.with_suffix("").as_posix() for out in OUTPUTS for file in sorted(out.glob("tables/*.tex"))]
    inputs = "".join(f'\\input{{"{file}"}}\\clearpage\n' for file in files)
    preamble = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
    (tmp_path / "all.tex").write_text(f"{preamble}\n{inputs}\\end{{document}}", "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all"]
    log = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", errors="replace").stdout
    assert "Output written" in log and "Overfull" not in log, log[-2000:]


def test_every_table_has_records():
    for out in OUTPUTS:
        ending = r"(-[0-9a-f]{8}|-\w+=.*)?(-tuned\d+(-mi)?)?(-appendix|-trials)?$"
        tables = {re.sub(ending, "", file.stem) for file in out.glob("tables/*")}
        groups = {f"{folder.parent.name}-{folder.name}" for folder in out.glob("runs/*/*")}
        assert tables - {report.AUDIT.stem} == groups


def test_records_name_no_place_of_a_machine():
    names = ("config", "result", "evaluation")
    files = [file for name in names for file in RESULTS.glob(f"**/runs/*/*/*/*/{name}.json")]
    texts = {file: file.read_text("utf-8") for file in files}
    assert not [file for file, text in texts.items() if re.search(r"[\"' =](?:/|~/|[A-Z]:\\)\w", text)]


def test_every_cell_is_evaluated_to_the_end():
    files = [file for out in OUTPUTS for file in out.glob("runs/*/*/*/*/evaluation.json")]
    assert not [file for file in files if read_json(file)["evaluation"]["pending"]]


def test_every_table_has_a_row(pilot: Path):
    text, tables = (pilot / "details.md").read_text("utf-8"), {*readme.Lookup(pilot).tables}
    assert {*by_table(text)} - {""} == tables and len(tables) == 2
    assert "(tables/yahoo-small.md) | valid |" in text and "(tables/omniglot-small.md) | not tested |" in text
    assert len(re.findall(r"\| 2 of \d+, all pass, gain at most -?\d\.\d+ \|", text)) == 1
    for page in (text, (pilot / "README.md").read_text("utf-8")):
        assert not unknown_numbers(page, pilot)
        assert "\n\n\n" not in page and " \n" not in page


def test_numbers_that_are_typed_are_noticed(pilot: Path):
    template, text = (RESULTS / "README.md.j2").read_text("utf-8"), (pilot / "details.md").read_text("utf-8")
    for typed in ("MI is 3.917 nats.", "In 5 of 5 seeds.", "{{ 3.917 }}", "{{ '3.917' }}", "{{ mi + 3.917 }}"):
        assert typed_numbers(template.replace("# Results", f"# Results\n\n{typed}")), typed
    where = text.index("\n", text.index("(tables/yahoo-small.md)"))
    assert unknown_numbers(f"{text[:where]} MI is 3.917 nats.{text[where:]}", pilot) == {"3.917"}


@pytest.mark.parametrize(
    ("lookup", "message"),
    [
        ("value('yahoo-smal', 'vae', 'mi')", "no table 'yahoo-smal': did you mean 'yahoo-small'?"),
        ("value('yahoo-small', 'agressive', 'mi')", "no row 'agressive': did you mean 'aggressive'?"),
        ("value('yahoo-small', 'vae', 'nnll')", "no column 'nnll': did you mean 'nll'?"),
        ("rows('yahoo-small')[0].nnll", "no column 'nnll'"),
        ("published('yahoo (Yang 2017)', 'vae', 'mii')", "no checked 'mii' of 'vae'"),
        ("valeu('yahoo-small', 'vae', 'mi')", "'valeu' is undefined"),
        ("value('yahoo-small', 'vae', 'mi'", "unexpected"),
    ],
)
def test_failed_lookup_names_what_is_missing(pilot: Path, tmp_path: Path, lookup: str, message: str):
    (tmp_path / "tables").symlink_to(pilot / "tables")
    template = tmp_path / "README.md.j2"
    template.write_text(f"{{{{ {lookup} }}}}", "utf-8")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        readme.render(template, tmp_path)
    assert str(template) in str(error.value)


def test_lookups_print_what_the_table_prints(pilot: Path, tmp_path: Path):
    (tmp_path / "tables").symlink_to(pilot / "tables")
    template = tmp_path / "README.md.j2"
    template.write_text(
        "{{ value('yahoo-small', 'sa_vae', 'nll') | number }} {{ difference('yahoo-small', 'sa_vae') }} "
        "{{ verdicts('yahoo-small')['C1'] }} {{ published('yahoo (Yang 2017)', 'sa_vae', 'iw_nll') }}"
    )
    table = (pilot / "tables" / "yahoo-small.md").read_text("utf-8").replace("\\", "")
    text = readme.render(template, tmp_path)
    nll, difference, verdict, number = re.fullmatch(r"(\S+) (\S+ \[.*\]) (\D+) (\S+)", text).groups()
    assert f"{nll} (" in table and difference in table and f"| {verdict} |" in table and number == "329.1"


def typed_numbers(template: str) -> list[str]:
    """Return the numbers that a template does not look up: digits in its text, decimal numbers in its expressions."""
    text, typed = "", []
    for _, kind, value in Environment().lex(template):
        text += value if kind == "data" else ""
        typed += [value] if kind == "float" or (kind == "string" and DECIMAL.search(value.strip("'\""))) else []
    return typed + re.findall(r"\d+", NOT_TYPED.sub("", text))


def unknown_numbers(text: str, out: Path) -> set[str]:
    """Return the decimal numbers that, with as many digits, are not in the table that their line links to, or any."""
    unknown = set()
    for stem, section in by_table(text).items():
        folder, _, name = stem.rpartition("/")
        files = [*(out / folder).glob(f"{'**/' * (not stem)}tables/{name or '*'}.*"), PUBLISHED]
        texts = {file: file.read_text("utf-8") for file in files if file.suffix in (".csv", ".md")}
        tables = " ".join(text.replace(",", " ") if file.suffix == ".csv" else text for file, text in texts.items())
        known = {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?", tables)}
        for number in {*DECIMAL.findall(NOT_TYPED.sub("", section))}:
            digits = len(number.partition(".")[2])
            if not any(f"{value:,.{digits}f}" == number for value in known):
                unknown.add(number)
    return unknown


def by_table(text: str) -> dict[str, str]:
    """Return stem -> the lines of the page that link to the table; "" is all the rest."""
    lines: dict[str, str] = {}
    for line in text.splitlines(keepends=True):
        link = re.search(r"\(([\w-]+/)?tables/(.*?)\.md\)", line)
        stem = f"{link[1] or ''}{link[2]}" if link else ""
        lines[stem] = lines.get(stem, "") + line
    return lines
