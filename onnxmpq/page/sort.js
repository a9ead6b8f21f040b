"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const numeric = head.classList.contains("n");
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numeric;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => numeric ? row.cells[column].dataset.v : row.cells[column].textContent;
    const compare = (a, b) => numeric ? a - b : a.localeCompare(b, "en", {numeric: true});
    const rows = [...body.rows].map(row => [key(row), row]);
    rows.sort(([a], [b]) => a === undefined ? (b === undefined ? 0 : 1) : b === undefined ? -1
      : down ? compare(b, a) : compare(a, b));
    body.append(...rows.map(([, row]) => row));
  }));
}
