// What stands beside the canvas: the pictures at the left, the objects at the right. Text from outside only ever becomes text, never markup.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "text") made.textContent = value;
    else if (typeof value === "boolean") made.toggleAttribute(key, value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

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
      buttons[buttons.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    });
  }

  // The n-th picture after the open one, or before it.
  neighbour(step) {
    const { images } = this.work.list;
    const at = images.findIndex((row) => row.id === this.work.picture?.id);
    return images[at + step]?.id;
  }

  render() {
    const { images, folder } = this.work.list;
    this.title.textContent = folder ?? "Pictures";
    const held = this.list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    this.list.replaceChildren(...images.map((row) => this.#row(row)));
    this.mark();
    if (held) this.list.querySelector(`[data-id="${held}"]`)?.focus();
  }

  mark() {
    for (const button of this.list.querySelectorAll("button")) {
      const open = button.dataset.id === this.work.picture?.id;
      button.setAttribute("aria-current", String(open));
      if (open) button.scrollIntoView({ block: "nearest" });
    }
  }

  #row(row) {
    const picture = element("img", { src: row.thumbnail, alt: "", loading: "lazy", decoding: "async", draggable: "false" });
    const badge = row.damaged ? { class: "count damaged", text: "!" } : { class: "count", text: String(row.objects) };
    const count = row.damaged || row.objects ? [element("span", badge)] : [];
    const label = `${row.name}, ${row.damaged ? "damaged" : row.objects === 1 ? "1 object" : `${row.objects} objects`}`;
    const title = row.damaged ? `${row.name}: ${row.damaged}` : row.name;
    const button = element("button", { type: "button", class: "thumb", "data-id": row.id, "aria-label": label, title, onclick: () => this.open(row.id) });
    button.append(element("span", { class: "frame" }, picture, ...count), element("span", { class: "name", text: row.name.split("/").at(-1) }));
    return element("li", {}, button);
  }
}

export class Objects {
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
    document.getElementById("known-names").replaceChildren(...[...names].sort().map((name) => element("option", { value: name })));
  }

  render() {
    this.offerNames();
    const { work } = this;
    const held = document.activeElement;
    const inside = this.list.contains(held) ? [held.closest("li")?.dataset.id, held.dataset.part] : null;
    const unsaved = held?.dataset?.part === "name" ? held.value : null;
    this.list.replaceChildren(...work.objects.map((item, number) => this.#row(item, number + 1)));
    const again = inside && this.list.querySelector(`[data-id="${inside[0]}"] [data-part="${inside[1]}"]`);
    if (again) {
      if (unsaved !== null) again.value = unsaved;
      again.focus();
    }
  }

  rename() {
    const field = this.list.querySelector(`[data-id="${this.work.active}"] [data-part="name"]`);
    field?.focus();
    field?.select();
  }

  step(by) {
    const { objects, active } = this.work;
    if (!objects.length) return;
    const at = objects.findIndex((item) => item.id === active);
    this.work.choose(objects[(at + by + objects.length) % objects.length].id);
  }

  async remove(id) {
    const item = this.work.objects.find((other) => other.id === id);
    if (!item) return;
    const gone = await this.work.remove(id);
    if (gone) this.tell(`${item.name || "The object"} is gone.`, "Take it back", () => this.work.describe(id, { deleted: false }));
  }

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
        document.getElementById("canvas").focus();
        event.stopPropagation();
      }
    });
    const button = (part, label, image, action, pressed) =>
      element("button", { type: "button", class: "quiet", "data-part": part, "aria-label": label, title: label, "aria-pressed": String(pressed), onclick: action }, icon(image));
    const choose = element("button", { type: "button", class: "choose", "data-part": "choose", "aria-label": `Work on ${name}`, "aria-pressed": String(item.id === work.active) });
    choose.addEventListener("click", () => work.choose(item.id));
    const several = item.parts.length > 1;
    const facts = item.area ? `${percent(item, work)} · ${several ? `${item.parts.length} parts` : `score ${Math.round(item.score * 100)}`}` : "click on it";
    const row = element("li", { "data-id": String(item.id), class: item.id === work.active ? "active" : "" }, choose, color);
    row.append(element("div", { class: "words" }, field, element("span", { class: "facts", text: facts })));
    if (several) row.append(button("split", `Make each part of ${name} an object`, "split", () => this.split(item.id), false));
    const hide = item.hidden ? `Show ${name}` : `Hide ${name}`;
    row.append(button("hide", hide, item.hidden ? "hidden" : "eye", () => work.describe(item.id, { hidden: !item.hidden }), item.hidden));
    row.append(button("remove", `Throw away ${name}`, "bin", () => this.remove(item.id), false));
    return row;
  }
}

function percent(item, work) {
  const share = (100 * item.area) / (work.picture.width * work.picture.height);
  return share >= 1 ? `${Math.round(share)} %` : `${share.toFixed(1)} %`;
}
