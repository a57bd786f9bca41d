"""What verbs that draw share: where to, which panels, how wide."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from timm_diffsens.cli.output import progress_console
from timm_diffsens.errors import UsageError


def _drawable(figure: Path | None) -> Path | None:
    """Raises: UsageError: no figure has that suffix; before anything is done."""
    if figure is not None:
        from timm_diffsens.results.report.export import figure_format

        figure_format(figure)
    return figure


Figure = Annotated[
    Path | None,
    typer.Option("--figure", metavar="FILE", help="Draw it: .png, .pdf, .svg or .html.", callback=_drawable),
]
Only = Annotated[
    str | None,
    typer.Option("--only", metavar="r,d,g", help="Panels of the figures, some of r, d and g."),
]
Column = Annotated[
    str | None,
    typer.Option("--column", metavar="WIDTH", help="Width of the figure: 85mm, 3.4in, with small text."),
]


def panels(only: str | None, known: Sequence[str]) -> list[str]:
    """The panels that `--only` asks for, in the order of those known; none where it is not given.

    Raises:
        UsageError: there is no such panel.
    """
    asked = [] if only is None else [name.strip().lower() for name in only.split(",")]
    for name in asked:
        if name not in known:
            raise UsageError(f"--only must be {', '.join(known[:-1])} or {known[-1]}, got {only}")
    return [name for name in known if name in asked]


def need(where: str, given: object, **options: object) -> None:
    """Raises: UsageError: one of the options is given, but not that which says where to draw."""
    for name, value in options.items():
        if value and not given:
            raise UsageError(f"--{name} is about figures: give {where} too")


def draw(chart: Any, figure: Path) -> None:
    """Write it, and say so."""
    from timm_diffsens.results.report.export import save_chart

    save_chart(chart, figure)
    progress_console().print(f"figure: {figure}", soft_wrap=True)
