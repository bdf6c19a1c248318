"""Whether a user's own code is what it was: a run tells by the content of its source files."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from preimage.classifier import Classifier
from preimage.digest import bytes_digest
from preimage.plugins import module_of

_INSTALLED = {"site-packages", "dist-packages"}
_NOT_FOLLOWED = ("preimage", "__main__")
"""A script or notebook changes in what has nothing to do with the network."""


def code_digests(
    plugins: Mapping[str, object] | None = None, **classifiers: Classifier | None
) -> dict[str, str | None]:
    """Of the files that hold a user's own code, whole; what these import is not followed.

    Args:
        plugins: what was imported, under its ``package.module:name``.
        classifiers: by role. What counts is the factory that built one, and the classes of its
            network, apart from those of installed libraries and of the running script.

    Returns:
        16 hexadecimal digits under each name and "the ROLE"; None where there is no source file.
    """
    found = {name: _digest(_modules(name, thing)) for name, thing in (plugins or {}).items()}
    for role, classifier in classifiers.items():
        found[f"the {role}"] = None if classifier is None else _digest(_of_network(classifier))
    return found


def _modules(name: str, thing: object) -> list[ModuleType | None]:
    """The module that was named, and the one that it has `thing` from."""
    return [sys.modules.get(module_of(name)), inspect.getmodule(thing)]


def _of_network(classifier: Classifier) -> list[ModuleType | None]:
    classes = {type(module).__module__ for module in classifier.network.modules()}
    own = [module for name in classes if _is_own(module := sys.modules.get(name))]
    if classifier.factory is None:
        return own
    return [*own, *_modules(*classifier.factory)]


def _is_own(module: ModuleType | None) -> bool:
    if module is None or module.__name__.partition(".")[0] in _NOT_FOLLOWED:
        return False
    file = getattr(module, "__file__", None)
    return file is not None and not _INSTALLED.intersection(Path(file).parts)


def _digest(modules: Iterable[ModuleType | None]) -> str | None:
    files = {module.__name__: _source(module) for module in modules if module is not None}
    known = sorted((name, bytes_digest(text)) for name, text in files.items() if text is not None)
    return bytes_digest(json.dumps(known).encode()) if known else None


def _source(module: ModuleType) -> bytes | None:
    with suppress(TypeError, OSError):
        file = inspect.getsourcefile(module)
        return None if file is None else Path(file).read_bytes()
    return None
