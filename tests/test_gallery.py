"""Pictures hold exactly the pixels given, and the page holds all that it shows."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from preimage.gallery import MOST_CLASSES, GalleryClass, gallery_page, grid_png

VOID = {"img", "meta", "link", "br", "hr", "input"}


def pixels(png):
    return np.array(Image.open(io.BytesIO(png)))


def test_grey_grid_is_pixel_exact():
    images = torch.tensor([[0.0, 1.0], [0.4, 0.2], [1.0, 0.0]]).view(3, 1, 1, 2)
    gap = [128] * 5
    expected = [[0, 255, 128, 102, 51], gap, [255, 0, 128, 128, 128]]
    assert pixels(grid_png(images, columns=2, gap=1)).tolist() == expected


def test_scale_repeats_pixels_and_leaves_the_gap_alone():
    images = torch.tensor([[0.0, 1.0], [0.4, 0.2]]).view(2, 1, 1, 2)
    row = [0, 0, 0, 255, 255, 255, 128, 128, 102, 102, 102, 51, 51, 51]
    assert pixels(grid_png(images, columns=2, scale=3, gap=2)).tolist() == [row] * 3


def test_colour_grid_is_pixel_exact():
    red_blue = torch.tensor([[[1.0, 0.0]], [[0.0, 0.2]], [[0.0, 1.0]]])
    images = torch.stack([red_blue, red_blue.flip(2)])
    found = pixels(grid_png(images, columns=1, gap=1))
    first, second = [255, 0, 0], [0, 51, 255]
    assert found.tolist() == [[first, second], [[128] * 3] * 2, [second, first]]


def test_grid_is_no_wider_than_its_images_and_other_channels_show_the_first():
    images = torch.rand(2, 5, 4, 3)
    found = pixels(grid_png(images, columns=9, gap=0))
    assert found.shape == (4, 6)
    expected = torch.cat([*images[:, 0].mul(255).round()], dim=1)
    assert np.array_equal(found, expected.numpy())


class Page(HTMLParser):
    """Reads a page, and fails where a tag is not closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def some_classes(count, images=2, shape=(1, 8, 8), confidence=0.75):
    random = torch.Generator().manual_seed(0)
    return [
        GalleryClass(
            f"class {k}", torch.rand(images, *shape, generator=random), [confidence] * images
        )
        for k in range(count)
    ]


EVIL = """<script>alert("1")</script> & 'co'"""


def test_page_shows_names_figures_and_notes_as_text_and_never_as_html():
    classes = [*some_classes(2), GalleryClass(EVIL, torch.rand(1, 3, 8, 8), [0.5])]
    plain = Page(gallery_page("Title", some_classes(3), {"Accuracy": "12.34%"}, ["A note."]))
    odd = Page(gallery_page(EVIL, classes, {EVIL: "12.34%"}, [EVIL]))
    assert len(odd.all("script")) == len(plain.all("script"))
    assert odd.text.count(EVIL) >= 5  # title, heading, figure, class, note
    assert odd.all("img")[-1]["alt"].endswith(EVIL)
    for shown in ("Title", "Accuracy", "12.34%", "A note.", "class 1", "75.0 % confident"):
        assert shown in plain.text


def test_no_line_ends_within_an_option():
    note = "give --data or --dp-noise 3 -- not x--y, a-b & <b>"
    text = gallery_page("Title", some_classes(1), {}, [note])
    assert note in Page(text).text
    spans = re.findall(r'<span class="option">([^<]*)</span>', text)
    assert spans == ["--data", "--dp-noise"]
    assert ".option { white-space: nowrap; }" in text


def test_page_asks_for_nothing_and_names_every_image():
    text = gallery_page("Title", some_classes(2, shape=(3, 8, 8)), {}, [])
    page = Page(text)
    assert len(page.all("img")) == 4
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            assert attributes.get(name, "data:,").startswith("data:")
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttpRequest", text)
    alts = [image["alt"] for image in page.all("img")]
    assert all(alts) and len(set(alts)) == len(alts)
    assert page.all("html")[0]["lang"] and page.all("title") == [{}]


def test_images_on_the_page_are_those_given_and_in_order():
    given = some_classes(2, images=3)
    shown = Page(gallery_page("Title", given, {})).all("img")
    wanted = torch.cat([item.images for item in given])[:, 0].mul(255).round()
    for image, expected in zip(shown, wanted, strict=True):
        png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        assert np.array_equal(pixels(png), expected.numpy())


@pytest.mark.parametrize(
    ("classes", "left_out", "words"),
    [
        (MOST_CLASSES, 0, None),
        (MOST_CLASSES + 1, 0, "1 more class is not shown"),
        (MOST_CLASSES + 7, 43, "50 more classes are not shown"),
    ],
)
def test_page_says_how_many_classes_it_leaves_out(classes, left_out, words):
    page = Page(gallery_page("Title", some_classes(classes, images=1), {}, left_out=left_out))
    assert len(page.all("img")) == MOST_CLASSES == 50
    assert f"class {MOST_CLASSES - 1}" in page.text
    assert words in page.text if words else "not shown" not in page.text


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 96, 128)])
def test_page_stays_below_ten_megabytes(shape):
    """Noise is the worst case for a PNG file."""
    classes = some_classes(MOST_CLASSES, images=24, shape=shape)
    page = Page(text := gallery_page("Title", classes, {}))
    assert len(text) < 10e6
    assert len({image["alt"] for image in page.all("img")}) >= MOST_CLASSES


def test_large_images_are_reduced_and_the_page_says_so():
    item = GalleryClass("wide", torch.rand(2, 3, 50, 200), [0.9, 0.8])
    page = Page(gallery_page("Title", [item], {}))
    png = base64.b64decode(page.all("img")[0]["src"].removeprefix("data:image/png;base64,"))
    assert pixels(png).shape == (16, 64, 3)
    assert "Images of 50 by 200 pixels are reduced to 64" in page.text
    assert "85.0 % confident on average" in page.text
    assert [image["title"] for image in page.all("img")] == ["90.0 % confident", "80.0 % confident"]


def test_dark_follows_the_system_or_the_button_and_never_reaches_paper():
    text = gallery_page("Title", some_classes(1), {})
    style = text[text.index("<style>") : text.index("</style>")]
    # every rule that sets dark colours stands in a media query for screens
    dark = re.findall(r"@media screen[^{]*{\s*:root[^{]*{[^}]*color-scheme: dark", style)
    assert len(dark) == style.count("color-scheme: dark;") == 2
    assert "prefers-color-scheme: dark" in "".join(dark) and "data-theme" in "".join(dark)
    (button,) = Page(text).all("button")
    assert "hidden" in button and button["type"] == "button" and button["aria-label"]


def test_page_without_figures_notes_or_images_has_no_empty_parts():
    page = Page(gallery_page("Title", [GalleryClass("none", torch.rand(0, 1, 8, 8), [])], {}))
    assert not page.all("dl") and not page.all("details") and not page.all("img")
    assert "none" in page.text


def luminance(colour):
    """Relative luminance of "#rrggbb" by WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_the_contrast_that_wcag_aa_asks_for():
    text = gallery_page("Title", some_classes(1), {})
    themes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root[^{]*{([^}]*)}", text)
    ]
    assert len(themes) == 3
    for theme in themes:
        for ink in ("ink", "soft"):
            for back in ("back", "card"):
                pair = sorted([luminance(theme[ink]), luminance(theme[back])])
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5
