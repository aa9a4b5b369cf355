"""Files and zip members of strangers, opened and read within limits; nothing is extracted."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from bnscope.errors import UnreadableModelError
from bnscope.graph.limits import (
    MAX_INFLATED,
    MAX_TEXTS,
    MAX_ZIP_DIRECTORY,
    megabytes,
    too_much,
)

EXPECTED = "Expected a model saved as .keras, .h5 or .hdf5, or a configuration as .json."
SAVE_AGAIN = "The file is damaged; save the model again."
_CHUNK = 1 << 20
_ENCRYPTED = 1
_LOCAL_HEADER = 30


class Store(Protocol):
    """Bytes that can be read anywhere."""

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes at a place; fewer at the end."""
        ...


def open_regular(path: Path) -> BinaryIO:
    """Opens a file. A pipe or a device is refused: it could block, or never end.

    Raises:
        UnreadableModelError: if it is no regular file.
    """
    file = path.open("rb") if os.name == "nt" else _open_without_waiting(path)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableModelError(f"{path} is no regular file.", EXPECTED)
    return file


def _open_without_waiting(path: Path) -> BinaryIO:
    # Opening a pipe waits for a writer unless told not to.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


class Heap:
    """The texts of attributes in an HDF5 file, which may each be named any number of times."""

    def __init__(self) -> None:
        self._largest = 0
        self._copies = 1

    def found(self, size: int) -> None:
        """Takes note of a piece of the heap, which HDF5 keeps in memory from now on."""
        self._largest = max(self._largest, size)
        self._check()

    @contextlib.contextmanager
    def copied(self, times: int) -> Iterator[None]:
        """While so many texts are read at once, of which each may be the whole heap."""
        self._copies = max(times, 1)
        try:
            self._check()
            yield
        finally:
            self._copies = 1

    def _check(self) -> None:
        size = self._largest * self._copies
        if size > MAX_TEXTS:
            raise too_much(
                f"{self._copies:,} texts of an HDF5 attribute may take {megabytes(size)}",
                MAX_TEXTS >> 20,
                " MB",
            )


_HEAP: ContextVar[Heap] = ContextVar("_HEAP")


def use_heap() -> None:
    """Begins to take note of the heap of another file."""
    _HEAP.set(Heap())


def copied(times: int) -> contextlib.AbstractContextManager[None]:
    """While so many texts of an attribute are read at once."""
    return _HEAP.get().copied(times)


class Part(io.RawIOBase):
    """A part of a file as a file of its own.

    Each read asks the operating system. A memory map is no faster here, and touching a map of
    a file that was cut meanwhile ends the process (SIGBUS); this gives an error.
    """

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place; beyond the end there is nothing to read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        self._position = max(base[whence] + offset, 0)
        return self._position

    def tell(self) -> int:
        """The place of the next read."""
        return self._position

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes at a place; fewer at the end."""
        size = min(size, max(self._size - offset, 0))
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, self._start + offset)
        self._file.seek(self._start + offset)
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer.

        Raises:
            OSError: if there are fewer bytes.
        """
        data = self.read_at(self._position, len(buffer))
        if len(data) < len(buffer):
            # HDF5 takes no notice of a short count, and would use what the memory held before.
            raise OSError("the file ends before its data do")
        if data.startswith(b"GCOL"):
            _HEAP.get().found(int.from_bytes(data[8:16], "little"))
        buffer[:] = data
        self._position += len(data)
        return len(data)


class Inflated(Part):
    """Bytes in memory as a file."""

    def __init__(self, data: bytearray) -> None:
        super().__init__(io.BytesIO(), 0, len(data))
        self._data = data

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes at a place; fewer at the end."""
        return bytes(self._data[offset : offset + size])


def whole(file: BinaryIO) -> Part:
    """All of a file."""
    return Part(file, 0, os.fstat(file.fileno()).st_size)


class Archive:
    """A zip archive, of which single members are read; nothing is extracted.

    Raises:
        UnreadableModelError: if it is damaged.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        with _damaged(f"{path} is a truncated or damaged zip archive."):
            self._zip = zipfile.ZipFile(_Bounded(file))

    def member(self, name: str) -> zipfile.ZipInfo | None:
        """The member of that name; None if there is none."""
        found = [info for info in self._zip.filelist if info.filename == name]
        if len(found) > 1:
            raise UnreadableModelError(
                f"{self._path} has {len(found)} members called {name}.", SAVE_AGAIN
            )
        if not found:
            return None
        if found[0].flag_bits & _ENCRYPTED:
            raise UnreadableModelError(
                f"{name} in {self._path} is encrypted.", "Decrypt the archive first."
            )
        return found[0]

    def read(self, info: zipfile.ZipInfo, limit: int) -> bytearray:
        """A whole member, inflated, of at most so many bytes."""
        if info.file_size > limit:
            raise too_much(
                f"{info.filename} in {self._path} claims {megabytes(info.file_size)}",
                limit >> 20,
                " MB",
            )
        data = bytearray()
        with (
            _damaged(f"{info.filename} in {self._path} is damaged."),
            self._zip.open(info) as member,
        ):
            while chunk := member.read(_CHUNK):
                data += chunk
        if len(data) != info.file_size:
            raise UnreadableModelError(
                f"{info.filename} in {self._path} is shorter than it claims.", SAVE_AGAIN
            )
        return data

    def open(self, info: zipfile.ZipInfo) -> Part:
        """A member as a seekable file.

        Keras stores its members uncompressed, so they are read where they lie: `zipfile`'s own
        file object seeks by reading again from the start. A compressed member is inflated in
        memory, within a limit.
        """
        if info.compress_type != zipfile.ZIP_STORED:
            return Inflated(self.read(info, MAX_INFLATED))
        with _damaged(f"{info.filename} in {self._path} is damaged."):
            self._zip.open(info).close()  # compares the member's own header
        header = Part(self._file, info.header_offset, _LOCAL_HEADER).read(_LOCAL_HEADER)
        lengths = header[26:28], header[28:30]
        names = sum(int.from_bytes(length, "little") for length in lengths)
        start = info.header_offset + _LOCAL_HEADER + names
        available = os.fstat(self._file.fileno()).st_size - start
        if info.file_size != info.compress_size or info.file_size > available:
            raise UnreadableModelError(
                f"{info.filename} in {self._path} claims more bytes than the archive has.",
                SAVE_AGAIN,
            )
        return Part(self._file, start, info.file_size)


class _Bounded:
    """A file of which `zipfile` reads no more at once than a directory may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable
        self.close = file.close

    def read(self, size: int = -1) -> bytes:
        if size < 0:  # the comment at the end
            size = os.fstat(self._file.fileno()).st_size - self._file.tell()
        if not 0 <= size <= MAX_ZIP_DIRECTORY:
            raise too_much(
                f"The directory of the zip archive has {megabytes(size)}",
                MAX_ZIP_DIRECTORY >> 20,
                " MB",
            )
        return self._file.read(size)


@contextlib.contextmanager
def _damaged(message: str) -> Iterator[None]:
    """Whatever goes wrong in `zipfile` and its decompressors, as one error."""
    try:
        yield
    except (UnreadableModelError, MemoryError):
        raise
    except NotImplementedError as error:
        raise UnreadableModelError(
            message, f"{error}. Expected members that are stored, as Keras writes them."
        ) from None
    except Exception as error:
        raise UnreadableModelError(message, SAVE_AGAIN) from error
