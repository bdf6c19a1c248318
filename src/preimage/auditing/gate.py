"""Conditions on an audit's figures, for continuous integration. No torch here."""

from __future__ import annotations

import difflib
import math
import operator
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preimage.auditing.figures import Figure, Number, Other, Word, figures
from preimage.auditing.markdown import cell, code
from preimage.auditing.record import told, value_of
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


@dataclass(frozen=True)
class Condition:
    """Under which an audit is refused."""

    text: str
    figure: str
    """Its name, such as "ood.auroc"."""
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
        PreimageError: for one that is no condition, for a figure that audits do not have, and for
            one that no audit or every audit would meet: such a gate would not look at anything.
    """
    return [_parse(text) for text in texts]


def check(record: Mapping[str, Any], conditions: Iterable[Condition]) -> list[Outcome]:
    """Hold an audit against conditions.

    A figure that was not measured fails its condition: a gate must not pass by not looking.
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
    """A short summary: its accuracy, the three answers, and the conditions where there are some."""
    lines = [
        f"# Audit of {cell(record['model'])}",
        "",
        "| question | answer | figure |",
        "|---|---|---|",
        *(
            f"| {cell(a['question'])} | {cell(a['answer'])} "
            f"| {cell(a['figure'])} {cell(a['meaning'])} |"
            for a in told(record)
        ),
    ]
    if outcomes:
        lines += ["", "| fail on | measured | result |", "|---|---|---|"]
        lines += [
            f"| {code(o.condition)} | {cell(_text(o.measured))} "
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
    name, comparison, wanted = found.groups()
    known = figures()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise PreimageError(
            f"expected a figure of an audit in '{text}', found '{name}'; {guess}All of them are in "
            "audit.json"
        )
    return Condition(text, name, comparison, _value(text, known[name], comparison, wanted))


def _value(text: str, figure: Figure, comparison: str, wanted: str) -> Value:
    if isinstance(figure, Other):
        raise PreimageError(
            f"expected a single number or word to compare in '{text}', found a list or a sentence; "
            "name another figure"
        )
    if isinstance(figure, Word):
        return _word(text, figure, comparison, wanted)
    return _number(text, figure, comparison, wanted)


def _word(text: str, figure: Word, comparison: str, wanted: str) -> str:
    word = _unquoted(wanted)
    if comparison not in ("==", "!="):
        raise PreimageError(
            f"expected == or != before the word in '{text}', found {comparison}; words have no size"
        )
    if figure.choices and word not in figure.choices:
        raise PreimageError(
            f"expected one of {', '.join(repr(choice) for choice in figure.choices)} in '{text}', "
            f"found '{word}', which no audit says; correct the spelling"
        )
    return word


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _number(text: str, figure: Number, comparison: str, wanted: str) -> float:
    try:
        value = float(wanted)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PreimageError(
            f"expected a number after '{comparison}' in '{text}', found '{wanted}'; give one such "
            "as 0.95"
        )
    if comparison in ("==", "!=") and not figure.whole:
        raise PreimageError(
            f"expected <, <=, > or >= in '{text}', found {comparison}; a measured quantity hardly "
            "ever equals a number exactly"
        )
    if not _decides(figure, comparison, value):
        raise PreimageError(
            f"expected a value that some audits are below and others above in '{text}', found "
            f"{wanted}, while the figure lies {_bounds(figure)}; give another value"
        )
    return value


def _decides(figure: Number, comparison: str, value: float) -> bool:
    """Whether an audit can meet the condition and another one not."""
    if comparison in ("<", ">="):
        return figure.low < value <= figure.high
    if comparison in (">", "<="):
        return figure.low <= value < figure.high
    return figure.low <= value <= figure.high and value.is_integer()


def _bounds(figure: Number) -> str:
    if math.isinf(figure.high):
        kind = " and is whole" if figure.whole else ""
        return f"at {figure.low:g} or above{kind}"
    return f"between {figure.low:g} and {figure.high:g}"


def _check(record: Mapping[str, Any], condition: Condition) -> Outcome:
    measured = value_of(record, condition.figure)
    if measured is None:
        text = f"{condition.text}: it was not measured, so the audit cannot pass"
        return Outcome(condition.text, None, True, text)
    failed = _OPERATORS[condition.comparison](measured, condition.value)
    text = f"{condition.text}: measured {_text(measured)}"
    return Outcome(condition.text, measured, failed, text)


def _text(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
