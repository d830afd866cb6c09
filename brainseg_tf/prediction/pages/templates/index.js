"use strict";
(() => {
  const body = document.querySelector("#scans tbody");
  if (!body) return;
  const rows = [...body.rows];

  // Sorting: by number where all filled cells of the column are numbers, else by text. Empty cells come last.
  const compareText = new Intl.Collator("en", { numeric: true }).compare;
  const headers = [...document.querySelectorAll("#scans th")];
  const sort = (column, descending) => {
    const texts = new Map(rows.map((row) => [row, row.cells[column].textContent.trim()]));
    const filled = rows.filter((row) => texts.get(row) !== "");
    const numeric = filled.every((row) => Number.isFinite(Number(texts.get(row))));
    const compare = numeric ? (a, b) => Number(a) - Number(b) : compareText;
    const sign = descending ? -1 : 1;
    filled.sort((a, b) => sign * compare(texts.get(a), texts.get(b)) || a.dataset.order - b.dataset.order);
    body.append(...filled, ...rows.filter((row) => texts.get(row) === ""));
    headers.forEach((header, k) => {
      if (k === column) header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
    });
  };
  headers.forEach((header, column) => {
    const button = header.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => sort(column, header.getAttribute("aria-sort") === "ascending"));
  });

  // A scan's page asks for its neighbours with #before=PAGE and #after=PAGE: go to the nearest scan that has a page.
  const notice = document.getElementById("notice");
  const follow = () => {
    const [, side, asked] = location.hash.match(/^#(before|after)=(.*)$/) || [];
    if (!side) return;
    const page = decodeURIComponent(asked);
    const inOrder = [...rows].sort((a, b) => a.dataset.order - b.dataset.order);
    const own = inOrder.findIndex((row) => row.dataset.page === page);
    const others = own < 0 ? [] : side === "after" ? inOrder.slice(own + 1) : inOrder.slice(0, own).reverse();
    const next = others.find((row) => row.dataset.page);
    if (next) {
      location.replace(next.dataset.page);
      return;
    }
    notice.hidden = false;
    notice.textContent = own < 0
      ? "The scan that you came from is not in this index."
      : `No scan ${side} this one has a page: there is none, it failed, or it is not done yet.`;
    if (own >= 0) {
      inOrder[own].classList.add("here");
      inOrder[own].scrollIntoView({ block: "center" });
    }
  };
  window.addEventListener("hashchange", follow);
  follow();
})();
