"""Tables as CSV: the only place that writes data frames."""

import pandas as pd

from timm_diffsens.printable import csv_cell

_NUMBER = "%.7g"


def csv_table(table: pd.DataFrame, float_format: str | None = _NUMBER) -> str:
    """Numbers with seven significant digits, all of them with None; texts as `csv_cell` writes them."""
    texts = table.select_dtypes(exclude="number").columns
    plain = table.assign(**{name: table[name].map(csv_cell, na_action="ignore") for name in texts})
    lines: str = plain.rename(columns=csv_cell).to_csv(
        index=False, float_format=float_format, lineterminator="\n"
    )
    return lines
