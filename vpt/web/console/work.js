// Work in small portions, so that the page stays responsive.

const SLICE = 12; // milliseconds

/** Call `work` for each item, a few milliseconds per frame, so that no frame takes long. */
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

/** Wait for the next frame, or a short time in a hidden page, which draws none. */
function frame() {
  return new Promise((go) => {
    requestAnimationFrame(go);
    setTimeout(go, 100);
  });
}

/** Return a function that runs `work`, never twice at a time, `rest` milliseconds apart. */
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
