// Draws line charts over time; uPlot is loaded with the first one.

const HEIGHT = 192; // pixels

/** Draw `series` ([{label, values, colour}], colour is a CSS property) over `times` (seconds). */
export async function plot(place, times, series, unit, signal) {
  const { default: UPlot } = await import("./vendor/uPlot.esm.js");
  if (signal.aborted) return;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let drawn = null;
  const draw = () => {
    drawn?.destroy();
    drawn = new UPlot(
      options(place, series, unit),
      [times, ...series.map((one) => one.values)],
      place,
    );
  };
  const resized = new ResizeObserver(() =>
    drawn.setSize({ width: place.clientWidth, height: HEIGHT }),
  );
  draw();
  resized.observe(place);
  dark.addEventListener("change", draw, { signal });
  signal.addEventListener("abort", () => {
    resized.disconnect();
    drawn.destroy();
  });
}

function options(place, series, unit) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    stroke: colour("--faint"),
    grid: { stroke: colour("--edge"), width: 1 },
    ticks: { stroke: colour("--edge"), width: 1 },
  };
  return {
    width: place.clientWidth || 300,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      y: { range: (_, low, high) => (unit === "%" ? [0, 105] : [0, Math.max(high, 0.1) * 1.1]) },
    },
    axes: [
      axis,
      { ...axis, size: 60, values: (_, values) => values.map((value) => `${value} ${unit}`) },
    ],
    series: [
      {},
      ...series.map((one) => ({
        label: one.label,
        stroke: colour(one.colour),
        width: 2,
        spanGaps: true,
        points: { show: true, size: 5 },
      })),
    ],
  };
}
