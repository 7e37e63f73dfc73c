// The engine: a document of networks, laws and plans, and what can be asked of its models. Whatever takes long is a
// generator that yields progress and returns the result, so that its caller may draw, wait or stop between two yields.

import { errorsOverLevels, flowDensity, vectorField } from "./fields.js";
import { openKernel } from "./kernel.js";
import { openLaw } from "./laws.js";
import { Levels, Plan } from "./plans.js";
import { qualityOverSteps } from "./quality.js";
import { Random } from "./random.js";
import { Program } from "./tape.js";

/** Runs the models of one document. */
export class Engine {
  /** `live`: the document; `blob`: ArrayBuffer; `wasm`: bytes or module of the kernel, or null for plain JavaScript. */
  constructor(live, blob, wasm = null) {
    if (live.version !== 1) throw new Error(`live documents have version 1, given ${live.version}`);
    this.live = live;
    this.blob = blob;
    this.kernel = openKernel(wasm);
    this.opened = new Map();
  }

  /** What `make` makes of an entry of the document, made once. */
  open(kind, id, make) {
    const key = `${kind} ${id}`;
    if (!this.opened.has(key)) {
      const entry = this.live[kind][id];
      if (!entry) throw new Error(`no ${kind} ${id}`);
      this.opened.set(key, make(entry));
    }
    return this.opened.get(key);
  }

  law(id) {
    return this.open("laws", id, (law) => openLaw(law, this.blob, this.kernel));
  }

  network(id) {
    return this.open("networks", id, (tape) => new Program(tape, this.blob, this.kernel));
  }

  plan(id) {
    return this.open("plans", id, (plan) => Plan.read(plan, this.blob));
  }

  levels(id) {
    return this.open("levels", id, (levels) => new Levels(levels, this.blob));
  }

  /** A model with all that is asked of it: {model, dim, functions, law or null, levels or null, denoise}. */
  subject(index) {
    const model = this.live.models[index];
    if (!model) throw new Error(`models are 0 to ${this.live.models.length - 1}, given ${index}`);
    if (model.kind === "recorded") throw new Error(`${model.name} is not live: ${model.reason}`);
    const { dim } = model;
    const functions = model.functions.map((id) => (id in this.live.networks ? this.network(id) : this.law(id)));
    const exact = model.law in this.live.laws && this.live.laws[model.law].kind !== "none";
    const levels = model.levels === null ? null : this.levels(model.levels);
    const denoise = (level, w, x, n) => {
      if (!levels) throw new Error(`${model.name} has no denoiser`);
      return levels.denoise(functions, level, this.scale(model, w), x, n, dim);
    };
    return { model, dim, functions, law: exact ? this.law(model.law) : null, levels, denoise };
  }

  scale(model, w) {
    return w ?? model.guidance?.scale ?? 2;
  }

  /**
   * Yields the states of a sampler, {index, t, alpha, sigma, x: Float64Array(n dim)}, the caller's to keep; the last x
   * is the sample. `x` replaces the start (and says n), `noise` the draws: a function of their number, or an array.
   */
  *sample({ model: index, plan: id, w, n = 2000, seed = 0, x = null, noise = null }) {
    const { model, dim, functions } = this.subject(index);
    const count = x ? x.length / dim : n;
    const random = new Random(seed, "noise");
    const given = Array.isArray(noise) ? (k) => noise[k] : noise;
    const world = {
      functions,
      n: count,
      dim,
      start: () => (x ? Float64Array.from(x) : this.start(model, count, seed)),
      noise: (k) => (given ? Float64Array.from(given(k)) : random.normal(count * dim)),
    };
    const plan = this.plan(id);
    let step = 0;
    for (const state of plan.run(world, this.scale(model, w))) {
      const [t, alpha, sigma] = plan.states.subarray(3 * step, 3 * step + 3);
      yield { index: step, t, alpha, sigma, x: state.kept ? state.x.slice() : state.x };
      step += 1;
    }
  }

  /** The start noise: normal, or a draw of the model's prior law. */
  start(model, n, seed) {
    const random = new Random(seed, "start");
    return model.prior === null ? random.normal(n * model.dim) : this.law(model.prior).draw(n, random);
  }

  /** D(x, t_level) at points (n dim). */
  denoise({ model, level, w, points }) {
    const subject = this.subject(model);
    return subject.denoise(level, w, Float64Array.from(points), points.length / subject.dim);
  }

  /** E[x_0 | x_t] of a law. */
  exact({ law, alpha, sigma, points }) {
    const opened = this.law(law);
    const out = new Float64Array(points.length);
    return opened.denoise(Float64Array.from(points), points.length / opened.dim, alpha, sigma, out);
  }

  /** log p(x_t) of a law, in nats. */
  logDensity({ law, alpha = 1, sigma = 0, points }) {
    const opened = this.law(law);
    const n = points.length / opened.dim;
    return opened.logDensity(Float64Array.from(points), n, alpha, sigma, new Float64Array(n));
  }

  /** n exact draws of x_0. */
  drawLaw({ law, n = 2000, seed = 0 }) {
    return this.law(law).draw(n, new Random(seed, "law"));
  }

  /** Learned and exact vector field on a grid; see vectorField. */
  field({ model, level, w, grid }) {
    return vectorField(this.subject(model), level, w, grid);
  }

  /** log p of the model and of the law on a grid; see flowDensity. */
  *density({ model, level, w, grid }) {
    return yield* flowDensity(this.subject(model), level, w, grid);
  }

  /** The denoiser's error at each level; see errorsOverLevels. */
  *errorCurve({ model, w, n = 1000, seed = 0 }) {
    return yield* errorsOverLevels(this.subject(model), w, n, seed);
  }

  /** Distance from the exact law against steps, of all plans of a sampler; see qualityOverSteps. */
  *quality({ model: index, sampler, w, n = 2000, seed = 0 }) {
    const { model, law } = this.subject(index);
    const runs = new Map();
    for (const plan of model.plans) {
      const { sampler: name, steps, nfe } = this.live.plans[plan];
      const sample = () => this.lastState({ model: index, plan, w, n, seed });
      if (name === sampler) runs.set(nfe, { steps, nfe, sample });
    }
    return yield* qualityOverSteps(law, [...runs.values()].sort((a, b) => a.nfe - b.nfe), n, seed);
  }

  *lastState(question) {
    let last = null;
    for (const state of this.sample(question)) {
      last = state.x;
      yield;
    }
    return last;
  }

  /** All states of the particle whose first state is x. */
  path({ model, plan, w, x, seed = 0 }) {
    const scale = this.plan(plan).firstScale;
    return [...this.sample({ model, plan, w, x: x.map((value) => value / scale), seed })];
  }
}
