"""Files that are whole or not there: atomic writes, and names that cannot leave their folder."""

import os
import re
import secrets
import unicodedata
from contextlib import suppress
from pathlib import Path

from timm_diffsens.errors import DiffsensError, UsageError

_LONGEST = 80
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


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, finds the old file or the new, never half.

    A temporary file in the same folder is written and synchronised to the disk, then renamed over `path`,
    and the folder is synchronised too.

    Raises:
        DiffsensError: the file could not be written; what was at `path` is untouched.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_synchronised(temporary, content)
        temporary.replace(path)
        _synchronise_folder(path.parent)
    except OSError as error:
        raise DiffsensError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable_folder(folder: Path) -> None:
    """Try to write in `folder`; what is made for that, where it is missing, is removed again.

    Raises:
        UsageError: no file can be written there.
    """
    probe = folder / f".{secrets.token_hex(6)}.tmp"
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_synchronised(probe, b"x")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot write in {folder}: {reason}; choose another folder with --out") from None
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
            for each in missing:
                each.rmdir()


def _write_synchronised(path: Path, content: bytes) -> None:
    # Not tempfile: its files are readable by their owner alone, and the rename would keep that.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _synchronise_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse it; the rename itself is done
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
