// @ts-check
// What the keys do: actions of the table in actions.js, the hand on the canvas, and the space bar, which moves the picture while it is held.

import { actionAt, actionNamed, hint, keyGroups, printed } from "./actions.js";
import { element } from "./panels.js";

/** @typedef {import("./actions.js").ActionName} ActionName */
/** @typedef {{ key(event: KeyboardEvent): boolean, space: boolean }} Hand What is used of the tools. */

/** @type {[key: string, label: string][]} */
const HAND = [
  ["left button", "adds to the object"],
  ["right button", "removes from it (also Alt + left)"],
  ["wheel", "closer, farther"],
  ["Space + drag", "move the picture (also the middle button)"],
  ["arrow keys", "move the cross-hair (Shift: far, Alt: near)"],
  ["Enter, Backspace", "add, remove at the cross-hair"],
];

const NO_TEXT = ["button", "checkbox", "color", "file", "radio", "range"];
const PRESSED_BY_SPACE = ["A", "BUTTON", "INPUT", "SUMMARY"];

/** @param {EventTarget | null} target */
const nodeOf = (target) => /** @type {{ tagName?: string, id?: string, type?: string }} */ (target ?? {});

/** @param {EventTarget | null} target */
function takesText(target) {
  const { tagName, type } = nodeOf(target);
  return tagName === "TEXTAREA" || tagName === "SELECT" || (tagName === "INPUT" && !NO_TEXT.includes(type ?? ""));
}

/**
 * The key's name in the table of actions.
 * @param {{ key: string, shiftKey: boolean }} event
 */
export function keyName({ key, shiftKey }) {
  if (key === "=") return "+"; // the same key without Shift, on many keyboards
  return /^[a-z]$/i.test(key) ? (shiftKey ? "Shift+" : "") + key.toLowerCase() : key;
}

/**
 * Does what a key is for.
 * @param {KeyboardEvent} event
 * @param {(action: ActionName) => void} perform
 * @param {Hand} tools
 */
export function press(event, perform, tools) {
  const { target, key } = event;
  const { tagName, id, type } = nodeOf(target);
  if (takesText(target) || document.querySelector("dialog[open]")) return;
  // AltGr, which Windows reports as Ctrl + Alt, and Option make characters that many keyboards do not have otherwise: what counts is the character.
  const graph = event.getModifierState("AltGraph");
  if ((event.ctrlKey || event.metaKey) && !graph) {
    if (!/^[zy]$/i.test(key)) return;
    event.preventDefault();
    perform(event.shiftKey || key.toLowerCase() === "y" ? "redo" : "undo");
    return;
  }
  if (key === " ") {
    if (PRESSED_BY_SPACE.includes(tagName ?? "")) return;
    event.preventDefault();
    tools.space = true;
    return;
  }
  if ((id === "canvas" || target === document.body) && tools.key(event)) {
    event.preventDefault();
    return;
  }
  if (type === "range" && key.startsWith("Page")) return; // moves the slider
  const action = actionAt(keyName(event));
  if (!action || (event.altKey && !graph && /^[a-z0-9]$|^\w{2,}$/i.test(key))) return;
  event.preventDefault();
  if (!event.repeat || action.repeats) perform(action.name);
}

/** @param {(action: ActionName) => void} perform @param {Hand} tools */
export function listen(perform, tools) {
  addEventListener("keydown", (event) => press(event, perform, tools));
  addEventListener("keyup", (event) => {
    if (event.key === " ") tools.space = false;
  });
  // A key that is let go in another window is not heard of here.
  addEventListener("blur", () => {
    tools.space = false;
  });
}

/** @param {Element} place */
export function fillHelp(place) {
  const section = (/** @type {string} */ title, /** @type {[string, string][]} */ rows) => {
    const list = element("dl");
    for (const [key, text] of rows) {
      const parts = printed(key).split(/(?<=.)\+(?=.)/);
      list.append(element("div", {}, element("dt", {}, ...parts.map((part) => element("kbd", { text: part }))), element("dd", { text })));
    }
    return element("section", {}, element("h3", { text: title }), list);
  };
  place.append(...keyGroups().map(([title, rows]) => section(title, rows)), section("Mouse and cross-hair", HAND));
}

// Names a button after its action, and shows the key in its tooltip. Words that stand on the button belong to its name, or are its name.
/** @param {HTMLElement} button */
export function nameButton(button) {
  const action = actionNamed(button.dataset.action ?? "");
  const words = button.textContent?.trim() ?? "";
  if (action.label.toLowerCase().includes(words.toLowerCase())) button.setAttribute("aria-label", action.label);
  button.title = hint(action);
  if (action.key) button.setAttribute("aria-keyshortcuts", printed(action.key));
}
