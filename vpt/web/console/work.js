// Work that leaves the page time to breathe.

const SLICE = 12; // milliseconds

/** Do `work` for each item, a few milliseconds a frame, so that no frame takes long. */
export async function inSlices(items, work, signal) {
  let until = performance.now() + SLICE;
  for (const item of items) {
    if (performance.now() > until) {
      await frame();
      until = performance.now() + SLICE;
    }
    if (signal.aborted) return;
    work(item);
  }
}

/** Wait for the next frame, or a moment where none is drawn. */
function frame() {
  return new Promise((go) => {
    requestAnimationFrame(go);
    setTimeout(go, 100);
  });
}

/** Do `work` again when asked meanwhile, never twice at once, with `rest` milliseconds between. */
export function inTurn(work, rest = 0) {
  let at = false;
  let again = false;
  return async () => {
    again = true;
    if (at) return;
    at = true;
    try {
      while (again) {
        again = false;
        await work();
        if (rest) await new Promise((on) => setTimeout(on, rest));
      }
    } finally {
      at = false;
    }
  };
}
