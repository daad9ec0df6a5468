// Starts the page: the session, the view that the URL names, the state of the connection.

import { accepts, line } from "./api.js";
import { ask, put, taken } from "./dialog.js";
import { button, fill, h, say, show } from "./h.js";
import { connect, connected, disconnect, live } from "./live.js";
import { forget, session, signIn as keepToken, takeFromAddress, userOf } from "./session.js";
import { clear } from "./store.js";
import { campaign } from "./views/campaign.js";
import { campaignExecution } from "./views/campaignexecution.js";
import { campaigns } from "./views/campaigns.js";
import { execution } from "./views/execution.js";
import { host } from "./views/host.js";
import { lab } from "./views/lab.js";
import { results } from "./views/results.js";
import { run } from "./views/run.js";
import { screen } from "./views/screen.js";
import { signIn } from "./views/signin.js";
import { testCase } from "./views/testcase.js";
import { testCases } from "./views/testcases.js";

const NAV = [
  ["/lab", "Lab"],
  ["/run", "Run"],
  ["/results", "Results"],
  ["/testcases", "Test cases"],
  ["/campaigns", "Campaigns"],
];
const VIEWS = [
  [/^\/lab$/, lab, "/lab"],
  [/^\/hosts\/([^/]+)$/, host, "/lab"],
  [/^\/devices\/([^/]+)$/, screen, "/lab"],
  [/^\/run$/, run, "/run"],
  [/^\/results$/, results, "/results"],
  [/^\/testcases$/, testCases, "/testcases"],
  [/^\/testcases\/([^/]+)$/, testCase, "/testcases"],
  [/^\/campaigns$/, campaigns, "/campaigns"],
  [/^\/campaigns\/([^/]+)$/, campaign, "/campaigns"],
  [/^\/executions\/([^/]+)$/, execution, "/results"],
  [/^\/campaign-executions\/([^/]+)$/, campaignExecution, "/results"],
];
const STATES = {
  connecting: "Connecting…",
  live: "Live",
  lost: "Connection lost",
  polling: "Read every 10 s",
};
const LONGEST_NAME = 40; // characters of a name that nobody has checked
const LOST = "The connection is lost: this page may be out of date. Reconnecting…";

const by = (id) => document.getElementById(id);
/** Unsaved changes by URL: the nodes of the view and its title. */
const drafts = new Map();
let leaving = new AbortController();
let shown = "";
let here = ""; // the URL of the current view
let typed = false; // whether the form of the view was changed
let kept = null; // the unsaved form when the token ended
let was = ""; // the user who was signed in
let waiting = "";

function draw() {
  if (typed && by("main").querySelector("form[data-draft]")) drafts.set(here, content());
  leaving.abort();
  leaving = new AbortController();
  typed = false;
  here = location.hash;
  by("dialog").close();
  frame();
  if (session.token === null) {
    if (!by("signin-error")) place(signIn(enter), "Sign in"); // else its error message stays
    return;
  }
  const { path, query } = address();
  const [match, view, section] = find(path);
  for (const link of by("nav").children) {
    if (link.hash.slice(1) === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (drafts.has(here)) return placeDraft(drafts.get(here));
  const { title, node } = view({ id: match[1], query, signal: leaving.signal });
  place(node, title);
}

function frame() {
  const inside = session.token !== null;
  for (const id of ["nav", "leave", "live", "who"]) show(by(id), inside);
  say(by("who"), who());
}

function content() {
  const node = [...by("main").childNodes].filter((one) => one.id !== "draft");
  return { node, title: document.title.replace(/ · vpt$/, "") };
}

function placeDraft({ node, title }) {
  const note = h(
    "p",
    { id: "draft", class: "warn note", role: "status" },
    "These are your unsaved changes. ",
    button("Discard them", () => (drafts.delete(here), (typed = false), draw()), {
      class: "small",
    }),
  );
  typed = true;
  place([node[0], note, ...node.slice(1)], title);
}

function address() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  return { path: path || "/lab", query: new URLSearchParams(query) };
}

function find(path) {
  for (const [pattern, view, section] of VIEWS) {
    const match = path.match(pattern);
    if (match) return [match.map(decoded), view, section];
  }
  return [[], nowhere, ""];
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function nowhere() {
  return {
    title: "Not found",
    node: [
      h("h1", {}, "This page does not exist"),
      h("p", {}, h("a", { href: "#/lab" }, "Go to the lab")),
    ],
  };
}

function place(node, title) {
  fill(by("main"), node);
  document.title = `${title} · vpt`;
  const heading = by("main").querySelector("h1");
  heading?.setAttribute("tabindex", "-1");
  const where = session.token === null ? "sign in" : location.hash.split("?")[0] || "#";
  if (shown && shown !== where) heading?.focus();
  shown = where;
}

function enter() {
  connect();
  const before = kept;
  kept = null;
  if (was !== who()) drafts.clear();
  if (before && before.here === location.hash && was === who()) return takeUp(before);
  before?.leaving.abort();
  return draw();
}

function takeUp(before) {
  ({ here, leaving } = before);
  typed = true;
  frame();
  place(before.node, before.title);
  if (before.dialog.length) put(before.dialog);
  for (const one of document.querySelectorAll("form [role=alert], dialog [role=alert]"))
    show(one, false);
}

function who(user = session) {
  return `${user.name}, ${user.role}`;
}

function isSignedIn(user) {
  return session.user === user.user && who() === who(user);
}

/** Show what the address names; the token of a link replaces no other user without a question. */
async function follow() {
  const token = takeFromAddress();
  const user = userOf(token);
  if (token && session.token === null) return signInAs(token);
  draw();
  if (!user.name) return;
  if (!isSignedIn(user)) return askToReplace(token, user);
  // Anybody can write the same name into a link: it must not sign out who is there.
  if ((await accepts(token)) && session.token !== null && isSignedIn(user)) {
    was = who(); // the unsaved changes are of the same user
    signInAs(token);
  }
}

function signInAs(token) {
  keepToken(token);
  enter();
}

/** Ask, since any page can lead here by a link, and what is done then is done by the link's user. */
function askToReplace(token, user) {
  const name = brief(user.name);
  ask(
    `Sign in as ${name}?`,
    `A link signs in as ${name}, ${user.role}: so it says, and nobody has checked it. ` +
      `Now ${who()} is signed in; unsaved changes will be lost.`,
    `Sign in as ${name}`,
    () => {
      leave();
      signInAs(token);
    },
    `Stay ${session.name}`,
  );
}

/** Return a name that came from outside, short and without characters that turn or hide text. */
function brief(name) {
  const plain = name.replace(/[\p{C}\p{Z}]+/gu, " ").trim();
  const signs = [...plain];
  return signs.length > LONGEST_NAME ? `${signs.slice(0, LONGEST_NAME).join("")}…` : plain;
}

/** Sign out, by the user or because the token ended; in that case unsaved changes are kept. */
function leave(told) {
  if (session.token === null || (told && by("signin-error"))) return forget();
  if (told && typed) {
    kept = { ...content(), here: location.hash, leaving, dialog: taken() };
    leaving = new AbortController();
    typed = false;
  }
  if (!told) {
    drafts.clear();
    typed = false;
  }
  was = who();
  forget();
  disconnect();
  clear();
  waiting = "";
  banner();
  draw();
  if (!told) return;
  say(by("signin-error"), told + (kept ? " Your unsaved changes are kept." : ""));
  show(by("signin-error"), true);
}

function banner() {
  const lost = session.token !== null && by("live").dataset.state === "lost";
  const told = waiting || (lost ? LOST : "");
  say(by("banner"), told);
  show(by("banner"), told);
}

line.addEventListener("waiting", ({ detail }) => ((waiting = detail), banner()));
line.addEventListener("answered", () => ((waiting = ""), banner()));
line.addEventListener("refused", ({ detail }) => leave(detail));
live.addEventListener("state", ({ detail }) => {
  by("live").dataset.state = by("live").className = detail;
  say(by("live"), STATES[detail]);
  banner();
});
addEventListener("hashchange", follow);
addEventListener("beforeunload", (event) => {
  const unsaved = typed && by("main").querySelector("form[data-draft]");
  if (unsaved || kept || drafts.size) event.preventDefault();
});
for (const id of ["main", "dialog"])
  by(id).addEventListener("input", ({ target }) => {
    if (target.closest("form") && !by("signin-error")) typed = true;
  });
document.addEventListener("saved", ({ detail: form }) => {
  for (const [address, { node }] of drafts)
    if (node.some((one) => one.contains(form))) drafts.delete(address);
  if (!form.isConnected) return;
  typed = false;
  by("draft")?.remove();
});
by("leave").addEventListener("click", () => leave());
by("skip").addEventListener("click", () => by("main").querySelector("h1")?.focus());
fill(
  by("nav"),
  NAV.map(([path, text]) => h("a", { href: `#${path}` }, text)),
);
follow();
if (session.token && !connected()) connect();
