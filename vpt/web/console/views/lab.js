// The lab: the current state of hosts and devices. An event updates only the node that changed.

import { keepInAddress } from "../address.js";
import { BASE } from "../api.js";
import { many } from "../format.js";
import { field, fill, h, say, select, show } from "../h.js";
import { deviceRow, drainButton, empty, hostLine, link, pill } from "../parts.js";
import { devices, hosts, known, runs, watch } from "../store.js";
import { inSlices, inTurn } from "../work.js";

const HOSTS = ["available", "busy", "suspect", "lost", "draining", "offline"];
const TROUBLE = new Set(["suspect", "lost"]);
const DEVICES = ["online", "busy", "leased", "offline", "disabled"];
const COUNT = 300; // milliseconds between two counts
const NEAR = "1200px"; // distance from the visible part within which devices are drawn
const HEAD = 4; // height of a card without devices, in rem
const ROW = 2.4; // height of a device, in rem
const SEEN = 30_000; // milliseconds between two updates of "seen ... ago"

/** Show the view. */
export function lab({ query, signal }) {
  const rows = new Map(); // device id → row
  const cards = new Map(); // host id → card
  const list = h("div", { class: "hosts" });
  const summary = h("p", { id: "counts", class: "grow" }, "Loading the lab…");
  const loose = h("ul", { class: "devices" });
  const looseCard = h(
    "section",
    { class: "card", hidden: true },
    h("h2", {}, "Devices without a host"),
    loose,
  );
  const nothing = h(
    "div",
    { hidden: true },
    empty(
      "No host has registered yet.",
      "On the machine that has the devices: ",
      h("code", {}, `vpt host --server ${BASE.href.slice(0, -1)} --name pi-1 --device desktop`),
      ". HOST_JOIN_TOKEN must be set there to the server's join token. The host then appears here.",
    ),
  );
  const unmatched = h("p", { hidden: true }, "No host matches this filter.");
  const text = h("input", { type: "search", value: query.get("q") ?? "", oninput: () => wish() });
  const state = select(
    [["", "any"], ["trouble", "suspect or lost"], ...HOSTS.map((one) => [one, one])],
    query.get("status"),
    { onchange: () => wish() },
  );

  const near = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries)
        if (isIntersecting) cards.get(target.dataset.host)?.draw();
    },
    { rootMargin: NEAR },
  );
  signal.addEventListener("abort", () => near.disconnect());

  const wish = () => {
    keepInAddress("lab", { q: text.value.trim(), status: state.value });
    filter();
  };
  const filter = () => {
    let any = false;
    const wanted = text.value.trim().toLowerCase();
    for (const [id, card] of cards) {
      const fits = matches(hosts.get(id), wanted, state.value);
      show(card.node, fits);
      any ||= fits;
    }
    show(unmatched, !any && cards.size > 0);
  };
  const arrange = async () => {
    for (const [id, card] of cards) {
      if (hosts.has(id)) continue;
      card.node.remove();
      cards.delete(id);
    }
    const ids = [...hosts.keys()].sort(compare);
    let place = list.firstElementChild;
    await inSlices(
      ids,
      (id) => {
        if (!hosts.has(id)) return;
        let card = cards.get(id);
        if (!card) cards.set(id, (card = hostCard(id, rows, near)));
        card.update(true);
        if (card.node === place) place = place.nextElementSibling;
        else list.insertBefore(card.node, place);
        if (!matches(hosts.get(id), text.value.trim().toLowerCase(), state.value))
          card.node.hidden = true;
      },
      signal,
    );
    if (signal.aborted) return;
    placeLoose(loose, rows);
    show(looseCard, loose.children.length);
    show(nothing, known.loaded && !hosts.size && !devices.size);
    list.setAttribute("aria-busy", String(!known.loaded));
    filter();
  };
  const arranged = inTurn(arrange);
  const count = () => say(summary, known.loaded ? counts() : "Loading the lab…");
  let counting = 0;
  const recount = () => {
    counting ||= setTimeout(() => ((counting = 0), count()), COUNT);
  };

  watch("list", arranged, signal);
  watch(
    "host",
    (ids) => {
      for (const id of ids) cards.get(id)?.update(false);
      if (state.value) filter();
      recount();
    },
    signal,
  );
  watch(
    "device",
    (ids) => {
      for (const id of ids) rows.get(id)?.update();
      recount();
    },
    signal,
  );
  watch(
    "run",
    (ids) => {
      for (const id of ids) rows.get(runs.get(id)?.device_id)?.update();
      recount();
    },
    signal,
  );
  watch("list", recount, signal);
  const clock = setInterval(() => [...cards.values()].forEach((card) => card.update(false)), SEEN);
  signal.addEventListener("abort", () => (clearInterval(clock), clearTimeout(counting)));
  arranged();
  count();

  return {
    title: "Lab",
    node: [
      h("div", { class: "head" }, h("h1", {}, "Lab"), summary),
      h(
        "div",
        { class: "row" },
        field("Find a host, device, model or tag", text),
        field("Host status", state),
      ),
      nothing,
      unmatched,
      list,
      looseCard,
    ],
  };
}

/** Build the card of a host. Its devices are drawn when it is about to become visible. */
function hostCard(id, rows, near) {
  const status = pill();
  const line = h("small", { class: "grow" });
  const wrong = h("p", { class: "wrong note", role: "alert", hidden: true });
  const drain = drainButton(id, wrong);
  const items = h("ul", { class: "devices" });
  const node = h(
    "section",
    { class: "card host", "data-host": id },
    h("div", { class: "row" }, h("h2", {}, link("hosts", id, id)), status.node, line, drain.node),
    wrong,
    items,
  );
  let drawn = false;
  let own = null;
  const update = (whole) => {
    const host = hosts.get(id);
    if (!host) return;
    status.set(host.status);
    say(line, hostLine(host));
    drain.update(host);
    if (whole && own !== host.deviceIds.join("\n")) list(host);
  };
  const list = (host) => {
    own = host.deviceIds.join("\n");
    node.style.setProperty(
      "contain-intrinsic-size",
      `auto ${HEAD + ROW * host.deviceIds.length}rem`,
    );
    if (!drawn) return;
    fill(
      items,
      host.deviceIds.map((device) => {
        if (!rows.has(device)) rows.set(device, deviceRow(device));
        return rows.get(device).node;
      }),
    );
  };
  const draw = () => {
    drawn = true;
    near.unobserve(node);
    if (hosts.has(id)) list(hosts.get(id));
  };
  near.observe(node);
  return { node, update, draw };
}

function placeLoose(list, rows) {
  const ids = [...devices.values()].filter((device) => !device.host_id).map((device) => device.id);
  if (ids.length === list.children.length && !ids.length) return;
  fill(
    list,
    ids.map((id) => {
      if (!rows.has(id)) rows.set(id, deviceRow(id));
      return rows.get(id).node;
    }),
  );
}

function matches(host, text, status) {
  if (
    !host ||
    (status && host.status !== status && !(status === "trouble" && TROUBLE.has(host.status)))
  )
    return false;
  if (!text) return true;
  const own = host.deviceIds.flatMap((id) => {
    const device = devices.get(id);
    return device ? [device.name, device.model ?? "", ...device.tags] : [];
  });
  return [host.id, ...host.tags, ...host.capabilities, ...own].some((one) =>
    one.toLowerCase().includes(text),
  );
}

function counts() {
  const running = [...runs.values()].filter((run) => run.status === "running").length;
  return [
    `${many(hosts.size, "host")}${byStatus(hosts.values(), HOSTS)}`,
    `${many(devices.size, "device")}${byStatus(devices.values(), DEVICES)}`,
    `${running} running`,
    `${runs.size - running}${runs.size - running >= 1000 ? " or more" : ""} queued`,
  ].join(" · ");
}

function byStatus(things, statuses) {
  const counted = new Map();
  for (const { status } of things) counted.set(status, (counted.get(status) ?? 0) + 1);
  const told = statuses
    .filter((one) => counted.has(one))
    .map((one) => `${counted.get(one)} ${one}`);
  return told.length ? ` (${told.join(", ")})` : "";
}

const { compare } = new Intl.Collator(undefined, { numeric: true });
