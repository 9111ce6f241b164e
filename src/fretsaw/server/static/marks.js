// @ts-check
// What lies over the picture and keeps its size on the screen: clicks, scribbles, boxes, the pointer; and the line of a brush.

/** @typedef {import("./masks.js").Box} Box */
/** @typedef {[x: number, y: number]} Point */
/** @typedef {{ x: number, y: number, positive: boolean, waiting?: boolean }} Click */
/** @typedef {{ points: Point[], positive: boolean, waiting?: boolean }} Scribble */

/**
 * What there is to draw: boxes, and a draft of one, are x0, y0, x1, y1 on the picture.
 * @typedef {object} Marks
 * @property {Click[]} clicks
 * @property {Scribble[]} scribbles
 * @property {Scribble | null} scribble The one that is being drawn.
 * @property {Box | null} box
 * @property {Box | null} draft
 */

/** @typedef {{ x: number, y: number }} Place On the picture. */

/**
 * @typedef {object} Pointer
 * @property {(Place & { radius: number, adds: boolean }) | null} brush
 * @property {Place | null} cross
 */

const ADDS = "#12a150";
const REMOVES = "#e5384f";

// Clicks, scribbles and boxes. A scribble's sign stands where it begins.
/** @param {import("./view.js").View} view @param {Marks} marks */
export function drawMarks(view, { clicks, scribbles, scribble, box, draft }) {
  const { context } = view;
  for (const rectangle of [box, draft]) {
    if (!rectangle) continue;
    const [sx, sy] = view.toScreen(rectangle[0], rectangle[1]);
    const [ex, ey] = view.toScreen(rectangle[2], rectangle[3]);
    for (const { color, offset } of [{ color: "rgba(0,0,0,.55)", offset: 0 }, { color: "#ffffff", offset: 5 }]) {
      context.strokeStyle = color;
      context.lineWidth = rectangle === draft ? 2 : 1.5;
      context.setLineDash([5, 5]);
      context.lineDashOffset = offset;
      context.strokeRect(sx, sy, ex - sx, ey - sy);
    }
    context.setLineDash([]);
  }
  const lines = scribble?.points.length ? [...scribbles, scribble] : scribbles;
  for (const { points, positive, waiting } of lines) {
    const line = points.map(([x, y]) => view.toScreen(x + 0.5, y + 0.5));
    context.globalAlpha = waiting ? 0.55 : 1;
    for (const { color, radius } of [{ color: "#ffffff", radius: 3.5 }, { color: positive ? ADDS : REMOVES, radius: 2 }]) {
      context.strokeStyle = color;
      trace(context, line, radius);
    }
    context.globalAlpha = 1;
  }
  const begun = lines.map(({ points: [[x, y]], positive, waiting }) => ({ x, y, positive, waiting }));
  for (const { x, y, positive, waiting } of [...begun, ...clicks]) {
    const [sx, sy] = view.toScreen(x + 0.5, y + 0.5);
    context.beginPath();
    context.arc(sx, sy, 7, 0, 2 * Math.PI);
    context.fillStyle = positive ? ADDS : REMOVES;
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

// What follows the hand: the brush, or the cross-hair of the arrow keys.
/** @param {import("./view.js").View} view @param {Pointer} pointer */
export function drawPointer(view, { brush, cross }) {
  const { context } = view;
  if (brush) {
    const [sx, sy] = view.toScreen(brush.x, brush.y);
    for (const { color, width } of [{ color: "rgba(0,0,0,.6)", width: 3 }, { color: brush.adds ? "#ffffff" : "#ffb3bd", width: 1.5 }]) {
      context.beginPath();
      context.arc(sx, sy, Math.max(1, brush.radius * view.scale), 0, 2 * Math.PI);
      context.strokeStyle = color;
      context.lineWidth = width;
      context.stroke();
    }
  }
  if (cross) {
    const [sx, sy] = view.toScreen(cross.x, cross.y);
    for (const { color, width } of [{ color: "rgba(0,0,0,.7)", width: 4 }, { color: "#ffffff", width: 2 }]) {
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

// A stroke of a round brush; also used to find the pixels under it.
/** @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context @param {Point[]} points @param {number} radius */
export function trace(context, points, radius) {
  context.lineWidth = 2 * radius;
  context.lineCap = context.lineJoin = "round";
  context.setLineDash([]);
  context.beginPath();
  context.moveTo(points[0][0], points[0][1]);
  for (const [x, y] of points) context.lineTo(x, y);
  const [x, y] = points[points.length - 1];
  context.lineTo(x + 0.001, y);
  context.stroke();
}
