/** The page of a run: its progress, its losses as they come, samples of its last checkpoint, what was measured. */
import { poll } from "./poll.js";
import { badge, bar, chips, duration, element, number, remaining, whole } from "./words.js";
import { lossCurve, lossText } from "./curve.js";
import { configuration } from "./configuration.js";
import { Samples } from "./samples.js";

const place = (id) => document.getElementById(id);
const address = `/api/runs/${encodeURIComponent(place("run").dataset.id)}`;
const samples = new Samples(`${address}/live`);
let run = null;
let shown = "";

/** How far it is, in words. */
function standing() {
  const parts = [];
  if (run.steps) parts.push(`step ${whole(run.step)} of ${whole(run.steps)}`);
  if (run.seconds) parts.push(`${duration(run.seconds)} of training`);
  const left = remaining(run);
  if (left !== null) parts.push(`about ${duration(left)} left`);
  if (run.status === "interrupted") parts.push("nobody works on it; the command that began it goes on from here");
  if (run.parameters) parts.push(`${whole(run.parameters)} parameters`);
  if (run.device) parts.push(run.device);
  return parts.join(" · ");
}

/** Draw the losses as wide as there is room. */
function draw() {
  const box = place("curve");
  if (!run || !run.log.length || !box.clientWidth) return;
  box.replaceChildren(lossCurve(run.log, run.steps, box.clientWidth));
  place("curve-text").textContent = lossText(run.log);
}

const parsed = (value) => (value === "inf" ? Infinity : Number(value));

/** The values of an experiment with their doubt. */
function measured(experiment) {
  const told = Object.entries(experiment.told).map(([name, value]) => `, ${name} ${value}`).join("");
  const lost = experiment.exploded ? `, ${whole(experiment.exploded)} exploded` : "";
  const head = element("h3", {}, `${whole(experiment.n)} samples by ${experiment.sampler}${told}${lost} `);
  head.append(element("code", { class: "muted" }, experiment.id.slice(0, 8)));
  if (experiment.status !== "done") head.append(" ", badge(experiment.status));
  if (!experiment.values.length) return [head];
  const names = ["metric", "value", "95 % interval", "floor"].map((n) => element("th", { scope: "col", class: n === "metric" ? "" : "number" }, n));
  const table = element("table", { class: "values" }, element("thead", {}, element("tr", {}, ...names)));
  const body = table.appendChild(element("tbody"));
  for (const v of experiment.values) {
    const range = (ends) => (ends ? ends.map(number).join(" .. ") : "–");
    const good = v.floor && parsed(v.floor[0]) <= parsed(v.value) && parsed(v.value) <= parsed(v.floor[1]);
    const value = element("td", { class: "number" }, v.text && v.text.length < 24 ? v.text : number(v.value), good ? " ≈" : "");
    const name = element("th", { scope: "row" }, v.metric);
    if (v.text.length >= 24) name.append(element("span", { class: "muted" }, v.text));
    body.append(element("tr", {}, name, value, element("td", { class: "number" }, range(v.interval)), element("td", { class: "number" }, range(v.floor))));
  }
  const draws = Math.max(...experiment.values.map((v) => v.draws));
  const doubt = "Interval over evaluation draws; ";
  const note = draws ? `floor: 5 % .. 95 % of ${draws} draws of a perfect sampler; ≈ within it` : "no floor is in the store";
  return [head, element("div", { class: "scroll", tabindex: 0 }, table), element("p", { class: "muted" }, `One seed. ${doubt}${note}.`)];
}

/** Take what the server says of the run. */
function take(data, status) {
  if (status !== 200) {
    place("standing").textContent = data.error ?? "";
    return;
  }
  run = data;
  place("badge").replaceChildren(badge(run.status));
  place("differs").replaceChildren(...chips(run.differs));
  place("bar").replaceChildren(...(run.steps ? [bar(run)] : []));
  place("message").hidden = !run.message;
  place("message").textContent = run.message;
  place("samples-head").textContent = run.status === "done" ? "Samples" : "Samples so far";
  place("report").hidden = run.status !== "done" || !run.experiments.length;
  tick();
  draw();
  const fixed = JSON.stringify([run.spec, run.experiments]);
  if (fixed !== shown) {
    shown = fixed;
    place("configuration").textContent = run.spec ? configuration(run.spec) : "It cannot be read.";
    place("experiments").hidden = !run.experiments.length;
    place("measured").replaceChildren(...run.experiments.flatMap(measured));
  }
  samples.follow(run);
}

function tick() {
  if (!run) return;
  const text = standing();
  if (place("standing").textContent !== text) place("standing").textContent = text;
}

new ResizeObserver(draw).observe(place("curve"));
setInterval(tick, 1000);
poll(address, take);
