// Forms of the actions that a device declares.

import { field, h, select } from "./h.js";

/** Build the form of an action; `send(params, button)` is called with what was filled in. */
export function actionForm(action, send) {
  const inputs = action.fields.map((one) => [one, control(one)]);
  const go = h("button", { class: "strong" }, "Run");
  const submit = (event) => {
    event.preventDefault();
    send(() => paramsOf(action, inputs), go);
  };
  return h(
    "form",
    { class: "stack", onsubmit: submit },
    action.description && h("p", { class: "faint" }, action.description),
    inputs.map(([one, node]) =>
      field(one.required ? one.label : `${one.label} (optional)`, node, one.hint),
    ),
    h("div", {}, go),
  );
}

function control(one) {
  const placeholder = one.placeholder ?? false;
  const value = one.default ?? "";
  const required = one.required && one.kind !== "flag";
  if (one.options)
    return select(
      one.options.map((each) => [String(each), String(each)]),
      String(value),
    );
  if (one.kind === "flag") return h("input", { type: "checkbox", checked: one.default === true });
  if (one.kind === "json") return h("textarea", { rows: 3, spellcheck: "false", placeholder });
  if (one.kind === "text") return h("input", { value, placeholder, required });
  return h("input", {
    type: "number",
    step: one.kind === "whole" ? "1" : "any",
    min: one.min ?? false,
    max: one.max ?? false,
    value,
    placeholder,
    required,
  });
}

/** Return the parameters; what is optional and empty is left out. Throws a sentence for people. */
function paramsOf(action, inputs) {
  const params = { ...action.params };
  for (const [one, node] of inputs) {
    const value = read(one, node);
    if (value === undefined) continue;
    if (one.name) params[one.name] = value;
    else Object.assign(params, value);
  }
  return params;
}

function read(one, node) {
  if (one.kind === "flag") return node.checked;
  if (node.value === "") return undefined;
  if (one.options) return one.options.find((each) => String(each) === node.value);
  if (one.kind === "number" || one.kind === "whole") return Number(node.value);
  return one.kind === "json" ? parsed(one, node.value) : node.value;
}

function parsed(one, text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`${one.label}: this is not JSON: ${error.message}`);
  }
  if (!one.name && (value === null || typeof value !== "object" || Array.isArray(value)))
    throw new Error(`${one.label}: enter a JSON object of parameters: { … }.`);
  return value;
}
