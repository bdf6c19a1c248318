"""The command line: the only file that prints."""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tyro

from preimage import commands
from preimage.config import ModelConfig
from preimage.errors import PreimageError
from preimage.files import json_text, text_bytes, write_atomic
from preimage.memory import keep_freed_memory
from preimage.run import check_output
from preimage.terminal import Terminal

_DEMO_BUDGET = "2m"
_FAILED = "failed"
"""Conditions of --fail-on that hold, in a result."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        Exit status: 0 done, 2 bad input or too little memory, 3 a condition of --fail-on holds,
        130 interrupted.
    """
    arguments = [
        _at_home(argument) for argument in (sys.argv[1:] if arguments is None else arguments)
    ]
    if arguments == ["--version"]:
        sys.stdout.write(f"preimage {version('preimage')}\n")
        return 0
    command: Any = tyro.cli(
        commands.command_type(arguments),
        prog="preimage",
        description=_DESCRIPTION,
        args=arguments,
        config=(tyro.conf.PositionalRequiredArgs,),
    )
    command = getattr(command, "action", command)
    terminal = Terminal(quiet=_wants_json(command))
    try:
        with terminal, _warnings_as_notes(terminal), _result_alone(command):
            result, title = _HANDLERS[type(command)](command, terminal)
    except PreimageError as error:
        terminal.error(str(error))
        return 2
    except OSError as error:
        terminal.error(_unreadable(error))
        return 2
    except (RuntimeError, MemoryError) as error:
        if _left_alone(error, command):
            _stopped(
                "expected all processes to go on, found that another has ended", command, terminal
            )
        elif _out_of_memory(error):
            terminal.error(_no_room(error))
        else:
            raise
        return 2
    except KeyboardInterrupt:
        _stopped("interrupted", command, terminal)
        return 130
    if _wants_json(command):
        # a file that a Windows shell makes of it has a code page of its own
        sys.stdout.write(json_text(result, ascii_only=True) + "\n")
    else:
        settings = isinstance(command, commands.Show)
        terminal.table(title, result, missing="not set" if settings else "not measured")
    return 3 if result.get(_FAILED) else 0


def run() -> None:
    """Entry point of the program."""
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # names in a table may have characters that the output's code page lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader went away, as in `preimage --help | head`; keep the exit quiet as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def _at_home(argument: str) -> str:
    """--name=~/path as a shell would have it that saw a path in it."""
    name, separator, value = argument.partition("=")
    is_path = name.startswith("--") and value.split("/")[0] == "~"
    return f"{name}{separator}{Path(value).expanduser()}" if is_path else argument


_DESCRIPTION = """Invert any image classifier: learn the whole set of inputs it puts in each class.

For example:
  preimage demo
  preimage invert mnist
  preimage sample runs/invert-mnist-natural-vector-0 --label 3 --out threes.png
  preimage --version"""


@contextmanager
def _warnings_as_notes(terminal: Terminal) -> Iterator[None]:
    """Show a warning as one sentence, without the line of code that it came from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: terminal.warn(str(message))
        yield


def _result_alone(command: Any) -> AbstractContextManager[Any]:
    """Send what a user's own code prints elsewhere, where the result goes to a machine."""
    return redirect_stdout(sys.stderr) if _wants_json(command) else nullcontext()


def _unreadable(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    name = str(error.filename or "a file")
    return f"expected to read '{name[:100]}', found: {reason}; check the path and the disk it is on"


def _out_of_memory(error: Exception) -> bool:
    """Told by its words, since PyTorch's CPU allocator has no exception of its own."""
    signs = ("can't allocate memory", "not enough memory", "out of memory", "size calculation over")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def _left_alone(error: Exception, command: Any) -> bool:
    """Told by the words of gloo and of NCCL, whose errors have no kind of their own."""
    signs = ("closed by peer", "reset by peer", "remote process exiting prematurely")
    return _in_several(command) and any(sign in str(error) for sign in signs)


def _stopped(why: str, command: Any, terminal: Terminal) -> None:
    """Say it once, where several processes run the command and all of them are stopped."""
    if _in_several(command):
        from preimage.processes import is_follower

        if is_follower(command.runtime):
            return
    terminal.error(f"{why}; {_how_to_go_on(command)}")


def _in_several(command: Any) -> bool:
    return hasattr(command, "runtime") and bool(command.runtime.devices > 1)


def _no_room(error: Exception) -> str:
    wanted = re.search(r"(?:tried|unable) to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
    size = wanted[1] if wanted else "as much as was asked for"
    return (
        f"expected enough memory, found no room for {size}; choose smaller images, a smaller "
        "--width, --batch or --images, or close other programs"
    )


def _how_to_go_on(command: Any) -> str:
    """What to do after a break; --overwrite would throw away what is done."""
    again = "give the same command again"
    if not isinstance(command, _RESUMED):
        return f"nothing was lost; {again} to do it from the start"
    overwrites = getattr(getattr(command, "output", command), "overwrite", False)
    return f"{again}{' without --overwrite' if overwrites else ''} to go on where it was"


def _wants_json(command: Any) -> bool:
    return bool(command.output.json if hasattr(command, "output") else command.json)


def _train(command: commands.Train, terminal: Terminal) -> tuple[dict[str, Any], str]:
    from preimage.jobs.train import train_job

    result, folder = train_job(command, terminal)
    return {**result, "folder": str(folder)}, f"Trained on {result['dataset']}"


def _invert(command: commands.Invert, terminal: Terminal) -> tuple[dict[str, Any], str]:
    from preimage.jobs.invert import GALLERY_FILE, invert_job

    result, folder = invert_job(command, terminal)
    return {
        **result,
        "folder": str(folder),
        "page": str(folder / GALLERY_FILE),
    }, f"Inverted {command.model.model}"


def _ood_train(command: commands.OodTrain, terminal: Terminal) -> tuple[dict[str, Any], str]:
    from preimage.jobs.ood_train import POOL_FILE, ood_train_job

    result, folder = ood_train_job(command, terminal)
    return {
        **result,
        "folder": str(folder),
        "page": str(folder / POOL_FILE),
    }, f"Hardened on {result['dataset']}"


def _ood_score(command: commands.OodScore, terminal: Terminal) -> tuple[dict[str, Any], str]:
    from preimage.jobs.ood_score import ood_score_job

    result = ood_score_job(command, terminal)
    if command.out is not None and not command.json:
        del result["scores"]
    return result, f"Scored by {command.model}"


def _ood_eval(command: commands.OodEval, terminal: Terminal) -> tuple[dict[str, Any], str]:
    from preimage.jobs.ood_eval import PAGE_FILE, ood_eval_job, summary

    result, folder = ood_eval_job(command, terminal)
    places = {"folder": str(folder), "page": str(folder / PAGE_FILE)}
    shown = result if command.output.json else summary(result)
    return {**shown, **places}, f"Known: {result['id']}"


def _reconstruct(command: commands.Reconstruct, terminal: Terminal) -> tuple[dict[str, Any], str]:
    from preimage.jobs.reconstruct import PAGE_FILE, reconstruct_job

    result, folder = reconstruct_job(command, terminal)
    return {
        **result,
        "folder": str(folder),
        "page": str(folder / PAGE_FILE),
    }, f"Does {command.model.model} leak?"


def _sample(command: commands.Sample, terminal: Terminal) -> tuple[dict[str, Any], str]:
    from preimage.jobs.sample import sample_job

    return sample_job(command), f"Sampled {command.source}"


def _show(command: commands.Show, terminal: Terminal) -> tuple[dict[str, Any], str]:
    from preimage.jobs.show import show_job

    return show_job(command.source), command.source


def _audit(
    command: commands.Audit, terminal: Terminal, patient: bool = False
) -> tuple[dict[str, Any], str]:
    from preimage.auditing import gate

    conditions = gate.parse(command.fail_on)
    _check_outputs(command.junit, command.markdown)
    from preimage.auditing.job import PAGE_FILE, audit_job

    result, folder = audit_job(command, terminal, patient=patient)
    outcomes = gate.check(result, conditions)
    _write(command.junit, gate.junit(outcomes, str(result["model"])))
    _write(command.markdown, gate.markdown(result, outcomes))
    places = {"folder": str(folder), "page": str(folder / PAGE_FILE)}
    shown = result if command.output.json else _answers(result)
    failed = [outcome.text for outcome in outcomes if outcome.failed]
    gated = {_FAILED: failed} if conditions or command.output.json else {}
    return {**shown, **places, **gated}, f"Audited {command.model.model}"


def _check_outputs(*names: str | None) -> None:
    files = [Path(name) for name in names if name is not None]
    for file in files:
        check_output(file)
    # a pipe or a device takes several
    replaced = [file.resolve() for file in files if file.is_file() or not file.exists()]
    if len(set(replaced)) < len(replaced):
        raise PreimageError(
            f"expected a file for each output, found '{files[0]}' for two; give one another name"
        )


def _write(name: str | None, text: str) -> None:
    if name is not None:
        # the work may have made a run of that folder
        check_output(Path(name))
        write_atomic(Path(name), text_bytes(text))


def _compare(command: commands.Compare, terminal: Terminal) -> tuple[dict[str, Any], str]:
    from preimage.auditing.compare import compare, comparison_markdown, read_audit, show

    found = compare(read_audit(command.first), read_audit(command.second))
    _write(command.out, comparison_markdown(found))
    for warning in found.warnings:
        terminal.warn(warning)
    title = " and ".join(found.models)
    if command.json:
        return asdict(found), title
    rows = {d.name: f"{show(d.first)} -> {show(d.second)}, {d.change}" for d in found.differences}
    return rows or {"differences": "none"}, title


def _answers(record: dict[str, Any]) -> dict[str, Any]:
    """Whether it does its task, and the three answers, as a person reads them."""
    from preimage.auditing.record import told

    return {
        answer["question"]: " ".join(
            part for part in (f"{answer['answer']}.", answer["figure"], answer["meaning"]) if part
        )
        for answer in told(record)
    }


def _demo(command: commands.Demo, terminal: Terminal) -> tuple[dict[str, Any], str]:
    """An audit of the bundled classifier that looks for no data."""
    return _audit(
        commands.Audit(
            ModelConfig("mnist"),
            real=False,
            budget=_DEMO_BUDGET,
            seed=command.seed,
            output=commands.Output(command.out, command.overwrite, command.json),
        ),
        terminal,
        patient=True,  # without inversions there is little to show, and nobody named this time
    )


_RESUMED = (
    *(commands.Train, commands.Invert, commands.OodTrain, commands.Reconstruct),
    *(commands.Audit, commands.Demo),
)
"""Commands whose run folders keep what is done of them."""

_HANDLERS: dict[type, Callable[[Any, Terminal], tuple[dict[str, Any], str]]] = {
    commands.Train: _train,
    commands.Invert: _invert,
    commands.OodTrain: _ood_train,
    commands.OodScore: _ood_score,
    commands.OodEval: _ood_eval,
    commands.Reconstruct: _reconstruct,
    commands.Audit: _audit,
    commands.Compare: _compare,
    commands.Sample: _sample,
    commands.Show: _show,
    commands.Demo: _demo,
}
