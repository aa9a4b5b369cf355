"""Writes docs/rules from the classes of the rules: `make docs`."""

from __future__ import annotations

import ast
from pathlib import Path

from bnscope.rules import all_rules
from bnscope.rules.base import Rule

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "rules"

_HEAD = """\
# Rules

`bnscope lint` runs every rule that is found by linting and whose severity is not off; the
callbacks raise those found in training. `bnscope rule CODE` prints a page of these.

Severity: `error` computes something wrong or will break; `warning` costs accuracy, stability or
resources; `info` is worth knowing; `off` runs only when selected. Many rules have exceptions
with a lower severity; their pages name them.

Fix: `safe` changes no output of inference; `unsafe` changes what the model computes or learns.

Shown by: the examples of a rule are on its page. `pytest tests/test_rules.py -k CODE` builds each
of them, lints it live, saved as `.keras` and saved as `.h5`, and fails if the rule is quiet on a
bad one, finds anything in a good one, or if the readers differ. Rules found in training have a
test of their own.

| code | name | finds | severity | fix | found by | shown by |
| --- | --- | --- | --- | --- | --- | --- |
"""


def pages() -> dict[str, str]:
    """The files of docs/rules by name."""
    tests = _tests()
    rows = [_row(rule, tests.get(rule.code, "")) for rule in all_rules()]
    return {
        "README.md": _HEAD + "\n".join(rows) + "\n",
        **{f"{rule.code}.md": rule.page() for rule in all_rules()},
    }


def main() -> None:
    """Writes the pages, and removes those of rules that are gone."""
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()


def _row(rule: Rule, test: str) -> str:
    count = len(rule.examples("bad")), len(rule.examples("good"))
    shown = f"{count[0]} bad, {count[1]} good" if any(count) else test
    cells = [
        f"[{rule.code}]({rule.code}.md)",
        rule.name,
        rule.summary().replace("\n", " ").replace("|", "\\|"),
        str(rule.severity),
        rule.fix or "none",
        _found_by(rule),
        shown,
    ]
    return f"| {' | '.join(cells)} |"


def _found_by(rule: Rule) -> str:
    if rule.while_training:
        return "training"
    return "linting, training" if rule.also_while_training else "linting"


def _tests() -> dict[str, str]:
    """For each code, a test that compares with it: what shows a rule without examples."""
    first: dict[str, str] = {}
    paths = sorted((ROOT / "tests").glob("test_*.py"))
    # Last those that look at many rules at once.
    for path in sorted(paths, key=lambda path: path.name == "test_rules.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for code in _compared(node):
                    first.setdefault(code, f"`{path.name}::{node.name}`")
    return first


def _compared(test: ast.FunctionDef) -> set[str]:
    return {
        part.value
        for assertion in ast.walk(test)
        if isinstance(assertion, ast.Compare)
        for part in ast.walk(assertion)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


if __name__ == "__main__":
    main()
