"""A leaderboard in the terminal."""

from typing import TYPE_CHECKING

from timm_diffsens.cli.output import plain_table, result_console
from timm_diffsens.results.numbers import PLAIN, significant, some_of
from timm_diffsens.results.records.frames import rows_of
from timm_diffsens.results.report.markdown import one_line

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from timm_diffsens.results.stats.leaderboard import Group, Leaderboard, Series
    from timm_diffsens.results.stats.prediction import Prediction

_MOST_ROWS, _MOST_NAMED = 40, 10


def print_board(board: "Leaderboard") -> None:
    """For each group: networks by test error, correlations, a verdict; then what is left out."""
    console = result_console()
    for group in board.groups:
        _print_group(console, group)
    for series in board.series:
        console.print(one_line(series.title), style="bold", soft_wrap=True)
        console.print(_series_table(series))
        console.print()
    _print_reasons(console, "not comparable", board.not_comparable)
    for note in board.notes:
        console.print(f"note: {note}", soft_wrap=True)


def _print_group(console: "Console", group: "Group") -> None:
    console.print(one_line(group.title), style="bold", soft_wrap=True)
    console.print(_models_table(group))
    console.print()
    if group.correlates:
        console.print(_correlation_table(group))
        console.print()
    console.print(group.verdict)
    _print_reasons(console, "not in the fits", group.left_out)
    console.print()


def print_prediction(found: "Prediction") -> None:
    """A row for each measure; what the intervals hold, and how often they have held the truth."""
    console = result_console()
    console.print(f"{one_line(found.network.model.spec)}, on: {one_line(found.group.title)}", soft_wrap=True)
    table = plain_table(["X", "value", "test error", "90 %", "networks", "families", "held out"], left=["X"])
    for row in rows_of(found.rows):
        cells = [PLAIN.percentage(row["error"]), "", str(row["n"]), str(row["families"]), row["note"]]
        if row["error"] is not None:
            cells[1] = f"{PLAIN.percentage(row['low'])} to {PLAIN.percentage(row['high'])}"
            cells[-1] = f"{row['inside']:g} of {row['of']:g}" if row["of"] else "none: too few other families"
        table.add_row(row["measure"].upper(), significant(row["value"]), *cells)
    console.print(table)
    others = "whose others on the board count" if found.known else "of which the board has none, or too few"
    console.print(
        f"The network is of the family {one_line(found.family)}, {others}. Held out: networks whose error is "
        "inside of the 90 % interval that the other families give it.",
        soft_wrap=True,
    )
    for caution in found.cautions():
        console.print(caution, soft_wrap=True)


def _print_reasons(console: "Console", what: str, table: "pd.DataFrame") -> None:
    """The records left out, put together by reason."""
    for reason, rows in table.groupby("reason", sort=True):
        named = some_of([one_line(name) for name in rows["model"]], _MOST_NAMED)
        console.print(f"{what}: {named}: {one_line(str(reason))}", soft_wrap=True)


def _models_table(group: "Group") -> "Table":
    table = plain_table(
        ["network", "seed", "test error", "D", "G", "R", "R, shuffled", "fit"], left=["network"]
    )
    for row in rows_of(group.models[:_MOST_ROWS]):
        values = [PLAIN.measured(row, name) for name in ("d", "g", "r", "channel-shuffled_r")]
        seed, error = "" if row["seed"] is None else str(row["seed"]), PLAIN.percentage(row["error"])
        table.add_row(one_line(row["model"]), seed, error, *values, "yes" if row["in_fit"] else "no")
    if len(group.models) > _MOST_ROWS:
        table.caption = f"{len(group.models) - _MOST_ROWS} more are in leaderboard.csv"
    return table


def _correlation_table(group: "Group") -> "Table":
    heads = ["variant", "X", "n", "rho", "95 % families", "Fisher z", "Spearman", "Kendall", "p"]
    table = plain_table([*heads, "partial", "exponent"], left=["variant", "X"])
    table.columns[0].no_wrap = True
    for row in rows_of(group.correlations):
        cells = [PLAIN.decimals(row["pearson"]), *(PLAIN.interval_of(row, x) for x in ("family", "fisher"))]
        cells += [PLAIN.decimals(row["spearman"]), PLAIN.decimals(row["kendall"])]
        cells += [PLAIN.p_value(row["p_corrected"]), PLAIN.decimals(row["partial"])]
        cells += [row["note"] or PLAIN.decimals(row["exponent"])]
        table.add_row(row["variant"], row["measure"].upper(), str(row["n"]), *cells)
    return table


def _series_table(series: "Series") -> "Table":
    table = plain_table(["corruption sigma", "X", "n", "rho", "95 % families"], left=["corruption sigma"])
    for row in rows_of(series.rows):
        cells = [str(row["n"]), PLAIN.decimals(row["pearson"]), PLAIN.interval_of(row, "pearson")]
        table.add_row(f"{row['sigma']:g}", row["measure"].upper(), *cells)
    return table
