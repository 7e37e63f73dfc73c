/** What the panel itself reads of the document: the frame of a law, the levels of a model, its recorded samples. */

import { arrayView } from "./codec.js";
import { frameOf } from "./camera.js";
import { logRatio } from "./picture.js";

/** Mean, variance and reach for a Camera; of the samples where the law has no closed form. */
export function readFrame(live, blob, model) {
  const law = live.laws[model.law];
  if (law && law.kind === "mixture") {
    const centres = pairs(arrayView(blob, law.centres), law.dim);
    const spread = spreadOf(arrayView(blob, law.variances), law.variances.shape, centres.length);
    return frameOf(centres, spread, weightsOf(blob, law), law.dim);
  }
  if (law && law.kind === "boxes") {
    const low = pairs(arrayView(blob, law.low), law.dim);
    const width = pairs(arrayView(blob, law.width), law.dim);
    const centres = low.map(([x, y], k) => [x + width[k][0] / 2, y + width[k][1] / 2]);
    return frameOf(centres, width.map(([a, b]) => Math.max(a, b) / Math.sqrt(12)), weightsOf(blob, law), law.dim);
  }
  const points = readSamples(blob, model);
  if (!points) return { mean: [0, 0], variance: 1, reach: 3.2 };
  const centres = pairs(points, 2);
  return frameOf(centres, centres.map(() => 0), centres.map(() => 1));
}

/** The recorded samples, interleaved pairs; null if there are none. */
export function readSamples(blob, model) {
  if (!model.samples) return null;
  const { points, low, high } = model.samples;
  return Float64Array.from(arrayView(blob, points), (q, i) => low[i % 2] + (q / 65535) * (high[i % 2] - low[i % 2]));
}

/** The grid of noise levels of a model, from the noise end to the data end; null if it has none. */
export function readLevels(live, blob, model) {
  if (model.levels === null || model.levels === undefined) return null;
  const levels = live.levels[model.levels];
  const [t, alpha, sigma, slopeAlpha, slopeSigma] = ["t", "alpha", "sigma", "d_alpha", "d_sigma"].map((name) =>
    arrayView(blob, levels[name]),
  );
  const ratios = Array.from(t, (_, l) => logRatio({ alpha: alpha[l], sigma: sigma[l] }));
  return { t, alpha, sigma, slopeAlpha, slopeSigma, ratios };
}

/** The level whose noise ratio is nearest. */
export function nearestLevel(levels, ratio) {
  let best = 0;
  levels.ratios.forEach((value, l) => {
    if (Math.abs(value - ratio) < Math.abs(levels.ratios[best] - ratio)) best = l;
  });
  return best;
}

/**
 * Velocities dx/dt at points of a level as velocities of the picture's u, in the direction from noise to data.
 *
 * With s² = alpha² v + sigma², du/dt = (dx/dt - alpha' m)/s - u s'/s.
 */
export function velocityOfPicture(vectors, levels, l, camera, grid) {
  const [alpha, sigma, da, ds] = [levels.alpha[l], levels.sigma[l], levels.slopeAlpha[l], levels.slopeSigma[l]];
  const s = camera.scale(alpha, sigma);
  const slope = (alpha * da * camera.variance + sigma * ds) / s;
  const toData = levels.t[levels.t.length - 1] < levels.t[0] ? -1 : 1;
  const step = (2 * camera.reach) / (grid.nx - 1);
  return Float32Array.from(vectors, (value, at) => {
    const c = at % 2;
    const index = (at - c) / 2;
    const u = -camera.reach + step * (c ? Math.floor(index / grid.nx) : index % grid.nx);
    return (toData * (value - da * camera.mean[c] - u * slope)) / s;
  });
}

function pairs(values, dim) {
  const count = values.length / dim;
  return Array.from({ length: count }, (_, k) => [values[k * dim], dim > 1 ? values[k * dim + 1] : 0]);
}

/** Standard deviations of all parts: variances are one or one a part, each for all coordinates or one a coordinate. */
function spreadOf(variances, shape, count) {
  const [rows, columns] = [shape[0], shape[1] || 1];
  return Array.from({ length: count }, (_, k) => {
    const row = variances.subarray((rows > 1 ? k : 0) * columns, (rows > 1 ? k : 0) * columns + columns);
    return Math.sqrt(row.reduce((sum, value) => sum + value, 0) / columns);
  });
}

function weightsOf(blob, law) {
  return Array.from(arrayView(blob, law.log_weights), Math.exp);
}
