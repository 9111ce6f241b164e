// Talks to the server: JSON in and out, refusals as errors with the server's own reason, jobs by server-sent events.

export class Refusal extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

async function checked(reply) {
  if (reply.ok) return reply;
  let reason = `${reply.status} ${reply.statusText}`;
  try {
    reason = (await reply.json()).reason ?? reason;
  } catch {
    // The reply was no JSON: a proxy between us and the server, perhaps. Its status is all we know.
  }
  throw new Refusal(reply.status, reason);
}

async function send(method, path, body, signal) {
  const options = { method, signal };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "content-type": "application/json" };
  }
  let reply;
  for (let attempt = 0; ; attempt++) {
    try {
      reply = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, "the server does not answer; what was shown as saved is safe");
    }
    // A full queue empties within moments.
    if (reply.status !== 503 || attempt >= 4) break;
    await new Promise((done) => setTimeout(done, 400 * (attempt + 1)));
  }
  await checked(reply);
  return reply.status === 204 ? null : reply.json();
}

export const get = (path, signal) => send("GET", path, undefined, signal);
export const post = (path, body, signal) => send("POST", path, body, signal);
export const put = (path, body) => send("PUT", path, body);
export const patch = (path, body) => send("PATCH", path, body);
export const remove = (path) => send("DELETE", path);

// Sends a file of annotations; returns the job that reads it.
export async function uploadAnnotations(file) {
  const reply = await fetch(`/api/annotations?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
  return (await checked(reply)).json();
}

// Uploads one file; `progress` is told the share that has left.
export function upload(file, progress) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/images?name=${encodeURIComponent(file.name)}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status < 300) done(request.response);
      else failed(new Refusal(request.status, request.response?.reason ?? `${request.status} ${request.statusText}`));
    };
    request.onerror = () => failed(new Refusal(0, "the server closed the connection; the file may be too large"));
    request.send(file);
  });
}

// Follows a job to its end; `progress` is told each state.
export function follow(job, progress) {
  return new Promise((done, failed) => {
    const events = new EventSource(`/api/jobs/${job.id}/events`);
    events.onmessage = (event) => {
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

export function download(url, name) {
  const link = document.createElement("a");
  link.href = url;
  link.download = name ?? "";
  document.body.append(link);
  link.click();
  link.remove();
}
