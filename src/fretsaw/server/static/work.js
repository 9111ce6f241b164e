// The work at hand: the pictures, the open one, its objects. It talks to the server and tells the rest of the page by events:
// "list", "picture", "objects", "state". Changes go to the server one after the other, in the order in which they were made.

import * as api from "./api.js";
import { crop, encode, Mask } from "./masks.js";

export class Work extends EventTarget {
  about = null;
  list = { folder: null, images: [], names: [] };
  picture = null;
  bitmap = null;
  objects = [];
  intent = { id: null }; // the object that clicks go to; without an id, one that is made when it is needed. What is put in line keeps the intent of its time
  waiting = 0; // changes that the server has not answered yet
  ready = false; // whether the picture is encoded
  error = "";
  marks = []; // clicks and scribbles that were made but not answered, each with its intent
  strokes = []; // strokes of the brush likewise
  #thrown = []; // what was thrown away, the last on top: the object's id, whether it was the one in hand, and every object's steps at that time
  #back = []; // what undo has brought back of it, for redo: the object's id, and the state of the objects since then
  #chain = Promise.resolve();
  #opened = 0;

  tell(name) {
    this.dispatchEvent(new Event(name));
  }

  get path() {
    return `/api/images/${this.picture.id}`;
  }

  get active() {
    return this.intent.id;
  }

  get object() {
    return this.objects.find((item) => item.id === this.active) ?? null;
  }

  get undoable() {
    return Boolean(this.object?.undoable || this.#thrown.length);
  }

  get redoable() {
    return Boolean(this.object?.redoable || this.#lastBack());
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
    this.objects = picture.objects.map((item) => withMask(item, null));
    const known = Number(sessionStorage.getItem(`active-${id}`));
    this.intent = { id: this.objects.some((item) => item.id === known) ? known : (this.objects.at(-1)?.id ?? null) };
    this.marks = [];
    this.strokes = [];
    this.#thrown = [];
    this.#back = [];
    this.tell("picture");
    this.tell("objects");
    return true;
  }

  choose(id) {
    if (this.intent.id !== id) this.intent = { id };
    if (this.picture) sessionStorage.setItem(`active-${this.picture.id}`, id ?? "");
    this.tell("objects");
  }

  // Puts a change in line. `change` is given the path of the object in hand, and what to add to it so that only the changed part of the mask comes back;
  // where there is no object yet, it is made first.
  change(change, { mark = null, makes = true } = {}) {
    if (!this.picture) return Promise.resolve(null);
    const { picture, intent } = this;
    if (mark) this.marks.push(Object.assign(mark, { intent }));
    this.waiting++;
    this.tell("state");
    const run = async () => {
      try {
        if (this.picture !== picture) return null;
        if (makes && intent.id === null) await this.#make(intent);
        const known = this.objects.find((item) => item.id === intent.id);
        const reply = await change(`${this.path}/objects/${intent.id}`, known ? `?since=${known.revision}` : "");
        this.ready = true;
        this.error = "";
        if (this.picture === picture && reply) this.take(reply);
        return reply;
      } catch (error) {
        // A refusal leaves everything as it was, and saved; only where the server itself fails, something of the page is not on its disk.
        this.error = error.status >= 400 && error.status < 500 ? "" : error.message;
        this.dispatchEvent(new CustomEvent("refusal", { detail: error }));
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

  async #make(intent, name = "") {
    const made = await api.post(`${this.path}/objects`, { name });
    intent.id = made.id;
    this.take(made);
    return made;
  }

  take(reply) {
    const at = this.objects.findIndex((item) => item.id === reply.id);
    const item = withMask(reply, at >= 0 ? this.objects[at] : null);
    // The answer knows nothing of the strokes that came after its question.
    for (const stroke of this.strokes) if (stroke.intent.id === item.id && !stroke.answered) applyStroke(item, stroke);
    if (!reply.deleted) this.#thrown = this.#thrown.filter(({ id }) => id !== item.id);
    // Where steps are gone, the next ones are newer than what was thrown away.
    for (const { steps } of this.#thrown) steps.set(item.id, Math.min(steps.get(item.id) ?? 0, item.undoable));
    if (reply.deleted) {
      if (at >= 0) this.objects.splice(at, 1);
      if (this.active === reply.id) this.intent = { id: this.objects.at(-1)?.id ?? null };
    } else if (at >= 0) this.objects[at] = item;
    else {
      this.objects.push(item);
      this.objects.sort((a, b) => a.id - b.id);
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
    return this.change((path, since) => api.post(`${path}/clicks${since}`, { x, y, positive }), { mark: { x, y, positive } });
  }

  scribble(points, positive) {
    return this.change((path, since) => api.post(`${path}/scribbles${since}`, { points, positive }), { mark: { points, positive } });
  }

  box(x0, y0, x1, y1) {
    return this.change((path, since) => api.post(`${path}/box${since}`, { x0, y0, x1, y1 }));
  }

  // A stroke shows at once; only its box travels. If the server refuses it, the object is fetched as the server has it.
  async stroke(stroke) {
    const { object, picture, intent } = this;
    if (object?.mask && !object.mask.differs(stroke)) return;
    if (!object?.mask && !stroke.adds) return;
    stroke.intent = intent;
    this.strokes.push(stroke);
    if (object) applyStroke(object, stroke);
    this.tell("mask");
    const { x, y, width, height, bits, adds } = stroke;
    const body = { x, y, adds, rle: encode(bits, width, height) };
    const reply = await this.change(async (path, since) => {
      const answer = await api.post(`${path}/strokes${since}`, body);
      stroke.answered = true;
      return answer;
    });
    this.strokes = this.strokes.filter((other) => other !== stroke);
    if (reply === null && this.picture === picture && intent.id !== null) {
      const known = this.objects.find((item) => item.id === intent.id);
      if (known) known.revision = -1; // nothing that is shown of it holds any more
      await this.change(() => api.get(`${this.path}/objects/${intent.id}`), { makes: false });
    }
  }

  auto(instances = false) {
    return this.change((path, since) => api.post(`${path}/auto${since}`, { instances }));
  }

  // Makes an object of every part, or piece, of a mask; returns them, or null where there is but one.
  async split(id) {
    let made = null;
    await this.change(async () => {
      const all = await api.post(`${this.path}/objects/${id}/split`);
      made = all.slice(0, -1);
      for (const item of all) this.take(item);
      this.choose(made[0].id);
      return null;
    }, { makes: false });
    return made;
  }

  avoid() {
    return this.object ? this.change((path, since) => api.post(`${path}/avoid${since}`)) : null;
  }

  // Takes back what was done last: a step of the object in hand, or that an object was thrown away since.
  undo() {
    const { intent } = this;
    if (!this.undoable && !this.waiting) return null;
    return this.change((path, since) => {
      const thrown = this.#lastThrown(intent.id);
      if (thrown) return this.#bringBack(thrown);
      return intent.id === null ? null : api.post(`${path}/undo${since}`);
    }, { makes: false });
  }

  redo() {
    const { intent } = this;
    if (!this.redoable) return null;
    return this.change((path, since) => {
      const back = this.#lastBack();
      if (back) {
        this.#back.pop();
        return this.#throwAway(back.id);
      }
      return intent.id === null ? null : api.post(`${path}/redo${since}`);
    }, { makes: false });
  }

  remove(id) {
    return this.change(() => {
      this.#back = [];
      return this.#throwAway(id);
    }, { makes: false });
  }

  async #throwAway(id) {
    if (!this.objects.some((item) => item.id === id)) return null;
    const thrown = { id, active: this.active === id, steps: new Map(this.objects.map((item) => [item.id, item.undoable])) };
    const reply = await api.patch(`${this.path}/objects/${id}`, { deleted: true });
    this.#thrown.push(thrown);
    return reply;
  }

  async #bringBack({ id, active }) {
    this.take(await api.patch(`${this.path}/objects/${id}`, { deleted: false }));
    if (active) this.choose(id);
    this.#back.push({ id, state: this.#state });
    return null;
  }

  // What was thrown away last, if the object with this id has no step that is newer.
  #lastThrown(id) {
    const thrown = this.#thrown.at(-1);
    const item = this.objects.find((other) => other.id === id);
    return thrown && (item?.undoable ?? 0) <= (thrown.steps.get(id) ?? 0) ? thrown : null;
  }

  // What undo has brought back last, if no mask is another one since then.
  #lastBack() {
    const back = this.#back.at(-1);
    return back?.state === this.#state ? back : null;
  }

  get #state() {
    return this.objects.map(({ id, revision }) => `${id}:${revision}`).join();
  }

  reset() {
    return this.change((path, since) => api.post(`${path}/reset${since}`));
  }

  describe(id, changes) {
    return this.change(() => api.patch(`${this.path}/objects/${id}`, changes), { makes: false });
  }

  add() {
    if (!this.picture) return null;
    // The newest object is still empty: that is the one to use.
    const empty = this.objects.find((item) => !item.undoable && !item.redoable && !item.area && !item.name);
    if (empty && !this.waiting) {
      this.choose(empty.id);
      return Promise.resolve(empty);
    }
    this.choose(null);
    this.intent = { id: null };
    const { intent } = this;
    return this.change(() => (intent.id === null ? this.#make(intent) : null), { makes: false });
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

// An object of a reply with what is drawn of it; `before` is the same object as it was known, whose mask is altered where only a part of it has changed.
function withMask(reply, before) {
  const item = { ...reply, mask: null, partMasks: [] };
  if (before?.revision === reply.revision) [item.mask, item.partMasks] = [before.mask, before.partMasks];
  else {
    if (reply.rle) item.mask = reply.area ? Mask.from(reply.rle, reply.box) : null;
    else {
      const [x0, y0, x1, y1] = reply.change.box;
      const bits = crop(reply.change.rle, [0, 0, x1 - x0, y1 - y0]);
      item.mask = before.mask ?? new Mask(null, [x0, y0, x0, y0], new Uint8Array(0));
      item.mask.replace(reply.change.box, bits);
    }
    item.partMasks = reply.parts.map(({ rle, box: [x0, y0, x1, y1] }) => new Mask(null, [x0, y0, x1, y1], crop(rle, [0, 0, x1 - x0, y1 - y0])));
  }
  delete item.rle;
  delete item.change;
  return item;
}

function applyStroke(item, stroke) {
  item.mask ??= new Mask(null, [stroke.x, stroke.y, stroke.x, stroke.y], new Uint8Array(0));
  item.mask.stroke(stroke);
  item.partMasks = [];
}

async function loadBitmap(url) {
  const reply = await fetch(url);
  if (!reply.ok) throw new Error("the picture cannot be shown");
  return createImageBitmap(await reply.blob());
}
