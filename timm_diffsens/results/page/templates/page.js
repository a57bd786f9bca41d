// Puts the parts to work. Without this script the page still shows every table and overview chart.

const content = JSON.parse(document.getElementById("diffsens-data").textContent);
const root = document.documentElement;

function remember(theme) {
  try {
    localStorage.setItem("diffsens-theme", theme);
  } catch {
    // Pages from the disk may have no storage; the choice then lasts while the page is open.
  }
}

function remembered() {
  try {
    return localStorage.getItem("diffsens-theme");
  } catch {
    return null;
  }
}

/** The button between light and dark; until it is used, the system's choice holds. */
function startTheme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => button.setAttribute("aria-pressed", String(dark()));
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remember(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

/** Which group is shown; all of them without a choice. */
function startGroups() {
  const choice = document.getElementById("group");
  if (!choice) return;
  const sections = [...document.querySelectorAll("section.group")];
  const show = () => {
    for (const section of sections) section.hidden = choice.value !== "" && section.id !== choice.value;
  };
  choice.addEventListener("change", show);
  window.addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    const section = target && target.closest("section.group");
    if (!section || !section.hidden) return;
    choice.value = section.id;
    show();
    target.scrollIntoView();
  });
}

/** Selects a record: its row and points are marked, its curves shown. */
async function select(section, row) {
  const panel = section.querySelector(".details");
  for (const other of section.querySelectorAll("table.models tbody tr")) {
    const chosen = other === row;
    other.classList.toggle("selected", chosen);
    other.querySelector("button").setAttribute("aria-pressed", String(chosen));
  }
  for (const point of section.querySelectorAll(".point[data-point]")) {
    point.classList.toggle("selected", point.dataset.point === row.dataset.point);
  }
  panel.dataset.row = row.id;
  const status = section.querySelector(".status");
  try {
    const [part, place] = content.places[row.id];
    const record = (await unpack(content.parts[part]))[place];
    if (panel.dataset.row !== row.id) return; // another one was selected meanwhile
    fillPanel(panel, row.dataset.model, record, content.variants);
    status.textContent = `Curves of ${row.dataset.model} are shown below the table.`;
  } catch (error) {
    panel.replaceChildren(element("p", "The curves could not be unpacked: this needs a browser of 2023 or newer."));
    status.textContent = "The curves could not be unpacked.";
    console.warn(error);
  }
  // A panel below the window comes in sight; one in sight stays where it is.
  const { top } = panel.getBoundingClientRect();
  if (top > window.innerHeight * 0.75) window.scrollBy(0, top - window.innerHeight * 0.4);
}

function startSection(section) {
  const table = section.querySelector("table.models");
  makeSortable(table);
  makeFilterable(section);
  for (const row of table.tBodies[0].rows) {
    const name = row.querySelector(".name");
    const button = element("button", row.dataset.model, "name");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-controls", section.querySelector(".details").id);
    name.replaceWith(button);
  }
  table.tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) select(section, row);
  });
  for (const svg of section.querySelectorAll("svg.chart")) {
    enliven(svg, svg.querySelector("[data-point]") && ((point) => {
      const row = [...table.tBodies[0].rows].find((r) => r.dataset.point === point.dataset.point);
      if (row) select(section, row);
    }));
  }
}

for (const control of document.querySelectorAll("[data-script]")) control.hidden = false;
startTheme();
startGroups();
document.querySelectorAll("section.group").forEach(startSection);
document.querySelectorAll("section:not(.group) > .charts svg.chart").forEach((svg) => enliven(svg));
