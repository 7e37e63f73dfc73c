/** Curves of losses: a small one for the list, one with axes for the page of a run. */
import { drawn, number, whole } from "./words.js";

/**
 * A small curve without axes.
 * @param {number[]} values
 */
export function spark(values, width = 96, height = 22) {
  const svg = drawn("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  if (values.length < 2) return svg;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (k) => 1 + ((width - 5) * k) / (values.length - 1);
  const y = (v) => 3 + (height - 6) * (high > low ? (high - v) / (high - low) : 0.5);
  svg.append(drawn("polyline", { points: values.map((v, k) => `${x(k).toFixed(1)},${y(v).toFixed(1)}`).join(" ") }));
  const last = values.length - 1;
  svg.append(drawn("circle", { cx: x(last).toFixed(1), cy: y(values[last]).toFixed(1), r: 2 }));
  return svg;
}

/** Round numbers from `low` to `high`, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const base = 10 ** Math.floor(Math.log10(rough));
  const step = base * [1, 2, 5, 10].find((m) => m * base >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-9); k++) found.push(k * step || 0);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

/** The mean of each value and those before it, weighed down by e for every `reach` of them, or a fifth of those so far. */
function smoothed(values, reach) {
  let [sum, weight] = [0, 0];
  return values.map((v, k) => {
    const keep = Math.exp(-1 / Math.min(reach, 0.2 * (k + 1)));
    [sum, weight] = [keep * sum + v, keep * weight + 1];
    return sum / weight;
  });
}

/**
 * The losses of a training against its steps, with a smoothed curve over them.
 * @param {[number, number][]} log  step and loss
 * @param {number} steps  where the axis ends
 * @param {number} width  in pixels
 */
export function lossCurve(log, steps, width, height = 260) {
  const box = { left: 56, right: 12, top: 10, bottom: 34 };
  const svg = drawn("svg", { class: "losses", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": "curve-text" });
  const losses = log.map(([, loss]) => loss);
  const later = losses.slice(Math.min(3, Math.floor(losses.length / 12))); // the first ones would squeeze all others
  const [least, most] = [Math.min(...losses), Math.max(...later)];
  const spread = most - least || Math.abs(least) || 1;
  const [low, high] = [least - 0.08 * spread, most + 0.08 * spread];
  const x = (step) => box.left + ((width - box.left - box.right) * step) / steps;
  const y = (loss) => box.top + ((height - box.top - box.bottom) * (high - loss)) / (high - low);
  const upright = ticks(low, high, 5);
  for (const value of upright.found) {
    svg.append(drawn("line", { class: "grid", x1: box.left, x2: width - box.right, y1: y(value), y2: y(value) }));
    svg.append(drawn("text", { x: box.left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(upright.digits)));
  }
  const along = ticks(0, steps, Math.max(2, width / 140)).found;
  if (along[along.length - 1] < 0.8 * steps) along.push(steps);
  for (const value of along) {
    svg.append(drawn("line", { class: "grid", x1: x(value), x2: x(value), y1: height - box.bottom, y2: height - box.bottom + 5 }));
    const end = value === steps || x(value) > width - 30;
    svg.append(drawn("text", { x: x(value), y: height - box.bottom + 20, "text-anchor": end ? "end" : "middle" }, whole(value)));
  }
  const frame = { x: box.left, y: box.top, width: width - box.left - box.right, height: height - box.top - box.bottom };
  const lines = drawn("svg", { ...frame, viewBox: `${frame.x} ${frame.y} ${frame.width} ${frame.height}`, overflow: "hidden" });
  const path = (values) => values.map((v, k) => `${x(log[k][0]).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  lines.append(drawn("polyline", { class: "raw", points: path(losses) }));
  if (losses.length > 8) lines.append(drawn("polyline", { class: "smooth", points: path(smoothed(losses, losses.length / 20)) }));
  const last = log[log.length - 1];
  svg.append(lines, drawn("circle", { cx: x(last[0]), cy: Math.max(box.top, y(last[1])), r: 3.5 }));
  return svg;
}

/** What the curve says, in words. */
export function lossText(log) {
  if (!log.length) return "No loss yet.";
  const [step, loss] = log[log.length - 1];
  const [least, where] = log.reduce((best, [s, v]) => (v < best[0] ? [v, s] : best), [Infinity, 0]);
  return `Mean loss of each 100 steps against the step: ${number(loss)} at step ${whole(step)}, least ${number(least)} at step ${whole(where)}.`;
}
