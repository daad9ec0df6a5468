// The only dialog: questions, forms and pictures. The browser keeps the focus inside; Escape closes.

import { button, fill, h, say } from "./h.js";

const dialog = () => document.getElementById("dialog");

dialog().addEventListener("close", () => dialog().open || fill(dialog()));

/** Open the dialog with a title and content; return a signal that is aborted when it closes. */
export function open(title, ...content) {
  fill(
    dialog(),
    h(
      "div",
      { class: "stack" },
      h(
        "div",
        { class: "head" },
        h("h2", { id: "dialog-title", class: "grow" }, title),
        button("Close", close),
      ),
      content,
    ),
  );
  if (!dialog().open) dialog().showModal();
  const closing = new AbortController();
  dialog().addEventListener("close", () => closing.abort(), { once: true });
  return closing.signal;
}

/** Close the dialog and return its content, or nothing when it was closed. */
export function taken() {
  const nodes = dialog().open ? [...dialog().childNodes] : [];
  close();
  return nodes;
}

/** Open the dialog with content that was taken from it. */
export function put(nodes) {
  fill(dialog(), nodes);
  dialog().showModal();
}

/** Close the dialog. */
export function close() {
  dialog().close();
}

/**
 * Ask before an action that cannot be undone. `work` may throw a sentence for people, and may return
 * the element to focus afterwards, since the one that opened the dialog may be gone.
 */
export function ask(title, question, verb, work, no = "Keep it") {
  const wrong = h("p", { class: "wrong note", role: "alert", hidden: true });
  const yes = button(
    verb,
    () =>
      doing(yes, wrong, async () => {
        const next = await work();
        close();
        if (!document.activeElement?.closest("main"))
          (next ?? document.querySelector("main h1"))?.focus();
      }),
    { class: "danger" },
  );
  open(
    title,
    h("p", {}, question),
    wrong,
    h("div", { class: "row" }, yes, button(no, close)),
  );
}

/** Run an action for a button: never twice at a time; an error is shown next to it. */
export async function doing(control, wrong, work) {
  const focused = document.activeElement === control;
  control.disabled = true;
  wrong.hidden = true;
  try {
    return await work();
  } catch (error) {
    say(wrong, error.message);
    wrong.hidden = false;
    return undefined;
  } finally {
    control.disabled = false;
    if (focused && document.activeElement === document.body) control.focus();
  }
}
