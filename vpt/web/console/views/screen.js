// A device to see and touch: its screen, its actions as forms, and the care of its host.

import { BASE, get, look, write } from "../api.js";
import { ask, doing } from "../dialog.js";
import { deviceReason } from "../format.js";
import { actionForm } from "../forms.js";
import { button, fill, h, say, show } from "../h.js";
import { keptLease } from "../lease.js";
import { facts, link, pill } from "../parts.js";
import { can, session } from "../session.js";
import { devices, takeDevice, watch } from "../store.js";
import { answer } from "./device.js";

const EVERY = 1000; // milliseconds between two pictures
const AFTER_ERROR = 5000;
const AT_WORK = "The host is at work. The next picture comes when it has time.";
const SHELL = "execute_bash_command";
const CARE = [
  ["restart_stream", "Restart the stream", "The picture and the stream are away for a moment."],
  ["restart_service", "Restart the host's service", "All devices of the host are away for a moment."],
  ["reboot", "Reboot the host", "The machine restarts. All its devices are away until it is back."],
];
const POWER = [
  ["power_on", "Power on", "The device gets power."],
  ["power_off", "Power off", "The device loses its power at once."],
  ["power_reboot", "Power off and on", "The device loses its power at once, and gets it again."],
];

/** Show the view. */
export function screen({ id, signal }) {
  const path = `/api/devices/${encodeURIComponent(id)}`;
  const title = h("h1", {}, id);
  const place = h("div", { class: "stack" }, h("p", { role: "status" }, "Loading…"));
  Promise.all([get(path, {}, signal), get(`${path}/controls`, {}, signal)])
    .then(([device, controls]) => {
      if (signal.aborted) return;
      takeDevice(device);
      say(title, device.name);
      fill(place, parts({ id, path, device, controls, signal }));
    })
    .catch((error) => {
      if (!signal.aborted)
        fill(
          place,
          h(
            "p",
            { class: "wrong note", role: "alert" },
            error.status === 404 ? `No host has the device ${id} now.` : error.message,
          ),
        );
    });
  return { title: id, node: [title, place] };
}

function parts(view) {
  const { controls, device, id, signal } = view;
  const status = pill();
  const reason = h("span", {});
  const state = () => {
    const now = devices.get(id) ?? device;
    status.set(now.status);
    say(reason, deviceReason(now) ?? "");
  };
  state();
  watch("device", (ids) => ids.has(id) && state(), signal);
  view.touching = [];
  view.picture = controls.picture ? pictureOf(view) : null;
  const hands = can("operator") && handsOf(view);
  return [
    h("div", { class: "row" }, status.node, reason),
    facts([
      ["Model", device.model],
      ["Host", device.host_id && link("hosts", device.host_id, device.host_id)],
    ]),
    hands,
    view.picture?.node ??
      h("p", { class: "note" }, "The host takes no pictures of this device."),
    can("operator") && controls.elements && elementsOf(view),
    can("operator") && controls.shell && shellOf(view),
    can("operator") && actionsOf(view),
    can("admin") && (controls.care || controls.power) && careOf(view),
  ];
}

function alertOf() {
  return h("p", { class: "wrong note", role: "alert", hidden: true });
}

function card(title, ...content) {
  return h("section", { class: "card stack" }, h("h2", {}, title), content);
}

// --- the lease

function handsOf(view) {
  const wrong = alertOf();
  const told = h("span", { role: "status" });
  const lease = keptLease(view.path, view.signal, (why) => {
    say(wrong, why);
    show(wrong, why);
    update();
  });
  view.lease = lease;
  const take = button(
    "Take the device",
    () => doing(take, wrong, () => lease.take(devices.get(view.id)?.lease)),
    { class: "strong" },
  );
  const release = button("Give it back", () => doing(release, wrong, () => lease.release()));
  const update = () => {
    const held = lease.held;
    say(
      told,
      held
        ? "It is yours while this page is open."
        : "Take it to touch it: no test and nobody else gets it meanwhile.",
    );
    show(take, !held);
    show(release, held);
    for (const one of view.touching) one(held);
  };
  queueMicrotask(update); // when all parts are there
  return h("div", { class: "stack" }, h("div", { class: "row" }, take, release, told), wrong);
}

/** Let a part be used only while the device is held. */
function touchable(view, node) {
  view.touching.push((held) => (node.disabled = !held));
  return node;
}

function touch(view, what, body) {
  return write("POST", `${view.path}/${what}`, body, { signal: view.signal });
}

// --- the screen

function pictureOf(view) {
  const image = h("img", { alt: `The screen of ${view.device.name}`, hidden: true });
  const video = h("video", { muted: true, playsinline: true, hidden: true });
  video.muted = true;
  const told = h("p", { class: "note", role: "status" }, "The picture comes in a moment.");
  const wrong = alertOf();
  const screen = {
    image,
    size: null, // pixels of the device, where its elements tell that it has more than the picture
    live: null,
    soon: () => {},
    say: (text) => {
      say(told, text);
      show(told, text);
    },
  };
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  if (view.controls.tap && can("operator")) {
    view.touching.push((held) => image.classList.toggle("tap", held));
    image.addEventListener("click", (event) => tapped(view, screen, event, wrong));
  }
  looking(view, screen);
  const liveButton = view.controls.stream && button("Live video", () => toggle(), {});
  const toggle = () =>
    doing(liveButton, wrong, async () => {
      if (screen.live) return stopLive(screen, video, liveButton);
      await startLive(view, screen, video, liveButton, wrong);
    });
  view.signal.addEventListener("abort", () => stopLive(screen, video, liveButton));
  screen.node = h(
    "section",
    { class: "card stack" },
    h("div", { class: "head" }, h("h2", { class: "grow" }, "Screen"), liveButton),
    told,
    wrong,
    h("div", { class: "screen" }, image, video),
  );
  return screen;
}

/** Fetch a picture each second while the page is looked at. */
async function looking(view, screen) {
  let tag = null;
  while (!view.signal.aborted) {
    const began = performance.now();
    let pause = EVERY;
    if (!document.hidden && !screen.live) {
      try {
        tag = await next(view, screen, tag);
      } catch (error) {
        if (view.signal.aborted) return;
        screen.say(error.message);
        pause = AFTER_ERROR;
      }
    }
    await new Promise((go) => {
      screen.soon = go;
      setTimeout(go, Math.max(0, pause - (performance.now() - began)));
      view.signal.addEventListener("abort", go, { once: true });
    });
  }
}

async function next(view, screen, tag) {
  const response = await look(`${view.path}/screenshot`, tag, view.signal);
  if (response === null) return screen.say(AT_WORK), tag;
  screen.say("");
  if (response.status === 304) return tag;
  screen.image.src = URL.createObjectURL(await response.blob());
  show(screen.image, !screen.live);
  return response.headers.get("ETag");
}

function tapped(view, screen, event, wrong) {
  if (!view.lease.held) return;
  const { image } = screen;
  const size = screen.size ?? { width: image.naturalWidth, height: image.naturalHeight };
  const x = Math.round((event.offsetX / image.clientWidth) * size.width);
  const y = Math.round((event.offsetY / image.clientHeight) * size.height);
  tapAt(view, x, y, wrong);
}

function tapAt(view, x, y, wrong) {
  return doing({}, wrong, async () => {
    const { success, result } = await touch(view, "tap", { x, y });
    if (!success) throw new Error(result.error ?? "The host could not tap.");
    view.picture?.soon();
  });
}

// --- live video

async function startLive(view, screen, video, control, wrong) {
  const { default: Hls } = await import("../vendor/hls.light.min.js");
  if (view.signal.aborted) return;
  if (!Hls.isSupported()) throw new Error("This browser cannot play the stream.");
  const hls = new Hls({
    enableWorker: false,
    liveDurationInfinity: true,
    xhrSetup: (xhr) => xhr.setRequestHeader("Authorization", `Bearer ${session.token}`),
  });
  hls.on(Hls.Events.ERROR, (_, { fatal, response, details }) => {
    if (!fatal) return;
    stopLive(screen, video, control);
    say(wrong, `The stream cannot be shown (${response?.code ?? details}).`);
    show(wrong, true);
  });
  hls.loadSource(new URL(`${view.path.slice(1)}/stream/index.m3u8`, BASE).href);
  hls.attachMedia(video);
  screen.live = hls;
  screen.say("");
  say(control, "Pictures");
  show(screen.image, false);
  show(video, true);
  video.play().catch(() => {}); // it begins when there is something to play
}

function stopLive(screen, video, control) {
  if (!screen.live) return;
  screen.live.destroy();
  screen.live = null;
  say(control, "Live video");
  show(video, false);
  screen.soon();
}

// --- elements

function elementsOf(view) {
  const wrong = alertOf();
  const list = h("ul", { class: "elements" });
  const read = touchable(
    view,
    button("List the elements", () =>
      doing(read, wrong, async () => {
        const { elements } = await touch(view, "elements");
        if (view.picture) view.picture.size = sizeOf(view.picture.image, elements);
        fill(list, elements.length ? elements.map(row) : h("li", {}, "There are none."));
      }),
    ),
  );
  const row = (one) => {
    const name = one.text || one.description || one.id || one.type || "An element";
    const { bounds } = one;
    if (!bounds || !view.controls.tap) return h("li", {}, name);
    const x = Math.round((bounds.left + bounds.right) / 2);
    const y = Math.round((bounds.top + bounds.bottom) / 2);
    const tap = button(name, () => tapAt(view, x, y, wrong), { class: "small" });
    tap.disabled = !view.lease.held;
    return h("li", {}, tap, " ", h("small", {}, one.type ?? ""));
  };
  view.touching.push((held) => {
    for (const one of list.querySelectorAll("button")) one.disabled = !held;
  });
  return card("Elements on the screen", h("div", {}, read), wrong, list);
}

/** Return the size of the device's screen, where its elements reach beyond the picture. */
function sizeOf(image, elements) {
  const far = (side) => Math.max(0, ...elements.map((one) => one.bounds?.[side] ?? 0));
  const [width, height] = [far("right"), far("bottom")];
  return width > image.naturalWidth || height > image.naturalHeight ? { width, height } : null;
}

// --- actions

function run(view, action, params, place) {
  const { command, kind, type } = action;
  return touch(view, `actions/${encodeURIComponent(command)}`, { kind, type, params }).then(
    (said) => {
      fill(place, answer(said));
      view.picture?.soon();
    },
  );
}

function actionsOf(view) {
  const groups = new Map();
  for (const action of view.controls.actions) {
    const name = action.kind === "verification" ? `Check: ${action.category}` : action.category;
    groups.set(name, [...(groups.get(name) ?? []), action]);
  }
  if (!groups.size)
    return card("Actions", h("p", {}, "The host does not say what this device can do."));
  return card(
    "Actions",
    [...groups].map(([name, actions]) =>
      h(
        "details",
        {},
        h("summary", {}, `${name} (${actions.length})`),
        h(
          "div",
          { class: "actions" },
          actions.map((action) => actionOf(view, action)),
        ),
      ),
    ),
  );
}

/** Build an action: a button where it needs nothing, else a form that is made when it is opened. */
function actionOf(view, action) {
  const wrong = alertOf();
  const said = h("div", { role: "status" });
  const send = (params, control) =>
    doing(control, wrong, async () => run(view, action, params(), said)).then(() => {
      control.disabled = !view.lease.held;
    });
  if (!action.fields.length) {
    const go = touchable(
      view,
      button(action.label, () => send(() => action.params, go), {
        title: action.description ?? false,
      }),
    );
    return h("div", {}, go, wrong, said);
  }
  const node = h("details", {}, h("summary", {}, action.label));
  node.addEventListener(
    "toggle",
    () => {
      const form = actionForm(action, send);
      const go = touchable(view, form.querySelector("button"));
      go.disabled = !view.lease.held;
      node.append(form, wrong, said);
    },
    { once: true },
  );
  return node;
}

// --- the shell

function shellOf(view) {
  const action = view.controls.actions.find((one) => one.command === SHELL);
  const wrong = alertOf();
  const line = h("input", {
    "aria-label": "Command",
    spellcheck: "false",
    autocomplete: "off",
    placeholder: "uname -a",
    required: true,
  });
  const said = h("div", { role: "status" });
  const go = touchable(view, h("button", {}, "Run"));
  const submit = (event) => {
    event.preventDefault();
    const params = { ...action.params, command: line.value };
    doing(go, wrong, () => run(view, action, params, said)).then(() => {
      go.disabled = !view.lease.held;
    });
  };
  return card("Shell", h("form", { class: "row", onsubmit: submit }, line, go), wrong, said);
}

// --- the care of the host

function careOf(view) {
  const said = h("p", { role: "status" });
  const offered = [...(view.controls.care ? CARE : []), ...(view.controls.power ? POWER : [])];
  return card(
    "Care",
    h(
      "div",
      { class: "row" },
      offered.map(([care, label, what]) =>
        button(label, () =>
          ask(
            `${label}?`,
            `${what} It is refused while something runs there.`,
            label,
            async () => {
              const { success, result } = await touch(view, `care/${care}`);
              if (!success) throw new Error(result.error ?? "The host could not do it.");
              say(said, result.output ?? "Done.");
            },
            "Leave it",
          ),
        ),
      ),
    ),
    said,
  );
}
