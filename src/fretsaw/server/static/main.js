// @ts-check
// Puts the page together.

import { actionNamed, enabled, keyOf, possible } from "./actions.js";
import * as api from "./api.js";
import { Exports } from "./exports.js";
import { fillHelp, listen, nameButton } from "./keys.js";
import { outcomeOfCutting, sentence } from "./messages.js";
import { find, Gallery, lastPart, Objects } from "./panels.js";
import { Tools } from "./tools.js";
import { isDark, View } from "./view.js";
import { Work } from "./work.js";

/** @typedef {import("./actions.js").ActionName} ActionName */
/** @typedef {import("./view.js").Look} Look */

/** @param {string} name */
const setting = (name, otherwise = "") => localStorage.getItem(`fretsaw-${name}`) ?? otherwise;
/** @param {string} name @param {string | boolean} value */
const keep = (name, value) => localStorage.setItem(`fretsaw-${name}`, String(value));

const work = new Work();
const view = new View(find("canvas", HTMLCanvasElement));
const tools = new Tools(view, work);
const objects = new Objects(find("objects"), work, tell, split);
const gallery = new Gallery(find("pictures"), find("folder"), work, open);
const exportWindow = new Exports(find("export-window", HTMLDialogElement), work, tell);
view.canvas.setAttribute("aria-label", `${view.canvas.getAttribute("aria-label")} ${keyOf("help").replace("?", "Question mark")} shows all keys.`);
const helpWindow = find("help-window", HTMLDialogElement);
const fileField = find("file", HTMLInputElement);
const brushSize = find("brush-size", HTMLInputElement);
const autoOpen = find("auto-open", HTMLInputElement);
const cutAllButton = find("cut-all", HTMLButtonElement);
const namesField = find("names", HTMLInputElement);

const buttons = [...document.querySelectorAll("button")].flatMap((button) => {
  const { action } = button.dataset;
  return action ? [/** @type {const} */ ([button, actionNamed(action)])] : [];
});

// Messages

/** @type {ReturnType<typeof setTimeout> | undefined} */
let fading;

/** @type {import("./panels.js").Tell} */
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
      action?.();
    });
    toast.append(button);
  }
  toast.classList.add("shown");
  clearTimeout(fading);
  // Long messages take longer to read.
  fading = setTimeout(() => toast.classList.remove("shown"), Math.max(label ? 7000 : 5000, 60 * text.length));
}

/** @param {unknown} error */
const tellError = (error) => tell(sentence(error));

// Pictures

/** @param {string | undefined} id */
async function open(id) {
  if (!id) return;
  find("stage").dataset.state = "loading";
  try {
    if (!(await work.open(id))) return;
  } catch (error) {
    find("stage").dataset.state = work.picture ? "open" : "empty";
    tellError(error);
    return;
  }
  const { picture, bitmap } = work;
  if (!picture || !bitmap) return;
  history.replaceState(null, "", `#${id}`);
  find("stage").dataset.state = "open";
  const name = lastPart(picture.name);
  find("title").textContent = name;
  document.title = `${name} · Fretsaw`;
  await view.setPicture(bitmap);
  if (!work.ready) watchReadiness(id);
  if (!work.objects.length && enabled(actionNamed("auto"), work) && autoOpen.checked) work.auto();
}

// The first embedding of a picture takes a moment; previews begin when it is there.
/** @param {string} id */
async function watchReadiness(id) {
  const { picture } = work;
  for (let pause = 400; work.picture === picture && !work.ready; ) {
    render();
    await new Promise((done) => setTimeout(done, pause));
    try {
      const { ready } = await api.get("/api/images/{identity}/state", { identity: id });
      if (work.picture === picture) work.ready ||= ready;
    } catch {
      pause = 3000; // whatever is wrong, changes tell of it; the picture is waited for as long as it is open
    }
  }
  render();
}

// Annotations become objects: a file that was dropped, or what lies beside the pictures.
/** @param {() => Promise<api.Job>} start */
async function readAnnotations(start) {
  try {
    const job = await api.follow(await start(), (state) => tell(`Reading ${state.note} (${state.done} of ${state.total})`));
    await work.refresh();
    if (work.picture && !work.waiting) await open(work.picture.id);
    tell(job.state === "stopped" ? "Reading was stopped." : `Read ${job.note}.`);
    find("annotations").hidden = true;
  } catch (error) {
    tellError(error);
  }
}

async function offerAnnotations() {
  const found = work.list.folder ? await api.get("/api/annotations", {}).catch(() => []) : [];
  if (!found.length) return;
  const formats = [...new Set(found.map(({ format }) => format))].join(", ");
  find("annotations").hidden = false;
  find("annotations").title = `Make objects of ${found.map(({ name, format }) => `${name || "the folder's files"} (${format})`).join(", ")}`;
  if (!work.list.images.some((row) => row.objects)) {
    tell(`This folder has annotations already: ${formats}.`, "Read them", () => find("annotations").click());
  }
}

/** @param {Iterable<File>} files */
async function upload(files) {
  const annotations = [...files].filter((file) => /\.(json|xml)$/i.test(file.name));
  const taken = [...files].filter((file) => !annotations.includes(file));
  let last = null;
  for (const [number, file] of taken.entries()) {
    const place = taken.length > 1 ? ` (${number + 1} of ${taken.length})` : "";
    try {
      last = await api.upload(file, (share) => tell(`Uploading ${file.name}${place}: ${Math.round(100 * share)} %`));
    } catch (error) {
      tell(`${file.name}: ${sentence(error)}`);
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
  cutAllButton.disabled = true;
  try {
    const job = await api.post("/api/auto", {});
    const stop = () => api.remove("/api/jobs/{identity}", { identity: job.id }).catch(tellError);
    const last = await api.follow(job, (state) => tell(`Cutting ${state.done} of ${state.total}: ${state.note}`, "Stop", stop));
    tell(outcomeOfCutting(last));
    await work.refresh();
    if (work.picture) await open(work.picture.id);
  } catch (error) {
    tellError(error);
  }
  cutAllButton.disabled = false;
}

// The automatic mask with its separate objects; each may become an object of its own.
async function findParts() {
  if (!work.about?.modes.includes("parts")) {
    tell(`This model does not tell parts apart; ${keyOf("split")} splits a mask into its pieces.`);
    return;
  }
  const reply = await work.auto(true);
  if (!reply) return;
  if (reply.parts.length > 1) tell(`Found ${reply.parts.length} separate parts.`, "Make each an object", () => split(reply.id));
  else tell("What stands out is one piece; there is nothing to separate.");
}

// Asks until the server is back, and then shows what it has.
let asking = false;

async function waitForServer() {
  if (asking) return;
  asking = true;
  do await new Promise((done) => setTimeout(done, 1500));
  while (!(await api.lives()));
  asking = false;
  if (work.picture) await open(work.picture.id);
  tell("The server is back; this is what it has saved.");
}

/** @param {number} id */
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

/** @type {Look[]} */
const looks = ["fill", "outline", "cutout"];
/** @type {import("./tools.js").ToolName[]} */
const toolNames = ["click", "box", "paint", "erase", "scribble"];

// What actions do, where they can be done: actions.js says when.
/** @type {Record<ActionName, () => unknown>} */
const deeds = {
  click: () => tools.choose("click"),
  box: () => tools.choose("box"),
  paint: () => tools.choose("paint"),
  erase: () => tools.choose("erase"),
  scribble: () => tools.choose("scribble"),
  auto: () => work.auto(),
  parts: findParts,
  adds: () => tools.sign(false),
  removes: () => tools.sign(true),
  flip: () => tools.sign(!tools.removes),
  avoid: () => work.avoid(),
  split: () => work.object && split(work.object.id),
  reset: () => work.reset(),
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
  hide: () => work.object && work.describe(work.object.id, { hidden: !work.object.hidden }),
  remove: () => work.object && objects.remove(work.object.id),
  fit: () => view.fit(),
  closer: () => view.zoomTo(view.scale * 1.5, undefined, undefined, true),
  farther: () => view.zoomTo(view.scale / 1.5, undefined, undefined, true),
  actual: () => view.zoomTo(1 / devicePixelRatio, undefined, undefined, true),
  fill: () => show("fill"),
  outline: () => show("outline"),
  cutout: () => show("cutout"),
  show: () => show(looks[(looks.indexOf(view.show) + 1) % looks.length]),
  previews: () => {
    tools.previews = !tools.previews;
    keep("previews", tools.previews);
    tools.forgetPreview();
    tell(tools.previews ? "Previews are on." : "Previews are off.");
  },
  theme: () => theme(isDark() ? "light" : "dark"),
  nextPicture: () => open(gallery.neighbour(1)),
  previousPicture: () => open(gallery.neighbour(-1)),
  upload: () => fileField.click(),
  exports: () => exportWindow.open(),
  help: () => helpWindow.showModal(),
};

/** @param {ActionName} name */
function perform(name) {
  if (possible(actionNamed(name), work)) deeds[name]();
}

/** @param {"light" | "dark"} name */
function theme(name) {
  document.documentElement.dataset.theme = name;
  keep("theme", name);
  view.refresh();
}

/** @param {Look} name */
function show(name) {
  view.show = name;
  keep("show", name);
  render();
  view.refresh();
}

// What the page shows

function render() {
  const { picture, waiting } = work;
  for (const [button, action] of buttons) button.disabled = !enabled(action, work);
  for (const name of toolNames) find(`tool-${name}`).setAttribute("aria-pressed", String(tools.tool === name));
  for (const name of looks) find(`show-${name}`).setAttribute("aria-pressed", String(view.show === name));
  find("adds").setAttribute("aria-pressed", String(!tools.removes));
  find("removes").setAttribute("aria-pressed", String(tools.removes));
  const brushing = tools.tool === "paint" || tools.tool === "erase";
  find("brush").hidden = !brushing;
  find("signs").hidden = tools.tool !== "click" && tools.tool !== "scribble";
  brushSize.value = String(Math.log2(tools.radius));
  find("stage").dataset.busy = String(waiting > 0);
  const busy = waiting || !work.ready;
  const said = work.error ? "not saved" : !busy ? "saved" : work.ready ? "working …" : "reading the picture …";
  find("state").textContent = picture ? said : "";
  find("state").dataset.kind = work.error ? "bad" : busy ? "busy" : "good";
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
  const cutout = view.show === "cutout";
  const { object } = work;
  const seen = object && !object.hidden && !cutout ? object : null;
  const clicks = (seen?.clicks ?? []).map(([x, y, positive]) => ({ x, y, positive }));
  /** @type {import("./marks.js").Scribble[]} */
  const scribbles = [...(seen?.scribbles ?? [])];
  for (const mark of cutout ? [] : work.marks) {
    if (mark.intent !== work.intent) continue;
    if (mark.points) scribbles.push({ ...mark, waiting: true });
    else clicks.push(Object.assign({ ...mark }, { waiting: true }));
  }
  return {
    objects: work.objects,
    active: work.active,
    color: object?.color ?? "#4aa3ff",
    clicks,
    scribbles,
    // A stroke on a mask that is there shows in the mask itself.
    strokes: work.strokes.filter((stroke) => stroke.intent === work.intent && !object),
    box: cutout ? null : (object?.prompt_box ?? null),
    ...tools.scene(),
  };
};

for (const happening of ["objects", "picture"]) {
  work.addEventListener(happening, () => {
    render();
    view.refresh();
  });
}
work.addEventListener("state", () => {
  render();
  view.draw();
});
work.addEventListener("mask", () => view.refresh());
work.addEventListener("refusal", (event) => {
  const error = event instanceof CustomEvent ? event.detail : null;
  tellError(error);
  if (api.statusOf(error) === 0) waitForServer();
});
addEventListener("beforeunload", (event) => {
  if (work.waiting) event.preventDefault();
});
tools.addEventListener("tool", render);

// Buttons, fields, files

for (const [button, { name }] of buttons) {
  nameButton(button);
  button.addEventListener("click", () => perform(name));
}
cutAllButton.addEventListener("click", cutAll);
find("annotations").addEventListener("click", () => readAnnotations(() => api.post("/api/imports", {}, {})));
brushSize.addEventListener("input", () => tools.resize(2 ** Number(brushSize.value) / tools.radius));
autoOpen.checked = setting("auto-open", "true") === "true";
autoOpen.addEventListener("change", () => keep("auto-open", autoOpen.checked));
fileField.addEventListener("change", async () => {
  await upload([...(fileField.files ?? [])]);
  fileField.value = "";
});
find("text").addEventListener("submit", async (event) => {
  event.preventDefault();
  const names = namesField.value.split(",").map((name) => name.trim()).filter(Boolean);
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
  if (event.dataTransfer?.files.length) upload([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) upload([...event.clipboardData.files]);
});
addEventListener("hashchange", () => {
  if (location.hash.slice(1) !== work.picture?.id) open(location.hash.slice(1));
});

async function begin() {
  if (setting("theme")) document.documentElement.dataset.theme = setting("theme");
  tools.previews = setting("previews", "true") === "true";
  view.show = looks.find((look) => look === setting("show")) ?? "fill";
  fillHelp(find("keys"));
  listen(perform, tools);
  render();
  try {
    await work.start();
  } catch (error) {
    tellError(error);
    return;
  }
  const modes = work.about?.modes ?? [];
  find("model").textContent = work.about?.model ?? "";
  const looksOnly = work.about?.read_only ?? false;
  cutAllButton.hidden = looksOnly || !modes.includes("auto") || !work.list.folder;
  find("auto").hidden = find("auto-open-line").hidden = !modes.includes("auto");
  find("text").hidden = looksOnly || !modes.includes("text");
  if (!looksOnly) await offerAnnotations();
  const { images } = work.list;
  const wanted = images.find((row) => row.id === location.hash.slice(1)) ?? images.find((row) => !row.damaged) ?? images[0];
  await open(wanted?.id);
}

begin();
