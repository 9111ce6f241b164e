// Every key, in one table: the help window is made from it, so it cannot tell another story.

import { element } from "./panels.js";

export const KEYS = [
  ["Cut", [
    ["1", "click tool", "click"],
    ["2", "box tool", "box"],
    ["3", "brush: paint", "paint"],
    ["4", "brush: erase", "erase"],
    ["5", "scribble: a line over the object", "scribble"],
    ["a", "automatic mask", "auto"],
    ["Shift+a", "automatic mask, parts kept apart", "parts"],
    ["x", "the left button removes, or adds again", "flip"],
    ["o", "keep off the other objects", "avoid"],
    ["s", "split into its pieces", "split"],
    ["[", "smaller brush", "smaller"],
    ["]", "larger brush", "larger"],
  ]],
  ["Undo", [
    ["z", "take the last step back", "undo"],
    ["Shift+z", "make it again", "redo"],
    ["Escape", "let go of a box or a line", "escape"],
  ]],
  ["Objects", [
    ["n", "new object", "add"],
    ["r", "name it", "rename"],
    ["j", "next object", "nextObject"],
    ["k", "previous object", "previousObject"],
    ["h", "hide it, or show it", "hide"],
    ["Delete", "throw it away (Z: back again)", "remove"],
  ]],
  ["Look", [
    ["f", "whole picture", "fit"],
    ["+", "closer", "closer"],
    ["-", "farther", "farther"],
    ["0", "one pixel for one", "actual"],
    ["v", "fill, outline, cut-out", "show"],
    ["p", "preview under the pointer", "previews"],
    ["t", "light, dark", "theme"],
  ]],
  ["Pictures", [
    ["PageDown", "next picture", "nextPicture"],
    ["PageUp", "previous picture", "previousPicture"],
    ["u", "add pictures", "upload"],
    ["e", "export", "exports"],
    ["?", "this help", "help"],
  ]],
];

const MOUSE = [
  ["left button", "adds to the object"],
  ["right button", "removes from it (also Alt + left)"],
  ["wheel", "closer, farther"],
  ["Space + drag", "move the picture (also the middle button)"],
  ["arrow keys", "move the cross-hair (Shift: far, Alt: near)"],
  ["Enter, Backspace", "add, remove at the cross-hair"],
];

const TABLE = new Map(KEYS.flatMap(([, rows]) => rows.map(([key, , action]) => [key, action])));

export function listen(actions, tools) {
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=color]):not([type=radio]):not([type=checkbox]), textarea, select");
    if (typing || document.querySelector("dialog[open]")) return;
    if ((event.ctrlKey || event.metaKey) && /^[zy]$/i.test(event.key)) {
      event.preventDefault();
      actions[event.shiftKey || event.key.toLowerCase() === "y" ? "redo" : "undo"]();
      return;
    }
    if (event.ctrlKey || event.metaKey) return;
    if (event.key === " " && event.target.tagName !== "BUTTON") {
      event.preventDefault();
      tools.space = true;
      return;
    }
    if ((event.target.id === "canvas" || event.target === document.body) && tools.key(event)) {
      event.preventDefault();
      return;
    }
    const letter = event.key.length === 1 && /[a-z]/i.test(event.key);
    const name = letter ? (event.shiftKey ? "Shift+" : "") + event.key.toLowerCase() : event.key === "=" ? "+" : event.key;
    const action = TABLE.get(name);
    if (!action || event.altKey) return;
    event.preventDefault();
    actions[action]();
  });
  addEventListener("keyup", (event) => {
    if (event.key === " ") tools.space = false;
  });
}

export function fillHelp(place) {
  const section = (title, rows) => {
    const list = element("dl");
    for (const [key, text] of rows) {
      const keys = element("dt", {}, ...key.split(/(?<=.)\+(?=.)/).map((part) => element("kbd", { text: part.length === 1 ? part.toUpperCase() : part })));
      list.append(element("div", {}, keys, element("dd", { text })));
    }
    return element("section", {}, element("h3", { text: title }), list);
  };
  place.append(...KEYS.map(([title, rows]) => section(title, rows)), section("Mouse and cross-hair", MOUSE));
}
