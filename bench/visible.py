"""Text of others - records, suites, names of files - made fit to be shown.

A terminal obeys escape codes, and an editor obeys marks that turn the direction of writing, so a
text could hide or forge what stands beside it. Both are printed as Python writes them: ``\\x1b``.
A number of hundreds of digits would hide the sentence that it stands in.
"""

from __future__ import annotations

import re

# C0 and C1 controls, line separators, marks and overrides of direction, and halves of characters
# that UTF-8 cannot encode.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_LONG_NUMBER = re.compile(r"\d{41,}")
_FORMULA = ("=", "+", "-", "@")


def visible(text: str, keep: str = "") -> str:
    """``text`` with every character that is obeyed instead of shown as its escape sequence.

    Args:
        keep: such characters that may stay, as ``"\\n"``.
    """
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def csv_text(text: str) -> str:
    """``text`` for a cell of a CSV. One that a spreadsheet would compute, because it begins as a
    formula does, gets the apostrophe that marks it as text; a lone dash is a missing figure."""
    shown = visible(text)
    return f"'{shown}" if shown.startswith(_FORMULA) and shown != "-" else shown


def shortened(text: str) -> str:
    """``text`` with every number of more than 40 digits cut to its ends."""
    return _LONG_NUMBER.sub(
        lambda found: f"{found[0][:8]}...{found[0][-8:]} ({len(found[0])} digits)", text
    )


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
