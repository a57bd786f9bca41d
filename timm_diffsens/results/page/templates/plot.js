// Line charts as SVG elements. Everything is made with DOM calls: no text ever becomes markup.

const SVG = "http://www.w3.org/2000/svg";
const FRAME = { width: 320, height: 250, left: 52, right: 10, top: 10, bottom: 42 };

/** Three significant digits, as short as they go. */
function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

/** About `count` round numbers from low to high. */
function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) {
    ticks.push(Number((k * step).toPrecision(12)));
  }
  return ticks;
}

/** Round numbers for a logarithmic axis, at least three where it is wider than a fifth: as log_ticks in scatter.py. */
function logTicks(low, high) {
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const tenths = (step) => Array.from({ length: Math.ceil(90 / step) }, (_, i) => (10 + i * step) / 10);
  const wide = [4, 2, 1].map((every) => [every, [1]]);
  const close = [[1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], tenths(5), tenths(2), tenths(1)].map((f) => [1, f]);
  let ticks = [];
  for (const [every, factors] of [...wide, ...close]) {
    ticks = [];
    for (let k = Math.ceil(first / every) * every; k <= last; k += every) {
      ticks.push(...factors.map((f) => Number(`${f}e${k}`)));
    }
    ticks = ticks.filter((t) => t >= low && t <= high);
    if (ticks.length >= 3) break;
  }
  return ticks;
}

/** The range of an axis around the values; on a logarithmic one at least `span` from end to end. */
function domainOf(values, log, span) {
  if (!values.length) return log ? [0.1, 1] : [0, 1];
  const low = Math.min(...values);
  const high = Math.max(...values);
  if (log) {
    const middle = Math.sqrt(low) * Math.sqrt(high);
    const half = Math.sqrt(span);
    return [Math.min(low / 1.3, middle / half), Math.max(high * 1.3, middle * half)];
  }
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

/** A function from values to pixels. */
function scaleOf([low, high], [from, to], log) {
  const place = log ? Math.log : (v) => v;
  const span = place(high) - place(low) || 1;
  return (value) => from + ((place(value) - place(low)) / span) * (to - from);
}

/** An SVG path through the points; where one is missing (null) the line has a gap. */
function pathOf(points) {
  let gap = true;
  let path = "";
  for (const point of points) {
    if (point) path += `${gap ? "M" : "L"}${point[0].toFixed(1)},${point[1].toFixed(1)}`;
    gap = !point;
  }
  return path;
}

/** An SVG element. */
function svgElement(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/**
 * A chart of one or more lines.
 *
 * chart: { label, xTitle, yTitle, log, span, xDomain, xWhole, lines }, and each of lines:
 * { style, dash, outline, points: [{ x, y, stderr, tip }] } with y null, or zero on a logarithmic axis, for a gap.
 */
function lineChart(chart) {
  const { width, height, left, right, top, bottom } = FRAME;
  const shown = (p) => p.y !== null && p.y !== undefined && (!chart.log || p.y > 0);
  const all = chart.lines.flatMap((line) => line.points.filter(shown));
  const xDomain = chart.xDomain || domainOf(all.map((p) => p.x), false, 1);
  const yDomain = domainOf(all.map((p) => p.y), chart.log, chart.span || 1);
  const x = scaleOf(xDomain, [left, width - right], false);
  const y = scaleOf(yDomain, [height - bottom, top], chart.log);
  const svg = svgElement("svg", {
    viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": chart.label,
  });
  const inside = linearTicks(...xDomain, 5).filter((t) => t >= xDomain[0] && t <= xDomain[1]);
  const xTicks = inside.filter((t) => !chart.xWhole || Number.isInteger(t));
  for (const tick of xTicks) {
    svg.append(svgElement("line", { class: "grid", x1: x(tick), x2: x(tick), y1: top, y2: height - bottom }));
    svg.append(svgElement("text", { x: x(tick), y: height - bottom + 15, "text-anchor": "middle" }, short(tick)));
  }
  for (const tick of chart.log ? logTicks(...yDomain) : linearTicks(...yDomain, 5)) {
    if (tick < yDomain[0] || tick > yDomain[1]) continue;
    svg.append(svgElement("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    svg.append(svgElement("text", { x: left - 5, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  const frame = { x: left, y: top, width: width - left - right, height: height - top - bottom };
  svg.append(svgElement("rect", { class: "frame", ...frame }));
  const titleX = { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle", class: "title" };
  svg.append(svgElement("text", titleX, chart.xTitle));
  const turned = `translate(12,${(top + height - bottom) / 2}) rotate(-90)`;
  svg.append(svgElement("text", { transform: turned, "text-anchor": "middle", class: "title" }, chart.yTitle));
  for (const line of chart.lines) svg.append(drawnLine(line, x, y, yDomain, shown));
  return svg;
}

/** One line of a chart: error bars of one standard error, the line, its points. */
function drawnLine(line, x, y, yDomain, shown) {
  const group = svgElement("g", { class: `line ${line.style}` });
  const inside = (value) => y(Math.min(Math.max(value, yDomain[0]), yDomain[1]));
  for (const p of line.points.filter((q) => shown(q) && q.stderr)) {
    const [y1, y2] = [inside(p.y - p.stderr), inside(p.y + p.stderr)];
    group.append(svgElement("line", { class: "bar", x1: x(p.x), x2: x(p.x), y1, y2 }));
  }
  const path = pathOf(line.points.map((p) => (shown(p) ? [x(p.x), y(p.y)] : null)));
  group.append(svgElement("path", { class: "curve", d: path, "stroke-dasharray": line.dash }));
  const many = line.points.length > 40;
  for (const p of line.points.filter(shown)) {
    const place = `translate(${x(p.x).toFixed(1)},${y(p.y).toFixed(1)})${many ? " scale(0.6)" : ""}`;
    group.append(svgElement("path", { class: "point", transform: place, d: line.outline, "data-tip": p.tip }));
  }
  return group;
}
