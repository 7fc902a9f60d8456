// A click on a heading sorts its table: numbers from the largest down first, texts from A on; another click turns it around.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.firstElementChild.addEventListener("click", () => {
      const before = heading.getAttribute("aria-sort");
      const isNumber = heading.classList.contains("number");
      const order = before ? (before === "ascending" ? "descending" : "ascending") : isNumber ? "descending" : "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => (isNumber ? (row.cells[column].dataset.value ?? "") : row.cells[column].textContent);
      const compare = (a, b) => {
        if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === ""); // the empty ones last
        return sign * (isNumber ? value(a) - value(b) : value(a).localeCompare(value(b), "en", { numeric: true }));
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
