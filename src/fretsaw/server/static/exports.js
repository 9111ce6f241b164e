// The export window: what, and in which format.

import * as api from "./api.js";
import { element } from "./panels.js";

const FORMATS = {
  png: ["Masks", "PNG, white is the object"],
  cutout: ["Cut-outs", "PNG with a transparent ground"],
  coco: ["COCO", "JSON, run lengths"],
  "coco-polygons": ["COCO polygons", "JSON, outlines"],
  yolo: ["YOLO", "segmentation labels"],
  "label-studio": ["Label Studio", "JSON with brush masks"],
  cvat: ["CVAT", "XML with masks"],
  voc: ["Pascal VOC", "XML and palette PNG"],
  labelme: ["labelme", "JSON with masks"],
};

export class Exports {
  constructor(dialog, work, tell) {
    this.dialog = dialog;
    this.work = work;
    this.tell = tell;
    this.grid = dialog.querySelector(".formats");
    this.bar = dialog.querySelector("progress");
    this.note = dialog.querySelector(".note");
    dialog.addEventListener("change", () => this.#render());
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    this.bar.hidden = true;
  }

  open() {
    const one = this.work.objects.some((item) => item.area);
    const scopes = this.dialog.querySelectorAll("input");
    for (const input of scopes) input.disabled = input.value === "all" ? !this.work.list.images.some((row) => row.objects) : !one;
    if ([...scopes].find((input) => input.checked)?.disabled ?? true) [...scopes].find((input) => !input.disabled)?.click();
    this.#render();
    this.dialog.showModal();
  }

  get #scope() {
    return this.dialog.querySelector("input:checked:not(:disabled)")?.value;
  }

  #render() {
    const scope = this.#scope;
    this.note.textContent = scope ? "" : "There is nothing to export yet: cut an object first.";
    const known = this.work.about.formats;
    this.grid.replaceChildren(
      ...Object.entries(FORMATS)
        .filter(([name]) => known.includes(name) && scope)
        .map(([name, [title, text]]) => {
          const button = element("button", { type: "button", "data-format": name, onclick: () => this.#export(name, scope) });
          button.append(element("strong", { text: title }), element("span", { text }));
          return element("li", {}, button);
        }),
    );
  }

  async #export(format, scope) {
    if (scope === "picture") {
      api.download(`${this.work.path}/export?format=${format}`);
      this.dialog.close();
      return;
    }
    this.bar.hidden = false;
    this.bar.removeAttribute("value");
    try {
      const job = await api.follow(await api.post("/api/exports", { format }), (state) => {
        if (state.total) this.bar.value = state.done / state.total;
        this.note.textContent = state.note;
      });
      api.download(`/api/jobs/${job.id}/file`, `fretsaw-${format}.zip`);
      this.dialog.close();
    } catch (error) {
      this.tell(error.message);
    }
    this.bar.hidden = true;
    this.note.textContent = "";
  }
}
