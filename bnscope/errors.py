"""What bnscope raises for input it cannot use."""

from __future__ import annotations

import re

# Colours, and TensorFlow's name for the place of an operation.
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|\{\{[^}]*\}\}\s*")
# Keras puts this line before what it tells of.
_WRAPPER = "Exception encountered when calling"
# Keras puts whole configurations into its messages.
_LONGEST_LINE = 200


class BnscopeError(Exception):
    """An input that cannot be used: what happened, and what to do about it.

    Attributes:
        message: what happened, with the value, in one line.
        hint: what to do about it, in one line.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class UnreadableModelError(BnscopeError):
    """A file that is no Keras model, or one that is damaged."""


class UnknownCodeError(BnscopeError):
    """A rule code or name that does not exist."""


class OutputExistsError(BnscopeError):
    """An output file that is there already and must not be overwritten."""


class UnsupportedModelError(BnscopeError):
    """A model that can be read but not rewritten, or not loaded."""


class VerificationError(BnscopeError):
    """A rewritten model that does not compute what the original computes."""


class SettingsError(BnscopeError):
    """A setting, an option or a file of settings that cannot be used."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something, cut, without its full stop."""
    plain = _DECORATION.sub("", str(error))
    lines = [line.strip().rstrip(".") for line in plain.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_WRAPPER)]
    text = next(iter(telling or lines), type(error).__name__)
    return text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + "..."
