"""The page of the reproduction: each claim with its verdict, and the figures; as HTML and as Markdown."""

import base64
import os.path
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from timm_diffsens.results.numbers import significant
from timm_diffsens.results.report.markdown import link, text

_TITLE = "The paper, figure by figure"
_INTRODUCTION = (
    "What arXiv 2210.01506 (How deep convolutional neural networks lose spatial information with training) "
    "claims, and what came out here. A claim is a region in which a number has to lie. It is held if the "
    "95 % interval of the number lies inside, not held if it lies outside, and not decided if it holds the "
    "border; a number without an error of its own (the spectrum of given filters, say) is judged by "
    "its value, and whether one correlation is larger than another by the p of its test, at most 0.05. "
    "With several networks, a claim is held if it is for each of them. Intervals are taken one at a time. "
    "A statement about the limit of large depth is not testable at the depth of the paper where the theory's "
    "own network, computed exactly, fails it; beside it stands the one about the exact network. "
    "Why a verdict differs from the paper is either what a test here says, or said to be not tested."
)
_VERDICTS = ("held", "not held", "not decided", "not testable")
_TEMPLATES = Path(__file__).parent
_SHOWN = 6  # parts of a claim listed in the Markdown table

Plain = dict[str, Any]


def summary(reports: Sequence[Plain]) -> str:
    """`30 claims: 20 held, 4 not held, 5 not decided, 1 not testable`."""
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
    interval = "" if part["low"] is None else f"{significant(part['low'])} to {significant(part['high'])}"
    p = "" if part["p"] is None else f"p = {significant(part['p'])}"
    inside = ", ".join(filter(None, (interval, p)))
    return f"{part['name']}: {significant(part['value'])}" + (f" ({inside})" if inside else "")


def _reasons(report: Plain) -> list[tuple[str, str]]:
    """Why claims differ from the paper's: the statements that share a reason, and the reason."""
    found: dict[str, list[str]] = {}
    for claim in report["claims"]:
        reason = claim["untestable"] or claim["why"]
        if claim["verdict"] != "held" and reason:
            found.setdefault(reason, []).append(claim["says"])
    return [("; ".join(says), reason) for reason, says in found.items()]


def html_page(reports: Sequence[Plain], figures: Path) -> str:
    """One file with everything in it, which asks nobody for anything.

    Args:
        reports: from `read_reports`.
        figures: their folder, from which the pictures are read.
    """

    def address(target: str, name: str) -> str:
        content = base64.b64encode((figures / target / name).read_bytes()).decode()
        return f"data:image/svg+xml;base64,{content}"

    return _page("html", reports, address=address, there=lambda *place: figures.joinpath(*place).is_file())


def markdown_page(reports: Sequence[Plain], figures: Path, where: Path) -> str:
    """The page as a code host renders it.

    Args:
        reports: from `read_reports`.
        figures: their folder.
        where: the folder of the page, from which figures are linked.
    """
    root = Path(os.path.relpath(figures, where))
    return _page("md", reports, address=lambda *place: link(root.joinpath(*place).as_posix()))


def _page(kind: str, reports: Sequence[Plain], **more: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=jinja2.select_autoescape(["html.j2"])
    )
    environment.filters["text"] = text
    template = environment.get_template(f"page.{kind}.j2")
    shown = {"title": _TITLE, "introduction": _INTRODUCTION, "summary": summary(reports), "reports": reports}
    scales = ", ".join(dict.fromkeys(report["scale"] for report in reports))
    functions = {"measured": measured, "verdict": verdict, "reasons": _reasons}
    return template.render(scales=scales, **shown, **functions, **more)
