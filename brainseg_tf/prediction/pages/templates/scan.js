"use strict";
// The copy buttons and the size of the figure are independent of the viewer, which needs WebGL2.
(() => {
  const select = (element) => getSelection().selectAllChildren(element);
  for (const button of document.querySelectorAll("button[data-copy]")) {
    const source = document.getElementById(button.dataset.copy), status = button.nextElementSibling;
    button.addEventListener("click", async () => {
      let copied = false;
      try {
        await navigator.clipboard.writeText(source.innerText.trim());
        copied = true;
      } catch {
        // There is no clipboard in old browsers and in embedded pages: select the text and copy the selection.
        select(source);
        try {
          copied = document.execCommand("copy");
        } catch {
          copied = false;
        }
      }
      if (!copied) select(source);
      status.textContent = copied ? "Copied." : "Selected; copy it with Ctrl+C or Cmd+C.";
    });
  }
  const enlarge = document.getElementById("enlarge");
  enlarge.addEventListener("click", () => {
    const full = document.getElementById("slices").classList.toggle("full");
    enlarge.setAttribute("aria-pressed", String(full));
  });
})();
(async () => {
  const container = document.getElementById("viewer"), line = document.getElementById("location");
  const layers = JSON.parse(document.getElementById("layers").textContent);
  if (!document.createElement("canvas").getContext("webgl2")) {
    container.style.display = "none";
    line.textContent = "The viewer needs WebGL2, which this browser does not support. See the slices below instead.";
    return;
  }
  const viewer = new niivue.Niivue({
    backColor: [0, 0, 0, 1], isRadiologicalConvention: true, multiplanarForceRender: false, show3Dcrosshair: true,
    crosshairWidth: 0.5, crosshairWidthUnit: "mm", crosshairColor: [0.3, 0.8, 1, 0.7], showAllOrientationMarkers: true,
    isOrientCube: true, fontColor: [1, 0.9, 0.4, 1], fontMinPx: 15, multiplanarPadPixels: 20, tileMargin: 10,
    dragAndDropEnabled: false, logLevel: "error",
    onLocationChange: (location) => {
      const mm = [...location.mm].slice(0, 3).map((one) => one.toFixed(1)).join(", ");
      const values = location.values.slice(0, layers.length).map((one, k) => `${layers[k].name} ${digits(one.value)}`);
      line.textContent = `(${mm}) mm: ` + values.join(", ");
      container.dataset.mm = mm;
    },
  });
  await viewer.attachToCanvas(document.getElementById("canvas"));
  const load = (layer) => niivue.NVImage.loadFromBase64({
    base64: layer.nifti, name: layer.name + ".nii.gz", colormap: layer.colormap, colormapNegative: layer.negative,
    cal_min: layer.low, cal_max: layer.high, opacity: layer.shown ? layer.opacity : 0,
  });
  for (const layer of layers) viewer.addVolume(await load(layer));

  // The outline is the rim of a NiiVue drawing, which is one screen pixel wide in every plane. The fill is a volume.
  const LESION = 1, HIDDEN = -1, NEARLY_CLEAR = 0.004;
  const drawing = await load(layers[LESION]);
  await viewer.binarize(drawing);
  viewer.loadDrawing(drawing);
  const style = document.getElementById("style"), view = document.getElementById("view");
  const control = (kind, k) => document.querySelector(`input[type=${kind}][data-layer="${k}"]`);
  const fade = (k) => {
    const opacity = control("checkbox", k).checked ? Number(control("range", k).value) : 0;
    const outlined = k === LESION && style.value === "outline" && view.value !== "4";
    if (k === LESION) {
      viewer.drawRimOpacity = outlined ? opacity : HIDDEN;
      viewer.setDrawOpacity(outlined && opacity > 0 ? NEARLY_CLEAR : 0);
    }
    viewer.setOpacity(k, outlined ? 0 : opacity);
  };
  fade(LESION);
  viewer.setSliceType(3);
  for (const input of document.querySelectorAll("#controls input")) {
    input.addEventListener("input", () => fade(Number(input.dataset.layer)));
  }
  style.addEventListener("change", () => {
    // An outline does not hide the scan, so its initial opacity is 1.
    control("range", LESION).value = style.value === "outline" ? 1 : layers[LESION].opacity;
    fade(LESION);
  });
  view.addEventListener("change", () => {
    viewer.setSliceType(Number(view.value));
    fade(LESION);
  });
  connectRows([viewer]);
  container.dataset.ready = "yes";
})();
