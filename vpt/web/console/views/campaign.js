// One campaign: show, edit, copy and create it.

import { all, get, overwrite, write } from "../api.js";
import { doing } from "../dialog.js";
import { button, field, fill, h, saved, say, touched } from "../h.js";
import { empty, trouble } from "../parts.js";
import { can } from "../session.js";
import { devices } from "../store.js";

const FRESH = {
  name: "",
  description: "",
  test_cases: [],
  stop_on_failure: false,
  parallelism: 1,
  priority: 50,
};

/** Show a campaign; the id `new` creates one, as a copy of `from` if given. */
export function campaign({ id, query, signal }) {
  const from = id === "new" ? query.get("from") : id;
  const place = h("div", {}, h("p", { role: "status" }, "Loading…"));
  const title = id === "new" ? "New campaign" : "Campaign";
  const read = async () => {
    const [tests, item] = await Promise.all([
      all("/api/testcases", {}, signal),
      from ? get(`/api/campaigns/${encodeURIComponent(from)}`, {}, signal) : FRESH,
    ]);
    if (signal.aborted) return;
    if (!tests.length)
      return void fill(
        place,
        empty(
          "A campaign needs test cases, and there are none yet.",
          h("a", { href: "#/testcases/new" }, "Create the first one"),
          ".",
        ),
      );
    fill(
      place,
      form(
        id === "new" && from ? { ...item, name: `Copy of ${item.name}`.slice(0, 100) } : item,
        id === "new" ? null : id,
        tests,
      ),
    );
  };
  read().catch(
    (error) =>
      signal.aborted ||
      fill(
        place,
        h(
          "p",
          { class: "wrong note", role: "alert" },
          error.status === 404 ? "This campaign does not exist, or was deleted." : error.message,
        ),
      ),
  );
  return {
    title,
    node: [
      h(
        "div",
        { class: "head" },
        h("h1", {}, title),
        h("a", { class: "button", href: "#/campaigns" }, "All campaigns"),
      ),
      place,
    ],
  };
}

function form(item, id, tests) {
  const wrong = trouble();
  const done = h("p", { role: "status" });
  const writes = can("operator");
  const name = h("input", { value: item.name, required: true, maxlength: 100, readonly: !writes });
  const description = h("textarea", {
    rows: 2,
    maxlength: 1000,
    value: item.description,
    readonly: !writes,
  });
  const number = (value, more) => h("input", { type: "number", value, readonly: !writes, ...more });
  const parallelism = number(item.parallelism, { min: 1, max: 1000 });
  const priority = number(item.priority, { min: 0, max: 100 });
  const stop = h("input", { type: "checkbox", checked: item.stop_on_failure, disabled: !writes });
  const entries = entriesEditor(item.test_cases, tests, writes);
  let version = item.version;
  const save = h("button", { class: "strong" }, id ? "Save" : "Create");
  const submit = (event) => {
    event.preventDefault();
    say(done, "");
    doing(save, wrong.node, async () => {
      const body = {
        name: name.value,
        description: description.value,
        test_cases: entries.value(),
        stop_on_failure: stop.checked,
        parallelism: Number(parallelism.value || 1),
        priority: Number(priority.value || 0),
      };
      if (id) {
        const path = `/api/campaigns/${encodeURIComponent(id)}`;
        ({ version } = await overwrite(path, body, version));
        saved(event.target);
        say(done, `Saved as version ${version}.`);
      } else {
        const made = await write("POST", "/api/campaigns", body);
        saved(event.target);
        if (event.target.isConnected) location.hash = `#/campaigns/${encodeURIComponent(made.id)}`;
      }
    });
  };
  return h(
    "form",
    { class: "card stack", "data-draft": true, onsubmit: submit },
    field("Name", name),
    field("Description", description),
    entries.node,
    h(
      "div",
      { class: "row top" },
      field("Parallel tests", parallelism, "How many tests may run at the same time."),
      field("Priority", priority, "0 to 100; a higher one runs first."),
    ),
    h("label", { class: "check" }, stop, "Stop at the first failure: start no further tests"),
    wrong.node,
    h(
      "div",
      { class: "row" },
      writes && save,
      id &&
        writes &&
        h("a", { class: "button", href: `#/run?campaign_id=${encodeURIComponent(id)}` }, "Run"),
      id &&
        h(
          "a",
          {
            class: "button",
            href: `#/results?show=campaign-executions&campaign_id=${encodeURIComponent(id)}`,
          },
          "Results",
        ),
      id &&
        writes &&
        h("a", { class: "button", href: `#/campaigns/new?from=${encodeURIComponent(id)}` }, "Copy"),
      done,
    ),
  );
}

function entriesEditor(first, tests, writes) {
  const names = new Map(tests.map((test) => [test.id, test.name]));
  const list = h("ol", {});
  const pick = h(
    "select",
    { "aria-label": "Test case to add" },
    tests.map((test) => h("option", { value: test.id }, test.name)),
  );
  let rows = [];
  const draw = () => {
    rows.forEach((row, place) => say(row.number, place + 1));
    fill(
      list,
      rows.map((row) => row.node),
    );
  };
  const move = (row, by) => {
    const place = rows.indexOf(row);
    const to = place + by;
    if (to < 0 || to >= rows.length) return;
    rows.splice(place, 1);
    rows.splice(to, 0, row);
    draw();
    touched(list);
    row.node.querySelector(by < 0 ? ".up" : ".down").focus();
  };
  const add = (entry) => {
    const row = entryRow(
      entry,
      names.get(entry.test_case_id) ?? entry.test_case_id,
      writes,
      (by) => move(row, by),
      () => {
        rows = rows.filter((one) => one !== row);
        draw();
        touched(list);
        pick.focus();
      },
    );
    rows.push(row);
  };
  first.forEach(add);
  draw();
  const value = () => {
    if (!rows.length) throw new Error("Add at least one test case.");
    return rows.map((row, place) => row.value(place + 1));
  };
  const more =
    writes &&
    h(
      "div",
      { class: "row" },
      h("div", { class: "grow" }, pick),
      button("Add", () => {
        add({ test_case_id: pick.value });
        draw();
        touched(list);
      }),
    );
  return {
    value,
    node: h(
      "section",
      { class: "stack" },
      h("h2", {}, "Tests, in this order"),
      list,
      more,
      h(
        "datalist",
        { id: "devices" },
        [...devices.values()].map((one) => h("option", { value: one.id }, one.name)),
      ),
    ),
  };
}

function entryRow(entry, name, writes, move, remove) {
  const number = h("span", { class: "number" });
  const device = h("input", {
    list: "devices",
    value: entry.device_id ?? "",
    placeholder: entry.host_id ? `any matching one on ${entry.host_id}` : "any matching one",
    readonly: !writes,
  });
  const given = Object.keys(entry.parameters ?? {}).length ? JSON.stringify(entry.parameters) : "";
  const parameters = h("input", {
    value: given,
    placeholder: '{"name": "value"}',
    spellcheck: "false",
    readonly: !writes,
  });
  const node = h(
    "li",
    { class: "entry" },
    number,
    h("a", { href: `#/testcases/${encodeURIComponent(entry.test_case_id)}` }, name),
    field("Device", device),
    field("Parameters (JSON)", parameters),
    writes &&
      h(
        "div",
        { class: "row" },
        button("↑", () => move(-1), { class: "small up", "aria-label": `Move ${name} up` }),
        button("↓", () => move(1), { class: "small down", "aria-label": `Move ${name} down` }),
        button("Remove", remove, { class: "small", "aria-label": `Remove ${name}` }),
      ),
  );
  const value = (place) => {
    let values = {};
    try {
      values = JSON.parse(parameters.value.trim() || "{}");
    } catch (error) {
      throw new Error(`The parameters of test ${place} are not JSON: ${error.message}`);
    }
    return {
      test_case_id: entry.test_case_id,
      device_id: device.value.trim() || null,
      host_id: (device.value.trim() === (entry.device_id ?? "") && entry.host_id) || null,
      parameters: values,
    };
  };
  return { node, number, value };
}
