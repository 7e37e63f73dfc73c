/** Samples of the last checkpoint, drawn here: the server sends the model, a worker runs it. */
import { element, whole } from "./words.js";

const COUNT = 2000;
const PAUSE = 3000; // milliseconds between two checkpoints that are asked for

/** The engine in a worker: `call` answers with a promise. */
class Engine {
  constructor() {
    this.worker = new Worker("/static/engine.js");
    this.waiting = new Map();
    this.next = 0;
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error === undefined) resolve(data.result);
      else reject(new Error(data.error));
    };
  }

  call(op, args) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, op, args });
    });
  }
}

/** Points with `dim` coordinates each; a single one gets a second that spreads the points. */
const cloud = (x, dim) => ({
  n: x.length / dim,
  at: (k) => [x[k * dim], dim > 1 ? x[k * dim + 1] : ((k * 0.618034) % 1) - 0.5],
});

/** Two canvases: the model's samples beside the exact target's, seen through the same window. */
export class Samples {
  constructor(address) {
    this.address = address;
    this.tag = "";
    this.seen = "";
    this.seed = 0;
    this.busy = false;
    this.engine = null;
    this.answer = null;
    this.plan = null;
    this.clouds = {};
    this.place = (id) => document.getElementById(id);
    this.place("plan").addEventListener("change", (event) => this.redo({ plan: event.target.value }));
    this.place("again").addEventListener("click", () => this.redo({ seed: this.seed + 1 }));
    const paint = () => this.paint();
    document.addEventListener("moonbed:theme", paint);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    new ResizeObserver(paint).observe(this.place("clouds"));
  }

  /** Look for a new model where the run has gone on. */
  async follow(run) {
    const now = `${run.step} ${run.status === "training"}`;
    if (this.busy || now === this.seen || !run.steps) return;
    this.busy = true;
    if (!this.answer) this.say("Asking for the model.");
    try {
      await this.load();
      this.seen = now;
    } catch (error) {
      if (!(error instanceof TypeError)) this.say(error.message); // a server that is gone is said elsewhere
    }
    setTimeout(() => (this.busy = false), PAUSE);
  }

  async load() {
    const answer = await fetch(this.address, { headers: this.tag ? { "If-None-Match": this.tag } : {}, cache: "no-store" });
    if (answer.status === 304) return;
    const data = await answer.json();
    if (answer.status !== 200 || !(data.document || data.samples)) {
      if (!this.answer) this.say(data.error ?? data.reason);
      return;
    }
    this.tag = answer.headers.get("ETag") ?? "";
    if (data.document) await this.open(data);
    this.answer = data;
    await this.draw();
  }

  /** Hand the model to the engine, and offer its samplers. */
  async open(data) {
    if (!this.engine) {
      const kernel = await fetch("/static/kernel.wasm");
      this.engine = new Engine();
      this.wasm = new Uint8Array(await kernel.arrayBuffer());
    }
    const blob = Uint8Array.from(atob(data.blob), (c) => c.charCodeAt(0)).buffer;
    await this.engine.call("open", { live: data.document, blob, wasm: this.wasm });
    const { plans } = data.document;
    const mine = data.document.models[0].plans.filter((id) => plans[id]);
    if (!mine.includes(this.plan)) this.plan = preferred(mine, plans);
    const menu = this.place("plan");
    if (mine.join() !== [...menu.options].map((o) => o.value).join()) {
      menu.replaceChildren(...mine.map((id) => element("option", { value: id }, plans[id].text)));
    }
    menu.value = this.plan;
  }

  async redo(part) {
    Object.assign(this, part);
    if (!this.answer) return;
    try {
      await this.draw();
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Sample, from the same noise for every checkpoint, so that points move with the model alone. */
  async draw() {
    const { document: live, step, samples, target, reason } = this.answer;
    const drawing = this.answer;
    let text = "";
    if (live) {
      const [model] = live.models;
      const plan = live.plans[this.plan];
      const made = await this.engine.call("sample", { model: 0, plan: this.plan, n: COUNT, seed: this.seed, quiet: true });
      this.clouds.generated = cloud(made.x, model.dim);
      if (!target) this.clouds.target = cloud(await this.engine.call("drawLaw", { law: model.law, n: COUNT, seed: 1 }), model.dim);
      text = `${whole(COUNT)} samples of step ${whole(step)} by ${plan.text}: ${whole(plan.nfe)} evaluations, ${Math.round(made.ms)} ms in this browser.`;
    } else {
      this.clouds.generated = cloud(samples.points, samples.dim);
      text = `${whole(this.clouds.generated.n)} samples of step ${whole(step)} by ${samples.sampler}, drawn by the server: ${reason}.`;
    }
    if (target) this.clouds.target = cloud(target.points, target.dim);
    if (drawing !== this.answer) return;
    this.place("clouds").hidden = false;
    this.place("sampling").hidden = !live;
    const outside = this.paint();
    this.say(outside ? `${text} Outside of the picture: ${whole(outside)}.` : text);
  }

  /** Draw both clouds; returns how many of the model's points are out of sight. */
  paint() {
    const { generated, target } = this.clouds;
    if (!generated || !target) return 0;
    const window = around(target);
    dots(this.place("target"), target, window, "--target");
    const outside = dots(this.place("generated"), generated, window, "--generated");
    this.place("target").setAttribute("aria-label", `${whole(target.n)} samples of the exact target`);
    this.place("generated").setAttribute("aria-label", `${whole(generated.n)} samples of the model, ${whole(outside)} out of sight`);
    return outside;
  }

  say(text) {
    this.place("samples-text").textContent = text;
  }
}

/** The model's own sampler where it is quick, else DDIM with 32 steps, else what is nearest to 32 evaluations. */
function preferred(ids, plans) {
  if (plans[ids[0]].nfe <= 64) return ids[0];
  const far = (id) => Math.abs(Math.log(plans[id].nfe / 32)) + (plans[id].sampler === "DDIM" ? 0 : 0.3);
  return ids.reduce((best, id) => (far(id) < far(best) ? id : best));
}

/** The square around a cloud, with a fifth to spare. */
function around(points) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let k = 0; k < points.n; k++) {
    const [x, y] = points.at(k);
    [box[0], box[1], box[2], box[3]] = [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x), Math.max(box[3], y)];
  }
  return { x: (box[0] + box[2]) / 2, y: (box[1] + box[3]) / 2, half: 0.6 * Math.max(box[2] - box[0], box[3] - box[1], 1e-9) };
}

function dots(canvas, points, window, colour) {
  const side = Math.round(canvas.clientWidth * devicePixelRatio);
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, side, side);
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(colour);
  pen.globalAlpha = 0.55;
  const size = Math.max(1.5, side / 220);
  let outside = 0;
  for (let k = 0; k < points.n; k++) {
    const [x, y] = points.at(k);
    const u = (x - window.x) / window.half;
    const v = (y - window.y) / window.half;
    if (!(Math.abs(u) <= 1 && Math.abs(v) <= 1)) outside += 1;
    else pen.fillRect(((1 + u) * side) / 2 - size / 2, ((1 - v) * side) / 2 - size / 2, size, size);
  }
  return outside;
}
