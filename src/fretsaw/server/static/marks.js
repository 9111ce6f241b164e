// What lies over the picture and keeps its size on the screen: clicks, scribbles, boxes, the pointer; and the line of a brush.

const SIGNS = { true: "#12a150", false: "#e5384f" };

// Clicks, scribbles and boxes. A scribble's sign stands where it begins.
export function drawMarks(view, { clicks = [], scribbles = [], scribble, box, draft }) {
  const { context } = view;
  for (const [rectangle, live] of [[box, false], [draft, true]]) {
    if (!rectangle) continue;
    const [sx, sy] = view.toScreen(rectangle[0], rectangle[1]);
    const [ex, ey] = view.toScreen(rectangle[2], rectangle[3]);
    for (const [color, offset] of [["rgba(0,0,0,.55)", 0], ["#ffffff", 5]]) {
      context.strokeStyle = color;
      context.lineWidth = live ? 2 : 1.5;
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
    for (const [color, radius] of [["#ffffff", 3.5], [SIGNS[positive], 2]]) {
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
    context.fillStyle = SIGNS[positive];
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
export function drawPointer(view, { brush, cross }) {
  const { context } = view;
  if (brush) {
    const [sx, sy] = view.toScreen(brush.x, brush.y);
    for (const [color, width] of [["rgba(0,0,0,.6)", 3], [brush.adds ? "#ffffff" : "#ffb3bd", 1.5]]) {
      context.beginPath();
      context.arc(sx, sy, Math.max(1, brush.radius * view.scale), 0, 2 * Math.PI);
      context.strokeStyle = color;
      context.lineWidth = width;
      context.stroke();
    }
  }
  if (cross) {
    const [sx, sy] = view.toScreen(cross.x, cross.y);
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
