// @ts-check
// The table of actions is whole, and keys do what it says: on every keyboard, while something is typed, and while a key is held.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test, { beforeEach } from "node:test";

import { actionAt, actionNamed, ACTIONS, enabled, hint, keyGroups, keyOf, possible } from "../../src/fretsaw/server/static/actions.js";
import { keyName, listen, nameButton, press } from "../../src/fretsaw/server/static/keys.js";

/** @typedef {import("../../src/fretsaw/server/static/work.js").Work} Work */

const page = readFileSync(new URL("../../src/fretsaw/server/static/index.html", import.meta.url), "utf8");
/** @type {readonly import("../../src/fretsaw/server/static/actions.js").Action[]} */
const actions = ACTIONS;
const body = { tagName: "BODY" };
const canvas = { tagName: "CANVAS", id: "canvas" };
const button = { tagName: "BUTTON" };
/** @type {(type: string) => object} */
const input = (type) => ({ tagName: "INPUT", type });

/** @type {string[]} */
let done = [];
/** @type {string[]} */
let asked = []; // of the hand on the canvas
const tools = {
  space: false,
  key: (/** @type {KeyboardEvent} */ event) => {
    asked.push(event.key);
    return event.key.startsWith("Arrow") || event.key === "Enter" || event.key === "Backspace";
  },
};
let dialog = /** @type {object | null} */ (null);

/** @param {object} parts */
const as = (parts) => /** @type {Work} */ (parts);

beforeEach(() => {
  done = [];
  asked = [];
  tools.space = false;
  dialog = null;
  Object.assign(globalThis, { document: { body, querySelector: () => dialog } });
});

/**
 * Presses a key; returns what was done, and whether the browser's own doing was kept off.
 * @param {string} key
 * @param {{ target?: object, graph?: boolean, shiftKey?: boolean, ctrlKey?: boolean, metaKey?: boolean, altKey?: boolean, repeat?: boolean }} [how]
 */
function pressing(key, { target = body, graph = false, ...how } = {}) {
  let prevented = false;
  const event = { key, target, shiftKey: false, ctrlKey: false, metaKey: false, altKey: false, repeat: false, ...how };
  Object.assign(event, { getModifierState: (/** @type {string} */ name) => name === "AltGraph" && graph, preventDefault: () => (prevented = true) });
  done = [];
  press(/** @type {KeyboardEvent} */ (/** @type {unknown} */ (event)), (name) => done.push(name), tools);
  return [...done, prevented];
}

test("names and keys are written once, and every key shows in the help with its label", () => {
  const keys = actions.flatMap(({ key }) => key ?? []);
  assert.equal(new Set(keys).size, keys.length);
  assert.equal(new Set(actions.map(({ name }) => name)).size, actions.length);
  const shown = keyGroups().flatMap(([, rows]) => rows);
  assert.deepEqual(shown.toSorted(), actions.flatMap(({ key, label }) => (key ? [[key, label]] : [])).toSorted());
  for (const { name, label, via } of actions) {
    assert.match(label, /^[A-Z][^.]*[^.]$/, name);
    if (via) assert.ok(actionNamed(via).key, `${name} by way of ${via}`);
  }
});

test("every button of the page stands for an action; no key or label of an action is written there", () => {
  const tags = [...page.matchAll(/<button ([^>]*data-action="(\w+)"[^>]*)>(.*?)<\/button>/g)];
  assert.ok(tags.length > 25);
  for (const [, attributes, name] of tags) {
    assert.ok(actionNamed(name));
    assert.doesNotMatch(attributes, /aria-label|title|aria-keyshortcuts|disabled/, name);
  }
  const buttonless = actions.filter(({ name, key }) => !key && !tags.some(([, , named]) => named === name));
  assert.deepEqual(buttonless, []);
});

test("a button is named by its action, its words stay part of the name, and the tooltip shows the key", () => {
  const named = (/** @type {string} */ action, /** @type {string} */ textContent) => {
    /** @type {{ [name: string]: string }} */
    const attributes = {};
    const fake = { dataset: { action }, textContent, title: "", setAttribute: (/** @type {string} */ name, /** @type {string} */ value) => (attributes[name] = value) };
    nameButton(/** @type {HTMLElement} */ (/** @type {unknown} */ (fake)));
    return { ...attributes, title: fake.title };
  };
  assert.deepEqual(named("redo", ""), { "aria-label": "Redo", title: "Redo (Shift+Z)", "aria-keyshortcuts": "Shift+Z" });
  assert.deepEqual(named("click", "Click"), { "aria-label": "Click tool", title: "Click tool (1)", "aria-keyshortcuts": "1" });
  assert.deepEqual(named("upload", "choose files"), { title: "Add pictures (U)", "aria-keyshortcuts": "U" });
  assert.deepEqual(named("reset", ""), { "aria-label": "Start this object over", title: "Start this object over" });
  assert.match(named("removes", "Remove").title, /\(X\)$/);
  assert.throws(() => named("nothing", ""), /no action nothing/);
  assert.equal(keyOf("nextPicture"), "PageDown");
  assert.equal(hint(actionNamed("larger")), "Larger brush (])");
});

test("without a picture, or before the server has told what it can, nothing is possible that needs either", () => {
  const empty = as({ picture: null, object: null, objects: [], about: null, list: { images: [] }, waiting: 0, undoable: false, redoable: false });
  const can = actions.filter((action) => enabled(action, empty)).map(({ name }) => name);
  assert.deepEqual(can.toSorted(), ["adds", "cutout", "escape", "fill", "flip", "help", "larger", "outline", "previews", "removes", "show", "smaller", "theme", "upload"]);
  const object = { id: 1, area: 5, undoable: 1, redoable: 0 };
  const full = { ...empty, picture: {}, object, objects: [object], about: { modes: ["click"] }, list: { images: [{}] }, undoable: true, redoable: true };
  const cannot = actions.filter((action) => !enabled(action, as(full))).map(({ name }) => name);
  assert.deepEqual(cannot, ["auto", "avoid"]);
  assert.ok(enabled(actionNamed("avoid"), as({ ...full, objects: [object, { id: 2, area: 3 }] })));
});

test("where a server is there to be looked at, nothing is offered that it would refuse", () => {
  const object = { id: 1, area: 5, undoable: 1, redoable: 1 };
  const parts = { picture: {}, object, objects: [object, { id: 2, area: 3 }], list: { images: [{}] }, undoable: true, redoable: true, waiting: 0 };
  const cannot = (/** @type {boolean} */ read_only) => actions.filter((action) => !enabled(action, as({ ...parts, about: { modes: ["auto"], read_only } }))).map(({ name }) => name);
  assert.deepEqual(cannot(false), []);
  assert.deepEqual(cannot(true), ["auto", "parts", "avoid", "split", "reset", "undo", "redo", "add", "rename", "hide", "remove", "upload"]);
});

test("undo and redo may be asked for while the server has yet to answer", () => {
  const waiting = as({ waiting: 1, undoable: false, redoable: false, object: null });
  for (const name of ["undo", "redo"]) assert.deepEqual([enabled(actionNamed(name), waiting), possible(actionNamed(name), waiting)], [false, true]);
  assert.equal(possible(actionNamed("split"), waiting), false);
});

test("every key of the table does its action", () => {
  for (const { name, key } of actions) {
    if (!key) continue;
    const [shiftKey, plain] = key.startsWith("Shift+") ? [true, key.slice(6).toUpperCase()] : [false, key];
    assert.deepEqual(pressing(plain, { shiftKey }), [name, true]);
    assert.equal(actionAt(keyName({ key: plain, shiftKey }))?.name, name);
  }
  assert.deepEqual(pressing("q"), [false]);
});

test("Shift for a sign does not change it, capital letters by Caps Lock do not either", () => {
  assert.deepEqual(pressing("?", { shiftKey: true }), ["help", true]);
  assert.deepEqual(pressing("1", { shiftKey: true }), ["click", true]); // where digits need it
  assert.deepEqual(pressing("="), ["closer", true]);
  assert.deepEqual(pressing("Z"), ["undo", true]);
});

test("Ctrl and Command undo and redo, and leave everything else to the browser", () => {
  for (const held of [{ ctrlKey: true }, { metaKey: true }]) {
    assert.deepEqual(pressing("z", held), ["undo", true]);
    assert.deepEqual(pressing("Z", { ...held, shiftKey: true }), ["redo", true]);
    assert.deepEqual(pressing("y", held), ["redo", true]);
    for (const key of ["a", "s", "r", "+", "0", " ", "f"]) assert.deepEqual(pressing(key, held), [false]);
  }
  assert.deepEqual(pressing("n", { altKey: true }), [false]);
  assert.deepEqual(pressing("PageDown", { altKey: true }), [false]);
});

test("signs that a keyboard makes with AltGr or Option count as themselves", () => {
  assert.deepEqual(pressing("[", { graph: true, ctrlKey: true, altKey: true }), ["smaller", true]); // Windows
  assert.deepEqual(pressing("]", { graph: true }), ["larger", true]); // Linux
  assert.deepEqual(pressing("[", { altKey: true }), ["smaller", true]); // macOS
});

test("what is typed is text", () => {
  for (const target of [input("text"), input("search"), { tagName: "TEXTAREA" }, { tagName: "SELECT" }])
    for (const key of ["z", "Delete", "?", " "]) assert.deepEqual(pressing(key, { target }), [false]);
  dialog = {};
  assert.deepEqual(pressing("z"), [false]);
});

test("keys work while a slider, a box to tick or a colour has the focus; what those use themselves is left to them", () => {
  for (const type of ["range", "checkbox", "radio", "color"]) {
    assert.deepEqual(pressing("z", { target: input(type) }), ["undo", true], type);
    assert.deepEqual(pressing(" ", { target: input(type) }), [false], type);
    assert.deepEqual(pressing("ArrowUp", { target: input(type) }), [false], type);
  }
  assert.deepEqual(pressing("PageDown", { target: input("range") }), [false]);
  assert.deepEqual(pressing(" ", { target: button }), [false]);
  assert.equal(tools.space, false);
});

test("the hand on the canvas comes first, and only there", () => {
  assert.deepEqual(pressing("ArrowLeft", { target: canvas }), [true]);
  assert.deepEqual(pressing("Backspace", { target: canvas, shiftKey: true }), [true]);
  assert.deepEqual(pressing("n", { target: canvas }), ["add", true]);
  assert.deepEqual(asked, ["ArrowLeft", "Backspace", "n"]);
  assert.deepEqual(pressing("ArrowLeft", { target: button }), [false]);
  assert.equal(asked.length, 3);
});

test("a key that is held down repeats what moves on, and nothing that makes or destroys", () => {
  const repeating = actions.filter(({ key }) => key && pressing(key.replace("Shift+", ""), { repeat: true, shiftKey: key.startsWith("Shift+") }).length > 1);
  assert.deepEqual(repeating.map(({ name }) => name).toSorted(), [
    "closer", "farther", "larger", "nextObject", "nextPicture", "previousObject", "previousPicture", "redo", "smaller", "undo",
  ]);
  assert.deepEqual(pressing("Delete", { repeat: true }), [true]);
});

test("the space bar moves the picture until it is let go, or the window is left", () => {
  /** @type {{ [name: string]: (event: object) => void }} */
  const heard = {};
  Object.assign(globalThis, { addEventListener: (/** @type {string} */ name, /** @type {(event: object) => void} */ act) => (heard[name] = act) });
  listen((name) => done.push(name), tools);
  for (const end of [() => heard.keyup({ key: " " }), () => heard.blur({})]) {
    assert.deepEqual(pressing(" ", { target: canvas }), [true]);
    assert.equal(tools.space, true);
    end();
    assert.equal(tools.space, false);
  }
  pressing(" ");
  heard.keyup({ key: "z" });
  assert.equal(tools.space, true);
});
