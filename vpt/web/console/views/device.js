// A device: lease and release it, take it out of service, run one action by hand.

import { get, write } from "../api.js";
import { doing, open } from "../dialog.js";
import { deviceReason, moment, seconds } from "../format.js";
import { button, field, fill, h, say, select, show } from "../h.js";
import { facts } from "../parts.js";
import { can, session } from "../session.js";
import { devices, takeDevice, watch } from "../store.js";

const TERMS = [
  ["600", "10 minutes"],
  ["3600", "1 hour"],
  ["28800", "8 hours"],
];
const SAMPLES = {
  web: { command: "take_screenshot", action_type: "web", params: {} },
  other: {
    command: "execute_bash_command",
    action_type: "desktop",
    params: { command: "echo hello" },
  },
};

/** Open the dialog of a device. */
export function deviceDialog(id) {
  const device = devices.get(id);
  if (!device) return;
  const path = `/api/devices/${encodeURIComponent(id)}`;
  const wrong = h("p", { class: "wrong note", role: "alert", hidden: true });
  const state = h("p", { role: "status" });
  const controls = h("div", { class: "row" });
  const term = select(TERMS, "600", { "aria-label": "How long" });
  const act = (text, work, more) => {
    const node = button(
      text,
      () =>
        doing(node, wrong, async () => {
          await work();
          takeDevice(await get(path));
          draw();
        }).then(() => node.isConnected || controls.querySelector("button").focus()),
      more,
    );
    return node;
  };
  const lease = act("Lease", () => write("POST", `${path}/lease`, { ttl_s: Number(term.value) }), {
    class: "strong",
  });
  const release = act("Release", () => write("DELETE", `${path}/lease`));
  const disable = act("Take out of service", () => write("PUT", path, { status: "disabled" }));
  const enable = act("Back into service", () => write("PUT", path, { status: "online" }));
  const draw = () => {
    const now = devices.get(id) ?? device;
    say(state, stateOf(now));
    const mine = now.lease?.holder === session.user;
    const wanted = [
      ...(now.lease ? [] : [term, lease]),
      ...(mine || (now.lease && can("admin")) ? [release] : []),
      now.status === "disabled" ? enable : disable,
    ];
    if (wanted.every((one, place) => controls.children[place] === one)) return;
    fill(controls, wanted);
  };
  draw();
  const run = h(
    "a",
    { class: "button", href: `#/run?device_id=${encodeURIComponent(id)}` },
    "Run a test on it",
  );
  const closing = open(
    device.name,
    h("p", { class: "faint" }, `${device.model ?? "no model"} · ${device.id}`),
    state,
    controls,
    wrong,
    device.model && h("div", {}, run),
    factsOf(device.properties),
    device.host_id && oneAction(device),
  );
  watch("device", (ids) => ids.has(id) && draw(), closing);
}

function factsOf(properties) {
  const told = Object.entries(properties ?? {}).map(([name, value]) => [name, String(value)]);
  return told.length ? facts(told) : null;
}

function stateOf(device) {
  const lease = device.lease;
  const leased = lease ? `: leased to ${lease.holder} until ${moment(lease.expires_at)}` : "";
  const reason = deviceReason(device);
  return `It is ${device.status}${leased}.${reason ? ` ${reason}.` : ""}`;
}

function oneAction(device) {
  const sample = SAMPLES[device.model] ?? SAMPLES.other;
  const body = h("textarea", {
    rows: 7,
    spellcheck: "false",
    value: JSON.stringify(sample, null, 2),
  });
  const wrong = h("p", { class: "wrong note", role: "alert", hidden: true });
  const said = h("div", { role: "status" });
  const go = h("button", { class: "strong" }, "Run this action");
  const submit = (event) => {
    event.preventDefault();
    fill(said);
    doing(go, wrong, async () => {
      const action = asObject(body.value);
      const local = device.local_id === null ? {} : { device_id: device.local_id };
      show(wrong, false);
      fill(
        said,
        answer(
          await write("POST", `/api/hosts/${encodeURIComponent(device.host_id)}/execute`, {
            ...action,
            ...local,
          }),
        ),
      );
    });
  };
  return h(
    "form",
    { class: "stack", onsubmit: submit },
    h("h3", {}, "One action by hand"),
    field(
      "Action (JSON)",
      body,
      "It is sent to the host unchanged, and refused while a test or another user has the device.",
    ),
    wrong,
    h("div", {}, go),
    said,
  );
}

function asObject(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value))
    throw new Error("An action is a JSON object: { … }.");
  return value;
}

/** Show the answer of a host to an action. */
export function answer({ success, result, duration_ms: ms }) {
  const { screenshot, output, error } = result ?? {};
  const url = typeof screenshot === "string" && screenshot && pictureUrl(screenshot);
  return [
    h(
      "p",
      {},
      h("span", { class: `pill ${success ? "good" : "bad"}` }, success ? "succeeded" : "failed"),
      ` in ${seconds(ms / 1000)}`,
    ),
    error && h("pre", {}, error),
    output && h("pre", {}, typeof output === "string" ? output : JSON.stringify(output, null, 2)),
    url && h("img", { src: url, alt: "The screen of the device" }),
  ];
}

function pictureUrl(base64) {
  try {
    const bytes = Uint8Array.from(atob(base64.replace(/^data:[^,]*,/, "")), (char) =>
      char.charCodeAt(0),
    );
    return URL.createObjectURL(new Blob([bytes]));
  } catch {
    return null;
  }
}
