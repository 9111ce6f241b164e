// @ts-check
// What people are told, in sentences.

import { Refusal } from "./api.js";

/**
 * What people are told of an error: the reason as a sentence.
 * @param {unknown} error
 */
export function sentence(error) {
  const reason = error instanceof Error ? error.message : String(error);
  const text = reason.charAt(0).toUpperCase() + reason.slice(1);
  const whole = /[.!?…]$/.test(text) ? text : `${text}.`;
  return error instanceof Refusal && error.kind === "DamagedError" ? `${whole} The other pictures are not affected.` : whole;
}

/**
 * How the cutting of a whole folder has ended.
 * @param {import("./api.js").Job} job Its last state; the note counts the pictures that could not be cut.
 */
export function outcomeOfCutting({ state, done, total, note }) {
  if (state === "stopped") return `Stopped after ${done} of ${total} pictures; the masks that were made stay.`;
  return note ? `${note}; the others have an automatic mask.` : "Every picture of the folder has an automatic mask.";
}
