"""Files that are whole or not there: atomic writes, and names that cannot leave their folder."""

import os
import re
import secrets
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

from timm_diffsens.errors import DiffsensError, UsageError

_LONGEST = 80
_TEMPORARY = re.compile(r"\.(.*\.)?[0-9a-f]{12}\.tmp", re.DOTALL)  # what `_temporary` makes
# Device names that Windows keeps for itself, whatever follows after a dot.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin|conout|clock)(\..*)?", re.IGNORECASE)


def slug(name: str) -> str:
    """`name` as one path component: letters, digits and `._-` only, at most 80 characters, never empty.

    Not one-to-one: whoever needs distinct files adds a key.

    Example:
        >>> slug("hf-hub:timm/resnet50.a1_in1k"), slug("../../etc/passwd"), slug("CON"), slug("…")
        ('hf-hub-timm-resnet50.a1_in1k', 'etc-passwd', '_CON', 'unnamed')
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"\.{2,}", "-", re.sub(r"[^A-Za-z0-9._-]+", "-", plain))
    short = re.sub(r"-{2,}", "-", safe).strip("-.")[:_LONGEST].strip("-.")
    if _RESERVED.fullmatch(short):
        return "_" + short
    return short or "unnamed"


def absolute(path: Path) -> Path:
    """The path from the root, `~` and `~user` replaced by their folders.

    Raises:
        UsageError: there is no such user, or nothing says where its folder is.
    """
    try:
        return path.expanduser().absolute()
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"{path}: no home folder is known for {path.parts[0]}; write the path out"
        ) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, finds the old file or the new, never half.

    A temporary file in the same folder is written and synchronised to the disk, then renamed over `path`,
    and the folder is synchronised too. Temporary files that killed writers left there are removed.

    Raises:
        DiffsensError: the file could not be written; what was at `path` is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path.parent, path.name, content) as temporary:
            temporary.replace(path)
            _synchronise_folder(path.parent)
    except OSError as error:
        raise DiffsensError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable_folder(folder: Path) -> None:
    """Try to write in `folder`; what is made for that, where it is missing, is removed again.

    Raises:
        UsageError: no file can be written there.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary(folder, "probe", b"x"):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot write in {folder}: {reason}; choose another folder with --out") from None
    finally:
        with suppress(OSError):
            for each in missing:
                each.rmdir()


@contextmanager
def _temporary(folder: Path, name: str, content: bytes) -> Iterator[Path]:
    """A new file with that content, on the disk; at the end it is removed, unless it has been renamed.

    Its writer keeps it locked, so that one without a lock is known to be a killed writer's: the system ends
    a lock with its process, on whichever machine of a shared folder that was.
    """
    _clear_leftovers(folder)
    path, descriptor = _created(folder, name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
            if sys.platform == "win32":
                file.close()  # an open file cannot be renamed there
            yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _created(folder: Path, name: str) -> tuple[Path, int]:
    """A new file and its descriptor, locked."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        path = folder / f".{name[:100]}.{secrets.token_hex(6)}.tmp"
        # Not tempfile: its files are readable by their owner alone, and the rename would keep that.
        descriptor = os.open(path, flags, 0o666)
        if sys.platform != "win32":
            with suppress(OSError):  # a file system without locks, where nothing is taken for a leftover
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)  # another writer took it for a leftover before it was locked


def _clear_leftovers(folder: Path) -> None:
    """Remove temporary files that nobody has locked: their writers are gone."""
    if sys.platform == "win32":
        return
    with suppress(OSError):  # a folder that may be written but not listed
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                with suppress(OSError):  # locked, or gone meanwhile
                    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()
                    finally:
                        os.close(descriptor)


def _synchronise_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse it; the rename itself is done
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
