// @ts-check
// The work at hand, against a server in memory: nothing that was done is lost or shown wrongly, whatever order answers, refusals and pictures come in.

import assert from "node:assert/strict";
import test, { beforeEach } from "node:test";

import { stored } from "./browser.mjs";
import { bitsOf, FakeServer, HEIGHT, settled, WIDTH } from "./server.mjs";
import { Refusal } from "../../src/fretsaw/server/static/api.js";
import { sentence } from "../../src/fretsaw/server/static/messages.js";
import { Work } from "../../src/fretsaw/server/static/work.js";

const GONE = new Refusal(0, "the server does not answer");

/** @type {FakeServer} */
let server;
/** @type {Work} */
let work;
/** @type {Refusal[]} */
let refusals;
/** @type {{ [name: string]: number }} */
let told;

beforeEach(async () => {
  stored.clear();
  server = new FakeServer();
  work = new Work(server.api, async (url) => /** @type {ImageBitmap} */ (/** @type {unknown} */ (`bitmap: ${url}`)));
  refusals = [];
  told = {};
  work.addEventListener("refusal", (event) => refusals.push(/** @type {CustomEvent} */ (event).detail));
  for (const name of ["list", "picture", "objects", "state", "mask"]) work.addEventListener(name, () => (told[name] = (told[name] ?? 0) + 1));
  await work.start();
  await work.open("a");
  server.asked = [];
});

// Everything was answered, and the page shows what the server has: objects, their masks, and what can be undone.
function agrees(picture = "a") {
  assert.equal(work.waiting, 0);
  assert.deepEqual([work.marks, work.strokes], [[], []]);
  const living = server.things(picture).filter(({ deleted }) => !deleted);
  assert.deepEqual(work.objects.map(({ id, undoable, redoable, revision, name }) => ({ id, undoable, redoable, revision, name })), living.map(({ id, at, steps, revision, name }) => ({ id, undoable: at, redoable: steps.length - 1 - at, revision, name })));
  for (const [at, item] of work.objects.entries()) assert.deepEqual(shown(item), [...living[at].steps[living[at].at].bits]);
}

/** @param {import("../../src/fretsaw/server/static/work.js").Item | null} item */
function shown(item) {
  const rows = new Uint8Array(WIDTH * HEIGHT);
  if (!item?.mask) return [...rows];
  const { box: [x0, y0, x1], bits } = item.mask;
  for (const [at, bit] of bits.entries()) rows[(y0 + Math.floor(at / (x1 - x0))) * WIDTH + x0 + (at % (x1 - x0))] = bit;
  return [...rows];
}

/** @param {number} x @param {number} y @param {number} width @param {number} height @param {boolean} adds */
const brushed = (x, y, width, height, adds = true) => ({ x, y, width, height, bits: new Uint8Array(width * height).fill(1), adds, points: /** @type {[number, number][]} */ ([[x, y]]), radius: 1 });

test("the first click makes the object that it goes to; those behind it go to the same one", async () => {
  server.holds = true;
  const clicks = [work.click(1, 1, true), work.click(2, 2, true), work.click(1, 1, false)];
  await settled();
  assert.equal(work.waiting, 3);
  assert.deepEqual(work.marks.map((mark) => [mark.positive, mark.intent === work.intent]), [[true, true], [true, true], [false, true]]);
  await server.answerAll();
  await Promise.all(clicks);
  assert.deepEqual(server.asked, ["POST objects a", "POST clicks 1 since 0", "POST clicks 1 since 1", "POST clicks 1 since 2"]);
  agrees();
  assert.deepEqual(shown(work.object), [...bitsOf([2, 2])]);
});

test("only what has changed comes back, and what is shown is the whole", async () => {
  for (const [x, y] of [[1, 1], [7, 5], [0, 6], [4, 4]]) {
    await work.click(x, y, true);
    agrees();
  }
  await work.click(4, 4, false);
  agrees();
  await work.undo();
  await work.undo();
  await work.redo();
  agrees();
  await work.reset();
  agrees();
  assert.equal(refusals.length, 0);
});

test("a page that has missed a revision takes the whole mask", async () => {
  await work.click(1, 1, true);
  // Somebody else clicks on the same object.
  await server.api.post("/api/images/{identity}/objects/{number}/clicks", { identity: "a", number: 1 }, { x: 8, y: 6, positive: true });
  await work.click(2, 2, true);
  agrees();
});

test("a click on an object that is left keeps going to it; the next one goes to the new object", async () => {
  server.holds = true;
  work.click(1, 1, true);
  work.add();
  work.click(5, 5, true);
  await server.answerAll();
  agrees();
  assert.deepEqual(work.objects.map(({ clicks }) => clicks), [[[1, 1, true]], [[5, 5, true]]]);
  assert.equal(work.active, 2);
});

test("a new object that is still empty is used again", async () => {
  await work.add();
  const made = await work.add();
  assert.deepEqual([made?.id, work.objects.length, work.active], [1, 1, 1]);
});

test("a refusal changes nothing, is told, and what comes behind it still happens", async () => {
  server.failures = [null, null, new Refusal(422, "expected a click inside the picture, got 99")];
  server.holds = true;
  work.click(1, 1, true);
  work.click(99, 1, true);
  work.click(2, 2, true);
  await server.answerAll();
  agrees();
  assert.deepEqual(refusals.map(sentence), ["Expected a click inside the picture, got 99."]);
  assert.equal(work.error, "");
  assert.deepEqual(work.object?.clicks, [[1, 1, true], [2, 2, true]]);
});

test("where the object cannot be made, the next click tries again", async () => {
  server.failures = [new Refusal(429, "expected at most 1000 objects")];
  await work.click(1, 1, true);
  assert.deepEqual([work.active, work.objects.length, refusals.length], [null, 0, 1]);
  await work.click(1, 1, true);
  agrees();
  assert.equal(work.active, 1);
});

test("a server that is gone is shown as not saved until something was answered, or the picture was opened anew", async () => {
  await work.click(1, 1, true);
  for (const again of [() => work.click(3, 3, true), () => work.open("a"), () => work.open("b")]) {
    server.failures = [GONE];
    await work.click(2, 2, true);
    assert.equal(work.error, "The server does not answer.");
    assert.equal(refusals.at(-1)?.status, 0);
    await again();
    assert.equal(work.error, "");
    agrees(work.picture?.id);
  }
});

test("an answer that is lost on its way is caught up with by the next one", async () => {
  await work.click(1, 1, true);
  const { post } = server.api;
  work.server = { ...server.api, post: async (route, at, body) => {
    await post(route, at, body);
    throw GONE;
  } };
  await work.click(2, 2, true);
  work.server = server.api;
  await work.click(3, 3, true);
  agrees();
  assert.deepEqual(work.object?.clicks.length, 3);
});

test("strokes show at once, whatever the server has yet to answer", async () => {
  await work.click(8, 6, true);
  server.holds = true;
  work.stroke(brushed(1, 1, 3, 1));
  work.stroke(brushed(2, 0, 1, 4));
  work.stroke(brushed(2, 1, 1, 1, false));
  const wanted = [...bitsOf([8, 6], [1, 1], [3, 1], [2, 0], [2, 2], [2, 3])];
  for (let answers = 0; answers < 3; answers++) {
    assert.deepEqual(shown(work.object), wanted);
    await server.answer();
  }
  await settled();
  agrees();
  assert.deepEqual(shown(work.object), wanted);
});

test("a stroke begins an object, and shows in it as soon as that is there", async () => {
  server.holds = true;
  work.stroke(brushed(1, 1, 2, 2));
  await settled();
  assert.equal(work.strokes.length, 1);
  await server.answer();
  assert.deepEqual(shown(work.object), [...bitsOf([1, 1], [2, 1], [1, 2], [2, 2])]);
  await server.answerAll();
  agrees();
});

test("a stroke that the server refuses is taken off, also from under the strokes behind it", async () => {
  await work.stroke(brushed(0, 0, 1, 1));
  server.holds = true;
  server.failures = [new Refusal(507, "expected a disk that can be written")];
  work.stroke(brushed(1, 1, 3, 1));
  work.stroke(brushed(5, 5, 1, 1));
  await server.answerAll();
  agrees();
  assert.deepEqual(shown(work.object), [...bitsOf([0, 0], [5, 5])]);
  assert.deepEqual(refusals.length, 1);
});

test("a stroke that changes nothing does not travel, unless something before it may yet change the mask", async () => {
  await work.stroke(brushed(1, 1, 2, 2));
  server.asked = [];
  await work.stroke(brushed(1, 1, 1, 1));
  await work.stroke(brushed(6, 6, 1, 1, false));
  assert.deepEqual(server.asked, []);
  work.undo();
  await work.stroke(brushed(1, 1, 1, 1));
  agrees();
  assert.deepEqual(shown(work.object), [...bitsOf([1, 1])]);
});

test("undo and redo are put in line behind what is not answered yet; more of them than there are steps do nothing", async () => {
  server.holds = true;
  work.click(1, 1, true);
  work.click(2, 2, true);
  for (let i = 0; i < 4; i++) work.undo();
  for (let i = 0; i < 3; i++) work.redo();
  work.undo();
  await server.answerAll();
  agrees();
  assert.deepEqual([work.object?.undoable, work.object?.redoable, refusals.length], [1, 1, 0]);
  assert.equal(work.undo() instanceof Promise, true);
  await settled();
  assert.equal(work.undo(), null);
});

test("undo brings back what was thrown away, redo throws it away again, newer steps come first", async () => {
  await work.click(1, 1, true);
  await work.add();
  await work.click(2, 2, true);
  await work.remove(2);
  assert.deepEqual([work.objects.map(({ id }) => id), work.active, work.undoable], [[1], 1, true]);
  await work.click(3, 3, true);
  await work.undo();
  assert.deepEqual(work.objects.map(({ id, undoable }) => [id, undoable]), [[1, 1]]);
  await work.undo();
  agrees();
  assert.deepEqual([work.objects.map(({ id }) => id), work.active], [[1, 2], 2]);
  await work.redo();
  assert.deepEqual(work.objects.map(({ id }) => id), [1]);
  await work.undo();
  await work.undo();
  agrees();
  assert.deepEqual(work.objects.map(({ undoable }) => undoable), [1, 0]);
});

test("two that are thrown away come back in turn, without waiting for the server in between", async () => {
  for (const x of [1, 2, 3]) {
    await work.add();
    await work.click(x, 1, true);
  }
  server.holds = true;
  work.remove(3);
  work.remove(2);
  work.undo();
  work.undo();
  await server.answerAll();
  agrees();
  assert.deepEqual(work.objects.map(({ id }) => id), [1, 2, 3]);
});

test("a redo that the server does not answer can be made once more", async () => {
  await work.click(1, 1, true);
  await work.add();
  await work.click(2, 2, true);
  await work.remove(2);
  await work.undo();
  server.failures = [GONE];
  await work.redo();
  assert.equal(work.redoable, true);
  await work.redo();
  agrees();
  assert.deepEqual(work.objects.map(({ id }) => id), [1]);
});

test("what is done while another picture loads is done, and on the picture that was shown then", async () => {
  await work.click(1, 1, true);
  server.holds = true;
  const opening = work.open("b");
  await settled();
  work.click(2, 2, true);
  work.click(3, 3, true);
  await server.answerAll();
  assert.equal(await opening, true);
  assert.equal(work.picture?.id, "b");
  assert.deepEqual(server.things("a")[0].steps.at(-1)?.clicks, [[1, 1, true], [2, 2, true], [3, 3, true]]);
  assert.deepEqual([server.things("b"), refusals.length], [[], 0]);
  agrees("b");
});

test("what is done while the open picture is fetched anew shows when it is there", async () => {
  await work.click(1, 1, true);
  server.holds = true;
  const opening = work.open("a");
  await settled();
  work.click(2, 2, true);
  await server.answerAll();
  assert.equal(await opening, true);
  agrees();
  assert.deepEqual(work.object?.clicks.length, 2);
});

test("another picture is shown when the last change of this one is answered, also of those that came while it waited for that", async () => {
  await work.click(1, 1, true);
  server.holds = true;
  work.click(2, 2, true);
  const opening = work.open("b");
  await settled();
  work.click(3, 3, true);
  await server.answer();
  await server.answerAll();
  assert.equal(await opening, true);
  agrees("b");
});

test("of several pictures that are asked for, the last one is shown, and only its refusal is told", async () => {
  server.holds = true;
  const first = work.open("gone");
  await settled();
  const second = work.open("c");
  await server.answerAll();
  assert.deepEqual([await first, await second], [false, true]);
  assert.equal(work.picture?.id, "c");
  await assert.rejects(work.open("gone"), /expected a picture/);
  assert.equal(work.picture?.id, "c");
});

test("the object in hand is found again", async () => {
  await work.click(1, 1, true);
  await work.add();
  await work.click(2, 2, true);
  work.choose(1);
  await work.open("b");
  await work.open("a");
  assert.equal(work.active, 1);
  stored.clear();
  await work.open("a");
  assert.equal(work.active, 2);
});

test("damaged work is told in a sentence and marked in the list, until it is repaired", async () => {
  const reason = "the saved work on this picture is damaged (a line of the log is cut off); `fretsaw serve FOLDER --check` repairs it, deleting it starts the picture anew";
  const damaged = new Refusal(409, reason, "DamagedError");
  const row = () => work.list.images.find(({ id }) => id === "b");
  server.failures = [damaged];
  await assert.rejects(work.open("b"), (error) => {
    assert.match(sentence(error), /^The saved work on this picture is damaged \(a line .* anew\. The other pictures are not affected\.$/);
    return true;
  });
  assert.equal(work.picture?.id, "a");
  assert.deepEqual([row()?.damaged, told.list], [reason, 2]);
  await work.open("b");
  assert.deepEqual([row()?.damaged, told.list], ["", 3]);
  // The same, found out by a click.
  server.failures = [damaged];
  await work.click(1, 1, true);
  assert.deepEqual(refusals, [damaged]);
  assert.equal(work.error, "");
  assert.equal(row()?.damaged, reason);
  // Other refusals are no damage.
  server.failures = [new Refusal(404, "expected a picture")];
  await assert.rejects(work.open("c"));
  assert.equal(work.list.images.find(({ id }) => id === "c")?.damaged, undefined);
});

test("the picture counts as read once the server cannot have answered otherwise", async () => {
  server.ready = false;
  await work.open("b");
  await work.add();
  await work.describe(1, { name: "cat" });
  assert.equal(work.ready, false);
  await work.click(1, 1, true);
  assert.equal(work.ready, true);
  agrees("b");
});

test("pieces become objects, the first in hand; one piece is refused and stays", async () => {
  await work.auto();
  const made = await work.split(1);
  assert.deepEqual(made?.map(({ id }) => id), [2, 3, 4]);
  assert.equal(work.active, 2);
  agrees();
  assert.equal(await work.split(2), null);
  assert.equal(refusals.length, 1);
  agrees();
});

test("objects are found by name, and counted in the list", async () => {
  const last = await work.find(["cat", "sofa"]);
  assert.equal(last?.name, "sofa");
  agrees();
  assert.equal(work.list.images[0].objects, 2);
});

test("whatever the order of doing and answering, the page ends as the server", async () => {
  let state = 7;
  const roll = (/** @type {number} */ most) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * most);
  };
  const hand = [
    () => work.click(roll(WIDTH), roll(HEIGHT), roll(3) > 0),
    () => work.stroke(brushed(roll(WIDTH - 2), roll(HEIGHT - 2), 1 + roll(2), 1 + roll(2), roll(3) > 0)),
    () => work.undo(),
    () => work.redo(),
    () => work.add(),
    () => work.object && work.remove(work.object.id),
    () => work.choose(work.objects[roll(work.objects.length)]?.id ?? null),
    () => work.object && work.describe(work.object.id, { name: `n${roll(9)}` }),
    () => work.object && work.reset(),
    () => work.open("a"),
    () => server.failures.push(...[null, [new Refusal(422, "no"), GONE][roll(2)]]),
    () => server.answer(roll(server.waiting)),
    () => settled(),
  ];
  for (let round = 0; round < 40; round++) {
    server.holds = true;
    for (let step = 0; step < 40; step++) {
      const made = /** @type {unknown} */ (hand[roll(hand.length)]());
      if (made instanceof Promise) made.catch((/** @type {unknown} */ error) => assert.ok(error instanceof Refusal));
      if (roll(3) === 0) await server.answer(roll(server.waiting));
    }
    server.failures = [];
    for (let left = 200; left && (work.waiting || !(await idle())); left--) await server.answerAll();
    agrees();
  }
  assert.ok(refusals.length > 20);
});

async function idle() {
  await settled();
  return work.waiting === 0;
}
