"""The page of the reproduction: each claim with its verdict, and the figures; as HTML and as Markdown."""

import base64
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from timm_diffsens.results.numbers import significant
from timm_diffsens.results.report.markdown import link, table, text

MARKER = "<!-- written by `diffsens reproduce`; edits will be lost -->"
_TITLE = "The paper, figure by figure"
_INTRODUCTION = (
    "What arXiv 2210.01506 (How deep convolutional neural networks lose spatial information with training) "
    "claims, and what came out here. A claim is a region in which a number has to lie. It is held if the "
    "95 % interval of the number lies inside, not held if it lies outside, and not decided if it holds the "
    "border; a number without an error of its own (the spectrum of given filters, say) is judged by "
    "its value. "
    "With several networks, a claim is held if it is for each of them. Intervals are taken one at a time."
)
_VERDICTS = ("held", "not held", "not decided")
_TEMPLATE = Path(__file__).with_name("page.html.j2")
_SHOWN = 6  # parts of a claim listed in the Markdown table

Plain = dict[str, Any]


def summary(reports: Sequence[Plain]) -> str:
    """`30 claims: 20 held, 4 not held, 6 not decided`."""
    verdicts = Counter(claim["verdict"] for report in reports for claim in report["claims"])
    parts = ", ".join(f"{verdicts[name]} {name}" for name in _VERDICTS)
    return f"{sum(verdicts.values())} claims: {parts}"


def measured(claim: Plain) -> str:
    """The numbers of a claim: `trained 0.96 (0.83 to 0.99)`; of many, those that decide the verdict first."""
    order = ("not held", "not decided", "held")
    parts = sorted(claim["parts"], key=lambda part: order.index(part["verdict"]))
    shown = [_part(part) for part in parts[:_SHOWN]]
    return "; ".join(shown + (["..."] if len(parts) > _SHOWN else [])) or "no number"


def verdict(claim: Plain) -> str:
    """The verdict, with the count where there are several parts."""
    word: str = claim["verdict"]
    return word + (f" ({claim['count']})" if claim["count"] else "")


def _part(part: Plain) -> str:
    if part["value"] is None:
        return f"{part['name']}: none ({part['reason']})"
    interval = "" if part["low"] is None else f" ({significant(part['low'])} to {significant(part['high'])})"
    return f"{part['name']}: {significant(part['value'])}{interval}"


# ---- Markdown


def markdown_page(reports: Sequence[Plain], figures: Path, where: Path) -> str:
    """The page as a code host renders it.

    Args:
        reports: from `read_reports`.
        figures: their folder.
        where: the folder of the page, from which figures are linked.
    """
    scales = ", ".join(dict.fromkeys(report["scale"] for report in reports))
    blocks = [MARKER, f"# {_TITLE}", _INTRODUCTION]
    blocks.append(f"Scale: {scales}. {summary(reports)}.")
    blocks.append(table(["", "claim", "paper", "verdict"], _overview(reports), first=4))
    root = Path(os.path.relpath(figures, where))
    for report in reports:
        blocks += _section(report, root)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _overview(reports: Sequence[Plain]) -> list[list[str]]:
    return [
        [f"[{report['target']}](#{report['target']})", text(c["says"]), text(c["source"]), verdict(c)]
        for report in reports
        for c in report["claims"]
    ]


def _section(report: Plain, root: Path) -> list[str]:
    folder = root / report["target"]
    blocks = [f"## {report['target']}", f"{text(report['title'])} (scale: {report['scale']})."]
    blocks += [f"Missing: {text(line)}" for line in report["missing"]]
    blocks += [f"![{text(name)}]({link((folder / name).as_posix())})" for name in report["figures"]]
    if report["tables"]:
        names = (f"[{text(name)}]({link((folder / name).as_posix())})" for name in report["tables"])
        blocks.append(f"Data: {', '.join(names)}.")
    if report["claims"]:
        rows = [[text(c["says"]), text(c["number"]), text(measured(c)), verdict(c)] for c in report["claims"]]
        blocks.append(table(["claim", "number", "measured", "verdict"], rows, first=4))
    blocks += [
        f"Where the verdict differs, the likely reason: {text(reason)}." for reason in _reasons(report)
    ]
    return blocks + [text(note) for note in report["notes"]]


def _reasons(report: Plain) -> list[str]:
    """Why claims may differ from the paper's, each once."""
    differing = [c["likely"] for c in report["claims"] if c["verdict"] != "held" and c["likely"]]
    return list(dict.fromkeys(differing))


# ---- HTML


def html_page(reports: Sequence[Plain], figures: Path) -> str:
    """One file with everything in it, which asks nobody for anything.

    Args:
        reports: from `read_reports`.
        figures: their folder, from which the pictures are read.
    """
    shown = []
    for report in reports:
        pictures = [
            (name, _data_url(figures / report["target"] / name))
            for name in report["figures"]
            if (figures / report["target"] / name).is_file()
        ]
        shown.append({**report, "reasons": _reasons(report), "pictures": pictures})
    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=_TITLE,
        introduction=_INTRODUCTION,
        scales=", ".join(dict.fromkeys(report["scale"] for report in reports)),
        summary=summary(reports),
        reports=shown,
        measured=measured,
        verdict=verdict,
    )


def _data_url(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
