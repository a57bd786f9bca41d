"""Records in notebooks: a heading and the layer table, without style or script."""

from html import escape

from timm_diffsens.printable import spelt_out
from timm_diffsens.results.numbers import with_error
from timm_diffsens.results.report.summary import summary
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record

_MOST = 60  # rows


def record_html(record: Record) -> str:
    """The original network's layers, and what they say."""
    data = f"{record.data.title or record.data.spec}, {record.data.n} images"
    head = (
        f"<p><b>{_safe(record.model.spec)}</b>, {_safe(data)}, {_safe(record.protocol.deformation_text)}</p>"
    )
    return f"{head}{layers_html(record.variants['original'])}<p>{_safe(summary(record))}</p>"


def layers_html(layers: list[LayerSensitivity]) -> str:
    """A table of layers: D, G and R with standard errors, or why there is no value."""
    titles = "".join(f"<th>{title}</th>" for title in ("layer", "depth", "D", "G", "R", ""))
    rows = "".join(f"<tr>{_row(layer)}</tr>" for layer in layers[:_MOST])
    more = f"<p>{len(layers) - _MOST} more layers</p>" if len(layers) > _MOST else ""
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>{more}"


def _row(layer: LayerSensitivity) -> str:
    values = [with_error(getattr(layer, name), getattr(layer, f"{name}_stderr")) for name in "dgr"]
    cells = [layer.layer, f"{layer.depth:.2f}", *values, layer.reason or ""]
    return "".join(f"<td>{_safe(cell)}</td>" for cell in cells)


def _safe(text: str) -> str:
    return escape(spelt_out(text))
