// Sorts a table by the column whose heading is pressed; pressed again, the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button")?.addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const value = (row) => Number(row.cells[column].dataset.value);
      const rows = [...table.tBodies[0].rows].sort((a, b) => (ascending ? value(a) - value(b) : value(b) - value(a)));
      table.tBodies[0].append(...rows);
    });
  });
}
