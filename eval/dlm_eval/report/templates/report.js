
"use strict";
// Sort a table by the column whose head is clicked; cells without a value stay last.
const words = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const number = (text) => Number(text.replace("inf", "Infinity"));
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const [p, q] = [number(x), number(y)];
      const order = Number.isNaN(p) || Number.isNaN(q) ? words.compare(x, y) : p - q || 0;
      return sign * order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  }));
}
