"""`bnscope diagnose`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from bnscope.cli.common import (
    EXIT_CLEAN,
    EXIT_FINDINGS,
    Commands,
    Parser,
    add_format,
    note,
    print_json,
)
from bnscope.cli.loading import (
    add_loading,
    at_least,
    find_by_name,
    import_modules,
    input_names,
    need_inputs,
    read_arrays,
    working,
)
from bnscope.errors import BnscopeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from bnscope.diagnosis import Diagnosis

_VALIDATION = "_val"


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "diagnose", help="find out why inference is worse than training"
    )
    parser.add_argument("path", metavar="FILE", help=".keras or .h5")
    parser.add_argument(
        "--loss",
        metavar="NAME",
        help="a loss as compile takes it by name (default: the one compiled with)",
    )
    parser.add_argument(
        "--batch-size",
        type=at_least(2),
        metavar="N",
        help="samples in a batch, best as in training (default: 32)",
    )
    parser.add_argument(
        "--max-samples",
        type=at_least(1),
        metavar="N",
        default=2048,
        help="use at most so many samples of each data set (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=at_least(0),
        metavar="N",
        default=0,
        help="which samples (default: 0)",
    )
    add_loading(
        parser,
        data="a .npz with training samples x, targets y, and validation x_val and y_val; several "
        "inputs or outputs by name, with _val for validation",
    )
    add_format(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Diagnoses a file."""
    if not options.data:
        raise BnscopeError(
            "--data FILE is missing.", "Usage: bnscope diagnose FILE --data x.npz"
        )
    arrays = read_arrays(options.data)
    import_modules(options.modules)
    from bnscope.rewriting import files

    with working(f"Loading {options.path} ..."):
        model, complaints = files.load_compiled(options.path)
    for text in complaints:
        note(text)
    result = _diagnosed(model, arrays, options)
    if options.output_format == "json":
        print_json({"path": options.path, **result.to_dict()})
    else:
        from bnscope.diagnosis.report import fitted, sections
        from bnscope.printing import console
        from bnscope.sections import print_sections

        width = console(sys.stdout).width
        print_sections(fitted(sections(result), width), sys.stdout)
    return EXIT_CLEAN if result.verdict == "not_batch_norm" else EXIT_FINDINGS


def _diagnosed(
    model: Any, arrays: Mapping[str, Any], options: argparse.Namespace
) -> Diagnosis:
    from bnscope.diagnosis import diagnose

    x, y = need_inputs(model, arrays, options.data), _targets(model, arrays, "")
    inputs = _validation_inputs(model, arrays, options.data)
    others = inputs, _targets(model, arrays, _VALIDATION)
    return diagnose(
        model,
        x,
        y,
        validation_data=None if inputs is None else others,
        loss=options.loss,
        batch_size=options.batch_size,
        max_samples=options.max_samples,
        seed=options.seed,
    )


def _validation_inputs(model: Any, arrays: Mapping[str, Any], path: str) -> Any:
    """The validation samples; None if there is not one array of them."""
    names = {f"{name}{_VALIDATION}" for name in ("x", *input_names(model))}
    return need_inputs(model, arrays, path, _VALIDATION) if names & arrays.keys() else None


def _targets(model: Any, arrays: Mapping[str, Any], suffix: str) -> Any:
    """The targets: the array `y`, or one for each output by its name."""
    if f"y{suffix}" in arrays:
        return arrays[f"y{suffix}"]
    return find_by_name(model, "output", arrays, suffix)
