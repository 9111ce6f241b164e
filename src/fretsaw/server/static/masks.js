// Masks as COCO run lengths (column after column, background first), as bitmaps for the canvas, and as outlines.

// COCO's text form: 5 bits a character, lowest first; 32 says that more follow, 16 in the last one is the sign; from the fourth number on, differences.
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
export function tinted(bits, width, height, color) {
  const canvas = new OffscreenCanvas(Math.max(1, width), Math.max(1, height));
  if (!width || !height) return canvas;
  const context = canvas.getContext("2d");
  const data = context.createImageData(width, height);
  const words = new Uint32Array(data.data.buffer);
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const word = (255 << 24) | (blue << 16) | (green << 8) | red;
  for (let i = 0; i < words.length; i++) if (bits[i]) words[i] = word;
  context.putImageData(data, 0, 0);
  return canvas;
}

// The outline as a path along the edges between pixels. The walk keeps the object at its right hand; every ring has an edge that runs to the right, so
// starting at each of those that was not walked yet finds all rings.
function outline(bits, width, height) {
  const path = new Path2D();
  const walked = new Uint8Array(width * height);
  const set = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x] === 1;
  const stepX = [1, 0, -1, 0];
  const stepY = [0, 1, 0, -1];
  // Which pixels lie ahead at the left and at the right hand, as offsets from the corner, for the directions right, down, left, up.
  const left = [[0, -1], [0, 0], [-1, 0], [-1, -1]];
  const right = [[0, 0], [-1, 0], [-1, -1], [0, -1]];
  for (let startY = 0; startY < height; startY++) {
    for (let startX = 0; startX < width; startX++) {
      const at = startY * width + startX;
      if (!bits[at] || walked[at] || set(startX, startY - 1)) continue;
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

// Every f-th pixel of a bitmap, both ways.
function thinned(bits, width, height, f) {
  if (f === 1) return [bits, width, height];
  const [columns, rows] = [Math.ceil(width / f), Math.ceil(height / f)];
  const fewer = new Uint8Array(columns * rows);
  for (let y = 0; y < rows; y++) {
    const from = Math.min(height - 1, y * f + (f >> 1)) * width;
    for (let x = 0; x < columns; x++) fewer[y * columns + x] = bits[from + Math.min(width - 1, x * f + (f >> 1))];
  }
  return [fewer, columns, rows];
}

const MOST_FILLED = 4e6; // pixels of the canvas that fills a mask; beyond it, the fill is coarser than the outline by a pixel or two

// Everything that the canvas needs to draw a mask. Outlines are traced when they are first needed, no finer than the screen shows them: on a picture of
// 16 megapixels the exact one may have more corners than could be drawn in a frame.
class Shape {
  #paths = new Map();

  constructor(bits, box, size, color) {
    this.box = box;
    this.size = size;
    this.bits = bits;
    const [width, height] = this.#sides;
    const f = Math.max(1, Math.ceil(Math.sqrt((width * height) / MOST_FILLED)));
    const [fewer, columns, rows] = thinned(bits, width, height, f);
    this.bitmap = tinted(fewer, columns, rows, color);
    this.covered = [columns * f, rows * f];
  }

  get #sides() {
    const [x0, y0, x1, y1] = this.box;
    return [x1 - x0, y1 - y0];
  }

  // The outline for a zoom of `scale` screen pixels per pixel of the mask.
  path(scale) {
    const f = 2 ** Math.max(0, Math.min(6, Math.floor(Math.log2(1 / scale))));
    if (!this.#paths.has(f)) {
      const traced = outline(...thinned(this.bits, ...this.#sides, f));
      const placed = new Path2D();
      placed.addPath(traced, new DOMMatrix([f, 0, 0, f, this.box[0], this.box[1]]));
      this.#paths.set(f, placed);
    }
    return this.#paths.get(f);
  }
}

export function shapeOf(rle, box, color) {
  return new Shape(crop(rle, box), box, rle.size, color);
}
