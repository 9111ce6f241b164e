// @ts-check
// Talks to the server: JSON in and out, refusals as errors with the server's own reason, jobs by server-sent events.
// Routes are written as in /openapi.json, from which the types of what goes out and comes in are made.

/** @typedef {Schemas["JobReply"]} Job */
/** @typedef {{ reason?: string, kind?: string }} Reasons What the server says of a refusal; a proxy in between may say anything. */

const NO_ANSWER = "the server does not answer; what was shown as saved is safe";

// Why a request brought nothing. The status is 0 where no answer came at all.
export class Refusal extends Error {
  /** @param {number} status @param {string} reason @param {string} [kind] The server's name for what went wrong, as "DamagedError". */
  constructor(status, reason, kind = "") {
    super(reason);
    this.name = "Refusal";
    this.status = status;
    this.kind = kind;
  }
}

/** @param {unknown} error */
export const statusOf = (error) => (error instanceof Refusal ? error.status : null);

/**
 * A route with its values put in; those that it does not name go into the query, unless they are undefined.
 * @param {string} route
 * @param {{ [name: string]: unknown }} at
 */
export function address(route, at) {
  const left = new Map(Object.entries(at).filter(([, value]) => value !== undefined));
  const path = route.replace(/\{(\w+)\}/g, (_, name) => {
    if (!left.has(name)) throw new Error(`the route ${route} lacks ${name}`);
    const value = encodeURIComponent(String(left.get(name)));
    left.delete(name);
    return value;
  });
  const query = [...left].map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`).join("&");
  return query ? `${path}?${query}` : path;
}

/** @param {number} status @param {string} statusText @param {Reasons | null} said */
const refusalOf = (status, statusText, said) => new Refusal(status, said?.reason ?? `${status} ${statusText}`.trim(), said?.kind);

/** @param {string} path @param {RequestInit} options @returns {Promise<unknown>} */
async function ask(path, options) {
  try {
    for (let attempt = 0; ; attempt++) {
      const reply = await fetch(path, options);
      // A full queue empties within moments.
      if (reply.status === 503 && attempt < 4) {
        await new Promise((done) => setTimeout(done, 400 * (attempt + 1)));
        continue;
      }
      const text = await reply.text();
      if (!reply.ok) throw refusalOf(reply.status, reply.statusText, parsed(text));
      if (reply.status === 204) return null;
      const answer = parsed(text);
      if (answer === null) throw new Refusal(reply.status, "the answer cannot be read; something between this page and the server has changed it");
      return answer;
    }
  } catch (error) {
    if (error instanceof Refusal || (error instanceof Error && error.name === "AbortError")) throw error;
    throw new Refusal(0, NO_ANSWER);
  }
}

// The JSON of a text, or null where it is none: the answer of a proxy, perhaps.
/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** @param {string} method @param {string} route @param {object} at @param {unknown} [body] @param {AbortSignal} [signal] */
function send(method, route, at, body, signal) {
  /** @type {RequestInit} */
  const options = { method, signal };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "content-type": "application/json" };
  }
  return ask(address(route, { ...at }), options);
}

/**
 * @template {Route<"get">} R
 * @param {R} route
 * @param {At<R, "get">} at The values of the route and of its query.
 * @returns {Promise<Reply<R, "get">>}
 */
export const get = async (route, at) => /** @type {Reply<R, "get">} */ (await send("GET", route, at));

/**
 * @template {Route<"post">} R
 * @param {R} route
 * @param {At<R, "post">} at
 * @param {Sent<R, "post">} [body]
 * @param {AbortSignal} [signal]
 * @returns {Promise<Reply<R, "post">>}
 */
export const post = async (route, at, body, signal) => /** @type {Reply<R, "post">} */ (await send("POST", route, at, body, signal));

/**
 * @template {Route<"patch">} R
 * @param {R} route
 * @param {At<R, "patch">} at
 * @param {Sent<R, "patch">} body
 * @returns {Promise<Reply<R, "patch">>}
 */
export const patch = async (route, at, body) => /** @type {Reply<R, "patch">} */ (await send("PATCH", route, at, body));

/**
 * @template {Route<"delete">} R
 * @param {R} route
 * @param {At<R, "delete">} at
 * @returns {Promise<void>}
 */
export async function remove(route, at) {
  await send("DELETE", route, at);
}

// Whether a server is there.
export const lives = () => fetch("/health").then((reply) => reply.ok, () => false);

// Sends a file of annotations; returns the job that reads it.
/** @param {File} file */
export async function uploadAnnotations(file) {
  return /** @type {Job} */ (await ask(address("/api/annotations", { name: file.name }), { method: "POST", body: file }));
}

/**
 * Uploads one file.
 * @param {File} file
 * @param {(share: number) => void} progress Is told the share that has left.
 * @returns {Promise<Schemas["ImageReply"]>}
 */
export function upload(file, progress) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", address("/api/images", { name: file.name }));
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status < 300) done(request.response);
      else failed(refusalOf(request.status, request.statusText, request.response));
    };
    request.onerror = () => failed(new Refusal(0, "the server closed the connection; the file may be too large"));
    request.send(file);
  });
}

/**
 * Follows a job to its end.
 * @param {Job} job
 * @param {(state: Job) => void} progress Is told each state.
 * @returns {Promise<Job>} Its last state, done or stopped; a failed one is a refusal.
 */
export function follow(job, progress) {
  return new Promise((done, failed) => {
    const events = new EventSource(address("/api/jobs/{identity}/events", { identity: job.id }));
    events.onmessage = (event) => {
      /** @type {Job} */
      const state = JSON.parse(event.data);
      progress(state);
      if (state.state === "waiting" || state.state === "running") return;
      events.close();
      if (state.state === "failed") failed(new Refusal(0, state.reason));
      else done(state);
    };
    events.onerror = () => {
      if (events.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      failed(new Refusal(0, "the server does not answer"));
    };
  });
}

// Lets the browser save what lies at an address.
/** @param {string} url @param {string} [name] */
export function download(url, name) {
  const link = document.createElement("a");
  link.href = url;
  link.download = name ?? "";
  document.body.append(link);
  link.click();
  link.remove();
}
