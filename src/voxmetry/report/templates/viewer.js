"use strict";
// The viewer: NiiVue on the page's own blocks of data. It starts when it comes into sight or is asked for, so that the
// page itself is there at once. Without WebGL 2 the page stays as it is: its slices need no script.
(() => {
  const byId = (id) => document.getElementById(id);
  const scene = JSON.parse(byId("scene").textContent);
  const section = byId("viewer-section");
  const canvas = byId("viewer-canvas");
  const words = byId("viewer").dataset;
  const where = byId("viewer-where");
  const sliders = ["x", "y", "z"].map((axis) => byId(`viewer-${axis}`));
  const named = new Map(scene.targets.map((target) => [target.id, target]));
  const hidden = new Set();
  let started = null;
  let ready = null;
  section.hidden = false;

  const bytes = async (id) => {
    const packed = Uint8Array.from(atob(byId(id).textContent.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };

  const hasWebGL = () => {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl2"));
    } catch {
      return false;
    }
  };

  const colour = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  const table = () => {
    // Values that the table does not name, and 0, stay clear.
    const named = scene.surfaces.filter((surface) => !hidden.has(surface.value));
    const map = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    for (const surface of [...named].sort((a, b) => a.value - b.value)) {
      const [red, green, blue] = colour(surface.colour);
      map.R.push(red); map.G.push(green); map.B.push(blue); map.A.push(255);
      map.I.push(surface.value); map.labels.push("");
    }
    return map;
  };

  const load = async () => {
    const source = new TextDecoder().decode(await bytes("niivue"));
    const element = document.createElement("script");
    element.textContent = source;
    document.head.append(element);
    const { Niivue, NVImage, NVMesh, SLICE_TYPE } = niivue;
    const viewer = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.45, 0.77, 0.86, 0.9], crosshairWidth: 0.35, crosshairWidthUnit: "percent", crosshairGap: 3,
      isRadiologicalConvention: true, sagittalNoseLeft: true, show3Dcrosshair: true, multiplanarForceRender: true,
      multiplanarShowRender: 1, multiplanarLayout: 2, multiplanarEqualSize: true, scrollRequiresFocus: true,
      dragAndDropEnabled: false, logLevel: "error", showLegend: false, loadingText: "", isColorbar: false, tileMargin: 2,
      fontMinPx: 11, fontColor: [0.85, 0.88, 0.9, 1], viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
    });
    await viewer.attachToCanvas(canvas);
    const image = await NVImage.new(
      await bytes("scene-image"), "image.nii", "gray", 1, null, scene.window[0], scene.window[1]);
    viewer.addVolume(image);
    const labels = await NVImage.new(await bytes("scene-labels"), "labels.nii", "gray", 0.45);
    labels.setColormapLabel(table());
    viewer.addVolume(labels);
    const mesh = scene.surfaces.length ? await bytes("scene-mesh") : new ArrayBuffer(0);
    let at = 0;
    for (const surface of scene.surfaces) {
      const points = new Float32Array(mesh.slice(at, at + surface.points * 12));
      at += surface.points * 12;
      const triangles = new Uint32Array(mesh.slice(at, at + surface.triangles * 12));
      at += surface.triangles * 12;
      const paint = new Uint8Array([...colour(surface.colour), 255]);
      viewer.addMesh(new NVMesh(points, triangles, surface.name, paint, 1, true, viewer.gl));
    }
    // The image itself would hide the surfaces, and casting rays through it takes long without a graphics card.
    viewer.drawImage3D = () => {};
    viewer.setRenderAzimuthElevation(200, 15);
    viewer.setMeshThicknessOn2D(0);
    return { viewer, SLICE_TYPE };
  };

  const start = () => {
    if (started) return started;
    byId("viewer").setAttribute("aria-busy", "true");
    started = (async () => {
      if (!hasWebGL() || typeof DecompressionStream === "undefined") throw new Error("no WebGL 2");
      ready = await load();
      controls(ready);
      byId("viewer").dataset.state = "ready";
    })().catch((error) => {
      byId("viewer").dataset.state = "absent";
      where.textContent = words.absent;
      console.info(`viewer: ${error.message}`);
    }).finally(() => byId("viewer").removeAttribute("aria-busy"));
    return started;
  };

  const number = new Intl.NumberFormat(document.documentElement.lang, {
    minimumFractionDigits: 1, maximumFractionDigits: 1 });
  let told = "";

  const tell = (viewer, data) => {
    const [x, y, z] = data.mm;
    const value = Math.round(data.values?.[1]?.value ?? 0);
    const here = scene.surfaces.find((surface) => surface.value === value);
    const letters = words.letters.split(" ");
    const way = (mm, plus, minus) => `${mm < 0 ? minus : plus} ${number.format(Math.abs(mm))}`;
    told = `${way(x, letters[0], letters[1])}, ${way(y, letters[2], letters[3])}, ` +
      `${way(z, letters[4], letters[5])} mm` + (here ? `: ${here.name}` : "");
    where.textContent = told;
    [x, y, z].forEach((mm, axis) => {
      sliders[axis].value = String(viewer.scene.crosshairPos[axis]);
      sliders[axis].setAttribute("aria-valuetext", `${number.format(mm)} mm`);
    });
  };

  const go = (viewer, place) => {
    viewer.scene.crosshairPos = viewer.mm2frac(place);
    viewer.createOnLocationChange();
    viewer.drawScene();
  };

  const controls = ({ viewer, SLICE_TYPE }) => {
    viewer.onLocationChange = (data) => tell(viewer, data);
    const layouts = {
      all: SLICE_TYPE.MULTIPLANAR, axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL,
      sagittal: SLICE_TYPE.SAGITTAL, surfaces: SLICE_TYPE.RENDER,
    };
    for (const option of section.querySelectorAll("[name=viewer-layout]")) {
      option.addEventListener("change", () => viewer.setSliceType(layouts[option.value]));
    }
    sliders.forEach((slider, axis) => slider.addEventListener("input", () => {
      viewer.scene.crosshairPos[axis] = Number(slider.value);
      viewer.createOnLocationChange();
      viewer.drawScene();
    }));
    const [level, width] = [byId("viewer-level"), byId("viewer-width")];
    const window = () => {
      const [middle, half] = [Number(level.value), Number(width.value) / 2];
      viewer.volumes[0].cal_min = middle - half;
      viewer.volumes[0].cal_max = middle + half;
      viewer.updateGLVolume();
    };
    for (const slider of [level, width]) slider.addEventListener("input", window);
    byId("viewer-window")?.addEventListener("change", (event) => {
      const [low, high] = event.target.value.split(" ").map(Number);
      level.value = String((low + high) / 2);
      width.value = String(high - low);
      window();
    });
    byId("viewer-opacity").addEventListener("input", (event) => viewer.setOpacity(1, Number(event.target.value)));
    for (const box of section.querySelectorAll("[name=viewer-shown]")) {
      box.addEventListener("change", () => {
        const value = Number(box.value);
        hidden[box.checked ? "delete" : "add"](value);
        viewer.volumes[1].setColormapLabel(table());
        viewer.meshes.forEach((mesh, n) => { mesh.visible = !hidden.has(scene.surfaces[n].value); });
        viewer.updateGLVolume();
      });
    }
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
        PageUp: [0, 0, 1], PageDown: [0, 0, -1] }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      // In the pictures the patient's right is on the left.
      viewer.moveCrosshairInVox(-step[0], step[1], step[2]);
    }, { capture: true });
    const first = scene.targets.find((target) => target.id.startsWith("lesion-")) ?? scene.targets[0];
    go(viewer, first ? first.ras_mm : viewer.frac2mm([0.5, 0.5, 0.5]));
  };

  const jump = async (id) => {
    const target = named.get(id);
    await start();
    if (!ready || !target) return false;
    go(ready.viewer, target.ras_mm);
    byId("viewer").dataset.at = id;
    where.textContent = `${target.name}: ${told.split(": ")[0]}`;
    return true;
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-go]") ??
      event.target.closest("tr:has(a[data-go])")?.querySelector("a[data-go]");
    if (!link || (event.target.closest("a") && event.target.closest("a") !== link)) return;
    if (String(getSelection())) return;
    if (event.target.closest("a")) event.preventDefault();
    jump(link.dataset.go).then((done) => {
      if (done || event.target.closest("a")) section.scrollIntoView({ block: "start" });
      if (event.target.closest("a")) canvas.focus({ preventScroll: true });
    });
  });

  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    start();
  }, { rootMargin: "200px" }).observe(section);
})();
