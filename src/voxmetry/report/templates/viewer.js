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

  // Unpacked beside the page's own work: the stream runs in a thread of the browser's.
  const bytes = (id) => {
    const text = atob(byId(id).textContent);
    const packed = new Uint8Array(text.length);
    for (let at = 0; at < packed.length; at += 1) packed[at] = text.charCodeAt(at);
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  };

  // Lets the browser draw and answer before what comes next.
  const breath = () => new Promise((done) => { setTimeout(done); });

  const hasWebGL = () => {
    try {
      // The context that NiiVue then asks this canvas for.
      return Boolean(canvas.getContext("webgl2", { alpha: true, antialias: false }));
    } catch {
      return false;
    }
  };

  const colour = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  const table = () => {
    // Values that the table does not name, and 0, stay clear.
    const named = scene.surfaces.filter((surface) => !hidden.has(surface.value));
    const most = Math.max(0, ...named.map((surface) => surface.value));
    // NiiVue draws nothing from the first two of 256 parts of a table, where 0 and the first values of a long one would
    // lie: clear places below 0 move them up.
    const below = 2 + Math.ceil(most / 64);
    const map = { R: [0, 0], G: [0, 0], B: [0, 0], A: [0, 0], I: [-below, 0], labels: ["", ""] };
    for (const surface of [...named].sort((a, b) => a.value - b.value)) {
      const [red, green, blue] = colour(surface.colour);
      map.R.push(red); map.G.push(green); map.B.push(blue); map.A.push(255);
      map.I.push(surface.value); map.labels.push("");
    }
    return map;
  };

  const load = async () => {
    const parts = [bytes("niivue"), bytes("scene-image"), bytes("scene-labels")];
    const element = document.createElement("script");
    element.textContent = new TextDecoder().decode(await parts[0]);
    document.head.append(element);
    await breath();
    const { Niivue, NVImage, SLICE_TYPE } = niivue;
    const viewer = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.45, 0.77, 0.86, 0.9], crosshairWidth: 0.35, crosshairWidthUnit: "percent", crosshairGap: 3,
      isRadiologicalConvention: true, sagittalNoseLeft: true, show3Dcrosshair: true, multiplanarForceRender: true,
      multiplanarShowRender: 1, multiplanarLayout: 2, multiplanarEqualSize: true, scrollRequiresFocus: true,
      dragAndDropEnabled: false, logLevel: "error", showLegend: false, loadingText: "", isColorbar: false, tileMargin: 2,
      fontMinPx: 11, fontColor: [0.85, 0.88, 0.9, 1], viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
    });
    await viewer.attachToCanvas(canvas, false);
    await breath();
    // The image itself would hide the surfaces, and casting rays through it takes long without a graphics card.
    viewer.drawImage3D = () => {};
    // The range of the values is known: NiiVue need not look for it.
    NVImage.prototype.calMinMax = function range() {
      const known = { "image.nii": [...scene.window, scene.low, scene.high],
        "overlay.nii": [0, scene.overlay?.top, 0, scene.overlay?.high] }[this.name] ?? [0, 255, 0, 255];
      [this.cal_min, this.cal_max, this.global_min, this.global_max] = known;
      [this.robust_min, this.robust_max] = known;
      return known;
    };
    const image = await NVImage.new(
      await parts[1], "image.nii", "gray", 1, null, scene.window[0], scene.window[1]);
    const labels = await NVImage.new(await parts[2], "labels.nii", "gray", 0.45);
    labels.setColormapLabel(table());
    // Together: each addVolume, and each addMesh, would upload all volumes anew.
    viewer.volumes = [image, labels];
    viewer.back = image;
    viewer.overlays = [labels];
    viewer.opts.meshThicknessOn2D = 0;
    [viewer.scene.renderAzimuth, viewer.scene.renderElevation] = [200, 15];
    viewer.updateGLVolume();
    return { viewer, SLICE_TYPE };
  };

  // Surfaces come when the slices can be used.
  const surfaces = async ({ viewer }) => {
    if (!scene.surfaces.length) return;
    const { NVMesh } = niivue;
    const mesh = await bytes("scene-mesh");
    let at = 0;
    for (const surface of scene.surfaces) {
      const points = new Float32Array(mesh, at, surface.points * 3);
      at += surface.points * 12;
      const triangles = new Uint32Array(mesh, at, surface.triangles * 3);
      at += surface.triangles * 12;
      const paint = new Uint8Array([...colour(surface.colour), 255]);
      const made = new NVMesh(points, triangles, surface.name, paint, 1, !hidden.has(surface.value), viewer.gl);
      viewer.meshes.push(made);
      viewer.furthestVertexFromOrigin = Math.max(viewer.furthestVertexFromOrigin, made.furthestVertexFromOrigin);
      await breath();
    }
    viewer.drawScene();
  };

  const start = () => {
    if (started) return started;
    byId("viewer").setAttribute("aria-busy", "true");
    started = (async () => {
      if (!hasWebGL() || typeof DecompressionStream === "undefined") throw new Error("no WebGL 2");
      ready = await load();
      controls(ready);
      byId("viewer").dataset.state = "ready";
      performance.mark("viewer-ready");
      await breath();
      await surfaces(ready);
      byId("viewer").dataset.surfaces = "ready";
      performance.mark("viewer-complete");
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
  let shown = false;

  const tell = (viewer, data) => {
    const [x, y, z] = data.mm;
    const value = Math.round(data.values?.[1]?.value ?? 0);
    const here = scene.surfaces.find((surface) => surface.value === value);
    const over = scene.overlay && viewer.volumes.length > 2 && shown ? data.values?.[2]?.value : undefined;
    const letters = words.letters.split(" ");
    const way = (mm, plus, minus) => `${mm < 0 ? minus : plus} ${number.format(Math.abs(mm))}`;
    told = `${way(x, letters[0], letters[1])}, ${way(y, letters[2], letters[3])}, ` +
      `${way(z, letters[4], letters[5])} mm` + (here ? `: ${here.name}` : "") +
      (over === undefined ? "" : `, ${scene.overlay.unit} ${number.format(over)}`);
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

  // The second image is unpacked when it is first asked for.
  const overlay = (viewer) => {
    const [button, top, end] = ["", "-top", "-end"].map((part) => byId(`viewer-overlay${part}`));
    if (!button) return () => {};
    let asked = null;
    const scale = () => {
      end.textContent = number.format(Number(top.value));
      if (viewer.volumes.length < 3) return;
      viewer.volumes[2].cal_max = Number(top.value);
      viewer.updateGLVolume();
    };
    const add = async () => {
      const { NVImage } = niivue;
      const image = await NVImage.new(await bytes("scene-overlay"), "overlay.nii", "hot", 0, null, 0, Number(top.value));
      viewer.volumes = [...viewer.volumes, image];
      viewer.overlays = viewer.volumes.slice(1);
    };
    const turn = async () => {
      shown = !shown;
      button.setAttribute("aria-pressed", String(shown));
      asked ??= add();
      await asked;
      viewer.setOpacity(2, shown ? 0.6 : 0);
      viewer.createOnLocationChange();
    };
    button.addEventListener("click", turn);
    top.addEventListener("input", scale);
    scale();
    return turn;
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
    const turn = overlay(viewer);
    // A PET is there to be seen: it is on from the beginning.
    if (scene.overlay) turn();
    canvas.addEventListener("keydown", (event) => {
      if (event.key.toLowerCase() === "p" && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.stopPropagation();
        turn();
      }
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
