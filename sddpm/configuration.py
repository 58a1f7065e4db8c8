"""Fields that a Config gained after configurations without them were stored.

A stored configuration that does not name such a field was made before there was one, so it
stands for the value ``before`` that everything had then, whatever the default is now. Where a
configuration is stored or hashed again, the field is left out at that value. So checkpoints made
earlier open as they were made, and the results of configurations that did not change are not
stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

_BEFORE = "before"


def before(value: Any) -> dict[str, Any]:
    """Metadata of a dataclass field that was added to a configuration later. A stored configuration
    without the field has ``value``."""
    return {_BEFORE: value}


def complete(kind: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """``stored``, a configuration of the dataclass ``kind``, with the fields that it is too old
    to name."""
    gained = {f.name: f.metadata[_BEFORE] for f in fields(kind) if _BEFORE in f.metadata}
    return {**gained, **stored}


def storable(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop from ``values``, which has every field of the dataclass ``kind``, the later fields with
    their ``before`` value: the inverse of :func:`complete`."""
    gained = {f.name: f.metadata[_BEFORE] for f in fields(kind) if _BEFORE in f.metadata}
    return {k: v for k, v in values.items() if k not in gained or _plain(v) != _plain(gained[k])}


def _plain(value: Any) -> Any:
    """A tuple as the list that JSON makes of it."""
    return list(value) if isinstance(value, tuple) else value
