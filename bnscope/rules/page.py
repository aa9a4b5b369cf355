"""A rule's page in Markdown, out of its class: docstring, examples and thresholds."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnscope.rules.base import Rule

_TITLES = (
    "What it does",
    "Why is this bad",
    "Example",
    "What to do",
    "When it is quiet",
    "Thresholds",
    "References",
)
# Words of an example's name that are names themselves.
_NAMES = {
    "bn": "BN",
    "relu": "ReLU",
    "keras": "Keras",
    "l1": "L1",
    "l2": "L2",
    "rnn": "RNN",
}


def page(rule: type[Rule]) -> str:
    """The page: title, summary, grade, and the sections in their order."""
    sections = _sections(rule)
    others = [title for title in sections if title not in _TITLES]
    body = [
        f"## {title}\n\n{sections[title]}"
        for title in (*_TITLES, *others)
        if sections.get(title)
    ]
    head = [f"# {rule.code} {rule.name}", rule.summary(), _grade(rule)]
    return "\n\n".join([*head, *body]) + "\n"


def _grade(rule: type[Rule]) -> str:
    severity = f"Severity: {rule.severity}"
    if rule.severity == "off":
        severity += ", only when selected, and then reported as info"
    fix = f"Fix: {rule.fix or 'none'}"
    return f"{severity}. {fix}. Found by {_where(rule)}."


def _where(rule: type[Rule]) -> str:
    if rule.while_training:
        return "the callbacks while training"
    both = rule.also_while_training
    return (
        "`bnscope lint`, and by the callbacks while training" if both else "`bnscope lint`"
    )


def _sections(rule: type[Rule]) -> dict[str, str]:
    """The sections by title: those of the docstring, examples and thresholds added."""
    text = inspect.cleandoc(rule.__doc__ or "")
    _, *parts = re.split(r"^## +(.+)$", text, flags=re.MULTILINE)
    titles, bodies = parts[::2], parts[1::2]
    sections = {
        title.strip(): body.strip() for title, body in zip(titles, bodies, strict=True)
    }
    good = list(rule.examples("good").items())
    sections["Example"] = _code(rule.examples("bad"))
    _append(sections, "What to do", "Use instead:", _code(dict(good[:1])))
    _append(sections, "When it is quiet", "For example:", _code(dict(good[1:])))
    sections["Thresholds"] = "\n".join(
        f"- {name} = {value:g}" for name, value in rule.thresholds().items()
    )
    return sections


def _append(sections: dict[str, str], title: str, lead: str, code: str) -> None:
    if code:
        sections[title] = f"{sections.get(title, '')}\n\n{lead}\n\n{code}".strip()


def _code(examples: Mapping[str, Callable[[Any], Any]]) -> str:
    """Examples as one block of code; "" if there are none."""
    parts = [f"# {_title(name)}\n{_body(make)}" for name, make in examples.items()]
    return "```python\n" + "\n\n".join(parts) + "\n```" if parts else ""


def _title(name: str) -> str:
    """`Bias before BN` for `bad_bias_before_bn`."""
    words = [_NAMES.get(word, word) for word in name.split("_")[1:]]
    title = " ".join(words)
    return title[:1].upper() + title[1:]


def _body(function: Callable[[Any], Any]) -> str:
    """The body of an example, with what it returns named `model`."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("def ")) + 1
    body = textwrap.dedent("\n".join(lines[start:]))
    body = re.sub(r"  # (type: ignore|noqa).*", "", body)  # no reader needs them
    return re.sub(r"^return (?!model$)", "model = ", body, flags=re.MULTILINE).removesuffix(
        "\nreturn model"
    )
