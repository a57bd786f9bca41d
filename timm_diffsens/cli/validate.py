"""`diffsens validate`: are these records sound?"""

from pathlib import Path
from typing import Annotated

import typer

from timm_diffsens.cli.output import OUT, Json, Out, Quiet, print_json, result_console
from timm_diffsens.errors import UsageError


def validate(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Files or folders; default DIR/records.")
    ] = None,
    out: Out = OUT,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check records: schema, key, protocol hash, file name, ranges. Exit 1 if any is bad."""
    from timm_diffsens.results.records.memory import mapped
    from timm_diffsens.results.records.store import faults_in

    files = files_named(paths or [out / "records"])
    print_checked(dict(zip(files, mapped(faults_in, files, parallel=True), strict=True)), as_json)


def print_checked(found: dict[Path, list[str]], as_json: bool) -> None:
    """A line on each file, or one JSON document; exit 1 if any file has faults."""
    bad = sum(1 for faults in found.values() if faults)
    if as_json:
        files = [{"path": str(path), "faults": faults} for path, faults in found.items()]
        print_json({"files": files, "good": len(found) - bad, "bad": bad})
    else:
        console = result_console()
        for path, faults in found.items():
            line = f"{path}: " + ("; ".join(faults) if faults else "ok")
            console.print(line, style="red" if faults else "", soft_wrap=True)
        console.print(f"{len(found)} records, {bad} bad", soft_wrap=True)
    if bad:
        raise typer.Exit(1)


def files_named(paths: list[Path]) -> list[Path]:
    """The files named, and every record file below the folders named, each once.

    Raises:
        UsageError: a path does not exist, or may not be read.
    """
    from timm_diffsens.results.records.store import check_readable, record_files

    files: dict[Path, None] = {}
    for path in paths:
        try:
            path.lstat()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            what = f"no file or folder {path}" if missing else f"cannot read {path}: {error.strerror}"
            raise UsageError(what) from None
        if path.is_dir():
            check_readable(path)
        files |= dict.fromkeys(record_files(path) if path.is_dir() else [path])
    return list(files)
