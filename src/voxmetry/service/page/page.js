"use strict";
const byId = (id) => document.getElementById(id);
const PAGE = 50;
const state = { shown: PAGE, last: 0, jobs: new Map(), filter: "", words: "", generation: 0, watching: false };

async function ask(path, options = {}) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  if (answer.status === 401) {
    showLogin();
    throw new Error("A token is needed.");
  }
  if (answer.status === 204) return null;
  const content = await answer.json().catch(() => ({ found: `an answer that cannot be read (status ${answer.status})` }));
  if (!answer.ok) throw new Error([content.found, content.fix].filter(Boolean).join(". To do: ") || `status ${answer.status}`);
  return content;
}

function showLogin() {
  byId("login").hidden = false;
  byId("inside").hidden = true;
  byId("logout").hidden = true;
  byId("summary").textContent = "A token is needed.";
  byId("token").focus();
}

const VERDICTS = {
  waiting: ["", () => "waits"],
  running: ["", (job) => `runs: ${job.step || "begins"}`],
  failed: ["bad", (job) => `failed: ${job.fault ? job.fault.found : ""}`],
  "set aside": ["bad", (job) => `set aside: ${job.fault ? job.fault.found : ""}`],
  cancelled: ["", () => "cancelled"],
};

function verdictOf(job) {
  if (job.state !== "done") return [VERDICTS[job.state][0], VERDICTS[job.state][1](job)];
  if (!job.needs_review) return ["good", "done, no check failed"];
  const n = job.flags.filter((flag) => flag.severity === "review").length;
  return ["look", `review recommended: ${n} ${n === 1 ? "check" : "checks"} failed`];
}

function factsOf(job) {
  const facts = [job.model, new Date(job.created).toLocaleString(), job.id];
  if (job.seconds !== null) facts.push(`${job.seconds.toFixed(1)} s`);
  if (job.delivery !== "none") facts.push(`results: ${job.delivery}${job.delivery_fault ? ` (${job.delivery_fault})` : ""}`);
  return facts.join(" · ");
}

function listOf(element, texts) {
  element.replaceChildren(...texts.map((text) => {
    const item = document.createElement("li");
    item.append(text);
    return item;
  }));
}

function linkTo(address, text, name) {
  const link = document.createElement("a");
  link.href = address;
  link.textContent = text;
  link.download = name;
  return link;
}

function draw(row, job) {
  const before = row.dataset.version;
  const version = JSON.stringify([job.state, job.step, job.delivery, job.delivery_fault, job.finished]);
  if (before === version) return;
  row.dataset.version = version;
  const title = job.label || job.model;
  const name = `${title}, ${job.id.slice(0, 6)}`;
  const [kind, words] = verdictOf(job);
  row.className = `job ${kind}`;
  row.querySelector("h3").textContent = title;
  row.querySelector(".facts").textContent = factsOf(job);
  row.querySelector(".verdict").textContent = words;
  const bar = row.querySelector("progress");
  bar.hidden = job.state !== "running";
  bar.value = job.progress;
  bar.setAttribute("aria-label", `Progress of ${name}`);
  const flags = row.querySelector(".what details");
  flags.hidden = !job.flags.length && !job.fault;
  flags.querySelector("summary").textContent = job.fault ? "What to do" : `Notes (${job.flags.length})`;
  listOf(flags.querySelector("ul"), job.fault ? [job.fault.expected, job.fault.fix] : job.flags.map((flag) => flag.message));
  const report = row.querySelector(".report");
  report.hidden = !job.files.includes("report.html");
  report.href = `/v1/jobs/${job.id}/report`;
  report.setAttribute("aria-label", `Report of ${name}`);
  const files = row.querySelector(".files");
  files.hidden = !job.files.length;
  files.querySelector("summary").setAttribute("aria-label", `Files of ${name}`);
  listOf(files.querySelector("ul"), job.files.map((file) => linkTo(`/v1/jobs/${job.id}/files/${encodeURIComponent(file)}`, file, file)));
  const over = ["done", "failed", "set aside", "cancelled"].includes(job.state);
  const again = row.querySelector(".again");
  // Also while it waits to be sent again by itself: a peer may be back sooner than that.
  again.hidden = job.delivery !== "failed" && !(job.delivery === "waiting" && job.delivery_fault);
  again.setAttribute("aria-label", `Send results of ${name} again`);
  const cancel = row.querySelector(".cancel");
  const remove = row.querySelector(".remove");
  cancel.hidden = over;
  remove.hidden = !over;
  cancel.setAttribute("aria-label", `Cancel ${name}`);
  remove.setAttribute("aria-label", `Delete ${name}`);
  const picture = row.querySelector(".picture");
  if (job.files.some((file) => file === "thumbnail.png" || file === "preview.png")) {
    if (!picture.firstChild) {
      const image = document.createElement("img");
      image.loading = "lazy";
      image.src = `/v1/jobs/${job.id}/thumbnail`;
      image.alt = `Slice of ${name} with its structures`;
      picture.append(image);
    }
  } else picture.replaceChildren();
}

function rowOf(job) {
  const row = byId("row").content.firstElementChild.cloneNode(true);
  row.dataset.job = job.id;
  row.querySelector(".again").addEventListener("click", () => act(`/v1/jobs/${job.id}/deliver`, "POST"));
  row.querySelector(".cancel").addEventListener("click", () => act(`/v1/jobs/${job.id}/cancel`, "POST"));
  row.querySelector(".remove").addEventListener("click", () => {
    if (confirm("Delete this job with its results?")) act(`/v1/jobs/${job.id}`, "DELETE");
  });
  return row;
}

async function act(path, method) {
  try {
    await ask(path, { method });
  } catch (error) {
    byId("summary").textContent = error.message;
    return;
  }
  await load();
  byId("jobs").focus();
}

async function load() {
  const mine = ++state.generation;
  const query = new URLSearchParams({ limit: Math.min(500, state.shown + 1) });
  if (state.filter === "flagged") {
    query.append("state", "done");
    query.append("flagged", "true");
  } else if (state.filter) query.append("state", state.filter);
  if (state.words) query.append("q", state.words);
  const found = await ask(`/v1/jobs?${query}`);
  if (mine !== state.generation) return;
  state.last = found.last_event;
  const list = byId("list");
  const rows = new Map([...list.children].map((row) => [row.dataset.job, row]));
  const jobs = found.jobs.slice(0, state.shown);
  jobs.forEach((job, place) => {
    const row = rows.get(job.id) || rowOf(job);
    rows.delete(job.id);
    draw(row, job);
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] || null);
  });
  rows.forEach((row) => row.remove());
  byId("none").hidden = jobs.length > 0;
  byId("more").hidden = found.jobs.length <= state.shown;
  const n = found.counts;
  const parts = ["running", "waiting", "done", "failed", "set aside", "cancelled"].filter((key) => n[key]).map((key) => `${n[key]} ${key}`);
  if (n.flagged) parts.push(`${n.flagged} to be reviewed`);
  const words = parts.join(", ") || "no jobs yet";
  if (byId("summary").textContent !== words) byId("summary").textContent = words;
}

async function watch() {
  if (state.watching) return;
  state.watching = true;
  while (state.watching) {
    try {
      const found = await ask(`/v1/events?after=${state.last}&wait=25`);
      if (found.events.length) await load();
      // Not more often than this, however much happens.
      await new Promise((resolve) => setTimeout(resolve, 700));
    } catch (error) {
      if (!byId("login").hidden) state.watching = false;
      else {
        byId("summary").textContent = `The service does not answer: ${error.message}`;
        await new Promise((resolve) => setTimeout(resolve, 3000));
      }
    }
  }
}

function say(words, wrong = false) {
  const place = byId("new-words");
  place.textContent = words;
  place.className = wrong ? "wrong" : "";
}

function send(files) {
  if (!files.length) return;
  const form = new FormData();
  form.append("model", byId("model").value);
  form.append("label", byId("label").value);
  // Names stay on this machine, but for what says which format it is.
  files.forEach((file, place) => form.append("files", file, `${place}${suffixOf(file.name)}`));
  const bar = byId("sending");
  const request = new XMLHttpRequest();
  request.open("POST", "/v1/jobs/upload");
  request.responseType = "json";
  request.upload.addEventListener("progress", (event) => {
    if (event.lengthComputable) bar.value = event.loaded / event.total;
  });
  request.addEventListener("loadend", () => {
    bar.hidden = true;
    const content = request.response || {};
    if (request.status === 201) {
      say(`Job ${content.id.slice(0, 6)} waits.`);
      byId("label").value = "";
      load();
    } else if (request.status === 401) showLogin();
    else say(content.found ? `${content.found}. To do: ${content.fix}` : "The upload was cut off.", true);
  });
  bar.value = 0;
  bar.hidden = false;
  say(`Sending ${files.length} ${files.length === 1 ? "file" : "files"}…`);
  request.send(form);
}

function suffixOf(name) {
  const lower = name.toLowerCase();
  return [".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".zip", ".dcm"].find((end) => lower.endsWith(end)) || "";
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    for (const each of some) found.push(...(await filesOf(each)));
  }
  return found;
}

function listen() {
  const drop = byId("drop");
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
    const plain = [...event.dataTransfer.files];
    const found = entries.every(Boolean) && entries.length ? (await Promise.all(entries.map(filesOf))).flat() : plain;
    send(found.filter((file) => !file.name.startsWith(".")));
  });
  for (const id of ["files", "folder"]) {
    byId(id).addEventListener("change", (event) => {
      send([...event.target.files].filter((file) => !file.name.startsWith(".")));
      event.target.value = "";
    });
  }
  byId("new").addEventListener("submit", (event) => event.preventDefault());
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("state").addEventListener("change", (event) => {
    state.filter = event.target.value;
    load();
  });
  let timer = 0;
  byId("words").addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      state.words = event.target.value;
      load();
    }, 200);
  });
  byId("more").addEventListener("click", () => {
    state.shown += PAGE;
    load();
  });
  byId("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const answer = await fetch("/page/login", { method: "POST", body: byId("token").value, credentials: "same-origin" });
    if (!answer.ok) {
      byId("login-words").textContent = "This token is not known.";
      return;
    }
    byId("token").value = "";
    byId("login-words").textContent = "";
    begin();
  });
  byId("logout").addEventListener("click", async () => {
    await fetch("/page/logout", { method: "POST", credentials: "same-origin" });
    state.watching = false;
    showLogin();
  });
}

async function begin() {
  try {
    const who = await ask("/page/who");
    if (who.asks && !who.name) {
      showLogin();
      return;
    }
    byId("logout").hidden = !who.asks;
    const models = await ask("/v1/models");
    byId("model").replaceChildren(...models.map((model) => new Option(`${model.name}: ${model.summary}`, model.name)));
    await load();
  } catch (error) {
    if (byId("login").hidden) byId("summary").textContent = error.message;
    return;
  }
  byId("login").hidden = true;
  byId("inside").hidden = false;
  watch();
}

listen();
begin();
