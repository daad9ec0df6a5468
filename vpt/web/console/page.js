// Starts the page: who is signed in, which view the address names, what the connection does.

import { line } from "./api.js";
import { fill, h, say, show } from "./h.js";
import { connect, disconnect, live } from "./live.js";
import { forget, session, takeFromAddress } from "./session.js";
import { clear } from "./store.js";
import { campaign } from "./views/campaign.js";
import { campaignExecution } from "./views/campaignexecution.js";
import { campaigns } from "./views/campaigns.js";
import { execution } from "./views/execution.js";
import { host } from "./views/host.js";
import { lab } from "./views/lab.js";
import { results } from "./views/results.js";
import { run } from "./views/run.js";
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
  [/^\/run$/, run, "/run"],
  [/^\/results$/, results, "/results"],
  [/^\/testcases$/, testCases, "/testcases"],
  [/^\/testcases\/([^/]+)$/, testCase, "/testcases"],
  [/^\/campaigns$/, campaigns, "/campaigns"],
  [/^\/campaigns\/([^/]+)$/, campaign, "/campaigns"],
  [/^\/executions\/([^/]+)$/, execution, "/results"],
  [/^\/campaign-executions\/([^/]+)$/, campaignExecution, "/results"],
];
const STATES = { connecting: "Connecting…", live: "Live", lost: "Connection lost" };
const LOST = "The connection is lost: what you see may be old. Trying again…";

const by = (id) => document.getElementById(id);
let leaving = new AbortController();
let shown = "";
let waiting = "";

function draw() {
  leaving.abort();
  leaving = new AbortController();
  by("dialog").close();
  const inside = session.token !== null;
  show(by("nav"), inside);
  show(by("leave"), inside);
  show(by("live"), inside);
  show(by("who"), inside);
  say(by("who"), `${session.user}, ${session.role}`);
  if (!inside) return place(signIn(enter), "Sign in");
  const { path, query } = address();
  const [match, view, section] = find(path);
  for (const link of by("nav").children) {
    if (link.hash.slice(1) === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const { title, node } = view({ id: match[1], query, signal: leaving.signal });
  place(node, title);
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
    title: "Not here",
    node: [
      h("h1", {}, "There is no such view"),
      h("p", {}, h("a", { href: "#/lab" }, "Go to the lab")),
    ],
  };
}

function place(node, title) {
  fill(by("main"), node);
  document.title = `${title} · vpt`;
  const heading = by("main").querySelector("h1");
  heading?.setAttribute("tabindex", "-1");
  const where = location.hash.split("?")[0];
  if (shown && shown !== where) heading?.focus();
  shown = where || "#";
}

function enter() {
  connect();
  draw();
}

function leave(told) {
  forget();
  disconnect();
  clear();
  waiting = "";
  banner();
  draw();
  if (!told) return;
  say(by("signin-error"), told);
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
addEventListener("hashchange", () => {
  if (takeFromAddress()) enter();
  else draw();
});
by("leave").addEventListener("click", () => leave());
by("skip").addEventListener("click", () => by("main").querySelector("h1")?.focus());
fill(
  by("nav"),
  NAV.map(([path, text]) => h("a", { href: `#${path}` }, text)),
);
takeFromAddress();
if (session.token) connect();
draw();
