// What a point says on hover, on touch and on focus; and a way through the points with the arrow keys.

const REACH = 24; // pixels from the pointer to a point that still counts

const tip = document.createElement("div");
tip.id = "tip";
tip.setAttribute("aria-hidden", "true"); // the points themselves carry the same text
tip.hidden = true;
document.body.append(tip);

/** Shows the text of a point beside it, inside the window. */
function showTip(point) {
  tip.textContent = point.dataset.tip;
  tip.hidden = false;
  const box = point.getBoundingClientRect();
  const wide = document.documentElement.clientWidth;
  const x = Math.min(Math.max(box.x + box.width / 2 - tip.offsetWidth / 2, 4), wide - tip.offsetWidth - 4);
  const above = box.y - tip.offsetHeight - 8;
  tip.style.left = `${x + window.scrollX}px`;
  tip.style.top = `${(above < 0 ? box.bottom + 8 : above) + window.scrollY}px`;
}

function hideTip() {
  tip.hidden = true;
}

/** The point nearest to a place in the window, if one is within reach. */
function nearestPoint(points, x, y) {
  let best = null;
  let least = REACH;
  for (const point of points) {
    const box = point.getBoundingClientRect();
    const distance = Math.hypot(box.x + box.width / 2 - x, box.y + box.height / 2 - y);
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

/** Where an arrow key, Home or End leads among `count` points. */
function moved(key, at, count) {
  const places = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: count - 1 };
  return key in places ? Math.min(Math.max(places[key], 0), count - 1) : null;
}

/**
 * Makes the points of a chart answer: texts on hover and focus, one tab stop with arrow keys inside.
 *
 * select: what to do with a point that is clicked, or entered with Enter or Space; left out, points only speak.
 */
function enliven(svg, select) {
  const points = [...svg.querySelectorAll(".point")];
  if (!points.length) return;
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-roledescription", "chart; arrow keys move between points");
  for (const point of points) {
    point.setAttribute("role", select ? "button" : "img");
    point.setAttribute("aria-label", point.dataset.tip);
    point.setAttribute("tabindex", "-1");
  }
  let current = 0;
  points[0].setAttribute("tabindex", "0");
  const enter = (index) => {
    points[current].setAttribute("tabindex", "-1");
    points[index].setAttribute("tabindex", "0");
    current = index;
  };
  svg.addEventListener("keydown", (event) => {
    const to = moved(event.key, current, points.length);
    if (to !== null) {
      enter(to);
      points[to].focus();
    } else if (select && (event.key === "Enter" || event.key === " ")) select(points[current]);
    else if (event.key === "Escape") hideTip();
    else return;
    event.preventDefault();
  });
  svg.addEventListener("focusin", (event) => {
    if (!points.includes(event.target)) return;
    enter(points.indexOf(event.target));
    showTip(event.target);
  });
  svg.addEventListener("focusout", hideTip);
  svg.addEventListener("pointermove", (event) => {
    const near = nearestPoint(points, event.clientX, event.clientY);
    svg.classList.toggle("near", near !== null && Boolean(select));
    if (near) showTip(near);
    else hideTip();
  });
  svg.addEventListener("pointerleave", hideTip);
  svg.addEventListener("click", (event) => {
    const near = nearestPoint(points, event.clientX, event.clientY);
    if (!near) return;
    showTip(near);
    if (select) select(near);
  });
}
