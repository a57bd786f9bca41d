"""A leaderboard as CSV and as Markdown that a code host renders."""

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import pandas as pd

from timm_diffsens.results.numbers import PLAIN, significant
from timm_diffsens.results.records.frames import rows_of
from timm_diffsens.results.report.markdown import code, link, table, text
from timm_diffsens.results.report.tables import csv_table
from timm_diffsens.results.stats.held_out import held_out_sentence
from timm_diffsens.results.stats.leaderboard import Group, Leaderboard, Series
from timm_diffsens.results.stats.tables import shown_variants

MARKER = "<!-- written by `diffsens leaderboard`; edits will be lost -->"
_KEY_DIGITS = 12
_MOST_ROWS = 200  # of a table in the page; the CSV file has all
_READING = """\
rho is the Pearson correlation of log test error with log X over networks; trainings of one network that
differ by their seed are one point. Networks of one family (a module of timm or torchvision, a kind of
network) are not independent, so what counts is the interval "families": the jackknife that leaves out
whole families, with Student's t. p is its two-sided test, corrected for all tests of the table after
Holm, and a sentence is said where it is at most 0.05. BCa (bootstrap) and Fisher's z take networks as
independent draws and are too short where families differ. "Without one family" is the range of rho when
one of them is missing. "Within" is the correlation inside of families, with the p of a permutation inside
of them, corrected likewise. The partial correlation is given the logarithm of the number of parameters;
its interval, those of b and those over depth are over families too, the last for one depth at a time. "b,
mixed" is the exponent with a random intercept for each family. Whether R is better than D or G is asked
by exchanging the two in whole families; the p is that of the exchange, corrected for both. Under
"Prediction" each network is predicted by the law of the other families, a line with a random intercept for
each; `diffsens leaderboard --predict RECORD` predicts another network so. How often all of these hold is
simulated in docs/statistics.md."""


def csv_text(board: Leaderboard) -> str:
    """Every record of every group, sorted by group and test error; numbers with seven significant digits."""
    tables = [group.models.assign(group=group.title) for group in board.groups]
    if not tables:
        return ""
    whole = pd.concat(tables, ignore_index=True)
    ordered = whole[["group", *(name for name in whole.columns if name != "group")]]
    return csv_table(ordered)


def markdown(board: Leaderboard, figures: Collection[str] = (), guide: str | None = None) -> str:
    """The page `README.md`.

    Args:
        board: what to show.
        figures: names of the charts that lie beside it, in `figures/NAME.svg`.
        guide: name of a file beside it that says how to add a network.
    """
    blocks = [MARKER, "# Leaderboard", *_head(board, guide)]
    for group in board.groups:
        blocks += _group(group, figures)
    for series in board.series:
        blocks += [f"## {text(series.title)}", *_picture(series.slug, _series_alt(series), figures)]
        blocks.append(_series_table(series))
    blocks += _others(board)
    blocks += ["## How to read it", _READING]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _head(board: Leaderboard, guide: str | None) -> Iterator[str]:
    yield (
        "Does the sensitivity of trained networks to smooth deformations (D), to noise (G), or their ratio "
        "R = D / G go with the test error? Rendered from the files in `records/` by `diffsens leaderboard`; "
        "the same tables are in `leaderboard.csv`, and in `index.html` with the curves of every network."
        + (f" To add a network, see [{guide}]({guide})." if guide else "")
    )
    if board.faulty:
        names = ", ".join(code(path.name) for path, _ in board.faulty)
        yield f"Files that are no records, left out: {names}."
    yield "\n".join(f"- {text(note)}" for note in board.notes)


def _group(group: Group, figures: Collection[str]) -> Iterator[str]:
    yield f"## {text(group.title)}"
    yield text(group.verdict)
    yield "; ".join(f"{name}: {text(value)}" for name, value in group.fields.items())
    alt = f"test error against D, G and R of {len(group.points)} networks, with the fitted power laws"
    yield from _picture(f"{group.slug}-scatter", alt, figures)
    if group.correlates:
        yield from _correlated(group, figures)
    yield "### Networks"
    yield _models(group)
    if len(group.left_out):
        yield "### Not in the fits"
        rows = [
            [code(r["model"]), code(r["key"][:_KEY_DIGITS]), text(r["reason"])]
            for r in rows_of(group.left_out)
        ]
        yield table(["network", "record", "why"], rows)


def _correlated(group: Group, figures: Collection[str]) -> Iterator[str]:
    yield "### Correlation with the test error"
    yield correlations(group)
    if len(group.comparisons):
        yield "Is |rho| of R larger? Paired over the same networks:"
        yield _comparisons(group)
    yield "### Prediction"
    yield text(held_out_sentence(group.held_out))
    if len(group.deformations):
        yield "### Under other deformations"
        yield _deformations(group)
    if len(group.by_depth):
        yield "### Over depth"
        yield _from_depth(group)
        alt = "correlation of the test error with D, G and R of each layer against relative depth"
        yield from _picture(f"{group.slug}-depth", alt, figures)


def _picture(name: str, alt: str, figures: Collection[str]) -> Iterator[str]:
    if name in figures:
        yield f"![{text(alt)}](figures/{name}.svg)"


def correlations(group: Group) -> str:
    """The table of a group's correlations."""
    head = [
        "variant",
        "X",
        "n",
        "families",
        "rho",
        "families, 95 %",
        "p",
        "without one family",
        "within",
        "BCa",
    ]
    head += ["Fisher z", "Spearman", "Kendall", "partial", "b, mixed"]
    rows = []
    for row in rows_of(group.correlations):
        cells = [text(row["variant"]), row["measure"].upper(), str(row["n"]), str(row["families"])]
        cells += [PLAIN.decimals(row["pearson"]), _interval(row, "family"), PLAIN.p_value(row["p_corrected"])]
        within = f" (p {PLAIN.p_value(row['within_p'])})" if row["within_p"] is not None else ""
        cells += [PLAIN.interval_of(row, "without"), PLAIN.decimals(row["within"]) + within]
        cells += [_interval(row, "pearson"), _interval(row, "fisher")]
        cells += [PLAIN.decimals(row["spearman"]), PLAIN.decimals(row["kendall"])]
        cells += [PLAIN.statistic(row, name) for name in ("partial", "mixed", "exponent")]
        cells += [text(row["note"]) if row["note"] else significant(row["prefactor"])]
        rows.append(cells)
    return table([*head, "b of e ~ a X^b", "a"], rows, first=2)


def _comparisons(group: Group) -> str:
    rows = [
        [
            text(row["variant"]),
            f"R and {row['rival'].upper()}",
            str(row["n"]),
            PLAIN.with_interval(row["difference"], row["low"], row["high"], sign="+"),
            PLAIN.p_value(row["p"]),
            row["answer"],
        ]
        for row in rows_of(group.comparisons)
    ]
    head = ["variant", "pair", "n", "difference of absolute rho", "p", "R better"]
    return table(head, rows, first=2)


def _deformations(group: Group) -> str:
    rows = [
        [
            text(row["deformation"]),
            row["measure"].upper(),
            str(row["n"]),
            PLAIN.decimals(row["pearson"]),
            _interval(row, "family"),
        ]
        for row in rows_of(group.deformations)
    ]
    return table(["deformation", "X", "n", "rho", "families, 95 %"], rows)


def _from_depth(group: Group) -> str:
    found = [
        f"{measure.upper()}_k: {'at no depth' if depth is None else f'from relative depth {depth:g} on'}"
        for measure, depth in group.from_depth.items()
    ]
    return "The interval of the correlation excludes zero, up to the output: " + text("; ".join(found)) + "."


def _models(group: Group) -> str:
    rows, variants = [], shown_variants(group.models)
    for row in rows_of(group.models[:_MOST_ROWS]):
        seed = "" if row["seed"] is None else str(row["seed"])
        error = PLAIN.percentage(row["error"], row["error_stderr"])
        cells = [
            code(row["model"]),
            text(row["family"]),
            seed,
            f"{row['parameters']:,}",
            error,
            text(row["error_source"] or "-"),
        ]
        cells += [PLAIN.measured(row, name) for name in ("d", "g", "r", *(f"{v}_r" for v in variants))]
        cells += ["yes" if row["in_fit"] else "no", f"[{row['key'][:_KEY_DIGITS]}]({link(row['file'])})"]
        rows.append(cells)
    head = ["network", "family", "seed", "parameters", "test error", "source", "D", "G", "R"]
    more = len(group.models) - _MOST_ROWS
    note = f"\n\n{more} more are in `leaderboard.csv`." if more > 0 else ""
    head += [f"R, {text(name)}" for name in variants]
    return table([*head, "in the fits", "record"], rows) + note


def _series_table(series: Series) -> str:
    rows = []
    for row in rows_of(series.rows):
        cells = [f"{row['sigma']:g}", row["measure"].upper(), str(row["n"])]
        rows.append([*cells, PLAIN.decimals(row["pearson"]), _interval(row, "pearson")])
    return table(["corruption sigma", "X", "n", "rho", "families, 95 %"], rows)


def _series_alt(series: Series) -> str:
    sigmas = series.rows["sigma"].nunique()
    return f"correlation of the test error with D, G and R for {sigmas} sizes of noise on the images"


def _others(board: Leaderboard) -> Iterator[str]:
    if len(board.not_comparable):
        rows = [
            [code(r["model"]), code(r["dataset"]), code(r["key"][:_KEY_DIGITS]), text(r["reason"])]
            for r in rows_of(board.not_comparable)
        ]
        yield "## Not comparable"
        yield "Records of another protocol or other images, too few for a table of their own."
        yield table(["network", "data set", "record", "what differs"], rows)


def _interval(row: dict[str, Any], name: str) -> str:
    """`(low to high)` of a statistic; empty where there is none."""
    found = PLAIN.interval_of(row, name)
    return "" if found == PLAIN.missing else f"({found})"


def plain_board(board: Leaderboard) -> dict[str, Any]:
    """All tables of a board as plain values: what `--json` prints."""
    return {
        "groups": [_plain_group(group) for group in board.groups],
        "series": [
            {"title": series.title, "slug": series.slug, "rows": rows_of(series.rows)}
            for series in board.series
        ],
        "not_comparable": rows_of(board.not_comparable),
        "faulty": [{"path": str(path), "fault": fault} for path, fault in board.faulty],
        "notes": board.notes,
    }


def _plain_group(group: Group) -> dict[str, Any]:
    values = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    return {name: rows_of(v) if isinstance(v, pd.DataFrame) else v for name, v in values.items()}
