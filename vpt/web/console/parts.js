// Elements that several views use.

import { doing } from "./dialog.js";
import { ago, deviceReason, FINAL, hostReason, moment, TONE } from "./format.js";
import { button, h, say, show } from "./h.js";
import { blob, write } from "./api.js";
import { can } from "./session.js";
import { devices, runs, busy, takeDevice, takeHost } from "./store.js";
import { deviceDialog } from "./views/device.js";

/** Build a status that can change: {node, set(status)}. */
export function pill(status) {
  const node = h("span", { class: "pill" });
  const set = (now) => {
    if (node.textContent === now) return;
    say(node, now);
    node.className = `pill ${TONE[now] ?? "dim"}`;
  };
  if (status) set(status);
  return { node, set };
}

/** Build the hint for an empty list: that there is nothing, and what to do. */
export function empty(title, ...next) {
  return h("div", { class: "card" }, h("p", {}, h("strong", {}, title)), h("p", {}, next));
}

/** Build the link to an execution, campaign execution or host. */
export function link(kind, id, text) {
  return h("a", { href: `#/${kind}/${encodeURIComponent(id)}` }, text);
}

/** Build a progress bar: {node, set(done, total)}. */
export function bar(label) {
  const node = h("progress", { "aria-label": label });
  const set = (done, total) => {
    if (done == null || !total) return node.removeAttribute("value");
    if (node.max !== total) node.max = total;
    if (node.value !== done || !node.hasAttribute("value")) node.value = done;
  };
  return { node, set };
}

/** Build the row of a device: {node, update()}. */
export function deviceRow(id) {
  const name = link("devices", id, "");
  const model = h("small", {});
  const status = pill();
  const doing = h("div", { class: "doing", hidden: true });
  const why = h("span", { class: "grow" });
  const wrong = h("p", { class: "wrong note", role: "alert", hidden: true });
  const resume = resumeButton(id, wrong);
  const reasons = h(
    "div",
    { class: "doing", hidden: true },
    h("div", { class: "row" }, why, resume.node),
    wrong,
  );
  const open = can("operator") && button("Use", () => deviceDialog(id), { class: "small" });
  const node = h(
    "li",
    { class: "device", "data-device": id },
    h("span", {}, name, " ", model),
    status.node,
    open || h("span"),
    reasons,
    doing,
  );
  let running = null;
  const update = () => {
    const device = devices.get(id);
    if (!device) return;
    say(name, device.name);
    say(model, device.model ?? "");
    status.set(device.status);
    say(why, deviceReason(device));
    show(reasons, device.reason);
    resume.update(device);
    if (open) open.setAttribute("aria-label", `Use ${device.name}`);
    running = whatItDoes(doing, device, running);
  };
  update();
  return { node, update };
}

function whatItDoes(place, device, before) {
  const run = runs.get(busy.get(device.id));
  if (run) {
    const shown = before?.id === run.execution_id ? before : runLine(place, run);
    shown.update(run);
    show(place, true);
    return shown;
  }
  const lease = device.lease;
  say(place, lease ? `Leased to ${lease.holder} until ${moment(lease.expires_at)}` : "");
  show(place, lease);
  return null;
}

function runLine(place, run) {
  const progress = bar("Steps done");
  const title = link("executions", run.execution_id, "");
  const count = h("small", {});
  place.replaceChildren(h("span", {}, title, " ", count), progress.node);
  const update = (now) => {
    say(title, now.test_case_name ?? "A test");
    say(
      count,
      now.total_steps
        ? `step ${Math.min((now.step ?? 0) + 1, now.total_steps)} of ${now.total_steps}`
        : "",
    );
    progress.set(now.step, now.total_steps);
  };
  return { id: run.execution_id, update };
}

/** Build the button that ends the pause of a device: {node, update(device)}; none for viewers. */
function resumeButton(id, wrong) {
  if (!can("operator")) return { node: null, update: () => {} };
  const path = `/api/devices/${encodeURIComponent(id)}/resume`;
  const order = () => doing(node, wrong, async () => takeDevice(await write("POST", path)));
  const node = button("Resume", order, { class: "small", hidden: true });
  const update = (device) => {
    show(node, device.reason === "held_back");
    node.setAttribute("aria-label", `Resume ${device.name}`);
  };
  return { node, update };
}

/** Build the button that drains or resumes a host: {node, update(host)}; none for viewers. */
export function drainButton(id, wrong) {
  if (!can("operator")) return { node: null, update: () => {} };
  let draining = false;
  const order = () =>
    doing(node, wrong, async () => {
      const path = `/api/hosts/${encodeURIComponent(id)}`;
      const host = await write("POST", `${path}/${draining ? "resume" : "drain"}`);
      takeHost({ ...host, draining: !draining });
    });
  const node = button("Drain", order, { class: "small" });
  const update = (host) => {
    draining = host.draining;
    say(node, draining ? "Resume" : "Drain");
    node.setAttribute("aria-label", `${draining ? "Resume" : "Drain"} ${host.id}`);
  };
  return { node, update };
}

/** Return when a host was last seen and why it gets no new runs. */
export function hostLine(host) {
  const reason = hostReason(host);
  const seen =
    host.status === "offline" && !host.reason
      ? `unregistered, last seen ${ago(host.last_seen)}`
      : `seen ${ago(host.last_seen)}`;
  return [reason, host.draining && host.status !== "draining" && "draining", seen]
    .filter(Boolean)
    .join(" · ");
}

/** Build the error message of a view: {node, say(sentence)}; an empty sentence hides it. */
export function trouble() {
  const node = h("p", { class: "wrong note", role: "alert", hidden: true });
  return {
    node,
    say(sentence) {
      say(node, sentence);
      show(node, sentence);
    },
  };
}

/** Build a button that downloads a file that needs the token. */
export function saveButton(text, path, name, wrong) {
  return button(text, async () => {
    try {
      const url = URL.createObjectURL(await blob(path));
      h("a", { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
      wrong.say("");
    } catch (error) {
      wrong.say(error.message);
    }
  });
}

/** Build the button that cancels `path`; `update(item)` hides it for a finished item. */
export function cancelButton(path, wrong) {
  if (!can("operator")) return { node: null, update: () => {} };
  const node = button(
    "Cancel",
    async () => {
      node.disabled = true;
      try {
        await write("POST", `${path}/cancel`);
        say(node, "Cancelling…");
        wrong.say("");
      } catch (error) {
        node.disabled = false;
        wrong.say(error.message);
      }
    },
    { class: "danger" },
  );
  const update = (item) => {
    show(node, !FINAL.has(item.status));
    if (item.cancel_requested) {
      node.disabled = true;
      say(node, "Cancelling…");
    }
  };
  return { node, update };
}

/** Build the button that pins or unpins the execution at `path`; `changed` is called after it. */
export function pinButton(path, wrong, changed) {
  if (!can("operator")) return { node: null, update: () => {} };
  let pinned = false;
  const node = button("", () =>
    doing(node, wrong.node, async () => {
      await write(pinned ? "DELETE" : "PUT", `${path}/pin`);
      changed();
    }),
  );
  const update = (item) => {
    pinned = item.pinned;
    say(node, pinned ? "Stop keeping" : "Keep forever");
    show(node, FINAL.has(item.status));
  };
  show(node, false);
  return { node, update };
}

/** Build a table of names and values; those without a value are left out. */
export function facts(pairs) {
  return h(
    "table",
    {},
    h(
      "tbody",
      {},
      pairs
        .filter(([, value]) => value != null && value !== "" && value !== false)
        .map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value))),
    ),
  );
}
