// The state of the lab in the page: read over REST, updated by events.
//
// Listeners get ids, at most once a frame: ten events of a host cause one update of its node.

import { all, eachPage, get } from "./api.js";
import { FINAL } from "./format.js";
import { hear, live } from "./live.js";
import { inTurn } from "./work.js";

const LAG = 3000; // milliseconds by which a REST response may be older than events
const EVERY = 60_000; // milliseconds between two full reads
const SETTLE = 250; // milliseconds in which unknown ids are collected
const MOST = 1000; // queued executions to read
const REST = 5000; // milliseconds between two full reads because of unknown ids
const LOOKED_UP = 20; // unknown ids to read one by one; with more, read everything

export const hosts = new Map();
export const devices = new Map();
/** Queued and running executions, by id. */
export const runs = new Map();
/** Device id → execution id. */
export const busy = new Map();
export const known = { loaded: false };

const listeners = { host: new Set(), device: new Set(), run: new Set(), list: new Set() };
const dirty = { host: new Set(), device: new Set(), run: new Set(), list: new Set() };
const unknown = { host: new Set(), device: new Set(), run: new Set() };
let recent = []; // [when, name, payload]
let drawing = false;
let looking = null;
let looked = 0;
let generation = 0;

/** Listen to changes: `kind` is host, device, run, or list (something was added or removed). */
export function watch(kind, listener, signal) {
  listeners[kind].add(listener);
  signal.addEventListener("abort", () => listeners[kind].delete(listener));
}

/** Delete the whole state. */
export function clear() {
  generation += 1;
  for (const one of [hosts, devices, runs, busy]) one.clear();
  known.loaded = false;
  recent = [];
}

/** Read everything again. Events that come meanwhile, or came just before, are applied after it. */
export async function refresh() {
  const began = performance.now();
  const mine = ++generation;
  const seenHosts = new Set();
  const seenDevices = new Set();
  const takeHosts = (items) => {
    for (const item of mine === generation ? items : []) {
      seenHosts.add(item.id);
      keepHost(item);
      for (const device of item.devices) seenDevices.add(device.id);
    }
  };
  const takeLoose = (items) => {
    for (const item of mine === generation ? items : []) {
      if (item.host_id) continue;
      seenDevices.add(item.id);
      keepDevice(item);
    }
  };
  const [running, queued] = await Promise.all([
    all("/api/executions", { status: "running" }),
    all("/api/executions", { status: "queued" }, undefined, MOST),
    eachPage("/api/hosts", { limit: 100 }, takeHosts),
    eachPage("/api/devices", { status: "offline", limit: 500 }, takeLoose),
    eachPage("/api/devices", { status: "disabled", limit: 500 }, takeLoose),
  ]);
  if (mine !== generation) return;
  drop(hosts, seenHosts, "host");
  drop(devices, seenDevices, "device");
  takeRuns([...running, ...queued]);
  known.loaded = true;
  looked = performance.now();
  for (const [when, name, payload] of recent) if (when > began - LAG) apply(name, payload);
  changed("list", "");
  await lookAtSteps(running);
  await lookAtWaits(queued);
}

/** Store a host from a response, for example to a command. */
export function takeHost(item) {
  keepHost(item);
  sayAgain(item.id);
  for (const device of item.devices) sayAgain(device.id);
}

/** Store a device from a response. */
export function takeDevice(device) {
  keepDevice(device);
  sayAgain(device.id);
}

/** Keep newer states from events: a response may be older than an event before it. */
function sayAgain(id) {
  const since = performance.now() - LAG;
  for (const [when, name, payload] of recent) {
    if (when > since && (payload.host_id ?? payload.device_id) === id && name.endsWith("_status"))
      apply(name, payload);
  }
}

function keepHost(item) {
  const { devices: own, ...host } = item;
  const before = hosts.get(host.id);
  hosts.set(host.id, host);
  host.deviceIds = own.map((device) => device.id);
  changed(before ? "host" : "list", host.id);
  if (before && before.deviceIds.join() !== host.deviceIds.join()) changed("list", host.id);
  for (const device of own) keepDevice(device);
}

function keepDevice(device) {
  devices.set(device.id, device);
  changed("device", device.id);
}

/** Remove a deleted host. */
export function dropHost(id) {
  for (const device of hosts.get(id)?.deviceIds ?? []) devices.delete(device);
  hosts.delete(id);
  changed("list", id);
}

function drop(map, seen, kind) {
  for (const id of map.keys()) {
    if (seen.has(id)) continue;
    map.delete(id);
    changed(kind, id);
  }
}

function takeRuns(items) {
  const seen = new Set(items.map((item) => item.execution_id));
  for (const id of [...runs.keys()]) if (!seen.has(id)) endRun(id);
  for (const item of items) takeRun(item);
}

function takeRun(item) {
  const before = runs.get(item.execution_id);
  const same = before && before.attempt === item.attempt;
  const run = { ...item, seq: before?.seq ?? 0, wait: before?.wait };
  if (same) run.step = before.step;
  runs.set(run.execution_id, run);
  place(run);
}

function place(run) {
  if (run.status === "running" && run.device_id) {
    busy.set(run.device_id, run.execution_id);
    changed("device", run.device_id);
  } else {
    leave(run.execution_id);
  }
  changed("run", run.execution_id);
}

function endRun(id) {
  runs.delete(id);
  leave(id);
  changed("run", id);
}

function leave(id) {
  for (const [device, run] of busy) {
    if (run !== id) continue;
    busy.delete(device);
    changed("device", device);
  }
}

/** Read the progress of executions that ran before the page was opened: lists do not have it. */
async function lookAtSteps(running) {
  for (const { execution_id: id } of running.slice(0, LOOKED_UP)) {
    if (runs.get(id)?.step == null) await lookUpRun(id);
  }
}

/** Read the wait reasons for which no event came since the page was opened. */
async function lookAtWaits(queued) {
  for (const { execution_id: id } of queued.slice(0, LOOKED_UP)) {
    if (runs.get(id)?.wait) continue;
    const wait = await get(`/api/executions/${encodeURIComponent(id)}/queue`).catch(() => null);
    const run = runs.get(id);
    if (!wait || !run || run.wait) continue;
    run.wait = wait;
    changed("run", id);
  }
}

async function lookUpRun(id) {
  const item = await get(`/api/executions/${encodeURIComponent(id)}`).catch(() => null);
  if (!item) return;
  const run = runs.get(id);
  if (FINAL.has(item.status)) return void (run && endRun(id));
  if (run?.test_case_name && run.step != null) return;
  const { steps, attempts: _, ...plain } = item;
  takeRun(plain);
  runs.get(id).step ??= steps.filter((step) => step.status !== "running").length;
}

// --- events

const APPLY = {
  host_status({ host_id: id, ...news }) {
    const host = hosts.get(id);
    if (!host) return lookUp("host", id);
    Object.assign(host, news, { last_seen: news.last_seen ?? host.last_seen });
    changed("host", id);
  },
  device_status({ device_id: id, status, last_seen: seen, ...why }) {
    const device = devices.get(id);
    if (!device) return lookUp("device", id);
    if (status === "leased" && !device.lease) lookUp("device", id);
    if (why.reason !== device.reason || why.reason_text !== device.reason_text) {
      device.reason_until = null;
      if (why.reason === "held_back") lookUp("device", id); // no event says until when
    }
    Object.assign(device, { status, last_seen: seen ?? device.last_seen, ...why });
    if (status !== "leased") device.lease = null;
    changed("device", id);
  },
  test_progress(event) {
    const id = event.execution_id;
    const run = runs.get(id);
    if (run && event.seq <= run.seq) return;
    if (FINAL.has(event.status)) return endRun(id);
    const now = run ?? { execution_id: id };
    runs.set(id, Object.assign(now, event));
    place(now);
    if (!now.test_case_name) lookUp("run", id);
  },
  queue_changed(event) {
    const run = runs.get(event.execution_id);
    if (!run && runs.size > MOST) return;
    if (!run) return lookUp("run", event.execution_id);
    run.wait = event;
    changed("run", run.execution_id);
  },
};

for (const name of Object.keys(APPLY)) {
  hear(name, (payload) => {
    const now = performance.now();
    while (recent.length && recent[0][0] < now - 10 * LAG) recent.shift();
    recent.push([now, name, payload]);
    apply(name, payload);
  });
}
live.addEventListener("read", () => refresh().catch(() => {}));
setInterval(() => {
  if (known.loaded && !document.hidden && performance.now() - looked > EVERY)
    refresh().catch(() => {});
}, 5000);

function apply(name, payload) {
  APPLY[name](payload);
}

const refreshSoon = inTurn(() => refresh().catch(() => {}), REST);

/** Read unknown ids that events named; those of a short time are read together. */
function lookUp(kind, id) {
  unknown[kind].add(id);
  looking ??= setTimeout(async () => {
    looking = null;
    const asked = Object.fromEntries(
      Object.entries(unknown).map(([name, ids]) => [name, [...ids]]),
    );
    for (const ids of Object.values(unknown)) ids.clear();
    if (!known.loaded) return;
    if (Object.values(asked).some((ids) => ids.length > LOOKED_UP)) return void refreshSoon();
    for (const one of asked.run) await lookUpRun(one);
    for (const one of asked.host) await lookUpHost(one);
    for (const one of asked.device) await lookUpDevice(one);
  }, SETTLE);
}

async function lookUpHost(id) {
  const host = await get(`/api/hosts/${encodeURIComponent(id)}/status`).catch(() => null);
  if (host) takeHost(host);
}

async function lookUpDevice(id) {
  const device = await get(`/api/devices/${encodeURIComponent(id)}`).catch(() => null);
  if (!device) return;
  if (device.host_id && !hosts.get(device.host_id)?.deviceIds.includes(id))
    await lookUpHost(device.host_id);
  else takeDevice(device);
}

// --- notifying listeners

function changed(kind, id) {
  dirty[kind].add(id);
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    for (const [name, ids] of Object.entries(dirty)) {
      if (!ids.size) continue;
      dirty[name] = new Set();
      for (const listener of listeners[name]) listener(ids);
    }
  });
}
