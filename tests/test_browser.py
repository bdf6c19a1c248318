"""The pages in a real browser: no error, no request, usable by keyboard, legible, narrow enough."""

from __future__ import annotations

import shutil
from dataclasses import asdict

import pytest
import torch

from preimage.gallery import GalleryClass, gallery_page
from preimage.pages import Cell, Picture, Table, histogram, page, strip
from preimage.panels import heat, histograms, paths, scatter, strips, table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
NASTY = "<b onclick=alert(1)>"
PAGES = ("gallery", "report", "audit")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic")


def _images(count):
    return torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def _panels():
    rows = [[Cell("one"), Cell("0.5", best=True)], [Cell(NASTY), Cell("0.25")]]
    known, unknown = torch.linspace(0, 1, 50), torch.linspace(0.5, 2, 50)
    images = _images(6)
    distances = torch.rand(14, 14).fill_diagonal_(float("nan"))
    ways = [
        (
            "a to b",
            [
                Picture(strip("", "", images, [""] * 6).pictures[i].uri, "50% | 50%")
                for i in range(6)
            ],
        )
    ]
    groups, texts = [0, 1, 0, 1, 0, 1], [f"image {i}" for i in range(6)]
    points = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])
    return [
        table(Table("Figures", ["name", "value"], rows)),
        histograms(
            "Scores", ("known", "unknown", "images."), [histogram("x", known, unknown, 1.0)]
        ),
        strips("Images", "Some.", [strip(NASTY, "12 images", images, ["seen"] * 6)]),
        heat("Distances", "Near is dark.", [f"class {i}" for i in range(14)], distances),
        paths("Ways", "From one to the other.", ways),
        scatter("Map", "Points.", points, groups, ["inverted", "real"], texts, images),
    ]


def _audit():
    from preimage.auditing.answers import answers, premise
    from preimage.auditing.page import audit_page
    from preimage.auditing.record import empty_sections

    sections = empty_sections()
    sections["ood"].update(
        auroc=0.97, auroc_lowest=0.9, sets=["noise"], images_each=10, fpr95=0.1, score="msp"
    )
    interval = {"balanced_low": 0.25, "balanced_high": 0.36, "guessing": 0.34}
    task = {"accuracy": 0.31, "balanced_accuracy": 0.3, "images": 400, "works": "no"}
    sections["task"].update(task | interval)
    entry = {
        "name": "inversion",
        "question": "accept",
        "state": "done",
        "reason": None,
        "notes": ["A note."],
        "panels": _panels(),
        "seconds": 1.0,
        "figures": {},
    }
    left = {**entry, "name": "leak", "question": "leak", "state": "left out", "reason": "no data"}
    record = {
        "model": NASTY,
        "classes": 3,
        "image": [1, 12, 12],
        "data": None,
        "data_split": True,
        "seed": 0,
        "budget_s": 60.0,
        "seconds": 50.0,
        **sections,
        "premise": asdict(premise(sections["task"], "")),
        "parts": [entry, {**left, "panels": []}],
        "versions": {"preimage": "0"},
        "hardware": "a machine",
        "commit": None,
        "command": "preimage audit x",
    }
    found = answers(sections, {"leak": "No data."})
    return audit_page(record, found, [entry, {**left, "panels": []}], [])


def _page(name):
    if name == "gallery":
        classes = [GalleryClass(NASTY, _images(24), [0.9] * 24) for _ in range(3)]
        return gallery_page("What it accepts", classes, {"Accuracy": "99 %"}, ["A note."])
    if name == "report":
        return page("A report", "With everything.", _panels(), {"Figure": "1"}, ["A note."])
    return _audit()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(params=PAGES)
def opened(request, browser, tmp_path):
    """A page that fails the test at its end if it said or asked for anything."""
    file = tmp_path / "page.html"
    file.write_text(_page(request.param))
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.on("request", lambda r: asked.append(r.url) if not r.url.startswith("data:") else None)
    tab.goto(file.as_uri())
    tab.kind = request.param
    yield tab
    context.close()
    assert said == [] and asked == [file.as_uri()]


def _violations(tab):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab, options={"runOnly": {"type": "tag", "values": RULES}}).response
    return [
        (
            violation["id"],
            violation["nodes"][0]["html"][:200],
            violation["nodes"][0]["failureSummary"],
        )
        for violation in found["violations"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    assert _violations(opened) == []


def test_theme_switches(opened):
    def back():
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    before = back()
    opened.get_by_role("button", name="Switch between light and dark").click()
    after = back()
    assert after != before
    opened.keyboard.press("Enter")
    assert back() == before


def test_narrow_screen_has_no_sideways_scroll(opened):
    opened.set_viewport_size({"width": 360, "height": 800})
    wide = opened.evaluate("document.documentElement.scrollWidth")
    assert wide <= 360


def test_keyboard_reaches_the_first_control(opened):
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.id || document.activeElement.tagName") == "theme"


def test_paper_has_no_buttons(opened):
    opened.emulate_media(media="print")
    assert not opened.locator("#theme").is_visible()


def test_text_in_names_stays_text(opened):
    assert opened.locator("b").count() == 0
    assert NASTY in opened.inner_text("body")


def test_pointing_at_a_mark_shows_its_image(opened):
    if opened.kind == "gallery":
        pytest.skip("the gallery has no map")
    caption, tile = opened.locator(".look figcaption"), opened.locator(".tile")
    assert not tile.is_visible()
    opened.locator(".map circle").first.hover()
    assert caption.inner_text() == "image 0" and tile.is_visible()
    place = tile.evaluate("node => node.style.backgroundPosition")
    opened.locator(".map svg").focus()
    opened.keyboard.press("ArrowRight")
    assert caption.inner_text() == "image 2"
    assert tile.evaluate("node => node.style.backgroundPosition") != place
    opened.keyboard.press("ArrowDown")
    assert caption.inner_text() == "image 3"
