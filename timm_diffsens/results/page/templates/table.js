// Sorting and filtering of the tables of models.

/** Orders two sort keys: numbers by size, texts by the alphabet, what is missing last either way. */
function compareKeys(a, b, ascending) {
  const missing = (key) => key === null || key === "";
  if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
  const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  return ascending ? order : -order;
}

/** Whether a text holds every word of the filter. */
function matches(text, filter) {
  const lower = text.toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => lower.includes(word));
}

function keyOf(row, column) {
  const { value } = row.cells[column].dataset;
  if (column === 0) return row.dataset.model;
  return value === undefined || value === "" ? null : Number(value);
}

/** Sorts a table by a column; by the same one again the other way round. */
function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const ascending = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head, i) => {
    if (i === column) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [keyOf(row, column), row]);
  keyed.sort((a, b) => compareKeys(a[0], b[0], ascending));
  body.append(...keyed.map(([, row]) => row));
}

/** Puts buttons into the heads of a table, which sort it. */
function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, column));
    head.append(button);
  });
}

/** Hides the rows that do not hold the words of the filter, and dims their points. */
function makeFilterable(section) {
  const input = section.querySelector("input[type=search]");
  const count = section.querySelector("output");
  const rows = [...section.querySelector("table.models").tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, `${row.textContent} ${row.dataset.search}`]));
  const points = [...section.querySelectorAll(".point[data-point]")];
  const apply = () => {
    const shown = rows.filter((row) => matches(texts.get(row), input.value.trim()));
    const seen = new Set(shown);
    for (const row of rows) row.hidden = !seen.has(row);
    section.classList.toggle("filtered", shown.length < rows.length);
    const lit = new Set(shown.map((row) => row.dataset.point));
    for (const point of points) point.classList.toggle("dim", !lit.has(point.dataset.point));
    count.textContent = shown.length === rows.length ? `${rows.length} records` : `${shown.length} of ${rows.length} records`;
  };
  input.addEventListener("input", apply);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !input.value) return;
    input.value = "";
    apply();
  });
  apply();
}
