/** Numbers, times and elements as the pages write them. What comes from a run becomes text, never markup. */

/**
 * An element with attributes and children; texts become text nodes.
 * @param {string} tag
 * @param {Record<string, string|number|boolean>} attributes  `false` leaves one out
 * @param {...(Node|string)} children
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== false) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The same within a drawing. */
export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** 12345 as "12,345". */
export const whole = (value) => Number(value).toLocaleString("en");

/** Four significant digits at most; – for none. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value.replace("inf", "∞").replace("nan", "not a number");
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e6) return whole(Math.round(value));
  return size >= 1e6 || size < 5e-4 ? value.toExponential(2) : value.toFixed(4);
}

/** A duration: "3.4 s", "2 min 05 s", "1 h 12 min". */
export function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
}

/** When something was: the time of today, else the day as well. */
export function moment(seconds) {
  const date = new Date(1000 * seconds);
  const today = date.toDateString() === new Date().toDateString();
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return element("time", { datetime: date.toISOString() }, today ? time : `${day}, ${time.slice(0, 5)}`);
}

/** Seconds that a training still takes if it goes on as it went; null where nothing says. */
export function remaining(run) {
  if (run.status !== "training" || !run.step || !run.seconds) return null;
  const since = Date.now() / 1000 - run.updated;
  return Math.max(0, ((run.steps - run.step) * run.seconds) / run.step - since);
}

/** A list of what differs from the preset. */
export function chips(differs) {
  return differs.map(([place, value]) => element("li", {}, element("span", { class: "place" }, `${place}=`), value));
}

/** The status as a badge. */
export const badge = (status) => element("span", { class: `badge ${status}` }, status);

/** A bar of progress for a run, which is full where it is done. */
export function bar(run) {
  const share = run.steps ? Math.min(1, run.step / run.steps) : 1;
  const fill = element("span", { class: `fill ${run.status}` });
  fill.style.inlineSize = `${100 * share}%`;
  const text = `${whole(run.step)} of ${whole(run.steps)} steps`;
  const limits = { "aria-valuemin": 0, "aria-valuemax": run.steps, "aria-valuenow": run.step, "aria-valuetext": text };
  return element("div", { class: "bar", role: "progressbar", "aria-label": "training", ...limits }, fill);
}
