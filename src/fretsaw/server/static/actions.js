// @ts-check
// Every action of the page, in one table: its name, its key, what it is called, and when it can be done. Buttons, keys and the help window are made from it.

/** @typedef {import("./work.js").Work} Work */

/**
 * @typedef {object} Action
 * @property {string} name As in a button's data-action.
 * @property {string} group Under which the help window shows it.
 * @property {string} label What it is called: the button's name and its tooltip, and the help.
 * @property {string} [key] Letters are small here; "Shift+z" is a capital one.
 * @property {string} [via] The action whose key comes to it too, in turn with others.
 * @property {(work: Work) => unknown} [can] Whether it can be done now; without it, always.
 * @property {boolean} [changes] Whether it changes what is saved; a server that is there to be looked at refuses that.
 * @property {boolean} [queues] Whether it may also be asked for while the server has yet to answer, since that may make it possible.
 * @property {boolean} [repeats] Whether a key that is held down does it again and again.
 */

/** @param {Work} work */
const picture = (work) => work.picture;
/** @param {Work} work */
const object = (work) => work.object;
/** @param {Work} work */
const cut = (work) => work.object?.area;
/** @param {Work} work */
const overlaps = (work) => cut(work) && work.objects.some((other) => other !== work.object && other.area);

/** @satisfies {readonly Action[]} */
export const ACTIONS = /** @type {const} */ ([
  { name: "click", group: "Cut", key: "1", label: "Click tool", can: picture },
  { name: "box", group: "Cut", key: "2", label: "Box tool", can: picture },
  { name: "paint", group: "Cut", key: "3", label: "Brush", can: picture },
  { name: "erase", group: "Cut", key: "4", label: "Eraser", can: picture },
  { name: "scribble", group: "Cut", key: "5", label: "Scribble tool: a line over the object", can: picture },
  { name: "auto", group: "Cut", key: "a", label: "Automatic mask", changes: true, can: (work) => work.picture && work.about?.modes.includes("auto") },
  { name: "parts", group: "Cut", key: "Shift+a", label: "Automatic mask, parts kept apart", changes: true, can: picture },
  { name: "adds", group: "Cut", via: "flip", label: "Add: the left button adds to the object" },
  { name: "removes", group: "Cut", via: "flip", label: "Remove: the left button removes from the object" },
  { name: "flip", group: "Cut", key: "x", label: "The left button removes, or adds again" },
  { name: "avoid", group: "Cut", key: "o", label: "Keep off the other objects", changes: true, can: overlaps },
  { name: "split", group: "Cut", key: "s", label: "Split into its pieces", changes: true, can: cut },
  { name: "reset", group: "Cut", label: "Start this object over", changes: true, can: (work) => work.object?.undoable || work.object?.redoable },
  { name: "smaller", group: "Cut", key: "[", label: "Smaller brush", repeats: true },
  { name: "larger", group: "Cut", key: "]", label: "Larger brush", repeats: true },

  { name: "undo", group: "Undo", key: "z", label: "Undo", changes: true, can: (work) => work.undoable, queues: true, repeats: true },
  { name: "redo", group: "Undo", key: "Shift+z", label: "Redo", changes: true, can: (work) => work.redoable, queues: true, repeats: true },
  { name: "escape", group: "Undo", key: "Escape", label: "Let go of a box or a line" },

  { name: "add", group: "Objects", key: "n", label: "New object", changes: true, can: picture },
  { name: "rename", group: "Objects", key: "r", label: "Name the object", changes: true, can: object },
  { name: "nextObject", group: "Objects", key: "j", label: "Next object", can: (work) => work.objects.length, repeats: true },
  { name: "previousObject", group: "Objects", key: "k", label: "Previous object", can: (work) => work.objects.length, repeats: true },
  { name: "hide", group: "Objects", key: "h", label: "Hide the object, or show it", changes: true, can: object },
  { name: "remove", group: "Objects", key: "Delete", label: "Throw the object away; undo brings it back", changes: true, can: object },

  { name: "fit", group: "Look", key: "f", label: "Whole picture", can: picture },
  { name: "closer", group: "Look", key: "+", label: "Closer", can: picture, repeats: true },
  { name: "farther", group: "Look", key: "-", label: "Farther", can: picture, repeats: true },
  { name: "actual", group: "Look", key: "0", label: "One pixel for one", can: picture },
  { name: "fill", group: "Look", via: "show", label: "Fill" },
  { name: "outline", group: "Look", via: "show", label: "Outline" },
  { name: "cutout", group: "Look", via: "show", label: "Cut-out" },
  { name: "show", group: "Look", key: "v", label: "Fill, outline or cut-out" },
  { name: "previews", group: "Look", key: "p", label: "Preview under the pointer" },
  { name: "theme", group: "Look", key: "t", label: "Light or dark" },

  { name: "nextPicture", group: "Pictures", key: "PageDown", label: "Next picture", can: (work) => work.list.images.length, repeats: true },
  { name: "previousPicture", group: "Pictures", key: "PageUp", label: "Previous picture", can: (work) => work.list.images.length, repeats: true },
  { name: "upload", group: "Pictures", key: "u", label: "Add pictures", changes: true },
  { name: "exports", group: "Pictures", key: "e", label: "Export", can: picture },
  { name: "help", group: "Pictures", key: "?", label: "Keys and help" },
]);

/** @typedef {(typeof ACTIONS)[number]["name"]} ActionName */

/** @type {ReadonlyMap<string, Action & { name: ActionName }>} */
const BY_NAME = new Map(ACTIONS.map((action) => [action.name, action]));
/** @type {ReadonlyMap<string, Action & { name: ActionName }>} */
const BY_KEY = new Map([...BY_NAME.values()].flatMap((action) => (action.key ? [[action.key, action]] : [])));

/** @param {string} name @returns {Action & { name: ActionName }} */
export function actionNamed(name) {
  const action = BY_NAME.get(name);
  if (!action) throw new Error(`there is no action ${name}`);
  return action;
}

/** @param {string} key As in the table. */
export const actionAt = (key) => BY_KEY.get(key) ?? null;

// Whether a button for it can be pressed.
/** @param {Action} action @param {Work} work */
export const enabled = (action, work) => !(action.changes && work.about?.read_only) && Boolean(action.can ? action.can(work) : true);

// Whether it may be asked for: what the server is about to answer may make it possible.
/** @param {Action} action @param {Work} work */
export const possible = (action, work) => enabled(action, work) || Boolean(action.queues && work.waiting);

// A key as people read it: capital letters, as they are printed on the keys.
/** @param {string} key */
export const printed = (key) => key.replace(/(?<=^|\+)[a-z]$/, (letter) => letter.toUpperCase());

/** @param {ActionName} name */
export const keyOf = (name) => printed(actionNamed(name).key ?? "");

// The label, and the key where there is one.
/** @param {Action} action @returns {string} */
export function hint({ label, key, via }) {
  const shown = printed(key ?? (via && actionNamed(via).key) ?? "");
  return shown ? `${label} (${shown})` : label;
}

// What the help window shows: every key with its label, group after group.
/** @returns {[group: string, rows: [key: string, label: string][]][]} */
export function keyGroups() {
  /** @type {Map<string, [string, string][]>} */
  const groups = new Map();
  for (const { group, key, label } of BY_NAME.values()) {
    if (!groups.has(group)) groups.set(group, []);
    if (key) groups.get(group)?.push([key, label]);
  }
  return [...groups];
}
