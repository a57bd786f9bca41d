"""The figures and tables by name, and how to make them."""

from collections.abc import Callable, Sequence
from functools import partial

from timm_diffsens.errors import unknown
from timm_diffsens.reproduce import components, correlations, depth, filters, representations, scaling
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workspace import Workspace

ALL = "all"

# In the order in which they are made: what needs no training and no images comes first.
TARGETS: dict[str, Callable[[Workspace], Report]] = {
    "fig6": representations.figure_6,
    "fig7": scaling.figure_7,
    "table1": partial(scaling.filter_table, task=1),
    "table2": partial(scaling.filter_table, task=2),
    "fig8": correlations.figure_8,
    "fig9": depth.figure_9,
    "fig3": depth.figure_3,
    "fig4": filters.figure_4,
    "components": components.components,
    "fig11": depth.figure_11,
    "fig12": filters.figure_12,
    "fig13": filters.figure_13,
    "fig14": filters.figure_14,
    "fig1": correlations.figure_1,
    "fig10": correlations.figure_10,
}
# In the order of the paper; the components are those of Section 2, which has no figure of them.
IN_PAPER = [
    *("fig1", "fig3", "fig4", "components", "fig6", "fig7", "table1", "table2", "fig8", "fig9", "fig10"),
    *("fig11", "fig12", "fig13", "fig14"),
]


def chosen(names: Sequence[str]) -> list[str]:
    """The targets asked for, each once, in the order in which they are made; `all` is every one.

    Raises:
        UsageError: an unknown one.
    """
    for name in names:
        if name != ALL and name not in TARGETS:
            known = [*IN_PAPER, ALL]
            raise unknown("figure or table", name, known, f"choose from {', '.join(known)}")
    return [name for name in TARGETS if name in names or ALL in names]
