// The few things of a browser that the page's modules need outside one: a session's storage, and paths that remember what was drawn.

/** @type {Map<string, string>} */
export const stored = new Map();

globalThis.sessionStorage = /** @type {Storage} */ (/** @type {unknown} */ ({
  getItem: (/** @type {string} */ key) => stored.get(key) ?? null,
  setItem: (/** @type {string} */ key, /** @type {string} */ value) => stored.set(key, value),
}));

export class FakePath {
  /** @type {[number, number][][]} */
  rings = [];

  /** @param {number} x @param {number} y */
  moveTo(x, y) {
    this.rings.push([[x, y]]);
  }

  /** @param {number} x @param {number} y */
  lineTo(x, y) {
    this.rings[this.rings.length - 1].push([x, y]);
  }

  closePath() {}

  /** @param {FakePath} other @param {FakeMatrix} matrix */
  addPath(other, { values: [a, b, c, d, e, f] }) {
    for (const ring of other.rings) this.rings.push(ring.map(([x, y]) => [a * x + c * y + e, b * x + d * y + f]));
  }
}

class FakeMatrix {
  /** @param {number[]} values */
  constructor(values) {
    this.values = values;
  }
}

class FakeCanvas {
  /** @param {number} width @param {number} height */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.data = new Uint8ClampedArray(4 * width * height);
  }

  getContext() {
    return {
      createImageData: (/** @type {number} */ width, /** @type {number} */ height) => ({ data: new Uint8ClampedArray(4 * width * height) }),
      putImageData: (/** @type {{ data: Uint8ClampedArray<ArrayBuffer> }} */ { data }) => {
        this.data = data;
      },
    };
  }
}

Object.assign(globalThis, { Path2D: FakePath, DOMMatrix: FakeMatrix, OffscreenCanvas: FakeCanvas });
