"""Fig. 6: what simple CNNs with homogeneous filters make of one input, layer by layer, at both strides."""

import math
from typing import Any

import numpy as np
import pandas as pd
import torch

from timm_diffsens.reproduce.claims import Claim, Finding
from timm_diffsens.reproduce.panels import bar_panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workspace import Workspace
from timm_diffsens.theory.homogeneous import homogeneous_network
from timm_diffsens.theory.predictions import effective_receptive_field
from timm_diffsens.theory.receptive_field import receptive_fields

_ROUNDING = 1e-9  # of sums of a few hundred float64 numbers of order one
_SIDES = {"stride-1": (6, 5, 1, 128), "stride-2": (6, 2, 2, 128)}  # layers, F, stride, pixels
_PIXELS = (40, 61)  # active


def figure_6(workspace: Workspace) -> Report:
    """Both networks on one image of two active pixels; nothing is trained, and both scales are the same."""
    del workspace
    report = Report("fig6", "Representations of simple CNNs with homogeneous filters, for one input")
    for name, (depth, size, stride, length) in _SIDES.items():
        table = _representations(depth, size, stride, length)
        report.tables[name] = table
        report.charts[name] = bar_panels(
            table,
            "place",
            "activity",
            "layer",
            title=f"Stride {stride}, F = {size}",
            subtitle=f"two active pixels of {length}; every filter is constant and sums to one",
            x_title="place",
            y_title="activity",
        )
    report.claims += [_widths(), _counts(report.tables["stride-2"])]
    return report


def _image(length: int) -> torch.Tensor:
    image = torch.zeros(1, 1, length, dtype=torch.float64)
    image[..., list(_PIXELS)] = math.sqrt(length / 2)
    return image


def _representations(depth: int, size: int, stride: int, length: int) -> pd.DataFrame:
    """Long: layer (0: the input), place, activity, and the receptive field A_k in pixels."""
    hidden, rows = _image(length), list[dict[str, Any]]()
    network = homogeneous_network(depth, size, stride)
    layers = [("input", hidden)]
    for module in network:
        hidden = module(hidden)
        if isinstance(module, torch.nn.ReLU):
            layers.append((f"layer {len(layers)}", hidden))
    for k, (name, values) in enumerate(layers):
        width = effective_receptive_field(k, size, stride) if k else 0.0
        rows += [
            {"layer": name, "place": place, "activity": value, "width": width}
            for place, value in enumerate(values[0, 0].tolist())
        ]
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _widths() -> Claim:
    """Stride 1: every active pixel becomes a profile whose width grows as sqrt(k)."""
    depth, size, stride, length = _SIDES["stride-1"]
    fields = receptive_fields(homogeneous_network(depth, size, stride), length, 4)
    parts = tuple(
        Finding(f"layer {k}", abs(field.width / effective_receptive_field(k, size, stride) - 1))
        for k, field in enumerate(fields, start=1)
    )
    return Claim(
        "fig6.width",
        "at stride 1 an active pixel becomes a profile whose width grows as the square root of k",
        "Section 4.1, Fig. 6 left",
        "relative difference of the rms width from sqrt(k (F^2 - 1) / 12)",
        (-math.inf, _ROUNDING),
        parts,
    )


def _counts(table: pd.DataFrame) -> Claim:
    """Stride F: a neuron's activity is the number of active pixels in its patch, scaled."""
    _, size, _, length = _SIDES["stride-2"]
    image = _image(length)[0, 0].numpy()
    parts = []
    for k, (name, rows) in enumerate(table.groupby("layer", sort=False)):
        if k:
            expected = image.reshape(-1, size**k).mean(axis=1)
            difference = np.abs(rows["activity"].to_numpy() - expected).max() / expected.max()
            parts.append(Finding(str(name), float(difference)))
    return Claim(
        "fig6.count",
        "at stride F the activity is the number of active pixels in the patch of F^k that a neuron sees",
        "Section 4.2, Fig. 6 right",
        "largest relative difference from that number times sqrt(L / 2) / F^k",
        (-math.inf, _ROUNDING),
        tuple(parts),
    )
