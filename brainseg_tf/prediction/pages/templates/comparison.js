"use strict";
(async () => {
  const container = document.getElementById("viewers"), line = document.getElementById("location");
  const sets = JSON.parse(document.getElementById("layers").textContent), names = ["before", "after"];
  if (!document.createElement("canvas").getContext("webgl2")) {
    container.style.display = "none";
    line.textContent = "The viewers need WebGL2, which this browser does not support. See the slices below instead.";
    return;
  }
  const load = async (layer) => {
    const image = await niivue.NVImage.loadFromBase64({
      base64: layer.nifti, name: layer.name + ".nii.gz", colormap: layer.colormap,
      cal_min: layer.low, cal_max: layer.high, opacity: layer.shown ? layer.opacity : 0,
    });
    if (layer.labels) image.setColormapLabel(layer.labels);
    return image;
  };
  const LESION = 1, CHANGES = 2, HIDDEN = -1, NEARLY_CLEAR = 0.004;
  const viewers = [], values = ["", ""];
  for (const [k, layers] of sets.entries()) {
    const viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1], isRadiologicalConvention: true, multiplanarForceRender: false, show3Dcrosshair: true,
      crosshairWidth: 0.5, crosshairWidthUnit: "mm", crosshairColor: [0.3, 0.8, 1, 0.7], showAllOrientationMarkers: true,
      fontColor: [1, 0.9, 0.4, 1], fontMinPx: 13, multiplanarPadPixels: 8, tileMargin: 6,
      dragAndDropEnabled: false, logLevel: "error",
      onLocationChange: (location) => {
        const mm = [...location.mm].slice(0, 3).map((one) => one.toFixed(1)).join(", ");
        values[k] = `${names[k]} ${digits(location.values[0].value)}`;
        line.textContent = `(${mm}) mm: ` + values.filter(Boolean).join(", ");
        container.dataset[names[k]] = mm;
      },
    });
    await viewer.attachToCanvas(document.getElementById(names[k]));
    for (const layer of layers) viewer.addVolume(await load(layer));
    // The outline is the rim of a NiiVue drawing, which is one screen pixel wide in every plane.
    const drawing = await load(layers[LESION]);
    await viewer.binarize(drawing);
    viewer.loadDrawing(drawing);
    viewers.push(viewer);
  }
  // Both have the same grid, so a position in one is the same position in the other.
  viewers[0].broadcastTo([viewers[1]], { "2d": true, "3d": true });
  viewers[1].broadcastTo([viewers[0]], { "2d": true, "3d": true });

  const control = (id) => document.getElementById(id);
  const fade = () => {
    const shown = control("shown").checked;
    const outlined = control("style").value === "outline";
    control("opacity").disabled = outlined;
    for (const viewer of viewers) {
      viewer.drawRimOpacity = shown && outlined ? 1 : HIDDEN;
      viewer.setDrawOpacity(shown && outlined ? NEARLY_CLEAR : 0);
      viewer.setOpacity(CHANGES, control("changes-shown").checked ? Number(control("changes-opacity").value) : 0);
      viewer.setOpacity(LESION, shown && !outlined ? Number(control("opacity").value) : 0);
    }
  };
  const look = () => viewers.forEach((viewer) => viewer.setSliceType(Number(control("view").value)));
  for (const id of ["shown", "opacity", "style", "changes-shown", "changes-opacity"]) control(id).addEventListener("input", fade);
  control("view").addEventListener("change", look);
  look();
  fade();
  connectRows(viewers);
  container.dataset.ready = "yes";
})();
