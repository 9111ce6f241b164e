// @ts-check
// What the pointer and the arrow keys do on the canvas: click, box, brush, scribble, pan, zoom, and the preview under a resting pointer.

import * as api from "./api.js";
import { trace } from "./marks.js";
import { boxOf, Mask, penOf } from "./masks.js";

/** @typedef {import("./masks.js").RunLengths} RunLengths */
/** @typedef {import("./masks.js").Covered} Covered */
/** @typedef {import("./marks.js").Place} Place */
/** @typedef {import("./marks.js").Point} Point */
/** @typedef {import("./marks.js").Scribble} Scribble */
/** @typedef {"click" | "box" | "paint" | "erase" | "scribble"} ToolName */
/** @typedef {{ points: Point[], radius: number, adds: boolean }} Line A stroke of the brush. */
/** @typedef {{ mask: Mask, height: number, width: number }} Preview A mask on a grid of its own, coarser than the picture. */

const REST = 70; // milliseconds that the pointer must rest before a preview is asked for
const QUICK = 0.45; // seconds; where previews take longer, they would lag behind the hand
const PAUSE = 20000; // milliseconds without previews after they were too slow
const APART = 2; // pixels of the screen from one point of a scribble to the next, at least

export class Tools extends EventTarget {
  /** @type {ToolName} */
  tool = "click";
  removes = false; // whether a plain click or scribble removes; the right button always does
  radius = 12; // of the brush, in pixels of the picture
  previews = true;
  /** @type {Place | null} */
  pointer = null; // where the mouse is, or null
  /** @type {Place | null} */
  cross = null; // where the arrow keys have moved to, or null
  /** @type {import("./masks.js").Box | null} */
  draft = null; // a box being drawn
  /** @type {Line | null} */
  stroke = null; // a brush stroke being drawn
  /** @type {Scribble | null} */
  scribble = null; // a scribble being drawn, its points as the server counts them
  /** @type {Preview | null} */
  preview = null;

  /** @type {{ kind: "pan" | "scribble" | "box" | "stroke", at: Point } | null} */
  #drag = null; // `at` is where the hand was last, on the screen
  #space = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #rest;
  /** @type {AbortController | null} */
  #asking = null;
  /** @type {number[]} */
  #times = [];
  #slowUntil = 0;

  /** @param {import("./view.js").View} view @param {import("./work.js").Work} work */
  constructor(view, work) {
    super();
    this.view = view;
    this.work = work;
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#up());
    canvas.addEventListener("pointercancel", () => this.#cancel());
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.forgetPreview();
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("blur", () => {
      this.cross = null;
      view.draw();
    });
    work.addEventListener("objects", () => this.forgetPreview());
  }

  /** @param {ToolName} tool */
  choose(tool) {
    this.#cancel();
    this.tool = tool;
    this.forgetPreview();
    this.#cursor();
    this.dispatchEvent(new Event("tool"));
    this.view.draw();
  }

  // Says whether plain clicks or scribbles remove; any other tool gives way to the click tool.
  /** @param {boolean} removes */
  sign(removes) {
    this.removes = removes;
    this.choose(this.tool === "scribble" ? "scribble" : "click");
  }

  /** @param {number} factor */
  resize(factor) {
    this.radius = Math.min(400, Math.max(1, this.radius * factor));
    this.dispatchEvent(new Event("tool"));
    this.view.draw();
  }

  get space() {
    return this.#space;
  }

  set space(held) {
    this.#space = held;
    this.#cursor();
  }

  // What the view is to draw beside the masks.
  scene() {
    const brushing = this.tool === "paint" || this.tool === "erase";
    const place = this.pointer ?? this.cross;
    return {
      draft: this.draft,
      stroke: this.stroke,
      scribble: this.scribble,
      preview: this.preview,
      brush: brushing && place && !this.#space ? { ...place, radius: this.radius, adds: this.tool === "paint" } : null,
      cross: this.cross,
    };
  }

  // The keyboard's hand on the canvas: arrows move, Enter does what a press of the button does, Backspace what the right one does.
  /** @param {KeyboardEvent} event @returns {boolean} Whether the key was for it. */
  key(event) {
    const far = (event.shiftKey ? 40 : event.altKey ? 1 : 8) / this.view.scale;
    /** @type {{ [key: string]: Point }} */
    const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
    const move = moves[event.key];
    if (move) {
      const from = this.cross ?? this.pointer ?? this.#centre();
      this.cross = { x: clamp(from.x + move[0], 0, this.view.width - 0.01), y: clamp(from.y + move[1], 0, this.view.height - 0.01) };
      this.pointer = null;
      this.view.reveal(this.cross.x, this.cross.y);
      this.#follow(this.cross);
    } else if (event.key === "Enter" || event.key === "Backspace") {
      this.cross ??= this.#centre();
      this.#press(this.cross, event.key === "Backspace" || event.shiftKey);
    } else return false;
    this.view.draw();
    return true;
  }

  escape() {
    const busy = this.draft || this.stroke || this.scribble || this.#drag;
    this.#cancel();
    return Boolean(busy);
  }

  #centre() {
    const { clientWidth, clientHeight } = this.view.canvas;
    const [x, y] = this.view.toPicture(clientWidth / 2, clientHeight / 2);
    return { x: clamp(x, 0, this.view.width - 0.01), y: clamp(y, 0, this.view.height - 0.01) };
  }

  // The keyboard's press: for boxes, strokes and scribbles the first one begins and the second one ends.
  /** @param {Place} place @param {boolean} removes */
  #press(place, removes) {
    if (this.tool === "click") this.#click(place, !removes);
    else if (this.tool === "scribble") {
      if (this.scribble) this.#endScribble();
      else this.#beginScribble(place, !removes);
    } else if (this.tool === "box") {
      if (this.draft) this.#endBox();
      else this.draft = [place.x, place.y, place.x, place.y];
    } else if (this.stroke) this.#endStroke();
    else this.#beginStroke(place);
  }

  /** @param {Place} place */
  #inside({ x, y }) {
    return x >= 0 && y >= 0 && x < this.view.width && y < this.view.height;
  }

  /** @param {MouseEvent} event @returns {Place} */
  #place(event) {
    const [left, top] = this.view.corner;
    const [x, y] = this.view.toPicture(event.clientX - left, event.clientY - top);
    return { x, y };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (!this.work.picture) return;
    this.view.canvas.focus({ preventScroll: true });
    this.cross = null;
    const place = this.#place(event);
    /** @type {Point} */
    const at = [event.clientX, event.clientY];
    if (event.button === 1 || this.#space) this.#drag = { kind: "pan", at };
    else if (event.button !== 0 && event.button !== 2) return;
    else if (this.tool === "click") {
      if (this.#inside(place)) this.#click(place, this.#adds(event));
      return;
    } else if (this.tool === "scribble") {
      this.#drag = { kind: "scribble", at };
      this.#beginScribble(place, this.#adds(event));
    } else if (this.tool === "box" && event.button === 0) {
      this.#drag = { kind: "box", at };
      this.draft = [place.x, place.y, place.x, place.y];
    } else if (this.tool === "paint" || this.tool === "erase") {
      this.#drag = { kind: "stroke", at };
      this.#beginStroke(place, event.button === 2 ? this.tool === "erase" : undefined);
    }
    if (this.#drag) this.view.canvas.setPointerCapture(event.pointerId);
    this.#cursor();
    this.view.draw();
  }

  /** @param {PointerEvent} event */
  #adds(event) {
    return !(event.button === 2 || event.altKey || this.removes);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (!this.work.picture) return;
    if (this.#drag?.kind === "pan") {
      this.view.pan(event.clientX - this.#drag.at[0], event.clientY - this.#drag.at[1]);
      this.#drag.at = [event.clientX, event.clientY];
      return;
    }
    this.cross = null;
    // A quick hand makes more moves than there are frames; a line follows all of them.
    if (this.stroke || this.scribble) for (const step of event.getCoalescedEvents?.() ?? []) this.#extend(this.#place(step));
    this.pointer = this.#place(event);
    this.#follow(this.pointer);
    this.view.draw();
  }

  // The hand has moved: what it holds comes along.
  /** @param {Place} place */
  #follow(place) {
    if (this.draft) [this.draft[2], this.draft[3]] = [place.x, place.y];
    this.#extend(place);
    this.#schedulePreview(place);
  }

  // Points of a stroke that are closer than half a pixel of the screen add nothing but time; a scribble needs fewer, and none beside the picture.
  /** @param {Place} place */
  #extend(place) {
    const add = (/** @type {Point[]} */ points, /** @type {Point} */ [x, y], /** @type {number} */ apart) => {
      const last = points.at(-1);
      if (!last || Math.hypot(x - last[0], y - last[1]) * this.view.scale >= apart) points.push([x, y]);
    };
    if (this.stroke) add(this.stroke.points, [place.x, place.y], 0.5);
    if (this.scribble && this.#inside(place)) add(this.scribble.points, [counted(place.x), counted(place.y)], APART);
  }

  #up() {
    const kind = this.#drag?.kind;
    this.#drag = null;
    if (kind === "box") this.#endBox();
    if (kind === "stroke") this.#endStroke();
    if (kind === "scribble") this.#endScribble();
    this.#cursor();
    this.view.draw();
  }

  #cancel() {
    this.#drag = this.draft = this.stroke = this.scribble = null;
    this.#cursor();
    this.view.draw();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    if (!this.work.picture) return;
    this.forgetPreview();
    const unit = event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 300 : 1;
    if (event.shiftKey) this.view.pan(-(event.deltaX || event.deltaY) * unit, 0);
    else {
      const [left, top] = this.view.corner;
      const speed = event.ctrlKey ? 0.01 : 0.0016; // browsers report a pinch as small steps with ctrl
      this.view.zoomTo(this.view.scale * Math.exp(-event.deltaY * unit * speed), event.clientX - left, event.clientY - top);
    }
  }

  #cursor() {
    const brushing = this.tool === "paint" || this.tool === "erase";
    this.view.canvas.dataset.cursor = this.#drag?.kind === "pan" ? "grabbing" : this.#space ? "grab" : brushing ? "none" : "cross";
  }

  /** @param {Place} place @param {boolean} positive */
  #click(place, positive) {
    this.forgetPreview();
    this.work.click(counted(place.x), counted(place.y), positive);
  }

  /** @param {Place} place @param {boolean} positive */
  #beginScribble(place, positive) {
    this.scribble = { points: [], positive };
    this.#extend(place);
  }

  #endScribble() {
    const { scribble } = this;
    this.scribble = null;
    if (scribble?.points.length) this.work.scribble(thinned(scribble.points, this.work.about?.limits.points ?? scribble.points.length), scribble.positive);
    this.view.draw();
  }

  #endBox() {
    if (!this.draft) return;
    const [xa, ya, xb, yb] = this.draft;
    this.draft = null;
    const [x0, x1] = [Math.min(xa, xb), Math.max(xa, xb)].map((x) => Math.round(clamp(x, 0, this.view.width)));
    const [y0, y1] = [Math.min(ya, yb), Math.max(ya, yb)].map((y) => Math.round(clamp(y, 0, this.view.height)));
    if (x1 - x0 >= 2 && y1 - y0 >= 2) this.work.box(x0, y0, x1, y1);
  }

  /** @param {Place} place */
  #beginStroke(place, adds = this.tool === "paint") {
    this.stroke = { points: [[place.x, place.y]], radius: this.radius, adds };
  }

  #endStroke() {
    const { stroke } = this;
    this.stroke = null;
    if (stroke) {
      const covered = rasterise(stroke, this.view.width, this.view.height);
      if (covered) this.work.stroke({ ...stroke, ...covered });
    }
    this.view.draw();
  }

  /** @param {Place} place */
  #schedulePreview(place) {
    clearTimeout(this.#rest);
    const wanted = this.previews && this.tool === "click" && this.work.ready && !this.work.waiting && !this.#space && this.#inside(place);
    if (!wanted || performance.now() < this.#slowUntil) {
      this.forgetPreview();
      return;
    }
    this.#rest = setTimeout(() => this.#ask(place), REST);
  }

  /** @param {Place} place */
  async #ask(place) {
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    const { work } = this;
    const body = { x: place.x - 0.5, y: place.y - 0.5, positive: !this.removes, object: work.active };
    const started = performance.now();
    try {
      const reply = await api.post("/api/images/{identity}/preview", work.at, body, asking.signal);
      this.#learn((performance.now() - started) / 1000);
      if (asking.signal.aborted || work.waiting) return;
      const rle = /** @type {RunLengths} */ (reply.rle);
      this.preview = { mask: Mask.from(rle, boxOf(rle)), height: rle.size[0], width: rle.size[1] };
      this.view.canvas.dataset.preview = "true";
      this.view.draw();
    } catch {
      // A preview that does not come is no loss: it was replaced, or the server has better things to do.
    }
  }

  /** @param {number} seconds */
  #learn(seconds) {
    this.#times = [...this.#times.slice(-4), seconds];
    const middle = [...this.#times].sort((a, b) => a - b)[this.#times.length >> 1];
    if (this.#times.length >= 3 && middle > QUICK) {
      this.#slowUntil = performance.now() + PAUSE;
      this.#times = [];
    }
  }

  forgetPreview() {
    clearTimeout(this.#rest);
    this.#asking?.abort();
    if (this.preview) {
      this.preview = null;
      this.view.canvas.dataset.preview = "false";
      this.view.draw();
    }
  }
}

/** @param {number} value @param {number} least @param {number} most */
const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

// The server counts from the centre of the first pixel.
/** @param {number} value */
const counted = (value) => Math.round((value - 0.5) * 100) / 100;

// Leaves every other point of a line out until at most so many are left; its end stays.
/** @param {Point[]} points @param {number} most */
export function thinned(points, most) {
  while (points.length > most) points = points.filter((_, at) => at % 2 === 0 || at === points.length - 1);
  return points;
}

const MOST_AT_ONCE = 4e6; // pixels of the canvas that a stroke is filled on

// Finds the pixels whose centres a stroke covers: its box on the picture, and the box's rows, one byte a pixel; null where it covers none.
/** @param {Line} line @param {number} pictureWidth @param {number} pictureHeight @returns {Covered | null} */
function rasterise({ points, radius }, pictureWidth, pictureHeight) {
  let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of points) [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x), Math.max(y1, y)];
  x0 = clamp(Math.floor(x0 - radius) - 1, 0, pictureWidth);
  y0 = clamp(Math.floor(y0 - radius) - 1, 0, pictureHeight);
  x1 = clamp(Math.ceil(x1 + radius) + 1, 0, pictureWidth);
  y1 = clamp(Math.ceil(y1 + radius) + 1, 0, pictureHeight);
  const [width, height] = [x1 - x0, y1 - y0];
  if (width <= 0 || height <= 0) return null;
  const bits = new Uint8Array(width * height);
  const rows = Math.max(1, Math.floor(MOST_AT_ONCE / width));
  let some = false;
  for (let from = 0; from < height; from += rows) {
    const count = Math.min(rows, height - from);
    const context = penOf(new OffscreenCanvas(width, count), { willReadFrequently: true });
    context.translate(-x0, -y0 - from);
    trace(context, points, radius);
    const { data } = context.getImageData(0, 0, width, count);
    for (let at = 3, i = from * width; at < data.length; at += 4, i++)
      if (data[at] > 127) {
        bits[i] = 1;
        some = true;
      }
  }
  return some ? { x: x0, y: y0, width, height, bits } : null;
}
