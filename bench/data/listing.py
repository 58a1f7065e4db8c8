"""Files of a data set's folder: which are pictures, which are not and why.

The folder itself is walked, in the order of the files' names, so neither names nor files such
as metadata.csv or README.md decide what is used. Nothing outside the folder is read, except
what a link in it points at.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from bench.data.decoding import ENDINGS, is_picture

LARGEST_FILE_BYTES = 2**30
"""A picture's file that is larger is refused."""
NAMED_FILES = 3
"""Files that :meth:`Listing.skipped_words` names for each reason."""
PARQUET = ".parquet"
ARCHIVE = ".zip"


@dataclass(frozen=True)
class Entry:
    """A file of the folder, or a member of a ZIP archive in it."""

    name: str
    """Path below the folder, with ``/``. An archive appears as a folder of its name."""
    path: Path
    """Path on disk; for a member of an archive, the path of the archive."""
    stamp: str
    """Text that changes whenever the file's content changes, even if its time of modification is
    reset."""
    changed: float
    """Time at which the file was last changed or exchanged, in seconds since 1970."""
    member: str | None = None
    """Name in the archive."""

    @property
    def shown(self) -> str:
        """Path to print."""
        return printable(str(self.path if self.member is None else self.path / self.member))


@dataclass
class Listing:
    """Content of a folder."""

    pictures: list[Entry] = field(default_factory=list)
    """Sorted by name."""
    parquet: list[Entry] = field(default_factory=list)
    """Sorted by name."""
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> names of the files and folders that are not used."""
    links: list[str] = field(default_factory=list)
    """Links that were followed, with where they lead."""

    def skip(self, reason: str, *names: str) -> None:
        """Note that files are not used, and why."""
        if names:
            self.skipped.setdefault(reason, []).extend(names)

    def skipped_words(self) -> str:
        """Number of files that are not used, with the reasons, for a person: ``3 skipped (2 no
        picture: a.txt, b.json; 1 hidden: .DS_Store)``."""
        count = sum(map(len, self.skipped.values()))
        if not count:
            return "0 skipped"
        reasons = (f"{len(n)} {reason}: {_few(n)}" for reason, n in self.skipped.items())
        return f"{count} skipped ({'; '.join(reasons)})"

    def links_words(self) -> str:
        """Links that were followed, for a person; empty if none."""
        count = len(self.links)
        return f"{count} link{'s' * (count > 1)} followed: {_few(self.links)}" if count else ""


def list_files(place: Path) -> Listing:
    """Everything in the folder, or the ZIP archive, ``place``.

    Raises:
        ValueError: it cannot be listed, or is no whole archive.
    """
    listing = Listing()
    try:
        if place.is_dir():
            _walk(place, "", listing, set())
        else:
            _add_archive(place, "", place.stat(), listing)
    except RecursionError as error:
        raise ValueError(f"{printable(str(place))}: its folders are nested too deep") from error
    listing.pictures.sort(key=lambda entry: entry.name)
    listing.parquet.sort(key=lambda entry: entry.name)
    return listing


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        ValueError: it is a pipe, a device or a folder, or larger than :data:`LARGEST_FILE_BYTES`.
        OSError: it is gone or may not be read.
    """
    # Without O_NONBLOCK the opening of a pipe waits for its other end.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        _check_size(status.st_size)
        return file.read()


class Archives:
    """ZIP archives that stay open between reads, one opening a process."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, Path], ZipFile] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"_open": {}}

    def read(self, path: Path, member: str) -> bytes:
        """The bytes of a member.

        Raises:
            ValueError: it is damaged, or too large.
            OSError: the archive is gone.
        """
        key = os.getpid(), path  # a forked worker would share the place in the file
        try:
            if key not in self._open:
                self._open[key] = ZipFile(path)
            _check_size(self._open[key].getinfo(member).file_size)
            return self._open[key].read(member)
        except (OSError, ValueError):
            raise
        except Exception as error:  # zlib, bz2, lzma and zipfile have errors of their own
            raise ValueError(f"damaged in the archive: {error}") from error


def digest(entries: Iterable[Entry]) -> str:
    """Hash of the files' names and stamps."""
    known = hashlib.sha256()
    for entry in entries:
        known.update(
            f"{entry.path}\0{entry.name}\0{entry.stamp}\n".encode(errors="surrogateescape")
        )
    return known.hexdigest()


def printable(name: str) -> str:
    """A file's name without line breaks, escape codes or broken characters."""
    return name if name.isprintable() else name.encode("unicode_escape", "replace").decode("ascii")


def _walk(folder: Path, below: str, listing: Listing, seen: set[tuple[int, int]]) -> None:
    status = folder.stat()
    seen.add((status.st_dev, status.st_ino))
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ValueError(f"{printable(str(folder))}: cannot be listed: {error.strerror}") from error
    linked = []
    for name in names:
        path, shown = folder / name, below + name
        if name.startswith(".") or name == "__MACOSX":
            listing.skip("hidden", shown)
            continue
        try:
            status = path.stat()
        except OSError as error:
            listing.skip("broken link" if path.is_symlink() else str(error.strerror), shown)
            continue
        if path.is_symlink() and stat.S_ISDIR(status.st_mode):
            linked.append((path, shown))  # after the folders that are here
        elif stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in seen:
                listing.skip("read already", shown)
            else:
                _walk(path, f"{shown}/", listing, seen)
        else:
            if path.is_symlink():
                listing.links.append(f"{shown} -> {os.readlink(path)}")
            _add_file(path, shown, status, listing)
    for path, shown in linked:
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen:
            listing.skip("link to a folder that is read already", shown)
        else:
            listing.links.append(f"{shown} -> {os.readlink(path)}")
            _walk(path, f"{shown}/", listing, seen)


def _add_file(path: Path, name: str, status: os.stat_result, listing: Listing) -> None:
    ending = PurePosixPath(name).suffix.lower()
    if not stat.S_ISREG(status.st_mode):
        listing.skip("no regular file", name)
    elif ending == PARQUET:
        listing.parquet.append(Entry(name, path, _stamp(status), status.st_ctime))
    elif ending == ARCHIVE:
        _add_archive(path, f"{name[: -len(ARCHIVE)]}/", status, listing)
    elif is_picture(name):
        listing.pictures.append(Entry(name, path, _stamp(status), status.st_ctime))
    else:
        listing.skip(_why_no_picture(name), name)


def _add_archive(path: Path, below: str, status: os.stat_result, listing: Listing) -> None:
    try:
        with ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except Exception as error:  # struct, zlib and others let theirs through
        raise ValueError(f"{printable(str(path))} is no whole ZIP archive: {error}") from error
    stamp, changed, encrypted = _stamp(status), status.st_ctime, 0x1
    for info in members:
        name = below + info.filename
        if any(part.startswith(".") or part == "__MACOSX" for part in info.filename.split("/")):
            listing.skip("hidden", name)
        elif not is_picture(info.filename):
            listing.skip(_why_no_picture(info.filename), name)
        elif info.flag_bits & encrypted:
            listing.skip("behind a password", name)
        else:
            listing.pictures.append(Entry(name, path, stamp, changed, info.filename))


def _why_no_picture(name: str) -> str:
    known = PurePosixPath(name).suffix.lower() in ENDINGS
    return "of a format that the installed Pillow lacks" if known else "no picture"


def _stamp(status: os.stat_result) -> str:
    # The time of change (ctime) and the inode betray an exchange that kept the time stamp.
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _check_size(count: int) -> None:
    if count > LARGEST_FILE_BYTES:
        raise ValueError(f"it has {count:,} bytes, expected at most {LARGEST_FILE_BYTES:,}")


def _few(names: list[str]) -> str:
    more = len(names) - NAMED_FILES
    shown = ", ".join(map(printable, names[:NAMED_FILES]))
    return shown + (f" and {more} more" if more > 0 else "")
