// Makes elements. Text from outside only ever becomes a text node: there is no way to give HTML.

/** Make an element: `on…` are listeners, `style` an object, true and false set and leave out. */
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

/** Replace what is in `parent`. */
export function fill(parent, ...children) {
  parent.replaceChildren(...nodes(children));
  return parent;
}

/** Set a node's text where it differs, so that nothing is laid out anew for nothing. */
export function say(node, text) {
  const told = text == null ? "" : String(text);
  if (node.textContent !== told) node.textContent = told;
}

/** Show or hide. */
export function show(node, shown) {
  if (node.hidden === Boolean(shown)) node.hidden = !shown;
}

/** Make a button. */
export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

/** Make a labelled field; `hint` says what goes in. */
export function field(label, control, hint) {
  return h(
    "label",
    { class: "field" },
    h("span", {}, label),
    control,
    hint && h("small", {}, hint),
  );
}

/** Make a select of [value, text] pairs. */
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

/** Offer [value, text] pairs in a select, where they differ from what it offers. */
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

/** Tell that what is filled in here was changed otherwise than by typing. */
export function touched(node) {
  node.dispatchEvent(new Event("input", { bubbles: true }));
}

/** Tell that what is filled in here is with the server now, be it shown any more or not. */
export function saved(node) {
  document.dispatchEvent(new CustomEvent("saved", { detail: node }));
}

/** Keep a list's elements in step with `items`; `made` maps keys to {node, update(item)}. */
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
