// @ts-check
// The export window: what, and in which format.

import * as api from "./api.js";
import { sentence } from "./messages.js";
import { element } from "./panels.js";

/** @type {{ [name: string]: [title: string, text: string] }} */
const FORMATS = {
  png: ["Masks", "PNG, white is the object"],
  cutout: ["Cut-outs", "PNG with a transparent ground"],
  coco: ["COCO", "JSON, run lengths"],
  "coco-polygons": ["COCO polygons", "JSON, outlines"],
  yolo: ["YOLO", "segmentation labels"],
  "yolo-painted": ["YOLO, painted", "rings through pixels, as Ultralytics paints them"],
  "label-studio": ["Label Studio", "JSON with brush masks"],
  cvat: ["CVAT", "XML with masks"],
  voc: ["Pascal VOC", "XML and palette PNG"],
  labelme: ["labelme", "JSON with masks"],
};

/**
 * The formats that a server writes, as they are offered; one that this page has no words for goes by its own name.
 * @param {string[]} known
 * @returns {[name: string, title: string, text: string][]}
 */
export function offered(known) {
  const names = [...Object.keys(FORMATS).filter((name) => known.includes(name)), ...known.filter((name) => !(name in FORMATS))];
  return names.map((name) => [name, ...(FORMATS[name] ?? [name, ""])]);
}

/**
 * @template {Element} T
 * @param {Element} place @param {string} selector @param {{ new (): T }} kind
 * @returns {T}
 */
function within(place, selector, kind) {
  const found = place.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`the page has no ${selector}`);
  return found;
}

export class Exports {
  /** @param {HTMLDialogElement} dialog @param {import("./work.js").Work} work @param {import("./panels.js").Tell} tell */
  constructor(dialog, work, tell) {
    this.dialog = dialog;
    this.work = work;
    this.tell = tell;
    this.grid = within(dialog, ".formats", HTMLElement);
    this.bar = within(dialog, "progress", HTMLProgressElement);
    this.note = within(dialog, ".note", HTMLElement);
    dialog.addEventListener("change", () => this.#render());
    this.bar.hidden = true;
  }

  open() {
    const one = this.work.objects.some((item) => item.area);
    const scopes = [...this.dialog.querySelectorAll("input")];
    for (const input of scopes) input.disabled = input.value === "all" ? !this.work.list.images.some((row) => row.objects) : !one;
    if (scopes.find((input) => input.checked)?.disabled ?? true) scopes.find((input) => !input.disabled)?.click();
    this.#render();
    this.dialog.showModal();
  }

  get #scope() {
    const chosen = [...this.dialog.querySelectorAll("input")].find((input) => input.checked && !input.disabled);
    return chosen?.value ?? null;
  }

  #render() {
    const scope = this.#scope;
    this.note.textContent = scope ? "" : "There is nothing to export yet: cut an object first.";
    const formats = scope ? offered(this.work.about?.formats ?? []) : [];
    this.grid.replaceChildren(
      ...formats.map(([name, title, text]) => {
        const button = element("button", { type: "button", "data-format": name, onclick: () => this.#export(name) });
        button.append(element("strong", { text: title }), element("span", { text }));
        return element("li", {}, button);
      }),
    );
  }

  /** @param {string} format */
  async #export(format) {
    if (this.#scope === "picture") {
      api.download(api.address("/api/images/{identity}/export", { ...this.work.at, format }));
      this.dialog.close();
      return;
    }
    this.bar.hidden = false;
    this.bar.removeAttribute("value");
    try {
      const job = await api.follow(await api.post("/api/exports", {}, { format }), (state) => {
        if (state.total) this.bar.value = state.done / state.total;
        this.note.textContent = state.note;
      });
      if (job.has_file) {
        api.download(api.address("/api/jobs/{identity}/file", { identity: job.id }), `fretsaw-${format}.zip`);
        this.dialog.close();
      } else this.tell("The export was stopped.");
    } catch (error) {
      this.tell(sentence(error));
    }
    this.bar.hidden = true;
    this.note.textContent = "";
  }
}
