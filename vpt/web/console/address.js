// The state of a view in its URL, so that a reload, a link and the Back button restore it.

/** Store the choices of a view in its URL; empty ones are left out. */
export function keepInAddress(view, chosen) {
  const given = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value));
  history.replaceState(null, "", `#/${view}${given.size ? `?${given}` : ""}`);
}

/** Store state in the history entry: for Back and a reload, but not for links. */
export function keepForTheWayBack(state) {
  history.replaceState(state, "");
}

/** Return the state of the history entry. */
export function wayBack() {
  return history.state ?? {};
}
