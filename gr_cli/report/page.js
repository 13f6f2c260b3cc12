"use strict";
// Sort the table by the column whose heading is clicked; a second click reverses. Numbers by value, texts alphabetically.
const table = document.querySelector("table.all");
const value = (row, i) => {
  const text = row.cells[i].textContent.trim().replace("−", "-");
  const number = parseFloat(text);
  return Number.isNaN(number) ? text : number;
};
const before = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b
    : typeof a !== typeof b ? (typeof a === "number" ? -1 : 1) : a.localeCompare(b);
for (const button of table.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const i = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => (down ? -1 : 1) * before(value(a, i), value(b, i)));
    table.tBodies[0].append(...rows);
  });
}
// Show the rows, and their groups, that contain every word of the filter.
const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    document.querySelector(row.querySelector("a").getAttribute("href")).hidden = row.hidden;
    shown += row.hidden ? 0 : 1;
  }
  document.getElementById("matches").textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length}` : "";
});
// A link to a group unfolds it.
const unfold = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", unfold);
unfold();
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code); // browsers may deny a page from a file access to the clipboard
    }
  });
}
// Unfold all groups for printing.
addEventListener("beforeprint", () => document.querySelectorAll("details.group").forEach((group) => (group.open = true)));
