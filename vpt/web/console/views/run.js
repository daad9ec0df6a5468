// Run a test case or a campaign with parameters; show what is queued and running.

import { all, get, newKey, write } from "../api.js";
import { doing } from "../dialog.js";
import { modelsOf, place, waits } from "../format.js";
import { field, fill, h, keep, offer, say, select, show } from "../h.js";
import { bar, empty, link, pill, trouble } from "../parts.js";
import { can } from "../session.js";
import { devices, hosts, known, runs, watch } from "../store.js";
import { inTurn } from "../work.js";

const SOME = 1000; // test cases or campaigns to choose from; others are found by name
const SHOWN = 100; // queued and running executions to show
const NAME = /\$\$\{|\$\{([^{}]+)\}/g;
// What the step is sent to: the server fills it in (TARGET_NAMES in vpt/parameters.py).
const OF_TARGET = ["device.id", "device.local_id", "device.model", "host.name"];
const REST = 300; // milliseconds between two searches

/** Show the view. */
export function run({ query, signal }) {
  return {
    title: "Run",
    node: [
      h("h1", {}, "Run"),
      can("operator")
        ? wish(query, signal)
        : h("p", {}, "Your token can only view. To run tests, ask for one with the role operator."),
      now(signal),
    ],
  };
}

function wish(query, signal) {
  const wrong = trouble();
  const kind = select(
    [
      ["testcases", "A test case"],
      ["campaigns", "A campaign"],
    ],
    query.has("campaign_id") ? "campaigns" : "testcases",
    { onchange: () => search() },
  );
  const find = h("input", { type: "search", oninput: () => search() });
  const what = select([], "", { required: true, onchange: () => choose() });
  const device = select([["", "Any matching one"]], "");
  const wanted = field("Device", device);
  const parameters = h("div", { class: "stack" });
  const priority = h("input", { type: "number", min: "0", max: "100", value: "50" });
  const urgent = field("Priority", priority, "0 to 100; a higher one runs first.");
  const go = h("button", { class: "strong" }, "Run");
  const none = h("div", { hidden: true });
  const form = h("form", { class: "card stack" });
  let chosen = null;
  let wished = query.get("device_id"); // the device to select once the list is loaded
  let on = null; // the device in the URL
  let first = query.get("test_case_id") ?? query.get("campaign_id");
  let again = query.get("again"); // the execution to repeat, until it is loaded
  let given = {}; // its parameters
  let key = newKey();

  const search = inTurn(async () => {
    try {
      if (wished && !on) on = await deviceOf(wished, signal);
      if (again) await takeFrom(again);
      const items = await all(
        `/api/${kind.value}`,
        { q: find.value.trim(), device_model: kind.value === "testcases" ? on?.model : null },
        signal,
        SOME,
      );
      if (first && !items.some((item) => item.id === first)) {
        await get(`/api/${kind.value}/${encodeURIComponent(first)}`, {}, signal).then(
          (item) => items.unshift(item),
          () => {},
        );
      }
      if (signal.aborted) return;
      const before = first ?? what.value;
      first = null;
      fill(
        what,
        items.map((item) => h("option", { value: item.id }, item.name)),
      );
      what.value = items.some((item) => item.id === before) ? before : (items[0]?.id ?? "");
      items.forEach((item) => offered.set(item.id, item));
      const nothing = !items.length && !find.value;
      show(form, !nothing);
      show(none, nothing);
      fill(
        none,
        kind.value === "testcases"
          ? empty(
              on
                ? `There are no test cases for the model ${on.model} yet.`
                : "There are no test cases yet.",
              h("a", { href: "#/testcases/new" }, "Create the first one"),
              ", then run it here.",
            )
          : empty(
              "There are no campaigns yet.",
              h("a", { href: "#/campaigns/new" }, "Create one from test cases"),
              ", then run it here.",
            ),
      );
      wrong.say("");
      choose();
    } catch (error) {
      if (!signal.aborted) wrong.say(error.message);
    }
  }, REST);
  const takeFrom = async (id) => {
    const before = await get(`/api/executions/${encodeURIComponent(id)}`, {}, signal);
    again = null;
    first = before.test_case_id;
    wished = before.wanted_device_id;
    given = before.parameters;
    priority.value = before.priority;
  };
  const offered = new Map();
  const choose = () => {
    chosen = offered.get(what.value) ?? null;
    key = newKey();
    const single = kind.value === "testcases";
    for (const node of [wanted, urgent, parameters]) show(node, single);
    go.disabled = false;
    if (!single) return;
    offerDevices();
    fill(parameters);
    if (chosen) askParameters(chosen);
  };
  // A list has no steps, which name the parameters: they are read when the test case is chosen.
  const askParameters = async (test) => {
    go.disabled = true;
    try {
      const { steps } = await get(`/api/testcases/${encodeURIComponent(test.id)}`, {}, signal);
      if (chosen !== test) return;
      fill(
        parameters,
        namesIn(steps).map((name) =>
          test.parameters?.[name]?.secret
            ? field(
                `Secret parameter ${name}`,
                h("input", { name, required: true, type: "password", autocomplete: "new-password" }),
                "A text of at least 6 characters, or ${secret:NAME}; nobody can read it afterwards.",
              )
            : field(
                `Parameter ${name}`,
                h("input", {
                  name,
                  required: true,
                  value: name in given ? written(given[name]) : "",
                }),
                "Numbers, true, false and JSON keep their type; anything else is text.",
              ),
        ),
      );
    } catch (error) {
      if (!signal.aborted) wrong.say(error.message);
    } finally {
      if (chosen === test) go.disabled = false;
    }
  };
  const offerDevices = () => {
    const known = new Map(devices);
    if (on && !known.has(on.id)) known.set(on.id, on);
    const fitting = [...known.values()]
      .filter((one) => fits(one, chosen))
      .sort((a, b) => a.id.localeCompare(b.id));
    offer(device, [
      ["", "Any matching one"],
      ...fitting.map((one) => [one.id, `${one.name} (${one.id}), ${one.status}`]),
    ]);
    if (wished && fitting.some((one) => one.id === wished)) {
      device.value = wished;
      wished = null;
    }
  };
  const submit = (event) => {
    event.preventDefault();
    doing(go, wrong.node, async () => {
      if (!chosen) throw new Error("Choose what to run.");
      const path = `/api/${kind.value}/${encodeURIComponent(chosen.id)}/execute`;
      const body =
        kind.value === "campaigns"
          ? {}
          : {
              device_id: device.value || null,
              priority: Number(priority.value),
              parameters: valuesIn(parameters),
            };
      const answer = await write("POST", path, body, { key, signal });
      location.hash = answer.execution_id
        ? `#/executions/${encodeURIComponent(answer.execution_id)}`
        : `#/campaign-executions/${encodeURIComponent(answer.campaign_execution_id)}`;
    }).then(() => (key = newKey()));
  };
  form.addEventListener("submit", submit);
  fill(
    form,
    h(
      "div",
      { class: "row" },
      field("What", kind),
      field("Find by name", find),
      field("Which", what),
    ),
    h("div", { class: "row top" }, wanted, urgent),
    parameters,
    wrong.node,
    h("div", {}, go),
  );
  watch("list", offerDevices, signal);
  search();
  return [form, none];
}

async function deviceOf(id, signal) {
  const known = devices.get(id);
  return known ?? get(`/api/devices/${encodeURIComponent(id)}`, {}, signal).catch(() => null);
}

/** Return true if a device has this model, by itself or by a capability of its host. */
function fits(device, test) {
  const has = hosts.get(device.host_id)?.capabilities ?? [];
  return !!test && modelsOf(test).some((model) => device.model === model || has.includes(model));
}

/** Return the names of the parameters in steps. */
export function namesIn(value) {
  const names = new Set();
  for (const [, name] of JSON.stringify(value ?? []).matchAll(NAME))
    if (name && !name.startsWith("secret:") && !OF_TARGET.includes(name))
      names.add(JSON.parse(`"${name}"`));
  return [...names].sort();
}

function valuesIn(place) {
  return Object.fromEntries(
    [...place.querySelectorAll("input")].map((input) => [
      input.name,
      input.type === "password" ? input.value : typed(input.value),
    ]),
  );
}

/** Return the value of a text: its JSON value, else the text itself. */
export function typed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Return the text for a value, the inverse of the function above. */
function written(value) {
  return typeof value === "string" && typed(value) === value ? value : JSON.stringify(value);
}

function now(signal) {
  const list = h("ul", {});
  const note = h("p", { class: "faint" });
  const rows = new Map();
  const draw = () => {
    const items = [...runs.values()].sort(byTurn);
    keep(list, rows, items.slice(0, SHOWN), (item) => item.execution_id, runRow);
    say(
      note,
      !known.loaded
        ? "Looking…"
        : items.length
          ? items.length > SHOWN
            ? `and ${items.length - SHOWN} more`
            : ""
          : "Nothing is running or queued.",
    );
  };
  watch("run", draw, signal);
  watch("list", draw, signal);
  draw();
  return h("section", { class: "card stack" }, h("h2", {}, "Now"), list, note);
}

/** Compare: running executions first, then queued ones by position. */
function byTurn(a, b) {
  if (a.status !== b.status) return a.status === "running" ? -1 : 1;
  const [at, other] = [a.wait?.position ?? Infinity, b.wait?.position ?? Infinity];
  return at === other ? (a.created_at ?? "").localeCompare(b.created_at ?? "") : at - other;
}

function runRow(first) {
  const title = link("executions", first.execution_id, "");
  const where = h("small", {});
  const status = pill();
  const progress = bar("Steps done");
  const node = h(
    "li",
    { class: "device" },
    h("span", {}, title, " ", where),
    status.node,
    h("span", {}),
    h("div", { class: "doing" }, progress.node),
  );
  const update = (item) => {
    say(title, item.test_case_name ?? "A test");
    status.set(item.status);
    say(
      where,
      item.status === "queued" ? `${waits(item.wait)} ${place(item.wait)}` : (item.device_id ?? ""),
    );
    show(progress.node, item.status === "running");
    progress.set(item.step, item.total_steps);
  };
  return { node, update };
}
