// The Socket.IO connection, which reconnects by itself and reports its state.

import { BASE, get, line, once } from "./api.js";
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

const SOON = 3000; // milliseconds without a connection until REST is tried
const EVERY = 10_000; // milliseconds between two reads without a connection

/**
 * Dispatches "state" (detail: connecting, live, lost, or polling when REST alone works), "read" when
 * everything that is shown should be read again, and each event (detail: its payload).
 */
export const live = new EventTarget();
let socket = null;
let state = "";
let timer = 0;

/** Listen until `signal` is aborted. */
export function hear(name, listener, signal) {
  live.addEventListener(name, (event) => listener(event.detail), { signal });
}

/** Connect with the token of the session. */
export function connect() {
  disconnect();
  turn("connecting");
  socket = io(BASE.origin, {
    path: `${BASE.pathname}socket.io/`,
    auth: (give) => give({ token: session.token }),
    transports: ["websocket", "polling"],
    tryAllTransports: true, // some proxies block web sockets
    reconnectionDelayMax: 3000,
  });
  const own = socket;
  own.on("connect", () => {
    clearTimeout(timer);
    turn("live");
    tell("read");
  });
  own.on("disconnect", (reason) => {
    turn("lost");
    readSoon(own, SOON);
    if (reason === "io server disconnect") again(own);
  });
  own.on("connect_error", () => {
    if (state !== "polling") turn("lost");
    if (!own.active) again(own); // refused, probably because of the token: a REST request will show that
  });
  for (const name of EVENTS) own.on(name, (payload) => tell(name, payload));
  readSoon(own, SOON);
}

/** Read over REST until there is a connection: some proxies let no live events through. */
function readSoon(own, pause) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const answers = await once("/api/system/status").then(
      () => true,
      () => false,
    );
    if (own !== socket || state === "live") return;
    turn(answers ? "polling" : "lost");
    if (answers && !document.hidden) tell("read");
    readSoon(own, EVERY);
  }, pause);
}

function turn(to) {
  if (state === to) return;
  state = to;
  tell("state", to);
}

/** Return whether `connect` was called; the connection may be lost for now. */
export function connected() {
  return socket !== null;
}

/** Close the connection. */
export function disconnect() {
  clearTimeout(timer);
  state = "";
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
