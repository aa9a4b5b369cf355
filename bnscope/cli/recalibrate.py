"""`bnscope recalibrate`."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from bnscope.cli.common import (
    EXIT_CLEAN,
    Commands,
    Parser,
    add_format,
    note,
    print_json,
    say,
)
from bnscope.cli.loading import (
    add_loading,
    at_least,
    import_modules,
    need_inputs,
    read_arrays,
    working,
)
from bnscope.errors import BnscopeError
from bnscope.rules.base import plural

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from bnscope.calibration import Recalibration

_GIB = 2**30
# Of what --data may hold besides the inputs.
_NO_INPUTS = frozenset({"y", "x_val", "y_val"})


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "recalibrate", help="replace moving statistics by those of a data set"
    )
    parser.add_argument("path", metavar="FILE", help=".keras or .h5")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where to write: .keras, or .h5"
    )
    parser.add_argument(
        "--method",
        choices=["exact", "batch"],
        default="exact",
        help="batch is approximate: one pass with the statistics of each batch "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        help="samples in a batch (default: 32)",
    )
    parser.add_argument(
        "--steps",
        type=at_least(1),
        metavar="N",
        help="use only so many batches (default: all)",
    )
    parser.add_argument(
        "--memory",
        type=_bytes,
        metavar="GIB",
        help="memory for activations (default: half of what is free)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing output"
    )
    add_loading(
        parser,
        data="the samples, best those trained on: array x of this .npz, or one by input name",
    )
    add_format(parser)
    parser.set_defaults(command=run)


def _bytes(text: str) -> int:
    """Bytes, out of a number of GiB."""
    with suppress(ValueError, OverflowError):  # no number, NaN, infinite
        size = int(float(text) * _GIB)
        if size > 0:
            return size
    raise argparse.ArgumentTypeError(f"expected a number of GiB above 0, got {text!r}")


def run(options: argparse.Namespace) -> int:
    """Recalibrates a file."""
    for given, what in ((options.output, "-o FILE"), (options.data, "--data FILE")):
        if not given:
            raise BnscopeError(
                f"{what} is missing.",
                "Usage: bnscope recalibrate FILE --data x.npz -o recalibrated.keras",
            )
    from bnscope.rewriting import files

    output = files.check_output(options.output, overwrite=options.overwrite)
    arrays = read_arrays(options.data)
    import_modules(options.modules)
    with working(f"Loading {options.path} ..."):
        model, complaints = files.load_compiled(options.path)
    result = _recalibrated(model, _inputs(model, arrays, options.data), options)
    files.save(result.model, output, overwrite=options.overwrite)
    if options.output_format == "json":
        whole = {**result.to_dict(), "notes": [*complaints, *result.notes]}
        print_json({"path": options.path, "output": str(output), **whole})
    else:
        _print(result)
        for text in complaints:
            say(text)
        say(f"Written to {output}.")
    return EXIT_CLEAN


def _inputs(model: Any, arrays: Mapping[str, Any], path: str) -> Any:
    """The samples; for a model that does not say its inputs all arrays that may be such."""
    named = {name: array for name, array in arrays.items() if name not in _NO_INPUTS}
    if named and "x" not in arrays and not getattr(model, "inputs", None):
        return named
    return need_inputs(model, arrays, path)


def _recalibrated(model: Any, data: Any, options: argparse.Namespace) -> Recalibration:
    from bnscope.calibration import recalibration
    from bnscope.progress import bar

    with bar("Recalibrating") as shown:
        return recalibration(
            model,
            data,
            method=options.method,
            batch_size=options.batch_size,
            steps=options.steps,
            inplace=True,
            memory_limit=options.memory,
            tell=note,
            shown=shown,
        )


def _print(result: Recalibration) -> None:
    from bnscope.printing import console
    from bnscope.tables import table

    columns = [
        ("layer", "left"),
        ("channels", "right"),
        ("mean moved, in sigma", "right"),
        ("variance, old / new", "right"),
    ]
    rows = [
        (
            layer.layer,
            str(len(layer.mean)),
            f"{layer.shift:.3g}",
            f"{layer.ratio:.3g}",
        )
        for layer in result.layers
    ]
    console(sys.stdout).print(table(columns, rows))
    for text in result.notes:
        say(f"Not exact: {text}.")
    done = sum(not layer.is_kept for layer in result.layers)
    say(
        f"{plural(done, 'BN layer')} recalibrated on "
        f"{plural(result.samples, 'sample')}; what is shown is the channel that changed most."
    )
