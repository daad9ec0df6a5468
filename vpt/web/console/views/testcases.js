// Test cases: find, run, copy and delete them.

import { keepInAddress } from "../address.js";
import { get, write } from "../api.js";
import { ask } from "../dialog.js";
import { many, modelsOf } from "../format.js";
import { button, field, fill, h, keep, say, show } from "../h.js";
import { empty, trouble } from "../parts.js";
import { can } from "../session.js";
import { inTurn } from "../work.js";

const PAGE = 50;
const REST = 250; // milliseconds between two searches

/** Show the view. */
export function testCases({ query, signal }) {
  return listView({
    title: "Test cases",
    path: "/api/testcases",
    place: "testcases",
    query,
    signal,
    filters: [
      ["q", "Find by name"],
      ["tag", "Tag"],
      ["device_model", "Device model"],
    ],
    nothing: () =>
      empty(
        "There are no test cases yet.",
        "A test case is a list of steps for a device model. ",
        can("operator") && h("a", { href: "#/testcases/new" }, "Create the first one"),
        can("operator") ? "." : "A user with the role operator can create one.",
      ),
    about: (item) => [
      h("span", {}, `${modelsOf(item).join(", ")} · ${many(item.total_steps, "step")}`),
      item.tags.map((tag) => h("span", { class: "tag" }, tag)),
    ],
    run: (id) => `#/run?test_case_id=${encodeURIComponent(id)}`,
    results: (id) => `#/results?test_case_id=${encodeURIComponent(id)}`,
    question: "Its results are not deleted. A test case that a campaign uses cannot be deleted.",
  });
}

/** Show a list of test cases or campaigns. */
export function listView({
  title,
  path,
  place,
  query,
  signal,
  filters,
  nothing,
  about,
  run,
  results,
  question,
}) {
  const wrong = trouble();
  const list = h("ul", {});
  const empties = h("div", {}, h("p", { role: "status" }, "Loading…"));
  const more = button("More", () => ((further = true), load()), { hidden: true });
  const rows = new Map();
  const inputs = filters.map(([name, label]) => [
    name,
    label,
    h("input", { type: "search", value: query.get(name) ?? "", oninput: () => filter() }),
  ]);
  let items = [];
  let cursor = null;
  let further = false; // whether to load the next page, not the first one
  const wanted = () =>
    Object.fromEntries(inputs.map(([name, , input]) => [name, input.value.trim()]));
  const load = inTurn(async () => {
    const from = further ? cursor : null;
    further = false;
    try {
      const page = await get(path, { ...wanted(), limit: PAGE, cursor: from }, signal);
      items = from ? [...items, ...page.items] : page.items;
      cursor = page.next_cursor;
      wrong.say("");
    } catch (error) {
      if (!signal.aborted) wrong.say(error.message);
      return;
    }
    draw();
  });
  const draw = () => {
    keep(list, rows, items, (item) => item.id, row);
    show(more, cursor);
    show(empties, !items.length);
    fill(
      empties,
      Object.values(wanted()).some(Boolean) ? h("p", {}, "Nothing matches.") : nothing(),
    );
  };
  const search = inTurn(() => {
    further = false;
    return load();
  }, REST);
  const filter = () => {
    keepInAddress(place, wanted());
    search();
  };
  const row = (first) => {
    const name = h("a", { href: `#/${place}/${encodeURIComponent(first.id)}` });
    const what = h("div", { class: "row faint" });
    const remove = () =>
      ask(`Delete ${first.name}?`, question, "Delete it", async () => {
        await write("DELETE", `${path}/${encodeURIComponent(first.id)}`);
        const at = items.findIndex((item) => item.id === first.id);
        items = items.filter((item) => item.id !== first.id);
        if (items.length) draw();
        else await load();
        return rows.get(items[Math.min(at, items.length - 1)]?.id)?.node.querySelector("a");
      });
    const link = (text, href) =>
      h("a", { class: "button", href, "aria-label": `${text} ${first.name}` }, text);
    const node = h(
      "li",
      { class: "device named" },
      h("div", {}, name, what),
      h(
        "div",
        { class: "row" },
        can("operator") && link("Run", run(first.id)),
        link("Results", results(first.id)),
        can("operator") && link("Copy", `#/${place}/new?from=${encodeURIComponent(first.id)}`),
        can("operator") && button("Delete", remove, { "aria-label": `Delete ${first.name}` }),
      ),
    );
    const update = (item) => {
      say(name, item.name);
      fill(what, about(item));
    };
    return { node, update };
  };
  search();
  return {
    title,
    node: [
      h(
        "div",
        { class: "head" },
        h("h1", {}, title),
        can("operator") && h("a", { class: "button strong", href: `#/${place}/new` }, "New"),
      ),
      h(
        "div",
        { class: "row" },
        inputs.map(([, label, input]) => field(label, input)),
      ),
      wrong.node,
      h("section", { class: "card stack" }, empties, list, h("div", {}, more)),
    ],
  };
}
