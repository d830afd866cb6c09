// Moves the crosshairs of viewers to the lesion of a row that is clicked, and first to that of the first row.
function connectRows(viewers) {
  const go = (row) => {
    for (const viewer of viewers) {
      viewer.scene.crosshairPos = viewer.mm2frac(row.dataset.mm.split(" ").map(Number));
      viewer.createOnLocationChange();
      viewer.drawScene();
    }
  };
  const rows = document.querySelectorAll("tr[data-mm]");
  for (const row of rows) {
    row.addEventListener("click", () => go(row));
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") go(row); });
  }
  if (rows.length) go(rows[0]);
}
