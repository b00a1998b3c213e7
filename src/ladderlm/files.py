"""Write files, the only module that does.

Owns atomic publication (a reader sees the old file or the new one, never a part), append-only
logs, locks and checksums. A folder is published by a manifest that is written last. A test checks
that nothing else in the package opens a file for writing.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ladderlm.errors import CheckpointError, DataError, LadderError

__all__ = [
    "AppendLog",
    "FolderLock",
    "append_bytes",
    "check_free_space",
    "copy_folder",
    "make_folder",
    "move_into_place",
    "open_log",
    "publish",
    "publish_json",
    "publish_stream",
    "publish_text",
    "read_json",
    "remove_tree",
    "sha256_file",
    "sync_folder",
    "to_json",
]

TEMPORARY_PREFIX = ".tmp-"


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and sync each one's entry in its own parent."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


@contextlib.contextmanager
def publish_stream(path: Path | str) -> Iterator[IO[bytes]]:
    """Yield a binary file that appears under `path` only when the block ends without an error.

    The block writes to a temporary file in the same folder, which is then synced and renamed. An
    exception removes the temporary file and leaves the old content untouched.
    """
    path = Path(path)
    make_folder(path.parent)
    # A name holds 255 bytes, not characters. Names that differ only after the cut collide.
    name = os.fsdecode(os.fsencode(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")[:250])
    temporary = path.with_name(name)
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise LadderError(
                f"no room to write {path}: {error.strerror}",
                "the new file was discarded; the previous one, if any, is untouched",
                "free some disk space or choose another output folder, then run the command again",
            ) from error
        raise
    sync_folder(path.parent)


def move_into_place(source: Path, target: Path) -> None:
    """Rename a finished, synced file into a folder of the same disk, and sync both folders."""
    source.replace(target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def publish(path: Path | str, write: Callable[[IO[bytes]], object]) -> None:
    """Publish what `write(stream)` writes to a binary stream. See `publish_stream`."""
    with publish_stream(path) as stream:
        write(stream)


def publish_text(path: Path | str, text: str) -> None:
    r"""Publish UTF-8 text. Lone surrogates (from undecodable file names) become `\udcXX`."""
    with publish_stream(path) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))


def to_json(value: Any, indent: int | None = 2) -> str:
    """Return a value as strict JSON, with null for NaN and infinities."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_without_non_finite(value), indent=indent, ensure_ascii=False)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    return value


def publish_json(path: Path | str, value: Any) -> None:
    """Publish a value as indented JSON that ends in a newline."""
    publish_text(path, to_json(value) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file that ladderlm wrote.

    Raises:
        DataError: the file is missing, unreadable or not JSON; names line and column.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})",
            fix="restore the file from a copy, or run the command that wrote it again",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        what, fix = f"cannot read {path}: {error}", "check the path and the permissions"
        raise DataError(what, fix=fix) from error


def sha256_file(path: Path | str) -> str:
    """Return the hex SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_free_space(folder: Path, n_bytes: int) -> None:
    """Raise LadderError if the disk of `folder`, which need not exist, has less than `n_bytes`."""
    status = os.statvfs(next(path for path in (folder, *folder.parents) if path.exists()))
    free = status.f_bavail * status.f_frsize
    if free < n_bytes:
        raise LadderError(
            f"{folder} needs {n_bytes / 1e6:.1f} MB, but {free / 1e6:.1f} MB are free",
            "a write that fills the disk would be discarded half done",
            "free some disk space or choose another output folder",
        )


def remove_tree(folder: Path) -> None:
    """Delete a folder that we published, its manifest first, so that no reader trusts a part.

    Symbolic links are unlinked, never followed.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    (folder / "manifest.json").unlink(missing_ok=True)
    for entry in sorted(folder.iterdir()):
        remove_tree(entry)
    folder.rmdir()
    sync_folder(folder.parent)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder to a path that does not exist yet, where it appears whole or not at all.

    Locks, temporary files, links and special files are not copied.

    Raises:
        LadderError: there is not enough disk space.
    """
    check_free_space(target, sum(e.lstat().st_size for e in source.rglob("*") if e.is_file()))
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
    if temporary.exists():
        remove_tree(temporary)  # left by an interrupted copy
    make_folder(temporary)
    for entry in sorted(source.rglob("*")):
        place = entry.relative_to(source)
        hidden = any(part == ".lock" or part.startswith(TEMPORARY_PREFIX) for part in place.parts)
        linked = any((source / above).is_symlink() for above in (place, *place.parents))
        if hidden or linked:
            continue
        if entry.is_dir():
            make_folder(temporary / place)
        elif entry.is_file():
            with open(entry, "rb") as stream, publish_stream(temporary / place) as copy:
                shutil.copyfileobj(stream, copy)
    temporary.replace(target)
    sync_folder(target.parent)


def append_bytes(path: Path, data: bytes) -> None:
    """Append to a file that is not published yet, such as an unfinished download, and sync it."""
    with open(path, "ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def open_log(path: Path) -> IO[bytes]:
    """Open a log for a child process to append to, and create its folder."""
    make_folder(path.parent)
    return open(path, "ab")


class AppendLog:
    """JSON-lines file that is appended to, and cut back to a known state on resume.

    Args:
        path: the file; its folder exists.
        keep: called with each parsed line of an existing file. Lines for which it returns False,
            incomplete last lines and lines that are not JSON objects are dropped.
    """

    def __init__(self, path: Path, keep: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
        self.path = path
        if path.exists():
            old, kept = path.read_bytes(), []
            for raw in old.split(b"\n"):
                with contextlib.suppress(ValueError, RecursionError):
                    row = json.loads(raw)
                    if isinstance(row, dict) and keep(row):
                        kept.append(raw + b"\n")
            if b"".join(kept) != old:
                publish(path, lambda stream: stream.writelines(kept))
        self._stream = open(path, "ab")  # noqa: SIM115  # held open for the whole run
        sync_folder(path.parent)

    def write(self, row: dict[str, Any]) -> None:
        """Append one object as a line; readers see it at once, and `sync` makes it durable."""
        line = to_json(row, indent=None) + "\n"
        try:
            self._stream.write(line.encode("utf-8", "backslashreplace"))
            self._stream.flush()
        except OSError as error:
            raise LadderError(
                f"cannot append to {self.path}: {error.strerror}",
                "the run stops, because numbers that are not logged would be lost",
                "free some disk space, then run the same command again to resume",
            ) from error

    def sync(self) -> None:
        """Force the written lines to disk."""
        self._stream.flush()
        with contextlib.suppress(OSError):  # a pipe or /dev/full cannot be synced
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Sync and close."""
        with contextlib.suppress(ValueError):
            self.sync()
            self._stream.close()


class FolderLock:
    """Lock that gives a folder to one process; the kernel releases it when the process ends.

    Uses an advisory `flock` on `folder/.lock`, so that neither a dead nor a reused pid can keep
    a folder locked. The file names the holder for the error message of other processes.

    Args:
        wait: wait until the holder releases the folder or ends, instead of raising.

    Raises:
        CheckpointError: another live process holds the lock.
    """

    def __init__(self, folder: Path, wait: bool = False) -> None:
        make_folder(folder)
        self._stream = open(folder / ".lock", "a+b")  # noqa: SIM115  # open means held
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            self._stream.seek(0)
            holder = self._stream.read().decode("utf-8", "replace").strip() or "another process"
            self._stream.close()
            raise CheckpointError(
                f"{folder} is in use by {holder}",
                "two writers in one folder would damage each other's files",
                "wait for it to end, stop it, or choose another --out",
            ) from error
        self._stream.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stream.write(f"pid {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
        self._stream.flush()

    def release(self) -> None:
        """Release the folder; a second call does nothing."""
        if not self._stream.closed:
            self._stream.truncate(0)
            self._stream.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
