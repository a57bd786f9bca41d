"""What a target gives: charts, tables, claims and what was missing; and its files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from timm_diffsens import __version__
from timm_diffsens.files import write_atomic
from timm_diffsens.reproduce.claims import Claim, Numbers
from timm_diffsens.reproduce.settings import Settings
from timm_diffsens.results.report.export import FigureError, render
from timm_diffsens.results.report.tables import csv_table
from timm_diffsens.schema.protocol import digest

REPORT = "report.json"


@dataclass
class Report:
    """Of one figure or table of the paper.

    Attributes:
        target: fig1, table1, ... title: what it shows.
        charts: name of the file, without suffix -> chart.
        tables: the same, of the data behind them.
        claims: judged.
        notes: what the reader must know, a sentence each.
        missing: what could not be had, a sentence each.
    """

    target: str
    title: str
    charts: dict[str, alt.TopLevelMixin] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def show(self, name: str, table: pd.DataFrame, chart: alt.TopLevelMixin) -> None:
        """A chart, and the data behind it."""
        self.tables[name], self.charts[name] = table, chart

    def judge(self, numbers: Numbers, why: str | Mapping[str, str] = "", **values: Any) -> None:
        """Claims of this target, by what their keys have after its name; the rest as for `Claim.of`.

        `why` is that of all, or of each by the same names.
        """
        for name, parts in numbers.items():
            reason = why if isinstance(why, str) else why.get(name, "")
            self.claims.append(Claim.of(f"{self.target}.{name}", parts, reason, **values))


def write_report(report: Report, folder: Path, settings: Settings) -> list[Path]:
    """Charts as SVG, tables as CSV, everything else as `report.json`; equal reports give equal bytes.

    The settings lie beside the folders of all targets, as `settings-<scale>.json`. A report with nothing in
    it replaces none that has.

    Raises:
        DiffsensError: a file could not be written.
    """
    files = _drawn(report)
    figures = list(files)
    for name, table in report.tables.items():
        files[f"{name}.csv"] = csv_table(table).encode()
    listed: dict[str, Any] = {
        "target": report.target,
        "title": report.title,
        "scale": settings.name,
        "settings_sha256": digest(settings.to_json()),
        "package": __version__,
        "figures": figures,
        "tables": [f"{name}.csv" for name in report.tables],
        "claims": [claim.to_json() for claim in report.claims],
        "notes": report.notes,
        "missing": report.missing,
    }
    files[REPORT] = (json.dumps(listed, indent=1, allow_nan=False) + "\n").encode()
    target = folder / report.target
    if not report.charts and not report.tables and (target / REPORT).exists():
        return []  # it failed now; what it gave before stays
    files[f"../settings-{settings.name}.json"] = (json.dumps(settings.to_json(), indent=1) + "\n").encode()
    for name, content in files.items():
        write_atomic(target / name, content)
    for old in target.glob("*"):
        if old.suffix in (".svg", ".csv") and old.name not in files:
            old.unlink()  # of an earlier run, with other data
    return [target / name for name in files]


def _drawn(report: Report) -> dict[str, bytes]:
    """Its charts as files; where they cannot be drawn, that is missing."""
    try:
        return {f"{name}.svg": render(chart, "svg") for name, chart in report.charts.items()}
    except FigureError as error:
        report.missing.append(str(error))
        return {}


def read_reports(folder: Path, order: list[str]) -> list[dict[str, Any]]:
    """The reports below a folder, as plain values, in this order of targets."""
    found = {}
    for path in folder.glob(f"*/{REPORT}"):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found[report["target"]] = report
    return [found[target] for target in order if target in found]
