"""Conditions on an audit's figures, for continuous integration. No torch here."""

from __future__ import annotations

import difflib
import operator
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preimage.auditing.record import SECTIONS
from preimage.errors import PreimageError

Value = float | str

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(r"\s*([\w.]+)\s*(<=|>=|==|!=|<|>)\s*(.+?)\s*")
_GIVEN = ("classes", "seed", "seconds", "budget_s", "model", "data")
_KNOWN = (*_GIVEN, *(f"{section}.{name}" for section, names in SECTIONS.items() for name in names))


@dataclass(frozen=True)
class Condition:
    """Under which an audit is refused."""

    text: str
    path: tuple[str, ...]
    comparison: str
    value: Value


@dataclass(frozen=True)
class Outcome:
    """What became of a condition."""

    condition: str
    measured: Any
    """None where it was not measured."""
    failed: bool
    text: str
    """One sentence."""


def parse(texts: Iterable[str]) -> list[Condition]:
    """Read conditions such as ``ood.auroc<0.95`` or ``leak.verdict==leaks``.

    Raises:
        PreimageError: for one that is no condition, a figure that audits do not have, or a word
            that is to be compared by size.
    """
    return [_parse(text) for text in texts]


def check(record: Mapping[str, Any], conditions: Iterable[Condition]) -> list[Outcome]:
    """Hold an audit against conditions.

    A figure that was not measured fails its condition: a gate must not pass by not looking.

    Raises:
        PreimageError: where a figure and the value are of different kinds.
    """
    return [_check(record, condition) for condition in conditions]


def junit(outcomes: Sequence[Outcome], name: str) -> str:
    """The outcomes as a JUnit XML test suite, one test case a condition."""
    failures = str(sum(outcome.failed for outcome in outcomes))
    suite = ET.Element(
        "testsuite", name=f"preimage audit {name}", tests=str(len(outcomes)), failures=failures
    )
    for outcome in outcomes:
        case = ET.SubElement(suite, "testcase", classname="preimage.audit", name=outcome.condition)
        if outcome.failed:
            ET.SubElement(case, "failure", message=outcome.text)
    ET.indent(suite)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
    )


def markdown(record: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """A short summary: the three answers, and the conditions where there are some."""
    lines = [
        f"# Audit of {_cell(record['model'])}",
        "",
        "| question | answer | figure |",
        "|---|---|---|",
        *(
            f"| {_cell(a['question'])} | {_cell(a['answer'])} "
            f"| {_cell(a['figure'])} {_cell(a['meaning'])} |"
            for a in record["answers"]
        ),
    ]
    if outcomes:
        lines += ["", "| fail on | measured | result |", "|---|---|---|"]
        lines += [
            f"| `{_cell(o.condition)}` | {_cell(_text(o.measured))} "
            f"| {'failed' if o.failed else 'passed'} |"
            for o in outcomes
        ]
    return "\n".join(lines) + "\n"


def _parse(text: str) -> Condition:
    found = _FORM.fullmatch(text)
    if found is None:
        raise PreimageError(
            f"expected a condition such as 'ood.auroc<0.95', found '{text}'; give a figure, one of "
            f"{' '.join(_OPERATORS)}, and a value"
        )
    path, comparison, wanted = found.groups()
    if path not in _KNOWN:
        near = difflib.get_close_matches(path, _KNOWN, n=2, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise PreimageError(
            f"expected a figure of an audit in '{text}', found '{path}'; {guess}All of them are in "
            "audit.json"
        )
    value = _value(wanted)
    if isinstance(value, str) and comparison not in ("==", "!="):
        raise PreimageError(
            f"expected a number after '{comparison}' in '{text}', found '{wanted}'; words can be "
            "compared by == and != alone"
        )
    return Condition(text, tuple(path.split(".")), comparison, value)


def _value(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text.strip("'\"")


def _check(record: Mapping[str, Any], condition: Condition) -> Outcome:
    measured: Any = record
    for key in condition.path:
        measured = measured[key]
    if measured is None:
        text = f"{condition.text}: it was not measured, so the audit cannot pass"
        return Outcome(condition.text, None, True, text)
    number = isinstance(measured, int | float) and not isinstance(measured, bool)
    if number != isinstance(condition.value, float):
        kind = "a number" if number else "a word"
        raise PreimageError(
            f"expected {kind} in '{condition.text}', found '{condition.value}'; the audit has "
            f"{_text(measured)} there"
        )
    failed = _OPERATORS[condition.comparison](measured, condition.value)
    text = f"{condition.text}: measured {_text(measured)}"
    return Outcome(condition.text, measured, failed, text)


def _text(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """Text that cannot end a cell of a table or begin HTML."""
    escaped = str(text).replace("\\", "\\\\").replace("|", "\\|")
    return " ".join(escaped.replace("<", "&lt;").replace(">", "&gt;").split())
