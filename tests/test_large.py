"""An archive of 1 GB is read as fast as one of 1 MB."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import lint_large

import bnscope
from bnscope.graph import files


def read_of(path, monkeypatch):
    """How many bytes of a file are read, and what is found."""
    counted = []
    original = files.Part.read_at

    def count(self, offset, size):
        data = original(self, offset, size)
        counted.append(len(data))
        return data

    with monkeypatch.context() as patch:
        patch.setattr(files.Part, "read_at", count)
        report = bnscope.lint(path)
    return sum(counted), [(finding.code, finding.layer) for finding in report]


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems fill the holes")
def test_no_more_is_read_of_a_gigabyte_than_of_a_megabyte(tmp_path, monkeypatch):
    small = lint_large.save_sparse(tmp_path / "small.keras", 1 << 20)
    large = lint_large.save_sparse(tmp_path / "large.keras", 1 << 30)
    assert large.stat().st_size > 1 << 30
    assert large.stat().st_blocks * 512 < 16 << 20
    size, findings = read_of(large, monkeypatch)
    assert (size, findings) == read_of(small, monkeypatch)
    assert size < 100_000
    assert ("BN101", "dense") in findings


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with files.open_regular(path) as file, files.Part(file, 10, 80) as part:
        assert part.read(5) == bytes(range(10, 15))
        path.write_bytes(bytes(20))
        with pytest.raises(OSError, match="ends before its data"):
            part.readinto(bytearray(40))
