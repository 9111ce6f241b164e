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
export function outline(bits, width, height, x0 = 0, y0 = 0) {
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
      path.moveTo(x + x0, y + y0);
      do {
        if (direction === 0) walked[y * width + x] = 1;
        x += stepX[direction];
        y += stepY[direction];
        const turn = !set(x + right[direction][0], y + right[direction][1]) ? 1 : set(x + left[direction][0], y + left[direction][1]) ? 3 : 0;
        if (turn) {
          path.lineTo(x + x0, y + y0);
          direction = (direction + turn) % 4;
        }
      } while (x !== startX || y !== startY || direction !== 0);
      path.closePath();
    }
  }
  return path;
}

// Everything that the canvas needs to draw a mask.
export function shapeOf(rle, box, color) {
  const [x0, y0, x1, y1] = box;
  const bits = crop(rle, box);
  return { box, bitmap: tinted(bits, x1 - x0, y1 - y0, color), path: outline(bits, x1 - x0, y1 - y0, x0, y0), size: rle.size };
}
