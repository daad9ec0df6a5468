// The Socket.IO connection, which reconnects by itself and reports its state.

import { get, line } from "./api.js";
import { session } from "./session.js";
import { io } from "./vendor/socket.io.esm.min.js";

const EVENTS = [
  "test_progress",
  "step_progress",
  "queue_changed",
  "device_status",
  "host_status",
  "campaign_progress",
];

/** Dispatches "state" (detail: connecting, live or lost) and each event (detail: its payload). */
export const live = new EventTarget();
let socket = null;

/** Listen until `signal` is aborted. */
export function hear(name, listener, signal) {
  live.addEventListener(name, (event) => listener(event.detail), { signal });
}

/** Connect with the token of the session. */
export function connect() {
  disconnect();
  tell("state", "connecting");
  socket = io({
    auth: (give) => give({ token: session.token }),
    transports: ["websocket", "polling"],
    tryAllTransports: true, // some proxies block web sockets
    reconnectionDelayMax: 3000,
  });
  const own = socket;
  own.on("connect", () => tell("state", "live"));
  own.on("disconnect", (reason) => {
    tell("state", "lost");
    if (reason === "io server disconnect") again(own);
  });
  own.on("connect_error", () => {
    tell("state", "lost");
    if (!own.active) again(own); // refused, probably because of the token: a REST request will show that
  });
  for (const name of EVENTS) own.on(name, (payload) => tell(name, payload));
}

/** Return whether `connect` was called; the connection may be lost for now. */
export function connected() {
  return socket !== null;
}

/** Close the connection. */
export function disconnect() {
  socket?.disconnect();
  socket?.removeAllListeners();
  socket = null;
}

async function again(own) {
  const error = await get("/api/system/status").then(
    () => null,
    (one) => one,
  );
  if (error?.status === 403)
    line.dispatchEvent(new CustomEvent("refused", { detail: error.message }));
  setTimeout(() => own === socket && own.connect(), 1000);
}

function tell(name, detail) {
  live.dispatchEvent(new CustomEvent(name, { detail }));
}
