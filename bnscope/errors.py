"""What bnscope raises for input it cannot use."""

from __future__ import annotations

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
    """The first line of an error's text that is not empty, cut, without its full stop."""
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    text = next((line for line in lines if line), type(error).__name__)
    return text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + "..."
