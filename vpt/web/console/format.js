// Texts for people: times, durations, the meaning of statuses and reasons.

const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const SOON = 90; // seconds; hosts are probed more often, the page reloads its state once a minute

let ahead = 0; // milliseconds by which the server's clock is ahead of this one

/** Store the server's time: ages are computed by its clock, not the browser's. */
export function setClock(milliseconds) {
  if (milliseconds) ahead = milliseconds - Date.now();
}

/** Return a time, with the day if it is not today. */
export function moment(iso) {
  if (!iso) return "";
  const date = new Date(iso);
  return (date.toDateString() === new Date().toDateString() ? CLOCK : MOMENT).format(date);
}

/** Return the device models that a test case or an execution asks for, of which any will do. */
export function modelsOf(item) {
  return [item.device_model].flat();
}

/** Return how long ago a time was, roughly. */
export function ago(iso) {
  if (!iso) return "never";
  const seconds = (Date.now() + ahead - new Date(iso)) / 1000;
  if (seconds < SOON) return "just now";
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

/** Return a duration. */
export function seconds(value) {
  if (value == null) return "";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 100) return `${Number(value.toFixed(1))} s`;
  if (value < 5400) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${(value / 3600).toFixed(1)} h`;
}

/** Return a percentage. */
export function percent(value) {
  return value == null ? "none yet" : `${Number(value.toFixed(1))} %`;
}

/** Return a number with its noun. */
export function many(number, one, more = `${one}s`) {
  return `${number} ${number === 1 ? one : more}`;
}

export const FINAL = new Set(["completed", "failed", "error", "cancelled"]);

/** The colour of each status. */
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
  probes: "does not answer its probes",
  flapping: "unstable connection, paused",
  broken: "its actor keeps crashing, paused",
  errors: "all of its devices are held back",
  replaced: "another host has its URL",
  credential: "its token was revoked or has expired: it must register with a new one",
  errors: "all its devices are held back after errors",
  replaced: "another host took its place",
};

/** The reasons whose text says more than the sentence above does. */
const SAYS_MORE = new Set(["errors", "replaced"]);

/** Return why a host gets no new runs, and what is known of that in words. */
export function hostReason(host) {
  const reason = host.reason ? (REASONS[host.reason] ?? host.reason) : "";
  const words = host.trouble?.text ?? (SAYS_MORE.has(host.reason) ? host.reason_text : "");
  return [reason, words].filter(Boolean).join(": ");
}

const OF_DEVICES = {
  away: "Not available",
  held_back: "Held back after errors",
  host_works: "Its host is at work",
};

/** Return why a device gets no new runs, and until when. */
export function deviceReason({ reason, reason_text: text, reason_until: until }) {
  if (!reason) return "";
  const word = OF_DEVICES[reason] ?? reason;
  return [until ? `${word} until ${moment(until)}` : word, text].filter(Boolean).join(": ");
}

const WAITS = {
  all_busy: "All matching devices are busy",
  lane_busy: "Its host runs one thing at a time and is busy",
  no_online_host: "No matching host is online",
  host_suspect: "The matching host does not answer its probes",
  leased: "All matching devices are leased",
  draining: "The matching host is draining",
  device_away: "The matching device is not available, says its host",
  paused: "The matching host has an unstable connection and is paused",
  nothing_fits: "No registered device fits any more",
  held_back: "All matching devices are held back after too many errors",
  backoff: "It just failed on the matching device and is tried there again soon",
};

/** Return in one sentence why an execution waits. */
export function waits(wait) {
  if (!wait) return "Waiting for a device.";
  const names = wait.names?.length
    ? `: ${wait.names.slice(0, 5).join(", ")}${wait.names.length > 5 ? " …" : ""}`
    : "";
  return `${WAITS[wait.reason] ?? wait.reason}${names}.`;
}

/** Return the position of an execution in the queue. */
export function place(wait) {
  if (!wait?.position) return "";
  const eta = wait.eta_s >= 1 ? `, starts in about ${seconds(Math.round(wait.eta_s))}` : "";
  return `Position ${wait.position} in the queue${eta}.`;
}

/** What failed in the infrastructure, by `error_kind`. */
export const ERROR_KINDS = {
  host_lost: "the connection to its host was lost",
  host_error: "its host sent an invalid response",
  host_refused: "its host refused the step",
  step_timeout: "a step exceeded its time limit",
  run_timeout: "the attempt exceeded its time limit",
  queue_timeout: "it waited too long in the queue",
  server_restarted: "the server was restarted",
  internal: "internal error of vpt",
  config: "a secret that it needs is gone",
  nothing_fits: "no registered device fits any more",
};

/** Return what failed in the infrastructure. */
export function errorKind(kind) {
  return kind ? (ERROR_KINDS[kind] ?? kind) : "";
}
