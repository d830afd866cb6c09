"use strict";
(() => {
  const body = document.querySelector("#scans tbody");
  if (!body) return;
  const rows = [...body.rows];

  // Columns in which all filled cells are numbers are sorted by number, others by text. Empty cells are last.
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

  // The page of a scan links here with #before=PAGE or #after=PAGE. Open the nearest scan before or after it that has a
  // page.
  const notice = document.getElementById("notice");
  const follow = () => {
    const [, side, encoded] = location.hash.match(/^#(before|after)=(.*)$/) || [];
    if (!side) return;
    const page = decodeURIComponent(encoded);
    const inOrder = [...rows].sort((a, b) => a.dataset.order - b.dataset.order);
    const current = inOrder.findIndex((row) => row.dataset.page === page);
    const others = current < 0 ? [] : side === "after" ? inOrder.slice(current + 1) : inOrder.slice(0, current).reverse();
    const next = others.find((row) => row.dataset.page);
    if (next) {
      location.replace(next.dataset.page);
      return;
    }
    notice.hidden = false;
    notice.textContent = current < 0
      ? "The page that you came from is not in this index."
      : `No scan ${side} this one has a page: there are no more scans, or they failed or are not finished yet.`;
    if (current >= 0) {
      inOrder[current].classList.add("here");
      inOrder[current].scrollIntoView({ block: "center" });
    }
  };
  window.addEventListener("hashchange", follow);
  follow();
})();
