// @ts-check
// The page's masks agree with fretsaw.masks, whose results lie in golden.json; what is changed in place agrees with what is made anew.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import "./browser.mjs";
import { boxOf, crop, encode, Mask, runsOf } from "../../src/fretsaw/server/static/masks.js";

/** @typedef {import("../../src/fretsaw/server/static/masks.js").Box} Box */
/** @typedef {import("../../src/fretsaw/server/static/masks.js").RunLengths} RunLengths */
/** @typedef {{ rle: RunLengths, counts: number[], box: Box }} Golden */
/** @type {{ cases: (Golden & { name: string, rows: string[] })[], large: Golden & { area: number } }} */
const golden = JSON.parse(readFileSync(new URL("golden.json", import.meta.url), "utf8"));

/** @param {string[]} rows */
const bitsOf = (rows) => Uint8Array.from(rows.join(""), (pixel) => Number(pixel === "#"));

/** @param {number} seed */
function dice(seed) {
  let state = seed;
  return (/** @type {number} */ most) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * most);
  };
}

for (const { name, rows, rle, counts, box } of golden.cases) {
  const [height, width] = rle.size;
  const bits = bitsOf(rows);

  test(`${name}: read, written and boxed as Python does`, () => {
    assert.deepEqual([...runsOf(rle)], counts);
    assert.deepEqual([...runsOf({ size: rle.size, counts })], counts);
    assert.deepEqual(crop(rle, [0, 0, width, height]), bits);
    assert.deepEqual(encode(bits, width, height), { size: rle.size, counts });
    assert.deepEqual(boxOf(rle), box);
  });

  test(`${name}: every window shows its part`, () => {
    for (const [x0, y0, x1, y1] of /** @type {Box[]} */ ([box, [0, 0, 1, 1], [width >> 1, height >> 1, width, height], [width - 1, 0, width, height]])) {
      const part = crop(rle, [x0, y0, x1, y1]);
      const rowsSeen = rows.slice(y0, y1).map((row) => row.slice(x0, x1));
      assert.deepEqual(part, bitsOf(rowsSeen));
    }
  });

  test(`${name}: the outline encloses exactly the mask, at every zoom out`, () => {
    const mask = new Mask([0, 0, width, height], bits.slice());
    for (const f of [1, 2, 4]) {
      const seen = mask.view([0, 0, width, height], 1 / f, "#ffffff");
      assert.ok(seen);
      assert.deepEqual([seen.x, seen.y], [0, 0]);
      const { rings } = /** @type {import("./browser.mjs").FakePath} */ (/** @type {unknown} */ (seen.path));
      const area = rings.reduce((sum, ring) => sum + signedArea(ring), 0) / f ** 2;
      const { data } = /** @type {{ data: Uint8ClampedArray }} */ (/** @type {unknown} */ (seen.bitmap));
      const drawn = data.filter((value, at) => at % 4 === 3 && value === 255).length;
      assert.equal(area, drawn);
      if (f === 1) assert.equal(drawn, bits.reduce((sum, bit) => sum + bit, 0));
    }
  });
}

/** @param {[number, number][]} ring */
function signedArea(ring) {
  let twice = 0;
  for (const [at, [x, y]] of ring.entries()) {
    const [nextX, nextY] = ring[(at + 1) % ring.length];
    twice += x * nextY - nextX * y;
  }
  return twice / 2;
}

test("a mask of 48 megapixels is read as Python wrote it", () => {
  const { rle, counts, box, area } = golden.large;
  assert.deepEqual([...runsOf(rle)], counts);
  assert.deepEqual(boxOf(rle), box);
  const mask = Mask.from(rle, box);
  assert.equal(mask.bits.length, (box[2] - box[0]) * (box[3] - box[1]));
  let set = 0;
  for (const bit of mask.bits) set += bit;
  assert.equal(set, area);
  assert.equal(mask.bits[(3000 - box[1]) * (box[2] - box[0]) + 2510 - box[0]], 1);
  assert.equal(mask.bits[(3000 - box[1]) * (box[2] - box[0]) + 2530 - box[0]], 0);
});

test("runs beyond 31 bits are read whole", () => {
  // 2147483653 as COCO writes it: 5 bits a character.
  const value = 2 ** 31 + 5;
  let text = "";
  for (let rest = value; ; ) {
    const digit = rest % 32;
    rest = Math.floor(rest / 32);
    const last = rest === 0 && digit < 16;
    text += String.fromCharCode(48 + (last ? digit : digit + 32));
    if (last) break;
  }
  assert.deepEqual([...runsOf({ size: [1, 1], counts: text })], [value]);
});

test("a box without a pixel has no runs", () => {
  assert.deepEqual(crop({ size: [0, 0], counts: "" }, [0, 0, 0, 0]), new Uint8Array(0));
  assert.deepEqual(boxOf({ size: [0, 0], counts: "" }), [0, 0, 0, 0]);
});

test("encode and crop are each other's inverse, whatever the mask", () => {
  const roll = dice(1);
  for (let round = 0; round < 300; round++) {
    const [width, height] = [1 + roll(20), 1 + roll(20)];
    const share = roll(11);
    const bits = Uint8Array.from({ length: width * height }, () => Number(roll(10) < share));
    assert.deepEqual(crop(encode(bits, width, height), [0, 0, width, height]), bits);
  }
});

test("what is replaced and painted in place is what a picture's rows would be", () => {
  const roll = dice(2);
  for (let round = 0; round < 60; round++) {
    const [width, height] = [24, 18];
    const rows = new Uint8Array(width * height);
    const mask = Mask.empty(roll(width), roll(height));
    for (let step = 0; step < 8; step++) {
      const [x, y] = [roll(width), roll(height)];
      const box = { x, y, width: 1 + roll(width - x), height: 1 + roll(height - y) };
      const bits = Uint8Array.from({ length: box.width * box.height }, () => roll(2));
      const adds = roll(2) === 1;
      const replaces = roll(2) === 1;
      const before = rows.slice();
      for (let row = 0, i = 0; row < box.height; row++)
        for (let column = 0; column < box.width; column++, i++) {
          const at = (y + row) * width + x + column;
          if (replaces) rows[at] = bits[i];
          else if (bits[i]) rows[at] = Number(adds);
        }
      if (replaces) mask.replace([x, y, x + box.width, y + box.height], bits);
      else {
        assert.equal(mask.differs({ ...box, bits, adds }), !rows.every((bit, at) => bit === before[at]));
        mask.stroke({ ...box, bits, adds });
      }
      assert.deepEqual(whole(mask, width, height), rows);
    }
  }
});

/** @param {Mask} mask @param {number} width @param {number} height */
function whole({ box: [x0, y0, x1], bits }, width, height) {
  const rows = new Uint8Array(width * height);
  for (const [at, bit] of bits.entries()) rows[(y0 + Math.floor(at / (x1 - x0))) * width + x0 + (at % (x1 - x0))] = bit;
  return rows;
}

test("a change of nothing alters nothing", () => {
  const mask = new Mask([2, 3, 4, 5], Uint8Array.of(1, 0, 0, 1));
  mask.replace([0, 0, 0, 0], new Uint8Array(0));
  assert.deepEqual([mask.box, [...mask.bits]], [[2, 3, 4, 5], [1, 0, 0, 1]]);
});

test("what was drawn is kept until the mask, its colour or the window changes", () => {
  const mask = new Mask([0, 0, 100, 100], new Uint8Array(10000).fill(1));
  /** @type {Box} */
  const window = [10, 10, 60, 60];
  const seen = mask.view(window, 1, "#ff0000");
  assert.equal(mask.view([12, 12, 62, 62], 1, "#ff0000"), seen);
  assert.notEqual(mask.view(window, 1, "#00ff00"), seen);
  assert.notEqual(mask.view([40, 40, 99, 99], 1, "#00ff00"), seen);
  const again = mask.view(window, 1, "#ff0000");
  mask.stroke({ x: 20, y: 20, width: 1, height: 1, bits: Uint8Array.of(1), adds: false });
  const altered = mask.view(window, 1, "#ff0000");
  assert.notEqual(altered, again);
  assert.equal(mask.view([200, 200, 300, 300], 1, "#ff0000"), null);
});
