// One host: its facts, its devices, and its commands.

import { get, write } from "../api.js";
import { ask } from "../dialog.js";
import { moment } from "../format.js";
import { button, fill, h, say } from "../h.js";
import { deviceRow, drainButton, facts, hostLine, pill } from "../parts.js";
import { can } from "../session.js";
import { dropHost, hosts, runs, takeHost, watch } from "../store.js";

/** Show the view. */
export function host({ id, signal }) {
  const place = h("div", { class: "stack" }, h("p", { role: "status" }, "Loading…"));
  const path = `/api/hosts/${encodeURIComponent(id)}`;
  get(`${path}/status`, {}, signal)
    .then((item) => {
      if (signal.aborted) return;
      takeHost(item);
      fill(place, details(id, item, signal));
    })
    .catch((error) => {
      if (!signal.aborted)
        fill(
          place,
          h(
            "p",
            { class: "wrong note", role: "alert" },
            error.status === 404 ? `The host ${id} does not exist, or was deleted.` : error.message,
          ),
        );
    });
  const remove = () =>
    ask(
      `Delete ${id}?`,
      "Deletes the host and its devices, but not their results. The host appears again when it registers again.",
      "Delete the host",
      async () => {
        await write("DELETE", path);
        dropHost(id);
        location.hash = "#/lab";
      },
    );
  return {
    title: id,
    node: [
      h(
        "div",
        { class: "head" },
        h("h1", {}, id),
        h("a", { class: "button", href: `#/results?host_id=${encodeURIComponent(id)}` }, "Results"),
        can("admin") && button("Delete", remove, { class: "danger" }),
      ),
      place,
    ],
  };
}

function details(id, item, signal) {
  const status = pill();
  const line = h("span", { class: "grow" });
  const wrong = h("p", { class: "wrong note", role: "alert", hidden: true });
  const drain = drainButton(id, wrong);
  const rows = new Map(item.devices.map((device) => [device.id, deviceRow(device.id)]));
  const update = () => {
    const now = hosts.get(id);
    if (!now) return;
    status.set(now.status);
    say(line, hostLine(now));
    drain.update(now);
  };
  update();
  watch("host", (ids) => ids.has(id) && update(), signal);
  watch("device", (ids) => ids.forEach((one) => rows.get(one)?.update()), signal);
  watch("run", (ids) => ids.forEach((one) => rows.get(runs.get(one)?.device_id)?.update()), signal);
  return [
    h(
      "section",
      { class: "card stack" },
      h("div", { class: "row" }, status.node, line, drain.node),
      wrong,
      factsOf(item),
    ),
    h(
      "section",
      { class: "card" },
      h("h2", {}, "Devices"),
      h(
        "ul",
        {},
        [...rows.values()].map((row) => row.node),
      ),
    ),
    h(
      "section",
      { class: "card" },
      h("h2", {}, "Hardware"),
      h("pre", { tabindex: "0" }, JSON.stringify(item.hardware ?? {}, null, 2)),
    ),
  ];
}

function factsOf(item) {
  return facts([
    ["Address", item.host_url],
    [
      "Page of the host",
      /^https?:/.test(item.page_url) &&
        h("a", { href: item.page_url, rel: "noreferrer" }, item.page_url),
    ],
    ["Speaks", item.dialect],
    ["Capabilities", item.capabilities.join(", ")],
    ["Tags", item.tags.join(", ")],
    ["Idempotent requests", item.protocol.idempotency ? "yes" : "no"],
    ["Cancel", item.protocol.cancel ? "yes" : "no"],
    ["Registered", moment(item.registered_at)],
  ]);
}
