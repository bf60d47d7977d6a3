"""The page in headless Chromium: no message, no overflow, and every control does what it says."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse
from xml.etree import ElementTree

import pytest

from bench.reporting.report import build
from tests.fixtures import make_cells

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if not CHROMIUM:
    pytest.skip("Chromium is not installed", allow_module_level=True)

WIDTHS = (1440, 1024, 390)
SIX = ("ΔNLL", "MI", "collapsed", "cost", "n")  # and the method


@pytest.fixture(scope="module")
def address(text_cells: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a valid assay on images and of cells on text."""
    out = tmp_path_factory.mktemp("page")
    shutil.copytree(text_cells, out, dirs_exist_ok=True)
    make_cells.write(out, [*make_cells.THREE, *make_cells.CONTROLS], groups={}, endings={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.reporting.figures.draw", lambda *_: [])
        build(out, log=lambda line: None)
    return (out / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: sync_api.Browser, address: str):
    """Return a function that opens the page; fails if the page wrote to the console."""
    contexts, messages = [], []

    def load(width: int = 1440, scheme: str = "light", fragment: str = "") -> sync_api.Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
        page.goto(f"{address}{fragment}")
        page.wait_for_selector("figure svg")
        return page

    yield load
    for context in contexts:
        context.close()
    assert messages == []


def rows(page: sync_api.Page) -> list[str]:
    return page.eval_on_selector_all("#table tr[data-row]", "rows => rows.map((row) => row.dataset.row)")


def state(page: sync_api.Page) -> dict[str, list[str]]:
    return parse_qs(urlparse(page.url).fragment)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_its_window(open_page, width: int, scheme: str):
    page = open_page(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1440:
        assert page.evaluate("document.documentElement.scrollHeight") <= 10 * 900
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 23, 26)")


@pytest.mark.parametrize("width", WIDTHS)
def test_six_numbers_of_a_row_can_be_read(open_page, width: int):
    page = open_page(width)
    for label in SIX:
        box = page.locator(f"#table tr[data-row='vae'] td[data-label='{label}']").bounding_box()
        assert box and 0 <= box["x"] and box["x"] + box["width"] <= width, label


def test_first_screen_names_the_recommended_rows_and_their_cost(open_page):
    page = open_page()
    data = json.loads(page.inner_text("#data"))
    for group in data["sets"]:
        card = page.locator("button.answer", has_text=group["title"].partition(" (")[0])
        assert group["answer"]["text"] in card.inner_text()
        for winner in group["answer"]["winners"][:5]:
            [row] = [row for row in group["rows"] if row["id"] == winner]
            assert row["name"] in card.inner_text() and "cost" in card.inner_text()
    assert page.locator("#answer").bounding_box()["y"] < 300


def test_filters_order_and_state_are_in_the_address(open_page):
    page = open_page()
    everything = rows(page)
    page.fill("input[type=search]", "vae")
    assert 0 < len(rows(page)) < len(everything) and state(page)["q"] == ["vae"]
    page.fill("input[type=search]", "")
    page.click("#table button.chip:text-is('hide collapsed')")
    assert len(rows(page)) < len(everything)
    page.click("#table button.chip:text-is('hide collapsed')")
    page.click("#table th button:text-is('MI')")
    rising = rows(page)
    page.click("#table th button:text-is('MI')")
    assert state(page) == {"sort": ["mi"], "down": ["1"]} and {*rising} == {*everything} and rows(page) != rising
    page.click("#table button.chip:text-is('Information')")
    assert page.locator("#table td[data-label='KL']").count() == len(everything)
    again = open_page(fragment=f"#{urlparse(page.url).fragment}")
    assert rows(again) == rows(page) and again.locator("#table td[data-label='KL']").count() == len(everything)


def test_two_pinned_rows_give_their_paired_difference(open_page):
    page = open_page()
    page.click("button[aria-label='pin vae']")
    page.click("button[aria-label='pin autoregressive']")
    assert "common seed" in page.inner_text(".pins .pair") and state(page)["pins"] == ["vae|autoregressive"]


def test_a_row_opens_to_its_seeds_and_command(open_page):
    page = open_page()
    page.click("#table tr[data-row='vae'] button.name")
    details = page.inner_text(".details")
    assert "Seeds" in details and "--methods vae" in details and "runs/" in details
    assert page.locator(".details svg").count() > 0


@pytest.mark.parametrize("name", ["decision", "nll-difference", "mi", "cost", "rate-distortion", "dynamics"])
def test_figures_can_be_hovered_and_downloaded(open_page, tmp_path: Path, name: str):
    page = open_page()
    figure = page.locator(f"figure[data-figure='{name}']")
    box = figure.locator("svg").first.bounding_box()
    figure.scroll_into_view_if_needed()
    figure.locator("svg").first.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    for kind in ("SVG", "CSV"):
        with page.expect_download() as download:
            figure.locator(f"figcaption button:text-is('{kind}')").click()
        download.value.save_as(tmp_path / kind)
    assert ElementTree.parse(tmp_path / "SVG").getroot().findall(".//{*}path")
    with (tmp_path / "CSV").open(encoding="utf-8", newline="") as file:
        assert "vae" in {row["method"] for row in csv.DictReader(file)}
