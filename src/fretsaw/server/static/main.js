// Puts the page together.

import * as api from "./api.js";
import { Exports } from "./exports.js";
import { fillHelp, KEYS, listen } from "./keys.js";
import { Gallery, Objects } from "./panels.js";
import { Tools } from "./tools.js";
import { isDark, View } from "./view.js";
import { Work } from "./work.js";

const find = (id) => document.getElementById(id);
const setting = (name, otherwise) => localStorage.getItem(`fretsaw-${name}`) ?? otherwise;
const keep = (name, value) => localStorage.setItem(`fretsaw-${name}`, value);

const work = new Work();
const view = new View(find("canvas"));
const tools = new Tools(view, work);
const objects = new Objects(find("objects"), work, tell, split);
const gallery = new Gallery(find("pictures"), find("folder"), work, open);
const exportWindow = new Exports(find("export-window"), work, tell);

// Messages

function tell(text, label, action) {
  const toast = find("toast");
  const words = document.createElement("span");
  words.textContent = text;
  toast.replaceChildren(words);
  if (label) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => {
      toast.classList.remove("shown");
      action();
    });
    toast.append(button);
  }
  toast.classList.add("shown");
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => toast.classList.remove("shown"), label ? 7000 : 5000);
}

// Pictures

async function open(id) {
  if (!id) return;
  find("stage").dataset.state = "loading";
  try {
    if (!(await work.open(id))) return;
  } catch (error) {
    find("stage").dataset.state = work.picture ? "open" : "empty";
    tell(error.message);
    return;
  }
  history.replaceState(null, "", `#${id}`);
  find("stage").dataset.state = "open";
  find("title").textContent = work.picture.name.split("/").at(-1);
  document.title = `${work.picture.name.split("/").at(-1)} · Fretsaw`;
  await view.setPicture(work.bitmap);
  if (!work.ready) watchReadiness(id);
  if (!work.objects.length && work.about.modes.includes("auto") && find("auto-open").checked) work.auto();
}

// The first embedding of a picture takes a moment; previews begin when it is there.
async function watchReadiness(id) {
  while (work.picture?.id === id && !work.ready) {
    render();
    await new Promise((done) => setTimeout(done, 400));
    try {
      const { ready } = await api.post(`/api/images/${id}/save`);
      if (work.picture?.id === id) work.ready ||= ready;
    } catch {
      return;
    }
  }
  render();
}

// Annotations become objects: a file that was dropped, or what lies beside the pictures.
async function readAnnotations(start) {
  try {
    const job = await api.follow(await start(), (state) => tell(`Reading ${state.note} (${state.done} of ${state.total})`));
    await work.refresh();
    if (work.picture && !work.waiting) await open(work.picture.id);
    tell(`Read ${job.note}.`);
    find("annotations").hidden = true;
  } catch (error) {
    tell(error.message);
  }
}

async function offerAnnotations() {
  const found = work.list.folder ? await api.get("/api/annotations").catch(() => []) : [];
  if (!found.length) return;
  const formats = [...new Set(found.map(({ format }) => format))].join(", ");
  find("annotations").hidden = false;
  find("annotations").title = `Make objects of ${found.map(({ name, format }) => `${name || "the folder's files"} (${format})`).join(", ")}`;
  if (!work.list.images.some((row) => row.objects)) {
    tell(`This folder has annotations already: ${formats}.`, "Read them", () => find("annotations").click());
  }
}

async function upload(files) {
  const annotations = [...files].filter((file) => /\.(json|xml)$/i.test(file.name));
  const taken = [...files].filter((file) => !annotations.includes(file));
  let last = null;
  for (const [number, file] of taken.entries()) {
    const place = taken.length > 1 ? ` (${number + 1} of ${taken.length})` : "";
    try {
      last = await api.upload(file, (share) => tell(`Uploading ${file.name}${place}: ${Math.round(100 * share)} %`));
    } catch (error) {
      tell(`${file.name}: ${error.message}`);
    }
  }
  if (last) {
    find("toast").classList.remove("shown");
    await work.refresh();
    await open(last.id);
  }
  for (const file of annotations) await readAnnotations(() => api.uploadAnnotations(file));
}

async function cutAll() {
  const button = find("cut-all");
  button.disabled = true;
  try {
    const job = await api.post("/api/auto");
    await api.follow(job, (state) => tell(`Cutting ${state.done} of ${state.total}: ${state.note}`, "Stop", () => api.remove(`/api/jobs/${job.id}`)));
    tell("Every picture of the folder has an automatic mask.");
    await work.refresh();
    if (work.picture && !work.waiting) await open(work.picture.id);
  } catch (error) {
    tell(error.message);
  }
  button.disabled = false;
}

// The automatic mask with its separate objects; each may become an object of its own.
async function findParts() {
  if (!work.picture) return;
  if (!work.about.modes.includes("parts")) {
    tell("This model does not tell parts apart; S splits a mask into its pieces.");
    return;
  }
  const reply = await work.auto(true);
  if (!reply) return;
  if (reply.parts.length > 1) tell(`Found ${reply.parts.length} separate parts.`, "Make each an object", () => split(reply.id));
  else tell("What stands out is one piece; there is nothing to separate.");
}

// Asks until the server is back, and then shows what it has.
async function waitForServer() {
  if (waitForServer.asking) return;
  waitForServer.asking = true;
  for (let back = false; !back; ) {
    await new Promise((done) => setTimeout(done, 1500));
    back = await fetch("/health").then((reply) => reply.ok, () => false);
  }
  waitForServer.asking = false;
  work.error = "";
  if (work.picture) await open(work.picture.id);
  tell("The server is back; this is what it has saved.");
}

async function split(id) {
  const pieces = await work.split(id);
  if (!pieces) return;
  tell(`Split into ${pieces.length} objects.`, "Take it back", async () => {
    for (const piece of pieces) await work.describe(piece.id, { deleted: true });
    await work.describe(id, { deleted: false });
    work.choose(id);
  });
}

// What keys and buttons do

const shows = ["fill", "outline", "cutout"];
const toolNames = ["click", "box", "paint", "erase", "scribble"];
const actions = {
  click: () => tools.choose("click"),
  box: () => tools.choose("box"),
  paint: () => tools.choose("paint"),
  erase: () => tools.choose("erase"),
  scribble: () => tools.choose("scribble"),
  auto: () => work.about.modes.includes("auto") && work.auto(),
  parts: findParts,
  flip: () => tools.sign(!tools.removes),
  avoid: () => work.avoid(),
  split: () => work.object?.area && split(work.active),
  smaller: () => tools.resize(1 / 1.25),
  larger: () => tools.resize(1.25),
  undo: () => work.undo(),
  redo: () => work.redo(),
  escape: () => tools.escape(),
  add: () => {
    work.add();
    tools.choose("click");
  },
  rename: () => objects.rename(),
  nextObject: () => objects.step(1),
  previousObject: () => objects.step(-1),
  hide: () => work.object && work.describe(work.active, { hidden: !work.object.hidden }),
  remove: () => work.object && objects.remove(work.active),
  fit: () => view.fit(),
  closer: () => view.zoomTo(view.scale * 1.5, undefined, undefined, true),
  farther: () => view.zoomTo(view.scale / 1.5, undefined, undefined, true),
  actual: () => view.zoomTo(1 / devicePixelRatio, undefined, undefined, true),
  show: () => show(shows[(shows.indexOf(view.show) + 1) % shows.length]),
  previews: () => {
    tools.previews = !tools.previews;
    keep("previews", tools.previews);
    tools.forgetPreview();
    tell(tools.previews ? "Previews are on." : "Previews are off.");
  },
  theme: () => theme(isDark() ? "light" : "dark"),
  nextPicture: () => open(gallery.neighbour(1)),
  previousPicture: () => open(gallery.neighbour(-1)),
  upload: () => find("file").click(),
  exports: () => exportWindow.open(),
  help: () => find("help-window").showModal(),
};

function theme(name) {
  document.documentElement.dataset.theme = name;
  keep("theme", name);
  view.refresh();
}

function show(name) {
  view.show = name;
  keep("show", name);
  render();
  view.refresh();
}

// What the page shows

function render() {
  const { object, picture, waiting } = work;
  const enable = (id, on) => (find(id).disabled = !on);
  enable("undo", work.undoable);
  enable("redo", work.redoable);
  for (const id of ["auto", "add", "export", ...toolNames.map((name) => `tool-${name}`)]) enable(id, picture);
  enable("avoid", object?.area && work.objects.some((other) => other !== object && other.area));
  enable("split", object?.area);
  enable("reset", object?.undoable || object?.redoable);
  for (const name of toolNames) find(`tool-${name}`).setAttribute("aria-pressed", String(tools.tool === name));
  for (const name of shows) find(`show-${name}`).setAttribute("aria-pressed", String(view.show === name));
  find("adds").setAttribute("aria-pressed", String(!tools.removes));
  find("removes").setAttribute("aria-pressed", String(tools.removes));
  const brushing = tools.tool === "paint" || tools.tool === "erase";
  find("brush").hidden = !brushing;
  find("signs").hidden = tools.tool !== "click" && tools.tool !== "scribble";
  find("brush-size").value = Math.log2(tools.radius);
  find("stage").dataset.busy = String(waiting > 0);
  find("state").textContent = !picture ? "" : work.error ? "not saved" : waiting ? (work.ready ? "working …" : "reading the picture …") : work.ready ? "saved" : "reading the picture …";
  find("state").dataset.kind = work.error ? "bad" : waiting || !work.ready ? "busy" : "good";
  showZoom();
  find("none").hidden = Boolean(work.objects.length);
}

// Called with every frame of a zoom: touches nothing but its own label.
function showZoom() {
  const text = work.picture ? `${Math.round(view.scale * devicePixelRatio * 100)} %` : "";
  if (find("zoom").textContent !== text) find("zoom").textContent = text;
}

view.onzoom = showZoom;
view.scene = () => {
  const { object } = work;
  const clicks = (object && !object.hidden ? object.clicks : []).map(([x, y, positive]) => ({ x, y, positive }));
  const scribbles = object && !object.hidden ? object.scribbles : [];
  const unanswered = work.marks.filter((mark) => mark.intent === work.intent).map((mark) => ({ ...mark, waiting: true }));
  return {
    objects: work.objects,
    active: work.active,
    color: object?.color ?? "#4aa3ff",
    clicks: view.show === "cutout" ? [] : [...clicks, ...unanswered.filter(({ points }) => !points)],
    scribbles: view.show === "cutout" ? [] : [...scribbles, ...unanswered.filter(({ points }) => points)],
    // A stroke on a mask that is there shows in the mask itself.
    strokes: work.strokes.filter((stroke) => stroke.intent === work.intent && !object),
    box: view.show === "cutout" ? null : object?.prompt_box,
    ...tools.scene(),
  };
};

for (const name of ["objects", "picture"]) {
  work.addEventListener(name, () => {
    render();
    view.refresh();
  });
}
work.addEventListener("state", () => {
  render();
  view.draw();
});
work.addEventListener("mask", () => view.refresh());
work.addEventListener("refusal", ({ detail }) => {
  tell(detail.message);
  if (detail.status === 0) waitForServer();
});
addEventListener("beforeunload", (event) => work.waiting && event.preventDefault());
tools.addEventListener("tool", render);

// Buttons, fields, files

for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", () => actions[button.dataset.action]());
  const key = KEYS.flatMap(([, rows]) => rows).find(([, , action]) => action === button.dataset.action)?.[0];
  const label = button.getAttribute("aria-label") ?? button.textContent.trim();
  if (key) {
    button.title = `${label} (${key.length === 1 ? key.toUpperCase() : key})`;
    button.setAttribute("aria-keyshortcuts", key);
  }
}
for (const name of shows) find(`show-${name}`).addEventListener("click", () => show(name));
for (const name of ["adds", "removes"]) {
  find(name).title = `The left button ${name} (X)`;
  find(name).addEventListener("click", () => tools.sign(name === "removes"));
}
find("reset").addEventListener("click", () => work.reset());
find("cut-all").addEventListener("click", cutAll);
find("annotations").addEventListener("click", () => readAnnotations(() => api.post("/api/imports", {})));
find("brush-size").addEventListener("input", (event) => tools.resize(2 ** Number(event.target.value) / tools.radius));
find("auto-open").checked = setting("auto-open", "true") === "true";
find("auto-open").addEventListener("change", (event) => keep("auto-open", event.target.checked));
find("file").addEventListener("change", async (event) => {
  await upload(event.target.files);
  event.target.value = "";
});
find("text").addEventListener("submit", async (event) => {
  event.preventDefault();
  const names = find("names").value.split(",").map((name) => name.trim()).filter(Boolean);
  if (!names.length || !work.picture) return;
  const before = work.objects.length;
  if ((await work.find(names)) === null && work.objects.length === before && !work.error) tell("Nothing of that name was found.");
});
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector(".close")?.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

let depth = 0; // dragenter and dragleave come for every element on the way
addEventListener("dragenter", (event) => {
  event.preventDefault();
  depth++;
  document.body.classList.add("dropping");
});
addEventListener("dragleave", () => {
  if (--depth <= 0) document.body.classList.remove("dropping");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) upload(event.dataTransfer.files);
});
addEventListener("paste", (event) => event.clipboardData?.files.length && upload(event.clipboardData.files));
addEventListener("hashchange", () => location.hash.slice(1) !== work.picture?.id && open(location.hash.slice(1)));

async function begin() {
  if (setting("theme")) document.documentElement.dataset.theme = setting("theme");
  tools.previews = setting("previews", "true") === "true";
  view.show = setting("show", "fill");
  fillHelp(find("keys"));
  listen(actions, tools);
  render();
  try {
    await work.start();
  } catch (error) {
    tell(error.message);
    return;
  }
  find("model").textContent = work.about.model;
  find("cut-all").hidden = !work.about.modes.includes("auto") || !work.list.folder;
  find("auto").hidden = !work.about.modes.includes("auto");
  find("auto-open").parentElement.hidden = !work.about.modes.includes("auto");
  find("text").hidden = !work.about.modes.includes("text");
  await offerAnnotations();
  const wanted = location.hash.slice(1);
  const known = work.list.images.some((row) => row.id === wanted);
  await open(known ? wanted : work.list.images[0]?.id);
}

begin();
