"""Data sets on the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from preimage.data.imageset import ImageSet
from preimage.data.sources import Request, Source
from preimage.data.table import guarded, quiet, read_table
from preimage.errors import PreimageError

_HUB_ID = re.compile(r"(\w[\w.-]*/[\w.-]+)(?::([\w.-]+))?")
_SECONDS = 5.0


def hub_id_source(source: str) -> Source | None:
    """A hub id, owner/name or owner/name:config."""
    match = _HUB_ID.fullmatch(source)
    if match is None:
        return None
    hint = (
        "if a folder was meant, it does not exist; else check the id, or give the folder of a copy"
    )
    return HubSet(match[1], match[2], name=source, hint=hint).source()


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub."""

    hub_id: str
    """owner/name."""
    config: str | None
    """Configuration (subset), where the set has several."""
    name: str
    """What the set is called."""
    hint: str
    """What to do when the hub cannot be reached or lacks the set."""
    label: str | None = None
    """Label column; found by its type when None."""

    def source(self) -> Source:
        """The set at its newest revision; without network, at whichever was cached last.

        The revision is asked for with a short time limit, so that a machine without network does
        not sit through the retries of a download. With HF_HUB_OFFLINE set nothing is asked.

        Raises:
            PreimageError: when the hub says that there is no such set.
        """
        revision, failure = self._revision()
        identity = f"hub:{self.hub_id}:{self.config}:{self.label}"
        return Source(self.name, identity, revision, partial(self._read, revision, failure))

    def _revision(self) -> tuple[str | None, str | None]:
        """The newest revision, or None and why it is not known (None: it is not to be asked)."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

        try:
            return HfApi().dataset_info(self.hub_id, timeout=_SECONDS).sha, None
        except OfflineModeIsEnabled:
            return None, None
        except RepositoryNotFoundError as error:
            raise PreimageError(
                f"the hub has no data set {self.hub_id!r} that is open to you: {self.hint}"
            ) from error
        except Exception as error:  # the client's HTTP library and its errors changed over time
            return None, " ".join(str(error).split()) or type(error).__name__

    def _read(self, revision: str | None, failure: str | None, request: Request) -> ImageSet:
        if failure:
            raise self._unavailable(f"the hub cannot be reached: {failure}")
        splits = self._download(revision)
        return guarded(lambda: read_table(splits, request, self.name, self.label), self.name)

    def _download(self, revision: str | None) -> Any:
        from datasets import load_dataset

        try:
            with quiet():
                return load_dataset(self.hub_id, self.config, revision=revision)
        except Exception as error:  # as above
            raise self._unavailable(" ".join(str(error).split())) from error

    def _unavailable(self, reason: str) -> PreimageError:
        return PreimageError(f"{self.name} could not be had from the hub ({reason}): {self.hint}")
