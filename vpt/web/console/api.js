// Requests to the server. Errors are sentences for people; reads are retried while it is away.

import { setClock } from "./format.js";
import { session } from "./session.js";

const PATIENCE = 2; // seconds between retries when the server sends no Retry-After
const OVERTAKEN =
  "Somebody else changed this in the meantime. Copy your changes, reload the page and enter them again.";
const AWAY = "The server does not answer.";

/** The URL of the server, which may be below a prefix of a proxy: two folders above this file. */
export const BASE = new URL("../../", import.meta.url);

/** A refusal by the server; `message` is for people. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Dispatches "waiting" (detail: a sentence), "answered" and "refused" (detail: a sentence). */
export const line = new EventTarget();

/** Send a GET and return the JSON; retries for as long as the server is away. */
export async function get(path, query = {}, signal) {
  const url = withQuery(path, query);
  return patiently(() => send("GET", url, { signal }), signal);
}

/** Send a write; with an Idempotency-Key in `key` it is retried as reads are. */
export async function write(method, path, body, { key, headers = {}, signal } = {}) {
  const more = key ? { ...headers, "Idempotency-Key": key } : headers;
  const work = () => send(method, path, { body, headers: more, signal });
  return key ? patiently(work, signal) : work();
}

/** Send a GET once, without retries. */
export async function once(path) {
  return send("GET", path);
}

/** Return whether the server accepts a token, which is not that of the session. */
export async function accepts(token) {
  const headers = { Authorization: `Bearer ${token}` };
  const response = await fetch(at("/api/system/status"), { headers, cache: "no-store" }).catch(
    () => null,
  );
  return Boolean(response?.ok);
}

/** Return the URL of a path of the server. */
function at(path) {
  return new URL(path.replace(/^\//, ""), BASE);
}

/** Return whether a proxy, or nobody, has answered in place of the server; 52x are of CDNs. */
function isAway(status) {
  return status === 0 || (status >= 502 && status <= 504) || (status >= 520 && status <= 530);
}

/** Read all pages of a list and call `take` with each, until it returns false. */
export async function eachPage(path, query, take, signal) {
  let cursor = null;
  do {
    const page = await get(path, cursor ? { ...query, cursor } : query, signal);
    cursor = take(page.items) === false ? null : page.next_cursor;
  } while (cursor);
}

/** Return all items of a list, or about its `most` newest ones. */
export async function all(path, query = {}, signal, most = Infinity) {
  const items = [];
  await eachPage(path, { limit: 500, ...query }, (page) => items.push(...page) < most, signal);
  return items;
}

/** Return a file as a blob: an <img> or a download cannot send a token. */
export async function blob(path, signal) {
  return patiently(
    () => send("GET", path, { signal, read: (response) => response.blob() }),
    signal,
  );
}

/** Return the response of a GET that is not retried, null for 204; 304 when it still has `tag`. */
export async function look(path, tag, signal) {
  const headers = tag ? { "If-None-Match": tag } : {};
  return send("GET", path, { headers, signal, read: (response) => response });
}

/** Send a DELETE with a token that may be forgotten by now, also while the page is being closed. */
export function giveBack(path, token) {
  const headers = { Authorization: `Bearer ${token}` };
  fetch(at(path), { method: "DELETE", headers, keepalive: true }).catch(() => {});
}

/** Replace an item that was read in `version`; fails if somebody else changed it. */
export async function overwrite(path, body, version) {
  try {
    return await write("PUT", path, body, { headers: { "If-Match": `"${version}"` } });
  } catch (error) {
    throw error.status === 412 ? new Error(OVERTAKEN) : error;
  }
}

/** Return a new Idempotency-Key: the server executes a request with it once. */
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
      if (!(error instanceof ApiError) || !isAway(error.status)) throw error;
      line.dispatchEvent(new CustomEvent("waiting", { detail: `${error.message} Retrying…` }));
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
    response = await fetch(at(path), options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, AWAY);
  }
  setClock(Date.parse(response.headers.get("Date")));
  if (!response.ok && response.status !== 304) throw await refusal(response, token);
  line.dispatchEvent(new Event("answered"));
  return response.status === 204 ? null : read(response);
}

async function refusal(response, token) {
  const said = await response.json().catch(() => ({}));
  const error = new ApiError(response.status, sentence(said, response.status));
  const after = Number(response.headers.get("Retry-After"));
  if (after > 0) error.retryAfter = Math.min(after, 30);
  if (!isAway(response.status)) line.dispatchEvent(new Event("answered"));
  if (response.status === 401 && token === session.token) {
    line.dispatchEvent(
      new CustomEvent("refused", {
        detail: "Your token is not valid, has expired or was revoked. Sign in with another one.",
      }),
    );
  }
  return error;
}

/** Return one sentence for the body of an error response. */
function sentence(said, status) {
  if (said?.errors) return flat(said.errors, []).join(" ");
  const away = isAway(status) ? `The server does not answer (${status}).` : "";
  const told = said?.error ?? (away || `The server answered with status ${status}.`);
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
