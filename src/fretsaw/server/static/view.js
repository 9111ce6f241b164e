// The canvas: the picture, masks, clicks and the pointer, drawn at most once a frame. Coordinates named x, y are edge coordinates of the picture (a
// pixel's centre lies half a pixel inside it); sx, sy are those of the screen.

const LEAST = 0.02;
const MOST = 40;
const REST = 90; // milliseconds without a change of zoom after which the masks are drawn sharply again
const BEYOND = 0.25; // how far the drawn masks reach beyond the stage, as a share of it

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.levels = [];
    this.width = this.height = 0;
    this.scale = 1;
    this.x = this.y = 0; // where the picture's corner lies on the screen
    this.show = "fill"; // fill, outline or cutout
    this.scene = () => ({});
    this.frame = 0;
    this.flight = 0;
    this.clientWidth = this.clientHeight = 0; // asking the browser for these between two changes of the page would make it lay the page out
    this.corner = [0, 0]; // where the canvas begins in the window
    this.ground = "#000";
    this.layer = null; // the masks as they were last drawn on `sheet`: for which zoom and place
    this.rest = 0;
    new ResizeObserver(() => this.#resize()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.refresh());
  }

  // Takes a picture and makes halved copies: drawing from the nearest larger one is quick and smooth at any zoom.
  async setPicture(bitmap) {
    this.levels = [bitmap];
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.layer = null;
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
    this.layer = null;
    this.draw();
  }

  draw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.#render();
    });
  }

  toPicture(sx, sy) {
    return [(sx - this.x) / this.scale, (sy - this.y) / this.scale];
  }

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

  zoomTo(scale, sx = this.clientWidth / 2, sy = this.clientHeight / 2, smooth = false) {
    const [x, y] = this.toPicture(sx, sy);
    const next = Math.min(MOST, Math.max(LEAST, scale));
    this.#goTo(next, sx - x * next, sy - y * next, smooth);
  }

  pan(dx, dy) {
    this.#goTo(this.scale, this.x + dx, this.y + dy, false);
  }

  // Brings a place of the picture into sight if it is not.
  reveal(x, y) {
    const [sx, sy] = this.toScreen(x, y);
    const margin = 40;
    const dx = Math.max(margin - sx, 0) + Math.min(this.clientWidth - margin - sx, 0);
    const dy = Math.max(margin - sy, 0) + Math.min(this.clientHeight - margin - sy, 0);
    if (dx || dy) this.pan(dx, dy);
  }

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
      this.onzoom?.();
      return;
    }
    const from = [this.scale, this.x, this.y];
    const started = performance.now();
    const step = (now) => {
      const time = Math.min(1, (now - started) / 160);
      const eased = 1 - (1 - time) ** 3;
      [this.scale, this.x, this.y] = [scale, x, y].map((value, i) => from[i] + (value - from[i]) * eased);
      this.draw();
      this.onzoom?.();
      if (time < 1) this.flight = requestAnimationFrame(step);
    };
    this.flight = requestAnimationFrame(step);
  }

  #resize() {
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    [this.clientWidth, this.clientHeight] = [clientWidth, clientHeight];
    const { left, top } = this.canvas.getBoundingClientRect();
    this.corner = [left, top];
    this.layer = null;
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
    this.onzoom?.();
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
    if (!this.layer || !this.#covers()) this.#drawLayer(scene);
    else if (this.layer.scale !== this.scale) {
      // While the zoom changes, the masks are stretched; they become sharp when it rests.
      clearTimeout(this.rest);
      this.rest = setTimeout(() => this.refresh(), REST);
    }
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    if (this.show === "cutout") this.#drawChequers();
    else this.#drawPicture(context);
    this.#placeLayer();
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    if (scene.preview) this.#drawPreview(scene.preview, scene.color);
    for (const stroke of [...(scene.strokes ?? []), ...(scene.stroke ? [scene.stroke] : [])]) this.#drawStroke(stroke, scene.color);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#drawMarks(scene);
    this.#drawPointer(scene);
  }

  #drawPicture(context) {
    const wanted = this.scale * devicePixelRatio;
    const level = this.levels.findLast((bitmap) => bitmap.width >= this.width * wanted) ?? this.levels[0];
    // Only the part in sight: a bitmap of 16 megapixels is not to be walked through for a window on it.
    const beyond = 2 + BEYOND * Math.max(this.clientWidth, this.clientHeight);
    const [left, top] = this.toPicture(-beyond, -beyond).map((value) => Math.max(0, Math.floor(value)));
    const [right, bottom] = this.toPicture(this.clientWidth + beyond, this.clientHeight + beyond);
    const [width, height] = [Math.min(this.width, Math.ceil(right)) - left, Math.min(this.height, Math.ceil(bottom)) - top];
    if (width <= 0 || height <= 0) return;
    const [fx, fy] = [level.width / this.width, level.height / this.height];
    context.imageSmoothingEnabled = wanted < 3;
    context.drawImage(level, left * fx, top * fy, width * fx, height * fy, left, top, width, height);
    context.imageSmoothingEnabled = true;
  }

  // Whether the masks were drawn wherever the picture is now in sight.
  #covers() {
    const { layer } = this;
    const factor = this.scale / layer.scale;
    const edges = (start, beyond, length, from) => [start - (from + beyond) * factor, start - (from + beyond) * factor + (length + 2 * beyond) * factor];
    const [left, right] = edges(this.x, layer.beyondX, layer.width, layer.x);
    const [top, bottom] = edges(this.y, layer.beyondY, layer.height, layer.y);
    const seen = [Math.max(0, this.x), Math.max(0, this.y), Math.min(this.clientWidth, this.x + this.width * this.scale), Math.min(this.clientHeight, this.y + this.height * this.scale)];
    return seen[0] >= left - 1 && seen[1] >= top - 1 && seen[2] <= right + 1 && seen[3] <= bottom + 1 && factor < 3;
  }

  // Draws all masks into a canvas of their own, which reaches a little beyond the stage; a frame only has to put it in place.
  #drawLayer(scene) {
    clearTimeout(this.rest);
    const ratio = devicePixelRatio;
    const [beyondX, beyondY] = [Math.round(BEYOND * this.clientWidth), Math.round(BEYOND * this.clientHeight)];
    const [columns, rows] = [Math.ceil((this.clientWidth + 2 * beyondX) * ratio), Math.ceil((this.clientHeight + 2 * beyondY) * ratio)];
    this.sheet ??= new OffscreenCanvas(1, 1);
    if (this.sheet.width !== columns || this.sheet.height !== rows) [this.sheet.width, this.sheet.height] = [columns, rows];
    const context = this.sheet.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, columns, rows);
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * (this.x + beyondX), ratio * (this.y + beyondY));
    const window = [...this.toPicture(-beyondX, -beyondY), ...this.toPicture(this.clientWidth + beyondX, this.clientHeight + beyondY)];
    const shown = (scene.objects ?? []).filter((item) => item.mask && !item.hidden);
    const active = shown.find((item) => item.id === scene.active);
    if (this.show === "cutout") {
      for (const item of shown) this.#drawMask(context, item, window, "cutout");
      context.globalCompositeOperation = "source-in";
      this.#drawPicture(context);
      context.globalCompositeOperation = "source-over";
    } else {
      for (const item of shown) if (item !== active) this.#drawMask(context, item, window, "plain");
      if (active) this.#drawMask(context, active, window, "strong");
      for (const part of active?.partMasks ?? []) this.#drawPart(context, part, window);
    }
    const { scale, x, y, clientWidth: width, clientHeight: height } = this;
    this.layer = { scale, x, y, width, height, beyondX, beyondY };
  }

  #placeLayer() {
    const { context, layer, sheet } = this;
    const ratio = devicePixelRatio;
    const factor = this.scale / layer.scale;
    context.setTransform(1, 0, 0, 1, 0, 0);
    // At the same zoom, whole pixels on whole pixels: nothing is resampled.
    const even = factor === 1 ? Math.round : (value) => value;
    context.imageSmoothingEnabled = factor !== 1;
    const left = even(ratio * (this.x - (layer.x + layer.beyondX) * factor));
    const top = even(ratio * (this.y - (layer.y + layer.beyondY) * factor));
    context.drawImage(sheet, left, top, sheet.width * factor, sheet.height * factor);
    context.imageSmoothingEnabled = true;
  }

  #drawMask(context, { mask, color }, window, kind) {
    const seen = mask.view(window, this.scale * devicePixelRatio, color);
    if (!seen) return;
    if (this.show !== "outline") {
      context.globalAlpha = { cutout: 1, strong: 0.38, plain: 0.3 }[kind];
      context.imageSmoothingEnabled = this.scale * devicePixelRatio < 2;
      context.drawImage(seen.bitmap, seen.x, seen.y, seen.width, seen.height);
      context.globalAlpha = 1;
    }
    if (kind === "cutout") return;
    context.lineJoin = "round";
    const strong = kind === "strong";
    if (strong) {
      context.lineWidth = 4 / this.scale;
      context.strokeStyle = "rgba(0, 0, 0, 0.45)";
      context.stroke(seen.path);
    }
    context.lineWidth = (strong ? 2 : 1.25) / this.scale;
    context.strokeStyle = strong ? "#ffffff" : color;
    context.stroke(seen.path);
  }

  #drawPart(context, mask, window) {
    const seen = mask.view(window, this.scale * devicePixelRatio, "#ffffff");
    if (!seen) return;
    context.lineWidth = 1.5 / this.scale;
    context.setLineDash([5 / this.scale, 4 / this.scale]);
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
      const pen = tile.getContext("2d");
      pen.fillStyle = dark ? "#202228" : "#ffffff";
      pen.fillRect(0, 0, 20, 20);
      pen.fillStyle = dark ? "#2a2d34" : "#e9eaee";
      pen.fillRect(10, 0, 10, 10);
      pen.fillRect(0, 10, 10, 10);
      this.squares = { dark, pattern: context.createPattern(tile, "repeat") };
    }
    const ratio = devicePixelRatio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = this.squares.pattern;
    const [left, top] = [Math.max(0, this.x), Math.max(0, this.y)];
    context.fillRect(left, top, Math.min(this.clientWidth, this.x + this.width * this.scale) - left, Math.min(this.clientHeight, this.y + this.height * this.scale) - top);
  }

  #drawPreview(preview, color) {
    const { context } = this;
    const [height, width] = preview.size;
    const scale = (this.scale * this.width) / width;
    const seen = preview.view([0, 0, width, height], scale * devicePixelRatio, color);
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

  #drawStroke({ points, radius, adds }, color) {
    const { context } = this;
    context.globalAlpha = 0.6;
    context.strokeStyle = adds ? color : "#8a8f98";
    trace(context, points, radius);
    context.globalAlpha = 1;
  }

  #drawMarks({ clicks = [], box, draft }) {
    const { context } = this;
    for (const [rectangle, live] of [[box, false], [draft, true]]) {
      if (!rectangle) continue;
      const [sx, sy] = this.toScreen(rectangle[0], rectangle[1]);
      const [ex, ey] = this.toScreen(rectangle[2], rectangle[3]);
      for (const [color, offset] of [["rgba(0,0,0,.55)", 0], ["#ffffff", 5]]) {
        context.strokeStyle = color;
        context.lineWidth = live ? 2 : 1.5;
        context.setLineDash([5, 5]);
        context.lineDashOffset = offset;
        context.strokeRect(sx, sy, ex - sx, ey - sy);
      }
      context.setLineDash([]);
    }
    for (const { x, y, positive, waiting } of clicks) {
      const [sx, sy] = this.toScreen(x + 0.5, y + 0.5);
      context.beginPath();
      context.arc(sx, sy, 7, 0, 2 * Math.PI);
      context.fillStyle = positive ? "#12a150" : "#e5384f";
      context.globalAlpha = waiting ? 0.55 : 1;
      context.fill();
      context.lineWidth = 2;
      context.strokeStyle = "#ffffff";
      context.stroke();
      context.beginPath();
      context.moveTo(sx - 3, sy);
      context.lineTo(sx + 3, sy);
      if (positive) {
        context.moveTo(sx, sy - 3);
        context.lineTo(sx, sy + 3);
      }
      context.stroke();
      context.globalAlpha = 1;
    }
  }

  #drawPointer({ brush, cross }) {
    const { context } = this;
    if (brush) {
      const [sx, sy] = this.toScreen(brush.x, brush.y);
      for (const [color, width] of [["rgba(0,0,0,.6)", 3], [brush.adds ? "#ffffff" : "#ffb3bd", 1.5]]) {
        context.beginPath();
        context.arc(sx, sy, Math.max(1, brush.radius * this.scale), 0, 2 * Math.PI);
        context.strokeStyle = color;
        context.lineWidth = width;
        context.stroke();
      }
    }
    if (cross) {
      const [sx, sy] = this.toScreen(cross.x, cross.y);
      for (const [color, width] of [["rgba(0,0,0,.7)", 4], ["#ffffff", 2]]) {
        context.strokeStyle = color;
        context.lineWidth = width;
        context.beginPath();
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          context.moveTo(sx + 4 * dx, sy + 4 * dy);
          context.lineTo(sx + 14 * dx, sy + 14 * dy);
        }
        context.stroke();
      }
    }
  }
}

export function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// A stroke of a round brush; also used to find the pixels under it.
export function trace(context, points, radius) {
  context.lineWidth = 2 * radius;
  context.lineCap = context.lineJoin = "round";
  context.setLineDash([]);
  context.beginPath();
  context.moveTo(points[0][0], points[0][1]);
  for (const [x, y] of points) context.lineTo(x, y);
  context.lineTo(points.at(-1)[0] + 0.001, points.at(-1)[1]);
  context.stroke();
}
