// Sign in with a token that is pasted; session.js takes the one of a link.

import { get } from "../api.js";
import { doing } from "../dialog.js";
import { field, h } from "../h.js";
import { forget, signIn as keep } from "../session.js";

/** Return the form; `enter` is called when the server accepts the token. */
export function signIn(enter) {
  const token = h("input", {
    type: "password",
    autocomplete: "off",
    required: true,
    spellcheck: "false",
  });
  const wrong = h("p", { id: "signin-error", class: "wrong note", role: "alert", hidden: true });
  const go = h("button", { class: "strong" }, "Sign in");
  const submit = (event) => {
    event.preventDefault();
    doing(go, wrong, async () => {
      keep(token.value.trim());
      try {
        await get("/api/system/status");
      } catch (error) {
        forget();
        throw error.status === 401
          ? new Error("This token is not valid. It may have expired, or be of another server.")
          : error;
      }
      enter();
    });
  };
  return h(
    "form",
    { class: "card stack narrow", onsubmit: submit },
    h("h1", {}, "Sign in"),
    h("p", {}, "On the server's machine, this prints a link that signs you in:"),
    h("pre", {}, "vpt token --user me --link"),
    h("p", {}, "Or paste a token:"),
    field("Token", token),
    wrong,
    h("div", {}, go),
  );
}
