/** The two charts below the picture: the error at each noise level, and quality against evaluations on demand. */

import { Asking } from "./asking.js";
import { Chart, decadesAround, fillTable } from "./chart.js";
import { logRatio } from "./picture.js";
import { alive } from "./menu.js";
import { counted, number } from "./words.js";

const DRAWS = 1000;
const Z = 1.96; // 95 % of a normal law

export class ErrorChart {
  /** @param {HTMLElement} figure; @param {{client: object, changed: () => void}} source */
  constructor(figure, { client, changed }) {
    this.parts = partsOf(figure);
    const call = (args, onProgress) => client.call("errorCurve", args, onProgress, "measure");
    const answers = new Map();
    this.askings = [0, 1].map(() => new Asking(call, { changed, cancels: true, answers }));
    this.drawn = "";
    this.move = () => {};
  }

  /** Show the models' curves; `hasTruth(model)`: are there a denoiser and a law to hold against it? */
  show(models, w, level, hasTruth) {
    const shown = models.filter((model) => alive(model) && hasTruth(model));
    const learned = shown.filter((model) => model.kind === "learned");
    const curves = learned.map((model, i) => {
      const curve = this.askings[i].get(`${model.index} ${w}`, { model: model.index, w, n: DRAWS, seed: 1 });
      return { model, curve, asking: this.askings[i] };
    });
    const known = curves.map(({ curve }) => Boolean(curve));
    const key = JSON.stringify([this.parts.figure.clientWidth, shown.map((model) => model.index), w, known]);
    if (key !== this.drawn) {
      this.drawn = key;
      this.draw(shown, curves.filter(({ curve }) => curve));
    }
    const waiting = curves.find(({ asking }) => asking.share !== null);
    if (waiting && !waiting.curve) this.parts.caption.textContent = progressWords(waiting.asking.share);
    if (level) this.move(10 ** logRatio(level));
  }

  draw(shown, curves) {
    const { svg, caption, table, details } = this.parts;
    this.move = () => {};
    svg.toggleAttribute("hidden", !curves.length);
    details.hidden = !curves.length;
    if (!curves.length) {
      caption.textContent = errorWords(shown);
      return;
    }
    const told = curves.map(({ model, curve }) => ({ model, ...bandOf(curve) }));
    const x = told.flatMap((t) => t.x);
    const y = told.flatMap((t) => t.mean);
    const axes = { x: [Math.max(...x), Math.min(...x)], y: decadesAround(y), logX: true, logY: true };
    const chart = new Chart(svg, { ...axes, xName: "noise ratio σ/α", xEnds: ["noise", "data"] });
    told.forEach((t, i) => {
      chart.band(t.x, t.low, t.high, i ? "second" : "first");
      chart.line(t.x, t.mean, i ? "second" : "first");
    });
    this.move = chart.marker();
    const names = told.map((t, i) => (told.length > 1 ? `${i ? "dashed" : "solid"}: ${t.model.label}` : t.model.label));
    caption.textContent =
      `E|D* − D|²/σ² in nats a unit of log σ; ${names.join(", ")}. ` +
      `Mean of ${counted(DRAWS)} exact draws a level, 95 % band. ` +
      `The exact denoiser has zero everywhere. The upright line is the present time.`;
    const head = ["σ/α", ...told.flatMap((t) => [t.model.label, "95 % interval"])];
    const every = told[0].x.map((_, l) => l).filter((l) => l % 4 === 0);
    const cell = (t, l) => [number(t.mean[l]), `${number(t.low[l])} .. ${number(t.high[l])}`];
    fillTable(table, [head, ...every.map((l) => [number(told[0].x[l]), ...told.flatMap((t) => cell(t, l))])]);
  }
}

export class QualityChart {
  /** @param {HTMLElement} figure; @param {{client: object}} source */
  constructor(figure, { client }) {
    this.parts = partsOf(figure);
    this.button = figure.querySelector("button");
    this.told = figure.querySelector(".chart-ask span");
    this.client = client;
    this.job = null;
    this.answers = new Map();
    this.wish = null;
    this.wide = 0;
    this.button.addEventListener("click", () => this.measure());
  }

  /** What the button would measure: a model under all numbers of steps of a sampler. */
  aim(model, plan, { w, n, seed }, known) {
    const possible = alive(model) && plan && known(model);
    const sampler = possible && familyOf(model, plan);
    const wish = possible ? { model, sampler, args: { model: model.index, sampler, w, n, seed } } : null;
    const key = wish ? JSON.stringify(wish.args) : "";
    if (this.wish && key === this.wish.key) return;
    this.wish = { ...wish, key };
    this.stop();
    this.button.disabled = !possible;
    this.told.textContent = possible
      ? `${model.label}, ${sampler} at all its numbers of steps, ${counted(n)} particles`
      : "Needs a model that runs here and a law with a closed form.";
    if (this.answers.has(key)) this.draw(this.answers.get(key));
    else this.blank();
  }

  /** Draw again at the present width. */
  fit() {
    const answer = this.answers.get(this.wish && this.wish.key);
    if (answer && this.wide !== this.parts.figure.clientWidth) this.draw(answer);
  }

  stop() {
    if (this.job) this.job.cancel();
    this.job = null;
    this.button.textContent = "Measure";
  }

  measure() {
    if (this.job) {
      this.stop();
      return;
    }
    const { wish } = this;
    this.button.textContent = "Stop";
    this.job = this.client.call(
      "quality",
      wish.args,
      ({ fraction }) => (this.parts.caption.textContent = progressWords(fraction)),
      "measure",
    );
    this.job.then(
      (answer) => {
        this.stop();
        this.answers.set(wish.key, { ...answer, wish });
        this.draw(this.answers.get(wish.key));
      },
      (error) => {
        this.stop();
        this.parts.caption.textContent = error.message;
      },
    );
  }

  blank() {
    const { svg, details, caption } = this.parts;
    svg.toggleAttribute("hidden", true);
    details.hidden = true;
    caption.textContent = "";
  }

  draw({ points, floor, metric, n, wish }) {
    const { svg, details, caption, table } = this.parts;
    svg.toggleAttribute("hidden", false);
    this.wide = this.parts.figure.clientWidth;
    const x = points.map((point) => point.nfe);
    const values = points.flatMap((point) => [point.value, Math.max(point.lo, point.value / 4)]);
    const span = [Math.min(...x) / 1.3, Math.max(...x) * 1.3];
    const axes = { x: span, y: decadesAround([...values, ...floor], 4), logX: true, logY: true, xTicks: x };
    const chart = new Chart(svg, { ...axes, xName: "evaluations (NFE)" });
    chart.band(span, [floor[0], floor[0]], [floor[1], floor[1]], "floor");
    chart.line(x, points.map((point) => point.value), "first");
    for (const point of points) chart.point(point.nfe, point.value, point.lo, point.hi, "first");
    details.hidden = false;
    caption.textContent =
      `${wish.model.label}, ${wish.sampler}: ${metric} from the law; n = ${counted(n)}, 95 % intervals. ` +
      `Band: what exact samples get, ${number(floor[0])} .. ${number(floor[1])} (5 to 95 %).`;
    const row = (point) => [point.nfe, point.steps, point.value, `${number(point.lo)} .. ${number(point.hi)}`];
    const told = points.map((point) => row(point).map((v) => (typeof v === "number" ? number(v) : v)));
    fillTable(table, [["evaluations", "steps", metric, "95 % interval"], ...told]);
  }
}

function progressWords(share) {
  return `Measuring: ${Math.round(100 * share)} %`;
}

/** The plan's sampler; one that comes in several numbers of steps where it does not. */
function familyOf(model, plan) {
  const size = (name) => model.plans.filter((other) => other.sampler === name).length;
  if (size(plan.sampler) > 1) return plan.sampler;
  return (model.plans.find((other) => size(other.sampler) > 1) || plan).sampler;
}

function partsOf(figure) {
  const [svg, caption] = [figure.querySelector("svg"), figure.querySelector("figcaption")];
  return { figure, svg, caption, details: figure.querySelector("details"), table: figure.querySelector("table") };
}

function bandOf({ logsnr, mean, se }) {
  const x = logsnr.map((value) => Math.exp(-value / 2));
  const low = mean.map((value, l) => Math.max(value - Z * se[l], 0));
  return { x, mean, low, high: mean.map((value, l) => value + Z * se[l]) };
}

function errorWords(shown) {
  if (!shown.length) return "Needs a model that runs here and a law with a closed form.";
  return shown.every((model) => model.kind === "exact") ? "The exact denoiser: zero at every noise level." : "";
}
