// @ts-check
// Masks as COCO run lengths (column after column, background first), as bitmaps for the canvas, and as outlines.

/**
 * Half open, in pixels: columns x0 .. x1 - 1, rows y0 .. y1 - 1.
 * @typedef {[x0: number, y0: number, x1: number, y1: number]} Box
 */

/**
 * COCO's run lengths; the size is [height, width].
 * @typedef {{ size: [number, number], counts: string | number[] }} RunLengths
 */

/**
 * The pixels of a box of the picture that a brush has covered: the box, and its rows, one byte a pixel.
 * @typedef {{ x: number, y: number, width: number, height: number, bits: Uint8Array }} Covered
 */

/**
 * What is drawn of a part of a mask: a bitmap, the outline, and the place of both on the picture. It holds for `window` and `color`.
 * @typedef {{ bitmap: OffscreenCanvas, path: Path2D, window: Box, color: string, x: number, y: number, width: number, height: number }} Drawing
 */

// COCO's text form: 5 bits a character, lowest first; 32 says that more follow, 16 in the last one is the sign; from the fourth number on, differences.
/** @param {RunLengths} rle */
export function runsOf(rle) {
  if (typeof rle.counts !== "string") return Uint32Array.from(rle.counts);
  const text = rle.counts;
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let shift = 0;
    let digit;
    do {
      digit = text.charCodeAt(at++) - 48;
      value += (digit & 31) * 2 ** shift; // beyond 31 bits the shift operator would wrap
      shift += 5;
    } while (digit & 32);
    if (digit & 16) value -= 2 ** shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return Uint32Array.from(runs);
}

// The part of a mask inside a box, row after row, one byte a pixel.
/** @param {RunLengths} rle @param {Box} box */
export function crop(rle, [x0, y0, x1, y1]) {
  const height = rle.size[0];
  const width = x1 - x0;
  const bits = new Uint8Array(width * (y1 - y0));
  const runs = runsOf(rle);
  let place = 0;
  for (let i = 0; i < runs.length; i++) {
    let left = runs[i];
    if (i % 2 === 0) {
      place += left;
      continue;
    }
    while (left > 0) {
      const x = Math.floor(place / height);
      const y = place - x * height;
      const length = Math.min(left, height - y);
      if (x >= x0 && x < x1) {
        const end = Math.min(y + length, y1);
        for (let row = Math.max(y, y0); row < end; row++) bits[(row - y0) * width + x - x0] = 1;
      }
      place += length;
      left -= length;
    }
  }
  return bits;
}

/** @param {Uint8Array} bits @param {number} width @param {number} height @returns {{ size: [number, number], counts: number[] }} */
export function encode(bits, width, height) {
  const counts = [];
  let value = 0;
  let run = 0;
  for (let x = 0; x < width; x++) {
    for (let at = x; at < width * height; at += width) {
      if (bits[at] !== value) {
        counts.push(run);
        run = 0;
        value = 1 - value;
      }
      run++;
    }
  }
  counts.push(run);
  return { size: [height, width], counts };
}

/** @param {RunLengths} rle @returns {Box} */
export function boxOf(rle) {
  const height = rle.size[0];
  const runs = runsOf(rle);
  let [x0, y0, x1, y1] = [Infinity, Infinity, 0, 0];
  let place = 0;
  for (let i = 0; i < runs.length; i++) {
    if (i % 2 && runs[i]) {
      const last = place + runs[i] - 1;
      const [left, right] = [Math.floor(place / height), Math.floor(last / height)];
      x0 = Math.min(x0, left);
      x1 = Math.max(x1, right + 1);
      y0 = Math.min(y0, left < right ? 0 : place % height);
      y1 = Math.max(y1, left < right ? height : (last % height) + 1);
    }
    place += runs[i];
  }
  return x1 ? [x0, y0, x1, y1] : [0, 0, 0, 0];
}

// A canvas of the box's size, filled with one colour where the mask is set.
/** @param {Uint8Array} bits @param {number} width @param {number} height @param {string} color As in #3b82f6. */
export function tinted(bits, width, height, color) {
  const canvas = new OffscreenCanvas(Math.max(1, width), Math.max(1, height));
  if (!width || !height) return canvas;
  const context = penOf(canvas);
  const data = context.createImageData(width, height);
  const words = new Uint32Array(data.data.buffer);
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const word = (255 << 24) | (blue << 16) | (green << 8) | red;
  for (let i = 0; i < words.length; i++) words[i] = -bits[i] & word;
  context.putImageData(data, 0, 0);
  return canvas;
}

/** @param {OffscreenCanvas} canvas @param {CanvasRenderingContext2DSettings} [settings] */
export function penOf(canvas, settings) {
  const context = canvas.getContext("2d", settings);
  if (!context) throw new Error("the browser has no room for another canvas");
  return context;
}

// The outline as a path along the edges between pixels. The walk keeps the object at its right hand; every ring has an edge that runs to the right, so
// starting at each of those that was not walked yet finds all rings.
/** @param {Uint8Array} bits @param {number} width @param {number} height */
function outline(bits, width, height) {
  const path = new Path2D();
  const walked = new Uint8Array(width * height);
  const set = (/** @type {number} */ x, /** @type {number} */ y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x] === 1;
  const stepX = [1, 0, -1, 0];
  const stepY = [0, 1, 0, -1];
  // Which pixels lie ahead at the left and at the right hand, as offsets from the corner, for the directions right, down, left, up.
  const left = [[0, -1], [0, 0], [-1, 0], [-1, -1]];
  const right = [[0, 0], [-1, 0], [-1, -1], [0, -1]];
  for (let startY = 0; startY < height; startY++) {
    const row = startY * width;
    for (let startX = 0; startX < width; startX++) {
      const at = row + startX;
      if (bits[at] === 0 || (startY > 0 && bits[at - width] === 1) || walked[at] === 1) continue;
      let [x, y, direction] = [startX, startY, 0];
      path.moveTo(x, y);
      do {
        if (direction === 0) walked[y * width + x] = 1;
        x += stepX[direction];
        y += stepY[direction];
        const turn = !set(x + right[direction][0], y + right[direction][1]) ? 1 : set(x + left[direction][0], y + left[direction][1]) ? 3 : 0;
        if (turn) {
          path.lineTo(x, y);
          direction = (direction + turn) % 4;
        }
      } while (x !== startX || y !== startY || direction !== 0);
      path.closePath();
    }
  }
  return path;
}

// Every f-th pixel of the part of a bitmap that lies inside a window; both are x0, y0, x1, y1 on the picture, and the window begins at multiples of f.
/** @param {Uint8Array} bits @param {Box} box @param {Box} window @param {number} f @returns {[Uint8Array, number, number]} */
function thinned(bits, [bx0, by0, bx1, by1], [x0, y0, x1, y1], f) {
  const [columns, rows] = [Math.ceil((x1 - x0) / f), Math.ceil((y1 - y0) / f)];
  const fewer = new Uint8Array(columns * rows);
  const width = bx1 - bx0;
  const half = f >> 1;
  const first = Math.max(0, Math.ceil((bx0 - x0 - half) / f));
  const last = Math.min(columns, Math.floor((bx1 - 1 - x0 - half) / f) + 1);
  for (let row = 0; row < rows; row++) {
    const y = y0 + row * f + half;
    if (y < by0 || y >= by1) continue;
    const from = (y - by0) * width + x0 + half - bx0;
    const to = row * columns;
    if (f === 1) fewer.set(bits.subarray(from + first, from + last), to + first);
    else for (let x = first; x < last; x++) fewer[to + x] = bits[from + x * f];
  }
  return [fewer, columns, rows];
}

/** @param {Box} a @param {Box} b @returns {Box} */
const meets = (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];

// A mask that can be altered in place and drawn at any zoom. What is drawn is made for the window that is looked at, no finer than the screen shows it,
// and kept until the mask changes or the window moves on; so the cost of drawing follows the screen, not the picture.
export class Mask {
  /** @type {Map<number, Drawing>} */
  #views = new Map();

  /**
   * @param {Box} box Where the mask lies on the picture; outside it, nothing is set.
   * @param {Uint8Array} bits The box's rows, one byte a pixel.
   */
  constructor(box, bits) {
    this.box = box;
    this.bits = bits;
  }

  /** @param {RunLengths} rle Of the whole picture. @param {Box} box What is set lies inside it. */
  static from(rle, box) {
    return new Mask(box, crop(rle, box));
  }

  // A mask of nothing, at a place where something is to be added.
  /** @param {number} x @param {number} y */
  static empty(x, y) {
    return new Mask([x, y, x, y], new Uint8Array(0));
  }

  // Puts the pixels of a box in place of the mask's own.
  /** @param {Box} box @param {Uint8Array} bits */
  replace([x0, y0, x1, y1], bits) {
    this.#alter(x0, y0, x1 - x0, y1 - y0, (own, at, i) => (own[at] = bits[i]));
  }

  // Sets, or clears, the pixels that are set in the bits of a box.
  /** @param {Covered & { adds: boolean }} stroke */
  stroke({ x, y, width, height, bits, adds }) {
    const value = adds ? 1 : 0;
    this.#alter(x, y, width, height, (own, at, i) => {
      if (bits[i]) own[at] = value;
    });
  }

  // Whether a stroke would change anything.
  /** @param {Covered & { adds: boolean }} stroke */
  differs({ x, y, width, height, bits, adds }) {
    const [x0, y0, x1, y1] = this.box;
    const value = adds ? 1 : 0;
    for (let row = 0, i = 0; row < height; row++)
      for (let column = 0; column < width; column++, i++) {
        if (!bits[i]) continue;
        const [px, py] = [x + column, y + row];
        const own = px >= x0 && py >= y0 && px < x1 && py < y1 ? this.bits[(py - y0) * (x1 - x0) + px - x0] : 0;
        if (own !== value) return true;
      }
    return false;
  }

  /**
   * @param {number} x @param {number} y @param {number} width @param {number} height
   * @param {(own: Uint8Array, at: number, i: number) => void} set Is told a pixel's place in the mask's own bits and in those of the box.
   */
  #alter(x, y, width, height, set) {
    if (!width || !height) return;
    this.#grow([x, y, x + width, y + height]);
    this.#views.clear();
    const [x0, y0, x1] = this.box;
    for (let row = 0, i = 0; row < height; row++) {
      let at = (y + row - y0) * (x1 - x0) + x - x0;
      for (let column = 0; column < width; column++, at++, i++) set(this.bits, at, i);
    }
  }

  /** @param {Box} box */
  #grow([ax0, ay0, ax1, ay1]) {
    const [x0, y0, x1, y1] = this.box;
    if (ax0 >= x0 && ay0 >= y0 && ax1 <= x1 && ay1 <= y1) return;
    /** @type {Box} */
    const wider = x1 > x0 ? [Math.min(x0, ax0), Math.min(y0, ay0), Math.max(x1, ax1), Math.max(y1, ay1)] : [ax0, ay0, ax1, ay1];
    const [width, old] = [wider[2] - wider[0], x1 - x0];
    const bits = new Uint8Array(width * (wider[3] - wider[1]));
    for (let y = y0; y < y1; y++) bits.set(this.bits.subarray((y - y0) * old, (y - y0 + 1) * old), (y - wider[1]) * width + x0 - wider[0]);
    this.box = wider;
    this.bits = bits;
  }

  // What is drawn of the window x0, y0, x1, y1 at `scale` screen pixels a pixel: a bitmap in `color`, the outline, and the place of both. Or null, where
  // the window meets nothing of the mask.
  /** @param {Box} window @param {number} scale @param {string} color @returns {Drawing | null} */
  view(window, scale, color) {
    const steps = this.viewSteps(window, scale, color);
    for (;;) {
      const { value, done } = steps.next();
      if (done) return value ?? null;
    }
  }

  // `view` with pauses, so that the work can be spread over frames; must not be gone on with when the mask has changed meanwhile.
  /** @param {Box} window @param {number} scale @param {string} color @returns {Generator<null, Drawing | null>} */
  *viewSteps(window, scale, color) {
    const f = 2 ** Math.max(0, Math.min(6, Math.floor(Math.log2(1 / scale))));
    const needed = meets(window, this.box);
    if (needed[0] >= needed[2] || needed[1] >= needed[3]) return null;
    const kept = this.#views.get(f);
    if (kept?.color === color && needed.every((value, i) => (i < 2 ? value >= kept.window[i] : value <= kept.window[i]))) return kept;
    // A margin, so that moving on a little needs nothing new; the border of the window itself is an outline too, and must stay out of sight.
    const margin = Math.max(8 * f, (window[2] - window[0]) / 8);
    const wide = /** @type {Box} */ (meets([window[0] - margin, window[1] - margin, window[2] + margin, window[3] + margin], this.box).map(Math.round));
    /** @type {Box} */
    const place = [Math.floor(wide[0] / f) * f, Math.floor(wide[1] / f) * f, wide[2], wide[3]];
    const [fewer, columns, rows] = thinned(this.bits, this.box, place, f);
    yield null;
    const path = new Path2D();
    path.addPath(outline(fewer, columns, rows), new DOMMatrix([f, 0, 0, f, place[0], place[1]]));
    yield null;
    const made = { bitmap: tinted(fewer, columns, rows, color), path, window: wide, color, x: place[0], y: place[1], width: columns * f, height: rows * f };
    this.#views.set(f, made);
    return made;
  }
}
