// Results: filtered, sorted, page by page; the history of a test; the success rate over time.

import { keepForTheWayBack, keepInAddress, wayBack } from "../address.js";
import { all, get } from "../api.js";
import { ERROR_KINDS, FINAL, many, moment, percent, seconds, TONE } from "../format.js";
import { button, field, fill, h, keep, offer, say, select, show } from "../h.js";
import { hear } from "../live.js";
import { empty, link, pill, trouble } from "../parts.js";
import { plot } from "../plot.js";
import { devices, hosts, watch } from "../store.js";
import { inTurn } from "../work.js";

const PAGE = 50;
const HISTORY = 100; // executions in the history of a test
const REST = 2000; // milliseconds between two reads after events
const STATUSES = ["queued", "running", "completed", "failed", "error", "cancelled"];
const DAYS = [
  ["7", "7 days"],
  ["30", "30 days"],
  ["90", "90 days"],
];

/** Show the view. */
export function results({ query, signal }) {
  const kind = select(
    [
      ["executions", "Tests"],
      ["campaign-executions", "Campaigns"],
    ],
    query.get("show"),
    { onchange: () => changed() },
  );
  const filters = makeFilters(query, () => changed());
  const wrong = trouble();
  const body = h("tbody", {});
  const head = h("thead", {});
  const nothing = h("div", {}, h("p", { role: "status" }, "Loading…"));
  const table = h(
    "table",
    { class: "stacked", hidden: true },
    h("caption", { class: "faint" }, "Newest first; a column's title sorts what is shown."),
    head,
    body,
  );
  const newer = button("Newer", () => turn(-1), { hidden: true });
  const older = button("Older", () => turn(1), { hidden: true });
  const where = h("span", { role: "status" });
  const above = h("div", { class: "stack" });
  const rows = new Map();
  let { cursors, page, sort } = {
    cursors: [null],
    page: 0,
    sort: { by: null, down: false },
    ...wayBack(),
  };
  let items = [];
  let aside = new AbortController();

  const columns = () => (kind.value === "executions" ? TESTS : CAMPAIGNS);
  const load = inTurn(async () => {
    try {
      const told = await get(
        `/api/${kind.value}`,
        { ...wanted(), limit: PAGE, cursor: cursors[page] },
        signal,
      );
      const newest = idOf(items[0]);
      items = told.items;
      cursors[page + 1] = told.next_cursor;
      wrong.say("");
      draw();
      if (page === 0 && newest && newest !== idOf(items[0]) && wanted().test_case_id) drawAbove();
    } catch (error) {
      if (!signal.aborted) wrong.say(error.message);
    }
  });
  const soon = inTurn(load, REST);
  const wanted = () => filters.values(kind.value);
  const draw = () => {
    const shown = sorted(items, columns(), sort);
    drawHead(head, columns(), sort, (by) => {
      sort = { by, down: sort.by === by && !sort.down };
      keepForTheWayBack({ cursors, page, sort });
      draw();
    });
    keep(body, rows, shown, idOf, () => resultRow(columns()));
    show(newer, page > 0);
    show(older, cursors[page + 1]);
    say(where, items.length ? `Page ${page + 1}` : "");
    show(table, items.length);
    const filtered = Object.values(wanted()).some(Boolean);
    show(nothing, !items.length);
    fill(
      nothing,
      filtered
        ? h("p", {}, "Nothing matches these filters.")
        : empty(
            "There are no results yet.",
            h("a", { href: "#/run" }, "Run something"),
            ": its result appears here.",
          ),
    );
  };
  const turn = (by) => {
    page += by;
    keepForTheWayBack({ cursors, page, sort });
    load();
  };
  const changed = () => {
    keepInAddress("results", {
      show: kind.value === "executions" ? "" : kind.value,
      ...wanted(),
    });
    rows.clear();
    fill(body);
    items = [];
    page = 0;
    cursors = [null];
    filters.fit(kind.value);
    drawAbove();
    load();
  };
  const drawAbove = () => {
    aside.abort();
    aside = new AbortController();
    const both = AbortSignal.any([aside.signal, signal]);
    const test = kind.value === "executions" && wanted().test_case_id;
    fill(above, test ? historyOf(test, both) : kind.value === "executions" && successRate(both));
  };

  const news = (event) => page === 0 && (FINAL.has(event.status) || event.step === 0) && soon();
  hear("test_progress", (event) => kind.value === "executions" && news(event), signal);
  hear("campaign_progress", (event) => kind.value !== "executions" && news(event), signal);
  hear("read", () => load(), signal);
  watch("list", () => filters.refill(), signal);
  filters.fit(kind.value);
  drawAbove();
  load();

  return {
    title: "Results",
    node: [
      h("h1", {}, "Results"),
      h("div", { class: "card row" }, field("Show", kind), filters.nodes),
      above,
      wrong.node,
      h(
        "div",
        { class: "card stack" },
        nothing,
        h("div", { class: "scroll" }, table),
        h("div", { class: "row" }, newer, older, where),
      ),
    ],
  };
}

function makeFilters(query, changed) {
  const named = (name, options) =>
    select([["", "any"], ...options], query.get(name), { onchange: changed });
  const given = (name) => (query.get(name) ? [[query.get(name), query.get(name)]] : []);
  const controls = {
    status: named(
      "status",
      STATUSES.map((one) => [one, one]),
    ),
    test_case_id: named("test_case_id", given("test_case_id")),
    campaign_id: named("campaign_id", given("campaign_id")),
    host_id: named("host_id", given("host_id")),
    device_id: named("device_id", given("device_id")),
    error_kind: named(
      "error_kind",
      Object.entries(ERROR_KINDS).map(([one, sentence]) => [one, sentence]),
    ),
    device_model: h("input", {
      type: "search",
      onchange: changed,
      value: query.get("device_model") ?? "",
    }),
    requested_by: h("input", {
      type: "search",
      onchange: changed,
      value: query.get("requested_by") ?? "",
    }),
    since: h("input", {
      type: "datetime-local",
      onchange: changed,
      value: localTime(query.get("since")),
    }),
    until: h("input", {
      type: "datetime-local",
      onchange: changed,
      value: localTime(query.get("until")),
    }),
  };
  const titles = {
    status: "Status",
    test_case_id: "Test case",
    campaign_id: "Campaign",
    host_id: "Host",
    device_id: "Device",
    device_model: "Device model",
    error_kind: "Kind of error",
    requested_by: "Started by",
    since: "Since",
    until: "Until",
  };
  const fields = Object.fromEntries(
    Object.entries(controls).map(([name, control]) => [name, field(titles[name], control)]),
  );
  const offerAny = (control, pairs) => {
    const options = new Map(pairs);
    if (control.value && !options.has(control.value)) options.set(control.value, control.value);
    offer(control, [["", "any"], ...options]);
  };
  const refill = () => {
    offerAny(
      controls.host_id,
      [...hosts.keys()].sort().map((id) => [id, id]),
    );
    offerAny(
      controls.device_id,
      [...devices.values()]
        .map((one) => [one.id, `${one.name} (${one.id})`])
        .sort((a, b) => a[1].localeCompare(b[1])),
    );
  };
  const titled = (items) => items.map((item) => [item.id, item.name]);
  all("/api/testcases").then(
    (items) => offerAny(controls.test_case_id, titled(items)),
    () => {},
  );
  all("/api/campaigns").then(
    (items) => offerAny(controls.campaign_id, titled(items)),
    () => {},
  );
  refill();
  const serves = (name, kind) =>
    kind === "executions" ? name !== "campaign_id" : name === "status" || name === "campaign_id";
  return {
    nodes: Object.values(fields),
    refill,
    fit: (kind) => Object.entries(fields).forEach(([name, node]) => show(node, serves(name, kind))),
    values: (kind) =>
      Object.fromEntries(
        Object.entries(controls)
          .filter(([name]) => serves(name, kind))
          .map(([name, control]) => [
            name,
            control.type === "datetime-local" && control.value
              ? new Date(control.value).toISOString()
              : control.value,
          ]),
      ),
  };
}

/** Return a time in the format of a time field, in the local time zone. */
function localTime(iso) {
  const time = new Date(iso ?? NaN);
  if (isNaN(time)) return "";
  return new Date(time - time.getTimezoneOffset() * 60_000).toISOString().slice(0, -1);
}

// --- the table

const TESTS = [
  [
    "Test",
    (item) => link("executions", item.execution_id, item.test_case_name),
    (item) => item.test_case_name,
  ],
  ["Verdict", (item) => pill(item.status).node, (item) => item.status],
  ["Device", (item) => item.device_id ?? "", (item) => item.device_id ?? ""],
  ["Attempts", (item) => item.attempt, (item) => item.attempt],
  ["Requested", (item) => moment(item.created_at), (item) => item.created_at],
  ["Duration", (item) => seconds(item.duration_s), (item) => item.duration_s ?? -1],
  ["By", (item) => item.requested_by, (item) => item.requested_by],
];
const CAMPAIGNS = [
  [
    "Campaign",
    (item) => link("campaign-executions", item.campaign_execution_id, item.name),
    (item) => item.name,
  ],
  ["Verdict", (item) => pill(item.status).node, (item) => item.status],
  [
    "Passed",
    (item) => `${item.summary.completed} of ${item.summary.total}`,
    (item) => item.summary.completed,
  ],
  ["Requested", (item) => moment(item.created_at), (item) => item.created_at],
  ["Duration", (item) => seconds(item.summary.duration_s), (item) => item.summary.duration_s],
  ["By", (item) => item.requested_by, (item) => item.requested_by],
];

function idOf(item) {
  return item?.execution_id ?? item?.campaign_execution_id;
}

function drawHead(head, columns, sort, onsort) {
  const focused = head.contains(document.activeElement) ? document.activeElement.textContent : null;
  fill(
    head,
    h(
      "tr",
      {},
      columns.map(([title]) =>
        h(
          "th",
          {
            scope: "col",
            "aria-sort": sort.by === title ? (sort.down ? "descending" : "ascending") : null,
          },
          button(title, () => onsort(title)),
          sort.by === title && (sort.down ? " ↓" : " ↑"),
        ),
      ),
    ),
  );
  if (focused)
    [...head.querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
}

function sorted(items, columns, { by, down }) {
  const column = columns.find(([title]) => title === by);
  if (!column) return items;
  const value = column[2];
  const order = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
  return [...items].sort((a, b) => (down ? -1 : 1) * order(value(a), value(b)));
}

function resultRow(columns) {
  const node = h("tr", {});
  let shown = "";
  const update = (item) => {
    const now = JSON.stringify(item);
    if (now === shown) return;
    shown = now;
    fill(
      node,
      columns.map(([title, draw]) => h("td", { "data-label": title }, draw(item))),
    );
  };
  return { node, update };
}

// --- history and success rate, above the table

const LETTERS = {
  completed: "✓",
  failed: "✗",
  error: "!",
  cancelled: "–",
  queued: "…",
  running: "…",
};

function historyOf(test, signal) {
  const place = h(
    "section",
    { class: "card stack" },
    h("h2", {}, "History"),
    h("p", { role: "status" }, "Loading…"),
  );
  get("/api/executions", { test_case_id: test, limit: HISTORY }, signal).then(
    ({ items }) => {
      if (signal.aborted) return;
      const runs = items.reverse();
      const canvas = h("div", {
        class: "plot",
        role: "img",
        "aria-label": "Duration of each run, the newest to the right",
      });
      const timed = runs.filter((run) => run.duration_s != null && run.status === "completed");
      fill(
        place,
        h("h2", {}, "History"),
        runs.length
          ? h("p", { role: "status" }, verdictsOf(runs))
          : h("p", {}, "It has not run yet."),
        h(
          "div",
          { class: "strip", role: "list", "aria-label": "Verdicts, the newest last" },
          runs.map(square),
        ),
        timed.length > 1 && [h("h3", {}, "Duration of passed runs"), canvas],
      );
      if (timed.length > 1) {
        plot(
          canvas,
          timed.map((run) => new Date(run.created_at) / 1000),
          [{ label: "Seconds", values: timed.map((run) => run.duration_s), colour: "--bar" }],
          "s",
          signal,
        );
      }
    },
    (error) => signal.aborted || fill(place, h("p", { class: "wrong note" }, error.message)),
  );
  return place;
}

function square(run) {
  const told = `${run.status}, ${moment(run.created_at)}`;
  return h(
    "span",
    { role: "listitem" },
    h(
      "a",
      {
        href: `#/executions/${encodeURIComponent(run.execution_id)}`,
        class: TONE[run.status] ?? "dim",
        title: told,
        "aria-label": told,
      },
      LETTERS[run.status] ?? "?",
    ),
  );
}

function verdictsOf(runs) {
  const judged = runs.filter((run) => run.status === "completed" || run.status === "failed");
  if (!judged.length) return "No verdict yet.";
  const passed = judged.filter((run) => run.status === "completed").length;
  const changes = judged.filter(
    (run, place) => place && run.status !== judged[place - 1].status,
  ).length;
  const again = judged.filter((run) => run.status === "completed" && run.attempt > 1).length;
  const flaky = judged.length > 1 ? (100 * changes) / (judged.length - 1) : 0;
  return (
    `Of the last ${many(judged.length, "verdict")} ${passed} passed (${percent((100 * passed) / judged.length)}). ` +
    `The verdict changed ${many(changes, "time")} (flakiness ${percent(flaky)}); ${again} passed only on a later attempt.`
  );
}

function successRate(signal) {
  const told = h("p", { role: "status" }, "Loading…");
  const canvas = h("div", {
    class: "plot",
    role: "img",
    "aria-label": "Success rate by day; the table below has the numbers",
    hidden: true,
  });
  const figures = h("tbody", {});
  const table = h(
    "details",
    { hidden: true },
    h("summary", {}, "Show as a table"),
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Day", "Passed", "Failed", "Infrastructure errors", "Success rate"].map((title) =>
            h("th", { scope: "col" }, title),
          ),
        ),
      ),
      figures,
    ),
  );
  const days = select(DAYS, "30", { "aria-label": "Period", onchange: () => draw() });
  let drawing = new AbortController();
  const draw = async () => {
    drawing.abort();
    drawing = new AbortController();
    const own = AbortSignal.any([drawing.signal, signal]);
    try {
      const rate = await get("/api/metrics/success-rate", { days: days.value }, own);
      const by_day = rate.by_day.map((day) => ({
        ...day,
        rate:
          day.completed + day.failed ? (100 * day.completed) / (day.completed + day.failed) : null,
      }));
      say(
        told,
        rate.total
          ? `${percent(rate.success_rate)} of ${rate.completed + rate.failed} verdicts; ${many(rate.error, "infrastructure error")} not counted.`
          : "Nothing ran in this time.",
      );
      fill(
        figures,
        by_day.map((day) =>
          h(
            "tr",
            {},
            [day.day, day.completed, day.failed, day.error, percent(day.rate)].map((one) =>
              h("td", {}, one),
            ),
          ),
        ),
      );
      show(canvas, by_day.length > 1);
      show(table, by_day.length);
      if (by_day.length > 1)
        await plot(
          canvas,
          by_day.map((day) => new Date(`${day.day}T00:00`) / 1000), // midnight in the local time zone
          [{ label: "Success rate", values: by_day.map((day) => day.rate), colour: "--bar" }],
          "%",
          own,
        );
    } catch (error) {
      if (!own.aborted) say(told, error.message);
    }
  };
  draw();
  return h(
    "section",
    { class: "card stack" },
    h("div", { class: "head" }, h("h2", { class: "grow" }, "Success rate"), h("div", {}, days)),
    told,
    canvas,
    table,
  );
}
