"""Folders of a checkpoint's later measurements: guided thresholds, samplers' statistics.

They stand beside the weights, except those of a checkpoint that comes with the package. The
installed package is never written to: they stand in a folder of the user, whose name has a hash
of the weights, so that another version's network does not take them for its own.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sddpm.checkpoint import MODEL, shipped_checkpoints


def state_folder(checkpoint: Path) -> Path:
    """The folder for measurements of the network in the folder ``checkpoint``.

    Returns:
        ``checkpoint`` itself; for a shipped one ``$XDG_STATE_HOME/sddpm-bench/NAME-HASH``, where
        ``$XDG_STATE_HOME`` is ``~/.local/state`` by default. It may not exist yet.
    """
    path = checkpoint.resolve()
    for name, folder in shipped_checkpoints().items():
        if folder.resolve() == path:
            weights = hashlib.sha256((path / MODEL).read_bytes()).hexdigest()[:12]
            home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
            return home / "sddpm-bench" / f"{name}-{weights}"
    return checkpoint
