// The canvas: the picture, masks, clicks and the pointer, drawn at most once a frame. Coordinates named x, y are edge coordinates of the picture (a
// pixel's centre lies half a pixel inside it); sx, sy are those of the screen.

const LEAST = 0.02;
const MOST = 40;

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
    new ResizeObserver(() => this.#resize()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // Takes a picture and makes halved copies: drawing from the nearest larger one is quick and smooth at any zoom.
  async setPicture(bitmap) {
    this.levels = [bitmap];
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.fit(false);
    let last = bitmap;
    while (Math.max(last.width, last.height) > 1024) {
      last = await createImageBitmap(last, { resizeWidth: Math.ceil(last.width / 2), resizeHeight: Math.ceil(last.height / 2), resizeQuality: "medium" });
      if (this.levels[0] !== bitmap) return;
      this.levels.push(last);
    }
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
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!this.width || !width) return;
    const margin = Math.min(48, width / 12);
    const scale = Math.min((width - margin) / this.width, (height - margin) / this.height, 8);
    this.#goTo(scale, (width - this.width * scale) / 2, (height - this.height * scale) / 2, smooth);
  }

  zoomTo(scale, sx = this.canvas.clientWidth / 2, sy = this.canvas.clientHeight / 2, smooth = false) {
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
    const dx = Math.max(margin - sx, 0) + Math.min(this.canvas.clientWidth - margin - sx, 0);
    const dy = Math.max(margin - sy, 0) + Math.min(this.canvas.clientHeight - margin - sy, 0);
    if (dx || dy) this.pan(dx, dy);
  }

  #goTo(scale, x, y, smooth) {
    cancelAnimationFrame(this.flight);
    const { clientWidth, clientHeight } = this.canvas;
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
    const style = getComputedStyle(this.canvas);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = style.getPropertyValue("background-color");
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.levels.length) return;
    const scene = this.scene();
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    if (this.show === "cutout") this.#drawCutout(scene);
    else {
      this.#drawPicture();
      for (const item of scene.objects ?? []) if (!item.hidden && item.id !== scene.active) this.#drawMask(item, false);
      const active = (scene.objects ?? []).find((item) => item.id === scene.active);
      if (active) this.#drawMask(active, true);
    }
    if (scene.preview) this.#drawPreview(scene.preview, scene.color);
    if (scene.stroke) this.#drawStroke(scene.stroke, scene.color);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#drawMarks(scene);
    this.#drawPointer(scene);
  }

  #drawPicture() {
    const wanted = this.scale * devicePixelRatio;
    const level = this.levels.findLast((bitmap) => bitmap.width >= this.width * wanted) ?? this.levels[0];
    this.context.imageSmoothingEnabled = wanted < 3;
    this.context.drawImage(level, 0, 0, this.width, this.height);
    this.context.imageSmoothingEnabled = true;
  }

  #drawMask({ shape, color }, strong) {
    const { context } = this;
    if (!shape) return;
    const [x0, y0] = shape.box;
    const path = shape.path(this.scale * devicePixelRatio);
    if (this.show === "fill") {
      context.globalAlpha = strong ? 0.38 : 0.3;
      context.imageSmoothingEnabled = this.scale * devicePixelRatio < 2;
      context.drawImage(shape.bitmap, x0, y0, ...shape.covered);
      context.globalAlpha = 1;
    }
    context.lineJoin = "round";
    if (strong) {
      context.lineWidth = 4 / this.scale;
      context.strokeStyle = "rgba(0, 0, 0, 0.45)";
      context.stroke(path);
    }
    context.lineWidth = (strong ? 2 : 1.25) / this.scale;
    context.strokeStyle = strong ? "#ffffff" : color;
    context.stroke(path);
  }

  // The shown objects alone on a chequered ground.
  #drawCutout(scene) {
    const { context } = this;
    const dark = isDark();
    const side = 10 / this.scale;
    context.fillStyle = dark ? "#202228" : "#ffffff";
    context.fillRect(0, 0, this.width, this.height);
    context.save();
    context.beginPath();
    context.rect(0, 0, this.width, this.height);
    context.clip();
    context.fillStyle = dark ? "#2a2d34" : "#e9eaee";
    const [left, top] = this.toPicture(0, 0);
    const [right, bottom] = this.toPicture(this.canvas.clientWidth, this.canvas.clientHeight);
    const last = [Math.min(right, this.width), Math.min(bottom, this.height)];
    for (let j = Math.floor(Math.max(0, top) / side); j * side < last[1]; j++)
      for (let i = Math.floor(Math.max(0, left) / side); i * side < last[0]; i++) if ((i + j) % 2) context.fillRect(i * side, j * side, side, side);
    context.restore();
    context.save();
    const all = new Path2D();
    for (const item of scene.objects ?? []) if (item.shape && !item.hidden) all.addPath(item.shape.path(this.scale * devicePixelRatio));
    context.clip(all);
    this.#drawPicture();
    context.restore();
  }

  #drawPreview(preview, color) {
    const { context } = this;
    const [height, width] = preview.size;
    context.save();
    context.scale(this.width / width, this.height / height);
    const [x0, y0] = preview.box;
    context.globalAlpha = 0.28;
    context.drawImage(preview.bitmap, x0, y0, ...preview.covered);
    context.globalAlpha = 1;
    const unit = width / this.width / this.scale;
    context.lineWidth = 1.5 * unit;
    context.setLineDash([6 * unit, 4 * unit]);
    context.strokeStyle = "#ffffff";
    context.stroke(preview.path((devicePixelRatio * this.scale * this.width) / width));
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
