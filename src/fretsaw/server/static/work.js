// @ts-check
// The work at hand: the pictures, the open one, its objects. It talks to the server and tells the rest of the page by events:
// "list", "picture", "objects", "state". Changes go to the server one after the other, in the order in which they were made.

import * as api from "./api.js";
import { crop, encode, Mask } from "./masks.js";
import { sentence } from "./messages.js";

/** @typedef {import("./masks.js").RunLengths} RunLengths */
/** @typedef {import("./masks.js").Covered} Covered */
/** @typedef {Schemas["ObjectReply"]} ObjectReply */
/** @typedef {Pick<typeof api, "get" | "post" | "patch">} Server What is used of api.js. */

/**
 * An object as it is shown: what the server says of it, with its mask and the masks of its parts decoded.
 * @typedef {Omit<ObjectReply, "rle" | "change"> & { mask: Mask | null, partMasks: Mask[] }} Item
 */

/**
 * The object that clicks go to; without an id, one that is made when it is needed. What is put in line keeps the intent of its time.
 * @typedef {{ id: number | null }} Intent
 */

/**
 * A click (x, y) or a scribble (points).
 * @typedef {{ x: number, y: number, positive: boolean, points?: undefined } | { points: [number, number][], positive: boolean }} Sign
 */

/** @typedef {Sign & { intent: Intent }} Mark A sign that was made but not answered. */

/**
 * A stroke of the brush: the way that the hand went, and what it covers.
 * @typedef {Covered & { adds: boolean, points: [number, number][], radius: number }} Brushed
 */

/** @typedef {Brushed & { intent: Intent, answered: boolean }} Stroke */
/** @typedef {At<"/api/images/{identity}/objects/{number}/undo", "post">} Place The object that a change is for, and the revision that is known of it. */

const PICTURE = "/api/images/{identity}";
const OBJECTS = "/api/images/{identity}/objects";
const OBJECT = "/api/images/{identity}/objects/{number}";

export class Work extends EventTarget {
  /** @type {Schemas["AboutReply"] | null} */
  about = null;
  /** @type {Schemas["ListReply"]} */
  list = { folder: null, images: [], names: [] };
  /** @type {Schemas["ImageReply"] | null} */
  picture = null;
  /** @type {ImageBitmap | null} */
  bitmap = null;
  /** @type {Item[]} */
  objects = [];
  /** @type {Intent} */
  intent = { id: null };
  waiting = 0; // changes that the server has not answered yet
  ready = false; // whether the picture is encoded
  error = "";
  /** @type {Mark[]} */
  marks = [];
  /** @type {Stroke[]} */
  strokes = [];
  // What was thrown away, the last on top: the object's id, whether it was the one in hand, and every object's steps at that time.
  /** @type {{ id: number, active: boolean, steps: Map<number, number> }[]} */
  #thrown = [];
  // What undo has brought back of it, for redo: the object's id, and the state of the objects since then.
  /** @type {{ id: number, state: string }[]} */
  #back = [];
  /** @type {Promise<unknown>} */
  #chain = Promise.resolve();
  #opened = 0;
  #changes = 0; // that were put in line so far

  /** @param {Server} server @param {(url: string) => Promise<ImageBitmap>} load Makes a bitmap of what lies at an address. */
  constructor(server = api, load = loadBitmap) {
    super();
    this.server = server;
    this.load = load;
  }

  /** @param {"list" | "picture" | "objects" | "state" | "mask"} name */
  tell(name) {
    this.dispatchEvent(new Event(name));
  }

  /** Values for the routes of the open picture. */
  get at() {
    if (!this.picture) throw new Error("there is no open picture");
    return { identity: this.picture.id };
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
    this.about = await this.server.get("/api/about", {});
    await this.refresh();
  }

  async refresh() {
    this.list = await this.server.get("/api/images", {});
    this.tell("list");
  }

  // Opens a picture, or the open one once more. Whatever was done before is answered first, and so is what is done while the picture loads: it would be lost,
  // or would not show, otherwise. Returns false where another picture was asked for meanwhile.
  /** @param {string} id */
  async open(id) {
    const turn = ++this.#opened;
    try {
      for (;;) {
        while (this.waiting) await this.#chain;
        const changes = this.#changes;
        const picture = await this.server.get(PICTURE, { identity: id });
        const bitmap = this.bitmap && this.picture?.view === picture.view ? this.bitmap : await this.load(picture.view);
        if (turn !== this.#opened) return false;
        if (changes !== this.#changes) continue; // the reply may be older than what was done since
        this.#show(picture, bitmap);
        return true;
      }
    } catch (error) {
      if (turn !== this.#opened) return false;
      this.#noteDamage(id, error);
      throw error;
    }
  }

  /** @param {Schemas["ImageReply"]} picture @param {ImageBitmap} bitmap */
  #show(picture, bitmap) {
    this.picture = picture;
    this.bitmap = bitmap;
    this.ready = picture.ready;
    this.error = "";
    this.objects = picture.objects.map((item) => withMask(item, null));
    const known = Number(sessionStorage.getItem(`active-${picture.id}`));
    this.intent = { id: this.#item(known)?.id ?? this.objects.at(-1)?.id ?? null };
    this.marks = [];
    this.strokes = [];
    this.#thrown = [];
    this.#back = [];
    this.#noteDamage(picture.id, null);
    this.tell("picture");
    this.tell("objects");
  }

  // The list says of a picture that its saved work is damaged as soon as that is known, and no longer than that.
  /** @param {string} id @param {unknown} error */
  #noteDamage(id, error) {
    const row = this.list.images.find((image) => image.id === id);
    const damaged = error instanceof api.Refusal && error.kind === "DamagedError" ? error.message : "";
    if (!row || (row.damaged ?? "") === damaged || (error && !damaged)) return;
    row.damaged = damaged;
    this.tell("list");
  }

  /** @param {number | null} id */
  #item(id) {
    return this.objects.find((item) => item.id === id) ?? null;
  }

  /** @param {number | null} id */
  choose(id) {
    if (this.intent.id !== id) this.intent = { id };
    if (this.picture) sessionStorage.setItem(`active-${this.picture.id}`, String(id ?? ""));
    this.tell("objects");
  }

  /**
   * Puts a change in line.
   * @param {(at: Place) => Promise<ObjectReply | null> | ObjectReply | null} change Is given the place of the object in hand and the revision that is known of
   *     it, so that only the changed part of the mask comes back; its answer is taken.
   * @param {object} options
   * @param {Sign | null} [options.mark] What shows until the answer is there.
   * @param {boolean} [options.makes] Whether the object is made first where there is none yet.
   * @param {boolean} [options.encodes] Whether the server cannot answer without having encoded the picture.
   * @returns {Promise<ObjectReply | null>} The answer; null where there was none, or a refusal.
   */
  change(change, { mark = null, makes = true, encodes = false } = {}) {
    const { picture, intent } = this;
    if (!picture) return Promise.resolve(null);
    const marked = mark && Object.assign(mark, { intent });
    if (marked) this.marks.push(marked);
    this.waiting++;
    this.#changes++;
    this.tell("state");
    const run = async () => {
      try {
        if (makes && intent.id === null) await this.#make(intent);
        // Without an object there is none to name: no object has the number 0.
        const reply = await change({ identity: picture.id, number: intent.id ?? 0, since: this.#item(intent.id)?.revision });
        if (encodes) this.ready = true;
        this.error = "";
        if (reply) this.take(reply);
        return reply;
      } catch (error) {
        // A refusal leaves everything as it was, and saved; only where the server itself fails, something of the page is not on its disk.
        const status = api.statusOf(error) ?? 0;
        this.error = status >= 400 && status < 500 ? "" : sentence(error);
        this.#noteDamage(picture.id, error);
        this.dispatchEvent(new CustomEvent("refusal", { detail: error }));
        return null;
      } finally {
        this.marks = this.marks.filter((other) => other !== marked);
        this.waiting--;
        this.tell("state");
      }
    };
    const result = this.#chain.then(run);
    this.#chain = result;
    return result;
  }

  /** @param {Intent} intent */
  async #make(intent) {
    const made = await this.server.post(OBJECTS, this.at, { name: "" });
    intent.id = made.id;
    this.take(made);
    return made;
  }

  // Shows an answer of the server.
  /** @param {ObjectReply} reply */
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
    const row = this.list.images.find((image) => image.id === this.picture?.id);
    const count = this.objects.filter((other) => other.area).length;
    if (row && row.objects !== count) {
      row.objects = count;
      this.tell("list");
    }
  }

  /** @param {number} x @param {number} y @param {boolean} positive */
  click(x, y, positive) {
    return this.change((at) => this.server.post(`${OBJECT}/clicks`, at, { x, y, positive }), { mark: { x, y, positive }, encodes: true });
  }

  /** @param {[number, number][]} points @param {boolean} positive */
  scribble(points, positive) {
    return this.change((at) => this.server.post(`${OBJECT}/scribbles`, at, { points, positive }), { mark: { points, positive }, encodes: true });
  }

  /** @param {number} x0 @param {number} y0 @param {number} x1 @param {number} y1 */
  box(x0, y0, x1, y1) {
    return this.change((at) => this.server.post(`${OBJECT}/box`, at, { x0, y0, x1, y1 }), { encodes: true });
  }

  // A stroke shows at once; only its box travels. If the server refuses it, the object is fetched as the server has it.
  /** @param {Brushed} brushed */
  async stroke(brushed) {
    const { object, picture, intent } = this;
    // What changes nothing need not travel; while something else does, nobody knows what it will change.
    if (!this.waiting && (object?.mask ? !object.mask.differs(brushed) : !brushed.adds)) return;
    const stroke = Object.assign(brushed, { intent, answered: false });
    this.strokes.push(stroke);
    if (object) applyStroke(object, stroke);
    this.tell("mask");
    const { x, y, width, height, bits, adds } = stroke;
    const body = { x, y, adds, rle: encode(bits, width, height) };
    const reply = await this.change(async (at) => {
      const answer = await this.server.post(`${OBJECT}/strokes`, at, body);
      stroke.answered = true;
      return answer;
    });
    this.strokes = this.strokes.filter((other) => other !== stroke);
    const { id } = intent;
    if (reply === null && this.picture === picture && id !== null) {
      const known = this.#item(id);
      if (known) known.revision = -1; // nothing that is shown of it holds any more
      await this.change(() => this.server.get(OBJECT, { ...this.at, number: id }), { makes: false });
    }
  }

  auto(instances = false) {
    return this.change((at) => this.server.post(`${OBJECT}/auto`, at, { instances }), { encodes: true });
  }

  // Makes an object of every part, or piece, of a mask; returns them, or null where there is but one.
  /** @param {number} id */
  async split(id) {
    /** @type {ObjectReply[] | null} */
    let made = null;
    await this.change(async () => {
      const all = await this.server.post(`${OBJECT}/split`, { ...this.at, number: id });
      made = all.slice(0, -1);
      for (const item of all) this.take(item);
      this.choose(all[0].id);
      return null;
    }, { makes: false });
    return /** @type {ObjectReply[] | null} */ (made);
  }

  avoid() {
    return this.object ? this.change((at) => this.server.post(`${OBJECT}/avoid`, at)) : null;
  }

  // Takes back what was done last: a step of the object in hand, or that an object was thrown away since. What is still in line counts: it was done.
  undo() {
    const { intent } = this;
    if (!this.undoable && !this.waiting) return null;
    return this.change((at) => {
      const thrown = this.#lastThrown(intent.id);
      if (thrown) return this.#bringBack(thrown);
      return this.#item(intent.id)?.undoable ? this.server.post(`${OBJECT}/undo`, at) : null;
    }, { makes: false });
  }

  redo() {
    const { intent } = this;
    if (!this.redoable && !this.waiting) return null;
    return this.change(async (at) => {
      const back = this.#lastBack();
      if (!back) return this.#item(intent.id)?.redoable ? this.server.post(`${OBJECT}/redo`, at) : null;
      const reply = await this.#throwAway(back.id);
      this.#back.pop();
      return reply;
    }, { makes: false });
  }

  /** @param {number} id */
  remove(id) {
    return this.change(() => {
      this.#back = [];
      return this.#throwAway(id);
    }, { makes: false });
  }

  /** @param {number} id */
  async #throwAway(id) {
    if (!this.#item(id)) return null;
    const thrown = { id, active: this.active === id, steps: new Map(this.objects.map((item) => [item.id, item.undoable])) };
    const reply = await this.server.patch(OBJECT, { ...this.at, number: id }, { deleted: true });
    this.#thrown.push(thrown);
    return reply;
  }

  /** @param {{ id: number, active: boolean }} thrown */
  async #bringBack({ id, active }) {
    this.take(await this.server.patch(OBJECT, { ...this.at, number: id }, { deleted: false }));
    if (active) this.choose(id);
    this.#back.push({ id, state: this.#state });
    return null;
  }

  // What was thrown away last, if the object with this id has no step that is newer.
  /** @param {number | null} id */
  #lastThrown(id) {
    const thrown = this.#thrown.at(-1);
    const steps = id === null ? 0 : (thrown?.steps.get(id) ?? 0);
    return thrown && (this.#item(id)?.undoable ?? 0) <= steps ? thrown : null;
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
    return this.change((at) => this.server.post(`${OBJECT}/reset`, at));
  }

  /** @param {number} id @param {Schemas["ObjectBody"]} changes */
  describe(id, changes) {
    return this.change(() => this.server.patch(OBJECT, { ...this.at, number: id }, changes), { makes: false });
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
    const intent = { id: null };
    this.intent = intent;
    return this.change(() => (intent.id === null ? this.#make(intent) : null), { makes: false });
  }

  // Makes an object of every name that is found; returns the last of them.
  /** @param {string[]} names */
  find(names) {
    return this.change(async () => {
      const made = await this.server.post(`${PICTURE}/text`, this.at, { names });
      for (const item of made) this.take(item);
      return made.at(-1) ?? null;
    }, { makes: false, encodes: true });
  }
}

/**
 * An object of a reply with what is drawn of it.
 * @param {ObjectReply} reply
 * @param {Item | null} before The same object as it was known; its mask is altered where only a part of it has changed.
 * @returns {Item}
 */
function withMask(reply, before) {
  const { rle, change, ...rest } = reply;
  /** @type {Item} */
  const item = { ...rest, mask: null, partMasks: [] };
  if (before?.revision === reply.revision) return Object.assign(item, { mask: before.mask, partMasks: before.partMasks });
  if (change) {
    const [x0, y0, x1, y1] = change.box;
    item.mask = before?.mask ?? Mask.empty(x0, y0);
    item.mask.replace(change.box, crop(/** @type {RunLengths} */ (change.rle), [0, 0, x1 - x0, y1 - y0]));
  } else if (rle && reply.area) item.mask = Mask.from(/** @type {RunLengths} */ (rle), reply.box);
  item.partMasks = reply.parts.map(({ rle: runs, box: [x0, y0, x1, y1] }) => new Mask([x0, y0, x1, y1], crop(/** @type {RunLengths} */ (runs), [0, 0, x1 - x0, y1 - y0])));
  return item;
}

/** @param {Item} item @param {Stroke} stroke */
function applyStroke(item, stroke) {
  item.mask ??= Mask.empty(stroke.x, stroke.y);
  item.mask.stroke(stroke);
  item.partMasks = [];
}

/** @param {string} url */
async function loadBitmap(url) {
  const reply = await fetch(url);
  if (!reply.ok) throw new Error("the picture cannot be shown");
  return createImageBitmap(await reply.blob());
}
