"""Standard output and error as terminals and pipes really are: of few letters, or closed."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

SPELLED = {
    "−": "-", "–": "-", "—": "-", "×": "x", "±": "+/-", "→": "->", "≥": ">=", "≤": "<=", "≈": "~",
    "·": "*", "•": "*", "µ": "u", "μ": "u", "θ": "theta", "σ": "sigma", "η": "eta", "ε": "eps",
    "⁻": "-", "°": " deg", "“": '"', "”": '"', "‘": "'", "’": "'", "━": "-", "╸": "-", "╺": "-",
    "─": "-", "│": "|",
}  # fmt: skip
"""Spelling of letters that a terminal has not got. Others lose their accents, or become a question
mark."""


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Within it, what is printed takes the form that its terminal can show, and a pipe that was
    closed at the other end (``| head -1``) swallows the rest."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Output(before[0]), Output(before[1])
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class Output:
    """Writes text to ``stream``, spelled in its letters, until its other end is closed.

    It has no ``buffer``: Click would write UTF-8 to that where a terminal takes ASCII alone.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write ``text``; returns its length."""
        try:
            self.stream.write(spell(text, self.stream.encoding or "utf-8"))
        except BrokenPipeError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Send everything from here on nowhere, what waits in the stream's buffer too."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


def spell(text: str, encoding: str) -> str:
    """``text`` in letters that ``encoding`` has."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_letter(letter, encoding) for letter in text)
    return text


def _letter(letter: str, encoding: str) -> str:
    for form in (letter, SPELLED.get(letter, ""), unicodedata.normalize("NFKD", letter)):
        kept = form.encode(encoding, "ignore").decode(encoding)
        if kept:
            return kept
    return "?"
