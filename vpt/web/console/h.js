// Builds elements. Text only ever becomes a text node; no function accepts HTML.

/** Build an element: `on…` are listeners, `style` is an object, false omits an attribute. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(node, name, value);
  node.append(...nodes(children));
  return node;
}

function set(node, name, value) {
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else if (name === "style")
    for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
  else if (name === "value" || name === "checked" || name === "indeterminate") node[name] = value;
  else if (value === true) node.setAttribute(name, "");
  else if (value !== false && value != null) node.setAttribute(name, value);
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child != null && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

/** Replace the children of `parent`. */
export function fill(parent, ...children) {
  parent.replaceChildren(...nodes(children));
  return parent;
}

/** Set the text of a node if it differs, which avoids a needless layout. */
export function say(node, text) {
  const told = text == null ? "" : String(text);
  if (node.textContent !== told) node.textContent = told;
}

/** Show or hide a node. */
export function show(node, shown) {
  if (node.hidden === Boolean(shown)) node.hidden = !shown;
}

/** Build a button. */
export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

/** Build a labelled field; `hint` explains its content. */
export function field(label, control, hint) {
  return h(
    "label",
    { class: "field" },
    h("span", {}, label),
    control,
    hint && h("small", {}, hint),
  );
}

/** Build a select of [value, text] pairs. */
export function select(options, value, attributes = {}) {
  const node = h(
    "select",
    attributes,
    options.map(([key, text]) => h("option", { value: key }, text)),
  );
  node.value = value ?? "";
  if (node.selectedIndex < 0) node.selectedIndex = 0;
  return node;
}

/** Replace the options of a select by [value, text] pairs, if they differ. */
export function offer(node, pairs) {
  const now = node.value;
  const shown = [...node.options].map((one) => `${one.value}\n${one.text}`).join("\n");
  if (shown === pairs.map(([value, text]) => `${value}\n${text}`).join("\n")) return;
  fill(
    node,
    pairs.map(([value, text]) => h("option", { value }, text)),
  );
  node.value = pairs.some(([value]) => value === now) ? now : (pairs[0]?.[0] ?? "");
}

/** Mark a form as changed after a change that was not typed. */
export function touched(node) {
  node.dispatchEvent(new Event("input", { bubbles: true }));
}

/** Mark a form as saved, whether it is still shown or not. */
export function saved(node) {
  document.dispatchEvent(new CustomEvent("saved", { detail: node }));
}

/** Update the elements of a list to match `items`; `made` maps keys to {node, update(item)}. */
export function keep(parent, made, items, keyOf, make) {
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    wanted.add(key);
    let row = made.get(key);
    if (!row) made.set(key, (row = make(item)));
    row.update(item);
    if (row.node === place) place = place.nextElementSibling;
    else parent.insertBefore(row.node, place);
  }
  for (const [key, row] of made) {
    if (wanted.has(key)) continue;
    row.node.remove();
    made.delete(key);
  }
}
