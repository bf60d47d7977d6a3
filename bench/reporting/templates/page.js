"use strict";
// Sort tables by clicking a column header; copy commands with a button.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const label = head.querySelector("span"), button = document.createElement("button");
    button.type = "button";
    button.textContent = label.textContent;
    label.replaceWith(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [row.cells[column], row]);
      const numbers = rows.some(([cell]) => cell.dataset.value);
      const key = (cell) => numbers ? cell.dataset.value : cell.textContent.trim();
      rows.sort(([a], [b]) => {
        const [x, y] = [key(a), key(b)];
        if (!x || !y) return Number(!x) - Number(!y);  // rows without a value stay last
        return (up ? 1 : -1) * (numbers ? Number(x) - Number(y) : x.localeCompare(y));
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
for (const command of document.querySelectorAll(".command")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.querySelector("code").textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(command.querySelector("code"));
      button.textContent = "selected";
    }
  });
  command.querySelector("pre").after(button);
}
