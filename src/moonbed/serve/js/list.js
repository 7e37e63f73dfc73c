/** The list of runs: kept up to date row by row, sorted and filtered here; the view stands in the address. */
import { poll } from "./poll.js";
import { badge, bar, chips, duration, element, moment, number, remaining, whole } from "./words.js";
import { spark } from "./curve.js";

const ORDER = ["training", "sampling", "evaluating", "damaged", "diverged", "interrupted", "done"];
const KEYS = {
  status: (run) => ORDER.indexOf(run.status),
  name: (run) => `${run.name} ${run.differs.join(" ")}`,
  seed: (run) => run.seed ?? -1,
  progress: (run) => (run.steps ? run.step / run.steps : 1),
  loss: (run) => run.loss ?? Infinity,
  experiments: (run) => run.experiments.length,
  started: (run) => -run.started,
};

const view = { q: "", status: "", sort: "started", down: "" };
const rows = new Map();
let runs = [];

/** The cells of a run. */
function cells(run) {
  const link = element("a", { href: `/runs/${encodeURIComponent(run.id)}` }, run.name || run.id);
  const name = element("td", { class: "name" }, link);
  if (run.differs.length) name.append(element("ul", { class: "chips" }, ...chips(run.differs)));
  name.append(element("code", { class: "muted" }, run.name ? run.id.slice(0, 8) : ""));
  if (run.message) name.append(element("p", { class: "message" }, run.message));
  const progress = element("td", { class: "progress" });
  if (run.steps) progress.append(bar(run), element("p", { class: "steps" }, ...steps(run)));
  const loss = element("td", { class: run.loss === null ? "loss none" : "loss" }, element("span", {}, run.loss === null ? "–" : number(run.loss)), spark(run.spark));
  const begun = element("td", { class: "begun" }, run.started ? moment(run.started) : "–");
  if (run.seconds) begun.append(element("span", { class: "muted" }, ` ${duration(run.seconds)}`));
  return [
    element("td", {}, badge(run.status)),
    name,
    element("td", { class: run.seed === null ? "number none" : "number", "data-label": "seed " }, run.seed === null ? "–" : String(run.seed)),
    progress,
    loss,
    element("td", { class: run.experiments.length ? "samples" : "samples none" }, samples(run)),
    begun,
  ];
}

/** How far it is and how long it takes. */
function steps(run) {
  const left = remaining(run);
  const far = run.step < run.steps ? `${whole(run.step)} of ${whole(run.steps)}` : `${whole(run.steps)} steps`;
  return [element("span", {}, far), ...(left === null ? [] : [" ", element("span", {}, `${duration(left)} left`)])];
}

/** Its experiments in a few words. */
function samples(run) {
  const found = run.experiments;
  if (!found.length) return "–";
  const first = `${whole(found[0].n)} by ${found[0].sampler}`;
  const lost = found.reduce((sum, e) => sum + (e.exploded ?? 0), 0);
  return (found.length > 1 ? `${first} and ${found.length - 1} more` : first) + (lost ? `; ${whole(lost)} exploded` : "");
}

const words = (run) =>
  [run.id, run.name, run.status, `seed=${run.seed}`, run.message, ...run.differs.map((d) => d.join("=")), ...run.experiments.map((e) => `${e.id} ${e.sampler}`)]
    .join(" ")
    .toLowerCase();

/** Put the rows that the view wants into the table, in its order. */
function arrange() {
  const wanted = view.q.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = runs.filter((run) => (!view.status || run.status === view.status) && wanted.every((w) => rows.get(run.id).words.includes(w)));
  const key = KEYS[view.sort];
  const sign = view.down ? -1 : 1;
  shown.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x < y ? -1 : x > y ? 1 : 0);
  });
  const body = document.querySelector("#runs tbody");
  const now = shown.map((run) => rows.get(run.id).row);
  if (now.length !== body.children.length || now.some((row, k) => row !== body.children[k])) {
    const kept = document.activeElement;
    body.replaceChildren(...now);
    if (kept && kept.isConnected && kept !== document.activeElement) kept.focus({ preventScroll: true });
  }
  document.getElementById("runs").hidden = !shown.length;
  const nothing = document.getElementById("nothing");
  nothing.hidden = Boolean(shown.length);
  nothing.textContent = runs.length ? "No run is like that." : "The store holds no run yet: `moonbed run` makes one, and it appears here.";
  for (const head of document.querySelectorAll("#runs th")) {
    const mine = head.dataset.key === view.sort;
    const falling = (head.dataset.key === "started") !== Boolean(view.down); // the last begun comes first
    head.setAttribute("aria-sort", mine ? (falling ? "descending" : "ascending") : "none");
  }
}

/** Take the server's list: only rows that changed are made anew. */
function take(data, status) {
  if (status !== 200) {
    document.getElementById("summary").textContent = data.error;
    return;
  }
  runs = data.runs;
  const alive = new Set(runs.map((run) => run.id));
  for (const id of rows.keys()) if (!alive.has(id)) rows.delete(id);
  for (const run of runs) {
    const text = JSON.stringify(run);
    const old = rows.get(run.id);
    if (old?.text === text) continue;
    const row = old?.row ?? element("tr");
    const focused = row.contains(document.activeElement);
    row.replaceChildren(...cells(run));
    if (focused) row.querySelector("a").focus({ preventScroll: true });
    row.className = run.status;
    rows.set(run.id, { row, text, words: words(run) });
  }
  count();
  arrange();
}

/** How many there are of each status, above the table and in the menu. */
function count() {
  const counts = new Map(ORDER.map((name) => [name, runs.filter((run) => run.status === name).length]));
  const parts = [...counts].filter(([, n]) => n).map(([name, n]) => `${whole(n)} ${name}`);
  const text = parts.join(", ") || "None yet.";
  const summary = document.getElementById("summary");
  if (summary.textContent !== text) summary.textContent = text;
  const menu = document.getElementById("status");
  const options = ["", ...[...counts].filter(([name, n]) => n || name === view.status).map(([name]) => name)];
  if (options.join() === [...menu.options].map((o) => o.value).join()) return;
  menu.replaceChildren(...options.map((name) => element("option", { value: name }, name || "all")));
  menu.value = view.status;
}

/** Read the view from the address. */
function restore() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(view)) view[name] = kept.get(name) ?? (name === "sort" ? "started" : "");
  if (!Object.hasOwn(KEYS, view.sort)) view.sort = "started";
  document.getElementById("filter").value = view.q;
  document.getElementById("status").value = view.status;
}

/** Change the view, here and in the address. */
function change(part) {
  Object.assign(view, part);
  const kept = new URLSearchParams(Object.entries(view).filter(([name, value]) => value && !(name === "sort" && value === "started")));
  history.replaceState(null, "", `#${kept}`);
  arrange();
}

document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("filter").addEventListener("input", (event) => change({ q: event.target.value }));
document.getElementById("status").addEventListener("change", (event) => change({ status: event.target.value }));
for (const head of document.querySelectorAll("#runs th")) {
  const key = head.dataset.key;
  head.firstElementChild.addEventListener("click", () => change({ sort: key, down: view.sort === key && !view.down ? "1" : "" }));
}
window.addEventListener("hashchange", () => (restore(), arrange()));
restore();
poll("/api/runs", take);
