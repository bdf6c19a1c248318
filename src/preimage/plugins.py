"""Find a user's own function by its name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from preimage.errors import PreimageError


def import_attribute(name: str, what: str) -> Any:
    """Import ``package.module:attribute``; modules in the working folder count as well.

    Args:
        name: the dotted module name, a colon and the attribute's name.
        what: what is being looked for, for the error's sentence.

    Raises:
        PreimageError: when the form is wrong, or module or attribute are not there.
    """
    module_name, separator, attribute = name.partition(":")
    if not (separator and module_name and attribute):
        raise PreimageError(
            f"expected a {what} as package.module:name, found '{name}'; correct its name"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise PreimageError(
            f"expected a module to import for the {what} '{name}', found no '{error.name}'; "
            "install it, or run from the folder that holds it"
        ) from error
    except AttributeError as error:
        raise PreimageError(
            f"expected '{attribute}' in the module '{module_name}' for the {what}, found: "
            f"{error}; correct its name"
        ) from error
