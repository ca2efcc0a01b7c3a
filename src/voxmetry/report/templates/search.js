"use strict";
// A field above each grouped table: rows whose structure has none of the typed words are hidden, with emptied groups.
// Without scripts the table is whole.
for (const table of document.querySelectorAll("table.grouped")) {
  const field = document.createElement("input");
  field.type = "search";
  field.className = "search";
  field.placeholder = table.dataset.search;
  field.setAttribute("aria-label", table.dataset.search);
  field.setAttribute("aria-controls", table.id);
  const none = document.createElement("p");
  none.className = "small after";
  none.setAttribute("role", "status");
  const plain = (text) => text.toLowerCase().replace(/[_\s-]+/g, " ").trim();
  const frame = table.closest(".scroll");
  frame.before(field);
  frame.after(none);
  field.addEventListener("input", () => {
    const words = plain(field.value).split(" ").filter(Boolean);
    let left = 0;
    for (const body of table.tBodies) {
      const heading = body.querySelector("tr.group");
      // The name alone: the number of rows beside it would be found as well.
      const group = heading ? plain(heading.cells[0].firstChild.textContent) : "";
      let here = 0;
      for (const row of body.rows) {
        if (row === heading) continue;
        const text = plain(row.cells[0].textContent) + " " + group;
        row.hidden = !words.every((word) => text.includes(word));
        here += row.hidden ? 0 : 1;
      }
      if (heading) heading.hidden = here === 0;
      left += here;
    }
    none.textContent = left ? "" : table.dataset.none;
  });
}
