// One test case: show, edit, copy and create it.

import { get, overwrite, write } from "../api.js";
import { doing } from "../dialog.js";
import { modelsOf } from "../format.js";
import { button, field, fill, h, saved, say, show, touched } from "../h.js";
import { trouble } from "../parts.js";
import { can } from "../session.js";
import { devices } from "../store.js";

const SAMPLES = [
  [
    "a shell command",
    {
      command: "execute_bash_command",
      action_type: "desktop",
      params: { command: "echo hello", expected_output: "hello" },
    },
  ],
  [
    "an HTTP request",
    {
      command: "http_request",
      action_type: "desktop",
      params: { url: "http://127.0.0.1/", expected_status: 200 },
    },
  ],
  ["a pause", { command: "wait", action_type: "desktop", params: { seconds: 1 } }],
  ["open a browser", { command: "open_browser", action_type: "web", params: {} }],
  [
    "go to a page",
    { command: "navigate_to_url", action_type: "web", params: { url: "https://example.org/" } },
  ],
  ["wait for text", { command: "wait_for_text", action_type: "web", params: { text: "Welcome" } }],
  ["a screenshot", { command: "take_screenshot", action_type: "web", params: {} }],
];
const KEYS = [
  ["timeout_s", "time limit of the step in seconds"],
  ["retries", "how often to repeat the step after it failed"],
  ["continue_on_failure", "true: continue after the step failed; the test fails all the same"],
  ["delay_s", "seconds to wait before the step"],
];
const NUMBERS = ["timeout_s", "retries", "delay_s"];
const FRESH = {
  name: "",
  description: "",
  device_model: "",
  steps: [SAMPLES[0][1]],
  tags: [],
  requirements: [],
  parameters: {},
  timeout_s: null,
  test_retries: 0,
};

/** Show a test case; the id `new` creates one, as a copy of `from` if given. */
export function testCase({ id, query, signal }) {
  const from = id === "new" ? query.get("from") : id;
  const place = h("div", {}, h("p", { role: "status" }, "Loading…"));
  const title = id === "new" ? "New test case" : "Test case";
  if (!from) fill(place, form(FRESH, null));
  else {
    get(`/api/testcases/${encodeURIComponent(from)}`, {}, signal).then(
      (item) => {
        if (signal.aborted) return;
        const copy = id === "new";
        fill(
          place,
          copy
            ? form({ ...item, name: `Copy of ${item.name}`.slice(0, 100) }, null)
            : form(item, id),
        );
      },
      (error) =>
        signal.aborted ||
        fill(
          place,
          h(
            "p",
            { class: "wrong note", role: "alert" },
            error.status === 404 ? "This test case does not exist, or was deleted." : error.message,
          ),
        ),
    );
  }
  return {
    title,
    node: [
      h(
        "div",
        { class: "head" },
        h("h1", {}, title),
        h("a", { class: "button", href: "#/testcases" }, "All test cases"),
      ),
      place,
    ],
  };
}

function form(item, id) {
  const wrong = trouble();
  const done = h("p", { role: "status" });
  const writes = can("operator");
  const text = (value, more = {}) => h("input", { value: value ?? "", readonly: !writes, ...more });
  const name = text(item.name, { required: true, maxlength: 100 });
  const description = h("textarea", {
    rows: 2,
    maxlength: 1000,
    value: item.description,
    readonly: !writes,
  });
  const model = text(modelsOf(item).join(", "), { required: true, list: "models" });
  const tags = text(item.tags.join(", "));
  const requirements = text(item.requirements.join(", "));
  const marked = Object.keys(item.parameters ?? {}).filter((one) => item.parameters[one].secret);
  const secrets = text(marked.join(", "));
  const timeout = text(item.timeout_s, { type: "number", min: 0, step: "any" });
  const retries = text(item.test_retries, { type: "number", min: 0, max: 10 });
  const steps = stepsEditor(item.steps, writes);
  const save = h("button", { class: "strong" }, id ? "Save" : "Create");
  let { version } = item;

  const submit = (event) => {
    event.preventDefault();
    say(done, "");
    doing(save, wrong.node, async () => {
      const body = {
        name: name.value,
        description: description.value,
        device_model: modelIn(model.value, item.device_model),
        steps: steps.value(),
        tags: wordsIn(tags.value),
        requirements: wordsIn(requirements.value),
        parameters: Object.fromEntries([
          ...marked.map((one) => [one, { secret: false }]),
          ...wordsIn(secrets.value).map((one) => [one, { secret: true }]),
        ]),
        timeout_s: timeout.value === "" ? null : Number(timeout.value),
        test_retries: Number(retries.value || 0),
      };
      if (!id) {
        const made = await write("POST", "/api/testcases", body);
        saved(event.target);
        if (event.target.isConnected) location.hash = `#/testcases/${encodeURIComponent(made.id)}`;
        return;
      }
      const path = `/api/testcases/${encodeURIComponent(id)}`;
      ({ version } = await overwrite(path, body, version));
      saved(event.target);
      say(done, `Saved as version ${version}.`);
    });
  };
  return h(
    "form",
    { class: "card stack", "data-draft": true, onsubmit: submit },
    h(
      "datalist",
      { id: "models" },
      [...new Set([...devices.values()].map((one) => one.model).filter(Boolean))]
        .sort()
        .map((one) => h("option", { value: one })),
    ),
    h(
      "div",
      { class: "row top" },
      field("Name", name),
      field("Device model", model, "Runs on devices of this model; several are separated by commas."),
    ),
    field("Description", description),
    h(
      "div",
      { class: "row top" },
      field("Tags", tags, "Separated by commas."),
      field(
        "Needs",
        requirements,
        "Capabilities that the device or its host must have, separated by commas.",
      ),
      field(
        "Secret parameters",
        secrets,
        "Separated by commas. Their values are shown as *** everywhere.",
      ),
    ),
    steps.node,
    h(
      "div",
      { class: "row top" },
      field("Time limit", timeout, "Seconds for one attempt; empty: the limit of the server."),
      field("Retries", retries, "Further attempts after a failure; the last attempt decides."),
    ),
    wrong.node,
    h(
      "div",
      { class: "row" },
      writes && save,
      id &&
        writes &&
        h("a", { class: "button", href: `#/run?test_case_id=${encodeURIComponent(id)}` }, "Run"),
      id &&
        h(
          "a",
          { class: "button", href: `#/results?test_case_id=${encodeURIComponent(id)}` },
          "History",
        ),
      id &&
        writes &&
        h("a", { class: "button", href: `#/testcases/new?from=${encodeURIComponent(id)}` }, "Copy"),
      done,
    ),
  );
}

function stepsEditor(first, writes) {
  const wrong = h("p", { id: "steps-wrong", role: "status", class: "wrong note", hidden: true });
  const area = h("textarea", {
    rows: 18,
    spellcheck: "false",
    readonly: !writes,
    value: JSON.stringify(first, null, 2),
    "aria-describedby": "steps-wrong",
    oninput: () => check(),
  });
  const check = () => {
    let told = "";
    try {
      read();
    } catch (error) {
      told = error.message;
    }
    say(wrong, told);
    show(wrong, told);
    area.setAttribute("aria-invalid", String(Boolean(told)));
  };
  const read = () => {
    const steps = parsed(area.value);
    steps.forEach(checkStep);
    return steps;
  };
  const add = (step) => {
    try {
      area.value = JSON.stringify([...parsed(area.value), step], null, 2);
    } catch {
      return check();
    }
    return touched(area);
  };
  const help = h(
    "details",
    {},
    h("summary", {}, "Fields of a step"),
    h(
      "p",
      {},
      "Each step is a JSON object that is sent to the host of the device. The server itself reads only:",
    ),
    h(
      "table",
      {},
      h(
        "tbody",
        {},
        KEYS.map(([key, text]) =>
          h("tr", {}, h("th", { scope: "row" }, h("code", {}, key)), h("td", {}, text)),
        ),
      ),
    ),
    h(
      "p",
      {},
      h("code", {}, "${name}"),
      " in any text is a parameter, which has to be given when the test is run; ",
      h("code", {}, "$${"),
      " is a literal ",
      h("code", {}, "${"),
      ".",
    ),
  );
  const samples =
    writes &&
    h(
      "div",
      { class: "row", role: "group", "aria-label": "Add a step" },
      "Add:",
      SAMPLES.map(([text, step]) => button(text, () => add(step), { class: "small" })),
    );
  return {
    node: h("div", { class: "stack" }, field("Steps (JSON)", area), wrong, samples, help),
    value: read,
  };
}

function parsed(text) {
  let steps;
  try {
    steps = JSON.parse(text.trim() || "[]");
  } catch (error) {
    throw new Error(`The steps are not JSON: ${error.message}`);
  }
  if (!Array.isArray(steps)) throw new Error("The steps must be a list: [ … ].");
  return steps;
}

function checkStep(step, place) {
  const where = `Step ${place + 1}`;
  if (step === null || typeof step !== "object" || Array.isArray(step))
    throw new Error(`${where} is not an object: { … }.`);
  const filledIn = (value) => typeof value === "string" && /^\$\{[^{}]+\}$/.test(value);
  for (const key of NUMBERS) {
    if (key in step && !filledIn(step[key]) && !(typeof step[key] === "number" && step[key] >= 0))
      throw new Error(`${where}: ${key} must be a number, 0 or more.`);
  }
  const go = step.continue_on_failure;
  if (go !== undefined && typeof go !== "boolean" && !filledIn(go))
    throw new Error(`${where}: continue_on_failure must be true or false.`);
}

/** Return one model, or a list of several; an unchanged one stays, whatever commas it has. */
function modelIn(text, before) {
  const models = wordsIn(text);
  return text === before || models.length === 1 ? text.trim() : models;
}

function wordsIn(text) {
  return text
    .split(",")
    .map((word) => word.trim())
    .filter(Boolean);
}
