"""Checkpoints on the Hugging Face Hub: a repository's files, and errors as one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sddpm.checkpoint import CONFIG, MODEL, find_checkpoint
from sddpm.guidance import GUIDANCE

RECORD = "record.jsonl"
"""File beside the weights that holds measurements of them."""
FILES = (CONFIG, MODEL, GUIDANCE, f"*/{GUIDANCE}", RECORD)
"""Patterns of the files that a checkpoint is read from."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""Form of a repository's name: ``owner/name``."""
_ANSWER: type[BaseException] = HfHubHTTPError.__bases__[0]
TRANSPORT: type[BaseException] = _ANSWER.__bases__[0] if issubclass(_ANSWER, OSError) else _ANSWER
"""Base of the errors of the HTTP client, httpx or requests; those of requests are OSErrors."""
NEITHER = "no folder and no shipped checkpoint"


def find_or_fetch(name: str | Path, **options: Any) -> Path:
    """The folder of a checkpoint: a path, a shipped one's name, or ``owner/name`` on the Hub.

    The Hub is asked only where the other two are not there.

    Args:
        options: of :func:`fetch`.

    Raises:
        FileNotFoundError, PermissionError, OSError: as :func:`fetch`.
    """
    try:
        return find_checkpoint(name)
    except FileNotFoundError:
        if Path(name).exists() or not isinstance(name, str) or not REPOSITORY.fullmatch(name):
            raise
    return fetch(name, **options)


def fetch(name: str, **options: Any) -> Path:
    """The folder in the Hub's cache that holds the checkpoint ``name``, ``owner/name``.

    Files that changed on the Hub, or are not in the cache, are downloaded. Without a connection, or
    with ``HF_HUB_OFFLINE=1``, the cached files are used.

    Args:
        options: of ``huggingface_hub.snapshot_download``: revision, token, cache_dir,
            force_download, local_files_only.

    Raises:
        FileNotFoundError: the Hub has no such repository, revision or file, or cannot be reached
            and the files are not in the cache.
        PermissionError: the repository's owner must grant access.
        OSError: the Hub answered with an error.
    """
    with hub_errors(name, **options):
        folder = Path(snapshot_download(name, allow_patterns=list(FILES), **options))
    lacking = [file for file in (CONFIG, MODEL) if not (folder / file).is_file()]
    if lacking:
        raise FileNotFoundError(
            f"{name}: the model at {constants.ENDPOINT} lacks {', '.join(lacking)}"
        )
    return folder


@contextmanager
def hub_errors(name: str, **options: Any) -> Iterator[None]:
    """Errors of the Hub as one sentence that names the repository ``name``.

    Args:
        options: those of the call inside.

    Raises:
        FileNotFoundError, PermissionError, OSError: as :func:`fetch`.
        ValueError: the name cannot be a repository's.
    """
    where = constants.ENDPOINT
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{name}: expected a model on the Hub as owner/name ({error})") from error
    except GatedRepoError as error:
        raise PermissionError(
            f"{name}: its owner grants access at {where}/{name}; then give a token (hf auth login)"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: {NEITHER}, and no model at {where} that this token may read (hf auth login)"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: no revision {options.get('revision')!r} at {where}; expected a branch, a tag "
            "or a commit"
        ) from error
    except LocalEntryNotFoundError as error:
        offline = options.get("local_files_only") or constants.HF_HUB_OFFLINE
        reason = "no connection may be made" if offline else f"{where} cannot be reached"
        cache = options.get("cache_dir") or constants.HF_HUB_CACHE
        raise FileNotFoundError(
            f"{name}: {NEITHER}; {reason}, and {cache} does not hold the whole model"
        ) from error
    except LocalTokenNotFoundError as error:
        raise PermissionError(f"{name}: {where} wants a token (hf auth login)") from error
    except OfflineModeIsEnabled as error:
        raise OSError(f"{name}: HF_HUB_OFFLINE forbids a connection to {where}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(
                f"{name}: {where} refuses this token (status {status}); log in with one that may "
                "write there (hf auth login)"
            ) from error
        raise OSError(f"{name}: {where} answered with status {status}") from error
    except TRANSPORT as error:
        raise OSError(f"{name}: {where} cannot be reached ({error})") from error
