// Words for people: times, durations, what statuses and reasons mean.

const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const SOON = 90; // seconds; hosts are looked at more often, the page asks once a minute

let ahead = 0; // milliseconds by which the server's clock is ahead of this one

/** Take the server's time: what it says happened is measured by its own clock. */
export function setClock(milliseconds) {
  if (milliseconds) ahead = milliseconds - Date.now();
}

/** Say when, with the day where it is not today. */
export function moment(iso) {
  if (!iso) return "";
  const date = new Date(iso);
  return (date.toDateString() === new Date().toDateString() ? CLOCK : MOMENT).format(date);
}

/** Say how long ago, roughly. */
export function ago(iso) {
  if (!iso) return "never";
  const seconds = (Date.now() + ahead - new Date(iso)) / 1000;
  if (seconds < SOON) return "just now";
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

/** Say how long. */
export function seconds(value) {
  if (value == null) return "";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 100) return `${Number(value.toFixed(1))} s`;
  if (value < 5400) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${(value / 3600).toFixed(1)} h`;
}

/** Say a share of a hundred. */
export function percent(value) {
  return value == null ? "none yet" : `${Number(value.toFixed(1))} %`;
}

/** Say how many of what. */
export function many(number, one, more = `${one}s`) {
  return `${number} ${number === 1 ? one : more}`;
}

export const FINAL = new Set(["completed", "failed", "error", "cancelled"]);

/** The colour that a status has. */
export const TONE = {
  available: "good",
  online: "good",
  completed: "good",
  passed: "good",
  busy: "info",
  running: "info",
  leased: "info",
  suspect: "warn",
  draining: "warn",
  cancelled: "warn",
  queued: "dim",
  lost: "bad",
  failed: "bad",
  error: "infra",
  offline: "dim",
  disabled: "dim",
  skipped: "dim",
};

const REASONS = {
  probes: "misses probes",
  flapping: "comes and goes, held back",
  broken: "its actor fails, held back",
};

/** Say why a host is held back. */
export function hostReason(reason) {
  return reason ? (REASONS[reason] ?? reason) : "";
}

const WAITS = {
  all_busy: "All that fit are busy",
  lane_busy: "Its host works on one thing at a time and is busy",
  no_online_host: "No host that fits is online",
  host_suspect: "The host that fits misses probes",
  leased: "What fits is leased to somebody",
  draining: "The host that fits takes nothing new",
  paused: "The host that fits comes and goes, and is held back",
};

/** Say in a sentence why an execution waits. */
export function waits(wait) {
  if (!wait) return "Waits for a device.";
  const names = wait.names?.length
    ? `: ${wait.names.slice(0, 5).join(", ")}${wait.names.length > 5 ? " …" : ""}`
    : "";
  return `${WAITS[wait.reason] ?? wait.reason}${names}.`;
}

/** Say how far an execution is in line. */
export function place(wait) {
  if (!wait?.position) return "";
  const eta = wait.eta_s >= 1 ? `, about ${seconds(Math.round(wait.eta_s))} to go` : "";
  return `Number ${wait.position} in line${eta}.`;
}

const KINDS = {
  host_lost: "its host went away",
  host_error: "its host answered nonsense",
  host_refused: "its host refused it",
  step_timeout: "a step took too long",
  run_timeout: "the attempt took too long",
  queue_timeout: "it waited too long",
  server_restarted: "the server was restarted",
  internal: "vpt made a mistake",
};

/** Say what went wrong with the infrastructure. */
export function errorKind(kind) {
  return kind ? (KINDS[kind] ?? kind) : "";
}
