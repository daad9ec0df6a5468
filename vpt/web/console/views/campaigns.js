// Campaigns: find, run, copy and delete them.

import { many } from "../format.js";
import { h } from "../h.js";
import { empty } from "../parts.js";
import { can } from "../session.js";
import { listView } from "./testcases.js";

/** Show the view. */
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
        "There are no campaigns yet.",
        "A campaign runs several test cases. ",
        can("operator") && h("a", { href: "#/campaigns/new" }, "Create the first one"),
        can("operator") ? "." : "A user with the role operator can create one.",
      ),
    about: (item) =>
      h(
        "span",
        {},
        `${many(item.test_cases.length, "test")} · ${item.parallelism} in parallel${item.stop_on_failure ? " · stops at the first failure" : ""}`,
      ),
    run: (id) => `#/run?campaign_id=${encodeURIComponent(id)}`,
    results: (id) => `#/results?show=campaign-executions&campaign_id=${encodeURIComponent(id)}`,
    question: "Its results and its test cases are not deleted.",
  });
}
