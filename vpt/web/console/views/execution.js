// One execution, live and afterwards: every attempt, step, output, screenshot and error.

import { blob, get } from "../api.js";
import { doing, open } from "../dialog.js";
import { errorKind, FINAL, modelsOf, moment, place, seconds, waits } from "../format.js";
import { button, fill, h, keep, say, show } from "../h.js";
import { hear } from "../live.js";
import { bar, cancelButton, facts, link, pill, pinButton, saveButton, trouble } from "../parts.js";
import { can } from "../session.js";
import { inTurn } from "../work.js";

const REST = 150; // milliseconds between two reads
const LOOK = 5000; // milliseconds between two reads of the queue position
const LONG = 2000; // characters of output that are shown unfolded
const BRIEF = 200; // characters of the parameters of a step

/** Show the view. */
export function execution({ id, signal }) {
  const path = `/api/executions/${encodeURIComponent(id)}`;
  const wrong = trouble();
  const title = h("h1", {}, "Execution");
  const status = pill();
  const told = h("p", { role: "status" }, "Loading…");
  const inLine = h("p", { class: "faint grow" }); // changes too often for a screen reader
  const progress = bar("Steps done");
  const cancel = cancelButton(path, wrong);
  const pin = pinButton(path, wrong, () => load());
  const again = h("a", { class: "button", hidden: true }, "Run again");
  const history = h("a", { class: "button", hidden: true }, "History");
  const about = h("section", { class: "card", hidden: true });
  const attempts = h("div", { class: "row", role: "group", "aria-label": "Attempts" });
  const list = h("ol", {});
  const rest = h("p", { class: "faint" });
  const steps = h(
    "section",
    { class: "card stack", hidden: true },
    h("h2", {}, "Steps"),
    attempts,
    list,
    rest,
  );
  const rows = new Map();
  const tabs = new Map();
  let picked = null; // an earlier attempt, if one is selected
  let drawn = null; // the attempt whose rows are shown
  let item = null;
  let aboutNow = "";
  let says = ""; // the progress of the running step, as its host reports it

  const draw = () => {
    say(title, item.test_case_name);
    document.title = `${item.test_case_name} · vpt`;
    status.set(item.status);
    cancel.update(item);
    pin.update(item);
    show(again, can("operator"));
    show(history, true);
    again.href = `#/run?again=${encodeURIComponent(id)}`;
    history.href = `#/results?test_case_id=${encodeURIComponent(item.test_case_id)}`;
    const done = picked === null ? doneOf(item) : null;
    progress.set(item.status === "queued" ? 0 : done, item.total_steps);
    show(progress.node, !FINAL.has(item.status));
    if (item.status !== "queued") {
      say(told, sentence(item, done));
      say(inLine, "");
    }
    const now = [item.status, item.attempt, item.host].join();
    if (now !== aboutNow) fill(about, facts(factsOf(item)));
    aboutNow = now;
    show(about, true);
    drawSteps();
  };
  const drawSteps = () => {
    const attempt = picked ?? item.attempt;
    if (attempt !== drawn) {
      rows.clear();
      fill(list);
      drawn = attempt;
    }
    show(steps, item.attempts.length);
    show(attempts, item.attempts.length > 1);
    keep(
      attempts,
      tabs,
      item.attempts.map((one) => ({ ...one, current: one.attempt === attempt })),
      (one) => one.attempt,
      (one) =>
        attemptButton(() => {
          picked = one.attempt === item.attempt ? null : one.attempt;
          load();
        }),
    );
    const began = item.attempts.find((one) => one.attempt === attempt);
    const span = spanOf(began, item.steps);
    keep(
      list,
      rows,
      item.steps,
      (step) => step.index,
      (step) => stepRow(`${path}/attempts/${attempt}/steps/${step.index}`, signal),
    );
    for (const step of item.steps) rows.get(step.index).place(step, span);
    const last = item.steps.at(-1);
    if (last?.status === "running" && says) rows.get(last.index).says(says);
    say(rest, attempt === item.attempt ? restOf(item) : "");
  };
  const load = inTurn(async () => {
    try {
      item = await get(path, { attempt: picked }, signal);
      if (signal.aborted) return;
      if (item.status === "queued") {
        const wait = await whyItWaits(path, signal);
        say(told, wait ? waits(wait) : "Starting.");
        say(inLine, place(wait));
      }
      draw();
      wrong.say("");
    } catch (error) {
      if (signal.aborted) return;
      say(told, "");
      wrong.say(error.status === 404 ? "This execution does not exist." : error.message);
    }
  }, REST);

  hear(
    "test_progress",
    (event) => {
      if (event.execution_id !== id) return;
      says = "";
      load();
    },
    signal,
  );
  hear("queue_changed", (event) => event.execution_id === id && load(), signal);
  hear(
    "step_progress",
    (event) => {
      if (event.execution_id !== id || !item) return;
      says = progressWords(event.state);
      rows.get(event.step)?.says(says);
    },
    signal,
  );
  hear("read", () => load(), signal);
  const timer = setInterval(() => item?.status === "queued" && load(), LOOK);
  signal.addEventListener("abort", () => clearInterval(timer));
  load();

  return {
    title: "Execution",
    node: [
      h(
        "div",
        { class: "head" },
        title,
        cancel.node,
        pin.node,
        again,
        history,
        saveButton("JUnit", `${path}/junit`, `${id}.xml`, wrong),
      ),
      h(
        "div",
        { class: "card stack" },
        h("div", { class: "row" }, status.node, told, inLine),
        progress.node,
        wrong.node,
      ),
      steps,
      about,
    ],
  };
}

async function whyItWaits(path, signal) {
  try {
    return await get(`${path}/queue`, {}, signal);
  } catch (error) {
    if (error.status === 409) return null; // it is no longer queued
    throw error;
  }
}

/** Return how many steps of the shown attempt have ended. */
function doneOf(item) {
  return item.steps.filter((step) => step.status !== "running" && step.status !== "skipped").length;
}

function restOf(item) {
  if (item.pruned !== "nothing") return `Its ${item.pruned} were deleted because of their age.`;
  const more = item.total_steps - item.steps.length;
  return more > 0 && !FINAL.has(item.status) ? `${more} more steps follow` : "";
}

function sentence(item, done) {
  const took = item.duration_s == null ? "" : ` after ${seconds(item.duration_s)}`;
  switch (item.status) {
    case "running":
      if (done === null) return `Attempt ${item.attempt} runs on ${item.device_id}.`;
      return `Step ${Math.min(done + 1, item.total_steps)} of ${item.total_steps} runs on ${item.device_id}${item.attempt > 1 ? `, attempt ${item.attempt}` : ""}.`;
    case "completed":
      return `Passed${took}.`;
    case "failed":
      return `The test failed${took}${item.error ? `: ${item.error}` : "."}`;
    case "error":
      return `Infrastructure error, not a failure of the test: ${errorKind(item.error_kind)}${item.error ? ` (${item.error})` : ""}.`;
    default:
      return `Cancelled${took}.`;
  }
}

function factsOf(item) {
  const parameters = Object.keys(item.parameters ?? {}).length
    ? h("pre", { tabindex: "0" }, JSON.stringify(item.parameters, null, 2))
    : "";
  return [
    ["Host", item.host && link("hosts", item.host, item.host)],
    ["Device", item.device_id],
    ["Requested by", item.requested_by],
    ["Imported from", item.imported_from],
    ["Requested", moment(item.created_at)],
    ["Started", moment(item.started_at)],
    ["Ended", moment(item.completed_at)],
    ["Requires", [modelsOf(item).join(" or "), ...item.requirements].join(", ")],
    ["Priority", item.priority],
    [
      "Test case",
      link(
        "testcases",
        item.test_case_id,
        `${item.test_case_name}, version ${item.test_case_version}`,
      ),
    ],
    ["Parameters", parameters],
    [
      "Campaign",
      item.campaign_execution_id &&
        link(
          "campaign-executions",
          item.campaign_execution_id,
          "The campaign execution it belongs to",
        ),
    ],
  ];
}

function attemptButton(onclick) {
  const node = button("", onclick);
  const update = (one) => {
    const why = one.error_kind ? `: ${errorKind(one.error_kind)}` : "";
    say(node, `Attempt ${one.attempt}, ${one.status}${why}, on ${one.host}`);
    node.setAttribute("aria-pressed", String(one.current));
    node.className = one.current ? "strong" : "";
  };
  return { node, update };
}

/** Return the start of an attempt and its duration, in milliseconds. */
function spanOf(attempt, steps) {
  const from = new Date(attempt?.started_at ?? steps[0]?.started_at ?? 0).getTime();
  const last = steps.reduce(
    (most, step) => Math.max(most, new Date(step.finished_at ?? 0).getTime()),
    from,
  );
  const until = attempt?.completed_at ? new Date(attempt.completed_at).getTime() : last;
  return { from, length: Math.max(1, until - from) };
}

function stepRow(path, signal) {
  const number = h("span", { class: "number" });
  const what = h("code", {});
  const wish = h("span", { class: "wish" });
  const status = pill();
  const took = h("small", {});
  const now = h("small", { hidden: true });
  const error = h("pre", { tabindex: "0", hidden: true, class: "wrong", "aria-label": "Error" });
  const wholeError = h("div", { hidden: true });
  const output = h("div", { hidden: true });
  const shot = h("div", { hidden: true });
  const notes = h("small", { hidden: true });
  const part = h("i", {});
  const node = h(
    "li",
    { class: "step fresh" },
    number,
    h("span", {}, what, " ", wish, " ", took),
    status.node,
    h("div", { class: "track", "aria-hidden": "true" }, part),
    h("div", { class: "more" }, now, error, wholeError, output, shot, notes),
  );
  let shown = {};
  const update = (step) => {
    say(number, step.index);
    say(what, step.action);
    say(wish, briefly(step.step));
    status.set(step.status);
    say(
      took,
      [
        seconds(step.duration_ms == null ? null : step.duration_ms / 1000),
        step.tries > 1 && `${step.tries} tries`,
      ]
        .filter(Boolean)
        .join(", "),
    );
    if (step.error !== shown.error) {
      say(error, step.error);
      fill(
        wholeError,
        step.error_truncated && allButton(error, `${path}/error`, step.error_size, signal),
      );
    }
    show(error, step.error);
    show(wholeError, step.error_truncated);
    if (step.status !== "running") show(now, false);
    if (step.output !== shown.output) drawOutput(output, step, `${path}/output`, signal);
    if (step.screenshot_url && step.screenshot_url !== shown.screenshot_url)
      drawShots(shot, step, signal);
    say(notes, step.notes);
    show(notes, step.notes);
    shown = step;
  };
  const place = (step, { from, length }) => {
    const begins = step.started_at ? new Date(step.started_at).getTime() - from : 0;
    part.style.setProperty("left", `${Math.min(99, Math.max(0, (100 * begins) / length))}%`);
    part.style.setProperty("width", `${Math.min(100, (100 * (step.duration_ms ?? 0)) / length)}%`);
    show(part, step.started_at);
  };
  const says = (text) => {
    say(now, text);
    show(now, text);
  };
  return { node, update, place, says };
}

/** Return the parameters of a step on one line. */
function briefly({ command, action_type, ...more }) {
  const wanted = more.params && typeof more.params === "object" ? more.params : more;
  const text = Object.entries(wanted)
    .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
  return text.length <= BRIEF ? text : `${text.slice(0, BRIEF)}…`;
}

function drawOutput(place, { output, output_size, output_truncated }, path, signal) {
  show(place, output);
  if (!output) return fill(place);
  const text = typeof output === "string" ? output : JSON.stringify(output, null, 2);
  if (text.length <= LONG && !output_truncated)
    return fill(place, h("pre", { tabindex: "0", "aria-label": "Output" }, text));
  const whole = h("pre", { tabindex: "0", "aria-label": "Output" });
  const details = h(
    "details",
    { ontoggle: () => details.open && !whole.textContent && say(whole, text) },
    h("summary", {}, output_truncated ? "Output" : `Output, ${text.length} characters`),
    whole,
    output_truncated && allButton(whole, path, output_size, signal),
  );
  return fill(place, details);
}

/** Build a button that fetches the whole of a long text into where its beginning is shown. */
function allButton(place, path, size, signal) {
  const wrong = trouble();
  const node = button(`Show all, ${Math.ceil(size / 1024)} KiB`, () =>
    doing(node, wrong.node, async () => {
      say(place, await (await blob(path, signal)).text());
      place.focus(); // the button, which had the focus, is gone
      show(node, false);
    }),
  );
  return [node, wrong.node];
}

/** Show the screenshot of a step, and its other pictures with what they show. */
function drawShots(place, step, signal) {
  const name = `The screen of the device after step ${step.index}`;
  const others = (step.pictures ?? []).map(({ url, caption }) =>
    h("figure", {}, pictureOf(url, caption, step, signal), h("figcaption", {}, caption)),
  );
  fill(place, pictureOf(step.screenshot_url, name, step, signal), ...others);
  show(place, true);
}

/** Load a picture when it is about to become visible; an <img> itself cannot send a token. */
function pictureOf(url, name, step, signal) {
  const image = h("img", { alt: name });
  const shot = h(
    "button",
    {
      type: "button",
      class: "shot",
      "aria-label": `${name}, larger`,
      onclick: () => open(`Step ${step.index}`, h("img", { src: image.src, alt: name })),
    },
    image,
  );
  const place = h("div", {}, shot);
  const near = new IntersectionObserver(
    async (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      near.disconnect();
      try {
        image.src = URL.createObjectURL(await blob(url, signal));
        signal.addEventListener("abort", () => URL.revokeObjectURL(image.src));
      } catch (error) {
        if (!signal.aborted)
          fill(place, h("small", {}, `The screenshot cannot be shown: ${error.message}`));
      }
    },
    { rootMargin: "400px" },
  );
  near.observe(place);
  signal.addEventListener("abort", () => near.disconnect());
  return place;
}

function progressWords(state) {
  if (!state || typeof state !== "object") return "";
  const word = state.message ?? state.current_step ?? state.status ?? JSON.stringify(state);
  const percent = typeof state.progress === "number" ? ` (${Math.round(state.progress)} %)` : "";
  return `${typeof word === "string" ? word : JSON.stringify(word)}${percent}`.slice(0, 300);
}
