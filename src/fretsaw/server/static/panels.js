// @ts-check
// What stands beside the canvas: the pictures at the left, the objects at the right. Text from outside only ever becomes text, never markup.

/** @typedef {import("./work.js").Work} Work */
/** @typedef {import("./work.js").Item} Item */
/** @typedef {(text: string, label?: string, action?: () => unknown) => void} Tell Shows a message, and a button beside it. */

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {{ [attribute: string]: string | boolean | ((event: Event) => unknown) }} attributes Its text is "text"; functions listen to what stands behind "on".
 * @param {Node[]} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key.replace(/^on/, ""), value);
    else if (typeof value === "boolean") made.toggleAttribute(key, value);
    else if (key === "text") made.textContent = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/**
 * The element with an id; the page is wrong where there is none, or of another kind.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @param {{ new (): T }} [kind]
 * @returns {T}
 */
export function find(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof (kind ?? HTMLElement))) throw new Error(`the page has no element ${id} of the kind that is expected`);
  return /** @type {T} */ (found);
}

/** @param {HTMLElement} list @param {string} selector @returns {HTMLElement | null} */
const inList = (list, selector) => list.querySelector(selector);

// The last part of a path.
/** @param {string} name */
export const lastPart = (name) => name.slice(name.lastIndexOf("/") + 1);

/** @param {Schemas["Listed"][]} images @param {string | undefined} id @param {1 | -1} step */
export function neighbour(images, id, step) {
  let at = images.findIndex((row) => row.id === id) + step;
  while (images[at]?.damaged) at += step;
  return images[at]?.id;
}

/** @param {string} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export class Gallery {
  /** @param {HTMLElement} list @param {HTMLElement} title @param {Work} work @param {(id: string) => unknown} open */
  constructor(list, title, work, open) {
    this.list = list;
    this.title = title;
    this.work = work;
    this.open = open;
    work.addEventListener("list", () => this.render());
    work.addEventListener("picture", () => this.mark());
    list.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
      event.preventDefault();
      event.stopPropagation();
      const buttons = [...list.querySelectorAll("button")];
      const at = buttons.findIndex((button) => button === document.activeElement);
      buttons[at + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    });
  }

  // The picture after the open one (1), or before it (-1). Those that are marked as damaged cannot be opened, and must not bar the way.
  /** @param {1 | -1} step */
  neighbour(step) {
    return neighbour(this.work.list.images, this.work.picture?.id, step);
  }

  render() {
    const { images, folder } = this.work.list;
    this.title.textContent = folder ?? "Pictures";
    const focused = document.activeElement;
    const held = focused instanceof HTMLElement && this.list.contains(focused) ? focused.dataset.id : null;
    this.list.replaceChildren(...images.map((row) => this.#row(row)));
    this.mark();
    if (held) inList(this.list, `[data-id="${held}"]`)?.focus();
  }

  mark() {
    for (const button of this.list.querySelectorAll("button")) {
      const open = button.dataset.id === this.work.picture?.id;
      button.setAttribute("aria-current", String(open));
      if (open) button.scrollIntoView({ block: "nearest" });
    }
  }

  /** @param {Schemas["Listed"]} row */
  #row(row) {
    const picture = element("img", { src: row.thumbnail, alt: "", loading: "lazy", decoding: "async", draggable: "false" });
    const badge = row.damaged ? { class: "count damaged", text: "!" } : { class: "count", text: String(row.objects) };
    const count = row.damaged || row.objects ? [element("span", badge)] : [];
    const label = `${row.name}, ${row.damaged ? "damaged" : row.objects === 1 ? "1 object" : `${row.objects} objects`}`;
    const title = row.damaged ? `${row.name}: ${row.damaged}` : row.name;
    const button = element("button", { type: "button", class: "thumb", "data-id": row.id, "aria-label": label, title, onclick: () => this.open(row.id) });
    button.append(element("span", { class: "frame" }, picture, ...count), element("span", { class: "name", text: lastPart(row.name) }));
    return element("li", {}, button);
  }
}

export class Objects {
  /** @param {HTMLElement} list @param {Work} work @param {Tell} tell @param {(id: number) => unknown} split */
  constructor(list, work, tell, split) {
    this.list = list;
    this.work = work;
    this.tell = tell;
    this.split = split;
    work.addEventListener("objects", () => this.render());
  }

  // Names that were used before are offered again; one class should not end up under two spellings.
  offerNames() {
    const names = new Set([...this.work.list.names, ...this.work.objects.map((item) => item.name)]);
    names.delete("");
    find("known-names", HTMLDataListElement).replaceChildren(...[...names].sort().map((name) => element("option", { value: name })));
  }

  render() {
    this.offerNames();
    const { work } = this;
    const focused = document.activeElement;
    const held = focused instanceof HTMLElement && this.list.contains(focused) ? focused : null;
    const inside = held && `[data-id="${held.closest("li")?.dataset.id}"] [data-part="${held.dataset.part}"]`;
    const unsaved = held instanceof HTMLInputElement && held.dataset.part === "name" ? held.value : null;
    this.list.replaceChildren(...work.objects.map((item, number) => this.#row(item, number + 1)));
    const again = inside ? inList(this.list, inside) : null;
    if (unsaved !== null && again instanceof HTMLInputElement) again.value = unsaved;
    again?.focus();
  }

  rename() {
    const field = inList(this.list, `[data-id="${this.work.active}"] [data-part="name"]`);
    field?.focus();
    if (field instanceof HTMLInputElement) field.select();
  }

  /** @param {1 | -1} by */
  step(by) {
    const { objects, active } = this.work;
    if (!objects.length) return;
    const at = objects.findIndex((item) => item.id === active);
    this.work.choose(objects[(at + by + objects.length) % objects.length].id);
  }

  /** @param {number} id */
  async remove(id) {
    const item = this.work.objects.find((other) => other.id === id);
    if (!item) return;
    const gone = await this.work.remove(id);
    if (gone) this.tell(`${item.name || "The object"} is gone.`, "Take it back", () => this.work.describe(id, { deleted: false }));
  }

  /** @param {Item} item @param {number} number Its place in the list, from 1. */
  #row(item, number) {
    const { work } = this;
    const name = item.name || `object ${number}`;
    const color = element("input", { type: "color", value: item.color, "data-part": "color", "aria-label": `Colour of ${name}`, title: "Colour" });
    color.addEventListener("change", () => work.describe(item.id, { color: color.value }));
    const field = element("input", {
      class: "name",
      value: item.name,
      placeholder: `Object ${number}`,
      maxlength: "200",
      "data-part": "name",
      "aria-label": `Name of object ${number}`,
      autocomplete: "off",
      spellcheck: "false",
      list: "known-names",
    });
    field.addEventListener("focus", () => work.active !== item.id && work.choose(item.id));
    field.addEventListener("change", () => work.describe(item.id, { name: field.value.trim() }));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === "Escape") {
        if (event.key === "Escape") field.value = item.name;
        find("canvas").focus();
        event.stopPropagation();
      }
    });
    const button = (/** @type {string} */ part, /** @type {string} */ label, /** @type {string} */ image, /** @type {() => unknown} */ action, pressed = false) =>
      element("button", { type: "button", class: "quiet", "data-part": part, "aria-label": label, title: label, "aria-pressed": String(pressed), onclick: action }, icon(image));
    const choose = element("button", { type: "button", class: "choose", "data-part": "choose", "aria-label": `Work on ${name}`, "aria-pressed": String(item.id === work.active) });
    choose.addEventListener("click", () => work.choose(item.id));
    const several = item.parts.length > 1;
    const facts = item.area ? `${percent(item, work)} · ${several ? `${item.parts.length} parts` : `score ${Math.round(item.score * 100)}`}` : "click on it";
    const row = element("li", { "data-id": String(item.id), class: item.id === work.active ? "active" : "" }, choose, color);
    row.append(element("div", { class: "words" }, field, element("span", { class: "facts", text: facts })));
    if (several) row.append(button("split", `Make each part of ${name} an object`, "split", () => this.split(item.id)));
    const hide = item.hidden ? `Show ${name}` : `Hide ${name}`;
    row.append(button("hide", hide, item.hidden ? "hidden" : "eye", () => work.describe(item.id, { hidden: !item.hidden }), item.hidden));
    row.append(button("remove", `Throw away ${name}`, "bin", () => this.remove(item.id)));
    return row;
  }
}

/** @param {Item} item @param {Work} work */
function percent(item, work) {
  const { width, height } = work.picture ?? { width: 1, height: 1 };
  const share = (100 * item.area) / (width * height);
  return share >= 1 ? `${Math.round(share)} %` : `${share.toFixed(1)} %`;
}
