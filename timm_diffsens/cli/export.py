"""`diffsens export`: all layers of all records as one table."""

from pathlib import Path
from typing import Annotated

import typer

from timm_diffsens.cli.output import OUT, Json, Out, Quiet, print_error, print_json, progress_console
from timm_diffsens.errors import DiffsensError, UsageError

_FORMATS = (".csv", ".parquet")


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write: .csv or .parquet.")],
    out: Out = OUT,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a row for each record, variant, deformation and layer."""
    from timm_diffsens.files import write_atomic
    from timm_diffsens.results.records.store import layers_below
    from timm_diffsens.results.report.tables import csv_table

    if file.suffix.lower() not in _FORMATS:
        raise UsageError(f"{file} must end in {' or '.join(_FORMATS)}")
    table, bad = layers_below(out / "records")
    records = table["key"].nunique()
    if file.suffix.lower() == ".csv":
        write_atomic(file, csv_table(table).encode())
    else:
        try:
            content = table.to_parquet(index=False)
        except ImportError as error:
            raise DiffsensError("parquet needs pyarrow: pip install pyarrow, or write .csv") from error
        write_atomic(file, content)
    if as_json:
        print_json({"file": str(file), "records": records, "rows": len(table), "left_out": bad})
    progress_console().print(f"written: {file}, {len(table)} rows of {records} records", soft_wrap=True)
    for fault in bad:
        print_error(f"left out: {fault}")
    if bad:
        raise typer.Exit(1)
