"""Find a user's own function by its name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from preimage.errors import PreimageError


def import_attribute(name: str, what: str) -> Any:
    """Import ``package.module:attribute``; modules in the working folder count as well.

    Args:
        name: the dotted module name, a colon and the attribute's name.
        what: what is being looked for, for the error's sentence.

    Raises:
        PreimageError: when the form is wrong, module or attribute are not there, or the module's
            code fails.
    """
    module_name, separator, attribute = name.partition(":")
    if not (separator and module_name and attribute):
        raise PreimageError(
            f"expected a {what} as package.module:name, found '{name}'; correct its name"
        )
    if module_name.startswith(".") or module_name.endswith(".py") or "/" in module_name:
        raise PreimageError(
            f"expected a {what} as package.module:name, found the file name '{module_name}'; leave "
            "out folder and .py, and run from the folder that holds it"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _import(module_name, f"{what} '{name}'")
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise PreimageError(
            f"expected '{attribute}' in the module '{module_name}' for the {what}, found: "
            f"{error}; correct its name"
        ) from error


def module_of(name: str) -> str:
    """The dotted module name in ``package.module:attribute``."""
    return name.partition(":")[0]


def is_plugin(name: str) -> bool:
    """Whether a name has the form of something to import, and not of something registered."""
    return ":" in name


def _import(module_name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise PreimageError(
            f"expected a module to import for the {what}, found no '{error.name}'; "
            "install it, or run from the folder that holds it"
        ) from error
    # a user's module may do anything when imported, a script without a main guard even exit
    except (Exception, SystemExit) as error:
        raise PreimageError(
            f"expected the module '{module_name}' to import for the {what}, found "
            f"{type(error).__name__}: {error}; mend the module"
        ) from error
