// Campaigns: found, run, copied, deleted with care.

import { many } from "../format.js";
import { h } from "../h.js";
import { empty } from "../parts.js";
import { can } from "../session.js";
import { listView } from "./testcases.js";

/** Show them. */
export function campaigns({ query, signal }) {
  return listView({
    title: "Campaigns",
    path: "/api/campaigns",
    place: "campaigns",
    query,
    signal,
    filters: [["q", "Find by name"]],
    nothing: () =>
      empty(
        "There is no campaign yet.",
        "A campaign runs test cases together. ",
        can("operator") && h("a", { href: "#/campaigns/new" }, "Make the first one"),
        can("operator") ? "." : "Somebody with the role operator can make one.",
      ),
    about: (item) =>
      h(
        "span",
        {},
        `${many(item.test_cases.length, "test")} · ${item.parallelism} at once${item.stop_on_failure ? " · stops at the first failure" : ""}`,
      ),
    run: (id) => `#/run?campaign_id=${encodeURIComponent(id)}`,
    results: (id) => `#/results?show=campaign-executions&campaign_id=${encodeURIComponent(id)}`,
    question: "What it ran stays in the results; its test cases stay, too.",
  });
}
