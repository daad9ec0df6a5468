// What a view keeps in its address, so that a reload, a link and the way back show it again.

/** Put what is chosen in the view into its address; what is empty is left out. */
export function keepInAddress(view, chosen) {
  const given = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value));
  history.replaceState(null, "", `#/${view}${given.size ? `?${given}` : ""}`);
}

/** Keep what stands in no link, for the way back and a reload only. */
export function keepForTheWayBack(state) {
  history.replaceState(state, "");
}

/** Give what was kept for the way back. */
export function wayBack() {
  return history.state ?? {};
}
