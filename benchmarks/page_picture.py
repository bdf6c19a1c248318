"""Draw the README's picture of an audit: the top of its page, as a browser shows it.

    preimage audit mnist --ood fashion_mnist cifar10 gtsrb --budget 3m --out runs/audit-mnist
    python benchmarks/page_picture.py runs/audit-mnist

It takes a ``chromium`` on the path.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from preimage.files import write_atomic

PICTURE = Path(__file__).parents[1] / "docs" / "audit.png"
WIDTH, HEIGHT = 1100, 770


def main() -> None:
    """Draw the page of the run folder named on the command line."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit("expected a chromium on the path, found none; install it")
    [run] = sys.argv[1:]
    write_atomic(PICTURE, drawn(Path(run) / "audit.html", browser))


def drawn(page: Path, browser: str) -> bytes:
    """PNG file of what is seen of a page before anyone scrolls."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        view = opened.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        view.goto(page.resolve().as_uri())
        picture = view.screenshot()
        opened.close()
    return picture


if __name__ == "__main__":
    main()
