// Asks the server. Errors are sentences; reading waits while the server cannot answer, and says so.

import { setClock } from "./format.js";
import { session } from "./session.js";

const PATIENCE = 2; // seconds between two tries where the server names none
const OVERTAKEN =
  "Somebody else changed it meanwhile. Copy what you changed, load the page again and put it in.";
const AWAY = "The server does not answer.";

/** What the server said no with; `message` is for people. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Tells "waiting" (detail: a sentence), "answered" and "refused" (detail: a sentence). */
export const line = new EventTarget();

/** Read; waits for as long as the server is away. */
export async function get(path, query = {}, signal) {
  const url = withQuery(path, query);
  return patiently(() => send("GET", url, { signal }), signal);
}

/** Write; `key` makes it safe to send again, so then it waits as reading does. */
export async function write(method, path, body, { key, headers = {}, signal } = {}) {
  const more = key ? { ...headers, "Idempotency-Key": key } : headers;
  const work = () => send(method, path, { body, headers: more, signal });
  return key ? patiently(work, signal) : work();
}

/** Read all pages of a list, giving each to `take` as it comes, until that says false. */
export async function eachPage(path, query, take, signal) {
  let cursor = null;
  do {
    const page = await get(path, cursor ? { ...query, cursor } : query, signal);
    cursor = take(page.items) === false ? null : page.next_cursor;
  } while (cursor);
}

/** Read all of a list, or its newest: about as many as `most`. */
export async function all(path, query = {}, signal, most = Infinity) {
  const items = [];
  await eachPage(path, { limit: 500, ...query }, (page) => items.push(...page) < most, signal);
  return items;
}

/** Read a file as a blob: what an <img> or a download cannot ask for with a token. */
export async function blob(path, signal) {
  return patiently(
    () => send("GET", path, { signal, read: (response) => response.blob() }),
    signal,
  );
}

/** Replace what was read in that version, unless somebody else did meanwhile. */
export async function overwrite(path, body, version) {
  try {
    return await write("PUT", path, body, { headers: { "If-Match": `"${version}"` } });
  } catch (error) {
    throw error.status === 412 ? new Error(OVERTAKEN) : error;
  }
}

/** Make a key under which a request is done once, however often it is sent. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

function withQuery(path, query) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

async function patiently(work, signal) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ApiError) || (error.status !== 503 && error.status !== 0)) throw error;
      line.dispatchEvent(new CustomEvent("waiting", { detail: `${error.message} Trying again…` }));
      await pause(error.retryAfter ?? PATIENCE, signal);
    }
  }
}

function pause(seconds, signal) {
  return new Promise((go, stop) => {
    const left = () => (clearTimeout(timer), stop(signal.reason));
    const timer = setTimeout(
      () => (signal?.removeEventListener("abort", left), go()),
      seconds * 1000,
    );
    signal?.addEventListener("abort", left, { once: true });
  });
}

async function send(
  method,
  path,
  { body, headers = {}, signal, read = (response) => response.json() } = {},
) {
  const token = session.token;
  const options = {
    method,
    headers: { Authorization: `Bearer ${token}`, ...headers },
    signal,
    cache: "no-store",
  };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, AWAY);
  }
  setClock(Date.parse(response.headers.get("Date")));
  if (!response.ok) throw await refusal(response, token);
  line.dispatchEvent(new Event("answered"));
  return response.status === 204 ? null : read(response);
}

async function refusal(response, token) {
  const said = await response.json().catch(() => ({}));
  const error = new ApiError(response.status, sentence(said, response.status));
  const after = Number(response.headers.get("Retry-After"));
  if (after > 0) error.retryAfter = Math.min(after, 30);
  if (response.status !== 503) line.dispatchEvent(new Event("answered"));
  if (response.status === 401 && token === session.token) {
    line.dispatchEvent(
      new CustomEvent("refused", {
        detail: "Your token is not valid, or not any more. Sign in with another one.",
      }),
    );
  }
  return error;
}

/** Make a sentence of an error's body. */
function sentence(said, status) {
  if (said.errors) return flat(said.errors, []).join(" ");
  const told = said.error ?? `The server answered with status ${status}.`;
  return /[.!?…]$/.test(told) ? told : `${told}.`;
}

function flat(errors, path) {
  if (Array.isArray(errors)) return errors.flatMap((one) => flat(one, path));
  if (errors && typeof errors === "object")
    return Object.entries(errors).flatMap(([key, one]) =>
      flat(one, [...path, /^\d+$/.test(key) ? `number ${Number(key) + 1}` : key]),
    );
  return [`${path.join(", ")}: ${errors}`];
}
