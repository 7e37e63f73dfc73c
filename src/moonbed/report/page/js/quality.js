// The distance of samples from the exact law: the sliced Wasserstein-1 distance (mean over directions of the distance
// between sorted projections) to as many fresh exact samples, with an interval by random halves of both, as in Python.

import { Random } from "./random.js";

export const DIRECTIONS = 64;
const HALVES = 15;
const STUDENT = 2.1448; // 97.5 % point of Student's t with HALVES - 1 degrees of freedom
const NULL_DRAWS = 20;

/** Random directions, (count dim). */
export function randomDirections(count, dim, random) {
  const out = random.normal(count * dim);
  for (let i = 0; i < count; i++) {
    const length = Math.hypot(...out.subarray(i * dim, (i + 1) * dim));
    for (let d = 0; d < dim; d++) out[i * dim + d] /= length;
  }
  return out;
}

/** The points (n dim) on each direction: an array of projections. */
function projectPoints(points, dim, directions) {
  return Array.from({ length: directions.length / dim }, (_, k) => {
    const out = new Float64Array(points.length / dim);
    for (let i = 0; i < out.length; i++) {
      let sum = 0;
      for (let d = 0; d < dim; d++) sum += points[i * dim + d] * directions[k * dim + d];
      out[i] = sum;
    }
    return out;
  });
}

/** Mean over directions of the W1 distance between projections, of the points `rows` or of all. */
function slicedDistance(a, b, rows = null) {
  const sorted = (values) => (rows ? Float64Array.from(rows, (i) => values[i]) : values.slice()).sort();
  let total = 0;
  a.forEach((values, k) => {
    const [u, v] = [sorted(values), sorted(b[k])];
    let sum = 0;
    for (let i = 0; i < u.length; i++) sum += Math.abs(u[i] - v[i]);
    total += sum / u.length;
  });
  return total / a.length;
}

/** Sliced W1 between as many points a and b, (n dim) each. */
export function slicedW1(a, b, dim, directions) {
  return slicedDistance(projectPoints(a, dim, directions), projectPoints(b, dim, directions));
}

/** The quantile of sorted values, interpolated. */
function quantileOf(sorted, share) {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

/** 5 % and 95 % points of the distance between exact draws of n points. Yields after each. */
function* exactFloor(law, n, directions, seed) {
  const values = [];
  for (let i = 0; i < NULL_DRAWS; i++) {
    const draw = (side) => law.draw(n, new Random(seed, "floor", i, side));
    values.push(slicedW1(draw("a"), draw("b"), law.dim, directions));
    yield;
  }
  values.sort((a, b) => a - b);
  return [quantileOf(values, 0.05), quantileOf(values, 0.95)];
}

/** The distance of samples from fresh exact ones, [value, low, high]. Yields after each half. */
function* distanceWithDoubt(samples, reference, dim, directions, random) {
  const [a, b] = [samples, reference].map((points) => projectPoints(points, dim, directions));
  const n = samples.length / dim;
  const value = slicedDistance(a, b);
  const halves = [];
  for (let i = 0; i < HALVES; i++) {
    halves.push(slicedDistance(a, b, random.permutation(n).subarray(0, n >> 1)));
    yield;
  }
  const mean = halves.reduce((sum, half) => sum + half, 0) / HALVES;
  const half = STUDENT * Math.sqrt(halves.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (HALVES - 1));
  return [value, Math.max(0, value - half), value + half];
}

/**
 * Quality against the number of steps. `runs`: [{steps, nfe, sample(): generator that returns (n dim) samples}].
 * Yields {fraction} and, when a point is known, {fraction, point}; returns {points, floor, metric, n}.
 */
export function* qualityOverSteps(law, runs, n, seed) {
  if (!law) throw new Error("the exact law is not in the page");
  const directions = randomDirections(DIRECTIONS, law.dim, new Random(seed, "directions"));
  const work = runs.reduce((sum, run) => sum + run.nfe, 0) || 1;
  let done = 0;
  const points = [];
  for (const { steps, nfe, sample } of runs) {
    const samples = yield* reporting(sample(), () => ({ fraction: done / work }));
    const reference = law.draw(n, new Random(seed, "reference", steps));
    const random = new Random(seed, "halves", steps);
    const doubt = distanceWithDoubt(samples, reference, law.dim, directions, random);
    const [value, lo, hi] = yield* reporting(doubt, () => ({ fraction: done / work }));
    done += nfe;
    points.push({ steps, nfe, value, lo, hi });
    yield { fraction: done / work, point: points[points.length - 1] };
  }
  const floor = yield* reporting(exactFloor(law, n, directions, seed), () => ({ fraction: 1 }));
  return { points, floor, metric: "sliced W1", n };
}

/** A generator's result, with `report()` yielded for each of its yields. */
function* reporting(generator, report) {
  for (;;) {
    const { done, value } = generator.next();
    if (done) return value;
    yield report();
  }
}
