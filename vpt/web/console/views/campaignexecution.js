// One campaign execution and the progress of its tests.

import { get } from "../api.js";
import { FINAL, moment, seconds } from "../format.js";
import { fill, h, keep, say, show } from "../h.js";
import { hear } from "../live.js";
import { bar, cancelButton, facts, link, pill, saveButton, trouble } from "../parts.js";
import { can } from "../session.js";
import { inTurn } from "../work.js";

const REST = 500; // milliseconds between two reads

/** Show the view. */
export function campaignExecution({ id, signal }) {
  const path = `/api/campaign-executions/${encodeURIComponent(id)}`;
  const wrong = trouble();
  const title = h("h1", {}, "Campaign");
  const status = pill();
  const told = h("p", { class: "grow" }, "Loading…"); // changes too often for a screen reader
  const progress = bar("Tests done");
  const cancel = cancelButton(path, wrong);
  const again = h("a", { class: "button", hidden: true }, "Run again");
  const list = h("ol", {});
  const rest = h("p", { class: "faint" });
  const about = h("section", { class: "card" });
  const rows = new Map();

  const load = inTurn(async () => {
    try {
      const item = await get(path, {}, signal);
      if (signal.aborted) return;
      draw(item);
      wrong.say("");
    } catch (error) {
      if (signal.aborted) return;
      say(told, "");
      wrong.say(error.status === 404 ? "This campaign execution does not exist." : error.message);
    }
  }, REST);
  const draw = (item) => {
    const { summary, results } = item;
    say(title, item.name);
    document.title = `${item.name} · vpt`;
    status.set(item.status);
    cancel.update(item);
    show(again, can("operator"));
    again.href = `#/run?campaign_id=${encodeURIComponent(item.campaign_id)}`;
    const done =
      summary.completed + summary.failed + summary.error + summary.cancelled + summary.skipped;
    progress.set(done, summary.total);
    show(progress.node, !FINAL.has(item.status));
    say(told, sentence(summary, done));
    keep(
      list,
      rows,
      results.map((result, place) => ({ ...result, place: place + 1 })),
      (result) => result.execution_id ?? `skipped ${result.place}`,
      resultRow,
    );
    const waiting = summary.total - results.length;
    say(rest, waiting > 0 ? `${waiting} more have not started yet` : "");
    fill(
      about,
      facts([
        ["Requested by", item.requested_by],
        ["Started", moment(item.started_at)],
        ["Ended", moment(item.completed_at)],
        ["Reason", item.error],
        ["Parallel tests", item.parallelism],
        ["Priority", item.priority],
        ["Stops at the first failure", item.stop_on_failure ? "yes" : "no"],
      ]),
    );
  };

  hear("campaign_progress", (event) => event.campaign_execution_id === id && load(), signal);
  hear(
    "test_progress",
    (event) => {
      if (event.campaign_execution_id !== id) return;
      const row = rows.get(event.execution_id);
      if (row) row.progress(event);
      else load();
    },
    signal,
  );
  hear("read", () => load(), signal);
  load();

  return {
    title: "Campaign",
    node: [
      h(
        "div",
        { class: "head" },
        title,
        cancel.node,
        again,
        saveButton("JUnit", `${path}/junit`, `${id}.xml`, wrong),
      ),
      h(
        "div",
        { class: "card stack" },
        h("div", { class: "row" }, h("span", { role: "status" }, status.node), told),
        progress.node,
        wrong.node,
      ),
      h("section", { class: "card stack" }, h("h2", {}, "Tests"), list, rest),
      about,
    ],
  };
}

function sentence(summary, done) {
  const parts = [`${done} of ${summary.total} finished`];
  for (const [key, text] of [
    ["completed", "passed"],
    ["failed", "failed"],
    ["error", "infrastructure errors"],
    ["cancelled", "cancelled"],
    ["skipped", "skipped"],
  ]) {
    if (summary[key]) parts.push(`${summary[key]} ${text}`);
  }
  if (summary.success_rate != null) parts.push(`success rate ${summary.success_rate} %`);
  return `${parts.join(" · ")} · ${seconds(summary.duration_s)}`;
}

function resultRow(first) {
  const number = h("span", { class: "number" });
  const title = first.execution_id ? link("executions", first.execution_id, "") : h("span", {});
  const where = h("small", {});
  const status = pill();
  const progress = bar("Steps done");
  const more = h("div", { class: "more", hidden: true }, progress.node);
  const node = h(
    "li",
    { class: "step" },
    number,
    h("span", {}, title, " ", where),
    status.node,
    more,
  );
  const update = (result) => {
    say(number, result.place);
    say(title, result.test_case_name ?? "A test");
    say(where, [result.device_id, seconds(result.duration_s)].filter(Boolean).join(", "));
    status.set(result.status);
    show(more, result.status === "running");
  };
  const advance = (event) => {
    status.set(event.status);
    progress.set(event.step, event.total_steps);
    show(more, event.status === "running");
  };
  return { node, update, progress: advance };
}
