"""The errors that a user can mend."""

from __future__ import annotations


class PreimageError(Exception):
    """Bad input, told in one sentence: what was expected, what was found, what to do.

    The command line prints the sentence and exits with status 2; library code may catch it.
    """


class MissingSplitError(PreimageError):
    """A data set has splits, and the one that was asked for is none of them."""


class DiskError(PreimageError):
    """A file could not be written: the disk is full or the folder is not writable."""


class DivergedError(PreimageError):
    """A loss or a gradient became NaN or infinite; the last good state was kept."""
