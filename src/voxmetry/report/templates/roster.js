"use strict";
// The table of all studies: sorted, filtered and paged here, so that thousands of rows stay quick. No request is made.
const { columns, rows } = JSON.parse(document.getElementById("rows").textContent);
const FIXED = ["", "study", "model", "state", "flags", "seconds"];
const PAGE = 100, FIRST_NUMBER = 9;
const ORDER = ["failed", "set aside", "refused", "running", "waiting", "done", "duplicate"];
const $ = id => document.getElementById(id);
const view = { by: null, down: false, page: 0, shown: rows };

// What a column is sorted by. Place in FIXED and columns -> value.
const keys = [null, r => r[0], r => r[1], r => ORDER.indexOf(r[2]) * 2 - r[3], r => r[4], r => r[6],
  ...columns.map((_, i) => r => r[FIRST_NUMBER + i])];

function compare(a, b) {
  const x = keys[view.by](a), y = keys[view.by](b);
  if (x === null || x === undefined) return y === null || y === undefined ? 0 : 1;  // What is missing stays last.
  if (y === null || y === undefined) return -1;
  const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
  return view.down ? -order : order;
}

function wanted(row, words, state) {
  if (state === "review" && !row[3]) return false;
  if (state === "outlier" && !row[4].includes("outlier")) return false;
  if (state === "bad" && !["failed", "set aside", "refused"].includes(row[2])) return false;
  if (["done", "duplicate", "waiting"].includes(state) && row[2] !== state) return false;
  const text = `${row[0]} ${row[1]} ${row[4]} ${row[5]}`.toLowerCase();
  return words.every(word => text.includes(word));
}

function cell(tr, text, kind) {
  const td = document.createElement("td");
  if (kind) td.className = kind;
  td.textContent = text ?? "";
  tr.append(td);
  return td;
}

// Addresses are paths inside the results' folder. Each part is escaped, so that a name can be no other kind of address.
const address = path => "./" + path.split("/").map(encodeURIComponent).join("/");

function draw(row) {
  const tr = document.createElement("tr");
  const picture = cell(tr, "", "t");
  const name = document.createElement("th");
  name.scope = "row";
  if (row[8]) {
    const image = document.createElement("img");
    Object.assign(image, { src: address(row[8]), alt: "", loading: "lazy", width: 56, height: 56 });
    picture.append(image);
  }
  if (row[7]) {
    const link = document.createElement("a");
    link.href = address(row[7]);
    link.textContent = row[0];
    name.append(link);
    if (picture.firstChild) {
      const around = link.cloneNode(false);
      around.tabIndex = -1;
      around.setAttribute("aria-hidden", "true");
      around.append(picture.firstChild);
      picture.append(around);
    }
  } else name.textContent = row[0];
  tr.append(name);
  cell(tr, row[1]);
  const state = cell(tr, row[3] ? "look before use" : row[2], row[3] ? "review" : row[2].replace(" ", "-"));
  if (row[5]) {
    const why = document.createElement("small");
    why.textContent = row[5];
    state.append(why);
  }
  cell(tr, row[4]);
  cell(tr, row[6] === null ? "" : row[6].toFixed(2), "n");
  columns.forEach((_, i) => {
    const x = row[FIRST_NUMBER + i];
    cell(tr, x === null || x === undefined ? "" : x.toFixed(3), "n");
  });
  return tr;
}

function show() {
  const pages = Math.max(1, Math.ceil(view.shown.length / PAGE));
  view.page = Math.min(Math.max(0, view.page), pages - 1);
  const from = view.page * PAGE;
  $("body").replaceChildren(...view.shown.slice(from, from + PAGE).map(draw));
  $("count").textContent = `${view.shown.length} of ${rows.length} rows` +
    (pages > 1 ? `, ${from + 1} to ${Math.min(from + PAGE, view.shown.length)} shown` : "");
  $("before").disabled = view.page === 0;
  $("after").disabled = view.page === pages - 1;
}

function filter() {
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  view.shown = rows.filter(row => wanted(row, words, $("state").value));
  if (view.by !== null) view.shown.sort(compare);
  view.page = 0;
  show();
}

[...FIXED, ...columns].forEach((title, place) => {
  const th = document.createElement("th");
  th.scope = "col";
  if (place === 0) th.textContent = "";
  else {
    if (place >= FIXED.length - 1) th.className = "n";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.addEventListener("click", () => {
      view.down = view.by === place && !view.down;
      view.by = place;
      for (const other of $("head").children) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", view.down ? "descending" : "ascending");
      filter();
    });
    th.append(button);
  }
  $("head").append(th);
});
$("words").addEventListener("input", filter);
$("state").addEventListener("change", filter);
$("before").addEventListener("click", () => { view.page -= 1; show(); });
$("after").addEventListener("click", () => { view.page += 1; show(); });
filter();
