"""What an import loads, and that no room takes a public function's name."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAVY = ["keras", "tensorflow", "jax", "torch", "tensorboard", "plotly", "sklearn"]


def run(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import bnscope",
        "import bnscope; bnscope.lint; bnscope.inspect",
        "from bnscope.cli import main; main(['rule', 'BN101'])",
        "import bnscope.folding.plan, bnscope.rewriting.edits",
    ],
)
def test_importing_loads_no_backend(statement):
    result = run(
        f"""
        import sys
        {statement}
        loaded = [name for name in {HEAVY!r} if name in sys.modules]
        assert not loaded, loaded
        """
    )
    assert result.returncode == 0, result.stderr


def test_import_of_the_package_alone_loads_not_even_numpy():
    result = run("import sys, bnscope; assert 'numpy' not in sys.modules")
    assert result.returncode == 0, result.stderr


def test_lint_inspect_and_dry_run_work_without_keras(tmp_path):
    import keras

    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    )
    path = tmp_path / "model.keras"
    model.save(path)
    result = run(
        f"""
        import sys
        for name in {HEAVY!r}:
            sys.modules[name] = None  # importing it raises ImportError
        from bnscope.cli import main
        assert main(["lint", {str(path)!r}]) == 1
        assert main(["inspect", {str(path)!r}]) == 0
        assert main(["fold", "--dry-run", {str(path)!r}]) == 0
        """
    )
    assert result.returncode == 0, result.stderr


def test_no_submodule_hides_a_public_function():
    result = run(
        """
        import importlib, pkgutil, bnscope
        for module in pkgutil.walk_packages(bnscope.__path__, "bnscope."):
            importlib.import_module(module.name)
        for name in bnscope.__all__:
            assert callable(getattr(bnscope, name)), name
        assert not hasattr(bnscope, "nothing_of_that_name")
        """
    )
    assert result.returncode == 0, result.stderr


def test_folding_without_keras_says_what_to_install(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    path = tmp_path / "model.keras"
    model.save(path)
    result = run(
        f"""
        import sys

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name == "keras":
                    raise ModuleNotFoundError("No module named 'keras'", name="keras")

        sys.meta_path.insert(0, Absent())
        from bnscope.cli import main
        assert main(["fold", {str(path)!r}, "-o", {str(tmp_path / "out.keras")!r}]) == 2
        """
    )
    assert result.returncode == 0, result.stderr
    assert "keras is not installed" in result.stderr
    assert "bnscope[tensorflow]" in result.stderr
    assert "Traceback" not in result.stderr
