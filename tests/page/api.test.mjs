// @ts-check
// Requests, refusals and what people are told of them; formats and pictures as they are offered.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import test, { afterEach, mock } from "node:test";

import * as api from "../../src/fretsaw/server/static/api.js";
import { offered } from "../../src/fretsaw/server/static/exports.js";
import { outcomeOfCutting, sentence } from "../../src/fretsaw/server/static/messages.js";
import { lastPart, neighbour } from "../../src/fretsaw/server/static/panels.js";
import { thinned } from "../../src/fretsaw/server/static/tools.js";

const { fetch } = globalThis;

afterEach(() => {
  globalThis.fetch = fetch;
});

/** @param {(path: string, options: RequestInit) => Promise<Response>} asked */
const fetching = (asked) => {
  globalThis.fetch = /** @type {typeof fetch} */ (asked);
};

/**
 * Answers in turn, the last one for ever; what was asked is kept.
 * @param {(Response | Error)[]} answers
 */
function answering(...answers) {
  /** @type {[string, RequestInit][]} */
  const asked = [];
  fetching(async (path, options) => {
    asked.push([path, options]);
    const answer = answers[Math.min(asked.length, answers.length) - 1];
    if (answer instanceof Error) throw answer;
    return answer.clone();
  });
  return asked;
}

/** @param {unknown} body @param {number} status */
const json = (body, status = 200) => new Response(JSON.stringify(body), { status, statusText: "So" });

const about = () => api.get("/api/about", {});

/** @param {Promise<unknown>} asking @returns {Promise<api.Refusal>} */
async function refusalOf(asking) {
  try {
    await asking;
  } catch (error) {
    assert.ok(error instanceof api.Refusal, String(error));
    return error;
  }
  throw new Error("expected a refusal, got an answer");
}

test("values go into the route, what it does not name into the query, and nothing breaks out of its place", () => {
  const route = "/api/images/{identity}/objects/{number}";
  assert.equal(api.address(route, { identity: "ab/../c?d", number: 3 }), "/api/images/ab%2F..%2Fc%3Fd/objects/3");
  assert.equal(api.address(`${route}/undo`, { identity: "a", number: 3, since: 0 }), "/api/images/a/objects/3/undo?since=0");
  assert.equal(api.address(`${route}/undo`, { identity: "a", number: 3, since: undefined }), "/api/images/a/objects/3/undo");
  assert.equal(api.address("/api/images", { name: "a b&c=d.png", more: true }), "/api/images?name=a%20b%26c%3Dd.png&more=true");
  assert.throws(() => api.address(route, { identity: "a" }), /lacks number/);
});

test("bodies travel as JSON, and only where there is one", async () => {
  const asked = answering(json({}));
  await api.post("/api/images/{identity}/objects/{number}/clicks", { identity: "a", number: 1, since: 4 }, { x: 1.5, y: 2, positive: false });
  await about();
  const [[path, options], [, plain]] = asked;
  assert.equal(path, "/api/images/a/objects/1/clicks?since=4");
  assert.deepEqual([options.method, options.body, options.headers], ["POST", '{"x":1.5,"y":2,"positive":false}', { "content-type": "application/json" }]);
  assert.deepEqual([plain.method, plain.body, plain.headers], ["GET", undefined, undefined]);
});

test("a refusal brings the server's reason and its kind", async () => {
  answering(json({ reason: "the saved work on this picture is damaged (bad line 3); it can be repaired", kind: "DamagedError" }, 409));
  const damaged = await refusalOf(api.get("/api/images/{identity}", { identity: "a" }));
  assert.deepEqual([damaged.status, damaged.kind], [409, "DamagedError"]);
  assert.equal(sentence(damaged), "The saved work on this picture is damaged (bad line 3); it can be repaired. The other pictures are not affected.");
});

test("what a proxy says in place of the server is shown as its status", async () => {
  for (const body of ["<html>Bad gateway</html>", "null", '{"detail": 3}', ""]) {
    answering(new Response(body, { status: 502, statusText: "Bad Gateway" }));
    const refusal = await refusalOf(about());
    assert.deepEqual([refusal.status, sentence(refusal)], [502, "502 Bad Gateway."]);
  }
  answering(new Response("<html>sign in first</html>", { status: 200 }));
  assert.match(sentence(await refusalOf(about())), /^The answer cannot be read/);
});

test("no answer, and one that breaks off, are a server that is gone", async () => {
  answering(new TypeError("Failed to fetch"));
  assert.equal((await refusalOf(about())).status, 0);
  assert.equal((await refusalOf(api.uploadAnnotations(new File(["{}"], "a.json")))).status, 0);
  const server = createServer((_request, response) => {
    response.writeHead(200, { "content-length": 1000 });
    response.write("{");
    setTimeout(() => response.destroy(), 20);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  fetching((path, options) => fetch(`http://127.0.0.1:${port}${path}`, options));
  const refusal = await refusalOf(about());
  assert.deepEqual([refusal.status, api.statusOf(refusal)], [0, 0]);
  assert.match(sentence(refusal), /what was shown as saved is safe\.$/);
  server.close();
});

test("a request that is called off is no refusal", async () => {
  const calling = new AbortController();
  fetching((_path, { signal }) => new Promise((_, failed) => {
    signal?.addEventListener("abort", () => failed(signal.reason));
  }));
  const asking = api.post("/api/images/{identity}/preview", { identity: "a" }, { x: 1, y: 1 }, calling.signal);
  calling.abort();
  await assert.rejects(asking, { name: "AbortError" });
});

test("a full queue is asked again, four times", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const tick = async () => {
    for (let i = 0; i < 20; i++) await Promise.resolve().then(() => new Promise((done) => setImmediate(done)));
    mock.timers.tick(2000);
  };
  const full = json({ reason: "the queue is full", kind: "QueueFullError" }, 503);
  let asked = answering(full, full, json({ model: "m" }));
  let asking = about();
  for (let i = 0; i < 2; i++) await tick();
  assert.equal((await asking).model, "m");
  assert.equal(asked.length, 3);
  asked = answering(full);
  asking = about();
  const refused = refusalOf(asking);
  for (let i = 0; i < 4; i++) await tick();
  assert.equal((await refused).status, 503);
  assert.equal(asked.length, 5);
  mock.timers.reset();
});

test("people are told sentences", () => {
  assert.equal(sentence(new Error("expected an image, got text")), "Expected an image, got text.");
  assert.equal(sentence(new api.Refusal(422, "Really?")), "Really?");
  assert.equal(sentence("something"), "Something.");
  assert.equal(api.statusOf(new Error("no request")), null);
});

test("what came of cutting a whole folder is told as it is", () => {
  /** @type {api.Job} */
  const job = { id: "j", kind: "auto", state: "done", total: 5, done: 5, note: "", reason: "", has_file: false };
  assert.equal(outcomeOfCutting(job), "Every picture of the folder has an automatic mask.");
  assert.equal(outcomeOfCutting({ ...job, note: "2 of 5 could not be cut" }), "2 of 5 could not be cut; the others have an automatic mask.");
  assert.equal(outcomeOfCutting({ ...job, state: "stopped", done: 2, note: "c.png" }), "Stopped after 2 of 5 pictures; the masks that were made stay.");
});

test("every format that the server writes is offered, also one that the page has no words for", () => {
  assert.deepEqual(offered(["coco", "new", "png"]).map(([name]) => name), ["png", "coco", "new"]);
  assert.deepEqual(offered(["new"]), [["new", "new", ""]]);
  assert.deepEqual(offered([]), []);
});

test("a line with too many points keeps its ends and every other point, until few enough are left", () => {
  const line = (/** @type {number} */ count) => Array.from({ length: count }, (_, at) => /** @type {[number, number]} */ ([at, 2 * at]));
  for (const [count, most] of [[1, 5], [5, 5], [6, 5], [100, 7], [4001, 2000]]) {
    const fewer = thinned(line(count), most);
    assert.ok(fewer.length <= most && fewer.length >= Math.min(count, most / 2));
    assert.deepEqual([fewer[0], fewer.at(-1)], [[0, 0], [count - 1, 2 * count - 2]]);
    assert.deepEqual(fewer, fewer.toSorted((a, b) => a[0] - b[0]));
  }
});

test("the next picture is the next one that can be opened", () => {
  const rows = ["", "", "cut off", "cut off", ""].map((damaged, id) => ({ id: String(id), name: "", uploaded: false, objects: 0, thumbnail: "", damaged }));
  assert.equal(neighbour(rows, "0", 1), "1");
  assert.equal(neighbour(rows, "1", 1), "4");
  assert.equal(neighbour(rows, "4", -1), "1");
  assert.equal(neighbour(rows, "4", 1), undefined);
  assert.equal(neighbour(rows, "0", -1), undefined);
  assert.equal(neighbour(rows, undefined, 1), "0");
  assert.equal(neighbour([], "0", 1), undefined);
  assert.deepEqual([lastPart("deep/er/a.png"), lastPart("a.png")], ["a.png", "a.png"]);
});
