"""JSON files that a run keeps: written whole or not at all, read with the file's name in errors."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sddpm.checkpoint import atomic_write


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON object; ValueError if the file is damaged or lacks one of ``keys``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete it to redo it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object; delete it to redo it")
    lacking = [key for key in keys if key not in content]
    if lacking:
        raise ValueError(f"{path}: does not say {', '.join(lacking)}; delete it to redo it")
    return content
