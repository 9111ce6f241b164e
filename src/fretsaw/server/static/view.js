// @ts-check
// The canvas: the picture, masks, clicks and the pointer, drawn at most once a frame. Coordinates named x, y are edge coordinates of the picture (a
// pixel's centre lies half a pixel inside it); sx, sy are those of the screen.

import { drawMarks, drawPointer, trace } from "./marks.js";
import { penOf } from "./masks.js";

/** @typedef {import("./masks.js").Drawing} Drawing */
/** @typedef {import("./work.js").Item} Item */
/** @typedef {import("./tools.js").Line} Line */
/** @typedef {import("./tools.js").Preview} Preview */

/**
 * What the view is asked to draw over the picture.
 * @typedef {object} Masks
 * @property {Item[]} objects
 * @property {number | null} active The object in hand.
 * @property {string} color Of the object in hand.
 * @property {Line[]} strokes That show before there is an object which they could be seen on.
 * @property {Line | null} stroke The one that is being drawn.
 * @property {Preview | null} preview
 */

/** @typedef {Masks & import("./marks.js").Marks & import("./marks.js").Pointer} Scene */

/**
 * The masks as they were drawn for one zoom and place, on a canvas that reaches beyond the stage.
 * @typedef {{ sheet: OffscreenCanvas, scale: number, x: number, y: number, width: number, height: number, beyondX: number, beyondY: number }} Layer
 */

/** @typedef {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} Pen */
/** @typedef {"fill" | "outline" | "cutout"} Look */

/** @type {Scene} */
const NOTHING = {
  objects: [], active: null, color: "#000000", strokes: [], stroke: null, preview: null,
  clicks: [], scribbles: [], scribble: null, box: null, draft: null, brush: null, cross: null,
};

const LEAST = 0.02;
const MOST = 40;
const REST = 90; // milliseconds without a change of zoom after which the masks are drawn sharply again
const BEYOND = 0.25; // how far the drawn masks reach beyond the stage, as a share of it
const SLICE = 5; // milliseconds of a frame that may go into drawing them for a new place

export class View {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    const context = canvas.getContext("2d", { alpha: false });
    if (!context || !canvas.parentElement) throw new Error("the browser cannot draw on this canvas");
    this.canvas = canvas;
    this.stage = canvas.parentElement;
    this.context = context;
    /** @type {ImageBitmap[]} */
    this.levels = [];
    this.width = this.height = 0;
    this.scale = 1;
    this.x = this.y = 0; // where the picture's corner lies on the screen
    this.sized = false;
    /** @type {Look} */
    this.show = "fill";
    this.scene = () => NOTHING;
    /** @type {() => void} */
    this.onzoom = () => {};
    this.frame = 0;
    this.flight = 0;
    this.clientWidth = this.clientHeight = 0; // asking the browser for these between two changes of the page would make it lay the page out
    /** @type {[number, number]} */
    this.corner = [0, 0]; // where the canvas begins in the window
    this.ground = "#000";
    /** @type {Layer | null} */
    this.layer = null; // the masks as they were last drawn
    /** @type {Generator<null, Layer> | null} */
    this.building = null; // the next one while it is drawn, a slice a frame
    this.spare = new OffscreenCanvas(1, 1);
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.rest = undefined;
    /** @type {{ dark: boolean, pattern: CanvasPattern | string } | null} */
    this.squares = null;
    new ResizeObserver(() => this.#resize()).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.refresh());
  }

  // Takes a picture and makes halved copies: drawing from the nearest larger one is quick and smooth at any zoom.
  /** @param {ImageBitmap} bitmap */
  async setPicture(bitmap) {
    this.levels = [bitmap];
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.#forgetLayer();
    this.fit(false);
    let last = bitmap;
    while (Math.max(last.width, last.height) > 1024) {
      last = await createImageBitmap(last, { resizeWidth: Math.ceil(last.width / 2), resizeHeight: Math.ceil(last.height / 2), resizeQuality: "medium" });
      if (this.levels[0] !== bitmap) return;
      this.levels.push(last);
    }
    this.refresh();
  }

  // The masks have changed, or how they are shown: draws them anew with the next frame. `draw` alone leaves them as they are.
  refresh() {
    this.#forgetLayer();
    this.draw();
  }

  draw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.#render();
    });
  }

  /** @param {number} sx @param {number} sy @returns {[x: number, y: number]} */
  toPicture(sx, sy) {
    return [(sx - this.x) / this.scale, (sy - this.y) / this.scale];
  }

  /** @param {number} x @param {number} y @returns {[sx: number, sy: number]} */
  toScreen(x, y) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }

  fit(smooth = true) {
    const { clientWidth: width, clientHeight: height } = this;
    if (!this.width || !width) return;
    const margin = Math.min(48, width / 12);
    const scale = Math.min((width - margin) / this.width, (height - margin) / this.height, 8);
    this.#goTo(scale, (width - this.width * scale) / 2, (height - this.height * scale) / 2, smooth);
  }

  /** @param {number} scale */
  zoomTo(scale, sx = this.clientWidth / 2, sy = this.clientHeight / 2, smooth = false) {
    const [x, y] = this.toPicture(sx, sy);
    const next = Math.min(MOST, Math.max(LEAST, scale));
    this.#goTo(next, sx - x * next, sy - y * next, smooth);
  }

  /** @param {number} dx @param {number} dy */
  pan(dx, dy) {
    this.#goTo(this.scale, this.x + dx, this.y + dy, false);
  }

  // Brings a place of the picture into sight if it is not.
  /** @param {number} x @param {number} y */
  reveal(x, y) {
    const [sx, sy] = this.toScreen(x, y);
    const margin = 40;
    const dx = Math.max(margin - sx, 0) + Math.min(this.clientWidth - margin - sx, 0);
    const dy = Math.max(margin - sy, 0) + Math.min(this.clientHeight - margin - sy, 0);
    if (dx || dy) this.pan(dx, dy);
  }

  /** @param {number} scale @param {number} x @param {number} y @param {boolean} smooth */
  #goTo(scale, x, y, smooth) {
    cancelAnimationFrame(this.flight);
    const { clientWidth, clientHeight } = this;
    // Some of the picture stays in sight.
    const keep = 60;
    x = Math.min(clientWidth - keep, Math.max(keep - this.width * scale, x));
    y = Math.min(clientHeight - keep, Math.max(keep - this.height * scale, y));
    if (!smooth || matchMedia("(prefers-reduced-motion: reduce)").matches) {
      [this.scale, this.x, this.y] = [scale, x, y];
      this.draw();
      this.onzoom();
      return;
    }
    const from = [this.scale, this.x, this.y];
    const started = performance.now();
    const step = (/** @type {number} */ now) => {
      const time = Math.min(1, (now - started) / 160);
      const eased = 1 - (1 - time) ** 3;
      [this.scale, this.x, this.y] = [scale, x, y].map((value, i) => from[i] + (value - from[i]) * eased);
      this.draw();
      this.onzoom();
      if (time < 1) this.flight = requestAnimationFrame(step);
    };
    this.flight = requestAnimationFrame(step);
  }

  #resize() {
    const { clientWidth, clientHeight } = this.stage;
    [this.clientWidth, this.clientHeight] = [clientWidth, clientHeight];
    const { left, top } = this.canvas.getBoundingClientRect();
    this.corner = [left, top];
    this.#forgetLayer();
    const ratio = devicePixelRatio;
    const [oldWidth, oldHeight] = [this.canvas.width / ratio, this.canvas.height / ratio];
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    if (!this.sized) this.fit(false);
    else {
      this.x += (clientWidth - oldWidth) / 2;
      this.y += (clientHeight - oldHeight) / 2;
    }
    this.sized = clientWidth > 0;
    this.#render();
    this.onzoom();
  }

  #render() {
    const { context } = this;
    const ratio = devicePixelRatio;
    const scene = this.scene();
    if (!this.layer) this.ground = getComputedStyle(this.canvas).getPropertyValue("background-color");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = this.ground;
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.levels.length) return;
    this.#bringLayer(scene);
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    if (this.show === "cutout") this.#drawChequers();
    else this.#drawPicture(context);
    this.#placeLayer();
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    if (scene.preview) this.#drawPreview(scene.preview, scene.color);
    for (const stroke of scene.stroke ? [...scene.strokes, scene.stroke] : scene.strokes) this.#drawStroke(stroke, scene.color);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    drawMarks(this, scene);
    drawPointer(this, scene);
  }

  /** @param {Pen} context @param {{ scale: number, x: number, y: number }} place */
  #drawPicture(context, { scale, x, y } = this) {
    const wanted = scale * devicePixelRatio;
    const level = this.levels.findLast((bitmap) => bitmap.width >= this.width * wanted) ?? this.levels[0];
    // Only the part in sight: a bitmap of 16 megapixels is not to be walked through for a window on it.
    const beyond = 2 + BEYOND * Math.max(this.clientWidth, this.clientHeight);
    const [left, top] = [Math.max(0, Math.floor((-beyond - x) / scale)), Math.max(0, Math.floor((-beyond - y) / scale))];
    const [right, bottom] = [(this.clientWidth + beyond - x) / scale, (this.clientHeight + beyond - y) / scale];
    const [width, height] = [Math.min(this.width, Math.ceil(right)) - left, Math.min(this.height, Math.ceil(bottom)) - top];
    if (width <= 0 || height <= 0) return;
    const [fx, fy] = [level.width / this.width, level.height / this.height];
    context.imageSmoothingEnabled = wanted < 3;
    context.drawImage(level, left * fx, top * fy, width * fx, height * fy, left, top, width, height);
    context.imageSmoothingEnabled = true;
  }

  #forgetLayer() {
    if (this.layer) this.spare = this.layer.sheet;
    this.layer = this.building = null;
    clearTimeout(this.rest);
  }

  // Sees to it that masks are there to be put in place: at once where they have changed, and a slice a frame where only the view has moved on.
  /** @param {Scene} scene */
  #bringLayer(scene) {
    if (!this.layer) {
      this.building = this.#layerSteps(scene);
      while (this.building) this.#buildOn();
      return;
    }
    const zoomed = this.layer.scale !== this.scale;
    if (!this.building && !this.#covers(this.layer, zoomed ? 0 : BEYOND / 2)) this.building = this.#layerSteps(scene);
    else if (!this.building && zoomed) {
      // While the zoom changes, the masks are stretched; they become sharp when it rests.
      clearTimeout(this.rest);
      this.rest = setTimeout(() => {
        if (this.layer) this.building ??= this.#layerSteps(this.scene());
        this.draw();
      }, REST);
    }
    const until = performance.now() + SLICE;
    while (this.building && performance.now() < until) this.#buildOn();
    if (this.building) this.draw();
  }

  #buildOn() {
    const step = this.building?.next();
    if (!step?.done) return;
    if (this.layer) this.spare = this.layer.sheet;
    this.layer = step.value;
    this.building = null;
    this.draw();
  }

  // Whether the masks were drawn wherever the picture is now in sight, and that much farther, as a share of the stage.
  /** @param {Layer} layer @param {number} farther */
  #covers(layer, farther) {
    const factor = this.scale / layer.scale;
    /** @param {number} start @param {number} beyond @param {number} length @param {number} from */
    const edges = (start, beyond, length, from) => [start - (from + beyond) * factor, start - (from + beyond) * factor + (length + 2 * beyond) * factor];
    const [left, right] = edges(this.x, layer.beyondX, layer.width, layer.x);
    const [top, bottom] = edges(this.y, layer.beyondY, layer.height, layer.y);
    const [dx, dy] = [farther * this.clientWidth, farther * this.clientHeight];
    const seenX = [Math.max(-dx, this.x), Math.min(this.clientWidth + dx, this.x + this.width * this.scale)];
    const seenY = [Math.max(-dy, this.y), Math.min(this.clientHeight + dy, this.y + this.height * this.scale)];
    return seenX[0] >= left - 1 && seenX[1] <= right + 1 && seenY[0] >= top - 1 && seenY[1] <= bottom + 1 && factor < 3;
  }

  // Draws all masks, for the zoom and place of now, into a canvas of their own that reaches a little beyond the stage, and returns it: a frame only has
  // to put it in place. Stops now and then, so that it can be spread over several frames.
  /** @param {Scene} scene @returns {Generator<null, Layer>} */
  *#layerSteps(scene) {
    const { scale, x, y, clientWidth: width, clientHeight: height, spare: sheet } = this;
    const ratio = devicePixelRatio;
    const [beyondX, beyondY] = [Math.round(BEYOND * width), Math.round(BEYOND * height)];
    const [columns, rows] = [Math.ceil((width + 2 * beyondX) * ratio), Math.ceil((height + 2 * beyondY) * ratio)];
    if (sheet.width !== columns || sheet.height !== rows) [sheet.width, sheet.height] = [columns, rows];
    const context = penOf(sheet);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, columns, rows);
    context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * (x + beyondX), ratio * (y + beyondY));
    /** @type {import("./masks.js").Box} */
    const window = [(-beyondX - x) / scale, (-beyondY - y) / scale, (width + beyondX - x) / scale, (height + beyondY - y) / scale];
    const shown = scene.objects.filter((item) => item.mask && !item.hidden);
    const active = shown.find((item) => item.id === scene.active);
    const cutout = this.show === "cutout";
    for (const item of [...shown.filter((other) => other !== active), ...(active ? [active] : [])]) {
      yield null;
      const seen = item.mask ? yield* item.mask.viewSteps(window, scale * ratio, item.color) : null;
      yield null;
      if (seen) this.#drawMask(context, seen, item.color, scale, cutout ? "cutout" : item === active ? "strong" : "plain");
    }
    for (const part of cutout ? [] : (active?.partMasks ?? [])) {
      yield null;
      this.#drawPart(context, part.view(window, scale * ratio, "#ffffff"), scale);
    }
    if (cutout) {
      context.globalCompositeOperation = "source-in";
      this.#drawPicture(context, { scale, x, y });
      context.globalCompositeOperation = "source-over";
    }
    return { sheet, scale, x, y, width, height, beyondX, beyondY };
  }

  #placeLayer() {
    const { context, layer } = this;
    if (!layer) return;
    const { sheet } = layer;
    const ratio = devicePixelRatio;
    const factor = this.scale / layer.scale;
    context.setTransform(1, 0, 0, 1, 0, 0);
    // At the same zoom, whole pixels on whole pixels: nothing is resampled.
    const even = factor === 1 ? Math.round : (/** @type {number} */ value) => value;
    context.imageSmoothingEnabled = factor !== 1;
    const left = even(ratio * (this.x - (layer.x + layer.beyondX) * factor));
    const top = even(ratio * (this.y - (layer.y + layer.beyondY) * factor));
    context.drawImage(sheet, left, top, sheet.width * factor, sheet.height * factor);
    context.imageSmoothingEnabled = true;
  }

  /** @param {Pen} context @param {Drawing} seen @param {string} color @param {number} scale @param {"cutout" | "strong" | "plain"} kind */
  #drawMask(context, seen, color, scale, kind) {
    if (this.show !== "outline") {
      context.globalAlpha = { cutout: 1, strong: 0.38, plain: 0.3 }[kind];
      context.imageSmoothingEnabled = scale * devicePixelRatio < 2;
      context.drawImage(seen.bitmap, seen.x, seen.y, seen.width, seen.height);
      context.globalAlpha = 1;
    }
    if (kind === "cutout") return;
    context.lineJoin = "round";
    const strong = kind === "strong";
    if (strong) {
      context.lineWidth = 4 / scale;
      context.strokeStyle = "rgba(0, 0, 0, 0.45)";
      context.stroke(seen.path);
    }
    context.lineWidth = (strong ? 2 : 1.25) / scale;
    context.strokeStyle = strong ? "#ffffff" : color;
    context.stroke(seen.path);
  }

  /** @param {Pen} context @param {Drawing | null} seen @param {number} scale */
  #drawPart(context, seen, scale) {
    if (!seen) return;
    context.lineWidth = 1.5 / scale;
    context.setLineDash([5 / scale, 4 / scale]);
    context.strokeStyle = "#ffffff";
    context.stroke(seen.path);
    context.setLineDash([]);
  }

  // The ground of a cut-out: squares that stay where they are on the screen.
  #drawChequers() {
    const { context } = this;
    const dark = isDark();
    if (this.squares?.dark !== dark) {
      const tile = new OffscreenCanvas(20, 20);
      const pen = penOf(tile);
      pen.fillStyle = dark ? "#202228" : "#ffffff";
      pen.fillRect(0, 0, 20, 20);
      pen.fillStyle = dark ? "#2a2d34" : "#e9eaee";
      pen.fillRect(10, 0, 10, 10);
      pen.fillRect(0, 10, 10, 10);
      this.squares = { dark, pattern: context.createPattern(tile, "repeat") ?? "transparent" };
    }
    const ratio = devicePixelRatio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = this.squares.pattern;
    const [left, top] = [Math.max(0, this.x), Math.max(0, this.y)];
    context.fillRect(left, top, Math.min(this.clientWidth, this.x + this.width * this.scale) - left, Math.min(this.clientHeight, this.y + this.height * this.scale) - top);
  }

  /** @param {Preview} preview @param {string} color */
  #drawPreview({ mask, width, height }, color) {
    const { context } = this;
    const scale = (this.scale * this.width) / width;
    const seen = mask.view([0, 0, width, height], scale * devicePixelRatio, color);
    if (!seen) return;
    context.save();
    context.scale(this.width / width, this.height / height);
    context.globalAlpha = 0.28;
    context.drawImage(seen.bitmap, seen.x, seen.y, seen.width, seen.height);
    context.globalAlpha = 1;
    context.lineWidth = 1.5 / scale;
    context.setLineDash([6 / scale, 4 / scale]);
    context.strokeStyle = "#ffffff";
    context.stroke(seen.path);
    context.restore();
  }

  /** @param {Line} line @param {string} color */
  #drawStroke({ points, radius, adds }, color) {
    const { context } = this;
    context.globalAlpha = 0.6;
    context.strokeStyle = adds ? color : "#8a8f98";
    trace(context, points, radius);
    context.globalAlpha = 1;
  }
}

export function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
