/** The ground of each square, asked for as time moves: the exact law's density, a model's vector field and density. */

import { Asking } from "./asking.js";
import { arrows, channels, outline, quantile, shade, shadeSigned } from "./ground.js";
import { nearestLevel, readLevels, velocityOfPicture } from "./readings.js";
import { logRatio } from "./picture.js";

const FINE = [128, 64]; // points a side of the exact density: near the data, and where noise has smoothed it
const SMOOTH = -0.35; // log10 of the ratio between them
const ARROWS = 19;
const ERRORS = 57; // 3 (ARROWS) : every third point of the grid has an arrow
const DENSE = 80; // of the model's density, which costs an integral a point
const QUANTUM = 0.08; // decades of noise ratio between two pictures of the exact density
const RATIOS = [-1.7, 1.7]; // below, the law itself; above, the noise itself
const MASS = [0.5, 0.9];

export class Scenery {
  /** @param {{client: object, live: object, blob: ArrayBuffer, camera: Function, changed: () => void}} source */
  constructor(source) {
    const { client, changed } = source;
    this.source = source;
    this.levels = new Map();
    this.calls = {
      law: (args) => client.call("logDensity", args),
      field: (args) => client.call("field", args),
      density: (args, onProgress) => client.call("density", args, onProgress, "measure"),
    };
    this.askings = new Map();
    this.changed = changed;
  }

  /** The open questions of a kind for a slot, so that two slots do not displace each other's; answers are shared. */
  asking(kind, slot) {
    const key = `${kind} ${slot}`;
    if (!this.askings.has(key)) {
      const twin = this.askings.get(`${kind} ${slot === "a" ? "b" : "a"}`);
      const options = { changed: this.changed, cancels: kind === "density", answers: twin && twin.answers };
      this.askings.set(key, new Asking(this.calls[kind], options));
    }
    return this.askings.get(key);
  }

  /** Stop what is slow: called when its view is left. */
  rest() {
    for (const slot of ["a", "b"]) this.asking("density", slot).stop();
  }

  levelsOf(model) {
    if (!this.levels.has(model.index)) {
      this.levels.set(model.index, readLevels(this.source.live, this.source.blob, model));
    }
    return this.levels.get(model.index);
  }

  /** Has the model a law whose density the page knows, in the plane? */
  known(model) {
    const law = this.source.live.laws[model.law];
    return Boolean(law) && law.kind !== "none" && law.dim === 2;
  }

  /** The law's density at a noise ratio, its peak 1: {key, values, count}; the latest known while it is asked for. */
  lawAt(slot, model, ratio) {
    const step = Math.round(Math.min(Math.max(ratio, RATIOS[0]), RATIOS[1]) / QUANTUM);
    const noise = 10 ** (step * QUANTUM);
    const alpha = 1 / Math.hypot(1, noise);
    const count = FINE[step * QUANTUM > SMOOTH ? 1 : 0];
    const grid = this.source.camera(model).grid(count, alpha, noise * alpha);
    const key = `${model.law} ${step}`;
    const asking = this.asking("law", slot);
    const found = asking.get(key, { law: model.law, alpha, sigma: noise * alpha, points: pointsOf(grid) });
    const shown = found || asking.latest;
    return shown && { key: found ? key : "stale", values: densities(shown), count: Math.sqrt(shown.length) };
  }

  /** The field near a noise ratio, in the picture's units: {level, learned, exact, difference, error}. */
  fieldAt(slot, model, w, ratio) {
    const levels = this.levelsOf(model);
    const level = nearestLevel(levels, ratio);
    const camera = this.source.camera(model);
    const grid = camera.grid(ERRORS, levels.alpha[level], levels.sigma[level]);
    const key = [model.index, w, level].join(" ");
    const found = this.asking("field", slot).get(key, { model: model.index, level, w, grid });
    if (!found) return null;
    if (!found.ready) {
      const convert = (vectors) => vectors && velocityOfPicture(vectors, levels, level, camera, grid);
      const [learned, exact] = [convert(found.learned), convert(found.exact)];
      const difference = exact && learned.map((value, i) => value - exact[i]);
      found.ready = { level, learned, exact, difference, error: found.error };
    }
    return found.ready;
  }

  /** Densities near a noise ratio, {level, learned, exact}; what is not known is asked for if `ask`. */
  densityAt(slot, model, w, ratio, ask) {
    const levels = this.levelsOf(model);
    const level = nearestLevel(levels, ratio);
    const grid = this.source.camera(model).grid(DENSE, levels.alpha[level], levels.sigma[level]);
    const asking = this.asking("density", slot);
    const key = [model.index, w, level].join(" ");
    if (!ask && !asking.answers.has(key)) {
      asking.stop();
      return null;
    }
    const found = asking.get(key, { model: model.index, level, w, grid });
    if (!found) return null;
    if (!found.ready) {
      const top = Math.max(...(found.exact || found.learned));
      const values = (logs) => logs && Float32Array.from(logs, (log) => Math.exp(Math.min(log - top, 5)));
      found.ready = { level, learned: values(found.learned), exact: values(found.exact) };
    }
    return found.ready;
  }

  /**
   * Lay the ground of a square; returns a note for the reader, or "".
   *
   * @param {import("./canvas.js").Stage} stage
   * @param {{view: string, show: string|null, slot: string, model: object, w: number, level: object, colours: object,
   *   settled: boolean}} look
   */
  lay(stage, look) {
    const ratio = logRatio(look.level);
    if (look.view === "particles" || !look.show) return this.layLaw(stage, look, ratio, 0.5);
    if (look.view === "field") return this.layField(stage, look, ratio);
    if (look.show === "exact" && this.known(look.model)) return this.layLaw(stage, look, ratio, 0.85);
    return this.layDensity(stage, look, ratio);
  }

  layLaw(stage, { slot, model, colours }, ratio, strength) {
    if (!this.known(model)) stage.lay("bare", () => {});
    const law = this.known(model) && this.lawAt(slot, model, ratio);
    if (!law || law.key === "stale") return "";
    stage.lay(`law ${law.key} ${strength} ${colours.target}`, (context, size, dense) => {
      shade(context, size, law.values, law.count, channels(colours.target), strength);
      if (strength > 0.5) outline(context, size, law.values, law.count, MASS, colours.target, 1.1 * dense);
    });
    return "";
  }

  layField(stage, { slot, show, model, w, colours }, ratio) {
    const field = this.fieldAt(slot, model, w, ratio);
    const law = this.known(model) ? this.lawAt(slot, model, ratio) : null;
    if (!field) return this.asking("field", slot).error;
    const shown = field[show] || field.learned;
    const { reach } = this.source.camera(model);
        const long = quantile(lengths(everyThird((show !== "difference" && field.exact) || shown, ERRORS)), 0.9) || 1;
    const unit = (1.8 * reach) / ARROWS;
    const sparse = rooted(everyThird(shown, ERRORS), long);
    const colour = show === "exact" ? colours.target : colours.generated;
    const key = `field ${model.index} ${w} ${show} ${field.level} ${law && law.key} ${colour}`;
    stage.lay(key, (context, size, dense) => {
      if (show === "difference" && field.error) layErrors(context, size, field.error, law, colours, dense);
      else if (law) shade(context, size, law.values, law.count, channels(colours.target), 0.22);
      arrows(context, size, sparse, ARROWS, reach, unit, colour, 1.15 * dense);
    });
    if (show !== "difference" || !field.exact) return "";
    const share = quantile(lengths(field.difference), 0.5) / (quantile(lengths(field.exact), 0.5) || 1);
    return (
      `The median difference is ${sayShare(share)} of the median field; its arrows are enlarged to be seen. ` +
      `Grey: squared error over σ². Blue lines hold 50 and 90 % of the law.`
    );
  }

  layDensity(stage, { slot, show, model, w, colours, settled }, ratio) {
    const asking = this.asking("density", slot);
    const density = this.densityAt(slot, model, w, ratio, settled);
    if (!density) {
      if (!settled) return "The model's density is computed where time rests.";
      return asking.error || `Computing the model's density${sayProgress(asking.share)}`;
    }
    const both = density.exact && density.learned;
    const difference = both && density.learned.map((value, i) => value - density.exact[i]);
    const high = both ? Math.max(quantile(difference, 1), 0.02) : 1;
    stage.lay(`density ${model.index} ${w} ${show} ${density.level} ${colours.target}`, (context, size, dense) => {
      const [blue, red] = [channels(colours.target), channels(colours.generated)];
      if (show === "difference" && both) {
        shadeSigned(context, size, difference, DENSE, blue, red, high);
        outline(context, size, density.exact, DENSE, MASS, colours.muted, 0.9 * dense);
      } else {
        shade(context, size, density.learned, DENSE, red, 0.8);
        outline(context, size, density.learned, DENSE, MASS, colours.generated, 1.1 * dense);
      }
    });
    if (show !== "difference" || !both) return "";
    return (
      `Vermilion: the model has more; blue: less. Deepest colour: ${sayShare(high)} of the law's peak. ` +
      `Lines hold 50 and 90 % of the law.`
    );
  }
}

function layErrors(context, size, error, law, colours, dense) {
  const high = quantile(error, 0.98) || 1;
  const rgb = channels(colours.ink);
  shadeSigned(context, size, error, ERRORS, rgb, rgb, 2.2 * high);
  if (law) outline(context, size, law.values, law.count, MASS, colours.target, 1.1 * dense);
}

function pointsOf({ x0, x1, y0, y1, nx, ny }) {
  const points = new Float64Array(2 * nx * ny);
  for (let j = 0; j < ny; j++) {
    for (let i = 0; i < nx; i++) {
      points[2 * (j * nx + i)] = x0 + ((x1 - x0) * i) / (nx - 1);
      points[2 * (j * nx + i) + 1] = y0 + ((y1 - y0) * j) / (ny - 1);
    }
  }
  return points;
}

/** exp of logs, over their peak; kept on the answer. */
function densities(logs) {
  if (!logs.ready) {
    const top = logs.reduce((high, value) => Math.max(high, value), -Infinity);
    logs.ready = Float32Array.from(logs, (value) => Math.exp(value - top));
  }
  return logs.ready;
}

function everyThird(vectors, count) {
  const out = [];
  for (let j = 1; j < count; j += 3) {
    for (let i = 1; i < count; i += 3) out.push(vectors[2 * (j * count + i)], vectors[2 * (j * count + i) + 1]);
  }
  return out;
}

/** Vectors whose length is the root of what it was over `long`, so that slow places are seen beside fast ones. */
function rooted(vectors, long) {
  return vectors.map((value, at) => {
    const length = Math.hypot(vectors[at - (at % 2)], vectors[at - (at % 2) + 1]);
    return length ? value / Math.sqrt(length * long) : 0;
  });
}

function lengths(vectors) {
  return Float32Array.from({ length: vectors.length / 2 }, (_, i) => Math.hypot(vectors[2 * i], vectors[2 * i + 1]));
}

function sayShare(share) {
  return `${Number((100 * share).toPrecision(2))} %`;
}

function sayProgress(share) {
  return share === null ? "" : `: ${Math.round(100 * share)} %`;
}
