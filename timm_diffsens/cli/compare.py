"""`diffsens compare`: do networks, or variants of one, differ?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_diffsens.cli.figures import Column, Figure, draw, need, panels
from timm_diffsens.cli.output import (
    OUT,
    Json,
    Out,
    Quiet,
    plain_table,
    print_json,
    progress_console,
    result_console,
)
from timm_diffsens.cli.show import find
from timm_diffsens.results.numbers import MISSING, is_missing, significant

if TYPE_CHECKING:
    from rich.table import Table

    from timm_diffsens.results.records.frames import Row

_MEASURES = ("r", "d", "g")


def compare(
    records: Annotated[
        list[str],
        typer.Argument(
            metavar="RECORD...",
            help="Files, models' names or starts of keys; @VARIANT behind one means that variant of it.",
        ),
    ],
    out: Out = OUT,
    figure: Figure = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the differences, a row a place.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", metavar="r,d,g", help="Measures of table, JSON, CSV and figure, some of r, d and g."
        ),
    ] = None,
    column: Column = None,
    deformation: Annotated[
        int, typer.Option("--deformation", min=0, help="Which of the records' deformations, from 0.")
    ] = 0,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="As if they had seen different images.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare the first record with each of the others: R, D and G, paired image by image."""
    from timm_diffsens.results.records.frames import rows_of
    from timm_diffsens.results.stats.paired import compare_sides, side_of, uniquely_named

    measures = panels(only, _MEASURES) or list(_MEASURES)  # of the table too
    need("--figure FILE", figure, column=column)
    files = [_file(text, out / "records") for text in records]
    sides = uniquely_named([side_of(f, paired=not unpaired, deformation=deformation) for f in files])
    table = compare_sides(sides)
    rows = rows_of(table[table["measure"].isin(measures)])
    if as_json:
        print_json(rows)
    else:
        for other in sides[1:]:
            _print(sides[0].name, other.name, [row for row in rows if row["b"] == other.name], unpaired)
    if csv is not None:
        from timm_diffsens.files import write_atomic
        from timm_diffsens.results.report.tables import csv_table

        write_atomic(csv, csv_table(table).encode())
        progress_console().print(f"written: {csv}", soft_wrap=True)
    if figure is not None:
        from timm_diffsens.results.report.compare_chart import compare_figure

        draw(compare_figure(sides, measures, column), figure)


def _file(text: str, folder: Path) -> str:
    """The record's file, with its variant; of a name what stands behind its first @ is one."""
    from timm_diffsens.results.stats.paired import split_variant

    file, variant = split_variant(text)
    if Path(file).is_file():
        return f"{file}@{variant}"
    name, _, variant = text.partition("@")
    return f"{find(name, folder)}@{variant or 'original'}"


def _print(a: str, b: str, rows: "list[Row]", unpaired: bool) -> None:
    console = result_console()
    how = "unpaired" if unpaired else "paired"
    console.print(f"{b} over {a} ({how}, {rows[0]['n']} images)" if rows else f"{b} over {a}", soft_wrap=True)
    console.print(_table(rows))
    console.print(_LEGEND, soft_wrap=True)
    console.print()
    console.print(_sentence(a, b, rows), soft_wrap=True)
    console.print()


def _table(rows: "list[Row]") -> "Table":
    """A row a place, with a column for each measure: the ratio and its interval; * where it is decided."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    table = plain_table(["place", *(measure.upper() for measure in measures)], left={"place"})
    places: dict[str, dict[str, Any]] = {}
    for row in rows:
        places.setdefault(row["place"], {})[row["measure"]] = row
    for place, found in places.items():
        table.add_row(place, *(_cell(found[measure]) for measure in measures))
    return table


_LEGEND = "In brackets: 95 % of each place by itself; *: decided, corrected for all places."


def _cell(row: "Row") -> str:
    if is_missing(row["ratio"]):
        return MISSING
    star = " *" if not is_missing(row["p_corrected"]) and row["p_corrected"] <= 0.05 else ""
    if is_missing(row["low"]):
        return significant(row["ratio"])
    return f"{significant(row['ratio'])} ({significant(row['low'])} to {significant(row['high'])}){star}"


def _sentence(a: str, b: str, rows: "list[Row]") -> str:
    """What it says of the last place, which is the output."""
    last = next((row for row in reversed(rows) if row["measure"] == rows[0]["measure"]), None)
    if last is None or is_missing(last["ratio"]) or is_missing(last["p"]):
        return "At the output there is nothing to compare."
    x = last["measure"].upper()
    if last["p_corrected"] > 0.05:
        return (
            f"Whether {x} at the output differs between the two is undecided (p = {last['p_corrected']:.2g})."
        )
    word = "larger" if last["ratio"] > 1 else "smaller"
    factor = last["ratio"] if last["ratio"] > 1 else 1 / last["ratio"]
    ends = sorted((last["low"], last["high"]) if last["ratio"] > 1 else (1 / last["high"], 1 / last["low"]))
    gain = last["unpaired_stderr"] / last["stderr"] if last["stderr"] else 1.0
    paired = f" (unpaired its error would be {gain:.2g} times as large)" if gain > 1.05 else ""
    return (
        f"At the output {x} of {b} is {word} than that of {a} by a factor of {significant(factor)} "
        f"({significant(ends[0])} to {significant(ends[1])}){paired}."
    )
