"""Text in the cells of a Markdown table."""

from __future__ import annotations


def cell(text: object) -> str:
    """Text that cannot end the cell or begin HTML."""
    escaped = str(text).replace("\\", "\\\\").replace("|", "\\|")
    return " ".join(escaped.replace("<", "&lt;").replace(">", "&gt;").split())


def code(text: str) -> str:
    """A span of code, in which nothing but the cell's end is special."""
    return "`" + text.replace("|", "\\|") + "`"
