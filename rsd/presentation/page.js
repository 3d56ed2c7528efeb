"use strict";

// Figures. A finger scrolls the page; a mouse drags a box to zoom into, twice on it zooms out.
const narrow = () => window.matchMedia("(max-width: 40rem)").matches;
const config = {
  responsive: true, displaylogo: false, scrollZoom: false, doubleClickDelay: 400,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};
const touched = window.matchMedia("(pointer: coarse)").matches;

function draw(place) {
  const { data, layout } = JSON.parse(document.getElementById(`data-${place.dataset.chart}`).textContent);
  layout.dragmode = touched ? false : "zoom";
  if (narrow()) {
    layout.font.size = 11;
    if (layout.yaxis.ticktext) layout.yaxis.ticktext = layout.yaxis.ticktext.map(shortened);
  }
  return Plotly.newPlot(place, data, layout, config);
}

// Names of rows in lines of the width that a phone has for them.
function shortened(name) {
  const lines = [""];
  for (const word of name.replaceAll("<br>", " ").split(" ")) {
    const last = lines[lines.length - 1];
    if (last && last.length + word.length > 20) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines.join("<br>");
}

function drawWithin(root) {
  for (const place of root.querySelectorAll(".chart:empty")) if (place.offsetParent) draw(place);
}
drawWithin(document);
for (const hidden of document.querySelectorAll("details"))
  hidden.addEventListener("toggle", () => hidden.open && drawWithin(hidden));

// On paper everything is open, and figures are as wide as it.
window.addEventListener("beforeprint", () => {
  for (const hidden of document.querySelectorAll("details")) if (hidden.querySelector("table, .chart")) hidden.open = true;
  drawWithin(document);
  for (const place of document.querySelectorAll(".chart:not(:empty)")) Plotly.Plots.resize(place);
});

// Tables: a button in every head sorts, once more turns it round.
function order(row, column) {
  const cell = row.cells[column];
  return cell.dataset.order === undefined || cell.dataset.order === "" ? cell.textContent : cell.dataset.order;
}

function compare(first, second) {
  const [a, b] = [Number(first), Number(second)];
  return Number.isNaN(a) || Number.isNaN(b) ? first.localeCompare(second, undefined, { numeric: true }) : a - b;
}

function sort(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const rows = [...table.tBodies[0].rows];
  rows.sort((first, second) => sign * compare(order(first, column), order(second, column)));
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table.sortable"))
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column));
    head.append(button);
  });
