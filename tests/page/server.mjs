// @ts-check
// A server in memory, as far as work.js knows one: pictures, objects with a mask and a history, answers that are given when a test says so.

import { Refusal } from "../../src/fretsaw/server/static/api.js";
import { boxOf, crop, encode } from "../../src/fretsaw/server/static/masks.js";

/** @typedef {import("../../src/fretsaw/server/static/work.js").ObjectReply} ObjectReply */
/** @typedef {import("../../src/fretsaw/server/static/work.js").Server} Server */
/** @typedef {import("../../src/fretsaw/server/static/masks.js").RunLengths} RunLengths */
/** @typedef {{ clicks: [number, number, boolean][], bits: Uint8Array }} Step */
/** @typedef {{ id: number, name: string, deleted: boolean, hidden: boolean, revision: number, steps: Step[], at: number, since: Uint8Array }} Thing */
/** @typedef {{ identity?: string, number?: number, since?: number | null, [name: string]: unknown }} At */

export const [WIDTH, HEIGHT] = [9, 7];

/** @param {number[][]} pixels x, y of those that are set. */
export function bitsOf(...pixels) {
  const bits = new Uint8Array(WIDTH * HEIGHT);
  for (const [x, y] of pixels) bits[y * WIDTH + x] = 1;
  return bits;
}

export class FakeServer {
  /** @type {Map<string, Thing[]>} */
  pictures = new Map([["a", []], ["b", []], ["c", []]]);
  /** @type {string[]} */
  asked = []; // every request, as "POST clicks 1 since 3"
  ready = true;
  holds = false; // whether requests wait for `answer`
  /** @type {(Error | null)[]} */
  failures = []; // of the next requests: null for one that is answered
  /** @type {(() => void)[]} */
  #held = [];

  /** @param {string} picture */
  things(picture = "a") {
    const things = this.pictures.get(picture);
    if (!things) throw new Refusal(404, `expected a picture, got ${picture}`);
    return things;
  }

  // Answers a request that waits, the oldest one or another, and lets the page take the answer.
  async answer(which = 0) {
    await settled();
    this.#held.splice(which, 1)[0]?.();
    await settled();
  }

  get waiting() {
    return this.#held.length;
  }

  async answerAll() {
    await settled();
    this.holds = false;
    do await this.answer();
    while (this.#held.length);
  }

  /** @returns {Server} */
  get api() {
    const call = (/** @type {string} */ method) => (/** @type {string} */ route, /** @type {At} */ at, /** @type {{ [name: string]: unknown }} */ body) => this.#call(method, route, at, body ?? {});
    return /** @type {Server} */ (/** @type {unknown} */ ({ get: call("GET"), post: call("POST"), patch: call("PATCH") }));
  }

  /** @param {string} method @param {string} route @param {At} at @param {{ [name: string]: unknown }} body */
  async #call(method, route, at, body) {
    const what = route.split("/").filter((part) => part && !part.startsWith("{")).at(-1);
    this.asked.push([method, what, at.number ?? at.identity, ...(at.since === undefined ? [] : ["since", at.since])].filter((part) => part !== undefined).join(" "));
    if (this.holds) await new Promise((done) => this.#held.push(() => done(null)));
    const failure = this.failures.shift();
    if (failure) throw failure;
    // What goes through JSON shares nothing with the server's own.
    return JSON.parse(JSON.stringify(this.#answer(method, route, at, body)));
  }

  /** @param {string} method @param {string} route @param {At} at @param {{ [name: string]: unknown }} body */
  #answer(method, route, { identity = "", number = 0, since }, body) {
    if (route === "/api/about") return { modes: ["click", "auto"], formats: ["png"], limits: { points: 2000 }, model: "fake" };
    if (route === "/api/images") return { folder: null, names: [], images: [...this.pictures.keys()].map((id) => ({ id, name: `${id}.png`, objects: 0, thumbnail: "", uploaded: false })) };
    const things = this.things(identity);
    if (route === "/api/images/{identity}")
      return { id: identity, name: `${identity}.png`, width: WIDTH, height: HEIGHT, ready: this.ready, view: `view of ${identity}`, objects: things.filter(({ deleted }) => !deleted).map((thing) => this.reply(thing)) };
    if (route === "/api/images/{identity}/objects") return this.reply(this.#make(things, String(body.name)));
    if (route === "/api/images/{identity}/text") {
      const names = /** @type {string[]} */ (body.names);
      return names.map((name, at) => {
        const thing = this.#make(things, name);
        this.#push(thing, bitsOf([at, 0]));
        return this.reply(thing);
      });
    }
    const thing = things.find(({ id }) => id === number);
    if (!thing) throw new Refusal(404, `expected an object of this picture, got ${number}`);
    if (method === "PATCH") return this.reply(Object.assign(thing, body));
    if (method === "GET") return this.reply(thing);
    if (route.endsWith("/split")) {
      const pixels = [...thing.steps[thing.at].bits.keys()].filter((place) => thing.steps[thing.at].bits[place]);
      if (pixels.length < 2) throw new Refusal(422, "expected a mask of several pieces, got one");
      const made = pixels.map((place) => {
        const piece = this.#make(things, "");
        this.#push(piece, bitsOf([place % WIDTH, Math.floor(place / WIDTH)]));
        return piece;
      });
      thing.deleted = true;
      return [...made, thing].map((item) => this.reply(item));
    }
    const known = thing.revision;
    if (route.endsWith("/clicks")) {
      const { x, y, positive } = /** @type {{ x: number, y: number, positive: boolean }} */ (body);
      const bits = thing.steps[thing.at].bits.slice();
      bits[y * WIDTH + x] = Number(positive);
      this.#push(thing, bits, [[x, y, positive]]);
    } else if (route.endsWith("/strokes")) {
      const { x, y, rle, adds } = /** @type {{ x: number, y: number, rle: RunLengths, adds: boolean }} */ (body);
      const [height, width] = rle.size;
      const covered = crop(rle, [0, 0, width, height]);
      const bits = thing.steps[thing.at].bits.slice();
      for (const [at, bit] of covered.entries()) if (bit) bits[(y + Math.floor(at / width)) * WIDTH + x + (at % width)] = Number(adds);
      this.#push(thing, bits);
    } else if (route.endsWith("/auto")) this.#push(thing, bitsOf([1, 1], [2, 1], [3, 3]));
    else if (route.endsWith("/reset")) Object.assign(thing, { steps: thing.steps.slice(0, 1), at: 0, revision: thing.revision + 1, since: thing.steps[thing.at].bits });
    else {
      const by = route.endsWith("/undo") ? -1 : 1;
      if (!thing.steps[thing.at + by]) throw new Refusal(422, `nothing to ${by < 0 ? "undo" : "redo"}`);
      Object.assign(thing, { since: thing.steps[thing.at].bits, at: thing.at + by, revision: thing.revision + 1 });
    }
    return this.reply(thing, since === known ? "change" : "whole");
  }

  /** @param {Thing[]} things @param {string} name */
  #make(things, name) {
    const thing = { id: things.length + 1, name, deleted: false, hidden: false, revision: 0, steps: [{ clicks: [], bits: bitsOf() }], at: 0, since: bitsOf() };
    things.push(thing);
    return thing;
  }

  /** @param {Thing} thing @param {Uint8Array} bits @param {[number, number, boolean][]} [clicks] */
  #push(thing, bits, clicks = []) {
    const last = thing.steps[thing.at];
    thing.steps = [...thing.steps.slice(0, thing.at + 1), { clicks: [...last.clicks, ...clicks], bits }];
    thing.at++;
    thing.revision++;
    thing.since = last.bits;
  }

  /** @param {Thing} thing @param {"whole" | "change"} kind @returns {ObjectReply} */
  reply(thing, kind = "whole") {
    const { id, name, deleted, hidden, revision, steps, at, since } = thing;
    const { bits, clicks } = steps[at];
    const rle = encode(bits, WIDTH, HEIGHT);
    const differs = encode(bits.map((bit, place) => Number(bit !== since[place])), WIDTH, HEIGHT);
    const box = boxOf(differs);
    const [x0, y0, x1, y1] = box;
    const change = { box, rle: encode(crop(rle, box), x1 - x0, y1 - y0) };
    return {
      id, name, deleted, hidden, revision, clicks, color: "#3b82f6", score: 1, area: bits.filter(Boolean).length, box: boxOf(rle), scribbles: [], prompt_box: null,
      parts: [], undoable: at, redoable: steps.length - 1 - at, rle: kind === "whole" ? rle : null, change: kind === "change" ? change : null,
    };
  }
}

// Lets everything happen that waits for nothing from outside.
export const settled = () => new Promise((done) => setTimeout(done, 0));
