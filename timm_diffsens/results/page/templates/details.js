// One network's curves and spectra: unpacked when it is selected, drawn into the panel of its group.

const NAMES = { d: "D (deformation)", g: "G (noise)", r: "R = D / G" };

/** The JSON inside base64 of zlib-deflated text. */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/** An HTML element with text. */
function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** The numbers of a column, which is one text; null for a missing one. */
function column(text) {
  if (text === undefined) return [];
  if (text.startsWith("~")) return curve(text.slice(1));
  return text === "" ? [] : text.split(" ").map((value) => (value === "-" ? null : Number(value)));
}

/** Numbers that are written as differences of logarithms: 200 to a decade. */
function curve(text) {
  let sum = 0;
  return text.split(" ").map((value) => {
    if (value === "-") return null;
    if (value === "z") return 0;
    sum += Number(value);
    return 10 ** (sum / 200);
  });
}

function valueWithError(value, stderr) {
  if (value === null || value === undefined) return "no value";
  return stderr ? `${short(value)} ± ${short(stderr)}` : short(value);
}

/** D, G or R of every variant against relative depth. */
function depthLines(record, theme, measure) {
  return Object.entries(record.variants).map(([name, columns]) => {
    const layers = columns.layers || record.layers;
    const depth = column(columns.depth || record.depth);
    const stderrs = column(columns[`${measure}_stderr`]);
    const points = column(columns[measure]).map((y, i) => {
      const tip = `${layers[i]}, ${name}: ${measure.toUpperCase()} ${valueWithError(y, stderrs[i])}`;
      return { x: depth[i], y, stderr: stderrs[i], tip };
    });
    return { name, ...theme[name], points };
  });
}

/** Mean frequency of the filters against the order of the convolutions. */
function frequencyLines(record, theme) {
  return Object.entries(record.spectra).map(([name, columns]) => {
    const points = column(columns.mean).map((y, i) => {
      const kernel = columns.kernels ? ` (${columns.kernels[i]})` : "";
      const tip = `${columns.layers[i]}${kernel}, ${name}: mean eigenvalue ${valueWithError(y)}`;
      return { x: i + 1, y, tip };
    });
    return { name, ...theme[name], points };
  });
}

/** Power of one convolution's filters against the eigenvalue of the mode. */
function powerLines(record, theme, layer) {
  return Object.entries(record.spectra).flatMap(([name, columns]) => {
    const at = columns.layers.indexOf(layer);
    if (at < 0) return [];
    const values = column(record.grids[columns.grid[at]]);
    const points = column(columns.power[at]).map((y, i) => {
      return { x: values[i], y, tip: `${name}: power ${valueWithError(y)} at eigenvalue ${short(values[i])}` };
    });
    return [{ name, ...theme[name], points }];
  });
}

function figure(title, chart) {
  const made = element("figure");
  const svg = lineChart(chart);
  made.append(element("figcaption", title), svg);
  enliven(svg);
  return made;
}

/** Line, point and name of each variant. */
function legend(names, theme) {
  const list = element("ul", undefined, "legend");
  for (const name of names) {
    const swatch = svgElement("svg", { viewBox: "0 0 44 12", "aria-hidden": "true" });
    const group = svgElement("g", { class: `line ${theme[name].style}` });
    group.append(svgElement("path", { class: "curve", d: "M0,6L44,6", "stroke-dasharray": theme[name].dash }));
    group.append(svgElement("path", { class: "point", d: theme[name].outline, transform: "translate(22,6)" }));
    swatch.append(group);
    const item = element("li");
    item.append(swatch, ` ${name}`);
    list.append(item);
  }
  return list;
}

function depthFigures(record, theme, model) {
  const row = element("div", undefined, "charts");
  for (const [measure, title] of Object.entries(NAMES)) {
    row.append(figure(`${title} over depth`, {
      label: `${title} of ${model} against relative depth, a line for each variant; the numbers are in the table below`,
      xTitle: "relative depth", yTitle: title, log: true, span: 2, xDomain: [0, 1],
      lines: depthLines(record, theme, measure),
    }));
  }
  return row;
}

function spectrumFigures(record, theme, model) {
  const row = element("div", undefined, "charts");
  const { layers } = record.spectra.original || Object.values(record.spectra)[0];
  row.append(figure("Mean frequency of the filters", {
    label: `Power-weighted mean eigenvalue of the filters of ${model} for each convolution, in order`,
    xTitle: "convolution, in order", yTitle: "mean eigenvalue", xWhole: true,
    lines: frequencyLines(record, theme),
  }));
  if (!record.grids.length) return row;
  const one = element("div");
  const label = element("label", "Convolution ");
  const choice = element("select");
  layers.forEach((layer) => choice.append(new Option(layer, layer)));
  label.append(choice);
  const draw = () => one.replaceChildren(figure("Filter power, low to high frequency", {
    label: `Filter power of ${choice.value} in ${model} against the eigenvalue of the grid Laplacian`,
    xTitle: "eigenvalue of the mode", yTitle: "power γ", log: true, span: 10,
    lines: powerLines(record, theme, choice.value),
  }));
  choice.addEventListener("change", draw);
  draw();
  const whole = element("div");
  whole.append(one, label);
  row.append(whole);
  return row;
}

/** The numbers of the curves as a table, a row a layer; filled when it is first opened. */
function numbers(record) {
  const details = element("details");
  details.append(element("summary", "The same numbers as a table"));
  details.addEventListener("toggle", () => {
    if (details.querySelector("table")) return;
    const box = element("div", undefined, "scroll tall");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Numbers by layer");
    const table = element("table");
    table.append(element("caption", "D, G and R by variant and layer, ± one standard error"));
    const head = table.createTHead().insertRow();
    for (const title of ["variant", "layer", "depth", "D", "G", "R"]) {
      const cell = element("th", title);
      cell.scope = "col";
      head.append(cell);
    }
    const body = table.createTBody();
    for (const [name, columns] of Object.entries(record.variants)) {
      const depth = column(columns.depth || record.depth);
      const measures = ["d", "g", "r"].map((m) => [column(columns[m]), column(columns[`${m}_stderr`])]);
      (columns.layers || record.layers).forEach((layer, i) => {
        const row = body.insertRow();
        const values = measures.map(([value, stderr]) => valueWithError(value[i], stderr[i]));
        for (const text of [name, layer, short(depth[i]), ...values]) row.append(element("td", text));
      });
    }
    box.append(table);
    details.append(box);
  });
  return details;
}

function facts(record) {
  const list = element("dl");
  for (const [name, text] of record.facts) list.append(element("dt", name), element("dd", text));
  return list;
}

/** Fills a panel with a network's curves. */
function fillPanel(panel, model, record, theme) {
  const heading = element("h3", model);
  heading.id = `${panel.id}-heading`;
  const names = Object.keys(theme).filter((n) => Object.hasOwn(record.variants, n) || Object.hasOwn(record.spectra, n));
  panel.replaceChildren(heading, element("p", record.summary));
  if (record.layers.length) panel.append(legend(names, theme), depthFigures(record, theme, model), numbers(record));
  if (Object.keys(record.spectra).length) {
    panel.append(element("h4", "Filter spectra"), spectrumFigures(record, theme, model));
  }
  panel.append(element("h4", "About this record"), facts(record));
}
