// The work at hand: the pictures, the open one, its objects. It talks to the server and tells the rest of the page by events:
// "list", "picture", "objects", "state". Changes go to the server one after the other, in the order in which they were made.

import * as api from "./api.js";
import { shapeOf } from "./masks.js";

export class Work extends EventTarget {
  about = null;
  list = { folder: null, images: [] };
  picture = null;
  bitmap = null;
  objects = [];
  active = null; // id of the object that clicks go to, or null for the next new one
  waiting = 0; // changes that the server has not answered yet
  ready = false; // whether the picture is encoded
  error = "";
  marks = []; // clicks that were made but not answered
  #chain = Promise.resolve();
  #opened = 0;

  tell(name) {
    this.dispatchEvent(new Event(name));
  }

  get path() {
    return `/api/images/${this.picture.id}`;
  }

  get object() {
    return this.objects.find((item) => item.id === this.active) ?? null;
  }

  async start() {
    this.about = await api.get("/api/about");
    await this.refresh();
  }

  async refresh() {
    this.list = await api.get("/api/images");
    this.tell("list");
  }

  async open(id) {
    const turn = ++this.#opened;
    await this.#chain.catch(() => {});
    const picture = await api.get(`/api/images/${id}`);
    const bitmap = await loadBitmap(picture.view);
    if (turn !== this.#opened) return false;
    this.picture = picture;
    this.bitmap = bitmap;
    this.ready = picture.ready;
    this.objects = picture.objects.map((item) => withShape(item));
    const known = Number(sessionStorage.getItem(`active-${id}`));
    this.active = this.objects.some((item) => item.id === known) ? known : (this.objects.at(-1)?.id ?? null);
    this.marks = [];
    this.tell("picture");
    this.tell("objects");
    return true;
  }

  choose(id) {
    this.active = id;
    if (this.picture) sessionStorage.setItem(`active-${this.picture.id}`, id ?? "");
    this.tell("objects");
  }

  // Puts a change in line. `change` is given the path of the object in hand; where there is none yet, it is made first.
  change(change, { mark = null, makes = true } = {}) {
    if (!this.picture) return Promise.resolve(null);
    const picture = this.picture;
    if (mark) this.marks.push(mark);
    this.waiting++;
    this.tell("state");
    const run = async () => {
      try {
        if (this.picture !== picture) return null;
        if (makes && this.active === null) {
          this.take(await api.post(`${this.path}/objects`, {}));
        }
        const reply = await change(`${this.path}/objects/${this.active}`);
        this.ready = true;
        this.error = "";
        if (this.picture === picture && reply) this.take(reply);
        return reply;
      } catch (error) {
        this.error = error.message;
        this.dispatchEvent(new CustomEvent("refusal", { detail: error.message }));
        return null;
      } finally {
        this.marks = this.marks.filter((other) => other !== mark);
        this.waiting--;
        this.tell("state");
      }
    };
    const result = this.#chain.then(run);
    this.#chain = result;
    return result;
  }

  take(reply) {
    const at = this.objects.findIndex((item) => item.id === reply.id);
    const before = at >= 0 ? this.objects[at] : null;
    const same = before && before.rle.counts === reply.rle.counts && before.color === reply.color;
    const item = same ? { ...reply, shape: before.shape } : withShape(reply);
    if (reply.deleted) {
      if (at >= 0) this.objects.splice(at, 1);
      if (this.active === reply.id) this.active = this.objects.at(-1)?.id ?? null;
    } else if (at >= 0) this.objects[at] = item;
    else {
      this.objects.push(item);
      this.objects.sort((a, b) => a.id - b.id);
      this.active = reply.id;
    }
    this.choose(this.active);
    const row = this.list.images.find((image) => image.id === this.picture.id);
    const count = this.objects.filter((other) => other.area).length;
    if (row && row.objects !== count) {
      row.objects = count;
      this.tell("list");
    }
  }

  click(x, y, positive) {
    return this.change((path) => api.post(`${path}/clicks`, { x, y, positive }), { mark: { x, y, positive } });
  }

  box(x0, y0, x1, y1) {
    return this.change((path) => api.post(`${path}/box`, { x0, y0, x1, y1 }));
  }

  paint(rle) {
    return this.change((path) => api.put(`${path}/mask`, { rle }));
  }

  auto() {
    return this.change((path) => api.post(`${path}/auto`));
  }

  avoid() {
    return this.object ? this.change((path) => api.post(`${path}/avoid`)) : null;
  }

  undo() {
    return this.object?.undoable || this.waiting ? this.change((path) => api.post(`${path}/undo`)) : null;
  }

  redo() {
    return this.object?.redoable ? this.change((path) => api.post(`${path}/redo`)) : null;
  }

  describe(id, changes) {
    return this.change(() => api.patch(`${this.path}/objects/${id}`, changes), { makes: false });
  }

  add(name = "") {
    // The newest object is still empty: that is the one to use.
    const empty = this.objects.find((item) => !item.undoable && !item.area);
    if (empty && !name) {
      this.choose(empty.id);
      return Promise.resolve(empty);
    }
    return this.change(async () => api.post(`${this.path}/objects`, { name }), { makes: false });
  }

  async find(names) {
    const found = await this.change(async () => {
      const made = await api.post(`${this.path}/text`, { names });
      for (const item of made) this.take(item);
      return made.at(-1) ?? null;
    }, { makes: false });
    return found;
  }
}

function withShape(item) {
  return { ...item, shape: item.area ? shapeOf(item.rle, item.box, item.color) : null };
}

async function loadBitmap(url) {
  const reply = await fetch(url);
  if (!reply.ok) throw new Error("the picture cannot be shown");
  return createImageBitmap(await reply.blob());
}
