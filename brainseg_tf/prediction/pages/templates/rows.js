// A value with three digits, or with all digits before the decimal point.
const digits = (value) => (Math.abs(value) < 999.5 ? Number(value).toPrecision(3) : String(Math.round(value)));
// Moves the crosshairs of viewers to the lesion of a row that is clicked, and first to that of the first row.
function connectRows(viewers) {
  const go = (row) => {
    // The affine of the scan, and not the one without its tilt that NiiVue would use for slices along the voxels.
    const position = viewers[0].mm2frac(row.dataset.mm.split(" ").map(Number), 0, true);
    if ([...position].some((one) => one < 0 || one > 1)) {
      document.getElementById("location").textContent = `(${row.dataset.mm.replaceAll(" ", ", ")}) mm: outside the scan that is shown`;
      return;
    }
    for (const viewer of viewers) {
      viewer.scene.crosshairPos = position;
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
