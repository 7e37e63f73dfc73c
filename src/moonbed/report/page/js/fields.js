// What a model has learned beside what is true, on a grid of points or over all noise levels: the vector field of the
// probability flow dx/dt = alpha' D + sigma' (x - alpha D)/sigma, the density that it carries, the denoiser's error.

import { Random } from "./random.js";

const DIFFERENCE = 0.05; // step of a central difference, in units of sigma

/** Points of a grid, row by row; coordinates beyond the second are 0, the mean of the law. */
export function gridPoints({ x0, x1, y0, y1, nx, ny }, dim) {
  const points = new Float64Array(nx * ny * dim);
  for (let j = 0; j < ny; j++) {
    for (let i = 0; i < nx; i++) {
      const at = (j * nx + i) * dim;
      points[at] = nx > 1 ? x0 + ((x1 - x0) * i) / (nx - 1) : x0;
      if (dim > 1) points[at + 1] = ny > 1 ? y0 + ((y1 - y0) * j) / (ny - 1) : y0;
    }
  }
  return points;
}

/** Squared distances of rows over sigma squared. */
function squaredErrors(a, b, n, dim, sigma) {
  const out = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    let sum = 0;
    for (let d = i * dim; d < (i + 1) * dim; d++) sum += (a[d] - b[d]) ** 2;
    out[i] = sum / (sigma * sigma);
  }
  return out;
}

/** First two coordinates of the flow's velocity at the points. */
function velocities(points, denoised, n, dim, { alpha, sigma, dAlpha, dSigma }) {
  const out = new Float32Array(2 * n);
  for (let i = 0; i < n; i++) {
    for (let d = 0; d < Math.min(2, dim); d++) {
      const [x, mean] = [points[i * dim + d], denoised[i * dim + d]];
      out[2 * i + d] = dAlpha * mean + (dSigma * (x - alpha * mean)) / sigma;
    }
  }
  return out;
}

/** Learned and exact vector field, their difference, and |D - D*|^2/sigma^2. `subject`: see Engine.subject. */
export function vectorField(subject, level, w, grid) {
  const { levels, dim, law } = subject;
  const points = gridPoints(grid, dim);
  const n = points.length / dim;
  const [alpha, sigma] = [levels.alpha[level], levels.sigma[level]];
  const at = { alpha, sigma, dAlpha: levels.d_alpha[level], dSigma: levels.d_sigma[level] };
  const denoised = subject.denoise(level, w, points, n);
  const learned = velocities(points, denoised, n, dim, at);
  if (!law) return { learned, exact: null, difference: null, error: null };
  const truth = law.denoise(points, n, alpha, sigma, new Float64Array(n * dim));
  const exact = velocities(points, truth, n, dim, at);
  const difference = learned.map((value, i) => value - exact[i]);
  return { learned, exact, difference, error: squaredErrors(denoised, truth, n, dim, sigma) };
}

/** D and the trace of its Jacobian at n points x, by central differences a fraction of sigma away. */
function denoiseWithTrace(subject, level, w, x, n) {
  const { levels, dim } = subject;
  const step = DIFFERENCE * levels.sigma[level];
  const stack = new Float64Array((2 * dim + 1) * x.length);
  for (let part = 0; part <= 2 * dim; part++) {
    const to = part * x.length;
    stack.set(x, to);
    if (part === 0) continue;
    const d = (part - 1) >> 1;
    for (let i = 0; i < n; i++) stack[to + i * dim + d] += part & 1 ? step : -step;
  }
  const answers = subject.denoise(level, w, stack, (2 * dim + 1) * n);
  const trace = new Float64Array(n);
  for (let d = 0; d < dim; d++) {
    const [above, below] = [(2 * d + 1) * x.length, (2 * d + 2) * x.length];
    for (let i = 0; i < n; i++) trace[i] += (answers[above + i * dim + d] - answers[below + i * dim + d]) / (2 * step);
  }
  return [answers.subarray(0, x.length), trace];
}

/** What the flow needs of each level: alpha, log s with s = sigma/alpha, and r = sqrt(1 + s^2). */
function flowLevels({ alpha, sigma }) {
  return Array.from(alpha, (a, l) => ({ alpha: a, logRatio: Math.log(sigma[l] / a), r: Math.hypot(1, sigma[l] / a) }));
}

/**
 * log p of the model at a level, on a grid: its probability flow followed to the noise end, where x is normal.
 *
 * In the coordinates u = x/(alpha r), which keep their size, du/dlog s = u/r^2 - D/r, by Heun's method on the grid of
 * levels; the divergence dim/r^2 - alpha tr dD/dx by the trapezoid rule along it. Yields {fraction}; returns
 * {learned, exact}.
 */
export function* flowDensity(subject, level, w, grid) {
  const { levels, dim, law } = subject;
  const x = gridPoints(grid, dim);
  const n = x.length / dim;
  const at = flowLevels(levels);
  const learned = new Float64Array(n).fill(-dim * Math.log(at[level].alpha * at[level].r));
  const u = x.map((value) => value / (at[level].alpha * at[level].r));
  const points = (l, v) => v.map((value) => value * at[l].alpha * at[l].r);
  const slopes = (l, v, denoised) => v.map((value, i) => value / at[l].r ** 2 - denoised[i] / at[l].r);
  for (let l = level; l >= 0; l--) {
    const [denoised, trace] = denoiseWithTrace(subject, l, w, points(l, u), n);
    const before = l < level ? at[l].logRatio - at[l + 1].logRatio : 0;
    const after = l > 0 ? at[l - 1].logRatio - at[l].logRatio : 0;
    const weight = (before + after) / 2;
    for (let i = 0; i < n; i++) learned[i] += weight * (dim / at[l].r ** 2 - at[l].alpha * trace[i]);
    if (l > 0) {
      const slope = slopes(l, u, denoised);
      const ahead = u.map((value, i) => value + after * slope[i]);
      const next = slopes(l - 1, ahead, subject.denoise(l - 1, w, points(l - 1, ahead), n));
      for (let i = 0; i < u.length; i++) u[i] += (after / 2) * (slope[i] + next[i]);
    }
    yield { fraction: (level - l + 1) / (level + 1) };
  }
  addNormalDensity(learned, u, dim, 1 - 1 / at[0].r ** 2);
  const exact = law ? law.logDensity(x, n, levels.alpha[level], levels.sigma[level], new Float64Array(n)) : null;
  return { learned, exact };
}

/** Adds log N(u; 0, variance) of each point. */
function addNormalDensity(logDensity, u, dim, variance) {
  for (let i = 0; i < logDensity.length; i++) {
    logDensity[i] -= (dim / 2) * Math.log(2 * Math.PI * variance);
    for (let d = i * dim; d < (i + 1) * dim; d++) logDensity[i] -= u[d] ** 2 / (2 * variance);
  }
}

/**
 * E |D* - D|^2/sigma^2 at each level over n exact draws of x_t, with its standard error.
 * Yields {index, mean, se, fraction}.
 */
export function* errorsOverLevels(subject, w, n, seed) {
  const { levels, dim, law } = subject;
  if (!law) throw new Error("the exact law is not in the page");
  const result = { logsnr: [], sigma: [], mean: [], se: [], n };
  const x = new Float64Array(n * dim);
  for (let l = 0; l < levels.count; l++) {
    const [alpha, sigma] = [levels.alpha[l], levels.sigma[l]];
    const random = new Random(seed, "error", l);
    const clean = law.draw(n, random);
    const noise = random.normal(n * dim);
    for (let i = 0; i < x.length; i++) x[i] = alpha * clean[i] + sigma * noise[i];
    const truth = law.denoise(x, n, alpha, sigma, new Float64Array(n * dim));
    const errors = squaredErrors(subject.denoise(l, w, x, n), truth, n, dim, sigma);
    const mean = errors.reduce((sum, value) => sum + value, 0) / n;
    const variance = errors.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
    result.logsnr.push(2 * Math.log(alpha / sigma));
    result.sigma.push(sigma);
    result.mean.push(mean);
    result.se.push(Math.sqrt(variance / n));
    yield { index: l, mean, se: result.se[l], fraction: (l + 1) / levels.count };
  }
  return result;
}
