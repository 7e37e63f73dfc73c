// Tables that sort: a heading with data-sort becomes a button, and aria-sort says how the table stands.

/**
 * The order of lines by a column: numbers by value, texts as a reader would; what has no key comes last either way, and
 * equals keep their places.
 * @param {string[]} keys the keys of the lines, in their first order
 * @param {"number" | "text"} kind
 * @param {"ascending" | "descending" | "none"} way
 * @returns {number[]} places of the lines, in their new order
 */
export function sortedPlaces(keys, kind, way) {
  const places = keys.map((_, place) => place);
  if (way === "none") return places;
  const sign = way === "descending" ? -1 : 1;
  const number = (key) => (key === "inf" ? Infinity : key === "-inf" ? -Infinity : Number(key));
  const compare =
    kind === "number"
      ? (a, b) => (number(a) === number(b) ? 0 : number(a) < number(b) ? -1 : 1)
      : (a, b) => a.localeCompare(b, "en", { numeric: true });
  return places.sort((a, b) => {
    if (keys[a] === "" || keys[b] === "") return (keys[a] === "") - (keys[b] === "");
    return sign * compare(keys[a], keys[b]);
  });
}

/**
 * Make a table sortable: each press of a heading goes on from ascending to descending to the first order.
 * @param {HTMLTableElement} table
 */
export function makeSortable(table) {
  const body = table.tBodies[0];
  const lines = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const kind = heading.dataset.sort;
    const title = heading.querySelector(".mb-title");
    if (!kind || !title || lines.length < 2) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "mb-sort";
    button.append(...title.childNodes);
    title.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      const way = next[heading.getAttribute("aria-sort")];
      for (const other of headings) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", way);
      const keys = lines.map((line) => line.cells[column].dataset.key ?? "");
      body.append(...sortedPlaces(keys, kind, way).map((place) => lines[place]));
    });
  });
}
